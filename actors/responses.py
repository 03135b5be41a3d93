"""A response from its request to its end, whichever door it came in by.

Knows: which conversation a response goes on with, where it forks off, what is put on record and
when. Refuses to know: HTTP and WebSocket (`actors.responses_front`, `actors.responses_socket`), and
how words are encoded.

A response that names an earlier one goes on in the live conversation, if that stands exactly where
it stood then; else in a new one, which is told the whole history. Between that look and the
beginning of the turn nothing waits.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from itertools import chain
from typing import TYPE_CHECKING
from uuid import uuid4

import trio
from attrs import define, evolve, frozen

from ..schemas.errors import (
    Conflict,
    GatewayError,
    InternalError,
    InvalidRequest,
    NotFound,
    Overloaded,
)
from ..schemas.message import Message, check_results, digest
from ..schemas.response_events import Ending, ResponseHeading, ending_of
from ..schemas.responses import ResponseTurn
from ..schemas.sampling import without_effect
from ..schemas.turn import Answer, Completed, Setup
from ..schemas.turn_items import TextDelta, TurnItem
from ..transport.attachments import resolve_all
from .answering import Question, Source, answering, find_conversation
from .history import TurnRecord
from .models import name_of
from .response_record import Record, answer_of
from .turns import REPLY_SLOTS, Turn
from .workspaces import name_of_place, place_of

if TYPE_CHECKING:
    from .conversation import Conversation
    from .gateway import Gateway
    from .response_store import ResponseStore

OnItems = Callable[[Sequence[TurnItem]], Awaitable[None]]


@frozen(kw_only=True)
class Asking:
    """Who asks, and what they said beside the request itself.

    `labels` become headers of the response, where there are any. `conversation_id`: the one that
    was named, in the request or beside it. `shelf` is where a response is kept that shall not be
    stored; None: nowhere.
    """

    gateway: Gateway
    owner: str
    labels: dict[str, str]
    conversation_id: str | None = None
    reject_if_busy: bool = False
    cacheable: bool = True
    shelf: ResponseStore | None = None


@frozen(kw_only=True)
class Job:
    """A request that nothing speaks against. `question` has what is new alone, and no place yet;
    `base` is the response that it goes on with."""

    asking: Asking
    asked: ResponseTurn
    question: Question
    base: Record | None = None

    @property
    def shelf(self) -> ResponseStore | None:
        return self.asking.gateway.responses if self.asked.store else self.asking.shelf


# -- accepted --------------------------------------------------------------------------------------


async def accept(asking: Asking, asked: ResponseTurn) -> Job:
    """Refuse what can be refused before anything is spent. Raises `GatewayError`."""
    gateway = asking.gateway
    if gateway.draining:
        raise Overloaded("The gateway is stopping.", code="draining", retry_after=5)
    base = _base(asking, asked.previous_response_id)
    named = asked.model if asked.model is not None or base is None else base.model
    choice = gateway.models.resolve(named)
    workspace = asked.workspace or (base.workspace if base is not None else "")
    if asked.workspace:
        place_of(asked.workspace, choice.profile, asking.owner)  # refused now, not in the middle
    question = Question(
        gateway=gateway,
        owner=asking.owner,
        labels=asking.labels,
        messages=(),
        model=choice.model,
        profile=choice.profile,
        workspace=workspace if choice.profile == "agent" else "",
        keeps_model=asked.model is None,
        system=asked.system,
        tools=asked.tools,
        schema=asked.schema,
        options=asked.options,
        conversation=find_conversation(
            gateway, asking.owner, asking.conversation_id, asking.labels
        ),
        reject_if_busy=asking.reject_if_busy,
        # What comes of work in the background, or behind another response, is that one's alone.
        cacheable=asking.cacheable
        and base is None
        and not (asked.background or asked.options.reasoning),
        shaping=asked.shaping,
    )
    _tell_ignored(question, asked)
    if base is not None and base.history is not None:
        check_results(asked.messages, base.open_calls, lambda _: "input")
    blocks = await resolve_all(asked.attachments, gateway.attachments)
    question = evolve(question, messages=asked.filled(blocks))
    return Job(asking=asking, asked=asked, question=question, base=base)


def _base(asking: Asking, response_id: str | None) -> Record | None:
    """The response that is gone on with. Raises `InvalidRequest`, `Conflict`."""
    if response_id is None:
        return None
    for store in (asking.shelf, asking.gateway.responses):
        if store is None:
            continue
        with suppress(NotFound):
            return _checked(store.find(response_id, asking.owner, time.time()))
    raise InvalidRequest(
        f"Previous response with id '{response_id[:100]}' not found.",
        code="previous_response_not_found",
        param="previous_response_id",
    )


def _checked(record: Record) -> Record:
    if record.ending is None:
        raise Conflict(
            "That response is still in progress.",
            code="response_in_progress",
            param="previous_response_id",
        )
    if record.ending.status in ("failed", "cancelled"):
        raise InvalidRequest(
            f"That response has {record.ending.status}, and left no trace: go on with the one"
            " before it.",
            code="invalid_value",
            param="previous_response_id",
        )
    return record


def _tell_ignored(question: Question, asked: ResponseTurn) -> None:
    """Name what the request asks for in vain: of anybody, and of the model that is to answer."""
    model, held = question.model, question.conversation
    if held is not None and question.keeps_model:
        model = held.info.model
    names = dict.fromkeys((*asked.ignored, *without_effect(asked.options, model)))
    if names:
        question.labels["x-ccapi-ignored"] = ", ".join(names)


# -- placed ----------------------------------------------------------------------------------------


@frozen
class _Place:
    """A question in its place, and what was said before what it asks (None: not known)."""

    question: Question
    before: tuple[Message, ...] | None


def _place(job: Job) -> _Place:
    """Nothing may wait from here to the beginning of the turn."""
    if job.base is not None:
        return _behind(job.base, job)
    conversation = job.question.conversation
    return _Place(job.question, () if conversation is None else _said_in(job, conversation))


def _said_in(job: Job, conversation: Conversation) -> tuple[Message, ...] | None:
    """What a conversation that was named holds, in words, as far as responses tell."""
    if not conversation.held:
        return ()
    latest = job.asking.gateway.responses.latest(conversation.conversation_id)
    if latest is not None and latest.is_settled and latest.place == conversation.held:
        return latest.history  # the same messages, not their like
    history = conversation.feed.history
    said = tuple(chain.from_iterable(_said(turn) for turn in history))
    return said if tuple(map(digest, said)) == conversation.held else None


def _said(turn: TurnRecord) -> tuple[Message, ...]:
    return (*turn.messages, *((answer_of(turn.output),) if turn.output else ()))


def _behind(base: Record, job: Job) -> _Place:
    new, question = tuple(job.question.messages), job.question
    tools = question.tools
    if tools is None and not base.open_calls:
        tools = ()  # as the system text, tools are a request's own; open calls need theirs
    question = evolve(question, system=question.system or "", tools=tools)
    if base.is_warm_up:
        question = evolve(question, system=job.question.system, tools=job.question.tools)
    conversation = _still_there(base, job)
    if conversation is not None:
        conversation.claim()
        question.labels["x-conversation-id"] = conversation.conversation_id
        question.labels["x-ccapi-lineage"] = "hit"
        known = base.is_settled or base.history is None
        messages = new if known else (*(base.history or ()), *new)
        return _Place(evolve(question, conversation=conversation, messages=messages), base.history)
    if base.history is None:
        raise InvalidRequest(
            "The conversation has moved on since that response, and what it held then is not kept.",
            code="previous_response_not_found",
            param="previous_response_id",
        )
    messages = (*base.history, *new)
    return _Place(evolve(question, messages=messages, whole_history=True), base.history)


def _still_there(base: Record, job: Job) -> Conversation | None:
    """The conversation of the response, if it stands where it stood then, and is free."""
    gateway = job.asking.gateway
    with suppress(NotFound):
        conversation = gateway.find(base.heading.conversation_id, owner=job.asking.owner)
        other = not job.question.keeps_model and conversation.info.profile != job.question.profile
        if conversation.is_free and conversation.held == base.place and not other:
            return conversation
    return None


# -- running ---------------------------------------------------------------------------------------


@define(eq=False)
class Running:
    """A response that is being given. `relay` brings it to its end."""

    job: Job
    source: Source
    record: Record

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
    place = _place(job)
    held = place.question.conversation.held if place.question.conversation is not None else ()
    async with answering(place.question, told) as source:
        record = _begin(job, place, source, held)
        if job.shelf is not None:
            job.shelf.put(record, time.time())
        try:
            yield Running(job, source, record)
        except BaseException as error:
            if record.ending is None:
                end(job, record, _broken_off(record, error))
            if job.shelf is not None and not told():
                job.shelf.drop(record)
            raise


def _begin(job: Job, place: _Place, source: Source, held: tuple[bytes, ...]) -> Record:
    answer, question = source.answer, place.question
    profile, workspace = question.profile, question.workspace
    if question.conversation is not None:
        info = question.conversation.info
        profile, workspace = info.profile, name_of_place(info.workspace) or ""
    model = name_of(Setup(source.model, profile=profile))
    heading = ResponseHeading(
        turn_id=answer.turn_id if isinstance(answer, Turn) else str(uuid4()),
        created_at=int(time.time()),
        model=job.asked.model or model,
        conversation_id=source.conversation_id,
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
