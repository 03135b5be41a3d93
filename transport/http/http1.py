"""HTTP/1.1 as this gateway speaks it: hypercorn's protocol, with its gaps closed.

Knows: `hypercorn.protocol.h11` from the inside (hence the pin ``hypercorn<0.19``), h11, what a
WebSocket handshake must be. Refuses to know: sockets, deadlines, what the application does.

What differs from hypercorn 0.18:

- A request that cannot be parsed is answered with the OpenAI error envelope, not with an empty
  body, and the limit on a request head is exact.
- A WebSocket handshake leaves for the front door (`WebSocketRequested`), also as a later request
  of a connection; hypercorn never handles a WebSocket.
- ``Upgrade: h2c``, deprecated by RFC 9113 section 3.1, is ignored: behind a proxy it smuggles
  requests.
- What two servers could read differently is refused, and ends the connection: a length beside a
  transfer coding, one in HTTP/1.0, a folded header line, a host that is none.
- A request target may have the absolute form (RFC 9112 section 3.2.2), as proxies are sent it.
- Pipelined input does not keep the reader from noticing that the client hung up.
"""

from __future__ import annotations

import re

import h11
import wsproto
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol.events import Body, EndBody, StreamClosed
from hypercorn.protocol.events import Event as StreamEvent
from hypercorn.protocol.h11 import STREAM_ID, H2ProtocolAssumedError, H11Protocol
from wsproto.utilities import RemoteProtocolError as HandshakeRefused

from ...schemas.errors import (
    CallerError,
    GatewayError,
    InvalidRequest,
    NotImplementedHere,
    UpgradeRequired,
)
from ...schemas.hosts import is_authority
from .exchange import RequestTimedOut, error_response


class HeadTooLarge(CallerError):
    status = 431
    default_code = "headers_too_large"


class WebSocketRequested(Exception):
    """The client wants a WebSocket. `data`: the request head as bytes, and what came after it."""

    def __init__(self, data: bytes) -> None:
        super().__init__("WebSocket handshake")
        self.data = data


class Flush(Event):
    """What was said so far has to be on its way before anything else is done."""


class Http1(H11Protocol):
    """The server side of HTTP/1.1 (RFC 9112) on one connection."""

    connection: h11.Connection

    async def stream_send(self, event: StreamEvent) -> None:
        if isinstance(event, StreamClosed):
            # Next the application hears that its client is gone, and may cancel a write.
            await self.send(Flush())
        await super().stream_send(event)

    @property
    def waiting_bytes(self) -> int:
        """Input that has not been parsed: part of a head, or pipelined behind a response."""
        return len(self.connection.trailing_data[0])

    async def resume(self) -> None:
        """Goes on with input that was waiting for the end of a response."""
        await self._handle_events()

    async def refuse_slow_head(self) -> None:
        await self._refuse(RequestTimedOut("The request head did not come in time."))

    async def end(self) -> None:
        """Tells the application of a request in flight that its client hung up."""
        await self.handle(Closed())

    async def _handle_events(self) -> None:
        while True:
            if self.connection.they_are_waiting_for_100_continue:
                await self._send_h11_event(
                    h11.InformationalResponse(status_code=100, headers=[], reason=b"Continue")
                )
            if self.connection.their_state is h11.IDLE and self._has_folded_line():
                # h11 would join it to the line before, and others would not (RFC 9112 section 5.2).
                await self._refuse(_invalid("a header line is folded"))
                return
            try:
                event = self.connection.next_event()
            except h11.RemoteProtocolError as error:
                await self._refuse(self._fault(error))
                return
            if isinstance(event, h11.Request):
                await self.send(Updated(idle=False))
                await self._begin(event)
            elif isinstance(event, h11.Data) and self.stream is not None:
                await self.stream.handle(Body(stream_id=STREAM_ID, data=event.data))
            elif isinstance(event, h11.EndOfMessage) and self.stream is not None:
                await self.stream.handle(EndBody(stream_id=STREAM_ID))
            else:
                # NEED_DATA; or PAUSED, with the next request waiting for this one's response
                # (`resume`); or no application is left to take what comes.
                return

    def _has_folded_line(self) -> bool:
        """Whether one is in the head that comes next, if that is whole."""
        waiting = self.connection.trailing_data[0].lstrip(b"\r\n")
        end = _HEAD_END.search(waiting)
        return end is not None and _FOLD.search(waiting, 0, end.start()) is not None

    def _fault(self, error: h11.RemoteProtocolError) -> GatewayError:
        if error.error_status_hint == HeadTooLarge.status:
            return self._head_too_large()
        if error.error_status_hint == NotImplementedHere.status:
            return NotImplementedHere(f"The request cannot be read: {_plain(error)}.")
        return _invalid(_plain(error))

    def _head_too_large(self) -> GatewayError:
        limit = self.config.h11_max_incomplete_size
        return HeadTooLarge(f"The request head is larger than {limit} bytes.")

    async def _begin(self, request: h11.Request) -> None:
        if request.method == b"PRI" and request.target == b"*" and request.http_version == b"2.0":
            raise H2ProtocolAssumedError(
                b"PRI * HTTP/2.0\r\n\r\n" + self.connection.trailing_data[0]
            )
        fault = _fault_of_framing(request)
        if fault is None:
            request, fault = _in_origin_form(request)
        if fault is not None:
            code = "invalid_handshake" if _asks_for_websocket(request) else "invalid_http"
            await self._refuse(_invalid(fault, code))
            return
        head = _head_of(request)
        # h11 bounds a head that is incomplete; one that came whole in one read can be larger.
        if len(head) > self.config.h11_max_incomplete_size:
            await self._refuse(self._head_too_large())
        elif _asks_for_websocket(request):
            refusal = _fault_of_handshake(request, head)
            if refusal is None:
                raise WebSocketRequested(head + self.connection.trailing_data[0])
            await self._refuse(refusal)
        else:
            await self._create_stream(request)

    async def _refuse(self, error: GatewayError) -> None:
        """Answers with `error`, where no response has begun, and ends the connection."""
        if self.connection.our_state in {h11.IDLE, h11.SEND_RESPONSE}:
            headers, body = error_response(error)
            headers += [(b"connection", b"close"), *self.config.response_headers("h11")]
            if isinstance(error, UpgradeRequired):
                headers.append((b"sec-websocket-version", b"13"))
            response = self.connection.send(h11.Response(status_code=error.status, headers=headers))
            # Sent past h11, which would count the body of a response to HEAD as a fault of ours.
            await self.send(RawData(data=response + body))
        await self.send(Closed())


def _invalid(fault: str, code: str = "invalid_http") -> InvalidRequest:
    return InvalidRequest(f"The request is not valid HTTP: {fault}.", code=code)


_HEAD_END = re.compile(rb"\n\r?\n")
_FOLD = re.compile(rb"\n[ \t]")
_ABSOLUTE = re.compile(rb"https?://([^/?#]*)([^#]*)", re.IGNORECASE)


def _fault_of_framing(request: h11.Request) -> str | None:
    """Why it cannot be said where the request ends: RFC 9112 section 6.1 has such connections
    closed."""
    names = {name for name, _ in request.headers}
    if b"transfer-encoding" not in names:
        return None
    if b"content-length" in names:
        return "it has a length and a transfer coding"
    if request.http_version < b"1.1":
        return "HTTP/1.0 has no transfer codings"
    return None


def _in_origin_form(request: h11.Request) -> tuple[h11.Request, str | None]:
    """The request as if it had been sent to this server directly, or what is wrong with it.

    The host of an absolute target takes the place of the header (RFC 9112 section 3.2.2)."""
    target, headers = request.target, request.headers.raw_items()
    if not target.startswith(b"/") and target != b"*" and request.method != b"CONNECT":
        absolute = _ABSOLUTE.fullmatch(target)
        if absolute is None or not absolute[1]:
            return request, "its target is neither a path nor an http URL"
        host, target = absolute[1], absolute[2]
        if not target.startswith(b"/"):
            target = b"/" + target
        headers = [item for item in headers if item[0].lower() != b"host"]
        headers.insert(0, (b"Host", host))
        request = h11.Request(
            method=request.method,
            target=target,
            headers=headers,
            http_version=request.http_version,
        )
    for name, value in request.headers:
        if name == b"host" and value and not is_authority(value):
            return request, "its host is none"
    return request, None


def _plain(error: Exception) -> str:
    """What a library says of the input, up to where it quotes it in Python's notation."""
    return re.split(r":? (?:bytearray\(|b['\"])", str(error), maxsplit=1)[0]


def _head_of(request: h11.Request) -> bytes:
    lines = [b"%s %s HTTP/%s\r\n" % (request.method, request.target, request.http_version)]
    lines += [b"%s: %s\r\n" % item for item in request.headers.raw_items()]
    return b"".join([*lines, b"\r\n"])


def _asks_for_websocket(request: h11.Request) -> bool:
    return request.method == b"GET" and any(
        name == b"upgrade" and value.strip().lower() == b"websocket"
        for name, value in request.headers
    )


def _fault_of_handshake(request: h11.Request, head: bytes) -> GatewayError | None:
    """Why this handshake would fail, or None. Found by a trial, for trio-websocket would answer
    without a body, or (a host that is no name, say) not answer at all."""
    for name, value in request.headers:
        if name == b"transfer-encoding" or (name == b"content-length" and value != b"0"):
            return InvalidRequest("A WebSocket handshake has no body.", code="invalid_handshake")
    try:
        wsproto.WSConnection(wsproto.ConnectionType.SERVER).receive_data(head)
    except HandshakeRefused as refused:
        if getattr(refused.event_hint, "status_code", None) == UpgradeRequired.status:
            return UpgradeRequired(
                "Only version 13 of the WebSocket protocol is spoken here.",
                code="unsupported_websocket_version",
            )
        fault = f"Not a WebSocket handshake: {_plain(refused)}."
        return InvalidRequest(fault, code="invalid_handshake")
    except UnicodeError:
        return InvalidRequest("A header is not readable text.", code="invalid_handshake")
    return None
