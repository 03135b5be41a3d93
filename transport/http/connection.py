"""One HTTP connection: what reads, writes, waits and ends it.

Knows: which protocol is spoken, deadlines, the tasks of the requests in flight. Refuses to know:
what a request means, how a connection was accepted, what happens on a WebSocket.

This takes the place of hypercorn's ``trio/tcp_server.py``, whose writes are shielded without a
deadline, so that a client which stops reading can be neither cancelled nor waited for.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from math import inf
from typing import Any, cast

import trio
from starlette.types import ASGIApp, Message, Scope

from .exchange import Exchange
from .guarded_stream import GONE, GuardedStream, ReplayStream
from .protocols import (
    Http1,
    Http2,
    Http2Requested,
    HttpLimits,
    Peer,
    ProtocolContext,
    Send,
    WebSocketRequested,
)

READ_BYTES = 65536
MOST_READ_BYTES = 4 * READ_BYTES - 4096
"""Read at once of a client that sends megabytes: each read costs a step of three tasks. Just below
the size from which on a block has pages of its own (`transport.process.memory`)."""

YIELD_BYTES = 65536
"""Written so much, a connection gives way to others."""

WRITE_COST = 1024
"""What a write counts for beside its bytes."""


class HttpService:
    """What all connections of a front door share: the application, the limits, the end."""

    def __init__(self, app: ASGIApp, limits: HttpLimits) -> None:
        self.app = app
        self.limits = limits
        self.context = ProtocolContext(limits)
        self.connections: set[HttpConnection] = set()

    def close_idle(self, is_meant: Callable[[Peer], bool]) -> bool:
        """Ends the connection that has been between requests for longest, of those that are meant;
        says whether there is one."""
        idle = [each for each in self.connections if each.idles and is_meant(each.peer)]
        if not idle:
            return False
        min(idle, key=lambda each: each.idle_since).finish_if_idle()
        return True

    async def drain(self) -> None:
        """Ends every connection that is between requests, and the others after their response."""
        await self.context.stop()
        for connection in self.connections:
            connection.finish_if_idle()


class HttpConnection:
    """Serves HTTP/1.1 and HTTP/2 on `stream` until one side ends the connection.

    `guard` is the socket below `stream` (the same object where there is no TLS). A handshake for a
    WebSocket is passed to `on_upgrade`, with a stream that gives the request head once more.
    """

    def __init__(
        self,
        service: HttpService,
        stream: trio.abc.Stream,
        guard: GuardedStream,
        peer: Peer,
        on_upgrade: Callable[[ReplayStream], Awaitable[None]],
    ) -> None:
        self._service = service
        self._limits = service.limits
        self._stream = stream
        self._guard = guard
        self.peer = peer
        self.idle_since = trio.current_time()
        self._on_upgrade = on_upgrade
        self._protocol: Http1 | Http2
        self._nursery: trio.Nursery
        self._write_lock = trio.Lock()
        self._unyielded = 0  # bytes written since the scheduler last had a turn
        self.corked: list[bytes] | None = None
        self._reading: trio.CancelScope | None = None
        self._deadline = trio.current_time() + self._limits.head_timeout_seconds
        self._read_bytes = READ_BYTES
        self._in_head = True  # the deadline above is that of the first head
        self._idle = True
        self._input_waits = False
        self._finished = False
        self._running = 0

    async def serve(self, http2: bool) -> None:
        """Serves until the end, whatever it is, and closes the stream. What goes wrong between a
        client and its connection raises nothing but, at times, `trio.BrokenResourceError`."""
        self._service.connections.add(self)
        if self._service.context.stopping:
            self.finish_if_idle()
        try:
            async with trio.open_nursery() as self._nursery:
                try:
                    self._protocol = self._new_http2() if http2 else self._new_http1()
                    await self._protocol.begin()
                    await self._read_requests()
                    await self._protocol.end()
                    if self._finished:
                        await self._stream.aclose()
                except BaseException:
                    # Applications may be in a shielded write; this wakes them.
                    self._guard.close()
                    raise
            # Applications have ended. A client that only stopped sending has had its responses.
            await self._stream.aclose()
        finally:
            self._guard.close()
            self._service.connections.discard(self)

    @property
    def idles(self) -> bool:
        """Whether it is between requests, and will be."""
        return self._idle and not self._finished

    def finish_if_idle(self) -> None:
        if self._idle:
            self._guard.linger_seconds = 0  # nothing is on its way in either direction
            self.finish()

    def _new_http1(self) -> Http1:
        return Http1(self._service.context, self)

    def _new_http2(self) -> Http2:
        return Http2(self._service.context, self)

    # -- reading ----------------------------------------------------------------------------------

    async def _read_requests(self) -> None:
        while not self._finished:
            try:
                if self._input_waits:
                    self._input_waits = False
                    await cast(Http1, self._protocol).resume()
                else:
                    data = await self._receive()
                    if data is None:
                        continue
                    if not data:
                        return
                    await self._protocol.receive(data)
            except Http2Requested as assumed:
                await self._switch_to_http2(assumed.data)
            except WebSocketRequested as handshake:
                await self._on_upgrade(ReplayStream(handshake.data, self._stream))
                self.finish()
            self._time_head()

    async def _receive(self) -> bytes | None:
        """The next input; empty when the client hung up; None when the wait was ended from here
        (`_wake`) or by the deadline."""
        try:
            with trio.CancelScope(deadline=self._deadline) as self._reading:
                if self._has_enough_input():
                    await trio.sleep_forever()
                data = bytes(await self._stream.receive_some(self._read_bytes))
                self._read_bytes = MOST_READ_BYTES if len(data) >= READ_BYTES else READ_BYTES
                return data
        except GONE:
            return b""
        finally:
            self._reading = None
        if not (self._finished or self._input_waits):
            await self._time_out()
        return None

    def _has_enough_input(self) -> bool:
        """Whether the client has sent so many requests ahead that reading on, only to notice its
        hang-up, would take too much memory."""
        protocol = self._protocol
        return (
            isinstance(protocol, Http1)
            and not self._idle
            and protocol.waiting_bytes > self._limits.max_header_bytes
        )

    async def _time_out(self) -> None:
        if isinstance(self._protocol, Http1) and self._protocol.waiting_bytes:
            await self._protocol.refuse_slow_head()
        else:
            self.finish_if_idle()

    async def _switch_to_http2(self, data: bytes) -> None:
        self._protocol = self._new_http2()
        self._set_deadline(trio.current_time() + self._limits.head_timeout_seconds)
        self._idle = True
        await self._protocol.begin()
        await self._protocol.receive(data)

    def _time_head(self) -> None:
        """Gives a request head its deadline once its first byte is here."""
        if not self._idle or self._in_head or not isinstance(self._protocol, Http1):
            return
        if self._protocol.waiting_bytes:
            self._in_head = True
            self._set_deadline(trio.current_time() + self._limits.head_timeout_seconds)

    def _set_deadline(self, deadline: float) -> None:
        self._deadline = deadline
        if self._reading is not None:
            self._reading.deadline = deadline

    def _wake(self) -> None:
        if self._reading is not None:
            self._reading.cancel()

    # -- what the protocol asks for (`Carrier`) ---------------------------------------------------

    async def flush(self) -> None:
        """Write what is corked."""
        if self.corked:
            await self._flush(self.corked)

    async def _flush(self, pieces: list[bytes]) -> None:
        """Write `pieces` as one, without a wait where the socket takes all of it.

        But for one wait in so many bytes and writes: a client that reads fast must not keep others
        from their turn.
        """
        data = b"".join(pieces)
        pieces.clear()
        self._unyielded += len(data) + WRITE_COST
        locked = self._write_lock.locked()
        if self._unyielded < YIELD_BYTES and self._stream is self._guard and not locked:
            try:
                sent = self._guard.send_nowait(data)
            except GONE:
                sent = 0  # as `write` will find
            if sent == len(data):
                return
            data = data[sent:]
        self._unyielded = 0
        await self.write(data)

    def _in_one_write(self, protocol: Http1, send: Send) -> Send:
        """One ASGI message, one write: hypercorn makes a head, a chunk and an end of it. The head
        of a response goes with what follows it, for which ASGI has it wait.

        For HTTP/1.1, where one response is under way at a time; nothing in between waits.
        """
        head: list[bytes] = []

        async def corked(message: Message | None) -> None:
            nonlocal head
            pieces, head = head, []
            kind = None if message is None else message["type"]
            if (
                kind == "http.response.body"
                and not pieces
                and cast(Message, message).get("more_body")
            ):
                chunk = protocol.chunk_of(cast(Message, message).get("body", b""))
                if chunk is not None:
                    await self._flush([chunk])
                    return
            self.corked = pieces
            try:
                await send(message)
            finally:
                self.corked = None
            if kind == "http.response.start":
                head = pieces
            elif pieces:
                await self._flush(pieces)

        return corked

    async def write(self, data: bytes) -> None:
        try:
            try:
                self._write_lock.acquire_nowait()
            except trio.WouldBlock:
                await self._write_lock.acquire()
            try:
                await self._stream.send_all(data)
            finally:
                self._write_lock.release()
        except GONE:
            # The stream has closed itself; the reader notices, and ends what concerns the client.
            # A caller that pays no attention must let it run.
            await trio.lowlevel.checkpoint()
        except BaseException:
            # The protocol counts these bytes as sent. Nothing may follow in their place.
            self._guard.close()
            raise

    def note_idle(self, idle: bool) -> None:
        self._idle = idle
        self._in_head = False
        if not idle:
            self._set_deadline(inf)
            return
        if self._service.context.stopping:
            self.finish()
            return
        self.idle_since = trio.current_time()
        self._set_deadline(self.idle_since + self._limits.keep_alive_seconds)
        if isinstance(self._protocol, Http1) and self._protocol.waiting_bytes:
            self._input_waits = True
            self._wake()

    def finish(self) -> None:
        self._finished = True
        self._wake()

    def spawn(self, function: Callable[..., Awaitable[object]], *args: Any) -> None:
        self._nursery.start_soon(function, *args)

    def start_request(self, scope: Scope, send: Send) -> Callable[[Message], Awaitable[None]]:
        """Run the application for a request, and return what takes the messages of its client.

        Raises `trio.BrokenResourceError` for a client that abandons requests as fast as it makes
        them."""
        if self._running > 2 * self._limits.max_streams:
            # Requests opened and reset faster than the application ends them (CVE-2023-44487).
            raise trio.BrokenResourceError("the client abandons requests as fast as it makes them")
        self._running += 1
        if isinstance(self._protocol, Http1):
            send = self._in_one_write(self._protocol, send)
        limits = self._limits
        exchange = Exchange(scope, send, limits.stall_seconds, limits.min_body_bytes_per_second)
        self._nursery.start_soon(self._run_app, exchange)
        return exchange.put

    async def _run_app(self, exchange: Exchange) -> None:
        try:
            await exchange.run(self._service.app)
        finally:
            self._running -= 1
