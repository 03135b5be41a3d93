"""The cache actor: answers identical requests from memory, and runs ten of them as one turn.

Knows: what is asked for, who leads and who waits, and what the bus says of finished turns; that
alone brings it answers. Refuses to know: how a request becomes a turn, and which requests may be
answered from memory (callers ask only for those; a turn without `cache_key` is never kept).

Whatever happens to this actor, `Cache.flight` yields None at worst: then the caller runs its turn
as if there were no cache (invariant 7).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import trio
from attrs import frozen

from ...schemas.events import CacheAsked, Event, TurnFinished
from ...schemas.settings.settings import CacheSettings
from ...schemas.turn import Answer
from ...transport.loggers import get_logger
from ..runtime.bus import Bus, Subscription
from ..runtime.mailbox import ActorGone, Mailbox, Ref, answer, open_mailbox
from .cache_table import AnswerTable, Flights, cache_key, is_reusable

__all__ = ["Ask", "Cache", "CacheStatistics", "cache_key", "open_cache"]

log = get_logger("ccapi.cache")

FOLLOW_SECONDS = 60.0
"""How long an identical request waits for another one's turn before it runs its own."""


@frozen(eq=False)
class Ask:
    """Is there an answer for `key`? None as the reply means: run the turn yourself.

    Nothing is ever sent through `lifeline`. Its other end is in the asker's hands, and closing
    that is how an asker that has finished, failed or been cancelled says so: it takes no room in
    a mailbox and cannot block or fail.
    """

    key: str
    reply: trio.MemorySendChannel[Answer | None]
    lifeline: trio.MemorySendChannel[None]

    @property
    def present(self) -> bool:
        return self.lifeline.statistics().open_receive_channels > 0

    async def gone(self) -> None:
        """Return once the asker has let go."""
        with suppress(trio.BrokenResourceError):
            await self.lifeline.send(None)


@frozen
class CacheStatistics:
    """What the cache holds and has done.

    `entries` and `bytes` are what is kept, `flights` the turns under way that others may wait
    for. Every question is counted once: as a hit, as a miss (its turn was to be run) or as joined
    (another request's turn was under way).
    """

    entries: int
    bytes: int
    hits: int
    misses: int
    joined: int
    flights: int


class _CacheState:
    """The actor's state, and what it does on each message. All of it is synchronous."""

    def __init__(self, settings: CacheSettings, bus: Bus, subscription: Subscription) -> None:
        self._bus = bus
        self._subscription = subscription
        self._flights: Flights[Ask] = Flights()
        self._asked: Counter[str] = Counter()
        self._table = AnswerTable(
            max_entries=settings.max_entries,
            ttl_seconds=settings.ttl_seconds,
            max_bytes=settings.max_bytes,
        )

    def __repr__(self) -> str:
        return f"{self._table} {self._flights}"

    def handle(self, event: Event) -> None:
        """Keep a finished turn's answer, and give it to those who wait for it."""
        match event:
            case TurnFinished(cache_key=str(key), answer=Answer() as whole) if is_reusable(whole):
                self._table.put(key, whole, trio.current_time())
                for ask in self._flights.land(key):
                    answer(ask.reply, whole)
            case TurnFinished(cache_key=str(key)):
                # Of no use to others: they need not wait for one another either.
                for ask in self._flights.land(key):
                    answer(ask.reply, None)

    def find(self, key: str) -> Answer | None:
        """An answer that is kept; counted as a hit. None is not a question yet: see `seat`."""
        self._catch_up()
        kept = self._table.get(key, trio.current_time())
        if kept is not None:
            self._count("hit")
        return kept

    def seat(self, ask: Ask) -> bool:
        """Answer `ask`, or let it lead or wait; says whether its leaving will matter."""
        if not ask.present:
            return False
        kept = self.find(ask.key)
        if kept is not None:
            answer(ask.reply, kept)
        elif self._flights.join(ask.key, ask):
            answer(ask.reply, None)
            self._count("miss")
        else:
            self._count("joined")
        return kept is None

    def leave(self, ask: Ask) -> None:
        """The request has gone. If it led, another one goes next."""
        self._catch_up()
        for following in self._flights.leave(ask.key, ask):
            answer(following.reply, None)

    def _count(self, outcome: str) -> None:
        self._asked[outcome] += 1
        self._bus.publish(CacheAsked(outcome))

    def _catch_up(self) -> None:
        # A turn's end is published before its caller learns of it. So when a leader leaves, the
        # answer has either arrived or is in the subscription's buffer (`Subscription` says why
        # there is no third place), and with the buffer read dry there is no answer to come.
        with suppress(trio.WouldBlock, trio.EndOfChannel):
            while True:
                self.handle(self._subscription.receive_nowait())

    def statistics(self) -> CacheStatistics:
        self._table.expire(trio.current_time())
        return CacheStatistics(
            entries=len(self._table),
            bytes=self._table.bytes,
            hits=self._asked["hit"],
            misses=self._asked["miss"],
            joined=self._asked["joined"],
            flights=len(self._flights),
        )


class Cache:
    """What callers hold of the cache."""

    def __init__(self, ref: Ref[Ask], state: _CacheState) -> None:
        self._ref = ref
        self._state = state

    def __repr__(self) -> str:
        return f"<Cache {self._state}>"

    @asynccontextmanager
    async def flight(self, key: str) -> AsyncIterator[Answer | None]:
        """Ask for the answer to the request called `key`, and stand for it while the block runs.

        Yields the `Answer` if there is one, waiting for it while another client's identical turn
        is under way. Yields None where the caller has to run the turn itself: inside the block,
        with `cache_key=key`, so that those who wait for it learn of its end. Leaving the block
        without a finished turn, in whatever way, lets the next one try. No request waits for longer
        than `FOLLOW_SECONDS`: a leader whose client reads slowly must not hold up others.
        """
        kept = self._state.find(key)
        if kept is not None:  # a table read; the mailbox is for those who may have to wait
            yield kept
            return
        lifeline, held = trio.open_memory_channel[None](0)
        with held:
            found: Answer | None = None
            with suppress(ActorGone), trio.move_on_after(FOLLOW_SECONDS):
                found = await self._ref.ask(lambda reply: Ask(key, reply, lifeline))
            yield found

    def statistics(self) -> CacheStatistics:
        return self._state.statistics()


async def _run(settings: CacheSettings, bus: Bus, task_status: trio.TaskStatus[Cache]) -> None:
    ref: Ref[Ask]
    mailbox: Mailbox[Ask]
    ref, mailbox = open_mailbox("cache")
    with mailbox, bus.subscribe(TurnFinished) as subscription:
        state = _CacheState(settings, bus, subscription)
        task_status.started(Cache(ref, state))
        if not settings.enabled:
            return  # a cache that is switched off is one whose actor has ended
        async with trio.open_nursery() as nursery:

            async def listen() -> None:
                async for event in subscription:
                    state.handle(event)
                nursery.cancel_scope.cancel()  # the bus is closed: no turn will finish any more

            async def watch(ask: Ask) -> None:
                await ask.gone()
                state.leave(ask)

            nursery.start_soon(listen)
            async for ask in mailbox:
                if state.seat(ask):
                    nursery.start_soon(watch, ask)


async def _guard(settings: CacheSettings, bus: Bus, *, task_status: trio.TaskStatus[Cache]) -> None:
    try:
        await _run(settings, bus, task_status)
    except Exception:
        log.exception("The cache has crashed. Requests are served without it.")


@asynccontextmanager
async def open_cache(settings: CacheSettings, bus: Bus) -> AsyncIterator[Cache]:
    """Run the cache actor while the block runs, or until `bus` is closed.

    It receives every turn that finishes after this has been entered.
    """
    async with trio.open_nursery() as nursery:
        cache: Cache = await nursery.start(_guard, settings, bus)
        yield cache
        nursery.cancel_scope.cancel()
