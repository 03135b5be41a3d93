"""A connection that another node serves: what the client sends goes there, and what comes back to
the client, byte for byte.

Knows: the head of a handshake, and two streams. Refuses to know: WebSocket frames, which pass as
they are, and which node it is.

A watcher of a conversation costs its node one read and one write for what the other node sends at
once, however many events that are.
"""

from __future__ import annotations

from collections.abc import Sequence

import trio

from .guarded_stream import GONE, ReplayStream
from .node_client import Headers

PIECE_BYTES = 65536

NOT_PASSED_ON = (
    b"authorization", b"x-api-key", b"x-request-id", b"x-ccapi-node", b"x-ccapi-owner",
    b"x-ccapi-events",
)  # fmt: skip


def rewrite_head(head: bytes, added: Headers, dropped: Sequence[bytes] = NOT_PASSED_ON) -> bytes:
    """The head of a request, and what came behind it, with other headers: those `added`, without
    those `dropped`."""
    first, _, rest = head.partition(b"\r\n")
    lines, end, behind = rest.partition(b"\r\n\r\n")
    kept = [
        line
        for line in lines.split(b"\r\n")
        if line and line.partition(b":")[0].strip().lower() not in dropped
    ]
    ours = [b"%s: %s" % each for each in added]
    return b"\r\n".join([first, *ours, *kept]) + end + behind


async def pass_through(client: ReplayStream, node: trio.abc.Stream, added: Headers) -> None:
    """Have the other node serve the connection whose request head `client` has given out, with
    `added` headers, until either side ends it. Closes the stream to the node."""
    async with node:
        try:
            await node.send_all(rewrite_head(client.head, added))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(copy_bytes, client, node, nursery.cancel_scope)
                nursery.start_soon(copy_bytes, node, client, nursery.cancel_scope)
        except* GONE:
            pass  # one side broke off: so does the other


async def copy_bytes(
    source: trio.abc.ReceiveStream, target: trio.abc.SendStream, scope: trio.CancelScope
) -> None:
    """Raises `trio.BrokenResourceError`."""
    while piece := await source.receive_some(PIECE_BYTES):
        await target.send_all(piece)
    scope.cancel()
