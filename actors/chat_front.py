"""The chat completions route: a request becomes a turn, or an answer from the cache.

Knows: which conversation a request means, when the cache may be asked, how a turn is read whole or
streamed, and what a client is told when it fails. Refuses to know: how the words are encoded
(`schemas.chat`, `schemas.chat_reply`), and how a conversation comes by its answer.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import trio
from attrs import frozen

from ..schemas import sse
from ..schemas.chat import ChatTurn, one_conversation, parse_chat
from ..schemas.chat_reply import ChunkWriter, Heading, encode_completion
from ..schemas.convert import write_json
from ..schemas.errors import InvalidRequest, Overloaded
from ..schemas.turn import Answer, Message, trim
from ..transport.asgi import EventStream, while_connected
from .cache_table import cache_key
from .http_call import Call
from .http_policy import tell
from .turns import REPLY_SLOTS, Turn

if TYPE_CHECKING:
    from .gateway import Conversation

PROFILE = "chat"


@frozen(kw_only=True)
class _Job:
    """A request that nothing speaks against. `conversation` is the one it names, if it does."""

    call: Call
    asked: ChatTurn
    model: str
    conversation: Conversation | None
    reject_if_busy: bool

    @property
    def system(self) -> str:
        return self.asked.system or ""

    def heading(self, conversation_id: str, model: str) -> Heading:
        """`model` is what the client hears where it named none."""
        return Heading(
            id=f"chatcmpl-{uuid.uuid4().hex}",
            created=int(time.time()),
            model=self.asked.model or model,
            conversation_id=conversation_id,
        )


async def complete_chat(call: Call) -> None:
    """``POST /v1/chat/completions``."""
    job = _accept(call, parse_chat(await call.json()))
    async with while_connected(call.receive):
        if job.asked.stream:
            await _stream(job)
        else:
            await _answer_whole(job)


def _accept(call: Call, asked: ChatTurn) -> _Job:
    """Refuse what can be refused before anything is spent."""
    if call.gateway.draining:  # also what the cache could answer: the client should go elsewhere
        raise Overloaded("The gateway is stopping.", code="draining", retry_after=5)
    if asked.ignored:
        call.labels["x-ccapi-ignored"] = ", ".join(asked.ignored)
    model = call.gateway.models.resolve(asked.model)
    conversation_id = one_conversation(
        {
            "conversation_id": asked.conversation_id,
            "x-conversation-id": call.header("x-conversation-id"),
        }
    )
    conversation = None
    if conversation_id is not None:
        conversation = call.gateway.find(conversation_id, owner=call.owner)
        call.labels["x-conversation-id"] = conversation.conversation_id
    on_busy = call.header("x-ccapi-on-busy") or "queue"
    if on_busy not in ("queue", "reject"):
        raise InvalidRequest(
            "x-ccapi-on-busy must be queue or reject.",
            code="invalid_value",
            param="x-ccapi-on-busy",
        )
    return _Job(
        call=call,
        asked=asked,
        model=model,
        conversation=conversation,
        reject_if_busy=on_busy == "reject",
    )


# -- where the answer comes from -----------------------------------------------------------------


@asynccontextmanager
async def _answering(
    job: _Job, told: Callable[[], bool]
) -> AsyncIterator[tuple[Heading, Turn | Answer]]:
    """A turn that runs while the block does, or an answer that is already there.

    `told` says whether the client has heard which conversation this is.
    """
    key = _cache_key(job)
    if key is None:
        async with _turn(job, None, told) as running:
            yield running
        return
    async with job.call.gateway.cache.flight(key) as answer:
        job.call.labels["x-ccapi-cache"] = "miss" if answer is None else "hit"
        if answer is None:
            # Inside the flight: identical requests wait for this turn.
            async with _turn(job, key, told) as running:
                yield running
            return
    conversation = _begin(job, (*job.asked.messages, Message("assistant", (answer.text,))))
    yield job.heading(conversation.conversation_id, job.model), answer


@asynccontextmanager
async def _turn(
    job: _Job, key: str | None, told: Callable[[], bool]
) -> AsyncIterator[tuple[Heading, Turn]]:
    asked, begun = job.asked, None
    if job.conversation is not None:
        # What the request leaves open stays as the conversation has it.
        turn = job.conversation.turn(
            asked.messages,
            model=None if asked.model is None else job.model,
            system=asked.system,
            reject_if_busy=job.reject_if_busy,
        )
    else:
        limit = job.call.gateway.settings.conversation.max_history_messages
        begun = _begin(job, ())
        turn = begun.turn(
            trim(asked.messages, limit), reject_if_busy=job.reject_if_busy, cache_key=key
        )
    try:
        async with turn as running:
            yield job.heading(running.conversation_id, running.model), running
    except BaseException:
        if begun is not None and not told():  # it holds nothing, and nobody knows of it
            begun.abandon()
            job.call.labels.pop("x-conversation-id", None)
        raise


def _begin(job: _Job, seed: Sequence[Message]) -> Conversation:
    conversation = job.call.gateway.conversation(
        system=job.system, model=job.model, owner=job.call.owner, seed=seed
    )
    job.call.labels["x-conversation-id"] = conversation.conversation_id
    return conversation


def _cache_key(job: _Job) -> str | None:
    """What the cache knows this request by; None where it must not be asked."""
    gateway, asked = job.call.gateway, job.asked
    if job.conversation is not None or not gateway.settings.cache.enabled:
        return None
    directives = (job.call.header("cache-control") or "").lower().split(",")
    if "no-store" in (directive.strip() for directive in directives):
        return None
    return cache_key(job.call.owner, asked.messages, job.model, job.system, PROFILE, asked.shaping)


# -- how it is given -----------------------------------------------------------------------------


async def _answer_whole(job: _Job) -> None:
    async with _answering(job, lambda: False) as (heading, source):
        text = source.text if isinstance(source, Answer) else (await source.reply()).text
        completion = encode_completion(heading, text, source.finish_reason, source.usage)
    await job.call.answer(completion)


async def _stream(job: _Job) -> None:
    """Stream the answer. Until the first event is out, a failure is a real status; after that it
    is an event, and the end mark is missing.

    The response also opens with a heartbeat. A request that waits so long for somebody else's
    identical turn has no conversation yet, and so names it in its chunks alone.
    """
    stream = EventStream(job.call.send, job.call.gateway.settings.server.heartbeat_seconds)
    async with stream.beating():
        try:
            async with _answering(job, lambda: stream.opened) as (heading, source):
                chunks = ChunkWriter(heading)
                if isinstance(source, Answer):
                    await _replay(source, chunks, stream)
                else:
                    await _relay(source, chunks, stream)
                usage = source.usage if job.asked.include_usage else None
                end = chunks.last(source.finish_reason, usage)
        except Exception as error:
            if not stream.opened:
                raise
            end = sse.event(write_json(tell(error).body()))
        await stream.write(end, last=True)


async def _relay(turn: Turn, chunks: ChunkWriter, stream: EventStream) -> None:
    """Pass items on as they come; what has come meanwhile goes out in the same write."""
    events = [chunks.first()]
    async for item in turn:
        events.append(chunks.text(item.text))
        with suppress(trio.WouldBlock):
            while True:
                events.append(chunks.text(turn.receive_nowait().text))
        await stream.write(b"".join(events))
        events.clear()
    if events:
        await stream.write(b"".join(events))


async def _replay(answer: Answer, chunks: ChunkWriter, stream: EventStream) -> None:
    """Give an answer in the pieces it came in, and no faster than the client reads."""
    await stream.write(chunks.first())
    for begin in range(0, len(answer.pieces), REPLY_SLOTS):
        pieces = answer.pieces[begin : begin + REPLY_SLOTS]
        await stream.write(b"".join(map(chunks.text, pieces)))
