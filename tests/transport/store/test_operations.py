"""The SQLite store and the machine: disks, files, other programs, processes that are killed.

Every test: what was acknowledged is there, a change that cannot be kept is refused clearly, and
the store works again by itself once the cause is gone.
"""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio
from structlog.testing import capture_logs

from ccapi.schemas.log.fold import fold
from ccapi.schemas.log.records import TurnStart
from ccapi.schemas.turn import Usage
from ccapi.transport.store import schema
from ccapi.transport.store import writer as writers
from ccapi.transport.store.interface import (
    DayUsage,
    KeptAnswer,
    KeptRequest,
    Keys,
    Lease,
    Spent,
    Store,
    StoreInUse,
    StoreRefused,
    Unavailable,
    Unknown,
)
from ccapi.transport.store.opening import open_sqlite_store
from ccapi.transport.store.sqlite import SqliteEngine
from tests.support.disks import fill, mount, small_disk

from .support import KEY, begin, log_of, new_lease, turn, user

# -- what the tests do with disks and files --------------------------------------------------------


async def _until(is_so: Callable[[], object]) -> None:
    with trio.fail_after(10):
        while not is_so():
            await trio.sleep(0.02)


async def _works(store: Store, lease: Lease) -> None:
    """The store works again, with a lease that an error may have left unsettled."""
    await _until(lambda: store.trouble is None)
    await store.resolve(lease)
    await store.append(lease, [user("again")])


async def _texts(store: Store, name: str = "conv_1") -> list[str]:
    return [each.record.message.text for each in await log_of(store, name)]  # type: ignore[union-attr]


async def _reopened(folder: Path, name: str = "conv_1") -> list[str]:
    async with open_sqlite_store(folder) as store:
        assert await store.check() == ()
        assert store.trouble is None
        return await _texts(store, name)


def _warnings(lines: list[dict[str, object]], event: str) -> list[dict[str, object]]:
    return [line for line in lines if line["event"] == event]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def logged() -> Iterator[list[dict[str, object]]]:
    with capture_logs() as lines:
        yield lines  # type: ignore[misc]


# -- the disk --------------------------------------------------------------------------------------


async def test_a_fullsmall_disk(tmp_path: Path, logged: list[dict[str, object]]) -> None:
    with small_disk(tmp_path / "disk") as disk:
        folder = disk / "state"
        acknowledged = []
        async with open_sqlite_store(folder) as store:
            lease = await new_lease(store)
            filler = fill(disk)
            for number in range(1000):
                try:
                    await store.append(lease, [user(f"{number} " + "x" * 500)])
                except Unavailable as error:
                    assert "is full" in str(error)  # noqa: PT017
                    break
                acknowledged.append(f"{number} " + "x" * 500)
            else:
                pytest.fail("The disk never was full.")
            assert store.trouble is not None
            assert "is full" in store.trouble
            assert await _texts(store) == acknowledged  # reading goes on
            for _ in range(3):
                with pytest.raises(Unavailable, match="is full"):
                    await store.append(lease, [user("x" * 500)])
            assert len(_warnings(logged, "store_unavailable")) == 1
            filler.unlink()
            await _works(store, lease)
            assert await _texts(store) == [*acknowledged, "again"]
        assert await _reopened(folder) == [*acknowledged, "again"]


async def test_a_disk_that_is_full_at_the_start(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        filler = fill(disk)
        async with open_sqlite_store(disk / "state") as store:
            with pytest.raises(Unavailable, match="full"):
                await new_lease(store)
            assert store.trouble is not None
            filler.unlink()
            await _until(lambda: store.trouble is None)
            await turn(store, await new_lease(store))


async def test_a_large_change_that_a_full_disk_cannot_keep(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        async with open_sqlite_store(disk / "state") as store:
            lease, other = await new_lease(store), await new_lease(store, "conv_2")
            outcomes: list[str] = []

            async def large() -> None:
                try:
                    await store.append(lease, [user("x" * 8_000_000)])
                except Unavailable:
                    outcomes.append("refused")

            async with trio.open_nursery() as nursery:
                nursery.start_soon(large)
                await store.append(other, [user("small")])  # in the same transaction, perhaps
            assert outcomes == ["refused"]
            await _works(store, lease)
            assert await _texts(store) == ["again"]
            assert await _texts(store, "conv_2") == ["small"]


async def test_a_folder_that_only_can_be_read(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        folder = disk / "state"
        async with open_sqlite_store(folder) as store:
            await store.append(await new_lease(store), [user("kept")])
        mount("-o", "remount,ro", str(disk))
        async with open_sqlite_store(folder) as store:
            assert store.trouble is not None
            assert "Read-only" in store.trouble
            with pytest.raises(Unavailable, match="Read-only"):
                await store.acquire("conv_1", KEY)
            with pytest.raises(Unavailable, match="Read-only"):
                await store.get("conv_1", KEY)
            mount("-o", "remount,rw", str(disk))
            await _until(lambda: store.trouble is None)
            await _works(store, await store.acquire("conv_1", KEY))
            assert await _texts(store) == ["kept", "again"]


# -- other programs --------------------------------------------------------------------------------


async def test_a_database_that_another_program_has_locked(
    folder: Path, logged: list[dict[str, object]]
) -> None:
    async with open_sqlite_store(folder) as store:
        leases = [await new_lease(store, f"conv_{number}") for number in range(10)]
        await store.append(leases[0], [user("before")])
        other = sqlite3.connect(folder / "ccapi.db", isolation_level=None)
        other.execute("begin immediate")

        async def refused(lease: Lease) -> None:
            with pytest.raises(Unavailable, match=r"Another program has .* locked"):
                await store.append(lease, [user("refused")])

        with trio.fail_after(3):  # they do not wait for the lock one after the other
            async with trio.open_nursery() as nursery:
                for lease in leases:
                    nursery.start_soon(refused, lease)
        assert await _texts(store, "conv_0") == ["before"]
        other.execute("rollback")
        other.close()
        await _works(store, leases[0])
        assert await _texts(store, "conv_0") == ["before", "again"]
        assert len(_warnings(logged, "store_unavailable")) == 1


async def test_a_second_gateway_is_refused(folder: Path) -> None:
    async with open_sqlite_store(folder) as store:
        with pytest.raises(StoreInUse, match=rf"process {os.getpid()}.*end it") as refused:
            async with open_sqlite_store(folder):
                pass
        assert refused.value.pid == os.getpid()
        await turn(store, await new_lease(store))  # the first goes on
    async with open_sqlite_store(folder):
        pass


async def test_a_newer_schema_is_refused(folder: Path) -> None:
    async with open_sqlite_store(folder):
        pass
    with sqlite3.connect(folder / "ccapi.db") as db:
        db.execute("pragma user_version = 99")
    db.close()
    before = (folder / "ccapi.db").read_bytes()
    with pytest.raises(StoreRefused, match=r"newer version.*99.*install that version again"):
        async with open_sqlite_store(folder):
            pass
    assert (folder / "ccapi.db").read_bytes() == before


async def test_a_database_of_another_program_is_refused(folder: Path) -> None:
    folder.mkdir()  # noqa: ASYNC240
    with sqlite3.connect(folder / "ccapi.db") as db:
        db.execute("create table theirs(a)")
    db.close()
    before = (folder / "ccapi.db").read_bytes()
    with pytest.raises(StoreRefused, match="not a store of this gateway: move it away"):
        async with open_sqlite_store(folder):
            pass
    assert (folder / "ccapi.db").read_bytes() == before


# -- files -----------------------------------------------------------------------------------------


def _delete_database(folder: Path) -> None:
    (folder / "ccapi.db").unlink()


def _delete_log(folder: Path) -> None:
    (folder / "ccapi.db-wal").unlink()


def _delete_all(folder: Path) -> None:
    shutil.rmtree(folder)


@pytest.mark.parametrize("delete", [_delete_database, _delete_log, _delete_all])
async def test_files_deleted_while_it_runs(
    folder: Path, delete: Callable[[Path], None], logged: list[dict[str, object]]
) -> None:
    async with open_sqlite_store(folder) as store:
        lease = await new_lease(store)
        await store.append(lease, [user("before")])
        assert await _texts(store) == ["before"]  # a reader has them open too
        delete(folder)
        await store.append(lease, [user("after")])
        assert await _texts(store) == ["before", "after"]
        delete(folder)
        await store.append(lease, [user("and again")])
        assert len(_warnings(logged, "store_files_made_again")) == 2
        copy = folder.with_name("copy")  # what a kill would leave
        shutil.copytree(folder, copy)
    expected = ["before", "after", "and again"]
    assert await _reopened(copy) == await _reopened(folder) == expected


async def test_files_deleted_while_nothing_comes(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writers, "WATCH_SECONDS", 0.05)
    async with open_sqlite_store(folder) as store:
        await store.append(await new_lease(store), [user("before")])
        _delete_database(folder)
        await _until((folder / "ccapi.db").exists)
    assert await _reopened(folder) == ["before"]


async def test_files_deleted_just_before_the_end(folder: Path) -> None:
    async with open_sqlite_store(folder) as store:
        await store.append(await new_lease(store), [user("before")])
        _delete_all(folder)
    assert await _reopened(folder) == ["before"]


async def test_files_deleted_and_no_room_to_write_them_again(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        folder = disk / "state"
        async with open_sqlite_store(folder) as store:
            lease = await new_lease(store)
            for number in range(40):
                await store.append(lease, [user(f"{number} " + "x" * 5000)])
            filler = fill(disk)
            _delete_database(folder)
            with pytest.raises((Unavailable, Unknown), match="full"):
                await store.append(lease, [user("refused")])
            assert not (folder / "ccapi.db.partial").exists()
            filler.unlink()
            await _works(store, lease)
            texts = await _texts(store)
        assert (len(texts), texts[-1]) == (41, "again")
        assert await _reopened(folder) == texts


async def test_a_kill_while_files_are_written_again(folder: Path) -> None:
    """Where the copy is whole and has not taken its place: it has all that was acknowledged."""
    async with open_sqlite_store(folder) as store:
        lease = await new_lease(store)
        await store.append(lease, [user("before")])
        stale = (folder / "ccapi.db").read_bytes()
        await store.append(lease, [user("after")])
    (folder / "ccapi.db").replace(folder / "ccapi.db.restored")
    (folder / "ccapi.db").write_bytes(stale)
    assert await _reopened(folder) == ["before", "after"]
    assert (folder / "ccapi.db.replaced").read_bytes() == stale


async def test_a_database_replaced_while_it_runs(folder: Path) -> None:
    async with open_sqlite_store(folder / "other") as store:
        await store.append(await new_lease(store), [user("another")])
    async with open_sqlite_store(folder) as store:
        lease = await new_lease(store)
        await store.append(lease, [user("before")])
        other = (folder / "other" / "ccapi.db").read_bytes()
        (folder / "other" / "ccapi.db").replace(folder / "ccapi.db")
        with pytest.raises((Unavailable, Unknown), match=r"replaced.*start it again"):
            await store.append(lease, [user("refused")])
        assert store.trouble is not None
    assert (folder / "ccapi.db").read_bytes() == other  # not written to


# -- damage ----------------------------------------------------------------------------------------


async def _filled(folder: Path) -> None:
    async with open_sqlite_store(folder) as store:
        lease = await new_lease(store)
        for number in range(200):
            await store.append(lease, [user(f"{number} " + "x" * 1000)])


def _damage(path: Path) -> None:
    """Overwrite pages in the middle, of the log's table."""
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(size // 2 // 4096 * 4096)
        file.write(b"\x07" * 4096 * 8)


async def test_a_file_that_is_no_database(folder: Path) -> None:
    await _filled(folder)
    good = folder.with_name("good.db")
    (folder / "ccapi.db").replace(good)
    rubbish = b"This is not a database. " * 500
    (folder / "ccapi.db").write_bytes(rubbish)
    async with open_sqlite_store(folder) as store:
        with pytest.raises(Unavailable, match=r"is damaged .* move it away, or put a copy"):
            await new_lease(store)
        assert store.trouble is not None
        assert (folder / "ccapi.db").read_bytes() == rubbish
        good.replace(folder / "ccapi.db")
        await _until(lambda: store.trouble is None)
        assert len(await _texts(store)) == 200


async def test_damage_is_found_after_an_unclean_end(
    folder: Path, logged: list[dict[str, object]]
) -> None:
    await _filled(folder)
    assert (folder / "ccapi.db.lock").read_bytes() == b""  # it closed its database
    good = folder.with_name("good.db")
    shutil.copy(folder / "ccapi.db", good)
    (folder / "ccapi.db.lock").write_text("99999\n")  # it did not
    _damage(folder / "ccapi.db")
    async with open_sqlite_store(folder) as store:
        await _until(lambda: store.trouble is not None)
        assert "damaged" in (store.trouble or "")
        assert len(_warnings(logged, "store_damaged")) == 1
        with pytest.raises(Unavailable, match="damaged"):
            await new_lease(store)
        good.replace(folder / "ccapi.db")
        await _until(lambda: store.trouble is None)
        await _works(store, await store.acquire("conv_1", KEY))
        assert len(await _texts(store)) == 201
    assert len(await _reopened(folder)) == 201


async def test_an_end_in_order_is_not_followed_by_a_look_through(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[object] = []
    monkeypatch.setattr(writers.Writer, "look_through", lambda self: looked.append(self))
    for contents, expected in (("", 0), ("99999\n", 1)):
        await _filled(folder)
        (folder / "ccapi.db.lock").write_text(contents)
        async with open_sqlite_store(folder) as store:
            await store.statistics()
        assert len(looked) == expected


async def test_an_unclean_end_is_looked_through_once_the_disk_can_be_written(
    tmp_path: Path,
) -> None:
    with small_disk(tmp_path / "disk", "16m") as disk:
        folder = disk / "state"
        await _filled(folder)
        (folder / "ccapi.db.lock").write_text("99999\n")
        _damage(folder / "ccapi.db")
        mount("-o", "remount,ro", str(disk))
        async with open_sqlite_store(folder) as store:
            assert store.trouble is not None
            mount("-o", "remount,rw", str(disk))
            await _until(lambda: "damaged" in (store.trouble or ""))


async def test_damage_that_a_reader_meets(folder: Path) -> None:
    await _filled(folder)
    _damage(folder / "ccapi.db")
    async with open_sqlite_store(folder) as store:
        with pytest.raises(Unavailable, match="damaged"):
            await log_of(store)
        assert store.trouble is not None
        with pytest.raises(Unavailable, match="damaged"):
            await new_lease(store)


# -- kills -----------------------------------------------------------------------------------------


async def test_a_writer_killed_at_any_moment(folder: Path) -> None:
    rng = random.Random(12)
    begun: dict[str, set[str]] = {}
    ended: dict[str, set[str]] = {}
    noted: dict[str, dict[int, str]] = {}
    process = subprocess.Popen(  # noqa: ASYNC220 (its pipes are short lines)
        [sys.executable, "-m", "tests.transport.store.writing_process", str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    with process, trio.fail_after(60):
        for _ in range(20):
            process.stdin.write(f"{rng.uniform(0.005, 0.25)}\n")
            while (line := await trio.to_thread.run_sync(process.stdout.readline)) != "dead\n":
                assert line, "the process ended"
                match line.split():
                    case ["begun", name, turn_id]:
                        begun.setdefault(name, set()).add(turn_id)
                    case ["ended", name, turn_id]:
                        ended.setdefault(name, set()).add(turn_id)
                    case ["noted", name, turn_id, head]:
                        noted.setdefault(name, {})[int(head)] = f"note {turn_id}"
            async with open_sqlite_store(folder) as store:
                assert store.trouble is None
                assert await store.check() == ()
                await _everything_is_there(store, begun, ended, noted)
        process.stdin.close()
    assert sum(map(len, ended.values())) > 20  # it wrote indeed


async def _everything_is_there(
    store: Store,
    begun: dict[str, set[str]],
    ended: dict[str, set[str]],
    noted: dict[str, dict[int, str]],
) -> None:
    orphans = {name for name, _ in await store.orphans()}
    for name, turn_ids in begun.items():
        log = [*await store.read(name, KEY, limit=1_000_000)]
        kept = await store.get(name, KEY)
        turns = fold(log)
        assert [each.seq for each in log] == [*range(1, kept.head + 1)]
        starts = {each.record.turn_id for each in log if isinstance(each.record, TurnStart)}
        assert turn_ids <= starts
        done = {each.turn_id for each in turns if each.turn_id}
        assert ended.get(name, set()) <= done
        assert kept.turns == len(done)
        assert kept.messages == sum(len(each.messages) for each in turns)
        for seq, text in noted.get(name, {}).items():
            assert log[seq - 1].record == user(text)
        assert (kept.open_turn is not None) == (name in orphans)


async def test_a_turn_that_ran_at_a_kill_is_an_orphan_and_reported_once(folder: Path) -> None:
    async with open_sqlite_store(folder) as store:
        turn_id = await begin(store, await new_lease(store))
        copy = folder.with_name("copy")  # what a kill would leave
        shutil.copytree(folder, copy)
    async with open_sqlite_store(copy) as store:
        assert await store.orphans() == (("conv_1", KEY),)
        lease = await store.acquire("conv_1", KEY)
        await store.lose_turn(lease, "The gateway was killed.")
        assert await store.orphans() == ()
        kept = await store.get("conv_1", KEY)
        assert kept.lost_turn == turn_id


async def test_a_request_that_ran_at_a_kill_is_lost(folder: Path) -> None:
    """Whatever another process finds of it. An answer is there."""
    answer = KeptAnswer(200, {"a": "b"}, b"Hello.")
    async with open_sqlite_store(folder) as store:
        until = time.time() + 100
        assert await store.claim_request(KEY, "ran", b"1", until) is None
        assert await store.claim_request(KEY, "ended", b"2", until) is None
        kept = KeptRequest(b"2", "answered", answer)
        await store.settle_request(KEY, "ended", kept, until, max_count=9, max_bytes=999)
    async with open_sqlite_store(folder) as store:
        assert await store.claim_request(KEY, "ran", b"1", until) == KeptRequest(b"1", "lost")
        assert await store.claim_request(KEY, "ended", b"2", until) == kept


async def test_a_turn_is_on_its_way_before_its_caller_waits(folder: Path) -> None:
    """The thread writes while the task that began the turn does other things."""
    async with open_sqlite_store(folder) as store:
        lease = await new_lease(store)
        begun = store.begin_turn(lease, turn_id="t", request_id="r", model="haiku")
        reader = sqlite3.connect(f"{(folder / 'ccapi.db').as_uri()}?mode=ro", uri=True)
        try:
            until = time.monotonic() + 10
            while not reader.execute("select 1 from turn").fetchall():
                assert time.monotonic() < until, "nothing was written"
                time.sleep(0.01)  # noqa: ASYNC251 (the event loop does nothing meanwhile)
        finally:
            reader.close()
        assert lease.open_turn is None  # nothing has told this task yet
        await begun
        assert lease.head == 1


async def test_an_older_database_is_searched_as_before(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its words are indexed again, so that a search for the beginning of one is fast; what is
    deleted is found no more."""
    with monkeypatch.context() as patch:
        patch.setattr(schema, "MIGRATIONS", schema.MIGRATIONS[:1])
        patch.setattr(SqliteEngine, "count", lambda engine, spent: None)  # in newer tables
        async with open_sqlite_store(folder) as store:
            for number in range(3):
                await turn(store, await new_lease(store, f"conv_{number}"), "hello world", "fine")
            assert len((await store.conversations(KEY, q="w")).conversations) == 3
    async with open_sqlite_store(folder) as store:
        await store.delete("conv_1", KEY)
        for query in ("w", "wo", "wor", "worl", "world", "hello w"):
            first = await store.conversations(KEY, limit=1, q=query)
            assert [each.conversation_id for each in first.conversations] == ["conv_2"]
            assert first.has_more
            rest = await store.conversations(KEY, limit=1, q=query, after="conv_2")
            assert [each.conversation_id for each in rest.conversations] == ["conv_0"]
            assert not rest.has_more
        assert await store.check() == ()
    with sqlite3.connect(folder / "ccapi.db") as db:
        assert db.execute("pragma user_version").fetchone()[0] == len(schema.MIGRATIONS)
    db.close()


async def test_what_an_older_database_has_counted_by_the_day_is_still_counted(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(schema, "MIGRATIONS", schema.MIGRATIONS[:3])
        async with open_sqlite_store(folder):
            pass
    with sqlite3.connect(folder / "ccapi.db") as db:
        db.execute("insert into usage values('a', '2026-01-31', 2, 10, 5, 4, 3, 0.5, 1)")
    db.close()
    async with open_sqlite_store(folder) as store:
        used = Usage(10, 5, 4, 3, 0.5, 1)
        assert await store.usage("a") == (DayUsage("a", "2026-01-31", "", 2, used),)
        assert await store.spent("a", "2026-01-31T00") == (
            Spent("a", "2026-01-31T00", "", 2, used),
        )
        assert await store.keys() == Keys(0, ())
        assert await store.check() == ()
