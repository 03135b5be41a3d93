"""How an agent asks for permission, and what becomes of each answer."""

import json
from pathlib import Path

import pytest
import trio

from tests.contract.conftest import OpenAgent
from tests.support import raw_cli
from tests.support.messages_stub import MessagesStub, ToolUse, call, say
from tests.support.raw_agent import (
    allow,
    answer,
    asks_permission,
    bash,
    deny,
    read,
    results_of,
    run_out,
    until_asked,
    workspace,
    write,
)
from tests.support.raw_cli import Frame, RawCli, is_result, kind, user_frame

HEARTBEAT_SECONDS = 30
EVERY_COMMAND = {
    "type": "addRules",
    "rules": [{"toolName": "Bash"}],
    "behavior": "allow",
    "destination": "session",
}


async def ask(cli: RawCli, stub: MessagesStub, *uses: ToolUse) -> Frame:
    """Have the model use these tools; the first request for permission."""
    stub.queue += [call(*uses), say("done")]
    await cli.send(user_frame("go"))
    return await until_asked(cli)


async def finish(cli: RawCli, *replies: Frame) -> list[Frame]:
    await cli.send(*replies)
    return await cli.until(is_result)


# -- the question ----------------------------------------------------------------------------------


async def test_the_question_has_the_tool_its_input_and_the_call_it_is_about(
    agent: RawCli, stub: MessagesStub
) -> None:
    given = bash("touch a", description="Make a file")
    asked = await ask(agent, stub, given)
    request = asked["request"]
    assert (request["tool_name"], request["display_name"]) == ("Bash", "Bash")
    assert request["input"] == dict(given.input)
    assert request["tool_use_id"] == given.id
    assert request["description"] == "Make a file"
    assert "title" not in request


async def test_the_question_suggests_rules_and_not_all_for_this_session_alone(
    agent: RawCli, stub: MessagesStub, tmp_path: Path
) -> None:
    """A command's would be written to disk; a file's is the mode that accepts all edits."""
    asked = await ask(agent, stub, bash("touch a"))
    rules, *others = asked["request"]["permission_suggestions"]
    assert rules == {
        "type": "addRules",
        "rules": [{"toolName": "Bash", "ruleContent": "touch a *"}],
        "behavior": "allow",
        "destination": "localSettings",
    }
    assert {each["type"] for each in others} == {"addDirectories", "setMode"}
    await finish(agent, deny(asked, "No."))
    edits = {"type": "setMode", "mode": "acceptEdits", "destination": "session"}
    asked = await ask(agent, stub, write(workspace(tmp_path) / "a"))
    assert asked["request"]["permission_suggestions"] == [edits]
    assert asked["request"]["description"] == "a"
    await finish(agent, deny(asked, "No."))
    asked = await ask(agent, stub, read("/etc/hostname"))
    (rule,) = asked["request"]["permission_suggestions"]
    assert rule["rules"] == [{"toolName": "Read", "ruleContent": "//etc/**"}]
    assert rule["destination"] == "session"
    assert asked["request"]["decision_reason"] == "Path is outside allowed working directories"


async def test_some_questions_suggest_nothing(agent: RawCli, stub: MessagesStub) -> None:
    asked = await ask(agent, stub, bash("echo hi > a; echo $(touch b); exit 3"))
    assert not asked["request"].get("permission_suggestions")


async def test_calls_that_change_something_ask_one_after_another(
    agent: RawCli, stub: MessagesStub
) -> None:
    """The next asks once the one before is answered and has run."""
    first, second = bash("touch a"), bash("touch b")
    asked = await ask(agent, stub, first, second)
    assert not any(map(asks_permission, await agent.settle()))
    await agent.send(allow(asked))
    frames = await agent.until(asks_permission)
    assert [result["tool_use_id"] for result in results_of(frames)] == [first.id]
    assert frames[-1]["request"]["tool_use_id"] == second.id
    await finish(agent, allow(frames[-1]))


async def test_calls_that_only_read_ask_at_once(agent: RawCli, stub: MessagesStub) -> None:
    """So several questions are open, and may be answered in any order."""
    uses = [read("/etc/hostname"), read("/etc/passwd")]
    first = await ask(agent, stub, *uses)
    second = await until_asked(agent)
    assert {each["request"]["tool_use_id"] for each in (first, second)} == {u.id for u in uses}
    frames = await finish(agent, deny(second, "Not that."), deny(first, "Nor that."))
    assert len(results_of(frames)) == 2


# -- the answer ------------------------------------------------------------------------------------


async def test_a_changed_input_is_what_is_done_and_the_history_keeps_the_first(
    agent: RawCli, stub: MessagesStub
) -> None:
    asked = await ask(agent, stub, bash("touch a"))
    frames = await finish(agent, allow(asked, updatedInput={"command": "echo changed"}))
    (result,) = results_of(frames)
    assert result["content"] == "changed"
    (use,) = stub.requests[-1].body["messages"][-2]["content"]
    assert use["input"] == {"command": "touch a"}


async def test_a_denial_is_the_result_that_the_model_reads_and_the_turn_goes_on(
    agent: RawCli, stub: MessagesStub
) -> None:
    asked = await ask(agent, stub, bash("touch a"))
    frames = await finish(agent, deny(asked, "No one is there."))
    (result,) = results_of(frames)
    assert (result["content"], result["is_error"]) == ("No one is there.", True)
    assert (frames[-1]["result"], frames[-1]["is_error"]) == ("done", False)
    (denied,) = frames[-1]["permission_denials"]
    assert denied["tool_use_id"] == asked["request"]["tool_use_id"]


async def test_a_denial_that_interrupts_ends_the_turn_and_loses_its_message(
    agent: RawCli, stub: MessagesStub
) -> None:
    stub.queue.append(call(bash("touch a")))
    await agent.send(user_frame("go"))
    asked = await until_asked(agent)
    frames = await finish(agent, deny(asked, "Plums!", interrupt=True))
    assert kind(frames[-1]) == "result/error_during_execution"
    assert frames[-1]["terminal_reason"] == "aborted_tools"
    assert "Plums!" not in json.dumps(frames)


async def test_a_rule_for_the_session_holds_for_this_process_and_no_other(
    open_agent: OpenAgent, stub: MessagesStub, tmp_path: Path
) -> None:
    """A rule without a content is about every use of the tool."""
    async with open_agent() as cli:
        asked = await ask(cli, stub, bash("touch a"))
        await finish(cli, allow(asked, updatedPermissions=[EVERY_COMMAND]))
        stub.queue += [call(bash("touch b; echo $(date)")), say("done")]
        await cli.send(user_frame("again"))
        seen = await run_out(cli)
        assert not any(map(asks_permission, seen))
        await cli.close_stdin()
        await cli.wait()
    async with open_agent("--resume", seen[-1]["session_id"]) as cli:
        await ask(cli, stub, bash("touch c"))
    assert {place.name for place in workspace(tmp_path).iterdir()} == {"a", "b"}


async def test_a_mode_for_the_session_holds_for_the_turns_that_follow(
    agent: RawCli, stub: MessagesStub, tmp_path: Path
) -> None:
    place = workspace(tmp_path)
    asked = await ask(agent, stub, write(place / "a"))
    suggested = asked["request"]["permission_suggestions"]
    await finish(agent, allow(asked, updatedPermissions=suggested))
    stub.queue += [call(write(place / "b")), say("done")]
    await agent.send(user_frame("again"))
    seen = await run_out(agent)
    assert not any(map(asks_permission, seen))
    init = next(frame for frame in seen if kind(frame) == "system/init")
    assert init["permissionMode"] == "acceptEdits"
    assert (place / "b").exists()


async def test_a_rule_for_the_local_settings_is_written_into_the_workspace(
    agent: RawCli, stub: MessagesStub, tmp_path: Path
) -> None:
    """Why no suggestion is handed back as it came."""
    asked = await ask(agent, stub, bash("touch a"))
    rule, *_ = asked["request"]["permission_suggestions"]
    await finish(agent, allow(asked, updatedPermissions=[rule]))
    written = workspace(tmp_path) / ".claude" / "settings.local.json"
    assert json.loads(written.read_text())["permissions"]["allow"] == ["Bash(touch a *)"]


# -- no answer -------------------------------------------------------------------------------------


async def test_an_answer_without_a_request_is_ignored(agent: RawCli, stub: MessagesStub) -> None:
    await agent.turn("one")
    stray = {"request_id": "unknown"}
    await agent.send(answer(stray, {"behavior": "allow", "updatedInput": {}}))
    assert (await agent.turn("two"))[-1]["result"] == "turn 2: two"


async def test_stdin_closed_with_a_question_open_is_a_denial_and_the_turn_goes_on(
    agent: RawCli, stub: MessagesStub, tmp_path: Path
) -> None:
    await ask(agent, stub, bash("touch a"))
    await agent.close_stdin()
    frames = await agent.until(is_result)
    (result,) = results_of(frames)
    assert result["is_error"] is True
    assert "stream closed before response received" in result["content"]
    assert frames[-1]["result"] == "done"
    assert await agent.wait() == 0
    assert not (workspace(tmp_path) / "a").exists()


async def test_a_running_command_reports_every_half_minute_an_open_request_never(
    open_agent: OpenAgent, stub: MessagesStub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one test here that takes long. What an agent runs never looks like a child that hangs;
    what it waits for does, and has no limit of its own."""
    monkeypatch.setattr(raw_cli, "PATIENCE", 2 * HEARTBEAT_SECONDS)
    (workspace(tmp_path) / "a.txt").touch()
    given = bash("tail -f a.txt")
    async with open_agent() as asking, open_agent() as running:
        asked = await ask(asking, stub, bash("touch a"))
        await asking.settle()
        waiting_from = len(asking.transcript)
        stub.queue.clear()
        stub.queue.append(call(given))
        await running.send(user_frame("go"))
        seen = await running.until(lambda frame: frame["type"] == "tool_progress")
        assert seen[-1]["parent_tool_use_id"] == given.id
        assert seen[-1]["elapsed_time_seconds"] == HEARTBEAT_SECONDS
        with trio.fail_after(5):
            assert asking.transcript[waiting_from:] == []
            assert (await finish(asking, allow(asked)))[-1]["is_error"] is False
