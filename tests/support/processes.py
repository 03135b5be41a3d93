"""Processes as the kernel sees them (`/proc`), and children to try things on.

Knows how to find processes by group or by an environment variable of the test's own, and how they
are. Looks at no process but by those two; signals nothing that it was not given. Refuses to know
what a child says.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import trio

from ccapi.schemas.claude import input as lines
from ccapi.schemas.claude.output import Frame, TurnResult
from ccapi.schemas.errors import GatewayError
from ccapi.schemas.turn import Setup
from ccapi.schemas.turn_items import TextDelta
from ccapi.transport.process.child import Child, ChildCommand, open_child
from ccapi.transport.process.guardian import Guardian, open_guardian

PATIENCE = 20.0  # seconds after which something that has not happened fails the test
DEMO_CLI = (sys.executable, "-I", "-m", "ccapi.transport.demo_cli")


# --- /proc ----------------------------------------------------------------------------------------


def stat_of(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the state on (proc(5): state, ppid, pgrp, ...); [] when
    there is no such process."""
    try:
        # The second field is the program's name, in parentheses, and may hold any character.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def state_of(pid: int) -> str:
    """R, S, T (stopped), Z (dead, not reaped), ...; "" when there is no such process."""
    return (stat_of(pid) or [""])[0]


def lives(pid: int) -> bool:
    return state_of(pid) not in ("", "Z", "X")


def _all() -> list[int]:
    return [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]  # noqa: PTH208


def group(pgid: int) -> list[int]:
    """The living processes of a process group."""
    return [pid for pid in _all() if lives(pid) and stat_of(pid)[2:3] == [str(pgid)]]


def marked(name: str, value: str) -> set[int]:
    """The living processes that were started with this variable in their environment."""
    wanted = f"{name}={value}".encode()
    found = set()
    for pid in _all():
        with suppress(OSError):
            if wanted in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0") and lives(pid):
                found.add(pid)
    return found


def open_files() -> int:
    """How many file descriptors this process has."""
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208


async def eventually(true: Callable[[], object], seconds: float = PATIENCE) -> None:
    """Wait for what only another process can bring about, and the kernel does not announce. It is
    asked no more once it was true: a process that is killed between fork and exec shows its new
    environment for a moment after no other has it."""
    with trio.move_on_after(seconds):
        while not true():
            await trio.sleep(0.01)
        return
    raise AssertionError(f"it was not so within {seconds:g} seconds")


def end_group(pgid: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(pgid, signal.SIGKILL)


# --- children -------------------------------------------------------------------------------------


def demo_command(tmp_path: Path, switches: Mapping[str, Any] = {}, **changes: Any) -> ChildCommand:
    """The demo CLI with `switches`; `changes` are fields of `ChildCommand`."""
    env = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "DEMO_CLI_SWITCHES": json.dumps({"pace_ms": 0, **switches}),
    }
    return ChildCommand(**{"argv": DEMO_CLI, "env": env, "cwd": tmp_path, **changes})


def python(tmp_path: Path, program: str, *args: str, **changes: Any) -> ChildCommand:
    """A child that is a few lines of Python."""
    argv = (sys.executable, "-I", "-c", program, *args)
    return demo_command(tmp_path, argv=argv, **changes)


@asynccontextmanager
async def running(command: ChildCommand, guardian: Guardian | None = None) -> AsyncIterator[Child]:
    """The child as the pool keeps it: it goes when it has left, or with the block."""
    async with trio.open_nursery() as nursery:
        child: Child = await nursery.start(_keep, command, guardian)
        try:
            yield child
        finally:
            child.stop_reading()


async def _keep(
    command: ChildCommand, guardian: Guardian | None, task_status: trio.TaskStatus[Child]
) -> None:
    if guardian is None:
        async with open_guardian() as own:
            await _keep(command, own, task_status)
        return
    async with open_child(command, guardian) as child:
        task_status.started(child)
        await child.leave.wait()


def say(child: Child, text: str, **switches: Any) -> None:
    """One turn's user frame, with the demo CLI's switches for it."""
    words = f"!script {json.dumps(switches)} {text}" if switches else text
    child.write(lines.user(os.urandom(8).hex(), (words,)))


def adopt(child: Child) -> None:
    child.write(lines.initialize("r1", Setup("sonnet", "")))


async def read_until(child: Child, true: Callable[[Frame], bool]) -> list[Frame]:
    """The frames up to the piece that holds the wanted one."""
    seen: list[Frame] = []
    with trio.fail_after(PATIENCE):
        while not any(map(true, seen)):
            seen += await child.receive_frames()
    return seen


async def read_turn(child: Child) -> list[Frame]:
    return await read_until(child, lambda frame: isinstance(frame, TurnResult))


async def read_all(child: Child) -> tuple[list[Frame], GatewayError | None]:
    """All the child says until it says no more, and its error; then stops reading."""
    seen: list[Frame] = []
    with trio.fail_after(PATIENCE):
        try:
            while True:
                seen += await child.receive_frames()
        except EOFError:
            return seen, None
        except GatewayError as error:
            return seen, error
        finally:
            child.stop_reading()


async def gone(child: Child, seconds: float = PATIENCE) -> None:
    with trio.fail_after(seconds):
        await child.gone.wait()


def text_of(seen: list[Frame]) -> str:
    return "".join(frame.text for frame in seen if isinstance(frame, TextDelta))
