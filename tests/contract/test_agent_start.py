"""How an agent is started: whose prompt and tools it has, what it reads, who may not start it."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.contract.conftest import OpenAgent
from tests.contract.test_resume import last_assistant
from tests.support.messages_stub import MessagesStub, ToolUse, call, say
from tests.support.raw_agent import (
    ALL_TOOLS,
    TOOLS,
    asks_permission,
    bash,
    read,
    results_of,
    run_out,
    workspace,
)
from tests.support.raw_cli import RawCli, is_result, kind, kinds, user_frame
from tests.support.raw_tools import called, serve, texts, tool

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="the CLI refuses this to root alone")
OWN_PROMPT = "You are Claude Code, Anthropic's official CLI for Claude"


async def test_an_agent_keeps_its_own_prompt_and_the_clients_comes_last(
    open_agent: OpenAgent, stub: MessagesStub
) -> None:
    """With one initialize that the first turn is pipelined behind; the model came at the start."""
    async with open_agent(initialize={"appendSystemPrompt": "Be brief."}) as cli:
        frames = await cli.turn("hi")
    assert frames[-1]["is_error"] is False
    (request,) = stub.requests
    assert OWN_PROMPT in request.system
    assert len(request.system) > 5000
    assert request.system.endswith("\n\nBe brief.")
    assert request.model == "claude-sonnet-4-5"


async def test_an_agent_has_the_tools_it_is_started_with_and_no_others(
    open_agent: OpenAgent, stub: MessagesStub
) -> None:
    async with open_agent() as cli:
        await cli.turn("hi")
    assert sorted(stub.requests[0].tools) == sorted(TOOLS.split(","))


async def test_without_a_list_it_has_schedules_and_plans_but_neither_glob_nor_grep(
    open_agent: OpenAgent, stub: MessagesStub
) -> None:
    """Why agents are given a list."""
    async with open_agent(tools=ALL_TOOLS) as cli:
        await cli.turn("hi")
    offered = set(stub.requests[0].tools)
    assert {"CronCreate", "ScheduleWakeup", "Monitor", "AskUserQuestion", "ExitPlanMode"} <= offered
    assert not {"Glob", "Grep"} & offered


async def test_a_generic_child_becomes_an_agent_of_any_model_by_an_empty_prompt(
    open_agent: OpenAgent, stub: MessagesStub
) -> None:
    """What a pool of agents could be made of: the prompt stays Claude Code's own."""
    agents = {"gw": {"description": "d", "prompt": "", "model": "claude-haiku-4-5"}}
    async with open_agent("--agent", "gw", model=None, initialize={"agents": agents}) as cli:
        await cli.turn("hi")
    (request,) = stub.requests
    assert request.model == "claude-haiku-4-5"
    assert len(request.system) > 5000
    assert "Bash" in request.tools


async def test_a_clients_tool_with_a_name_of_claude_codes_own_is_hidden(
    open_agent: OpenAgent, stub: MessagesStub
) -> None:
    stub.queue += [call(bash("echo built in"), ToolUse("weather")), say("done")]
    seen: list[str] = []

    def ok(frame: Any) -> Any:
        seen.append(called(frame))
        return texts("from the client")

    async with open_agent(initialize={"sdkMcpServers": ["client"]}) as cli:
        await cli.send(user_frame("hi"))
        frames = await serve(cli, is_result, [tool("Bash"), tool("weather")], ok)
    assert seen == ["weather"]
    assert stub.requests[0].tools.count("Bash") == 1
    assert "built in" in [result["content"] for result in results_of(frames)]


async def test_a_path_in_the_users_text_stays_text_if_attachments_are_off(
    open_agent: OpenAgent, stub: MessagesStub, tmp_path: Path
) -> None:
    (workspace(tmp_path) / "secret.txt").write_text("plum")
    for variable in ("1", ""):
        async with open_agent(environment={"CLAUDE_CODE_DISABLE_ATTACHMENTS": variable}) as cli:
            await cli.turn("see @secret.txt")
    said = [json.dumps(request.body) for request in stub.requests]
    assert ["plum" in each for each in said] == [False, True]


@pytest.mark.parametrize(
    ("sources", "found"),
    [("", []), ("project", ["plum of the project"]), ("user", ["plum of the user"])],
)
async def test_instructions_in_files_are_read_only_where_their_source_is_named(
    sources: str, found: list[str], open_agent: OpenAgent, stub: MessagesStub, tmp_path: Path
) -> None:
    (workspace(tmp_path) / "CLAUDE.md").write_text("plum of the project")
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "CLAUDE.md").write_text("plum of the user")
    async with open_agent(sources=sources) as cli:
        await cli.turn("hi")
    said = json.dumps(stub.requests[0].body)
    assert [text for text in ("plum of the project", "plum of the user") if text in said] == found


async def test_an_agent_has_a_memory_unless_a_variable_forbids_it(
    open_agent: OpenAgent, stub: MessagesStub
) -> None:
    """It lies with the transcripts, and all that work in one directory share it."""
    prompts = []
    for variable in ("", "1"):
        async with open_agent(environment={"CLAUDE_CODE_DISABLE_AUTO_MEMORY": variable}) as cli:
            await cli.turn("hi")
            prompts.append(stub.requests[-1].system)
    remembers, forgets = ("/memory/" in prompt for prompt in prompts)
    assert (remembers, forgets) == (True, False)


@as_root
@pytest.mark.parametrize(
    ("flags", "mode"),
    [(("--dangerously-skip-permissions",), ""), ((), "bypassPermissions")],
    ids=["flag", "mode"],
)
async def test_root_cannot_have_an_agent_that_asks_for_no_permission(
    flags: tuple[str, ...], mode: str, open_agent: OpenAgent
) -> None:
    async with open_agent(*flags, mode=mode, initialize=None) as cli:
        assert await cli.wait() == 1
        assert b"cannot be used with root/sudo privileges" in cli.stderr
        assert cli.transcript == []


async def test_an_agent_leaves_nothing_in_its_workspace(agent: RawCli, stub: MessagesStub) -> None:
    stub.queue += [call(bash("ls -a")), say("done")]
    frames = await agent.turn("hi")
    (result,) = results_of(frames)
    assert result["content"].split() == [".", ".."]


# -- resumed ---------------------------------------------------------------------------------------


async def test_an_agent_is_resumed_with_all_that_its_tools_said(
    open_agent: OpenAgent, stub: MessagesStub
) -> None:
    """And with the system prompt and the tools that it is given now."""
    stub.queue += [call(bash("echo plum")), say("done")]
    async with open_agent(initialize={"appendSystemPrompt": "Old."}) as cli:
        frames = await cli.turn("one")
        await cli.close_stdin()
        assert await cli.wait() == 0
    flags = (
        *("--resume", frames[-1]["session_id"]),
        *("--resume-session-at", last_assistant(frames)),
    )
    async with open_agent(*flags, initialize={"appendSystemPrompt": "New."}) as cli:
        await cli.turn("two")
    request = stub.requests[-1]
    roles = [role for role, _ in request.conversation]
    assert roles == ["user", "assistant", "user", "assistant", "user"]
    result = request.body["messages"][2]["content"][0]
    assert (result["type"], result["content"]) == ("tool_result", "plum")
    assert request.system.endswith("New.")
    assert "Old." not in request.system


async def test_an_agent_can_be_resumed_in_another_directory(
    open_agent: OpenAgent, stub: MessagesStub, tmp_path: Path
) -> None:
    """It works there from then on."""
    async with open_agent() as cli:
        frames = await cli.turn("one")
        await cli.close_stdin()
        await cli.wait()
    (tmp_path / "other").mkdir()
    stub.queue += [call(bash("pwd")), say("done")]
    flags = ("--resume", frames[-1]["session_id"])
    async with open_agent(*flags, cwd=tmp_path / "other") as cli:
        frames = await cli.turn("two")
    (result,) = results_of(frames)
    assert result["content"] == str(tmp_path / "other")
    assert stub.requests[-1].conversation[:2] == [("user", ["one"]), ("assistant", ["turn 1: one"])]


async def test_a_spare_can_be_given_its_directory_later(
    open_agent: OpenAgent, stub: MessagesStub, tmp_path: Path
) -> None:
    """What a pool of agents could be made of: initialize and the turn may follow unwaited for."""
    place = tmp_path / "claimed"
    place.mkdir()
    (place / "plum.txt").write_text("plum")
    stub.queue += [call(read(place / "plum.txt"), bash("pwd")), say("done")]
    async with open_agent("--await-claim", initialize=None) as cli:
        claim = cli.control_frame("claim_session", cwd=str(place))
        await cli.send(claim, cli.control_frame("initialize", title="t"), user_frame("hi"))
        frames = await run_out(cli)
    assert not any(map(asks_permission, frames))
    init = next(frame for frame in frames if kind(frame) == "system/init")
    assert init["cwd"] == str(place)
    assert {result["content"] for result in results_of(frames)} == {"1\tplum", str(place)}
    assert kinds(frames)[-1] == "result/success"
