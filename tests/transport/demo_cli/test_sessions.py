"""The demo CLI ends as the Claude Code CLI does, and what it received outlives it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.support.demo_cli import (
    MODULE,
    DemoCli,
    is_delta,
    is_result,
    kind,
    new_uuids,
    open_demo_cli,
    user,
)

SLOW = '!script {"deltas": 5000, "pace_ms": 2}'


# --- the end of the process ---------------------------------------------------------------------


async def test_at_the_end_of_stdin_the_turns_are_finished(tmp_path: Path) -> None:
    async with open_demo_cli(tmp_path) as child:
        await child.send(user('!script {"answer": "a b c d", "pace_ms": 20}'))
        await child.until(is_delta)
        await child.send_bytes(json.dumps(user("repeat: last")).encode())  # without a newline
        await child.close_stdin()
        assert [f["result"] for f in await child.rest() if is_result(f)] == ["a b c d", "last"]
        assert await child.wait() == 0


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (b'{"type":', "Error parsing streaming input line (type=unknown, 8 chars): SyntaxError"),
        (b"", "Error parsing streaming input line"),
        (b" \t ", "Error parsing streaming input line"),
        (b'{"type":"user"}', "Error: Expected message role 'user', got 'undefined'"),
        (b'{"type":"user","message":{"role":"x","content":""}}', "'user', got 'x'"),
        (b'{"type":"user","message":{"role":"user","content":5}}', "Expected message content"),
        (b'{"type":"control_request"}', "Error: Missing request on control_request"),
    ],
)
async def test_fatal_lines(tmp_path: Path, line: bytes, complaint: str) -> None:
    async with open_demo_cli(tmp_path) as child:
        await child.send_bytes(line + b"\n")
        assert await child.wait() == 1
        assert complaint in await child.complaint()


async def test_sigterm_ends_it_at_once(tmp_path: Path) -> None:
    async with open_demo_cli(tmp_path) as child:
        await child.send(user(SLOW))
        await child.until(is_delta)
        child.process.send_signal(signal.SIGTERM)
        assert await child.wait() == 143


async def test_it_lives_on_when_only_its_stdout_is_closed(tmp_path: Path) -> None:
    async with open_demo_cli(tmp_path) as child:
        assert child.process.stdout is not None
        await child.process.stdout.aclose()
        await child.send(user("hello"), user("hello again"))
        await child.close_stdin()
        assert await child.wait() == 0


# --- sessions -----------------------------------------------------------------------------------


@asynccontextmanager
async def resumed(tmp_path: Path, session: str, *flags: str) -> AsyncIterator[DemoCli]:
    async with open_demo_cli(tmp_path, "--resume", session, *flags) as child:
        yield child


async def said_in(child: DemoCli) -> list[str]:
    """The texts of the user messages, that of the report itself left out."""
    history = (await child.report())["history"]
    return [entry["content"] for entry in history if entry["role"] == "user"][:-1]


async def test_a_killed_session_is_resumed_whole(tmp_path: Path) -> None:
    async with open_demo_cli(tmp_path) as child:
        session = (await child.turn("one"))[-1]["session_id"]
        (await child.turn("two"))
        child.process.kill()
        await child.wait()
    async with resumed(tmp_path, session) as child:
        assert await child.silent()
        answer = await child.turn("what did I say first?")
        assert answer[-1]["session_id"] == session
        assert answer[-1]["result"].endswith("> one")
        assert await said_in(child) == ["one", "two", "what did I say first?"]


async def test_a_turn_that_was_cut_off_gets_a_made_up_answer(tmp_path: Path) -> None:
    async with open_demo_cli(tmp_path) as child:
        await child.send(user(SLOW))
        session = (await child.until(is_delta))[-1]["session_id"]
        child.process.kill()
        await child.wait()
    async with resumed(tmp_path, session) as child:
        history = (await child.report())["history"]
        assert history[0]["content"] == SLOW
        assert history[1]["content"] == [{"type": "text", "text": "No response requested."}]


async def test_resuming_at_a_message_forgets_the_later_ones(tmp_path: Path) -> None:
    first, later = new_uuids(2)
    async with open_demo_cli(tmp_path) as child:
        frames = await child.turn("one", first)
        await child.turn("two", later)
        await child.ask("end_session")
    session = frames[-1]["session_id"]
    (said,) = [f["uuid"] for f in frames if f["type"] == "assistant"]
    async with resumed(tmp_path, session, "--resume-session-at", said) as child:
        assert await said_in(child) == ["one"]


async def test_a_torn_last_line_is_passed_over_and_a_rewind_is_kept(tmp_path: Path) -> None:
    first, second = new_uuids(2)
    config = tmp_path / "config"
    environment = {"CLAUDE_CONFIG_DIR": str(config)}
    async with open_demo_cli(tmp_path, environment=environment) as child:
        session = (await child.turn("one", first))[-1]["session_id"]
        await child.turn("two", second)
        await child.ask("rewind_conversation", target_message_uuid=second)
    (transcript,) = (config / "scripted").rglob("*.jsonl")
    assert transcript.stem == session
    with transcript.open("a") as file:
        file.write('{"type":"user","uuid":"x","mess')
    flags = ("--resume", session)
    async with open_demo_cli(tmp_path, *flags, environment=environment) as child:
        assert await said_in(child) == ["one"]


async def test_a_fork_leaves_the_session_as_it_was(tmp_path: Path) -> None:
    async with open_demo_cli(tmp_path) as child:
        session = (await child.turn("one"))[-1]["session_id"]
    async with resumed(tmp_path, session, "--fork-session") as child:
        assert (await child.turn("two"))[-1]["session_id"] != session
    async with resumed(tmp_path, session) as child:
        assert await said_in(child) == ["one"]


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (("--resume", "0a" * 4 + "-1111-4111-8111-" + "0b" * 6), "No conversation found with"),
        (("--resume", "../../etc"), "Error: --resume requires a valid session ID"),
    ],
)
async def test_a_session_that_cannot_be_resumed(
    tmp_path: Path, flags: tuple[str, ...], complaint: str
) -> None:
    async with open_demo_cli(tmp_path, *flags) as child:
        assert await child.wait() == 1
        (result,) = await child.rest()
        assert kind(result) == "error_during_execution"
        assert result["errors"][0] == (await child.complaint()).rstrip("\n")
        assert result["errors"][0].startswith(complaint)


async def test_a_session_cannot_be_resumed_elsewhere_at_an_unknown_message_or_used_twice(
    tmp_path: Path,
) -> None:
    (session,) = new_uuids(1)
    async with open_demo_cli(tmp_path, "--session-id", session) as child:
        assert (await child.turn("one"))[-1]["session_id"] == session
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    environment = {"CLAUDE_CONFIG_DIR": str(tmp_path / ".claude")}
    for home, flags, complaint in (
        (elsewhere, ("--resume", session), "No conversation found with session ID: "),
        (tmp_path, ("--resume", session, "--resume-session-at", "x"), "No message found with"),
        (tmp_path, ("--session-id", session), "is already in use."),
    ):
        async with open_demo_cli(home, *flags, environment=environment) as child:
            assert await child.wait() == 1
            assert complaint in await child.complaint()


async def test_a_session_that_is_not_to_be_kept_leaves_no_file(tmp_path: Path) -> None:
    async with open_demo_cli(tmp_path, "--no-session-persistence") as child:
        await child.turn("hello")
    assert not (tmp_path / ".claude").exists()


async def test_without_a_place_to_write_the_conversation_goes_on(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    environment = {"CLAUDE_CONFIG_DIR": str(tmp_path / "file")}
    async with open_demo_cli(tmp_path, environment=environment) as child:
        await child.turn("one")
        assert await said_in(child) == ["one"]


# --- the program --------------------------------------------------------------------------------


async def test_version(tmp_path: Path) -> None:
    async with open_demo_cli(tmp_path, "--version") as child:
        assert await child.wait() == 0
        assert (await child.line()).endswith(b" (demo)")


def test_it_starts_with_little() -> None:
    """Nothing that would make the start slow is imported."""
    heavy = ("attr", "trio", "asyncio", "subprocess", "uuid", "dataclasses", "logging", "orjson")
    code = (
        f"import sys; before = set(sys.modules); import {MODULE};"
        f"print([m for m in {heavy} if m in sys.modules and m not in before])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert done.stdout.strip() == b"[]"
