"""The CLI's stream-json frames: what a child says.

Knows: the JSON of each frame that the gateway relies on. Refuses to know: the lines that are sent
to a child (`schemas.claude.input`), processes, and what a frame leads to
(`actors.session.machine`). Reading is tolerant: an unknown frame is `Noise`, never an error.

Source: measured on the real CLI; the contract suite in tests/contract holds one test per fact.
"""

from __future__ import annotations

import json
from typing import Any

import orjson
from attrs import evolve, field, frozen

from ..message import Citations, Image, RedactedThinking, ServerBlock, Thinking, ToolCall
from ..search import Source, WebPage
from ..turn import Usage
from ..turn_items import (
    MAX_ACTIVITY_OUTPUT,
    ReasoningDelta,
    SearchEnded,
    SearchStarted,
    TextDelta,
)
from .limits import LimitState, decode_limit
from .searches import block_of, citations_of, read_pages, read_search, read_sources


@frozen
class MessageStarted:
    """The model begins a message: one call of the API. `usage` has what it read."""

    usage: Usage


@frozen
class ToolUseStarted:
    """The model begins to call a tool; `name` is the name that the model knows."""

    id: str
    name: str


@frozen
class ToolInput:
    """A piece of the JSON text of that call's arguments."""

    fragment: str


@frozen
class AssistantDone:
    """A block of an assistant message is whole: one of text, a tool call, thinking, what the API
    did with a tool of its own, or none of these.

    `synthetic` when the CLI wrote it itself, to report an error or to answer a command; `error` is
    then the kind of the error, as in ``max_output_tokens``. `sources` are the pages that a text is
    taken from, which `citations` names to the API. `server` is a block of the API's own tools;
    `search`: it is about a search of the web.
    """

    uuid: str
    synthetic: bool
    text: str = ""
    call: ToolCall | None = None
    error: str = ""
    thinking: Thinking | RedactedThinking | None = None
    sources: tuple[Source, ...] = ()
    citations: Citations | None = None
    server: ServerBlock | None = None
    search: SearchStarted | SearchEnded | None = None


@frozen
class MessageEnded:
    """The model has finished a message; `stop_reason` says why it stopped, and `stop_text` at which
    text, where it was one. `usage` has what is known at the end: what was written, and what was
    read where the API repeats it."""

    stop_reason: str
    usage: Usage
    stop_text: str | None = None


@frozen
class TurnResult:
    """``result``: the CLI is done with a user frame, `user_uuid` (None: it does not say which).

    Errors show in `is_error` and `api_error_status` (None: no answer from the API), never by
    the subtype. `num_turns` is 0 for a frame that the model was not asked about. `text` is only
    the last block of an answer. `usage` is what this turn's own calls of the API took, those of
    subagents left out. `total_cost_usd` is a running total of the CLI session, `total` the same in
    tokens too (None: it does not say), with those of subagents.
    """

    is_error: bool
    subtype: str
    num_turns: int
    text: str
    stop_reason: str | None
    api_error_status: int | None
    session_id: str
    usage: Usage
    total_cost_usd: float = 0.0
    user_uuid: str | None = None
    terminal_reason: str | None = None
    total: Usage | None = None


@frozen
class ControlAnswer:
    """The answer to a control request of ours; `error` is None when it succeeded."""

    request_id: str
    body: dict[str, Any]
    error: str | None


@frozen
class ControlAsked:
    """The CLI asks something of us and waits for the answer. `mcp` is the JSON-RPC message to the
    server of the client's tools, where it is one."""

    request_id: str
    subtype: str
    mcp: dict[str, Any] | None = field(default=None, eq=False)


@frozen
class PermissionAsked:
    """The CLI asks for permission to use a tool of its own, and the turn waits for the answer.

    `call_id` is the tool use's. `title` and `description` are for people, "" where it gives none.
    `suggestions` are rules that would make it ask no more; an answer may hand some back.
    """

    request_id: str
    tool: str
    input: dict[str, Any]
    call_id: str
    title: str = ""
    description: str = ""
    suggestions: tuple[dict[str, Any], ...] = ()


@frozen
class ControlCancelled:
    """The CLI no longer waits for the answer to this request of its."""

    request_id: str


@frozen
class ToolReturned:
    """What came of a tool use, as the model reads it: text, cut to `MAX_ACTIVITY_OUTPUT`
    characters. An image stands as ``[image]``. `content` is all of it, as the model reads it; None:
    in blocks that this gateway does not know. `found`: what a search of the web found, where the
    tool was Claude Code's ``WebSearch``."""

    call_id: str
    output: str
    is_error: bool = False
    content: tuple[str | Image, ...] | None = None
    found: SearchEnded | None = None


@frozen
class ToolsReturned:
    """The results in one frame, at least one."""

    results: tuple[ToolReturned, ...]


@frozen
class ApiRetry:
    """The API failed, and the CLI asks it again after so many seconds."""

    delay: float


@frozen
class Noise:
    """A frame that nothing here depends on. It still shows that the child lives."""

    kind: str


Frame = (
    TextDelta | ReasoningDelta | ToolInput | ToolUseStarted | MessageStarted | MessageEnded
    | AssistantDone | ToolsReturned | TurnResult | ControlAnswer | ControlAsked | PermissionAsked
    | ControlCancelled | ApiRetry | LimitState | Noise
)  # fmt: skip

_STREAM_NOISE = Noise("stream_event")


# -- reading -------------------------------------------------------------------------------------


def decode(line: bytes) -> Frame:
    """One line of a child's stdout as a frame. Raises `ValueError` where it is not JSON."""
    try:
        frame = orjson.loads(line)
    except ValueError:
        frame = _load_halves(line)
    if type(frame) is not dict:
        return Noise(type(frame).__name__)
    kind = frame.get("type")
    if kind == "stream_event":  # by far the most frequent: decided first, with no more look-ups
        # What a subagent says belongs to the tool call that runs it, not to the answer.
        if frame.get("parent_tool_use_id") is not None:
            return _STREAM_NOISE
        event = frame.get("event")
        if type(event) is dict and event.get("type") == "content_block_delta":
            delta = event.get("delta")
            if (
                type(delta) is dict
                and delta.get("type") == "text_delta"
                and type(delta.get("text")) is str
            ):
                return TextDelta(delta["text"])
    try:
        return _decode_event(frame) if kind == "stream_event" else _decode_rare(kind, frame)
    except (KeyError, TypeError, ValueError, AttributeError):
        return Noise(str(kind))


def _load_halves(line: bytes) -> Any:
    """JSON with halves of surrogate pairs in it, each read as U+FFFD. Raises `ValueError`.

    JavaScript writes such an escape wherever a text was cut in the middle of a pair. It is legal
    JSON, but orjson refuses it, and nothing behind here could put it into UTF-8.
    """
    try:
        text = json.dumps(json.loads(line), ensure_ascii=False)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return orjson.loads(text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace"))


def _decode_event(frame: dict[str, Any]) -> Frame:
    """The events of a message, but for the deltas of its text."""
    event = frame["event"]
    match event["type"]:
        case "content_block_delta":
            match event["delta"]:
                case {"type": "input_json_delta", "partial_json": str(fragment)}:
                    return ToolInput(fragment)
                case {"type": "thinking_delta", "thinking": str(text)}:
                    return ReasoningDelta(text)
        case "content_block_start":
            block = event["content_block"]
            if block["type"] == "tool_use":
                return ToolUseStarted(str(block["id"]), str(block["name"]))
        case "message_start":
            return MessageStarted(_decode_usage(event["message"].get("usage")))
        case "message_delta":
            stop_reason = event["delta"].get("stop_reason")
            if isinstance(stop_reason, str):  # the CLI ends what was interrupted without one
                stop_text = _text(event["delta"], "stop_sequence") or None
                return MessageEnded(stop_reason, _decode_usage(event.get("usage")), stop_text)
    return _STREAM_NOISE


def _decode_rare(kind: Any, frame: dict[str, Any]) -> Frame:
    match kind:
        case "assistant":
            return _decode_assistant(frame)
        case "result":
            return _decode_result(frame)
        case "control_response":
            response = frame["response"]
            body = response.get("response")
            failed = response.get("subtype") != "success"
            return ControlAnswer(
                request_id=str(response["request_id"]),
                body=body if isinstance(body, dict) else {},
                error=str(response.get("error", "refused")) if failed else None,
            )
        case "control_request":
            return _decode_asked(str(frame["request_id"]), frame["request"])
        case "control_cancel_request":
            return ControlCancelled(str(frame["request_id"]))
        case "user":
            return _decode_user(frame)
        case "system" if frame.get("subtype") == "api_retry":
            return ApiRetry(float(frame["retry_delay_ms"]) / 1000)
        case "rate_limit_event":
            return decode_limit(frame["rate_limit_info"])
        case _:
            return Noise(str(kind))


def _decode_asked(request_id: str, request: dict[str, Any]) -> ControlAsked | PermissionAsked:
    subtype, message = str(request.get("subtype")), request.get("message")
    match request:
        # Without these two no client could decide on it: it is then refused as unknown.
        case {"subtype": "can_use_tool", "tool_name": str(tool), "input": dict(given)}:
            suggested = request.get("permission_suggestions")
            return PermissionAsked(
                request_id,
                tool,
                given,
                call_id=_text(request, "tool_use_id"),
                title=_text(request, "title") or _text(request, "display_name"),
                description=_text(request, "description") or _text(request, "decision_reason"),
                suggestions=tuple(
                    each
                    for each in (suggested if isinstance(suggested, list) else ())
                    if isinstance(each, dict)
                ),
            )
    return ControlAsked(request_id, subtype, message if isinstance(message, dict) else None)


def _decode_user(frame: dict[str, Any]) -> Frame:
    """The results of tools; whatever else the CLI says in the user's name is noise."""
    noise = Noise("user")
    if frame.get("parent_tool_use_id") is not None or frame.get("isReplay"):
        return noise
    content = frame["message"]["content"]
    results = tuple(
        ToolReturned(
            str(block["tool_use_id"]),
            _output(block),
            block.get("is_error") is True,
            _result_content(block.get("content")),
        )
        for block in (content if isinstance(content, list) else ())
        if block.get("type") == "tool_result"
    )
    told = frame.get("tool_use_result")
    if len(results) == 1 and isinstance(told, dict) and "searchCount" in told:
        results = (evolve(results[0], found=_decode_found(results[0].call_id, told)),)
    return ToolsReturned(results) if results else noise


_ERROR = "Web search error: "


def _decode_found(call_id: str, told: dict[str, Any]) -> SearchEnded:
    """What ``WebSearch`` found, as the CLI keeps it for programs: lists of pages, and texts."""
    pages: list[WebPage] = []
    error = None
    for part in told["results"]:
        if isinstance(part, dict):
            pages += read_pages(part.get("content"))
        elif isinstance(part, str) and part.startswith(_ERROR):
            error = part.removeprefix(_ERROR)
    return SearchEnded(call_id, tuple(pages), None if pages else error)


def _output(result: dict[str, Any]) -> str:
    content = result.get("content")
    blocks = content if isinstance(content, list) else [{"type": "text", "text": content or ""}]
    texts = (
        str(block.get("text", "")) if block.get("type") == "text" else f"[{block.get('type')}]"
        for block in blocks
    )
    return "\n".join(texts)[:MAX_ACTIVITY_OUTPUT]


def _result_content(content: Any) -> tuple[str | Image, ...] | None:
    if isinstance(content, str):
        return (content,)
    blocks: list[str | Image] = []
    for block in content if isinstance(content, list) else ():
        match block:
            case {"type": "text", "text": str(text)}:
                blocks.append(text)
            case {
                "type": "image",
                "source": {"type": "base64", "media_type": str(kind), "data": str(data)},
            }:
                blocks.append(Image(kind, data))
            case _:
                return None
    return tuple(blocks)


def _decode_assistant(frame: dict[str, Any]) -> Frame:
    if frame.get("parent_tool_use_id") is not None:
        return Noise("subagent")
    message = frame["message"]
    content = message.get("content")
    blocks = content if isinstance(content, list) else []
    calls = [
        ToolCall(str(block["id"]), str(block["name"]), _arguments(block["input"]))
        for block in blocks
        if block.get("type") == "tool_use"
    ]
    return AssistantDone(
        uuid=str(frame["uuid"]),
        synthetic=message.get("model") == "<synthetic>",
        text="".join(str(block["text"]) for block in blocks if block.get("type") == "text"),
        call=calls[0] if calls else None,  # a frame holds one block
        error=_text(frame, "error"),
        thinking=_decode_thinking(blocks[0]) if blocks else None,
        **(_decode_search(blocks[0]) if blocks else {}),
    )


def _decode_search(block: dict[str, Any]) -> dict[str, Any]:
    """What a block says about the API's own tools, as fields of `AssistantDone`."""
    match block:
        case {"type": "text", "citations": [*given]}:
            sources = tuple(read_sources(given))
            if not sources:
                return {}
            return {"sources": sources, "citations": citations_of(sources)}
        case {"type": "server_tool_use", "id": str()} | {"tool_use_id": str()}:
            search = read_search(block)
            if search is not None:
                return {"server": block_of(search), "search": search}
            return {"server": ServerBlock(orjson.dumps(block).decode())}
    return {}


def _decode_thinking(block: dict[str, Any]) -> Thinking | RedactedThinking | None:
    match block:
        case {"type": "thinking", "thinking": str(text)}:
            return Thinking(text, _text(block, "signature"))
        case {"type": "redacted_thinking", "data": str(data)}:
            return RedactedThinking(data)
    return None


def _arguments(value: Any) -> str:
    try:
        return orjson.dumps(value).decode()
    except TypeError:
        return "{}"  # nested too deeply to be written; the call must be reported all the same


def _decode_result(frame: dict[str, Any]) -> TurnResult:
    text, errors = frame.get("result"), frame.get("errors")
    if not isinstance(text, str):
        # A failure that is not the API's stands here, such as a session that is not there.
        text = "; ".join(map(str, errors)) if isinstance(errors, list) else ""
    status, stop_reason = frame.get("api_error_status"), frame.get("stop_reason")
    reason = frame.get("terminal_reason")
    user_uuid, cost = frame.get("user_message_uuid"), frame.get("total_cost_usd")
    return TurnResult(
        is_error=bool(frame.get("is_error")),
        subtype=str(frame.get("subtype", "")),
        num_turns=_count(frame, "num_turns"),
        text=text,
        stop_reason=stop_reason if isinstance(stop_reason, str) else None,
        api_error_status=status if isinstance(status, int) else None,
        session_id=str(frame.get("session_id", "")),
        usage=_decode_usage(frame.get("usage")),
        total_cost_usd=float(cost) if isinstance(cost, int | float) else 0.0,
        user_uuid=user_uuid if isinstance(user_uuid, str) else None,
        terminal_reason=reason if isinstance(reason, str) else None,
        total=_decode_total(frame.get("modelUsage")),
    )


def _decode_total(models: Any) -> Usage | None:
    """The figures of all models of a session together."""
    if not isinstance(models, dict) or not models:
        return None
    total = Usage()
    for model in models.values():
        cost = model.get("costUSD")
        read = _count(model, "cacheReadInputTokens")
        written = _count(model, "cacheCreationInputTokens")
        total += Usage(
            prompt_tokens=_count(model, "inputTokens") + read + written,
            completion_tokens=_count(model, "outputTokens"),
            cached_tokens=read,
            cache_write_tokens=written,
            cost_usd=float(cost) if isinstance(cost, int | float) else 0.0,
            reasoning_tokens=_count(model, "thinkingTokens"),
        )
    return total


def _decode_usage(usage: Any) -> Usage:
    if not isinstance(usage, dict):
        return Usage()
    read = _count(usage, "cache_read_input_tokens")
    written = _count(usage, "cache_creation_input_tokens")
    details = usage.get("output_tokens_details")
    return Usage(
        prompt_tokens=_count(usage, "input_tokens") + read + written,
        completion_tokens=_count(usage, "output_tokens"),
        cached_tokens=read,
        cache_write_tokens=written,
        reasoning_tokens=_count(details, "thinking_tokens") if isinstance(details, dict) else 0,
    )


def _text(fields: dict[str, Any], name: str) -> str:
    value = fields.get(name)
    return value if isinstance(value, str) else ""


def _count(fields: dict[str, Any], name: str) -> int:
    value = fields.get(name)
    return value if isinstance(value, int) and value > 0 else 0
