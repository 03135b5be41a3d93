"""Many connections from one address, and WebSocket messages that share the room for bodies."""

from __future__ import annotations

from contextlib import AsyncExitStack

import pytest
import structlog
import trio
import trio_websocket
from trio.testing import wait_all_tasks_blocked

from ccapi.schemas.errors import Overloaded
from ccapi.transport.http.bodies import LONG, Bodies, Share
from ccapi.transport.http.front_door import Peer, _household
from ccapi.transport.http.websocket import (
    WebSocket,
    WebSocketClosed,
    WebSocketLimits,
    accept_websocket,
)

from ...support.http_client import GET, echo, knock, open_door
from ...support.websocket_client import CONTINUATION, TEXT, client_frame, open_raw_websocket, text

POST = b"POST / HTTP/1.1\r\nhost: here\r\ncontent-length: 100\r\n\r\n"


# -- connections -----------------------------------------------------------------------------------


@pytest.fixture
def not_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has this machine's own addresses be like any other."""
    monkeypatch.setattr("ccapi.transport.http.front_door._is_loopback", lambda _: False)


async def test_one_address_cannot_have_every_place(not_loopback: None) -> None:
    with structlog.testing.capture_logs() as logs:
        async with (
            open_door(echo, max_connections=10, max_per_address=3) as port,
            AsyncExitStack() as stack,
        ):
            for _ in range(3):
                slow = await stack.enter_async_context(knock(port))
                await slow.send(POST)
            await wait_all_tasks_blocked(0.01)
            async with knock(port) as one_more:
                assert await one_more.ended()
            other = await trio.open_tcp_stream("127.0.0.1", port, local_address="127.0.0.2")
            async with other:
                await other.send_all(GET)
                assert (await other.receive_some()).startswith(b"HTTP/1.1 200")
    assert [each["event"] for each in logs] == ["too_many_connections"]


async def test_an_idle_connection_makes_way_for_one_of_its_address(not_loopback: None) -> None:
    async with (
        open_door(echo, max_connections=10, max_per_address=2) as port,
        knock(port) as idle,
        knock(port) as busy,
    ):
        await idle.send(GET)
        assert (await idle.response()).status == 200
        await busy.send(POST)
        await wait_all_tasks_blocked(0.01)
        async with knock(port) as fresh:
            await fresh.send(GET)
            assert (await fresh.response()).status == 200
            assert await idle.ended()
        await busy.send(bytes(100))
        assert (await busy.response()).status == 200


async def test_a_place_is_free_again_after_its_connection(not_loopback: None) -> None:
    async with open_door(echo, max_connections=10, max_per_address=1) as port:
        for _ in range(3):
            async with knock(port) as client:
                await client.send(GET)
                assert (await client.response()).status == 200


async def test_this_machine_leaves_a_tenth_to_others() -> None:
    """A reverse proxy here brings all clients' connections from one address."""
    async with (
        open_door(echo, max_connections=10, max_per_address=1) as port,
        AsyncExitStack() as stack,
    ):
        for _ in range(9):
            await (await stack.enter_async_context(knock(port))).send(POST)
        await wait_all_tasks_blocked(0.01)
        async with knock(port) as one_more:
            assert await one_more.ended()


def test_whose_address_it_is() -> None:
    assert _household(("192.0.2.1", 5)) == "192.0.2.1"
    assert _household(("::ffff:192.0.2.1", 5, 0, 0)) == "192.0.2.1"
    assert _household(("2001:db8:1:2:3:4:5:6", 5, 0, 0)) == "2001:db8:1:2::"
    assert _household(("2001:db8:1:2::9", 5, 0, 0)) == "2001:db8:1:2::"
    assert _household(("fe80::1%eth0", 5, 0, 2)) == "fe80::"
    assert _household(("::1", 5, 0, 0)) == "::1"
    assert _household("") == ""


# -- messages --------------------------------------------------------------------------------------


class Listener:
    """Receives when the test says so; what a message holds of the room is kept or not."""

    def __init__(self, bodies: Bodies, *, keeps: bool = False) -> None:
        self.bodies = bodies
        self.keeps = keeps
        self.kept: list[Share | None] = []
        self.go_on = trio.Event()

    async def __call__(self, request: trio_websocket.WebSocketRequest, peer: Peer) -> None:
        websocket = await accept_websocket(request, bodies=self.bodies)
        try:
            await self._listen(websocket)
        finally:
            websocket.release()

    async def _listen(self, websocket: WebSocket) -> None:
        while True:
            message = await websocket.receive()
            assert websocket.length == len(message)
            if self.keeps:
                self.kept.append(websocket.take_share())
            await websocket.send(b"%d" % len(message))
            await self.go_on.wait()


async def test_a_long_message_holds_room_until_the_next_is_received() -> None:
    listener = Listener(Bodies(64 * LONG))
    async with open_door(echo, listener) as port, open_raw_websocket(port) as client:
        await client.send(text(b"x" * 100))
        assert await client.message() == "100"
        assert listener.bodies.taken == 0  # what is short is not counted
        listener.go_on.set()
        await client.send(text(b"x" * 3 * LONG))
        assert await client.message() == str(3 * LONG)
        await wait_all_tasks_blocked(0.01)
        assert listener.bodies.taken == 0
        listener.go_on = trio.Event()
        await client.send(text(b"x" * 3 * LONG))
        await client.message()
        assert listener.bodies.taken >= 3 * LONG
        await client.send(client_frame(TEXT, b"x" * 2 * LONG, fin=False))
        await client.send(client_frame(CONTINUATION, b"x", fin=False))
        await wait_all_tasks_blocked(0.01)
        assert listener.bodies.taken >= 5 * LONG
    assert listener.bodies.taken == 0


async def test_the_room_of_a_message_can_be_taken_over() -> None:
    listener = Listener(Bodies(64 * LONG), keeps=True)
    listener.go_on.set()
    async with open_door(echo, listener) as port, open_raw_websocket(port) as client:
        for _ in range(2):
            await client.send(text(b"x" * 3 * LONG))
            await client.message()
    assert listener.bodies.taken >= 6 * LONG
    for share in listener.kept:
        assert share is not None
        share.close()
    assert listener.bodies.taken == 0


async def test_a_message_without_room_ends_its_connection_for_now() -> None:
    bodies = Bodies(8 * LONG, patience_seconds=0.05)
    async with open_door(echo, Listener(bodies)) as port, open_raw_websocket(port) as client:
        with bodies.share() as others:
            await others.grow_to(6 * LONG)
            await client.send(text(b"x" * 3 * LONG))
            assert await client.close_code() == 1013
    assert bodies.taken == 0


async def test_the_rest_of_a_message_must_come_in_time() -> None:
    limits = WebSocketLimits(stall_seconds=0.2, min_bytes_per_second=1000.0)
    async with open_door(echo, Listener(Bodies(LONG)), websocket=limits) as port:
        async with open_raw_websocket(port) as client:
            await client.send(client_frame(TEXT, b"begun", fin=False))
            assert await client.close_code() == 1008
        async with open_raw_websocket(port) as client:  # byte by byte does not help
            await client.send(client_frame(TEXT, b"b", fin=False))
            begun = trio.current_time()
            with pytest.raises(trio.BrokenResourceError):
                while trio.current_time() < begun + 10:
                    await trio.sleep(0.02)
                    await client.send(client_frame(CONTINUATION, b"b", fin=False))
            assert trio.current_time() < begun + 8
        async with open_raw_websocket(port) as client:  # silence between messages is no error
            await client.send(text(b"one"))
            assert await client.message() == "3"
            await trio.sleep(0.4)
            assert client.stream is not None
            await client.send(client_frame(0x9))
            assert (await client.frame()).opcode == 0xA


async def test_a_message_may_hold_more_room_than_its_length() -> None:
    bodies = Bodies(64 * LONG, patience_seconds=0.05)
    held = trio.Event()

    async def listen(request: trio_websocket.WebSocketRequest, peer: Peer) -> None:
        websocket = await accept_websocket(request, bodies=bodies)
        try:
            await websocket.receive()
            await websocket.hold(LONG - 1)  # so little is not counted
            assert bodies.taken == 0
            await websocket.hold(5 * LONG)
            assert bodies.taken == 5 * LONG
            with bodies.share() as others:
                await others.grow_to(40 * LONG)
                with pytest.raises(Overloaded):
                    await websocket.hold(60 * LONG)
            held.set()
            await websocket.receive()
        except WebSocketClosed:
            websocket.release()

    async with open_door(echo, listen) as port, open_raw_websocket(port) as client:
        await client.send(text(b"short"))
        with trio.fail_after(10):
            await held.wait()
        await wait_all_tasks_blocked(0.01)
        assert bodies.taken == 0, "it waits for the next"


@pytest.mark.parametrize("tail", [b"", b"\x00", b"\xff", b"\xc3"])
async def test_a_long_message_is_whole_however_it_comes(tail: bytes) -> None:
    """What a thread has parsed is neither lost nor read twice, and bad UTF-8 is found."""
    listener = Listener(Bodies(4096 * LONG))
    listener.go_on.set()
    message = "hé€\U0001f600".encode() * 200_000 + tail
    async with open_door(echo, listener) as port, open_raw_websocket(port) as client:
        for _ in range(3):
            await client.send(text(message))
            if tail in (b"\xff", b"\xc3"):
                assert await client.close_code() == 1007
                break
            assert await client.message() == str(len(message))
            await client.send(client_frame(0x9, b"there?"))
            assert (await client.frame()).opcode == 0xA
    assert listener.bodies.taken == 0
