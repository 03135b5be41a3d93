"""The feed of a conversation: numbered events, many watchers, a bounded ring."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from ccapi.actors.watching import broadcast as feeds
from ccapi.actors.watching.broadcast import Feed, FeedClosed, FellBehind
from ccapi.schemas.errors import TurnInterrupted
from ccapi.schemas.message import Message
from ccapi.schemas.openai.conversation_events import (
    Presence,
    Said,
    TurnFailed,
    TurnFinished,
    TurnStarted,
)
from ccapi.schemas.turn import Completed, Failed, Memory, Setup, Usage
from ccapi.schemas.turn_items import TextDelta

MEMORY = Memory(Setup("m"))
HI = (Message("user", ("Hi",)),)


def begin(feed: Feed, name: str = "t1") -> None:
    feed.begin(name, "m", HI, MEMORY)


async def test_watchers_read_the_same_events_at_their_own_pace() -> None:
    feed = Feed()
    with feed.watch() as quick, feed.watch() as slow:
        begin(feed)
        feed.say(TextDelta("a"))
        kinds = [type(slot.event) for slot in await quick.read()]
        assert kinds == [Presence, Presence, TurnStarted, Said]
        feed.say(TextDelta("b"))
        feed.end("t1", Completed("stop", Usage()))
        rest = await quick.read()
        assert [type(slot.event) for slot in rest] == [Said, TurnFinished]
        behind = await slow.read()
        assert [slot.number for slot in behind] == [2, 3, 4, 5, 6]
        assert behind[-1] is rest[-1], "one slot for all, so that it is worded once"
    assert [record.output for record in feed.history] == [(TextDelta("ab"),)]


async def test_without_watchers_nothing_is_kept_but_the_turn_under_way() -> None:
    feed = Feed()
    begin(feed)
    for _ in range(100):
        feed.say(TextDelta("x"))
    assert feed.last == 101
    assert repr(feed) == "<Feed 101 events, 0 kept, 0 watching>"
    assert feed.turn is not None
    assert len(feed.turn.items) == 100
    assert feed.since(101) == []
    assert feed.since(100) is None


async def test_events_are_kept_for_a_while_for_who_has_left(
    autojump_clock: trio.testing.MockClock,
) -> None:
    feed = Feed()
    with feed.watch() as watcher:
        await watcher.read()
    last = watcher.seen
    assert feed.is_heard
    begin(feed)
    missed = feed.since(last)
    assert missed is not None
    assert [type(slot.event) for slot in missed] == [Presence, TurnStarted]
    await trio.sleep(feeds.RESUME_SECONDS)
    assert not feed.is_heard
    feed.prune()
    assert feed.since(last) is None
    assert feed.since(feed.last + 1) is None, "a number from another life"


async def test_one_who_falls_behind_the_ring_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "RING_EVENTS", 10)
    feed = Feed()
    with feed.watch() as watcher:
        begin(feed)
        for _ in range(20):
            feed.say(TextDelta("x"))
        with pytest.raises(FellBehind):
            await watcher.read()


async def test_the_ring_is_bounded_in_bytes_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "RING_BYTES", 10_000)
    feed = Feed()
    with feed.watch():
        begin(feed)
        for _ in range(20):
            feed.say(TextDelta("x" * 3000))
        assert "3 kept" in repr(feed)


async def test_a_reader_waits_and_is_woken(autojump_clock: trio.testing.MockClock) -> None:
    feed = Feed()
    read: list[int] = []

    async def watch() -> None:
        with feed.watch() as watcher:
            while True:
                read.extend(slot.number for slot in await watcher.read())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        await trio.testing.wait_all_tasks_blocked()
        assert read == [1]
        begin(feed)
        await trio.testing.wait_all_tasks_blocked()
        assert read == [1, 2]
        nursery.cancel_scope.cancel()
    assert feed.watchers == 0


async def test_a_closed_feed_is_read_to_its_end() -> None:
    feed = Feed()
    with feed.watch() as watcher:
        feed.close("deleted")
        feed.close("expired")
        assert len(await watcher.read()) == 2
        with pytest.raises(FeedClosed):
            await watcher.read()


async def test_a_turn_that_failed_leaves_no_trace_and_a_refused_one_is_told() -> None:
    feed = Feed()
    with feed.watch() as watcher:
        begin(feed)
        feed.say(TextDelta("half"))
        feed.end("waiting", Failed(TurnInterrupted("It never began.")))
        assert feed.turn is not None
        feed.end("t1", Failed(TurnInterrupted("Stopped.")))
        failed = [slot.event for slot in await watcher.read() if isinstance(slot.event, TurnFailed)]
        assert [event.turn_id for event in failed] == ["waiting", "t1"]
    assert len(feed.history) == 0


async def test_what_the_conversation_does_not_remember_is_not_in_its_history() -> None:
    feed = Feed()
    begin(feed)
    feed.end("t1", Completed("content_filter", Usage()))
    assert len(feed.history) == 0
