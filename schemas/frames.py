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

from .turn import Setup, TextDelta, Usage

AGENT = "gw"
"""The agent every generic child is spawned with; `initialize` gives it its model."""


@frozen
class SessionStarted:
    """``system/init``: a turn begins in the CLI session `session_id`."""

    session_id: str


@frozen
class AssistantDone:
    """A whole assistant message. `synthetic` when the CLI wrote it itself, to report an error."""

    uuid: str
    synthetic: bool


@frozen
class TurnResult:
    """``result``: the CLI is done with a user frame.

    Errors are told by `is_error` and `api_error_status` (None: no answer from the API), never by
    the subtype. `num_turns` is 0 for a frame that was only put into the history. `total_cost_usd`
    is a running total of the process, while `usage` is this turn's.
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
class Retrying:
    """The CLI tries the API again after an error; `status` is None when there was no answer."""

    attempt: int
    status: int | None


@frozen
class Noise:
    """A frame that nothing here depends on. It still shows that the child lives."""

    kind: str


Frame = (
    TextDelta
    | SessionStarted
    | AssistantDone
    | TurnResult
    | ControlAnswer
    | ControlAsked
    | Retrying
    | Noise
)

_NOISE = Noise("stream_event")


# -- reading -------------------------------------------------------------------------------------


def decode(line: bytes) -> Frame:
    """One line of a child's stdout as a frame. Raises `ValueError` where it is not JSON."""
    frame = orjson.loads(line)
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
        return _NOISE
    try:
        return _decode_rare(kind, frame)
    except (KeyError, TypeError, ValueError, AttributeError):
        return Noise(str(kind))


def _decode_rare(kind: Any, frame: dict[str, Any]) -> Frame:
    match kind:
        case "assistant":
            if frame.get("parent_tool_use_id") is not None:
                return Noise("subagent")
            return AssistantDone(
                uuid=str(frame["uuid"]), synthetic=frame["message"].get("model") == "<synthetic>"
            )
        case "result":
            return _decode_result(frame)
        case "control_response":
            response = frame["response"]
            failed = response.get("subtype") != "success"
            return ControlAnswer(
                request_id=str(response["request_id"]),
                body=response.get("response") or {},
                error=str(response.get("error", "refused")) if failed else None,
            )
        case "control_request":
            return ControlAsked(str(frame["request_id"]), str(frame["request"].get("subtype")))
        case "system" if frame.get("subtype") == "init":
            return SessionStarted(str(frame["session_id"]))
        case "system" if frame.get("subtype") == "api_retry":
            return Retrying(int(frame.get("attempt", 0)), frame.get("error_status"))
        case _:
            return Noise(str(kind))


def _decode_result(frame: dict[str, Any]) -> TurnResult:
    status = frame.get("api_error_status")
    text = frame.get("result")
    return TurnResult(
        is_error=bool(frame.get("is_error")),
        subtype=str(frame.get("subtype", "")),
        num_turns=int(frame.get("num_turns") or 0),
        text=text if isinstance(text, str) else "",
        stop_reason=frame.get("stop_reason"),
        api_error_status=status if isinstance(status, int) else None,
        session_id=str(frame.get("session_id", "")),
        usage=_decode_usage(frame.get("usage") or {}),
        total_cost_usd=float(frame.get("total_cost_usd") or 0.0),
    )


def _decode_usage(usage: dict[str, Any]) -> Usage:
    read = int(usage.get("cache_read_input_tokens") or 0)
    written = int(usage.get("cache_creation_input_tokens") or 0)
    return Usage(
        prompt_tokens=int(usage.get("input_tokens") or 0) + read + written,
        completion_tokens=int(usage.get("output_tokens") or 0),
        cached_tokens=read,
        cache_write_tokens=written,
    )


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


def interrupt(request_id: str) -> bytes:
    """Stop the running turn; it ends with a result. Harmless when none runs."""
    return _control(request_id, {"subtype": "interrupt"})


def rewind(request_id: str, user_uuid: str) -> bytes:
    """Take the last user message, and what followed it, out of the CLI's history.

    A turn that still runs is interrupted. The first user message of a session cannot be taken out.
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
    frame: dict[str, Any] = {
        "type": "user",
        "uuid": uuid,
        "message": {"role": "user", "content": _blocks(content)},
        "parent_tool_use_id": None,
    }
    if not query:
        frame["shouldQuery"] = False
    return _line(frame)


def assistant(uuid: str, content: Sequence[str], model: str) -> bytes:
    """An assistant message of the history. The CLI appends it silently.

    The message id has to be unique: the CLI merges messages that share one.
    """
    message = {
        "id": f"msg_{uuid}",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [{"type": "text", "text": text} for text in content],
        "stop_reason": "end_turn",
        "usage": {"input_tokens": 1, "output_tokens": 1},
    }
    frame = {"type": "assistant", "uuid": uuid, "message": message, "parent_tool_use_id": None}
    return _line(frame)


def _blocks(content: Sequence[str]) -> list[dict[str, str]]:
    blocks = [{"type": "text", "text": text} for text in content]
    if content[-1].startswith("/"):
        # The CLI takes a last block that starts with "/" for a command. It drops blank blocks
        # before it calls the API, so an empty one behind keeps the text exact and inert.
        blocks.append({"type": "text", "text": ""})
    return blocks
