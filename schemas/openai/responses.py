"""OpenAI responses, the request: what it asks, in the gateway's own words.

Knows: the fields of ``POST /v1/responses`` (OpenAI API reference, "Responses"), which of them are
honoured, taken note of or refused, and which of them a response repeats. Refuses to know: items
(`schemas.openai.items`), which models, conversations and earlier responses there are, and how the
response is written (`schemas.openai.response_events`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from attrs import evolve, field, frozen

from ..claude.sampling import without_effect
from ..convert import at_most, structure
from ..describe import Details, ranges
from ..errors import invalid, missing, unsupported
from ..message import Message, check_results
from ..turn import HostedTool, Options, Tool, ToolChoice, TurnRequest
from ..turn_items import ToolsListed
from .chat_tools import ANY_OBJECT, MAX_TOOLS, SchemaFormat, read_schema
from .foreign_items import MAX_ITEMS, NOTHING_KEPT, Kept, Taken, take_items
from .ignored_fields import unknown_fields
from .items import Input, Reading, read_history, read_items
from .mcp_servers import McpServer, read_servers
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
from .response_tools import (
    FlatChoice,
    FlatTool,
    allows_search,
    check_tools_length,
    echo_choice,
    echo_tools,
    read_flat_choice,
    read_flat_tools,
    read_search,
    with_tools,
)

MAX_INCLUDED = 64
"""Names in `include`, of which there are a few."""

MAX_METADATA = (16, 64, 512)
"""Pairs, characters of a key, characters of a value."""

SUMMARIES = ("auto", "concise", "detailed")

INCLUDABLE = {
    "file_search_call.results", "web_search_call.results", "web_search_call.action.sources",
    "message.input_image.image_url", "computer_call_output.output.image_url",
    "code_interpreter_call.outputs", "reasoning.encrypted_content",
    "message.output_text.logprobs",
}  # fmt: skip

_HARMLESS: dict[str, Callable[[Any], bool]] = {
    "top_logprobs": lambda value: not value,
    "prompt": lambda _: False,
}
"""What each unsupported field may hold without asking for anything."""

_RANGES: dict[str, tuple[float, float]] = {
    "temperature": (0, 2),
    "top_p": (0, 1),
    "max_output_tokens": (1, float("inf")),
    "max_tool_calls": (1, float("inf")),
}


# -- its fields ------------------------------------------------------------------------------------


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


_VAIN = {"description": "Without effect: named in `x-ccapi-ignored`."}

DETAILS: Details = {
    ResponseRequest: {
        **ranges(_RANGES),
        "input": {
            "anyOf": [
                {"type": "string"},
                {
                    "type": "array",
                    "maxItems": MAX_ITEMS,
                    "items": {
                        "anyOf": [
                            {"$ref": "#/components/schemas/InputItem"},
                            {"$ref": "#/components/schemas/OtherItem"},
                        ]
                    },
                },
            ],
            "description": "A text, or items.",
        },
        "model": {"description": "As `GET /v1/models` lists it; none: the default."},
        "previous_response_id": {**NAME, "description": "The response to go on from."},
        "conversation_id": {**NAME, "description": "The conversation to go on in."},
        "workspace": {"description": "Where an agent works, by a name of the client's."},
        "generate": {"description": "Has an effect on a WebSocket alone."},
        "truncation": {"enum": ["auto", "disabled"]},
        "include": {
            "type": ["array", "null"],
            "items": {"enum": sorted(INCLUDABLE)},
            "maxItems": MAX_INCLUDED,
        },
        "metadata": {
            "maxProperties": MAX_METADATA[0],
            "propertyNames": {"maxLength": MAX_METADATA[1]},
            "additionalProperties": {"type": "string", "maxLength": MAX_METADATA[2]},
        },
        "max_tool_calls": {**ranges(_RANGES)["max_tool_calls"], **_VAIN},
        "prompt_cache_key": _VAIN,
        "prompt_cache_retention": _VAIN,
        "prompt": {"type": "null", "description": "There are no stored prompts here."},
        "": {
            "required": ["input"],
            "description": "Fields that are not named here are ignored (`x-ccapi-ignored`).",
        },
    },
    ReasoningConfig: {
        "effort": EFFORT,
        "summary": {"enum": [*SUMMARIES]},
        "generate_summary": {"enum": [*SUMMARIES]},
    },
    TextConfig: {"verbosity": {"enum": ["low", "medium", "high"]}},
    FlatFormat: {"type": {"enum": ["text", "json_object", "json_schema"]}},
    ContextManagement: {"type": {"const": "compaction"}},
}


# -- what they ask -------------------------------------------------------------------------------


@frozen(kw_only=True)
class ResponseTurn(TurnRequest):
    """A turn that is asked for as a response.

    `servers` are the MCP servers that the request names; `approvals` are the answers to requests
    for approval which its last messages bring, each with its path; the client has the lists of
    tools of those `listed`. `lists` are those that the response begins with, once they are known;
    `by_url` are the tools of servers that the request names by URL.

    `system` is `instructions` and behind them `said`, the text of the input's own system messages;
    each is None where there is none. `messages` is empty only where nothing has to be generated.
    `brought` are those of the `tools` that came in the input, and stay with it. `echo` is what the
    response object repeats of the request, as JSON values.

    Once the request is placed behind an earlier response, `said` and `brought` are joined with
    those of the inputs before, and `before` is what was said until then (None: not known).
    """

    instructions: str | None
    said: str | None
    store: bool
    background: bool
    generate: bool
    previous_response_id: str | None
    brought: tuple[Tool, ...]
    echo: Mapping[str, Any]
    before: tuple[Message, ...] | None = ()
    servers: tuple[McpServer, ...] = ()
    approvals: Mapping[str, str] = field(factory=dict)
    listed: tuple[str, ...] = ()
    lists: tuple[ToolsListed, ...] = ()
    by_url: tuple[HostedTool, ...] = field(default=(), repr=False)

    @property
    def allows_some(self) -> bool:
        """Whether `tools` are only those that ``tool_choice`` allows."""
        choice = self.echo["tool_choice"]
        return isinstance(choice, dict) and choice["type"] == "allowed_tools"


def joined(*texts: str | None) -> str | None:
    """System texts as one; None where there is none."""
    given = [text for text in texts if text is not None]
    return "\n\n".join(given) if given else None


def parse_response(
    raw: object,
    *,
    names_conversation: bool = False,
    reasoning: bool = False,
    may_prepare: bool = False,
    kept: Kept = NOTHING_KEPT,
) -> ResponseTurn:
    """Read a request's JSON value. Raises `InvalidRequest`, whose `param` is the field's path, and
    `NotFound` (``item_not_found``) for a reference to an item that is not `kept`.

    `names_conversation`: the request does so outside of its body. `reasoning`: thinking is given to
    requests that do not say whether they want it. `may_prepare`: the request may ask for nothing to
    be generated.
    """
    request, unused = _read_body(raw, kept, may_prepare=may_prepare)
    conversation_id = named_conversation(request.conversation_id, request.conversation)
    _check_places(request, conversation_id, names_conversation=names_conversation)
    continues = (
        names_conversation
        or conversation_id is not None
        or request.previous_response_id is not None
    )
    reading = _read_input(request, continues)
    history = reading.history
    servers = _read_servers(request)
    tools, brought, left_out = _read_tools(request, reading)
    # What goes on may have tools that the request does not repeat, and a server has its own.
    known_tools = tools if tools is not None or continues else ()
    search, vain = read_search(dict(_given(request)))
    known_tools = None if servers or search is not None else known_tools
    choice, tools = read_flat_choice(
        request.tool_choice, tools, known_tools, searches=search is not None
    )
    if isinstance(request.tool_choice, FlatChoice) and request.tool_choice.type == "allowed_tools":
        search = search if allows_search(request.tool_choice) else None
    schema = _schema(request.text)
    if history.begun is not None and schema is not None:
        raise invalid("A JSON answer cannot be one that was begun.", history.begun)
    options = evolve(
        _options(request, choice, reasoning), begun=history.begun is not None, search=search
    )
    wishes = {"verbosity": request.text.verbosity if request.text else None}
    return ResponseTurn(
        model=request.model,
        system=joined(request.instructions, history.system),
        instructions=request.instructions,
        said=history.system,
        messages=history.messages,
        attachments=history.attachments,
        stream=bool(request.stream),
        store=request.store is not False,
        kept=request.store is not False,
        background=bool(request.background),
        generate=request.generate is not False,
        previous_response_id=request.previous_response_id,
        conversation_id=conversation_id,
        workspace=request.workspace or "",
        tools=tools,
        brought=brought,
        servers=servers,
        approvals=reading.approvals,
        listed=tuple(reading.listed),
        asks_approval=True,
        schema=schema,
        options=options,
        cache_fields=encode_cache_fields(options, schema, wishes),
        ignored=(
            *_ignored(request, options, known_tools),
            *(f"tools.{kind}" for kind in left_out),
            *vain,
            *unused,
        ),
        echo=encode_echo(request),
        begun=history.begun,
    )


def _read_body(
    raw: object, kept: Kept, *, may_prepare: bool
) -> tuple[ResponseRequest, tuple[str, ...]]:
    """The body's fields, each checked by itself, and the names of what in it has no effect."""
    taken = Taken(None)
    if isinstance(raw, dict):
        check_tools_length(raw.get("tools"))
        taken = take_items(raw.get("input"), kept=kept)
        raw = {**raw, "input": taken.items}
    request = structure(raw, ResponseRequest)
    if not may_prepare:
        request = evolve(request, generate=None)
    refuse_unsupported(request, _HARMLESS)
    check_ranges(request, _RANGES)
    _check_words(request)
    left_out = (f"input.{kind}" for kind in taken.left_out)
    return request, (*left_out, *unknown_fields(raw, ResponseRequest))


def _read_input(request: ResponseRequest, continues: bool) -> Reading:
    if request.generate is False:
        # No answer is due yet: there may be no question, or nothing at all.
        reading = read_history(request.input or ())
        check_results(reading.messages, None if continues else (), reading.places.__getitem__)
        return reading
    if request.input is None:
        raise missing("input")
    return read_items(request.input, continues=continues)


def _read_tools(
    request: ResponseRequest, reading: Reading
) -> tuple[tuple[Tool, ...] | None, tuple[Tool, ...], tuple[str, ...]]:
    """All tools of the request (None: it has no such field), those that its input brings, and
    the types of those left out."""
    if request.tools is None and not reading.tools:
        return None, (), ()
    given = {path: tool for path, tool in _given(request) if tool.type != "mcp"}
    own, left_out = read_flat_tools(given)
    brought, left_out_too = read_flat_tools(reading.tools, replacing=True)
    return with_tools(own, brought), brought, tuple(dict.fromkeys((*left_out, *left_out_too)))


def _given(request: ResponseRequest) -> Iterator[tuple[str, FlatTool]]:
    return ((f"tools[{index}]", tool) for index, tool in enumerate(request.tools or ()))


def _read_servers(request: ResponseRequest) -> tuple[McpServer, ...]:
    """The MCP servers among the tools, as far as ``tool_choice`` allows them."""
    servers = read_servers(dict(_given(request)))
    choice = request.tool_choice
    if not isinstance(choice, FlatChoice):
        return servers
    labels = {server.label for server in servers}
    if choice.type == "mcp" and choice.server_label is None:
        raise missing("tool_choice.server_label")
    if choice.type == "mcp" and choice.server_label not in labels:
        raise invalid(
            "tool_choice.server_label is that of none of the request's tools.",
            "tool_choice.server_label",
        )
    if choice.type != "allowed_tools":
        return servers
    return tuple(_allowed_servers(choice, {server.label: server for server in servers}))


def _allowed_servers(choice: FlatChoice, servers: Mapping[str, McpServer]) -> Iterator[McpServer]:
    """Those that are among the ``allowed_tools``, whole or by their tools' names."""
    names: dict[str, list[str] | None] = {}
    for index, wish in enumerate(choice.tools or ()):
        if wish.get("type") != "mcp":
            continue
        label, name = wish.get("server_label"), wish.get("name")
        if not isinstance(label, str) or label not in servers:
            path = f"tool_choice.tools[{index}]"
            raise invalid(f"{path} is none of the request's tools.", path)
        known = names.setdefault(label, [])
        if not isinstance(name, str):
            names[label] = None
        elif known is not None:
            known.append(name)
    for label, chosen in names.items():
        server, allowed = servers[label], servers[label].allowed
        if chosen is not None:
            given = allowed.tool_names
            kept = tuple(name for name in chosen if given is None or name in given)
            server = evolve(server, allowed=evolve(allowed, tool_names=kept))
        yield server


def _check_words(request: ResponseRequest) -> None:
    if request.truncation not in (None, "auto", "disabled"):
        raise invalid("truncation must be auto or disabled.", "truncation")
    for index, name in enumerate(request.include or ()):
        if name not in INCLUDABLE:
            raise invalid(f"{name} is nothing that can be included.", f"include[{index}]")
        if name == "message.output_text.logprobs":
            raise unsupported("There are no logprobs here.", f"include[{index}]")
    config = request.reasoning or ReasoningConfig()
    for name in ("summary", "generate_summary"):
        if getattr(config, name) not in (None, *SUMMARIES):
            path = f"reasoning.{name}"
            raise invalid(f"{path} must be one of {', '.join(SUMMARIES)}.", path)
    if request.text and request.text.verbosity not in (None, "low", "medium", "high"):
        raise invalid("text.verbosity must be one of low, medium, high.", "text.verbosity")
    check_metadata(request.metadata or {})
    for index, entry in enumerate(request.context_management or ()):
        if entry.type != "compaction":
            path = f"context_management[{index}].type"
            raise unsupported(f"Context management of type {entry.type} is not supported.", path)


def check_metadata(metadata: Mapping[str, Any]) -> None:
    pairs, longest_key, longest_value = MAX_METADATA
    if len(metadata) > pairs:
        raise invalid(f"metadata must hold at most {pairs} pairs.", "metadata")
    for key, value in metadata.items():
        if not isinstance(value, str):
            raise invalid(f"metadata.{key[:longest_key]} must be a string.", "metadata")
        if len(key) > longest_key or len(value) > longest_value:
            raise invalid(
                f"A key of metadata has at most {longest_key} characters, a value {longest_value}.",
                "metadata",
            )


def _check_places(
    request: ResponseRequest, conversation_id: str | None, *, names_conversation: bool
) -> None:
    if request.previous_response_id is not None:
        if not request.previous_response_id:
            raise invalid("previous_response_id must not be empty.", "previous_response_id")
        if conversation_id is not None or names_conversation:
            raise invalid(
                "A request goes on with a response or with a conversation, not with both.",
                "previous_response_id",
            )
    if request.background and request.store is False:
        raise invalid(
            "A response in the background can only be asked for if it is stored.", "background"
        )


def _schema(text: TextConfig | None) -> str | None:
    """The schema that the answer has to suit, as JSON; None: it is free text."""
    match text:
        case None | TextConfig(format=None) | TextConfig(format=FlatFormat("text")):
            return None
        case TextConfig(format=FlatFormat("json_object")):
            return ANY_OBJECT
        case TextConfig(format=FlatFormat("json_schema") as asked):
            flat = SchemaFormat(asked.name, asked.description, asked.schema, asked.strict)
            return read_schema(flat, "text.format.schema")
        case TextConfig(format=FlatFormat(kind)):
            raise unsupported(f"A format of type {kind} is not supported.", "text.format.type")
    raise AssertionError(text)


def _options(request: ResponseRequest, choice: ToolChoice, reasoning: bool) -> Options:
    config = request.reasoning or ReasoningConfig()
    effort = read_effort(config.effort, "reasoning.effort")
    summary = config.summary or config.generate_summary
    asked = summary is not None or (reasoning and request.reasoning is None)
    parallel = request.parallel_tool_calls
    return Options(
        temperature=request.temperature,
        top_p=request.top_p,
        max_tokens=request.max_output_tokens,
        effort=effort,
        reasoning=asked and effort != "none",
        user=request.user or request.safety_identifier or None,
        service_tier=TIERS.get(request.service_tier),
        tool_choice=choice,
        parallel_tool_calls=True if parallel is None else parallel,
        whole=not (request.stream or request.background),
    )


# -- how it is described --------------------------------------------------------------------------

_SOURCES = {"web_search_call.action.sources"}
"""What searches have in any case."""

_NAMES = {"reasoning_effort": "reasoning.effort"}
"""What chat calls otherwise."""


def in_vain(options: Options, model: str = "", *, in_words: bool = False) -> tuple[str, ...]:
    """As `sampling.without_effect`, in the words of this request."""
    names = without_effect(options, model, in_words=in_words)
    return tuple(_NAMES.get(name, name) for name in names)


def _ignored(
    request: ResponseRequest, options: Options, tools: Sequence[Tool] | None
) -> tuple[str, ...]:
    given = dict.fromkeys(in_vain(options))
    config, wants = request.reasoning or ReasoningConfig(), request.stream_options
    idle = {
        "text.verbosity": request.text is not None and request.text.verbosity is not None,
        "parallel_tool_calls": request.parallel_tool_calls is not None and tools == (),
        "reasoning.summary": bool(config.summary) and not options.reasoning,
        "safety_identifier": request.safety_identifier not in (None, "", options.user),
        "service_tier": request.service_tier is not None and options.service_tier is None,
        "include": not {*(request.include or ())} <= (_SOURCES if options.search else set()),
        "truncation": request.truncation == "auto",
        "max_tool_calls": request.max_tool_calls is not None,
        "prompt_cache_key": request.prompt_cache_key is not None,
        "prompt_cache_retention": request.prompt_cache_retention is not None,
        "stream_options": wants is not None and bool(wants.include_obfuscation),
        "context_management": bool(request.context_management),
    }
    return (*given, *(name for name, is_idle in idle.items() if is_idle and name not in given))


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
