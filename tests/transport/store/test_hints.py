"""What one node's change has the others look at."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest
import trio

from ccapi.schemas.keys import ApiKey
from ccapi.transport.store.hints import Hints
from ccapi.transport.store.interface import Store
from ccapi.transport.store.key_table import open_key_table
from ccapi.transport.store.opening import open_sqlite_store
from ccapi.transport.store.postgres import store as postgres
from ccapi.transport.store.postgres.connection import NativeConnection
from ccapi.transport.store.postgres.statements import tell
from ccapi.transport.store.postgres.store import PostgresStore, open_postgres_store

from .test_nodes import Join, join, shared_url  # noqa: F401 (fixtures)

SOON = 5.0
"""Seconds within which a hint has to come."""


async def listening(store: Store) -> None:
    """Wait until hints come."""
    if not isinstance(store, PostgresStore):
        return
    with store.hints.watch("batches") as hint, trio.fail_after(SOON):
        while True:
            await store.pool.write(f"select {tell('batches')}")
            if await hint.wait(0.2):
                return


def key(name: str) -> ApiKey:
    return ApiKey(id=name * 64, name=name, scopes=("chat",), created_at=1.0)


async def test_a_key_that_changes_is_hinted_to_the_others(join: Join) -> None:  # noqa: F811
    one, other = await join("http://one"), await join("http://other")
    await listening(other)
    for change in (
        one.add_key(key("a")),
        one.revoke_key("a" * 64),
        one.delete_key("a" * 64),
    ):
        with other.hints.watch("keys") as hint:
            await change
            assert await hint.wait(SOON)


async def test_a_command_beside_the_gateways_hints_too(postgres_url: str) -> None:
    async with open_postgres_store(postgres_url, node_url="http://one") as store:
        await listening(store)
        with store.hints.watch("keys") as hint:
            with open_key_table(postgres_url) as keys:
                await trio.to_thread.run_sync(keys.add, key("a"))
            assert await hint.wait(SOON)


async def test_after_a_lost_connection_all_may_have_changed(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "LISTEN_AGAIN_SECONDS", 0.05)
    async with open_postgres_store(postgres_url, node_url="http://one") as store:
        await listening(store)

        def cut() -> None:
            with psycopg.connect(postgres_url, autocommit=True) as connection:
                connection.execute(
                    "select pg_terminate_backend(pid) from pg_stat_activity "
                    "where query like 'listen %' and datname = current_database()"
                )

        with store.hints.watch("batches") as hint:
            await trio.to_thread.run_sync(cut)
            assert await hint.wait(SOON)


async def test_a_silent_connection_is_looked_at(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "LISTEN_SECONDS", 0.02)
    async with open_postgres_store(postgres_url, node_url="http://one") as store:
        await listening(store)
        await trio.sleep(0.2)  # ten looks
        with store.hints.watch("keys") as hint:
            await store.add_key(key("a"))
            assert await hint.wait(SOON)


async def test_a_hint_that_comes_with_the_answer_to_a_look_is_not_lost(postgres_url: str) -> None:
    async with open_postgres_store(postgres_url, node_url="http://one") as store:
        connection = await store.pool.connect()
        assert isinstance(connection, NativeConnection)
        try:
            await connection.execute("listen here")
            await connection.execute("select pg_notify('here', 'keys')")
            await connection.execute("select 1")
            with trio.fail_after(SOON):
                assert await connection.notified() == ["keys"]
        finally:
            connection.close()


@pytest.mark.parametrize("threads", [False, True])
async def test_one_that_is_alone_or_in_threads_has_no_connection_for_it(
    postgres_url: str, threads: bool
) -> None:
    url = "http://one" if threads else ""
    async with open_postgres_store(postgres_url, node_url=url, threads=threads) as store:
        await trio.sleep(0.1)
        with store.hints.watch("keys") as hint:
            await store.add_key(key("a"))
            assert not await hint.wait(0.2)


async def test_a_folder_has_no_other_nodes(tmp_path: Path) -> None:
    async with open_sqlite_store(tmp_path) as store:
        with store.hints.watch("keys") as hint:
            await store.add_key(key("a"))
            assert not await hint.wait(0.05)


async def test_a_hint_that_comes_before_it_is_waited_for_is_not_lost(
    autojump_clock: trio.testing.MockClock,
) -> None:
    hints = Hints()
    with hints.watch("keys") as hint, hints.watch("batches") as other:
        hints.came("keys")
        hints.came("keys")
        hints.came("another version's")
        assert await hint.wait(10)
        assert not await hint.wait(10)
        hints.missed()
        assert await hint.wait(10)
        assert await other.wait(10)
