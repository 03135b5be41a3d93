"""One node asks another over HTTP/1.1: a request with a whole body, a response in pieces.

Knows: connections, which are kept for the next request, and what it means when one breaks. Refuses
to know: which node is asked what, and what the response says.

A streamed answer comes in hundreds of pieces, and each costs what lies between two nodes: so
httptools reads responses, in a fifth of a microsecond a piece. What is there of it is passed on
together, and never waited for more. h11 writes the heads of requests, since it checks them.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from functools import lru_cache
from urllib.parse import urlsplit

import h11
import httptools
import trio
from attrs import define, frozen

from ...schemas.errors import InvalidRequest

Headers = Sequence[tuple[bytes, bytes]]
Fields = list[tuple[bytes, bytes]]

READ_BYTES = 65536
MAX_HEAD_BYTES = 128 * 1024
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

    @property
    def authority(self) -> str:
        """As a ``host`` header has it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

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
class Wire:
    """What a request goes over, for who watches it. `socket` is there from the connection on."""

    socket: trio.socket.SocketType | None = None

    @property
    def has_input(self) -> bool:
        """Whether something has come that is not read yet: the other side may have closed it."""
        try:
            return self.socket is not None and self.socket.is_readable()
        except OSError:
            return True  # as reading will find


@define(eq=False)
class _Connection:
    stream: trio.abc.Stream
    socket: trio.socket.SocketType
    is_plain: bool
    idle_since: float = 0.0

    @property
    def is_fresh(self) -> bool:
        """Whether the other side has not closed it, nor said anything, since the last response."""
        try:
            return not self.socket.is_readable()
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


class NodeResponse:
    """The response to one request: its head, then its body in pieces as they come. `is_whole`: it
    was read to its end; `is_last`: its connection serves no other request; `is_wanted`: the node
    wants the body that was announced to it."""

    def __init__(self, connection: _Connection, method: str) -> None:
        self.status = 0
        self.headers: Fields = []
        self.is_whole = False
        self.is_last = False
        self.is_wanted = False
        self._connection = connection
        self._has_body = method != "HEAD"
        self._has_head = False
        self._read = 0
        self._pieces: list[bytes] = []
        self._parser = httptools.HttpResponseParser(self)

    async def receive_head(self) -> None:
        """Raises `NodeGone`."""
        while not self._has_head:
            if self._read > MAX_HEAD_BYTES:
                raise _broke_off("its response has too long a head")
            await self._read_more()
        if not self._has_body:  # whatever its headers say
            self.is_whole = self.is_last = True

    async def wait_wanted(self) -> None:
        """Wait until the node wants the body, or answers without it. Raises `NodeGone`."""
        while not (self.is_wanted or self._has_head):
            if self._read > MAX_HEAD_BYTES:
                raise _broke_off("its response has too long a head")
            await self._read_more()

    async def receive(self) -> bytes:
        """What has come of the body by now, at least one byte; none at the end. Raises
        `NodeGone`."""
        while not self._pieces and not self.is_whole:
            await self._read_more()
        pieces, self._pieces = self._pieces, []
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def _read_more(self) -> None:
        data = await self._connection.read()
        if not data:
            raise _broke_off("it closed the connection")
        self._read += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            if not self.is_whole:
                raise _broke_off(str(error)) from error
            self.is_last = True  # what comes behind it is no response

    # What httptools calls while it reads.

    def on_message_begin(self) -> None:
        self.is_last = self.is_whole  # no other one was asked for
        self.headers = self.headers if self.is_whole else []

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.is_whole:
            self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        if not self.is_whole:
            self.status = self._parser.get_status_code()
            self._has_head = self.status >= 200
            self.is_wanted = self.is_wanted or self.status == 100

    def on_body(self, data: bytes) -> None:
        if self._has_body and not self.is_whole:
            self._pieces.append(data)

    def on_message_complete(self) -> None:
        if self._has_head and not self.is_whole:
            self.is_whole, self.is_last = True, not self._parser.should_keep_alive()


def _broke_off(reason: str) -> NodeGone:
    return NodeGone(f"it broke off: {reason}", was_asked=True)


def _head_of(method: str, target: str, headers: Headers) -> bytes:
    """A request's head. What came by HTTP/2 may have characters that end a header here: raises
    `InvalidRequest`."""
    try:
        request = h11.Request(method=method, target=target, headers=[*headers])
        return h11.Connection(h11.CLIENT).send(request) or b""
    except h11.LocalProtocolError as error:
        raise InvalidRequest(
            f"A header of the request cannot be passed on ({error}).", code="invalid_http"
        ) from error


async def _announce(connection: _Connection, head: bytes, response: NodeResponse) -> None:
    """Send the head, and wait until the node wants the body, or answers without it. Raises
    `NodeGone`: it was not asked."""
    try:
        await connection.stream.send_all(head)
        await response.wait_wanted()
    except (trio.BrokenResourceError, NodeGone) as error:
        raise NodeGone(f"it stops: {error}", was_asked=False) from error


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
        self,
        url: str,
        method: str,
        target: str,
        headers: Headers,
        body: bytes | bytearray,
        *,
        wire: Wire | None = None,
        may_stop: bool = False,
    ) -> AsyncIterator[NodeResponse]:
        """Ask the node at `url`, and read its response while the block runs. `wire`: shows what the
        request goes over. Raises `NodeGone`, as reading does.

        `may_stop`: the node is about to close its connections, in good order. Then the body waits
        until it says that it takes the request (RFC 9110, section 10.1.1): before that, nothing of
        it can have been done, whatever becomes of the connection. That costs a round trip.
        """
        place = Place.of(url)
        self._forget_old()
        if may_stop:
            self.forget(url)
        connection = await self._connect(place)
        if wire is not None:
            wire.socket = connection.socket
        is_reusable = False
        try:
            response = await self._send(
                connection, place, method, target, headers, body, waits=may_stop and len(body) > 0
            )
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
        *,
        waits: bool,
    ) -> NodeResponse:
        around = [
            (b"host", place.authority.encode()),
            *headers,
            (b"content-length", b"%d" % len(body)),
            *([(b"expect", b"100-continue")] if waits else []),
        ]
        head = _head_of(method, target, around)
        response = NodeResponse(connection, method)
        if waits:
            await _announce(connection, head, response)
            if not response.is_wanted:
                response.is_last = True
                return response
            head = b""
        try:
            # Two writes: a body of megabytes is not copied to stand behind its head.
            if len(body) > READ_BYTES:
                await connection.stream.send_all(head)
                await connection.stream.send_all(body)
            else:
                await connection.stream.send_all(head + body)
        except trio.BrokenResourceError as error:
            raise _broke_off(str(error)) from error
        await response.receive_head()
        return response

    def _keep(self, place: Place, connection: _Connection) -> bool:
        """Keep a connection whose response was read whole; says whether that can be done."""
        idle = self._idle.setdefault(place, [])
        if len(idle) >= MAX_IDLE:
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
