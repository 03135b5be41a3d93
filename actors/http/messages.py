"""The Anthropic Messages routes: a request becomes a question, and what is answered becomes one
message, whole or streamed; and how many tokens such a request has.

Knows: HTTP's side of it, and which error a client receives when a turn fails. Refuses to know: how
the words are encoded (`schemas.anthropic`), and where an answer comes from (`actors.answering`).
"""

from __future__ import annotations

import uuid
from functools import partial

from attrs import evolve

from ...schemas.anthropic.betas import BETA_HEADER, read_betas
from ...schemas.anthropic.errors import VERSION_HEADER, read_version
from ...schemas.anthropic.messages import (
    MessagesTurn,
    parse_count,
    parse_messages,
)
from ...schemas.anthropic.reply import (
    Content,
    Ending,
    EventWriter,
    Heading,
    encode_message,
)
from ...schemas.openai.parameters import one_conversation
from ...transport.http.asgi import while_connected
from ...transport.http.event_stream import EventStream
from ..answering import Source, accept, answering, rejects_if_busy, setup_of
from ..runtime.boundary import as_gateway_error
from ..runtime.together import run_together
from .chat import no_store
from .request import Call


async def create_message(call: Call) -> None:
    """``POST /v1/messages``."""
    version, betas = _read_head(call)
    named = call.header("x-conversation-id")
    asked = await call.parsed(
        partial(
            parse_messages,
            names_conversation=named is not None,
            version=version,
            betas=betas,
            consumes=True,
        )
    )
    request = evolve(
        asked,
        conversation_id=one_conversation({"x-conversation-id": named}),
        reject_if_busy=rejects_if_busy(call.header("x-ccapi-on-busy")),
        cacheable=asked.cacheable and not no_store(call) and not call.apart,
        apart=asked.apart or call.apart,
        kept=asked.kept and not call.apart,
    )
    async with while_connected(call.receive):
        request = await _accept(call, request)
        if request.stream:
            await _stream(call, request)
        else:
            await _answer_whole(call, request)


async def count_message_tokens(call: Call) -> None:
    """``POST /v1/messages/count_tokens``: how much a plain model would read for such a request."""
    version, betas = _read_head(call)
    asked = await call.parsed(partial(parse_count, version=version, betas=betas))
    async with while_connected(call.receive):
        request = await _accept(call, asked)
        tokens = await call.gateway.count_tokens(setup_of(request), request.messages)
    await call.answer({"input_tokens": tokens})


def _read_head(call: Call) -> tuple[str, frozenset[str]]:
    """The version of the API that the client speaks, and the betas that it asks for. Raises
    `InvalidRequest`."""
    version = read_version(call.header(VERSION_HEADER))
    values = call.headers.get(BETA_HEADER.encode(), ())
    return version, read_betas(value.decode("latin-1") for value in values)


async def _accept(call: Call, request: MessagesTurn) -> MessagesTurn:
    return await accept(
        call.gateway, request, call.owner, call.response.headers, request.without_effect
    )


def _heading(request: MessagesTurn, source: Source) -> Heading:
    return Heading(f"msg_{uuid.uuid4().hex}", request.named_model or source.model)


def _ending(source: Source, refusal: str | None) -> Ending:
    return Ending(source.finish_reason, source.stop_text, source.stop_reason, refusal)


async def _answer_whole(call: Call, request: MessagesTurn) -> None:
    content = Content()
    async with answering(call.gateway, request, call.response.headers, lambda: False) as source:

        async def read() -> None:
            while items := await source.receive_items():
                content.add(items)

        await run_together(read)
        ending = _ending(source, content.refusal)
        message = encode_message(_heading(request, source), content, ending, source.usage)
    await call.answer(message)


async def _stream(call: Call, request: MessagesTurn) -> None:
    """Stream the message. Until the first event is out, a failure is a real status; after that it
    is an event, and ``message_stop`` is missing. The response also opens with a heartbeat."""
    stream = call.open_stream()
    async with stream.beating():
        try:
            async with answering(
                call.gateway, request, call.response.headers, lambda: stream.opened
            ) as source:
                writer = EventWriter(_heading(request, source))
                await run_together(partial(_pass_on, source, writer, stream))
                ending = _ending(source, writer.refusal)
                end = writer.last(ending, source.usage)
        except Exception as error:
            if not stream.opened:
                raise
            call.failure = as_gateway_error(error)
            end = call.response.envelope.event(call.failure)
        await stream.write(end, last=True)


async def _pass_on(source: Source, writer: EventWriter, stream: EventStream) -> None:
    begun = writer.first()
    while items := await source.receive_items():
        written = begun + b"".join(map(writer.item, items))
        begun = b""
        if written:
            await stream.write(written)
    if begun:
        await stream.write(begun)
