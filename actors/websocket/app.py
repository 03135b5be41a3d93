"""The WebSocket front: who is let in to which WebSocket, and what a client receives when one fails.

Knows: the checks that an upgrade has to pass (those of HTTP, and keys where browsers can put them),
which path is whose, and the WebSocket of the overview, which only sends. Refuses to know: frames,
what is in the overview (`actors.listeners.overview`), and what is said on any other.
"""

from __future__ import annotations

import base64
import re
import time
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, unquote

import structlog
import trio
from attrs import frozen
from trio_websocket import WebSocketRequest

from ...schemas.convert import write_json
from ...schemas.errors import (
    CallerError,
    Elsewhere,
    GatewayError,
    NotFound,
    RateLimited,
    draining,
    storage_unavailable,
)
from ...schemas.keys import Scope
from ...schemas.node_seal import EVENTS_HEADER, SHARED, Passed
from ...transport.http.asgi import JSON, encode_headers
from ...transport.http.front_door import Peer, Tunnel
from ...transport.http.guarded_stream import ReplayStream
from ...transport.http.node_client import NodeGone, Place, connect
from ...transport.http.tunnel import pass_through
from ...transport.http.websocket import (
    INTERNAL,
    WebSocket,
    WebSocketClosed,
    accept_websocket,
    host_of,
)
from ...transport.loggers import get_logger
from ...transport.store.interface import StoreError
from ..http.auth import (
    NODE_HEADER,
    Headers,
    KeyRing,
    check_host,
    check_origin,
    headers_of,
    node_of,
    publish_refusal,
    request_id_of,
)
from ..keys.registry import TURNS, revoked
from ..listeners.overview import Overview, open_overview
from ..nodes.membership import Membership
from ..runtime.boundary import as_gateway_error
from .call import SocketCall, error_event
from .join import join
from .responses import converse
from .shared_events import Shared, SharedEvents, watch_elsewhere

if TYPE_CHECKING:
    from ..gateway import Gateway

log = get_logger("ccapi.websocket")

Handler = Callable[[SocketCall], Awaitable[None]]

PROTOCOL = "ccapi.v1"
KEY_PROTOCOL = "ccapi-key."
OPENAI_KEY_PROTOCOL = "openai-insecure-api-key."
"""Subprotocols: what a browser can offer, where another client would send a header."""

REFUSED = 1008
"""The code of a WebSocket that ends for a fault of its client's (RFC 6455: policy violation)."""


MOST_TRIES = 5
"""How often a connection looks for its conversation again."""

REVOKED_SECONDS = 0.3
"""How long a client whose key was revoked may take to read why its WebSocket ends."""


async def watch_overview(call: SocketCall) -> None:
    """The gateway as it stands, again whenever it changes, until the client closes. Raises
    `WebSocketClosed`.

    ``/v1/house`` is the former name of ``/v1/overview``, which goes with the next release: what is
    sent there has the ``type`` of that name too."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_answer_pings, call)
        with call.overview.watch():
            while True:
                number = call.overview.number
                await call.socket.send_frames(call.overview.picture(call.owner, call.path["name"]))
                await call.overview.wait_newer(number)


async def _answer_pings(call: SocketCall) -> None:
    """Notices that the client closes; answers a ``ping``, and nothing else."""
    while True:
        try:
            message = await call.receive()
        except GatewayError:
            continue
        if message.get("type") == "ping":
            await call.send({"type": "pong"})


async def _check_nothing(gateway: Gateway, owner: str, path: Mapping[str, str]) -> None:
    """For a route that any client may take."""


async def _check_conversation(gateway: Gateway, owner: str, path: Mapping[str, str]) -> None:
    await gateway.find(path["conversation_id"], owner=owner)


@frozen
class _Route:
    """`check` raises `GatewayError` before anything is accepted. `scopes`: the key needs one of
    them (empty: any key will do)."""

    pattern: re.Pattern[str]
    handler: Handler
    check: Callable[[Gateway, str, Mapping[str, str]], Awaitable[None]] = _check_nothing
    scopes: Sequence[Scope] = ()


ROUTES = (
    _Route(re.compile(r"/v1/responses"), converse, scopes=TURNS),
    _Route(
        re.compile(r"/v1/conversations/(?P<conversation_id>[^/]+)/events"),
        join,
        _check_conversation,
        TURNS,
    ),
    _Route(re.compile(r"/v1/(?P<name>overview|house)"), watch_overview),
)


@frozen
class _Admitted:
    """An upgrade that has passed every check."""

    handler: Handler
    owner: str
    path: Mapping[str, str]
    query: Mapping[str, str]
    subprotocol: str | None
    from_node: str | None


@frozen
class _Other:
    """Another node that has what the client wants, and a connection to it."""

    nodes: Membership
    elsewhere: Elsewhere
    stream: trio.abc.Stream
    socket: trio.socket.SocketType

    async def end_with_it(self, scope: trio.CancelScope) -> None:
        """A node that is frozen, or cut off, does not end the connection."""
        await self.nodes.wait_gone(self.elsewhere.node_id)
        scope.cancel()


class WebSocketFront:
    """Made by `open_websocket_front`."""

    def __init__(self, gateway: Gateway, overview: Overview, nursery: trio.Nursery) -> None:
        """`nursery` is for the connections to other nodes that several clients share."""
        self._gateway = gateway
        self._overview = overview
        self._shared: SharedEvents | None = None
        if gateway.nodes is not None:
            seconds = gateway.settings.cluster.connect_seconds
            self._shared = SharedEvents(gateway.nodes, seconds, nursery)
        self._keys = KeyRing(gateway.keys)
        self._open = 0

    def __repr__(self) -> str:
        return f"<WebSocketFront {self._open} open>"

    async def serve(self, request: WebSocketRequest, peer: Peer) -> Tunnel | None:
        """One connection, from its handshake on: the front door's `WebSocketHandler`. What another
        node has passes through to that one."""
        headers = headers_of((name.lower(), value) for name, value in request.headers)
        request_id = request_id_of(headers)
        path, _, query = request.path.partition("?")
        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                owner, from_node = self._owner(request, headers, query, request_id)
                admitted = await self._admit_somewhere(
                    request, headers, owner, from_node, path, query
                )
            except GatewayError as error:
                log.info("request", method="GET", path=path, status=error.status, websocket=True)
                publish_refusal(self._gateway.bus, error, request_id)
                await _reject(request, error, request_id)
                return None
            if isinstance(admitted, _Other):
                log.info("passed on", url=admitted.elsewhere.url, path=path, websocket=True)
                passed = Passed("GET", request.path, request_id, owner)
                run = partial(self._pass_through, admitted, passed)
                return Tunnel(run, admitted.socket.close)
            self._open += 1
            try:
                await self._talk(request, admitted, path, request_id, self._events_of(headers))
            finally:
                self._open -= 1
        return None

    async def _admit_somewhere(
        self,
        request: WebSocketRequest,
        headers: Headers,
        owner: str,
        from_node: str | None,
        path: str,
        query: str,
    ) -> _Admitted | _Other:
        """Raises `GatewayError`."""
        nodes = self._gateway.nodes
        seconds = self._gateway.settings.cluster.connect_seconds
        for tries_left in reversed(range(MOST_TRIES)):
            try:
                return await self._admit(request, headers, owner, from_node, path, query)
            except GatewayError as error:
                elsewhere = await self._elsewhere(error, path)
                if elsewhere is None or nodes is None or from_node is not None or not tries_left:
                    raise
                try:
                    stream, socket = await connect(Place.of(elsewhere.url), seconds)
                    return _Other(nodes, elsewhere, stream, socket)
                except NodeGone:
                    # Once its lease is over, the conversation is free.
                    if not await nodes.outlasts(elsewhere.node_id):
                        raise elsewhere from None
        raise AssertionError("the last try returns or raises")

    async def _elsewhere(self, error: GatewayError, path: str) -> Elsewhere | None:
        """What says that another node has what is wanted, or has to do it for this one, which
        drains. Raises `Overloaded`."""
        nodes = self._gateway.nodes
        if isinstance(error, Elsewhere) or nodes is None or error.code != "draining":
            return error if isinstance(error, Elsewhere) else None
        _, parts = _find(path)
        name = parts.get("conversation_id")
        try:
            holder = None if name is None else await self._gateway.node_of(name)
        except StoreError as failure:
            raise storage_unavailable(str(failure)) from failure
        return nodes.instead if holder is None else Elsewhere(holder.id, holder.url)

    async def _pass_through(self, other: _Other, passed: Passed, client: ReplayStream) -> None:
        """Have the other node serve a client: one that joins a conversation of that node's, or any
        where this one drains."""
        self._open += 1
        elsewhere, path = other.elsewhere, passed.target.partition("?")[0]
        route, _ = _find(path)
        shared = Shared(elsewhere.node_id, elsewhere.url, path, passed.owner)
        joins = self._shared is not None and route.handler is join
        try:
            async with other.stream, trio.open_nursery() as nursery:
                nursery.start_soon(other.end_with_it, nursery.cancel_scope)
                sharing = self._shared.of(shared) if self._shared and joins else nullcontext()
                async with sharing as events:
                    proof = other.nodes.prove(passed)
                    if events is None:
                        await pass_through(client, other.stream, proof)
                    else:
                        await watch_elsewhere(client, other.stream, proof, events)
                nursery.cancel_scope.cancel()
        finally:
            self._open -= 1

    def _owner(
        self, request: WebSocketRequest, headers: Headers, query: str, request_id: str
    ) -> tuple[str, str | None]:
        """Whose connection it is, and the id of the node that has passed it on. Raises
        `GatewayError`."""
        gateway, settings = self._gateway, self._gateway.settings
        if gateway.nodes is not None and NODE_HEADER in headers:
            passed = Passed("GET", request.path, request_id)
            from_node = node_of(settings.cluster.secret, headers, passed)
            return self._keys.passed_on(headers), from_node
        hosts = [host_of(request).encode("utf-8")]
        check_host(settings.server, hosts)
        # No CORS stands before a WebSocket: whatever page asks, the browser connects.
        check_origin(settings.server, headers, hosts)
        shown = [*_keys_in(request.proposed_subprotocols)]
        query_key = dict(parse_qsl(query, keep_blank_values=True)).get("api_key")
        if query_key is not None and settings.auth.allow_query_key:
            shown.append(query_key.encode())
        return self._keys.owner(headers, shown), None

    def _events_of(self, headers: Headers) -> str:
        """What the node that passes the connection on wants of the events. (`_owner` has looked
        whether it is a node.)"""
        if self._gateway.nodes is None or NODE_HEADER not in headers:
            return ""
        return b"".join(headers.get(EVENTS_HEADER.encode(), ())[:1]).decode("latin-1")

    async def _until_revoked(self, handler: Handler, call: SocketCall) -> None:
        """Run the handler, until the client's key is revoked. Raises what it does."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._wait_revoked, call, nursery.cancel_scope)
            await handler(call)
            nursery.cancel_scope.cancel()

    async def _wait_revoked(self, call: SocketCall, scope: trio.CancelScope) -> None:
        await self._gateway.keys.wait_revoked(call.owner)
        # While the handler still runs: cancelled in the middle of a frame, it would leave the
        # connection in no state to say why it ends.
        with trio.move_on_after(REVOKED_SECONDS):
            await _send_failure(call.socket, revoked())
        scope.cancel()

    async def _admit(
        self,
        request: WebSocketRequest,
        headers: Headers,
        owner: str,
        from_node: str | None,
        path: str,
        query: str,
    ) -> _Admitted:
        """Raises `GatewayError`."""
        gateway, settings = self._gateway, self._gateway.settings
        asked = dict(parse_qsl(query, keep_blank_values=True))
        asked.pop("api_key", None)
        route, parts = _find(path)
        if route.scopes:
            gateway.keys.find(owner).check(route.scopes)
        if gateway.draining and not self._is_seen_to_its_end(owner, parts):
            raise draining()
        await route.check(gateway, owner, parts)
        is_full = self._open >= settings.websocket.max_connections
        if is_full and self._events_of(headers) != SHARED:
            raise RateLimited(
                f"There are {self._open} WebSockets open already.",
                code="too_many_websockets",
                retry_after=5,
            )
        chosen = _choose(request.proposed_subprotocols)
        return _Admitted(route.handler, owner, parts, asked, chosen, from_node)

    def _is_seen_to_its_end(self, owner: str, parts: Mapping[str, str]) -> bool:
        """Whether a client may join, although the gateway drains: a turn runs there."""
        name, gateway = parts.get("conversation_id"), self._gateway
        return name is not None and gateway.nodes is not None and gateway.runs(name, owner=owner)

    async def _talk(
        self,
        request: WebSocketRequest,
        admitted: _Admitted,
        path: str,
        request_id: str,
        events: str,
    ) -> None:
        socket = await accept_websocket(
            request,
            subprotocol=admitted.subprotocol,
            headers=encode_headers({"x-request-id": request_id}),
            bodies=self._gateway.bodies,
        )
        log.info("websocket_opened", path=path)
        begun = time.perf_counter()
        call = SocketCall(
            self._gateway,
            self._overview,
            admitted.owner,
            request_id,
            socket,
            admitted.path,
            admitted.query,
            admitted.from_node,
            events,
        )
        try:
            await _handle(partial(self._until_revoked, admitted.handler), call)
            await socket.close()
        finally:
            socket.release()
            closed = socket.closed
            log.info(
                "websocket_closed",
                path=path,
                code=None if closed is None else closed.code,
                seconds=round(time.perf_counter() - begun, 4),
                received=socket.received,
                sent=socket.sent,
            )


async def _handle(handler: Handler, call: SocketCall) -> None:
    """The boundary: the client receives what the handler raises, and its WebSocket ends."""
    try:
        await handler(call)
    except* WebSocketClosed as closed:
        log.debug("websocket_gone", reason=str(closed.exceptions[0]))
    except* Exception as errors:  # noqa: BLE001 (`as_gateway_error` logs what is not for clients)
        await _send_failure(call.socket, as_gateway_error(errors))


async def _send_failure(socket: WebSocket, error: GatewayError) -> None:
    try:
        await socket.send(write_json(error_event(error)))
        await socket.close(REFUSED if isinstance(error, CallerError) else INTERNAL, error.code)
    except WebSocketClosed:
        pass


async def _reject(request: WebSocketRequest, error: GatewayError, request_id: str) -> None:
    fields = {
        "content-type": JSON,
        "connection": "close",
        "x-request-id": request_id,
        **error.headers(),
    }
    if error.status == 401:
        fields["www-authenticate"] = "Bearer"
    await request.reject(
        error.status, extra_headers=encode_headers(fields), body=write_json(error.body())
    )


def _find(path: str) -> tuple[_Route, Mapping[str, str]]:
    for route in ROUTES:
        if found := route.pattern.fullmatch(path):
            return route, {name: unquote(part) for name, part in found.groupdict().items()}
    raise NotFound(f"There is no WebSocket at {path}.", code="no_websocket")


def _keys_in(subprotocols: Iterable[str]) -> Iterator[bytes]:
    for name in subprotocols:
        if name.startswith(OPENAI_KEY_PROTOCOL):
            yield name.removeprefix(OPENAI_KEY_PROTOCOL).encode()
        elif name.startswith(KEY_PROTOCOL):
            encoded = name.removeprefix(KEY_PROTOCOL).encode()
            try:
                yield base64.b64decode(encoded + b"=" * (-len(encoded) % 4), b"-_", validate=True)
            except ValueError:
                yield b""  # a key was shown, if a broken one


def _choose(subprotocols: Iterable[str]) -> str | None:
    """Which of those that were offered is spoken. A browser that offered some and is answered with
    none closes again; so where nothing else is offered, that is one with a key in it."""
    offered = [*subprotocols]
    if PROTOCOL in offered:
        return PROTOCOL
    plain = [name for name in offered if not name.startswith((KEY_PROTOCOL, OPENAI_KEY_PROTOCOL))]
    return next(iter([*plain, *offered]), None)


@asynccontextmanager
async def open_websocket_front(gateway: Gateway) -> AsyncIterator[WebSocketFront]:
    """Serve the WebSockets of `gateway` while the block runs."""
    async with open_overview(gateway) as overview, trio.open_nursery() as nursery:
        yield WebSocketFront(gateway, overview, nursery)
        nursery.cancel_scope.cancel()
