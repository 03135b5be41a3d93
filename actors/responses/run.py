"""A response while it is given, and what is put on record of it.

Knows: when a record begins and ends, what of a turn goes on it, and responses that generate
nothing. Refuses to know: where a response goes on (`actors.responses.job`), HTTP and WebSocket
(`actors.http.responses`, `actors.websocket.responses`), and how words are encoded.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from uuid import uuid4

import trio
from attrs import define, evolve

from ...schemas.errors import GatewayError, InternalError, NotFound
from ...schemas.message import Message
from ...schemas.openai.response_events import Ending, ResponseHeading, ending_of
from ...schemas.openai.responses import ResponseTurn
from ...schemas.turn import Answer, Completed, Profile, Setup, Usage
from ...schemas.turn_items import TextDelta, TurnItem
from ..answering import Question, Source, answering
from ..conversations.models import name_of
from ..conversations.workspace_paths import name_of_place
from ..session.reply_channel import REPLY_SLOTS, Turn
from .job import Job, Place, place_of_job
from .record import Record

OnItems = Callable[[Sequence[TurnItem]], Awaitable[None]]


@define(eq=False)
class Running:
    """A response that is being given. `relay` brings it to its end."""

    job: Job
    source: Source
    record: Record
    question: Question

    async def relay(self, on_items: OnItems) -> None:
        """Pass items on as they come; what has come meanwhile is passed on together. Raises the
        turn's `GatewayError`."""
        answer = self.source.answer
        if isinstance(answer, Turn):
            await self._relay(answer, on_items)
            self._end(Completed(answer.finish_reason, answer.usage))
        else:
            await self._replay(answer, on_items)
            self._end(Completed(answer.finish_reason, answer.usage))

    async def _relay(self, turn: Turn, on_items: OnItems) -> None:
        items: list[TurnItem] = []
        async for item in turn:
            items.append(item)
            with suppress(trio.WouldBlock):
                while True:
                    items.append(turn.receive_nowait())
            self.record.add(items)
            await on_items(items)
            items.clear()

    async def _replay(self, answer: Answer, on_items: OnItems) -> None:
        """In the pieces it came in, and no faster than the client reads."""
        for begin in range(0, len(answer.pieces), REPLY_SLOTS):
            items = [TextDelta(piece) for piece in answer.pieces[begin : begin + REPLY_SLOTS]]
            self.record.add(items)
            await on_items(items)

    def _end(self, completed: Completed) -> None:
        end(self.job, self.record, ending_of(completed, int(time.time())))


def end(job: Job, record: Record, ending: Ending) -> None:
    """The response has ended, and its record says so."""
    place = record.place
    if ending.is_whole:
        with suppress(NotFound):
            found = job.asking.gateway.find(record.heading.conversation_id, owner=record.owner)
            place = found.held
    record.end(ending, place)
    if job.shelf is not None:
        job.shelf.settle(record, time.time())


async def nobody_listens(items: Sequence[TurnItem]) -> None:
    """For `Running.relay`: the record is all that counts."""


@asynccontextmanager
async def responding(job: Job, told: Callable[[], bool]) -> AsyncIterator[Running]:
    """Have the response given while the block runs, and put on record.

    `told` says whether the client has heard of it: one that failed before nobody will ask for.
    Raises `GatewayError`.
    """
    place = place_of_job(job)
    held = place.question.conversation.held if place.question.conversation is not None else ()
    async with answering(place.question, told) as source:
        record = _begin(job, place, source, held)
        if job.shelf is not None:
            job.shelf.put(record, time.time())
        try:
            yield Running(job, source, record, place.question)
        except BaseException as error:
            if record.ending is None:
                end(job, record, _broken_off(record, error))
            if job.shelf is not None and not told():
                job.shelf.drop(record)
            raise


def _begin(job: Job, place: Place, source: Source, held: tuple[bytes, ...]) -> Record:
    answer = source.answer
    turn_id = answer.turn_id if isinstance(answer, Turn) else str(uuid4())
    model = Setup(source.model, profile=_profile(place.question))
    return _record(job, place, turn_id, source.conversation_id, name_of(model), held)


def _profile(question: Question) -> Profile:
    held = question.conversation
    return question.profile if held is None else held.info.profile


def _record(
    job: Job,
    place: Place,
    turn_id: str,
    conversation_id: str,
    model: str,
    held: tuple[bytes, ...],
) -> Record:
    question = place.question
    workspace = question.workspace
    if question.conversation is not None:
        workspace = name_of_place(question.conversation.info.workspace) or ""
    heading = ResponseHeading(
        turn_id=turn_id,
        created_at=int(time.time()),
        model=job.asked.model or model,
        conversation_id=conversation_id,
        names_conversation=job.asking.conversation_id is not None,
        echo=job.asked.echo,
    )
    return Record(
        heading=heading,
        owner=job.asking.owner,
        model=model,
        workspace=workspace,
        asked=tuple(job.question.messages),
        said=job.asked.said,
        spoken=place.spoken,
        brought=place.brought,
        before=place.before,
        place=held,
        background=job.asked.background,
        keeps_pieces=job.asked.background or job.asked.stream,
    )


def _broken_off(record: Record, error: BaseException) -> Ending:
    now = int(time.time())
    if isinstance(error, GatewayError):
        return Ending("failed", now, error=error)
    if isinstance(error, Exception):  # it is on its way to whoever logs it
        return Ending("failed", now, error=InternalError("The gateway failed on this request."))
    if record.steered:
        return Ending("incomplete", now, reason="steered")
    return Ending("cancelled", now)


# -- without an answer -----------------------------------------------------------------------------


async def prepare(job: Job) -> Record:
    """A response that generates nothing: a child is made ready for what will be asked behind it,
    and what it was asked is told to the model then. Raises `GatewayError`."""
    place = place_of_job(job)
    question = place.question
    conversation = question.conversation or job.asking.gateway.conversation(
        system=question.setup.system,
        model=name_of(question.setup),
        workspace=question.workspace,
        tools=question.setup.tools,
        owner=job.asking.owner,
    )
    info, held = conversation.info, conversation.held
    record = _record(job, place, str(uuid4()), conversation.conversation_id, info.model, held)
    record.asked_as = _words(question)
    record.is_warm_up = True
    await conversation.warm()
    if job.shelf is not None:
        job.shelf.put(record, time.time())
    end(job, record, Ending("completed", int(time.time()), Usage()))
    return record


def steered(running: Running, asked: ResponseTurn, messages: tuple[Message, ...]) -> Job:
    """What goes on behind a response that was steered: the same question, with more said to it."""
    record, job = running.record, running.job
    record.asked_as = _words(running.question)
    question = evolve(running.question, messages=messages, conversation=None, cacheable=False)
    return evolve(job, asked=asked, question=question, base=record)


def _words(question: Question) -> Question:
    """A question, without what was said before it and where."""
    return evolve(question, messages=(), conversation=None)
