"""``GET /v1/overview`` with an upgrade: the gateway as it stands, again whenever it changes.

``/v1/house`` is its former name, which goes with the next release: what is sent there has the
``type`` of that name too.

Knows: that this WebSocket only sends. Refuses to know: what is in the picture
(`actors.listeners.overview`).
"""

from __future__ import annotations

import trio

from ...schemas.errors import GatewayError
from .call import SocketCall


async def watch_overview(call: SocketCall) -> None:
    """Until the client closes. Raises `WebSocketClosed`."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_listen, call)
        with call.overview.watch():
            while True:
                number = call.overview.number
                await call.socket.send_frames(call.overview.picture(call.owner, call.path["name"]))
                await call.overview.wait_newer(number)


async def _listen(call: SocketCall) -> None:
    """Notices that the client closes; answers a ``ping``, and nothing else."""
    while True:
        try:
            message = await call.receive()
        except GatewayError:
            continue
        if message.get("type") == "ping":
            await call.send({"type": "pong"})
