"""One HTTP request on its way through a route, and how routes are made.

Knows: the scope as the guards left it, bodies as JSON, methods. Refuses to know: what any route
does.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

from attrs import define, field
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from ..schemas.convert import read_json
from ..schemas.errors import MethodNotAllowed, NotFound, UnsupportedMediaType
from ..transport.asgi import read_body, send_json
from .http_guards import LABELS, OWNER

if TYPE_CHECKING:
    from .gateway import Gateway


@define(eq=False)
class Call:
    """What a route is given. `owner` is there behind `Authenticated` alone."""

    gateway: Gateway
    scope: Scope
    receive: Receive
    send: Send
    _headers: dict[bytes, bytes] = field(init=False)

    @_headers.default
    def _read_headers(self) -> dict[bytes, bytes]:
        return dict(reversed(self.scope["headers"]))  # of repeated ones, the first

    @property
    def owner(self) -> str:
        owner: str = self.scope[OWNER]
        return owner

    @property
    def labels(self) -> dict[str, str]:
        """Headers for the response, whatever it turns out to be; an error has them too."""
        labels: dict[str, str] = self.scope[LABELS]
        return labels

    def header(self, name: str) -> str | None:
        value = self._headers.get(name.encode("latin-1"))
        return None if value is None else value.decode("latin-1")

    def path(self, name: str) -> str:
        """A part of the path that the route left open."""
        part: str = self.scope["path_params"][name]
        return part

    def query(self) -> dict[str, str]:
        return dict(parse_qsl(self.scope["query_string"].decode("latin-1")))

    async def json(self, *, optional: bool = False) -> object:
        """The body; an empty object if there is none and it is `optional`.

        Raises `UnsupportedMediaType`, `TooLarge`, `InvalidRequest` (``invalid_json``) and
        `ClientGone`.
        """
        given = self.header("content-type")
        media_type = (given or "").partition(";")[0].strip().lower()
        if given is not None and media_type != "application/json":
            # Without this, a page could post here as if by a form, and need no leave from CORS.
            raise UnsupportedMediaType(
                "The body must be JSON, sent with content-type: application/json."
            )
        limit = self.gateway.settings.server.max_body_bytes
        body = await read_body(self.scope, self.receive, limit)
        return {} if optional and not body else read_json(body)

    async def answer(self, value: object, status: int = 200) -> None:
        await send_json(self.send, status, value)


Handler = Callable[[Call], Awaitable[None]]
IsThere = Callable[[Call], bool]


class _Methods:
    """The handlers of one path, as the ASGI app that Starlette's router wants."""

    def __init__(
        self, gateway: Gateway, handlers: dict[str, Handler], is_there: IsThere | None
    ) -> None:
        self._gateway = gateway
        self._handlers = handlers
        self._is_there = is_there

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        call = Call(self._gateway, scope, receive, send)
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        handler = self._handlers.get(method)
        if handler is None:
            if self._is_there is not None and not self._is_there(call):
                raise NotFound(
                    f"There is nothing at {scope['method']} {scope['path']}.", code="not_offered"
                )
            call.labels["allow"] = ", ".join(
                [*self._handlers, *(["HEAD"] if "GET" in self._handlers else [])]
            )
            raise MethodNotAllowed(f"{scope['method']} is not a method of {scope['path']}.")
        await handler(call)


def route(
    gateway: Gateway, path: str, *, is_there: IsThere | None = None, **handlers: Handler
) -> Route:
    """A route with one handler per method: ``route(gateway, "/x", GET=…, POST=…)``.

    `is_there`, for a path that names something: whether it can be the name of such a thing. A
    method that the route lacks is a 404, and not a 405, where it cannot.
    """
    return Route(path, _Methods(gateway, handlers, is_there))
