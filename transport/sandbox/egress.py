"""The way out for agents that have no network of their own: a proxy inside the gateway.

Knows: HTTP's CONNECT and absolute-form requests (RFC 9110, 9.3.6; RFC 9112, 3.2.2), and to whom
agents may connect: the API in any case, public addresses where `workspaces.network` allows it, and
what the operator has named. Refuses to know: what is said over a connection, and how a child is
kept from connecting otherwise (`sandbox`).

The child's listening sockets are made where the child is, in its own network, and handed over; so
no process stands between, and nothing of this machine's loopback can be reached, the gateway's own
port least of all. A name is resolved once, all its addresses are checked, and one of them is
connected to, so that a second answer of a name server changes nothing.
"""

from __future__ import annotations

import array
import base64
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from urllib.parse import unquote, urlsplit
from urllib.request import proxy_bypass_environment  # type: ignore[attr-defined]

import h11
import trio
from attrs import frozen

from ...schemas.settings.rules import is_loopback
from ...schemas.settings.settings import Settings
from ..loggers import get_logger
from ..media.public_address import is_plain_host, is_public
from ..media.remote_fetch import Resolve, resolve_host
from .login_door import DoorShut, LoginDoor, NoLogin, TlsStream

log = get_logger("ccapi.egress")

MAX_CONNECTIONS = 64
"""Connections of one child at once; more wait."""

MAX_HEAD_BYTES = 65536
MAX_LISTENERS = 4
HEAD_SECONDS = 30.0
CONNECT_SECONDS = 15.0
PIECE_BYTES = 65536

API_HOSTS = ("api.anthropic.com", "platform.claude.com", "console.anthropic.com")
"""Where the CLI asks the model, and where it renews a subscription's login."""

_HOP_BY_HOP = frozenset(
    (b"connection", b"proxy-connection", b"proxy-authorization", b"keep-alive", b"te", b"upgrade")
)


class NotAllowed(Exception):
    """Agents may not connect there; `str()` says why, for the agent to read."""


@frozen
class Parent:
    """A proxy that the gateway's own connections have to take."""

    host: str
    port: int
    tls: bool
    credentials: bytes


@frozen
class Egress:
    """Who may be reached. `named` and `api` hold ``host`` or ``host:port``, in lower case; a name
    with a leading dot means all below it. A child that has no login of its own asks the API by
    `door`; another asks an API on this machine's loopback by `forward`."""

    api: Sequence[str]
    named: Sequence[str]
    public: bool
    forward: tuple[str, int] | None = None
    door: LoginDoor | None = None
    proxies: Mapping[str, str] = {}
    resolve: Resolve = resolve_host

    async def serve(self, control: socket.socket) -> None:
        """Take the listening sockets that a child hands over on `control`, and serve them until
        cancelled. `control` stays open for as long: its end is the end of what the child left."""
        control.setblocking(False)
        await trio.lowlevel.wait_readable(control)
        listeners = _receive_listeners(control)
        try:
            async with trio.open_nursery() as nursery:
                room = trio.Semaphore(MAX_CONNECTIONS)
                for index, listener in enumerate(listeners):
                    handle = self._forward if index else self._proxy
                    nursery.start_soon(_accept, listener, handle, room, nursery)
        finally:
            for listener in listeners:
                listener.close()

    async def _forward(self, client: trio.SocketStream) -> None:
        if self.door is not None:
            await self._ask_api(client, self.door)
        elif self.forward is not None:
            with trio.fail_after(CONNECT_SECONDS):
                upstream = await trio.open_tcp_stream(*self.forward)
            await _join(client, upstream, b"", b"")

    async def _ask_api(self, client: trio.SocketStream, door: LoginDoor) -> None:
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES)
        try:
            with trio.fail_after(HEAD_SECONDS):
                request = await _read_head(client, connection)
            if request is None:
                return
            with trio.fail_after(CONNECT_SECONDS):
                upstream, head = await door.open(request, self.connect_api)
        except h11.RemoteProtocolError:
            error = DoorShut(400, "invalid_request_error", "That is no request.")
        except DoorShut as shut:
            error = shut
        except NoLogin:
            error = DoorShut(401, "authentication_error", "The gateway is not logged in.")
        except (OSError, UnicodeError, ssl.SSLError, trio.TooSlowError, trio.BrokenResourceError):
            error = DoorShut(502, "api_error", "The API could not be reached.")
        else:
            await _join(client, upstream, b"", head + connection.trailing_data[0])
            return
        await _say(client, error.response())

    async def _proxy(self, client: trio.SocketStream) -> None:
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES)
        try:
            with trio.fail_after(HEAD_SECONDS):
                request = await _read_head(client, connection)
            if request is None:
                return
            host, port, head = _destination(request)
            with trio.fail_after(CONNECT_SECONDS):
                upstream = await self.connect(host, port)
        except h11.RemoteProtocolError:
            await _refuse(client, 400, "That is no request to a proxy.")
        except NotAllowed as error:
            await _refuse(client, 403, str(error))
        except (OSError, UnicodeError, ssl.SSLError, trio.TooSlowError, trio.BrokenResourceError):
            await _refuse(client, 502, "The connection could not be made.")
        else:
            answer = b"" if head else b"HTTP/1.1 200 Connection established\r\n\r\n"
            await _join(client, upstream, answer, head + connection.trailing_data[0])

    async def connect(self, host: str, port: int) -> trio.abc.HalfCloseableStream:
        """A connection to where agents may go. Raises `NotAllowed`, `OSError`."""
        return await self._open(host, port, wanted=_is_named(host, port, (*self.api, *self.named)))

    async def connect_api(self, host: str, port: int) -> trio.abc.HalfCloseableStream:
        """A connection to where the operator has put the API. Raises `OSError`."""
        return await self._open(host, port, wanted=True)

    async def _open(self, host: str, port: int, *, wanted: bool) -> trio.abc.HalfCloseableStream:
        if not wanted and not (self.public and is_plain_host(host)):
            raise NotAllowed(f"Agents may not connect to {host}:{port} here.")
        parent = self._parent(host)
        try:
            addresses = await self.resolve(host, port)
        except OSError:
            if parent is None:
                raise
            addresses = []  # only the proxy knows names
        if not wanted and not all(map(is_public, addresses)):
            raise NotAllowed(f"Agents may not connect to {host}:{port} here: it is not public.")
        if parent is not None:
            return await _connect_through(parent, host, port)
        stream = await _connect_first(addresses, port)
        if not wanted and stream.socket.getsockname()[0] == stream.socket.getpeername()[0]:
            await trio.aclose_forcefully(stream)  # this machine, under its public address
            raise NotAllowed(f"Agents may not connect to {host}:{port} here: it is this machine.")
        return stream

    def _parent(self, host: str) -> Parent | None:
        if not self.proxies or is_loopback(host) or proxy_bypass_environment(host, self.proxies):
            return None
        url = urlsplit(self.proxies.get("https") or self.proxies.get("http") or "")
        if url.scheme not in {"http", "https"} or url.hostname is None:
            return None
        user = f"{unquote(url.username or '')}:{unquote(url.password or '')}".encode()
        tls = url.scheme == "https"
        return Parent(
            url.hostname,
            url.port or (443 if tls else 80),
            tls,
            base64.b64encode(user) if url.username else b"",
        )


def egress_of(settings: Settings, env: Mapping[str, str]) -> Egress:
    """Who agents may reach, of which the CLI sees `env`. Raises nothing: what is no URL leads
    nowhere."""
    forward = None
    api = list(API_HOSTS)
    for name in ("ANTHROPIC_BASE_URL", "ANTHROPIC_BEDROCK_BASE_URL", "ANTHROPIC_VERTEX_BASE_URL"):
        try:
            url = urlsplit(env.get(name, ""))
            port = url.port or (443 if url.scheme == "https" else 80)
        except ValueError:
            continue
        if url.hostname and is_loopback(url.hostname):
            forward = (url.hostname, port)
        elif url.hostname:
            api.append(f"{url.hostname}:{port}")
    if _is_set(env, "CLAUDE_CODE_USE_BEDROCK"):
        region = env.get("AWS_REGION") or env.get("AWS_DEFAULT_REGION") or "us-east-1"
        api += [f"{name}.{region}.amazonaws.com" for name in ("bedrock-runtime", "bedrock", "sts")]
    if _is_set(env, "CLAUDE_CODE_USE_VERTEX"):
        names = ("oauth2", "sts", "iamcredentials", "aiplatform")
        api += [*(f"{name}.googleapis.com" for name in names)]
        region = env.get("CLOUD_ML_REGION", "global")
        api.append(f"{region}-aiplatform.googleapis.com")
    proxies = {
        name.lower().removesuffix("_proxy"): value
        for name, value in env.items()
        if name.lower().endswith("_proxy") and value
    }
    return Egress(
        api=tuple(map(str.lower, api)),
        named=tuple(map(str.lower, settings.workspaces.allowed_hosts)),
        public=settings.workspaces.network,
        forward=forward,
        proxies=proxies,
    )


def _is_set(env: Mapping[str, str], name: str) -> bool:
    return env.get(name, "").lower() in {"1", "true", "yes", "on"}


def _is_named(host: str, port: int, names: Sequence[str]) -> bool:
    for name in names:
        known, colon, number = name.rpartition(":")
        if not colon or not number.isdecimal() or known.endswith(":"):
            known, number = name, str(port)
        known = known.strip("[]")
        below = known.startswith(".") and host.endswith(known)
        if number == str(port) and (host == known or below):
            return True
    return False


# -- what comes from the child ---------------------------------------------------------------------


def _receive_listeners(control: socket.socket) -> list[trio.socket.SocketType]:
    """None where the child went before it handed anything over."""
    try:
        _, descriptors, _, _ = socket.recv_fds(control, 1, MAX_LISTENERS)
    except OSError:
        return []
    listeners = []
    for descriptor in array.array("i", descriptors):
        listener = socket.socket(fileno=descriptor)
        listener.setblocking(False)
        listeners.append(trio.socket.from_stdlib_socket(listener))
    return listeners


async def _accept(
    listener: trio.socket.SocketType,
    handle: Callable[[trio.SocketStream], Awaitable[None]],
    room: trio.Semaphore,
    nursery: trio.Nursery,
) -> None:
    while True:
        await room.acquire()
        try:
            client, _ = await listener.accept()
        except OSError:  # out of descriptors, or of memory: it passes
            room.release()
            await trio.sleep(0.1)
        else:
            nursery.start_soon(_serve_one, trio.SocketStream(client), handle, room)


async def _serve_one(
    client: trio.SocketStream,
    handle: Callable[[trio.SocketStream], Awaitable[None]],
    room: trio.Semaphore,
) -> None:
    """A connection's failure is its own, whatever an agent has sent on it."""
    try:
        async with client:
            await handle(client)
    except (OSError, trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
        pass
    except Exception:
        log.exception("an agent's connection failed")
    finally:
        room.release()


async def _read_head(client: trio.SocketStream, connection: h11.Connection) -> h11.Request | None:
    while True:
        event = connection.next_event()
        if isinstance(event, h11.Request):
            return event
        if isinstance(event, h11.ConnectionClosed):
            return None
        connection.receive_data(bytes(await client.receive_some(PIECE_BYTES)))


def _destination(request: h11.Request) -> tuple[str, int, bytes]:
    """Whom to connect to, and with which words to begin (none for a tunnel).

    Raises `h11.RemoteProtocolError`.
    """
    target = request.target.decode("ascii")
    try:
        if request.method == b"CONNECT":
            url = urlsplit(f"//{target}")
            if url.hostname is None or url.port is None:
                raise ValueError(target)
            return url.hostname, url.port, b""
        url = urlsplit(target)
        port = url.port or 80
    except ValueError:
        raise h11.RemoteProtocolError("bad target") from None
    if url.scheme != "http" or url.hostname is None:
        raise h11.RemoteProtocolError("not in absolute form")
    path = (url.path or "/") + (f"?{url.query}" if url.query else "")
    authority = url.netloc.rpartition("@")[2]
    lines = [b"%s %s HTTP/1.1" % (request.method, path.encode()), b"Host: " + authority.encode()]
    lines += [
        b"%s: %s" % field
        for field in request.headers
        if field[0] != b"host" and field[0] not in _HOP_BY_HOP
    ]
    # One request for each connection: what follows may be for another host.
    return url.hostname, port, b"\r\n".join([*lines, b"Connection: close", b"", b""])


async def _refuse(client: trio.SocketStream, status: int, why: str) -> None:
    body = f"ccapi: {why}\n".encode()
    head = f"HTTP/1.1 {status} Refused\r\nContent-Type: text/plain; charset=utf-8\r\n"
    head += f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    await _say(client, head.encode() + body)


async def _say(client: trio.SocketStream, response: bytes) -> None:
    await client.send_all(response)
    with trio.move_on_after(1):  # else what was not read makes the kernel cut the answer off
        await client.send_eof()
        while await client.receive_some(PIECE_BYTES):
            pass


# -- upstream --------------------------------------------------------------------------------------


async def _connect_first(addresses: Sequence[str], port: int) -> trio.SocketStream:
    failure: OSError = OSError("no address")
    for address in addresses[:4]:
        try:
            return await trio.open_tcp_stream(address, port)
        except OSError as error:
            failure = error
    raise failure


async def _connect_through(parent: Parent, host: str, port: int) -> trio.abc.HalfCloseableStream:
    stream: trio.abc.HalfCloseableStream = await trio.open_tcp_stream(parent.host, parent.port)
    if parent.tls:
        context = ssl.create_default_context()
        stream = TlsStream(trio.SSLStream(stream, context, server_hostname=parent.host))
    name = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    words = f"CONNECT {name} HTTP/1.1\r\nHost: {name}\r\n".encode()
    if parent.credentials:
        words += b"Proxy-Authorization: Basic " + parent.credentials + b"\r\n"
    await stream.send_all(words + b"\r\n")
    head = bytearray()
    while not head.endswith(b"\r\n\r\n"):  # byte by byte: what follows is the tunnel's
        data = await stream.receive_some(1)
        if not data or len(head) > MAX_HEAD_BYTES:
            raise OSError("the proxy said nothing that can be understood")
        head += data
    status = head.split(b" ", 2)[1:2]
    if status != [b"200"]:
        await trio.aclose_forcefully(stream)
        raise OSError("the proxy refused")
    return stream


async def _join(
    client: trio.SocketStream, upstream: trio.abc.HalfCloseableStream, answer: bytes, said: bytes
) -> None:
    """Carry both directions until both have ended, or one is broken."""
    async with upstream, trio.open_nursery() as nursery:

        async def carry(
            source: trio.abc.ReceiveStream, sink: trio.abc.HalfCloseableStream, first: bytes
        ) -> None:
            try:
                if first:
                    await sink.send_all(first)
                while data := await source.receive_some(PIECE_BYTES):
                    await sink.send_all(data)
                await sink.send_eof()
            except (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
                nursery.cancel_scope.cancel()

        nursery.start_soon(carry, client, upstream, said)
        nursery.start_soon(carry, upstream, client, answer)
