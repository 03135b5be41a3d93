"""Turns that a client asks for in a conversation that it has joined.

Knows: that such a turn outlives the connection it was asked on, and how the last one is asked
again. Refuses to know: the WebSocket, and what watchers receive of the turn
(`actors.watching.broadcast`).
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from functools import partial

import trio
from attrs import evolve

from ...schemas.errors import Conflict, GatewayError, InternalError, InvalidRequest
from ...schemas.openai.foreign_items import refers
from ...schemas.openai.responses import ResponseTurn, in_vain, parse_response
from ...transport.http.bodies import LONG
from ..answering import accept
from ..conversations.conversation import Conversation
from ..responses.kept_items import KeptItems
from ..responses.mcp_tools import make_approved, resolve
from ..runtime.boundary import as_gateway_error
from ..runtime.reply_channel import Turn
from ..watching.history import TurnRecord
from .call import SocketCall

NOT_HERE = ("previous_response_id", "conversation", "conversation_id", "workspace", "background")
"""Fields of the Responses API that say what the connection says already."""


async def start_turn(
    call: SocketCall, conversation: Conversation, message: Mapping[str, object]
) -> str:
    """Start the turn, and return its id once it has been taken on. Raises `GatewayError`."""
    for name in NOT_HERE:
        if message.get(name) is not None:
            raise InvalidRequest(
                f"{name} cannot be given here: the turn belongs to the joined conversation.",
                code="unsupported_parameter",
                param=name,
            )
    again = _last(conversation) if message.get("regenerate") is True else None
    length = LONG if refers(message.get("input")) else call.socket.length
    asked = await call.gateway.bodies.read(length, partial(_parse, call, message, again))
    asked = evolve(asked, conversation_id=conversation.conversation_id)
    asked = await resolve(call.gateway, asked, call.owner)
    request = await accept(call.gateway, asked, call.owner, {}, in_vain)
    request, _ = await make_approved(
        call.gateway, request, conversation.broadcast.history.messages()
    )
    turn = conversation.run(
        evolve(
            request,
            messages=request.messages if again is None else again.messages,
            model=None if request.keeps_model else request.model,
            back_to=None if again is None else again.before,
            keep_stopped=True,  # a person who stops an answer has read what there is of it
        )
    )
    send, receive = trio.open_memory_channel[str | GatewayError](1)

    async def work() -> None:
        with send:
            await _run(turn, send)

    with receive:
        call.gateway.background.start(work)
        try:
            taken = await receive.receive()
        except trio.EndOfChannel:
            taken = InternalError("The turn could not be started.")
    if isinstance(taken, GatewayError):
        raise taken
    return taken


def _parse(
    call: SocketCall, message: Mapping[str, object], again: TurnRecord | None
) -> ResponseTurn:
    fields = {name: value for name, value in message.items() if name not in ("type", "ref")}
    if again is not None:
        fields["input"] = "again"
    # A client that has joined sees all of it, and none waits for the answer as a whole.
    fields |= {"stream": True, "store": False}
    reasoning = call.gateway.settings.models.include_reasoning
    kept = KeptItems(call.gateway, call.owner)
    asked = parse_response(fields, names_conversation=True, reasoning=reasoning, kept=kept)
    return evolve(asked, options=evolve(asked.options, whole=False))


def _last(conversation: Conversation) -> TurnRecord:
    record = conversation.broadcast.history.last
    if record is None or record.before is None:
        raise Conflict("There is no answer here that could be given again.", code="no_turn")
    return record


async def _run(
    turn: AbstractAsyncContextManager[Turn],
    report: trio.MemorySendChannel[str | GatewayError],
) -> None:
    """Run a turn to its end. Its items reach the watchers; none is read here."""
    told = False
    try:
        async with turn as running:
            report.send_nowait(running.turn_id)
            told = True
            async for _ in running:
                pass
    except Exception as error:
        if told:
            raise
        try:
            report.send_nowait(as_gateway_error(error))
        except trio.BrokenResourceError:
            raise error from None
