"""The routes, lent to batches: a request of a batch is answered as a client's would be.

Knows: which handler is whose, and how to call one without a client. Refuses to know: batches
(`actors.batches`).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

import structlog
import trio
from attrs import define, field
from starlette.types import Message, Scope

from ...schemas.convert import write_json
from ...schemas.envelope import Envelope
from ...schemas.errors import Overloaded, RateLimited
from ..batches.road import Answered, Asked, Road
from ..runtime.boundary import as_gateway_error
from .auth import publish_refusal
from .middleware import Response
from .request import Call, Handler

if TYPE_CHECKING:
    from ..gateway import Gateway

FORGET_SECONDS = 1.0


@define(eq=False)
class _Body:
    """What a handler sends."""

    content: bytearray = field(factory=bytearray)

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.body":
            self.content += message.get("body", b"")


async def _never() -> Message:
    await trio.sleep_forever()
    raise AssertionError


def road_of(gateway: Gateway, handlers: Mapping[str, Handler]) -> Road:
    """A road over these handlers, by their paths."""
    return partial(_answer, gateway, handlers)


async def _answer(gateway: Gateway, handlers: Mapping[str, Handler], asked: Asked) -> Answered:
    body = _Body()
    headers = {
        name.encode("latin-1"): [value.encode("latin-1")] for name, value in asked.headers.items()
    }
    envelope = Envelope.of(asked.path, asked.request_id, versioned=False)
    named = {"x-request-id": asked.request_id}
    response = Response(body.send, named, owner=asked.owner, envelope=envelope)
    scope: Scope = {"type": "http", "method": "POST", "path": asked.path, "headers": []}
    with (
        structlog.contextvars.bound_contextvars(request_id=asked.request_id),
        gateway.bodies.share() as share,
    ):
        call = Call(
            gateway, scope, _never, response.send, share, asked.owner, headers, response, apart=True
        )
        try:
            gateway.keys.find(asked.owner)  # it may have been revoked since
            await share.grow_to(len(asked.body))
            call.take_body(bytearray(asked.body))
            await handlers[asked.path](call)
        except Exception as error:  # noqa: BLE001 (a boundary, as of any request)
            failure = as_gateway_error(error)
            if not isinstance(failure, RateLimited | Overloaded):  # else it is asked again
                publish_refusal(gateway.bus, failure, asked.request_id, asked.owner)
            said = write_json(envelope.body(failure))
            return Answered(envelope.status(failure), said, failure)
        finally:
            of_it = response.headers.get("x-conversation-id")
            for conversation_id in (*call.made, *([] if of_it is None else [of_it])):
                with trio.CancelScope(shield=True, deadline=trio.current_time() + FORGET_SECONDS):
                    await gateway.dismiss(conversation_id, owner=asked.owner)
    return Answered(response.status or 200, bytes(body.content), call.failure)
