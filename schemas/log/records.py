"""The records of a conversation's log, in the order in which they are appended.

Knows: what is kept of a turn's start and end, of messages, and of turns taken back. Refuses to
know: their JSON (`schemas.log.codec`), and where the log lies.

A turn is a `TurnStart`, its messages (those asked first, then the answer's), and one of `TurnEnd`,
`TurnFailed` and `TurnLost`. Messages outside a turn were added without an answer.
"""

from __future__ import annotations

from attrs import frozen

from ..turn import EndReason, ResumePoint, Usage
from ..turn_items import TurnItem
from .messages import ExactMessage


@frozen
class TurnStart:
    """A turn begins. `turn_id` is a uuid, `model` the model's id; the `prompts` messages that
    follow are what it asks."""

    turn_id: str
    request_id: str
    model: str
    prompts: int = 0


@frozen
class Said:
    """A message of the conversation, the user's (tool results too) or the assistant's."""

    message: ExactMessage


@frozen
class TurnEnd:
    """A turn has ended, and its messages are the conversation's. `output` is the answer as it was
    delivered; None: what its messages say, their thinking only with `reasoning`. `resume`: where
    the CLI's own transcript holds it. `login`: the name of the login that answered, where the
    gateway has several."""

    turn_id: str
    finish_reason: EndReason
    usage: Usage
    output: tuple[TurnItem, ...] | None = None
    resume: ResumePoint | None = None
    reasoning: bool = True
    login: str = ""


@frozen
class TurnFailed:
    """A turn has failed: its messages are no part of the conversation. `code` is the error's."""

    turn_id: str
    code: str
    reason: str


@frozen
class TurnLost:
    """The gateway ended while the turn ran. What it did is not known, and it does not run again;
    its messages are no part of the conversation."""

    turn_id: str
    reason: str


@frozen
class Rewound:
    """What stands behind the record number `to` is no part of the conversation any more; it has
    `messages` messages and `turns` turns from here on."""

    to: int
    messages: int
    turns: int


Record = TurnStart | Said | TurnEnd | TurnFailed | TurnLost | Rewound


@frozen
class Logged:
    """A record at its place: `seq` counts from 1 in each conversation, `token` is that of the lease
    by which it was appended, `turn` the number of its turn (0: none), `at` in Unix seconds."""

    seq: int
    token: int
    turn: int
    at: float
    record: Record
