"""The child as a process: how it ends, how it is frozen, which lines it survives."""

import signal
from pathlib import Path

import pytest
import trio

from ccapi.transport.process.cli_version import OLDEST, ask_version
from ccapi.transport.process.guardian import open_guardian
from tests.contract.conftest import OpenChild
from tests.support.messages_stub import MessagesStub, say
from tests.support.raw_cli import (
    RawCli,
    cli_binary,
    cli_environment,
    is_result,
    kinds,
    text_of,
    user_frame,
)


async def test_stdin_closed_mid_turn_lets_the_turn_finish(
    child: RawCli, stub: MessagesStub
) -> None:
    """Protocol notes, section 15."""
    rest = trio.Event()
    stub.queue.append(say("abcdefghij", chunks=5, holds={2: rest}))
    await child.send(user_frame("go"))
    seen = await child.deltas(2)
    await child.close_stdin()
    rest.set()
    seen += await child.until(is_result)
    assert text_of(seen) == "abcdefghij"
    assert seen[-1]["is_error"] is False
    assert await child.wait() == 0


async def test_sigterm_ends_the_child(child: RawCli) -> None:
    """Protocol notes, section 4."""
    await child.turn("one")
    child.signal(signal.SIGTERM)
    assert await child.wait() == 143


async def test_a_frozen_child_takes_its_turn_when_it_is_continued(
    child: RawCli, stub: MessagesStub
) -> None:
    """Protocol notes, section 13: also when the frame was written while it was frozen."""
    await child.turn("one")
    await child.settle()
    child.signal(signal.SIGSTOP)
    await child.send(user_frame("two"))
    child.signal(signal.SIGCONT)
    assert (await child.until(is_result))[-1]["result"] == "turn 2: two"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{bad\n", "Error parsing streaming input line"),
        (b'{"type":"user"}\n', "Expected message role 'user'"),
        (
            b'{"type":"user","message":{"role":"assistant","content":"x"}}\n',
            "Expected message role",
        ),
        (b'{"type":"control_request","request_id":"q"}\n', "Missing request on control_request"),
    ],
    ids=["malformed", "no-message", "wrong-role", "no-request"],
)
async def test_a_malformed_line_is_fatal(child: RawCli, line: bytes, reason: str) -> None:
    """Protocol notes, section 15: the exit code is 1 and stderr has the reason."""
    await child.settle()
    await child.send_bytes(line)
    assert await child.wait() == 1
    assert reason in child.stderr.decode()


async def test_lines_of_no_meaning_are_ignored(child: RawCli, stub: MessagesStub) -> None:
    """Protocol notes, section 15 (blank lines were fatal before 2.1.330)."""
    await child.settle()
    for line in (
        b'{"type":"unheard_of"}\n',
        b'{"type":"keep_alive"}\n',
        b"[1]\n",
        b'{"type":"control_response","response":{"subtype":"success","request_id":"zz"}}\n',
        b"   \n",
        b"\n",
    ):
        await child.send_bytes(line)
        assert kinds(await child.settle()) == []
    await child.turn("still here")
    assert stub.requests[0].conversation == [("user", ["still here"])]


async def test_an_unknown_control_request_is_answered_with_an_error(child: RawCli) -> None:
    """Protocol notes, section 15."""
    answer = await child.control("unheard_of")
    assert answer["subtype"] == "error"
    assert "unheard_of" in answer["error"]


async def test_a_large_user_text_is_one_turn_like_any_other(
    open_child: OpenChild, stub: MessagesStub
) -> None:
    """Protocol notes, section 15: there is no limit on the length of a line that matters here."""
    stub.answer = lambda _: say("noted")
    async with open_child() as cli:
        assert (await cli.turn("y" * 3_000_000))[-1]["result"] == "noted"
    assert len(stub.requests[0].last_user_text) == 3_000_000


async def test_the_cli_prints_its_version(tmp_path: Path) -> None:
    """Operations notes, section D; the oldest that will do is not newer than the one under test."""
    env = cli_environment(tmp_path, "http://127.0.0.1:9")
    async with open_guardian() as guardian:
        version = await ask_version([cli_binary()], env, tmp_path, guardian)
    assert version is not None
    assert version >= OLDEST
