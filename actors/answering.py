"""Where the answer to a request comes from: the cache, a conversation that holds its history, or a
new one.

Knows: which of them is asked first, and what the client is told of it in headers. Refuses to know:
how a request is worded and an answer written (the fronts), and how a conversation comes by one.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from attrs import evolve, frozen

from ..schemas.errors import InvalidRequest
from ..schemas.message import Message, trim
from ..schemas.turn import Answer, Options, Profile, Setup, Tool
from .conversations.models import name_of
from .conversations.workspace_paths import name_of_place
from .conversations.workspaces import place_of
from .listeners.cache_table import cache_key
from .runtime.boundary import as_gateway_error
from .session.reply_channel import Turn

if TYPE_CHECKING:
    from .conversations.conversation import Conversation
    from .gateway import Gateway


@frozen(kw_only=True)
class Question:
    """A request that nothing speaks against, in the gateway's words.

    `model` is the CLI's id for it, `workspace` what the client calls its own, `place` that of an
    earlier conversation which it goes on with (as `Setup` names it); `system` and `tools`
    are None where the request has none, as is `conversation` where it names none. `keeps_model`: it
    names no model either, and a conversation keeps its own. `cacheable`: an answer given earlier to
    the same request will do. `whole_history`: a new child is told all of it, however long.
    `apart`: no conversation that is there gets to know of it. `shaping` is what else can change the
    answer, as JSON values. `labels` are headers of the
    response, written as they become known.
    """

    gateway: Gateway
    owner: str
    labels: dict[str, str]
    messages: Sequence[Message]
    model: str
    profile: Profile = "chat"
    workspace: str = ""
    place: str = ""
    keeps_model: bool = False
    system: str | None = None
    tools: tuple[Tool, ...] | None = None
    schema: str | None = None
    options: Options
    conversation: Conversation | None = None
    reject_if_busy: bool = False
    cacheable: bool = False
    whole_history: bool = False
    apart: bool = False
    shaping: Mapping[str, Any]

    @property
    def setup(self) -> Setup:
        """What a new conversation would begin with."""
        return Setup(
            model=self.model,
            system=self.system or "",
            profile=self.profile,
            tools=self.tools or (),
            schema=self.schema,
            workspace=place_of(self.workspace, self.profile, self.owner) or self.place,
        )


@frozen
class Source:
    """A turn that runs, or an answer that is there; `model` is the CLI's id of who gives it."""

    answer: Turn | Answer
    conversation_id: str
    model: str


@asynccontextmanager
async def answering(question: Question, told: Callable[[], bool]) -> AsyncIterator[Source]:
    """Have the question answered while the block runs.

    `told` says whether the client has heard which conversation this is: one that nobody knows of
    and that holds nothing is forgotten again. Raises `GatewayError`.
    """
    key = _cache_key(question)
    if key is None:
        async with _turn(question, None, told) as source:
            yield source
        return
    async with question.gateway.cache.flight(key) as answer:
        question.labels["x-ccapi-cache"] = "miss" if answer is None else "hit"
        if answer is None:
            # Inside the flight: identical requests wait for this turn.
            async with _turn(question, key, told) as source:
                yield source
            return
    said = (*question.messages, Message("assistant", (answer.text,)))
    yield Source(answer, _begin(question, said).conversation_id, question.model)


@asynccontextmanager
async def _turn(
    question: Question, key: str | None, told: Callable[[], bool]
) -> AsyncIterator[Source]:
    begun = None
    if question.conversation is not None:
        # What the request leaves open stays as the conversation has it.
        turn = question.conversation.turn(
            question.messages,
            model=None if question.keeps_model else name_of(question.setup),
            system=question.system,
            tools=question.tools,
            schema=question.schema,
            options=question.options,
            reject_if_busy=question.reject_if_busy,
        )
    else:
        conversation, messages, limit = _place(question)
        begun = conversation if messages is question.messages else None
        turn = conversation.turn(
            messages,
            tools=question.tools or (),
            schema=question.schema,
            options=question.options,
            reject_if_busy=question.reject_if_busy,
            cache_key=key,
            history_limit=limit,
        )
    try:
        async with turn as running:
            running.follow_choice(partial(question.labels.__setitem__, "x-ccapi-tool-choice"))
            try:
                yield Source(running, running.conversation_id, running.model)
            except Exception as error:
                # Whatever went wrong, be it another choice's turn: this one's work is done.
                if not running.has_effects:
                    raise
                raise as_gateway_error(error).for_good() from error
    except BaseException:
        if begun is not None and not told():
            begun.abandon()
            question.labels.pop("x-conversation-id", None)
        raise


def _place(question: Question) -> tuple[Conversation, Sequence[Message], int | None]:
    """The conversation for a request that brings its history: its messages there, and about how
    many of them a child may be told. No checkpoint from here to the start of the turn."""
    labels, gateway = question.labels, question.gateway
    held = None
    if not (question.apart or question.options.begun):
        # Of an answer that was begun, nobody holds the whole history in words but who brings it.
        held = gateway.holder(question.messages, question.setup, owner=question.owner)
    labels["x-ccapi-lineage"] = "miss" if held is None else "hit"
    if held is not None:
        labels["x-conversation-id"] = held[0].conversation_id
        tell_workspace(held[0], labels)
        return (*held, None)
    if question.profile == "agent" and not (question.workspace or question.place):
        place = gateway.continued_place(question.messages, owner=question.owner)
        question = evolve(question, place=place)
    if question.whole_history:
        return _begin(question, ()), question.messages, None
    limit = gateway.settings.conversation.max_history_messages
    left_out = len(question.messages) - len(trim(question.messages, limit))
    if left_out:
        labels["x-ccapi-history-omitted"] = str(left_out)
    return _begin(question, ()), question.messages, limit


def _begin(question: Question, seed: Sequence[Message]) -> Conversation:
    setup = question.setup
    conversation = question.gateway.conversation(
        system=setup.system,
        model=name_of(setup),
        workspace=question.workspace,
        tools=setup.tools,
        owner=question.owner,
        seed=seed,
        private=question.apart,  # others': until somebody names it
        place=question.place,
    )
    question.labels["x-conversation-id"] = conversation.conversation_id
    tell_workspace(conversation, question.labels, new=not setup.workspace)
    return conversation


def tell_workspace(
    conversation: Conversation, labels: dict[str, str], *, new: bool = False
) -> None:
    """Name the workspace that an agent answers in: by its client's name or that of the conversation
    for which it was made; or as ``new``, one that nothing has been done in yet."""
    place = conversation.place
    if place:
        labels["x-ccapi-workspace"] = "new" if new else name_of_place(place) or place


def check_workspace(question: Question, named: str) -> bool:
    """Whether the workspace that a request names has an effect: a conversation that exists works
    where it does. Raises `InvalidRequest`."""
    held, profile = question.conversation, question.profile
    if held is not None and question.keeps_model:
        profile = held.info.profile
    place = place_of(named, profile, question.owner)
    return held is None or not named or place == held.place


def _cache_key(question: Question) -> str | None:
    """What the cache knows this request by; None where it must not be asked."""
    if question.conversation is not None or not question.cacheable or question.profile != "chat":
        return None  # an agent does things, which a second asker wants done too
    if not question.gateway.settings.cache.enabled:
        return None
    return cache_key(
        question.owner, question.messages, question.setup, question.profile, question.shaping
    )


def find_conversation(
    gateway: Gateway, owner: str, conversation_id: str | None, labels: dict[str, str]
) -> Conversation | None:
    """The conversation that a request names, if it names one. Raises `NotFound`.

    Whoever names one trusts that it holds what they know of. So from now on it is theirs.
    """
    if conversation_id is None:
        return None
    conversation = gateway.find(conversation_id, owner=owner)
    conversation.claim()
    labels["x-conversation-id"] = conversation.conversation_id
    tell_workspace(conversation, labels)
    return conversation


def rejects_if_busy(on_busy: str | None) -> bool:
    """What ``x-ccapi-on-busy`` asks for. Raises `InvalidRequest`."""
    if on_busy not in (None, "queue", "reject"):
        raise InvalidRequest(
            "x-ccapi-on-busy must be queue or reject.",
            code="invalid_value",
            param="x-ccapi-on-busy",
        )
    return on_busy == "reject"
