"""OpenAI responses, the words of a request, and which of them a response repeats.

Knows: the names and JSON kinds of the fields of ``POST /v1/responses`` (OpenAI API reference,
"Responses"). Refuses to know: what they may hold and what they ask (`schemas.openai.responses`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import frozen

from ..convert import at_most
from .chat_tools import MAX_TOOLS
from .items import Input
from .parameters import TIERS, ConversationRef
from .response_tools import FlatChoice, FlatTool, echo_choice, echo_tools

MAX_INCLUDED = 64
"""Names in `include`, of which there are a few."""


@frozen
class FlatFormat:
    type: str
    name: str | None = None
    description: str | None = None
    schema: Mapping[str, Any] | None = None
    strict: bool | None = None


@frozen
class TextConfig:
    format: FlatFormat | None = None
    verbosity: str | None = None


@frozen
class ReasoningConfig:
    effort: str | None = None
    summary: str | None = None
    generate_summary: str | None = None


@frozen
class StreamOptions:
    include_obfuscation: bool | None = None


@frozen
class ContextManagement:
    type: str
    compact_threshold: int | None = None


@frozen(kw_only=True)
class ResponseRequest:
    """The body as it came. Every optional field may also be null, which means it is absent.

    `conversation_id` and `workspace` are not OpenAI's; `generate` is that of its WebSocket.
    """

    input: Input | None = None
    model: str | None = None
    instructions: str | None = None
    stream: bool | None = None
    store: bool | None = None
    background: bool | None = None
    previous_response_id: str | None = None
    conversation: str | ConversationRef | None = None
    conversation_id: str | None = None
    workspace: str | None = None
    generate: bool | None = None

    tools: tuple[FlatTool, ...] | None = at_most(MAX_TOOLS, "tools")
    tool_choice: str | FlatChoice | None = None
    parallel_tool_calls: bool | None = None
    text: TextConfig | None = None

    temperature: float | None = None
    top_p: float | None = None
    max_output_tokens: int | None = None
    reasoning: ReasoningConfig | None = None
    user: str | None = None
    safety_identifier: str | None = None
    service_tier: str | None = None

    metadata: Mapping[str, Any] | None = None
    include: tuple[str, ...] | None = at_most(MAX_INCLUDED, "names")
    truncation: str | None = None
    max_tool_calls: int | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    stream_options: StreamOptions | None = None

    top_logprobs: int | None = None
    prompt: Mapping[str, Any] | None = None
    context_management: tuple[ContextManagement, ...] | None = at_most(MAX_INCLUDED, "entries")


# -- what a response repeats -----------------------------------------------------------------------


def encode_echo(request: ResponseRequest) -> dict[str, Any]:
    """The fields of a response that are the request's, defaults included."""
    config, text = request.reasoning or ReasoningConfig(), request.text or TextConfig()
    return {
        "instructions": request.instructions,
        "background": bool(request.background),
        "max_output_tokens": request.max_output_tokens,
        "max_tool_calls": request.max_tool_calls,
        "metadata": dict(request.metadata or {}),
        "parallel_tool_calls": request.parallel_tool_calls is not False,
        "previous_response_id": request.previous_response_id,
        "prompt_cache_key": request.prompt_cache_key,
        "reasoning": {
            "effort": config.effort,
            "summary": config.summary or config.generate_summary,
        },
        "safety_identifier": request.safety_identifier,
        "service_tier": request.service_tier if request.service_tier in TIERS else "default",
        "store": request.store is not False,
        "temperature": 1.0 if request.temperature is None else request.temperature,
        "text": {"format": _echo_format(text.format), "verbosity": text.verbosity or "medium"},
        "tool_choice": echo_choice(request.tool_choice),
        "tools": echo_tools(request.tools or ()),
        "top_logprobs": 0,
        "top_p": 1.0 if request.top_p is None else request.top_p,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "truncation": request.truncation or "disabled",
        "user": request.user,
    }


def _echo_format(given: FlatFormat | None) -> dict[str, Any]:
    if given is None or given.type != "json_schema":
        return {"type": "text" if given is None else given.type}
    return {
        "type": "json_schema",
        "name": given.name or "response",
        "description": given.description,
        "schema": dict(given.schema or {}),
        "strict": bool(given.strict),
    }
