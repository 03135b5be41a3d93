"""The store of a gateway that is alone: leases are always granted, and checked all the same.

Knows: records and their JSON, leases as objects, what a change makes of them. Refuses to know: how
an engine keeps anything, and in which thread it does (`Runner`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from functools import partial
from typing import Any, Protocol, TypeVar
from uuid import uuid4

import trio
from attrs import evolve
from zstandard import ZstdCompressor, ZstdDecompressor

from ...schemas.keys import ApiKey
from ...schemas.log.codec import decode, dumps, encode, loads
from ...schemas.log.fold import fold
from ...schemas.log.records import (
    Logged,
)
from ...schemas.log.responses import StoredResponse, decode_response, encode_response
from ...schemas.log.words import terms_of
from ..workers import work
from . import engine as engines
from .admission import Admissions
from .engine import (
    Change,
    Created,
    Engine,
    RequestRow,
    ResponseRow,
    State,
)
from .hints import Hints, Topic
from .interface import (
    Allowance,
    Beat,
    Begun,
    DayUsage,
    Head,
    Held,
    KeptAnswer,
    KeptRequest,
    Keys,
    Known,
    Lapsed,
    Lease,
    LiveNode,
    Missing,
    NewConversation,
    Node,
    Page,
    Spent,
    Standing,
    StoredConversation,
    StoreStatistics,
    Turn,
)
from .leases import LONG_CHARACTERS, LeaseChanges, change_of, created_of, follow, lease_of
from .local_batches import LocalBatches, LocalFiles

T = TypeVar("T")

INDEXED_AT_ONCE = 200
"""Turns that are made searchable in one step."""

READ_AT_ONCE = 1000
"""Records that are read in one step."""

PRUNED_TO = 0.95
"""How much of what may be kept is left, once more was kept: the next turn shall not prune again."""


class Runner(Protocol):
    """Has an engine do things, in the right thread."""

    @property
    def trouble(self) -> str | None: ...

    def write(self, change: Callable[[Engine], T], size: int = 0) -> Coroutine[Any, Any, T]:
        """May begin at once. What is returned has to be awaited, and waits for the end: it raises
        what `change` does, `Unavailable`, and `Unknown`. `size`: bytes that it holds."""
        ...

    async def read(self, look: Callable[[Engine], T]) -> T:
        """Raises what `look` does, and `Unavailable`."""
        ...


class Life(Protocol):
    """One node among several: see `interface.Store`."""

    admissions: Admissions
    hints: Hints

    def tell(self, topic: Topic) -> None: ...
    def lives(self, node_id: str) -> bool: ...
    def beat(self, facts: bytes) -> Beat: ...
    def renew(self) -> Node: ...
    def leave(self) -> None: ...
    def claim_place(self, place: str, home: str) -> str: ...


class LocalStore(LeaseChanges):
    """See `interface.Store`. `clock` gives Unix seconds; `life` is there if there are other nodes.

    `begin_turn`, `end_turn` and `fail_turn` have the change on its way when they return; what they
    return waits until it is done, and has to be awaited.
    """

    def __init__(
        self,
        runner: Runner,
        node: Node,
        clock: Callable[[], float] = time.time,
        life: Life | None = None,
    ) -> None:
        self.node = node
        self.files = LocalFiles(runner, clock)
        self.hints = Hints() if life is None else life.hints
        self.batches = LocalBatches(runner, clock, self._tell)
        self._runner = runner
        self._clock = clock
        self._life = life
        self._admissions = Admissions() if life is None else life.admissions

    def __repr__(self) -> str:
        return f"<LocalStore {self.node.id} {self.trouble or 'well'}>"

    @property
    def trouble(self) -> str | None:
        return self._runner.trouble

    # -- nodes -------------------------------------------------------------------------------------

    def _tell(self, topic: Topic) -> None:
        if self._life is not None:
            self._life.tell(topic)

    async def beat(self, facts: bytes = b"{}") -> Beat:
        await trio.lowlevel.checkpoint()
        if self._life is None:
            return Beat(math.inf, (LiveNode(self.node),))
        return self._life.beat(facts)

    async def renew(self) -> Node:
        await trio.lowlevel.checkpoint()
        if self._life is not None:
            self.node = self._life.renew()
        return self.node

    def give_up(self) -> None:
        """Never: it answers at once."""

    async def leave(self) -> None:
        await trio.lowlevel.checkpoint()
        if self._life is not None:
            self._life.leave()

    async def claim_place(self, place: str, home: str) -> str:
        await trio.lowlevel.checkpoint()
        return home if self._life is None else self._life.claim_place(place, home)

    # -- leases ------------------------------------------------------------------------------------

    async def acquire(
        self, conversation_id: str, key_id: str, create: NewConversation | None = None
    ) -> Lease:
        created: Created | None = None
        if create is not None:
            is_long = len(create.setup.system) > LONG_CHARACTERS
            created = await work(partial(created_of, create)) if is_long else created_of(create)
        now = self._clock()
        state = await self._runner.write(
            lambda engine: engine.acquire(conversation_id, key_id, created, now)
        )
        return lease_of(conversation_id, key_id, state)

    async def release(self, lease: Lease) -> None:
        await self._runner.write(lambda engine: engine.release(lease.conversation_id, lease.token))

    async def reclaim(self, leases: Collection[Lease]) -> frozenset[str]:
        claims = [(each.conversation_id, each.token) for each in leases]
        return await self._runner.write(
            lambda engine: frozenset(name for name, token in claims if engine.reclaim(name, token))
        )

    async def resolve(self, lease: Lease) -> bool:
        unsettled = lease.unsettled
        if unsettled is None:
            return True
        # Behind the change in the same queue: when this is done, the change is or never will be.
        done, state = await self._runner.write(
            lambda engine: engine.settle(lease.conversation_id, lease.token, unsettled)
        )
        follow(lease, state)
        lease.unsettled = None
        return done

    def _now(self) -> float:
        return self._clock()

    def _perform(
        self, change: Change, lease: Lease
    ) -> Coroutine[Any, Any, tuple[Begun | Known | int, State]]:
        append = partial(_append, change, lease.turns, lease.open_turn)
        return self._runner.write(append, change.size)

    async def _turn(self, conversation_id: str, number: int) -> Turn | None:
        return await self._runner.read(lambda engine: engine.turn(conversation_id, number))

    # -- reading -----------------------------------------------------------------------------------

    async def get(self, conversation_id: str, key_id: str) -> StoredConversation:
        return await self._runner.read(lambda engine: engine.get(conversation_id, key_id))

    async def read(
        self, conversation_id: str, key_id: str, first: int = 1, limit: int = READ_AT_ONCE
    ) -> tuple[Logged, ...]:
        rows = await self._runner.read(
            lambda engine: engine.rows(conversation_id, key_id, first, limit)
        )
        return tuple(map(logged_of, rows))

    async def head(self, conversation_id: str) -> Head:
        return await self._runner.read(lambda engine: engine.head(conversation_id))

    async def request(self, conversation_id: str, request_id: str) -> Turn | None:
        return await self._runner.read(lambda engine: engine.request(conversation_id, request_id))

    async def orphans(self, limit: int = 50) -> tuple[tuple[str, str], ...]:
        return tuple(await self._runner.read(lambda engine: engine.orphans(limit)))

    async def conversations(
        self,
        key_id: str,
        *,
        limit: int = 20,
        after: str | None = None,
        newest_first: bool = True,
        q: str | None = None,
    ) -> Page:
        terms = None
        if q is not None and q.strip():
            terms = terms_of(q)
            while await self._runner.write(lambda engine: engine.index_words(INDEXED_AT_ONCE)):
                pass
        return await self._runner.read(
            lambda engine: engine.conversations(key_id, limit, after, newest_first, terms)
        )

    async def statistics(self) -> StoreStatistics:
        return await self._runner.read(lambda engine: engine.statistics())

    async def workspaces(self) -> tuple[str, ...]:
        return tuple(await self._runner.read(lambda engine: engine.workspaces()))

    async def agents(self) -> tuple[str, ...]:
        return tuple(await self._runner.read(lambda engine: engine.agents()))

    # -- conversations -----------------------------------------------------------------------------

    async def update(
        self,
        conversation_id: str,
        key_id: str,
        *,
        metadata: Mapping[str, str] | None = None,
        title: str | None = None,
        private: bool | None = None,
        grants: Sequence[str] = (),
    ) -> None:
        body = None if metadata is None else dumps(dict(metadata))
        named = None if title is None else title.encode("utf-8", "replace").decode()
        await self._runner.write(
            lambda engine: engine.update(conversation_id, key_id, body, named, private, grants)
        )

    async def delete(self, conversation_id: str, key_id: str) -> None:
        await self._runner.write(lambda engine: engine.delete(conversation_id, key_id))

    async def fork(
        self, conversation_id: str, key_id: str, new_id: str, *, upto: int | None = None
    ) -> Lease:
        source = await self.get(conversation_id, key_id)
        last = source.head if upto is None else min(upto, source.head)
        log: list[Logged] = []
        while len(log) < last:
            rows = await self.read(
                conversation_id, key_id, len(log) + 1, min(READ_AT_ONCE, last - len(log))
            )
            if not rows:
                raise Missing(f"{conversation_id} was deleted.")
            log += rows
        records = [each.record for turn in fold(log) for each in turn.records]
        create = NewConversation(
            setup=source.setup, metadata=source.metadata, private=source.private
        )
        created, now = created_of(create), self._clock()

        def make(engine: Engine) -> State:
            state = engine.acquire(new_id, key_id, created, now)
            if not records:
                return state
            lease = lease_of(new_id, key_id, state)
            change = change_of(lease, records, now, is_plain=True)
            return _append(change, lease.turns, lease.open_turn, engine)[1]

        size = sum(each.size for each in map(encode, records))
        return lease_of(new_id, key_id, await self._runner.write(make, size))

    async def prune(
        self,
        *,
        unused_since: float | None = None,
        max_bytes: int | None = None,
        max_responses: int | None = None,
        spare: Collection[str] = (),
    ) -> tuple[str, ...]:
        most: int | None = None
        if max_bytes is not None:
            held = await self.statistics()
            # The file takes more than its records do, and gives room back later than they go.
            size = held.bytes - held.answer_bytes - held.file_bytes
            if size > max_bytes:
                most = int(held.record_bytes * max_bytes / size * PRUNED_TO)
        deleted: list[str] = []
        more = True
        while more:
            delete = partial(
                engines.prune,
                now=self._clock(),
                unused_since=unused_since,
                most_record_bytes=most,
                max_responses=max_responses,
                spare=spare,
            )
            some, more = await self._runner.write(delete)
            deleted += some
        return tuple(deleted)

    # -- lineage, usage ----------------------------------------------------------------------------

    async def lineage_put(self, key_id: str, digest: bytes, conversation_id: str, seq: int) -> None:
        await self._runner.write(
            lambda engine: engine.lineage_put(key_id, digest, conversation_id, seq)
        )

    async def lineage_find(
        self, key_id: str, digests: Sequence[bytes], limit: int = 8
    ) -> tuple[Held, ...]:
        found = await self._runner.read(lambda engine: engine.lineage_find(key_id, digests, limit))
        return tuple(found)

    async def usage(
        self, key_id: str | None = None, first_day: str = "", last_day: str = "9"
    ) -> tuple[DayUsage, ...]:
        return tuple(
            await self._runner.read(lambda engine: engine.usage(key_id, first_day, last_day))
        )

    async def spent(self, key_id: str, first_hour: str) -> tuple[Spent, ...]:
        return tuple(await self._runner.read(lambda engine: engine.spent(key_id, first_hour)))

    async def count(self, spent: Sequence[Spent]) -> None:
        await self._runner.write(lambda engine: engine.count(spent))

    # -- limits ------------------------------------------------------------------------------------

    async def admit(
        self, key_id: str, allowance: Allowance, turn_id: str | None = None
    ) -> Standing:
        standing, now = await self._standing(key_id, allowance)  # no checkpoint from here on
        if not self._lives(self.node.id):
            raise Lapsed("This node's lease has run out.")
        if standing.exceeded is None:
            self._admissions.admit(key_id, allowance, turn_id, self.node.id, standing, now)
        return standing

    async def standing(self, key_id: str, allowance: Allowance) -> Standing:
        return (await self._standing(key_id, allowance))[0]

    async def _standing(self, key_id: str, allowance: Allowance) -> tuple[Standing, float]:
        spent: Sequence[Spent] = ()
        if allowance.windows:
            spent = await self.spent(key_id, min(each.first_hour for each in allowance.windows))
        else:
            await trio.lowlevel.checkpoint()
        now = self._clock()
        return self._admissions.standing(key_id, allowance, spent, self._lives, now), now

    def _lives(self, node_id: str) -> bool:
        return node_id == self.node.id if self._life is None else self._life.lives(node_id)

    async def discharge(self, turns: Sequence[tuple[str, str]]) -> None:
        await trio.lowlevel.checkpoint()
        self._admissions.discharge(turns)

    # -- keys --------------------------------------------------------------------------------------

    async def keys(self, known: int | None = None) -> Keys | None:
        def look(engine: Engine) -> Keys | None:
            version = engine.keys_version()
            return None if version == known else Keys(version, tuple(engine.keys()))

        return await self._runner.read(look)

    async def add_key(self, key: ApiKey) -> None:
        await self._runner.write(lambda engine: engine.add_key(key))
        self._tell("keys")

    async def revoke_key(self, key_id: str) -> None:
        now = self._clock()
        await self._runner.write(lambda engine: engine.revoke_key(key_id, now))
        self._tell("keys")

    async def delete_key(self, key_id: str) -> None:
        await self._runner.write(lambda engine: engine.delete_key(key_id))
        self._tell("keys")

    # -- responses ---------------------------------------------------------------------------------

    async def put_response(self, response: StoredResponse, expires_at: float) -> None:
        heading, encoded = response.heading, encode_response(response)
        row = ResponseRow(
            response.id,
            response.key_id,
            heading.conversation_id,
            heading.created_at,
            expires_at,
            encoded,
        )
        await self._runner.write(lambda engine: engine.put_response(row), encoded.size)

    async def get_response(self, response_id: str, key_id: str) -> StoredResponse:
        now = self._clock()
        body, parts = await self._runner.read(
            lambda engine: engine.get_response(response_id, key_id, now)
        )
        return decode_response(body, parts.__getitem__)

    async def latest_response(self, conversation_id: str, key_id: str) -> StoredResponse | None:
        now = self._clock()

        def look(engine: Engine) -> tuple[bytes, Mapping[bytes, bytes]] | None:
            found = engine.latest_response(conversation_id, key_id, now)
            return None if found is None else engine.get_response(found, key_id, now)

        found = await self._runner.read(look)
        return None if found is None else decode_response(found[0], found[1].__getitem__)

    async def delete_response(self, response_id: str, key_id: str) -> None:
        await self._runner.write(lambda engine: engine.delete_response(response_id, key_id))

    # -- requests with an idempotency key ----------------------------------------------------------

    async def claim_request(
        self, key_id: str, name: str, digest: bytes, expires_at: float
    ) -> KeptRequest | None:
        row, now = RequestRow(key_id, name, digest, "running", expires_at), self._clock()
        found = await self._runner.write(lambda engine: engine.claim_request(row, now))
        if found is None:
            return None
        return (
            await work(partial(kept_of, found)) if found.size > LONG_CHARACTERS else kept_of(found)
        )

    async def settle_request(
        self,
        key_id: str,
        name: str,
        request: KeptRequest,
        expires_at: float,
        *,
        max_count: int,
        max_bytes: int,
    ) -> None:
        row = RequestRow(key_id, name, request.digest, request.state, expires_at)
        if request.answer is not None:
            pack = partial(packed, row, request.answer)
            row = await work(pack) if len(request.answer.body) > LONG_CHARACTERS else pack()
        now = self._clock()
        await self._runner.write(
            lambda engine: engine.settle_request(row, now, max_count, max_bytes), row.size
        )

    async def release_request(self, key_id: str, name: str) -> None:
        await self._runner.write(lambda engine: engine.release_request(key_id, name))

    async def check(self) -> tuple[str, ...]:
        return tuple(await self._runner.read(lambda engine: engine.check()))


def new_node(name: str = "", url: str = "") -> Node:
    """A new life of a gateway."""
    return Node(f"{name}{uuid4()}", url)


def _append(
    change: Change, last_turn: int, open_turn: int | None, engine: Engine
) -> tuple[Begun | Known | int, State]:
    """What came of a change under a lease with these turns, and where the conversation stands."""
    result = engine.append(change)
    if isinstance(result, Known):
        return result, engine.state(change.conversation_id)
    if isinstance(result, Begun):
        last_turn = open_turn = result.number
    elif change.closing is not None:
        open_turn = None
    return result, State(change.token, change.head + len(change.records), last_turn, open_turn)


def packed(row: RequestRow, answer: KeptAnswer) -> RequestRow:
    """The row with its answer, compressed."""
    headers = dumps(dict(answer.headers))
    body = ZstdCompressor().compress(answer.body)
    return evolve(row, status=answer.status, headers=headers, body=body)


def kept_of(row: RequestRow) -> KeptRequest:
    """What the row says."""
    if not row.status:
        return KeptRequest(row.digest, row.state, is_elsewhere=row.is_elsewhere)
    body = ZstdDecompressor().decompress(row.body)
    return KeptRequest(row.digest, row.state, KeptAnswer(row.status, loads(row.headers), body))


def logged_of(row: engines.Row) -> Logged:
    """The record in the clear."""
    record = decode(row.kind, row.body, row.parts.__getitem__)
    return Logged(row.seq, row.token, row.turn, row.at, record)
