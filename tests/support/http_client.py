"""A front door to knock at, and clients that behave as badly as a test needs."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import h11
import orjson
import trio
from attrs import frozen
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from trio_websocket import WebSocketRequest

from ccapi.schemas.errors import NotFound
from ccapi.transport.http.front_door import (
    FrontDoorLimits,
    Peer,
    WebSocketHandler,
    open_listeners,
    reject_websocket,
    serve_connections,
)

GET = b"GET / HTTP/1.1\r\nhost: here\r\n\r\n"


async def no_websockets(request: WebSocketRequest, peer: Peer) -> None:
    await reject_websocket(request, NotFound("There is no WebSocket here.", code="no_websocket"))


@asynccontextmanager
async def open_door(
    app: ASGIApp,
    on_websocket: WebSocketHandler = no_websockets,
    *,
    ssl_context: ssl.SSLContext | None = None,
    stop: trio.Event | None = None,
    **limits: Any,
) -> AsyncIterator[int]:
    """A front door on a free port, which it gives. At the end everything is closed at once."""
    (listener,) = await open_listeners("127.0.0.1", 0)
    port: int = listener.socket.getsockname()[1]
    async with trio.open_nursery() as nursery:
        await nursery.start(
            partial(
                serve_connections,
                [listener],
                app,
                on_websocket,
                FrontDoorLimits(**limits),
                ssl_context=ssl_context,
                stop=stop,
            )
        )
        with trio.fail_after(30):
            yield port
        nursery.cancel_scope.cancel()


@frozen
class Response:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def error(self) -> dict[str, Any]:
        """The content of the OpenAI envelope, which must be one in form too."""
        assert self.headers["content-type"] == "application/json"
        envelope = orjson.loads(self.body)
        assert envelope.keys() == {"error"}
        assert envelope["error"].keys() == {"message", "type", "param", "code"}
        content: dict[str, Any] = envelope["error"]
        return content


class RawClient:
    """Sends any bytes as they are, and reads responses as a strict client does."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self._unread = b""

    async def send(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def response(self, method: str = "GET") -> Response:
        """The next response. Raises `h11.RemoteProtocolError` for one that is cut short."""
        parser = h11.Connection(h11.CLIENT)
        parser.send(h11.Request(method=method, target="/", headers=[("host", "here")]))
        parser.send(h11.EndOfMessage())
        if self._unread:
            parser.receive_data(self._unread)
        head: h11.Response | None = None
        body = b""
        while True:
            match parser.next_event():
                case h11.NEED_DATA:
                    parser.receive_data(bytes(await self.stream.receive_some()))
                case h11.Response() as head:
                    pass
                case h11.Data(data=data):
                    body += data
                case h11.EndOfMessage():
                    break
                case h11.ConnectionClosed():
                    raise h11.RemoteProtocolError("closed without a response")
        assert head is not None
        self._unread = parser.trailing_data[0]
        headers = {name.decode(): value.decode() for name, value in head.headers}
        return Response(head.status_code, headers, body)

    async def ended(self) -> bool:
        """Whether the server closed the connection in good order, having sent nothing more."""
        return not self._unread and not await self.stream.receive_some()


@asynccontextmanager
async def knock(port: int, tls: ssl.SSLContext | None = None) -> AsyncIterator[RawClient]:
    stream: trio.abc.Stream = await trio.open_tcp_stream("127.0.0.1", port)
    if tls is not None:
        stream = trio.SSLStream(stream, tls, server_hostname="127.0.0.1", https_compatible=True)
    async with stream:
        yield RawClient(stream)


async def read_body(receive: Receive) -> bytes | None:
    """The request body, or None where the client hung up before its end."""
    body: bytes = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message["body"]
        if not message["more_body"]:
            return body


async def respond(send: Send, content: Any, status: int = 200) -> None:
    body = orjson.dumps(content)
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """An application that says what it was asked."""
    body = await read_body(receive)
    if body is None:
        return
    await respond(
        send,
        {
            "method": scope["method"],
            "path": scope["path"],
            "body": body.decode(),
            "http_version": scope["http_version"],
            "scheme": scope["scheme"],
            "client": scope["client"],
        },
    )


class Streamer:
    """An application that streams until its client hangs up, as `receive` tells it."""

    def __init__(self, chunk: bytes = b"x" * 4096, pause: float = 0) -> None:
        self.streaming = trio.Event()
        self.told = trio.Event()
        self.ended = trio.Event()
        self._chunk = chunk
        self._pause = pause

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await read_body(receive)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._stream, send)
                message: Message = await receive()
                assert message["type"] == "http.disconnect"
                self.told.set()
                nursery.cancel_scope.cancel()
        finally:
            self.ended.set()

    async def _stream(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while True:
            await send({"type": "http.response.body", "body": self._chunk, "more_body": True})
            self.streaming.set()
            await trio.sleep(self._pause)
