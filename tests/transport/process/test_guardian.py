"""The guardian: a gateway that is killed leaves no child behind, whatever the child was doing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from structlog.testing import capture_logs

from ccapi.transport.process.guardian import open_guardian
from tests.support.processes import (
    PATIENCE,
    demo_command,
    end_group,
    eventually,
    group,
    lives,
    open_files,
    read_turn,
    read_until,
    running,
    say,
    text_of,
)

ROOT = Path(__file__).parents[3]

# --- the gateway is killed ------------------------------------------------------------------------


async def parent(home: str, case: str) -> None:
    """A gateway in small, as a process of its own: one child, brought into the state `case`."""
    async with (
        open_guardian() as guardian,
        running(demo_command(Path(home)), guardian) as child,
    ):
        match case:
            case "idle":
                say(child, "", answer="done")
                await read_turn(child)
            case "in a turn":
                say(child, "", deltas=100_000, pace_ms=1)
                await read_until(child, lambda frame: bool(text_of([frame])))
            case "frozen":
                child.freeze()
            case "deaf":
                say(child, "", hang_at="delta", after=1, deltas=9, ignore_sigterm=True)
                await read_until(child, lambda frame: bool(text_of([frame])))
            case "with a grandchild":
                say(child, "", grandchild="open")
                await read_turn(child)
            case "dead, but for a grandchild":
                say(child, "", grandchild="open")
                await read_turn(child)
                os.kill(child.pid, signal.SIGSTOP)
                print(json.dumps({"child": child.pid, "guardian": guardian.pid}), flush=True)
                os.kill(child.pid, signal.SIGKILL)
                os.kill(os.getpid(), signal.SIGKILL)
        print(json.dumps({"child": child.pid, "guardian": guardian.pid}), flush=True)
        await trio.sleep_forever()


CASES = ["idle", "in a turn", "frozen", "deaf", "with a grandchild", "dead, but for a grandchild"]


@pytest.mark.parametrize("case", CASES)
async def test_a_killed_gateway_leaves_nothing(tmp_path: Path, case: str) -> None:
    program = f"import sys, trio; from {__name__} import parent; trio.run(parent, *sys.argv[1:])"
    argv = [sys.executable, "-c", program, str(tmp_path), case]
    process = await trio.lowlevel.open_process(argv, cwd=ROOT, stdout=subprocess.PIPE)
    assert process.stdout is not None
    pids: dict[str, Any] = {}
    try:
        async with process.stdout:
            with trio.fail_after(PATIENCE):
                pids = json.loads(await process.stdout.receive_some())
            if not case.startswith("dead"):
                assert len(group(pids["child"])) == (2 if "grandchild" in case else 1)
            process.kill()
            with trio.fail_after(PATIENCE):
                await process.wait()
        await eventually(lambda: not group(pids["child"]))
        await eventually(lambda: not lives(pids["guardian"]))
    finally:
        process.kill()
        if pids:
            end_group(pids["child"])


# --- the guardian alone ---------------------------------------------------------------------------


@contextmanager
def sleeping() -> Iterator[int]:
    """A process in a group of its own; its id is the group's."""
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as process:
        try:
            yield process.pid
        finally:
            process.kill()


async def test_it_ends_the_groups_it_watches_and_no_other() -> None:
    with sleeping() as watched, sleeping() as forgotten, sleeping() as unknown:
        async with open_guardian() as guardian:
            guardian.watch(watched)
            guardian.watch(forgotten)
            guardian.forget(forgotten)
        await eventually(lambda: not lives(watched))
        assert lives(forgotten)
        assert lives(unknown)


async def test_it_ends_with_its_block() -> None:
    before = open_files()
    async with open_guardian() as guardian:
        assert lives(guardian.pid)
    assert not lives(guardian.pid)
    assert open_files() == before


def ignores(pid: int, number: int) -> bool:
    """Whether the process ignores a signal (proc(5): SigIgn)."""
    status = Path(f"/proc/{pid}/status").read_text()
    return bool(int(status.partition("SigIgn:")[2].split()[0], 16) & 1 << (number - 1))


async def test_signals_meant_for_a_service_do_not_end_it() -> None:
    with sleeping() as watched:
        async with open_guardian() as guardian:
            guardian.watch(watched)
            numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
            await eventually(lambda: all(ignores(guardian.pid, number) for number in numbers))
            for number in numbers:
                os.kill(guardian.pid, number)
        await eventually(lambda: not lives(watched))


async def test_a_gateway_goes_on_without_it(tmp_path: Path) -> None:
    async with open_guardian() as guardian:
        first = guardian.pid
        os.kill(first, signal.SIGKILL)
        await eventually(lambda: not lives(first))
        async with running(demo_command(tmp_path), guardian) as child:
            say(child, "", answer="as ever")
            assert text_of(await read_turn(child)) == "as ever"
        assert child.gone.is_set()


async def test_one_that_dies_is_replaced_and_knows_what_it_knew() -> None:
    with capture_logs() as logs, sleeping() as before, sleeping() as forgotten, sleeping() as after:
        async with open_guardian() as guardian:
            guardian.watch(before)
            guardian.watch(forgotten)
            first = guardian.pid
            os.kill(first, signal.SIGKILL)
            await eventually(lambda: guardian.pid != first)
            guardian.forget(forgotten)
            guardian.watch(after)
            assert lives(guardian.pid)
            assert lives(before)  # its guardian's death is not the gateway's
        await eventually(lambda: not lives(before) and not lives(after))
        assert lives(forgotten)
        assert "the guardian died and is replaced" in {line["event"] for line in logs}


async def test_one_that_is_stuck_holds_up_no_other_and_is_replaced() -> None:
    with sleeping() as forgotten, sleeping() as watched:
        async with open_guardian() as guardian:
            first = guardian.pid
            os.kill(first, signal.SIGSTOP)
            guardian.watch(watched)
            guardian.watch(forgotten)
            for number in range(100_000, 120_000):  # more than its pipe holds
                guardian.forget(number)
            guardian.forget(forgotten)  # which the stuck one never hears of
            await eventually(lambda: guardian.pid != first)
        await eventually(lambda: not lives(watched))
        assert lives(forgotten)
    assert not lives(guardian.pid)
