"""The pool with real processes: what it counts is what lives, whatever kills them."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import trio
from attrs import frozen

from ccapi.actors.pool.pool import ChildPool, open_pool
from ccapi.actors.runtime.bus import Bus, Subscription
from ccapi.schemas.errors import ChildDied, GatewayError, Overloaded
from ccapi.schemas.events import ChildSpawned
from ccapi.schemas.settings.logins import DEFAULT
from ccapi.schemas.settings.settings import ClaudeSettings
from ccapi.transport.process.agent_cli import Agents
from ccapi.transport.process.child import Child
from ccapi.transport.process.cli import Cli
from tests.support.pool_world import rest, take
from tests.support.processes import (
    DEMO_CLI,
    PATIENCE,
    demo_command,
    eventually,
    marked,
    open_files,
    read_turn,
    say,
    stat_of,
    text_of,
)

MARK = "CCAPI_TEST_POOL"
SECONDS = 2.0  # how long the chaos goes on


@frozen
class World:
    pool: ChildPool
    events: Subscription
    mark: str

    def alive(self) -> set[int]:
        """The leaders of the living children: those whose group is their own."""
        return {pid for pid in marked(MARK, self.mark) if stat_of(pid)[2:3] == [str(pid)]}

    def spawned(self) -> int:
        count = 0
        while True:
            try:
                count += isinstance(self.events.receive_nowait(), ChildSpawned)
            except trio.WouldBlock:
                return count

    async def warm(self, count: int) -> None:
        await eventually(lambda: self.pool.statistics().warm == count)


@asynccontextmanager
async def open_world(
    tmp_path: Path,
    switches: Mapping[str, Any] = {},
    program: tuple[str, ...] = DEMO_CLI,
    stop_seconds: float = 1.0,
    **claude: Any,
) -> AsyncIterator[World]:
    mark = uuid4().hex
    env = {**demo_command(tmp_path, switches).env, MARK: mark}
    agents = Agents(tmp_path / "workspaces", (), ())
    cli = Cli(program, env, tmp_path, stop_seconds, 1 << 20, agents)
    bus = Bus()
    with bus.subscribe(buffer=10_000) as events:
        async with open_pool(cli, ClaudeSettings(**claude), bus) as pool:
            yield World(pool, events, mark)
    await eventually(lambda: not marked(MARK, mark))


async def converse(child: Child, text: str) -> str:
    say(child, "", answer=text)
    return text_of(await read_turn(child))


async def part(child: Child) -> None:
    with trio.fail_after(PATIENCE):
        await child.gone.wait()
    child.stop_reading()


async def test_a_warm_child_answers_and_is_replaced(tmp_path: Path) -> None:
    async with open_world(tmp_path, prewarm=2, max_concurrent_sessions=3) as world:
        await world.warm(2)
        child = await take(world.pool, "c", None)
        assert await converse(child, "warm welcome") == "warm welcome"
        await world.warm(2)
        assert len(world.alive()) == 3
        child.retire()
        await part(child)
        assert child.returncode == 0
        await eventually(lambda: world.pool.statistics().live == 2)
        assert len(world.alive()) == 2


async def test_the_bound_holds_for_processes(tmp_path: Path) -> None:
    async with open_world(tmp_path, prewarm=2, max_concurrent_sessions=3) as world:
        most = 0

        async def serve() -> None:
            child = await take(world.pool, "c", None)
            await converse(child, "x")
            child.retire()
            await part(child)

        async with trio.open_nursery() as nursery:
            for _ in range(9):
                nursery.start_soon(serve)
            while world.pool.statistics().waiting or not most:
                most = max(most, len(world.alive()))
                await trio.sleep(0.005)
        assert 1 <= most <= 3
        await world.warm(2)


async def test_a_killed_warm_child_is_replaced_and_counted(tmp_path: Path) -> None:
    async with open_world(tmp_path, prewarm=2) as world:
        await world.warm(2)
        victim = min(world.alive())
        os.kill(victim, signal.SIGKILL)
        child = await take(world.pool, "c", None)  # at the very moment
        # It may have been the victim if the kernel was slow; then its reader would know at once.
        if child.pid != victim:
            assert await converse(child, "alive") == "alive"
        await world.warm(2)
        await eventually(lambda: len(world.alive()) == world.pool.statistics().live)
        child.kill()
        await part(child)


async def test_a_command_that_dies_at_once_makes_no_hot_loop(tmp_path: Path) -> None:
    async with open_world(tmp_path, program=("/bin/false",), prewarm=2) as world:
        await eventually(lambda: world.pool._stocks[DEFAULT].failures)
        with trio.move_on_after(1.0):
            await trio.sleep_forever()
        assert world.spawned() <= 6  # and not hundreds
        child = await take(world.pool, "c", None)
        with pytest.raises(EOFError):
            await child.receive_frames()
        await part(child)
        assert isinstance(child.post_mortem(), ChildDied)


async def test_a_missing_command_breaks_nothing(tmp_path: Path) -> None:
    async with open_world(tmp_path, program=("/nowhere/claude",), prewarm=2) as world:
        for _ in range(3):
            with pytest.raises(Overloaded) as raised:
                await take(world.pool, "c", None)
            assert raised.value.code == "cli_not_found"


async def test_the_end_is_bounded_with_children_that_will_not_go(tmp_path: Path) -> None:
    deaf = {"hang_at": "eof", "ignore_sigterm": True}
    before = open_files()
    async with open_world(tmp_path, deaf, stop_seconds=0.1, prewarm=3) as world:
        await world.warm(3)
        child = await take(world.pool, "c", None)
        await converse(child, "x")
        child.freeze()
        began = trio.current_time()
    child.stop_reading()
    assert trio.current_time() - began < PATIENCE  # 0.2 s, and what the machine adds
    assert open_files() == before


async def test_all_are_killed_at_once(tmp_path: Path) -> None:
    deaf = {"hang_at": "eof", "ignore_sigterm": True}
    async with open_world(tmp_path, deaf, stop_seconds=600, prewarm=2) as world:
        await world.warm(2)
        child = await take(world.pool, "c", None)
        world.pool.kill_all()
        await part(child)
        await eventually(lambda: not world.alive())
        await eventually(lambda: world.pool.statistics().live == 0)


# --- chaos ----------------------------------------------------------------------------------------


class Player:
    """A task that borrows children and treats them in every way there is."""

    def __init__(self, world: World, dice: random.Random) -> None:
        self.world = world
        self.dice = dice
        self.rounds = 0

    async def play(self) -> None:
        while True:
            with trio.move_on_after(self.dice.choice([0.001, 0.05, 5])):
                try:
                    child = await take(self.world.pool, "c", None)
                except GatewayError:
                    await trio.sleep(0.01)
                    continue
                with trio.CancelScope(shield=True):  # bounded by the turn's own patience
                    await self._use(child)
            self.rounds += 1

    async def _use(self, child: Child) -> None:
        try:
            try:
                for _ in range(self.dice.randrange(3)):
                    self.world.pool.withdraw(child)
                    await converse(child, "x")
                    rest(self.world.pool, child, child.retire)
            except EOFError:
                return  # it was killed
            if self.dice.random() < 0.5:
                await trio.sleep(self.dice.choice([0, 0.05]))
            self.dice.choice([child.retire, child.kill, child.freeze])()
        finally:
            self.world.pool.withdraw(child)
            child.retire()
            await part(child)


@pytest.mark.parametrize("seed", [1, 2])
async def test_chaos_loses_no_place_and_no_process(tmp_path: Path, seed: int) -> None:
    dice = random.Random(seed)
    before = open_files()
    async with open_world(
        tmp_path,
        prewarm=1,
        max_concurrent_sessions=4,
        max_waiting_turns=5,
        queue_timeout_seconds=0.5,
    ) as world:
        players = [Player(world, random.Random(dice.random())) for _ in range(7)]
        kills = 0
        async with trio.open_nursery() as nursery:
            for player in players:
                nursery.start_soon(player.play)
            end = trio.current_time() + SECONDS
            while trio.current_time() < end:
                await trio.sleep(dice.random() * 0.1)
                assert len(world.alive()) <= 4
                for pid in sorted(world.alive())[: dice.randrange(3)]:
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                        kills += 1
            nursery.cancel_scope.cancel()
        assert kills
        assert all(player.rounds for player in players)
        await world.warm(1)
        assert world.pool.statistics().waiting == 0
        assert world.pool.statistics().idle == 0
        await eventually(lambda: len(world.alive()) == world.pool.statistics().live == 1)
        # No place is lost: the whole bound can be used.
        children = [await take(world.pool, "c", None) for _ in range(4)]
        for child in children:
            child.kill()
            await part(child)
    assert open_files() == before
