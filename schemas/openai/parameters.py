"""The parameters that OpenAI's requests share, whichever API they are of.

Knows: efforts, service tiers and ranges, where a conversation may be named, and what a turn's
options are as JSON. Refuses to know: which of them a request has (`schemas.openai.chat`,
`schemas.openai.responses`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

from attrs import frozen

from ..errors import invalid, unsupported
from ..turn import Effort, Options

EFFORTS: dict[str, Effort] = {
    "none": "none",
    "minimal": "low",
    "low": "low",
    "medium": "medium",
    "high": "high",
    "xhigh": "xhigh",
    "max": "max",
}

TIERS: dict[str | None, Literal["auto", "standard_only"]] = {
    "auto": "auto",
    "default": "standard_only",
}
"""OpenAI's service tiers that the Messages API has too."""


@frozen
class ConversationRef:
    id: str


def read_effort(given: str | None, path: str) -> Effort | None:
    """Raises `InvalidRequest`."""
    if given is None:
        return None
    if given not in EFFORTS:
        raise invalid(f"{path} must be one of {', '.join(EFFORTS)}.", path)
    return EFFORTS[given]


def check_ranges(request: object, ranges: Mapping[str, tuple[float, float]]) -> None:
    """See that each of the fields, where it is given, is between its bounds. Raises
    `InvalidRequest`."""
    for name, (low, high) in ranges.items():
        value = getattr(request, name)
        if value is not None and not low <= value <= high:
            limit = f"between {low} and {high}" if high < float("inf") else f"at least {low}"
            raise invalid(f"{name} must be {limit}, got {value}.", name)


def refuse_unsupported(request: object, harmless: Mapping[str, Callable[[Any], bool]]) -> None:
    """Refuse each of the fields that asks for something. Raises `InvalidRequest`."""
    for name, is_harmless in harmless.items():
        value = getattr(request, name)
        if value is not None and not is_harmless(value):
            raise unsupported(f"This value of {name} is not supported.", name)


def one_conversation(named: Mapping[str, str | None]) -> str | None:
    """The conversation that a request means, of the places where it may be named.

    Raises `InvalidRequest` for an empty name, and for the second of two places that disagree.
    """
    given = [(place, value) for place, value in named.items() if value is not None]
    for place, value in given:
        if not value:
            raise invalid(f"{place} must not be empty.", place)
    for place, value in given[1:]:
        if value != given[0][1]:
            raise invalid(f"{place} and {given[0][0]} name different conversations.", place)
    return given[0][1] if given else None


def named_conversation(
    conversation_id: str | None, conversation: str | ConversationRef | None
) -> str | None:
    """The conversation that a body names in either of its fields. Raises `InvalidRequest`."""
    place, other = "conversation", conversation
    if isinstance(other, ConversationRef):
        place, other = "conversation.id", other.id
    return one_conversation({"conversation_id": conversation_id, place: other})


EFFORT: dict[str, Any] = {"enum": [*EFFORTS]}
NAME: dict[str, Any] = {"minLength": 1}
"""Of a conversation or a response."""


def encode_cache_fields(
    options: Options, schema: str | None, wishes: Mapping[str, Any]
) -> dict[str, Any]:
    """All that can change an answer, as JSON values; `wishes` would shape it and have no effect."""
    fields: dict[str, Any] = {
        "temperature": options.temperature,
        "top_p": options.top_p,
        "max_tokens": options.max_tokens,
        "stop": list(options.stop) or None,
        "effort": options.effort,
        "reasoning": options.reasoning or None,
        "tool_choice": None,
        "parallel_tool_calls": None if options.parallel_tool_calls else False,
        "begun": options.begun or None,
        "schema": schema,
        **wishes,
    }
    if options.tool_choice.mode != "auto":
        fields["tool_choice"] = [options.tool_choice.mode, options.tool_choice.name]
    return {name: value for name, value in fields.items() if value is not None}
