"""The memory store and the SQLite store give the same answers to the same commands, and a change
that is stopped at any statement is done whole or not at all.

One machine has both stores do the same. What each of them answers, and all that can be read from
each of them afterwards, is compared. In between, the SQLite store's writer stops before or after
one statement of a change, and then either the same store goes on (its writer starts again), or
another one opens what a SIGKILL at that moment leaves on the disk. Readers look meanwhile.
"""

from __future__ import annotations

import copy
import os
import shutil
import sqlite3
import tempfile
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from itertools import count
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeVar, cast

import pytest
import trio
import trio.testing
from attrs import asdict, define, evolve, field
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from ccapi.schemas.keys import ApiKey
from ccapi.schemas.log.messages import ExactMessage
from ccapi.schemas.log.records import Rewound, Said, TurnEnd, TurnFailed
from ccapi.schemas.message import Image, Message
from ccapi.schemas.turn import Setup, Usage
from ccapi.transport.store import engine as engines
from ccapi.transport.store import writer as writers
from ccapi.transport.store.database import Database, connect
from ccapi.transport.store.engine import Engine
from ccapi.transport.store.interface import (
    KeptAnswer,
    KeptRequest,
    Lease,
    NewConversation,
    Spent,
    StoreError,
    Unknown,
)
from ccapi.transport.store.local import LocalStore, new_node
from ccapi.transport.store.memory import MemoryEngine, MemoryRunner
from ccapi.transport.store.opening import open_sqlite_store
from ccapi.transport.store.sqlite import SqliteEngine
from ccapi.transport.store.writer import Writer

from .support import KEY, NEW, OTHER, response

T = TypeVar("T")

KEYS = (KEY, OTHER)
NAMES = ("conv_1", "conv_2")
REQUESTS = ("r0", "r1", "r2")
RESPONSES = ("resp_1", "resp_2")
DIGESTS = (b"one", b"two", b"three")
WORDS = ("bread", "flour", "brot", "日本")
PICTURES = tuple(Image("image/png", letters * 2000) for letters in ("QUJD", "REVG"))
COMMIT = 0
EXAMPLES = int(os.environ.get("CCAPI_TEST_EXAMPLES", "8"))
"""By hand some hundreds: each takes half a second, and several where the machine is busy."""

MOST_STATEMENTS = 14
"""About as many as a change has, with those of its transaction."""

# -- all that can be read --------------------------------------------------------------------------


def view(engine: Engine) -> dict[str, object]:
    """Everything that is kept, as far as stores may not differ in it. (They may in which order
    words become searchable, and in the bytes of the disk.)"""
    seen: dict[str, object] = {}
    for key in KEYS:
        page = engine.conversations(key, 100, None, True, None)
        seen[f"list of {key}"] = page
        for shown in page.conversations:
            name = shown.conversation_id
            head = engine.head(name)
            is_ours = head.owner == engine.node_id
            seen[name] = (
                engine.get(name, key),
                engine.rows(name, key, 1, 1000),
                engine.state(name),
                evolve(head, owner=None),
                "ours" if is_ours else head.owner is not None,
                [engine.request(name, request) for request in REQUESTS],
                [engine.turn(name, number) for number in range(1, head.head + 1)],
            )
            seen[f"response of {name}"] = engine.latest_response(name, key, 0)
        for name in RESPONSES:
            seen[f"{name} of {key}"] = answer_of(engine.get_response, name, key, 0)
        seen[f"lineage of {key}"] = engine.lineage_find(key, DIGESTS, 100)
        seen[f"usage of {key}"] = engine.usage(key, "", "9"), engine.spent(key, "")
    held = engine.statistics()
    seen["statistics"] = held.conversations, held.responses, held.record_bytes
    seen["keys"] = engine.keys_version(), engine.keys(), engine.usage(None, "", "9")
    seen["orphans"] = engine.orphans(100)
    seen["unused"] = [*engine.unused()]
    seen["ages"] = [*engine.responses_by_age()]
    seen["requests"] = [*engine.requests_by_age()]
    seen["agents"] = sorted(engine.agents()), sorted(engine.workspaces())
    return seen


def answer_of(look: Callable[..., object], *args: object) -> object:
    try:
        return look(*args)
    except StoreError as error:
        return type(error).__name__


# -- a store and its callers -----------------------------------------------------------------------


@define
class Callers:
    """One store, and two callers that may each hold a lease on each conversation."""

    store: LocalStore
    leases: dict[tuple[str, int], Lease] = field(factory=dict)


Change = Callable[[Callers], Awaitable[object]]
"""What a caller has its store do."""


async def outcome(change: Change, callers: Callers) -> object:
    """The answer. An error counts by its kind: its text is the operator's."""
    try:
        return await change(callers)
    except StoreError as error:
        return type(error).__name__


async def take_all(callers: Callers) -> object:
    """A caller takes each conversation that there is."""
    for key in KEYS:
        for each in (await callers.store.conversations(key)).conversations:
            name = each.conversation_id
            callers.leases[name, 0] = await callers.store.acquire(name, key)
    return [shown(lease) for lease in callers.leases.values()]


def turn_of(lease: Lease, number: int | None) -> str:
    return f"{lease.conversation_id}/{number}"


# -- the writer stops ------------------------------------------------------------------------------


class Stop(BaseException):
    """The writer stops here."""


class Stopping:
    """A connection on which the statement `number` (`COMMIT`: whichever that is) is the last one,
    `after` it was run or before. `seen` is called at that moment, by the writer's thread."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        number: int,
        *,
        after: bool,
        seen: Callable[[], None],
    ) -> None:
        self._connection = connection
        self._left = number
        self._at_commit = number == COMMIT
        self._after = after
        self._seen = seen
        self.stopped_behind: str | None = None
        """The last statement that was run, once the writer stopped."""
        self._last = ""

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._connection, name)
        return partial(self._run, found) if name in ("execute", "executemany") else found

    def _run(self, execute: Callable[..., Any], statement: str, *values: Any) -> Any:
        self._left -= 1
        is_last = not self._left or (self._at_commit and statement == "commit")
        if is_last and not self._after:
            self._stop()
        result = execute(statement, *values)
        self._last = statement
        if is_last:
            self._stop()
        return result

    def _stop(self) -> None:
        self._left = -1
        self._at_commit = False  # it goes on: its user rolls back
        self.stopped_behind = self._last
        self._seen()
        raise Stop


@define(frozen=True)
class StopAt:
    """The writer stops at the statement `number` (from 1, or `COMMIT`) of the next transaction,
    `after` it was run or before. `kills`: the process ends there, and another one opens what it
    left."""

    number: int
    after: bool
    kills: bool


STOPS = [
    StopAt(number, after, kills)
    for number in (*[COMMIT] * (MOST_STATEMENTS // 2), *range(1, MOST_STATEMENTS + 1))
    for after in (False, True)
    for kills in (False, True)
]
stops = st.none() | st.sampled_from(STOPS)


class Stores:
    """A memory store, and a SQLite store in a folder, in a trio run of their own."""

    def __init__(self) -> None:
        self.now = 1_000_000.0
        ready: SimpleQueue[tuple[trio.lowlevel.TrioToken, trio.Nursery]] = SimpleQueue()

        async def main() -> None:
            async with trio.open_nursery() as nursery:
                ready.put((trio.lowlevel.current_trio_token(), nursery))
                await trio.sleep_forever()

        self._thread = threading.Thread(target=trio.run, args=(main,), name="stores")
        self._thread.start()
        self._token, self._nursery = ready.get(timeout=10)
        self._folders = tempfile.TemporaryDirectory()
        self._numbers = count()
        self.folder = self.new_folder()
        self._runner = MemoryRunner(MemoryEngine("first life"))
        self.model = Callers(LocalStore(self._runner, new_node(), self.clock))
        self._open(self.folder)

    def clock(self) -> float:
        return self.now

    def new_folder(self) -> Path:
        return Path(self._folders.name) / str(next(self._numbers))

    def run(self, function: Callable[..., Awaitable[T]], *args: Any) -> T:
        async def bounded() -> T:
            with trio.fail_after(20):
                return await function(*args)

        return trio.from_thread.run(bounded, trio_token=self._token)

    def close(self) -> None:
        self.run(self._close)
        self._token.run_sync_soon(self._nursery.cancel_scope.cancel)
        self._thread.join()
        self._folders.cleanup()

    # -- the SQLite store --

    def _open(self, folder: Path) -> None:
        self.folder = folder
        store = self.run(self._nursery.start, self._keep_open, folder)
        self.kept = Callers(store)

    async def _keep_open(self, folder: Path, *, task_status: trio.TaskStatus[LocalStore]) -> None:
        self._over, self._closed = trio.Event(), trio.Event()
        closed = self._closed
        async with open_sqlite_store(folder, self.clock) as store:
            task_status.started(store)
            await self._over.wait()
        closed.set()

    async def _close(self) -> None:
        self._over.set()
        await self._closed.wait()

    def begin_another_life(self, folder: Path) -> None:
        """Another process opens what lies in `folder`; leases are the first one's."""
        self.run(self._close)
        self._open(folder)
        self.engine.node_id = f"life {next(self._numbers)}"
        self.model.leases.clear()
        self.ask(take_all)

    @property
    def writer(self) -> Writer:
        return cast(Writer, self.kept.store._runner)

    @property
    def database(self) -> Database:
        return self.writer._database

    @property
    def connection(self) -> sqlite3.Connection:
        """The writer's; it has none where it stopped before."""
        if self.database._connection is None:
            self.run(self.writer.write, lambda engine: engine.touch())
        assert self.database._connection is not None
        return self.database._connection

    def reader(self) -> sqlite3.Connection:
        """A reader whose look at the database begins now."""
        connection = connect(self.database.path, writes=False)
        connection.execute("begin")
        connection.execute("select count(*) from counter").fetchone()
        return connection

    def look(self, reader: sqlite3.Connection) -> dict[str, object]:
        return view(SqliteEngine(reader, self.database.node_id))

    # -- the memory store --

    @property
    def engine(self) -> MemoryEngine:
        return cast(MemoryEngine, self._runner._engine)

    def remember(self) -> Callable[[], None]:
        """What brings the memory store back to where it stands now."""
        engine, leases = copy.deepcopy((self.engine, self.model.leases))

        def undo() -> None:
            self._runner._engine, self.model.leases = engine, leases

        return undo

    # -- both --

    def compare(self) -> None:
        assert self.run(self.writer.read, view) == view(self.engine)

    def ask(self, change: Change) -> None:
        """Both answer alike."""
        expected = self.run(outcome, change, self.model)
        assert self.run(outcome, change, self.kept) == expected

    def ask_stopped(self, change: Change, stop: StopAt) -> None:
        """The writer stops in the middle of a change (if it has as many statements): it is done if
        its commit was run, and not at all otherwise. Readers see what is committed."""
        undo, before = self.remember(), view(self.engine)
        expected, after = self.run(outcome, change, self.model), view(self.engine)
        left = self.new_folder()
        seen: list[dict[str, object]] = []

        def see() -> None:
            reader = self.reader()
            seen.append(self.look(reader))
            reader.close()
            if stop.kills:
                shutil.copytree(self.folder, left)

        first_reader = self.reader()
        assert self.look(first_reader) == before
        connection = self.connection
        stopping = Stopping(connection, stop.number, after=stop.after, seen=see)
        self.database._connection = cast(sqlite3.Connection, stopping)
        answer = self.run(outcome, change, self.kept)
        assert self.look(first_reader) == before
        first_reader.close()
        if stopping.stopped_behind is None:
            self.database._connection = connection
            assert answer == expected
            return
        # A change may have nothing to do (its request was answered before): then it was not done,
        # wherever the writer stopped.
        is_done = stopping.stopped_behind == "commit" and after != before
        assert answer == "Unknown"
        assert seen == [after if is_done else before]
        if not is_done:
            undo()
        if stop.kills:
            self.begin_another_life(left)
        else:
            self.settle(is_done)

    def ask_together(self, changes: list[Change], stop: StopAt | None) -> None:
        """All of them in one transaction."""
        undo, before = self.remember(), view(self.engine)
        expected = [self.run(outcome, change, self.model) for change in changes]
        after = view(self.engine)
        seen: list[dict[str, object]] = []

        def see() -> None:
            reader = self.reader()
            seen.append(self.look(reader))
            reader.close()

        connection = self.connection
        number, is_after = (-1, False) if stop is None else (stop.number, stop.after)
        if number > 0:
            number += 3  # those of the change that holds the transaction until the others wait
        stopping = Stopping(connection, number, after=is_after, seen=see)
        self.database._connection = cast(sqlite3.Connection, stopping)
        answers = self.run(self._together, changes)
        if stopping.stopped_behind is None:
            self.database._connection = connection
            assert answers == expected
            return
        is_done = stopping.stopped_behind == "commit"
        assert answers == ["Unknown"] * len(changes)
        assert seen == [after if is_done else before]
        if not is_done:
            undo()
        self.settle(is_done)

    async def _together(self, changes: list[Change]) -> list[object]:
        answers: dict[int, object] = {}
        all_wait = threading.Event()

        async def ask(number: int) -> None:
            answers[number] = await outcome(changes[number], self.kept)

        async def hold() -> None:
            with suppress(Unknown):
                await self.writer.write(lambda _: all_wait.wait(10))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(hold)
            await trio.testing.wait_all_tasks_blocked()
            for number in range(len(changes)):
                nursery.start_soon(ask, number)
                await trio.testing.wait_all_tasks_blocked()
            all_wait.set()
        return [answers[number] for number in range(len(changes))]

    def settle(self, is_done: bool) -> None:
        """The callers whose change was stopped learn whether it was done."""
        for place, lease in [*self.kept.leases.items()]:
            if lease.unsettled is not None:
                found = self.run(outcome, lambda _, lease=lease: self._resolve(lease), self.kept)
                if found == "Fenced":
                    self.drop(place)
                else:
                    assert found == is_done
                    assert shown(lease) == shown(self.model.leases[place])
        # A lease whose grant was stopped has no holder.
        self.model.leases = copy.deepcopy(self.kept.leases)

    def drop(self, place: tuple[str, int]) -> None:
        """A lease that is fenced, which it is in both."""
        lease = self.kept.leases.pop(place)
        assert self.engine._conversations.get(place[0]) is None or (
            self.engine.head(place[0]).token != lease.token
        )
        del self.model.leases[place]

    async def _resolve(self, lease: Lease) -> bool:
        return await self.kept.store.resolve(lease)


def shown(lease: Lease) -> dict[str, Any]:
    return asdict(lease)


class Machine(RuleBasedStateMachine):
    """Every rule is something that a caller has both stores do."""

    names = st.sampled_from(NAMES)
    callers = st.integers(0, 1)
    places = st.integers(0, 5)
    pictures = st.integers(0, len(PICTURES) - 1)
    keys = st.sampled_from((KEY, KEY, KEY, OTHER))
    words = st.sampled_from(WORDS)

    def __init__(self) -> None:
        super().__init__()
        self.patches = pytest.MonkeyPatch()
        # Nothing is written but what a rule says.
        self.patches.setattr(writers, "IDLE_SECONDS", 60.0)
        self.patches.setattr(writers, "WATCH_SECONDS", 60.0)
        self.patches.setattr(writers, "GROUP_SECONDS", 10.0)
        self.stores = Stores()
        self.acquire("conv_1", 0, KEY, True, None)

    def teardown(self) -> None:
        try:
            assert self.stores.run(self.stores.kept.store.check) == ()
        finally:
            self.stores.close()
            self.patches.undo()

    @invariant()
    def all_is_alike(self) -> None:
        self.stores.compare()

    def do(self, change: Change, stop: StopAt | None) -> None:
        self.stores.now += 1
        if stop is None:
            self.stores.ask(change)
        else:
            self.stores.ask_stopped(change, stop)

    def under(
        self,
        place: int,
        stop: StopAt | None,
        change: Callable[[LocalStore, Lease], Awaitable[object]],
        *,
        runs: bool | None = None,
    ) -> None:
        """A caller changes a conversation under its lease: the `place`-th of all leases in whose
        conversation a turn `runs` (None: or not), old ones among them. The lease is the same in
        both stores afterwards."""
        places = [
            where
            for where, lease in self.stores.kept.leases.items()
            if runs is None or (lease.open_turn is not None) == runs
        ]
        if not places:
            return
        chosen = places[place % len(places)]

        async def under_lease(callers: Callers) -> object:
            lease = callers.leases[chosen]
            return await change(callers.store, lease), shown(lease)

        self.do(under_lease, stop)

    # -- leases --

    @rule(name=names, caller=callers, key=keys, new=st.booleans(), stop=stops)
    def acquire(self, name: str, caller: int, key: str, new: bool, stop: StopAt | None) -> None:
        setup = Setup("opus", profile="agent", workspace="shop")
        create = NEW if new else NewConversation(setup=setup, metadata={"a": "b"}, private=False)

        async def change(callers: Callers) -> object:
            lease = await callers.store.acquire(name, key, create)
            callers.leases[name, caller] = lease
            return shown(lease)

        self.do(change, stop)

    @rule(place=places, stop=stops)
    def release(self, place: int, stop: StopAt | None) -> None:
        self.under(place, stop, lambda store, lease: store.release(lease))

    @rule(place=places, word=words, many=st.integers(0, 3), stop=stops)
    def append(self, place: int, word: str, many: int, stop: StopAt | None) -> None:
        said = [Said(ExactMessage("user", (f"{word} {n}",), f"msg_{n}")) for n in range(many)]
        self.under(place, stop, lambda store, lease: store.append(lease, said))

    @rule(place=places, picture=pictures, stop=stops)
    def append_picture(self, place: int, picture: int, stop: StopAt | None) -> None:
        said = [Said(ExactMessage("user", ("bread", PICTURES[picture])))]
        self.under(place, stop, lambda store, lease: store.append(lease, said))

    @rule(place=places, to=st.integers(0, 5), stop=stops)
    def take_back(self, place: int, to: int, stop: StopAt | None) -> None:
        self.under(
            place,
            stop,
            lambda store, lease: store.append(lease, [Rewound(min(to, lease.head), 1, 0)]),
            runs=False,
        )

    # -- turns --

    @rule(
        place=places,
        request=st.sampled_from(REQUESTS),
        prompts=st.lists(words, max_size=2),
        rewinds=st.booleans(),
        stop=stops,
    )
    def begin(
        self, place: int, request: str, prompts: list[str], rewinds: bool, stop: StopAt | None
    ) -> None:
        async def change(store: LocalStore, lease: Lease) -> object:
            return await store.begin_turn(
                lease,
                turn_id=turn_of(lease, lease.turns + 1),
                request_id=request,
                model="opus",
                prompts=[Said(ExactMessage("user", (word,))) for word in prompts],
                rewound=Rewound(0, 0, 0) if rewinds else None,
            )

        self.under(place, stop, change, runs=False)

    @rule(
        place=places,
        how=st.sampled_from(("end", "end", "end and more", "fail", "lose")),
        word=words,
        stop=stops,
    )
    def close_turn(self, place: int, how: str, word: str, stop: StopAt | None) -> None:
        said = [Said(ExactMessage("assistant", (word,)))]
        used = Usage(3, 1, cost_usd=0.25)

        async def change(store: LocalStore, lease: Lease) -> object:
            turn_id = turn_of(lease, lease.open_turn)
            end = TurnEnd(turn_id, "stop", used)
            match how:
                case "lose":
                    return await store.lose_turn(lease, word)
                case "fail":
                    return await store.fail_turn(lease, TurnFailed(turn_id, "code", word), used)
                case "end":
                    return await store.end_turn(lease, end, said)
                case _:
                    setup = Setup("haiku", word)
                    return await store.end_turn(lease, end, said, setup=setup, lineage=DIGESTS[0])

        self.under(place, stop, change, runs=True)

    # -- keys --

    @rule(key=keys, model=words, turns=st.integers(0, 1), stop=stops)
    def count(self, key: str, model: str, turns: int, stop: StopAt | None) -> None:
        spent = [Spent(key, "1970-01-12T13", model, turns, Usage(3, 1, cost_usd=0.25))]
        self.do(lambda callers: callers.store.count(spent), stop)

    @rule(
        key=st.sampled_from(("a", "b")),
        name=st.sampled_from(("ann", "bob")),
        how=st.sampled_from(("add", "revoke", "delete")),
        stop=stops,
    )
    def change_key(self, key: str, name: str, how: str, stop: StopAt | None) -> None:
        async def change(callers: Callers) -> None:
            match how:
                case "add":
                    await callers.store.add_key(ApiKey(id=key, name=name))
                case "revoke":
                    await callers.store.revoke_key(key)
                case _:
                    await callers.store.delete_key(key)

        self.do(change, stop)

    # -- conversations --

    @rule(
        name=names,
        key=keys,
        new_name=names,
        caller=callers,
        upto=st.none() | st.integers(0, 6),
        stop=stops,
    )
    def fork(
        self,
        name: str,
        key: str,
        new_name: str,
        caller: int,
        upto: int | None,
        stop: StopAt | None,
    ) -> None:
        async def change(callers: Callers) -> object:
            lease = await callers.store.fork(name, key, new_name, upto=upto)
            callers.leases[new_name, caller] = lease
            return shown(lease)

        self.do(change, stop)

    @rule(name=names, key=keys, stop=stops)
    def delete(self, name: str, key: str, stop: StopAt | None) -> None:
        self.do(lambda callers: callers.store.delete(name, key), stop)

    @rule(
        name=names,
        key=keys,
        word=st.none() | words,
        private=st.none() | st.booleans(),
        grants=st.lists(words, max_size=2),
        stop=stops,
    )
    def update(
        self,
        name: str,
        key: str,
        word: str | None,
        private: bool | None,
        grants: list[str],
        stop: StopAt | None,
    ) -> None:
        metadata = None if word is None else {"word": word}
        self.do(
            lambda callers: callers.store.update(
                name, key, metadata=metadata, title=word, private=private, grants=grants
            ),
            stop,
        )

    @rule(name=names, key=keys, digest=st.sampled_from(DIGESTS), seq=st.integers(0, 3), stop=stops)
    def put_lineage(
        self, name: str, key: str, digest: bytes, seq: int, stop: StopAt | None
    ) -> None:
        self.do(lambda callers: callers.store.lineage_put(key, digest, name, seq), stop)

    @rule(
        age=st.none() | st.integers(0, 5),
        most_bytes=st.none() | st.integers(0, 8000),
        most_responses=st.none() | st.integers(0, 2),
        spare=st.lists(names, max_size=1),
        stop=stops,
    )
    def prune(
        self,
        age: int | None,
        most_bytes: int | None,
        most_responses: int | None,
        spare: list[str],
        stop: StopAt | None,
    ) -> None:
        prune = partial(
            engines.prune,
            now=self.stores.now,
            unused_since=None if age is None else self.stores.now - age,
            most_record_bytes=most_bytes,
            max_responses=most_responses,
            spare=spare,
            limit=2,
        )
        self.do(lambda callers: callers.store._runner.write(prune), stop)

    # -- requests with an idempotency key --

    @rule(
        key=keys,
        name=st.sampled_from(REQUESTS),
        digest=st.sampled_from(DIGESTS),
        seconds=st.integers(1, 20),
        stop=stops,
    )
    def claim(self, key: str, name: str, digest: bytes, seconds: int, stop: StopAt | None) -> None:
        expires_at = self.stores.now + seconds
        self.do(lambda callers: callers.store.claim_request(key, name, digest, expires_at), stop)

    @rule(
        key=keys,
        name=st.sampled_from(REQUESTS),
        word=st.none() | words,
        seconds=st.integers(1, 20),
        max_count=st.integers(0, 3),
        max_bytes=st.integers(0, 100),
        stop=stops,
    )
    def settle(
        self,
        key: str,
        name: str,
        word: str | None,
        seconds: int,
        max_count: int,
        max_bytes: int,
        stop: StopAt | None,
    ) -> None:
        request = KeptRequest(DIGESTS[0], "unkept")
        if word is not None:
            answer = KeptAnswer(200, {"a": "b"}, word.encode())
            request = KeptRequest(DIGESTS[0], "answered", answer)
        expires_at = self.stores.now + seconds
        self.do(
            lambda callers: callers.store.settle_request(
                key, name, request, expires_at, max_count=max_count, max_bytes=max_bytes
            ),
            stop,
        )

    @rule(key=keys, name=st.sampled_from(REQUESTS), stop=stops)
    def release_request(self, key: str, name: str, stop: StopAt | None) -> None:
        self.do(lambda callers: callers.store.release_request(key, name), stop)

    # -- responses --

    @rule(
        name=st.sampled_from(RESPONSES),
        conversation=names,
        key=keys,
        picture=st.none() | pictures,
        lasts=st.sampled_from((1, 1000)),
        stop=stops,
    )
    def put_response(
        self,
        name: str,
        conversation: str,
        key: str,
        picture: int | None,
        lasts: int,
        stop: StopAt | None,
    ) -> None:
        asked = "bread" if picture is None else PICTURES[picture]
        made = response(name, conversation, key)
        made = evolve(made, asked=(Message("user", (asked,)),))
        until = self.stores.now + lasts
        self.do(lambda callers: callers.store.put_response(made, until), stop)

    @rule(name=st.sampled_from(RESPONSES), key=keys, stop=stops)
    def delete_response(self, name: str, key: str, stop: StopAt | None) -> None:
        self.do(lambda callers: callers.store.delete_response(name, key), stop)

    @rule(name=st.sampled_from(RESPONSES), conversation=names, key=keys)
    def read_response(self, name: str, conversation: str, key: str) -> None:
        """Those that have expired are not there."""
        self.do(lambda callers: callers.store.get_response(name, key), None)
        self.do(lambda callers: callers.store.latest_response(conversation, key), None)

    # -- searching --

    @rule(
        key=keys,
        q=st.sampled_from((*WORDS, "br", "bread 1", "bread flour", "nothing", "!")),
        after=st.none() | names,
        newest_first=st.booleans(),
        limit=st.integers(1, 3),
    )
    def search(self, key: str, q: str, after: str | None, newest_first: bool, limit: int) -> None:
        self.do(
            lambda callers: callers.store.conversations(
                key, limit=limit, after=after, newest_first=newest_first, q=q
            ),
            None,
        )

    @rule(limit=st.integers(1, 3), stop=stops)
    def index(self, limit: int, stop: StopAt | None) -> None:
        """As the writer does while nothing comes; what it says of itself is its own."""

        async def change(callers: Callers) -> None:
            await callers.store._runner.write(lambda engine: engine.index_words(limit))

        self.do(change, stop)

    # -- accidents, and ends in order --

    @rule(place=places)
    def cancel(self, place: int) -> None:
        """A caller that does not wait for the answer finds out before it goes on."""
        leases = self.stores.kept.leases
        if not leases:
            return
        chosen = [*leases][place % len(leases)]
        lease = leases[chosen]
        said = [Said(ExactMessage("user", ("perhaps",)))]

        async def cancelled(callers: Callers) -> object:
            with trio.CancelScope() as scope:
                scope.cancel()
                await callers.store.append(lease, said)
            with pytest.raises(Unknown):
                await callers.store.append(lease, said)
            return await callers.store.resolve(lease)

        self.stores.now += 1
        is_done = self.stores.run(outcome, cancelled, self.stores.kept)
        model = self.stores.model
        if is_done == "Fenced":
            self.stores.drop(chosen)
            return
        if is_done:
            self.stores.run(model.store.append, model.leases[chosen], said)
        assert shown(lease) == shown(model.leases[chosen])

    @rule(stop=st.none() | st.sampled_from([each for each in STOPS if not each.kills]), word=words)
    def append_together(self, stop: StopAt | None, word: str) -> None:
        """Changes that share a transaction: they are done together or not, but for those that are
        refused by themselves."""
        self.stores.now += 1
        said = [Said(ExactMessage("user", (word,)))]
        # One for each conversation: the second of two callers would not have seen the first.
        places = [(name, caller) for name, caller in self.stores.kept.leases if not caller]

        def append(name: str, caller: int) -> Change:
            return lambda callers: callers.store.append(callers.leases[name, caller], said)

        if places:
            self.stores.ask_together([append(*place) for place in places], stop)

    @rule()
    def empty_write_ahead_log(self) -> None:
        self.stores.database.checkpoint()

    @rule(kills=st.booleans())
    def restart(self, kills: bool) -> None:
        """The gateway ends while nothing is written, by itself or by a SIGKILL."""
        folder = self.stores.folder
        if kills:
            folder = self.stores.new_folder()
            shutil.copytree(self.stores.folder, folder)
        self.stores.begin_another_life(folder)


Machine.TestCase.settings = settings(max_examples=EXAMPLES, stateful_step_count=25, deadline=None)
TestAlike = Machine.TestCase
