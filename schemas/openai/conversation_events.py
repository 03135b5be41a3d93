"""What a client that has joined a conversation receives: the events, and their JSON.

Knows: the events of ``GET /v1/conversations/{id}/events`` and how each is written. Refuses to know:
who watches, sockets, and the items of messages and answers (`schemas.openai.items`).

What comes before them, ``conversation.joined``, has ``lost_turn``: the id of a turn that ran when
an earlier gateway ended, until the next turn of the conversation begins; null otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from attrs import frozen

from ..convert import write_json
from ..message import Message
from ..search import Cited
from ..turn import Completed, EndReason, Outcome, Usage
from ..turn_items import (
    ActivityDelta,
    ActivityEnded,
    ActivityStarted,
    ReasoningDelta,
    ReasoningEnded,
    Refused,
    SearchEnded,
    SearchStarted,
    TextDelta,
    TextEnded,
    ToolCallDelta,
    ToolCallStarted,
    ToolsListed,
    TurnItem,
)
from .output_items import Status, encode_citations, encode_messages, encode_output
from .response_events import encode_usage


@frozen
class TurnStarted:
    """`messages` is what the turn adds before its answer; `created_at` is in unix seconds."""

    turn_id: str
    model: str
    created_at: float
    messages: tuple[Message, ...]


@frozen
class Said:
    """The turn's answer goes on."""

    turn_id: str
    item: TurnItem


@frozen
class TurnEnded:
    """`output` is the answer's items, as far as the conversation keeps it: all of one that
    completed; of one that failed, what was kept (`Failed.kept`), else nothing."""

    turn_id: str
    outcome: Outcome
    output: tuple[TurnItem, ...] = ()


@frozen
class ItemsAdded:
    """The conversation holds these messages too, and there is no answer to them."""

    turn_id: str
    messages: tuple[Message, ...]


@frozen
class TurnRemoved:
    """The turn was the last one, and was taken back: it will be asked again."""

    turn_id: str


@frozen
class PermissionRequested:
    """An agent wants to use a tool, and waits for permission. `suggestions` are rules that may be
    granted beside it, each with an ``id`` and a ``label``; `expires_at` is in unix seconds."""

    turn_id: str
    request_id: str
    tool: str
    input: Mapping[str, Any]
    title: str | None
    description: str | None
    suggestions: tuple[Mapping[str, str], ...]
    expires_at: float


@frozen
class PermissionResolved:
    """`by`: ``watcher``, ``http``, ``timeout``, or ``turn`` where that ended first."""

    turn_id: str
    request_id: str
    behavior: str
    by: str


@frozen
class PhaseMoved:
    phase: str


@frozen
class Presence:
    watchers: int


@frozen
class ConversationEnded:
    """`reason` as in `schemas.events.ConversationClosed`. Only ``deleted`` (or ``forgotten``, for
    one in which no turn has finished) means that it is gone: with any other, a client joins again.
    """

    reason: str


ConversationEvent = (
    TurnStarted | Said | ItemsAdded | TurnEnded | TurnRemoved | PermissionRequested
    | PermissionResolved | PhaseMoved | Presence | ConversationEnded
)  # fmt: skip


def encode_event(number: int, event: ConversationEvent) -> bytes:
    """One event as JSON."""
    if type(event) is Said and type(event.item) is TextDelta:  # by far the most
        return b'{"type":"text.delta","event_id":%d,"turn_id":"%s","text":%s}' % (
            number,
            event.turn_id.encode(),
            write_json(event.item.text),
        )
    kind, fields = _encode(event)
    return write_json({"type": kind, "event_id": number, **fields})


def _encode(event: ConversationEvent) -> tuple[str, dict[str, Any]]:
    match event:
        case Said(turn_id, item):
            kind, said = _encode_item(item)
            return kind, {"turn_id": turn_id, **said}
        case TurnStarted(turn_id, model, created_at, messages):
            return "turn.started", {
                "turn_id": turn_id,
                "model": model,
                "created_at": int(created_at),
                "items": encode_messages(messages, turn_id),
            }
        case TurnEnded():
            return _encode_end(event)
        case ItemsAdded(turn_id, messages):
            return "items.added", {"items": encode_messages(messages, turn_id)}
        case TurnRemoved(turn_id):
            return "turn.removed", {"turn_id": turn_id}
        case PermissionRequested():
            return "permission.requested", encode_permission(event)
        case PermissionResolved(turn_id, request_id, behavior, by):
            return "permission.resolved", {
                "turn_id": turn_id,
                "request_id": request_id,
                "behavior": behavior,
                "by": by,
            }
        case PhaseMoved(phase):
            return "phase", {"phase": phase}
        case Presence(watchers):
            return "presence", {"watchers": watchers}
        case ConversationEnded(reason):
            return "conversation.closed", {"reason": reason}


def _encode_end(event: TurnEnded) -> tuple[str, dict[str, Any]]:
    turn_id, outcome = event.turn_id, event.outcome
    if isinstance(outcome, Completed):
        kept = _encode_kept(event, outcome.finish_reason, outcome.usage)
        return "turn.finished", {"turn_id": turn_id, **kept}
    failed = {"turn_id": turn_id, "error": outcome.error.body()["error"]}
    if outcome.kept is not None:
        failed |= _encode_kept(event, "interrupted", outcome.kept)
    return "turn.failed", failed


def _encode_kept(event: TurnEnded, reason: EndReason, usage: Usage) -> dict[str, Any]:
    return {
        "finish_reason": reason,
        "usage": encode_usage(usage) | {"cost_usd": usage.cost_usd},
        "items": encode_output(event.output, event.turn_id, status=_status(reason)),
    }


def _encode_item(item: TurnItem) -> tuple[str, dict[str, Any]]:
    match item:
        case TextDelta(text):
            return "text.delta", {"text": text}
        case ReasoningDelta(text):
            return "reasoning.delta", {"text": text}
        case TextEnded():
            return "text.ended", {}
        case ReasoningEnded():
            return "reasoning.ended", {}
        case ToolCallStarted(index, id, name):
            return "tool_call.started", {"index": index, "call_id": id, "name": name}
        case ToolCallDelta(index, fragment):
            return "tool_call.delta", {"index": index, "arguments": fragment}
        case ActivityStarted(id, name):
            return "activity.started", {"call_id": id, "name": name}
        case ActivityDelta(id, fragment):
            return "activity.delta", {"call_id": id, "arguments": fragment}
        case ActivityEnded(id, output, is_error):
            return "activity.ended", {"call_id": id, "output": output, "is_error": is_error}
        case ToolsListed(server, tools, error):
            listed = [tool.name for tool in tools]
            return "tools.listed", {"server_label": server, "tools": listed, "error": error}
        case SearchStarted(id, given):
            return "search.started", {"call_id": id, "arguments": given}
        case SearchEnded(id, pages, error):
            found = [{"url": page.url, "title": page.title} for page in pages]
            return "search.ended", {"call_id": id, "sources": found, "error": error}
        case Cited(start, end):
            return "text.cited", {"annotations": encode_citations(item, start, end)}
        case Refused(text):
            return "refusal", {"text": text}


def _status(reason: EndReason) -> Status:
    cut = reason in ("length", "content_filter", "interrupted")
    return "incomplete" if cut else "completed"


def encode_permission(request: PermissionRequested) -> dict[str, Any]:
    return {
        "turn_id": request.turn_id,
        "request_id": request.request_id,
        "tool": request.tool,
        "input": request.input,
        "title": request.title,
        "description": request.description,
        "suggestions": [dict(each) for each in request.suggestions],
        "expires_at": int(request.expires_at),
    }


def encode_turn(
    turn_id: str,
    messages: Sequence[Message],
    output: Sequence[TurnItem],
    finish_reason: EndReason = "stop",
) -> list[dict[str, Any]]:
    """The items of a turn that is over."""
    status = _status(finish_reason)
    return [*encode_messages(messages, turn_id), *encode_output(output, turn_id, status=status)]
