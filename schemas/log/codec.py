"""Records and setups as JSON and back, exactly.

Knows: the JSON of every record, and that large images and documents stand in it by their digest.
Refuses to know: where the JSON and the large parts lie.

Texts may hold lone surrogates, which are legal in JSON: those that have any are written by the
standard library, behind a tab, as UTF-8 that lets them pass.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import orjson
from attrs import astuple, frozen

from .. import long_texts
from ..json_bytes import LONG, kept_json, long_json
from ..message import (
    Approval,
    Block,
    Citations,
    Document,
    Image,
    Message,
    RedactedThinking,
    ServerBlock,
    Thinking,
    ToolCall,
    ToolResult,
    ToolRound,
)
from ..turn import ResumePoint, Setup, Tool, Usage
from .items import decode_form, decode_item, encode_form, encode_item
from .messages import ExactMessage
from .records import Record, Rewound, Said, TurnEnd, TurnFailed, TurnLost, TurnStart

LARGE = 4096
"""Characters of base64 from which on an image or a document is kept apart."""

Blobs = Callable[[bytes], bytes]
"""Gives the bytes of a large part by its digest (SHA-256, 32 bytes)."""

_BY_STANDARD_LIBRARY = b"\t"


@frozen
class Encoded:
    """A record as it is kept. `kind` is ``start``, ``user``, ``assistant``, ``end``, ``failed``,
    ``lost`` or ``rewound``; `body` is JSON, `parts` are the large ones that it names, by digest."""

    kind: str
    body: bytes
    parts: Mapping[bytes, bytes]

    @property
    def size(self) -> int:
        """Bytes that it takes."""
        return len(self.body) + sum(map(len, self.parts.values()))


NO_PARTS: Mapping[bytes, bytes] = {}
"""One for all records that have none: ten thousand of their own are half a megabyte."""


def encode(record: Record) -> Encoded:
    parts: dict[bytes, bytes] = {}
    match record:
        case TurnStart(turn_id, request_id, model, prompts):
            return Encoded("start", dumps([turn_id, request_id, model, prompts]), parts or NO_PARTS)
        case Said(message):
            body: dict[str, Any] = {"content": encode_blocks(message.content, parts)}
            if message.id is not None:
                body["id"] = message.id
            is_long = any(isinstance(each, str) and len(each) >= LONG for each in message.content)
            write = long_json if is_long else kept_json
            return Encoded(message.role, dumps(body, write), parts or NO_PARTS)
        case TurnEnd(turn_id, finish_reason, usage, output, resume, reasoning, login):
            body = {"turn": turn_id, "reason": finish_reason, "usage": encode_usage(usage)}
            if output is not None:
                body["output"] = [encode_item(item) for item in output]
            if resume is not None:
                body["resume"] = [resume.session_id, resume.assistant_uuid]
            if not reasoning:
                body["reasoning"] = False
            if login:
                body["login"] = login
            return Encoded("end", dumps(body), parts or NO_PARTS)
        case TurnFailed(turn_id, code, reason):
            return Encoded("failed", dumps([turn_id, code, reason]), parts or NO_PARTS)
        case TurnLost(turn_id, reason):
            return Encoded("lost", dumps([turn_id, reason]), parts or NO_PARTS)
        case Rewound(to, messages, turns):
            return Encoded("rewound", dumps([to, messages, turns]), parts or NO_PARTS)


def decode(kind: str, body: bytes, blobs: Blobs) -> Record:
    """The record of this kind and JSON. Raises `ValueError` for what is none."""
    value = loads(body)
    match kind:
        case "start":
            return TurnStart(*value)
        case "user" | "assistant":
            content = decode_blocks(value["content"], blobs)
            return Said(ExactMessage(kind, content, value.get("id")))
        case "end":
            output, resume = value.get("output"), value.get("resume")
            return TurnEnd(
                value["turn"],
                value["reason"],
                Usage(*value["usage"]),
                None if output is None else tuple(map(decode_item, output)),
                None if resume is None else ResumePoint(*resume),
                value.get("reasoning", True),
                value.get("login", ""),
            )
        case "failed":
            return TurnFailed(*value)
        case "lost":
            return TurnLost(*value)
        case "rewound":
            return Rewound(*value)
        case _:
            raise ValueError(f"no kind of record: {kind!r}")


def digest_of(records: Iterable[tuple[str, bytes]]) -> bytes:
    """What these records are, together: SHA-256 over their kinds and JSON."""
    made = hashlib.sha256()
    for kind, body in records:
        made.update(f"{kind} {len(body)} ".encode())
        made.update(body)
    return made.digest()


# -- blocks ----------------------------------------------------------------------------------------


def encode_blocks(blocks: Iterable[Block], parts: dict[bytes, bytes]) -> list[Any]:
    """Blocks as JSON values; what is large goes into `parts`."""
    return [block if isinstance(block, str) else _encode_block(block, parts) for block in blocks]


def _encode_block(block: Block, parts: dict[bytes, bytes]) -> Any:
    value: dict[str, Any]
    match block:
        case Thinking(text, signature):
            return {"type": "thinking", "thinking": text, "signature": signature}
        case RedactedThinking(data):
            return {"type": "redacted_thinking", "data": data}
        case ServerBlock(data, is_apart):
            return {"type": "server", "data": data, **({"apart": True} if is_apart else {})}
        case Citations(data):
            return {"type": "citations", "data": data}
        case ToolRound(calls, results):
            value = {"type": "tool_round", "calls": encode_blocks(calls, parts)}
            return {**value, "results": encode_blocks(results, parts)}
        case ToolCall(id, name, arguments):
            value = {"type": "tool_use", "id": id, "name": name}
            value["arguments"] = arguments
            if block.form is not None:
                value["form"] = encode_form(block.form)
            return value
        case ToolResult(call_id, content, is_error):
            value = {"type": "tool_result", "tool_use_id": call_id}
            value["content"] = encode_blocks(content, parts)
            if is_error:
                value["is_error"] = True
            if block.custom:
                value["custom"] = True
            if block.approval is not None:
                value["approval"] = list(astuple(block.approval))
            return value
        case Image(media_type, data):
            return {"type": "image", "media_type": media_type, **_content(data, parts)}
        case Document(media_type, data, name):
            value = {"type": "document", "media_type": media_type, **_content(data, parts)}
            if block.context is not None:
                value["context"] = block.context
            return value if name is None else {**value, "name": name}
        case _:
            return block


def _content(data: str, parts: dict[bytes, bytes]) -> dict[str, str]:
    """Large base64 is kept as the bytes that it says, if it says them in the usual way."""
    if len(data) < LARGE:
        return {"data": data}
    try:
        content = base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        return {"data": data}
    if base64.b64encode(content).decode() != data:
        return {"data": data}
    name = hashlib.sha256(content)
    parts[name.digest()] = content
    return {"blob": name.hexdigest()}


def decode_blocks(values: Iterable[Any], blobs: Blobs) -> tuple[Block, ...]:
    return tuple(
        value if isinstance(value, str) else _decode_block(value, blobs) for value in values
    )


def _decode_block(value: dict[str, Any], blobs: Blobs) -> Block:
    match value["type"]:
        case "thinking":
            return Thinking(value["thinking"], value["signature"])
        case "redacted_thinking":
            return RedactedThinking(value["data"])
        case "server":
            return ServerBlock(value["data"], value.get("apart", False))
        case "citations":
            return Citations(value["data"])
        case "tool_round":
            calls: Any = decode_blocks(value["calls"], blobs)
            results: Any = decode_blocks(value["results"], blobs)
            return ToolRound(calls, results)
        case "tool_use":
            form = decode_form(value.get("form"))
            return ToolCall(value["id"], value["name"], value["arguments"], form=form)
        case "tool_result":
            content: Any = decode_blocks(value["content"], blobs)
            failed, custom = value.get("is_error", False), value.get("custom", False)
            said = value.get("approval")
            approval = None if said is None else Approval(*said)
            return ToolResult(
                value["tool_use_id"], content, failed, custom=custom, approval=approval
            )
        case "image":
            return Image(value["media_type"], _data(value, blobs))
        case "document":
            return Document(
                value["media_type"],
                _data(value, blobs),
                value.get("name"),
                context=value.get("context"),
            )
        case kind:
            raise ValueError(f"no kind of block: {kind!r}")


def _data(value: dict[str, Any], blobs: Blobs) -> str:
    named = value.get("blob")
    data: str = value["data"] if named is None else _base64(blobs(bytes.fromhex(named)))
    return data


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def encode_messages(messages: Iterable[Message], parts: dict[bytes, bytes]) -> list[Any]:
    return [[each.role, encode_blocks(each.content, parts)] for each in messages]


def decode_messages(values: Iterable[Any], blobs: Blobs) -> tuple[Message, ...]:
    return tuple(Message(role, decode_blocks(content, blobs)) for role, content in values)


# -- beside messages -------------------------------------------------------------------------------


def encode_usage(usage: Usage) -> list[Any]:
    return list(astuple(usage))


def encode_tool(tool: Tool) -> list[Any]:
    return [tool.name, tool.description, tool.parameters, tool.strict, encode_form(tool.form)]


def decode_tool(value: list[Any]) -> Tool:
    name, description, parameters, strict, form = value
    return Tool(name, description, parameters, strict, decode_form(form))


def encode_setup(setup: Setup) -> bytes:
    return dumps(
        {
            "model": setup.model,
            "system": setup.system,
            "profile": setup.profile,
            "tools": [encode_tool(tool) for tool in setup.tools],
            "schema": setup.schema,
            "workspace": setup.workspace,
        }
    )


def decode_setup(body: bytes) -> Setup:
    value = loads(body)
    return Setup(**{**value, "tools": tuple(map(decode_tool, value["tools"]))})


# -- JSON ------------------------------------------------------------------------------------------


def dumps(value: Any, write: Callable[[Any], bytes] = kept_json) -> bytes:
    """Compact JSON, as `loads` takes it."""
    try:
        return write(value)
    except TypeError:  # a lone surrogate, or an integer beyond 64 bits
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
        return _BY_STANDARD_LIBRARY + text.encode("utf-8", "surrogatepass")


def loads(body: bytes) -> Any:
    if body.startswith(_BY_STANDARD_LIBRARY):
        return json.loads(body.decode("utf-8", "surrogatepass"))
    return orjson.loads(body) if len(body) < LONG else long_texts.parse(body)
