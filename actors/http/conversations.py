"""The conversation routes: make one, list one's own, look at one, change or delete one; its items;
what its agent requests permission for.

Knows: what each route takes and answers. Refuses to know: how a conversation is worded
(`actors.conversations.items`), and what happens in one. Everything is scoped to the caller's key:
another key's conversation does not exist here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from attrs import frozen

from ...schemas.convert import structure
from ...schemas.describe import Details, Schema
from ...schemas.errors import InvalidRequest, NotFound, draining, invalid
from ...schemas.events import ConversationDeleted, ConversationExported
from ...schemas.export import encode_chat_messages, encode_markdown
from ...schemas.message import Message
from ...schemas.openai.chat import check_length
from ...schemas.openai.chat_messages import ChatMessage, read_history
from ...schemas.openai.conversation_events import encode_permission
from ...schemas.openai.foreign_items import take_items
from ...schemas.openai.ignored_fields import encode_ignored
from ...schemas.openai.items import Input, InputItem
from ...schemas.openai.items import read_history as read_item_history
from ...transport.http.asgi import send_response
from ..answering import attach
from ..conversations.conversation import Conversation
from ..conversations.items import all_items, encode_conversation
from ..responses.kept_items import KeptItems
from ..session.events import PermissionReply
from ..watching.history import TurnRecord
from .paging import PAGE, PAGE_PARAMETERS, page, page_of, read_limit, read_order
from .request import Call

MAX_METADATA = 16
MAX_ITEMS = 20
"""Items that one request may add, as OpenAI has it."""


@frozen
class NewConversation:
    """The body of ``POST /v1/conversations``. `model`, `system`, `workspace` and `messages` (as a
    chat request has them: what was exported) are ours."""

    model: str | None = None
    system: str | None = None
    workspace: str | None = None
    metadata: Mapping[str, Any] | None = None
    items: tuple[InputItem, ...] | None = None
    messages: tuple[ChatMessage, ...] | None = None


@frozen
class ChangedConversation:
    metadata: Mapping[str, Any] | None = None


@frozen
class NewItems:
    items: tuple[InputItem, ...]


_METADATA: Schema = {
    "maxProperties": MAX_METADATA,
    "propertyNames": {"maxLength": 64},
    "additionalProperties": {"type": "string", "maxLength": 512},
}
_ITEMS: Schema = {
    "type": ["array", "null"],
    "maxItems": MAX_ITEMS,
    "items": {
        "anyOf": [
            {"$ref": "#/components/schemas/InputItem"},
            {"$ref": "#/components/schemas/OtherItem"},
        ]
    },
}


def _encode(conversation: Conversation) -> dict[str, Any]:
    return encode_conversation(conversation.info)


async def _find(call: Call) -> Conversation:
    conversation = await call.gateway.find(call.path("conversation_id"), owner=call.owner)
    call.response.headers["x-conversation-id"] = conversation.conversation_id
    return conversation


async def create_conversation(call: Call) -> None:
    """``POST /v1/conversations``, the body being optional."""
    if call.gateway.draining:  # it would end with the gateway, before its first turn
        raise draining()
    wanted = await call.parsed(partial(_read_conversation, call), optional=True, refers=True)
    metadata = _check_metadata(wanted.metadata)
    if wanted.items and wanted.messages:
        raise invalid("Give items or messages, not both.", "messages")
    system, messages = await _read_items(call, wanted.items or ())
    if wanted.messages:
        read = read_history(wanted.messages)
        system, messages = read.system, await attach(call.gateway, read, call.owner)
    conversation = call.gateway.conversation(
        system="\n\n".join(text for text in (wanted.system, system) if text),
        model=wanted.model,
        workspace=wanted.workspace or "",
        owner=call.owner,
        seed=messages,
        metadata=metadata,
    )
    await call.gateway.keep(conversation)
    call.response.headers["x-conversation-id"] = conversation.conversation_id
    await call.answer(_encode(conversation))


async def list_conversations(call: Call) -> None:
    """``GET /v1/conversations?limit=&after=&order=&q=``: the newest first; with `q` those in which
    all of these words were said."""
    query = call.query(*PAGE_PARAMETERS, "q")
    listed = await call.gateway.list_conversations(
        owner=call.owner,
        limit=read_limit(query.get("limit", str(PAGE))),
        after=query.get("after") or None,
        newest_first=read_order(query.get("order")) == "desc",
        q=query.get("q"),
    )
    data = [encode_conversation(info) for info in listed.conversations]
    await call.answer(page(data, has_more=listed.has_more))


async def show_conversation(call: Call) -> None:
    """``GET /v1/conversations/{conversation_id}``."""
    await call.answer(_encode(await _find(call)))


async def change_conversation(call: Call) -> None:
    """``POST /v1/conversations/{conversation_id}``: other metadata."""
    conversation = await _find(call)
    changed = await call.parsed(lambda raw: structure(raw, ChangedConversation))
    conversation.entry.metadata = _check_metadata(changed.metadata)
    await call.gateway.archive.change_metadata(conversation.entry)
    await call.answer(_encode(conversation))


async def delete_conversation(call: Call) -> None:
    """``DELETE /v1/conversations/{conversation_id}``: a turn that runs there is interrupted."""
    conversation_id = call.path("conversation_id")
    await call.gateway.forget(conversation_id, owner=call.owner)
    call.gateway.bus.publish(ConversationDeleted(conversation_id, call.owner))
    await call.answer(
        {
            "id": conversation_id,
            "object": "conversation.deleted",
            "deleted": True,
            "conversation_id": conversation_id,
        }
    )


async def _records(call: Call, conversation: Conversation) -> Sequence[TurnRecord]:
    return await call.gateway.archive.records(conversation.entry)


async def export_conversation(call: Call) -> None:
    """``GET …/export``: its messages as a chat request has them, which ``POST /v1/conversations``
    takes back; ``?format=markdown`` for people."""
    wanted, conversation = call.query("format").get("format", "json"), await _find(call)
    if wanted not in ("json", "markdown"):
        raise invalid("format must be json or markdown.", "format")
    records, info = await _records(call, conversation), conversation.info
    call.gateway.bus.publish(ConversationExported(info.conversation_id, call.owner))
    messages = [message for record in records for message in record.said]
    if wanted == "markdown":
        text = encode_markdown(messages, info.title, info.system)
        body = text.encode("utf-8", "replace")
        await send_response(call.send, 200, "text/markdown; charset=utf-8", body)
        return
    await call.answer(
        encode_conversation(info)
        | {
            "object": "conversation.export",
            "messages": encode_chat_messages(messages, info.system),
        }
    )


# -- items -----------------------------------------------------------------------------------------


async def list_items(call: Call) -> None:
    """``GET …/items?limit=&after=&order=``: the newest first, as far as they are kept."""
    query = call.query(*PAGE_PARAMETERS)
    items = all_items(await _records(call, await _find(call)))
    if read_order(query.get("order")) == "desc":
        items.reverse()
    await call.answer(page_of(items, query))


async def add_items(call: Call) -> None:
    """``POST …/items``: the conversation holds them from now on, without an answer."""
    conversation = await _find(call)
    wanted = await call.parsed(partial(_read_new_items, call), refers=True)
    if not wanted.items:
        raise invalid("items must hold at least one item.", "items")
    system, messages = await _read_items(call, wanted.items)
    if system is not None:
        raise InvalidRequest(
            "A conversation that exists has its system text: give another with its next turn.",
            code="unsupported_parameter",
            param="items",
        )
    before = len(all_items(conversation.broadcast.history))
    await conversation.add(messages)
    await call.answer(page_of(all_items(conversation.broadcast.history)[before:], {}))


async def show_item(call: Call) -> None:
    """``GET …/items/{item_id}``."""
    await call.answer(await _item(call, await _find(call)))


async def delete_item(call: Call) -> None:
    """``DELETE …/items/{item_id}``: refused. A live child keeps what it has received."""
    await _item(call, await _find(call))
    raise InvalidRequest(
        "An item cannot be taken out of a conversation. Begin another one with the items that "
        "it shall have.",
        code="unsupported_parameter",
        param="item_id",
    )


async def _item(call: Call, conversation: Conversation) -> dict[str, Any]:
    for item in all_items(await _records(call, conversation)):
        if item["id"] == call.path("item_id"):
            return item
    raise NotFound("No such item.", code="item_not_found", param="item_id")


def _read_conversation(call: Call, raw: object) -> NewConversation:
    check_length(raw)
    return structure(_take_items(call, raw), NewConversation)


def _read_new_items(call: Call, raw: object) -> NewItems:
    return structure(_take_items(call, raw), NewItems)


def _take_items(call: Call, raw: object) -> object:
    if isinstance(raw, dict) and raw.get("items") is not None:
        taken = take_items(raw["items"], "items", KeptItems(call.gateway, call.owner))
        if taken.left_out:
            ignored = encode_ignored(f"items.{kind}" for kind in taken.left_out)
            call.response.headers["x-ccapi-ignored"] = ignored or ""
        return {**raw, "items": taken.items}
    return raw


async def _read_items(
    call: Call, items: Sequence[InputItem]
) -> tuple[str | None, tuple[Message, ...]]:
    """Their system text, and their messages. Raises `InvalidRequest`."""
    if len(items) > MAX_ITEMS:
        raise invalid(f"items must hold at most {MAX_ITEMS} items.", "items")
    if not items:
        return None, ()
    given: Input = tuple(items)
    read = read_item_history(given, "items").history
    return read.system, await attach(call.gateway, read, call.owner)


def _check_metadata(given: Mapping[str, Any] | None) -> Mapping[str, str]:
    metadata = given or {}
    if len(metadata) > MAX_METADATA:
        raise invalid(f"metadata must have at most {MAX_METADATA} keys.", "metadata")
    for name, value in metadata.items():
        if not isinstance(value, str) or len(value) > 512 or len(name) > 64:
            raise invalid(
                f"metadata.{name[:64]} must be a string of at most 512 characters, its key one of "
                "at most 64.",
                f"metadata.{name[:64]}",
            )
    return dict(metadata)


# -- permissions -----------------------------------------------------------------------------------


@frozen(kw_only=True)
class PermissionDecision:
    """``permission.reply``, and the body of ``POST /v1/conversations/{id}/permissions/{id}``."""

    behavior: str
    updated_input: dict[str, Any] | None = None
    message: str | None = None
    always: bool | None = None
    suggestion: str | None = None

    def to(self, request_id: str, by: str) -> PermissionReply:
        """Raises `InvalidRequest`."""
        if self.behavior not in ("allow", "deny"):
            raise invalid("behavior must be allow or deny.", "behavior")
        return PermissionReply(
            request_id=request_id,
            allow=self.behavior == "allow",
            updated_input=self.updated_input,
            message=self.message,
            always=bool(self.always),
            suggestion=self.suggestion,
            by=by,
        )


DETAILS: Details = {
    NewConversation: {
        "metadata": _METADATA,
        "items": _ITEMS,
        "messages": {
            "type": ["array", "null"],
            "items": {"$ref": "#/components/schemas/ChatMessage"},
            "description": "As they were exported. Either these or `items`.",
        },
    },
    ChangedConversation: {"metadata": _METADATA},
    NewItems: {"items": {**_ITEMS, "type": "array", "minItems": 1}},
    PermissionDecision: {"behavior": {"enum": ["allow", "deny"]}},
}


async def list_permissions(call: Call) -> None:
    """``GET …/permissions``: the permissions that the conversation's agent waits for."""
    asked = (await _find(call)).broadcast.permissions.values()
    await call.answer({"object": "list", "data": [encode_permission(each) for each in asked]})


async def reply_permission(call: Call) -> None:
    """``POST …/permissions/{request_id}``."""
    conversation, request_id = await _find(call), call.path("request_id")
    reply = await call.parsed(lambda raw: structure(raw, PermissionDecision))
    await conversation.reply(reply.to(request_id, "http"))
    await call.answer({"request_id": request_id, "behavior": reply.behavior})
