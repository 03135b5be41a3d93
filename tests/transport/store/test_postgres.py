"""The store in PostgreSQL and its engine: kills, stops, connections that are lost, other gateways,
tables of other versions. What was acknowledged is there, and nothing is done twice."""

from __future__ import annotations

import inspect
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
import trio

from ccapi.schemas.keys import ApiKey
from ccapi.transport.store.interface import (
    KeptRequest,
    Missing,
    NameTaken,
    StoreInUse,
    StoreRefused,
    Unavailable,
    Unknown,
    Unsettled,
)
from ccapi.transport.store.key_table import has_keys, open_key_table
from ccapi.transport.store.postgres import pool as pools
from ccapi.transport.store.postgres import schema
from ccapi.transport.store.postgres import statements as sql
from ccapi.transport.store.postgres import store as stores
from ccapi.transport.store.postgres.copying import look_at, migrate_store
from ccapi.transport.store.postgres.pool import first_line, parameters_and_threads, place_of
from ccapi.transport.store.postgres.store import PostgresStore, open_postgres_store
from tests.support.postgres import Engine, empty, engine

from . import test_contract as contract
from .support import KEY, Clock, begin, end, log_of, new_lease, turn, user

Contract = Callable[..., Any]

THREADED: tuple[Contract, ...] = (
    contract.test_an_older_lease_is_fenced,
    contract.test_a_turn_from_its_start_to_its_end,
    contract.test_a_request_id_begins_one_turn,
    contract.test_every_kind_of_block_comes_back_exactly,
    contract.test_a_cancelled_change_is_settled_before_the_next,
    contract.test_search,
    contract.test_keys,
    contract.test_responses,
    contract.test_the_oldest_answers_go_first,
    contract.test_many_at_once,
)


@pytest.mark.parametrize("test", THREADED, ids=lambda test: test.__name__)
async def test_the_contract_in_threads(test: Contract, postgres_url: str, clock: Clock) -> None:
    """What is chosen where psycopg's inside is not known."""
    async with open_postgres_store(f"{postgres_url}&ccapi_threads=1", clock=clock) as store:
        given = {"store": store, "clock": clock}
        await test(**{name: given[name] for name in inspect.signature(test).parameters})


async def test_another_psycopg_is_used_in_threads(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pools, "misfit", lambda: "it is another one")
    async with open_postgres_store(postgres_url) as store:
        assert "Thread" in type(store.pool._idle[0]).__name__
        await turn(store, await new_lease(store))


# -- tokens ----------------------------------------------------------------------------------------


async def test_what_is_kept_of_requests_is_looked_through_now_and_then(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_postgres_store(postgres_url) as store:
        write, looks = store.pool.write, [0]

        async def count(statement: str, *values: object) -> Any:
            looks[-1] += statement == sql.TRIM
            return await write(statement, *values)

        monkeypatch.setattr(store.pool, "write", count)
        for most in (10_000, 500):  # after the first, and after each five
            for number in range(20):
                kept = KeptRequest(b"digest", "unkept")
                await store.settle_request(
                    KEY, f"{number}", kept, 9e9, max_count=most, max_bytes=most * 100
                )
            looks.append(0)
    assert looks == [1, 4, 0]


async def test_a_lease_whose_token_changes_while_it_is_reclaimed_is_had_again(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_postgres_store(postgres_url, node_url="http://one", lease_seconds=60) as store:
        lease = await new_lease(store)
        lease.unsettled = Unsettled(lease.head, 1, b"never done")
        write = store.pool.write

        async def settle_first(statement: str, *values: object) -> Any:
            if statement == sql.RECLAIM:
                await store.resolve(lease)
            return await write(statement, *values)

        monkeypatch.setattr(store.pool, "write", settle_first)
        assert await store.reclaim([lease]) == {lease.conversation_id}
        await turn(store, lease)


async def test_tokens_only_rise_whoever_asks(postgres_url: str) -> None:
    """Two programs that each have a lease again and again: no token is granted twice."""
    granted: list[int] = []
    async with open_postgres_store(postgres_url) as store:
        await new_lease(store)

        async def take() -> None:
            last = 0
            for _ in range(20):
                lease = await store.acquire("conv_1", KEY)
                assert lease.token > last
                last = lease.token
                granted.append(last)

        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(take)
    assert len({*granted}) == len(granted) == 160


async def test_a_statement_that_is_late_does_nothing(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits for a row while its caller gives up. Once that is settled, it is too late."""
    async with open_postgres_store(postgres_url) as store:
        lease = await new_lease(store)
        with psycopg.connect(postgres_url) as other:
            other.execute("select 1 from conversation for update")
            with trio.move_on_after(0.1):
                await store.append(lease, [user("late")])
            with pytest.raises(Unknown):
                await store.append(lease, [user("next")])
            other.rollback()
        done = await store.resolve(lease)
        await store.append(lease, [user("next")])
        texts = [each.record.message.text for each in await log_of(store)]  # type: ignore[union-attr]
        assert texts == (["late", "next"] if done else ["next"])
        await trio.sleep(0.2)
        assert len(await log_of(store)) == len(texts)


async def test_a_cancelled_call_costs_its_connection_and_no_other(postgres_url: str) -> None:
    async with open_postgres_store(postgres_url) as store:
        lease = await new_lease(store)
        wrong: list[int] = []

        async def read(number: int) -> None:
            with trio.move_on_after(0.0003 * (number % 8)):
                [(found,)] = await store.pool.read("select $1::int", number)
                if found != number:
                    wrong.append(number)

        async with trio.open_nursery() as nursery:
            for number in range(200):
                nursery.start_soon(read, number)
        assert not wrong
        assert store.trouble is None
        await store.append(lease, [user("well")])


@pytest.mark.parametrize("text", ["conv\0", "conv\ud800", "x" * 10_000])
async def test_a_name_that_no_text_can_be_is_missing(postgres_url: str, text: str) -> None:
    async with open_postgres_store(postgres_url) as store:
        for look in (store.get, store.read, store.get_response, store.delete):
            with pytest.raises(Missing):
                await look(text, KEY)
        assert await store.request("conv_1", text) is None
        assert (await store.conversations(KEY, q=f"a{text}'\\ & b")).conversations == ()


# -- other gateways --------------------------------------------------------------------------------


async def test_a_second_gateway_is_refused_unless_both_are_nodes(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stores, "PATIENCE_SECONDS", 0.1)
    async with open_postgres_store(postgres_url):
        for node_url in ("", "http://other"):
            with pytest.raises(StoreInUse, match=r"end it, or set cluster\.node_url"):
                async with open_postgres_store(postgres_url, node_url=node_url):
                    pass
    async with open_postgres_store(postgres_url, node_url="http://one"):
        async with open_postgres_store(postgres_url, node_url="http://other") as other:
            assert len((await other.beat()).nodes) == 2
        with pytest.raises(StoreInUse):
            async with open_postgres_store(postgres_url):
                pass


def living(url: str) -> list[str]:
    with psycopg.connect(url) as connection:
        rows = connection.execute("select id from node where expires > clock_timestamp()")
        return [name for (name,) in rows]


async def test_a_gateway_that_is_alone_needs_no_beats(postgres_url: str) -> None:
    async with open_postgres_store(postgres_url, lease_seconds=0.05) as store:
        await trio.sleep(0.1)
        assert living(postgres_url) == [store.node.id]
        assert await store.renew() == store.node
        await trio.sleep(0.1)
        assert store.node.id in living(postgres_url)
    async with open_postgres_store(postgres_url, node_url="http://one") as store:
        assert [each.node for each in (await store.beat()).nodes] == [store.node]


async def test_what_ran_when_a_gateway_ended_is_lost_at_once(postgres_url: str) -> None:
    """The next one that is alone does not wait for a lease to run out."""
    async with open_postgres_store(postgres_url) as store:
        await begin(store, await new_lease(store))
    async with open_postgres_store(postgres_url) as store:
        assert await store.orphans() == (("conv_1", KEY),)
        lease = await store.acquire("conv_1", KEY)
        await store.lose_turn(lease, "The gateway ended.")
        assert await store.orphans() == ()


# -- tables ----------------------------------------------------------------------------------------


async def refused(url: str) -> str:
    with pytest.raises(StoreRefused) as caught:
        async with open_postgres_store(url):
            pass
    return str(caught.value)


async def test_tables_of_another_version_are_refused(
    postgres: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = postgres.new_place()
    async with open_postgres_store(url) as store:  # makes them
        await turn(store, await new_lease(store))
    assert await trio.to_thread.run_sync(migrate_store, url) == len(schema.MIGRATIONS)
    with monkeypatch.context() as patch:
        newer = (*schema.MIGRATIONS, "create table more(a int);\ninsert into more values(1);")
        for module in (schema, __import__(migrate_store.__module__, fromlist=["x"])):
            patch.setattr(module, "MIGRATIONS", newer)
        assert "run `ccapi store migrate`" in await refused(url)
        assert await trio.to_thread.run_sync(migrate_store, url) == len(newer)
        async with open_postgres_store(url) as store:
            assert len(await log_of(store)) == 4
    assert "newer version" in await refused(url)
    assert "install that version again" in await refused(url)


async def test_a_database_of_another_program_is_refused(postgres: Engine) -> None:
    url = postgres.new_place()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("create table theirs(a int)")
    assert "is not a store of this gateway, and has tables" in await refused(url)
    # Beside it, in a schema of its own, is room for one.
    async with open_postgres_store(postgres.new_place()) as store:
        await turn(store, await new_lease(store))


async def test_many_gateways_make_the_tables_once(postgres: Engine) -> None:
    url = postgres.new_place()

    async def join(number: int) -> None:
        async with open_postgres_store(url, node_url=f"http://{number}") as store:
            assert store.trouble is None
            await store.beat()

    async with trio.open_nursery() as nursery:
        for number in range(5):
            nursery.start_soon(join, number)


def test_a_place_is_shown_without_its_password() -> None:
    parameters, threads = parameters_and_threads(
        "postgresql://me:secret@a,b:1234/name?sslmode=disable&ccapi_threads=1"
    )
    assert threads
    assert "secret" not in place_of(parameters)
    assert parameters["sslmode"] == "disable"
    assert first_line(ValueError("password=secret no\nmore")) == "password=… no"
    with pytest.raises(StoreRefused, match=r"storage\.url cannot be read"):
        parameters_and_threads("postgresql://me@a/name?nonsense=1")


# -- keys, for commands ----------------------------------------------------------------------------


def test_keys_beside_the_gateways(postgres: Engine) -> None:
    url = postgres.new_place()
    assert not has_keys(url)
    with pytest.raises(StoreRefused, match="ccapi store migrate"), open_key_table(url):
        pass
    migrate_store(url)
    with open_key_table(url) as table:
        table.add(ApiKey(id="a" * 64, name="ann"))
        with pytest.raises(NameTaken):
            table.add(ApiKey(id="b" * 64, name="ann"))
        [kept] = table.keys()
        assert kept.name == "ann"
        assert has_keys(url)
        with pytest.raises(Missing):
            table.delete("a" * 64)
        table.revoke("a" * 64)
        table.delete("a" * 64)
        with pytest.raises(Missing):
            table.revoke("a" * 64)
    assert look_at(url)[1:] == (len(schema.MIGRATIONS), 0)
    with (
        pytest.raises(Unavailable, match="cannot be reached"),
        open_key_table("postgresql://me@127.0.0.1:9/none"),
    ):
        pass
    assert not has_keys("postgresql://me@127.0.0.1:9/none")


# -- the engine ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def durable() -> Iterator[Engine]:
    """An engine that may be killed, and whose disk may lose its power."""
    with engine(fsync=True) as started:
        yield started


@pytest.fixture(scope="module")
def durable_tables(durable: Engine) -> str:
    return durable.new_place()


@pytest.fixture
def durable_url(durable_tables: str) -> Iterator[str]:
    yield durable_tables
    empty(durable_tables)


async def works(store: PostgresStore) -> None:
    with trio.fail_after(10):
        while store.trouble is not None:
            await trio.sleep(0.01)


async def test_kills_of_the_engine_lose_nothing_that_was_acknowledged(
    durable: Engine, durable_url: str
) -> None:
    """Every change is done once or not at all, and the store knows which."""
    acknowledged: dict[str, list[str]] = {}
    unknown: dict[str, list[str]] = {}
    failures: list[str] = []
    over = False

    async def talk(store: PostgresStore, name: str) -> None:
        lease = await new_lease(store, name)
        kept = acknowledged.setdefault(name, [])
        number = 0
        while not over:
            number += 1
            try:
                await store.resolve(lease)
                await store.append(lease, [user(f"{number}")])
                kept.append(f"{number}")
            except Unknown:
                unknown.setdefault(name, []).append(f"{number}")
                failures.append("unknown")
            except Unavailable:
                failures.append("unavailable")
                await trio.sleep(0.01)

    async with open_postgres_store(durable_url) as store:
        async with trio.open_nursery() as nursery:
            for index in range(8):
                nursery.start_soon(talk, store, f"conv_{index}")
            for _ in range(2):
                await trio.sleep(0.3)
                await trio.to_thread.run_sync(durable.kill)
                await trio.sleep(0.2)
                assert store.trouble is not None
                assert "cannot be reached" in store.trouble
                await trio.to_thread.run_sync(durable.start)
                started = trio.current_time()
                await works(store)
                assert trio.current_time() - started < 1.0
            await trio.sleep(0.2)
            over = True
        assert "unavailable" in failures
        for name, kept in acknowledged.items():
            log = await store.read(name, KEY, limit=1_000_000)
            texts = [each.record.message.text for each in log]  # type: ignore[union-attr]
            assert len({*texts}) == len(texts), "a change was done twice"
            assert [text for text in texts if text not in unknown.get(name, [])] == kept
            assert len(kept) > 20
        assert await store.check() == ()


async def test_a_turn_goes_on_over_a_restart_of_the_engine(
    durable: Engine, durable_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its end was on its way when the engine died: it is done once, and its caller hears so."""
    async with open_postgres_store(durable_url) as store:
        lease = await new_lease(store)
        turn_id = await begin(store, lease)

        async def lost(statement: str, *values: object) -> list[Any]:
            monkeypatch.undo()
            durable.kill()
            threading.Timer(0.3, durable.start).start()
            raise Unknown("The connection was lost.")

        monkeypatch.setattr(store.pool, "write", lost)
        with trio.fail_after(10):
            assert await store.end_turn(lease, end(turn_id)) == 3
        assert lease.open_turn is None
        await turn(store, lease)
        assert (await store.get("conv_1", KEY)).turns == 2


async def test_an_engine_that_stays_away_leaves_a_change_unknown(
    durable: Engine, durable_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    patch = pytest.MonkeyPatch()
    monkeypatch.setattr(stores, "GRACE_SECONDS", 0.3)
    async with open_postgres_store(durable_url) as store:
        lease = await new_lease(store)

        async def lost(statement: str, *values: object) -> list[Any]:
            patch.undo()
            durable.kill()
            raise Unknown("The connection was lost.")

        patch.setattr(store.pool, "write", lost)
        with pytest.raises(Unknown):
            await store.append(lease, [user("perhaps")])
        with pytest.raises(Unknown):
            await store.append(lease, [user("next")])
        with pytest.raises(Unavailable):
            await store.resolve(lease)
        with pytest.raises(Unavailable):
            await store.get("conv_1", KEY)
        await trio.to_thread.run_sync(durable.start)
        await works(store)
        assert not await store.resolve(lease)
        await store.append(lease, [user("next")])
        assert len(await log_of(store)) == 1


async def test_a_stopped_engine_is_waited_for(durable: Engine, durable_url: str) -> None:
    async with open_postgres_store(durable_url) as store:
        lease = await new_lease(store)
        durable.stop_for_a_while()
        try:
            timer = threading.Timer(0.5, durable.go_on)
            timer.start()
            began = time.monotonic()
            await store.append(lease, [user("waited")])
            assert time.monotonic() - began > 0.4
        finally:
            timer.join()
        assert store.trouble is None


async def test_an_engine_that_hangs_is_trouble(
    durable: Engine, durable_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pools, "PATIENCE_SECONDS", 0.3)
    monkeypatch.setattr(stores, "GRACE_SECONDS", 0.3)
    async with open_postgres_store(durable_url) as store:
        lease = await new_lease(store)
        durable.stop_for_a_while()
        try:
            with trio.fail_after(5):
                with pytest.raises(Unknown):
                    await store.append(lease, [user("perhaps")])
            assert "does not answer" in (store.trouble or "")
            with pytest.raises(Unavailable):
                await store.get("conv_1", KEY)
        finally:
            durable.go_on()
        await works(store)
        await store.resolve(lease)
        await store.append(lease, [user("again")])


async def test_what_waits_for_an_engine_that_hangs_is_given_up(
    durable: Engine, durable_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stores, "GRACE_SECONDS", 0.1)
    async with open_postgres_store(durable_url) as store:
        lease = await new_lease(store)

        async def read() -> None:
            with pytest.raises(Unavailable):
                await store.get("conv_1", KEY)

        async def write() -> None:
            with pytest.raises(Unknown):
                await store.append(lease, [user("perhaps")])

        durable.stop_for_a_while()
        try:
            with trio.fail_after(3):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(write)
                    await trio.sleep(0.1)
                    for _ in range(pools.CONNECTIONS + 2):
                        nursery.start_soon(read)
                    await trio.sleep(0.3)
                    store.give_up()
            assert "does not answer" in (store.trouble or "")
        finally:
            durable.go_on()
        await works(store)
        await store.resolve(lease)
        await store.append(lease, [user("again")])


async def test_a_gateway_starts_before_its_engine(durable: Engine, durable_url: str) -> None:
    durable.signal(signal.SIGCONT)
    await trio.to_thread.run_sync(durable.kill)
    async with open_postgres_store(durable_url) as store:
        assert "cannot be reached" in (store.trouble or "")
        with pytest.raises(Unavailable):
            await new_lease(store)
        await trio.to_thread.run_sync(durable.start)
        await works(store)
        await turn(store, await new_lease(store))
