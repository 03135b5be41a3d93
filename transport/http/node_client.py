"""One node asks another over HTTP/1.1: a request with a whole body, a response in pieces.

Knows: connections, which are kept for the next request, and what it means when one breaks. Refuses
to know: which node is asked what, and what the response says.

It reads HTTP/1.1 as this gateway's own server writes it, and refuses all else: a streamed answer
comes in hundreds of pieces, and each costs what lies between two nodes. What is there of it is
passed on together, and never waited for more.
"""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from functools import lru_cache
from typing import Protocol
from urllib.parse import urlsplit

import trio
from attrs import define, frozen

from ...schemas.errors import InvalidRequest

Headers = Sequence[tuple[bytes, bytes]]
Fields = list[tuple[bytes, bytes]]

READ_BYTES = 65536
MAX_HEAD_BYTES = 128 * 1024
MAX_LINE_BYTES = 4096
"""Of the line before a chunk, or of a trailer."""

_STATUS = re.compile(rb"HTTP/1\.1 ([1-5]\d\d)(?: |$)")
_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEXADECIMAL = re.compile(rb"[0-9A-Fa-f]{1,15}")

MAX_IDLE = 32
"""Connections to one node that are kept for later requests."""

IDLE_SECONDS = 60.0
"""How long they are kept: less than the other node keeps them (`HttpLimits.keep_alive_seconds`).
One that it closed just when it is used again would be a request whose fate is not known."""


class NodeGone(Exception):
    """The node cannot be reached, or broke off. `was_asked`: it may have received the request."""

    def __init__(self, reason: str, *, was_asked: bool) -> None:
        super().__init__(reason)
        self.was_asked = was_asked


@frozen
class Place:
    """Where a node listens."""

    host: str
    port: int
    tls: bool

    @classmethod
    def of(cls, url: str) -> Place:
        """`url`: ``http[s]://host[:port]``, without a path."""
        return _place_of(url)


@lru_cache(maxsize=256)
def _place_of(url: str) -> Place:
    parts = urlsplit(url)
    tls = parts.scheme == "https"
    return Place(parts.hostname or "", parts.port or (443 if tls else 80), tls)


async def connect(
    place: Place, seconds: float, tls: ssl.SSLContext | None = None
) -> tuple[trio.SocketStream | trio.SSLStream[trio.SocketStream], trio.socket.SocketType]:
    """A connection to the node there, and the socket below it. Raises `NodeGone`."""
    try:
        with trio.fail_after(seconds):
            stream = await trio.open_tcp_stream(place.host, place.port)
            stream.setsockopt(trio.socket.IPPROTO_TCP, trio.socket.TCP_NODELAY, 1)
            if not place.tls:
                return stream, stream.socket
            context = tls or ssl.create_default_context()
            secure = trio.SSLStream(stream, context, server_hostname=place.host)
            try:
                await secure.do_handshake()
            except BaseException:
                stream.socket.close()
                raise
            return secure, stream.socket
    except (OSError, trio.TooSlowError, trio.BrokenResourceError) as error:
        reason = str(error) or "it did not take the connection in time"
        raise NodeGone(reason, was_asked=False) from error


@define(eq=False)
class _Connection:
    stream: trio.abc.Stream
    socket: trio.socket.SocketType
    is_plain: bool
    unread: bytes = b""
    idle_since: float = 0.0

    @property
    def is_fresh(self) -> bool:
        """Whether the other side has not closed it, nor said anything, since the last response."""
        try:
            return not self.unread and not self.socket.is_readable()
        except OSError:
            return False

    async def read(self) -> bytes:
        """What comes next; nothing at the end. Raises `NodeGone`."""
        try:
            if not self.is_plain:
                return bytes(await self.stream.receive_some(READ_BYTES))
            # A streamed answer is made of small pieces, each of which is waited for: half of what
            # it costs to wait and read by way of the stream.
            file = self.socket.fileno()
            while True:
                await trio.lowlevel.wait_readable(file)
                with suppress(BlockingIOError):
                    return os.read(file, READ_BYTES)
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise _broke_off(str(error)) from error

    async def read_more(self) -> None:
        """Have more in `unread`. Raises `NodeGone`, also at the end."""
        more = await self.read()
        if not more:
            raise _broke_off("it closed the connection")
        self.unread += more


class NodeResponse:
    """The response to one request: its head, then its body in pieces as they come. `is_whole`: it
    was read to its end."""

    def __init__(self, connection: _Connection, method: str, status: int, headers: Fields) -> None:
        """Raises `NodeGone`."""
        self.status = status
        self.headers = headers
        self.is_whole = False
        self.is_last = False
        """Whether the connection serves no other request."""
        self._connection = connection
        self._body: _Body = _UntilClose()
        has_none = method == "HEAD" or status in (204, 304)
        length: bytes | None = b"0" if has_none else None
        for name, value in headers:
            if name == b"connection":
                self.is_last = self.is_last or b"close" in value.lower()
            elif has_none:
                continue
            elif name == b"content-length":
                length = value
            elif name == b"transfer-encoding":
                if value.lower() != b"chunked":
                    raise _broke_off("its response is in another coding")
                self._body = ChunkedBody()
        if length is not None and not isinstance(self._body, ChunkedBody):
            if not (length.isdigit() and len(length) < 20):
                raise _broke_off("its response has no length")
            self._body = _Counted(int(length))

    async def receive(self) -> bytes:
        """What has come of the body by now, at least one byte; none at the end. Raises
        `NodeGone`."""
        connection, body = self._connection, self._body
        while not self.is_whole:
            try:
                piece, connection.unread = body.take(connection.unread)
            except ValueError as error:
                raise _broke_off(str(error)) from error
            self.is_whole = body.is_over
            if piece:
                return piece
            if not self.is_whole:
                more = await connection.read()
                if not more:
                    if not isinstance(body, _UntilClose):
                        raise _broke_off("it closed the connection")
                    self.is_whole = self.is_last = True
                connection.unread += more
        return b""


class _Body(Protocol):
    """What a response's body is taken out of. `is_over`: nothing more is the body's."""

    @property
    def is_over(self) -> bool: ...

    def take(self, data: bytes) -> tuple[bytes, bytes]:
        """What of `data` is the body's content, and what has to wait for more. Raises
        `ValueError`."""
        ...


class ChunkedBody:
    """See `_Body`. RFC 9112, section 7.1; trailers are read and dropped."""

    def __init__(self) -> None:
        self.is_over = False
        self._left = 0  # of the chunk
        self._is_behind = False  # a chunk, before its line end
        self._is_trailing = False

    def take(self, data: bytes) -> tuple[bytes, bytes]:
        pieces: list[bytes] = []
        at = 0
        while not self.is_over:
            if self._left:
                piece = data[at : at + self._left]
                pieces.append(piece)
                at += len(piece)
                self._left -= len(piece)
                if self._left:
                    break
            end = data.find(b"\r\n", at)
            if end < 0 or (self._is_behind and end > at):
                if len(data) - at > (1 if self._is_behind else MAX_LINE_BYTES):
                    raise ValueError("its response is not chunked as it says")
                break
            line, at = data[at:end], end + 2
            if self._is_behind:
                self._is_behind = False
            elif self._is_trailing:
                self.is_over = not line
            else:
                size = line.partition(b";")[0].strip()
                if not _HEXADECIMAL.fullmatch(size):
                    raise ValueError("its response is not chunked as it says")
                self._left = int(size, 16)
                self._is_behind = self._left > 0
                self._is_trailing = self._left == 0
        return (pieces[0] if len(pieces) == 1 else b"".join(pieces)), data[at:]


@define
class _Counted:
    """See `_Body`. So many bytes."""

    left: int

    @property
    def is_over(self) -> bool:
        return not self.left

    def take(self, data: bytes) -> tuple[bytes, bytes]:
        piece = data[: self.left]
        self.left -= len(piece)
        return piece, data[len(piece) :]


class _UntilClose:
    """See `_Body`. Whatever comes."""

    is_over = False

    def take(self, data: bytes) -> tuple[bytes, bytes]:
        return data, b""


def _broke_off(reason: str) -> NodeGone:
    return NodeGone(f"it broke off: {reason}", was_asked=True)


def _check_head(head: bytes, target: str, headers: Headers, *, ends: int) -> None:
    """See that a request is what its parts say, with so many line ends: what came by HTTP/2 may
    have characters that end a header here. Raises `InvalidRequest`."""
    is_sound = head.count(b"\n") == head.count(b"\r") == ends and b"\0" not in head
    if not is_sound or " " in target or not all(_NAME.fullmatch(name) for name, _ in headers):
        raise InvalidRequest("A header of the request cannot be passed on.", code="invalid_http")


def _read_head(head: bytes) -> tuple[int, Fields]:
    """The status and the headers of a response. Raises `NodeGone`."""
    first, *lines = head.split(b"\r\n")
    found = _STATUS.match(first)
    if found is None:
        raise _broke_off("its response is not HTTP/1.1")
    fields: Fields = []
    for line in lines:
        name, colon, value = line.partition(b":")
        if not colon or not _NAME.fullmatch(name):
            raise _broke_off("its response has a broken header")
        fields.append((name.lower(), value.strip(b" \t")))
    return int(found[1]), fields


class NodeClient:
    """Asks other nodes. `connect_seconds`: how long a connection may take."""

    def __init__(self, connect_seconds: float, tls: ssl.SSLContext | None = None) -> None:
        self._connect_seconds = connect_seconds
        self._tls = tls
        self._idle: dict[Place, list[_Connection]] = {}

    def __repr__(self) -> str:
        return f"<NodeClient {sum(map(len, self._idle.values()))} idle connections>"

    @asynccontextmanager
    async def ask(
        self, url: str, method: str, target: str, headers: Headers, body: bytes | bytearray
    ) -> AsyncIterator[NodeResponse]:
        """Ask the node at `url`, and read its response while the block runs. Raises `NodeGone`,
        as reading does."""
        place = Place.of(url)
        self._forget_old()
        connection = await self._connect(place)
        is_reusable = False
        try:
            response = await self._send(connection, place, method, target, headers, body)
            yield response
            is_reusable = response.is_whole and not response.is_last
        finally:
            if is_reusable and self._keep(place, connection):
                pass
            else:
                connection.socket.close()

    async def _connect(self, place: Place) -> _Connection:
        idle = self._idle.get(place, [])
        while idle:
            connection = idle.pop()
            if connection.is_fresh:
                return connection
            connection.socket.close()
        stream, socket = await connect(place, self._connect_seconds, self._tls)
        return _Connection(stream, socket, not place.tls)

    async def _send(
        self,
        connection: _Connection,
        place: Place,
        method: str,
        target: str,
        headers: Headers,
        body: bytes | bytearray,
    ) -> NodeResponse:
        host = f"[{place.host}]" if ":" in place.host else place.host
        lines = [
            f"{method} {target} HTTP/1.1\r\nhost: {host}:{place.port}".encode("latin-1"),
            *(b"%b: %b" % each for each in headers),
            b"content-length: %d\r\n\r\n" % len(body),
        ]
        head = b"\r\n".join(lines)
        _check_head(head, target, headers, ends=len(lines) + 2)
        try:
            # Two writes: a body of megabytes is not copied to stand behind its head.
            if len(body) > READ_BYTES:
                await connection.stream.send_all(head)
                await connection.stream.send_all(body)
            else:
                await connection.stream.send_all(head + body)
        except trio.BrokenResourceError as error:
            raise _broke_off(str(error)) from error
        while True:
            status, fields = await self._receive_head(connection)
            if status >= 200:
                return NodeResponse(connection, method, status, fields)

    async def _receive_head(self, connection: _Connection) -> tuple[int, Fields]:
        """Raises `NodeGone`."""
        while (end := connection.unread.find(b"\r\n\r\n")) < 0:
            if len(connection.unread) > MAX_HEAD_BYTES:
                raise _broke_off("its response has too long a head")
            await connection.read_more()
        head, connection.unread = connection.unread[:end], connection.unread[end + 4 :]
        return _read_head(head)

    def _keep(self, place: Place, connection: _Connection) -> bool:
        """Keep a connection whose response was read whole; says whether that can be done."""
        idle = self._idle.setdefault(place, [])
        if connection.unread or len(idle) >= MAX_IDLE:
            return False
        connection.idle_since = trio.current_time()
        idle.append(connection)
        return True

    def _forget_old(self) -> None:
        """Close what was not used for long, of nodes too that are no more."""
        since = trio.current_time() - IDLE_SECONDS
        for place, idle in [*self._idle.items()]:
            while idle and idle[0].idle_since < since:
                idle.pop(0).socket.close()
            if not idle:
                del self._idle[place]

    def forget(self, url: str) -> None:
        """Close what is kept for the node at `url`."""
        for connection in self._idle.pop(Place.of(url), []):
            connection.socket.close()

    def close(self) -> None:
        """Close what is kept for any node."""
        for idle in self._idle.values():
            for connection in idle:
                connection.socket.close()
        self._idle.clear()
