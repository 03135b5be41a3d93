"""The chat completions route, and the older completions: a request becomes a question, and what is
answered becomes one response.

Knows: how many choices are asked for, how they are read whole or streamed, and what a client is
told when one fails. Refuses to know: how the words are encoded (`schemas.openai.chat`,
`schemas.openai.chat_reply`, `schemas.openai.completions`), and where an answer comes from
(`actors.answering`).
"""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial, reduce
from operator import add
from typing import Any, ClassVar, Protocol

import trio
from attrs import evolve, frozen

from ...schemas.claude.sampling import without_effect
from ...schemas.convert import write_json
from ...schemas.errors import GatewayError, InvalidRequest, Overloaded
from ...schemas.openai import chat_reply, completions, sse
from ...schemas.openai.chat import ChatTurn, parse_chat
from ...schemas.openai.chat_reply import Heading
from ...schemas.openai.completions import parse_completion
from ...schemas.openai.ignored_fields import encode_ignored
from ...schemas.openai.parameters import one_conversation
from ...schemas.turn import Answer, FinishReason, Reply, Usage
from ...schemas.turn_items import TextDelta, TurnItem
from ...transport.http.asgi import EventStream, while_connected
from ..answering import (
    Question,
    Source,
    answering,
    check_workspace,
    find_conversation,
    rejects_if_busy,
)
from ..attaching import word
from ..conversations.models import check_goes_on, plain_name
from ..runtime.boundary import as_gateway_error
from ..session.reply_channel import REPLY_SLOTS, Turn
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
        return completions.encode_end(heading, usage)


@frozen(kw_only=True)
class _Job:
    """A request that nothing speaks against: one question for each choice."""

    call: Call
    dialect: Dialect
    model: str | None  # as the client named it
    questions: Sequence[Question]
    include_usage: bool

    @property
    def has_choices(self) -> bool:
        """Whether there is more than one answer: then each is a conversation of its own, and none
        of them is the response's. Whichever the client goes on with, its history tells."""
        return len(self.questions) > 1

    def heading(self, source: Source) -> Heading:
        return Heading(
            id=f"{self.dialect.prefix}-{uuid.uuid4().hex}",
            created=int(time.time()),
            model=self.model or source.model,
            conversation_id=None if self.has_choices else source.conversation_id,
        )


async def complete_chat(call: Call) -> None:
    """``POST /v1/chat/completions``."""
    named = call.header("x-conversation-id")
    asked = await call.parsed(
        partial(
            parse_chat,
            names_conversation=named is not None,
            reasoning=call.gateway.settings.models.include_reasoning,
        )
    )
    await _complete(call, ChatWords(), asked.choices)


async def complete_text(call: Call) -> None:
    """``POST /v1/completions``."""
    asked = await call.parsed(parse_completion)
    await _complete(call, CompletionWords(asked.prefixes), asked.choices)


async def _complete(call: Call, dialect: Dialect, asked: Sequence[ChatTurn]) -> None:
    async with while_connected(call.receive):
        job = await _accept(call, dialect, asked)
        if asked[0].stream:
            await _stream(job)
        else:
            await _answer_whole(job)


async def _accept(call: Call, dialect: Dialect, asked: Sequence[ChatTurn]) -> _Job:
    """Refuse what can be refused before anything is spent."""
    gateway, first = call.gateway, asked[0]
    choice = gateway.models.resolve(first.model, call.owner)
    check_goes_on(choice, first.model, first.begun)
    if gateway.draining:  # also what the cache could answer: the client should go elsewhere
        raise Overloaded("The gateway is stopping.", code="draining", retry_after=5)
    children = gateway.settings.claude.max_concurrent_sessions
    if len(asked) > children:
        raise InvalidRequest(
            f"{len(asked)} choices need as many children at once; there may be {children}.",
            code="unsupported_parameter",
            param="n" if first.n > 1 else "prompt",
        )
    conversation_id = one_conversation(
        {
            "conversation_id": first.conversation_id,
            "x-conversation-id": call.header("x-conversation-id"),
        }
    )
    if conversation_id is not None and len(asked) > 1:
        raise InvalidRequest("A conversation goes on in one way only.", param="n")
    question = Question(
        gateway=gateway,
        owner=call.owner,
        labels=call.labels,
        messages=(),
        model=choice.model,
        profile=choice.profile,
        workspace=first.workspace,
        options=first.options,
        keeps_model=first.model is None,
        conversation=find_conversation(gateway, call.owner, conversation_id, call.labels),
        reject_if_busy=rejects_if_busy(call.header("x-ccapi-on-busy")),
        cacheable=len(asked) == 1 and not first.options.reasoning and not no_store(call),
        shaping=first.shaping,
    )
    _tell_ignored(question, first)
    return _Job(
        call=call,
        dialect=dialect,
        model=first.model,
        questions=await _word_all(question, asked),
        include_usage=first.include_usage,
    )


async def _word_all(question: Question, asked: Sequence[ChatTurn]) -> list[Question]:
    """One question for each choice; what is asked several times is looked at once."""
    questions: list[Question] = []
    for before, each in zip((None, *asked), asked, strict=False):
        questions.append(questions[-1] if each is before else await _word(question, each))
    return questions


async def _word(question: Question, asked: ChatTurn) -> Question:
    """What one choice asks, its images and files included."""
    return evolve(
        question,
        messages=await word(question.gateway, asked),
        system=asked.system,
        tools=asked.tools,
        schema=asked.schema,
        options=asked.options,
    )


def _tell_ignored(question: Question, asked: ChatTurn) -> None:
    """Name what the request asks for in vain: of anybody, and of the model that is to answer."""
    model, profile, held = question.model, question.profile, question.conversation
    if held is not None:
        profile = held.info.profile
        model = plain_name(held.info.model) if question.keeps_model else model
    in_vain = without_effect(asked.options, model, in_words=profile == "chat")
    ignored = dict.fromkeys((*asked.ignored, *in_vain))
    if not check_workspace(question, asked.workspace):
        ignored["workspace"] = None
    names = encode_ignored(ignored)
    if names is not None:
        question.labels["x-ccapi-ignored"] = names


def no_store(call: Call) -> bool:
    """Whether the client wants no answer that was given earlier."""
    directives = (call.header("cache-control") or "").lower().split(",")
    return "no-store" in (directive.strip() for directive in directives)


@asynccontextmanager
async def _answering(job: _Job, told: Callable[[], bool]) -> AsyncIterator[list[Source]]:
    """Every question, answered beside the others while the block runs. `told`: the client has
    heard which conversation this is."""
    async with AsyncExitStack() as stack:
        sources = [
            await stack.enter_async_context(answering(question, told)) for question in job.questions
        ]
        if job.has_choices:
            job.call.labels.pop("x-conversation-id", None)
        yield sources


async def _each(work: Sequence[Callable[[], Any]]) -> None:
    """Do all of `work` at once. The first failure ends the rest, and comes out as it is."""
    if len(work) == 1:  # nearly always: no task is needed
        await work[0]()
        return
    failures: list[GatewayError] = []

    async def run(one: Callable[[], Any]) -> None:
        try:
            await one()
        except GatewayError as error:
            failures.append(error)
            nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        for one in work:
            nursery.start_soon(run, one)
    if failures:
        raise failures[0]


# -- whole -----------------------------------------------------------------------------------------


async def _answer_whole(job: _Job) -> None:
    async with _answering(job, lambda: False) as sources:
        replies: dict[int, Reply] = {}

        def read(index: int, source: Source) -> Callable[[], Any]:
            async def run() -> None:
                replies[index] = await _reply(source)

            return run

        await _each([read(index, source) for index, source in enumerate(sources)])
        ordered = [replies[index] for index in range(len(sources))]
        usage = reduce(add, (reply.usage for reply in ordered))
        completion = job.dialect.whole(job.heading(sources[0]), ordered, usage)
    await job.call.answer(completion)


async def _reply(source: Source) -> Reply:
    answer = source.answer
    if isinstance(answer, Turn):
        return await answer.reply()
    return Reply(
        text=answer.text,
        finish_reason=answer.finish_reason,
        usage=answer.usage,
        conversation_id=source.conversation_id,
        model=source.model,
    )


# -- streamed --------------------------------------------------------------------------------------


async def _stream(job: _Job) -> None:
    """Stream the answer. Until the first event is out, a failure is a real status; after that it
    is an event, and the end mark is missing.

    The response also opens with a heartbeat. A request that waits so long for somebody else's
    identical turn has no conversation yet, and so names it in its chunks alone.
    """
    stream = EventStream(job.call.send, job.call.gateway.settings.server.heartbeat_seconds)
    async with stream.beating():
        try:
            async with _answering(job, lambda: stream.opened and not job.has_choices) as sources:
                heading = job.heading(sources[0])

                def pass_on(index: int, source: Source) -> Callable[[], Any]:
                    writer = job.dialect.writer(heading, index)

                    async def run() -> None:
                        await _pass_on(source.answer, writer, stream)

                    return run

                await _each([pass_on(index, source) for index, source in enumerate(sources)])
                usage = reduce(add, (source.answer.usage for source in sources))
                end = job.dialect.end(heading, usage if job.include_usage else None)
        except Exception as error:
            if not stream.opened:
                raise
            end = sse.event(write_json(as_gateway_error(error).body()))
        await stream.write(end, last=True)


async def _pass_on(answer: Turn | Answer, writer: Writer, stream: EventStream) -> None:
    if isinstance(answer, Answer):
        await _replay(answer, writer, stream)
    else:
        await _relay(answer, writer, stream)


async def _relay(turn: Turn, writer: Writer, stream: EventStream) -> None:
    """Pass items on as they come; what has come meanwhile goes out in the same write."""
    events = [writer.first()]
    async for item in turn:
        events.append(writer.item(item))
        with suppress(trio.WouldBlock):
            while True:
                events.append(writer.item(turn.receive_nowait()))
        await stream.write(b"".join(events))
        events.clear()
    await stream.write(b"".join([*events, writer.last(turn.finish_reason)]))


async def _replay(answer: Answer, writer: Writer, stream: EventStream) -> None:
    """Give an answer in the pieces it came in, and no faster than the client reads."""
    await stream.write(writer.first())
    for begin in range(0, len(answer.pieces), REPLY_SLOTS):
        pieces = answer.pieces[begin : begin + REPLY_SLOTS]
        await stream.write(b"".join(writer.item(TextDelta(piece)) for piece in pieces))
    await stream.write(writer.last(answer.finish_reason))
