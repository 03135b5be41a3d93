"""The port itself: listening, accepting, TLS, WebSocket, and how it all ends."""

from __future__ import annotations

import errno
import logging
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

import httpx
import orjson
import pytest
import structlog
import trio
import trustme
from starlette.types import ASGIApp, Receive, Scope, Send
from trio.testing import wait_all_tasks_blocked
from trio_websocket import (
    ConnectionClosed,
    WebSocketConnection,
    WebSocketRequest,
    open_websocket_url,
    wrap_client_stream,
)

from ccapi.schemas.errors import Overloaded
from ccapi.transport.http.front_door import (
    FrontDoorLimits,
    ListenError,
    Peer,
    Tunnel,
    open_listeners,
    reject_websocket,
    serve_connections,
    tls_context,
)
from ccapi.transport.http.guarded_stream import ReplayStream
from ccapi.transport.http.websocket import WebSocketLimits

from ...support.http_client import (
    GET,
    Streamer,
    echo,
    knock,
    no_websockets,
    open_door,
    read_body,
    respond,
)

HANDSHAKE = (
    b"GET /ws HTTP/1.1\r\nhost: here\r\nconnection: Upgrade\r\nupgrade: websocket\r\n"
    b"sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def server_tls(authority: trustme.CA) -> ssl.SSLContext:
    certificate = authority.issue_cert("127.0.0.1")
    with (
        certificate.cert_chain_pems[0].tempfile() as cert_file,
        certificate.private_key_pem.tempfile() as key_file,
    ):
        return tls_context(cert_file, key_file)


@pytest.fixture
def client_tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


async def shout(request: WebSocketRequest, peer: Peer) -> None:
    async with await request.accept() as connection:
        await connection.send_message(f"{request.path} tls={peer.tls} {peer.client}")
        while True:
            message = await connection.get_message()
            assert isinstance(message, bytes | bytearray)
            await connection.send_message(bytes(message).decode().upper())


@asynccontextmanager
async def open_websocket(port: int) -> AsyncIterator[WebSocketConnection]:
    """trio-websocket's own `open_websocket` leaves its socket open when the server just ends."""
    async with knock(port) as client, trio.open_nursery() as nursery:
        assert isinstance(client.stream, trio.SocketStream)
        yield await wrap_client_stream(nursery, client.stream, "127.0.0.1", "/")
        nursery.cancel_scope.cancel()


# -- listening -----------------------------------------------------------------------------------


async def test_a_port_in_use_is_said_plainly() -> None:
    (listener,) = await open_listeners("127.0.0.1", 0)
    async with listener:
        port = listener.socket.getsockname()[1]
        with pytest.raises(ListenError, match=f"port {port}: another program listens there"):
            await open_listeners("127.0.0.1", port)


async def test_an_address_of_another_machine_is_said_plainly() -> None:
    with pytest.raises(ListenError, match="no such address"):
        await open_listeners("192.0.2.1", 0)


async def test_a_host_that_is_no_address_is_said_plainly() -> None:
    with pytest.raises(ListenError, match="no such host"):
        await open_listeners("999.999.999.999.invalid.", 0)


# -- accepting -----------------------------------------------------------------------------------


class FailingListener(trio.abc.Listener[trio.SocketStream]):
    """Has no free descriptor, twice."""

    def __init__(self, listener: trio.SocketListener) -> None:
        self._listener = listener
        self.failures = 2

    async def accept(self) -> trio.SocketStream:
        if self.failures:
            self.failures -= 1
            raise OSError(errno.EMFILE, "too many open files")
        return await self._listener.accept()

    async def aclose(self) -> None:
        await self._listener.aclose()


async def test_running_out_of_descriptors_does_not_end_the_server(
    caplog: pytest.LogCaptureFixture,
) -> None:
    (listener,) = await open_listeners("127.0.0.1", 0)
    failing = FailingListener(listener)
    async with trio.open_nursery() as nursery:
        with caplog.at_level(logging.CRITICAL, "trio.serve_listeners"):
            limits = FrontDoorLimits(max_connections=1)  # a failed accept must keep no slot
            await nursery.start(serve_connections, [failing], echo, no_websockets, limits)
            async with knock(listener.socket.getsockname()[1]) as client:
                await client.send(GET)
                assert (await client.response()).status == 200
        assert failing.failures == 0
        nursery.cancel_scope.cancel()


async def test_connections_over_the_limit_wait_for_a_slot() -> None:
    async with open_door(echo, max_connections=1) as port, knock(port) as waiting:
        async with knock(port) as first:
            # The kernel accepts in order: the slot is that of `waiting`.
            await first.send(GET)
            await waiting.send(GET)
            assert (await waiting.response()).status == 200
            with trio.move_on_after(0.1) as patience:
                await first.response()
            assert patience.cancelled_caught
            await waiting.stream.aclose()
            assert (await first.response()).status == 200


async def test_a_slot_is_free_again_after_its_connection() -> None:
    async with open_door(echo, max_connections=1) as port:
        for _ in range(3):
            async with knock(port) as client:
                await client.send(GET)
                assert (await client.response()).status == 200


async def test_a_bug_in_one_connection_leaves_the_others_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def fail(*args: object) -> None:
        raise RuntimeError("a bug below the application")

    with structlog.testing.capture_logs() as logs:
        async with open_door(echo) as port, knock(port) as sibling:
            await sibling.send(GET)
            assert (await sibling.response()).status == 200
            with monkeypatch.context() as patch:
                patch.setattr("ccapi.transport.http.connection.HttpConnection.serve", fail)
                async with knock(port) as client:
                    assert await client.ended()
            await sibling.send(GET)
            assert (await sibling.response()).status == 200
    assert [entry["event"] for entry in logs] == ["connection_failed"]


# -- TLS -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("http2", [False, True], ids=["http1", "http2"])
async def test_requests_over_tls(
    server_tls: ssl.SSLContext, client_tls: ssl.SSLContext, http2: bool
) -> None:
    if http2:
        client_tls.set_alpn_protocols(["h2"])
    async with open_door(echo, ssl_context=server_tls) as port:
        async with knock(port, client_tls) as client:
            assert isinstance(client.stream, trio.SSLStream)
            await client.stream.do_handshake()
            assert client.stream.selected_alpn_protocol() == ("h2" if http2 else None)
            if http2:
                return  # test_http2.py goes on from here
            await client.send(GET)
            response = await client.response()
            assert orjson.loads(response.body)["scheme"] == "https"
            await client.send(b"nonsense\r\n\r\n")
            assert (await client.response()).error["code"] == "invalid_http"


async def test_httpx_over_tls(server_tls: ssl.SSLContext, client_tls: ssl.SSLContext) -> None:
    async with open_door(echo, ssl_context=server_tls) as port:
        async with httpx.AsyncClient(verify=client_tls, trust_env=False) as client:
            for _ in range(2):
                answer = await client.post(f"https://127.0.0.1:{port}/p", content="x" * 200_000)
                assert len(answer.json()["body"]) == 200_000


async def test_a_handshake_that_does_not_come_is_timed_out(server_tls: ssl.SSLContext) -> None:
    door = open_door(echo, ssl_context=server_tls, head_timeout_seconds=0.1)
    async with door as port, knock(port) as client:
        assert await client.ended()


async def test_a_plain_request_to_a_tls_port_ends_quietly(server_tls: ssl.SSLContext) -> None:
    with structlog.testing.capture_logs() as logs:
        async with open_door(echo, ssl_context=server_tls) as port, knock(port) as client:
            await client.send(GET)
            while await client.stream.receive_some():
                pass  # a TLS alert
    assert logs == []


async def test_a_tls_client_that_stops_reading_is_given_up(
    server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    app = Streamer()
    door = open_door(app, ssl_context=server_tls, stall_seconds=0.3)
    async with door as port, knock(port, client_tls) as client:
        await client.send(GET)
        await app.told.wait()
        await trio.aclose_forcefully(client.stream)


# -- WebSocket -----------------------------------------------------------------------------------


async def test_a_websocket_on_the_same_port() -> None:
    async with open_door(echo, shout) as port, knock(port) as client:
        async with open_websocket_url(f"ws://127.0.0.1:{port}/ws?x=1") as websocket:
            greeting = str(await websocket.get_message())
            assert greeting.startswith("/ws?x=1 tls=False ('127.0.0.1', ")
            await websocket.send_message("hello")
            assert await websocket.get_message() == "HELLO"
        await client.send(GET)
        assert (await client.response()).status == 200


async def test_a_websocket_over_tls(server_tls: ssl.SSLContext, client_tls: ssl.SSLContext) -> None:
    async with open_door(echo, shout, ssl_context=server_tls) as port:
        async with open_websocket_url(
            f"wss://127.0.0.1:{port}/ws", ssl_context=client_tls
        ) as websocket:
            assert "tls=True" in await websocket.get_message()
            await websocket.send_message("x" * 100_000)
            assert await websocket.get_message() == "X" * 100_000


async def test_a_websocket_as_a_later_request() -> None:
    async with open_door(echo, shout) as port, knock(port) as client:
        await client.send(GET)
        assert (await client.response()).status == 200
        await client.send(HANDSHAKE)
        received = b""
        while b"tls=False" not in received:
            received += await client.stream.receive_some()
        assert received.startswith(b"HTTP/1.1 101 ")
        await client.send(b"\x81\x82\x00\x00\x00\x00hi")  # a masked text frame
        received = b""
        while not received.endswith(b"\x81\x02HI"):
            received += await client.stream.receive_some()


async def test_a_rejected_websocket_gets_the_envelope() -> None:
    async def reject(request: WebSocketRequest, peer: Peer) -> None:
        await reject_websocket(request, Overloaded("Not now.", code="draining", retry_after=2))

    async with open_door(echo, reject) as port, knock(port) as client:
        await client.send(HANDSHAKE)
        response = await client.response()
        assert (response.status, response.error["code"]) == (503, "draining")
        assert response.headers["retry-after"] == "2"
        assert response.headers["connection"] == "close"
        assert await client.ended()


@pytest.mark.parametrize(
    ("old", "new", "status", "code"),
    [
        (b"version: 13", b"version: 8", 426, "unsupported_websocket_version"),
        (b"sec-websocket-version: 13\r\n", b"", 400, "invalid_handshake"),
        (b"sec-websocket-key", b"some-key", 400, "invalid_handshake"),
        (b"connection: Upgrade\r\n", b"", 400, "invalid_handshake"),
        (b"host: here", b"host: h\xff", 400, "invalid_handshake"),
        (b"host: here", b"host: here\r\nsec-websocket-protocol: \xff", 400, "invalid_handshake"),
        (b"host: here", b"host: here\r\ncontent-length: 3", 400, "invalid_handshake"),
    ],
)
async def test_a_broken_handshake_gets_the_envelope(
    old: bytes, new: bytes, status: int, code: str
) -> None:
    async with open_door(echo, shout) as port, knock(port) as client:
        await client.send(HANDSHAKE.replace(old, new))
        response = await client.response()
        assert (response.status, response.error["code"]) == (status, code)
        assert status != 426 or response.headers["sec-websocket-version"] == "13"
        assert await client.ended()


@pytest.mark.parametrize("fails", [False, True], ids=["returns", "raises"])
async def test_a_handler_that_does_not_answer_is_a_500(fails: bool) -> None:
    async def handler(request: WebSocketRequest, peer: Peer) -> None:
        if fails:
            raise ValueError("inside")

    with structlog.testing.capture_logs() as logs:
        async with open_door(echo, handler) as port, knock(port) as client:
            await client.send(HANDSHAKE)
            response = await client.response()
            assert (response.status, response.error["code"]) == (500, "internal_error")
            assert await client.ended()
    assert [entry["event"] for entry in logs] == ["websocket_failed"]


async def test_a_handler_that_fails_later_ends_its_websocket_alone() -> None:
    async def handler(request: WebSocketRequest, peer: Peer) -> None:
        connection = await request.accept()
        if await connection.get_message() == b"fail":
            raise ValueError("inside")
        await connection.send_message("still here")

    with structlog.testing.capture_logs() as logs:
        async with open_door(echo, handler) as port:
            async with open_websocket(port) as sibling, open_websocket(port) as failing:
                await failing.send_message("fail")
                with pytest.raises(ConnectionClosed):
                    await failing.get_message()
                await sibling.send_message("well?")
                assert await sibling.get_message() == "still here"
    assert [entry["event"] for entry in logs] == ["websocket_failed"]


async def test_a_websocket_client_that_stops_reading_is_given_up() -> None:
    gave_up = trio.Event()

    async def flood(request: WebSocketRequest, peer: Peer) -> None:
        connection = await request.accept()
        try:
            while True:
                await connection.send_message("x" * 65536)
        except ConnectionClosed:
            gave_up.set()
            raise

    with structlog.testing.capture_logs() as logs:
        async with open_door(echo, flood, stall_seconds=0.3) as port, knock(port) as client:
            await client.send(HANDSHAKE)
            await gave_up.wait()
    assert logs == []


async def test_a_websocket_message_over_the_limit_ends_it() -> None:
    async with open_door(echo, shout, websocket=WebSocketLimits(max_message_bytes=1000)) as port:
        async with open_websocket(port) as websocket:
            await websocket.get_message()
            await websocket.send_message("x" * 1001)
            with pytest.raises(ConnectionClosed) as caught:
                await websocket.get_message()
            assert caught.value.reason is not None
            assert caught.value.reason.code == 1009


# -- the end -------------------------------------------------------------------------------------


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
async def test_clients_that_never_read_do_not_hold_up_cancellation(
    server_tls: ssl.SSLContext, client_tls: ssl.SSLContext, tls: bool
) -> None:
    app = Streamer()
    flooding = trio.Event()

    async def flood(request: WebSocketRequest, peer: Peer) -> None:
        connection = await request.accept()
        while True:
            await connection.send_message("x" * 65536)
            flooding.set()

    async with AsyncExitStack() as clients:
        with trio.fail_after(10):
            async with open_door(app, flood, ssl_context=server_tls if tls else None) as port:
                for request in (GET, HANDSHAKE):
                    knocking = knock(port, client_tls if tls else None)
                    client = await clients.enter_async_context(knocking)
                    await client.send(request)
                    clients.push_async_callback(trio.aclose_forcefully, client.stream)
                await app.streaming.wait()
                await flooding.wait()
                await wait_all_tasks_blocked()
        assert app.ended.is_set()


class Stopping:
    """A front door that is asked to stop."""

    def __init__(self, app: ASGIApp, **limits: Any) -> None:
        self.stop = trio.Event()
        self.ended = trio.Event()
        self.port = 0
        self._app = app
        self._limits = limits

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        (listener,) = await open_listeners("127.0.0.1", 0)
        self.port = listener.socket.getsockname()[1]
        await serve_connections(
            [listener],
            self._app,
            shout,
            FrontDoorLimits(**self._limits),
            stop=self.stop,
            task_status=task_status,
        )
        self.ended.set()


async def test_stopping_lets_a_response_end_and_closes_idle_connections() -> None:
    asked, go_on = trio.Event(), trio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await read_body(receive)
        if scope["path"] == "/slow":
            asked.set()
            await go_on.wait()
        await respond(send, "done")

    door = Stopping(app)
    async with trio.open_nursery() as nursery:
        await nursery.start(door.run)
        async with knock(door.port) as busy, knock(door.port) as idle, knock(door.port) as new:
            await idle.send(GET)
            assert (await idle.response()).status == 200
            await busy.send(GET.replace(b"/ ", b"/slow "))
            await asked.wait()
            door.stop.set()
            assert await idle.ended()
            assert await new.ended()
            with pytest.raises(OSError, match="failed"):
                await trio.open_tcp_stream("127.0.0.1", door.port)
            assert not door.ended.is_set()
            go_on.set()
            assert (await busy.response()).body == b'"done"'
            assert await busy.ended()
        with trio.fail_after(10):
            await door.ended.wait()


async def test_stopping_does_not_wait_for_ever() -> None:
    app = Streamer()
    door = Stopping(app, graceful_seconds=0.2)
    async with trio.open_nursery() as nursery:
        await nursery.start(door.run)
        async with knock(door.port) as client, knock(door.port) as websocket:
            await client.send(GET)
            await websocket.send(HANDSHAKE)
            await app.streaming.wait()
            door.stop.set()
            with trio.fail_after(10):
                await door.ended.wait()
    assert app.ended.is_set()


async def test_nothing_is_left_open_after_cancellation() -> None:
    (listener,) = await open_listeners("127.0.0.1", 0)
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(serve_connections, [listener], echo, no_websockets))
        async with knock(listener.socket.getsockname()[1]) as client:
            await client.send(GET)
            assert (await client.response()).status == 200
            nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True):
                assert await client.ended()
    assert listener.socket.fileno() == -1


@pytest.mark.parametrize("ends", ["at once", "by itself"])
async def test_what_takes_a_connection_over_is_closed_however_it_ends(ends: str) -> None:
    """Also where the server ends before it is there to serve."""
    happened: list[str] = []

    async def run(stream: ReplayStream) -> None:
        happened.append("run")
        await stream.send_all(b"taken over")

    async def take_over(request: WebSocketRequest, peer: Peer) -> Tunnel:
        if ends == "at once":
            serving.cancel_scope.cancel()
        return Tunnel(run, lambda: happened.append("close"))

    [listener] = await open_listeners("127.0.0.1", 0)
    with trio.fail_after(10):
        async with trio.open_nursery() as serving:
            serving.start_soon(partial(serve_connections, [listener], echo, take_over))
            async with await trio.open_tcp_stream(*listener.socket.getsockname()) as client:
                await client.send_all(HANDSHAKE)
                assert bytes(await client.receive_some()) == b"taken over"
                assert bytes(await client.receive_some()) == b""
            serving.cancel_scope.cancel()
    assert happened == (["close"] if ends == "at once" else ["run", "close"])
