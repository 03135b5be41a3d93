"""The conversation routes: make one, list one's own, look at one, delete one.

Knows: a conversation as JSON, and pages of a list. Refuses to know: what happens in one. Everything
is scoped to the caller's key: another key's conversation does not exist here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from attrs import asdict, frozen

from ..schemas.convert import structure
from ..schemas.errors import InvalidRequest, Overloaded
from .http_call import Call
from .paging import page_of

if TYPE_CHECKING:
    from .conversation import ConversationInfo


@frozen
class NewConversation:
    """The body of ``POST /v1/conversations``. `metadata` and `items` are OpenAI's; the one is
    taken note of, the other refused."""

    model: str | None = None
    system: str | None = None
    metadata: Mapping[str, Any] | None = None
    items: tuple[Any, ...] | None = None


def encode_conversation(info: ConversationInfo) -> dict[str, Any]:
    """OpenAI's conversation object, and what is known here beside it. Times in Unix seconds."""
    return {
        "id": info.conversation_id,
        "object": "conversation",
        "created_at": int(info.created_at),
        "metadata": {},
        "conversation_id": info.conversation_id,
        "last_used_at": int(info.last_used_at),
        "model": info.model,
        "phase": info.phase,
        "turns": info.turns,
        "messages": info.messages,
        "usage": asdict(info.usage) | {"total_tokens": info.usage.total_tokens},
    }


async def create_conversation(call: Call) -> None:
    """``POST /v1/conversations``, the body being optional."""
    if call.gateway.draining:  # it would end with the gateway, before its first turn
        raise Overloaded("The gateway is stopping.", code="draining", retry_after=5)
    wanted = structure(await call.json(optional=True), NewConversation)
    if wanted.items:
        raise InvalidRequest(
            "A conversation cannot be given items; send them with its first turn.",
            code="unsupported_parameter",
            param="items",
        )
    if wanted.metadata:
        call.labels["x-ccapi-ignored"] = "metadata"
    conversation = call.gateway.conversation(
        system=wanted.system or "", model=wanted.model, owner=call.owner
    )
    call.labels["x-conversation-id"] = conversation.conversation_id
    await call.answer(encode_conversation(conversation.info))


async def list_conversations(call: Call) -> None:
    """``GET /v1/conversations?limit=&after=``: the newest first."""
    mine = call.gateway.conversations(owner=call.owner)
    mine.sort(key=lambda info: (info.created_at, info.conversation_id), reverse=True)
    await call.answer(page_of([encode_conversation(info) for info in mine], call.query()))


async def show_conversation(call: Call) -> None:
    """``GET /v1/conversations/{conversation_id}``."""
    conversation = call.gateway.find(call.path("conversation_id"), owner=call.owner)
    await call.answer(encode_conversation(conversation.info))


async def delete_conversation(call: Call) -> None:
    """``DELETE /v1/conversations/{conversation_id}``: a turn that runs there is interrupted."""
    conversation_id = call.path("conversation_id")
    await call.gateway.forget(conversation_id, owner=call.owner)
    await call.answer(
        {
            "id": conversation_id,
            "object": "conversation.deleted",
            "deleted": True,
            "conversation_id": conversation_id,
        }
    )
