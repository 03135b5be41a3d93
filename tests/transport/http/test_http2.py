"""HTTP/2 at the front door: prior knowledge and ALPN, and the clients that make it hard."""

from __future__ import annotations

import random
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, TypeVar

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.settings
import orjson
import pytest
import structlog
import trio
import trio.lowlevel
import trustme
from starlette.types import Message, Receive, Scope, Send
from trio.testing import wait_all_tasks_blocked

from ccapi.transport.http.protocols import Http2, HttpLimits, Peer, ProtocolContext

from ...support.http_client import Streamer, echo, knock, open_door, read_body, respond

E = TypeVar("E", bound=h2.events.Event)


class Client:
    """A minimal HTTP/2 client that opens flow-control windows only when told to."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.h2 = h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=True, header_encoding="utf-8")
        )
        self._events: list[h2.events.Event] = []

    async def flush(self) -> None:
        if data := self.h2.data_to_send():
            await self.stream.send_all(data)

    async def ask(self, path: str = "/", method: str = "GET", *, end: bool = True) -> int:
        stream_id = self.h2.get_next_available_stream_id()
        headers = [(":method", method), (":authority", "here")]
        if method != "CONNECT":
            headers += [(":scheme", "http"), (":path", path)]
        self.h2.send_headers(stream_id, headers, end_stream=end)
        await self.flush()
        return stream_id

    async def next_event(self, stream_id: int | None = None) -> h2.events.Event:
        """The next event, or the next one of a stream, with those of others left for later."""
        while True:
            for event in self._events:
                if stream_id in {None, getattr(event, "stream_id", None)}:
                    self._events.remove(event)
                    return event
            data = await self.stream.receive_some()
            if not data:
                raise EOFError
            self._events += self.h2.receive_data(data)
            await self.flush()

    async def wait_for(self, kind: type[E], stream_id: int | None = None) -> E:
        while True:
            event = await self.next_event(stream_id)
            if isinstance(event, kind):
                return event

    async def drain_window(self, stream_id: int) -> None:
        """Reads all that the server may send without another word."""
        received = 0
        while received < 65_535:
            received += len((await self.wait_for(h2.events.DataReceived, stream_id)).data)

    async def response(self, stream_id: int) -> tuple[int, bytes]:
        """Status and body; opens the window as it reads. A reset raises ConnectionResetError."""
        status, body = 0, b""
        while True:
            match await self.next_event(stream_id):
                case h2.events.ResponseReceived(headers=headers):
                    status = int({str(name): value for name, value in headers}[":status"])
                case h2.events.DataReceived() as event:
                    self.h2.acknowledge_received_data(event.flow_controlled_length, stream_id)
                    await self.flush()
                    body += event.data
                case h2.events.StreamReset(error_code=code):
                    raise ConnectionResetError(code)
                case h2.events.StreamEnded():
                    return status, body


@asynccontextmanager
async def greet(port: int, tls: ssl.SSLContext | None = None) -> AsyncIterator[Client]:
    async with knock(port, tls) as raw:
        client = Client(raw.stream)
        client.h2.initiate_connection()
        await client.flush()
        yield client


async def test_prior_knowledge() -> None:
    async with open_door(echo) as port, greet(port) as client:
        first = await client.ask("/first", "POST", end=False)
        second = await client.ask("/second")
        client.h2.send_data(first, b"hello", end_stream=True)
        await client.flush()
        for stream_id, path, body in [(second, "/second", ""), (first, "/first", "hello")]:
            status, answer = await client.response(stream_id)
            assert status == 200
            said = orjson.loads(answer)
            assert (said["path"], said["body"]) == (path, body)
            assert said["http_version"] == "2"


async def test_over_tls_by_alpn() -> None:
    authority = trustme.CA()
    server_tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(server_tls)
    client_tls = ssl.create_default_context()
    authority.configure_trust(client_tls)
    client_tls.set_alpn_protocols(["h2", "http/1.1"])
    async with open_door(echo, ssl_context=server_tls) as port, greet(port, client_tls) as client:
        status, answer = await client.response(await client.ask("/x"))
        assert (status, orjson.loads(answer)["scheme"]) == (200, "https")


async def test_the_preface_in_single_bytes() -> None:
    async with open_door(echo) as port, knock(port) as raw:
        client = Client(raw.stream)
        client.h2.initiate_connection()
        for byte in client.h2.data_to_send():
            await raw.send(bytes([byte]))
            await trio.lowlevel.checkpoint()
        assert (await client.response(await client.ask()))[0] == 200


async def test_a_large_response_arrives_whole() -> None:
    body = bytes(range(256)) * 4000

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for start in range(0, len(body), 50_000):
            piece = body[start : start + 50_000]
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async with open_door(app) as port, greet(port) as client:
        assert await client.response(await client.ask()) == (200, body)


async def test_a_large_upload_arrives_whole() -> None:
    async with open_door(echo) as port, greet(port) as client:
        stream_id = await client.ask(method="POST", end=False)
        sent = 0
        while sent < 300_000:
            if window := min(client.h2.local_flow_control_window(stream_id), 10_000):
                client.h2.send_data(stream_id, b"x" * window)
                await client.flush()
                sent += window
            else:
                await client.next_event()
        client.h2.end_stream(stream_id)
        await client.flush()
        _, answer = await client.response(stream_id)
        assert len(orjson.loads(answer)["body"]) == sent


async def test_websockets_are_sent_to_http1() -> None:
    async with open_door(echo) as port, greet(port) as client:
        stream_id = await client.ask(method="CONNECT", end=False)
        reset = await client.wait_for(h2.events.StreamReset, stream_id)
        assert reset.error_code == h2.errors.ErrorCodes.HTTP_1_1_REQUIRED
        settings = client.h2.remote_settings
        assert not settings.get(h2.settings.SettingCodes.ENABLE_CONNECT_PROTOCOL)
        assert settings.max_concurrent_streams == 100
        assert (await client.response(await client.ask()))[0] == 200


async def test_a_path_that_is_no_text_ends_its_stream_alone() -> None:
    async with open_door(echo) as port, greet(port) as client:
        with pytest.raises(ConnectionResetError):
            await client.response(await client.ask("/\xe9"))
        assert (await client.response(await client.ask()))[0] == 200


async def test_a_refused_upload_does_not_end_the_connection() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await respond(send, "no", status=413)

    async with open_door(app) as port, greet(port) as client:
        for _ in range(5):  # over the connection's window, if what is dropped were not counted
            stream_id = await client.ask(method="POST", end=False)
            client.h2.send_data(stream_id, bytes(16_000))
            await client.flush()
            assert (await client.response(stream_id))[0] == 413
            reset = await client.wait_for(h2.events.StreamReset, stream_id)
            assert reset.error_code == h2.errors.ErrorCodes.NO_ERROR


async def test_a_failing_application_is_a_500_or_a_reset() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/late":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"part", "more_body": True})
        raise ValueError("inside")

    with structlog.testing.capture_logs() as logs:
        async with open_door(app) as port, greet(port) as client:
            status, body = await client.response(await client.ask("/early"))
            assert (status, orjson.loads(body)["error"]["code"]) == (500, "internal_error")
            with pytest.raises(ConnectionResetError):
                await client.response(await client.ask("/late"))
            assert (await client.response(await client.ask("/early")))[0] == 500
    assert [entry["event"] for entry in logs] == ["app_failed"] * 3


async def test_an_upload_that_stops_coming_is_timed_out() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if await read_body(receive) is not None:
            await respond(send, "read")

    async with open_door(app, stall_seconds=0.2) as port, greet(port) as client:
        stream_id = await client.ask(method="POST", end=False)
        status, body = await client.response(stream_id)
        assert (status, orjson.loads(body)["error"]["code"]) == (408, "request_timeout")
        assert (await client.response(await client.ask()))[0] == 200


@pytest.mark.parametrize("chunk", [100, 100_000])
async def test_an_application_learns_that_its_stream_was_reset(chunk: int) -> None:
    app = Streamer(b"x" * chunk, pause=0.001)
    async with open_door(app, keep_alive_seconds=0.2) as port, greet(port) as client:
        stream_id = await client.ask()
        await client.wait_for(h2.events.DataReceived, stream_id)
        client.h2.reset_stream(stream_id)
        await client.flush()
        await app.told.wait()
        with pytest.raises(EOFError):  # the connection is idle again, and ends as such
            while True:
                await client.next_event()


@pytest.mark.parametrize("chunk", [100, 100_000])
async def test_an_application_learns_that_its_client_hung_up(chunk: int) -> None:
    app = Streamer(b"x" * chunk, pause=0.001)
    async with open_door(app) as port:
        async with greet(port) as client:
            await client.wait_for(h2.events.DataReceived, await client.ask())
        await app.told.wait()
        await app.ended.wait()


@pytest.mark.parametrize("last", [False, True], ids=["in-between", "last"])
async def test_no_task_waits_for_a_client_that_hung_up(last: bool) -> None:
    went_on = trio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        body = {"type": "http.response.body", "body": bytes(1_000_000), "more_body": not last}
        await send(body)
        went_on.set()

    with structlog.testing.capture_logs():
        async with open_door(app) as port:
            async with greet(port) as client:
                await client.drain_window(await client.ask())
            with trio.fail_after(10):
                await went_on.wait()


@pytest.mark.parametrize("chunk", [1_000, 1_000_000])
async def test_a_client_that_opens_no_window_is_given_up_alone(chunk: int) -> None:
    app = Streamer(b"x" * chunk)

    async def either(scope: Scope, receive: Receive, send: Send) -> None:
        await (echo if scope["path"] == "/echo" else app)(scope, receive, send)

    async with open_door(either, stall_seconds=0.3) as port, greet(port) as client:
        stalled = await client.ask("/stream")
        reset = await client.wait_for(h2.events.StreamReset, stalled)
        assert reset.error_code == h2.errors.ErrorCodes.CANCEL
        await app.ended.wait()
        client.h2.increment_flow_control_window(1_000_000)
        assert (await client.response(await client.ask("/echo")))[0] == 200


async def test_a_window_that_is_shut_stops_the_application() -> None:
    sent = 0

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal sent
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while True:
            await send({"type": "http.response.body", "body": bytes(10_000), "more_body": True})
            sent += 10_000

    async with open_door(app) as port, greet(port) as client:
        stream_id = await client.ask()
        await client.drain_window(stream_id)
        for _ in range(20):  # each makes hypercorn try again
            client.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 65_535})
            client.h2.ping(bytes(8))
            await client.flush()
            await client.wait_for(h2.events.PingAckReceived)
        assert sent < 65_535 + 60_000


async def test_a_client_that_abandons_requests_is_sent_away() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await trio.sleep_forever()  # pays no attention to the hang-up

    with structlog.testing.capture_logs() as logs:
        async with open_door(app, max_streams=10) as port, greet(port) as client:
            with pytest.raises((EOFError, trio.BrokenResourceError)):
                for _ in range(1000):
                    stream_id = await client.ask()
                    client.h2.reset_stream(stream_id)
                    await client.flush()
                while True:
                    await client.next_event()
    assert logs == []


async def test_what_is_not_http2_after_the_preface_ends_the_connection() -> None:
    with structlog.testing.capture_logs() as logs:
        async with open_door(echo) as port, greet(port) as client:
            await client.stream.send_all(b"GET / HTTP/1.1\r\nhost: here\r\n\r\n" * 1000)
            goodbye = await client.wait_for(h2.events.ConnectionTerminated)
            assert goodbye.error_code == h2.errors.ErrorCodes.FRAME_SIZE_ERROR
            with pytest.raises(EOFError):
                await client.next_event()
    assert logs == []


async def test_an_idle_connection_ends_with_a_goodbye() -> None:
    async with open_door(echo, keep_alive_seconds=0.1) as port, greet(port) as client:
        assert (await client.response(await client.ask()))[0] == 200
        goodbye = await client.wait_for(h2.events.ConnectionTerminated)
        assert goodbye.error_code == h2.errors.ErrorCodes.NO_ERROR


async def test_clients_that_never_read_do_not_hold_up_cancellation() -> None:
    app = Streamer(b"x" * 1_000)
    async with AsyncExitStack() as clients:
        with trio.fail_after(10):
            async with open_door(app) as port:
                client = await clients.enter_async_context(greet(port))
                client.h2.increment_flow_control_window(2**30)
                for _ in range(3):
                    client.h2.increment_flow_control_window(2**30, await client.ask())
                await client.flush()
                await app.streaming.wait()
                await wait_all_tasks_blocked()
        assert app.ended.is_set()


async def test_nor_do_they_in_the_middle_of_a_head() -> None:
    heads = [(b"x-%d" % number, random.randbytes(20_000).hex().encode()) for number in range(10)]
    sending = trio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        sending.set()
        await send({"type": "http.response.start", "status": 200, "headers": heads})

    async with AsyncExitStack() as clients:
        with trio.fail_after(10):
            async with open_door(app) as port:
                client = await clients.enter_async_context(greet(port))
                await client.ask()
                await sending.wait()
                await wait_all_tasks_blocked()


class BlockedDoor:
    """A connection with a gate that keeps back what the protocol writes."""

    peer = Peer(client=None, server=None, tls=False)
    corked: list[bytes] | None = None

    def __init__(self, nursery: trio.Nursery) -> None:
        self.gate = trio.Event()
        self.gate.set()
        self.sent = b""
        self.answer: Callable[[Message | None], Awaitable[None]] | None = None
        self._nursery = nursery

    async def write(self, data: bytes) -> None:
        await self.gate.wait()
        self.sent += data

    async def flush(self) -> None:
        pass

    def note_idle(self, idle: bool) -> None:
        pass

    def finish(self) -> None:
        pass

    def spawn(self, function: Callable[..., Awaitable[object]], *args: object) -> None:
        self._nursery.start_soon(function, *args)

    def start_request(self, scope: Scope, send: Any) -> Callable[[Message], Awaitable[None]]:
        async def put(message: Message) -> None:
            pass

        self.answer = send
        return put


async def test_input_that_overtakes_the_end_of_its_response_is_counted_and_dropped() -> None:
    """It comes between the application's last word and the moment this word is sent."""
    client = h2.connection.H2Connection()
    client.initiate_connection()
    client.send_headers(
        1,
        [(":method", "POST"), (":authority", "a"), (":scheme", "http"), (":path", "/")],
    )
    async with trio.open_nursery() as nursery:
        door = BlockedDoor(nursery)
        protocol = Http2(ProtocolContext(HttpLimits()), door)
        await protocol.begin()
        await protocol.receive(client.data_to_send())
        assert door.answer is not None
        await door.answer({"type": "http.response.start", "status": 413, "headers": []})
        client.receive_data(door.sent)
        door.gate = trio.Event()
        door.sent = b""
        nursery.start_soon(door.answer, {"type": "http.response.body", "body": b"no"})
        await wait_all_tasks_blocked()
        for _ in range(3):
            client.send_data(1, bytes(16_384))
        nursery.start_soon(protocol.receive, client.data_to_send())
        await wait_all_tasks_blocked()
        door.gate.set()
        await wait_all_tasks_blocked()
        before = client.outbound_flow_control_window
        events = client.receive_data(door.sent)
        assert any(isinstance(event, h2.events.StreamEnded) for event in events)
        assert client.outbound_flow_control_window > before
        await protocol.end()
