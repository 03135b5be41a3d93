"""Conversations and their items, as JSON.

Knows: a conversation's object and what it holds, in OpenAI's words, and pages of it. Refuses to
know: routes, and what happens in a conversation.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from attrs import asdict

from ...schemas.openai.conversation_events import encode_turn
from ..watching.history import History, TurnRecord
from .conversation import ConversationInfo
from .workspace_paths import name_of_place

PAGE = 100
"""The longest page of a list, and the length of one whose length is not asked for."""


def encode_conversation(info: ConversationInfo) -> dict[str, Any]:
    """OpenAI's conversation object, and what is known here beside it. Times in Unix seconds."""
    return {
        "id": info.conversation_id,
        "object": "conversation",
        "created_at": int(info.created_at),
        "metadata": dict(info.metadata),
        "conversation_id": info.conversation_id,
        "last_used_at": int(info.last_used_at),
        "model": info.model,
        "profile": info.profile,
        "workspace": name_of_place(info.workspace),
        "phase": info.phase,
        "title": info.title,
        "turns": info.turns,
        "messages": info.messages,
        "usage": asdict(info.usage) | {"total_tokens": info.usage.total_tokens},
    }


def items_of(history: History, limit: int) -> tuple[list[dict[str, Any]], bool]:
    """About the last `limit` items (whole turns), oldest first; whether there are older ones."""
    turns: list[list[dict[str, Any]]] = []
    count = 0
    for record in reversed([*history]):
        turn = encode_turn(record.turn_id, record.messages, record.output, record.finish_reason)
        if turns and count + len(turn) > limit:
            break
        turns.append(turn)
        count += len(turn)
    has_more = len(turns) < len(history) or history.forgotten
    return [item for turn in reversed(turns) for item in turn], has_more


def all_items(records: Iterable[TurnRecord]) -> list[dict[str, Any]]:
    """Every item of these turns, oldest first."""
    return [
        item
        for record in records
        for item in encode_turn(
            record.turn_id, record.messages, record.output, record.finish_reason
        )
    ]
