"""What stands around every HTTP route: one class that admits a request, and one for its response.

Knows: ASGI, and in which order a request is checked: that it is HTTP, its id, its host, its origin.
Refuses to know: the routes, and whose request it is (`actors.http.request` asks for the key).

A streamed answer sends a message for each token. So nothing here is entered again once the head of
a response is out: `Response.send_body` is the server's own function.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import structlog
from attrs import define, field
from starlette.datastructures import Headers as StarletteHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response as StarletteResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ...schemas.anthropic.errors import VERSION_HEADER
from ...schemas.convert import write_json
from ...schemas.envelope import OPENAI, Envelope
from ...schemas.errors import GatewayError, InvalidRequest, NotImplementedHere, Unauthenticated
from ...schemas.node_seal import FINAL_HEADER, Passed
from ...schemas.settings.settings import ServerSettings
from ...transport.http.asgi import JSON, ClientGone, encode_headers, send_json
from ...transport.loggers import get_logger
from ..runtime.boundary import as_gateway_error
from ..runtime.bus import Bus
from .auth import (
    NODE_HEADER,
    Headers,
    check_host,
    check_origin,
    headers_of,
    node_of,
    publish_refusal,
    request_id_of,
    target_of,
)

log = get_logger("ccapi.http")

RESPONSE = "ccapi.response"
"""The scope's key for the `Response` to its request."""

FROM_NODE = "ccapi.from_node"
"""The scope's key for the id of the node that has passed its request on."""

HEADERS = "ccapi.headers"
"""The scope's key for the request's headers by name (`auth.Headers`)."""

RATE_LIMITS = tuple(
    f"x-ratelimit-{what}-{of}"
    for what in ("limit", "remaining", "reset")
    for of in ("requests", "tokens")
)

EXPOSED = (
    "x-request-id", "request-id", "x-conversation-id", "x-ccapi-cache", "x-ccapi-ignored",
    "x-ccapi-lineage",
    "x-ccapi-tool-choice", "x-ccapi-history-omitted", "x-ccapi-workspace", "x-ccapi-child",
    "x-ccapi-lost-turn", "idempotent-replayed", *RATE_LIMITS, "retry-after", "retry-after-ms",
    "x-should-retry",
)  # fmt: skip

_SAFE_METHODS = {"GET", "HEAD"}
_METHODS = ("GET", "POST", "DELETE")


class Front:
    """Admits HTTP requests to `app`, and turns what is raised inside into the error envelope.

    The server's lifespan passes; a WebSocket is refused in words. Raises `NotImplementedError` for
    any other protocol, as ASGI asks of applications.
    """

    def __init__(
        self, app: ASGIApp, server: ServerSettings, bus: Bus, node_secret: str = ""
    ) -> None:
        self._app = app
        self._server = server
        self._bus = bus
        self._node_secret = node_secret
        self._cors = Cors(app, server)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        match scope["type"]:
            case "http":
                await self._serve(scope, receive, send)
            case "lifespan":
                await self._app(scope, receive, send)
            case "websocket":
                await receive()  # websocket.connect: before it, nothing may be sent
                await _refuse_websocket(scope, send)
            case other:
                raise NotImplementedError(f"The gateway serves http, not {other}.")

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = scope[HEADERS] = headers_of(scope["headers"])
        response = scope[RESPONSE] = _response_to(scope, headers, send)
        begun = time.perf_counter()
        with structlog.contextvars.bound_contextvars(request_id=response.headers["x-request-id"]):
            try:
                await self._answer(scope, receive, response)
            finally:
                write = log.debug if response.is_asset else log.info
                node = scope.get(FROM_NODE)
                write(
                    "request",
                    **({} if node is None else {"from_node": node}),
                    method=scope["method"],
                    path=scope["path"],
                    status=response.status,
                    seconds=round(time.perf_counter() - begun, 4),
                )

    async def _answer(self, scope: Scope, receive: Receive, response: Response) -> None:
        try:
            self._check(scope, response.headers["x-request-id"])
            if b"origin" in scope[HEADERS]:
                headers = StarletteHeaders(scope=scope)
                if scope["method"] == "OPTIONS" and "access-control-request-method" in headers:
                    await self._cors.preflight_response(headers)(scope, receive, response.send)
                    return
                # From here on: a page may read the errors of its own requests.
                response.allow_page(self._cors, headers)
            await self._app(scope, receive, response.send)
        except ClientGone:
            pass
        except Exception as error:
            if response.status is not None:
                # Only the server can still show that the response is not whole, by cutting it.
                raise
            failure = as_gateway_error(error)
            publish_refusal(self._bus, failure, response.headers["x-request-id"], response.owner)
            if isinstance(failure, Unauthenticated):
                response.headers["www-authenticate"] = "Bearer"
            elif FROM_NODE in scope and failure.should_retry is False:
                response.headers[FINAL_HEADER] = "1"
            await send_failure(response, failure)

    def _check(self, scope: Scope, request_id: str) -> None:
        """Admit what is meant for this server and comes from where it may."""
        method, headers = scope["method"], scope[HEADERS]
        if self._node_secret and NODE_HEADER in headers:
            # The node has looked at the rest.
            target = target_of(scope["path"], scope["query_string"])
            passed = Passed(method, target, request_id)
            scope[FROM_NODE] = node_of(self._node_secret, headers, passed)
            return
        check_host(self._server, headers.get(b"host", ()))
        if method not in _SAFE_METHODS:
            # Reading is left to CORS: without its headers a page gets nothing to see.
            check_origin(self._server, headers)


@define(eq=False)
class Response:
    """The response to one request. `headers` go on it whatever it turns out to be, and what `late`
    gives when its head is sent; `status` is None until then. `send_body` is the server's own
    `send`, for what follows the head. `is_asset`: it is a file of the page, of which a browser asks
    for many at once. `owner`: whose key was shown, once that is known. `envelope`: what an error is
    put in."""

    send_body: Send
    headers: dict[str, str]
    status: int | None = None
    late: Callable[[], dict[str, str]] | None = None
    is_asset: bool = False
    owner: str = ""
    envelope: Envelope = OPENAI
    _cors: Cors | None = None
    _asked: StarletteHeaders = field(factory=StarletteHeaders)

    def allow_page(self, cors: Cors, asked: StarletteHeaders) -> None:
        """Give the response CORS headers, for a request with the headers `asked`."""
        self._cors, self._asked = cors, asked

    async def send(self, message: Message) -> None:
        """ASGI's `send`."""
        if message["type"] != "http.response.start":
            await self.send_body(message)
        elif self._cors is None:
            await self._start(message)
        else:
            await self._cors.send(message, self._start, self._asked)

    async def _start(self, message: Message) -> None:
        self.status = message["status"]
        if self.late is not None:
            self.headers |= self.late()
        message["headers"] = [*message.get("headers", ()), *encode_headers(self.headers)]
        await self.send_body(message)


def _response_to(scope: Scope, headers: Headers, send: Send) -> Response:
    """The response to a request, whose dialect its path and headers show."""
    request_id = request_id_of(headers)
    named = {"x-request-id": request_id}
    path = scope["path"].removeprefix(scope.get("root_path", ""))
    envelope = Envelope.of(path, request_id, versioned=VERSION_HEADER.encode() in headers)
    if envelope.messages:
        named["request-id"] = request_id  # as that API calls it
    return Response(send, named, envelope=envelope)


async def send_failure(response: Response, failure: GatewayError) -> None:
    """Answer with an error, in the envelope of the client's dialect."""
    status, body = response.envelope.status(failure), response.envelope.body(failure)
    await send_json(response.send, status, body, failure.headers())


async def _refuse_websocket(scope: Scope, send: Send) -> None:
    """With the error envelope where the server can send one (ASGI specification, "Websocket Denial
    Response"), else with a close before the handshake, which servers make a 403."""
    failure = NotImplementedHere("WebSocket is not served by this gateway.")
    request_id = request_id_of(headers_of(scope["headers"]))
    with structlog.contextvars.bound_contextvars(request_id=request_id):
        log.info("request", method="GET", path=scope["path"], status=failure.status, websocket=True)
    if "websocket.http.response" not in (scope.get("extensions") or {}):
        await send({"type": "websocket.close", "code": 1013, "reason": failure.message})
        return
    fields = {"content-type": JSON, "x-request-id": request_id, **failure.headers()}
    kind = "websocket.http.response"
    await send(
        {"type": f"{kind}.start", "status": failure.status, "headers": encode_headers(fields)}
    )
    await send({"type": f"{kind}.body", "body": write_json(failure.body())})


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

    def preflight_response(self, request_headers: StarletteHeaders) -> StarletteResponse:
        """Starlette's, but the client receives its errors in the gateway's envelope."""
        response = super().preflight_response(request_headers)
        if response.status_code < 400:
            return response
        failure = InvalidRequest(f"{bytes(response.body).decode()}.", code="preflight_refused")
        headers = {
            name: value
            for name, value in response.headers.items()
            if name not in ("content-type", "content-length")
        }
        body = write_json(failure.body())
        return StarletteResponse(body, response.status_code, headers, media_type=JSON)
