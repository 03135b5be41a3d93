"""The archive: conversations as the store keeps them, and those of them that are in memory.

Knows: how a conversation comes back out of its log, what is done about turns that a gateway lost,
and what is deleted when. Refuses to know: what happens in a conversation, and how its log grows
(`actors.conversations.journal`).

A conversation is in memory while it is used (`actors.conversations.directory`), and is loaded when
a client asks for it again. Without a store (``storage.persist = false``) there is nothing else than
what is in memory, and this does nothing.
"""

from __future__ import annotations

import math
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial

import trio
from attrs import evolve, frozen

from ...schemas.errors import Elsewhere, GatewayError, InvalidRequest, Overloaded, draining
from ...schemas.log.fold import LoggedTurn, fold
from ...schemas.log.records import Logged
from ...schemas.log.words import matches, terms_of, words_of
from ...schemas.message import Message, digest
from ...schemas.settings.logins import DEFAULT
from ...schemas.settings.settings import ClusterSettings, StorageSettings
from ...schemas.turn import Memory, Profile, Setup
from ...transport.loggers import get_logger
from ...transport.store.interface import (
    Fenced,
    Lease,
    Missing,
    Owned,
    Store,
    StoredConversation,
    StoreError,
    StoreRefused,
    Summary,
)
from ...transport.store.opening import open_store
from ..nodes.membership import Membership
from ..session.messages import SessionState
from ..session.phases import Phase
from ..watching.broadcast import Broadcast, first_of_another
from ..watching.history import TurnRecord
from .conversation import ConversationInfo, info_of
from .directory import Directory, Entry, not_found
from .journal import Journal, Place, added_id, failure_of
from .lineage import lineage_key
from .models import name_of
from .workspace_paths import is_made_by

log = get_logger("ccapi.archive")

LOST = "The gateway ended while this turn ran."

PRUNE_SECONDS = 600.0
"""How late, at most, a conversation goes that ``storage.retention_days`` or ``storage.max_bytes``
does not keep."""

CHECKED_AT_ONCE = 50
READ_AT_ONCE = 1000


@frozen
class Listed:
    """Some conversations of a list; `has_more`: there are others behind them."""

    conversations: tuple[ConversationInfo, ...]
    has_more: bool


class Archive:
    """Made by `open_archive`. `make_room` is called before a conversation of that owner's is taken
    into memory."""

    def __init__(self, store: Store | None, directory: Directory) -> None:
        self.store = store
        self.make_room: Callable[[str], None] = lambda _: None
        self.deleted: Callable[[str, str], None] = lambda _id, _workspace: None
        """Told of every conversation that was deleted from the store, and where its agent worked
        (its own workspace: the conversation's id)."""
        self.nodes: Membership | None = None
        """The node that this gateway is among others."""
        self.grace_seconds = 0.0
        """See `Journal.grace_seconds`."""
        self._directory = directory
        self._loading: dict[str, trio.Lock] = {}
        self._discarded: dict[str, str] = {}  # conversations, and whose they are
        self._left: list[Lease] = []  # of conversations that have left memory
        self._more = trio.Event()

    def __repr__(self) -> str:
        return f"<Archive {self.store!r}>"

    @property
    def trouble(self) -> str | None:
        """Why nothing can be kept now; None while all is well, or nothing is to be kept."""
        return None if self.store is None else self.store.trouble

    async def check_place(self, place: str) -> None:
        """See that the agents of this place work here: it is taken for this node's folder, if it
        was no other's before. Raises `Elsewhere` where another node sees that folder, `Overloaded`
        where none does."""
        nodes = self.nodes
        if nodes is None or self.store is None:
            return
        try:
            home = await self.store.claim_place(place, nodes.home)
        except StoreError as error:
            raise failure_of(error, "") from error
        if home == nodes.home:
            return
        other = nodes.node_at(home)
        if other is not None:
            raise Elsewhere(other.id, other.url)
        raise Overloaded(
            "This agent works in a folder that no gateway sees now: its files and its transcript "
            "are on another machine, whose gateway is gone.",
            code="agent_node_gone",
            retry_after=5.0,
        )

    # -- into memory -------------------------------------------------------------------------------

    async def find(self, conversation_id: str, owner: str) -> Entry:
        """A conversation of the owner's, which is in memory from now on. That is no checkpoint
        where it is there already. Raises `NotFound`, `Overloaded`, `RateLimited`."""
        if self.store is None or self._directory.knows(conversation_id):
            return self._directory.find(conversation_id, owner)
        if self.nodes is not None and self.nodes.draining and self.nodes.taking is not None:
            raise draining()  # it would only have to be given up again
        lock = self._loading.setdefault(conversation_id, trio.Lock())
        try:
            async with lock:
                if self._directory.knows(conversation_id):
                    return self._directory.find(conversation_id, owner)
                return await self._load(self.store, conversation_id, owner)
        finally:
            if not lock.locked():  # else the next one in the queue has it now
                self._loading.pop(conversation_id, None)

    async def recall(self, owner: str, setup: Setup, digests: Sequence[bytes]) -> None:
        """Have a conversation in memory that holds exactly this history, if the store has one that
        any client of the owner's may go on with. Raises `Elsewhere`."""
        if self.store is None or not digests:
            return
        try:
            key = lineage_key(owner, setup, digests)
            for held in await self.store.lineage_find(owner, [key]):
                if self._directory.knows(held.conversation_id):
                    continue
                if (await self.store.head(held.conversation_id)).head == held.seq:
                    await self.find(held.conversation_id, owner)
                    return
        except Elsewhere:
            raise
        except (StoreError, GatewayError) as error:
            # The client brings the whole history itself.
            log.warning("no look for a stored history", error=str(error))

    async def _load(self, store: Store, conversation_id: str, owner: str) -> Entry:
        try:
            stored = await store.get(conversation_id, owner)
            if stored.node is not None:
                raise Elsewhere(stored.node.id, stored.node.url)
            if stored.setup.profile == "agent":
                await self.check_place(stored.setup.workspace or conversation_id)
            lease = await store.acquire(conversation_id, owner)
            if lease.open_turn is not None:
                await store.lose_turn(lease, LOST)
            if lease.head != stored.head:  # by that, or by another node just before
                stored = await store.get(conversation_id, owner)
            records = await read_log(store, conversation_id, owner, lease.head)
        except Missing:
            # One that the cache has begun is stored when it goes on.
            for other in () if self.nodes is None else self.nodes.others:
                if is_made_by(conversation_id, other.node.id):
                    raise Elsewhere(other.node.id, other.node.url) from None
            raise not_found() from None
        except StoreError as error:
            raise failure_of(error, conversation_id) from error
        turns = fold(records)
        memory = _memory_of(stored, turns)
        last_login = next((turn.login for turn in reversed(turns) if turn.login), "")
        state = SessionState(memory, Broadcast(first_of_another()), owner, last_login)
        for record in _records_of(conversation_id, turns, _before_last(stored, turns)):
            state.broadcast.history.add(record)
        entry = Entry(
            conversation_id, owner, state, stored.created_at, stored.used_at, stored.private,
            stored.metadata,
        )  # fmt: skip
        journal = self.journal_of(entry)
        assert journal is not None
        journal.lease, journal.setup, journal.lost = lease, stored.setup, stored.lost_turn
        journal.was_private = stored.private
        journal.before = _place_before_last(turns, memory)
        if turns and turns[-1].turn_id:
            journal.ends[turns[-1].turn_id] = turns[-1].last
        # From here on there is no checkpoint: the one who asked goes on with it.
        self.make_room(owner)
        self._directory.insert(entry)
        self._directory.weigh(entry)
        if not entry.private:
            self._directory.follow_lineage(entry)
        return entry

    def journal_of(self, entry: Entry) -> Journal | None:
        """The journal of a conversation that is new in memory, which its session writes."""
        if self.store is None:
            return None
        journal = Journal(
            self.store, entry.conversation_id, entry.owner, lambda: entry.private,
            lambda: dict(entry.metadata), seed=entry.memory.seed,
            login=lambda: "" if entry.state.login == DEFAULT else entry.state.login,
            grace_seconds=self.grace_seconds, home="" if self.nodes is None else self.nodes.home,
        )  # fmt: skip
        entry.state.journal = journal
        return journal

    # -- as it is kept -----------------------------------------------------------------------------

    async def listed(
        self, owner: str, *, limit: int, after: str | None, newest_first: bool, q: str | None
    ) -> Listed:
        """Some of the owner's conversations. Raises `InvalidRequest`, `Overloaded`."""
        if self.store is None:
            return self._listed_here(owner, limit, after, q, newest_first=newest_first)
        try:
            page = await self.store.conversations(
                owner, limit=limit, after=after, newest_first=newest_first, q=q
            )
        except Missing:
            raise after_nothing() from None
        except StoreError as error:
            raise failure_of(error, "") from error
        return Listed(tuple(self._info(each, owner) for each in page.conversations), page.has_more)

    def _info(self, summary: Summary, owner: str) -> ConversationInfo:
        entry = self._directory.get(summary.conversation_id, owner)
        if entry is not None:
            return evolve(info_of(entry), title=summary.title)
        profile: Profile = "agent" if summary.profile == "agent" else "chat"
        return ConversationInfo(
            conversation_id=summary.conversation_id,
            model=name_of(Setup(summary.model, profile=profile)),
            profile=profile,
            workspace=summary.workspace,
            system="",
            phase=Phase.ASLEEP.value,
            created_at=summary.created_at,
            last_used_at=summary.used_at,
            turns=summary.turns,
            messages=summary.messages,
            usage=summary.usage,
            metadata=summary.metadata,
            title=summary.title,
        )

    def _listed_here(
        self, owner: str, limit: int, after: str | None, q: str | None, *, newest_first: bool
    ) -> Listed:
        entries = self._directory.of(owner)
        terms = terms_of(q) if q is not None and q.strip() else None
        if terms is not None:
            entries = [entry for entry in entries if _has(entry, terms)]
        entries.sort(key=lambda each: (each.created_at, each.conversation_id), reverse=newest_first)
        if after is not None:
            ids = [entry.conversation_id for entry in entries]
            if after not in ids:
                raise after_nothing()
            entries = entries[ids.index(after) + 1 :]
        return Listed(tuple(map(info_of, entries[:limit])), len(entries) > limit)

    async def delete(self, conversation_id: str, owner: str) -> bool:
        """Delete it from the store; says whether it was there. Raises `Elsewhere`, `Overloaded`."""
        if self.store is None:
            return False
        try:
            found = await self.store.get(conversation_id, owner)
            if found.node is not None:  # it has a child of it, and watchers
                raise Elsewhere(found.node.id, found.node.url)
            await self.store.delete(conversation_id, owner)
        except Missing:
            return False
        except StoreError as error:
            raise failure_of(error, conversation_id) from error
        self.deleted(conversation_id, conversation_id)
        return True

    async def keep(self, entry: Entry) -> None:
        """Have the store know the conversation, if it is to. Raises `Overloaded`."""
        if isinstance(entry.state.journal, Journal):
            await entry.state.journal.keep(entry.memory.setup)

    async def change_metadata(self, entry: Entry) -> None:
        """Keep what the entry has as its metadata. Raises `Overloaded`."""
        journal = entry.state.journal
        if not isinstance(journal, Journal):
            return
        await self.keep(entry)
        assert self.store is not None
        try:
            await self.store.update(entry.conversation_id, entry.owner, metadata=entry.metadata)
        except StoreError as error:
            raise failure_of(error, entry.conversation_id) from error

    async def workspaces(self) -> set[str]:
        """Where the agents of all conversations work."""
        stored: Iterable[str] = ()
        if self.store is not None:
            with suppress(StoreError):
                stored = await self.store.workspaces()
        return {*self._directory.workspaces(), *stored}

    async def agents(self) -> set[str] | None:
        """The stored conversations with agents, by their ids. None: it is not known which."""
        if self.store is None:
            return set()
        try:
            return {*await self.store.agents()}
        except StoreError as error:
            log.warning("stored agents are not known", error=str(error))
            return None

    async def records(self, entry: Entry) -> Sequence[TurnRecord]:
        """Every turn of a conversation: those that memory has not kept are read again. Raises
        `Overloaded`."""
        history, journal = entry.state.broadcast.history, entry.state.journal
        if not (history.forgotten and isinstance(journal, Journal) and journal.lease is not None):
            return [*history]
        try:
            head = journal.lease.head
            log = await read_log(journal.store, entry.conversation_id, entry.owner, head)
        except StoreError as error:
            raise failure_of(error, entry.conversation_id) from error
        return [*_records_of(entry.conversation_id, fold(log))]

    # -- over time ---------------------------------------------------------------------------------

    async def close_lost_turns(self) -> None:
        """What ran when an earlier gateway ended is lost: its conversations say so. Where the store
        takes nothing now, each does so when it is loaded."""
        store = self.store
        try:
            while store is not None:
                orphans = await store.orphans(CHECKED_AT_ONCE)
                for conversation_id, owner in orphans:
                    with suppress(Owned, Missing, Fenced):  # another node was faster
                        await _close_lost_turn(store, conversation_id, owner)
                if len(orphans) < CHECKED_AT_ONCE:
                    return
        except StoreError as error:
            log.warning("lost turns are not looked for", error=str(error))

    async def prune(self, settings: StorageSettings) -> None:
        """Delete what need not be kept any more."""
        assert self.store is not None
        days = settings.retention_days
        spare = [entry.conversation_id for entry in self._directory.all()]
        try:
            gone = await self.store.prune(
                unused_since=time.time() - days * 86_400 if days else None,
                max_bytes=settings.max_bytes or None,
                spare=spare,
            )
        except StoreError as error:
            log.warning("nothing pruned", error=str(error))
            return
        for conversation_id in gone:
            self.deleted(conversation_id, conversation_id)
        if gone:
            log.info("conversations pruned", count=len(gone))

    def discard(self, entry: Entry) -> None:
        """No client will come back to this conversation, which is in memory no more: it goes from
        the store soon. Never waits."""
        if self.store is not None and entry.state.journal is not None:
            self._discarded[entry.conversation_id] = entry.owner
            self._more.set()

    async def reclaim(self, entries: Collection[Entry]) -> list[Entry]:
        """This node's lease had ended, and it has another: it has these conversations again, but
        for those that other nodes have taken, or deleted. Returns those. Raises `StoreError`."""
        if self.store is None:
            return []
        leases = {
            entry: entry.state.journal.lease
            for entry in entries
            if isinstance(entry.state.journal, Journal)
        }
        held = [lease for lease in leases.values() if lease is not None]
        ours = await self.store.reclaim(held) if held else frozenset()
        return [e for e, lease in leases.items() if lease and e.conversation_id not in ours]

    def leave(self, entry: Entry) -> None:
        """A conversation has left memory: its lease is released soon, so that another node may
        serve it without asking this one. Never waits. (If it is loaded again meanwhile, under a
        lease of its own, the release of the old one does nothing.)"""
        journal = entry.state.journal
        if isinstance(journal, Journal) and journal.lease is not None:
            self._left.append(journal.lease)
            self._more.set()

    async def run(self, settings: StorageSettings) -> None:
        """Release the leases of what has left memory, prune, and delete what is discarded, again
        and again."""
        if self.store is None:
            return
        pruned_at = -math.inf
        while True:
            discarded, self._discarded = self._discarded, {}
            self._more = trio.Event()
            for conversation_id, owner in discarded.items():
                with suppress(GatewayError):  # the log says why; retention sees to it
                    await self.delete(conversation_id, owner)
            left, self._left = self._left, []
            for lease in left:
                with suppress(StoreError):  # no more than a hint to other nodes
                    await self.store.release(lease)
            if trio.current_time() >= pruned_at + PRUNE_SECONDS:
                pruned_at = trio.current_time()
                await self.prune(settings)
            with trio.move_on_at(pruned_at + PRUNE_SECONDS):
                await self._more.wait()


async def _close_lost_turn(store: Store, conversation_id: str, owner: str) -> None:
    """Raises `StoreError`."""
    lease = await store.acquire(conversation_id, owner)
    if lease.open_turn is not None:
        await store.lose_turn(lease, LOST)
    await store.release(lease)
    log.warning("a turn was lost", conversation_id=conversation_id)


def after_nothing() -> InvalidRequest:
    return InvalidRequest("after names nothing of this list.", code="invalid_value", param="after")


def _has(entry: Entry, terms: Sequence[Sequence[str]]) -> bool:
    """Whether a turn has all these terms."""
    for record in entry.state.broadcast.history:
        text = "\n".join(message.text for message in record.said)
        if terms and matches(words_of(text), terms):
            return True
    return False


# -- out of the log --------------------------------------------------------------------------------


async def read_log(store: Store, conversation_id: str, owner: str, last: int) -> list[Logged]:
    """The records of a log up to the number `last`. Raises `Missing`, `Unavailable`."""
    records: list[Logged] = []
    while len(records) < last:
        limit = min(READ_AT_ONCE, last - len(records))
        some = await store.read(conversation_id, owner, len(records) + 1, limit)
        if not some:
            raise Missing(conversation_id)
        records += some
    return records


def _memory_of(stored: StoredConversation, turns: Sequence[LoggedTurn]) -> Memory:
    """What a session goes on with: a new child receives all of it; or, of an agent's, what stands
    behind the last turn that the CLI's transcript holds."""
    recorded = 0
    if stored.setup.profile == "agent":
        recorded = max((n for n, turn in enumerate(turns, 1) if turn.resume is not None), default=0)
    model = stored.setup.model
    held = tuple(_said(turns[:recorded], model))
    seed = tuple(_said(turns[recorded:], model))
    said = (*held, *seed)
    return Memory(
        setup=stored.setup,
        digests=tuple(map(digest, said)),
        resume=turns[recorded - 1].resume if recorded else None,
        seed=seed,
        turns=stored.turns,
        usage=stored.usage,
        calls=tuple(call.id for message in said[-1:] for call in message.calls),
        grants=stored.grants,
        called=tuple(call.id for message in held for call in message.calls),
    )


def _said(turns: Iterable[LoggedTurn], model: str) -> Iterable[Message]:
    """What was said, as this model receives it: with its own thinking."""
    for turn in turns:
        for message in turn.messages:
            yield message.message if turn.model == model else message.plain


def _records_of(
    conversation_id: str, turns: Sequence[LoggedTurn], before_last: Memory | None = None
) -> Iterable[TurnRecord]:
    for number, turn in enumerate(turns, 1):
        prompts = tuple(message.message for message in turn.prompts)
        if not turn.turn_id:
            yield TurnRecord(added_id(conversation_id, turn.last), turn.created_at, "", prompts)
            continue
        yield TurnRecord(
            turn.turn_id, turn.created_at, turn.model, prompts, turn.output, turn.finish_reason,
            turn.usage, before_last if number == len(turns) else None,
            turn.answer[0].message if len(turn.answer) == 1 else None,
        )  # fmt: skip


def _before_last(stored: StoredConversation, turns: Sequence[LoggedTurn]) -> Memory | None:
    """What the conversation remembered before its last turn."""
    if not turns or not turns[-1].turn_id:
        return None
    usage = stored.usage - turns[-1].usage
    return _memory_of(evolve(stored, turns=stored.turns - 1, usage=usage), turns[:-1])


def _place_before_last(turns: Sequence[LoggedTurn], memory: Memory) -> Place | None:
    if not turns or not turns[-1].turn_id:
        return None
    last = turns[-1]
    held = len(memory.digests) - len(last.messages)
    return Place(last.records[0].seq - 1, held, memory.turns - 1)


@asynccontextmanager
async def open_archive(
    settings: StorageSettings,
    directory: Directory,
    store: Store | None = None,
    cluster: ClusterSettings | None = None,
) -> AsyncIterator[Archive]:
    """Have the store open, if there is to be one and it is not given, and look after it while the
    block runs. Raises `Overloaded` where it cannot be opened, or another gateway has it open."""
    async with AsyncExitStack() as stack:
        if store is None and settings.persist:
            try:
                cluster = cluster or ClusterSettings()
                store = await stack.enter_async_context(
                    open_store(
                        settings.place,
                        node_url=cluster.node_url,
                        lease_seconds=cluster.lease_seconds,
                    )
                )
            except StoreRefused as error:
                raise Overloaded(str(error), code="storage_refused") from error
        archive = Archive(store, directory)
        await archive.close_lost_turns()
        nursery = await stack.enter_async_context(trio.open_nursery())
        nursery.start_soon(partial(archive.run, settings))
        try:
            yield archive
        finally:
            nursery.cancel_scope.cancel()
