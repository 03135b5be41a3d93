"""After random kills of children, clients and whole gateways, no process is left."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from uuid import uuid4

import trio

from tests.support.processes import PATIENCE, eventually, marked

ROOT = Path(__file__).parents[2]
ALL = "CCAPI_TEST_CHAOS"  # in the environment of everything that is started here
CHILD = "CCAPI_TEST_CHAOS_CHILD"  # in that of the gateways' children, and theirs

ROUNDS = int(os.environ.get("CCAPI_TEST_KILL_ROUNDS", "3"))
KILLS = {
    "child": 14 * ROUNDS,
    "client": 9 * ROUNDS,
    "gateway": ROUNDS,
    "gateway, in order": ROUNDS,
}
GATEWAYS = ("gateway", "gateway, in order")


class Victim:
    """One gateway process, and what it says."""

    def __init__(self, process: trio.Process, mark: str) -> None:
        self.process = process
        self.mark = mark
        self._said = bytearray()

    def children(self) -> list[int]:
        """Its living children and what they started, in the order they came."""
        return sorted(marked(CHILD, self.mark))

    async def wait_for(self, word: str) -> str:
        """The next line, which has to begin with `word`."""
        assert self.process.stdout is not None
        with trio.fail_after(PATIENCE):
            while b"\n" not in self._said:
                data = await self.process.stdout.receive_some()
                assert data, f"the gateway ended by itself, before it said {word!r}"
                self._said += data
        line, _, rest = self._said.partition(b"\n")
        self._said = rest
        assert line.startswith(word.encode())
        return line.decode()

    async def kill_client(self) -> None:
        assert self.process.stdin is not None
        await self.process.stdin.send_all(b"x")
        await self.wait_for("dropped")

    async def kill_child(self, dice: random.Random) -> None:
        """Any of them, or what it started; now and then another one is only stopped."""
        await eventually(self.children)
        while True:
            pids = self.children()
            with suppress(ProcessLookupError, IndexError):
                if dice.random() < 0.1:
                    os.kill(dice.choice(pids), signal.SIGSTOP)
                os.kill(dice.choice(pids), signal.SIGKILL)
                return
            await trio.sleep(0.01)

    async def kill(self) -> None:
        self.process.kill()
        with trio.fail_after(PATIENCE):
            assert await self.process.wait() == -signal.SIGKILL

    async def stop(self) -> None:
        """In order: it ends its children itself, and none of its sessions had crashed."""
        self.process.send_signal(signal.SIGTERM)
        assert await self.wait_for("crashes") == "crashes 0"
        with trio.fail_after(PATIENCE):
            assert await self.process.wait() == 0


@asynccontextmanager
async def open_victim(home: Path, seed: int, mark: str, log: Path) -> AsyncIterator[Victim]:
    program = [sys.executable, "-m", "tests.support.chaos_gateway", str(home), str(seed)]
    with log.open("ab") as stderr:
        process = await trio.lowlevel.open_process(
            [*program, CHILD, mark],
            cwd=ROOT,
            env={**os.environ, ALL: mark},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
        )
    assert process.stdin is not None
    assert process.stdout is not None
    async with process.stdin, process.stdout:
        try:
            victim = Victim(process, mark)
            await victim.wait_for("ready")
            yield victim
        finally:
            process.kill()
            with trio.move_on_after(PATIENCE, shield=True):
                await process.wait()


def plan(dice: random.Random) -> list[list[str]]:
    """The kills in random order, those of one gateway together; each list ends with its own."""
    orders = [kind for kind, count in KILLS.items() for _ in range(count)]
    dice.shuffle(orders)
    while orders[-1] not in GATEWAYS:
        dice.shuffle(orders)
    lives: list[list[str]] = [[]]
    for kind in orders:
        lives[-1].append(kind)
        if kind in GATEWAYS:
            lives.append([])
    return lives[:-1]


async def live(victim: Victim, kinds: list[str], dice: random.Random) -> None:
    """One gateway's life, to its end."""
    for kind in kinds:
        await trio.sleep(dice.random() * 0.06)
        match kind:
            case "child":
                await victim.kill_child(dice)
            case "client":
                await victim.kill_client()
            case "gateway":
                await victim.kill()
            case "gateway, in order":
                await victim.stop()


async def test_kills_leave_no_process(tmp_path: Path) -> None:
    dice, mark, log = random.Random(11), uuid4().hex, tmp_path / "log"
    done: Counter[str] = Counter()
    try:
        for number, kinds in enumerate(plan(dice)):
            home = tmp_path / f"home{number}"
            home.mkdir()
            async with open_victim(home, number, mark, log) as victim:
                await live(victim, kinds, dice)
            done.update(kinds)
            await eventually(lambda: not marked(ALL, mark) | marked(CHILD, mark), seconds=10)
    finally:
        for pid in marked(ALL, mark) | marked(CHILD, mark):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    assert done == KILLS
    assert done.total() >= 25
