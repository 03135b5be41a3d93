"""The lines that the gateway writes to a child: stream-json, one frame each.

Knows: the JSON of each frame that the gateway writes, and of the blocks in it. Refuses to know:
what a child answers (`schemas.claude.output`), processes, and when a line is due
(`actors.session.machine`).

Source: measured on the real CLI; the contract suite in tests/contract holds one test per fact.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from ..json_bytes import LONG
from ..message import (
    PARAGRAPH,
    Block,
    Citations,
    Document,
    Image,
    Message,
    RedactedThinking,
    ServerBlock,
    Thinking,
    ToolCall,
    ToolResult,
    ToolRound,
    is_blank,
    length_of,
)
from ..turn import Setup
from .lines import Frame, Line, LongLine, encode, line
from .tool_names import wire_id, wire_name

AGENT = "gw"
"""The agent every generic child is spawned with; `initialize` gives it its model."""

TOOL_SERVERS = tuple(f"client{number}" for number in range(12))
"""The names of the MCP server that stands for the client's tools; a child is spawned with
permission to call whatever they offer. Several, because a child asks a server for its tools only
once: to change them, the server gets another name. A name may come back once the model was asked
without it; before that the child would keep its old tools beside the new ones."""


def _control(request_id: str, request: dict[str, Any]) -> bytes:
    return encode(_control_frame(request_id, request))


def _control_frame(request_id: str, request: dict[str, Any]) -> Frame:
    return {"type": "control_request", "request_id": request_id, "request": request}


def initialize(
    request_id: str,
    setup: Setup,
    palette: Mapping[str, str] | None = None,
    *,
    with_server: bool = True,
) -> Line:
    """Adopt a generic child: its system prompt, and its model through the agent `AGENT`.

    Only the first one counts, and only before the first user frame; the user frame may follow
    without waiting for the answer. `palette` are system prompts by the names of agents, `AGENT`'s
    among them: an emptied child changes from one to another by its settings. (It does not where
    the prompt came as `systemPrompt`, and no agent has an empty one.) The server of its tools is
    named here, unless `set_server` does that (`with_server`).
    """
    request: dict[str, Any] = {"subtype": "initialize"}
    if setup.profile == "agent":  # its prompt is Claude Code's own, its model came at the start
        request |= {"appendSystemPrompt": setup.system} if setup.system else {}
    elif palette is not None:
        request["agents"] = {
            name: {"description": name, "prompt": system, "model": setup.model}
            for name, system in palette.items()
        }
    else:
        request["systemPrompt"] = [setup.system] if setup.system else []
        # The agent's prompt gives way to systemPrompt; the CLI wants it present all the same.
        agent = {"description": AGENT, "prompt": setup.system, "model": setup.model}
        request["agents"] = {AGENT: agent}
    # A resumed session would else keep the system prompt that its transcript recorded.
    request["systemPromptSnapshot"] = False
    if setup.has_tools and with_server:
        request["sdkMcpServers"] = [TOOL_SERVERS[0]]
    return line(_control_frame(request_id, request))


def claim_session(request_id: str, cwd: str) -> bytes:
    """Give a spare, a child that was started with ``--await-claim``, the directory that it works
    in, once and for all. Its flags hold. Initialize, `set_model`, settings and a user frame may
    follow without waiting for the answer.

    Where the spare refuses, the answer is an error (``cwd_not_found: …``). What follows is then
    refused too: a user frame ends with an error result of no turns, and the API is not asked.
    """
    return _control(request_id, {"subtype": "claim_session", "cwd": cwd})


def set_model(request_id: str, model: str) -> bytes:
    """Name the model of a spare, behind its claim: its API requests are then those of a child that
    was started with ``--model``."""
    return _control(request_id, {"subtype": "set_model", "model": model})


def allow_tools(request_id: str, rules: Sequence[str]) -> Line:
    """Let an agent do what these rules allow, beside what it was started with."""
    return apply_settings(request_id, {"permissions": {"allow": list(rules)}})


def apply_settings(request_id: str, settings: Mapping[str, Any]) -> Line:
    """Change the child's settings from its next call of the API on, until they are changed again.

    What stands in the environment (`env`) is taken back by an empty text only.
    """
    request = {"subtype": "apply_flag_settings", "settings": dict(settings)}
    return line(_control_frame(request_id, request))


def set_server(
    request_id: str, name: str | None, beside: Mapping[str, Mapping[str, Any]] | None = None
) -> bytes:
    """Have the child ask the server `name` for its tools, and forget all others (None: there are
    none), but for those `beside` it, which it starts itself. A user frame may follow without
    waiting for the answer."""
    servers: dict[str, Any] = {} if name is None else {name: {"type": "sdk", "name": name}}
    servers |= {own: dict(server) for own, server in (beside or {}).items()}
    return _control(request_id, {"subtype": "mcp_set_servers", "servers": servers})


def rewind(request_id: str, user_uuid: str, last_uuid: str | None = None) -> bytes:
    """Take a user message, and what followed it, out of the CLI's history: the last one, or the one
    that `last_uuid`, the last one, follows.

    A turn that still runs is interrupted, and its result comes before the answer to this. The
    answer is a success either way; its ``rewound`` says whether it was done, and
    ``precedingAssistantUuid`` which assistant message is the last one now (None: there is none).
    """
    request = {
        "subtype": "rewind_conversation",
        "target_message_uuid": user_uuid,
        "interrupt_if_running": True,
    }
    if last_uuid is not None:
        request["last_seen_user_message_uuid"] = last_uuid
    return _control(request_id, request)


def context_summary(request_id: str) -> bytes:
    """Have the child say what its context holds. It does not ask the API for that; the answer's
    ``categories`` name ``Messages`` where there are any."""
    request = {"subtype": "get_context_usage", "detail": "summary"}
    return _control(request_id, request)


def interrupt(request_id: str) -> bytes:
    """Stop the turn that runs, if one does. What was written and done stays in the CLI's
    history; its result comes after the answer to this."""
    return _control(request_id, {"subtype": "interrupt"})


def show_thinking(request_id: str, *, shown: bool = True) -> bytes:
    """Have the child pass on what the model thinks, and not only that it does; or as it did before
    that."""
    request = {
        "subtype": "set_max_thinking_tokens",
        "max_thinking_tokens": None,
        "thinking_display": "summarized" if shown else None,
    }
    return _control(request_id, request)


def api_messages(messages: Sequence[Message]) -> Iterator[dict[str, Any]]:
    """Messages in the words of the Messages API, without blank texts, which it refuses. Where the
    last one is the assistant's, it does not end with white space: that is refused too."""
    *earlier, final = messages
    for message in earlier:
        yield _api_message(message)
    encoded = _api_message(final)
    last = encoded["content"][-1]
    if final.role == "user":
        last["cache_control"] = {"type": "ephemeral"}  # as the CLI marks the end of its own
    elif last["type"] == "text":
        last["text"] = last["text"].rstrip()
    yield encoded


def _api_message(message: Message) -> dict[str, Any]:
    kept = [each for each in message.content if not (isinstance(each, str) and is_blank(each))]
    return {"role": message.role, "content": encode_blocks(kept)}


def context_usage(request_id: str) -> bytes:
    """Have the child count the tokens of its context. It asks the API for that."""
    return _control(request_id, {"subtype": "get_context_usage"})


def answer_mcp(request_id: str, message: Mapping[str, Any]) -> Line:
    """Answer a JSON-RPC message of the CLI's to the server of the client's tools."""
    return line(_answer_frame(request_id, {"mcp_response": message}))


def allow(
    request_id: str,
    updated_input: Mapping[str, Any],
    updated_permissions: Sequence[Mapping[str, Any]] = (),
) -> Line:
    """Answer a permission request: yes, with this input.

    `updated_permissions` are rules that hold from now on, in the form in which the CLI suggests
    them. Those with another ``destination`` than "session" would be written to disk, into the
    workspace or the operator's own settings.
    """
    body: dict[str, Any] = {"behavior": "allow", "updatedInput": dict(updated_input)}
    if updated_permissions:
        body["updatedPermissions"] = [dict(each) for each in updated_permissions]
    return line(_answer_frame(request_id, body))


def deny(request_id: str, message: str) -> Line:
    """Answer a permission request: no. The model reads `message` as the tool's result, and the
    turn goes on."""
    return line(_answer_frame(request_id, {"behavior": "deny", "message": message}))


def refuse(request_id: str, reason: str) -> bytes:
    """Answer a control request of the CLI's that this gateway does not serve."""
    response = {"subtype": "error", "request_id": request_id, "error": reason}
    return encode({"type": "control_response", "response": response})


def _answer_frame(request_id: str, body: Mapping[str, Any]) -> Frame:
    response = {"subtype": "success", "request_id": request_id, "response": body}
    return {"type": "control_response", "response": response}


def user(uuid: str, content: Sequence[Block], *, query: bool = True) -> Line:
    """A user message. `query` False puts it into the history; the CLI then sends a zero-turn
    result, which has to come before an assistant message may follow."""
    return _made(content, partial(_user_frame, uuid, content, query))


def assistant(uuid: str, content: Sequence[Block], model: str, *, weighed: bool = True) -> Line:
    """An assistant message of the history. The CLI appends it silently.

    It takes what a `weighed` one says to have cost for the tokens of all before it; else it counts
    them itself when it is asked to (`context_usage`).
    """
    return _made(content, partial(_assistant_frame, uuid, content, model, weighed))


def _made(content: Sequence[Block], make: Callable[[], Frame]) -> Line:
    """What `make` returns as a line: now, or when it is written, if it is long."""
    return LongLine(make) if length_of(content) >= LONG else encode(make())


def _user_frame(uuid: str, content: Sequence[Block], query: bool) -> Frame:
    blocks = encode_blocks(content)
    last, pictured = content[-1], Image in map(type, content)
    if isinstance(last, str) and (last.startswith("/") or pictured):
        # The CLI takes a last block that starts with "/" for a command, and adds a line to one
        # that ends a message with pictures. It drops blank blocks before it calls the API, so an
        # empty one behind keeps the text exact and inert.
        blocks.append({"type": "text", "text": ""})
    elif query and isinstance(last, ToolResult):
        # With a subscription's login the CLI joins today's date on to a result that comes last.
        blocks.append({"type": "text", "text": ""})
    frame: dict[str, Any] = {
        "type": "user",
        "uuid": uuid,
        "message": {"role": "user", "content": blocks},
        "parent_tool_use_id": None,
    }
    if not query:
        frame["shouldQuery"] = False
    return frame


def _assistant_frame(uuid: str, content: Sequence[Block], model: str, weighed: bool) -> Frame:
    message = assistant_message(uuid, content, model)
    if not weighed:
        message["usage"] = {"input_tokens": 0, "output_tokens": 0}
    return {"type": "assistant", "uuid": uuid, "message": message, "parent_tool_use_id": None}


def assistant_message(uuid: str, content: Sequence[Block], model: str) -> dict[str, Any]:
    """An assistant message as the CLI keeps it.

    Its id has to be unique: the CLI merges messages that share one. Blank blocks are left out,
    since the Messages API refuses them; at least one has to be left.
    """
    kept = [block for block in content if not (isinstance(block, str) and is_blank(block))]
    calls = any(isinstance(block, ToolCall) for block in kept)
    return {
        "id": f"msg_{uuid}",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": encode_blocks(kept),
        "stop_reason": "tool_use" if calls else "end_turn",
        "usage": {"input_tokens": 1, "output_tokens": 1},
    }


def encode_blocks(content: Sequence[Block]) -> list[dict[str, Any]]:
    """Blocks in the words of the Messages API."""
    encoded: list[dict[str, Any]] = []
    is_apart = has_text = False
    for block in content:
        match block:
            case Citations(data):
                if encoded and encoded[-1]["type"] == "text":
                    encoded[-1]["citations"] = json.loads(data)
                continue
            case ServerBlock():
                is_apart |= block.is_apart
            case str():
                if is_apart and has_text:
                    block = block.removeprefix(PARAGRAPH)
                is_apart, has_text = False, True
        encoded.append(_encode_block(block))
    return encoded


def _encode_block(block: Block) -> dict[str, Any]:
    match block:
        case str():
            return {"type": "text", "text": block}
        case Image(media_type, data):
            source = {"type": "base64", "media_type": media_type, "data": data}
            return {"type": "image", "source": source}
        case Document(media_type, data, name):
            more = {"title": name, "context": block.context}
            return {
                "type": "document",
                "source": _document_source(media_type, data),
                **{key: value for key, value in more.items() if value is not None},
            }
        case ToolCall(id, name):
            return {
                "type": "tool_use",
                "id": wire_id(id),
                "name": wire_name(name),
                "input": _input(block),
            }
        case ToolResult(call_id, content, is_error):
            # The Messages API refuses empty text here too, and the CLI leaves it in.
            kept = [each for each in content if not (isinstance(each, str) and is_blank(each))]
            # In the order and the form in which the CLI sends a result that it got in a turn: the
            # same bytes are what the API has cached.
            call = {"tool_use_id": wire_id(call_id)}
            if not is_error:
                return {**call, "type": "tool_result", "content": encode_blocks(kept)}
            [only] = kept if len(kept) == 1 else [None]
            said = only if isinstance(only, str) else encode_blocks(kept)
            return {"type": "tool_result", "content": said, "is_error": True, **call}
        case Thinking(text, signature):
            return {"type": "thinking", "thinking": text, "signature": signature}
        case RedactedThinking(data):
            return {"type": "redacted_thinking", "data": data}
        case ServerBlock(data):
            given: dict[str, Any] = json.loads(data)
            return given
        case ToolRound() | Citations():
            raise AssertionError("`schemas.message.unrolled` comes first")


def _input(call: ToolCall) -> dict[str, Any]:
    """The arguments. Other models have called with what is no JSON object, and clients keep that:
    the API takes objects alone."""
    try:
        return call.input
    except ValueError:
        return {"raw_arguments": call.arguments}


def _document_source(media_type: str, data: str) -> dict[str, str]:
    if media_type == "text/plain":  # the API takes text as it is
        text = base64.b64decode(data).decode("utf-8", "replace")
        return {"type": "text", "media_type": media_type, "data": text}
    return {"type": "base64", "media_type": media_type, "data": data}
