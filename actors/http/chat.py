"""The chat completions route, and the older completions: a request becomes a question, and what is
answered becomes one response.

Knows: how many choices are asked for, how they are read whole or streamed, and which error a client
receives when one fails. Refuses to know: how the words are encoded (`schemas.openai.chat`,
`schemas.openai.chat_reply`, `schemas.openai.completions`), and where an answer comes from
(`actors.answering`).
"""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial, reduce
from operator import add
from typing import Any, ClassVar, Protocol

from attrs import evolve, frozen

from ...schemas.errors import InvalidRequest
from ...schemas.openai import chat_reply, completions
from ...schemas.openai.chat import ChatTurn, parse_chat
from ...schemas.openai.chat_reply import Heading
from ...schemas.openai.completions import parse_completion
from ...schemas.openai.parameters import one_conversation
from ...schemas.turn import FinishReason, Reply, Usage
from ...schemas.turn_items import TurnItem
from ...transport.http.asgi import while_connected
from ...transport.http.event_stream import EventStream
from ..answering import Source, accept, answering, rejects_if_busy
from ..runtime.boundary import as_gateway_error
from ..runtime.together import run_together
from .request import Call


class Writer(Protocol):
    """What writes one choice of a streamed answer."""

    def first(self) -> bytes: ...
    def item(self, item: TurnItem) -> bytes: ...
    def last(self, finish_reason: FinishReason) -> bytes: ...


class Dialect(Protocol):
    """How a route words its answers. `prefix` begins their ids."""

    prefix: ClassVar[str]

    def whole(self, heading: Heading, replies: Sequence[Reply], usage: Usage) -> dict[str, Any]: ...
    def writer(self, heading: Heading, index: int) -> Writer: ...
    def end(self, heading: Heading, usage: Usage | None) -> bytes: ...


@frozen
class ChatWords:
    """``chat.completion`` and its chunks."""

    prefix: ClassVar[str] = "chatcmpl"

    def whole(self, heading: Heading, replies: Sequence[Reply], usage: Usage) -> dict[str, Any]:
        return chat_reply.encode_completion(heading, replies, usage)

    def writer(self, heading: Heading, index: int) -> Writer:
        return chat_reply.ChunkWriter(heading, index)

    def end(self, heading: Heading, usage: Usage | None) -> bytes:
        return chat_reply.encode_end(heading, usage)


@frozen
class CompletionWords:
    """``text_completion`` and its chunks. `echoed` stands before each answer."""

    prefix: ClassVar[str] = "cmpl"
    echoed: Sequence[str]

    def whole(self, heading: Heading, replies: Sequence[Reply], usage: Usage) -> dict[str, Any]:
        return completions.encode_completion(heading, replies, usage, self.echoed)

    def writer(self, heading: Heading, index: int) -> Writer:
        return completions.ChunkWriter(heading, index, self.echoed[index])

    def end(self, heading: Heading, usage: Usage | None) -> bytes:
        return chat_reply.encode_end(heading, usage, completions.KIND)


async def complete_chat(call: Call) -> None:
    """``POST /v1/chat/completions``."""
    named = call.header("x-conversation-id")
    asked = await call.parsed(
        partial(
            parse_chat,
            names_conversation=named is not None,
            reasoning=call.gateway.settings.models.include_reasoning,
            consumes=True,
        )
    )
    await _complete(call, ChatWords(), asked.choices)


async def complete_text(call: Call) -> None:
    """``POST /v1/completions``."""
    asked = await call.parsed(parse_completion)
    await _complete(call, CompletionWords(asked.prefixes), asked.choices)


async def _complete(call: Call, dialect: Dialect, asked: Sequence[ChatTurn]) -> None:
    async with while_connected(call.receive):
        requests = await _accept(call, asked)
        if asked[0].stream:
            await _stream(call, dialect, requests)
        else:
            await _answer_whole(call, dialect, requests)


async def _accept(call: Call, asked: Sequence[ChatTurn]) -> list[ChatTurn]:
    """One request for each choice; what is asked several times is looked at once. Raises
    `GatewayError`."""
    first, children = asked[0], call.gateway.settings.claude.max_concurrent_sessions
    if len(asked) > children:
        raise InvalidRequest(
            f"{len(asked)} choices need as many children at once; there may be {children}.",
            code="unsupported_parameter",
            param="n" if first.n > 1 else "prompt",
        )
    conversation_id, named = first.conversation_id, call.header("x-conversation-id")
    if named is not None:
        conversation_id = one_conversation(
            {"conversation_id": conversation_id, "x-conversation-id": named}
        )
    if conversation_id is not None and len(asked) > 1:
        raise InvalidRequest("A conversation goes on in one way only.", param="n")
    accepted: list[ChatTurn] = []
    for before, each in zip((None, *asked), asked, strict=False):
        if each is before:
            accepted.append(accepted[-1])
            continue
        request = evolve(
            each,
            conversation_id=conversation_id,
            reject_if_busy=rejects_if_busy(call.header("x-ccapi-on-busy")),
            cacheable=(
                len(asked) == 1
                and not each.options.reasoning
                and not no_store(call)
                and not call.apart
            ),
            apart=each.apart or call.apart,
            kept=each.kept and not call.apart,
        )
        accepted.append(await accept(call.gateway, request, call.owner, call.response.headers))
    return accepted


def no_store(call: Call) -> bool:
    """Whether the client wants no answer that was given earlier."""
    directives = (call.header("cache-control") or "").lower().split(",")
    return "no-store" in map(str.strip, directives)


@asynccontextmanager
async def _answering(
    call: Call, requests: Sequence[ChatTurn], has_begun: Callable[[], bool]
) -> AsyncIterator[list[Source]]:
    """Every request, answered beside the others while the block runs. `has_begun`: the client
    knows which conversation this is.

    Of several answers each is a conversation of its own, and none of them is the response's:
    whichever the client goes on with, its history says so.
    """
    async with AsyncExitStack() as stack:
        sources = [
            await stack.enter_async_context(
                answering(call.gateway, request, call.response.headers, has_begun)
            )
            for request in requests
        ]
        if len(requests) > 1:
            call.response.headers.pop("x-conversation-id", None)
            call.made += [source.conversation_id for source in sources]
        yield sources


def _heading(dialect: Dialect, requests: Sequence[ChatTurn], source: Source) -> Heading:
    is_several = len(requests) > 1  # and of none that a client could go on with
    return Heading(
        id=f"{dialect.prefix}-{uuid.uuid4().hex}",
        created=int(time.time()),
        model=requests[0].named_model or source.model,
        conversation_id=None if is_several or requests[0].apart else source.conversation_id,
    )


# -- whole -----------------------------------------------------------------------------------------


async def _answer_whole(call: Call, dialect: Dialect, requests: Sequence[ChatTurn]) -> None:
    async with _answering(call, requests, lambda: False) as sources:
        replies: dict[int, Reply] = {}

        def read(index: int, source: Source) -> Callable[[], Any]:
            async def run() -> None:
                replies[index] = await source.reply()

            return run

        await run_together(*(read(index, source) for index, source in enumerate(sources)))
        ordered = [replies[index] for index in range(len(sources))]
        usage = reduce(add, (reply.usage for reply in ordered))
        completion = dialect.whole(_heading(dialect, requests, sources[0]), ordered, usage)
    await call.answer(completion)


# -- streamed --------------------------------------------------------------------------------------


async def _stream(call: Call, dialect: Dialect, requests: Sequence[ChatTurn]) -> None:
    """Stream the answer. Until the first event is out, a failure is a real status; after that it
    is an event, and the end mark is missing.

    The response also opens with a heartbeat. A request that waits so long for another client's
    identical turn has no conversation yet, and so names it in its chunks alone.
    """
    stream = call.open_stream()
    several = len(requests) > 1
    async with stream.beating():
        try:
            async with _answering(call, requests, lambda: stream.opened and not several) as sources:
                heading = _heading(dialect, requests, sources[0])
                passing = [
                    partial(_pass_on, source, dialect.writer(heading, index), stream)
                    for index, source in enumerate(sources)
                ]
                await run_together(*passing)
                usage = reduce(add, (source.usage for source in sources))
                end = dialect.end(heading, usage if requests[0].include_usage else None)
        except Exception as error:
            if not stream.opened:
                raise
            call.failure = as_gateway_error(error)
            end = call.response.envelope.event(call.failure)
        await stream.write(end, last=True)


async def _pass_on(source: Source, writer: Writer, stream: EventStream) -> None:
    events = [writer.first()]
    while items := await source.receive_items():
        events.extend(map(writer.item, items))
        await stream.write(b"".join(events))
        events.clear()
    await stream.write(b"".join([*events, writer.last(source.finish_reason)]))
