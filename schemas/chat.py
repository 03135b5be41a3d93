"""OpenAI chat completions, the request: its words, and what they ask in the gateway's own.

Knows: the fields of ``POST /v1/chat/completions`` (OpenAI API reference, "Chat"), which of them
are honoured, taken note of or refused. Refuses to know: which models and conversations there are,
and how the answer is written (`schemas.chat_reply`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from attrs import frozen

from .convert import structure
from .errors import InvalidRequest
from .turn import Message

# -- the words -----------------------------------------------------------------------------------


@frozen
class ContentPart:
    type: str
    text: str | None = None
    refusal: str | None = None


@frozen
class ChatMessage:
    role: str
    content: str | tuple[ContentPart, ...] | None = None
    name: str | None = None
    refusal: str | None = None
    tool_calls: tuple[Any, ...] | None = None
    function_call: Mapping[str, Any] | None = None


@frozen
class StreamOptions:
    include_usage: bool | None = None


@frozen
class ConversationRef:
    id: str


@frozen(kw_only=True)
class ChatRequest:
    """The body as it came. Every optional field may also be null, which means it is absent."""

    messages: tuple[ChatMessage, ...]
    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    conversation_id: str | None = None
    conversation: str | ConversationRef | None = None

    temperature: float | None = None
    top_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = None
    stop: str | tuple[str, ...] | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    reasoning_effort: str | None = None
    verbosity: str | None = None

    user: str | None = None
    metadata: Mapping[str, Any] | None = None
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None

    n: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    logit_bias: Mapping[str, Any] | None = None
    response_format: Mapping[str, Any] | None = None
    tools: tuple[Any, ...] | None = None
    tool_choice: str | Mapping[str, Any] | None = None
    functions: tuple[Any, ...] | None = None
    function_call: str | Mapping[str, Any] | None = None
    modalities: tuple[str, ...] | None = None
    audio: Mapping[str, Any] | None = None
    web_search_options: Mapping[str, Any] | None = None


SHAPING = (
    "temperature", "top_p", "presence_penalty", "frequency_penalty", "seed", "stop",
    "max_tokens", "max_completion_tokens", "reasoning_effort", "verbosity",
)  # fmt: skip
"""Fields that would shape the answer. Requests that differ in one are not identical."""

IGNORED = (
    *SHAPING,
    "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key",
)  # fmt: skip
"""Fields that are checked and then reach nobody; the response says which of them were given."""

# What each unsupported field may hold without asking for anything.
_HARMLESS: dict[str, Callable[[Any], bool]] = {
    "n": lambda value: value == 1,
    "logprobs": lambda value: not value,
    "top_logprobs": lambda value: not value,
    "logit_bias": lambda value: not value,
    "response_format": lambda value: value.get("type") == "text",
    "tools": lambda value: not value,
    "tool_choice": lambda value: value in ("none", "auto"),
    "functions": lambda value: not value,
    "function_call": lambda value: value in ("none", "auto"),
    "modalities": lambda value: value == ("text",),
    "audio": lambda value: not value,
    "web_search_options": lambda _: False,
}

_RANGES: dict[str, tuple[float, float]] = {
    "temperature": (0, 2),
    "top_p": (0, 1),
    "presence_penalty": (-2, 2),
    "frequency_penalty": (-2, 2),
    "max_tokens": (1, float("inf")),
    "max_completion_tokens": (1, float("inf")),
}

MAX_STOPS = 4


# -- what they ask -------------------------------------------------------------------------------


@frozen(kw_only=True)
class ChatTurn:
    """One request in the gateway's words.

    `model` is the name the client used, None where it used none. `system` joins every system and
    developer message, None where there is none. `messages` ends with a user message. `shaping`
    holds the given fields of `SHAPING`, `ignored` the names of those given that reach nobody.
    """

    model: str | None
    system: str | None
    messages: tuple[Message, ...]
    stream: bool
    include_usage: bool
    conversation_id: str | None
    shaping: Mapping[str, Any]
    ignored: tuple[str, ...]


def parse_chat(raw: object) -> ChatTurn:
    """Read a request's JSON value. Raises `InvalidRequest`, whose `param` is the field's path."""
    request = structure(raw, ChatRequest)
    _refuse_unsupported(request)
    _check_values(request)
    system, messages = _read_messages(request.messages)
    options = request.stream_options
    return ChatTurn(
        model=request.model,
        system=system,
        messages=messages,
        stream=bool(request.stream),
        include_usage=bool(options and options.include_usage),
        conversation_id=_conversation_id(request),
        shaping={name: value for name in SHAPING if (value := getattr(request, name)) is not None},
        ignored=tuple(name for name in IGNORED if getattr(request, name) is not None),
    )


def one_conversation(named: Mapping[str, str | None]) -> str | None:
    """The conversation that a request means, of the places where it may be named.

    Raises `InvalidRequest` for an empty name, and for the second of two places that disagree.
    """
    given = [(place, value) for place, value in named.items() if value is not None]
    for place, value in given:
        if not value:
            raise _invalid(f"{place} must not be empty.", place)
    for place, value in given[1:]:
        if value != given[0][1]:
            raise _invalid(f"{place} and {given[0][0]} name different conversations.", place)
    return given[0][1] if given else None


def _conversation_id(request: ChatRequest) -> str | None:
    place, other = "conversation", request.conversation
    if isinstance(other, ConversationRef):
        place, other = "conversation.id", other.id
    return one_conversation({"conversation_id": request.conversation_id, place: other})


def _refuse_unsupported(request: ChatRequest) -> None:
    for name, harmless in _HARMLESS.items():
        value = getattr(request, name)
        if value is not None and not harmless(value):
            raise _unsupported(f"This value of {name} is not supported.", name)


def _check_values(request: ChatRequest) -> None:
    for name, (low, high) in _RANGES.items():
        value = getattr(request, name)
        if value is not None and not low <= value <= high:
            limit = f"between {low} and {high}" if high < float("inf") else f"at least {low}"
            raise _invalid(f"{name} must be {limit}, got {value}.", name)
    if isinstance(request.stop, tuple) and len(request.stop) > MAX_STOPS:
        raise _invalid(f"stop must hold at most {MAX_STOPS} strings.", "stop")


def _read_messages(given: Sequence[ChatMessage]) -> tuple[str | None, tuple[Message, ...]]:
    """System text apart (None: there is none), the other messages in order."""
    system: list[str] = []
    messages: list[Message] = []
    last = 0
    for index, message in enumerate(given):
        path = f"messages[{index}]"
        match message.role:
            case "system" | "developer":
                system.append("".join(_blocks(message, path)))
            case "user" | "assistant" as role:
                messages.append(Message(role, _said(message, path)))
                last = index
            case "tool" | "function":
                raise _unsupported("Tool messages are not supported.", f"{path}.role")
            case _:
                raise _invalid(
                    f"{path}.role must be system, developer, user or assistant.", f"{path}.role"
                )
    if not messages:
        raise _invalid("messages must hold at least one user message.", "messages")
    if messages[-1].role != "user":
        raise _invalid(
            "The last message must be the user's: an answer that the client has begun cannot be"
            " continued.",
            f"messages[{last}].role",
        )
    return "\n\n".join(system) if system else None, tuple(messages)


def _said(message: ChatMessage, path: str) -> tuple[str, ...]:
    """The blocks of a message, without empty ones. The user's must have text: the model is not
    asked about any other. An answer may be empty, and then comes back as it was given."""
    blocks = _blocks(message, path)
    if message.role == "user" and not any(block.strip() for block in blocks):
        raise InvalidRequest(
            f"{path}.content must have text.", code="empty_content", param=f"{path}.content"
        )
    return tuple(block for block in blocks if block) or ("",)


def _blocks(message: ChatMessage, path: str) -> tuple[str, ...]:
    """The text blocks of a message, at least one."""
    for name in ("tool_calls", "function_call"):
        if getattr(message, name):
            raise _unsupported("Tool calls are not supported.", f"{path}.{name}")
    content = message.content
    if content is None and message.role == "assistant":
        content = message.refusal or ""
    if content is None:
        raise InvalidRequest(
            f"{path}.content is required.", code="missing_field", param=f"{path}.content"
        )
    if isinstance(content, str):
        return (content,)
    if not content:
        raise _invalid(f"{path}.content must hold at least one part.", f"{path}.content")
    return tuple(
        _part_text(part, message.role, f"{path}.content[{index}]")
        for index, part in enumerate(content)
    )


def _part_text(part: ContentPart, role: str, path: str) -> str:
    match part.type, role:
        case "text", _:
            text, field = part.text, "text"
        case "refusal", "assistant":
            text, field = part.refusal, "refusal"
        case ("image_url" | "input_audio" | "file") as kind, _:
            raise _unsupported(f"Content parts of type {kind} are not supported.", path)
        case _:
            raise _invalid(f"{path}.type must be text in a message of role {role}.", f"{path}.type")
    if text is None:
        raise InvalidRequest(
            f"{path}.{field} is required.", code="missing_field", param=f"{path}.{field}"
        )
    return text


def _unsupported(message: str, param: str) -> InvalidRequest:
    return InvalidRequest(message, code="unsupported_parameter", param=param)


def _invalid(message: str, param: str) -> InvalidRequest:
    return InvalidRequest(message, code="invalid_value", param=param)
