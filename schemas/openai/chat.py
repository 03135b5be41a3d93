"""OpenAI chat completions, the request: its words, and what they ask in the gateway's own.

Knows: the fields of ``POST /v1/chat/completions`` (OpenAI API reference, "Chat"), which of them are
honoured, taken note of or refused. Refuses to know: messages (`schemas.openai.chat_messages`) and
tools (`schemas.openai.chat_tools`), which models and conversations there are, and how the answer is
written (`schemas.openai.chat_reply`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import Any

from attrs import evolve, frozen

from ..claude.sampling import without_effect
from ..convert import at_most, structure
from ..describe import Details, ranges
from ..errors import invalid, unsupported
from ..turn import Effort, Options, Tool, TurnRequest
from .chat_messages import ChatMessage, ImageUrl, read_messages
from .chat_tools import (
    MAX_TOOLS,
    NamedChoice,
    ResponseFormat,
    ToolSpec,
    read_choice,
    read_format,
    read_tools,
)
from .ignored_fields import unknown_fields
from .parameters import (
    EFFORT,
    NAME,
    TIERS,
    ConversationRef,
    check_ranges,
    encode_cache_fields,
    named_conversation,
    read_effort,
    refuse_unsupported,
)
from .web_search import read_search_options

MAX_STOPS = 4
MAX_MODALITIES = 8
MAX_CHOICES = 8
MAX_MESSAGES = 10_000
MAX_PARTS = 20_000
"""Of all messages together. Far more than any model can read, and read here in half a second."""

# -- the words -----------------------------------------------------------------------------------


@frozen
class StreamOptions:
    include_usage: bool | None = None


@frozen
class Reasoning:
    effort: str | None = None


@frozen(kw_only=True)
class ChatRequest:
    """The body as it came. Every optional field may also be null, which means it is absent.

    `conversation_id`, `conversation`, `workspace`, `include_reasoning` and `reasoning` are not
    OpenAI's.
    """

    messages: tuple[ChatMessage, ...]
    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    conversation_id: str | None = None
    conversation: str | ConversationRef | None = None
    workspace: str | None = None
    n: int | None = None

    tools: tuple[ToolSpec, ...] | None = at_most(MAX_TOOLS, "tools")
    tool_choice: str | NamedChoice | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None

    temperature: float | None = None
    top_p: float | None = None
    stop: str | tuple[str, ...] | None = at_most(MAX_STOPS, "strings")
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    reasoning_effort: str | None = None
    reasoning: Reasoning | None = None
    include_reasoning: bool | None = None
    user: str | None = None
    safety_identifier: str | None = None
    service_tier: str | None = None

    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = None
    verbosity: str | None = None
    metadata: Mapping[str, Any] | None = None
    store: bool | None = None
    prompt_cache_key: str | None = None

    logprobs: bool | None = None
    top_logprobs: int | None = None
    logit_bias: Mapping[str, Any] | None = None
    functions: tuple[Any, ...] | None = at_most(MAX_TOOLS, "functions")
    function_call: str | Mapping[str, Any] | None = None
    modalities: tuple[str, ...] | None = at_most(MAX_MODALITIES, "modalities")
    audio: Mapping[str, Any] | None = None
    web_search_options: Mapping[str, Any] | None = None
    prediction: Mapping[str, Any] | None = None


_WISHES = ("presence_penalty", "frequency_penalty", "seed", "verbosity")
"""Fields that would shape the answer and have no effect. Requests that differ in one are still not
identical: a client that changes a seed wants another answer."""

_NOTES = ("metadata", "store", "prompt_cache_key")
"""Fields that are about the request, and have no effect."""

# What each unsupported field may hold without asking for anything.
_HARMLESS: dict[str, Callable[[Any], bool]] = {
    "logprobs": lambda value: not value,
    "top_logprobs": lambda value: not value,
    "logit_bias": lambda value: not value,
    "functions": lambda value: not value,
    "function_call": lambda value: value in ("none", "auto"),
    "modalities": lambda value: value == ("text",),
    "audio": lambda value: not value,
    "prediction": lambda _: False,
}

RANGES: dict[str, tuple[float, float]] = {
    "temperature": (0, 2),
    "top_p": (0, 1),
    "presence_penalty": (-2, 2),
    "frequency_penalty": (-2, 2),
    "max_tokens": (1, float("inf")),
    "max_completion_tokens": (1, float("inf")),
    "n": (1, MAX_CHOICES),
}


_PENALTY = "Without effect: named in `x-ccapi-ignored`, but not taken to be the same request."
_VAIN = {"description": "Without effect: named in `x-ccapi-ignored`."}
_REFUSED = {"description": "Refused where it asks for something."}

DETAILS: Details = {
    ChatRequest: {
        **ranges(RANGES),
        "messages": {
            "minItems": 1,
            "maxItems": MAX_MESSAGES,
            "description": f"In all at most {MAX_PARTS} parts.",
        },
        "model": {"description": "As `GET /v1/models` lists it; none: the default."},
        "conversation_id": {**NAME, "description": "The conversation to go on in."},
        "workspace": {"description": "Where an agent works, by a name of the client's."},
        "reasoning_effort": EFFORT,
        "include_reasoning": {"description": "Give thinking as `reasoning_content`."},
        **{name: {**ranges(RANGES).get(name, {}), "description": _PENALTY} for name in _WISHES},
        **dict.fromkeys(_NOTES, _VAIN),
        "web_search_options": {
            "description": "Have the web searched, where the key may: else named in "
            "`x-ccapi-ignored`, as is `search_context_size`."
        },
        **dict.fromkeys(_HARMLESS, _REFUSED),
        "": {"description": "Fields that are not named here are ignored (`x-ccapi-ignored`)."},
    },
    Reasoning: {"effort": EFFORT},
    ConversationRef: {"id": NAME},
}


# -- what they ask -------------------------------------------------------------------------------


@frozen(kw_only=True)
class ChatTurn(TurnRequest):
    """A turn that is asked for in a chat: `n` answers, and whether usage ends their stream.

    `system` joins every system and developer message, None where there is none.
    """

    include_usage: bool
    n: int

    @property
    def choices(self) -> tuple[ChatTurn, ...]:
        """What is asked for each of the answers."""
        return (self,) * self.n


def parse_chat(
    raw: object,
    *,
    names_conversation: bool = False,
    reasoning: bool = False,
    consumes: bool = False,
) -> ChatTurn:
    """Read a request's JSON value. Raises `InvalidRequest`, whose `param` is the field's path.

    `names_conversation`: the request does so outside of its body. `reasoning`: thinking is given to
    requests that do not say whether they want it. `consumes`: `raw` is emptied on the way, for two
    forms of ten thousand messages at once take many times their length.
    """
    check_length(raw)
    request = structure(raw, ChatRequest)
    unknown = unknown_fields(raw, ChatRequest)
    if consumes and isinstance(raw, dict):
        raw.clear()
    if reasoning and request.include_reasoning is None and _effort(request) is None:
        request = evolve(request, include_reasoning=True)
    turn = read_request(request, names_conversation=names_conversation)
    return evolve(turn, ignored=(*turn.ignored, *unknown))


def check_length(raw: object) -> None:
    """Refuse what would take seconds to read, before it is read: no other client is served
    meanwhile. Whether it has the right form is not looked at here."""
    messages = raw.get("messages") if isinstance(raw, dict) else None
    if not isinstance(messages, list):
        return
    parts = 0
    for message in messages[:MAX_MESSAGES]:
        for name in ("content", "tool_calls"):
            inner = message.get(name) if isinstance(message, dict) else None
            parts += len(inner) if isinstance(inner, list) else 0
    if len(messages) > MAX_MESSAGES or parts > MAX_PARTS:
        raise invalid(
            f"messages must hold at most {MAX_MESSAGES} messages, and {MAX_PARTS} parts in all.",
            "messages",
        )


def read_request(request: ChatRequest, *, names_conversation: bool = False) -> ChatTurn:
    """`parse_chat`, of a request whose fields have their types already."""
    refuse_unsupported(request, _HARMLESS)
    check_ranges(request, RANGES)
    conversation_id = named_conversation(request.conversation_id, request.conversation)
    continues = names_conversation or conversation_id is not None
    n = request.n or 1
    if n > 1 and continues:
        raise unsupported("A conversation goes on with one answer: n must be 1.", "n")
    tools = None if request.tools is None else read_tools(request.tools)
    # A conversation that goes on may have tools that the request does not repeat.
    known_tools = tools if tools is not None or continues else ()
    schema = read_format(request.response_format)
    history = read_messages(request.messages, continues=continues)
    if history.begun is not None and schema is not None:
        raise invalid("A JSON answer cannot be one that was begun.", history.begun)
    search, vain = None, tuple[str, ...]()
    if request.web_search_options is not None:
        search, vain = read_search_options(request.web_search_options)
        known_tools = known_tools or None  # the search is one
    options = evolve(_options(request, known_tools), begun=history.begun is not None, search=search)
    return ChatTurn(
        model=request.model,
        system=history.system,
        messages=history.messages,
        attachments=history.attachments,
        stream=bool(request.stream),
        include_usage=bool(request.stream_options and request.stream_options.include_usage),
        conversation_id=conversation_id,
        tools=tools,
        schema=schema,
        options=options,
        n=n,
        cache_fields=encode_cache_fields(
            options, schema, {name: getattr(request, name) for name in _WISHES}
        ),
        ignored=(*_ignored(request, options, known_tools, schema), *vain),
        begun=history.begun,
        workspace=request.workspace or "",
    )


def _options(request: ChatRequest, tools: Sequence[Tool] | None) -> Options:
    effort = _effort(request)
    asked = request.include_reasoning
    if asked is None:
        asked = effort is not None
    parallel = request.parallel_tool_calls
    return Options(
        temperature=request.temperature,
        top_p=request.top_p,
        max_tokens=request.max_completion_tokens or request.max_tokens,
        stop=_stops(request.stop),
        effort=effort,
        reasoning=asked and effort != "none",
        user=request.user or request.safety_identifier or None,
        service_tier=TIERS.get(request.service_tier),
        tool_choice=read_choice(request.tool_choice, tools),
        parallel_tool_calls=True if parallel is None else parallel,
        whole=not request.stream,
    )


def _effort(request: ChatRequest) -> Effort | None:
    if request.reasoning_effort is None and request.reasoning is not None:
        return read_effort(request.reasoning.effort, "reasoning.effort")
    return read_effort(request.reasoning_effort, "reasoning_effort")


def _stops(given: str | tuple[str, ...] | None) -> tuple[str, ...]:
    if given is None:
        return ()
    stops = {"stop": given} if isinstance(given, str) else _by_path(given)
    if len(stops) > MAX_STOPS:
        raise invalid(f"stop must hold at most {MAX_STOPS} strings.", "stop")
    for path, text in stops.items():
        if not text:
            raise invalid(f"{path} must not be empty.", path)
    return tuple(stops.values())


def _by_path(texts: Sequence[str]) -> dict[str, str]:
    return {f"stop[{index}]": text for index, text in enumerate(texts)}


def _ignored(
    request: ChatRequest, options: Options, tools: Sequence[Tool] | None, schema: str | None
) -> tuple[str, ...]:
    given = {name for name in (*_WISHES, *_NOTES) if getattr(request, name) is not None}
    given.update(without_effect(options))
    idle = {
        "stop": bool(options.stop) and schema is not None,  # half of the JSON would be missing
        "max_tokens": request.max_tokens not in (None, options.max_tokens),
        "parallel_tool_calls": request.parallel_tool_calls is not None and tools == (),
        "include_reasoning": bool(request.include_reasoning) and not options.reasoning,
        "safety_identifier": request.safety_identifier not in (None, "", options.user),
        "service_tier": request.service_tier is not None and options.service_tier is None,
    }
    # In the order of the words above.
    names = [name for name in ChatRequest.__annotations__ if name in given or idle.get(name)]
    if any(map(attrgetter("name"), request.messages)):
        names.append("messages.name")
    if any(map(_wants_detail, request.messages)):
        names.append("messages.image_url.detail")
    return tuple(names)


def _wants_detail(message: ChatMessage) -> bool:
    """Whether it says how closely a picture is to be looked at."""
    if not isinstance(message.content, tuple):
        return False
    given = (part.image_url for part in message.content)
    return any(isinstance(url, ImageUrl) and url.detail not in (None, "auto") for url in given)
