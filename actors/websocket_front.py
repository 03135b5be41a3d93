"""The WebSocket front: for now, an honest refusal that any HTTP client can read.

Knows: the checks that an upgrade has to pass, which are those of HTTP. Refuses to know: frames.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog
import trio_websocket

from ..schemas.convert import write_json
from ..schemas.errors import GatewayError, NotImplementedHere
from ..transport.asgi import JSON, encode_headers
from ..transport.loggers import get_logger
from .http_policy import KeyRing, check_host, check_origin, request_id
from .workspaces import LOCAL

if TYPE_CHECKING:
    from .gateway import Gateway

log = get_logger("ccapi.websocket")


async def refuse_websocket(request: trio_websocket.WebSocketRequest, gateway: Gateway) -> None:
    """Answer an upgrade with the error envelope: what is wrong with it, else 501."""
    headers = [(name.lower(), value) for name, value in request.headers]
    label = request_id(headers)
    with structlog.contextvars.bound_contextvars(request_id=label):
        told = _refusal(request, headers, gateway)
        log.info("request", method="GET", path=request.path, status=told.status, websocket=True)
        fields = {
            "content-type": JSON,
            "connection": "close",
            "x-request-id": label,
            **told.headers(),
        }
        if told.status == 401:
            fields["www-authenticate"] = "Bearer"
        await request.reject(
            told.status, extra_headers=encode_headers(fields), body=write_json(told.body())
        )


def _refusal(
    request: trio_websocket.WebSocketRequest, headers: list[tuple[bytes, bytes]], gateway: Gateway
) -> GatewayError:
    settings = gateway.settings
    # wsproto takes the host out of the headers, and trio-websocket does not pass it on.
    host: str = request._event.host  # noqa: SLF001
    try:
        check_host(settings.server, [host.encode("utf-8")])
        # No CORS stands before a WebSocket: whatever page asks, the browser connects.
        check_origin(settings.server, headers)
        KeyRing(settings.auth.api_keys, nobody=LOCAL).owner(headers)
    except GatewayError as error:
        return error
    return NotImplementedHere("WebSocket is not served by this gateway.")
