"""A WebSocket on one of our own streams: whole text messages both ways, and how it ends.

Knows: frames, pings, limits, close codes. Refuses to know: who may connect, what messages mean.

trio-websocket does the protocol. Its internals are touched in this module alone, where it falls
short of a server in the open (0.12): fragments without end are kept without bound, what is no
WebSocket gets no close code, a ping behind a close frame is taken for an internal error, and
nothing asks a silent client whether it is still there. `tests/house/test_foreign_internals.py`
names each.
"""

from __future__ import annotations

import math
import struct
from collections import deque
from collections.abc import Callable, Generator
from contextlib import suppress
from functools import partial
from typing import cast

import trio
from attrs import frozen
from trio_websocket import CloseReason, ConnectionClosed, WebSocketConnection, WebSocketRequest
from wsproto import ConnectionType, WSConnection
from wsproto.connection import ConnectionState
from wsproto.events import BytesMessage, CloseConnection, Event, Ping, Pong, TextMessage

from ...schemas.errors import Overloaded
from ..loggers import get_logger
from .bodies import LONG, Bodies, Share
from .guarded_stream import GONE, ReplayStream

log = get_logger("ccapi.websocket")

READ_BYTES = 16384
MOST_READ_BYTES = 256 * 1024 - 4096
"""What is read at once of a message that is long."""

WAITING_MESSAGES = 1
"""Messages that may wait for their reader; behind them the client's own writes come to a stand."""

STEP = 256 * 1024
"""Bytes of the shared room that a message takes beyond what has come of it."""

BREATH = 32
"""Frames that are taken without a pause for others: tiny ones fill a read by the thousand."""

TEXT = 0x81
"""FIN and the opcode of a text frame: no extension is ever negotiated, so no bit beside them."""

PING = b"\x89\x00"
"""A ping frame without content: whatever comes back will do."""

TOGETHER = 1.0
"""Seconds by which a ping may be late for the sake of company."""

NORMAL = 1000
GOING_AWAY = 1001
ONLY_TEXT = 1003
ABNORMAL = 1006
REFUSED = 1008
TOO_BIG = 1009
INTERNAL = 1011
TRY_LATER = 1013


def encode_frame(payload: bytes) -> bytes:
    """One text message (`payload` is UTF-8) as one frame (RFC 6455, section 5.2), its length in the
    fewest bytes. Encoded once, it serves every client that receives the same event."""
    size = len(payload)
    if size < 126:
        return b"%c%c%b" % (TEXT, size, payload)
    if size < 65536:
        return struct.pack("!BBH", TEXT, 126, size) + payload
    return struct.pack("!BBQ", TEXT, 127, size) + payload


@frozen(kw_only=True)
class WebSocketLimits:
    """`max_message_bytes`: a longer message ends the connection with code 1009. A client that was
    silent for `ping_seconds` is asked whether it is there, and gone if nothing comes of it within
    `pong_seconds`. After `idle_seconds` without a message in either direction the connection is
    closed with code 1001. `close_seconds`: how long the other side may take to close too. The rest
    of a message that has begun must come at `min_bytes_per_second`, on average and beyond the first
    `stall_seconds`, or the connection ends with code 1008."""

    max_message_bytes: int = 20 * 1024 * 1024
    stall_seconds: float = 30.0
    min_bytes_per_second: float = 8192.0
    ping_seconds: float = 20.0
    pong_seconds: float = 20.0
    idle_seconds: float = math.inf
    close_seconds: float = 2.0


class WebSocketClosed(Exception):
    """The connection is closed, or closing: `code` and `reason` are those of the close frame that
    was sent or received first, 1006 where the connection broke."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"the WebSocket is closed: {code} {reason}".rstrip())
        self.code = code
        self.reason = reason


class WebSocket:
    """An open WebSocket. One task may receive while others send and close.

    `received` and `sent` count messages.
    """

    def __init__(self, connection: _Connection, subprotocol: str | None) -> None:
        self._connection = connection
        self.subprotocol = subprotocol
        self.received = 0
        self.sent = 0
        self.length = 0
        """Of the message that was received last, in bytes."""
        self._share: Share | None = None

    def __repr__(self) -> str:
        reason = self._connection.closed
        return f"<WebSocket {'open' if reason is None else f'closed {reason.code}'}>"

    @property
    def closed(self) -> WebSocketClosed | None:
        """How it was closed, or is being closed; None while it is open."""
        return None if self._connection.closed is None else self._connection.ending()

    async def receive(self) -> bytes | bytearray:
        """The next message, in UTF-8; the caller may empty it. Raises `WebSocketClosed`; what the
        other side sent before it closed is received first.

        The room that the message before it had is given back, unless it was taken over
        (`take_share`)."""
        self._give_back()
        message, self._share = await self._connection.next_message()
        self.received += 1
        self.length = len(message)
        return message

    def take_share(self) -> Share | None:
        """What the message that was received last holds of the room, to be closed by the caller;
        None where that is nothing."""
        share, self._share = self._share, None
        return share

    async def hold(self, count: int) -> None:
        """Have the message that was received last hold at least `count` bytes of the room. Raises
        `Overloaded`."""
        bodies = self._connection.bodies
        if bodies is None or (count < LONG and self._share is None):
            return
        if self._share is None:
            self._share = bodies.share()
        await self._share.grow_to(count)

    def release(self) -> None:
        """Give back the room of all messages. For when nothing is received any more."""
        self._give_back()
        self._connection.release()

    def _give_back(self) -> None:
        if self._share is not None:
            self._share.close()
            self._share = None

    async def send(self, payload: bytes) -> None:
        """Send one text message, UTF-8. Raises `WebSocketClosed`; also where the client took no
        byte for as long as the stream below has patience.

        Cancelled in the middle of a frame, the connection is broken.
        """
        await self.send_frames(encode_frame(payload))

    async def send_frames(self, frames: bytes, count: int = 1, *, gives_way: bool = True) -> None:
        """As `send`, for `count` messages that `encode_frame` made already, in one write. Without
        `gives_way` that is no checkpoint where the socket takes them: the caller has others."""
        connection = self._connection
        connection.used_at = trio.current_time()
        await connection.send_frames(frames, gives_way=gives_way)
        self.sent += count

    def use_with(self, used_at: Callable[[], float]) -> None:
        """The client receives messages on another way too, the last one at that time: it does not
        count as idle then."""
        self._connection.used_elsewhere = used_at

    async def close(self, code: int = NORMAL, reason: str = "") -> None:
        """Say goodbye, and wait until the other side did, for `close_seconds` at most."""
        await self._connection.close(code, reason)


async def receive_handshake(
    nursery: trio.Nursery, stream: trio.abc.Stream, limits: WebSocketLimits
) -> WebSocketRequest:
    """The handshake that a client has sent on `stream`; its connection is read in `nursery`."""
    connection = _Connection(stream, limits)
    nursery.start_soon(connection._reader_task)  # noqa: SLF001
    return await connection._get_request()  # noqa: SLF001


def host_of(request: WebSocketRequest) -> str:
    """The host the request is addressed to; wsproto keeps it out of the headers."""
    host: str = request._event.host  # noqa: SLF001
    return host


async def accept_websocket(
    request: WebSocketRequest,
    *,
    subprotocol: str | None = None,
    headers: list[tuple[bytes, bytes]] | None = None,
    bodies: Bodies | None = None,
) -> WebSocket:
    """Answer a handshake of `receive_handshake`'s. `subprotocol` must be one that was offered.
    Long messages share the room of `bodies`; None: they need none."""
    own = request._connection  # noqa: SLF001
    assert isinstance(own, _Connection)
    own.bodies = bodies
    connection = await request.accept(subprotocol=subprotocol, extra_headers=headers)
    assert isinstance(connection, _Connection)
    connection.wake()
    return WebSocket(connection, subprotocol)


async def close_request(request: WebSocketRequest, code: int, reason: str) -> None:
    """Close the connection that was made of this handshake, if one was."""
    connection = request._connection  # noqa: SLF001
    assert isinstance(connection, _Connection)
    await connection.close(code, reason)


def _never() -> float:
    return -math.inf


class _Connection(WebSocketConnection):
    """trio-websocket's connection, as a server in the open needs it."""

    def __init__(self, stream: trio.abc.Stream, limits: WebSocketLimits) -> None:
        super().__init__(
            _Heartbeat(stream, self),
            _Protocol(ConnectionType.SERVER),
            message_queue_size=WAITING_MESSAGES,
            max_message_size=limits.max_message_bytes,
            receive_buffer_size=READ_BYTES,
        )
        self.limits = limits
        self._replay = stream if isinstance(stream, ReplayStream) else None
        self.used_at = trio.current_time()
        self.used_elsewhere: Callable[[], float] = _never
        self.close_by = math.inf
        self.waiting: trio.CancelScope | None = None
        self.bodies: Bodies | None = None
        self.message_due = math.inf
        self._message = bytearray()
        self._begun_at: float | None = None  # None: no message is coming
        self._frames = 0
        self._share: Share | None = None  # of the message that comes
        self._shares: deque[Share | None] = deque()  # of those that wait for their reader

    @property
    def state(self) -> ConnectionState:
        return self._wsproto.state

    @property
    def idle_at(self) -> float:
        """When it has been without a message for too long."""
        return max(self.used_at, self.used_elsewhere()) + self.limits.idle_seconds

    def ending(self) -> WebSocketClosed:
        reason = self._close_reason
        if reason is None:
            return WebSocketClosed(ABNORMAL, "")
        return WebSocketClosed(reason.code, reason.reason or "")

    # -- for `WebSocket` ---------------------------------------------------------------------------

    async def next_message(self) -> tuple[bytes | bytearray, Share | None]:
        try:
            message = await self._recv_channel.receive()
        except (trio.ClosedResourceError, trio.EndOfChannel):
            raise self.ending() from None
        assert isinstance(message, bytes | bytearray)
        return message, self._shares.popleft()

    def release(self) -> None:
        for share in (*self._shares, self._share):
            if share is not None:
                share.close()
        self._shares.clear()
        self._share = None

    async def send_frames(self, frames: bytes, *, gives_way: bool = True) -> None:
        """Write whole frames; `used_at` is the caller's business."""
        # The lock that trio-websocket's own writes take: no frame stands in the middle of another.
        lock = self._stream_lock
        try:
            lock.acquire_nowait()
        except trio.WouldBlock:
            await lock.acquire()
        try:
            if self._close_reason is not None:  # nothing may follow a close frame
                raise self.ending()
            if not gives_way and self._replay is not None:
                sent = self._replay.send_nowait(frames)
                if sent == len(frames):
                    return
                frames = frames[sent:]
            await self._stream.send_all(frames)
        except GONE:
            await self._abort_web_socket()
            raise self.ending() from None
        finally:
            lock.release()

    async def close(self, code: int, reason: str) -> None:
        with trio.move_on_after(self.limits.close_seconds):
            try:
                await self.begin_close(code, reason)
            except ConnectionClosed:
                return
            if self.state is not ConnectionState.CONNECTING:
                await self._close_handshake.wait()

    async def begin_close(self, code: int, reason: str) -> None:
        """Send a close frame, unless that has happened. Raises `ConnectionClosed`."""
        if self._close_reason is not None or self.state is not ConnectionState.OPEN:
            return
        self._close_reason = CloseReason(code, reason or None)
        self.close_by = trio.current_time() + self.limits.close_seconds
        self.wake()
        self._recv_channel.close()
        await self._send(CloseConnection(code=code, reason=reason))

    def wake(self) -> None:
        """Have the reader find out anew how long it may wait."""
        if self.waiting is not None:
            self.waiting.cancel()

    # -- what the reader task meets ----------------------------------------------------------------

    @property
    def is_long(self) -> bool:
        """Whether a message is coming that is long, as far as it has come."""
        return len(self._message) >= LONG and self.state is ConnectionState.OPEN

    async def parse(self, data: bytes) -> None:
        """Have what the reader task is given next parsed before, beside the event loop."""
        assert isinstance(self._wsproto, _Protocol)
        if self.bodies is not None:
            await self.bodies.read(len(data), partial(self._wsproto.parse, data))

    async def _handle_message_event(self, event: BytesMessage | TextMessage) -> None:
        await self._breathe()
        if self._close_reason is not None:
            return
        if isinstance(event, BytesMessage):
            await self._refuse(ONLY_TEXT, "Messages must be text.")
            return
        # In one piece, for a list of fragments grows by more than they hold, and by something for
        # each that holds nothing; and as bytes, for a text takes up to four for each character.
        self._message += event.data.encode()
        if len(self._message) > self._max_message_size:
            reason = f"A message may have {self._max_message_size} bytes."
            await self._refuse(TOO_BIG, reason)
        elif not await self._has_room():
            await self._refuse(TRY_LATER, "There is no room for so long a message now.")
        elif event.message_finished:
            await self._take()
        else:
            if self._begun_at is None:
                self._begun_at = trio.current_time()
            limits = self.limits
            if limits.min_bytes_per_second:
                allowed = limits.stall_seconds + len(self._message) / limits.min_bytes_per_second
                self.message_due = self._begun_at + allowed

    async def _has_room(self) -> bool:
        """Whether what has come of the message is in the room that all share."""
        length = len(self._message)
        if self.bodies is None or length < LONG:
            return True
        if self._share is None:
            self._share = self.bodies.share()
        if length <= self._share.taken:
            return True
        waited_since = trio.current_time()
        try:
            await self._share.grow_to(min(length + STEP, self._max_message_size))
        except Overloaded:
            return False
        finally:
            if self._begun_at is not None:  # this was not the client's time
                self._begun_at += trio.current_time() - waited_since
        return True

    async def _take(self) -> None:
        message, self._message = self._message, bytearray()
        self._begun_at = None
        self.message_due = math.inf
        self.used_at = trio.current_time()
        self._shares.append(self._share)
        self._share = None
        with suppress(*GONE):  # no peer reads it: the connection was closed meanwhile
            await self._send_channel.send(cast(bytes, message))  # not copied

    async def _refuse(self, code: int, reason: str) -> None:
        self._message = bytearray()
        self._begun_at = None
        self.message_due = math.inf
        log.debug("websocket_refused", code=code, reason=reason)
        await self.begin_close(code, reason)

    async def _handle_ping_event(self, event: Ping) -> None:
        await self._breathe()
        if self.state is ConnectionState.OPEN:  # else no pong is due, nor can wsproto make one
            await self._send(event.response())

    async def _handle_pong_event(self, event: Pong) -> None:
        await self._breathe()  # that it came is enough

    async def _handle_close_connection_event(self, event: CloseConnection) -> None:
        match self.state:
            case ConnectionState.OPEN:
                # No close frame of the client's: wsproto's word for what is no WebSocket.
                await self._refuse(event.code, event.reason or "")
            case ConnectionState.REMOTE_CLOSING:
                self._close_reason = CloseReason(event.code, event.reason or None)
                await self._send(event.response())
                self._send_channel.close()
        # The stream is left open: what is below it knows how to let the client read to the end.
        self._reader_running = False
        self._close_handshake.set()

    async def _breathe(self) -> None:
        self._frames += 1
        if self._frames % BREATH == 0:
            await trio.lowlevel.checkpoint()


class _Protocol(WSConnection):
    """wsproto's connection, which may have been given the next input before the reader task does.

    Of a megabyte, to unmask and decode it takes milliseconds. So a thread does that, piece by
    piece, while the reader task waits for it.
    """

    def __init__(self, kind: ConnectionType) -> None:
        super().__init__(kind)
        self._parsed: bytes | None = None
        self._found: deque[Event] = deque()

    def parse(self, data: bytes) -> None:
        """For a thread. `data` is the same object that `receive_data` gets next."""
        super().receive_data(data)
        self._found.extend(super().events())
        self._parsed = data

    def receive_data(self, data: bytes | None) -> None:
        if self._parsed is None or data is not self._parsed:
            super().receive_data(data)
        self._parsed = None

    def events(self) -> Generator[Event, None, None]:
        while self._found:
            yield self._found.popleft()
        yield from super().events()


class _Heartbeat(trio.abc.Stream):
    """The stream below a connection, for its reader: does not wait for ever.

    The reader task itself keeps the time, so that a connection needs no further task; and while
    it waits for the application to take a message, the client's silence is not the client's.
    """

    def __init__(self, stream: trio.abc.Stream, connection: _Connection) -> None:
        self._stream = stream
        self._connection = connection

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Raises `trio.BrokenResourceError` also for a client that is not there any more."""
        connection = self._connection
        asked = False
        received_at = trio.current_time()
        while True:
            is_long, data = connection.is_long, None
            with trio.CancelScope() as connection.waiting:
                connection.waiting.deadline = self._patience(received_at, asked)
                most = MOST_READ_BYTES if is_long else max_bytes
                data = bytes(await self._stream.receive_some(most))
            if data is not None:
                if is_long and len(data) >= LONG:
                    await connection.parse(data)
                return data
            try:
                asked = await self._stir(received_at, asked)
            except ConnectionClosed:
                raise trio.BrokenResourceError("the connection broke") from None

    def _patience(self, received_at: float, asked: bool) -> float:
        connection = self._connection
        if connection.state is not ConnectionState.OPEN:
            return connection.close_by
        limits = connection.limits
        silent_at = received_at + limits.ping_seconds + (limits.pong_seconds if asked else 0)
        if limits.ping_seconds > TOGETHER:
            # The many are asked together: waking once for all is most of what asking costs.
            silent_at = math.ceil(silent_at / TOGETHER) * TOGETHER
        return min(silent_at, connection.idle_at, connection.message_due)

    async def _stir(self, received_at: float, asked: bool) -> bool:
        """Do what is due now that nothing came; returns whether the client has been sent a ping."""
        connection = self._connection
        now = trio.current_time()
        if now >= connection.close_by:
            raise trio.BrokenResourceError("the client did not answer a close frame")
        if connection.state is not ConnectionState.OPEN or now < self._patience(received_at, asked):
            return asked  # a deadline was moved meanwhile
        if now >= connection.message_due:
            connection.message_due = math.inf
            await connection.begin_close(REFUSED, "The rest of a message came too slowly.")
        elif now >= connection.idle_at:
            await connection.begin_close(GOING_AWAY, "Idle timeout.")
        elif asked:
            raise trio.BrokenResourceError("the client did not answer a ping")
        else:
            with suppress(WebSocketClosed):  # which the reading will notice
                await connection.send_frames(PING)
        return True

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self._stream.aclose()
