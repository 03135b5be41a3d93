"""The Anthropic Messages API, the request: its words, and what they ask in the gateway's own.

Knows: the fields of ``POST /v1/messages`` and ``POST /v1/messages/count_tokens`` (Anthropic API
reference, "Messages"), which of them are honoured, taken note of or refused. Refuses to know:
messages (`schemas.anthropic.blocks`) and tools (`schemas.anthropic.tools`), which models and
conversations there are, and how the answer is written (`schemas.anthropic.reply`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeVar

from attrs import evolve, frozen

from ..claude import sampling
from ..convert import at_most, structure
from ..describe import Details, ranges
from ..errors import InvalidRequest, invalid, missing, unsupported
from ..json_bytes import LONG
from ..media import fill
from ..message import Checked, Document, Image, Message, is_blank
from ..openai.chat_tools import MAX_SCHEMA_BYTES, MAX_TOOLS, SchemaFormat, read_schema
from ..openai.ignored_fields import unknown_fields
from ..openai.parameters import check_ranges, encode_cache_fields, refuse_unsupported
from ..turn import (
    SEARCH_TOOL,
    DigestedText,
    Effort,
    Options,
    ThinkingWish,
    Tool,
    TurnRequest,
)
from .betas import has_beta, ignored_betas
from .blocks import (
    MAX_MESSAGES,
    MAX_PARTS,
    CacheControl,
    InputMessage,
    TextPart,
    check_length,
    read_messages,
    read_system,
)
from .errors import FORMER_VERSION, NO_THREADS, VERSION, dotted
from .tools import ChosenTool, ToolSpec, ignored_of, read_choice, read_search, read_tools

MAX_STOPS = 64
MAX_SYSTEM = 1_000
LEAST_BUDGET = 1024
"""Tokens that thinking has at least, where it has a budget."""

T = TypeVar("T")

# -- the words -----------------------------------------------------------------------------------


@frozen
class Metadata:
    user_id: str | None = None


@frozen
class ThinkingConfig:
    type: str
    budget_tokens: int | None = None
    display: str | None = None


@frozen
class OutputFormat:
    type: str
    schema: Mapping[str, Any] | None = None


@frozen
class OutputConfig:
    effort: str | None = None
    format: OutputFormat | None = None


@frozen(kw_only=True)
class CountRequest:
    """The body of a request to count tokens. Every optional field may also be null, which means it
    is absent."""

    model: str
    messages: tuple[InputMessage, ...]
    system: str | tuple[TextPart, ...] | None = at_most(MAX_SYSTEM, "blocks")
    tools: tuple[ToolSpec, ...] | None = at_most(MAX_TOOLS, "tools")
    tool_choice: ChosenTool | None = None
    thinking: ThinkingConfig | None = None
    output_config: OutputConfig | None = None
    output_format: OutputFormat | None = None
    cache_control: CacheControl | None = None
    context_management: Mapping[str, Any] | None = None
    mcp_servers: tuple[Any, ...] | None = at_most(MAX_TOOLS, "servers")
    speed: str | None = None


@frozen(kw_only=True)
class MessagesRequest(CountRequest):
    """The body of a request for a message."""

    max_tokens: int
    stream: bool | None = None
    stop_sequences: tuple[str, ...] | None = at_most(MAX_STOPS, "texts")
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    metadata: Metadata | None = None
    service_tier: str | None = None
    container: str | Mapping[str, Any] | None = None
    thread: Mapping[str, Any] | None = None
    inference_geo: str | None = None
    diagnostics: Mapping[str, Any] | None = None


_NOTES = ("cache_control", "context_management", "speed", "inference_geo", "diagnostics")
"""Fields that have no effect."""

# What each unsupported field may hold without asking for anything.
_HARMLESS: dict[str, Callable[[Any], bool]] = {"mcp_servers": lambda value: not value}
_HARMLESS_HERE: dict[str, Callable[[Any], bool]] = {
    **_HARMLESS,
    "container": lambda value: not value,
}

RANGES: dict[str, tuple[float, float]] = {
    "max_tokens": (1, float("inf")),
    "temperature": (0, 1),
    "top_p": (0, 1),
    "top_k": (0, float("inf")),
}

EFFORTS: dict[str, Effort] = {
    "low": "low", "medium": "medium", "high": "high", "xhigh": "xhigh", "max": "max",
}  # fmt: skip
_UPDATES = "updates"
_DISPLAYS: dict[str | None, Literal["summarized", "omitted"] | None] = {
    None: None,
    "summarized": "summarized",
    "omitted": "omitted",
    _UPDATES: None,
}
"""Updates while the model thinks are what a `claude` asks for that is the client; there are none
here, and it takes what there is."""

_TIERS: dict[str | None, Literal["auto", "standard_only"]] = {
    "auto": "auto",
    "standard_only": "standard_only",
}

_VAIN = {"description": "Without effect: named in `x-ccapi-ignored`."}
_REFUSED = {"description": "Refused where it asks for something."}

DETAILS: Details = {
    CountRequest: {
        "messages": {
            "minItems": 1,
            "maxItems": MAX_MESSAGES,
            "description": f"In all at most {MAX_PARTS} blocks.",
        },
        "model": {"description": "As `GET /v1/models` lists it."},
        "output_format": {"description": "The former place of `output_config.format`."},
        **{name: _VAIN for name in _NOTES if name in CountRequest.__annotations__},
        **dict.fromkeys(_HARMLESS, _REFUSED),
        "": {"description": "Fields that are not named here are ignored (`x-ccapi-ignored`)."},
    },
    MessagesRequest: {
        **ranges(RANGES),
        **{name: _VAIN for name in _NOTES if name in MessagesRequest.__annotations__},
        "container": _REFUSED,
        "thread": _REFUSED,
        "service_tier": {"enum": ["auto", "standard_only"]},
    },
    ThinkingConfig: {
        "type": {"enum": ["enabled", "adaptive", "disabled"]},
        "budget_tokens": {"minimum": LEAST_BUDGET},
        "display": {"enum": ["summarized", "omitted", _UPDATES]},
    },
    OutputConfig: {"effort": {"enum": [*EFFORTS]}},
    OutputFormat: {
        "type": {"const": "json_schema"},
        "schema": {"description": f"A JSON Schema, of at most {MAX_SCHEMA_BYTES} bytes."},
        "": {"required": ["type", "schema"]},
    },
}


# -- what they ask -------------------------------------------------------------------------------


@frozen(kw_only=True)
class MessagesTurn(TurnRequest):
    """A turn that is asked for in this dialect. `says_thinking`: the request does so, and its
    options do not only say what is meant by silence."""

    says_thinking: bool = False

    def without_effect(
        self, options: Options, model: str, /, *, in_words: bool = False
    ) -> tuple[str, ...]:
        """`sampling.without_effect`, in this dialect's names."""
        names = sampling.without_effect(options, model, in_words=in_words)
        return tuple(
            _NAMES.get(name, name) for name in names if name != "thinking" or self.says_thinking
        )

    def filled(self, blocks: Sequence[Image | Document]) -> tuple[Message, ...]:
        """The messages, with a block in place of each attachment. They are as checked as before."""
        assert len(blocks) == len(self.attachments), "one block for each attachment"
        return Checked(fill(self.messages, blocks)) if blocks else self.messages


def parse_messages(
    raw: object,
    *,
    names_conversation: bool = False,
    version: str = FORMER_VERSION,
    betas: frozenset[str] = frozenset(),
    consumes: bool = False,
) -> MessagesTurn:
    """Read a request's JSON value. Raises `InvalidRequest`, whose `param` is the field's path, as
    in ``messages.2.content.0.source``.

    `names_conversation`: the request does so outside of its body. `version`: the API's, of which
    the later has no sampling. `consumes`: `raw` is emptied on
    the way, for two forms of ten thousand messages at once take many times their length.
    """
    request, unknown = _read(raw, MessagesRequest, consumes=consumes)
    refuse_unsupported(request, _HARMLESS_HERE)
    if version == VERSION:
        _refuse_removed(request)
    if request.thread is not None:
        raise InvalidRequest(
            "thread: no threads are held here; send the whole conversation, or name it in the"
            " header x-conversation-id.",
            code=NO_THREADS,
            param="thread",
        )
    check_ranges(request, RANGES)
    asked = _asked(request, version, continues=names_conversation)
    thinking = _thinking(request, betas, request.max_tokens)
    options = evolve(
        asked.options,
        temperature=request.temperature,
        top_p=request.top_p,
        top_k=request.top_k,
        max_tokens=request.max_tokens,
        stop=_stops(request.stop_sequences),
        user=(request.metadata and request.metadata.user_id) or None,
        service_tier=_tier(request.service_tier),
        thinking=thinking,
        reasoning=thinking.type != "disabled",
        whole=not request.stream,
    )
    given = [name for name in _NOTES if getattr(request, name) is not None]
    ignored = (*given, *asked.ignored, *unknown, *ignored_betas(betas))
    return evolve(
        asked,
        stream=bool(request.stream),
        says_thinking=request.thinking is not None,
        options=options,
        ignored=tuple(dict.fromkeys(ignored)),
        cache_fields=_cache_fields(request, options, asked),
        # An answer in the cache is text alone: it has no other blocks.
        cacheable=not (options.reasoning or asked.tools or asked.schema),
    )


def parse_count(
    raw: object,
    *,
    names_conversation: bool = False,
    version: str = FORMER_VERSION,
    betas: frozenset[str] = frozenset(),
) -> MessagesTurn:
    """Read a request to count tokens. Raises as `parse_messages` does."""
    request, unknown = _read(raw, CountRequest)
    refuse_unsupported(request, _HARMLESS)
    asked = _asked(request, version, continues=names_conversation)
    _thinking(request, betas)
    given = [
        name
        for name in _NOTES
        if name in CountRequest.__annotations__ and getattr(request, name) is not None
    ]
    ignored = (*given, *asked.ignored, *unknown, *ignored_betas(betas))
    return evolve(asked, ignored=tuple(dict.fromkeys(ignored)))


def _refuse_removed(request: MessagesRequest) -> None:
    """Refuse what the later version of the API has no more. Raises `InvalidRequest`."""
    for name in ("temperature", "top_p", "top_k"):
        if getattr(request, name) is not None:
            raise unsupported(
                f"{name} is no field of API version {VERSION}; with {FORMER_VERSION} it is.", name
            )


_NAMES = {"reasoning_effort": "output_config.effort"}


def _read(raw: object, cls: type[T], *, consumes: bool = False) -> tuple[T, tuple[str, ...]]:
    """The body in its form, and the fields that it has beside those of the class."""
    check_length(raw)
    try:
        request = structure(raw, cls)
    except InvalidRequest as error:
        raise dotted(error) from None
    unknown = unknown_fields(raw, cls)
    if consumes and isinstance(raw, dict):
        raw.clear()
    return request, unknown


def _asked(request: CountRequest, version: str, *, continues: bool) -> MessagesTurn:
    """What is asked in the fields that both routes have."""
    history = read_messages(request.messages, continues=continues, cites=version == FORMER_VERSION)
    system = (*_spoken(read_system(request.system)), *history.system)
    tools = None if request.tools is None else read_tools(request.tools, history.referred)
    # A conversation that goes on may have tools that the request does not repeat.
    known_tools = tools if tools is not None or continues else ()
    schema = _schema(request)
    if history.begun is not None and schema is not None:
        raise invalid("A JSON answer cannot be one that was begun.", history.begun)
    search = read_search(request.tools or ())
    if search is not None and known_tools is not None:
        known_tools = (*known_tools, Tool(SEARCH_TOOL))
    choice, parallel = read_choice(request.tool_choice, known_tools)
    ignored = {*history.ignored, *ignored_of(request.tools or ())}
    if request.thinking is not None and request.thinking.display == _UPDATES:
        ignored.add("thinking.display")
    if isinstance(request.system, tuple) and any(part.cache_control for part in request.system):
        ignored.add("cache_control")
    return MessagesTurn(
        model=request.model,
        system=_joined(system),
        messages=history.messages,
        attachments=history.attachments,
        tools=tools,
        schema=schema,
        options=Options(
            effort=_effort(request.output_config),
            tool_choice=choice,
            parallel_tool_calls=parallel,
            begun=history.begun is not None,
            blocks=True,
            search=search,
        ),
        ignored=tuple(sorted(ignored)),
        begun=history.begun,
        exact=True,
        whole_history=True,
    )


BILLING = "x-anthropic-billing-header:"
"""How a block of the CLI's begins that is for the API's books. The model never reads it, and the
gateway's own child sends one."""


def _spoken(texts: Sequence[str]) -> tuple[str, ...]:
    return tuple(text for text in texts if not text.startswith(BILLING))


def _joined(texts: Sequence[str]) -> str | None:
    """A long one with its digest, made while there is no other copy of it yet."""
    if not texts:
        return None
    system = "\n\n".join(texts)
    return DigestedText.of(system) if len(system) >= LONG else system


def _schema(request: CountRequest) -> str | None:
    config = request.output_config
    path, asked = "output_config.format", None if config is None else config.format
    if asked is None:
        path, asked = "output_format", request.output_format
    if asked is None:
        return None
    if asked.type != "json_schema":
        raise invalid(f"{path}.type must be json_schema.", f"{path}.type")
    return read_schema(SchemaFormat(schema=asked.schema), f"{path}.schema")


def _effort(config: OutputConfig | None) -> Effort | None:
    if config is None or config.effort is None:
        return None
    if config.effort not in EFFORTS:
        raise invalid(
            f"output_config.effort must be one of {', '.join(EFFORTS)}.", "output_config.effort"
        )
    return EFFORTS[config.effort]


def _thinking(
    request: CountRequest, betas: frozenset[str], max_tokens: float = float("inf")
) -> ThinkingWish:
    """How the model is to think; not at all, unless the request says so."""
    given = request.thinking
    if given is None:
        return ThinkingWish("disabled")
    if given.display not in _DISPLAYS:
        raise invalid(
            "thinking.display must be summarized, omitted or updates.", "thinking.display"
        )
    display = _DISPLAYS[given.display]
    match given.type:
        case "enabled":
            budget = _budget(given.budget_tokens, betas, max_tokens)
            return ThinkingWish("enabled", budget, display)
        case "adaptive":
            return ThinkingWish("adaptive", display=display)
        case "disabled":
            return ThinkingWish("disabled")
    raise unsupported("thinking.type must be enabled, adaptive or disabled.", "thinking.type")


def _budget(given: int | None, betas: frozenset[str], max_tokens: float) -> int:
    path = "thinking.budget_tokens"
    if given is None:
        raise missing(path)
    if given < LEAST_BUDGET:
        raise invalid(f"{path} must be at least {LEAST_BUDGET}.", path)
    # Thinking between calls of tools has its budget for all of them together.
    if given >= max_tokens and not has_beta(betas, "interleaved-thinking"):
        raise invalid(f"{path} must be less than max_tokens.", path)
    return given


def _stops(given: Sequence[str] | None) -> tuple[str, ...]:
    for index, text in enumerate(given or ()):
        if is_blank(text):
            path = f"stop_sequences.{index}"
            raise invalid(f"{path} must hold more than white space.", path)
    return tuple(given or ())


def _tier(given: str | None) -> Literal["auto", "standard_only"] | None:
    if given is not None and given not in _TIERS:
        raise invalid("service_tier must be auto or standard_only.", "service_tier")
    return _TIERS.get(given)


def _cache_fields(request: MessagesRequest, options: Options, asked: TurnRequest) -> dict[str, Any]:
    """What else can change the answer: the borders of blocks are no part of what a message is, and
    thinking is none either."""
    fields = encode_cache_fields(options, asked.schema, {"top_k": request.top_k})
    made = hashlib.sha256()
    for message in asked.messages:
        if not message.is_one_text:
            made.update(repr([_shape(block) for block in message.content]).encode())
    return {**fields, "face": "messages", "blocks": made.hexdigest()}


def _shape(block: Any) -> Any:
    if isinstance(block, str):
        return len(block)
    return getattr(block, "signature", None) or getattr(block, "data", "")[:64]
