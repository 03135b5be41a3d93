"""HTTP/1.1 and HTTP/2 on one connection: hypercorn's protocols, with their gaps closed.

Knows: hypercorn 0.18 and h2 from the inside, here and in no other module (hence the pin
``hypercorn<0.19``; `tests/house/test_foreign_internals.py` names all that this relies on). Refuses
to know: sockets, deadlines of the connection, what the application does. `Carrier` is all that it
asks of the connection below.

What differs from hypercorn, in HTTP/1.1:

- A request that cannot be parsed is answered with the OpenAI error envelope, not with an empty
  body, and the limit on a request head is exact.
- A WebSocket handshake goes to the front door (`WebSocketRequested`), also as a later request of a
  connection; hypercorn never handles a WebSocket.
- ``Upgrade: h2c``, deprecated by RFC 9113 section 3.1, is ignored: behind a proxy it smuggles
  requests.
- What two servers could read differently is refused, and ends the connection
  (`transport.http.request_checks`).
- Pipelined input does not keep the reader from noticing that the client hung up.

And in HTTP/2:

- A client that opens no flow-control window stops the application, and is given up like one that
  stops reading; hypercorn would buffer without end.
- A stream ends with RST_STREAM where its response was cut short or its upload is not wanted.
- Input for a finished stream does not end the connection.
- When the connection ends, no application keeps waiting for its bytes to leave.
- A WebSocket (RFC 8441) is not offered, and refused with HTTP_1_1_REQUIRED.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from logging import getLogger
from math import inf
from typing import Any, Protocol, cast

import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings
import h11
import trio
from attrs import frozen
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol import events as stream_events
from hypercorn.protocol.h2 import BUFFER_HIGH_WATER, H2Protocol
from hypercorn.protocol.h11 import STREAM_ID, H11Protocol
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState
from starlette.types import Message, Scope

from ...schemas.errors import CallerError, GatewayError, NotImplementedHere, UpgradeRequired
from .exchange import RequestTimedOut, error_response
from .request_checks import (
    asks_for_websocket,
    framing_error,
    handshake_error,
    has_folded_line,
    head_of,
    in_origin_form,
    invalid_http,
    plain,
)

Send = Callable[[Message | None], Awaitable[None]]
"""The protocol's side of an ASGI `send`; None: the application has returned."""

FRAME_HEAD_BYTES = 9  # RFC 9113 section 4.1


@frozen(kw_only=True)
class HttpLimits:
    """What one connection may take of time and memory. Times in seconds, sizes in bytes.

    `stall_seconds`: a client that takes no byte of a response, or sends none of an announced
    request body, for so long is treated as gone. `min_body_bytes_per_second`: the least rate of a
    request body, on average and beyond the first `stall_seconds`. `head_timeout_seconds`: a TLS
    handshake, and a request head from its first byte, must be complete within this.
    `keep_alive_seconds`: how long a connection may wait for its next request. `max_header_bytes`:
    of a request head. `max_streams`: requests at once on one HTTP/2 connection.
    """

    stall_seconds: float = 30.0
    min_body_bytes_per_second: float = 8192.0
    head_timeout_seconds: float = 10.0
    keep_alive_seconds: float = 75.0
    max_header_bytes: int = 65536
    max_streams: int = 100


@frozen(kw_only=True)
class Peer:
    """Both ends of a connection, as ASGI has them: (address, port), or None for a local socket."""

    client: tuple[str, int] | None
    server: tuple[str, int] | None
    tls: bool


class ProtocolContext:
    """What the protocols of all connections share: the limits, and whether the server stops."""

    def __init__(self, limits: HttpLimits) -> None:
        self.limits = limits
        self.config = _hypercorn_config(limits)
        self.worker = WorkerContext(max_requests=None)

    @property
    def stopping(self) -> bool:
        return self.worker.terminated.is_set()

    async def stop(self) -> None:
        """Take no further request on any connection."""
        await self.worker.terminated.set()


def _hypercorn_config(limits: HttpLimits) -> Config:
    """It reads no file, keeps no access log, and names no server; its few log lines go to the
    logger of the front door."""
    config = Config()
    config.accesslog = None
    config.errorlog = getLogger("ccapi.front_door")
    config.include_server_header = False
    config.h11_max_incomplete_size = limits.max_header_bytes
    config.h2_max_header_list_size = limits.max_header_bytes
    config.h2_max_concurrent_streams = limits.max_streams
    # hypercorn ends an HTTP/2 connection of so many requests with all that is running on it.
    config.keep_alive_max_requests = cast(int, inf)
    return config


class Carrier(Protocol):
    """What a protocol asks of the connection that carries it."""

    @property
    def peer(self) -> Peer: ...

    corked: list[bytes] | None
    """Where bytes are put to be written together; None: they are written one by one."""

    async def write(self, data: bytes) -> None:
        """Write past what is corked. Returns for a client that has gone, too."""

    async def flush(self) -> None:
        """Write what is corked."""

    def note_idle(self, idle: bool) -> None:
        """Whether the connection is between requests has changed."""

    def finish(self) -> None:
        """Nothing follows on this connection."""

    def spawn(self, function: Callable[..., Awaitable[object]], *args: Any) -> None:
        """Run a task for as long as the connection lasts."""

    def start_request(self, scope: Scope, send: Send) -> Callable[[Message], Awaitable[None]]:
        """Run the application for a request, and return what takes the messages of its client.
        Raises `trio.BrokenResourceError` for a client that abandons too many requests."""


class WebSocketRequested(Exception):
    """The client wants a WebSocket. `data`: the request head as bytes, and what came after it."""

    def __init__(self, data: bytes) -> None:
        super().__init__("WebSocket handshake")
        self.data = data


class Http2Requested(Exception):
    """The client speaks HTTP/2 without having asked (RFC 9113 section 3.3). `data`: all input."""

    def __init__(self, data: bytes) -> None:
        super().__init__("HTTP/2 by prior knowledge")
        self.data = data


class HeadTooLarge(CallerError):
    status = 431
    default_code = "headers_too_large"


class _Carried:
    """What hypercorn's protocols call: their ``send`` and their ``TaskGroup``, for a `Carrier`."""

    _carrier: Carrier

    async def handle(self, event: Event) -> None:
        raise NotImplementedError

    def _arguments(self, context: ProtocolContext) -> tuple[Any, ...]:
        """Those of hypercorn's constructors. It passes the application on without a look at it."""
        peer = self._carrier.peer
        return (
            None, context.config, context.worker, self, ConnectionState({}),
            peer.tls, peer.client, peer.server, self._take,
        )  # fmt: skip

    async def _take(self, event: Event) -> None:
        carrier = self._carrier
        if isinstance(event, RawData):
            if carrier.corked is None:
                await carrier.write(event.data)
            else:
                carrier.corked.append(event.data)
            return
        await carrier.flush()
        if isinstance(event, Updated):
            carrier.note_idle(event.idle)
        elif isinstance(event, Closed):
            carrier.finish()
            await self.handle(Closed())

    def spawn(self, function: Callable[..., Awaitable[object]], *args: Any) -> None:
        self._carrier.spawn(function, *args)

    async def spawn_app(
        self, app: object, config: Config, scope: Scope, send: Send
    ) -> Callable[[Message], Awaitable[None]]:
        return self._carrier.start_request(scope, send)


# -- HTTP/1.1 --------------------------------------------------------------------------------------


class Http1(H11Protocol, _Carried):
    """The server side of HTTP/1.1 (RFC 9112) on one connection."""

    connection: h11.Connection

    def __init__(self, context: ProtocolContext, carrier: Carrier) -> None:
        self._carrier = carrier
        self._has_no_body = False  # the response to what was asked last
        self._is_chunked = False
        super().__init__(*self._arguments(context))

    async def begin(self) -> None:
        await self.initiate()

    def chunk_of(self, data: bytes) -> bytes | None:
        """A piece of the body as it is written while the response is under way; None: by h11 alone.

        A streamed answer is made of small pieces. To h11 a chunk changes nothing, and making one
        is the most of what a piece costs there."""
        if self._is_chunked and data and self.connection.our_state is h11.SEND_BODY:
            return b"%x\r\n%b\r\n" % (len(data), data)
        return None

    async def receive(self, data: bytes) -> None:
        """Take input. Raises `WebSocketRequested` and `Http2Requested`."""
        self.connection.receive_data(data)
        await self._handle_events()

    @property
    def waiting_bytes(self) -> int:
        """Input that has not been parsed: part of a head, or pipelined behind a response."""
        return len(self.connection.trailing_data[0])

    async def resume(self) -> None:
        """Go on with input that was waiting for the end of a response. Raises as `receive`."""
        await self._handle_events()

    async def refuse_slow_head(self) -> None:
        await self._refuse(RequestTimedOut("The request head did not come in time."))

    async def end(self) -> None:
        """The client has hung up: the application of a request in flight learns of it."""
        await self.handle(Closed())

    async def _handle_events(self) -> None:
        while True:
            if self.connection.they_are_waiting_for_100_continue:
                await self._send_h11_event(
                    h11.InformationalResponse(status_code=100, headers=[], reason=b"Continue")
                )
            if self.connection.their_state is h11.IDLE and has_folded_line(
                self.connection.trailing_data[0]
            ):
                await self._refuse(invalid_http("a header line is folded"))
                return
            try:
                event = self.connection.next_event()
            except h11.RemoteProtocolError as error:
                await self._refuse(self._error_of(error))
                return
            if isinstance(event, h11.Request):
                await self._carrier.flush()
                self._carrier.note_idle(False)
                await self._begin(event)
            elif isinstance(event, h11.Data) and self.stream is not None:
                body = stream_events.Body(stream_id=STREAM_ID, data=event.data)
                await self.stream.handle(body)
            elif isinstance(event, h11.EndOfMessage) and self.stream is not None:
                await self.stream.handle(stream_events.EndBody(stream_id=STREAM_ID))
            else:
                # NEED_DATA; or PAUSED, with the next request waiting for this one's response
                # (`resume`); or no application is left that takes what comes.
                return

    def _error_of(self, error: h11.RemoteProtocolError) -> GatewayError:
        if error.error_status_hint == HeadTooLarge.status:
            return self._head_too_large()
        if error.error_status_hint == NotImplementedHere.status:
            return NotImplementedHere(f"The request cannot be read: {plain(error)}.")
        return invalid_http(plain(error))

    def _head_too_large(self) -> GatewayError:
        limit = self.config.h11_max_incomplete_size
        return HeadTooLarge(f"The request head is larger than {limit} bytes.")

    async def _begin(self, request: h11.Request) -> None:
        self._has_no_body = request.method == b"HEAD"
        if request.method == b"PRI" and request.target == b"*" and request.http_version == b"2.0":
            raise Http2Requested(b"PRI * HTTP/2.0\r\n\r\n" + self.connection.trailing_data[0])
        reason = framing_error(request)
        if reason is None:
            request, reason = in_origin_form(request)
        if reason is not None:
            code = "invalid_handshake" if asks_for_websocket(request) else "invalid_http"
            await self._refuse(invalid_http(reason, code))
            return
        head = head_of(request)
        # h11 bounds a head that is incomplete; one that came whole in one read can be larger.
        if len(head) > self.config.h11_max_incomplete_size:
            await self._refuse(self._head_too_large())
        elif asks_for_websocket(request):
            error = handshake_error(request, head)
            if error is None:
                raise WebSocketRequested(head + self.connection.trailing_data[0])
            await self._refuse(error)
        else:
            await self._create_stream(request)

    async def _refuse(self, error: GatewayError) -> None:
        """Answer with `error`, where no response has begun, and end the connection."""
        if self.connection.our_state in {h11.IDLE, h11.SEND_RESPONSE}:
            headers, body = error_response(error)
            headers += [(b"connection", b"close"), *self.config.response_headers("h11")]
            if isinstance(error, UpgradeRequired):
                headers.append((b"sec-websocket-version", b"13"))
            response = self.connection.send(h11.Response(status_code=error.status, headers=headers))
            # Sent past h11, which would count the body of a response to HEAD as our error.
            await self._take(RawData(data=response + body))
        await self._take(Closed())

    # -- what hypercorn calls ----------------------------------------------------------------------

    async def _send_h11_event(self, event: Any) -> None:
        try:
            data = self.connection.send(event)
        except h11.LocalProtocolError:
            if self.connection.their_state is not h11.ERROR:
                raise
            return
        if isinstance(event, h11.Response):
            is_chunked = b"\r\ntransfer-encoding: chunked\r\n" in data.lower()
            self._is_chunked = is_chunked and not self._has_no_body
        if self._carrier.corked is None:
            await self._carrier.write(data)
        else:
            self._carrier.corked.append(data)

    async def _maybe_recycle(self) -> None:
        # The response is over. Next the application learns that its client is gone, and may cancel
        # a write; so what was sent has to be on its way before.
        await self._carrier.flush()
        await super()._maybe_recycle()


# -- HTTP/2 ----------------------------------------------------------------------------------------


class Http2(H2Protocol, _Carried):
    """The server side of HTTP/2 (RFC 9113) on one connection.

    Responses are written by a task of their own (`send_task`); the tasks of applications wait
    here, in `stream_send`, until their bytes have left for the client.
    """

    def __init__(self, context: ProtocolContext, carrier: Carrier) -> None:
        self._carrier = carrier
        super().__init__(*self._arguments(context))
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
        self._stall_seconds = context.limits.stall_seconds
        self._waiting: dict[int, _Waiter] = {}
        self._uploading: set[int] = set()
        self._answered: set[int] = set()

    async def begin(self) -> None:
        await self.initiate()

    async def receive(self, data: bytes) -> None:
        """Take input."""
        await self.handle(RawData(data=data))

    async def end(self) -> None:
        """Says good-bye; the applications of requests in flight learn of the hang-up."""
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
            await self._take(Closed())

    def _begun_frame_is_too_large(self) -> bool:
        """h2 collects a frame, of up to 16 MiB, before it looks at the length it announced."""
        begun = len(self.connection.incoming_buffer._data)  # noqa: SLF001
        return begun > FRAME_HEAD_BYTES + self.connection.max_inbound_frame_size

    async def _handle_events(self, events: list[h2.events.Event]) -> None:
        for event in events:
            if isinstance(event, h2.events.RequestReceived):
                if (error := _request_error(event)) is not None:
                    self.connection.reset_stream(event.stream_id, error)
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
                await self._take(Updated(idle=self.idle))
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
            await self._take(Updated(idle=self.idle))

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


def _request_error(event: h2.events.RequestReceived) -> h2.errors.ErrorCodes | None:
    for name, value in event.headers or ():
        if name == b":method" and value == b"CONNECT":
            return h2.errors.ErrorCodes.HTTP_1_1_REQUIRED
        if name in {b":method", b":path"} and not value.isascii():
            return h2.errors.ErrorCodes.PROTOCOL_ERROR
    return None
