"""The broadcast of a conversation: numbered events, many watchers, a bounded ring."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from ccapi.actors.watching import broadcast as broadcasts
from ccapi.actors.watching.broadcast import Broadcast, BroadcastClosed, FellBehind
from ccapi.schemas.errors import TurnInterrupted
from ccapi.schemas.message import Message
from ccapi.schemas.openai.conversation_events import (
    Presence,
    Said,
    TurnEnded,
    TurnStarted,
)
from ccapi.schemas.turn import Completed, Failed, Memory, Setup, Usage
from ccapi.schemas.turn_items import (
    ActivityDelta,
    ActivityEnded,
    TextDelta,
    ToolCallDelta,
    TurnItem,
)

MEMORY = Memory(Setup("m"))
HI = (Message("user", ("Hi",)),)


def begin(broadcast: Broadcast, name: str = "t1") -> None:
    broadcast.begin(name, "m", HI, MEMORY)


async def test_watchers_read_the_same_events_at_their_own_pace() -> None:
    broadcast = Broadcast()
    with broadcast.watch() as quick, broadcast.watch() as slow:
        begin(broadcast)
        broadcast.say(TextDelta("a"))
        kinds = [type(slot.event) for slot in await quick.read()]
        assert kinds == [Presence, Presence, TurnStarted, Said]
        broadcast.say(TextDelta("b"))
        broadcast.end("t1", Completed("stop", Usage()))
        rest = await quick.read()
        assert [type(slot.event) for slot in rest] == [Said, TurnEnded]
        behind = await slow.read()
        assert [slot.number for slot in behind] == [2, 3, 4, 5, 6]
        assert behind[-1] is rest[-1], "one slot for all, so that it is worded once"
    assert [record.output for record in broadcast.history] == [(TextDelta("ab"),)]


async def test_without_watchers_nothing_is_kept_but_the_turn_under_way() -> None:
    broadcast = Broadcast()
    begin(broadcast)
    for _ in range(100):
        broadcast.say(TextDelta("x"))
    assert broadcast.last == 101
    assert repr(broadcast) == "<Broadcast 101 events, 0 kept, 0 watching>"
    assert broadcast.turn is not None
    assert len(broadcast.turn.items) == 100
    assert broadcast.since(101) == []
    assert broadcast.since(100) is None


async def test_events_are_kept_for_a_while_for_who_has_left(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broadcast = Broadcast()
    with broadcast.watch() as watcher:
        await watcher.read()
    last = watcher.seen
    assert broadcast.is_heard
    begin(broadcast)
    missed = broadcast.since(last)
    assert missed is not None
    assert [type(slot.event) for slot in missed] == [Presence, TurnStarted]
    await trio.sleep(broadcasts.RESUME_SECONDS)
    assert not broadcast.is_heard
    broadcast.prune()
    assert broadcast.since(last) is None
    assert broadcast.since(broadcast.last + 1) is None, "a number from another life"


async def test_a_watcher_that_falls_behind_the_ring_gets_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(broadcasts, "RING_EVENTS", 10)
    broadcast = Broadcast()
    with broadcast.watch() as watcher:
        begin(broadcast)
        for _ in range(20):
            broadcast.say(TextDelta("x"))
        with pytest.raises(FellBehind):
            await watcher.read()


async def test_the_ring_is_bounded_in_bytes_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broadcasts, "RING_BYTES", 10_000)
    broadcast = Broadcast()
    with broadcast.watch():
        begin(broadcast)
        for _ in range(20):
            broadcast.say(TextDelta("x" * 3000))
        assert "3 kept" in repr(broadcast)


@pytest.mark.parametrize(
    "item",
    [
        TextDelta("\N{SNOWMAN}" * 1000),
        ToolCallDelta(0, "x" * 3000),
        ActivityDelta("a", "x" * 3000),
        ActivityEnded("a", "x" * 3000),
    ],
    ids=lambda item: type(item).__name__,
)
async def test_every_text_counts_in_the_ring_for_its_utf8(
    item: TurnItem, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broadcasts, "RING_BYTES", 10_000)
    broadcast = Broadcast()
    with broadcast.watch() as watcher:
        begin(broadcast)
        await watcher.read()
        for _ in range(10):
            broadcast.say(item)
        assert broadcast.since(broadcast.last - 3) is not None
        assert broadcast.since(broadcast.last - 4) is None


async def test_a_reader_waits_and_is_woken(autojump_clock: trio.testing.MockClock) -> None:
    broadcast = Broadcast()
    read: list[int] = []

    async def watch() -> None:
        with broadcast.watch() as watcher:
            while True:
                read.extend(slot.number for slot in await watcher.read())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        await trio.testing.wait_all_tasks_blocked()
        assert read == [1]
        begin(broadcast)
        await trio.testing.wait_all_tasks_blocked()
        assert read == [1, 2]
        nursery.cancel_scope.cancel()
    assert broadcast.watchers == 0


async def test_a_closed_broadcast_is_read_to_its_end() -> None:
    broadcast = Broadcast()
    with broadcast.watch() as watcher:
        broadcast.close("deleted")
        broadcast.close("expired")
        assert len(await watcher.read()) == 2
        with pytest.raises(BroadcastClosed):
            await watcher.read()


async def test_a_turn_that_failed_leaves_no_trace_and_a_refused_one_is_broadcast() -> None:
    broadcast = Broadcast()
    with broadcast.watch() as watcher:
        begin(broadcast)
        broadcast.say(TextDelta("half"))
        broadcast.end("waiting", Failed(TurnInterrupted("It never began.")))
        assert broadcast.turn is not None
        broadcast.end("t1", Failed(TurnInterrupted("Stopped.")))
        failed = [slot.event for slot in await watcher.read() if isinstance(slot.event, TurnEnded)]
        assert [event.turn_id for event in failed] == ["waiting", "t1"]
    assert len(broadcast.history) == 0


async def test_what_the_conversation_does_not_remember_is_not_in_its_history() -> None:
    broadcast = Broadcast()
    begin(broadcast)
    broadcast.end("t1", Completed("content_filter", Usage()))
    assert len(broadcast.history) == 0
