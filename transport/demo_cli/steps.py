"""What a turn of the demo CLI consists of: steps, for the shell in `protocol` to perform.

Knows what each step asks for. Refuses to know who yields it and how it is done.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from .frames import Json


class Write(NamedTuple):
    """Print these bytes: whole lines, unless a switch wants otherwise."""

    data: bytes


class Pause(NamedTuple):
    """Wait, listening to stdin meanwhile; at no other step is it listened to, but for the awaiting
    ones.

    So nothing that arrives between the last delta and a `Stop` behind it is received.
    """

    seconds: float


class Stop(NamedTuple):
    """The process ends, or does nothing any more."""

    how: Literal["die", "hang"]


class CallTool(NamedTuple):
    """Ask the gateway to run a tool of the client's; go on without waiting."""

    tool_use_id: str
    name: str
    arguments: Json


class AwaitTools(NamedTuple):
    """Wait until these have answered and put the contents into `Turn.tool_results`."""

    tool_use_ids: list[str]


class RequestPermission(NamedTuple):
    """Find out whether a tool of the agent's own may be used: by the rules, or by asking."""

    tool_use_id: str
    name: str
    arguments: Json
    needed: bool | None  # None: as the CLI would decide


class AwaitPermission(NamedTuple):
    """Wait until that is decided and put the decision into `Turn.decisions`."""

    tool_use_id: str


class Decision(NamedTuple):
    """Whether a tool may be used: with this input, or not, for this reason."""

    allowed: bool
    arguments: Json
    reason: str = ""
    asked: bool = False  # and denied in the answer to a request, rather than by a rule


Step = Write | Pause | Stop | CallTool | AwaitTools | RequestPermission | AwaitPermission
