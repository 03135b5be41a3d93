"""A store in memory: for ``storage.persist = false``, and the model of what a store does.

Knows: tables as dicts. Nothing here waits, so every change is whole by itself.
"""

from __future__ import annotations

import copy
import operator
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from itertools import islice
from typing import Any, TypeVar

import trio
from attrs import define, evolve, field

from ...schemas.keys import ApiKey, hour_of
from ...schemas.log.codec import decode_setup, digest_of, loads
from ...schemas.log.words import matches, words_of
from ...schemas.turn import Usage
from .admission import Admissions
from .engine import (
    MAX_RECORDS,
    Change,
    Created,
    Engine,
    RequestRow,
    ResponseRow,
    Row,
    State,
)
from .hints import Hints, Topic
from .interface import (
    Beat,
    Begun,
    Charge,
    DayUsage,
    Fenced,
    Head,
    Held,
    Known,
    Lapsed,
    LiveNode,
    Missing,
    NameTaken,
    Node,
    Owned,
    Page,
    Spent,
    StoredConversation,
    StoreError,
    StoreStatistics,
    Summary,
    Turn,
    Unsettled,
)
from .local import LocalStore, new_node
from .memory_batches import HeldBatch, HeldFile, MemoryBatches, MemoryFiles

T = TypeVar("T")


@define(eq=False)
class _Conversation:
    """One conversation; `units` are the ranges of records that are searched as one."""

    id: str
    key_id: str
    created: Created
    created_at: float
    used_at: float
    token: int
    owner: str | None
    head: int = 0
    last_turn: int = 0
    open_turn: int | None = None
    lost_turn: str | None = None
    turns: int = 0
    messages: int = 0
    usage: Usage = field(factory=Usage)
    title: str | None = None
    grants: tuple[str, ...] = ()
    bytes: int = 0
    rows: list[Row] = field(factory=list)
    numbered: dict[int, Turn] = field(factory=dict)
    units: list[tuple[int, int]] = field(factory=list)


class MemoryEngine:
    """See `engine.Engine`."""

    def __init__(self, node_id: str) -> None:
        self.node_id = node_id
        self.living: Callable[[str], Node | None] = lambda _: None
        """Another node of this id, if it lives."""
        self._conversations: dict[str, _Conversation] = {}
        self._counters: Counter[str] = Counter()  # not two numbers, which engines could not share
        self._lineage: dict[tuple[str, bytes], dict[str, int]] = {}
        self._usage: dict[tuple[str, str, str], Spent] = {}
        self._keys: dict[str, ApiKey] = {}
        self._responses: dict[str, ResponseRow] = {}
        self._requests: dict[tuple[str, str], tuple[str, RequestRow]] = {}  # with their nodes
        self._files: dict[str, HeldFile] = {}
        self._batches: dict[str, HeldBatch] = {}

    @property
    def files(self) -> MemoryFiles:
        return MemoryFiles(self._files, self.node_id, self._other)

    @property
    def batches(self) -> MemoryBatches:
        return MemoryBatches(self._batches, self.node_id, self._other)

    def _find(self, conversation_id: str, key_id: str | None = None) -> _Conversation:
        found = self._conversations.get(conversation_id)
        if found is None or (key_id is not None and found.key_id != key_id):
            raise Missing(f"There is no conversation {conversation_id}.")
        return found

    def touch(self) -> None:
        pass

    # -- leases ------------------------------------------------------------------------------------

    def acquire(
        self, conversation_id: str, key_id: str, create: Created | None, now: float
    ) -> State:
        if create is not None and conversation_id not in self._conversations:
            self._conversations[conversation_id] = _Conversation(
                conversation_id, key_id, create, now, now, 0, None
            )
        found = self._find(conversation_id, key_id)
        other = self._other(found.owner)
        if other is not None:
            raise Owned(other)
        self._counters["token"] += 1
        found.token, found.owner = self._counters["token"], self.node_id
        return self.state(conversation_id)

    def _other(self, node_id: str | None) -> Node | None:
        """Another node of this id, if it lives."""
        return None if node_id in (None, self.node_id) else self.living(node_id or "")

    def let_go(self, node_id: str) -> None:
        """What this node has is no one's now."""
        for each in self._conversations.values():
            if each.owner == node_id:
                each.owner = None

    def state(self, conversation_id: str) -> State:
        found = self._find(conversation_id)
        return State(found.token, found.head, found.last_turn, found.open_turn)

    def release(self, conversation_id: str, token: int) -> None:
        found = self._conversations.get(conversation_id)
        if found is not None and found.token == token and found.open_turn is None:
            found.owner = None

    def reclaim(self, conversation_id: str, token: int) -> bool:
        found = self._conversations.get(conversation_id)
        if found is None or found.token != token:
            return False
        found.owner = self.node_id
        return True

    def _fenced(self, conversation_id: str, token: int) -> _Conversation:
        found = self._conversations.get(conversation_id)
        if found is None or found.token != token:
            raise Fenced(f"Another lease of {conversation_id} was granted, or it was deleted.")
        return found

    def append(self, change: Change) -> Begun | Known | int:
        found = self._fenced(change.conversation_id, change.token)
        if change.opening is not None:
            known = self.request(change.conversation_id, change.opening.request_id)
            if known is not None:
                return Known(known)
        if found.head != change.head:
            raise Fenced(f"{change.conversation_id} stands at {found.head}, not {change.head}.")
        if found.head + len(change.records) > MAX_RECORDS:
            raise StoreError("The conversation is too long.")
        number = found.last_turn + 1 if change.opening is not None else found.open_turn or 0
        for seq, each in enumerate(change.records, found.head + 1):
            found.rows.append(
                Row(seq, change.token, number, change.now, each.kind, each.body, each.parts)
            )
        found.head += len(change.records)
        found.used_at, found.bytes = change.now, found.bytes + change.size
        found.title = change.title if found.title is None else found.title
        if change.reset is not None:
            found.messages, found.turns = change.reset
        found.messages += change.messages
        found.turns += change.turns
        begins = change.head + 1
        found.units += [(begins + first, begins + last) for first, last in change.units]
        if change.opening is not None:
            return self._open(found, change, number)
        if change.closing is not None:
            self._close(found, change)
        return found.head

    def _open(self, found: _Conversation, change: Change, number: int) -> Begun:
        assert change.opening is not None
        kinds = [each.kind for each in change.records]
        first = change.head + 1 + kinds.index("start")
        found.last_turn = found.open_turn = number
        opening = change.opening
        found.numbered[number] = Turn(
            number, opening.turn_id, opening.request_id, "running", first, None
        )
        begun = Begun(number, found.lost_turn)
        found.lost_turn = None
        return begun

    def _close(self, found: _Conversation, change: Change) -> None:
        closing = change.closing
        assert closing is not None
        assert found.open_turn is not None
        turn = found.numbered[found.open_turn]
        found.numbered[found.open_turn] = evolve(turn, state=closing.state, last=found.head)
        found.open_turn = None
        if closing.state == "lost":
            found.lost_turn = turn.turn_id
        if closing.state == "ended":
            said = found.rows[turn.first - 1 :]
            found.messages += sum(row.kind in ("user", "assistant") for row in said)
            found.turns += 1
            found.units.append((turn.first, found.head))
        if closing.usage is not None:
            found.usage += closing.usage
        charge = closing.charge or Charge("", Usage())
        # Of the model that the conversation had while the turn ran.
        model = charge.model or found.created.model
        self.count([Spent(found.key_id, hour_of(change.now), model, 1, charge.usage)])
        if closing.setup is not None:
            found.created = evolve(
                closing.setup, metadata=found.created.metadata, private=found.created.private
            )
        if closing.lineage is not None:
            self.lineage_put(found.key_id, closing.lineage, found.id, found.head)

    def settle(self, conversation_id: str, token: int, unsettled: Unsettled) -> tuple[bool, State]:
        found = self._fenced(conversation_id, token)
        rows = found.rows[unsettled.head : unsettled.head + unsettled.count]
        if found.head == unsettled.head:
            return False, self.state(conversation_id)
        if digest_of((row.kind, row.body) for row in rows) != unsettled.digest:
            raise Fenced(f"{conversation_id} was changed by another.")
        return True, self.state(conversation_id)

    # -- reading -----------------------------------------------------------------------------------

    def get(self, conversation_id: str, key_id: str) -> StoredConversation:
        found = self._find(conversation_id, key_id)
        return StoredConversation(
            conversation_id=found.id,
            key_id=found.key_id,
            setup=decode_setup(found.created.setup),
            metadata=loads(found.created.metadata),
            private=found.created.private,
            title=found.title,
            created_at=found.created_at,
            used_at=found.used_at,
            turns=found.turns,
            messages=found.messages,
            usage=found.usage,
            grants=found.grants,
            head=found.head,
            open_turn=found.open_turn,
            lost_turn=found.lost_turn,
            bytes=found.bytes,
            node=self._other(found.owner),
        )

    def rows(self, conversation_id: str, key_id: str, first: int, limit: int) -> list[Row]:
        begin = max(first, 1) - 1
        return self._find(conversation_id, key_id).rows[begin : begin + limit]

    def head(self, conversation_id: str) -> Head:
        found = self._find(conversation_id)
        node = self._other(found.owner)
        return Head(found.head, found.token, found.owner, found.open_turn, node)

    def turn(self, conversation_id: str, number: int) -> Turn | None:
        found = self._conversations.get(conversation_id)
        return None if found is None else found.numbered.get(number)

    def request(self, conversation_id: str, request_id: str) -> Turn | None:
        found = self._conversations.get(conversation_id)
        turns = () if found is None else found.numbered.values()
        return next((turn for turn in turns if turn.request_id == request_id), None)

    def workspaces(self) -> list[str]:
        agents = (c for c in self._conversations.values() if c.created.profile == "agent")
        return [*dict.fromkeys(each.created.workspace or each.id for each in agents)]

    def agents(self) -> list[str]:
        return [c.id for c in self._conversations.values() if c.created.profile == "agent"]

    def orphans(self, limit: int) -> list[tuple[str, str]]:
        found = (
            (each.id, each.key_id)
            for each in self._conversations.values()
            if each.open_turn is not None
            and each.owner != self.node_id
            and self._other(each.owner) is None
        )
        return [*islice(found, limit)]

    def index_words(self, limit: int) -> bool:
        return False

    def conversations(
        self,
        key_id: str,
        limit: int,
        after: str | None,
        newest_first: bool,
        terms: Sequence[Sequence[str]] | None,
    ) -> Page:
        mine = [each for each in self._conversations.values() if each.key_id == key_id]
        if newest_first:
            mine.reverse()
        if after is not None:
            mine = mine[mine.index(self._find(after, key_id)) + 1 :]
        if terms is not None:
            mine = [each for each in mine if terms and _is_found(each, terms)]
        return Page(tuple(map(_summary, mine[:limit])), len(mine) > limit)

    def statistics(self) -> StoreStatistics:
        size = sum(each.bytes for each in self._conversations.values())
        size += sum(row.encoded.size for row in self._responses.values())
        answers = sum(row.size for _, row in self._requests.values())
        files = self.files.held_bytes + self.batches.held_bytes
        return StoreStatistics(
            len(self._conversations),
            len(self._responses),
            size + answers + files,
            size,
            answers,
            files,
        )

    # -- conversations -----------------------------------------------------------------------------

    def update(
        self,
        conversation_id: str,
        key_id: str,
        metadata: bytes | None,
        title: str | None,
        private: bool | None,
        grants: Sequence[str],
    ) -> None:
        found = self._find(conversation_id, key_id)
        if metadata is not None:
            found.created = evolve(found.created, metadata=metadata)
        if title is not None:
            found.title = title
        if private is not None:
            found.created = evolve(found.created, private=private)
        if private:
            self._forget(conversation_id)
        found.grants = tuple(dict.fromkeys((*found.grants, *grants)))

    def delete(self, conversation_id: str, key_id: str) -> None:
        self._find(conversation_id, key_id)
        del self._conversations[conversation_id]
        self._forget(conversation_id)

    def _forget(self, conversation_id: str) -> None:
        for key, holders in [*self._lineage.items()]:
            holders.pop(conversation_id, None)
            if not holders:
                del self._lineage[key]

    def unused(self) -> Iterator[tuple[str, str, float, int]]:
        resting = [each for each in self._conversations.values() if each.open_turn is None]
        for each in sorted(resting, key=operator.attrgetter("used_at")):
            yield each.id, each.key_id, each.used_at, each.bytes

    def responses_by_age(self) -> Iterator[tuple[str, str, float, float, int]]:
        for row in [*self._responses.values()]:
            yield row.id, row.key_id, row.created_at, row.expires_at, row.encoded.size

    # -- lineage, usage ----------------------------------------------------------------------------

    def lineage_put(self, key_id: str, digest: bytes, conversation_id: str, seq: int) -> None:
        self._find(conversation_id, key_id)
        holders = self._lineage.setdefault((key_id, digest), {})
        holders.pop(conversation_id, None)
        holders[conversation_id] = seq

    def lineage_find(self, key_id: str, digests: Sequence[bytes], limit: int) -> list[Held]:
        found = (
            Held(digest, conversation_id, seq)
            for digest in dict.fromkeys(digests)
            for conversation_id, seq in reversed(self._lineage.get((key_id, digest), {}).items())
        )
        return [*islice(found, limit)]

    def count(self, spent: Sequence[Spent]) -> None:
        for each in spent:
            key = (each.key_id, each.hour, each.model)
            used = self._usage.get(key) or Spent(*key, 0, Usage())
            self._usage[key] = Spent(*key, used.turns + each.turns, used.usage + each.usage)

    def usage(self, key_id: str | None, first_day: str, last_day: str) -> list[DayUsage]:
        days: dict[tuple[str, str, str], DayUsage] = {}
        for each in self._usage.values():
            key = (each.key_id, each.hour[:10], each.model)
            if key_id in (None, each.key_id) and first_day <= key[1] <= last_day:
                used = days.get(key) or DayUsage(*key, 0, Usage())
                days[key] = DayUsage(*key, used.turns + each.turns, used.usage + each.usage)
        return [days[key] for key in sorted(days)]

    def spent(self, key_id: str, first_hour: str) -> list[Spent]:
        mine = (each for each in self._usage.values() if each.key_id == key_id)
        found = [each for each in mine if each.hour >= first_hour]
        return sorted(found, key=operator.attrgetter("hour", "model"))

    # -- keys --------------------------------------------------------------------------------------

    def keys_version(self) -> int:
        return self._counters["keys"]

    def keys(self) -> list[ApiKey]:
        return [*self._keys.values()]

    def add_key(self, key: ApiKey) -> None:
        held = (each.name for each in self._keys.values() if each.revoked_at is None)
        if key.name in held or key.id in self._keys:
            raise NameTaken(f"There is a key called {key.name} already.")
        self._keys[key.id] = key
        self._counters["keys"] += 1

    def revoke_key(self, key_id: str, now: float) -> None:
        found = self._keys.get(key_id)
        if found is None:
            raise Missing("There is no such key.")
        if found.revoked_at is None:
            self._keys[key_id] = evolve(found, revoked_at=now)
            self._counters["keys"] += 1

    def delete_key(self, key_id: str) -> None:
        found = self._keys.get(key_id)
        if found is None or found.revoked_at is None:
            raise Missing("There is no such revoked key.")
        del self._keys[key_id]
        self._counters["keys"] += 1

    # -- responses ---------------------------------------------------------------------------------

    def put_response(self, row: ResponseRow) -> None:
        held = self._responses.get(row.id)
        if held is not None and held.key_id != row.key_id:
            raise Missing(f"There is no response {row.id}.")
        self._responses[row.id] = row

    def _response(self, response_id: str, key_id: str) -> ResponseRow:
        row = self._responses.get(response_id)
        if row is None or row.key_id != key_id:
            raise Missing(f"There is no response {response_id}.")
        return row

    def get_response(
        self, response_id: str, key_id: str, now: float
    ) -> tuple[bytes, Mapping[bytes, bytes]]:
        row = self._response(response_id, key_id)
        if row.expires_at <= now:
            raise Missing(f"There is no response {response_id} any more.")
        return row.encoded.body, row.encoded.parts

    def latest_response(self, conversation_id: str, key_id: str, now: float) -> str | None:
        for row in reversed(self._responses.values()):
            is_theirs = row.conversation_id == conversation_id and row.key_id == key_id
            if is_theirs and row.expires_at > now:
                return row.id
        return None

    def delete_response(self, response_id: str, key_id: str) -> None:
        self._response(response_id, key_id)
        del self._responses[response_id]

    # -- requests with an idempotency key ----------------------------------------------------------

    def claim_request(self, row: RequestRow, now: float) -> RequestRow | None:
        place = row.key_id, row.name
        node, found = self._requests.get(place, ("", row))
        is_ours = found.state == "running" and node == self.node_id
        if not node or (found.expires_at <= now and not is_ours and self._other(node) is None):
            self._requests[place] = self.node_id, row
            return None
        if found.state != "running" or is_ours:
            return found
        if self._other(node) is None:
            return evolve(found, state="lost")
        return evolve(found, is_elsewhere=True)

    def settle_request(self, row: RequestRow, now: float, max_count: int, max_bytes: int) -> None:
        self._requests[row.key_id, row.name] = self.node_id, row
        for place, (node, each) in [*self._requests.items()]:
            if each.expires_at <= now and not (each.state == "running" and node == self.node_id):
                del self._requests[place]
        kept = [each for each in self.requests_by_age() if each[2] != "running"]
        count, size = len(kept), sum(each[-1] for each in kept)
        for key_id, name, _, _, bytes_ in kept:
            if count <= max_count and size <= max_bytes:
                break
            self.release_request(key_id, name)
            count, size = count - 1, size - bytes_

    def release_request(self, key_id: str, name: str) -> None:
        self._requests.pop((key_id, name), None)

    def requests_by_age(self) -> Iterator[tuple[str, str, str, float, int]]:
        rows = [each for _, each in self._requests.values()]
        for each in sorted(rows, key=operator.attrgetter("expires_at", "key_id", "name")):
            yield each.key_id, each.name, each.state, each.expires_at, each.size

    def check(self) -> list[str]:
        return []


def _is_found(found: _Conversation, terms: Sequence[Sequence[str]]) -> bool:
    return any(matches(unit_words(found.rows[a - 1 : b]), terms) for a, b in found.units)


def unit_words(rows: Sequence[Row]) -> list[str]:
    """The words by which these records are found: those of what was said, not of thinking, tool
    calls and their results."""
    texts = [
        block
        for row in rows
        if row.kind in ("user", "assistant")
        for block in loads(row.body)["content"]
        if isinstance(block, str)
    ]
    return words_of("\n".join(texts))


def summary_of(
    id: str, title: str | None, created: Created, rest: tuple[float, float, int, int, Usage]
) -> Summary:
    metadata: dict[str, Any] = loads(created.metadata)
    return Summary(id, title, created.model, created.profile, created.workspace, metadata, *rest)


def _summary(found: _Conversation) -> Summary:
    return summary_of(
        found.id,
        found.title,
        found.created,
        (found.created_at, found.used_at, found.turns, found.messages, found.usage),
    )


class MemoryRunner:
    """Has the engine do everything at once."""

    trouble: str | None = None

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def write(self, change: Callable[[Engine], T], size: int = 0) -> T:
        await trio.lowlevel.checkpoint()
        return change(self._engine)

    async def read(self, look: Callable[[Engine], T]) -> T:
        await trio.lowlevel.checkpoint()
        return look(self._engine)


@asynccontextmanager
async def open_memory_store(
    clock: Callable[[], float] = time.time,
) -> AsyncIterator[LocalStore]:
    """A store that lasts as long as the block."""
    node = new_node()
    await trio.lowlevel.checkpoint()
    yield LocalStore(MemoryRunner(MemoryEngine(node.id)), node, clock)


# -- several nodes ---------------------------------------------------------------------------------


class MemoryCluster:
    """What several nodes in one process share: the model of a store for more than one node, for
    tests of what is built on that. `lease_seconds`: how long a node lives behind a beat."""

    def __init__(self, lease_seconds: float = 1.2, clock: Callable[[], float] = time.time) -> None:
        self.lease_seconds = lease_seconds
        self.admissions = Admissions()
        self._engine = MemoryEngine("")
        self._clock = clock
        self._living: dict[str, tuple[float, LiveNode]] = {}  # until when, by node
        self.places: dict[str, str] = {}
        self.hints: list[Hints] = []

    def open_node(self, url: str) -> LocalStore:
        """The store, as another node has it."""
        engine = copy.copy(self._engine)  # the tables are the same ones
        life = _Life(self, engine, url)
        return LocalStore(MemoryRunner(engine), life.renew(), self._clock, life)

    def find(self, node_id: str) -> Node | None:
        """The node of this id, if it lives."""
        until, found = self._living.get(node_id, (0.0, None))
        return None if found is None or until <= trio.current_time() else found.node

    def keep(self, node: Node, facts: bytes) -> float:
        """Let the node live for another while; returns until when."""
        until = trio.current_time() + self.lease_seconds
        self._living[node.id] = until, LiveNode(node, facts)
        return until

    def drop(self, node_id: str) -> None:
        """The node lives no more."""
        self._living.pop(node_id, None)
        self._engine.let_go(node_id)
        self.admissions.forget(node_id)

    def nodes(self) -> tuple[LiveNode, ...]:
        """The nodes that live."""
        now = trio.current_time()
        living = (self._living[name] for name in sorted(self._living) if self.find(name))
        return tuple(evolve(found, seconds=until - now) for until, found in living)


class _Life:
    """See `local.Life`."""

    def __init__(self, cluster: MemoryCluster, engine: MemoryEngine, url: str) -> None:
        self._cluster = cluster
        self._engine = engine
        self._url = url
        self._node = Node("", url)
        self.admissions = cluster.admissions
        self.hints = Hints()
        cluster.hints.append(self.hints)
        engine.living = cluster.find

    def tell(self, topic: Topic) -> None:
        for hints in self._cluster.hints:
            hints.came(topic)

    def lives(self, node_id: str) -> bool:
        return self._cluster.find(node_id) is not None

    def beat(self, facts: bytes) -> Beat:
        if self._cluster.find(self._node.id) is None:
            raise Lapsed("This node's lease has run out.")
        return Beat(self._cluster.keep(self._node, facts), self._cluster.nodes())

    def renew(self) -> Node:
        before, self._node = self._node, new_node(url=self._url)
        self.admissions.move(before.id, self._node.id)
        self._engine.batches.move(before.id, self._node.id)
        self._engine.files.move(before.id, self._node.id)
        self._engine.node_id = self._node.id
        self._cluster.keep(self._node, b"{}")
        return self._node

    def leave(self) -> None:
        self._cluster.drop(self._node.id)

    def claim_place(self, place: str, home: str) -> str:
        return self._cluster.places.setdefault(place, home)
