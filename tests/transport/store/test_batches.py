"""Files and batches: what every store does, whichever keeps it."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from attrs import evolve

from ccapi.transport.store.batch_interface import (
    NEVER,
    BatchLease,
    BatchState,
    Counts,
    FileBounds,
    StoredBatch,
    StoredFile,
)
from ccapi.transport.store.interface import Fenced, Full, Missing, Owned, Store
from ccapi.transport.store.memory import MemoryCluster
from ccapi.transport.store.opening import open_sqlite_store
from ccapi.transport.store.schema import migrate
from ccapi.transport.store.sqlite import SqliteEngine

from .support import KEY, OTHER, Clock

ANY = FileBounds()


def a_file(name: str = "file_1", key: str = KEY, **fields: object) -> StoredFile:
    found = StoredFile(id=name, key_id=key, purpose="batch", name=f"{name}.jsonl", created_at=1.0)
    return evolve(found, **fields)  # type: ignore[arg-type]


async def written(store: Store, file: StoredFile, *pieces: bytes) -> StoredFile:
    await store.files.begin(file, ANY)
    for number, piece in enumerate(pieces):
        await store.files.write(file.id, number, piece, ANY)
    return await store.files.finish(file)


def a_batch(name: str = "batch_1", key: str = KEY, **fields: object) -> StoredBatch:
    found = StoredBatch(
        id=name,
        key_id=key,
        dialect="openai",
        endpoint="/v1/responses",
        input_file="file_1",
        created_at=1.0,
        expires_at=2.0,
        details={"metadata": {"a": "b"}},
    )
    return evolve(found, **fields)  # type: ignore[arg-type]


async def running(store: Store, count: int = 3, name: str = "batch_1") -> BatchLease:
    lease = await store.batches.add(a_batch(name), max_open=9)
    await store.batches.add_requests(lease, [(f"r{n}", b"{}") for n in range(1, count + 1)])
    batch = await store.batches.change(lease, ["validating"], "in_progress")
    assert batch.state == "in_progress"
    return lease


# -- files -----------------------------------------------------------------------------------------


async def test_a_file_is_there_once_it_is_whole(store: Store) -> None:
    file = a_file(purpose="")
    await store.files.begin(file, ANY)
    await store.files.write("file_1", 0, b"one", ANY)
    with pytest.raises(Missing):
        await store.files.get("file_1", KEY)
    assert (await store.files.page(KEY, limit=9)).files == ()
    await store.files.write("file_1", 1, b"two", ANY)
    whole = await store.files.finish(evolve(file, purpose="user_data", name="x.txt"))
    assert (whole.bytes, whole.purpose, whole.name) == (6, "user_data", "x.txt")
    assert await store.files.get("file_1", KEY) == whole
    assert [await store.files.read("file_1", n) for n in range(3)] == [b"one", b"two", b""]
    for change in (store.files.write("file_1", 2, b"", ANY), store.files.finish(file)):
        with pytest.raises(Missing):
            await change


async def test_a_file_is_its_keys_alone_and_goes(store: Store, clock: Clock) -> None:
    await written(store, a_file(), b"one")
    await written(store, a_file("file_2", expires_at=clock.now + 10), b"two")
    for name, key in (("file_1", OTHER), ("file_3", KEY)):
        with pytest.raises(Missing):
            await store.files.get(name, key)
        with pytest.raises(Missing):
            await store.files.delete(name, key)
        with pytest.raises(Missing):
            await store.files.page(key, limit=1, after=name)
    await store.files.delete("file_1", KEY)
    assert await store.files.read("file_1", 0) == b""
    clock.now += 11
    with pytest.raises(Missing):
        await store.files.get("file_2", KEY)
    await store.files.prune()
    assert await store.files.read("file_2", 0) == b""
    assert (await store.statistics()).file_bytes == 0


async def test_files_are_listed_in_pages(store: Store) -> None:
    for n in range(1, 6):
        await written(store, a_file(f"file_{n}", purpose="batch" if n % 2 else "user_data"))
    await written(store, a_file("file_9", OTHER))
    page = await store.files.page(KEY, limit=2)
    assert ([each.id for each in page.files], page.has_more) == (["file_5", "file_4"], True)
    page = await store.files.page(KEY, limit=9, after="file_4")
    assert ([each.id for each in page.files], page.has_more) == (
        ["file_3", "file_2", "file_1"],
        False,
    )
    page = await store.files.page(KEY, limit=9, after="file_1", newest_first=False, purpose="batch")
    assert [each.id for each in page.files] == ["file_3", "file_5"]


async def test_files_are_bounded(store: Store) -> None:
    await store.files.begin(a_file(), FileBounds(max_files=1))
    with pytest.raises(Full, match="max_files"):
        await store.files.begin(a_file("file_2"), FileBounds(max_files=1))
    await store.files.begin(a_file("file_2", OTHER), FileBounds(max_files=1))
    await store.files.write("file_1", 0, b"12345", FileBounds(max_key_bytes=5, max_total_bytes=5))
    for bounds, name in (
        (FileBounds(max_key_bytes=5), "max_key_bytes"),
        (FileBounds(max_total_bytes=5), "max_total_bytes"),
    ):
        with pytest.raises(Full, match=name):
            await store.files.write("file_1", 1, b"6", bounds)
    await store.files.write("file_2", 0, b"1", FileBounds(max_key_bytes=5))
    assert (await store.files.finish(a_file())).bytes == 5
    assert (await store.statistics()).file_bytes == 6


# -- batches ---------------------------------------------------------------------------------------


async def test_a_batch_runs_its_requests_in_order(store: Store, clock: Clock) -> None:
    lease = await running(store)
    batches = store.batches
    first, second = await batches.claim(lease), await batches.claim(lease)
    assert first is not None
    assert second is not None
    assert (first.number, first.custom_id, first.body, second.number) == (1, "r1", b"{}", 2)
    await batches.settle(lease, 1, "waiting")
    again = await batches.claim(lease)
    assert again is not None
    assert again.number == 1
    await batches.settle(lease, 1, "succeeded", b"done")
    await batches.settle(lease, 1, "errored", b"not twice")
    await batches.settle(lease, 2, "errored", b"failed")
    third = await batches.claim(lease)
    assert third is not None
    await batches.settle(lease, 3, "succeeded", b"done too")
    assert await batches.claim(lease) is None
    batch = await batches.get("batch_1", KEY)
    assert batch.counts == Counts(3, 2, 1)
    assert batch.counts.ended == 3
    assert batch.times == {"in_progress": clock.now}
    assert [
        (each.number, each.custom_id, each.state, each.result)
        for each in await batches.results("batch_1", KEY, first=2)
    ] == [(2, "r2", "errored", b"failed"), (3, "r3", "succeeded", b"done too")]
    assert (await store.statistics()).file_bytes == len("{}{}{}donefaileddone too")


async def test_an_older_lease_of_a_batch_is_fenced(store: Store) -> None:
    old = await running(store)
    assert await store.batches.claim(old) is not None
    new = await store.batches.acquire("batch_1", KEY)
    assert new.token > old.token
    batches = store.batches
    changes = (
        lambda lease: batches.add_requests(lease, [("x", b"")]),
        batches.drop_requests,
        lambda lease: batches.change(lease, ["in_progress"], "finalizing"),
        batches.claim,
        lambda lease: batches.settle(lease, 1, "succeeded"),
        batches.lost,
        lambda lease: batches.close(lease, "canceled"),
    )
    for change in changes:
        with pytest.raises(Fenced):
            await change(old)
    assert [each.number for each in await batches.lost(new)] == [1]
    assert await batches.claim(new) is not None
    assert [each.number for each in await batches.lost(new)] == [1], "not what runs now"
    await batches.settle(new, 1, "errored", b"lost")
    assert await batches.lost(new) == ()
    for name, key in (("batch_1", OTHER), ("batch_9", KEY)):
        with pytest.raises(Missing):
            await batches.acquire(name, key)


async def test_a_batch_is_cancelled_once_and_closed(store: Store) -> None:
    lease = await running(store)
    batches = store.batches
    assert await batches.claim(lease) is not None
    with pytest.raises(Missing):
        await batches.cancel("batch_1", OTHER)
    cancelled = await batches.cancel("batch_1", KEY)
    assert (await batches.cancel("batch_1", KEY)).times == cancelled.times
    assert await batches.claim(lease) is None
    seen = await batches.change(lease, ["in_progress"], "finalizing")
    assert seen.state == "cancelling", "it was not in the state that was expected"
    await batches.settle(lease, 1, "succeeded", b"")
    await batches.close(lease, "canceled")
    batch = await batches.change(
        lease, ["cancelling"], "cancelled", details={"b": 1}, output_file="file_2"
    )
    assert (batch.counts, batch.details, batch.output_file) == (
        Counts(3, 1, 0, 2),
        {"b": 1},
        "file_2",
    )
    await batches.drop_requests(lease)
    assert await batches.results("batch_1", KEY) == ()
    assert (await batches.get("batch_1", KEY)).counts == Counts(3, 1, 0, 2)
    assert (await batches.cancel("batch_1", KEY)).state == "cancelled"


async def test_requests_of_a_batch_that_is_validated_can_be_dropped(store: Store) -> None:
    lease = await store.batches.add(a_batch(), max_open=1)
    await store.batches.add_requests(lease, [("a", b"1"), ("b", b"2")])
    assert await store.batches.claim(lease) is None
    await store.batches.drop_requests(lease)
    assert (await store.batches.get("batch_1", KEY)).counts.total == 0
    await store.batches.add_requests(lease, [("c", b"3")])
    await store.batches.change(lease, ["validating"], "in_progress")
    claimed = await store.batches.claim(lease)
    assert claimed is not None
    assert (claimed.number, claimed.custom_id) == (1, "c")


async def test_open_batches_are_bounded_and_only_ended_ones_go(store: Store, clock: Clock) -> None:
    batches = store.batches
    lease = await batches.add(a_batch(), max_open=1)
    with pytest.raises(Full, match="max_open"):
        await batches.add(a_batch("batch_2"), max_open=1)
    await batches.add(a_batch("batch_2", OTHER), max_open=1)
    with pytest.raises(Missing):
        await batches.delete("batch_1", KEY)
    await batches.change(lease, ["validating"], "failed")
    with pytest.raises(Missing):
        await batches.delete("batch_1", OTHER)
    await batches.delete("batch_1", KEY)
    with pytest.raises(Missing):
        await batches.get("batch_1", KEY)
    lease = await batches.add(a_batch("batch_3", kept_until=clock.now + 5), max_open=1)
    clock.now += 6
    await batches.prune()
    assert (await batches.get("batch_3", KEY)).state == "validating", "it has not ended"
    await batches.change(lease, ["validating"], "failed")
    await batches.prune()
    with pytest.raises(Missing):
        await batches.get("batch_3", KEY)


async def test_batches_are_listed_in_pages(store: Store) -> None:
    for n in range(1, 6):
        await store.batches.add(a_batch(f"batch_{n}"), max_open=9)
    await store.batches.add(a_batch("batch_8", OTHER), max_open=9)
    await store.batches.add(a_batch("batch_9", dialect="anthropic"), max_open=9)

    async def ids(**where: str) -> tuple[list[str], bool]:
        page = await store.batches.page(KEY, "openai", limit=2, **where)
        return [each.id for each in page.batches], page.has_more

    assert await ids() == (["batch_5", "batch_4"], True)
    assert await ids(after="batch_4") == (["batch_3", "batch_2"], True)
    assert await ids(after="batch_2") == (["batch_1"], False)
    assert await ids(before="batch_2") == (["batch_4", "batch_3"], True)
    assert await ids(before="batch_4") == (["batch_5"], False)
    for name in ("batch_8", "batch_9", "batch_7"):
        with pytest.raises(Missing):
            await ids(after=name)


# -- another life ----------------------------------------------------------------------------------


async def test_the_next_life_finds_what_was_open(tmp_path: Path) -> None:
    async with open_sqlite_store(tmp_path) as store:
        await written(store, a_file(), b"one")
        await store.files.begin(a_file("file_2"), ANY)
        await store.files.write("file_2", 0, b"half", ANY)
        old = await running(store)
        assert await store.batches.claim(old) is not None
        ended = await running(store, name="batch_2")
        await store.batches.change(ended, ["in_progress"], "completed")
        assert await store.batches.orphans() == ()
    async with open_sqlite_store(tmp_path) as store:
        assert await store.batches.orphans() == (("batch_1", KEY),)
        with pytest.raises(Missing):
            await store.files.finish(a_file("file_2"))
        await store.files.prune()
        assert (await store.files.get("file_1", KEY)).bytes == 3
        assert await store.files.read("file_2", 0) == b""
        lease = await store.batches.acquire("batch_1", KEY)
        assert await store.batches.orphans() == ()
        assert [each.custom_id for each in await store.batches.lost(lease)] == ["r1"]


STATES: tuple[BatchState, ...] = ("validating", "in_progress", "finalizing", "cancelling")


def test_no_statement_looks_through_all_requests(tmp_path: Path) -> None:
    """What is done once for each request must not cost more in a long batch."""
    db = sqlite3.connect(":memory:")
    migrate(db, "memory")
    seen: list[str] = []
    db.set_trace_callback(seen.append)
    batches = SqliteEngine(db, "node").batches
    lease = batches.add(a_batch(kept_until=NEVER), 9)
    batches.add_requests(lease, [("a", b"{}")])
    batches.change(lease, STATES, "in_progress", None, None, None, 1.0)
    assert batches.claim(lease) is not None
    batches.settle(lease, 1, "succeeded", b"x")
    batches.lost(lease)
    batches.orphans(9)
    batches.results("batch_1", KEY, 1, 9)
    db.set_trace_callback(None)
    for statement in seen:
        if statement.startswith(("select", "update", "delete")):
            for *_, detail in db.execute(f"explain query plan {statement}"):
                assert not detail.startswith("SCAN batch"), (statement, detail)


# -- several nodes ---------------------------------------------------------------------------------


async def test_a_node_takes_over_what_another_has_left() -> None:
    cluster = MemoryCluster()
    one, two = cluster.open_node("http://one"), cluster.open_node("http://two")
    await one.files.begin(a_file(), ANY)
    old = await running(one)
    assert await one.batches.claim(old) is not None
    assert await two.batches.orphans() == ()
    with pytest.raises(Owned):
        await two.batches.acquire("batch_1", KEY)
    await two.files.prune()
    await one.files.write("file_1", 0, b"still there", ANY)
    await one.leave()
    assert await two.batches.orphans() == (("batch_1", KEY),)
    new = await two.batches.acquire("batch_1", KEY)
    assert [each.number for each in await two.batches.lost(new)] == [1]
    with pytest.raises(Fenced):
        await one.batches.settle(old, 1, "succeeded")
    await two.files.prune()
    with pytest.raises(Missing):
        await one.files.finish(a_file())
