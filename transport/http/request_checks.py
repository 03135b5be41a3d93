"""What is wrong with the head of an HTTP/1.1 request that h11 can parse.

Knows: what two servers could read differently, which is refused: a length beside a transfer coding,
a coding in HTTP/1.0, a folded header line, a host that is none; the absolute form of a target
(RFC 9112 section 3.2.2), as proxies are sent it; and what a WebSocket handshake must be. Refuses to
know: connections, and how an error is sent.
"""

from __future__ import annotations

import re

import h11
import wsproto
from wsproto.utilities import RemoteProtocolError as HandshakeRefused

from ...schemas.errors import GatewayError, InvalidRequest, UpgradeRequired
from ...schemas.hosts import split_authority

_HEAD_END = re.compile(rb"\n\r?\n")
_FOLD = re.compile(rb"\n[ \t]")
_ABSOLUTE = re.compile(rb"https?://([^/?#]*)([^#]*)", re.IGNORECASE)


def invalid_http(reason: str, code: str = "invalid_http") -> InvalidRequest:
    return InvalidRequest(f"The request is not valid HTTP: {reason}.", code=code)


def has_folded_line(waiting: bytes) -> bool:
    """Whether one is in the head at the beginning of `waiting`, if that head is whole.

    h11 would join it to the line before, and others would not (RFC 9112 section 5.2).
    """
    waiting = waiting.lstrip(b"\r\n")
    end = _HEAD_END.search(waiting)
    return end is not None and _FOLD.search(waiting, 0, end.start()) is not None


def framing_error(request: h11.Request) -> str | None:
    """Why it is not clear where the request ends: RFC 9112 section 6.1 has such connections
    closed."""
    names = dict(request.headers)
    if b"transfer-encoding" not in names:
        return None
    if b"content-length" in names:
        return "it has a length and a transfer coding"
    if request.http_version < b"1.1":
        return "HTTP/1.0 has no transfer codings"
    return None


def in_origin_form(request: h11.Request) -> tuple[h11.Request, str | None]:
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
        if name == b"host" and value and split_authority(value) is None:
            return request, "its host is none"
    return request, None


def plain(error: Exception) -> str:
    """What a library says of the input, up to where it quotes it in Python's notation."""
    return re.split(r":? (?:bytearray\(|b['\"])", str(error), maxsplit=1)[0]


def head_of(request: h11.Request) -> bytes:
    lines = [b"%s %s HTTP/%s\r\n" % (request.method, request.target, request.http_version)]
    lines += [b"%s: %s\r\n" % item for item in request.headers.raw_items()]
    return b"".join([*lines, b"\r\n"])


def asks_for_websocket(request: h11.Request) -> bool:
    return request.method == b"GET" and any(
        name == b"upgrade" and value.strip().lower() == b"websocket"
        for name, value in request.headers
    )


def handshake_error(request: h11.Request, head: bytes) -> GatewayError | None:
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
        reason = f"Not a WebSocket handshake: {plain(refused)}."
        return InvalidRequest(reason, code="invalid_handshake")
    except UnicodeError:
        return InvalidRequest("A header is not readable text.", code="invalid_handshake")
    return None
