"""One WebSocket that was let in, as its handler is given it.

Knows: who connected, to what, and JSON messages. Refuses to know: handshakes, and what any handler
says.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

from attrs import frozen

from ...schemas.convert import read_message, write_json
from ...schemas.errors import GatewayError, InvalidRequest
from ...transport.http.websocket import WebSocket

if TYPE_CHECKING:
    from ..gateway import Gateway
    from ..listeners.overview import Overview


@frozen(eq=False)
class SocketCall:
    """What a handler is given. `path` has the parts of the path that its route left open, `query`
    what is behind the question mark (of repeated names, the last), without a key.

    The WebSocket closes when the handler returns. Where it raises, the client receives the error
    first (`error_event`); `WebSocketClosed`, which every `receive` and `send` may raise, is no
    error.
    """

    gateway: Gateway
    overview: Overview
    owner: str
    request_id: str
    socket: WebSocket
    path: Mapping[str, str]
    query: Mapping[str, str]

    async def receive(self) -> dict[str, object]:
        """The next message. Raises `InvalidRequest` where that is no JSON object, after which the
        next can be received, and `WebSocketClosed`."""
        text = await self.socket.receive()
        message = await self.gateway.bodies.read(len(text), partial(read_message, text))
        if not isinstance(message, dict):
            raise InvalidRequest("A message must be a JSON object.", code="invalid_type")
        return message

    async def send(self, event: object) -> None:
        """Send one JSON message. Raises `WebSocketClosed`."""
        await self.socket.send(write_json(event))


def error_event(error: GatewayError, ref: object = None) -> dict[str, object]:
    """An error as a message; `ref` is that of the message at fault."""
    return {"type": "error", "ref": ref, **error.body()}
