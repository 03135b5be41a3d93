"""The WebSocket itself: messages, frames made ahead, pings, closing, and clients that mean harm."""

from __future__ import annotations

import struct
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

import pytest
import structlog
import trio
import trio_websocket
from wsproto.frame_protocol import FrameProtocol, Opcode

from ccapi.transport.http.front_door import Peer
from ccapi.transport.http.websocket import (
    WebSocket,
    WebSocketClosed,
    WebSocketLimits,
    accept_websocket,
    encode_frame,
)

from ...support.http_client import GET, echo, knock, open_door
from ...support.websocket_client import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    Frame,
    RawWebSocket,
    client_frame,
    close,
    open_raw_websocket,
    text,
)

Talk = Callable[[WebSocket], Awaitable[None]]


async def shout(websocket: WebSocket) -> None:
    while True:
        await websocket.send((await websocket.receive()).decode().upper().encode())


class World:
    """A front door whose WebSockets all have the same talk, and what became of each."""

    def __init__(self, talk: Talk = shout) -> None:
        self.endings: list[WebSocketClosed] = []
        self.ended = trio.Event()
        self.port = 0
        self._talk = talk

    async def __call__(self, request: trio_websocket.WebSocketRequest, peer: Peer) -> None:
        websocket = await accept_websocket(request)
        try:
            await self._talk(websocket)
        except WebSocketClosed as closed:
            self.endings.append(closed)
            raise
        finally:
            self.ended.set()


@asynccontextmanager
async def open_world(
    talk: Talk = shout, *, stop: trio.Event | None = None, stall_seconds: float = 30, **limits: Any
) -> AsyncIterator[World]:
    world = World(talk)
    with structlog.testing.capture_logs() as logs:
        async with open_door(
            echo,
            world,
            websocket=WebSocketLimits(**limits),
            stall_seconds=stall_seconds,
            stop=stop,
        ) as world.port:
            yield world
    assert [entry for entry in logs if entry["log_level"] != "debug"] == []


@asynccontextmanager
async def meet(world: World) -> AsyncIterator[RawWebSocket]:
    async with open_raw_websocket(world.port) as client:
        yield client


# -- frames ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536, 100_000])
def test_a_frame_is_what_wsproto_makes_of_the_message(size: int) -> None:
    payload = b"x" * size
    protocol = FrameProtocol(client=False, extensions=[])
    assert encode_frame(payload) == protocol.send_data(payload.decode())


@pytest.mark.parametrize(
    ("size", "head"),
    [
        (125, b"\x81\x7d"),
        (126, b"\x81\x7e\x00\x7e"),
        (65535, b"\x81\x7e\xff\xff"),
        (65536, b"\x81\x7f\x00\x00\x00\x00\x00\x01\x00\x00"),
    ],
)
def test_a_length_takes_the_fewest_bytes(size: int, head: bytes) -> None:
    assert encode_frame(b"x" * size) == head + b"x" * size


def test_frames_in_a_row_are_read_as_messages_in_a_row() -> None:
    reader = FrameProtocol(client=True, extensions=[])
    reader.receive_bytes(b"".join(encode_frame(word.encode()) for word in ("één", "", "two")))
    read = [(frame.opcode, frame.payload) for frame in reader.received_frames()]
    assert read == [(Opcode.TEXT, word) for word in ("één", "", "two")]


# -- messages --------------------------------------------------------------------------------------


async def test_messages_go_both_ways() -> None:
    async with open_world() as world, meet(world) as client:
        for message in ("a", "é" * 70, "x" * 70_000):
            await client.send(text(message))
            assert await client.message() == message.upper()


async def test_a_message_in_fragments_is_one_message() -> None:
    async with open_world() as world, meet(world) as client:
        snowman = "☃".encode()
        await client.send(client_frame(TEXT, b"a" + snowman[:1], fin=False))
        await client.send(client_frame(PING, b"in between"))
        await client.send(client_frame(CONTINUATION, fin=False))
        await client.send(client_frame(CONTINUATION, snowman[1:] + b"\r\nz"))
        assert await client.frame() == Frame(PONG, b"in between")
        assert await client.message() == "A☃\r\nZ"
        await client.send(text("again"))
        assert await client.message() == "AGAIN"


async def test_a_message_that_comes_byte_by_byte() -> None:
    async with open_world() as world, meet(world) as client:
        for byte in text("slow"):
            await client.send(bytes([byte]))
            await trio.sleep(0.001)
        assert await client.message() == "SLOW"


async def test_frames_made_ahead_arrive_as_messages() -> None:
    async def talk(websocket: WebSocket) -> None:
        await websocket.send_frames(encode_frame(b"one") + encode_frame(b"two" * 100), 2)
        await websocket.send(b"three")
        assert websocket.sent == 3
        await websocket.receive()

    async with open_world(talk) as world, meet(world) as client:
        assert [await client.message() for _ in range(3)] == ["one", "two" * 100, "three"]


async def test_no_extension_is_agreed_to() -> None:
    async with open_world() as world:
        offer = {"sec-websocket-extensions": "permessage-deflate; client_max_window_bits"}
        async with open_raw_websocket(world.port, headers=offer) as client:
            assert b"sec-websocket-extensions" not in dict(client.head.headers)
            await client.send(text("plain"))
            assert await client.message() == "PLAIN"


async def test_writers_of_all_kinds_do_not_come_in_between_each_other() -> None:
    """Big frames of three tasks, and the pongs of the reader, on a socket that is mostly full."""
    frame = encode_frame(b"x" * 300_000)

    async def talk(websocket: WebSocket) -> None:
        async def push() -> None:
            for _ in range(5):
                await websocket.send_frames(frame + frame, 2)

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(push)
        await websocket.receive()

    async with open_world(talk) as world, meet(world) as client:
        seen: list[int] = []
        for number in range(20):
            await client.send(client_frame(PING, b"%d" % number))
        while len(seen) < 50:
            frame_read = await client.frame()
            seen.append(frame_read.opcode)
            assert frame_read.opcode == PONG or frame_read.payload == b"x" * 300_000
        assert (seen.count(TEXT), seen.count(PONG)) == (30, 20)


# -- closing ---------------------------------------------------------------------------------------


async def test_a_client_that_closes_is_answered_and_the_connection_ends() -> None:
    async with open_world() as world, meet(world) as client:
        await client.send(text("last"))
        assert await client.message() == "LAST"
        await client.send(close(4000, "enough"))
        assert await client.close_code() == 4000
        assert await client.ended()
        await world.ended.wait()
    assert [(e.code, e.reason) for e in world.endings] == [(4000, "enough")]


async def test_a_talk_that_ends_closes_its_websocket() -> None:
    async def talk(websocket: WebSocket) -> None:
        await websocket.send(b"bye")

    async with open_world(talk) as world, meet(world) as client:
        assert await client.message() == "bye"
        assert await client.close_code() == 1000
        await client.send(close())
        assert await client.ended()


async def test_a_handler_that_fails_closes_its_websocket_with_a_code_for_the_cause() -> None:
    async def talk(websocket: WebSocket) -> None:
        raise ZeroDivisionError

    world = World(talk)
    with structlog.testing.capture_logs() as logs:
        async with open_door(echo, world) as world.port, meet(world) as client:
            assert await client.close_code() == 1011
            await client.send(close())
            assert await client.ended()
    assert [entry["event"] for entry in logs] == ["websocket_failed"]


async def test_closing_has_a_code_and_a_reason_and_wakes_who_receives() -> None:
    async def talk(websocket: WebSocket) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(websocket.close, 4008, "too slow")
            with pytest.raises(WebSocketClosed, match="4008 too slow"):
                await websocket.receive()
        assert websocket.closed is not None
        for send in (websocket.send(b"x"), websocket.send_frames(b"x")):
            with pytest.raises(WebSocketClosed, match="4008"):
                await send
        await websocket.close(1000)  # the first word stands

    async with open_world(talk) as world, meet(world) as client:
        frame = await client.frame()
        assert (frame.code, frame.payload[2:]) == (4008, b"too slow")
        await client.send(close(4008))
        assert await client.ended()


async def test_a_client_that_does_not_close_too_is_not_waited_for_for_long() -> None:
    closed = trio.Event()

    async def talk(websocket: WebSocket) -> None:
        await websocket.close(4000)
        closed.set()

    async with open_world(talk, close_seconds=0.2) as world, meet(world) as client:
        assert await client.close_code() == 4000
        with trio.fail_after(1.5):
            await closed.wait()


async def test_a_ping_behind_a_close_frame_is_no_internal_error() -> None:
    async def talk(websocket: WebSocket) -> None:
        await websocket.close(4000)

    async with open_world(talk) as world, meet(world) as client:
        await client.send(client_frame(PING) * 3)  # on their way before the close frame is read
        assert await client.close_code() == 4000
        await client.send(client_frame(PING) + text("x") + close())
        assert await client.ended()


async def test_stopping_closes_websockets() -> None:
    stop = trio.Event()
    async with open_world(stop=stop) as world, meet(world) as client:
        await client.send(text("x"))
        assert await client.message() == "X"
        stop.set()
        assert await client.close_code() == 1001
        await client.send(close(1001))
        assert await client.ended()
    assert [closed.code for closed in world.endings] == [1001]


async def test_a_reset_ends_its_connection_quietly() -> None:
    async with open_world() as world, meet(world) as client:
        stream = client.stream
        assert isinstance(stream, trio.SocketStream)
        linger = struct.pack("ii", 1, 0)
        stream.socket.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_LINGER, linger)
        stream.socket.close()
        await world.ended.wait()
    assert [closed.code for closed in world.endings] == [1006]


# -- silence ---------------------------------------------------------------------------------------


async def test_a_silent_client_is_asked_and_stays_as_long_as_it_answers() -> None:
    async with open_world(ping_seconds=0.05, pong_seconds=5) as world, meet(world) as client:
        for _ in range(3):
            frame = await client.frame()
            assert frame.opcode == PING
            await client.send(client_frame(PONG, frame.payload))
        await client.send(text("here"))
        assert await client.message() == "HERE"


async def test_a_client_that_answers_no_ping_is_gone() -> None:
    async with open_world(ping_seconds=0.05, pong_seconds=0.1) as world, meet(world) as client:
        assert (await client.frame()).opcode == PING
        with trio.fail_after(5):
            assert await client.ended()
        assert [closed.code for closed in world.endings] == [1006]


async def test_a_client_is_not_taken_for_silent_while_no_task_reads_it() -> None:
    """The reader rests behind a full queue; the pong is in the socket all along."""
    go_on = trio.Event()

    async def talk(websocket: WebSocket) -> None:
        await go_on.wait()
        await shout(websocket)

    async with open_world(talk, ping_seconds=0.05, pong_seconds=0.05) as world:
        async with meet(world) as client:
            await client.send(b"".join(text(word) for word in "abcdefgh"))
            await trio.sleep(0.5)
            go_on.set()
            assert [await client.message() for _ in "abcdefgh"] == [*"ABCDEFGH"]


@pytest.mark.parametrize(("seconds", "together"), [(20.0, True), (0.5, False)])
async def test_the_silent_are_asked_together_but_for_those_asked_often(
    seconds: float, together: bool
) -> None:
    checked = trio.Event()

    async def talk(websocket: WebSocket) -> None:
        heartbeat: Any = websocket._connection._stream
        for tenth in range(20):
            heard_at = 1000 + tenth / 10
            asked_at = heartbeat._patience(heard_at, False)
            assert (asked_at == int(asked_at)) is together or tenth % 5 == 0
            assert seconds <= asked_at - heard_at < seconds + 1
        checked.set()

    async with open_world(talk, ping_seconds=seconds) as world, meet(world):
        await checked.wait()


async def test_a_connection_that_is_not_used_is_closed() -> None:
    async with open_world(idle_seconds=0.4, ping_seconds=0.05) as world, meet(world) as client:
        await trio.sleep(0.2)
        began = trio.current_time()
        await client.send(text("used"))
        assert await client.message() == "USED"
        assert await client.close_code() == 1001
        assert trio.current_time() - began >= 0.35
        await client.send(close(1001))
        assert await client.ended()


async def test_one_that_is_used_on_another_way_too_is_not_idle() -> None:
    used_until = trio.current_time() + 0.6

    async def talk(websocket: WebSocket) -> None:
        websocket.use_with(lambda: min(trio.current_time(), used_until))
        with suppress(WebSocketClosed):
            await websocket.receive()

    async with open_world(talk, idle_seconds=0.3) as world, meet(world) as client:
        assert await client.close_code() == 1001
        assert trio.current_time() >= used_until + 0.25
        await client.send(close(1001))


# -- what is no WebSocket, or too much of one ------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (client_frame(BINARY, b"\x00"), 1003),
        (client_frame(BINARY, b"\x00", fin=False), 1003),
        (text(b"\xff\xfe"), 1007),
        (client_frame(TEXT, b"\xe2\x98", fin=False) + client_frame(CONTINUATION, b"x"), 1007),
        (text(b"\xed\xa0\x80"), 1007),
        (text("x" * 1001), 1009),
        (text("é" * 501), 1009),
        (b"\x81\xff\x7f" + b"\xff" * 7 + bytes(4) + b"x" * 100_000, 1009),
        (client_frame(TEXT, b"x" * 600, fin=False) + client_frame(CONTINUATION, b"x" * 600), 1009),
        (b"\x81\x01x", 1002),
        (b"\xc1\x81\x00\x00\x00\x00x", 1002),
        (b"\x83\x80\x00\x00\x00\x00", 1002),
        (client_frame(CONTINUATION, b"x"), 1002),
        (client_frame(TEXT, b"x", fin=False) + client_frame(TEXT, b"x"), 1002),
        (client_frame(PING, b"x", fin=False), 1002),
        (client_frame(PING, b"x" * 126), 1002),
        (client_frame(CLOSE, b"\x03"), 1002),
        (close(1005), 1002),
        (close(999), 1002),
        (client_frame(CLOSE, b"\x03\xe8\xff"), 1007),
        (b"GET / HTTP/1.1\r\nhost: here\r\n\r\n", 1002),
        (b"\x00" * 5000, 1002),
    ],
)
async def test_what_is_no_message_ends_its_connection_with_the_right_code(
    data: bytes, code: int
) -> None:
    async with open_world(max_message_bytes=1000) as world, meet(world) as client:
        async with meet(world) as sibling:
            # And whatever stands behind it changes nothing.
            await client.send(data + client_frame(PING) * 100 + text("x") * 100)
            assert await client.close_code() == code
            await client.send(close(code))
            assert await client.ended()
            await sibling.send(text("unharmed"))
            assert await sibling.message() == "UNHARMED"
        assert [closed.code for closed in world.endings] == [code]
        assert world.endings[0].reason


async def test_a_message_of_exactly_the_limit_is_taken() -> None:
    async with open_world(max_message_bytes=1000) as world, meet(world) as client:
        await client.send(text("é" * 500))
        assert await client.message() == "É" * 500
        await client.send(text("x" * 1000))
        assert await client.message() == "X" * 1000


async def test_a_huge_frame_is_refused_before_it_is_there() -> None:
    bounded = open_world(max_message_bytes=100_000, close_seconds=0.2)
    async with bounded as world, meet(world) as client:
        await client.send(b"\x81\xff" + struct.pack("!Q", 1 << 40) + bytes(4))
        with trio.move_on_after(5):
            with pytest.raises(trio.BrokenResourceError):
                while True:
                    await client.send(b"x" * 65536)
        await world.ended.wait()
    assert [closed.code for closed in world.endings] == [1009]


async def test_fragments_without_content_take_no_memory() -> None:
    async with open_world() as world, meet(world) as client:
        await client.send(client_frame(TEXT, b"a", fin=False))
        await client.send(client_frame(PING))
        assert (await client.frame()).opcode == PONG
        tracemalloc.start()
        for _ in range(10):
            await client.send(client_frame(CONTINUATION, fin=False) * 2000)
        await client.send(client_frame(CONTINUATION, b"z"))
        grown, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert await client.message() == "AZ"
        assert grown < 500_000


# -- others ----------------------------------------------------------------------------------------


@asynccontextmanager
async def flooding(client: RawWebSocket, data: bytes) -> AsyncIterator[None]:
    """Sends without end, and reads nothing."""

    async def flood() -> None:
        with_patience = trio.BrokenResourceError, trio.ClosedResourceError
        try:
            while True:
                await client.send(data)
        except with_patience:
            pass

    async with trio.open_nursery() as nursery:
        nursery.start_soon(flood)
        yield
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    "data",
    [
        client_frame(PONG) * 5000,
        client_frame(PING, b"x" * 100) * 500,
        text("x") * 5000,
        client_frame(CONTINUATION, fin=False) * 5000,
        text("x" * 900_000),
    ],
    ids=["pongs", "pings", "messages", "fragments", "big"],
)
async def test_floods_leave_room_for_others(data: bytes) -> None:
    async with AsyncExitStack() as stack:
        world = await stack.enter_async_context(open_world())
        for _ in range(10):
            flooder = await stack.enter_async_context(meet(world))
            await flooder.send(client_frame(TEXT, fin=False) if data[:1] == b"\x00" else b"")
            await stack.enter_async_context(flooding(flooder, data))
        sibling = await stack.enter_async_context(meet(world))
        http = await stack.enter_async_context(knock(world.port))
        slowest = 0.0
        for number in range(20):
            began = trio.current_time()
            await sibling.send(text(f"message {number}"))
            assert await sibling.message() == f"MESSAGE {number}"
            await http.send(GET)
            assert (await http.response()).status == 200
            slowest = max(slowest, trio.current_time() - began)
        assert slowest < 1


async def test_clients_that_never_read_are_given_up_and_hold_up_no_other() -> None:
    big = encode_frame(b"x" * 1_000_000)

    async def talk(websocket: WebSocket) -> None:
        if await websocket.receive() == b"flood":
            while True:
                await websocket.send_frames(big)
        await websocket.send(b"at once")

    async with AsyncExitStack() as stack:
        world = await stack.enter_async_context(open_world(talk, stall_seconds=1))
        for _ in range(50):
            client = await stack.enter_async_context(meet(world))
            await client.send(text("flood"))
        await trio.sleep(0.2)
        sibling = await stack.enter_async_context(meet(world))
        await sibling.send(text("please"))
        with trio.fail_after(0.5):
            assert await sibling.message() == "at once"
        with trio.fail_after(10):
            while len(world.endings) < 50:
                await trio.sleep(0.05)
    assert {closed.code for closed in world.endings} == {1006}


async def test_a_client_of_trio_websocket_gets_on() -> None:
    async with open_world() as world:
        url = f"ws://127.0.0.1:{world.port}/"
        async with trio_websocket.open_websocket_url(url, max_message_size=1 << 22) as client:
            await client.send_message("x" * 1_000_000)
            assert await client.get_message() == "X" * 1_000_000
            await client.ping()
    assert [closed.code for closed in world.endings] == [1000]
