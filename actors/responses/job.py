"""What a response has to do, and where: the request accepted, and the conversation it goes on in.

Knows: what is refused before anything is spent, which conversation a response goes on with, and
where it forks off. Refuses to know: how it is given and put on record (`actors.responses.run`), and
the doors that requests come in by.

A response that names an earlier one goes on in the live conversation, if that stands exactly where
it stood then; else in a new one, which is told the whole history.
"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING

from attrs import evolve, frozen

from ...schemas.errors import Conflict, InvalidRequest, NotFound, Overloaded
from ...schemas.message import Message, check_results, digest
from ...schemas.openai.ignored_fields import encode_ignored
from ...schemas.openai.response_tools import with_tools
from ...schemas.openai.responses import ResponseTurn, in_vain
from ...schemas.turn import Prompt, Setup, Tool
from ..answering import Question, check_workspace, find_conversation, tell_workspace
from ..attaching import word
from ..conversations.models import check_goes_on, plain_name
from .record import Record

if TYPE_CHECKING:
    from ..conversations.conversation import Conversation
    from ..gateway import Gateway
    from .store import ResponseStore


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
    choice = gateway.models.resolve(named, asking.owner)
    check_goes_on(choice, named, asked.begun)
    workspace = asked.workspace or (base.workspace if base is not None else "")
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
    question = evolve(question, messages=await word(gateway, asked))
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
    model, profile, held = question.model, question.profile, question.conversation
    if held is not None:
        profile = held.info.profile
        model = plain_name(held.info.model) if question.keeps_model else model
    vain = in_vain(asked.options, model, in_words=profile == "chat")
    ignored = dict.fromkeys((*asked.ignored, *vain))
    if not check_workspace(question, asked.workspace or ""):  # refused now, not in the middle
        ignored["workspace"] = None
    names = encode_ignored(ignored)
    if names is not None:
        question.labels["x-ccapi-ignored"] = names


# -- placed ----------------------------------------------------------------------------------------


@frozen
class Place:
    """A question in its place, and what was said before what it asks (None: not known). `spoken`
    and `brought` are the system texts and the tools that stood in its input, and in those before.
    """

    question: Question
    before: tuple[Message, ...] | None
    spoken: str | None = None
    brought: tuple[Tool, ...] = ()


def place_of_job(job: Job) -> Place:
    """Where the job stands. Nothing may wait from here to the beginning of the turn."""
    if job.base is not None:
        return _behind(job.base, job)
    conversation, asked = job.question.conversation, job.asked
    before = () if conversation is None else _said_in(job, conversation)
    return Place(job.question, before, asked.said, asked.brought)


def whole_of(job: Job) -> tuple[Setup, tuple[Message, ...]]:
    """All that a model would be given for the job. Raises `InvalidRequest` where that is not
    known, or is an agent's own business."""
    place = place_of_job(job)
    question, conversation = place.question, place.question.conversation
    if place.before is None:
        raise InvalidRequest(
            "What that conversation holds is not kept in words, so that it cannot be counted.",
            code="unsupported_parameter",
            param="conversation" if job.base is None else "previous_response_id",
        )
    messages = (*place.before, *job.question.messages)
    setup = question.setup
    if conversation is not None:
        asked = Prompt(
            messages,
            model=None if question.keeps_model else question.model,
            system=question.system,
            tools=question.tools,
            schema=question.schema,
        )
        setup = asked.setup(conversation.entry.memory.setup)
    if setup.profile == "agent":
        raise InvalidRequest(
            "What an agent reads is up to Claude Code, and cannot be counted ahead.",
            code="unsupported_parameter",
            param="model",
        )
    return setup, messages


def _said_in(job: Job, conversation: Conversation) -> tuple[Message, ...] | None:
    """What a conversation that was named holds, in words, as far as responses tell."""
    if not conversation.held:
        return ()
    latest = job.asking.gateway.responses.latest(conversation.conversation_id)
    if latest is not None and latest.is_settled and latest.place == conversation.held:
        return latest.history  # the same messages, not their like
    history = conversation.broadcast.history
    said = history.messages()
    return said if tuple(map(digest, said)) == conversation.held else None


def _behind(base: Record, job: Job) -> Place:
    new, question, asked = tuple(job.question.messages), job.question, job.asked
    tools, instructions = question.tools, asked.instructions
    if base.asked_as is not None:
        # What the question leaves open is as it was asked before: it is the same one still.
        tools = base.asked_as.tools if tools is None else tools
        if instructions is None:
            instructions = base.heading.echo["instructions"]
    elif tools is None and not base.open_calls:
        tools = ()  # as the instructions, tools are a request's own; open calls need theirs
    # What stood in the input stays: it is part of what was said.
    spoken, brought = _joined(base.spoken, asked.said), with_tools(base.brought, asked.brought)
    if brought and tools is not None and not asked.allows_some:
        tools = with_tools(tools, brought)
    question = evolve(question, system=_joined(instructions, spoken) or "", tools=tools)
    conversation = _still_there(base, job)
    if conversation is not None:
        conversation.claim()
        question.labels["x-conversation-id"] = conversation.conversation_id
        question.labels["x-ccapi-lineage"] = "hit"
        tell_workspace(conversation, question.labels)
        messages = new if base.is_settled else (*(base.history or base.asked), *new)
        question = evolve(question, conversation=conversation, messages=messages)
        return Place(question, base.history, spoken, brought)
    if base.history is None:
        raise InvalidRequest(
            "The conversation has moved on since that response, and what it held then is not kept.",
            code="previous_response_not_found",
            param="previous_response_id",
        )
    messages = (*base.history, *new)
    place = _workspace_of(base, job)
    question = evolve(question, messages=messages, whole_history=True, place=place)
    return Place(question, base.history, spoken, brought)


def _workspace_of(base: Record, job: Job) -> str:
    """Where the agent that gave the response works, if its conversation is still there."""
    with suppress(NotFound):
        found = job.asking.gateway.find(base.heading.conversation_id, owner=job.asking.owner)
        if job.question.profile == "agent":
            return found.place
    return ""


def _joined(*texts: str | None) -> str | None:
    given = [text for text in texts if text is not None]
    return "\n\n".join(given) if given else None


def _still_there(base: Record, job: Job) -> Conversation | None:
    """The conversation of the response, if it stands where it stood then, and is free."""
    if job.question.apart:
        return None
    gateway = job.asking.gateway
    with suppress(NotFound):
        conversation = gateway.find(base.heading.conversation_id, owner=job.asking.owner)
        other = not job.question.keeps_model and conversation.info.profile != job.question.profile
        if conversation.is_free and conversation.held == base.place and not other:
            return conversation
    return None
