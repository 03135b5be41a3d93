"""The CLI's stream-json frames: what a child says, and the lines that are said to it.

Knows: the JSON of each frame that the gateway relies on. Refuses to know: processes, and when a
frame is due (`actors.machine`). Reading is tolerant: an unknown frame is `Noise`, never an error.

Source: measured on the real CLI; the contract suite in tests/contract holds one test per fact.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import orjson
from attrs import frozen

from .turn import Setup, TextDelta, Usage, is_blank

AGENT = "gw"
"""The agent every generic child is spawned with; `initialize` gives it its model."""


@frozen
class AssistantDone:
    """A block of an assistant message is whole; `text` is the block's, if it is one of text.

    `synthetic` when the CLI wrote it itself, to report an error or to answer a command.
    """

    uuid: str
    synthetic: bool
    text: str = ""


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


@frozen
class ControlAnswer:
    """The answer to a control request of ours; `error` is None when it succeeded."""

    request_id: str
    body: dict[str, Any]
    error: str | None


@frozen
class ControlAsked:
    """The CLI asks something of us and waits for the answer."""

    request_id: str
    subtype: str


@frozen
class Noise:
    """A frame that nothing here depends on. It still shows that the child lives."""

    kind: str


Frame = TextDelta | AssistantDone | TurnResult | ControlAnswer | ControlAsked | Noise

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
        event = frame.get("event")
        if type(event) is dict and event.get("type") == "content_block_delta":
            delta = event.get("delta")
            if (
                type(delta) is dict
                and delta.get("type") == "text_delta"
                and type(delta.get("text")) is str
                # Text of a subagent belongs to the tool call that runs it, not to the answer.
                and frame.get("parent_tool_use_id") is None
            ):
                return TextDelta(delta["text"])
        return _STREAM_NOISE
    try:
        return _decode_rare(kind, frame)
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
            return ControlAsked(str(frame["request_id"]), str(frame["request"].get("subtype")))
        case _:
            return Noise(str(kind))


def _decode_assistant(frame: dict[str, Any]) -> Frame:
    if frame.get("parent_tool_use_id") is not None:
        return Noise("subagent")
    message = frame["message"]
    content = message.get("content")
    blocks = content if isinstance(content, list) else []
    return AssistantDone(
        uuid=str(frame["uuid"]),
        synthetic=message.get("model") == "<synthetic>",
        text="".join(str(block["text"]) for block in blocks if block.get("type") == "text"),
    )


def _decode_result(frame: dict[str, Any]) -> TurnResult:
    text, errors = frame.get("result"), frame.get("errors")
    if not isinstance(text, str):
        # A failure that is not the API's is told here, such as a session that is not there.
        text = "; ".join(map(str, errors)) if isinstance(errors, list) else ""
    status, stop_reason = frame.get("api_error_status"), frame.get("stop_reason")
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
    )


def _decode_usage(usage: Any) -> Usage:
    if not isinstance(usage, dict):
        return Usage()
    read = _count(usage, "cache_read_input_tokens")
    written = _count(usage, "cache_creation_input_tokens")
    return Usage(
        prompt_tokens=_count(usage, "input_tokens") + read + written,
        completion_tokens=_count(usage, "output_tokens"),
        cached_tokens=read,
        cache_write_tokens=written,
    )


def _count(fields: dict[str, Any], name: str) -> int:
    value = fields.get(name)
    return value if isinstance(value, int) and value > 0 else 0


# -- writing -------------------------------------------------------------------------------------


def _line(frame: dict[str, Any]) -> bytes:
    try:
        return orjson.dumps(frame, option=orjson.OPT_APPEND_NEWLINE)
    except TypeError:
        # A lone surrogate has no UTF-8, but it has an escape; the CLI reads it as U+FFFD.
        return json.dumps(frame, ensure_ascii=True).encode() + b"\n"


def _control(request_id: str, request: dict[str, Any]) -> bytes:
    return _line({"type": "control_request", "request_id": request_id, "request": request})


def initialize(request_id: str, setup: Setup) -> bytes:
    """Adopt a generic child: its system prompt, and its model through the agent `AGENT`.

    Only the first one counts, and only before the first user frame; the user frame may follow
    without waiting for the answer.
    """
    request: dict[str, Any] = {
        "subtype": "initialize",
        "systemPrompt": [setup.system] if setup.system else [],
        # The agent's prompt gives way to systemPrompt; the CLI wants it present all the same.
        "agents": {AGENT: {"description": AGENT, "prompt": setup.system, "model": setup.model}},
        # A resumed session would else keep the system prompt that its transcript recorded.
        "systemPromptSnapshot": False,
    }
    return _control(request_id, request)


def rewind(request_id: str, user_uuid: str) -> bytes:
    """Take the last user message, and what followed it, out of the CLI's history.

    A turn that still runs is interrupted, and its result comes before the answer to this. The
    answer is a success either way; its ``rewound`` tells whether it was done.
    """
    request = {
        "subtype": "rewind_conversation",
        "target_message_uuid": user_uuid,
        "interrupt_if_running": True,
    }
    return _control(request_id, request)


def refuse(request_id: str, reason: str) -> bytes:
    """Answer a control request of the CLI's that this gateway does not serve."""
    response = {"subtype": "error", "request_id": request_id, "error": reason}
    return _line({"type": "control_response", "response": response})


def user(uuid: str, content: Sequence[str], *, query: bool = True) -> bytes:
    """A user message. `query` False puts it into the history; the CLI then sends a zero-turn
    result, which has to come before an assistant message may follow."""
    blocks = [{"type": "text", "text": text} for text in content]
    if content[-1].startswith("/"):
        # The CLI takes a last block that starts with "/" for a command. It drops blank blocks
        # before it calls the API, so an empty one behind keeps the text exact and inert.
        blocks.append({"type": "text", "text": ""})
    frame: dict[str, Any] = {
        "type": "user",
        "uuid": uuid,
        "message": {"role": "user", "content": blocks},
        "parent_tool_use_id": None,
    }
    if not query:
        frame["shouldQuery"] = False
    return _line(frame)


def assistant(uuid: str, content: Sequence[str], model: str) -> bytes:
    """An assistant message of the history. The CLI appends it silently.

    The message id has to be unique: the CLI merges messages that share one. Blank blocks are left
    out, since the Messages API refuses them; at least one has to have text.
    """
    message = {
        "id": f"msg_{uuid}",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [{"type": "text", "text": text} for text in content if not is_blank(text)],
        "stop_reason": "end_turn",
        "usage": {"input_tokens": 1, "output_tokens": 1},
    }
    frame = {"type": "assistant", "uuid": uuid, "message": message, "parent_tool_use_id": None}
    return _line(frame)
