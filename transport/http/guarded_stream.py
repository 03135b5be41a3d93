"""Streams between a socket and a protocol: one that does not wait for ever, one that reads twice.

Knows: bytes, a stalled peer, how to close without cutting off what the peer has yet to read.
Refuses to know: HTTP, WebSocket, TLS.
"""

from __future__ import annotations

import os

import trio

GONE = (trio.BrokenResourceError, trio.ClosedResourceError)
"""What a stream raises when its peer has gone, or our end is closed."""


class GuardedStream(trio.abc.HalfCloseableStream):
    """A socket that gives up on a peer which stops reading.

    A `send_all` of which no byte was taken for `stall_seconds` raises `trio.BrokenResourceError`.
    Whatever ends a `send_all` early (a stall, a reset, a cancellation) also closes the socket:
    the caller's protocol believes that the bytes are on their way, so nothing may follow a gap.
    `close` is synchronous and wakes the task that is blocked on the stream with
    `trio.ClosedResourceError`; so a write that a caller shielded can still be ended from outside.
    """

    def __init__(
        self, stream: trio.SocketStream, stall_seconds: float, linger_seconds: float = 2.0
    ) -> None:
        self.socket = stream.socket
        self._stream = stream
        self._stall_seconds = stall_seconds
        self.linger_seconds = linger_seconds
        self._sending = False

    def __repr__(self) -> str:
        return f"<GuardedStream fd={self.socket.fileno()}{' sending' if self._sending else ''}>"

    @property
    def closed(self) -> bool:
        return self.socket.fileno() == -1

    def close(self) -> None:
        """Closes the socket at once. Idempotent."""
        self.socket.close()

    def send_nowait(self, data: bytes | bytearray | memoryview) -> int:
        """Write what the socket takes at once: so many bytes of `data`, maybe none.

        A streamed answer is made of small writes which all fit. To give way to the scheduler for
        each would resume, for each, every frame that waits for it. So this gives way to nothing:
        the caller has to, now and then; and it has to know that no task is in `send_all`. Raises
        as `send_all` does, and closes the socket then.
        """
        # The socket is non-blocking. Writing to its descriptor costs a fifth of what
        # trio.SocketStream.send_all costs, and a streamed answer is made of small writes.
        try:
            return os.write(self.socket.fileno(), data) if data else 0
        except BlockingIOError:
            return 0
        except OSError as error:
            if self.closed:
                raise trio.ClosedResourceError("this stream is closed") from None
            self.close()
            raise trio.BrokenResourceError(f"the connection broke: {error}") from error

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        if self._sending:
            raise trio.BusyResourceError("another task is sending on this stream")
        self._sending = True
        try:
            await trio.lowlevel.checkpoint_if_cancelled()
            sent = self.send_nowait(data)
            if sent == len(data):
                await trio.lowlevel.cancel_shielded_checkpoint()
            else:
                await self._send_patiently(memoryview(data)[sent:])
        except BaseException:
            self.close()
            raise
        finally:
            self._sending = False

    async def _send_patiently(self, rest: memoryview) -> None:
        deadline = trio.current_time() + self._stall_seconds
        while rest:
            with trio.CancelScope(deadline=deadline) as patience:
                await self._stream.wait_send_all_might_not_block()
            if patience.cancelled_caught:
                raise trio.BrokenResourceError(
                    f"the peer took no byte for {self._stall_seconds:g} s"
                )
            if sent := self.send_nowait(rest):
                rest = rest[sent:]
                deadline = trio.current_time() + self._stall_seconds

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        return bytes(await self._stream.receive_some(max_bytes))

    async def send_eof(self) -> None:
        await self._stream.send_eof()

    async def aclose(self) -> None:
        """Ends the sending side, lets the peer read what it was sent, and closes.

        A socket closed over unread input resets the connection, and a reset takes with it an
        answer the peer has not read yet (RFC 9112 section 9.6): a client still uploading would
        never see why it was refused. Input is therefore discarded until the peer closes too, for
        at most `linger_seconds`. When cancelled, closes at once.
        """
        try:
            with trio.move_on_after(self.linger_seconds):
                await self._stream.send_eof()
                while await self._stream.receive_some():
                    pass
        except (*GONE, trio.BusyResourceError):
            pass
        finally:
            self.close()


class ReplayStream(trio.abc.Stream):
    """A stream that first gives out `head`, which was read from `stream` before."""

    def __init__(self, head: bytes, stream: trio.abc.Stream) -> None:
        self.head = head
        self._head = memoryview(head)
        self._stream = stream
        self._guard = stream if isinstance(stream, GuardedStream) else None
        self.written = False
        """Whether anything was sent, that is, whether what was read has been answered."""

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        if not self._head:
            return bytes(await self._stream.receive_some(max_bytes))
        await trio.lowlevel.checkpoint()
        data, self._head = self._head[:max_bytes], self._head[max_bytes or len(self._head) :]
        return bytes(data)

    def send_nowait(self, data: bytes) -> int:
        """As `GuardedStream.send_nowait`; nothing where TLS is between."""
        self.written = True
        return 0 if self._guard is None else self._guard.send_nowait(data)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        self.written = True
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self._stream.aclose()
