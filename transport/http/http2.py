"""HTTP/2 as this gateway speaks it: hypercorn's protocol, with its gaps closed.

Knows: `hypercorn.protocol.h2` from the inside (hence the pin ``hypercorn<0.19``), h2. Refuses to
know: sockets, deadlines of the connection, what the application does.

What differs from hypercorn 0.18:

- A client that opens no flow-control window stops the application, and is given up like one that
  stops reading; hypercorn would buffer without end.
- A stream ends with RST_STREAM where its response was cut short or its upload is not wanted.
- Input for a finished stream does not end the connection.
- When the connection ends, no application keeps waiting for its bytes to leave.
- A WebSocket (RFC 8441) is not offered, and refused with HTTP_1_1_REQUIRED.
"""

from __future__ import annotations

from math import inf
from typing import Any

import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings
import trio
from hypercorn.events import Closed, Event, Updated
from hypercorn.protocol import events as stream_events
from hypercorn.protocol.h2 import BUFFER_HIGH_WATER, H2Protocol

FRAME_HEAD_BYTES = 9  # RFC 9113 section 4.1


class Http2(H2Protocol):
    """The server side of HTTP/2 (RFC 9113) on one connection.

    Responses are written by a task of their own (`send_task`); the tasks of applications wait
    here, in `stream_send`, until their bytes have left for the client.
    """

    def __init__(self, *args: Any, stall_seconds: float) -> None:
        super().__init__(*args)
        # As hypercorn sets them, without ENABLE_CONNECT_PROTOCOL: that would invite WebSockets.
        self.connection.local_settings = h2.settings.Settings(
            client=False,
            initial_values={
                h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS: (
                    self.config.h2_max_concurrent_streams
                ),
                h2.settings.SettingCodes.MAX_HEADER_LIST_SIZE: self.config.h2_max_header_list_size,
            },
        )
        self._stall_seconds = stall_seconds
        self._waiting: dict[int, _Waiter] = {}
        self._uploading: set[int] = set()
        self._answered: set[int] = set()

    async def end(self) -> None:
        """Says good-bye, and tells the applications of requests in flight of the hang-up."""
        if not self.closed:
            self.connection.close_connection()
            await self._flush()
        await self.handle(Closed())

    async def handle(self, event: Event) -> None:
        await super().handle(event)
        if isinstance(event, Closed):
            # The task that would have emptied them stops; no task may wait for it.
            for buffer in list(self.stream_buffers.values()):
                await buffer.close()
            for waiter in self._waiting.values():
                waiter.advance(inf)
        elif not self.closed and self._begun_frame_is_too_large():
            self.connection.close_connection(h2.errors.ErrorCodes.FRAME_SIZE_ERROR)
            await self._flush()
            await self.send(Closed())

    def _begun_frame_is_too_large(self) -> bool:
        """h2 collects a frame, of up to 16 MiB, before it looks at the length it announced."""
        begun = len(self.connection.incoming_buffer._data)  # noqa: SLF001
        return begun > FRAME_HEAD_BYTES + self.connection.max_inbound_frame_size

    async def _handle_events(self, events: list[h2.events.Event]) -> None:
        for event in events:
            if isinstance(event, h2.events.RequestReceived):
                if (refusal := _fault_of_request(event)) is not None:
                    self.connection.reset_stream(event.stream_id, refusal)
                    continue
                self._uploading.add(event.stream_id)
            elif isinstance(event, (h2.events.StreamEnded, h2.events.StreamReset)):
                self._uploading.discard(event.stream_id)
            elif isinstance(event, h2.events.DataReceived) and event.stream_id not in self.streams:
                # Answered before it was complete. Counted all the same, or the connection's
                # window would never open again.
                self.connection.acknowledge_received_data(
                    event.flow_controlled_length, event.stream_id
                )
                continue
            await super()._handle_events([event])
            if isinstance(event, h2.events.StreamReset):
                await self.send(Updated(idle=self.idle))
        await self._flush()

    async def stream_send(self, event: stream_events.Event) -> None:
        if isinstance(event, (stream_events.Body, stream_events.EndBody)):
            await self._send_body(event)
            return
        # Header compression has a state that all streams share, so these frames are never left
        # half-written because one application was cancelled. The stream below bounds the wait.
        with trio.CancelScope(shield=True):
            await super().stream_send(event)
            if isinstance(event, stream_events.StreamClosed):
                if event.stream_id not in self._answered:
                    await self._reset(event.stream_id, h2.errors.ErrorCodes.INTERNAL_ERROR)
                self._answered.discard(event.stream_id)

    async def _send_body(self, event: stream_events.Body | stream_events.EndBody) -> None:
        stream_id = event.stream_id
        if isinstance(event, stream_events.EndBody):
            self._answered.add(stream_id)
        elif self._unsent(stream_id) + len(event.data) < BUFFER_HIGH_WATER:
            await super().stream_send(event)  # does not wait
            await trio.lowlevel.checkpoint()
            return
        waiter = self._waiting[stream_id] = _Waiter(trio.current_time() + self._stall_seconds)
        try:
            with waiter.patience:
                await super().stream_send(event)
                # hypercorn stops waiting when it has tried to send, though the client's
                # flow-control window may have been shut.
                while self._unsent(stream_id) >= BUFFER_HIGH_WATER:
                    await waiter.progress.wait()
        finally:
            self._waiting.pop(stream_id, None)
        if waiter.patience.cancelled_caught:
            await self._reset(stream_id, h2.errors.ErrorCodes.CANCEL)
            await self._close_stream(stream_id)
            await self.send(Updated(idle=self.idle))

    def _unsent(self, stream_id: int) -> int:
        buffer = self.stream_buffers.get(stream_id)
        return 0 if buffer is None else len(buffer.buffer)

    async def _send_data(self, stream_id: int) -> None:
        unsent = self._unsent(stream_id)
        await super()._send_data(stream_id)
        waiter = self._waiting.get(stream_id)
        if waiter is not None and self._unsent(stream_id) < unsent:
            waiter.advance(trio.current_time() + self._stall_seconds)
        if stream_id not in self.stream_buffers and stream_id in self._uploading:
            # The whole response is out; RFC 9113 section 8.1 has this way to say "stop sending".
            await self._reset(stream_id, h2.errors.ErrorCodes.NO_ERROR)

    async def _reset(self, stream_id: int, code: h2.errors.ErrorCodes) -> None:
        self._uploading.discard(stream_id)
        try:
            self.connection.reset_stream(stream_id, code)
        except h2.exceptions.ProtocolError:
            return  # the client was faster, or the connection is closed
        if stream_id in self.stream_buffers:
            await self.stream_buffers[stream_id].close()
            await self._window_updated(stream_id)  # lets send_task forget the stream
        with trio.CancelScope(shield=True):
            await self._flush()


class _Waiter:
    """An application that waits for its client to take what was sent."""

    def __init__(self, deadline: float) -> None:
        self.patience = trio.CancelScope(deadline=deadline)
        self.progress = trio.Event()

    def advance(self, deadline: float) -> None:
        self.patience.deadline = deadline
        self.progress.set()
        self.progress = trio.Event()


def _fault_of_request(event: h2.events.RequestReceived) -> h2.errors.ErrorCodes | None:
    for name, value in event.headers or ():
        if name == b":method" and value == b"CONNECT":
            return h2.errors.ErrorCodes.HTTP_1_1_REQUIRED
        if name in {b":method", b":path"} and not value.isascii():
            return h2.errors.ErrorCodes.PROTOCOL_ERROR
    return None
