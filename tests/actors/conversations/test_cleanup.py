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
class House:
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
async def open_house(tmp_path: Path, keep_days: float = 0.0) -> AsyncIterator[House]:
    house = House(tmp_path)
    house.root.mkdir()
    async with open_cleanup(
        tmp_path / "state", house.root, keep_days, house.alive.__contains__, house.used, house.kept
    ) as house.cleanup:
        yield house


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with open_house(tmp_path) as house:
        yield house


async def wait_until(condition: Callable[[], object]) -> None:
    with trio.fail_after(10):
        while not condition():
            await trio.sleep(0.005)


async def sweep(house: House) -> None:
    """A conversation is forgotten, and what belongs to none has gone."""
    other = house.workspace(OTHER)
    house.cleanup.release("c", OTHER)
    await wait_until(lambda: not other.exists())


async def test_the_workspace_of_a_spare_stays_as_long_as_it_waits(house: House) -> None:
    trace, place = house.trace("there"), house.workspace(SPARE)
    await house.cleanup.begin(trace, SPARE)
    await sweep(house)
    assert place.exists()
    house.cleanup.end(trace, SPARE)
    await wait_until(lambda: not place.exists())


async def test_the_workspace_of_a_claimed_spare_is_the_conversations(house: House) -> None:
    trace, place = house.trace("there"), house.workspace(SPARE)
    await house.cleanup.begin(trace, SPARE)
    house.alive.add(SPARE)
    house.cleanup.adopt(trace, SPARE)
    transcript = house.transcript(trace)
    house.cleanup.end(trace, SPARE)
    await sweep(house)
    assert place.exists()
    assert transcript.exists()


async def test_a_spare_that_waits_at_the_end_leaves_nothing(tmp_path: Path) -> None:
    async with open_house(tmp_path, keep_days=30.0) as house:
        trace, place = house.trace("there"), house.workspace(SPARE)
        await house.cleanup.begin(trace, SPARE)
    assert not place.exists()
    assert list((tmp_path / "state" / "sessions").iterdir()) == []


async def test_a_spare_that_got_another_directory_leaves_nothing_in_either(house: House) -> None:
    started = house.trace("parked")
    await house.cleanup.begin(started)
    worked = evolve(started, folder="there")
    house.cleanup.move(started, worked)
    house.alive.add("c")
    house.cleanup.adopt(worked, "c")
    transcript = house.transcript(worked)
    house.alive.remove("c")
    house.cleanup.release("c", "")
    await sweep(house)
    assert transcript.exists(), "its child still writes it"
    house.cleanup.end(worked)
    await wait_until(lambda: not transcript.exists())
