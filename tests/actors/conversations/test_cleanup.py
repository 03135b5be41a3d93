"""What spares leave on the disk, and when it goes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

import pytest
import trio
from attrs import define, evolve, field

from ccapi.actors.conversations.cleanup import Cleanup, open_cleanup
from ccapi.transport.process.leftovers import Trace

SPARE = f"conv_{'1' * 32}"
OTHER = f"conv_{'2' * 32}"


@define(eq=False)
class Disk:
    """`alive`: the conversations in memory."""

    place: Path
    cleanup: Cleanup = field(init=False)
    alive: set[str] = field(factory=set)

    @property
    def root(self) -> Path:
        return self.place / "workspaces"

    async def used(self) -> set[str]:
        await trio.lowlevel.checkpoint()
        return set(self.alive)

    async def kept(self) -> set[str]:
        await trio.lowlevel.checkpoint()
        return set()

    def trace(self, folder: str) -> Trace:
        return Trace(str(uuid4()), str(self.place / "config"), str(self.place / "tmp"), folder)

    def transcript(self, trace: Trace) -> Path:
        path = Path(trace.config, "projects", trace.folder, f"{trace.session_id}.jsonl")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
        return path

    def workspace(self, name: str) -> Path:
        path = self.root / name
        path.mkdir(parents=True)
        return path


@asynccontextmanager
async def open_disk(tmp_path: Path, keep_days: float = 0.0) -> AsyncIterator[Disk]:
    disk = Disk(tmp_path)
    disk.root.mkdir()
    async with open_cleanup(
        tmp_path / "state", disk.root, keep_days, disk.alive.__contains__, disk.used, disk.kept
    ) as disk.cleanup:
        yield disk


@pytest.fixture
async def disk(tmp_path: Path) -> AsyncIterator[Disk]:
    async with open_disk(tmp_path) as disk:
        yield disk


async def wait_until(condition: Callable[[], object]) -> None:
    with trio.fail_after(10):
        while not condition():
            await trio.sleep(0.005)


async def sweep(disk: Disk) -> None:
    """A conversation is forgotten, and what belongs to none has gone."""
    other = disk.workspace(OTHER)
    disk.cleanup.release("c", OTHER)
    await wait_until(lambda: not other.exists())


async def test_the_workspace_of_a_spare_stays_as_long_as_it_waits(disk: Disk) -> None:
    trace, place = disk.trace("there"), disk.workspace(SPARE)
    await disk.cleanup.begin(trace, SPARE)
    await sweep(disk)
    assert place.exists()
    disk.cleanup.end(trace, SPARE)
    await wait_until(lambda: not place.exists())


async def test_the_workspace_of_a_claimed_spare_is_the_conversations(disk: Disk) -> None:
    trace, place = disk.trace("there"), disk.workspace(SPARE)
    await disk.cleanup.begin(trace, SPARE)
    disk.alive.add(SPARE)
    disk.cleanup.adopt(trace, SPARE)
    transcript = disk.transcript(trace)
    disk.cleanup.end(trace, SPARE)
    await sweep(disk)
    assert place.exists()
    assert transcript.exists()


async def test_a_spare_that_waits_at_the_end_leaves_nothing(tmp_path: Path) -> None:
    async with open_disk(tmp_path, keep_days=30.0) as disk:
        trace, place = disk.trace("there"), disk.workspace(SPARE)
        await disk.cleanup.begin(trace, SPARE)
    assert not place.exists()
    assert list((tmp_path / "state" / "sessions").iterdir()) == []


async def test_a_spare_that_got_another_directory_leaves_nothing_in_either(disk: Disk) -> None:
    started = disk.trace("parked")
    await disk.cleanup.begin(started)
    worked = evolve(started, folder="there")
    disk.cleanup.move(started, worked)
    disk.alive.add("c")
    disk.cleanup.adopt(worked, "c")
    transcript = disk.transcript(worked)
    disk.alive.remove("c")
    disk.cleanup.release("c", "")
    await sweep(disk)
    assert transcript.exists(), "its child still writes it"
    disk.cleanup.end(worked)
    await wait_until(lambda: not transcript.exists())
