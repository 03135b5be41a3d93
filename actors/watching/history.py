"""What was said in a conversation, turn by turn, as far as it is kept in memory.

Knows: finished turns in their order, and what they take. Refuses to know: what the model receives
(that is in its child's transcript, whole), and how a turn is written for a client
(`schemas.openai.items`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from itertools import chain, islice

from attrs import evolve, field, frozen

from ...schemas.message import BESIDE, Message, size_of
from ...schemas.turn import EndReason, Memory, Usage
from ...schemas.turn_items import TurnItem, answer_of, text_size

TITLE = 60
"""Characters of a conversation's title."""


@frozen
class TurnRecord:
    """One turn that is over. `messages` is what it added before its answer, `output` the answer in
    as few items as can be; `before` what the conversation remembered until then. `turn_id` is a
    uuid, `created_at` in unix seconds. What was there before the first turn (a history that a
    conversation began with) has no `output`. An answer that was ``interrupted`` is kept as
    far as it came. `before` is kept for the last turn alone. `answer` is the answer as the
    conversation remembers it, with its thinking; None: what `output` says."""

    turn_id: str
    created_at: float
    model: str
    messages: tuple[Message, ...]
    output: tuple[TurnItem, ...] = ()
    finish_reason: EndReason = "stop"
    usage: Usage = field(factory=Usage)
    before: Memory | None = field(default=None, repr=False)
    answer: Message | None = field(default=None, repr=False)
    size: int = field(init=False, eq=False)

    @property
    def said(self) -> tuple[Message, ...]:
        """Its messages, the answer last."""
        # What was added without a turn names no model, and has no answer.
        if not self.model:
            return self.messages
        return (*self.messages, answer_of(self.output) if self.answer is None else self.answer)

    @size.default
    def _weigh(self) -> int:
        answer = 0 if self.answer is None else size_of((self.answer,))
        output = sum(BESIDE + text_size(item) for item in self.output)
        return size_of(self.messages) + output + answer


class History:
    """The turns of one conversation, oldest first. `forgotten`: some of the oldest are not here
    any more. `size`: the bytes of their texts in UTF-8, and something for each."""

    def __init__(self) -> None:
        self._turns: deque[TurnRecord] = deque()
        self.forgotten = False
        self.size = 0

    def __repr__(self) -> str:
        return f"<History {len(self._turns)} turns{' and more' if self.forgotten else ''}>"

    def __len__(self) -> int:
        return len(self._turns)

    def __iter__(self) -> Iterator[TurnRecord]:
        return iter(self._turns)

    @property
    def last(self) -> TurnRecord | None:
        return self._turns[-1] if self._turns else None

    def newest(self, count: int) -> Sequence[TurnRecord]:
        """The last `count` turns, oldest first."""
        return [*self._turns][-count:]

    def messages(self) -> tuple[Message, ...]:
        """What was said, as the conversation remembers it: all of it, or the last of it."""
        return tuple(chain.from_iterable(record.said for record in self._turns))

    def add(self, record: TurnRecord) -> None:
        # Only the last turn can be asked again; what was remembered before others would be much.
        if self._turns and self._turns[-1].before is not None:
            self._turns[-1] = evolve(self._turns[-1], before=None)
        self._turns.append(record)
        self.size += record.size

    def take_back(self) -> TurnRecord:
        """Remove the last turn: it has never been."""
        record = self._turns.pop()
        self.size -= record.size
        return record

    def forget_oldest(self) -> None:
        """Keep less in memory. The conversation itself goes on unchanged."""
        self.size -= self._turns.popleft().size
        self.forgotten = True


def title_of(history: History) -> str | None:
    """The first words of what was asked first, as far as that is still here."""
    for record in islice(history, 1):
        for message in record.messages:
            words = " ".join(message.text.split())
            if message.role == "user" and words:
                return words if len(words) <= TITLE else words[: TITLE - 1] + "…"
    return None
