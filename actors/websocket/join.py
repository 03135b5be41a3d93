"""Joining: a conversation watched live over a WebSocket, and what a watcher may do in it.

Knows: the messages of ``GET /v1/conversations/{id}/events`` that a client sends, what it receives
first, and how it is kept up to date. Refuses to know: how events are worded
(`schemas.openai.conversation_events`), who may join (`actors.websocket.app`), and how a turn
runs.

Two tasks for each that has joined: one passes events on, one takes what the client says. A client
that does not read holds up the former alone, until its connection has had patience enough.

Clients that have joined at another node are watchers too, each by a connection of its own for what
it says. The events go there once for all of them (`actors.websocket.shared_events`).
"""

from __future__ import annotations

from typing import Any

import trio

from ...schemas.convert import structure
from ...schemas.errors import Conflict, GatewayError, InvalidRequest, invalid, missing
from ...schemas.node_seal import APART, SHARED
from ...schemas.openai.conversation_events import encode_event, encode_permission
from ...schemas.openai.output_items import encode_messages, encode_output
from ...transport.http.websocket import NORMAL, WebSocketClosed, encode_frame
from ...transport.http.websocket_frames import encode_mark
from ..conversations.conversation import Conversation
from ..conversations.items import PAGE, encode_conversation, items_of
from ..conversations.journal import Journal
from ..http.auth import publish_refusal
from ..http.conversations import PermissionDecision
from ..runtime.boundary import as_gateway_error
from ..watching.broadcast import Broadcast, BroadcastClosed, FellBehind, Slot, Watcher
from .call import SocketCall, error_event
from .join_turns import start_turn

MOVED = "moved"
"""Why a conversation closes that is there again as soon as the client comes back."""

TOO_FAR_BEHIND = 4008
"""The code of a WebSocket whose client cannot keep up (in the range for private use)."""

End = tuple[int, str]
"""The code and the reason with which a WebSocket closes."""


async def join(call: SocketCall) -> None:
    """``GET /v1/conversations/{conversation_id}/events?after=N``."""
    conversation = await call.gateway.find(call.path["conversation_id"], owner=call.owner)
    broadcast = conversation.broadcast
    if call.events == SHARED:
        await _share(call, broadcast)
        return
    after = _read_after(call.query.get("after"))
    with broadcast.watch() as watcher:
        resumed = after is not None and broadcast.since(after) is not None
        hello = _hello(conversation, resumed=resumed, behind=after is not None and not resumed)
        watcher.seen = after if resumed and after is not None else broadcast.last
        await call.send(hello)
        end, obeying = None, trio.Lock()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_listen, call, conversation, obeying, nursery.cancel_scope)
            if call.from_node is not None:
                nursery.start_soon(_end_with, call, obeying, nursery.cancel_scope)
            if call.events == APART:
                end = await _catch_up(call, broadcast, watcher)
            else:
                end = await _keep_up(call, watcher)
            nursery.cancel_scope.cancel()
        if end is not None:  # behind the nursery: to close ends the listening, which ends that
            await call.socket.close(*end)


async def _share(call: SocketCall, broadcast: Broadcast) -> None:
    """Send another node the events from now on, behind a mark that says where they begin."""
    call.socket.use_with(trio.current_time)  # idle is what a client is
    with broadcast.follow() as reader:
        end = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_wait_left, call, nursery.cancel_scope)
            await call.socket.send_frames(encode_mark(reader.seen), 0)
            end = await _keep_up(call, reader)
            nursery.cancel_scope.cancel()
        if end is not None:
            await call.socket.close(*end)


async def _wait_left(call: SocketCall, scope: trio.CancelScope) -> None:
    try:
        while True:
            await call.socket.receive()
    except WebSocketClosed:
        scope.cancel()


async def _catch_up(call: SocketCall, broadcast: Broadcast, watcher: Watcher) -> End:
    """Pass on what the client has missed, and a mark behind which its node has the events from
    elsewhere; at the conversation's end a mark that its last event goes before the close."""
    slots = broadcast.since(watcher.seen)
    if slots is None:
        return TOO_FAR_BEHIND, "too far behind"
    frames = b"".join(map(_frame_of, slots)) + encode_mark(broadcast.last)
    await call.socket.send_frames(frames, len(slots))
    call.socket.use_with(lambda: broadcast.put_at)
    await broadcast.wait_closed()
    await call.socket.send_frames(encode_mark(broadcast.last), 0)
    return NORMAL, ""


def _read_after(given: str | None) -> int | None:
    if given is None or given == "":
        return None
    if given.isascii() and given.isdigit() and len(given) < 16:
        return int(given)
    raise invalid("after must be the number of an event.", "after")


def _hello(conversation: Conversation, *, resumed: bool, behind: bool) -> dict[str, Any]:
    broadcast = conversation.broadcast
    items, has_more = items_of(broadcast.history, PAGE)
    return {
        "type": "conversation.joined",
        "conversation": encode_conversation(conversation.info),
        "last_event_id": broadcast.last,
        "resumed": resumed,
        "reason": "behind" if behind else None,
        "items": None if resumed else items,
        "has_more": has_more,
        "turn": None if resumed else _running(broadcast),
        "permissions": [encode_permission(each) for each in broadcast.permissions.values()],
        "watchers": broadcast.watchers,
        "lost_turn": _lost(conversation),
    }


def _lost(conversation: Conversation) -> str | None:
    """The turn that ran when an earlier gateway ended, until the next turn begins."""
    journal = conversation.entry.state.journal
    return journal.lost if isinstance(journal, Journal) else None


def _running(broadcast: Broadcast) -> dict[str, Any] | None:
    turn = broadcast.turn
    if turn is None:
        return None
    return {
        "turn_id": turn.turn_id,
        "model": turn.model,
        "created_at": int(turn.created_at),
        "items": encode_messages(turn.messages, turn.turn_id),
        "output": encode_output(turn.items, turn.turn_id, status="in_progress"),
    }


# -- what happens ----------------------------------------------------------------------------------


async def _keep_up(call: SocketCall, watcher: Watcher) -> End:
    """Pass events on until the conversation ends, or the client has fallen too far behind."""
    try:
        while True:
            slots = await watcher.read()
            frames = b"".join(map(_frame_of, slots))
            await call.socket.send_frames(frames, len(slots), gives_way=False)  # `read` does
    except BroadcastClosed:
        return NORMAL, ""
    except FellBehind:
        return TOO_FAR_BEHIND, "too far behind"


def _frame_of(slot: Slot) -> bytes:
    """What all watchers receive: encoded once."""
    if slot.frame is None:
        slot.frame = encode_frame(encode_event(slot.number, slot.event))
    return slot.frame


async def _end_with(call: SocketCall, obeying: trio.Lock, scope: trio.CancelScope) -> None:
    """Have the client come back by another way where the node that it came by stops. What it has
    said and has no answer to is not done: it may say that again."""
    nodes = call.gateway.nodes
    assert nodes is not None, "a node has passed it on"
    assert call.from_node is not None
    await nodes.wait_leaving(call.from_node)
    try:
        async with obeying:
            await call.send({"type": "conversation.closed", "reason": MOVED})
            scope.cancel()
    except WebSocketClosed:
        scope.cancel()


# -- what the client says --------------------------------------------------------------------------


async def _listen(
    call: SocketCall, conversation: Conversation, obeying: trio.Lock, scope: trio.CancelScope
) -> None:
    try:
        while True:
            ref: object = None
            try:
                message = await call.receive()
                ref = message.get("ref")
            except (GatewayError, ExceptionGroup) as error:
                await call.send(_error_of(call, error, ref))
                continue
            async with obeying:
                try:
                    answer = await _obey(call, conversation, message)
                except (GatewayError, ExceptionGroup) as error:
                    answer = _error_of(call, error, ref)
                if answer is not None:
                    await call.send({**answer, "ref": ref} if ref is not None else answer)
    except WebSocketClosed:
        scope.cancel()


def _error_of(call: SocketCall, error: Exception, ref: object) -> dict[str, object]:
    failure = as_gateway_error(error)
    publish_refusal(call.gateway.bus, failure, call.request_id, call.owner)
    return error_event(failure, ref)


async def _obey(
    call: SocketCall, conversation: Conversation, message: dict[str, object]
) -> dict[str, object] | None:
    """Do what a message asks, and answer it. Raises `GatewayError`."""
    ok: dict[str, object] | None = {"type": "ok"} if message.get("ref") is not None else None
    match message.get("type"):
        case "turn.create":
            turn_id = await start_turn(call, conversation, message)
            return {"type": "turn.accepted", "turn_id": turn_id}
        case "turn.interrupt":
            await _interrupt(conversation, message.get("turn_id"))
            return ok
        case "permission.reply":
            request_id = message.get("request_id")
            if not isinstance(request_id, str):
                raise missing("request_id")
            await conversation.reply(
                structure(message, PermissionDecision).to(request_id, "watcher")
            )
            return ok
        case "ping":
            return {"type": "pong"}
        case None:
            raise missing("type")
    raise invalid("type must be turn.create, turn.interrupt, permission.reply or ping.", "type")


async def _interrupt(conversation: Conversation, turn_id: object) -> None:
    if turn_id is None:
        running = conversation.broadcast.turn
        if running is None:
            raise Conflict("No turn runs in this conversation.", code="no_turn")
        turn_id = running.turn_id
    if not isinstance(turn_id, str):
        raise InvalidRequest("turn_id must be a string.", code="invalid_type", param="turn_id")
    await conversation.interrupt(turn_id)
