"""A server at a URL, by streamable HTTP.

Knows: `mcp`'s client for it, and how an HTTP connection fails. Refuses to know: messages.

The client ends with the first request that cannot be sent, and all calls with it. So requests go
through a transport that answers such a request with an error of its own, which is that call's
alone, and notes what it means for the server: that it cannot be reached, that it has forgotten the
session, that it asks for authorization. Nothing is ever registered with an authorization server.
"""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache

import httpx2
import trio
from attrs import define, field
from mcp.client.streamable_http import streamable_http_client
from mcp_types import CONNECTION_CLOSED

from ...schemas.mcp_config import UrlEntry
from .guarded import AddressRefused, PinnedTransport
from .interface import LinkError, LinkOptions, NeedsAuth
from .streams import Streams

CONNECT_SECONDS = 10.0

MARGIN_SECONDS = 30.0
"""By how much a request may outlive the call that it is for: a server need not answer a cancelled
call at all."""

GOODBYE_SECONDS = 1.0


@define
class HttpState:
    """What requests have shown of a server. `over` is set when the connection is of no use any
    more."""

    failure: LinkError | None = None
    over: trio.Event = field(factory=trio.Event)

    def end(self, failure: LinkError) -> None:
        if self.failure is None:
            self.failure = failure
        self.over.set()


class GuardedTransport(httpx2.AsyncBaseTransport):
    """Sends requests, and answers those that cannot be sent. A body in JSON of more than
    `max_bytes` is an error of its reader."""

    def __init__(
        self, state: HttpState, max_bytes: int, tls: ssl.SSLContext, guarded: str | None = None
    ) -> None:
        limits = httpx2.Limits(max_connections=None)
        inner = httpx2.AsyncHTTPTransport(verify=tls, limits=limits)
        self._inner = inner if guarded is None else PinnedTransport(inner, guarded)
        self._state = state
        self._max_bytes = max_bytes

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        if request.method == "DELETE":  # the end of a session: said, and not waited for
            with trio.move_on_after(GOODBYE_SECONDS, shield=True):
                return await self._send(request)
            return httpx2.Response(204, request=request)
        return await self._send(request)

    async def _send(self, request: httpx2.Request) -> httpx2.Response:
        try:
            response = await self._inner.handle_async_request(request)
        except AddressRefused as error:
            self._state.end(LinkError(str(error)))
            return _answer_error(request, str(error))
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
            why = "in time" if isinstance(error, httpx2.TimeoutException) else "(no connection)"
            cure = "start it, or correct its url"
            self._state.end(LinkError(f"the server cannot be reached {why}", cure=cure))
            return _answer_error(request, "the server cannot be reached")
        except httpx2.TransportError:
            if request.method == "GET":
                raise  # the stream of what the server says by itself: the client opens it again
            return _answer_error(request, "the server closed the connection without an answer")
        failure = self._judge(request, response)
        if failure is not None:
            self._state.end(failure)
        if response.headers.get("content-type", "").startswith("application/json"):
            response.stream = _Bounded(response.stream, self._max_bytes)
        return response

    def _judge(self, request: httpx2.Request, response: httpx2.Response) -> LinkError | None:
        """What a status means for the server as a whole; None: nothing."""
        status = response.status_code
        if status in (401, 403) and request.method != "DELETE":
            given = "authorization" in request.headers
            what = "refuses the Authorization header" if given else "asks for authorization"
            return NeedsAuth(
                f"the server {what} (HTTP {status})", cure="set headers.Authorization in its entry"
            )
        if status == 404 and "mcp-session-id" in request.headers and request.method == "POST":
            return LinkError("the server has forgotten the session")
        return None

    async def aclose(self) -> None:
        await self._inner.aclose()


class _Bounded(httpx2.AsyncByteStream):
    def __init__(self, inner: object, most: int) -> None:
        assert isinstance(inner, httpx2.AsyncByteStream)
        self._inner = inner
        self._most = most

    async def __aiter__(self) -> AsyncIterator[bytes]:
        length = 0
        async for piece in self._inner:
            length += len(piece)
            if length > self._most:
                raise httpx2.StreamError(
                    f"it has more than {self._most} bytes (mcp.max_result_bytes)"
                )
            yield piece

    async def aclose(self) -> None:
        await self._inner.aclose()


def _answer_error(request: httpx2.Request, reason: str) -> httpx2.Response:
    """As a server refuses a message; the client gives it the number of its request."""
    error = {"code": CONNECTION_CLOSED, "message": reason}
    body = json.dumps({"jsonrpc": "2.0", "id": 0, "error": error}).encode()
    headers = {"content-type": "application/json"}
    return httpx2.Response(503, headers=headers, content=body, request=request)


@cache
def _trust() -> ssl.SSLContext:
    """The certificates that are trusted; read once, which takes tens of milliseconds."""
    return httpx2.create_ssl_context()


async def make_client(
    entry: UrlEntry, options: LinkOptions, state: HttpState
) -> httpx2.AsyncClient:
    """A client with the entry's headers, whose requests `state` learns from."""
    # For http too: a server there may lead to its https.
    tls = await trio.to_thread.run_sync(_trust)
    patience = options.call_timeout_seconds + MARGIN_SECONDS
    return httpx2.AsyncClient(
        headers=dict(entry.headers),
        timeout=httpx2.Timeout(CONNECT_SECONDS, read=patience, write=patience),
        transport=GuardedTransport(
            state, options.max_message_bytes, tls, entry.url if entry.is_guarded else None
        ),
        trust_env=False,
    )


@asynccontextmanager
async def open_http(entry: UrlEntry, options: LinkOptions) -> AsyncIterator[Streams]:
    """The streams to the server at the entry's URL, while the block runs."""
    state = HttpState()
    async with (
        await make_client(entry, options, state) as client,
        streamable_http_client(
            entry.url, http_client=client, max_sse_event_size=options.max_message_bytes
        ) as (read, write),
    ):
        yield Streams(read, write, state.over, lambda: state.failure)
