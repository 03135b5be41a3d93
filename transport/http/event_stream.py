"""A response of server-sent events: where SSE is written.

Knows: ASGI's HTTP messages, heartbeats, and that the head waits for the first event. Refuses to
know: how an event is framed (`schemas.openai.sse`), and what it says.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import trio
from starlette.types import Send

from ...schemas.openai import sse
from .asgi import encode_headers

_EVENT_STREAM_HEADERS = {
    "content-type": sse.CONTENT_TYPE,
    "cache-control": "no-cache",
    "x-accel-buffering": "no",  # nginx would collect the events of a whole answer
}


class EventStream:
    """A response of server-sent events, whose head is sent with the first of them.

    So a failure before it can still have a real status. `opened`: it cannot any more. While
    `beating`, a comment is sent after every `heartbeat_seconds` of silence, and opens the response
    if nothing else has.
    """

    def __init__(
        self,
        send: Send,
        heartbeat_seconds: float,
        send_body: Send | None = None,
        farewell: Callable[[], bytes] = bytes,
    ) -> None:
        """`send` is for the head, `send_body` for what follows (None: the same). `farewell` gives
        what stands behind the last events."""
        self._send_head = send
        self._send_body = send if send_body is None else send_body
        self._farewell = farewell
        self._heartbeat_seconds = heartbeat_seconds
        self._lock = trio.Lock()
        self._written_at = trio.current_time()
        self.opened = False

    def __repr__(self) -> str:
        return f"<EventStream {'opened' if self.opened else 'silent'}>"

    async def write(self, events: bytes, *, last: bool = False) -> None:
        """Send `events`, whole events every one, and end the response with the `last`."""
        try:
            # An uncontended trio.Lock.acquire gives way to the scheduler, once per delta.
            self._lock.acquire_nowait()
        except trio.WouldBlock:
            await self._lock.acquire()
        try:
            if not self.opened:
                await self._open()
            if last:
                events += self._farewell()
            body = {"type": "http.response.body", "body": events, "more_body": not last}
            await self._send_body(body)
            self._written_at = trio.current_time()
        finally:
            self._lock.release()

    @asynccontextmanager
    async def beating(self) -> AsyncIterator[None]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._beat)
            yield
            nursery.cancel_scope.cancel()

    async def _beat(self) -> None:
        while True:
            await trio.sleep_until(self._written_at + self._heartbeat_seconds)
            async with self._lock:
                # Who held the lock has written meanwhile.
                if trio.current_time() >= self._written_at + self._heartbeat_seconds:
                    if not self.opened:
                        await self._open()
                    body = {"type": "http.response.body", "body": sse.HEARTBEAT, "more_body": True}
                    await self._send_body(body)
                    self._written_at = trio.current_time()

    async def _open(self) -> None:
        self.opened = True
        headers = encode_headers(_EVENT_STREAM_HEADERS)
        await self._send_head({"type": "http.response.start", "status": 200, "headers": headers})
