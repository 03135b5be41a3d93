"""The CLI's stream-json frames: what a child says.

Knows: the JSON of each frame that the gateway relies on. Refuses to know: the lines that are said
to a child (`schemas.lines`), processes, and what a frame leads to (`actors.machine`). Reading is
tolerant: an unknown frame is `Noise`, never an error.

Source: measured on the real CLI; the contract suite in tests/contract holds one test per fact.
"""

from __future__ import annotations

import json
from typing import Any

import orjson
from attrs import field, frozen

from .message import ToolCall
from .turn import Usage
from .turn_items import MAX_ACTIVITY_OUTPUT, ActivityEnded, ReasoningDelta, TextDelta


@frozen
class MessageStarted:
    """The model begins a message: one call of the API. `usage` has what it read."""

    usage: Usage


@frozen
class ToolUseStarted:
    """The model begins to call a tool; `name` is the one that it was told."""

    id: str
    name: str


@frozen
class ToolInput:
    """A piece of the JSON text of that call's arguments."""

    fragment: str


@frozen
class AssistantDone:
    """A block of an assistant message is whole: one of text, a tool call, or neither.

    `synthetic` when the CLI wrote it itself, to report an error or to answer a command.
    """

    uuid: str
    synthetic: bool
    text: str = ""
    call: ToolCall | None = None


@frozen
class MessageEnded:
    """The model has said all of a message; `stop_reason` says why it stopped. `usage` has what is
    known at the end: what was written, and what was read where the API repeats it."""

    stop_reason: str
    usage: Usage


@frozen
class TurnResult:
    """``result``: the CLI is done with a user frame, `user_uuid` (None: it does not say which).

    Errors are told by `is_error` and `api_error_status` (None: no answer from the API), never by
    the subtype. `num_turns` is 0 for a frame that the model was not asked about. `text` is only
    the last block of an answer. `total_cost_usd` is a running total of the CLI session, while
    `usage` is this turn's.
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
    """``can_use_tool``: an agent waits for leave to use a tool. `input` is what the tool would be
    given, `suggestions` the CLI's own proposals of what to allow for longer, as they came."""

    request_id: str
    tool: str
    input: dict[str, Any] = field(eq=False)
    call_id: str
    title: str | None = None
    description: str | None = None
    suggestions: tuple[dict[str, Any], ...] = field(default=(), eq=False)


@frozen
class ControlCancelled:
    """The CLI needs no answer to this request of its own any more."""

    request_id: str


@frozen
class ToolReturned:
    """What came of tools that an agent used by itself."""

    results: tuple[ActivityEnded, ...]


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
    | AssistantDone | TurnResult | ControlAnswer | ControlAsked | PermissionAsked | ControlCancelled
    | ToolReturned | ApiRetry | Noise
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
                return MessageEnded(stop_reason, _decode_usage(event.get("usage")))
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
        case "user":
            return _decode_user(frame)
        case "control_cancel_request":
            return ControlCancelled(str(frame["request_id"]))
        case "control_request" if frame["request"].get("subtype") == "can_use_tool":
            return _decode_permission(str(frame["request_id"]), frame["request"])
        case "control_request":
            request = frame["request"]
            message = request.get("message")
            return ControlAsked(
                request_id=str(frame["request_id"]),
                subtype=str(request.get("subtype")),
                mcp=message if isinstance(message, dict) else None,
            )
        case "system" if frame.get("subtype") == "api_retry":
            return ApiRetry(float(frame["retry_delay_ms"]) / 1000)
        case _:
            return Noise(str(kind))


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
    )


def _decode_permission(request_id: str, request: dict[str, Any]) -> Frame:
    given, suggested = request["input"], request.get("permission_suggestions")
    title, description = request.get("title"), request.get("description")
    return PermissionAsked(
        request_id=request_id,
        tool=str(request["tool_name"]),
        input=given if isinstance(given, dict) else {},
        call_id=str(request.get("tool_use_id", "")),
        title=title if isinstance(title, str) else None,
        description=description if isinstance(description, str) else None,
        suggestions=tuple(each for each in suggested if isinstance(each, dict))
        if isinstance(suggested, list)
        else (),
    )


def _decode_user(frame: dict[str, Any]) -> Frame:
    """What the CLI itself says as the user: what came of tools, among other things."""
    content = frame["message"]["content"]
    if frame.get("parent_tool_use_id") is not None or not isinstance(content, list):
        return Noise("user")
    results = tuple(
        ActivityEnded(
            str(block["tool_use_id"]),
            _result_text(block.get("content"))[:MAX_ACTIVITY_OUTPUT],
            bool(block.get("is_error")),
        )
        for block in content
        if block.get("type") == "tool_result"
    )
    return ToolReturned(results) if results else Noise("user")


def _result_text(content: Any) -> str:
    if isinstance(content, str):
        return content
    blocks = content if isinstance(content, list) else []
    return "\n".join(
        str(block["text"]) if block.get("type") == "text" else f"[{block.get('type')}]"
        for block in blocks
    )


def _arguments(value: Any) -> str:
    try:
        return orjson.dumps(value).decode()
    except TypeError:
        return "{}"  # nested too deeply to be written; the call must be told all the same


def _decode_result(frame: dict[str, Any]) -> TurnResult:
    text, errors = frame.get("result"), frame.get("errors")
    if not isinstance(text, str):
        # A failure that is not the API's is told here, such as a session that is not there.
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
    )


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


def _count(fields: dict[str, Any], name: str) -> int:
    value = fields.get(name)
    return value if isinstance(value, int) and value > 0 else 0
