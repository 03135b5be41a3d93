"""The broadcast of one conversation: what happens in it, numbered, for the clients that have
joined.

Knows: the turn under way, the last events, who is watching and what each has seen. Refuses to
know: sockets, and how an event is written (`schemas.openai.conversation_events`).

A session puts events in, and never waits for a watcher. Watchers read the same ring of events, each
at its own place, so that one more of them costs neither memory nor anything per token but the
sending. One that falls further behind than the ring is long receives that. While no client has
watched for a while no ring is kept, and a token costs an append to the turn under way.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from uuid import uuid4

import trio
from attrs import define, evolve, field, frozen

from ...schemas.message import Message, size_of
from ...schemas.openai import conversation_events as events
from ...schemas.openai.conversation_events import ConversationEvent
from ...schemas.turn import Completed, Failed, Memory, Outcome
from ...schemas.turn_items import TextDelta, TurnItem, compact, text_size
from .history import History, TurnRecord

RING_EVENTS = 8192
RING_BYTES = 4 * 1024 * 1024
"""About how much one broadcast keeps for those who come back, or lag."""

RESUME_SECONDS = 120.0
"""How long events are kept for a client that has gone, and how long one that was here just now
is taken to be listening still."""


class FellBehind(Exception):
    """What comes next for this watcher is not kept any more."""


class BroadcastClosed(Exception):
    """The conversation has ended, and everything was read."""


@define(eq=False)
class Slot:
    """One event in the ring. `frame` is its WebSocket frame, once a watcher has needed it."""

    number: int
    event: ConversationEvent
    frame: bytes | None = None


@frozen(eq=False)
class LiveTurn:
    """The turn under way; `items` is what was said so far."""

    turn_id: str
    model: str
    created_at: float
    messages: tuple[Message, ...]
    before: Memory
    items: list[TurnItem] = field(factory=list)


def first_of_another() -> int:
    """Where the numbers of a conversation begin that has come back into memory: above those that an
    earlier broadcast of it has given (in this gateway, or one before). A client that names one of
    those has missed events, and receives a snapshot. Unix milliseconds: no conversation has a
    thousand events in every second."""
    return int(time.time() * 1000)


class Broadcast:
    """Made with its conversation, and as long-lived in memory. Nothing here waits but
    `Watcher.read`. Events are numbered from `first` + 1 on: see `first_of_another`."""

    def __init__(self, first: int = 0) -> None:
        self.history = History()
        self.turn: LiveTurn | None = None
        self.permissions: dict[str, events.PermissionRequested] = {}
        self.last = first
        self._ring: deque[Slot] = deque()
        self._size = 0
        self._watchers = 0
        self._readers = 0  # watchers, and nodes that receive events for theirs
        self._left_at = -math.inf
        self._put_at = -math.inf
        self._closed = trio.Event()
        self._lot = trio.lowlevel.ParkingLot()

    def __repr__(self) -> str:
        return f"<Broadcast {self.last} events, {len(self._ring)} kept, {self._watchers} watching>"

    def messages(self) -> Sequence[Message]:
        """The last messages of the conversation, as far as the history keeps them."""
        return self.history.messages()

    # -- what happens ------------------------------------------------------------------------------

    def begin(self, turn_id: str, model: str, messages: tuple[Message, ...], now: Memory) -> None:
        """A turn has begun; `messages` is what it adds, `now` what is remembered so far."""
        turn = LiveTurn(turn_id, model, time.time(), messages, now)
        self.turn = turn
        self.put(events.TurnStarted(turn_id, model, turn.created_at, messages))

    def say(self, item: TurnItem) -> None:
        """The hot path: once per token."""
        turn = self.turn
        if turn is None:
            return
        turn.items.append(item)
        if self._readers or self._ring:
            self.put(events.Said(turn.turn_id, item))
        else:
            self.last += 1

    def end(self, turn_id: str, outcome: Outcome, said: Message | None = None) -> None:
        """A turn has ended, be it under way or not. `said` is the answer as the conversation
        remembers it; None: what the items say."""
        turn = self.turn
        if turn is not None and turn.turn_id == turn_id:
            self.turn = None
            for request_id in tuple(self.permissions):
                self.settle_permission(request_id, "deny", "turn")
        match outcome:
            case Completed(reason, usage) if turn is not None and turn.turn_id == turn_id:
                output = compact(turn.items)
                if reason != "content_filter":  # which the conversation does not remember
                    self.history.add(
                        TurnRecord(
                            turn_id, turn.created_at, turn.model, turn.messages, output, reason,
                            usage, turn.before, said,
                        )
                    )  # fmt: skip
                self.put(events.TurnEnded(turn_id, outcome, output))
            case Failed(kept=kept) if kept is not None and turn is not None:
                output = compact(turn.items)
                self.history.add(
                    TurnRecord(
                        turn_id, turn.created_at, turn.model, turn.messages, output, "interrupted",
                        kept, turn.before, said,
                    )
                )  # fmt: skip
                self.put(events.TurnEnded(turn_id, outcome, output))
            case Failed():
                self.put(events.TurnEnded(turn_id, evolve(outcome, kept=None)))

    def add(self, messages: tuple[Message, ...], ids: Sequence[str] | None = None) -> None:
        """The conversation holds these too, without a turn. `ids`: one uuid for each, by which it
        is known wherever it is kept."""
        if ids is None:
            self._add(str(uuid4()), messages)
            return
        for name, message in zip(ids, messages, strict=True):
            self._add(name, (message,))

    def _add(self, name: str, messages: tuple[Message, ...]) -> None:
        record = TurnRecord(name, time.time(), "", messages)
        self.history.add(record)
        self.put(events.ItemsAdded(record.turn_id, messages))

    def remove_last(self) -> TurnRecord:
        """The last turn has never been."""
        record = self.history.take_back()
        self.put(events.TurnRemoved(record.turn_id))
        return record

    def move(self, phase: str) -> None:
        self.put(events.PhaseMoved(phase))

    def ask_permission(self, request: events.PermissionRequested) -> None:
        self.permissions[request.request_id] = request
        self.put(request)

    def settle_permission(self, request_id: str, behavior: str, by: str) -> None:
        """It was answered, or needs no answer any more."""
        request = self.permissions.pop(request_id, None)
        if request is not None:
            self.put(events.PermissionResolved(request.turn_id, request_id, behavior, by))

    def close(self, reason: str) -> None:
        """The conversation has ended; watchers read what is left."""
        if not self._closed.is_set():
            self.put(events.ConversationEnded(reason))
            self._closed.set()

    def put(self, event: ConversationEvent) -> None:
        self.last += 1
        if not self._readers and not self._is_awaited():
            self._forget()
            return
        self._put_at = trio.current_time()
        self._ring.append(Slot(self.last, event))
        self._size += _size(event)
        while len(self._ring) > RING_EVENTS or self._size > RING_BYTES:
            self._size -= _size(self._ring.popleft().event)
        self._lot.unpark_all()

    # -- who watches -------------------------------------------------------------------------------

    @property
    def watchers(self) -> int:
        return self._watchers

    @property
    def is_heard(self) -> bool:
        """Whether a client watches, or did so just now and may be on its way back."""
        return bool(self._watchers) or self._is_awaited()

    @property
    def watched_at(self) -> float:
        """When a client watched last, by trio's clock: now, or when the last one left; -inf where
        none ever has."""
        return trio.current_time() if self._watchers else self._left_at

    @property
    def put_at(self) -> float:
        """When something happened last that watchers learn of, by trio's clock; -inf: never."""
        return self._put_at

    def _is_awaited(self) -> bool:
        ever = self._left_at > -math.inf
        return ever and trio.current_time() < self._left_at + RESUME_SECONDS

    def prune(self) -> None:
        """Keep nothing for those who have been away for too long."""
        if not self._readers and not self._is_awaited():
            self._forget()

    def _forget(self) -> None:
        self._ring.clear()
        self._size = 0

    @contextmanager
    def watch(self) -> Iterator[Watcher]:
        """Join: from now on events are kept, and `Watcher.read` gives them."""
        with self.follow() as watcher:
            self._watchers += 1
            self.put(events.Presence(self._watchers))
            try:
                yield watcher
            finally:
                self._watchers -= 1
                if not self._watchers:
                    self._left_at = trio.current_time()
                self.put(events.Presence(self._watchers))

    @contextmanager
    def follow(self) -> Iterator[Watcher]:
        """As `watch`, for one that is no client: it is not counted among those."""
        self._readers += 1
        try:
            yield Watcher(self, self.last)
        finally:
            self._readers -= 1

    def since(self, number: int) -> Sequence[Slot] | None:
        """The events behind that number. None where some of them are not kept any more, or it is
        not one of this broadcast's."""
        if not 0 <= number <= self.last:
            return None
        missing = self.last - number
        if missing > len(self._ring):
            return None
        return [self._ring[index] for index in range(len(self._ring) - missing, len(self._ring))]

    async def wait(self, number: int) -> None:
        """Wait until there is an event behind that number, or the conversation has ended."""
        if number < self.last:
            await trio.lowlevel.checkpoint()
            return
        if self._closed.is_set():
            raise BroadcastClosed
        await self._lot.park()

    async def wait_closed(self) -> None:
        """Wait until the conversation has ended."""
        await self._closed.wait()


class Watcher:
    """One who has joined. `seen` is the number of the last event that was read."""

    def __init__(self, broadcast: Broadcast, seen: int) -> None:
        self._broadcast = broadcast
        self.seen = seen

    def __repr__(self) -> str:
        return f"<Watcher seen={self.seen} of {self._broadcast.last}>"

    async def read(self) -> Sequence[Slot]:
        """The next events, at least one. Raises `FellBehind`, or `BroadcastClosed` after the
        last."""
        await self._broadcast.wait(self.seen)
        slots = self._broadcast.since(self.seen)
        if slots is None:
            raise FellBehind
        self.seen = self._broadcast.last
        return slots


def _size(event: ConversationEvent) -> int:
    match event:
        case events.Said(_, TextDelta(text)) if text.isascii():  # most of all
            return 200 + len(text)
        case events.Said(_, item):
            return 200 + text_size(item)
        case events.TurnStarted(messages=messages):
            return 200 + size_of(messages)
        case events.TurnEnded(output=output):
            return 200 + sum(map(text_size, output))
    return 500
