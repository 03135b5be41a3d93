"""A store copied from SQLite to PostgreSQL and back: all that is kept, or nothing."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from attrs import evolve

from ccapi.schemas.keys import ApiKey
from ccapi.schemas.log.messages import ExactMessage
from ccapi.schemas.log.records import Said, TurnFailed
from ccapi.schemas.message import Image
from ccapi.schemas.turn import Setup
from ccapi.transport.store.interface import (
    KeptAnswer,
    KeptRequest,
    NewConversation,
    Store,
    StoreInUse,
    StoreRefused,
    Unavailable,
)
from ccapi.transport.store.opening import open_sqlite_store, open_store
from ccapi.transport.store.postgres import copying
from ccapi.transport.store.postgres.copying import copy_store
from tests.support.postgres import Engine

from .support import KEY, OTHER, assistant, begin, end, new_lease, response, turn, user
from .test_batches import a_file, running, written

UNTIL = 9e9


async def fill(store: Store) -> None:
    """Some of everything."""
    await store.add_key(ApiKey(id="a" * 64, name="ann", models=("opus",)))
    await store.add_key(ApiKey(id="b" * 64, name="bob"))
    await store.revoke_key("b" * 64)
    picture = Said(ExactMessage("user", ("See", Image("image/png", "QUJD" * 2000))))
    for number in range(3):
        lease = await new_lease(store, f"conv_{number}", (KEY, OTHER)[number % 2])
        await store.append(lease, [picture])
        turn_id = await begin(store, lease, f"bread {number}")
        await store.end_turn(
            lease, end(turn_id), [assistant("half a pair \ud83d")], lineage=b"digest"
        )
    await turn(store, lease, "brot", "mehl")
    turn_id = await begin(store, lease)
    await store.fail_turn(lease, TurnFailed(turn_id, "code", "why"))
    await begin(store, lease, "it runs")
    await store.update("conv_0", KEY, metadata={"a": "é"}, grants=("Bash(a, b)", "Read"))
    setup = Setup("opus", "Be brief.", "agent", workspace="shop")
    await store.acquire("conv_agent", KEY, NewConversation(setup=setup, private=False))
    await store.put_response(response(), UNTIL)
    asked = (ExactMessage("user", (Image("i", "QUJD" * 2000),)).plain,)
    await store.put_response(evolve(response(), asked=asked), UNTIL)
    await store.claim_request(KEY, "runs", b"1", UNTIL)
    answer = KeptRequest(b"2", "answered", KeptAnswer(200, {"a": "b"}, b"Hello."))
    await written(store, a_file(), b"one", b"two")
    await running(store)
    await store.settle_request(KEY, "ended", answer, UNTIL, max_count=9, max_bytes=9999)


async def view(store: Store) -> dict[str, object]:
    """All that can be read, but for who owns what."""
    seen: dict[str, object] = {}
    for key in (KEY, OTHER):
        page = await store.conversations(key, limit=100)
        seen[f"list of {key}"] = page
        for q in ("bread", "bro", "half a pair", "see"):
            seen[f"{q} of {key}"] = await store.conversations(key, q=q)
        for each in page.conversations:
            name = each.conversation_id
            seen[name] = await store.get(name, key), repr(await store.read(name, key))
            seen[f"latest of {name}"] = await store.latest_response(name, key)
            seen[f"head of {name}"] = evolve(await store.head(name), owner=None, token=0)
        seen[f"lineage of {key}"] = await store.lineage_find(key, [b"digest"])
        seen[f"usage of {key}"] = await store.usage(key), await store.spent(key, "")
    if "conv_0" in seen:
        seen["file"] = await store.files.get("file_1", KEY), await store.files.read("file_1", 1)
        seen["batch"] = await store.batches.get("batch_1", KEY)
    held = await store.statistics()
    seen["statistics"] = held.conversations, held.responses, held.record_bytes
    seen["keys"] = await store.keys()
    seen["orphans"] = await store.orphans()
    for name in ("runs", "ended"):
        seen[name] = await store.claim_request(KEY, name, b"", UNTIL)
        if seen[name] is None:
            await store.release_request(KEY, name)
    return seen


async def seen_in(place: Path | str) -> dict[str, object]:
    async with open_store(place) as store:
        assert await store.check() == ()
        return await view(store)


@pytest.fixture
def databases(postgres: Engine) -> list[str]:
    return [postgres.new_place() for _ in range(2)]


async def test_a_store_goes_to_postgresql_and_back(tmp_path: Path, databases: list[str]) -> None:
    first, second, url = tmp_path / "first", tmp_path / "second", databases[0]
    async with open_sqlite_store(first) as store:
        await fill(store)
    copied = await trio.to_thread.run_sync(copy_store, first, url)
    assert copied.rows["conversation"] == 4
    assert all(copied.rows.values())
    before = await seen_in(first)
    assert await seen_in(url) == before
    # Through the same tables, so that whatever PostgreSQL changed would be seen.
    assert (await trio.to_thread.run_sync(copy_store, url, second)).rows == copied.rows
    assert await seen_in(second) == before
    await trio.to_thread.run_sync(copy_store, url, databases[1])
    assert await seen_in(databases[1]) == before
    # It goes on: numbers and tokens continue where they were.
    for place in (url, second):
        async with open_store(place) as store:
            lease = await store.acquire("conv_0", KEY)
            await turn(store, lease, "more")
            new = await new_lease(store, "conv_new")
            assert new.token > lease.token
            newest = (await store.conversations(KEY)).conversations[0]
            assert newest.conversation_id == "conv_new"
            await store.delete("conv_0", KEY)
            assert await store.check() == ()


async def test_a_store_that_is_not_empty_takes_nothing(
    tmp_path: Path, databases: list[str]
) -> None:
    async with open_sqlite_store(tmp_path / "a") as store:
        await turn(store, await new_lease(store))
    async with open_store(databases[0]) as store:
        await store.append(await new_lease(store, "conv_2"), [user("theirs")])
    before = await seen_in(databases[0])
    with pytest.raises(StoreRefused, match="is not empty: nothing was copied"):
        await trio.to_thread.run_sync(copy_store, tmp_path / "a", databases[0])
    assert await seen_in(databases[0]) == before
    with pytest.raises(StoreRefused, match="There is no store in"):
        await trio.to_thread.run_sync(copy_store, tmp_path / "none", databases[1])


async def test_a_store_that_a_gateway_has_open_is_not_copied(
    tmp_path: Path, databases: list[str]
) -> None:
    async with open_sqlite_store(tmp_path / "a"):
        with pytest.raises(StoreInUse):
            await trio.to_thread.run_sync(copy_store, tmp_path / "a", databases[0])
    async with open_store(databases[0]):
        for source, target in ((tmp_path / "a", databases[0]), (databases[0], tmp_path / "b")):
            with pytest.raises(StoreInUse, match=r"A gateway has .* open"):
                await trio.to_thread.run_sync(copy_store, source, target)


async def test_a_copy_that_is_not_the_same_is_not_kept(
    tmp_path: Path, databases: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_store(tmp_path / "a") as store:
        await turn(store, await new_lease(store))
    load = copying._Postgres.load

    def lossy(self: copying._Postgres, table: copying.Table, rows: Iterator[copying.Row]) -> None:
        load(self, table, [row for row in rows if table.name != "log" or row[1] != 2])

    with monkeypatch.context() as patch:
        patch.setattr(copying._Postgres, "load", lossy)
        with pytest.raises(StoreRefused, match="has another log than"):
            await trio.to_thread.run_sync(copy_store, tmp_path / "a", databases[0])
    async with open_store(databases[0]) as store:
        assert (await store.statistics()).conversations == 0
    await trio.to_thread.run_sync(copy_store, tmp_path / "a", databases[0])
    assert (await seen_in(databases[0])) == await seen_in(tmp_path / "a")


async def test_a_copy_that_is_cut_short_leaves_nothing(
    tmp_path: Path, databases: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_store(databases[0]) as store:
        await turn(store, await new_lease(store))

    def full(*_: object) -> None:
        raise sqlite3.OperationalError("no room")

    monkeypatch.setattr(copying._Sqlite, "finish", full)
    with pytest.raises(Unavailable, match="no room"):
        await trio.to_thread.run_sync(copy_store, databases[0], tmp_path / "b")
    async with open_store(tmp_path / "b") as store:
        assert (await store.statistics()).conversations == 0
