"""A small ASGI server for one request at a time, in the test's own process, without sockets.

It keeps what a real one does: a write waits until the client reads (nothing is buffered), a
hang-up arrives as ``http.disconnect`` and makes every later write a no-op, and an application that
raises after its head leaves a response that is visibly cut short.
"""

from __future__ import annotations

import json as stdlib_json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import trio
from attrs import define, field
from starlette.types import ASGIApp, Message

PATIENCE = 10.0
"""Seconds that an application may take to end after its client has gone."""


@define
class Response:
    """One response, read whole. `whole` is False where it was cut short."""

    status: int
    headers: dict[str, str]
    body: bytes
    whole: bool

    def json(self) -> Any:
        return stdlib_json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        """The error of an envelope, which has exactly the four fields."""
        assert self.headers["content-type"] == "application/json"
        assert list(self.json()) == ["error"]
        error: dict[str, Any] = self.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        return error


@define(eq=False)
class Streamed:
    """A response that is being read. `failure` is what the application raised, if it did."""

    _messages: trio.MemoryReceiveChannel[Message]
    _gone: trio.Event
    status: int = 0
    headers: dict[str, str] = field(factory=dict)
    whole: bool = False
    failure: Exception | None = None
    ended: trio.Event = field(factory=trio.Event)

    async def open(self) -> None:
        """Wait for the head."""
        start = await self._messages.receive()
        assert start["type"] == "http.response.start"
        self.status = start["status"]
        names = [name.decode() for name, _ in start["headers"]]
        repeated = {name for name in names if names.count(name) > 1}
        assert not repeated, f"repeated headers: {repeated}"
        self.headers = {name.decode(): value.decode() for name, value in start["headers"]}

    async def read(self) -> bytes | None:
        """The body of the next message; None after the last."""
        try:
            message = await self._messages.receive()
        except trio.EndOfChannel:
            return None
        assert message["type"] == "http.response.body"
        self.whole = not message.get("more_body", False)
        body: bytes = message.get("body", b"")
        return body

    async def rest(self) -> bytes:
        pieces = []
        while (piece := await self.read()) is not None:
            pieces.append(piece)
        return b"".join(pieces)

    def hang_up(self) -> None:
        self._gone.set()
        self._messages.close()


class Client:
    """Speaks to `app`, on behalf of a program on this machine."""

    def __init__(self, app: ASGIApp, headers: Mapping[str, str] | None = None) -> None:
        self.app = app
        self.headers = {"host": "localhost:8080", **(headers or {})}

    async def request(self, method: str, path: str, **options: Any) -> Response:
        async with self.stream(method, path, **options) as streamed:
            await streamed.open()
            body = await streamed.rest()
            return Response(streamed.status, streamed.headers, body, streamed.whole)

    @asynccontextmanager
    async def stream(
        self,
        method: str,
        path: str,
        *,
        json: Any = None,
        body: Sequence[bytes] = (),
        headers: Mapping[str, str] | None = None,
    ) -> AsyncIterator[Streamed]:
        """Send a request; the block gets the response before its head. Leaving it hangs up.

        `json` is sent with its length, `body` in pieces, without. A header of None is left out.
        """
        fields: dict[str, str | None] = dict(self.headers)
        if json is not None:
            body = [stdlib_json.dumps(json).encode()]
            fields |= {"content-type": "application/json", "content-length": str(len(body[0]))}
        fields |= headers or {}
        send, receive = trio.open_memory_channel[Message](0)
        streamed = Streamed(receive, trio.Event())
        scope = _scope(method, path, fields)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_serve, self.app, scope, list(body), streamed, send)
            try:
                yield streamed
            finally:
                streamed.hang_up()
            with trio.fail_after(PATIENCE):
                await streamed.ended.wait()


def _scope(method: str, path: str, headers: Mapping[str, str | None]) -> dict[str, Any]:
    path, _, query = path.partition("?")
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.1"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(k.encode(), v.encode()) for k, v in headers.items() if v is not None],
        "client": ("127.0.0.1", 50000),
        "server": ("127.0.0.1", 8080),
    }


async def _serve(
    app: ASGIApp,
    scope: dict[str, Any],
    pieces: list[bytes],
    streamed: Streamed,
    channel: trio.MemorySendChannel[Message],
) -> None:
    gone = streamed._gone
    told_all = False

    async def receive() -> Message:
        nonlocal told_all
        await trio.lowlevel.checkpoint()
        if not told_all and not gone.is_set():
            piece = pieces.pop(0) if pieces else b""
            told_all = not pieces
            return {"type": "http.request", "body": piece, "more_body": bool(pieces)}
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        try:
            await channel.send(dict(message))
        except trio.BrokenResourceError:
            assert gone.is_set()

    with channel:
        try:
            await app(scope, receive, send)
        except Exception as error:  # noqa: BLE001 (what a server does, too)
            streamed.failure = error
        finally:
            streamed.ended.set()
