"""HTTP/1.1 at the front door, over real sockets."""

from __future__ import annotations

import json
import socket

import h11
import httpx
import orjson
import pytest
import structlog
import trio
import trio.lowlevel
from starlette.types import Message, Receive, Scope, Send
from trio.testing import wait_all_tasks_blocked

from ...support.http_client import (
    GET,
    RawClient,
    Streamer,
    echo,
    knock,
    open_door,
    read_body,
    respond,
)

POST_HEAD = b"POST /p HTTP/1.1\r\nhost: here\r\ncontent-length: %d\r\n\r\n"


def asked(body: bytes) -> tuple[str, str, str]:
    said = orjson.loads(body)
    return said["method"], said["path"], said["body"]


# -- requests that are fine ----------------------------------------------------------------------


async def test_httpx_keeps_its_connection() -> None:
    async with open_door(echo) as port, httpx.AsyncClient(trust_env=False) as client:
        url = f"http://127.0.0.1:{port}/some/path"
        first = (await client.post(url, content="hello")).json()
        second = (await client.get(url)).json()
    assert (first["method"], first["path"], first["body"]) == ("POST", "/some/path", "hello")
    assert first["http_version"] == "1.1"
    assert first["scheme"] == "http"
    assert first["client"] == second["client"]


@pytest.mark.parametrize("size", [1, 7])
async def test_a_request_may_come_in_any_pieces(size: int) -> None:
    request = POST_HEAD % 5 + b"hello" + GET
    async with open_door(echo) as port, knock(port) as client:
        for start in range(0, len(request), size):
            await client.send(request[start : start + size])
            await trio.lowlevel.checkpoint()
        assert asked((await client.response()).body) == ("POST", "/p", "hello")
        assert asked((await client.response()).body) == ("GET", "/", "")


async def test_pipelined_requests_are_answered_in_order() -> None:
    paths = [f"/{number}" for number in range(20)]
    async with open_door(echo) as port, knock(port) as client:
        await client.send(b"".join(GET.replace(b"/ ", p.encode() + b" ") for p in paths))
        assert [asked((await client.response()).body)[1] for _ in paths] == paths


async def test_a_chunked_body_after_100_continue() -> None:
    head = (
        b"POST / HTTP/1.1\r\nhost: here\r\ntransfer-encoding: chunked\r\n"
        b"expect: 100-continue\r\n\r\n"
    )
    async with open_door(echo) as port, knock(port) as client:
        await client.send(head)
        assert (await client.stream.receive_some()).startswith(b"HTTP/1.1 100 ")
        await client.send(b"5\r\nhello\r\n0\r\n\r\n")
        assert asked((await client.response()).body) == ("POST", "/", "hello")


async def test_no_server_is_named_and_h2c_is_not_offered() -> None:
    upgrade = b"connection: upgrade\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABk\r\n\r\n"
    async with open_door(echo) as port, knock(port) as client:
        await client.send(GET[:-2] + upgrade)
        response = await client.response()
        assert response.status == 200
        assert "server" not in response.headers
        assert "date" in response.headers
        await client.send(GET)
        assert (await client.response()).status == 200


async def test_a_client_that_only_stops_sending_gets_its_response() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await read_body(receive)
        assert (await receive())["type"] == "http.disconnect"
        await respond(send, "late")

    async with open_door(app) as port, knock(port) as client:
        await client.send(GET)
        assert isinstance(client.stream, trio.SocketStream)
        await client.stream.send_eof()
        assert (await client.response()).body == b'"late"'
        assert await client.ended()


# -- requests that are not -----------------------------------------------------------------------

MALFORMED = [
    pytest.param(b"nonsense\r\n\r\n", id="no-request-line"),
    pytest.param(b"GET / HTTP/1.1\r\n\r\n", id="no-host"),
    pytest.param(b"GET / HTTP/9\r\nhost: here\r\n\r\n", id="version"),
    pytest.param(b"GET / HTTP/1.1\r\nhost here\r\n\r\n", id="header-without-colon"),
    pytest.param(b"GET / HTTP/1.1\r\nhost: here\r\n x: y\x00\r\n\r\n", id="nul"),
    pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", id="tls-on-a-plain-port"),
    pytest.param(POST_HEAD.replace(b"%d", b"-1"), id="negative-length"),
    pytest.param(
        b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
        id="two-lengths",
    ),
]


@pytest.mark.parametrize("later", [False, True], ids=["first", "later"])
@pytest.mark.parametrize("request_bytes", MALFORMED)
async def test_a_malformed_head_is_answered_in_the_envelope(
    request_bytes: bytes, later: bool
) -> None:
    async with open_door(echo) as port, knock(port) as client:
        if later:
            await client.send(GET)
            assert (await client.response()).status == 200
        await client.send(request_bytes)
        response = await client.response()
        assert response.status == 400
        assert response.error["code"] == "invalid_http"
        assert response.error["type"] == "invalid_request_error"
        assert response.error["param"] is None
        assert response.headers["connection"] == "close"
        assert await client.ended()


async def test_an_unknown_transfer_encoding_is_not_implemented() -> None:
    async with open_door(echo) as port, knock(port) as client:
        await client.send(
            b"POST / HTTP/1.1\r\nhost: here\r\ntransfer-encoding: gzip\r\n\r\n",
        )
        response = await client.response()
        assert (response.status, response.error["code"]) == (501, "not_implemented")


async def test_a_malformed_body_is_answered_in_the_envelope() -> None:
    chunked = b"POST / HTTP/1.1\r\nhost: here\r\ntransfer-encoding: chunked\r\n\r\n"
    async with open_door(echo) as port, knock(port) as client:
        await client.send(chunked + b"no-number\r\n")
        assert (await client.response()).error["code"] == "invalid_http"
        assert await client.ended()


@pytest.mark.parametrize("later", [False, True], ids=["first", "later"])
@pytest.mark.parametrize("complete", [False, True], ids=["endless", "complete"])
async def test_a_head_over_the_limit_is_refused(complete: bool, later: bool) -> None:
    head = GET[:-2] + b"x-filler: " + b"x" * 5000 + (b"\r\n\r\n" if complete else b"")
    async with open_door(echo, max_header_bytes=4096) as port, knock(port) as client:
        if later:
            await client.send(GET)
            assert (await client.response()).status == 200
        await client.send(head)
        response = await client.response()
        assert (response.status, response.error["code"]) == (431, "headers_too_large")
        assert "4096" in response.error["message"]
        assert await client.ended()


async def test_a_head_at_the_limit_is_served() -> None:
    head = GET[:-2] + b"x-filler: "
    head += b"x" * (4096 - len(head) - 4) + b"\r\n\r\n"
    async with open_door(echo, max_header_bytes=4096) as port, knock(port) as client:
        await client.send(head)
        assert (await client.response()).status == 200


async def test_the_answer_to_a_refused_head_request_has_no_second_response_behind_it() -> None:
    head = b"HEAD / HTTP/1.1\r\nhost: here\r\nx: " + b"x" * 5000 + b"\r\n\r\n"
    async with open_door(echo, max_header_bytes=4096) as port, knock(port) as client:
        await client.send(head)
        assert (await client.response()).status == 431
        assert await client.ended()


# -- clients that take their time ----------------------------------------------------------------


@pytest.mark.parametrize("later", [False, True], ids=["first", "later"])
async def test_a_head_that_does_not_end_is_timed_out(later: bool) -> None:
    async with open_door(echo, head_timeout_seconds=0.2) as port, knock(port) as client:
        if later:
            await client.send(GET)
            assert (await client.response()).status == 200
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_trickle, client)
            response = await client.response()
            nursery.cancel_scope.cancel()
        assert (response.status, response.error["code"]) == (408, "request_timeout")


async def _trickle(client: RawClient) -> None:
    """A byte now and then must not buy time."""
    for byte in b"GET / HTTP/1.1\r\nx-slow: " + b"x" * 1000:
        await client.send(bytes([byte]))
        await trio.sleep(0.05)


async def test_a_connection_without_a_request_is_closed_without_a_word() -> None:
    async with open_door(echo, head_timeout_seconds=0.1) as port, knock(port) as client:
        assert await client.ended()


async def test_an_idle_connection_is_closed_without_a_word() -> None:
    async with open_door(echo, keep_alive_seconds=0.1) as port, knock(port) as client:
        await client.send(GET)
        assert (await client.response()).status == 200
        assert await client.ended()


async def test_a_body_that_stops_coming_is_timed_out() -> None:
    received: list[Message] = []
    ended = trio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        received.append(await receive())
        received.append(await receive())
        received.append(await receive())
        await respond(send, "no client reads this")
        ended.set()

    async with open_door(app, stall_seconds=0.2) as port, knock(port) as client:
        await client.send(POST_HEAD % 10 + b"five!")
        response = await client.response()
        assert (response.status, response.error["code"]) == (408, "request_timeout")
        assert await client.ended()
        await ended.wait()
    assert received[0] == {"type": "http.request", "body": b"five!", "more_body": True}
    assert received[1:] == [{"type": "http.disconnect"}] * 2


async def test_a_long_silence_in_a_response_is_no_stall() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await read_body(receive)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(3):
            with trio.move_on_after(0.2):
                assert not await receive(), "the client did not hang up"
            await wait_all_tasks_blocked()  # no task is busy waiting
            await send({"type": "http.response.body", "body": b"tick ", "more_body": True})
        await send({"type": "http.response.body", "body": b"done"})

    door = open_door(app, stall_seconds=0.1, head_timeout_seconds=0.1, keep_alive_seconds=0.1)
    async with door as port, knock(port) as client:
        await client.send(GET)
        assert (await client.response()).body == b"tick tick tick done"


async def test_a_client_that_reads_slowly_gets_every_byte_once() -> None:
    """Writes that fit the socket in part: the rest follows, and nothing twice."""
    pieces = [b"%06d" % number * 1500 for number in range(800)]

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await read_body(receive)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for piece in pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async with open_door(app) as port, knock(port) as client:
        assert isinstance(client.stream, trio.SocketStream)
        client.stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 256 * 1024)
        await client.send(GET)
        await trio.sleep(0.2)  # the sockets' buffers are full by now
        with trio.fail_after(20):
            assert (await client.response()).body == b"".join(pieces)


async def test_a_response_is_on_its_way_before_its_application_is_told_of_the_end() -> None:
    """The application learns that nothing follows, and then may cancel what it is doing."""
    said = b"x" * 8_000_000

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await read_body(receive)
        async with trio.open_nursery() as nursery:

            async def end_at_hang_up() -> None:
                await receive()
                nursery.cancel_scope.cancel()

            nursery.start_soon(end_at_hang_up)
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": said})

    async with open_door(app) as port, knock(port) as client:
        await client.send(GET)
        await trio.sleep(0.1)  # the sockets' buffers are full by now
        with trio.fail_after(20):
            assert (await client.response()).body == said


async def test_a_body_that_came_in_one_read_takes_no_turn_of_the_scheduler() -> None:
    turns: list[int] = []
    passed = 0

    async def count() -> None:
        nonlocal passed
        while True:
            passed += 1
            await trio.lowlevel.checkpoint()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        begun = passed
        body = await read_body(receive)
        turns.append(passed - begun)
        await respond(send, len(body or b""))

    async with open_door(app) as port, knock(port) as client, trio.open_nursery() as nursery:
        nursery.start_soon(count)
        for _ in range(3):
            await client.send(POST_HEAD % 5 + b"hello")
            assert (await client.response()).body == b"5"
        nursery.cancel_scope.cancel()
    assert turns == [0, 0, 0]


async def test_an_application_that_never_waits_lets_others_run() -> None:
    """Small writes take no turn of the scheduler each, but one in so many."""
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await trio.lowlevel.checkpoint()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await read_body(receive)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        begun = turns
        for _ in range(1000):
            await send({"type": "http.response.body", "body": b"token", "more_body": True})
        passed.append(turns - begun)
        await send({"type": "http.response.body", "body": b""})

    passed: list[int] = []
    async with open_door(app) as port, knock(port) as client, trio.open_nursery() as nursery:
        nursery.start_soon(count)
        await client.send(GET)
        assert (await client.response()).body == b"token" * 1000
        nursery.cancel_scope.cancel()
    assert 10 < passed[0] < 500


# -- clients that go away, or do not read --------------------------------------------------------


@pytest.mark.parametrize(
    ("pause", "sent"),
    [(0.01, GET), (1000, GET), (1000, GET + GET + b"GET /half")],
    ids=["sending", "silent", "with another request waiting"],
)
async def test_an_application_learns_that_its_client_hung_up(pause: float, sent: bytes) -> None:
    app = Streamer(b"x", pause=pause)
    async with open_door(app) as port:
        async with knock(port) as client:
            await client.send(sent)
            await app.streaming.wait()
        await app.told.wait()


async def test_requests_sent_far_ahead_take_bounded_memory() -> None:
    app = Streamer(b"x", pause=1000)
    async with open_door(app) as port, knock(port) as client:
        await client.send(GET)
        await app.streaming.wait()
        with trio.move_on_after(1) as patience:
            await client.send(bytes(16_000_000))  # more than the buffers of two sockets
        assert patience.cancelled_caught


async def test_a_client_that_stops_reading_is_given_up() -> None:
    app = Streamer()
    async with open_door(app, stall_seconds=0.3) as port, knock(port) as client:
        await client.send(GET)
        await app.told.wait()
        with pytest.raises((trio.BrokenResourceError, h11.RemoteProtocolError)):
            await client.response()


async def test_an_application_that_does_not_listen_holds_up_no_other() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] != "/stream":
            return await echo(scope, receive, send)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while True:
            await send({"type": "http.response.body", "body": b"x" * 4096, "more_body": True})

    async with open_door(app) as port, knock(port) as sibling:
        async with knock(port) as client:
            await client.send(GET.replace(b"/ ", b"/stream "))
            await client.stream.receive_some(1)
        for _ in range(3):
            await sibling.send(GET)
            assert (await sibling.response()).status == 200


async def test_what_an_application_sends_after_a_hang_up_is_dropped() -> None:
    ended = trio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await read_body(receive)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x", "more_body": True})
        assert (await receive())["type"] == "http.disconnect"
        for _ in range(100):
            await send({"type": "http.response.body", "body": b"x" * 10_000, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
        ended.set()

    with structlog.testing.capture_logs() as logs:
        async with open_door(app) as port:
            async with knock(port) as client:
                await client.send(GET)
                await client.stream.receive_some(1)
            await ended.wait()
    assert logs == []


async def test_a_head_goes_with_what_follows_it() -> None:
    go_on = trio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await read_body(receive)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"a", b"b")]})
        await go_on.wait()
        await send({"type": "http.response.body", "body": b"one", "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": True})
        await send({"type": "http.response.body", "body": b"two", "more_body": True})
        await send({"type": "http.response.body", "body": b"three"})

    async with open_door(app) as port, knock(port) as client:
        await client.send(GET)
        with trio.move_on_after(0.1) as waited:
            await client.stream.receive_some(1)
        assert waited.cancelled_caught
        go_on.set()
        data = b""
        while not data.endswith(b"0\r\n\r\n"):
            data += await client.stream.receive_some()
    head, _, body = data.partition(b"\r\n\r\n")
    assert b"\r\na: b" in head
    assert body == b"3\r\none\r\n3\r\ntwo\r\n5\r\nthree\r\n0\r\n\r\n"


@pytest.mark.parametrize(
    ("request_line", "headers", "rest"),
    [
        ("HEAD / HTTP/1.1", [], b""),
        ("GET / HTTP/1.0", [], b"onetwo"),
        ("GET / HTTP/1.1", [(b"content-length", b"6")], b"onetwo"),
    ],
)
async def test_a_body_that_is_not_sent_in_chunks(
    request_line: str, headers: list[tuple[bytes, bytes]], rest: bytes
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"one", "more_body": True})
        await send({"type": "http.response.body", "body": b"two", "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async with open_door(app) as port, knock(port) as client:
        await client.send(f"{request_line}\r\nhost: x\r\nconnection: close\r\n\r\n".encode())
        data = b""
        while more := await client.stream.receive_some():
            data += more
    assert data.partition(b"\r\n\r\n")[2] == rest


async def test_a_cancelled_send_does_not_leave_a_gap_in_a_response() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        with trio.move_on_after(0.1):
            await send({"type": "http.response.body", "body": bytes(8_000_000), "more_body": True})
        await send({"type": "http.response.body", "body": b"the end"})

    async with open_door(app) as port, knock(port) as client:
        await client.send(GET)
        await trio.sleep(0.3)
        with pytest.raises((trio.BrokenResourceError, h11.RemoteProtocolError)):
            await client.response()


# -- applications that fail ----------------------------------------------------------------------


async def test_a_refusal_reaches_a_client_that_is_still_uploading() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await respond(send, "too large", status=413)

    async with open_door(app) as port, knock(port) as client:
        await client.send(POST_HEAD % 100_000_000)
        for _ in range(64):
            await client.send(bytes(65536))
        response = await client.response()
        assert (response.status, response.body) == (413, b'"too large"')
        assert await client.ended()


async def test_a_connection_ends_though_its_application_goes_on() -> None:
    go_on = trio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await respond(send, "answered")
        await go_on.wait()

    async with open_door(app) as port, knock(port) as client:
        await client.send(GET[:-2] + b"connection: close\r\n\r\n")
        assert (await client.response()).body == b'"answered"'
        assert await client.ended()
        go_on.set()


async def test_an_application_that_raises_is_a_500_in_the_envelope() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/bad":
            raise ValueError("the inside of the gateway")
        await respond(send, "fine")

    with structlog.testing.capture_logs() as logs:
        async with open_door(app) as port, knock(port) as client:
            await client.send(GET.replace(b"/ ", b"/bad ") + GET)
            response = await client.response()
            assert (response.status, response.error["code"]) == (500, "internal_error")
            assert b"inside" not in response.body
            assert (await client.response()).body == b'"fine"'
    assert [(entry["event"], entry["log_level"]) for entry in logs] == [("app_failed", "error")]
    assert "/bad" in logs[0]["request"]


async def test_a_failure_is_put_in_the_envelope_of_the_clients_dialect() -> None:
    async def app(_scope: Scope, _receive: Receive, _send: Send) -> None:
        raise ValueError("the inside of the gateway")

    with structlog.testing.capture_logs():
        async with open_door(app) as port, knock(port) as client:
            for line in (b"/v1/messages ", b"/v1/models "):
                asked = GET.replace(b"/ ", line)
                if line == b"/v1/models ":
                    asked = asked[:-2] + b"anthropic-version: 2026-10-21\r\n\r\n"
                await client.send(asked)
                response = await client.response()
                body = json.loads(response.body)
                assert (response.status, body["type"]) == (500, "error")
                assert body["error"]["type"] == "api_error"


async def test_a_failure_after_the_response_is_logged_as_one() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await respond(send, "fine")
        raise ValueError("in what was left to do")

    with structlog.testing.capture_logs() as logs:
        async with open_door(app) as port, knock(port) as client:
            for _ in range(2):
                await client.send(GET)
                assert (await client.response()).body == b'"fine"'
            while len(logs) < 2:
                await trio.sleep(0.01)
    assert [(entry["event"], entry["log_level"]) for entry in logs] == [("app_failed", "error")] * 2


async def test_a_failure_for_want_of_a_client_is_no_error() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if await read_body(receive) is None:
            raise ValueError("who is there?")

    with structlog.testing.capture_logs() as logs:
        async with open_door(app) as port:
            async with knock(port) as client:
                await client.send(POST_HEAD % 10 + b"five!")
            while not logs:
                await trio.sleep(0.01)
    assert [(entry["event"], entry["log_level"]) for entry in logs] == [("app_failed", "info")]


async def test_an_application_that_does_not_respond_is_a_500() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await read_body(receive)

    with structlog.testing.capture_logs():
        async with open_door(app) as port, knock(port) as client:
            await client.send(GET)
            assert (await client.response()).error["code"] == "internal_error"


@pytest.mark.parametrize("fails", [False, True], ids=["returns", "raises"])
@pytest.mark.parametrize("length", [None, b"100"], ids=["chunked", "with-length"])
async def test_a_response_cut_short_looks_cut_short(length: bytes | None, fails: bool) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        headers = [] if length is None else [(b"content-length", length)]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"part", "more_body": True})
        if fails:
            raise ValueError("in the middle")

    with structlog.testing.capture_logs():
        async with open_door(app) as port, knock(port) as client:
            await client.send(GET)
            with pytest.raises(h11.RemoteProtocolError):
                await client.response()


async def test_an_application_group_failure_stays_in_its_connection() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        async def fail() -> None:
            raise ValueError("inside a task")

        if scope["path"] == "/bad":
            async with trio.open_nursery() as nursery:
                nursery.start_soon(fail)
                nursery.start_soon(trio.sleep_forever)
        await respond(send, "fine")

    with structlog.testing.capture_logs():
        async with open_door(app) as port, knock(port) as sibling, knock(port) as client:
            await client.send(GET.replace(b"/ ", b"/bad "))
            assert (await client.response()).status == 500
            await sibling.send(GET)
            assert (await sibling.response()).status == 200
