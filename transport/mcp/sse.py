"""A server at a URL, by HTTP with server-sent events: the transport before streamable HTTP.

Knows: its one stream of events, and the address that the first of them names. Refuses to know:
messages.

The `mcp` package has a client for it, which ends the connection with any event of more than 1 MiB
and takes no other bound.

Source: Model Context Protocol 2024-11-05, "HTTP with SSE".
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Any
from urllib.parse import urljoin, urlsplit

import anyio
import httpx2
import trio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from attrs import frozen
from mcp.shared.message import SessionMessage
from mcp_types import (
    CONNECTION_CLOSED,
    ErrorData,
    JSONRPCError,
    JSONRPCRequest,
    jsonrpc_message_adapter,
)

from ...schemas.mcp_config import UrlEntry
from .http import HttpState, make_client
from .interface import LinkError, LinkOptions
from .streams import Streams

_Incoming = MemoryObjectSendStream[SessionMessage | Exception]


@frozen
class _Events:
    """The stream of events of one connection."""

    url: str
    response: httpx2.Response
    max_bytes: int
    state: HttpState

    async def read(self, incoming: _Incoming, task_status: trio.TaskStatus[str]) -> None:
        """Hand on messages until the stream ends. Started with the address that takes ours."""
        is_started = False
        async with incoming:
            source: Any = httpx2.EventSource(self.response, max_event_size=self.max_bytes)
            try:
                async with aclosing(aiter(source)) as received:
                    async for event in received:
                        if event.event == "endpoint" and not is_started:
                            task_status.started(self._endpoint(event.data))
                            is_started = True
                        elif event.event == "message" and event.data:
                            with suppress(ValueError):
                                message = jsonrpc_message_adapter.validate_json(
                                    event.data, by_name=False
                                )
                                await incoming.send(SessionMessage(message))
            except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                pass  # nothing is read any more
            except httpx2.SSEError:
                self.state.end(
                    LinkError(
                        f"the server sent an event of more than {self.max_bytes} bytes "
                        "(mcp.max_result_bytes)"
                    )
                )
            except httpx2.HTTPError:
                self.state.end(LinkError("the server closed the stream of events"))
        if not is_started:
            raise self.state.failure or LinkError("it is no server of this kind (sse)")

    def _endpoint(self, named: str) -> str:
        endpoint = urljoin(self.url, named)
        if urlsplit(endpoint)[:2] != urlsplit(self.url)[:2]:
            raise LinkError("it names an address of another server for messages")
        return endpoint


@frozen
class _Posts:
    """What is sent to the server: one request for each message."""

    client: httpx2.AsyncClient
    endpoint: str
    incoming: _Incoming

    async def write(self, to_send: MemoryObjectReceiveStream[SessionMessage]) -> None:
        async with to_send:
            async for message in to_send:
                body = message.message.model_dump(by_alias=True, mode="json", exclude_unset=True)
                try:
                    response = await self.client.post(self.endpoint, json=body)
                    refused = f"HTTP {response.status_code}" if response.is_error else ""
                except httpx2.HTTPError as error:
                    refused = type(error).__name__
                if refused and isinstance(message.message, JSONRPCRequest):
                    why = ErrorData(
                        code=CONNECTION_CLOSED, message=f"the server did not take it ({refused})"
                    )
                    reply = JSONRPCError(jsonrpc="2.0", id=message.message.id, error=why)
                    try:
                        await self.incoming.send(SessionMessage(reply))
                    except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                        return


@asynccontextmanager
async def open_events(entry: UrlEntry, options: LinkOptions) -> AsyncIterator[Streams]:
    """The streams to the server at the entry's URL, while the block runs. Raises `LinkError`."""
    state = HttpState()
    async with (
        await make_client(entry, options, state) as client,
        client.stream("GET", entry.url, headers={"accept": "text/event-stream"}) as response,
    ):
        if response.is_error or state.failure is not None:
            raise state.failure or LinkError(f"the server answers with HTTP {response.status_code}")
        incoming, received = anyio.create_memory_object_stream[SessionMessage | Exception](0)
        outgoing, to_send = anyio.create_memory_object_stream[SessionMessage](0)
        events = _Events(entry.url, response, options.max_message_bytes, state)
        async with trio.open_nursery() as nursery:
            endpoint = await nursery.start(events.read, incoming)
            nursery.start_soon(_Posts(client, endpoint, incoming).write, to_send)
            yield Streams(received, outgoing, state.over, lambda: state.failure)
            for stream in (received, outgoing):
                stream.close()
            nursery.cancel_scope.cancel()
