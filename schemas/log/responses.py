"""Responses as they are kept, and their JSON.

Knows: what it takes to give a response and its events again, and to go on behind it. Refuses to
know: how it is written for a client (`schemas.openai.response_events`), and where it lies.
"""

from __future__ import annotations

from typing import Any

from attrs import frozen

from .. import errors
from ..errors import GatewayError
from ..message import Message
from ..openai.response_events import Ending, ResponseHeading
from ..turn import Tool, Usage
from ..turn_items import TurnItem
from .codec import (
    Blobs,
    Encoded,
    decode_messages,
    decode_tool,
    dumps,
    encode_messages,
    encode_tool,
    encode_usage,
    loads,
)
from .items import decode_item, encode_item


@frozen(kw_only=True)
class StoredResponse:
    """One response. `key_id` names the key whose it is, `asked` is its input, `said` the system
    text in it; `listed` are the MCP servers whose tools were listed up to here; `spoken` and
    `brought` are the system texts and tools in the inputs up to here. `items` are in the pieces in
    which they were delivered; `ending` is None while it runs.

    `begins` and `ends` are the numbers of the last records of its conversation's log before it and
    of it (None: what was said there is not known, or it has not ended). `place` are the digests of
    what its conversation holds, as far as the log does not say.
    """

    heading: ResponseHeading
    key_id: str
    model: str
    asked: tuple[Message, ...]
    workspace: str = ""
    said: str | None = None
    spoken: str | None = None
    brought: tuple[Tool, ...] = ()
    listed: tuple[str, ...] = ()
    background: bool = False
    is_warm_up: bool = False
    is_settled: bool = False
    items: tuple[TurnItem, ...] = ()
    ending: Ending | None = None
    begins: int | None = None
    ends: int | None = None
    place: tuple[bytes, ...] = ()

    @property
    def id(self) -> str:
        return self.heading.id


def encode_response(response: StoredResponse) -> Encoded:
    parts: dict[bytes, bytes] = {}
    heading = response.heading
    body = {
        "heading": {
            "turn_id": heading.turn_id,
            "created_at": heading.created_at,
            "model": heading.model,
            "conversation_id": heading.conversation_id,
            "names_conversation": heading.names_conversation,
            "echo": dict(heading.echo),
        },
        "key_id": response.key_id,
        "model": response.model,
        "asked": encode_messages(response.asked, parts),
        "workspace": response.workspace,
        "said": response.said,
        "spoken": response.spoken,
        "brought": [encode_tool(tool) for tool in response.brought],
        "listed": list(response.listed),
        "background": response.background,
        "is_warm_up": response.is_warm_up,
        "is_settled": response.is_settled,
        "items": [encode_item(item) for item in response.items],
        "ending": None if response.ending is None else _encode_ending(response.ending),
        "begins": response.begins,
        "ends": response.ends,
        "place": b"".join(response.place).hex(),
    }
    return Encoded("response", dumps(body), parts)


def decode_response(body: bytes, blobs: Blobs) -> StoredResponse:
    value = loads(body)
    place = bytes.fromhex(value["place"])
    changed = {
        "heading": ResponseHeading(**value["heading"]),
        "asked": decode_messages(value["asked"], blobs),
        "brought": tuple(map(decode_tool, value["brought"])),
        "listed": tuple(value.get("listed", ())),
        "items": tuple(map(decode_item, value["items"])),
        "ending": None if value["ending"] is None else _decode_ending(value["ending"]),
        "place": tuple(place[n : n + 32] for n in range(0, len(place), 32)),
    }
    return StoredResponse(**{**value, **changed})


def _encode_ending(ending: Ending) -> dict[str, Any]:
    return {
        "status": ending.status,
        "at": ending.at,
        "usage": None if ending.usage is None else encode_usage(ending.usage),
        "reason": ending.reason,
        "error": None if ending.error is None else _encode_error(ending.error),
    }


def _decode_ending(value: dict[str, Any]) -> Ending:
    usage, error = value["usage"], value["error"]
    return Ending(
        value["status"],
        value["at"],
        None if usage is None else Usage(*usage),
        value["reason"],
        None if error is None else _decode_error(error),
    )


def _encode_error(error: GatewayError) -> list[Any]:
    told = [error.message, error.code, error.param, error.retry_after, error.should_retry]
    return [type(error).__name__, *told]


def _decode_error(value: list[Any]) -> GatewayError:
    name, message, code, param, retry_after, should_retry = value
    kind = getattr(errors, name, GatewayError)
    error: GatewayError = kind(message, code=code, param=param, retry_after=retry_after)
    error.should_retry = should_retry
    return error
