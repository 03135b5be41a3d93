"""What stands around every HTTP route: labels, the error boundary, host, origin and key checks.

Knows: ASGI middleware, and in which order the guards stand. Refuses to know: the routes.

The order, from the outside: `OnlyHttp`, `Labels`, `Boundary` (tells what the guards refuse),
`Addressed`, CORS, `Boundary` again (inside CORS, so that a page may read the errors of its own
requests), the routes, and `Authenticated` around those that need a key.
"""

from __future__ import annotations

import time

import structlog
from starlette.datastructures import Headers as StarletteHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ...schemas.convert import write_json
from ...schemas.errors import InvalidRequest, NotImplementedHere, Unauthenticated
from ...schemas.settings.settings import ServerSettings
from ...transport.http.asgi import JSON, ClientGone, encode_headers, send_json
from ...transport.loggers import get_logger
from ..runtime.boundary import as_gateway_error
from .auth import KeyRing, check_host, check_origin, header_values, request_id

log = get_logger("ccapi.http")

LABELS = "ccapi.labels"
"""The scope's key for headers that go on the response whatever it turns out to be."""

OWNER = "ccapi.owner"
"""The scope's key for whose request it is."""

EXPOSED = (
    "x-request-id", "x-conversation-id", "x-ccapi-cache", "x-ccapi-ignored", "x-ccapi-lineage",
    "x-ccapi-tool-choice", "x-ccapi-history-omitted", "x-ccapi-workspace", "retry-after",
    "retry-after-ms", "x-should-retry",
)  # fmt: skip

_SAFE_METHODS = {"GET", "HEAD"}
_METHODS = ("GET", "POST", "DELETE")


class OnlyHttp:
    """Outermost: lets HTTP and the server's lifespan in, and refuses a WebSocket in its own words.

    With the error envelope where the server can send one (ASGI specification, "Websocket Denial
    Response"), else with a close before the handshake, which servers tell as a 403. Raises
    `NotImplementedError` for any other protocol, as ASGI asks of applications.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        match scope["type"]:
            case "http" | "lifespan":
                await self._app(scope, receive, send)
            case "websocket":
                await receive()  # websocket.connect: before it, nothing may be sent
                await self._refuse(scope, send)
            case other:
                raise NotImplementedError(f"The gateway serves http, not {other}.")

    async def _refuse(self, scope: Scope, send: Send) -> None:
        told = NotImplementedHere("WebSocket is not served by this gateway.")
        label = request_id(scope["headers"])
        with structlog.contextvars.bound_contextvars(request_id=label):
            log.info(
                "request", method="GET", path=scope["path"], status=told.status, websocket=True
            )
        if "websocket.http.response" not in (scope.get("extensions") or {}):
            await send({"type": "websocket.close", "code": 1013, "reason": told.message})
            return
        fields = {"content-type": JSON, "x-request-id": label, **told.headers()}
        kind = "websocket.http.response"
        await send(
            {"type": f"{kind}.start", "status": told.status, "headers": encode_headers(fields)}
        )
        await send({"type": f"{kind}.body", "body": write_json(told.body())})


class Labels:
    """Gives the request its id, for the response and for every line of the log, and
    writes one line about it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        labels = {"x-request-id": request_id(scope["headers"])}
        scope[LABELS] = labels
        status: int | None = None
        begun = time.perf_counter()

        async def send_labelled(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), *encode_headers(labels)]
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=labels["x-request-id"]):
            try:
                await self._app(scope, receive, send_labelled)
            finally:
                log.info(
                    "request",
                    method=scope["method"],
                    path=scope["path"],
                    status=status,
                    seconds=round(time.perf_counter() - begun, 4),
                )


class Boundary:
    """Turns what is raised inside into the error envelope, as long as no response has begun."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = False

        async def send_noting(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._app(scope, receive, send_noting)
        except ClientGone:
            pass
        except Exception as error:
            if begun:
                # Only the server can still show that the response is not whole, by cutting it.
                raise
            told = as_gateway_error(error)
            if isinstance(told, Unauthenticated):
                scope[LABELS]["www-authenticate"] = "Bearer"
            await send_json(send, told.status, told.body(), told.headers())


class Addressed:
    """Lets in what is meant for this server and comes from where it may."""

    def __init__(self, app: ASGIApp, server: ServerSettings) -> None:
        self._app = app
        self._server = server

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            check_host(self._server, header_values(scope["headers"], b"host"))
            if scope["method"] not in _SAFE_METHODS:
                # Reading is left to CORS: without its headers a page gets nothing to see.
                check_origin(self._server, scope["headers"])
        await self._app(scope, receive, send)


class Cors(CORSMiddleware):
    """Starlette's, with the operator's rule for origins. No cookies, so no credentials."""

    def __init__(self, app: ASGIApp, server: ServerSettings) -> None:
        super().__init__(
            app,
            allow_origins=server.cors_origins,
            allow_methods=_METHODS,
            allow_headers=("*",),
            expose_headers=EXPOSED,
        )
        self._server = server

    def is_allowed_origin(self, origin: str) -> bool:
        return self._server.allows_origin(origin)

    def preflight_response(self, request_headers: StarletteHeaders) -> Response:
        """Starlette's, but what it refuses is told in the error envelope."""
        response = super().preflight_response(request_headers)
        if response.status_code < 400:
            return response
        told = InvalidRequest(f"{bytes(response.body).decode()}.", code="preflight_refused")
        headers = {
            name: value
            for name, value in response.headers.items()
            if name not in ("content-type", "content-length")
        }
        return Response(write_json(told.body()), response.status_code, headers, media_type=JSON)


class Authenticated:
    """Finds out whose request it is, and lets in nobody else's."""

    def __init__(self, app: ASGIApp, keys: KeyRing) -> None:
        self._app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope[OWNER] = self._keys.owner(scope["headers"])
        await self._app(scope, receive, send)


def guarded(app: ASGIApp, server: ServerSettings) -> ASGIApp:
    """`app` behind every guard but `Authenticated`, which not all routes need."""
    return OnlyHttp(Labels(Boundary(Addressed(Cors(Boundary(app), server), server))))
