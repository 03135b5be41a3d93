"""The journal of one conversation: what happens in it, into its log in the store.

Knows: the lease on the conversation, which records a turn's start and end are, and where its log
stands. Refuses to know: in which order things happen (`actors.session.keeping`), and how a
conversation comes back out of its log (`actors.conversations.archive`).

A conversation that nothing was ever kept of is in the store from its first record on. What it began
with (`seed`) goes before that.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any
from uuid import UUID, uuid5

import trio
from attrs import define, field

from ...schemas.errors import (
    Conflict,
    Elsewhere,
    GatewayError,
    Overloaded,
    storage_unavailable,
)
from ...schemas.log.items import items_of
from ...schemas.log.messages import ExactMessage
from ...schemas.log.records import Rewound, Said, TurnEnd, TurnFailed
from ...schemas.message import Message, Thinking
from ...schemas.turn import Completed, EndReason, Failed, Memory, Outcome, Setup, Usage
from ...schemas.turn_items import ReasoningDelta, TurnItem, answer_of, compact
from ...transport.loggers import get_logger
from ...transport.store.interface import (
    Begun,
    Charge,
    Fenced,
    Known,
    Lease,
    Missing,
    NewConversation,
    Owned,
    Store,
    StoreError,
    Unavailable,
    Unknown,
)
from ...transport.workers import work
from .lineage import lineage_key

log = get_logger("ccapi.journal")

GRACE_SECONDS = 10.0
"""How long a chat's turn may go on, and its end wait, while a store that several nodes share does
not answer."""

INSIST_SECONDS = 0.25

MANY = 500
"""Messages of a turn from which on a thread makes their records."""

ADDED = UUID("a9f6f6c2-38a3-5f63-9d0c-2f2f2d4b0c11")
"""The namespace of the ids of messages that were added without a turn."""


def added_id(conversation_id: str, seq: int) -> str:
    """The id (a uuid) of the message that the record `seq` added without a turn."""
    return str(uuid5(ADDED, f"{conversation_id}:{seq}"))


def seed_ids(conversation_id: str, count: int) -> list[str]:
    """The ids of the messages that a conversation begins with: its first records."""
    return [added_id(conversation_id, 1 + number) for number in range(count)]


@define
class Place:
    """Where a log stands: its last record, and how many messages and turns it has there."""

    head: int
    messages: int
    turns: int


@define(eq=False)
class Journal:
    """See `actors.session.messages.Journal`.

    `is_private` says whether no client may come to the conversation by its history alone; `seed` is
    what it began with, as long as the store has nothing of it; `before` is where its log stood
    before its last turn, `login` the name of the login that its child has (empty: the only one's),
    `lost` the id of a turn that was lost and that no client knows of yet, and
    `ends` where each of the last turns has ended (by turn id). `is_closed`: the conversation has
    left memory, and what still happens in it is not kept. `home`: the folder of workspaces that
    this node sees (empty: there are no other nodes). `grace_seconds`: how long a turn's end
    waits for a store that does not answer.
    """

    store: Store
    conversation_id: str
    owner: str
    is_private: Callable[[], bool]
    metadata: Callable[[], dict[str, str]]
    lease: Lease | None = None
    setup: Setup | None = None
    was_private: bool = True
    seed: tuple[Message, ...] = ()
    before: Place | None = None
    lost: str | None = None
    is_closed: bool = False
    ends: dict[str, int] = field(factory=dict)
    login: Callable[[], str] = lambda: ""
    grace_seconds: float = 0.0
    home: str = ""

    def __repr__(self) -> str:
        head = "nothing kept" if self.lease is None else f"head={self.lease.head}"
        return f"<Journal {self.conversation_id} {head}>"

    # -- for the session ---------------------------------------------------------------------------

    @property
    def is_well(self) -> bool:
        return self.store.trouble is None

    def begin(
        self, turn_id: str, model: str, messages: tuple[Message, ...], memory: Memory, *,
        replaces: bool,
    ) -> Coroutine[Any, Any, str | None]:  # fmt: skip
        lease, turns = self.lease, (turn_id, model, messages, memory)
        if (
            lease is None or self.is_closed or self._is_claimed
            or lease.unsettled is not None or lease.open_turn is not None
            or len(messages) > MANY
        ):  # fmt: skip
            return self._begin_slowly(*turns, replaces=replaces)
        prompts = _said_all(messages)
        return self._begun(*self._submit(lease, turn_id, model, prompts, memory, replaces=replaces))

    @property
    def _is_claimed(self) -> bool:
        """Whether it has become private, and the store does not know that."""
        return self.is_private() and not self.was_private

    async def _begin_slowly(
        self, turn_id: str, model: str, messages: tuple[Message, ...], memory: Memory, *,
        replaces: bool,
    ) -> str | None:  # fmt: skip
        """Begin a turn once all is done that goes before it."""
        try:
            lease = await self.open(memory.setup)
            if lease.open_turn is not None:
                # Its session failed without the gateway: its caller knows.
                await self.store.lose_turn(lease, "The conversation's session failed.")
            if self._is_claimed:
                await self.store.update(self.conversation_id, self.owner, private=True)
                self.was_private = True
        except StoreError as error:
            raise self._failed(error) from error
        many = len(messages) > MANY
        prompts = await work(partial(_said_all, messages)) if many else _said_all(messages)
        return await self._begun(
            *self._submit(lease, turn_id, model, prompts, memory, replaces=replaces)
        )

    def _submit(
        self, lease: Lease, turn_id: str, model: str, prompts: Sequence[Said], memory: Memory, *,
        replaces: bool,
    ) -> tuple[Place, Coroutine[Any, Any, Begun | Known]]:  # fmt: skip
        rewound = None
        if replaces:
            assert self.before is not None, "only a last turn that is known is replaced"
            rewound = Rewound(self.before.head, self.before.messages, self.before.turns)
        before = Place(lease.head + (rewound is not None), len(memory.digests), memory.turns)
        return before, self.store.begin_turn(
            lease, turn_id=turn_id, request_id=turn_id, model=model,
            prompts=prompts, rewound=rewound,
        )  # fmt: skip

    async def _begun(
        self, before: Place, submitted: Coroutine[Any, Any, Begun | Known]
    ) -> str | None:
        try:
            begun = await submitted
        except Unknown as error:
            # Its prompt goes nowhere: where it was begun all the same, it will be lost.
            raise self._failed(Unavailable(str(error))) from error
        except StoreError as error:
            raise self._failed(error) from error
        if not isinstance(begun, Begun):
            raise Conflict("This turn has run already.", code="turn_known")
        self.before, self.lost = before, None
        return begun.lost

    def end(
        self, turn_id: str, outcome: Outcome, items: Sequence[TurnItem], memory: Memory,
        said: Message | None = None, *, charge: Charge | None = None,
    ) -> Coroutine[Any, Any, None]:  # fmt: skip
        lease = self.lease
        assert lease is not None, "a turn begins before it ends"
        setup = self.setup
        end: tuple[EndReason, Usage, Charge | None]
        submit: Callable[[], Coroutine[Any, Any, int]]
        match outcome:
            case Completed("content_filter", usage):
                failed = TurnFailed(turn_id, "content_filter", "The model refused.")
                submit = partial(self.store.fail_turn, lease, failed, usage, charge=charge)
            case Completed(reason, usage):
                end = reason, usage, charge
                submit = self._end(lease, turn_id, end, items, memory, said)
                setup = memory.setup
            case Failed(kept=Usage() as usage):
                end = "interrupted", usage, charge
                submit = self._end(lease, turn_id, end, items, memory, said)
                setup = memory.setup
            case Failed(error):
                failed = TurnFailed(turn_id, error.code, error.message)
                submit = partial(self.store.fail_turn, lease, failed, charge=charge)
        return self._ended(lease, turn_id, setup, submit, submit())

    async def _ended(
        self, lease: Lease, turn_id: str, setup: Setup | None,
        submit: Callable[[], Coroutine[Any, Any, int]], submitted: Coroutine[Any, Any, int],
    ) -> None:  # fmt: skip
        try:
            try:
                await submitted
            except (Unavailable, Unknown):
                if not self.grace_seconds or self.is_closed:
                    raise
                await self._insist(lease, submit)
        except StoreError as error:
            raise self._failed(error) from error
        self.setup = setup
        self.ends = {**dict(list(self.ends.items())[-15:]), turn_id: lease.head}

    async def _insist(self, lease: Lease, submit: Callable[[], Coroutine[Any, Any, int]]) -> None:
        """Try to end a turn until the store is back. Whether that still counts, it decides itself:
        by the lease's token, and by the head. Not once the conversation has left memory: then its
        client is not to wait. Raises `StoreError`."""
        deadline = trio.current_time() + self.grace_seconds
        while True:
            await trio.sleep(INSIST_SECONDS)
            try:
                if lease.unsettled is None or not await self.store.resolve(lease):
                    await submit()
            except (Unavailable, Unknown):
                if trio.current_time() >= deadline or self.is_closed:
                    raise
            else:
                return

    def _end(
        self, lease: Lease, turn_id: str, ending: tuple[EndReason, Usage, Charge | None],
        items: Sequence[TurnItem], memory: Memory, said: Message | None,
    ) -> Callable[[], Coroutine[Any, Any, int]]:  # fmt: skip
        reason, usage, charge = ending
        output = compact(items)
        answer = ExactMessage.of(answer_of(output) if said is None else said)
        setup = None if memory.setup == self.setup else memory.setup
        digest = None
        if not self.is_private():
            digest = lineage_key(self.owner, memory.setup, memory.digests)
        is_recorded = memory.setup.profile == "agent" and not memory.seed
        resume = memory.resume if is_recorded else None
        reasoning = any(isinstance(item, ReasoningDelta) for item in output)
        if not any(isinstance(block, Thinking) and block.text for block in answer.content):
            reasoning = True
        spelled = None if items_of((answer,), reasoning=reasoning) == output else output
        reasoning = reasoning or spelled is not None
        end = TurnEnd(turn_id, reason, usage, spelled, resume, reasoning, self.login())
        return partial(
            self.store.end_turn,
            lease, end, (Said(answer),), setup=setup, lineage=digest, charge=charge,
        )  # fmt: skip

    async def add(self, messages: tuple[Message, ...]) -> Sequence[str]:
        try:
            lease = await self.open(None)
            head = await self.store.append(lease, _said_all(messages))
        except StoreError as error:
            raise self._failed(error) from error
        first = head - len(messages) + 1
        return [added_id(self.conversation_id, first + n) for n in range(len(messages))]

    async def grant(self, rules: tuple[str, ...]) -> None:
        try:
            await self.open(None)
            await self.store.update(self.conversation_id, self.owner, grants=rules)
        except StoreError as error:
            raise self._failed(error) from error

    # -- the conversation in the store -------------------------------------------------------------

    async def open(self, setup: Setup | None) -> Lease:
        """The lease on the conversation, which is in the store from now on. `setup`: what it begins
        with, where it is not there yet. Raises `StoreError`."""
        if self.is_closed:
            # Else a conversation that was deleted before anything was kept of it would come back.
            raise Fenced(f"{self.conversation_id} has left memory.")
        if self.lease is None:
            setup = setup or self.setup
            assert setup is not None, "a conversation begins with a setup"
            private = self.is_private()
            create = NewConversation(setup=setup, metadata=self.metadata(), private=private)
            lease = await self.store.acquire(self.conversation_id, self.owner, create)
            if self.home and setup.profile == "agent":
                place = setup.workspace or self.conversation_id
                await self.store.claim_place(place, self.home)
            self.setup, self.was_private = setup, private
            if self.seed and not lease.head:
                await self.store.append(lease, _said_all(self.seed))
            self.lease, self.seed = lease, ()
        return self.lease

    async def keep(self, setup: Setup) -> None:
        """Have the store know the conversation. Raises `GatewayError`."""
        try:
            await self.open(setup)
        except StoreError as error:
            raise self._failed(error) from error

    def _failed(self, error: StoreError) -> GatewayError:
        return failure_of(error, self.conversation_id)


def failure_of(error: StoreError, conversation_id: str) -> GatewayError:
    """The error that a client receives where the store did not do something."""
    if isinstance(error, Owned):
        return Elsewhere(error.node.id, error.node.url)
    if isinstance(error, Fenced | Missing):
        log.info("not kept any more", conversation_id=conversation_id, reason=str(error))
        return Conflict(
            "The conversation was deleted, or another gateway has taken it over.",
            code="conversation_moved",
        )
    log.error("not kept", conversation_id=conversation_id, error=str(error))
    if isinstance(error, Unknown):
        return Overloaded(
            "Whether this was kept is not known: look at the conversation before you try again.",
            code="storage_unknown",
        ).for_good()
    return storage_unavailable(
        "This conversation cannot be kept now, so that the turn does not count"
    )


def _said_all(messages: Sequence[Message]) -> list[Said]:
    return [Said(ExactMessage.of(message)) for message in messages]
