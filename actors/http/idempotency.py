"""``Idempotency-Key`` on routes that begin a turn: the same request is done once.

Knows: the header, which requests are the same, and how an answer that another task writes becomes
the response to one client or several. Refuses to know: what is kept and how long
(`actors.idempotency`), and what a route does.

Two requests are the same if they have the same key (the API key's own), path, conversation and
body. Without the header nothing here costs anything.
"""

from __future__ import annotations

import hashlib
import re
from functools import partial

import trio
from starlette.types import Message

from ...schemas.errors import InvalidRequest
from ...transport.http.asgi import encode_headers, while_connected
from ...transport.http.bodies import Share
from ..answering import rejects_if_busy
from ..idempotency.answer import Answer, CutShort, Head, LostPlace, Reader
from ..idempotency.requests import Run, Served, lost, not_kept
from ..runtime.boundary import as_gateway_error
from .auth import publish_refusal
from .middleware import Response, send_failure
from .request import IDEMPOTENCY_KEY, Call, Handler

REPLAYED = "idempotent-replayed"

_SANE_KEY = re.compile(rb"[!-~]{1,255}")

_OF_THE_MOMENT = ("x-ratelimit-", "retry-after")
"""How headers begin that are not true any more when an answer is given again."""


def once(handler: Handler) -> Handler:
    """`handler`, called once for all requests with the same idempotency key."""
    return partial(_handle_once, handler)


def _key_of(call: Call) -> str:
    """Raises `InvalidRequest`."""
    given = call.headers[IDEMPOTENCY_KEY]
    if len(set(given)) > 1 or not _SANE_KEY.fullmatch(given[0]):
        raise InvalidRequest(
            "Idempotency-Key must be 1 to 255 visible ASCII characters.",
            code="invalid_value",
            param=IDEMPOTENCY_KEY.decode(),
        )
    return given[0].decode("ascii")


async def _handle_once(handler: Handler, call: Call) -> None:
    name, body = _key_of(call), await call.body()
    rejects_if_busy(call.header("x-ccapi-on-busy"))  # of a request that is answered already too
    digest = await call.gateway.bodies.read(
        len(body), partial(_digest, call.scope["path"], call.header("x-conversation-id"), body)
    )
    requests = call.gateway.idempotent
    # No checkpoint until the answer is read: the request would have no reader.
    run = requests.find(call.owner, name, digest)
    is_first = run is None
    if run is None:
        share = call.share.hand_over()
        serve = partial(_serve, call, share, handler)
        run = requests.start(call.owner, name, digest, serve, share.close)
    else:
        body.clear()
        call.share.close()
    async with while_connected(call.receive):
        with requests.attend(run, owner=is_first) as reader:
            await _relay(call, run, reader, is_first=is_first)


def _digest(path: str, conversation_id: str | None, body: bytearray) -> bytes:
    found = hashlib.sha256(f"{path}\n{conversation_id!r}\n".encode("utf-8", "replace"))
    found.update(body)
    return found.digest()


# -- answered once ---------------------------------------------------------------------------------


async def _serve(call: Call, share: Share, handler: Handler, answer: Answer) -> Served:
    """Have the request answered in this task, whose client may go, into `answer`."""
    writer = _Writer(answer)
    response = Response(writer.send, {}, envelope=call.response.envelope)
    moved = call.moved(_never, response, share)
    try:
        await handler(moved)
    except Exception as error:
        if response.status is not None:
            raise
        failure = moved.failure = as_gateway_error(error)
        request_id = call.response.headers["x-request-id"]
        publish_refusal(call.gateway.bus, failure, request_id, call.owner)
        await send_failure(response, failure)
    return Served(writer.last, _counts(moved))


def _counts(call: Call) -> bool:
    """Whether this is the answer for good. A failure is where some of what was asked for is done:
    else the request may be sent again."""
    return call.failure is None or call.failure.should_retry is False


async def _never() -> Message:
    await trio.sleep_forever()
    raise AssertionError


class _Writer:
    """ASGI's `send` into an `Answer`, but for the last piece."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self.last = b""

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = {
                name.decode("latin-1").lower(): value.decode("latin-1")
                for name, value in message["headers"]
            }
            self._answer.begin(Head(message["status"], headers))
        elif message.get("more_body", False):
            await self._answer.write(message["body"])
        else:
            self.last = message.get("body", b"")


# -- read by each client ---------------------------------------------------------------------------


async def _relay(call: Call, run: Run, reader: Reader, *, is_first: bool) -> None:
    """The answer as the response to `call`. Raises `GatewayError` where there is none; `CutShort`,
    `LostPlace` once the response has begun."""
    answer = run.answer
    try:
        piece = await reader.receive()
    except LostPlace:
        raise not_kept() from None
    except CutShort:
        if answer.head is None:
            raise lost() from None
        raise
    assert answer.head is not None
    headers = answer.head.headers
    if run.is_replayed or not is_first:
        headers = {
            **{name: value for name, value in headers.items() if not _is_of_the_moment(name)},
            REPLAYED: "true",
        }
    head = {"status": answer.head.status, "headers": encode_headers(headers)}
    await call.send({"type": "http.response.start", **head})
    while piece:
        await _send(call, piece, more=True)
        piece = await reader.receive()
    await _send(call, b"", more=False)


async def _send(call: Call, body: bytes, *, more: bool) -> None:
    message = {"type": "http.response.body", "body": body, "more_body": more}
    await call.response.send_body(message)


def _is_of_the_moment(name: str) -> bool:
    return name.startswith(_OF_THE_MOMENT)
