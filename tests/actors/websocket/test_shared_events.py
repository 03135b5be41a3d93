"""One client that two connections write to, on streams in memory."""

from __future__ import annotations

import json

import pytest
import trio
import trio.lowlevel
from trio.testing import MockClock, lockstep_stream_pair, memory_stream_pair, wait_all_tasks_blocked

from ccapi.actors.watching.broadcast import FellBehind
from ccapi.actors.websocket import shared_events
from ccapi.actors.websocket.shared_events import Events, watch_elsewhere
from ccapi.transport.http.guarded_stream import GuardedStream, ReplayStream
from ccapi.transport.http.websocket import encode_frame
from ccapi.transport.http.websocket_frames import (
    BadFrame,
    FrameSplitter,
    encode_close,
    encode_mark,
    payload_of,
)

HEAD = b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\n\r\n"
REQUEST = b"GET /v1/conversations/c/events HTTP/1.1\r\nhost: x\r\nx-ccapi-events: shared\r\n\r\n"


def event(number: int, text: str = "word") -> bytes:
    said = json.dumps(
        {"type": "text.delta", "event_id": number, "text": text}, separators=(",", ":")
    )
    return encode_frame(said.encode())


async def come(events: Events, *numbers: int) -> None:
    """These events come from the other node."""
    for number in numbers:
        events.put(event(number))
    await events.deliver()


def begun(last: int) -> Events:
    events = Events()
    events.begin(last)
    return events


class World:
    """A client at the near end, its node in the middle, and the node that has the conversation."""

    def __init__(self, events: Events, client: tuple[trio.abc.Stream, trio.abc.Stream]) -> None:
        self.events = events
        self.client, mine = client
        self.node, theirs = memory_stream_pair()
        self._mine, self._theirs = ReplayStream(REQUEST, mine), theirs
        self.ended = False

    async def run(self) -> None:
        async with self._mine:
            await watch_elsewhere(self._mine, self._theirs, [(b"x-ccapi-node", b"me")], self.events)
        self.ended = True

    async def received(self) -> bytes:
        """What the client has received by now."""
        data = b""
        while True:
            await wait_all_tasks_blocked()
            with trio.move_on_after(0.01):
                more = await self.client.receive_some()
                data += bytes(more)
                if more:
                    continue
            return data


@pytest.fixture
def events() -> Events:
    return begun(10)


async def test_events_begin_behind_the_mark(
    events: Events, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    world = World(events, memory_stream_pair())
    await come(events, 11, 12)
    nursery.start_soon(world.run)
    asked = bytes(await world.node.receive_some())
    assert b"\r\nx-ccapi-events: apart" in asked
    assert asked.lower().count(b"x-ccapi-events") == 1
    await world.node.send_all(HEAD + encode_frame(b"hello") + event(11) + encode_mark(12)[:5])
    await come(events, 13)
    assert await world.received() == HEAD + encode_frame(b"hello") + event(11)
    await world.node.send_all(encode_mark(12)[5:] + encode_frame(b"answer"))
    await come(events, 14)
    rest = await world.received()
    assert sorted(map(len, (event(13), event(14), encode_frame(b"answer")))) == sorted(
        len(piece.data) for piece in FrameSplitter().feed(rest)
    )
    assert event(13) + event(14) in rest.replace(encode_frame(b"answer"), b"")
    await world.client.aclose()
    await wait_all_tasks_blocked()
    assert world.ended


async def test_no_event_stands_within_an_answer(
    events: Events, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    world = World(events, memory_stream_pair())
    nursery.start_soon(world.run)
    answer = encode_frame(b"a" * 300)
    await world.node.send_all(HEAD + encode_mark(10) + answer[:100])
    await come(events, 11)
    assert await world.received() == HEAD + answer[:100]
    await world.node.send_all(answer[100:])
    assert await world.received() == answer[100:] + event(11)
    await world.node.aclose()


async def test_what_belongs_before_a_close_is_waited_for(
    events: Events, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    world = World(events, memory_stream_pair())
    nursery.start_soon(world.run)
    end = encode_close(1000, "")
    await world.node.send_all(HEAD + encode_mark(10) + encode_mark(12) + end)
    await come(events, 11)
    assert await world.received() == HEAD + event(11)
    await come(events, 12)
    assert await world.received() == event(12) + end
    await come(events, 13)
    await world.node.aclose()
    await trio.sleep(0.1)
    assert world.ended


async def test_a_socket_that_takes_a_part_receives_the_rest_in_order(
    events: Events, nursery: trio.Nursery
) -> None:
    near, far = map(trio.SocketStream, trio.socket.socketpair())
    world = World(events, (near, GuardedStream(far, 5.0)))
    nursery.start_soon(world.run)
    await world.node.send_all(HEAD + encode_mark(10))
    data = b""
    while HEAD not in data:
        data += await near.receive_some()
    answer = encode_frame(b"answer" * 1000)
    said = [event(number, "x" * 50_000) for number in range(11, 41)]
    for number, frame in enumerate(said):
        events.put(frame)
        await events.deliver()
        if number == 20:
            await world.node.send_all(answer)
        await trio.lowlevel.checkpoint()
    data = data.partition(HEAD)[2]
    with trio.fail_after(10):
        while len(data) < len(answer) + sum(map(len, said)):
            data += await near.receive_some()
    pieces = [piece.data for piece in FrameSplitter().feed(data)]
    assert answer in pieces
    assert [each for each in pieces if each != answer] == said
    await near.aclose()
    await world.node.aclose()


async def test_one_that_does_not_read_is_closed_and_holds_up_no_other(
    events: Events,
    nursery: trio.Nursery,
    autojump_clock: MockClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shared_events, "RING_EVENTS", 3)
    slow, fast = World(events, lockstep_stream_pair()), World(events, memory_stream_pair())
    for world in (slow, fast):
        nursery.start_soon(world.run)
        await world.node.send_all(HEAD + encode_mark(10))
    assert bytes(await slow.client.receive_some()) == HEAD
    await wait_all_tasks_blocked()
    for number in range(11, 20):
        await come(events, number)
        await wait_all_tasks_blocked()
    assert await fast.received() == HEAD + b"".join(map(event, range(11, 20)))
    data = b""
    while more := bytes(await slow.client.receive_some()):
        data += more
        await slow.node.send_all(encode_frame(b"too late"))
        if b"behind" in data:
            break
    last = FrameSplitter().feed(data)[-1]
    assert payload_of(last.data) == (4008).to_bytes(2, "big") + b"too far behind"
    await trio.sleep(shared_events.CLOSE_SECONDS + 0.1)
    assert slow.ended
    assert not fast.ended
    await fast.node.aclose()


async def test_without_more_events_the_connection_ends(
    events: Events, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    world = World(events, memory_stream_pair())
    nursery.start_soon(world.run)
    await world.node.send_all(HEAD + encode_mark(10))
    events.end()
    await trio.sleep(shared_events.CLOSE_SECONDS + 0.1)
    assert world.ended


async def test_what_is_refused_passes_as_it_is(
    events: Events, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    world = World(events, memory_stream_pair())
    nursery.start_soon(world.run)
    refused = b"HTTP/1.1 404 Not Found\r\ncontent-length: 2\r\n\r\n{}"
    await world.node.send_all(refused)
    await wait_all_tasks_blocked()
    await world.node.aclose()
    assert await world.received() == refused
    assert world.ended


def test_the_ring_gives_what_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_events, "RING_BYTES", 3 * len(event(10)))
    events = begun(10)
    for number in range(11, 16):
        events.put(event(number))
    assert events.since(12) == event(13) + event(14) + event(15)
    assert events.since(14) == event(15)
    assert events.since(15) == events.since(99) == b""
    with pytest.raises(FellBehind):
        events.since(11)


@pytest.mark.parametrize(
    "frame", [event(12), event(10), encode_frame(b'{"type":"error"}'), encode_frame(b"")]
)
def test_events_that_do_not_follow(frame: bytes) -> None:
    with pytest.raises(BadFrame):
        begun(10).put(frame)
