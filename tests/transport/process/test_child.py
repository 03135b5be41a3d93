"""A child process: what it says, what can be done to it, and that it goes for certain."""

from __future__ import annotations

import gc
import os
import signal
from pathlib import Path

import pytest
import trio
import trio.lowlevel
from attrs import evolve
from structlog.testing import capture_logs
from trio.testing import wait_all_tasks_blocked

from ccapi.schemas.claude import input as cli_input
from ccapi.schemas.claude import lines
from ccapi.schemas.claude.lines import Line
from ccapi.schemas.claude.output import AssistantDone, ControlAnswer, Noise, TurnResult
from ccapi.schemas.errors import ChildDied, ChildProtocolError, GatewayError, Overloaded
from ccapi.schemas.turn import Setup
from ccapi.transport.process.child import (
    STDERR_TAIL_BYTES,
    UNWRITTEN_LINES,
    ChildCommand,
    open_child,
)
from ccapi.transport.process.guardian import Guardian, open_guardian
from tests.support.processes import (
    PATIENCE,
    adopt,
    demo_command,
    eventually,
    gone,
    group,
    lives,
    open_files,
    python,
    read_all,
    read_turn,
    read_until,
    running,
    say,
    state_of,
    text_of,
)

SLEEPS = "import time; time.sleep(60)"
DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True);"
DEAF += "time.sleep(60)"

# --- what it says ---------------------------------------------------------------------------------


async def test_a_turn_is_read_as_frames(tmp_path: Path) -> None:
    async with running(demo_command(tmp_path)) as child:
        adopt(child)
        say(child, "", answer="one two three")
        seen = await read_turn(child)
    assert text_of(seen) == "one two three"
    kinds = [type(frame) for frame in seen if not isinstance(frame, Noise)]
    assert kinds.index(ControlAnswer) < kinds.index(AssistantDone) < kinds.index(TurnResult)


@pytest.mark.parametrize("size", [1, 7, 4096])
async def test_any_split_of_its_bytes_gives_the_same_frames(tmp_path: Path, size: int) -> None:
    answer = "häppchenweise 😀 gesagt"
    async with running(demo_command(tmp_path, {"write_bytes": size})) as child:
        say(child, "", answer=answer)
        seen = await read_turn(child)
        child.retire()
        rest, error = await read_all(child)
    assert text_of(seen) == answer
    assert error is None
    assert not [frame for frame in rest if not isinstance(frame, Noise)]


async def test_a_line_of_20_megabytes(tmp_path: Path) -> None:
    async with running(demo_command(tmp_path)) as child:
        say(child, "", answer="after it", long_line_bytes=20_000_000)
        seen = await read_turn(child)
    assert text_of(seen) == "after it"


async def test_long_lines_and_short_ones_are_written_in_their_order(tmp_path: Path) -> None:
    program = (
        "import json, sys;"
        "[print(json.dumps({'type': 'result', 'result': str(len(json.loads(line)['text']))}),"
        " flush=True) for line in sys.stdin]"
    )
    lengths = [1, 3_000_000, 2, 70_000, 3, 4]
    async with running(python(tmp_path, program)) as child:
        for length in lengths:
            child.write(lines.line({"text": "x" * length}))
        child.retire()
        seen, error = await read_all(child)
    assert error is None
    told = [frame.text for frame in seen if isinstance(frame, TurnResult)]
    assert told == [str(length) for length in lengths]


async def test_a_line_over_the_limit_is_an_error_and_the_end(tmp_path: Path) -> None:
    async with running(demo_command(tmp_path, max_line_bytes=65536)) as child:
        say(child, "", answer="never read", long_line_bytes=100_000)
        seen, error = await read_all(child)
        await gone(child)
    assert isinstance(error, ChildProtocolError)
    assert "65536" in error.message
    assert text_of(seen) == ""
    assert child.returncode == -signal.SIGKILL


@pytest.mark.parametrize("size", [1, 65536])
async def test_garbage_is_an_error_after_the_frames_before_it(tmp_path: Path, size: int) -> None:
    # Written at once or byte by byte: what came before the garbage is read either way.
    program = (
        "import sys, time; n = int(sys.argv[1]);"
        'data = b\'{"type":"result","result":"read"}\\nNo JSON!\\n{"type":"result"}\\n\';'
        "[sys.stdout.buffer.raw.write(data[i:i+n]) for i in range(0, len(data), n)];"
        "time.sleep(60)"
    )
    async with running(python(tmp_path, program, str(size))) as child:
        seen, error = await read_all(child)
        await gone(child)
    assert [frame.text for frame in seen if isinstance(frame, TurnResult)] == ["read"]
    assert isinstance(error, ChildProtocolError)
    assert child.returncode == -signal.SIGKILL


async def test_an_error_stays_an_error(tmp_path: Path) -> None:
    async with running(python(tmp_path, "print('No JSON!', flush=True);" + SLEEPS)) as child:
        for _ in range(2):
            with pytest.raises(ChildProtocolError):
                await child.receive_frames()


async def test_half_a_line_and_then_the_end(tmp_path: Path) -> None:
    async with running(demo_command(tmp_path)) as child:
        say(child, "", answer="a b c", garbage="half_line", after=1)
        seen, error = await read_all(child)
        await gone(child)
    assert text_of(seen) == "a "
    assert error is None
    assert "in the middle of a line" in child.post_mortem().message


async def test_what_it_wrote_before_it_went_is_read_after_it_has_gone(tmp_path: Path) -> None:
    async with running(demo_command(tmp_path)) as child:
        adopt(child)
        await read_until(child, lambda frame: isinstance(frame, ControlAnswer))
        say(child, "", answer="last words", die_at="result", exit_code=3)
        await gone(child)
        seen, error = await read_all(child)
    assert text_of(seen) == "last words"
    assert isinstance(seen[-1], TurnResult)
    assert error is None
    assert child.returncode == 3


async def test_two_tasks_do_not_read_at_once(tmp_path: Path) -> None:
    async with running(demo_command(tmp_path)) as child, trio.open_nursery() as nursery:
        nursery.start_soon(read_all, child)
        await wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError):
            await child.receive_frames()
        child.kill()


async def test_one_task_may_write_while_another_reads(tmp_path: Path) -> None:
    async with running(demo_command(tmp_path)) as child, trio.open_nursery() as nursery:

        async def order() -> None:
            for number in range(20):
                child.write(cli_input.initialize(f"r{number}", Setup("sonnet", "")))
                await trio.lowlevel.checkpoint()

        nursery.start_soon(order)
        seen = await read_until(child, lambda frame: getattr(frame, "request_id", "") == "r19")
    answers = [frame.request_id for frame in seen if isinstance(frame, ControlAnswer)]
    assert answers == [f"r{number}" for number in range(20)]


# --- stderr ---------------------------------------------------------------------------------------


async def test_stderr_is_drained_and_its_end_is_kept(tmp_path: Path) -> None:
    async with running(demo_command(tmp_path)) as child:
        say(child, "", answer="unharmed", stderr_bytes=5_000_000)
        assert text_of(await read_turn(child)) == "unharmed"
        say(child, "", stderr="the last word", die_at="turn", exit_code=7)
        await read_all(child)
        await gone(child)
    assert child.stderr_tail.endswith("the last word")
    assert len(child.stderr_tail) <= STDERR_TAIL_BYTES
    assert len(b"".join(child._stderr)) <= STDERR_TAIL_BYTES + 65536
    error = child.post_mortem()
    assert isinstance(error, ChildDied)
    # Clients read the message; what the child wrote is for the log.
    assert error.message == "The CLI process ended with status 7."


async def test_a_child_that_was_asked_to_end_is_not_reported(tmp_path: Path) -> None:
    with capture_logs() as lines:
        async with running(demo_command(tmp_path)) as child:
            child.retire()
            await gone(child)
        async with running(demo_command(tmp_path)) as child:
            child.kill()
            await gone(child)
    assert lines == []


async def test_a_post_mortem_names_the_signal(tmp_path: Path) -> None:
    async with running(demo_command(tmp_path)) as child:
        say(child, "", die_at="turn", exit_code=-11)
        await read_all(child)
        await gone(child)
    assert "signal 11" in child.post_mortem().message
    assert not child.expected


# --- what is written to it
# -------------------------------------------------------------------------


async def test_a_child_that_reads_nothing_is_killed_when_too_much_waits(tmp_path: Path) -> None:
    async with running(python(tmp_path, SLEEPS)) as child:
        child.write(b"x" * 200_000 + b"\n")  # more than its pipe holds: the writer is stuck
        await wait_all_tasks_blocked()
        for _ in range(UNWRITTEN_LINES):
            child.write(b"y\n")
        assert not child.leave.is_set()
        child.write(b"one too many\n")
        assert child.leave.is_set()
        await gone(child)
        child.write(b"into the void\n")
    assert child.returncode == -signal.SIGKILL


@pytest.mark.parametrize(
    "line", [b"x" * 200_000 + b"\n", lines.line({"text": "x" * 3_000_000})], ids=["at once", "long"]
)
async def test_a_stop_is_bounded_when_the_writer_is_stuck(tmp_path: Path, line: Line) -> None:
    with trio.fail_after(20):
        async with running(python(tmp_path, SLEEPS, stop_seconds=0.1)) as child:
            child.write(line)
            await trio.sleep(0.1)
            child.retire()
            await gone(child)
    assert child.returncode == -signal.SIGTERM


async def test_a_child_that_ends_while_a_long_line_is_written(tmp_path: Path) -> None:
    program = "import sys; sys.stdin.buffer.read(100_000); print('{}')"
    with trio.fail_after(20):
        async with running(python(tmp_path, program)) as child:
            child.write(lines.line({"text": "x" * 3_000_000}))
            await gone(child)
    assert child.returncode == 0


async def test_what_was_handed_over_is_written_before_stdin_is_closed(tmp_path: Path) -> None:
    slow_reader = {"read_bytes": 4096, "read_pause_ms": 1}
    async with running(demo_command(tmp_path, slow_reader)) as child:
        say(child, "x" * 500_000, answer="got it all")
        child.retire()
        seen, _ = await read_all(child)
        await gone(child)
    assert text_of(seen) == "got it all"
    assert child.returncode == 0


# --- how it goes ----------------------------------------------------------------------------------


async def test_a_retired_child_goes_by_itself(tmp_path: Path) -> None:
    async with running(demo_command(tmp_path)) as child:
        say(child, "", answer="done")
        await read_turn(child)
        child.retire()
        await gone(child)
    assert child.returncode == 0
    assert child.expected
    assert repr(child) == f"<Child {child.pid} gone 0>"


async def test_it_finishes_its_turn_when_retired_in_the_middle(tmp_path: Path) -> None:
    async with running(demo_command(tmp_path)) as child:
        say(child, "", answer="to the very end", pace_ms=5)
        seen = await read_until(child, bool)
        child.retire()
        rest, _ = await read_all(child)
    assert text_of(seen + rest) == "to the very end"


@pytest.mark.parametrize(("program", "signum"), [(SLEEPS, signal.SIGTERM), (DEAF, signal.SIGKILL)])
async def test_sigterm_then_sigkill(tmp_path: Path, program: str, signum: int) -> None:
    async with running(python(tmp_path, program, stop_seconds=0.2)) as child:
        if program is DEAF:
            await child.receive_frames()
        child.retire()
        await gone(child)
    assert child.returncode == -signum


async def test_once_asked_to_go_it_stays_expected(tmp_path: Path) -> None:
    async with running(demo_command(tmp_path)) as child:
        child.retire()
        child.retire()
        child.kill()
        await gone(child)
    assert child.expected


async def test_a_cancelled_block_ends_the_child_in_its_time(tmp_path: Path) -> None:
    async with open_guardian() as guardian:
        with trio.CancelScope() as scope:
            async with open_child(demo_command(tmp_path), guardian) as child:
                scope.cancel()
                await trio.sleep_forever()
    assert scope.cancelled_caught
    assert child.gone.is_set()
    assert child.expected
    assert not group(child.pid)


async def test_a_cancelled_block_lets_a_frozen_child_go_by_itself(tmp_path: Path) -> None:
    async with open_guardian() as guardian:
        with trio.CancelScope() as scope:
            async with open_child(demo_command(tmp_path), guardian) as child:
                child.freeze()
                scope.cancel()
                await trio.sleep_forever()
    assert child.returncode == 0


async def test_a_cancelled_block_ends_a_deaf_child_too(tmp_path: Path) -> None:
    with trio.fail_after(PATIENCE):
        async with open_guardian() as guardian:
            with trio.CancelScope() as scope:
                command = python(tmp_path, DEAF, stop_seconds=0.1)
                async with open_child(command, guardian) as child:
                    await child.receive_frames()
                    child.write(b"x" * 200_000 + b"\n")
                    scope.cancel()
                    await trio.sleep_forever()
        child.stop_reading()
    assert child.returncode == -signal.SIGKILL


async def test_a_grandchild_left_behind_is_ended(tmp_path: Path) -> None:
    async with running(demo_command(tmp_path)) as child:
        say(child, "", grandchild="closed")
        await read_turn(child)
        assert len(group(child.pid)) == 2
        child.retire()
        await gone(child)
    assert child.returncode == 0
    await eventually(lambda: not group(child.pid))


async def test_a_grandchild_that_holds_stdout_hangs_no_reader(tmp_path: Path) -> None:
    async with running(demo_command(tmp_path)) as child:
        say(child, "", grandchild="open", answer="x", die_at="result")
        seen, error = await read_all(child)
        await gone(child)
    assert text_of(seen) == "x"
    assert error is None
    await eventually(lambda: not group(child.pid))


async def test_who_left_the_group_with_stdout_in_hand_hangs_no_reader(tmp_path: Path) -> None:
    # Like a daemon: it is none of ours any more, but our pipe stays open as long as it likes.
    program = (
        "import os, subprocess, sys;"
        "p = subprocess.Popen(['sleep', '60'], start_new_session=True);"
        'print(\'{"type":"result","result":"\' + str(p.pid) + \'"}\', flush=True)'
    )
    async with running(python(tmp_path, program)) as child:
        seen, error = await read_all(child)
        await gone(child)
    assert isinstance(seen[0], TurnResult)
    daemon = int(seen[0].text)
    try:
        assert error is None
        assert lives(daemon)
    finally:
        os.kill(daemon, signal.SIGKILL)


async def test_a_child_that_closes_stdout_and_stays_is_ended(tmp_path: Path) -> None:
    program = "import os, time; os.close(1); time.sleep(60)"
    async with running(python(tmp_path, program, stop_seconds=0.1)) as child:
        seen, error = await read_all(child)
        await gone(child)
    assert (seen, error) == ([], None)
    assert child.returncode == -signal.SIGTERM


# --- frozen ---------------------------------------------------------------------------------------


async def test_freeze_stops_the_group_and_a_write_thaws_it(tmp_path: Path) -> None:
    async with running(demo_command(tmp_path)) as child:
        say(child, "", grandchild="closed")
        await read_turn(child)
        child.freeze()
        members = group(child.pid)
        assert len(members) == 2
        await eventually(lambda: {state_of(pid) for pid in members} == {"T"})
        assert child.frozen
        assert repr(child) == f"<Child {child.pid} frozen>"
        say(child, "", answer="awake")
        assert not child.frozen
        assert text_of(await read_turn(child)) == "awake"
        assert "T" not in {state_of(pid) for pid in members}


async def test_a_frozen_child_can_retire(tmp_path: Path) -> None:
    async with running(demo_command(tmp_path)) as child:
        child.freeze()
        child.retire()
        await gone(child)
    assert child.returncode == 0


async def test_a_child_stopped_by_others_goes_all_the_same(tmp_path: Path) -> None:
    async with running(demo_command(tmp_path, stop_seconds=0.1)) as child:
        os.kill(child.pid, signal.SIGSTOP)
        child.retire()
        await gone(child)
    assert child.returncode == -signal.SIGKILL


async def test_a_child_that_leaves_is_not_frozen(tmp_path: Path) -> None:
    async with running(demo_command(tmp_path)) as child:
        child.retire()
        child.freeze()
        assert not child.frozen
        await gone(child)
    assert child.returncode == 0


# --- when there is none ---------------------------------------------------------------------------


async def start(command: ChildCommand) -> GatewayError:
    before = open_files()
    async with open_guardian() as guardian:
        with pytest.raises(GatewayError) as raised:
            async with open_child(command, guardian):
                pytest.fail("it was started")
    assert open_files() == before
    return raised.value


async def test_a_program_that_is_not_there(tmp_path: Path) -> None:
    error = await start(demo_command(tmp_path, argv=("/nowhere/claude",)))
    assert isinstance(error, Overloaded)
    assert error.code == "cli_not_found"
    assert "/nowhere/claude" in error.message


async def test_a_program_that_cannot_be_executed(tmp_path: Path) -> None:
    (tmp_path / "claude").write_text("#!/bin/sh\n")
    error = await start(demo_command(tmp_path, argv=(str(tmp_path / "claude"),)))
    assert isinstance(error, ChildDied)
    assert error.message.endswith(f"{tmp_path}/claude: Permission denied.")


async def test_a_script_whose_interpreter_is_not_there(tmp_path: Path) -> None:
    script = tmp_path / "claude"
    script.write_text("#!/nowhere/node\n")
    script.chmod(0o700)
    error = await start(demo_command(tmp_path, argv=(str(script),)))
    assert isinstance(error, ChildDied)
    assert "its first line" in error.message


async def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    error = await start(evolve(demo_command(tmp_path), cwd=tmp_path / "nowhere"))
    assert isinstance(error, ChildDied)
    assert error.message.endswith(f"there is no directory {tmp_path}/nowhere.")


# --- leaves nothing -------------------------------------------------------------------------------


async def come_and_go(command: ChildCommand, guardian: Guardian, number: int) -> None:
    async with running(command, guardian) as child:
        match number % 5:
            case 0:
                say(child, "", answer="x")
                await read_turn(child)
                child.retire()
            case 1:
                child.kill()
            case 2:
                await trio.lowlevel.checkpoint()
            case 3:
                child.freeze()
            case 4:
                say(child, "", die_at="turn")
                await read_all(child)


async def test_no_file_descriptor_and_no_process_is_left(tmp_path: Path) -> None:
    async with open_guardian() as guardian:
        # The first one opens what the process keeps: a worker thread's, the event loop's.
        await come_and_go(demo_command(tmp_path), guardian, 0)
        gc.collect()
        before = open_files()
        for first in range(0, 20, 5):
            async with trio.open_nursery() as nursery:
                for number in range(first, first + 5):
                    nursery.start_soon(come_and_go, demo_command(tmp_path), guardian, number)
        gc.collect()  # a stream that was not closed would warn here
        assert open_files() == before
