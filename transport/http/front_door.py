"""The front door: one port for HTTP/1.1, HTTP/2 and WebSocket, with or without TLS.

Knows: listening, accepting, TLS, how many connections there may be, how they all end. Refuses to
know: what is asked on a connection (the ASGI application and `on_websocket` do), who may ask.

One connection's failure is logged and ends that connection alone.
"""

from __future__ import annotations

import errno
import socket
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from ipaddress import IPv6Address, ip_address
from typing import Any

import trio
from attrs import field, frozen
from starlette.types import ASGIApp
from trio_websocket import ConnectionClosed, WebSocketRequest

from ...schemas.convert import write_json
from ...schemas.errors import GatewayError, InternalError
from ..loggers import get_logger
from .connection import HttpConnection, HttpService
from .exchange import error_response
from .guarded_stream import GuardedStream, ReplayStream
from .protocols import HttpLimits, Peer
from .websocket import (
    GOING_AWAY,
    INTERNAL,
    NORMAL,
    WebSocketClosed,
    WebSocketLimits,
    close_request,
    receive_handshake,
)

__all__ = [
    "FrontDoorLimits",
    "ListenError",
    "Peer",
    "Tunnel",
    "WebSocketHandler",
    "open_listeners",
    "reject_websocket",
    "serve_connections",
    "tls_context",
]

log = get_logger("ccapi.front_door")


@frozen
class Tunnel:
    """What takes over a connection as it came, for which it holds something already. `run` serves
    it: the stream has given out the head of its request, and nothing was answered to that. `close`
    is called behind it, or instead of it."""

    run: Callable[[ReplayStream], Awaitable[None]]
    close: Callable[[], None]


WebSocketHandler = Callable[[WebSocketRequest, Peer], Awaitable[Tunnel | None]]
"""Accepts or rejects a handshake (`reject_websocket`) and talks; the WebSocket ends with it. Or it
does neither, and returns what takes over the connection as it came."""

ALPN_PROTOCOLS = ["h2", "http/1.1"]


@frozen(kw_only=True)
class FrontDoorLimits(HttpLimits):
    """`max_connections`: open at once; more wait to be accepted. `max_per_address`: of these, from
    one address (`_household`); the loopback's may be nine tenths of all. `graceful_seconds`: how
    long what is running may go on after `stop`; a WebSocket is closed at once."""

    max_connections: int = 1000
    max_per_address: int = 250
    graceful_seconds: float = 30.0
    websocket: WebSocketLimits = field(factory=WebSocketLimits)


class ListenError(Exception):
    """The port cannot be opened; the message says why and what helps."""


async def open_listeners(host: str, port: int) -> list[trio.SocketListener]:
    """Listens on every address that `host` stands for. Port 0 takes a free one.

    Raises `ListenError`.
    """
    try:
        return await trio.open_tcp_listeners(port, host=host)
    except socket.gaierror as error:
        raise ListenError(f"cannot listen on {host!r}: no such host ({error.strerror})") from error
    except OSError as error:
        reason = {
            errno.EADDRINUSE: "another program listens there; choose another port or stop it",
            errno.EACCES: "not permitted; ports below 1024 need privileges",
            errno.EADDRNOTAVAIL: "this machine has no such address",
        }.get(error.errno or 0, str(error))
        raise ListenError(f"cannot listen on {host} port {port}: {reason}") from error


def tls_context(cert_file: str, key_file: str) -> ssl.SSLContext:
    """A TLS server's context (1.2 or newer) from PEM files. Raises `ListenError`."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(cert_file, key_file)
    except OSError as error:  # of which ssl.SSLError is one
        raise ListenError(
            f"cannot serve TLS with certificate {cert_file} and key {key_file}: {error}"
        ) from error
    return context


async def serve_connections(
    listeners: list[trio.SocketListener],
    app: ASGIApp,
    on_websocket: WebSocketHandler,
    limits: FrontDoorLimits | None = None,
    *,
    ssl_context: ssl.SSLContext | None = None,
    stop: trio.Event | None = None,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serves what comes in on `listeners`, and closes them at the end.

    When `stop` is set: accepts nothing more, ends connections between requests, lets the others
    finish for `graceful_seconds`, closes what is left, and returns. Cancelled, it closes
    everything at once; a client that does not read holds up neither. Sets the ALPN protocols of
    `ssl_context`, with which every connection is a TLS connection.
    """
    door = _FrontDoor(app, on_websocket, limits or FrontDoorLimits(), ssl_context)
    async with trio.open_nursery() as connections:
        async with trio.open_nursery() as accepting:
            bounded = [_BoundedListener(listener, door.slots) for listener in listeners]
            accepting.start_soon(
                partial(trio.serve_listeners, handler_nursery=connections),
                door.serve_connection,
                bounded,
            )
            task_status.started()
            await (stop if stop is not None else trio.Event()).wait()
            accepting.cancel_scope.cancel()
        connections.cancel_scope.deadline = trio.current_time() + door.limits.graceful_seconds
        for request in door.websockets:
            connections.start_soon(close_request, request, GOING_AWAY, "The server is stopping.")
        await door.service.drain()


async def reject_websocket(request: WebSocketRequest, error: GatewayError) -> None:
    """Answers a handshake with the status, headers and envelope of `error`."""
    headers = [
        (b"content-type", b"application/json"),
        (b"connection", b"close"),
        *((name.encode(), value.encode()) for name, value in error.headers().items()),
    ]
    await request.reject(error.status, extra_headers=headers, body=write_json(error.body()))


class _FrontDoor:
    def __init__(
        self,
        app: ASGIApp,
        on_websocket: WebSocketHandler,
        limits: FrontDoorLimits,
        ssl_context: ssl.SSLContext | None,
    ) -> None:
        self.limits = limits
        self.service = HttpService(app, limits)
        self.slots = trio.Semaphore(limits.max_connections)
        self.websockets: set[WebSocketRequest] = set()
        self._by_address: Counter[str] = Counter()
        self._on_websocket = on_websocket
        self._ssl_context = ssl_context
        if ssl_context is not None:
            ssl_context.set_alpn_protocols(ALPN_PROTOCOLS)

    async def serve_connection(self, connection: trio.SocketStream) -> None:
        """The boundary: whatever happens on a connection, nothing but cancellation leaves it."""
        guard = GuardedStream(connection, self.limits.stall_seconds)
        address = None
        try:
            address = _household(guard.socket.getpeername())
            self._by_address[address] += 1
            if self._has_room(address):
                await self._converse(guard)
            else:
                log.warning("too_many_connections", address=address)
        except* (OSError, trio.BrokenResourceError, trio.ClosedResourceError, ConnectionClosed):
            pass  # the client went, in the middle of something
        except* Exception as errors:
            log.exception("connection_failed", exc_info=errors)
        finally:
            guard.close()
            self.slots.release()
            if address is not None:
                self._by_address[address] -= 1
                self._by_address += Counter()  # drops what is zero

    def _has_room(self, address: str) -> bool:
        """Whether one more connection of that address may stay. An idle one makes way for it."""
        most, total = self.limits.max_per_address, self.limits.max_connections
        if _is_loopback(address):  # a reverse proxy, maybe: then all clients have one address
            most = total - total // 10
        if self._by_address[address] <= most:
            return True
        return self.service.close_idle(
            lambda peer: peer.client is not None and _household(peer.client) == address
        )

    async def _converse(self, guard: GuardedStream) -> None:
        _watch_for_vanished_peer(guard, self.limits.stall_seconds)
        peer = _peer(guard, tls=self._ssl_context is not None)
        stream: trio.abc.Stream = guard
        http2 = False
        if self._ssl_context is not None:
            stream = tls = trio.SSLStream(
                guard, self._ssl_context, server_side=True, https_compatible=True
            )
            with trio.move_on_after(self.limits.head_timeout_seconds) as patience:
                await tls.do_handshake()
            if patience.cancelled_caught:
                return
            http2 = tls.selected_alpn_protocol() == "h2"
        serve_websocket = partial(self._serve_websocket, peer)
        await HttpConnection(self.service, stream, guard, peer, serve_websocket).serve(http2)

    async def _serve_websocket(self, peer: Peer, stream: ReplayStream) -> None:
        tunnel: Tunnel | None = None
        try:
            async with trio.open_nursery() as reading:
                request = await receive_handshake(reading, stream, self.limits.websocket)
                self.websockets.add(request)
                try:
                    tunnel = await self._talk(request, peer, stream)
                finally:
                    self.websockets.discard(request)
                    reading.cancel_scope.cancel()
            if tunnel is not None:
                await tunnel.run(stream)
        finally:
            if tunnel is not None:
                tunnel.close()

    async def _talk(
        self, request: WebSocketRequest, peer: Peer, stream: ReplayStream
    ) -> Tunnel | None:
        """Another boundary: what a handler raises is its connection's end, in good order."""
        code = NORMAL
        try:
            tunnel = await self._on_websocket(request, peer)
            if tunnel is not None:
                return tunnel
            if not stream.written:
                raise RuntimeError("the handshake was neither accepted nor rejected")
        except* (ConnectionClosed, WebSocketClosed):
            pass
        except* Exception as errors:
            log.exception("websocket_failed", exc_info=errors)
            code = INTERNAL
        if stream.written:
            await close_request(request, code, "")
        else:
            await stream.send_all(_failure_of_handshake())
        return None


class _BoundedListener(trio.abc.Listener[trio.SocketStream]):
    """Accepts only while there is a free slot, which belongs to the accepted connection then."""

    def __init__(self, listener: trio.SocketListener, slots: trio.Semaphore) -> None:
        self._listener = listener
        self._slots = slots

    async def accept(self) -> trio.SocketStream:
        await self._slots.acquire()
        try:
            return await self._listener.accept()
        except BaseException:
            self._slots.release()
            raise

    async def aclose(self) -> None:
        await self._listener.aclose()


def _household(address: Any) -> str:
    """Whose address that is, as far as it tells: an IPv4 address, or the network of 64 bits that
    an IPv6 subscriber has at least (RFC 6177). Empty for a local socket."""
    if not isinstance(address, tuple):
        return ""
    parsed = ip_address(address[0].partition("%")[0])
    if isinstance(parsed, IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        if not parsed.is_loopback:
            return str(IPv6Address(int(parsed) >> 64 << 64))
    return str(parsed)


def _is_loopback(address: str) -> bool:
    return not address or ip_address(address).is_loopback


def _failure_of_handshake() -> bytes:
    headers, body = error_response(InternalError("The gateway failed on this request."))
    lines = [b"HTTP/1.1 500 Internal Server Error", *(b"%s: %s" % item for item in headers)]
    return b"\r\n".join([*lines, b"connection: close", b"", body])


def _watch_for_vanished_peer(guard: GuardedStream, stall_seconds: float) -> None:
    """Has the kernel look for clients that went without a word, which a stream that is rightly
    silent would not notice: keep-alive probes, and a limit on how long sent bytes may stay
    unacknowledged (RFC 5482)."""
    options: dict[str, Any] = {
        "TCP_KEEPIDLE": 60,
        "TCP_KEEPINTVL": 15,
        "TCP_KEEPCNT": 4,
        "TCP_USER_TIMEOUT": int(stall_seconds * 1000),
    }
    guard.socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in options.items():
        if hasattr(socket, name):  # not every system has all of them
            guard.socket.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _peer(guard: GuardedStream, *, tls: bool) -> Peer:
    """Raises OSError where the client has gone already."""
    client, server = guard.socket.getpeername(), guard.socket.getsockname()
    return Peer(client=client[:2], server=server[:2], tls=tls)
