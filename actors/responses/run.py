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
from ...schemas.turn import Completed, Setup, Usage
from ...schemas.turn_items import TurnItem
from ..answering import Source, answering, setup_of
from ..conversations.conversation import ConversationInfo
from ..conversations.models import name_of
from ..conversations.workspace_paths import name_of_place
from .job import Job, find_place, place, settled
from .mcp_tools import lists_of
from .record import Record

KEEP_SECONDS = 2.0
"""Longest wait until a response is stored whose client has gone."""

OnItems = Callable[[Sequence[TurnItem]], Awaitable[None]]


@define(eq=False)
class Running:
    """A response that is being given. `request` is the job's, in its place; `before` are the items
    that it begins with. `relay` brings it to its end."""

    job: Job
    request: ResponseTurn
    source: Source
    record: Record
    before: tuple[TurnItem, ...] = ()

    async def relay(self, on_items: OnItems) -> None:
        """Pass items on as they come, behind the record. Raises the turn's `GatewayError`."""
        source = self.source
        if self.before:
            self.record.add(self.before)
            await on_items(self.before)
        while items := await source.receive_items():
            self.record.add(items)
            await on_items(items)
        completed = Completed(source.finish_reason, source.usage)
        await end(self.job, self.record, ending_of(completed, int(time.time())))


async def end(job: Job, record: Record, ending: Ending) -> None:
    """The response has ended; it is stored, if it is to be, and then its record tells so. Raises
    `Overloaded`."""
    if not job.request.store:
        _settle(job, record, ending)
        return
    ends = None
    with suppress(NotFound):
        found = job.gateway.loaded(record.heading.conversation_id, owner=record.owner)
        ends = await found.position(record.heading.turn_id)
    with record.being_kept():
        _settle(job, record, ending)
        await job.gateway.kept_responses.keep(record, ends)


def _settle(job: Job, record: Record, ending: Ending) -> None:
    held = record.place
    if ending.is_whole:
        with suppress(NotFound):
            found = job.gateway.loaded(record.heading.conversation_id, owner=record.owner)
            held = found.held
    record.end(ending, held)
    if job.store is not None:
        job.store.settle(record, time.time())


async def discard_items(items: Sequence[TurnItem]) -> None:
    """For `Running.relay`: the record is all that counts."""


@asynccontextmanager
async def responding(job: Job, has_begun: Callable[[], bool]) -> AsyncIterator[Running]:
    """Have the response given while the block runs, and put on record.

    `has_begun` says whether the client knows of it: one that failed before is asked for by no
    client. Raises `GatewayError`.
    """
    job, made = await settled(job)
    try:
        async with _responding(job, made, has_begun) as running:
            yield running
    except GatewayError as error:
        if made:  # a server has done something that must not be done twice
            raise error.for_good() from error
        raise


@asynccontextmanager
async def _responding(
    job: Job, made: tuple[TurnItem, ...], has_begun: Callable[[], bool]
) -> AsyncIterator[Running]:
    """`made` are the calls of MCP servers that were made before the turn."""
    await find_place(job)
    request = place(job)
    known = _lists_known(job)
    lists = lists_of(request, known)
    held: tuple[bytes, ...] = ()
    if request.conversation_id is not None:
        held = job.gateway.loaded(request.conversation_id, owner=request.owner).held
    record: Record | None = None
    try:
        async with answering(job.gateway, request, job.headers, has_begun) as source:
            record = _begin(job, request, source, held)
            record.listed = tuple(dict.fromkeys((*known, *(each.server for each in lists))))
            if job.store is not None:
                job.store.put(record, time.time())
            if record.background:  # a client may ask for it after a restart
                await job.gateway.kept_responses.keep(record, None)
            try:
                yield Running(job, request, source, record, (*lists, *made))
            except BaseException as error:
                # No checkpoint from here on until the turn is over: who follows the record may go
                # on in its conversation.
                if record.ending is None:
                    _settle(job, record, _broken_off(record, error))
                if job.store is not None and not has_begun():
                    job.store.drop(record)
                raise
    except BaseException:
        if record is not None and job.request.store and has_begun():
            with trio.move_on_after(KEEP_SECONDS, shield=True), suppress(GatewayError):
                await job.gateway.kept_responses.keep(record, None)
        raise


def _lists_known(job: Job) -> tuple[str, ...]:
    """The MCP servers whose tools the client has received a list of."""
    named = job.request.conversation_id
    latest = job.base if named is None else job.gateway.responses.latest(named)
    return job.request.listed if latest is None else (*latest.listed, *job.request.listed)


def _begin(job: Job, request: ResponseTurn, source: Source, held: tuple[bytes, ...]) -> Record:
    info = _conversation_info(job, request)
    profile = request.profile if info is None else info.profile
    model = name_of(Setup(source.model, profile=profile))
    return _record(job, request, source.turn_id, source.conversation_id, model, held)


def _conversation_info(job: Job, request: ResponseTurn) -> ConversationInfo | None:
    if request.conversation_id is None:
        return None
    return job.gateway.loaded(request.conversation_id, owner=request.owner).info


def _record(
    job: Job,
    request: ResponseTurn,
    turn_id: str,
    conversation_id: str,
    model: str,
    held: tuple[bytes, ...],
) -> Record:
    asked, info = job.request, _conversation_info(job, request)
    workspace = request.workspace if info is None else name_of_place(info.workspace) or ""
    heading = ResponseHeading(
        turn_id=turn_id,
        created_at=int(time.time()),
        model=asked.named_model or model,
        conversation_id=conversation_id,
        names_conversation=asked.conversation_id is not None,
        echo=asked.echo,
    )
    return Record(
        heading=heading,
        owner=asked.owner,
        model=model,
        workspace=workspace,
        asked=tuple(asked.messages),
        said=asked.said,
        spoken=request.said,
        brought=request.brought,
        before=request.before,
        place=held,
        background=asked.background,
        keeps_pieces=asked.background or asked.stream,
    )


def _broken_off(record: Record, error: BaseException) -> Ending:
    now = int(time.time())
    if isinstance(error, GatewayError):
        return Ending("failed", now, error=error)
    if isinstance(error, Exception):  # the boundary logs it
        return Ending("failed", now, error=InternalError("The gateway failed on this request."))
    if record.steered:
        return Ending("incomplete", now, reason="steered")
    return Ending("cancelled", now)


# -- without an answer -----------------------------------------------------------------------------


async def prepare(job: Job) -> Record:
    """A response that generates nothing: a child is made ready for what will be asked behind it,
    and the model receives then what was asked here. Raises `GatewayError`."""
    await find_place(job)
    request = place(job)
    if request.conversation_id is not None:
        conversation = job.gateway.loaded(request.conversation_id, owner=request.owner)
    else:
        setup = setup_of(request)
        conversation = job.gateway.conversation(
            system=setup.system,
            model=name_of(setup),
            workspace=request.workspace,
            tools=setup.tools,
            owner=request.owner,
            kept=request.kept,
        )
    info, held = conversation.info, conversation.held
    record = _record(job, request, str(uuid4()), conversation.conversation_id, info.model, held)
    record.asked_as = _words(request)
    record.is_warm_up = True
    await conversation.warm()
    if job.store is not None:
        job.store.put(record, time.time())
    await end(job, record, Ending("completed", int(time.time()), Usage()))
    return record


def steered(running: Running, steering: ResponseTurn, messages: tuple[Message, ...]) -> Job:
    """What goes on behind a response that was steered: the same request, with more said to it.
    `messages` are those of `steering`, whole."""
    record, job = running.record, running.job
    record.asked_as = _words(running.request)
    request = evolve(
        steering,
        messages=messages,
        attachments=(),
        system=running.request.system,
        tools=running.request.tools,
        place=running.request.place,
        cacheable=False,
    )
    return evolve(job, request=request, base=record)


def _words(request: ResponseTurn) -> ResponseTurn:
    """A request, without what was said before it and where."""
    return evolve(request, messages=(), before=(), conversation_id=None)
