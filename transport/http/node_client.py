"""One node asks another over HTTP/1.1: a request with a whole body, a response in pieces.

Knows: connections, which are kept for the next request, and what it means when one breaks. Refuses
to know: which node is asked what, and what the response says.

It stands on h11 itself: a streamed answer comes in hundreds of pieces, and each costs what lies
between two nodes. (A general client took a quarter more of a processor for each piece.)
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import cast
from urllib.parse import urlsplit

import h11
import trio
from attrs import define, field, frozen

Headers = Sequence[tuple[bytes, bytes]]

READ_BYTES = 65536
MAX_HEAD_BYTES = 128 * 1024
MAX_IDLE = 32
"""Connections to one node that are kept for later requests."""


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
        parts = urlsplit(url)
        tls = parts.scheme == "https"
        return cls(parts.hostname or "", parts.port or (443 if tls else 80), tls)


async def connect(
    place: Place, seconds: float, tls: ssl.SSLContext | None = None
) -> tuple[trio.abc.Stream, trio.socket.SocketType]:
    """A connection to the node there, and the socket below it. Raises `NodeGone`."""
    try:
        with trio.fail_after(seconds):
            stream = await trio.open_tcp_stream(place.host, place.port)
            stream.setsockopt(trio.socket.IPPROTO_TCP, trio.socket.TCP_NODELAY, 1)
            if not place.tls:
                return stream, stream.socket
            context = tls or ssl.create_default_context()
            secure = trio.SSLStream(stream, context, server_hostname=place.host)
            await secure.do_handshake()
            return secure, stream.socket
    except (OSError, trio.TooSlowError, trio.BrokenResourceError) as error:
        reason = str(error) or "it did not take the connection in time"
        raise NodeGone(reason, was_asked=False) from error


@define(eq=False)
class _Connection:
    stream: trio.abc.Stream
    socket: trio.socket.SocketType
    protocol: h11.Connection = field(
        factory=lambda: h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD_BYTES)
    )

    @property
    def is_fresh(self) -> bool:
        """Whether the other side has not closed it, nor said anything, since the last response."""
        try:
            return not self.socket.is_readable()
        except OSError:
            return False

    async def next_event(self) -> h11.Event | type[h11.PAUSED]:
        """Raises `NodeGone`."""
        while True:
            try:
                event = self.protocol.next_event()
                if event is not h11.NEED_DATA:
                    return cast("h11.Event | type[h11.PAUSED]", event)
                received = await self.stream.receive_some(READ_BYTES)
                self.protocol.receive_data(bytes(received))
            except (h11.RemoteProtocolError, trio.BrokenResourceError) as error:
                raise NodeGone(f"it broke off: {error}", was_asked=True) from error


class NodeResponse:
    """The response to one request: its head, then its body in pieces as they come."""

    def __init__(self, connection: _Connection, head: h11.Response) -> None:
        self.status: int = head.status_code
        self.headers: list[tuple[bytes, bytes]] = [(name, value) for name, value in head.headers]
        self._connection = connection
        self.is_whole = False

    async def receive(self) -> bytes | bytearray:
        """The next piece; none at the end. Raises `NodeGone`."""
        while not self.is_whole:
            event = await self._connection.next_event()
            if isinstance(event, h11.Data):
                return event.data
            self.is_whole = isinstance(event, h11.EndOfMessage)
        return b""


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
        connection = await self._connect(place)
        is_reusable = False
        try:
            response = await self._send(connection, place, method, target, headers, body)
            yield response
            is_reusable = response.is_whole
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
        return _Connection(*await connect(place, self._connect_seconds, self._tls))

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
        fields = [
            (b"host", f"{host}:{place.port}".encode()),
            *headers,
            (b"content-length", b"%d" % len(body)),
        ]
        protocol = connection.protocol
        head = protocol.send(h11.Request(method=method, target=target, headers=fields)) or b""
        protocol.send(h11.Data(data=cast(bytes, body)))
        end = protocol.send(h11.EndOfMessage()) or b""
        try:
            # Two writes: a body of megabytes is not copied to stand behind its head.
            if len(body) > READ_BYTES:
                await connection.stream.send_all(head)
                await connection.stream.send_all(body)
            else:
                await connection.stream.send_all(b"".join([head, body, end]))
        except trio.BrokenResourceError as error:
            raise NodeGone(f"it broke off: {error}", was_asked=True) from error
        while True:
            event = await connection.next_event()
            if isinstance(event, h11.Response):
                return NodeResponse(connection, event)
            if isinstance(event, h11.ConnectionClosed):
                raise NodeGone("it closed the connection without an answer", was_asked=True)

    def _keep(self, place: Place, connection: _Connection) -> bool:
        """Keep a connection whose response was read whole; says whether that can be done."""
        idle = self._idle.setdefault(place, [])
        try:
            connection.protocol.start_next_cycle()
        except h11.LocalProtocolError:
            return False
        if len(idle) >= MAX_IDLE:
            return False
        idle.append(connection)
        return True

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
