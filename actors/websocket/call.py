"""One WebSocket that was let in, as its handler is given it.

Knows: who connected, to what, and JSON messages. Refuses to know: handshakes, and what any handler
says.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING

from attrs import frozen

from ...schemas.convert import parse_json, weigh_json, write_json
from ...schemas.errors import GatewayError, InvalidRequest
from ...transport.http.bodies import MEMORY_PER_BYTE, Bodies
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
    from_node: str | None = None
    events: str = ""
    """What another node that has passed the connection on wants of the events of a conversation
    (`schemas.node_seal`); empty: it is the client's own connection."""

    async def receive(self) -> dict[str, object]:
        """The next message. Raises `InvalidRequest` where that is no JSON object, and `Overloaded`
        where there is no room for it, after which the next can be received; and
        `WebSocketClosed`."""
        received = await self.socket.receive()
        message = await read_message(received, self.gateway.bodies, self.socket.hold)
        if not isinstance(message, dict):
            raise InvalidRequest("A message must be a JSON object.", code="invalid_type")
        return message

    async def send(self, event: object) -> None:
        """Send one JSON message. Raises `WebSocketClosed`."""
        await self.socket.send(write_json(event))


Hold = Callable[[int], Awaitable[None]]
"""Has the message that was received last hold so many bytes of the room that all share."""


async def read_message(message: bytes | bytearray, bodies: Bodies, hold: Hold) -> object:
    """The JSON value in a message, which is emptied; beside the event loop, if it is long. The room
    for the memory that takes is held first.

    Raises `InvalidRequest`, and what `hold` does.
    """
    memory = await bodies.read(len(message), partial(weigh_json, message))
    await hold(memory // MEMORY_PER_BYTE)
    return await bodies.read(len(message), partial(_parse, message))


def _parse(message: bytes | bytearray) -> object:
    try:
        return parse_json(message)
    finally:
        if isinstance(message, bytearray):
            message.clear()  # its strings are in memory a second time now, or it is refused


def error_event(error: GatewayError, ref: object = None) -> dict[str, object]:
    """An error as a message; `ref` is that of the message at fault."""
    return {"type": "error", "ref": ref, **error.body()}
