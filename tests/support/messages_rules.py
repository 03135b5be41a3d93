"""What the Messages API refuses: so that a stub does not accept what the real API would not.

Knows the rules that a gateway could break, and the API's words for them. Refuses to judge anything
else: what is not listed here passes.

Sources: https://docs.claude.com/en/api/messages, and its pages on tool use, extended thinking,
structured outputs and vision.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from typing import Any

from .messages_answers import JSON

_MAGIC = {
    "image/png": b"\x89PNG\r\n\x1a\n",
    "image/jpeg": b"\xff\xd8\xff",
    "image/gif": b"GIF8",
    "image/webp": b"RIFF",
    "application/pdf": b"%PDF-",
}
_NOT_IN_OUTPUT_SCHEMAS = {
    *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
    *("minLength", "maxLength", "maxItems"),
}

# Which models refuse what, by their ids. Those after Opus 4.6 cannot be sampled; Fable, Mythos and
# those after version 5.0 always think; Opus 4.7 and 4.8 are the last that think only when asked to.
_SAMPLED = re.compile(r"claude-(3|(opus|sonnet|haiku)-4-[0-6]\b)")
_ALWAYS_THINKS = re.compile(r"claude-(fable|mythos|(opus|sonnet|haiku)-5-5)")
_THINKS_UNLESS_TOLD = re.compile(r"claude-(opus|sonnet)-5$")
_HAS_BUDGET = re.compile(r"claude-(3-7|(opus|sonnet|haiku)-4-[0-6]\b)")

_PROPERTY = re.compile(r"[a-zA-Z0-9_.-]{1,64}")
_NAMED = ("properties", "$defs", "definitions")


def broken_rule(body: JSON) -> str | None:
    """Return what the API would refuse the request for, in its words; None where it would not."""
    return next(_faults(body), None)


def _faults(body: JSON) -> Iterator[str]:
    yield from _parameter_faults(body)
    if "claude" in body.get("model", ""):
        yield from _model_faults(body)
    yield from _thinking_faults(body)
    yield from _tool_faults(body)
    yield from _message_faults(body)
    wanted = (body.get("output_config") or {}).get("format") or {}
    if wanted.get("type") == "json_schema":
        yield from _output_schema_faults(wanted.get("schema"))


def _parameter_faults(body: JSON) -> Iterator[str]:
    for name in ("temperature", "top_p"):
        if not 0 <= (body.get(name) or 0) <= 1:
            yield f"{name}: range: 0..1"
    if (body.get("max_tokens") or 0) < 1:
        yield "max_tokens: must be greater than or equal to 1"
    if any(not stop.strip() for stop in body.get("stop_sequences") or []):
        yield "stop_sequences: each stop sequence must contain non-whitespace"


_CONTINUES = re.compile(r"claude-(3|(opus|sonnet|haiku)-4-[0-5]\b)")


def _model_faults(body: JSON) -> Iterator[str]:
    """What one Claude takes and another does not."""
    last = [message for message in body["messages"] if message["role"] != "system"][-1:]
    if last and last[0]["role"] == "assistant":
        if not _CONTINUES.match(body["model"]):
            yield "This model does not support assistant message prefill."
        if (body.get("thinking") or {}).get("type", "disabled") != "disabled":
            yield "A final assistant message must start with a thinking block when thinking is on."
        ending = last[0]["content"]
        text = ending if isinstance(ending, str) else str(ending[-1].get("text", ""))
        if text != text.rstrip():
            yield "messages: final assistant content cannot end with trailing whitespace"
    model, thinking = body["model"], (body.get("thinking") or {}).get("type")
    forced = (body.get("tool_choice") or {}).get("type") in ("any", "tool")
    for name in ("temperature", "top_p"):
        if name in body and not _SAMPLED.match(model):
            yield f"`{name}` is deprecated for this model."
    if body.keys() >= {"temperature", "top_p"}:
        yield "`temperature` and `top_p` cannot both be specified for this model."
    if thinking == "enabled" and not _HAS_BUDGET.match(model):
        yield '"thinking.type.enabled" is not supported for this model.'
    if _ALWAYS_THINKS.match(model):
        if thinking == "disabled":
            yield '"thinking.type.disabled" is not supported for this model.'
        if forced:
            yield "tool_choice forces tool use is not compatible with this model."
    if _THINKS_UNLESS_TOLD.match(model):
        if forced and thinking != "disabled":
            yield "Thinking may not be enabled when tool_choice forces tool use."
        effort = (body.get("output_config") or {}).get("effort")
        if thinking == "disabled" and effort in ("xhigh", "max"):
            yield f"output_config.effort '{effort}' is not supported when thinking is disabled"


def _thinking_faults(body: JSON) -> Iterator[str]:
    thinking = body.get("thinking") or {"type": "disabled"}
    if thinking["type"] == "disabled":
        return
    if (body.get("tool_choice") or {}).get("type") in ("any", "tool"):
        yield "Thinking may not be enabled when tool_choice forces tool use."
    if body.get("temperature", 1) != 1:
        yield "`temperature` may only be set to 1 when thinking is enabled or in adaptive mode."
    if body.get("top_p", 1) < 0.95:
        yield "`top_p` must be greater than or equal to 0.95 or unset when thinking is enabled."
    if thinking["type"] == "enabled":
        if thinking["budget_tokens"] < 1024:
            yield "thinking.enabled.budget_tokens: Input should be greater than or equal to 1024"
        if thinking["budget_tokens"] >= body["max_tokens"]:
            yield "`max_tokens` must be greater than `thinking.budget_tokens`."


def _tool_faults(body: JSON) -> Iterator[str]:
    tools = body.get("tools") or []
    names = [tool["name"] for tool in tools]
    if len(set(names)) < len(names):
        yield "tools: Tool names must be unique."
    for number, tool in enumerate(tools):
        if str(tool.get("type")).startswith("web_search_"):
            if tool.get("allowed_domains") and tool.get("blocked_domains"):
                yield f"tools.{number}: only one of allowed_domains and blocked_domains"
            continue
        schema = tool["input_schema"]
        if not re.fullmatch(r"[a-zA-Z0-9_-]{1,128}", tool["name"]):
            yield f"tools.{number}.custom.name: String should match pattern"
        if schema.get("type") != "object":
            yield f"tools.{number}.custom.input_schema.type: Input should be 'object'"
        where = f"tools.{number}.custom.input_schema"
        if any(not _PROPERTY.fullmatch(key) for key in schema.get("properties") or {}):
            yield f"{where}.properties: Property keys should match pattern"
        if schema.keys() & {"oneOf", "allOf", "anyOf"}:
            yield f"{where}: input_schema does not support oneOf, allOf, or anyOf at the top level"
    choice = body.get("tool_choice")
    if choice and not tools:
        yield "tool_choice: may only be specified while providing tools."
    if choice and choice["type"] == "tool" and choice["name"] not in names:
        yield f"Tool '{choice['name']}' not found in provided tools"


def _message_faults(body: JSON) -> Iterator[str]:
    turns: list[tuple[str, list[JSON]]] = []
    for message in body["messages"]:
        content = message["content"]
        blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
        if message["role"] == "system":
            continue
        if turns and turns[-1][0] == message["role"]:
            turns[-1][1].extend(blocks)
        else:
            turns.append((message["role"], list(blocks)))
    if not turns:
        yield "messages: at least one message is required"
    called: set[str] = set()
    for number, (_, blocks) in enumerate([*turns, ("", [])]):
        results = {block["tool_use_id"] for block in blocks if block["type"] == "tool_result"}
        if called - results:
            yield (
                f"messages.{number - 1}: `tool_use` ids were found without `tool_result` blocks "
                f"immediately after: {', '.join(sorted(called - results))}."
            )
        if results - called:
            yield f"messages.{number}: unexpected `tool_use_id` found in `tool_result` blocks"
        called = {block["id"] for block in blocks if block["type"] == "tool_use"}
        for block in blocks:
            yield from _block_faults(block)


def _block_faults(block: JSON) -> Iterator[str]:
    if block["type"] == "text" and not block["text"]:
        yield "messages: text content blocks must be non-empty"
    if block["type"] == "tool_result" and isinstance(block.get("content"), list):
        for inner in block["content"]:
            yield from _block_faults(inner)
    source = block.get("source") or {}
    if block["type"] in ("image", "document") and source.get("type") == "base64":
        magic = _MAGIC.get(source["media_type"])
        if magic is None:
            yield f"{block['type']}.source.base64.media_type: unexpected value"
        elif not base64.b64decode(source["data"], validate=True).startswith(magic):
            yield f"The file was specified using the {source['media_type']} media type, but is not"


def _output_schema_faults(schema: Any) -> Iterator[str]:
    if isinstance(schema, list):
        for part in schema:
            yield from _output_schema_faults(part)
    if not isinstance(schema, dict):
        return
    kind = schema.get("type")
    if kind == "object" and schema.get("additionalProperties") is not False:
        yield (
            "output_config.format.schema: For 'object' type, 'additionalProperties' must be "
            "explicitly set to false"
        )
    for keyword in sorted(_NOT_IN_OUTPUT_SCHEMAS & schema.keys()):
        if isinstance(kind, str):
            yield (
                f"output_config.format.schema: For '{kind}' type, property '{keyword}' is not "
                "supported"
            )
    # The names of properties are no keywords; their schemas are looked into all the same.
    for name, part in schema.items():
        if name not in ("const", "enum", "default", "examples"):
            yield from _output_schema_faults(list(part.values()) if name in _NAMED else part)
