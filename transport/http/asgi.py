"""HTTP as an ASGI application sees it: read a bounded body, answer JSON, notice a hang-up.

Knows: ASGI's HTTP messages (ASGI specification, "HTTP & WebSocket"). Refuses to know: routes, who
is calling, what a body means.

Starlette's `Request` and `StreamingResponse` do this through anyio; here it is plain trio, so that
a hang-up is an ordinary cancellation and a silence an ordinary deadline.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial

import trio
from starlette.types import Receive, Scope, Send

from ...schemas.convert import write_json
from ...schemas.errors import InvalidRequest, TooLarge
from .bodies import Bodies, Share
from .content_coding import BadCoding, open_decoder

JSON = "application/json"


class ClientGone(Exception):
    """The client hung up before its request was read; there is no client to answer."""


def encode_headers(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]


FEW_PIECES = 10_000
PIECE_BYTES = 256
"""A body may come in so many pieces, and in one more for so many bytes. Each piece is work, however
short it is."""

STEP = 1024 * 1024
"""Bytes by which a body grows that does not say how long it will be."""


async def read_body(
    scope: Scope, receive: Receive, limit: int, share: Share | None = None
) -> bytearray:
    """The request's body, at most `limit` bytes, as it came. `share` grows with it.

    Raises `TooLarge` (before anything is read, where the client says how much is coming),
    `InvalidRequest` (``too_many_pieces``), `Overloaded` and `ClientGone`.
    """
    for name, value in scope["headers"]:
        # Twenty digits are more than any limit, and int() refuses to read some thousands.
        if name == b"content-length" and value.isdigit():
            if len(value) > 20 or int(value) > limit:
                raise _too_large(limit)
            if share is not None:
                await share.grow_to(int(value))
    body = bytearray()  # many small pieces would take many times their length
    pieces = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        piece = message.get("body", b"")
        pieces += 1
        if len(body) + len(piece) > limit:
            raise _too_large(limit)
        if pieces > FEW_PIECES + len(body) // PIECE_BYTES:
            raise InvalidRequest(
                "The request's body comes in too many small pieces.", code="too_many_pieces"
            )
        if share is not None and len(body) + len(piece) > share.taken:
            await share.grow_to(min(limit, max(len(body) + len(piece), share.taken + STEP)))
        body += piece
        if not message.get("more_body", False):
            return body


def _too_large(limit: int) -> TooLarge:
    return TooLarge(f"The request's body is larger than {limit} bytes.")


async def decode_body(
    body: bytearray, codings: Sequence[str], limit: int, bodies: Bodies, share: Share
) -> bytearray:
    """What `body` is without its codings (`content_coding.read_codings`), at most `limit` bytes of
    it after each step.

    Raises `TooLarge`, `InvalidRequest` (``invalid_encoding``) and `Overloaded`.
    """
    for coding in reversed(codings):
        decoded = bytearray()
        try:
            decoder = open_decoder(coding, body)
            while piece := await bodies.read(len(body), partial(decoder.read, STEP)):
                if len(decoded) + len(piece) > limit:
                    raise TooLarge(f"The request's body, decoded, is larger than {limit} bytes.")
                decoded += piece
                await share.grow_to(len(body) + len(decoded))
        except BadCoding as error:
            raise InvalidRequest(
                f"The request's body is not valid {coding}: {error}.", code="invalid_encoding"
            ) from None
        body = decoded
    return body


async def send_response(
    send: Send,
    status: int,
    content_type: str,
    body: bytes,
    headers: Mapping[str, str] | None = None,
) -> None:
    """A whole response at once."""
    fields = {"content-type": content_type, "content-length": str(len(body)), **(headers or {})}
    await send({"type": "http.response.start", "status": status, "headers": encode_headers(fields)})
    await send({"type": "http.response.body", "body": body})


async def send_json(
    send: Send, status: int, value: object, headers: Mapping[str, str] | None = None
) -> None:
    await send_response(send, status, JSON, write_json(value), headers)


@asynccontextmanager
async def while_connected(receive: Receive) -> AsyncIterator[trio.Nursery]:
    """Cancel the block when the client hangs up; what follows the block runs then, too. Tasks of
    the nursery that it is given end with the block.

    The request's body must have been read. An error in the block comes out in an
    `ExceptionGroup`, as it does of every nursery.
    """
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_cancel_at_hang_up, receive, nursery.cancel_scope)
        yield nursery
        nursery.cancel_scope.cancel()


async def _cancel_at_hang_up(receive: Receive, scope: trio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()
