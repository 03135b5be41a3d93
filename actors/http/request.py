"""One HTTP request on its way through a route, and how routes are made.

Knows: the scope as the middleware left it, bodies as JSON, methods. Refuses to know: what any route
does.
"""

from __future__ import annotations

import reprlib
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, NoReturn, TypeVar
from urllib.parse import parse_qsl

from attrs import define, evolve, field
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from ...schemas.convert import parse_json, weigh_json
from ...schemas.errors import (
    GatewayError,
    MethodNotAllowed,
    NotFound,
    UnsupportedMediaType,
    invalid,
)
from ...schemas.keys import Scope as KeyScope
from ...schemas.node_seal import UNDONE
from ...transport.http.asgi import decode_body, read_body, send_json
from ...transport.http.bodies import LONG, MEMORY_PER_BYTE, Share
from ...transport.http.content_coding import CODINGS, UnknownCoding, read_codings
from ...transport.http.event_stream import EventStream
from ..keys.registry import Rights
from .auth import Headers, KeyRing
from .middleware import FROM_NODE, HEADERS, RESPONSE, Response

if TYPE_CHECKING:
    from ..gateway import Gateway

T = TypeVar("T")

NAMES = b'"id"'
"""What a body has that names something by its id."""

IDEMPOTENCY_KEY = b"idempotency-key"
"""The header of a request that shall be done once."""


@define(eq=False)
class Call:
    """What a route is given. `owner` is there on routes that need a key. The headers of `response`
    go on whatever the response turns out to be, an error too."""

    gateway: Gateway
    scope: Scope
    receive: Receive
    send: Send
    share: Share
    _owner: str | None
    headers: Headers
    response: Response
    failure: GatewayError | None = None
    """What a streamed response has failed with, once its head was out."""
    apart: bool = False
    """It is a request of a batch: a conversation for itself, which is not kept."""
    made: list[str] = field(factory=list)
    """Conversations that were made for it, beside the one that the response names."""
    _read_body: bytearray | None = None

    @property
    def owner(self) -> str:
        assert self._owner is not None, "the route needs no key"
        return self._owner

    @property
    def rights(self) -> Rights:
        """What the client's key may do."""
        return self.gateway.keys.find(self.owner)

    def open_stream(self) -> EventStream:
        """The response as a stream of server-sent events."""
        heartbeat_seconds = self.gateway.settings.server.heartbeat_seconds
        return EventStream(self.send, heartbeat_seconds, self.response.send_body, self._farewell)

    def _farewell(self) -> bytes:
        """What another node has to know of a stream that ends now."""
        if self.from_node is None or self.failure is None or self.failure.should_retry is False:
            return b""
        return UNDONE

    def header(self, name: str) -> str | None:
        """The header's value; of several, the first."""
        values = self.headers.get(name.encode("latin-1"))
        return values[0].decode("latin-1") if values else None

    def path(self, name: str) -> str:
        """A part of the path that the route left open."""
        part: str = self.scope["path_params"][name]
        return part

    def query(self, *names: str) -> dict[str, str]:
        """The parameters of these names that the URL has, blank ones too. Others are ignored.

        Raises `InvalidRequest` where one is given twice.
        """
        given = parse_qsl(self.scope["query_string"].decode("latin-1"), keep_blank_values=True)
        found: dict[str, str] = {}
        for name, value in given:
            if name in names:
                if name in found:
                    raise invalid(f"{name} must be given once.", name)
                found[name] = value
        return found

    def values(self, *names: str) -> list[str]:
        """All values of the parameters of these names that the URL has."""
        given = parse_qsl(self.scope["query_string"].decode("latin-1"), keep_blank_values=True)
        return [value for name, value in given if name in names]

    async def json(self, *, optional: bool = False) -> object:
        """The body; an empty object if there is none and it is `optional`. Raises what `parsed`
        does."""
        return await self.parsed(_as_it_is, optional=optional)

    async def parsed(
        self, read: Callable[[object], T], *, optional: bool = False, refers: bool = False
    ) -> T:
        """What `read` makes of the body's JSON; of an empty object if there is none and it is
        `optional`. For a long body all of that is done in a thread, and where the body `refers` to
        what is kept here: that may be long.

        Raises `UnsupportedMediaType`, `TooLarge`, `Overloaded`, `InvalidRequest`
        (``invalid_json``), `ClientGone` and what `read` does.
        """
        body, bodies = await self.body(), self.gateway.bodies
        if optional and not body:
            return await bodies.read(0, partial(read, {}))
        memory = await bodies.read(len(body), partial(weigh_json, body))
        await self.share.grow_to(memory // MEMORY_PER_BYTE)
        length = LONG if refers and NAMES in body else len(body)
        keeps = self.gateway.nodes is not None  # it may have to be passed on
        return await bodies.read(length, partial(_read, body, read, keeps=keeps))

    def moved(self, receive: Receive, response: Response, share: Share) -> Call:
        """The same request, its body read, for a task that answers elsewhere."""
        return evolve(self, receive=receive, send=response.send, response=response, share=share)

    def take_body(self, body: bytearray) -> None:
        """The body, which was read elsewhere."""
        self._read_body = body

    @property
    def from_node(self) -> str | None:
        """The id of the node that has passed this request on; None: it is the client's own."""
        node: str | None = self.scope.get(FROM_NODE)
        return node

    async def whole_body(self) -> bytes | bytearray:
        """The body, to be passed on. Raises what `parsed` does."""
        if self._read_body is None and self.scope["method"] not in ("POST", "PUT", "PATCH"):
            return b""
        return await self.body()

    async def body(self) -> bytearray:
        """The body as it is without its codings; read once. Raises what `parsed` does."""
        if self._read_body is None:
            self._read_body = await self._receive_body()
        return self._read_body

    async def _receive_body(self) -> bytearray:
        given = self.header("content-type")
        media_type = (given or "").partition(";")[0].strip().lower()
        if given is not None and media_type != "application/json":
            # Without this, a page could post here as if by a form, and need no permission from
            # CORS.
            raise UnsupportedMediaType(
                "The body must be JSON, sent with content-type: application/json."
            )
        coded = self.headers.get(b"content-encoding")
        try:
            codings = read_codings(coded) if coded else []
        except UnknownCoding as unknown:
            self.response.headers["accept-encoding"] = ", ".join(CODINGS)
            raise UnsupportedMediaType(
                f"A body in the coding {reprlib.repr(str(unknown))} is not taken here, but "
                f"{', '.join(CODINGS)} are.",
                code="unsupported_encoding",
            ) from None
        limit = self.gateway.settings.server.max_body_bytes
        body = await read_body(self.scope, self.receive, limit, self.share)
        if codings and body:
            body = await decode_body(body, codings, limit, self.gateway.bodies, self.share)
        return body

    async def answer(self, value: object, status: int = 200) -> None:
        await send_json(self.send, status, value)


def _as_it_is(raw: object) -> object:
    return raw


def _read(body: bytearray, read: Callable[[object], T], *, keeps: bool = False) -> T:
    try:
        raw = parse_json(body)
    finally:
        if not keeps:
            body.clear()  # its strings are in memory a second time now, or it is refused
    return read(raw)


Handler = Callable[[Call], Awaitable[None]]
Once = Callable[[Handler], Handler]
IsThere = Callable[[Call], bool]


class _Methods:
    """The handlers of one path, as the ASGI app that Starlette's router wants."""

    def __init__(
        self,
        gateway: Gateway,
        handlers: dict[str, Handler],
        is_there: IsThere | None,
        keys: KeyRing | None,
        scopes: Sequence[KeyScope],
        once: Once | None,
        forwarding: Once | None,
    ) -> None:
        self._gateway = gateway
        self._forwarding = forwarding
        self._once = once
        self._keys = keys
        self._scopes = scopes
        self._handlers = handlers
        self._is_there = is_there

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers, response = scope[HEADERS], scope[RESPONSE]
        owner = None
        if self._keys is not None:
            passed_on = scope.get(FROM_NODE) is not None
            owner = self._keys.passed_on(headers) if passed_on else self._keys.owner(headers)
        response.owner = owner or ""
        if owner is not None and self._scopes:
            self._gateway.keys.find(owner).check(self._scopes)
        if owner is not None:
            if self._gateway.nodes is not None:
                await self._gateway.limits.load_headers(owner)
            response.late = partial(self._gateway.limits.headers, owner)
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        handler = self._handlers.get(method)
        if self._forwarding is not None and handler is not None:
            handler = self._forwarding(handler)
        if self._once is not None and handler is not None and IDEMPOTENCY_KEY in headers:
            handler = self._once(handler)
        # What was read stays in memory as long as the request does, in one form or another.
        with self._gateway.bodies.share() as share:
            call = Call(self._gateway, scope, receive, send, share, owner, headers, response)
            if handler is None:
                self._refuse_method(call)
            else:
                await handler(call)

    def _refuse_method(self, call: Call) -> NoReturn:
        asked = f"{call.scope['method']} {call.scope['path']}"
        if self._is_there is not None and not self._is_there(call):
            raise NotFound(f"There is nothing at {asked}.", code="not_offered")
        call.response.headers["allow"] = ", ".join(
            [*self._handlers, *(["HEAD"] if "GET" in self._handlers else [])]
        )
        raise MethodNotAllowed(f"{call.scope['method']} is not a method of {call.scope['path']}.")


def route(
    gateway: Gateway,
    path: str,
    keys: KeyRing | None = None,
    *,
    scopes: Sequence[KeyScope] = (),
    is_there: IsThere | None = None,
    once: Once | None = None,
    forwarding: Once | None = None,
    **handlers: Handler,
) -> Route:
    """A route with one handler per method: ``route(gateway, "/x", keys, GET=…, POST=…)``.

    `keys` None: the route needs no key. `scopes`: the key needs one of them (empty: any key will
    do). `is_there`, for a path that names something: whether it can be the name of such a thing. A
    method that the route lacks is a 404, and not a 405, where it cannot. `once`: makes of a handler
    one that does each request with an ``Idempotency-Key`` once. `forwarding`: makes of a handler
    one that passes on what another node has to do.
    """
    return Route(path, _Methods(gateway, handlers, is_there, keys, scopes, once, forwarding))
