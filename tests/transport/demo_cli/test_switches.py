"""The demo CLI misbehaves as its switches say, and in no other way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from itertools import groupby
from pathlib import Path

import pytest
import trio

from ccapi.transport.demo_cli.switches import (
    Switches,
    UnknownSwitch,
    lay_over,
    read_directive,
    read_variable,
)
from tests.support.demo_cli import (
    MODULE,
    DemoCli,
    control,
    is_answer,
    is_delta,
    is_result,
    kind,
    open_demo_cli,
    text_of,
    user,
)
from tests.support.embedded import script


def deltas(child: DemoCli) -> int:
    return child.printed.count(b'"content_block_delta"')


# --- reading the switches -----------------------------------------------------------------------


async def test_a_directive_is_for_one_turn_over_those_of_the_variable(tmp_path: Path) -> None:
    async with open_demo_cli(tmp_path, switches={"answer": "usual"}) as child:
        assert (await child.turn("hello"))[-1]["result"] == "usual"
        assert (await child.turn(script(answer="once")))[-1]["result"] == "once"
        assert (await child.turn("hello"))[-1]["result"] == "usual"


async def test_without_the_variable_a_directive_is_only_text(tmp_path: Path) -> None:
    async with open_demo_cli(tmp_path, "--pace-ms", "0", switches=None) as child:
        result = (await child.turn(script(die_at="turn", answer="no")))[-1]["result"]
        assert result.startswith("You said:\n\n> !script {")


@pytest.mark.parametrize(
    "given",
    [
        {"answr": "x"},
        {"deltas": "3"},
        {"deltas": True},
        {"report": 1},
        {"die_at": "lunch"},
        {"answer": 5},
        {"pace_ms": None},
        ["answer"],
    ],
)
def test_a_misspelt_switch_is_an_error(given: object) -> None:
    with pytest.raises(UnknownSwitch):
        lay_over(Switches(), given)


def test_reading_switches() -> None:
    assert read_variable(None) is None
    assert read_variable("") == read_variable("{}") == Switches()
    assert read_variable('{"pace_ms": 0}') == Switches(pace_ms=0)
    assert read_directive(Switches(), '!script{"deltas":2}  say: }') == (
        Switches(deltas=2),
        "say: }",
    )
    assert read_directive(Switches(), " !script {}") == (Switches(), " !script {}")
    for broken in ("!script", "!script {", "!script []"):
        with pytest.raises(UnknownSwitch):
            read_directive(Switches(), broken)


async def test_a_misspelt_switch_ends_the_process(tmp_path: Path) -> None:
    async with open_demo_cli(tmp_path, switches={"typo": 1}) as child:
        assert await child.wait() == 2
    async with open_demo_cli(tmp_path) as child:
        await child.send(user(script(typo=1)))
        assert await child.wait() == 2
        assert "no switch 'typo'" in await child.complaint()


# --- errors -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "name"), [(429, "rate_limit"), (529, "overloaded"), (400, "unknown")]
)
async def test_error_results(tmp_path: Path, status: int, name: str) -> None:
    async with open_demo_cli(tmp_path) as child:
        said, result = (await child.turn(script(error="No.", error_status=status)))[-2:]
        assert (said["error"], said["message"]["model"]) == (name, "<synthetic>")
        assert (result["subtype"], result["is_error"]) == ("success", True)
        assert (result["api_error_status"], result["result"]) == (status, "No.")
        history = (await child.report())["history"]
        assert [entry["role"] for entry in history] == ["user", "user"]  # the failed one stays


async def test_an_error_without_a_status_and_in_mid_turn(tmp_path: Path) -> None:
    async with open_demo_cli(tmp_path) as child:
        frames = await child.turn(script(error="lost", answer="a b c", after=2))
        assert text_of(frames) == "a b "
        assert (frames[-1]["api_error_status"], frames[-1]["result"]) == (None, "lost")


async def test_retries_come_before_the_answer(tmp_path: Path) -> None:
    async with open_demo_cli(tmp_path) as child:
        frames = await child.turn(script(api_retries=2, error_status=429, retry_delay_ms=1))
        retries = [f for f in frames if kind(f) == "api_retry"]
        assert [(f["attempt"], f["max_retries"], f["error_status"]) for f in retries] == [
            (1, 2, 429),
            (2, 2, 429),
        ]
        frames = await child.turn(script("repeat: fine", api_retries=1))
        assert (frames[-1]["is_error"], frames[-1]["result"]) == (False, "fine")


# --- dying and hanging --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("place", "told", "last"),
    [
        ("boot", "", ""),
        ("initialize", "", "ui_invalidate"),
        ("turn", "", "status"),
        ("delta", "", "content_block_delta"),
        ("result", "", "success"),
    ],
)
async def test_dying(tmp_path: Path, place: str, told: str, last: str) -> None:
    switches = {"die_at": place, "exit_code": 7, "after": 2, "answer": "a b c", "stderr": "alas"}
    async with open_demo_cli(tmp_path, switches=switches) as child:
        if place != "boot":
            await child.send(control("initialize"), user("hello"))
        frames = await child.rest()
        assert await child.wait() == 7
        assert [kind(f) for f in frames[-1:]] == ([last] if last else [])
        assert deltas(child) == {"delta": 2, "result": 3}.get(place, 0)
        assert await child.complaint() == ("" if place == "initialize" else "alas\n")


async def test_dying_by_a_signal(tmp_path: Path) -> None:
    async with open_demo_cli(tmp_path) as child:
        await child.send(user(script(die_at="delta", after=1, exit_code=-signal.SIGKILL)))
        await child.rest()
        assert await child.wait() == -signal.SIGKILL
        assert deltas(child) == 1


@pytest.mark.parametrize("place", ["boot", "initialize", "turn", "delta"])
async def test_hanging_is_deaf(tmp_path: Path, place: str) -> None:
    switches = {"hang_at": place, "after": 1, "answer": "a b"}
    last = {"initialize": "ui_invalidate", "turn": "status", "delta": "content_block_delta"}
    async with open_demo_cli(tmp_path, switches=switches) as child:
        await child.send(control("initialize"), user("hello"))
        if place in last:
            await child.until(lambda frame: kind(frame) == last[place])
        await child.send(control("interrupt"))
        await child.close_stdin()
        assert await child.silent()
        child.process.send_signal(signal.SIGTERM)
        assert await child.wait() in (143, -signal.SIGTERM)  # the latter: before it had started


async def test_hanging_after_the_end_of_stdin(tmp_path: Path) -> None:
    async with open_demo_cli(tmp_path, switches={"hang_at": "eof"}) as child:
        await child.turn("hello")
        await child.close_stdin()
        assert await child.silent()
        assert child.process.poll() is None


async def test_sigterm_can_be_ignored(tmp_path: Path) -> None:
    async with open_demo_cli(tmp_path, switches={"ignore_sigterm": True}) as child:
        await child.ask("initialize")
        child.process.send_signal(signal.SIGTERM)
        assert (await child.turn("repeat: still here"))[-1]["result"] == "still here"


async def test_an_interrupt_can_be_ignored(tmp_path: Path) -> None:
    async with open_demo_cli(tmp_path) as child:
        await child.send(user(script(deltas=20, pace_ms=5, ignore_interrupt=True)))
        await child.until(is_delta)
        await child.send(control("interrupt"))
        frames = await child.until(is_result)
        assert (kind(frames[-1]), deltas(child)) == ("success", 20)
        assert not any(map(is_answer, frames))


async def test_a_slow_boot_only_delays(tmp_path: Path) -> None:
    began = trio.current_time()
    async with open_demo_cli(tmp_path, switches={"boot_ms": 300}) as child:
        await child.turn("hello")
        assert trio.current_time() - began >= 0.3


@pytest.mark.parametrize("can", [True, False])
async def test_the_first_message_can_be_rewound_unless_a_switch_forbids_it(
    tmp_path: Path, can: bool
) -> None:
    uuid = "0a0a0a0a-1111-4111-8111-0b0b0b0b0b0b"
    async with open_demo_cli(tmp_path, switches={"rewind_first": can}) as child:
        await child.turn("hello", uuid)
        body = (await child.ask("rewind_conversation", target_message_uuid=uuid))["response"]
        assert (body["rewound"], body["precedingAssistantUuid"]) == (can, None)


# --- odd output ---------------------------------------------------------------------------------


async def test_noise_on_stderr(tmp_path: Path) -> None:
    async with open_demo_cli(tmp_path) as child:
        await child.turn(script(stderr_bytes=3_000_001, stderr="first"))
        await child.close_stdin()
        assert len(await child.complaint()) == len("first\n") + 3_000_001


async def test_junk_and_a_very_long_line(tmp_path: Path) -> None:
    async with open_demo_cli(tmp_path) as child:
        frames = await child.turn(
            script("repeat: fine", junk_frames=1000, long_line_bytes=20_000_000)
        )
        junk = [f for f in frames if f["type"] == "scripted_junk"]
        assert len(junk) == 1001
        assert len(junk[-1]["padding"]) == 20_000_000
        assert frames[-1]["result"] == "fine"


@pytest.mark.parametrize(
    ("garbage", "line"),
    [
        ("text", b"This line is not JSON."),
        ("array", b"[1,2,3]"),
        ("utf8", b"\xff\xfe\xc0\x80"),
    ],
)
async def test_garbage_between_deltas(tmp_path: Path, garbage: str, line: bytes) -> None:
    async with open_demo_cli(tmp_path) as child:
        await child.send(user(script(garbage=garbage, after=1, answer="a b")))
        await child.close_stdin()
        while await child.line():
            pass
        assert await child.wait() == 0
    lines = bytes(child.printed).splitlines()
    (place,) = [number for number, each in enumerate(lines) if line in each]
    assert b'"a "' in lines[place - 1]
    assert any(b'"b"' in each for each in lines[place + 1 :])
    assert b'"type":"result"' in lines[-1]


async def test_half_a_line_and_then_the_end(tmp_path: Path) -> None:
    async with open_demo_cli(tmp_path) as child:
        await child.send(user(script(garbage="half_line", after=1, answer="a b", exit_code=0)))
        while await child.line():
            pass
        assert await child.wait() == 0
        assert not child.printed.endswith(b"\n")
        last = bytes(child.printed).splitlines()[-1]
        assert last.startswith(b'{"type":"stream_event"')
        with pytest.raises(json.JSONDecodeError):
            json.loads(last)


def test_output_in_small_pieces(tmp_path: Path) -> None:
    """In a pipe of packets (O_DIRECT) every read gives what one write put in."""
    end, stdout = os.pipe2(os.O_DIRECT)
    environment = {"HOME": str(tmp_path), "DEMO_CLI_SWITCHES": '{"pace_ms": 0}'}
    with subprocess.Popen(
        [sys.executable, "-m", MODULE], stdin=subprocess.PIPE, stdout=stdout, env=environment
    ) as process:
        os.close(stdout)
        assert process.stdin is not None
        for text in (script("repeat: one", write_bytes=7), "repeat: two"):
            process.stdin.write(json.dumps(user(text)).encode() + b"\n")
        process.stdin.close()
        writes = list(iter(lambda: os.read(end, 1 << 16), b""))
        os.close(end)
    results = [json.loads(x)["result"] for x in b"".join(writes).splitlines() if b"is_error" in x]
    assert results == ["one", "two"]
    (_, before), (_, pieces), (_, after) = [
        (small, list(run)) for small, run in groupby(writes, lambda write: len(write) <= 7)
    ]
    assert len(pieces) > 100
    # For one turn alone: the frame that opens the next one is written in one piece again.
    for whole in (before[-1], after[0]):
        assert whole.startswith(b'{"type":"system","subtype":"init"')


async def test_deltas_after_the_result(tmp_path: Path) -> None:
    async with open_demo_cli(tmp_path) as child:
        await child.turn(script(late_frames=2))
        await child.send(control("interrupt"))
        frames = await child.until(is_answer)
        assert text_of(frames) == "late 0 late 1 "


async def test_stdin_can_be_read_slowly(tmp_path: Path) -> None:
    async with open_demo_cli(tmp_path, switches={"read_bytes": 20, "read_pause_ms": 10}) as child:
        await child.ask("initialize")
        began = trio.current_time()
        assert (await child.turn("repeat: fine"))[-1]["result"] == "fine"
        reads = len(json.dumps(user("repeat: fine"))) / 20
        assert trio.current_time() - began >= reads * 0.01


@pytest.mark.parametrize("how", ["open", "closed"])
async def test_a_grandchild_is_left_behind(tmp_path: Path, how: str) -> None:
    async with open_demo_cli(tmp_path) as child:
        frames = await child.turn(script(grandchild=how))
        pid = next(f["pid"] for f in frames if kind(f) == "scripted_grandchild")
        await child.close_stdin()
        assert await child.wait() == 0
        assert os.getpgid(pid) == child.process.pid
        if how == "closed":
            assert await child.rest() == []  # the end of stdout is seen
        else:
            assert await child.silent()
