"""OpenAI's items, as the gateway writes them: what was asked, and what was answered.

Knows: the JSON of items (OpenAI API reference, "Responses"), their ids, and which items an answer
is made of. Refuses to know: events (`schemas.openai.output_items` makes an answer's items as it
comes), and how items are read (`schemas.openai.items`).

An item's id follows from the turn's and from its place in it, so that every writer of a turn's
items writes the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

from ..message import Block, Document, Image, Message, ToolCall, ToolForm, ToolResult

JSON = dict[str, Any]
Status = Literal["in_progress", "completed", "incomplete"]

SERVER = "claude_code"
"""Whose tools an agent uses, as an ``mcp_call`` names it."""


def hex_of(turn_id: str) -> str:
    """A turn's uuid as ids have it."""
    return turn_id.replace("-", "")


def encode_messages(
    messages: Iterable[Message], turn_id: str, *, system: str | None = None
) -> list[JSON]:
    """The items of what was asked in a turn, `system` text first."""
    items: list[JSON] = []
    if system is not None:
        items.append(_message("system", [{"type": "input_text", "text": system}]))
    for message in messages:
        items += _answer(message) if message.role == "assistant" else _question(message)
    prefix = f"in_{hex_of(turn_id)}_"
    return [{"id": f"{prefix}{index}", **item} for index, item in enumerate(items)]


def _message(role: str, content: list[JSON]) -> JSON:
    return {"type": "message", "role": role, "status": "completed", "content": content}


def _question(message: Message) -> list[JSON]:
    others = [block for block in message.content if not isinstance(block, ToolResult)]
    items = [_result(result) for result in message.results]
    if others:
        items.append(_message("user", [_given(block) for block in others]))
    return items


def _answer(message: Message) -> list[JSON]:
    items = []
    if message.text or not message.calls:
        items.append(_message("assistant", [encode_text(message.text)]))
    return [*items, *({**encode_call(call), "status": "completed"} for call in message.calls)]


def encode_text(text: str) -> JSON:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def encode_call(call: ToolCall) -> JSON:
    """A call as the client knows it."""
    form = call.form or ToolForm(call.name)
    name: JSON = {"call_id": call.id, "name": form.name}
    if form.namespace is not None:
        name["namespace"] = form.namespace
    if form.custom:
        return {"type": "custom_tool_call", **name, "input": call.text}
    return {"type": "function_call", **name, "arguments": call.arguments}


def _result(result: ToolResult) -> JSON:
    item: JSON = {
        "type": "custom_tool_call_output" if result.custom else "function_call_output",
        "call_id": result.call_id,
        "output": _output(result.content),
        "status": "completed",
    }
    return item | ({"is_error": True} if result.is_error else {})


def _output(content: Sequence[str | Image | Document]) -> str | list[JSON]:
    texts = [block for block in content if isinstance(block, str)]
    return "".join(texts) if len(texts) == len(content) else [_given(block) for block in content]


def _given(block: Block) -> JSON:
    match block:
        case Image(media_type, data):
            url = f"data:{media_type};base64,{data}"
            return {"type": "input_image", "image_url": url, "detail": "auto"}
        case Document(media_type, data, name):
            file: JSON = {"type": "input_file", "file_data": f"data:{media_type};base64,{data}"}
            return file | ({} if name is None else {"filename": name})
        case str():
            return {"type": "input_text", "text": block}
    raise TypeError(f"{type(block).__name__} is nothing that a user says")
