"""Messages of the Messages API and their events, as the SDK's own types take them.

Knows: the route, and how an answer is parsed: strictly, with nothing missing and nothing more than
the SDK knows. Refuses to know: who answered.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, TypeVar

import anthropic
from anthropic.types import Message, ModelInfo, RawMessageStreamEvent
from anthropic.types.shared import ErrorResponse
from pydantic import BaseModel, TypeAdapter

from .asgi import Client, Response

JSON = dict[str, Any]

MESSAGES = "/v1/messages"
HI = {"role": "user", "content": "Hi"}
ASK = {"model": "sonnet", "max_tokens": 1000, "messages": [HI]}

_EVENT: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)
Model = TypeVar("Model")
_KNOWN_MORE = {"request_too_large"}
"""A type of error that the API's documentation has, and the SDK's types have not."""


async def ask(client: Client, headers: dict[str, str] | None = None, /, **fields: Any) -> Response:
    return await client.request("POST", MESSAGES, json=ASK | fields, headers=headers)


def message_of(body: bytes) -> Message:
    """A whole message."""
    return _exactly(Message.model_validate_json(body, strict=True))


def check_model(raw: JSON) -> None:
    """A model of a list."""
    _exactly(ModelInfo.model_validate_json(json.dumps(raw), strict=True))


def error_of(body: bytes) -> JSON:
    """The error in an envelope."""
    raw: JSON = json.loads(body)
    assert set(raw) == {"type", "error", "request_id"}
    assert set(raw["error"]) == {"type", "message"}
    if raw["error"]["type"] not in _KNOWN_MORE:
        _exactly(ErrorResponse.model_validate_json(body, strict=True))
    error: JSON = raw["error"]
    return error


def raw_events(body: bytes) -> list[JSON]:
    """The events of a stream, each by the name that it has twice. Comments are left out."""
    *blocks, rest = body.split(b"\n\n")
    assert rest == b""
    found = []
    for block in blocks:
        if block.startswith(b":"):
            continue
        name, data = block.split(b"\n")
        value: JSON = json.loads(data.removeprefix(b"data: "))
        assert name == b"event: " + value["type"].encode()
        found.append(value)
    return found


def events_of(body: bytes) -> list[Any]:
    """The events of a stream that ended well, as the SDK has them; pings are left out."""
    found = [each for each in raw_events(body) if each["type"] != "ping"]
    parsed = [_exactly(_EVENT.validate_json(json.dumps(each), strict=True)) for each in found]
    assert parsed[0].type == "message_start"
    assert parsed[-1].type == "message_stop"
    return parsed


def put_together(body: bytes) -> JSON:
    """The message that a client makes of a stream, by the rules of the API's documentation: as it
    would have come whole, but for figures of usage that a stream does not end with."""
    message: JSON = {}
    open_block: int | None = None
    pieces: list[str] = []
    for each in events_of(body):
        match each.type:
            case "message_start":
                assert not message
                message = json.loads(each.message.model_dump_json(exclude_unset=True))
                assert message["content"] == []
                assert message["stop_reason"] is None
            case "content_block_start":
                assert open_block is None
                open_block = len(message["content"])
                assert each.index == open_block
                block = json.loads(each.content_block.model_dump_json(exclude_unset=True))
                message["content"].append(block)
                pieces = []
            case "content_block_delta":
                assert each.index == open_block
                block = message["content"][-1]
                match each.delta.type:
                    case "text_delta":
                        block["text"] += each.delta.text
                    case "thinking_delta":
                        block["thinking"] += each.delta.thinking
                    case "signature_delta":
                        assert block["signature"] == ""
                        block["signature"] = each.delta.signature
                    case "citations_delta":
                        cited = each.delta.citation.model_dump_json(exclude_unset=True)
                        block["citations"] = [*(block.get("citations") or ()), json.loads(cited)]
                    case "input_json_delta":
                        pieces.append(each.delta.partial_json)
            case "content_block_stop":
                assert each.index == open_block
                open_block = None
                if pieces:
                    message["content"][-1]["input"] = json.loads("".join(pieces) or "{}")
            case "message_delta":
                assert open_block is None
                message |= json.loads(each.delta.model_dump_json(exclude_unset=True))
                message["usage"] |= json.loads(each.usage.model_dump_json(exclude_unset=True))
    return message


def _exactly(model: Model) -> Model:
    """`model`, which holds nothing that the SDK does not know."""
    for each in _models(model):
        assert not each.model_extra, f"{type(each).__name__}: {each.model_extra}"
    return model


def _models(value: Any) -> Iterable[BaseModel]:
    if isinstance(value, BaseModel):
        yield value
        for name in type(value).model_fields:
            yield from _models(getattr(value, name))
    elif isinstance(value, list):
        for each in value:
            yield from _models(each)


def sdk(base_url: str, key: str = "none", **options: Any) -> anthropic.Anthropic:
    """The SDK's client of a gateway. It sends nothing anywhere else."""
    return anthropic.Anthropic(base_url=base_url, api_key=key, **options)
