"""A conversation as a file: its messages in the form of chat completions, or as Markdown.

Knows: how a message is given in a chat request (the opposite of `schemas.openai.chat_messages`, so
that what is exported can be imported), and as Markdown for people. Refuses to know: routes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from .message import (
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


def encode_chat_messages(messages: Iterable[Message], system: str = "") -> list[dict[str, Any]]:
    """Messages as JSON values for a chat request; `system` is the first one, if there is any."""
    encoded: list[dict[str, Any]] = []
    if system:
        encoded.append({"role": "system", "content": system})
    for message in messages:
        encoded += _encode(message)
    return encoded


def _encode(message: Message) -> Iterator[dict[str, Any]]:
    if message.role == "assistant":
        texts = [block for block in message.content if isinstance(block, str)]
        answer: dict[str, Any] = {"role": "assistant", "content": "".join(texts)}
        if message.calls:
            answer["content"] = answer["content"] or None
            answer["tool_calls"] = [_encode_call(call) for call in message.calls]
        yield answer
        return
    parts: list[Block] = []
    for block in message.content:
        if isinstance(block, ToolResult):
            result = {"role": "tool", "tool_call_id": block.call_id}
            yield result | {"content": _content(block.content)} | _failed(block)
        else:
            parts.append(block)
    if parts:
        yield {"role": "user", "content": _content(parts)}


def _failed(result: ToolResult) -> dict[str, Any]:
    return {"is_error": True} if result.is_error else {}


def _encode_call(call: ToolCall) -> dict[str, Any]:
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": call.id, "type": "function", "function": function}


def _content(blocks: Iterable[Block]) -> str | list[dict[str, Any]]:
    """A text alone, or parts: texts stay apart where there are several."""
    parts = [_part(block) for block in blocks]
    if not parts:
        return ""
    if len(parts) == 1 and parts[0]["type"] == "text":
        return str(parts[0]["text"])
    return parts


def _part(block: Block) -> dict[str, Any]:
    match block:
        case Image(media_type, data):
            url = f"data:{media_type};base64,{data}"
            return {"type": "image_url", "image_url": {"url": url}}
        case Document(media_type, data, name):
            file = {"file_data": f"data:{media_type};base64,{data}"}
            return {"type": "file", "file": file if name is None else {"filename": name, **file}}
        case str():
            return {"type": "text", "text": block}
    raise AssertionError(f"no part of a message: {block!r}")


# -- Markdown --------------------------------------------------------------------------------------


def encode_markdown(messages: Iterable[Message], title: str | None, system: str = "") -> str:
    """Messages for people. What was said stays as it is, since most of it is Markdown itself."""
    sections = [f"# {' '.join((title or 'Conversation').split())}"]
    if system:
        sections.append(f"## System\n\n{system}")
    for message in messages:
        name = "Assistant" if message.role == "assistant" else "User"
        said = "\n\n".join(filter(None, map(_shown, message.content)))
        sections.append(f"## {name}\n\n{said}" if said else f"## {name}")
    return "\n\n".join(sections) + "\n"


def _shown(block: Block) -> str:
    match block:
        case str():
            return block
        case Image(media_type):
            return f"*(a picture: {media_type})*"
        case Document(media_type, _, name):
            return f"*(a file: {name or media_type})*"
        case ToolCall(_, name, arguments):
            return f"*Calls the tool `{name}`:*\n\n{_fenced(arguments, 'json')}"
        case ToolResult(_, content, is_error):
            said = "\n\n".join(map(_shown, content))
            return f"*{'The tool failed' if is_error else 'The tool answered'}:*\n\n{_fenced(said)}"
        case ToolRound(calls, results):
            return "\n\n".join([*map(_shown, calls), *map(_shown, results)])
        case Thinking() | RedactedThinking() | ServerBlock() | Citations():
            return ""


def _fenced(text: str, language: str = "") -> str:
    """A code block, whose fence is longer than any in the text."""
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"
