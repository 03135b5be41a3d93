"""One response: what was asked, what came of it, and where the next one may go on.

Knows: what is kept of a response while it runs and after it has ended, and how others follow it.
Refuses to know: who keeps it (`actors.responses.store`), how it comes about
(`actors.responses.run`), and how it is written (`schemas.openai.response_events`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import trio
from attrs import define, field

from ...schemas.message import Message
from ...schemas.openai.response_events import Ending, ResponseHeading
from ...schemas.openai.responses import ResponseTurn
from ...schemas.turn import Tool
from ...schemas.turn_items import TurnItem, answer_of, compact
from ..conversations.lineage import new_from


class Stoppable(Protocol):
    """What stops a response that runs: a cancel scope, or what knows when one may be cancelled."""

    def cancel(self) -> None: ...


@define(eq=False)
class Record:
    """One response. `asked` is its input, `said` the system text that stood in it; `spoken` and
    `brought` are the system texts and the tools that stood in the inputs up to here. `before` is
    what was said before it in words, None where the gateway does not know. `model` is the name by
    which the model can be asked for again.

    While it runs, `items` grows; `scope` is what stops it. Once it has ended there is an `ending`,
    and: `history`, all that was said up to its end (None as for `before`); `place`, the identities
    of what its conversation holds; and whether that `is_settled`: it is the history. A warm-up only
    holds what is to be asked later. `asked_as`: what comes next is asked in the same words, as far
    as it says nothing else. `is_kept`: the store has it as it ended; while it `is_being_kept`, it
    runs as far as clients know. `listed` are the MCP servers
    whose tools the client has received a list of up to here.
    """

    heading: ResponseHeading
    owner: str
    model: str
    workspace: str
    asked: tuple[Message, ...]
    said: str | None
    before: tuple[Message, ...] | None
    place: tuple[bytes, ...]
    spoken: str | None = None
    brought: tuple[Tool, ...] = ()
    background: bool = False
    keeps_pieces: bool = False
    items: Sequence[TurnItem] = field(factory=list)
    ending: Ending | None = None
    history: tuple[Message, ...] | None = None
    is_settled: bool = False
    scope: Stoppable | None = None
    steered: bool = False
    is_warm_up: bool = False
    is_kept: bool = False
    is_being_kept: bool = False
    asked_as: ResponseTurn | None = None
    listed: tuple[str, ...] = ()
    _readers: int = 0
    _news: trio.Event = field(factory=trio.Event)

    def __repr__(self) -> str:
        state = "running" if self.ending is None else self.ending.status
        return f"<Record {self.id} {state}>"

    @property
    def id(self) -> str:
        return self.heading.id

    @property
    def open_calls(self) -> tuple[str, ...]:
        """Ids of the tool calls that wait for their outputs."""
        said = self.history[-1:] if self.history else ()
        return tuple(call.id for message in said for call in message.calls)

    @property
    def told_ending(self) -> Ending | None:
        """How it ended, as far as clients may know."""
        return None if self.is_being_kept else self.ending

    @contextmanager
    def being_kept(self) -> Iterator[None]:
        """While the block runs, it goes on as far as clients know: what they know to have ended is
        in the store."""
        self.is_being_kept = True
        try:
            yield
        finally:
            self.is_being_kept = False
            self._notify()

    def add(self, items: Iterable[TurnItem]) -> None:
        assert isinstance(self.items, list), "it has ended"
        self.items.extend(items)
        if self._readers:
            self._notify()

    def end(self, ending: Ending, place: tuple[bytes, ...]) -> None:
        """It has ended, and its conversation holds what `place` says. A second end is an error."""
        assert self.ending is None, "a response ends exactly once"
        self.ending, self.place = ending, place
        said = (*self.asked, *self._answer())
        if not ending.leaves_trace:
            said = self.asked[: new_from(self.asked)]
        self.history = None if self.before is None else (*self.before, *said)
        self.is_settled = not said or (ending.is_whole and not self.is_warm_up)
        if not (self.keeps_pieces or self._readers):
            self.items = compact(self.items)
        self._notify()

    def _answer(self) -> tuple[Message, ...]:
        if self.is_warm_up:
            return ()
        whole = self.ending is not None and self.ending.status == "completed"
        answer = answer_of(self.items, whole=whole)
        return (answer,) if whole or not answer.is_blank else ()

    def stop(self, *, steered: bool = False) -> None:
        """Have it end, if it has not."""
        self.steered = self.steered or steered
        if self.scope is not None:
            self.scope.cancel()

    def _notify(self) -> None:
        self._news.set()
        self._news = trio.Event()

    async def wait_news(self) -> None:
        """Wait until there are more items, or it has ended. To be called while `reading`."""
        await self._news.wait()

    async def wait_ended(self) -> None:
        with self.reading():
            while self.told_ending is None:
                await self._news.wait()

    @contextmanager
    def reading(self) -> Iterator[None]:
        """A client follows it while the block runs: it is woken by news, and the answer is kept in
        the pieces that they count."""
        self._readers += 1
        self.keeps_pieces = True
        try:
            yield
        finally:
            self._readers -= 1
