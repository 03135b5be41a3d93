"""The store in PostgreSQL: which statements each call is.

Knows: what comes of a statement, one node's life among others, and how an outcome that is not known
becomes known. Refuses to know: SQL (`statements`), connections (`pool`).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import psycopg
import trio
import trio.lowlevel
from attrs import astuple, evolve

from ....schemas.keys import (
    ApiKey,
)
from ....schemas.log.codec import decode_setup, digest_of, dumps, loads
from ....schemas.log.fold import fold
from ....schemas.log.records import Logged
from ....schemas.log.responses import StoredResponse, encode_response
from ....schemas.log.words import terms_of
from ....schemas.turn import Usage
from ...loggers import get_logger
from ...workers import work
from ..admission import exceeded
from ..engine import MAX_RECORDS, Change, Created, RequestRow, Row, State, named_parts
from ..hints import Hints
from ..interface import (
    Allowance,
    Beat,
    Begun,
    DayUsage,
    Fenced,
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
    NameTaken,
    NewConversation,
    Node,
    Owned,
    Page,
    Spent,
    Standing,
    StoredConversation,
    StoreError,
    StoreInUse,
    StoreStatistics,
    Turn,
    Unavailable,
    Unknown,
    Unsettled,
    Used,
)
from ..leases import LONG_CHARACTERS, LeaseChanges, change_of, created_of, follow, lease_of
from ..local import (
    INDEXED_AT_ONCE,
    PRUNED_TO,
    READ_AT_ONCE,
    kept_of,
    logged_of,
    new_node,
    packed,
)
from . import batch_statements as batch_sql
from . import statements as sql
from .batches import PostgresBatches, PostgresFiles
from .connection import Connection, NativeConnection
from .pool import Pool, first_line
from .rows import indexed, key_of, owner_word, response_of, summary, values_of_key
from .schema import make_ready
from .trio_connection import Row as Found

log = get_logger("ccapi.store")

LEASE_SECONDS = 1.2

ALWAYS = 10 * 365 * 86_400.0
"""How long a gateway lives that is alone: its guard says when it is gone."""

GRACE_SECONDS = 5.0
"""How long a change whose connection was lost waits until it is known what came of it."""

RETRY_SECONDS = 0.1

PATIENCE_SECONDS = 2.0
"""How long a gateway that is just ending may take to let go of the database."""

GUARD_SECONDS = 1.0

LISTEN_SECONDS = 30.0
"""How long no hint comes before it is looked whether its connection still stands."""

LISTEN_AGAIN_SECONDS = 2.0

INDEXED_WHEN_IDLE = 25
IDLE_SECONDS = 1.0
"""How long after a turn's end its words are indexed; a search does so at once."""

MAX_N = 2**62
PRUNED_AT_ONCE = 50
RECLAIMED_AT_ONCE = 500

TRIM_SECONDS = 60.0
PART = 100
"""What is kept of requests is looked through, which takes as long as that is: so often, and once
this part of what may be kept has come. By so much a node may pass the bounds meanwhile."""

TRIED_LIVES = 20
CHECK_SECONDS = 600.0


class Run(Protocol):
    """Runs one statement: in the pool, or in a transaction."""

    def __call__(self, statement: str, /, *values: object) -> Awaitable[list[Found]]: ...


class PostgresStore(LeaseChanges):
    """See `interface.Store`. Made by `open_postgres_store`."""

    def __init__(
        self,
        url: str,
        *,
        node_url: str = "",
        lease_seconds: float = LEASE_SECONDS,
        clock: Callable[[], float] | None = None,
        threads: bool = False,
    ) -> None:
        self.node = new_node(url=node_url)
        self.lease_seconds = lease_seconds
        self.pool = Pool(url, self._make_ready, threads=threads)
        self.hints = Hints()
        self.files = PostgresFiles(self, self._moment)
        self.batches = PostgresBatches(self, self._moment)
        self._clock = clock
        self._guard: Connection | None = None
        self._guards = trio.Lock()
        self._intruder: str | None = None
        self._ended = trio.Event()
        self._has_given_up = False
        self._settled = self._settled_bytes = 0
        self._trimmed_at = -math.inf
        self._tried: deque[str] = deque(maxlen=TRIED_LIVES)
        """Lives that may have begun, though no answer came."""
        self._tokens: WeakKeyDictionary[Lease, int] = WeakKeyDictionary()
        """The token that a lease may have by now: it was asked for, and no answer came."""

    def __repr__(self) -> str:
        return f"<PostgresStore {self.pool!r} {self.node.id}>"

    @property
    def trouble(self) -> str | None:
        return self.pool.trouble or self._intruder

    @property
    def is_alone(self) -> bool:
        """Whether no other gateway may have the database open meanwhile."""
        return not self.node.url

    async def _make_ready(self, connection: Connection) -> None:
        """Raises `StoreRefused`, `StoreInUse`; `psycopg.Error`, `OSError`."""
        await make_ready(connection, self.pool.place)
        until = trio.current_time() + PATIENCE_SECONDS
        while True:
            try:
                await self._take_guard()
                break
            except StoreInUse:  # that of a gateway that has just ended, perhaps
                if trio.current_time() > until:
                    raise
                await trio.sleep(RETRY_SECONDS)
        # As the guard is ours, those that are meant here live no more.
        await connection.execute(sql.FORGET_ALL if self.is_alone else sql.FORGET_ALONE)
        await connection.execute(sql.RENEW, (*self._life(), []))

    async def _take_guard(self) -> Connection:
        """The connection by which the others know that this gateway has the database open, and by
        which it beats. Raises `StoreInUse`; `psycopg.Error`, `OSError`."""
        async with self._guards:
            if self._guard is not None and self._guard.is_quiet():
                return self._guard
            self._drop_guard()
            guard = await self.pool.connect(may_lose=True)
            try:
                [(free,)] = await guard.execute(sql.ALONE if self.is_alone else sql.TOGETHER)
            except BaseException:
                guard.close()
                raise
            if not free:
                guard.close()
                raise StoreInUse(
                    f"Another gateway has {self.pool.place} open: end it, or set cluster.node_url "
                    "for both.",
                    None,
                )
            self._guard = guard
            return guard

    def _drop_guard(self) -> None:
        if self._guard is not None:
            self._guard.close()
            self._guard = None

    async def keep_guard(self) -> None:
        """See that no other gateway opens the database, also after the engine was started again."""
        while self.is_alone:
            await trio.sleep(GUARD_SECONDS)
            try:
                await self._take_guard()
                self._intruder = None
            except StoreInUse as error:
                self._intruder = str(error)
            except (psycopg.Error, OSError):
                pass  # the pool says what is wrong

    def _moment(self) -> float | None:
        """Now, where a test has a clock of its own."""
        return None if self._clock is None else self._clock()

    def _now(self) -> float:
        return 0.0 if self._clock is None else self._clock()

    async def run(self) -> None:
        """Make what was said searchable, a while after it was."""
        while True:
            await self._ended.wait()
            self._ended = trio.Event()
            await trio.sleep(IDLE_SECONDS)
            with suppress(StoreError):
                while await self._index(INDEXED_WHEN_IDLE):
                    await trio.lowlevel.checkpoint()

    async def listen(self) -> None:
        """Receive what other nodes say, if there can be any, on a connection of its own."""
        while not self.is_alone:
            connection: Connection | None = None
            try:
                connection = await self.pool.connect()
                if not isinstance(connection, NativeConnection):
                    return  # it would take a thread
                await self._listen(connection)
            except (psycopg.Error, OSError, trio.TooSlowError) as error:
                log.debug("no hints from other nodes", reason=first_line(error))
            finally:
                if connection is not None:
                    connection.close()
            await trio.sleep(LISTEN_AGAIN_SECONDS)

    async def _listen(self, connection: NativeConnection) -> None:
        """Raises `psycopg.Error`, `OSError`, `trio.TooSlowError`."""
        [(channel,)] = await connection.execute(f"select {sql.CHANNEL}")
        await connection.execute(f'listen "{channel}"')
        self.hints.missed()
        while True:
            with trio.move_on_after(LISTEN_SECONDS):
                for topic in await connection.notified():
                    self.hints.came(topic)
                continue
            # A connection that was cut says nothing either.
            with trio.fail_after(LISTEN_AGAIN_SECONDS):
                await connection.execute("select 1")

    def close(self) -> None:
        self._drop_guard()
        self.pool.close()

    # -- nodes -------------------------------------------------------------------------------------

    def _life(self) -> tuple[object, ...]:
        return self.node.id, self.node.url, ALWAYS if self.is_alone else self.lease_seconds

    async def beat(self, facts: bytes = b"{}") -> Beat:
        """See `interface.Store`. It has a connection of its own, behind no other call, and takes no
        longer than a lease."""
        if self.is_alone:
            await trio.lowlevel.checkpoint()
            return Beat(math.inf, (LiveNode(self.node),))
        before = trio.current_time()
        found: list[Found] | None = None
        try:
            with trio.move_on_after(self.lease_seconds):
                guard = await self._take_guard()
                values = (self.node.id, self.lease_seconds, facts)
                found = await guard.execute(sql.BEAT, values)
        except (psycopg.Error, OSError) as error:
            raise Unavailable(f"{self.pool.place} took no beat ({first_line(error)}).") from error
        if found is None:
            raise Unavailable(f"{self.pool.place} does not answer.")
        if not found:
            raise Lapsed("This node's lease has run out.")
        living = tuple(LiveNode(Node(id, url), *more) for id, url, *more in found)
        return Beat(before + self.lease_seconds, living)

    async def renew(self) -> Node:
        node = new_node(url=self.node.url)
        before, self.node = self.node, node
        earlier = [before.id, *self._tried]
        # Before it is known: what comes of a statement may stay unknown.
        self._tried.append(node.id)
        try:
            await self.pool.write(sql.RENEW, *self._life(), earlier)
        except Unavailable:
            self._tried.pop()  # it was not done
            self.node = before
            raise
        except BaseException:
            self.node = before
            raise
        self._tried.clear()
        self._has_given_up = False
        return node

    def give_up(self) -> None:
        self._has_given_up = True
        self.pool.give_up()

    async def leave(self) -> None:
        await self.pool.write(sql.LEAVE, self.node.id)

    async def claim_place(self, place: str, home: str) -> str:
        [(found,)] = await self.pool.write(sql.CLAIM_PLACE, place, home)
        return str(found)

    # -- leases ------------------------------------------------------------------------------------

    async def acquire(
        self, conversation_id: str, key_id: str, create: NewConversation | None = None
    ) -> Lease:
        created: Created | None = None
        if create is not None:
            is_long = len(create.setup.system) > LONG_CHARACTERS
            created = await work(partial(created_of, create)) if is_long else created_of(create)
        state = await self._acquire(self.pool.write, conversation_id, key_id, created)
        return lease_of(conversation_id, key_id, state)

    async def _acquire(
        self, run: Run, conversation_id: str, key_id: str, created: Created | None
    ) -> State:
        for _ in range(3):
            mine = conversation_id, key_id, self.node.id
            if created is None:
                rows = await run(sql.ACQUIRE, *mine)
            else:
                new = created
                rows = await run(
                    sql.CREATE,
                    *(*mine, new.setup, new.model, new.profile, new.workspace, new.metadata),
                    *(new.private, self._moment()),
                )
            if rows:
                return State(*rows[0])
            found = await run(sql.OWNER, *mine)
            if not found:
                break
            if found[0][0] is not None:
                raise Owned(Node(*found[0]))
            # Its owner has given it up meanwhile, or is gone.
        raise Missing(f"There is no conversation {conversation_id}.")

    async def release(self, lease: Lease) -> None:
        await self.pool.write(sql.RELEASE, lease.conversation_id, lease.token)

    async def reclaim(self, leases: Collection[Lease]) -> frozenset[str]:
        ours: set[str] = set()
        asked: dict[Lease, set[int]] = {}
        # A lease may get another token meanwhile (`_settle`): then it is asked for once more.
        while missing := [
            each
            for each in leases
            if each.conversation_id not in ours and asked.get(each) != self._tokens_of(each)
        ]:
            asked |= {each: self._tokens_of(each) for each in missing}
            claims = sorted(
                (each.conversation_id, token) for each in missing for token in asked[each]
            )
            for first in range(0, len(claims), RECLAIMED_AT_ONCE):
                some = claims[first : first + RECLAIMED_AT_ONCE]
                names, tokens = [name for name, _ in some], [token for _, token in some]
                rows = await self.pool.write(sql.RECLAIM, self.node.id, names, tokens)
                ours |= {name for (name,) in rows}
        return frozenset(ours)

    def _tokens_of(self, lease: Lease) -> set[int]:
        """Those that it may have."""
        return {lease.token, self._tokens.get(lease, lease.token)}

    async def _perform(self, change: Change, lease: Lease) -> tuple[Begun | Known | int, State]:
        unsettled = lease.unsettled
        assert unsettled is not None
        done = await self._written(self.pool.write, change, lease)
        if done is not None:
            if change.closing is not None or change.units:
                self._ended.set()
            return done
        return await self._find_out(change, lease, unsettled)

    async def _written(
        self, run: Run, change: Change, lease: Lease
    ) -> tuple[Begun | Known | int, State] | None:
        """None: whether it is done is not known."""
        if change.head + len(change.records) > MAX_RECORDS:
            raise StoreError("The conversation is too long.")
        opening = change.opening
        statement, values = self._appending(change)
        try:
            rows = await run(statement, *values)
        except Unknown:
            return None
        except psycopg.IntegrityError:
            rows = []
        if rows:
            head, last_turn, told = rows[0]
            if opening is not None:
                return Begun(last_turn, told), State(change.token, head, last_turn, last_turn)
            open_turn = None if change.closing is not None else lease.open_turn
            return head, State(change.token, head, lease.turns, open_turn)
        request_id = None if opening is None else opening.request_id
        found = await run(sql.STAND, change.conversation_id, request_id)
        if not found or found[0][0] != change.token:
            raise _fenced(change.conversation_id)
        token, head, last_turn, open_turn, *turn = found[0]
        if opening is not None and turn[0] is not None:
            return Known(Turn(*turn)), State(token, head, last_turn, open_turn)
        raise Fenced(f"{change.conversation_id} stands at {head}, not {change.head}.")

    def _appending(self, change: Change) -> tuple[str, list[object]]:
        """The statement of a change, and its values."""
        opening, closing, records, parts = (
            change.opening, change.closing, change.records, change.parts
        )  # fmt: skip
        reset = change.reset or (None, None)
        values: dict[str, object] = {
            "id": change.conversation_id,
            "token": change.token,
            "head": change.head,
            "count": len(records),
            "now": None if self._clock is None else change.now,
            "size": change.size,
            "title": change.title,
            "reset_messages": reset[0],
            "reset_turns": reset[1],
            "messages": change.messages,
            "turns": change.turns,
            "kinds": [each.kind for each in records],
            "bodies": [each.body for each in records],
        }
        kind = "plain"
        if opening is not None:
            kind = "begin"
            first = 1 + [each.kind for each in records].index("start")
            values |= {
                "turn_id": opening.turn_id, "request_id": opening.request_id, "first": first
            }  # fmt: skip
        elif closing is not None:
            kind = closing.state
            charge = closing.charge
            values["charged_model"] = "" if charge is None else charge.model
            spent = Usage() if charge is None else charge.usage
            for name in sql.FIGURES:
                values[f"charged_{name}"] = getattr(spent, name)
                values[f"used_{name}"] = getattr(closing.usage, name, 0)
            if closing.setup is not None:
                values |= {name: getattr(closing.setup, name) for name in sql.SETUP}
            values["lineage"] = closing.lineage
        values |= {"digests": [*parts], "contents": [*parts.values()]}
        values["firsts"] = [first for first, _ in change.units]
        values["lasts"] = [last for _, last in change.units]
        asked: dict[str, Any] = {
            "parts": bool(parts),
            "units": bool(change.units),
            "usage": closing is not None and closing.usage is not None,
            "setup": closing is not None and closing.setup is not None,
            "lineage": closing is not None and closing.lineage is not None,
        }
        names = sql.values_of_append(kind, **asked)
        return sql.append(kind, **asked), [values[name] for name in names]

    async def _find_out(
        self, change: Change, lease: Lease, unsettled: Unsettled
    ) -> tuple[Begun | Known | int, State]:
        """The connection was lost: whether it is done, and if it is not, do it. Raises `Unknown`
        where the engine does not come back in time."""
        until = trio.current_time() + GRACE_SECONDS
        while True:
            await trio.sleep(RETRY_SECONDS)
            if self._has_given_up:
                # Another node may have the conversation: its client shall not wait for this one.
                raise Unknown(f"{self.pool.place} did not answer when this was written.")
            with suppress(Unavailable, Unknown):
                done, state, told = await self._settle(lease, unsettled)
                follow(lease, state)  # its token, whatever comes next
                if done and change.opening is not None:
                    return Begun(state.turns, told), state
                if done:
                    return state.head, state
                again = await self._written(
                    self.pool.write, evolve(change, token=state.token), lease
                )
                if again is not None:
                    return again
            if trio.current_time() > until:
                raise Unknown(
                    f"The connection to {self.pool.place} was lost while this was written."
                )

    async def resolve(self, lease: Lease) -> bool:
        unsettled = lease.unsettled
        if unsettled is None:
            return True
        done, state, _ = await self._settle(lease, unsettled)
        follow(lease, state)
        lease.unsettled = None
        return done

    async def _settle(self, lease: Lease, unsettled: Unsettled) -> tuple[bool, State, str | None]:
        """Whether a change was done, the lease's state, and the lost turn that it told of. The
        lease has another token afterwards: a statement under the old one that is still on its way
        does nothing."""
        if lease not in self._tokens:
            [(new,)] = await self.pool.write(sql.NEW_TOKEN)
            self._tokens[lease] = new
        name, new = lease.conversation_id, self._tokens[lease]
        rows = await self.pool.write(sql.RETAKE, name, lease.token, new)
        if not rows:
            raise _fenced(name)
        n, token, head, last_turn, open_turn, told = rows[0]
        state = State(token, head, last_turn, open_turn)
        if head == unsettled.head:
            del self._tokens[lease]
            return False, state, told
        written = await self.pool.read(
            sql.WRITTEN, n, unsettled.head + 1, unsettled.head + unsettled.count
        )
        if digest_of(written) != unsettled.digest:
            raise Fenced(f"{name} was changed by another.")
        del self._tokens[lease]
        return True, state, told

    # -- reading -----------------------------------------------------------------------------------

    async def get(self, conversation_id: str, key_id: str) -> StoredConversation:
        rows = await self.pool.read(sql.GET, conversation_id, key_id, self.node.id)
        if not rows:
            raise _missing(conversation_id)
        setup, metadata, private, title, created_at, used_at, turns, messages, *rest = rows[0]
        used, (grants, head, open_turn, lost_turn, size, node_id, url) = rest[:6], rest[6:]
        return StoredConversation(
            conversation_id=conversation_id,
            key_id=key_id,
            setup=decode_setup(setup),
            metadata=loads(metadata),
            private=private,
            title=title,
            created_at=created_at,
            used_at=used_at,
            turns=turns,
            messages=messages,
            usage=Usage(*used),
            grants=tuple(grants),
            head=head,
            open_turn=open_turn,
            lost_turn=lost_turn,
            bytes=size,
            node=None if node_id is None else Node(node_id, url),
        )

    async def read(
        self, conversation_id: str, key_id: str, first: int = 1, limit: int = READ_AT_ONCE
    ) -> tuple[Logged, ...]:
        rows = await self.pool.read(
            sql.ROWS, conversation_id, key_id, max(first, 1), min(limit, MAX_RECORDS)
        )
        if not rows:
            raise _missing(conversation_id)
        found = [Row(*row[1:]) for row in rows if row[1] is not None]
        digests = {digest for row in found for digest in named_parts(row.body)}
        if digests:
            kept = await self.pool.read(sql.PARTS, rows[0][0], [*digests])
            parts: dict[bytes, bytes] = dict(kept)
            found = [evolve(row, parts=parts) for row in found]
        return tuple(map(logged_of, found))

    async def head(self, conversation_id: str) -> Head:
        rows = await self.pool.read(sql.HEAD, conversation_id, self.node.id)
        if not rows:
            raise _missing(conversation_id)
        head, token, owner, open_turn, node_id, url = rows[0]
        node = None if node_id is None else Node(node_id, url)
        return Head(head, token, owner, open_turn, node)

    async def _turn(self, conversation_id: str, number: int) -> Turn | None:
        rows = await self.pool.read(sql.TURN, conversation_id, number)
        return Turn(*rows[0]) if rows else None

    async def request(self, conversation_id: str, request_id: str) -> Turn | None:
        rows = await self.pool.read(sql.REQUEST, conversation_id, request_id)
        return Turn(*rows[0]) if rows else None

    async def orphans(self, limit: int = 50) -> tuple[tuple[str, str], ...]:
        rows = await self.pool.read(sql.ORPHANS, self.node.id, limit)
        return tuple((id, key_id) for id, key_id in rows)

    async def conversations(
        self,
        key_id: str,
        *,
        limit: int = 20,
        after: str | None = None,
        newest_first: bool = True,
        q: str | None = None,
    ) -> Page:
        border = MAX_N if newest_first else 0
        if after is not None:
            numbers = await self.pool.read(sql.NUMBER, after, key_id)
            if not numbers:
                raise _missing(after)
            border = numbers[0][0]
        if q is None or not q.strip():
            statement = sql.page(newest_first=newest_first)
            rows = await self.pool.read(statement, key_id, border, limit + 1)
        else:
            while await self._index(INDEXED_AT_ONCE):
                pass
            rows = await self._search(key_id, limit, border, newest_first, terms_of(q))
        found = tuple(map(summary, rows))
        return Page(found[:limit], len(found) > limit)

    async def _search(
        self,
        key_id: str,
        limit: int,
        border: int,
        newest_first: bool,
        terms: Sequence[Sequence[str]],
    ) -> list[Found]:
        if not terms:
            return []
        last = len(terms) - 1
        words = [word for term in terms for word in term]
        # Words are letters and digits alone: there is nothing to quote in them.
        lexemes = [f"'{owner_word(key_id)}'", *(f"'{word}'" for word in words[:-1])]
        query = " & ".join((*lexemes, f"'{words[-1]}':*"))
        sides = [
            f"% {' '.join(term)}{'%' if number == last else ' %'}"
            for number, term in enumerate(terms)
        ]
        phrases = [side for side, term in zip(sides, terms, strict=True) if len(term) > 1]
        return await self.pool.read(
            sql.search(newest_first=newest_first, phrases=len(phrases)),
            *(key_id, border, limit + 1, query, sides, *phrases),
            prepare=False,
        )

    async def _index(self, limit: int) -> bool:
        """Make at most `limit` turns more searchable; says whether there are others."""
        rows = await self.pool.read(sql.UNINDEXED, limit)
        if not rows:
            return False
        columns = await work(partial(indexed, rows))
        with suppress(psycopg.IntegrityError):  # one was deleted meanwhile: the others wait
            await self.pool.write(sql.INDEX, *columns)
        return len(columns[0]) >= limit

    async def statistics(self) -> StoreStatistics:
        [(conversations, size, responses, response_size, answers)] = await self.pool.read(
            sql.STATISTICS
        )
        [(files,)] = await self.pool.read(batch_sql.HELD_BYTES)
        records = size + response_size
        held = records + answers + files
        return StoreStatistics(conversations, responses, held, records, answers, files)

    async def workspaces(self) -> tuple[str, ...]:
        return tuple(name for (name,) in await self.pool.read(sql.WORKSPACES))

    async def agents(self) -> tuple[str, ...]:
        return tuple(name for (name,) in await self.pool.read(sql.AGENTS))

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
        rules = [*dict.fromkeys(grants)]
        rows = await self.pool.write(
            sql.UPDATE, conversation_id, key_id, body, title, private, rules
        )
        if not rows:
            raise _missing(conversation_id)

    async def delete(self, conversation_id: str, key_id: str) -> None:
        if not await self.pool.write(sql.DELETE, conversation_id, key_id):
            raise _missing(conversation_id)

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
        async with self.pool.transaction() as connection:

            async def run(statement: str, /, *values: object) -> list[Found]:
                return await connection.execute(statement, values)

            state = await self._acquire(run, new_id, key_id, created_of(create))
            lease = lease_of(new_id, key_id, state)
            if records:
                change = change_of(lease, records, self._now(), is_plain=True)
                done = await self._written(run, change, lease)
                assert done is not None
                follow(lease, done[1])
        return lease

    async def prune(
        self,
        *,
        unused_since: float | None = None,
        max_bytes: int | None = None,
        max_responses: int | None = None,
        spare: Collection[str] = (),
    ) -> tuple[str, ...]:
        while await self.pool.write(sql.PRUNE_RESPONSES, self._moment(), PRUNED_AT_ONCE):
            pass
        if max_responses is not None:
            while await self.pool.write(sql.SPARE_RESPONSES, max_responses, PRUNED_AT_ONCE):
                pass
        deleted: list[str] = []
        kept = [*spare]
        if unused_since is not None:
            while True:
                rows = await self.pool.write(
                    sql.PRUNE, kept, self.node.id, unused_since, PRUNED_AT_ONCE
                )
                deleted += [name for _, name in sorted(rows)]
                if len(rows) < PRUNED_AT_ONCE:
                    break
        if max_bytes is not None:
            deleted += await self._make_room(max_bytes, kept)
        return tuple(deleted)

    async def _make_room(self, max_bytes: int, spare: list[str]) -> list[str]:
        held = (await self.statistics()).record_bytes
        if held <= max_bytes:
            return []
        deleted: list[str] = []
        excess = held - int(max_bytes * PRUNED_TO)
        while excess > 0:
            rows = await self.pool.read(sql.OLDEST, spare, self.node.id, PRUNED_AT_ONCE)
            for _, kind, name, key_id, size in rows:
                if excess <= 0:
                    break
                with suppress(Missing):  # it went by itself
                    await (self.delete_response if kind else self.delete)(name, key_id)
                    deleted += [] if kind else [name]
                excess -= size
            if not rows:
                break
        return deleted

    # -- lineage, usage ----------------------------------------------------------------------------

    async def lineage_put(self, key_id: str, digest: bytes, conversation_id: str, seq: int) -> None:
        try:
            rows = await self.pool.write(sql.LINEAGE_PUT, conversation_id, key_id, digest, seq)
        except psycopg.IntegrityError:  # deleted at this moment
            rows = []
        if not rows:
            raise _missing(conversation_id)

    async def lineage_find(
        self, key_id: str, digests: Sequence[bytes], limit: int = 8
    ) -> tuple[Held, ...]:
        asked = [*dict.fromkeys(digests)]
        rows = await self.pool.read(sql.LINEAGE_FIND, key_id, asked, limit)
        return tuple(Held(*row) for row in rows)

    async def usage(
        self, key_id: str | None = None, first_day: str = "", last_day: str = "9"
    ) -> tuple[DayUsage, ...]:
        rows = await self.pool.read(sql.USAGE, key_id, first_day, f"{last_day}U")
        return tuple(
            DayUsage(key, day, model, n, Usage(*used)) for key, day, model, n, *used in rows
        )

    async def spent(self, key_id: str, first_hour: str) -> tuple[Spent, ...]:
        rows = await self.pool.read(sql.SPENT, key_id, first_hour)
        return tuple(
            Spent(key, hour, model, n, Usage(*used)) for key, hour, model, n, *used in rows
        )

    async def count(self, spent: Sequence[Spent]) -> None:
        together: dict[tuple[str, str, str], Spent] = {}
        for each in spent:
            place = each.key_id, each.hour, each.model
            before = together.get(place) or Spent(*place, 0, Usage())
            used = before.usage + each.usage
            together[place] = Spent(*place, before.turns + each.turns, used)
        # In one order everywhere, so that two of them never wait for each other.
        rows = [(*place, each.turns, *astuple(each.usage)) for place, each in together.items()]
        if rows:
            await self.pool.write(sql.COUNT, *map(list, zip(*sorted(rows), strict=True)))

    # -- limits ------------------------------------------------------------------------------------

    async def admit(
        self, key_id: str, allowance: Allowance, turn_id: str | None = None
    ) -> Standing:
        values = self._asking(key_id, allowance, turn_id)
        standing = _standing(allowance, await self.pool.write(sql.ADMIT, *values))
        if standing is None:
            raise Lapsed("This node's lease has run out.")
        return standing

    async def standing(self, key_id: str, allowance: Allowance) -> Standing:
        values = self._asking(key_id, allowance, None)
        standing = _standing(allowance, await self.pool.read(sql.STANDING, *values))
        assert standing is not None
        return standing

    def _asking(self, key_id: str, allowance: Allowance, turn_id: str | None) -> tuple[object, ...]:
        windows = allowance.windows
        return (
            *(key_id, turn_id, self.node.id),
            *(allowance.concurrent_turns, float(allowance.turns_per_minute)),
            [each.first_hour for each in windows],
            [each.tokens for each in windows],
            [float(each.usd) for each in windows],
            self._moment(),
        )

    async def discharge(self, turns: Sequence[tuple[str, str]]) -> None:
        keys, names = [key_id for key_id, _ in turns], [turn_id for _, turn_id in turns]
        await self.pool.write(sql.DISCHARGE, keys, names)

    # -- keys --------------------------------------------------------------------------------------

    async def keys(self, known: int | None = None) -> Keys | None:
        rows = await self.pool.read(sql.KEYS, known)
        if not rows:
            return None
        found = [key_of(row) for _, *row in rows if row[0] is not None]
        return Keys(rows[0][0], tuple(found))

    async def add_key(self, key: ApiKey) -> None:
        rows = await self.pool.write(
            sql.ADD_KEY,
            *values_of_key(key),
        )
        if not rows:
            raise NameTaken(f"There is a key called {key.name} already.")

    async def revoke_key(self, key_id: str) -> None:
        if not await self.pool.write(sql.REVOKE_KEY, key_id, self._moment()):
            raise Missing("There is no such key.")

    async def delete_key(self, key_id: str) -> None:
        if not await self.pool.write(sql.DELETE_KEY, key_id):
            raise Missing("There is no such revoked key.")

    # -- responses ---------------------------------------------------------------------------------

    async def put_response(self, response: StoredResponse, expires_at: float) -> None:
        heading, encoded = response.heading, encode_response(response)
        rows = await self.pool.write(
            sql.PUT_RESPONSE,
            *(response.id, response.key_id, heading.conversation_id, heading.created_at),
            *(expires_at, encoded.size, encoded.body),
            *([*encoded.parts], [*encoded.parts.values()]),
        )
        if not rows:
            raise Missing(f"There is no response {response.id}.")

    async def get_response(self, response_id: str, key_id: str) -> StoredResponse:
        rows = await self.pool.read(sql.GET_RESPONSE, response_id, key_id, self._moment())
        if not rows:
            raise Missing(f"There is no response {response_id}.")
        return response_of(rows[0])

    async def latest_response(self, conversation_id: str, key_id: str) -> StoredResponse | None:
        rows = await self.pool.read(sql.LATEST_RESPONSE, conversation_id, key_id, self._moment())
        return response_of(rows[0]) if rows else None

    async def delete_response(self, response_id: str, key_id: str) -> None:
        if not await self.pool.write(sql.DELETE_RESPONSE, response_id, key_id):
            raise Missing(f"There is no response {response_id}.")

    # -- requests with an idempotency key ----------------------------------------------------------

    async def claim_request(
        self, key_id: str, name: str, digest: bytes, expires_at: float
    ) -> KeptRequest | None:
        now = self._moment()
        while True:
            if await self.pool.write(
                sql.CLAIM, key_id, name, digest, self.node.id, expires_at, now
            ):
                return None
            rows = await self.pool.read(sql.CLAIMED, key_id, name, self.node.id)
            if rows:
                found = RequestRow(*rows[0])
                is_long = found.size > LONG_CHARACTERS
                return await work(partial(kept_of, found)) if is_long else kept_of(found)
            # It was given back meanwhile.

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
        answer: KeptAnswer | None = request.answer
        if answer is not None:
            pack = partial(packed, row, answer)
            row = await work(pack) if len(answer.body) > LONG_CHARACTERS else pack()
        await self.pool.write(
            sql.SETTLE,
            *(key_id, name, row.digest, self.node.id, row.state, expires_at, row.size),
            *(row.status, row.headers, row.body),
        )
        self._settled += 1
        self._settled_bytes += row.size
        now = trio.current_time()
        is_due = now >= self._trimmed_at + TRIM_SECONDS
        if is_due or self._settled * PART >= max_count or self._settled_bytes * PART >= max_bytes:
            self._settled, self._settled_bytes, self._trimmed_at = 0, 0, now
            await self.pool.write(sql.TRIM, self._moment(), self.node.id, max_count, max_bytes)

    async def release_request(self, key_id: str, name: str) -> None:
        await self.pool.write(sql.RELEASE_REQUEST, key_id, name)

    # -- operations --------------------------------------------------------------------------------

    async def check(self) -> tuple[str, ...]:
        async with self.pool.use(writes=False, seconds=CHECK_SECONDS) as connection:
            await connection.execute("begin")
            await connection.execute("set local statement_timeout = 0")
            found = await connection.execute(sql.CHECK)
            await connection.execute("commit")
        return tuple(text for (text,) in found)


@asynccontextmanager
async def open_postgres_store(
    url: str,
    *,
    node_url: str = "",
    lease_seconds: float = LEASE_SECONDS,
    clock: Callable[[], float] | None = None,
    threads: bool = False,
) -> AsyncIterator[PostgresStore]:
    """The store at `url` (``postgresql://…``), as one more node, while the block runs. Raises
    `StoreRefused` where the database is another program's or of another version. Whatever else is
    wrong with it is the store's `trouble`, until it is right again.

    `node_url`: where the others reach this node. Empty: there are no others, and a gateway that
    has the database open makes it refused (`StoreInUse`). `threads`: run statements in threads
    instead of natively on trio. `clock` is for tests: Unix seconds that stand for the engine's, but
    for leases.
    """
    store = PostgresStore(
        url, node_url=node_url, lease_seconds=lease_seconds, clock=clock, threads=threads
    )
    try:
        await store.pool.open()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(store.pool.run)
            nursery.start_soon(store.run)
            nursery.start_soon(store.keep_guard)
            nursery.start_soon(store.listen)
            try:
                yield store
            finally:
                nursery.cancel_scope.cancel()
    finally:
        store.close()


def _missing(conversation_id: str) -> Missing:
    return Missing(f"There is no conversation {conversation_id}.")


def _fenced(conversation_id: str) -> Fenced:
    return Fenced(f"Another lease of {conversation_id} was granted, or it was deleted.")


def _standing(allowance: Allowance, rows: Sequence[Found]) -> Standing | None:
    """None: this node lives no more."""
    [(has_room, running, left, tokens, usd, hours)] = rows
    if has_room is None:
        return None
    used = tuple(map(Used, tokens, usd, hours))
    limit = exceeded(allowance, running, left, used)
    assert has_room is (limit is None), "both see the same numbers"
    return Standing(running, left, used, limit)
