"""A client of a gateway: JSON over HTTP, and a WebSocket of JSON messages that notices its end.

Knows: where a gateway's address leads, TLS, keys in headers, how failures are worded for a person.
Refuses to know: what is asked, what the messages mean, and when to try again.
"""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import SplitResult, urlsplit

import trio
from trio_websocket import (
    ConnectionClosed,
    ConnectionRejected,
    WebSocketConnection,
    wrap_client_stream,
)

from ...schemas.convert import write_json

CONNECT_SECONDS = 10.0
ANSWER_SECONDS = 30.0
PING_SECONDS = 20.0
MAX_MESSAGE = 64 * 1024 * 1024


class Unreachable(Exception):
    """No server answers there, or one that is no gateway. Trying again may help."""


class UnusableKey(Exception):
    """An API key that no header can hold, so that no gateway has it."""


class Refused(Exception):
    """The gateway said no: `status`, and a message for people."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class LinkLost(Exception):
    """The WebSocket is closed. `code` is 1006 where the connection broke."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"the connection was closed: {code} {reason}".rstrip())
        self.code = code


class Link:
    """An open WebSocket."""

    def __init__(self, connection: WebSocketConnection) -> None:
        self._connection = connection

    async def receive(self) -> dict[str, Any]:
        """The next message. Raises `LinkLost`."""
        try:
            message = json.loads(await self._connection.get_message())
        except ConnectionClosed as closed:
            raise _lost(closed) from None
        except ValueError:
            raise LinkLost(1003, "what came was no JSON") from None
        return message if isinstance(message, dict) else {}

    async def send(self, message: Mapping[str, Any]) -> None:
        """Raises `LinkLost`."""
        try:
            await self._connection.send_message(write_json(message).decode())
        except ConnectionClosed as closed:
            raise _lost(closed) from None


class GatewayClient:
    """`url` is where the gateway is (http or https; a path in front of ``/v1`` is kept). Raises
    ValueError for what is no such address, `UnusableKey`."""

    def __init__(self, url: str, api_key: str | None = None) -> None:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.port == 0:
            raise ValueError(f"{url!r} is no http or https address")
        path = parts.path.rstrip("/").removesuffix("/v1")
        self._parts: SplitResult = parts._replace(path=path, query="", fragment="")
        key = (api_key or "").strip()
        for place, sign in enumerate(key, 1):
            if not "!" <= sign <= "~":
                # (The key is not repeated: this may stand in a log.)
                raise UnusableKey(
                    "A key is made of plain letters, digits and signs (ASCII, no spaces); "
                    f"character {place} of this one is {sign!r}. Look at how it was copied."
                )
        self._headers = {"authorization": f"Bearer {key}"} if key else {}

    @property
    def url(self) -> str:
        return self._parts.geturl()

    async def get(self, path: str) -> dict[str, Any]:
        """Raises `Unreachable` and `Refused`."""
        return await self._ask("GET", path)

    async def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Raises `Unreachable` and `Refused`."""
        return await self._ask("POST", path, json=dict(body))

    async def _ask(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        import httpx2  # a third of a second, which the other commands need not wait for

        try:
            async with httpx2.AsyncClient(
                headers=self._headers, trust_env=False, timeout=ANSWER_SECONDS, verify=_trust()
            ) as client:
                answer = await client.request(method, f"{self.url}{path}", **options)
        except httpx2.HTTPError as error:
            raise Unreachable(f"{self.url} does not answer: {_words(error)}") from error
        if not answer.is_success:
            raise _error(answer.status_code, answer.content)
        try:
            reply = answer.json()
        except ValueError:
            reply = None
        if not isinstance(reply, dict):
            raise Unreachable(f"{self.url} answers, but not as a gateway does.")
        return reply

    @asynccontextmanager
    async def open_link(self, path: str) -> AsyncIterator[Link]:
        """A WebSocket at `path`, which may have a query. Raises `Unreachable` and `Refused`; the
        link itself says `LinkLost` when it ends."""
        failure: Exception | None = None
        try:
            async with await self._open_stream() as stream, trio.open_nursery() as nursery:
                with trio.fail_after(CONNECT_SECONDS):
                    connection = await self._upgrade(nursery, stream, path)
                nursery.start_soon(_keep_alive, connection, stream)
                yield Link(connection)
                with trio.move_on_after(1):
                    await connection.aclose()
                nursery.cancel_scope.cancel()
        except* ConnectionRejected as errors:
            failure = _error_of(_leaf(errors))
        except* (OSError, trio.TooSlowError, trio.BrokenResourceError) as errors:
            failure = Unreachable(f"{self.url} does not answer: {_words(_leaf(errors))}")
        except* (LinkLost, Refused) as errors:
            failure = _leaf(errors)
        if failure is not None:
            raise failure

    async def _open_stream(self) -> trio.abc.Stream:
        host = self._parts.hostname
        assert host is not None
        secure = self._parts.scheme == "https"
        with trio.fail_after(CONNECT_SECONDS):
            stream = await trio.open_tcp_stream(host, self._parts.port or (443 if secure else 80))
        if not secure:
            return stream
        return trio.SSLStream(stream, _trust(), server_hostname=host, https_compatible=True)

    async def _upgrade(self, nursery: trio.Nursery, stream: Any, path: str) -> WebSocketConnection:
        return await wrap_client_stream(
            nursery,
            stream,
            self._parts.netloc.rpartition("@")[2],
            f"{self._parts.path}{path}",
            subprotocols=["ccapi.v1"],
            extra_headers=[(k.encode(), v.encode()) for k, v in self._headers.items()],
            max_message_size=MAX_MESSAGE,
        )


async def _keep_alive(connection: WebSocketConnection, stream: trio.abc.Stream) -> None:
    """A gateway that vanished without a word would otherwise be listened to for ever."""
    try:
        while True:
            await trio.sleep(PING_SECONDS)
            with trio.fail_after(PING_SECONDS):
                await connection.ping()
    except ConnectionClosed:
        pass
    except trio.TooSlowError:
        await trio.aclose_forcefully(stream)


def _trust() -> ssl.SSLContext:
    return ssl.create_default_context()


def _lost(closed: ConnectionClosed) -> LinkLost:
    if closed.reason is None:
        return LinkLost(1006, "")
    return LinkLost(closed.reason.code, closed.reason.reason or "")


def _leaf(error: BaseException) -> Exception:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, Exception)
    return error


def _words(error: BaseException) -> str:
    """What an error says, or what caused it where it says nothing."""
    cause: BaseException | None = error
    while cause is not None and not str(cause):
        cause = cause.__cause__ or cause.__context__
    return str(cause or type(error).__name__)


def _error_of(error: Exception) -> Refused:
    assert isinstance(error, ConnectionRejected)
    return _error(error.status_code, error.body or b"")


def _error(status: int, body: bytes) -> Refused:
    try:
        message = str(json.loads(body)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        message = f"HTTP status {status}, without the envelope of a gateway"
    return Refused(status, message)
