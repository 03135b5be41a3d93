"""What a log says in the end: the turns that count, with their messages.

Knows: which records belong together, and what was taken back. Refuses to know: where they lie.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from attrs import field, frozen

from ..turn import EndReason, ResumePoint, Usage
from ..turn_items import TurnItem
from .items import items_of
from .messages import ExactMessage
from .records import Logged, Rewound, Said, TurnEnd, TurnFailed, TurnLost, TurnStart


@frozen
class LoggedTurn:
    """A turn that counts, or messages that were added without one (`turn_id` and `model` empty).

    `prompts` is what was asked, `answer` the messages of the answer, `output` the answer as it was
    delivered. `records` are all of it, `created_at` is in Unix seconds. `login`: as in `TurnEnd`.
    """

    turn_id: str
    created_at: float
    model: str
    prompts: tuple[ExactMessage, ...]
    answer: tuple[ExactMessage, ...]
    output: tuple[TurnItem, ...]
    finish_reason: EndReason
    usage: Usage
    resume: ResumePoint | None
    records: tuple[Logged, ...] = field(repr=False)
    login: str = ""

    @property
    def messages(self) -> tuple[ExactMessage, ...]:
        return (*self.prompts, *self.answer)

    @property
    def last(self) -> int:
        """The number of its last record."""
        return self.records[-1].seq


def fold(log: Iterable[Logged]) -> tuple[LoggedTurn, ...]:
    """The turns of a log from its beginning, oldest first. One that has not ended is left out, as
    are those that failed, were lost or were taken back."""
    turns: list[LoggedTurn] = []
    running: list[Logged] = []
    for logged in log:
        match logged.record:
            case TurnStart():
                running = [logged]
            case Said() if running:
                running.append(logged)
            case Said(message):
                turns.append(_added(logged, message))
            case TurnEnd() as end if running:
                turns.append(_turn([*running, logged], end))
                running = []
            case TurnFailed() | TurnLost():
                running = []
            case Rewound(to):
                turns = [turn for turn in turns if turn.last <= to]
    return tuple(turns)


def messages_of(turns: Iterable[LoggedTurn]) -> Iterator[ExactMessage]:
    """Everything that a conversation of these turns holds, in order."""
    for turn in turns:
        yield from turn.messages


def _added(logged: Logged, message: ExactMessage) -> LoggedTurn:
    return LoggedTurn("", logged.at, "", (message,), (), (), "stop", Usage(), None, (logged,))


def _turn(records: list[Logged], end: TurnEnd) -> LoggedTurn:
    start = records[0].record
    assert isinstance(start, TurnStart)
    said = tuple(each.record.message for each in records if isinstance(each.record, Said))
    answer = said[start.prompts :]
    return LoggedTurn(
        turn_id=start.turn_id,
        created_at=records[0].at,
        model=start.model,
        prompts=said[: start.prompts],
        answer=answer,
        output=items_of(answer, reasoning=end.reasoning) if end.output is None else end.output,
        finish_reason=end.finish_reason,
        usage=end.usage,
        resume=end.resume,
        records=tuple(records),
        login=end.login,
    )
