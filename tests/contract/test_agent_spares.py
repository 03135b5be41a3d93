"""A spare: an agent's child that is started with ``--await-claim``, and becomes by one claim what a
child is that was started for the conversation."""

from __future__ import annotations

import difflib
import json
import re
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.contract.conftest import OpenAgent
from tests.contract.test_resume import last_assistant
from tests.support.messages_stub import MessagesStub, ToolUse, call, say
from tests.support.raw_agent import asks_permission, bash, read, results_of, run_out, workspace
from tests.support.raw_cli import Frame, RawCli, is_result, kind, user_frame
from tests.support.raw_tools import serve, texts, tool

MODEL = "claude-haiku-4-5"
PROMPT = {"appendSystemPrompt": "Be brief.", "systemPromptSnapshot": False}
TOUCH = {"permissions": {"allow": ["Bash(touch *)"]}}
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_CALL = re.compile(r"toolu_\d+")


def claim(cli: RawCli, place: Path, model: str = MODEL, **initialize: Any) -> list[Frame]:
    """All that a spare gets before its first user frame, in one piece and nothing waited for."""
    return [
        cli.control_frame("claim_session", cwd=str(place)),
        cli.control_frame("initialize", **PROMPT, **initialize),
        cli.control_frame("set_model", model=model),
    ]


def bodies(stub: MessagesStub, *places: Path) -> list[str]:
    """What the API was asked, whole, without the ids of sessions and calls and the paths."""
    found = []
    for request in stub.requests:
        text = json.dumps(request.body, indent=1, sort_keys=True)
        for place in places:
            text = text.replace(str(place), "PLACE")
        text = re.sub(r"[0-9a-f]{64}", "HASH", _CALL.sub("CALL", _UUID.sub("UUID", text)))
        found.append(text)
    stub.requests.clear()
    return found


def found(place: Path, pattern: str) -> list[Path]:
    return list(place.glob(pattern))


def difference(cold: Sequence[str], claimed: Sequence[str]) -> Iterator[str]:
    for one, other in zip(cold, claimed, strict=True):
        yield from difflib.unified_diff(one.split("\n"), other.split("\n"), n=1, lineterm="")


@pytest.fixture
def parked(tmp_path: Path) -> Path:
    """A directory where a spare waits that will work elsewhere."""
    place = tmp_path / "parked"
    place.mkdir()
    return place


@pytest.mark.parametrize(
    ("moves", "model", "ahead"),
    [
        (False, MODEL, ()),
        (True, MODEL, ("ahead",)),
        (False, "claude-sonnet-4-5", ("ahead", "frozen")),
        (True, "claude-opus-4-5", ()),
    ],
)
async def test_a_claimed_spare_asks_the_api_what_a_cold_agent_asks(
    moves: bool,
    model: str,
    ahead: Sequence[str],
    open_agent: OpenAgent,
    stub: MessagesStub,
    tmp_path: Path,
    parked: Path,
) -> None:
    """With a client's tool, a call of it and of one of its own, and a second turn. ``ahead``: it is
    asked for its context before the claim, so that it has loaded what a turn needs; ``frozen``: it
    is stopped then."""
    place = workspace(tmp_path)
    (place / "plum.txt").write_text("plum")
    asked = []
    for spare in (False, True):
        flags = ("--await-claim",) if spare else ()
        cwd = parked if spare and moves else place
        async with open_agent(
            *flags, cwd=cwd, model=None if spare else model, initialize=None
        ) as cli:
            if spare and ahead:
                answer = await cli.control("get_context_usage", detail="summary")
                assert "categories" in answer["response"]
                assert not stub.requests, "the API is not asked"
            if "frozen" in ahead and spare:
                cli.signal(signal.SIGSTOP)
                await trio.sleep(0.05)
                cli.signal(signal.SIGCONT)
            server = {"sdkMcpServers": ["client"]}
            begun = claim(cli, place, model, **server)
            stub.queue += [call(read(place / "plum.txt")), call(ToolUse("weather")), say("done")]
            await cli.send(*(begun if spare else begun[1:2]), user_frame("hi"))
            await serve(cli, is_result, [tool("weather")], lambda _: texts("sun"))
            await cli.turn("and now?")
        asked.append(bodies(stub, place, parked))
    cold, claimed = asked
    assert len(cold) == 4
    assert "weather" in cold[0]
    assert claimed == cold, "\n".join(difference(cold, claimed))


async def test_the_flags_of_a_spare_hold_and_grants_come_by_settings(
    open_agent: OpenAgent, stub: MessagesStub, tmp_path: Path, parked: Path
) -> None:
    """Its session's id, further directories, and what is allowed."""
    place, further = workspace(tmp_path), tmp_path / "further"
    further.mkdir()
    (further / "plum.txt").write_text("plum")
    session = "462e7a2c-1f00-4000-8000-000000000000"
    uses = [read(further / "plum.txt"), bash("touch made"), bash("echo allowed")]
    stub.queue += [call(*uses), say("done")]
    flags = ("--await-claim", "--session-id", session, "--add-dir", str(further))
    allowed = ("--allowedTools", "Bash(echo:*)")
    async with open_agent(*flags, *allowed, cwd=parked, model=None, initialize=None) as cli:
        grants = cli.control_frame("apply_flag_settings", settings=TOUCH)
        await cli.send(*claim(cli, place), grants, user_frame("hi"))
        frames = await run_out(cli)
    assert not any(map(asks_permission, frames))
    assert (place / "made").exists()
    assert "1\tplum" in [result["content"] for result in results_of(frames)]
    assert frames[-1]["session_id"] == session


async def test_without_its_grant_a_spare_asks(
    open_agent: OpenAgent, stub: MessagesStub, tmp_path: Path, parked: Path
) -> None:
    stub.queue += [call(bash("touch made")), say("done")]
    async with open_agent("--await-claim", cwd=parked, model=None, initialize=None) as cli:
        await cli.send(*claim(cli, workspace(tmp_path)), user_frame("hi"))
        frames = await run_out(cli)
    assert len([*filter(asks_permission, frames)]) == 1


async def test_a_claimed_spare_is_resumed_where_it_worked(
    open_agent: OpenAgent, stub: MessagesStub, tmp_path: Path, parked: Path
) -> None:
    place = workspace(tmp_path)
    async with open_agent("--await-claim", cwd=parked, model=None, initialize=None) as cli:
        await cli.send(*claim(cli, place), user_frame("one"))
        frames = await cli.until(is_result)
        await cli.close_stdin()
        assert await cli.wait() == 0
    flags = (
        *("--resume", frames[-1]["session_id"]),
        *("--resume-session-at", last_assistant(frames)),
    )
    async with open_agent(*flags, cwd=place, initialize=PROMPT) as cli:
        await cli.turn("two")
    assert stub.requests[-1].conversation == [
        ("user", ["one"]),
        ("assistant", ["turn 1: one"]),
        ("user", ["two"]),
    ]


async def test_a_refused_claim_asks_no_model_and_leaves_the_spare_parked(
    open_agent: OpenAgent, stub: MessagesStub, tmp_path: Path, parked: Path
) -> None:
    """The answer to the claim comes before the error that the user frame ends with."""
    async with open_agent("--await-claim", cwd=parked, model=None, initialize=None) as cli:
        refused, *others = claim(cli, tmp_path / "nowhere")
        await cli.send(refused, *others, user_frame("hi"))
        frames = await cli.until(is_result)
        answers = [f["response"] for f in frames if f["type"] == "control_response"]
        assert answers[0]["request_id"] == refused["request_id"]
        assert answers[0]["error"].startswith("cwd_not_found: ")
        assert (frames[-1]["subtype"], frames[-1]["num_turns"]) == ("error_during_execution", 0)
        assert stub.requests == []
        again = await cli.control("claim_session", cwd=str(workspace(tmp_path)))
        assert again["subtype"] == "success"
        twice = await cli.control("claim_session", cwd=str(workspace(tmp_path)))
        assert twice["subtype"] == "error"


async def test_a_spare_leaves_nothing_where_it_waits(
    open_agent: OpenAgent, tmp_path: Path, parked: Path
) -> None:
    async with open_agent("--await-claim", cwd=parked, model=None, initialize=None) as cli:
        await cli.control("get_context_usage", detail="summary")
        await cli.close_stdin()
        assert await cli.wait() == 0
    assert found(parked, "*") == found(tmp_path, "config/projects/*/*") == []


async def test_a_spare_resumes_nothing(open_agent: OpenAgent, parked: Path) -> None:
    async with open_agent() as cli:
        frames = await cli.turn("one")
        await cli.close_stdin()
        await cli.wait()
    flags = ("--await-claim", "--resume", frames[-1]["session_id"])
    async with open_agent(*flags, cwd=parked, model=None, initialize=None) as cli:
        assert await cli.wait() == 1
        assert not [frame for frame in cli.transcript if kind(frame) == "system/init"]
