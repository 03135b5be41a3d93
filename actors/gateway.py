"""The gateway: what an embedding program (or a front) holds of the tree of actors.

Knows: what its parts do together. Refuses to know: HTTP, how a turn runs, and the order in which
the parts live and die (`actors.opening`).
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from functools import partial
from importlib import metadata
from typing import TypeVar

import trio

from ..schemas.errors import CliUnusable, GatewayError, Overloaded, draining
from ..schemas.events import ConversationOpened
from ..schemas.message import Message, check_results, digest
from ..schemas.turn import Memory, Reply, Setup, Tool
from ..transport.http.node_client import NodeClient
from ..transport.loggers import get_logger
from ..transport.media.attachments import AttachmentPolicy
from ..transport.process.cli import Cli
from ..transport.process.cli_version import Version
from ..transport.process.login import Login
from ..transport.seals import Seals
from ..transport.store.interface import Missing, Node
from .conversations.archive import Listed
from .conversations.conversation import Conversation, ConversationInfo, info_of
from .conversations.directory import Entry, not_found
from .conversations.journal import seed_ids
from .conversations.lineage import new_from
from .conversations.turn_service import TurnService
from .conversations.workspace_paths import new_conversation_id
from .conversations.workspaces import check_tools, place_of
from .keys.registry import LOCAL, revoked
from .listeners.overview import GatewayStatistics, OwnStatistics, SessionInfo, session_info
from .mcp.host import McpHost
from .nodes.checks import others_heard
from .nodes.figures import Figures, NodeFigures, facts_of
from .parts import Parts
from .pool.token_count import count_tokens
from .responses.approved_calls import ApprovedCalls
from .responses.kept_responses import KeptResponses
from .responses.store import ResponseStore
from .session.events import GiveWay
from .watching.history import TurnRecord

P = TypeVar("P")
R = TypeVar("R")

log = get_logger("ccapi.gateway")

COMPACTION_KEY = "compaction.key"
"""The file under ``storage.path`` by whose key a gateway that is alone seals compactions."""

KEPT_AT_ONCE = 8
"""Conversations that are stored at once when the gateway stops."""

EVICTABLE_SECONDS = 60.0
"""A conversation that has slept so long makes way for a new one when there are too many."""


class Gateway:
    """Made by `open_gateway`."""

    def __init__(self, parts: Parts) -> None:
        settings, bus, keys, nodes = parts.settings, parts.bus, parts.keys, parts.nodes
        archive, directory, supervisor = parts.archive, parts.directory, parts.supervisor
        self.settings = settings
        self.nodes = nodes
        """The node that this gateway is among others; None: there are no others."""
        self.node_client = NodeClient(settings.cluster.connect_seconds)
        self.mcp = parts.mcp
        self.mcp_host = McpHost(parts.mcp, settings)
        self.approved_calls = ApprovedCalls(
            parts.mcp, self.mcp_host, bus, parts.idempotent.claim_once
        )
        self.bus = bus
        self.stats = parts.stats
        self.cache = parts.cache
        self.background = parts.background
        self.idempotent = parts.idempotent
        self.batches = parts.batches
        self.responses = ResponseStore(settings.responses)
        self.archive = archive
        self.kept_responses = KeptResponses(
            archive.store, self.responses, settings.responses.ttl_seconds
        )
        self.kept_responses.is_shared = nodes is not None
        self.audit = parts.audit
        self.keys = keys
        self.limits = parts.limits
        self.models = parts.models
        self.models.rights = keys.find
        self.attachments = AttachmentPolicy.of(settings)
        self.seals = Seals(
            settings.storage.path.expanduser() / COMPACTION_KEY,
            "" if nodes is None else settings.cluster.secret,
        )
        self.bodies = parts.bodies
        self._directory = directory
        self._pool = parts.pool
        self._supervisor = supervisor
        self._watches = parts.watches
        self._turns = TurnService(directory, supervisor, self.models, keys, parts.limits)
        self._turns.nodes = nodes
        keys.on_revoked = self._revoke
        if nodes is not None:
            nodes.others_heard = partial(others_heard, nodes, self.node_client)
            nodes.facts = partial(
                self._facts, round(time.time(), 3), metadata.version("claude-code-api")
            )
        self._cli = parts.cli
        archive.make_room = self._make_room
        supervisor.abandoned = archive.discard

    def __repr__(self) -> str:
        state = "draining" if self.draining else "open"
        return f"<Gateway {state} {self._directory!r} {self._pool!r}>"

    # -- conversations ---------------------------------------------------------------------------

    def conversation(
        self,
        *,
        system: str = "",
        model: str | None = None,
        tools: Sequence[Tool] = (),
        workspace: str = "",
        owner: str = LOCAL,
        seed: Sequence[Message] = (),
        private: bool = True,
        metadata: Mapping[str, str] | None = None,
        place: str = "",
        kept: bool = True,
    ) -> Conversation:
        """A new conversation; nothing is started until its first turn, with which it is stored, if
        it is to be `kept` (see `keep`).

        `model` is any name the gateway knows (default: `models.default`); ``agent/…`` makes it an
        agent's, which works in a directory of its own or in the `workspace` of that name, or where
        another one does (`place`, see `continued_place`). `seed` is a history that it shall hold
        already. One that is not `private` may be continued by any client of the same owner that
        brings its history (`holder`).

        Raises `InvalidRequest`, `NotFound` (``model_not_found``), `RateLimited`
        (``too_many_conversations``).
        """
        check_results(seed, (), lambda _: "seed")
        choice = self.models.resolve(model, owner)
        check_tools(tools, choice.profile)
        setup = Setup(
            choice.model,
            system,
            profile=choice.profile,
            tools=tuple(tools),
            workspace=place_of(workspace, choice.profile, owner) or place,
        )
        memory = Memory(
            setup=setup,
            digests=tuple(digest(message) for message in seed),
            seed=tuple(seed),
            calls=tuple(call.id for message in seed[-1:] for call in message.calls),
        )
        now = time.time()
        self._make_room(owner)
        # An agent that works in no other's workspace works in one of the conversation's name.
        is_new_agent = setup.profile == "agent" and not (setup.workspace or seed)
        name = self._pool.reserve_agent() if is_new_agent else ""
        if not name and self.nodes is not None:
            name = new_conversation_id(self.nodes.node.id)
        entry = self._directory.create(owner, memory, now, private=private, conversation_id=name)
        entry.metadata = metadata or {}
        journal = self.archive.journal_of(entry) if kept else None
        if seed:
            ids = None if journal is None else seed_ids(entry.conversation_id, len(seed))
            entry.state.broadcast.add(tuple(seed), ids)
            self._directory.weigh(entry)
        self._supervisor.relieve(entry)
        self.bus.publish(ConversationOpened(entry.conversation_id))
        return Conversation(self._turns, entry)

    async def _revoke(self, owner: str) -> None:
        await self._turns.end_all(owner, revoked())

    def _make_room(self, owner: str) -> None:
        since = time.time()
        if self.archive.store is None:  # it would be lost
            since -= EVICTABLE_SECONDS
        self._supervisor.make_room(owner, since)

    async def keep(self, conversation: Conversation) -> None:
        """Have a conversation stored before its first turn. Raises `Overloaded`."""
        await self.archive.keep(conversation.entry)

    async def recall(
        self, messages: Sequence[Message], setup: Setup, *, owner: str, exact: bool = False
    ) -> None:
        """Look in the store for a conversation that `holder` may find, unless one is here. Raises
        `Elsewhere` where another node has it, or the agents of the setup's workspace work there."""
        if setup.profile == "agent" and setup.workspace:
            await self.archive.check_place(setup.workspace)
        border = new_from(messages)
        if border and self.archive.store is not None:
            digests = [digest(message) for message in messages[:border]]
            same = messages[:border] if exact and setup.profile == "chat" else None
            if self._directory.holder(owner, setup, digests, same) is None:
                await self.archive.recall(owner, setup, digests)

    def holder(
        self, messages: Sequence[Message], setup: Setup, *, owner: str = LOCAL, exact: bool = False
    ) -> tuple[Conversation, Sequence[Message]] | None:
        """The conversation that holds exactly what stands before what is new in `messages`, is
        free and not private; and what is new. None: there is no such conversation. `exact`: a plain
        model's holds it block by block (`schemas.message.agree`).

        The turn has to be started at once: from the next checkpoint on another client may have it.
        """
        border = new_from(messages)
        if border == 0:
            return None
        digests = [digest(message) for message in messages[:border]]
        same = messages[:border] if exact and setup.profile == "chat" else None
        entry = self._directory.holder(owner, setup, digests, same)
        return None if entry is None else (Conversation(self._turns, entry), messages[border:])

    def continued_place(self, messages: Sequence[Message], *, owner: str = LOCAL) -> str:
        """Where the agent works whose conversation a history goes on with, though no conversation
        holds exactly that: its system prompt or tools are others, or its last messages. Empty where
        it goes on with none, or has no answer in it yet. See `Directory.likeliest`."""
        border = new_from(messages)
        return self._directory.likeliest(owner, messages[:border]) if border else ""

    async def find(self, conversation_id: str, *, owner: str = LOCAL) -> Conversation:
        """A conversation that exists, which is in memory from now on. That is no checkpoint where
        it is there already. Raises `NotFound` (``conversation_not_found``), `Overloaded`."""
        return Conversation(self._turns, await self.archive.find(conversation_id, owner))

    async def node_of(self, conversation_id: str) -> Node | None:
        """Another node that has the conversation; None where none has it, or none is known to.
        Raises `StoreError`."""
        if self.archive.store is None:
            return None
        with suppress(Missing):
            return (await self.archive.store.head(conversation_id)).node
        return None

    def runs(self, conversation_id: str, *, owner: str = LOCAL) -> bool:
        """Whether a turn runs, or waits, in a conversation that is in memory."""
        entry = self._directory.get(conversation_id, owner)
        return entry is not None and entry.callers > 0

    def loaded(self, conversation_id: str, *, owner: str = LOCAL) -> Conversation:
        """A conversation that is in memory, as `find` has brought it there. Raises `NotFound`."""
        return Conversation(self._turns, self._directory.find(conversation_id, owner))

    def conversations(self, *, owner: str = LOCAL) -> list[ConversationInfo]:
        """The owner's conversations that are in memory, oldest first."""
        return [info_of(entry) for entry in self._directory.of(owner)]

    async def list_conversations(
        self, *, owner: str = LOCAL, limit: int = 20, after: str | None = None,
        newest_first: bool = True, q: str | None = None,
    ) -> Listed:  # fmt: skip
        """At most `limit` of all the owner's conversations, in the order in which they were made,
        behind the one called `after`. `q`: only those in which a turn has all these words. Raises
        `InvalidRequest` for `after`, `Overloaded`."""
        return await self.archive.listed(
            owner, limit=limit, after=after, newest_first=newest_first, q=q
        )

    def turns_of(self, owner: str) -> Iterator[TurnRecord]:
        """What was said in the owner's conversations that are private to the clients that know
        their ids (see `conversation`), as far as it is kept."""
        for entry in self._directory.of(owner):
            if entry.private:
                yield from entry.state.broadcast.history

    async def forget(self, conversation_id: str, *, owner: str = LOCAL) -> None:
        """Delete a conversation. A turn that runs in it ends. Raises `NotFound`, `Overloaded`."""
        entry = self._directory.get(conversation_id, owner)
        if entry is not None:
            await self._supervisor.forget(entry)
        if not await self.archive.delete(conversation_id, owner) and entry is None:
            raise not_found()

    async def dismiss(self, conversation_id: str, *, owner: str) -> None:
        """Forget a conversation that is not stored, if it is there. Its child stays for others."""
        entry = self._directory.get(conversation_id, owner)
        if entry is not None:
            await self._supervisor.forget(entry, "forgotten")

    # -- without a conversation ------------------------------------------------------------------

    async def query(
        self, prompt: str | Sequence[Message], *, system: str = "", model: str | None = None
    ) -> Reply:
        """One question, one answer; the conversation is forgotten. Raises `GatewayError`."""
        conversation = self.conversation(system=system, model=model, kept=False)
        try:
            return await conversation.ask(prompt)
        finally:
            with trio.move_on_after(1, shield=True):
                await self._supervisor.forget(conversation.entry, "forgotten")

    def batch(
        self,
        prompts: Iterable[str | Sequence[Message]],
        *,
        limit: int = 4,
        system: str = "",
        model: str | None = None,
    ) -> AbstractAsyncContextManager[AsyncIterator[tuple[int, Reply | GatewayError]]]:
        """Many independent questions, at most `limit` at once, in the order of completion:

        ``async with gateway.batch(prompts) as answers: async for index, reply in answers: ...``

        A prompt that fails gives its error in place of a reply; the others go on. `prompts` is
        read as places come free, so it may be endless. Leaving the block ends what still runs.
        What `prompts` or the block raises comes out as it is.
        """
        if limit < 1:
            raise ValueError("limit must be at least 1")

        async def ask(prompt: str | Sequence[Message]) -> Reply:
            return await self.query(prompt, system=system, model=model)

        return _run_batch(ask, prompts, limit)

    async def count_tokens(self, setup: Setup, messages: Sequence[Message]) -> int:
        """The tokens that a plain model would read for this. Raises `GatewayError`."""
        if self.draining:
            raise draining()
        claude = self.settings.claude
        seconds = claude.start_timeout_seconds + claude.idle_timeout_seconds
        return await count_tokens(self._pool, setup, messages, seconds)

    # -- overview --------------------------------------------------------------------------------

    def statistics(self) -> GatewayStatistics:
        phases = Counter(entry.state.phase.value for entry in self._directory.all())
        return GatewayStatistics(
            children=self._pool.statistics(),
            sessions=dict(phases),
            conversations=len(self._directory),
            turns_running=self._turns.running,
            draining=self.draining,
        )

    def own_statistics(self, owner: str) -> OwnStatistics:
        """The same of one owner's conversations alone, as far as it is theirs."""
        entries = self._directory.of(owner)
        return OwnStatistics(
            sessions=dict(Counter(entry.state.phase.value for entry in entries)),
            conversations=len(entries),
            turns_running=self._turns.running_of(owner),
            draining=self.draining,
        )

    def figures(self) -> Figures:
        """How this gateway stands, as numbers that add up over several."""
        totals, children = self.stats.totals(), self._pool.statistics()
        turns, tokens, cache = totals["turns"], totals["tokens"], totals["cache"]
        return Figures(
            turns_running=self._turns.running,
            turns_started=turns["started"],
            turns_finished=turns["finished"],
            turns_failed=sum(turns["failed"].values()),
            conversations=len(self._directory),
            children=children.live,
            children_idle=children.idle,
            children_warm=children.warm,
            children_limit=children.limit,
            children_waiting=children.waiting,
            prompt_tokens=tokens["prompt"],
            completion_tokens=tokens["completion"],
            cached_tokens=tokens["cached"],
            cache_write_tokens=tokens["cache_write"],
            cost_usd=totals["cost_usd"],
            cache_hits=cache["hit"],
            cache_misses=cache["miss"],
        )

    def node_figures(self) -> list[NodeFigures]:
        """How each node stands that lives; none, where there can be no others."""
        return [] if self.nodes is None else self.nodes.figures

    def _facts(self, since: float, version: str) -> dict[str, object]:
        keys = self._turns.running_by_owner()
        return facts_of(self.figures(), keys, since=since, version=version)

    def sees_all(self, owner: str) -> bool:
        """Whether clients of this owner see the numbers of the gateway as a whole."""
        return self.keys.find(owner).sees_all

    def sessions(self, *, owner: str) -> list[SessionInfo]:
        """The sessions that have an actor: all, for one who `sees_all`, without others' ids; else
        the owner's."""
        entries = self._directory.all() if self.sees_all(owner) else self._directory.of(owner)
        return [session_info(entry, owner) for entry in entries if entry.ref is not None]

    @property
    def trouble(self) -> GatewayError | None:
        """Why no new turn would be answered, as far as it is known: the gateway is draining, the
        CLI is not logged in or does not start."""
        if self.draining:
            message = "The gateway is draining and takes no new turns."
            return Overloaded(message, code="draining")
        if self.archive.trouble is not None:
            message = f"Conversations cannot be kept: {self.archive.trouble}"
            return Overloaded(message, code="storage_unavailable")
        if self.nodes is not None and not self.nodes.holds:
            message = "This gateway's lease is over, and the database does not give it another."
            return Overloaded(message, code="node_lapsed")
        troubles = [watch.trouble for watch in self._watches]
        login_trouble = None if None in troubles else troubles[0]
        return login_trouble or self._pool.trouble or self._missing_cli

    @property
    def _missing_cli(self) -> GatewayError | None:
        """The CLI is gone, and no child is left: without warm children no start has shown it."""
        program = self._cli.program[0]
        if self._pool.statistics().live or os.access(program, os.X_OK):
            return None
        message = f"The CLI was not found: there is no {program} that can be executed."
        return CliUnusable(message, code="cli_not_found")

    @property
    def cli(self) -> Cli:
        """The CLI that runs."""
        return self._cli

    @property
    def login(self) -> Login | None:
        """How the CLI is logged in; None until that is known. Of several logins, the
        first."""
        return self._watches[0].login

    @property
    def logins(self) -> dict[str, Login | None]:
        """The same of each login that the settings name, by its name; empty where they name
        none."""
        names = [each.name for each in self.settings.logins]
        return {name: watch.login for name, watch in zip(names, self._watches, strict=False)}

    @property
    def cli_version(self) -> Version | None:
        """The CLI's version; None until it is known, and where it has none that can be read."""
        return self._watches[0].version

    async def wait_known(self) -> None:
        """Wait until the CLI has said its version and its login, or does not."""
        for watch in self._watches:
            await watch.wait_known()

    async def check_exposure(self) -> None:
        """See `CliWatch.check_exposure`."""
        for watch in self._watches:
            await watch.check_exposure()

    async def check_version(self) -> None:
        """See `CliWatch.check_version`."""
        for watch in self._watches:
            await watch.check_version()

    @property
    def draining(self) -> bool:
        return self._turns.draining

    def drain(self) -> None:
        """Take no more turns; those that run may finish. For good."""
        self.batches.drain()
        self._turns.drain()
        if self.nodes is not None:
            self.nodes.drain()
            self._supervisor.release_idle()

    async def wait_drained(self) -> None:
        """Wait until no turn is under way, after `drain`; nor what was passed on to another
        gateway, and until it is known that this one takes no turns."""
        if self.nodes is not None:
            await self._keep_unstored()
            await self.nodes.wait_noticed()
        await self._turns.wait_drained()
        await self.batches.wait_drained()
        if self.nodes is not None:
            await self.nodes.wait_passed()

    async def _keep_unstored(self) -> None:
        """Have other gateways find conversations that clients know of and that are in memory alone:
        those that the cache has begun."""

        async def keep() -> None:
            for entry in entries:
                try:
                    await self.archive.keep(entry)
                except GatewayError as error:
                    name = entry.conversation_id
                    log.warning("not kept", conversation_id=name, reason=str(error))

        entries = iter([each for each in self._directory.all() if each.is_unstored])
        async with trio.open_nursery() as nursery:
            for _ in range(KEPT_AT_ONCE):
                nursery.start_soon(keep)

    def kill_children(self) -> None:
        """End every child at once, without its stop sequence."""
        self._pool.kill_all()

    async def hibernate(self, entry: Entry) -> None:
        """Have an idle child of the conversation go; it resumes with the next turn."""
        if entry.ref is not None:
            await self._turns.tell(entry, GiveWay())


@asynccontextmanager
async def _run_batch(
    ask: Callable[[P], Awaitable[R]], prompts: Iterable[P], limit: int
) -> AsyncIterator[AsyncIterator[tuple[int, R | GatewayError]]]:
    """Ask all `prompts`, at most `limit` at once; yields each one's number and its result or error,
    in the order of completion."""
    numbered = iter(enumerate(prompts))
    send, receive = trio.open_memory_channel[tuple[int, R | GatewayError]](0)
    failure: Exception | None = None

    async def work(send: trio.MemorySendChannel[tuple[int, R | GatewayError]]) -> None:
        nonlocal failure
        with send:
            try:
                for index, prompt in numbered:  # shared: each prompt goes to one worker
                    try:
                        outcome: R | GatewayError = await ask(prompt)
                    except GatewayError as error:
                        outcome = error
                    await send.send((index, outcome))
            except Exception as error:  # noqa: BLE001 (the prompts' own, raised again below)
                failure = error
                nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        with send:
            for _ in range(limit):
                nursery.start_soon(work, send.clone())
        with receive:
            try:
                yield receive
            except Exception as error:  # noqa: BLE001 (the block's own, raised again below)
                failure = error
            # Before the channel closes, which would break a worker that is about to send.
            nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure  # past the nursery, so that it comes out as it is
