"""What a response has to do, and where: the request accepted, and the conversation it goes on in.

Knows: what is refused before anything is spent, which conversation a response goes on with, and
where it forks off. Refuses to know: how it is given and put on record (`actors.responses.run`), and
the doors that requests come in by.

A response that names an earlier one goes on in the live conversation, if that stands exactly where
it stood then; else in a new one, which receives the whole history.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from attrs import evolve, frozen

from ...schemas.errors import Conflict, InvalidRequest, NotFound
from ...schemas.message import Message, check_results, digest
from ...schemas.openai.response_tools import with_tools, without_search
from ...schemas.openai.responses import ResponseTurn, in_vain, joined
from ...schemas.turn import Setup
from ...schemas.turn_items import TurnItem
from ..answering import Headers, name_workspace, setup_of
from ..answering import accept as accept_turn
from .mcp_tools import make_approved, resolve
from .record import Record

if TYPE_CHECKING:
    from ..conversations.conversation import Conversation
    from ..gateway import Gateway
    from .store import ResponseStore


@frozen(kw_only=True)
class Job:
    """A response that nothing speaks against. `request` is accepted, has what is new alone, and
    has no place yet; `base` is the response that it goes on with. `headers` become headers of the
    HTTP response, where there is one. `shelf` is where a response is kept that shall not be stored
    (None: nowhere)."""

    gateway: Gateway
    request: ResponseTurn
    base: Record | None
    headers: Headers
    shelf: ResponseStore | None = None

    @property
    def store(self) -> ResponseStore | None:
        """Where the response is kept."""
        return self.gateway.responses if self.request.store else self.shelf


# -- accepted --------------------------------------------------------------------------------------


async def accept(
    gateway: Gateway,
    request: ResponseTurn,
    owner: str,
    headers: Headers,
    shelf: ResponseStore | None = None,
) -> Job:
    """Refuse what can be refused before anything is spent. Raises `GatewayError`."""
    request = await resolve(gateway, request, owner)
    base = await _base(gateway, owner, request.previous_response_id, shelf)
    if base is not None and base.history is not None:
        check_results(request.messages, base.open_calls, lambda _: "input")
    # What comes of work in the background, or behind another response, is that one's alone.
    alone = base is not None or request.background or request.options.reasoning
    request = evolve(request, cacheable=request.cacheable and not alone)
    default_model = None if base is None else base.model
    request = await accept_turn(gateway, request, owner, headers, in_vain, default_model)
    if request.options.search is None:  # none was asked for, or it is not for this client
        tools = without_search(request.echo["tools"])
        request = evolve(request, echo={**request.echo, "tools": tools})
    if base is not None and request.profile == "agent" and not request.workspace:
        request = evolve(request, workspace=base.workspace)
    return Job(gateway=gateway, request=request, base=base, headers=headers, shelf=shelf)


async def _base(
    gateway: Gateway, owner: str, response_id: str | None, shelf: ResponseStore | None
) -> Record | None:
    """The response that is gone on with. Raises `InvalidRequest`, `Conflict`."""
    if response_id is None:
        return None
    if shelf is not None:
        with suppress(NotFound):
            return _checked(shelf.find(response_id, owner, time.time()))
    with suppress(NotFound):
        return _checked(await gateway.kept_responses.find(response_id, owner))
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


async def settled(job: Job) -> tuple[Job, tuple[TurnItem, ...]]:
    """The job, once the calls that its client has approved are made; and what came of them. Raises
    `GatewayError`."""
    if not job.request.approvals:
        return job, ()
    await find_place(job)
    history: Sequence[Message] = ()
    if job.base is not None:
        history = job.base.history or ()
    elif job.request.conversation_id is not None:
        owner = job.request.owner
        conversation = job.gateway.loaded(job.request.conversation_id, owner=owner)
        history = conversation.broadcast.history.messages()
    request, items = await make_approved(job.gateway, job.request, history)
    return evolve(job, request=request), items


# -- placed ----------------------------------------------------------------------------------------


async def find_place(job: Job) -> None:
    """Have the conversation in memory that the job may go on in. Raises `GatewayError`."""
    owner, named = job.request.owner, job.request.conversation_id
    if job.base is not None:
        with suppress(NotFound):  # then in a new one
            await job.gateway.find(job.base.heading.conversation_id, owner=owner)
    elif named is not None:
        await job.gateway.find(named, owner=owner)


def place(job: Job) -> ResponseTurn:
    """The request in its place, which `find_place` has brought into memory. No checkpoint from
    here to the beginning of the turn."""
    if job.base is not None:
        return _behind(job.base, job)
    request = job.request
    if request.conversation_id is None:
        return request
    conversation = job.gateway.loaded(request.conversation_id, owner=request.owner)
    return evolve(request, before=_said_in(job.gateway, conversation))


async def whole_of(job: Job) -> tuple[Setup, tuple[Message, ...]]:
    """All that a model would be given for the job. Raises `InvalidRequest` where that is not
    known, or is an agent's own business."""
    await find_place(job)
    request = place(job)
    if request.before is None:
        raise InvalidRequest(
            "What that conversation holds is not kept in words, so that it cannot be counted.",
            code="unsupported_parameter",
            param="conversation" if job.base is None else "previous_response_id",
        )
    messages = (*request.before, *job.request.messages)
    if request.conversation_id is None:
        setup = setup_of(request)
    else:
        conversation = job.gateway.loaded(request.conversation_id, owner=request.owner)
        if request.keeps_model:
            request = evolve(request, model=None)
        setup = request.setup(conversation.entry.memory.setup)
    if setup.profile == "agent":
        raise InvalidRequest(
            "What an agent reads is up to Claude Code, and cannot be counted ahead.",
            code="unsupported_parameter",
            param="model",
        )
    return setup, messages


def _said_in(gateway: Gateway, conversation: Conversation) -> tuple[Message, ...] | None:
    """What a conversation that was named holds, in words, as far as responses show."""
    if not conversation.held:
        return ()
    latest = gateway.responses.latest(conversation.conversation_id)
    if latest is not None and latest.is_settled and latest.place == conversation.held:
        return latest.history  # the same messages, not their like
    history = conversation.broadcast.history
    said = history.messages()
    return said if tuple(map(digest, said)) == conversation.held else None


def _behind(base: Record, job: Job) -> ResponseTurn:
    request = job.request
    tools, instructions = request.tools, request.instructions
    if base.asked_as is not None:
        # What the request leaves open is as it was asked before: it is the same one still.
        if tools is None:
            asked = base.asked_as
            tools = asked.tools
            request = evolve(request, hosted=asked.hosted, lists=asked.lists)
        if instructions is None:
            instructions = base.heading.echo["instructions"]
    elif tools is None and not base.open_calls:
        tools = ()  # as the instructions, tools are a request's own; open calls need theirs
    # What stood in the input stays: it is part of what was said.
    said, brought = joined(base.spoken, request.said), with_tools(base.brought, request.brought)
    if brought and tools is not None and not request.allows_some:
        tools = with_tools(tools, brought)
    request = evolve(
        request,
        system=joined(instructions, said) or "",
        tools=tools,
        said=said,
        brought=brought,
        before=base.history,
    )
    conversation = _still_there(base, job)
    if conversation is not None:
        conversation.claim()
        job.headers["x-conversation-id"] = conversation.conversation_id
        job.headers["x-ccapi-lineage"] = "hit"
        name_workspace(conversation, job.headers)
        unsettled = () if base.is_settled else base.history or base.asked
        return evolve(
            request,
            conversation_id=conversation.conversation_id,
            messages=(*unsettled, *request.messages),
        )
    if base.history is None:
        raise InvalidRequest(
            "The conversation has moved on since that response, and what it held then is not kept.",
            code="previous_response_not_found",
            param="previous_response_id",
        )
    return evolve(
        request,
        conversation_id=None,
        messages=(*base.history, *request.messages),
        whole_history=True,
        place=_workspace_of(base, job),
    )


def _workspace_of(base: Record, job: Job) -> str:
    """Where the agent that gave the response works, if its conversation is still there."""
    with suppress(NotFound):
        found = job.gateway.loaded(base.heading.conversation_id, owner=job.request.owner)
        if job.request.profile == "agent":
            return found.place
    return ""


def _still_there(base: Record, job: Job) -> Conversation | None:
    """The conversation of the response, if it stands where it stood then, and is free."""
    request = job.request
    if request.apart:
        return None
    with suppress(NotFound):
        conversation = job.gateway.loaded(base.heading.conversation_id, owner=request.owner)
        other = not request.keeps_model and conversation.info.profile != request.profile
        if conversation.is_free and conversation.held == base.place and not other:
            return conversation
    return None
