"""Responses over a WebSocket whose conversation another node has: what the client asks goes to that
node over a WebSocket between the nodes, and what comes back goes to the client as it is.

Knows: one such WebSocket for each node that a client's connection needs, and which responses came
over it. Refuses to know: lanes (`actors.websocket.responses`), and what the events say beyond that.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from uuid import uuid4

import trio
from attrs import define, field
from trio_websocket import (
    ConnectionClosed,
    HandshakeError,
    WebSocketConnection,
    wrap_client_stream,
)

from ...schemas.convert import parse_json, write_json
from ...schemas.errors import Elsewhere
from ...schemas.node_seal import Passed
from ...transport.http.node_client import READ_BYTES, NodeGone, Place, connect
from ..nodes.membership import Membership

PATH = "/v1/responses"

ENDS = (
    "response.completed",
    "response.failed",
    "response.incomplete",
    "response.cancelled",
    "error",
)
"""The types of the events behind which a lane takes its next request."""

HANDSHAKE_SECONDS = 5.0
"""How long a node may take to let this one in."""

MOST_MESSAGE_BYTES = 256 * 1024 * 1024
"""Of one event. What the other node sends is as long as it would be for a client of its own."""

KEPT_IDS = 256
"""Responses of which a connection remembers which node has given them."""

TYPE_WITHIN = 400
"""An event's type stands within so many bytes from its beginning."""

Deliver = Callable[[bytes], Awaitable[None]]


@define(eq=False)
class NodeSocket:
    """The WebSocket to one of the `nodes`. `ended` is set where it is no more; until then each
    lane's end sets its event in `lanes`."""

    connection: WebSocketConnection
    node_id: str
    url: str
    nodes: Membership
    lanes: dict[str | None, trio.Event] = field(factory=dict)
    ended: trio.Event = field(factory=trio.Event)

    async def ask(self, message: dict[str, object]) -> None:
        """Send one message. Raises `Elsewhere` where the node is gone."""
        try:
            await self.connection.send_message(write_json(message).decode())
        except ConnectionClosed:
            raise Elsewhere(self.node_id, self.url) from None


class NodeSockets:
    """Those of one client's connection. `deliver` sends the client a message."""

    def __init__(
        self,
        nodes: Membership,
        owner: str,
        nursery: trio.Nursery,
        deliver: Deliver,
        connect_seconds: float,
    ) -> None:
        self._nodes = nodes
        self._owner = owner
        self._nursery = nursery
        self._deliver = deliver
        self._connect_seconds = connect_seconds
        self._open: dict[str, NodeSocket] = {}  # by node
        self._gave: dict[str, NodeSocket] = {}  # by response

    def giver(self, response_id: object) -> NodeSocket | None:
        """The node that has given, or gives, this response."""
        found = self._gave.get(response_id) if isinstance(response_id, str) else None
        return None if found is None or found.ended.is_set() else found

    async def to(self, elsewhere: Elsewhere) -> NodeSocket:
        """The WebSocket to a node. Raises `elsewhere` where the node cannot be reached."""
        found = self._open.get(elsewhere.node_id)
        if found is None or found.ended.is_set():
            found = await self._nursery.start(self._run, elsewhere)
            if found is None:
                raise elsewhere
        return found

    async def _run(
        self,
        elsewhere: Elsewhere,
        task_status: trio.TaskStatus[NodeSocket | None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Pass back what one node sends, until it ends."""
        socket: NodeSocket | None = None
        try:
            async with trio.open_nursery() as nursery:
                # A node that is frozen, or cut off, ends nothing by itself.
                nursery.start_soon(self._end_with, elsewhere.node_id, nursery.cancel_scope)
                async with self._connect(elsewhere) as connection:
                    socket = NodeSocket(connection, elsewhere.node_id, elsewhere.url, self._nodes)
                    self._open[elsewhere.node_id] = socket
                    task_status.started(socket)
                    while True:
                        message = await connection.get_message()
                        data = message.encode() if isinstance(message, str) else message
                        await self._pass_back(socket, data)
        except* (ConnectionClosed, HandshakeError, NodeGone, OSError, trio.TooSlowError):
            pass
        finally:
            if socket is not None:
                socket.ended.set()
                if self._open.get(elsewhere.node_id) is socket:
                    del self._open[elsewhere.node_id]
        if socket is None:
            task_status.started(None)

    @asynccontextmanager
    async def _connect(self, elsewhere: Elsewhere) -> AsyncIterator[WebSocketConnection]:
        """Raises `NodeGone`, `HandshakeError`, `trio.TooSlowError`."""
        place = Place.of(elsewhere.url)
        passed = Passed("GET", PATH, f"req_{uuid4().hex}", self._owner)
        stream, _ = await connect(place, self._connect_seconds)
        try:
            async with trio.open_nursery() as nursery:
                with trio.fail_after(HANDSHAKE_SECONDS):
                    connection = await wrap_client_stream(
                        nursery,
                        stream,
                        place.authority,
                        PATH,
                        extra_headers=self._nodes.prove(passed),
                        max_message_size=MOST_MESSAGE_BYTES,
                        receive_buffer_size=READ_BYTES,
                    )
                yield connection
                nursery.cancel_scope.cancel()
        finally:
            # Without a word: where the other node still reads, that interrupts what it does here.
            await trio.aclose_forcefully(stream)

    async def _end_with(self, node_id: str, scope: trio.CancelScope) -> None:
        await self._nodes.wait_gone(node_id)
        scope.cancel()

    async def _pass_back(self, socket: NodeSocket, data: bytes) -> None:
        head = data[:TYPE_WITHIN]
        if b'"response.created"' in head or any(f'"{each}"'.encode() in head for each in ENDS):
            event = parse_json(data)
            if isinstance(event, dict):
                self._note(socket, event)
        await self._deliver(data)

    def _note(self, socket: NodeSocket, event: dict[str, object]) -> None:
        response = event.get("response")
        if event.get("type") == "response.created" and isinstance(response, dict):
            self._gave.pop(str(response.get("id")), None)
            self._gave[str(response.get("id"))] = socket
            if len(self._gave) > KEPT_IDS:
                del self._gave[next(iter(self._gave))]
        elif event.get("type") in ENDS:
            stream_id = event.get("stream_id")
            over = socket.lanes.get(stream_id if isinstance(stream_id, str) else None)
            if over is not None:
                over.set()
