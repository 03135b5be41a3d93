"""``GET /v1/house`` with an upgrade: the house as it stands, again whenever it changes.

Knows: that this WebSocket only tells. Refuses to know: what is in the picture
(`actors.listeners.overview`).
"""

from __future__ import annotations

import trio

from ...schemas.errors import GatewayError
from .call import SocketCall


async def watch_house(call: SocketCall) -> None:
    """Until the client closes. Raises `WebSocketClosed`."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_listen, call)
        with call.house.watch():
            while True:
                number = call.house.number
                await call.socket.send_frames(call.house.picture(call.owner))
                await call.house.wait_newer(number)


async def _listen(call: SocketCall) -> None:
    """Notices that the client closes; answers a ``ping``, and nothing else."""
    while True:
        try:
            message = await call.receive()
        except GatewayError:
            continue
        if message.get("type") == "ping":
            await call.send({"type": "pong"})
