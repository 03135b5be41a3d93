"""A `TurnRequest` becomes an answer: it is accepted, placed, and answered by the cache, by the
conversation that holds its history, or by a new one.

Knows: what is refused before anything is spent, which of the three is asked first, and what the
client learns of it in headers. Refuses to know: how a request is read and an answer written (the
fronts), and how a turn runs.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Protocol, TypeVar
from uuid import uuid4

from attrs import evolve, field, frozen

from ..schemas.claude import sampling
from ..schemas.claude.tool_names import WEB_SEARCH
from ..schemas.errors import InvalidRequest, draining
from ..schemas.media import Attachment
from ..schemas.message import (
    BESIDE,
    Checked,
    Document,
    Image,
    Message,
    digest,
    exact_digest,
    length_of,
    messages_of,
    parted,
    size_of,
    trim,
)
from ..schemas.openai.ignored_fields import encode_ignored
from ..schemas.turn import (
    SEARCH_TOOL,
    Answer,
    DigestedText,
    FinishReason,
    Options,
    Reply,
    Setup,
    ToolChoice,
    TurnRequest,
    Usage,
)
from ..schemas.turn_items import TextDelta, TextEnded, TurnItem
from ..transport.http.bodies import LONG
from ..transport.media.attachments import resolve_all
from ..transport.media.stored_files import StoredFiles
from .conversations.models import Choice, check_goes_on, name_of, plain_name
from .conversations.workspace_paths import name_of_place
from .conversations.workspaces import place_of
from .listeners.cache_table import cache_key
from .runtime.boundary import as_gateway_error
from .runtime.reply_channel import REPLY_SLOTS, Turn

if TYPE_CHECKING:
    from .conversations.conversation import Conversation
    from .gateway import Gateway

Headers = dict[str, str]
"""Headers of the response, written as they become known."""

MANY = 100
"""Messages from which on it counts what is found out of each on the event loop."""

Request = TypeVar("Request", bound=TurnRequest)


# -- accepted --------------------------------------------------------------------------------------


class WithoutEffect(Protocol):
    """Names the options that have no effect on `model`, as the client's dialect calls them."""

    def __call__(
        self, options: Options, model: str, /, *, in_words: bool = False
    ) -> tuple[str, ...]: ...


async def accept(
    gateway: Gateway,
    request: Request,
    owner: str,
    headers: Headers,
    without_effect: WithoutEffect = sampling.without_effect,
    default_model: str | None = None,
) -> Request:
    """`request` of `owner`'s with the CLI's model, and its attachments in their places.

    Refuses what can be refused before anything is spent. `default_model` is the model's name where
    the request gives none and names no conversation. Raises `GatewayError`.
    """
    if gateway.draining:  # also for what the cache could answer: the client should go elsewhere
        raise draining()
    await gateway.limits.load(owner)
    gateway.limits.check(owner)  # once more where the turn begins; here before anything is spent
    held = None
    if request.conversation_id is not None:
        held = await gateway.find(request.conversation_id, owner=owner)
    if held is not None and request.model is None:
        named, info = None, held.info
        choice = Choice(plain_name(info.model), info.profile)
        gateway.models.check_profile(choice.profile, owner)
    else:
        named = default_model if request.model is None else request.model
        choice = gateway.models.resolve(named, owner)
    check_goes_on(choice, named, request.begun)
    request = _without_search(gateway, request, choice, owner)
    if held is not None:
        use_named(held, headers)
    _name_ignored(request, choice, held, owner, without_effect, headers)
    messages = await attach(gateway, request, owner)
    system = request.system
    if system is not None and len(system) >= LONG and not isinstance(system, DigestedText):
        system = await gateway.bodies.read(len(system), partial(DigestedText.of, system))
    return evolve(
        request,
        messages=messages,
        system=system,
        attachments=(),
        owner=owner,
        model=choice.model,
        named_model=request.model,
        profile=choice.profile,
        workspace=request.workspace if choice.profile == "agent" else "",
    )


def _without_search(gateway: Gateway, request: Request, choice: Choice, owner: str) -> Request:
    """The request, without a search of the web that its client may not have made. What has no
    effect is named."""
    options = request.options
    wish = options.search
    if wish is None:
        return request
    tools = request.tools or ()
    is_taken = SEARCH_TOOL in {tool.name for tool in tools}  # by a function of the client's
    if may_search(gateway, owner) and not is_taken:
        vain = [f"{name}.user_location" for name in wish.names if wish.location]
        vain = [] if choice.profile == "chat" else vain
        return evolve(request, cacheable=False, ignored=(*request.ignored, *vain))
    asked, names = options.tool_choice, [*wish.names]
    is_meant = asked.mode == "named" and asked.name == SEARCH_TOOL and not is_taken
    if is_meant or (asked.mode == "required" and request.tools == ()):
        asked = ToolChoice()
        names.append("tool_choice")
    return evolve(
        request,
        options=evolve(options, search=None, tool_choice=asked),
        ignored=(*request.ignored, *names),
    )


def may_search(gateway: Gateway, owner: str) -> bool:
    """Whether the web is searched for clients of this owner: as the settings, the operator's rules
    and the scopes of the key say."""
    settings = gateway.settings
    denied = {rule.partition("(")[0] for rule in settings.permissions.deny}
    is_on = settings.claude.web_search and WEB_SEARCH not in denied
    return is_on and "search" in gateway.models.rights(owner).scopes


def use_named(conversation: Conversation, headers: Headers) -> None:
    """A client has named the conversation: it trusts that it holds what the client knows of. From
    now on no other client comes to it by its history."""
    conversation.claim()
    headers["x-conversation-id"] = conversation.conversation_id
    name_workspace(conversation, headers)


def _name_ignored(
    request: TurnRequest,
    choice: Choice,
    held: Conversation | None,
    owner: str,
    without_effect: WithoutEffect,
    headers: Headers,
) -> None:
    """Name the given fields that have no effect: on any answer, and on that of this model. Raises
    `InvalidRequest` for a workspace that cannot be."""
    in_words = (choice.profile if held is None else held.profile) == "chat"
    names = (*request.ignored, *without_effect(request.options, choice.model, in_words=in_words))
    ignored = dict.fromkeys(names)
    place = place_of(request.workspace, choice.profile, owner)
    if held is not None and request.workspace and place != held.place:
        ignored["workspace"] = None  # a conversation that exists works where it does
    text = encode_ignored(ignored)
    if text is not None:
        headers["x-ccapi-ignored"] = text


def rejects_if_busy(on_busy: str | None) -> bool:
    """What ``x-ccapi-on-busy`` asks for. Raises `InvalidRequest`."""
    if on_busy not in (None, "queue", "reject"):
        raise InvalidRequest(
            "x-ccapi-on-busy must be queue or reject.",
            code="invalid_value",
            param="x-ccapi-on-busy",
        )
    return on_busy == "reject"


# -- attachments -----------------------------------------------------------------------------------


class WithAttachments(Protocol):
    """A request, or a part of one, that was read."""

    @property
    def messages(self) -> tuple[Message, ...]: ...
    @property
    def attachments(self) -> tuple[Attachment, ...]: ...
    def filled(self, blocks: Sequence[Image | Document]) -> tuple[Message, ...]: ...


async def attach(gateway: Gateway, request: WithAttachments, owner: str) -> tuple[Message, ...]:
    """The messages of `request`, which is `owner`'s, its pictures and files in their places, ready
    to be compared. In a thread, if they are long. Raises what its attachments are refused with."""
    blocks: Sequence[Image | Document] = ()
    size = 0
    if request.attachments:
        stored = StoredFiles(gateway.batches.store.files, owner)
        blocks = await resolve_all(request.attachments, gateway.attachments, stored)
        size = sum(len(block.data) for block in blocks)
    for message in request.messages:
        size += BESIDE + length_of(message.content)
        if size >= LONG:
            break
    return await gateway.bodies.read(size, partial(_put_together, request, blocks))


def _put_together(
    request: WithAttachments, blocks: Sequence[Image | Document]
) -> tuple[Message, ...]:
    messages = request.filled(blocks)
    if isinstance(request, TurnRequest) and request.exact:
        messages = tuple(parted(messages))
        for message in messages:
            if not message.is_one_text:
                exact_digest(message)  # kept as well, as are those of what holds it
    for message in messages:
        digest(message)  # kept by the message: the cache and lineage will ask for it
    if len(messages) > MANY:
        for message in messages:
            message.opens  # noqa: B018 (kept as well: what is trimmed asks for it)
    size_of(messages)  # kept as well: what holds them counts it
    with suppress(InvalidRequest):  # which is raised where the conversation is known
        return Checked(messages_of(messages))
    return messages


# -- answered --------------------------------------------------------------------------------------


@frozen
class CachedAnswer:
    """An answer that is there already, read as a `Turn` is. `blocks`: the client knows blocks, and
    receives the end of this one."""

    answer: Answer
    conversation_id: str
    model: str
    turn_id: str = field(factory=lambda: str(uuid4()))
    blocks: bool = False
    _rest: Iterator[TurnItem] = field(init=False, eq=False)

    @_rest.default
    def _from_the_start(self) -> Iterator[TurnItem]:
        yield from map(TextDelta, self.answer.pieces)
        if self.blocks:
            yield TextEnded()

    @property
    def finish_reason(self) -> FinishReason:
        return self.answer.finish_reason

    @property
    def stop_text(self) -> str | None:
        return self.answer.stop_text

    @property
    def stop_reason(self) -> str | None:
        return self.answer.stop_reason

    @property
    def usage(self) -> Usage:
        return self.answer.usage

    async def receive_items(self) -> list[TurnItem]:
        """The next pieces, as they came; none at the end."""
        return list(islice(self._rest, REPLY_SLOTS))

    async def reply(self) -> Reply:
        return Reply(
            text=self.answer.text,
            finish_reason=self.answer.finish_reason,
            usage=self.answer.usage,
            conversation_id=self.conversation_id,
            model=self.model,
        )


Source = Turn | CachedAnswer
"""Where an answer comes from."""


@asynccontextmanager
async def answering(
    gateway: Gateway, request: TurnRequest, headers: Headers, has_begun: Callable[[], bool]
) -> AsyncIterator[Source]:
    """Have an accepted request answered while the block runs.

    `has_begun` says whether the response has begun, so that the client knows which conversation
    this is: one that no client knows of and that holds nothing is forgotten again. Raises
    `GatewayError`.
    """
    key = _cache_key(gateway, request)
    if key is None:
        async with _turn(gateway, request, headers, has_begun) as source:
            yield source
        return
    async with gateway.cache.flight(key) as answer:
        headers["x-ccapi-cache"] = "miss" if answer is None else "hit"
        if answer is None:
            # Inside the flight: identical requests wait for this turn.
            request = evolve(request, cache_key=key)
            async with _turn(gateway, request, headers, has_begun) as source:
                yield source
            return
    await gateway.limits.begin(request.owner, None)  # it is a turn, which costs nothing
    held = (*request.messages, Message("assistant", (answer.text,)))
    conversation = _begin(gateway, request, headers, held)
    assert request.model is not None, "an accepted request has a model"
    blocks = request.options.blocks
    yield CachedAnswer(answer, conversation.conversation_id, request.model, blocks=blocks)


@asynccontextmanager
async def _turn(
    gateway: Gateway, request: TurnRequest, headers: Headers, has_begun: Callable[[], bool]
) -> AsyncIterator[Turn]:
    named = None
    if request.conversation_id is not None:
        named = await gateway.find(request.conversation_id, owner=request.owner)
    elif not (request.apart or request.options.begun):
        await gateway.recall(
            request.messages, setup_of(request), owner=request.owner, exact=request.exact
        )
    conversation, placed, is_new = _place(gateway, request, headers, named)
    try:
        async with conversation.run(placed) as running:
            running.follow_lost(partial(headers.__setitem__, "x-ccapi-lost-turn"))
            running.follow_source(partial(headers.__setitem__, "x-ccapi-child"))
            running.follow_choice(partial(headers.__setitem__, "x-ccapi-tool-choice"))
            try:
                yield running
            except Exception as error:
                # Whatever went wrong, be it another choice's turn: this one's work is done.
                if not running.has_effects:
                    raise
                raise as_gateway_error(error).for_good() from error
    except BaseException:
        if is_new and not has_begun():
            conversation.abandon()
            headers.pop("x-conversation-id", None)
        raise


# -- placed ----------------------------------------------------------------------------------------


def _place(
    gateway: Gateway, request: TurnRequest, headers: Headers, named: Conversation | None
) -> tuple[Conversation, TurnRequest, bool]:
    """The conversation for a request (`named`: the one that it names), the request as it is asked
    there, and whether the conversation is new. No checkpoint from here to the start of the turn."""
    if named is not None:
        # What the request leaves open stays as the conversation has it.
        return (
            named,
            evolve(request, model=None if request.keeps_model else request.model, cache_key=None),
            False,
        )
    # The conversation has the model and the system prompt, or begins with them.
    placed = evolve(request, model=None, system=None, tools=request.tools or ())
    held = None
    if not (request.apart or request.options.begun):
        # Of an answer that was begun, only the client that brings it has the whole history.
        held = gateway.holder(
            request.messages, setup_of(request), owner=request.owner, exact=request.exact
        )
    headers["x-ccapi-lineage"] = "miss" if held is None else "hit"
    if held is not None:
        conversation, messages = held
        headers["x-conversation-id"] = conversation.conversation_id
        name_workspace(conversation, headers)
        return conversation, evolve(placed, messages=tuple(messages)), False
    if request.profile == "agent" and not (request.workspace or request.place):
        place = gateway.continued_place(request.messages, owner=request.owner)
        request = evolve(request, place=place)
    limit = None
    if not request.whole_history:
        limit = gateway.settings.conversation.max_history_messages
        left_out = len(request.messages) - len(trim(request.messages, limit))
        if left_out:
            headers["x-ccapi-history-omitted"] = str(left_out)
    return _begin(gateway, request, headers), evolve(placed, history_limit=limit), True


def setup_of(request: TurnRequest) -> Setup:
    """What a new conversation for an accepted request begins with. Raises `InvalidRequest`."""
    assert request.model is not None, "an accepted request has a model"
    return Setup(
        model=request.model,
        system=request.system or "",
        profile=request.profile,
        tools=request.tools or (),
        schema=request.schema,
        workspace=place_of(request.workspace, request.profile, request.owner) or request.place,
    )


def _begin(
    gateway: Gateway, request: TurnRequest, headers: Headers, seed: Sequence[Message] = ()
) -> Conversation:
    setup = setup_of(request)
    conversation = gateway.conversation(
        system=setup.system,
        model=name_of(setup),
        workspace=request.workspace,
        tools=setup.tools,
        owner=request.owner,
        seed=seed,
        private=request.apart,  # else other clients may come to it, until one names it
        place=request.place,
        kept=request.kept and not request.apart,
    )
    headers["x-conversation-id"] = conversation.conversation_id
    name_workspace(conversation, headers, new=not setup.workspace)
    return conversation


def name_workspace(conversation: Conversation, headers: Headers, *, new: bool = False) -> None:
    """Name the workspace that an agent answers in: by its client's name or that of the conversation
    for which it was made; or as ``new``, one that nothing has been done in yet."""
    place = conversation.place
    if place:
        headers["x-ccapi-workspace"] = "new" if new else name_of_place(place) or place


def _cache_key(gateway: Gateway, request: TurnRequest) -> str | None:
    """What the cache knows this request by; None where it must not be asked."""
    if request.conversation_id is not None or not request.cacheable or request.profile != "chat":
        return None  # an agent does things, which a second client wants done too
    if not gateway.settings.cache.enabled:
        return None
    setup = setup_of(request)
    return cache_key(
        request.owner, request.messages, setup, request.profile, request.cache_fields,
        exact=request.exact,
    )  # fmt: skip
