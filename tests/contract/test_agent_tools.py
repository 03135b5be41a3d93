"""How an agent uses tools of its own: what it prints meanwhile, and what the model reads of it."""

import itertools
from pathlib import Path

import pytest

from tests.contract.conftest import OpenAgent
from tests.support.messages_stub import MessagesStub, ToolUse, call, say
from tests.support.raw_agent import (
    ALL_TOOLS,
    asks_permission,
    bash,
    groups_running,
    read,
    results_of,
    run_out,
    wait_until,
    workspace,
    write,
)
from tests.support.raw_cli import Frame, RawCli, is_result, kind, user_frame


async def use(cli: RawCli, stub: MessagesStub, *uses: ToolUse) -> list[Frame]:
    """A turn in which the model uses these tools at once; whatever is asked for is allowed."""
    stub.queue += [call(*uses), say("done")]
    await cli.send(user_frame("go"))
    return await run_out(cli)


def outline(frames: list[Frame]) -> list[str]:
    """What of the frames is about messages and results; runs of one kind as one."""
    names = (
        kind(frame)
        for frame in frames
        if kind(frame).startswith(("stream_event", "assistant", "user", "result"))
    )
    return [name.removeprefix("stream_event/") for name, _ in itertools.groupby(names)]


async def test_a_turn_with_a_tool_is_two_messages_with_a_user_frame_between(
    agent: RawCli, stub: MessagesStub
) -> None:
    frames = await use(agent, stub, bash("ls"))
    block = ["content_block_start", "content_block_delta", "assistant", "content_block_stop"]
    message = ["message_start", *block, "message_delta", "message_stop"]
    order = outline(frames)
    assert [name for name in order if name != "user"] == [*message, *message, "result/success"]
    # A tool may be quicker than the rest of the message that calls it.
    second = len(order) - 1 - order[::-1].index("message_start")
    assert order.index("assistant") < order.index("user") < second
    assert order.count("user") == 1
    result = frames[-1]
    assert (result["result"], result["num_turns"], result["stop_reason"]) == ("done", 2, "end_turn")


async def test_what_came_of_a_tool_is_a_string_in_a_user_frame(
    agent: RawCli, stub: MessagesStub, tmp_path: Path
) -> None:
    """One frame a result; `is_error` is left out, or false, or true."""
    place = workspace(tmp_path) / "a.txt"
    place.write_text("plum\n")
    uses = [bash("echo plum"), bash("true"), read(place), read(place.with_name("b.txt"))]
    frames = await use(agent, stub, *uses)
    told = [frame for frame in frames if frame["type"] == "user"]
    assert [len(frame["message"]["content"]) for frame in told] == [1] * 4
    assert {frame["parent_tool_use_id"] for frame in told} == {None}
    results = {block["tool_use_id"]: block for block in results_of(frames)}
    contents = [results[use.id]["content"] for use in uses]
    assert contents[:3] == ["plum", "(Bash completed with no output)", "1\tplum\n2\t"]
    assert contents[3].startswith("File does not exist.")
    assert [bool(results[use.id].get("is_error")) for use in uses] == [False, False, False, True]


async def test_a_command_that_fails_is_an_error_with_its_status(
    agent: RawCli, stub: MessagesStub
) -> None:
    frames = await use(agent, stub, bash("echo out; echo err >&2; exit 3"))
    (result,) = results_of(frames)
    assert result["is_error"] is True
    assert result["content"] == "Exit code 3\nout\nerr"
    assert frames[-1]["is_error"] is False


async def test_a_tool_that_is_not_there_is_an_error_of_the_clis(
    agent: RawCli, stub: MessagesStub
) -> None:
    frames = await use(agent, stub, ToolUse("CronCreate", {"cron": "* * * * *", "prompt": "x"}))
    (result,) = results_of(frames)
    assert result["is_error"] is True
    assert "No such tool available: CronCreate" in result["content"]


async def test_files_are_written_changed_found_and_searched(
    agent: RawCli, stub: MessagesStub, tmp_path: Path
) -> None:
    place = workspace(tmp_path) / "a.txt"
    change = {"file_path": str(place), "old_string": "plum", "new_string": "fig"}
    stub.queue += [
        call(write(place, "plum")),
        call(ToolUse("Edit", change)),
        call(ToolUse("Glob", {"pattern": "*"}), ToolUse("Grep", {"pattern": "fig"})),
        say("done"),
    ]
    await agent.send(user_frame("go"))
    results = results_of(await run_out(agent))
    assert not any(result.get("is_error") for result in results)
    assert place.read_text() == "fig"
    assert {result["content"] for result in results[2:]} == {"a.txt", "Found 1 file\na.txt"}


# -- what needs permission -------------------------------------------------------------------------


async def test_what_only_reads_in_the_workspace_needs_no_permission(
    agent: RawCli, stub: MessagesStub, tmp_path: Path
) -> None:
    (workspace(tmp_path) / "a.txt").write_text("plum")
    uses = [
        *(bash("ls -l"), bash("cat a.txt | wc -l"), read(workspace(tmp_path) / "a.txt")),
        *(ToolUse("Glob", {"pattern": "*"}), ToolUse("Grep", {"pattern": "plum"})),
        ToolUse("TaskCreate", {"subject": "s", "description": "d"}),
    ]
    frames = await use(agent, stub, *uses)
    assert not any(map(asks_permission, frames))
    assert not any(result.get("is_error") for result in results_of(frames))


async def test_what_changes_or_leaves_the_workspace_needs_permission(
    agent: RawCli, stub: MessagesStub
) -> None:
    """So does the network."""
    uses = [
        *(bash("touch a"), bash("python3 -c 1"), bash("cat /etc/hostname")),
        *(read("/etc/hostname"), ToolUse("Grep", {"pattern": "x", "path": "/etc/apt"})),
        *(write("/tmp/ccapi/none"), write("a")),
        ToolUse("WebFetch", {"url": "http://127.0.0.1:1/", "prompt": "p"}),
        ToolUse("WebSearch", {"query": "plums"}),
    ]
    for each in uses:
        asked = user_frame("go")
        stub.queue.append(call(each))
        await agent.send(asked)
        *_, last = await agent.until(lambda frame: asks_permission(frame) or is_result(frame))
        assert asks_permission(last), each
        assert last["request"]["tool_name"] == each.name
        await agent.control(
            "rewind_conversation", target_message_uuid=asked["uuid"], interrupt_if_running=True
        )


async def test_a_further_directory_is_read_without_permission_and_changed_with_it(
    open_agent: OpenAgent, stub: MessagesStub, tmp_path: Path
) -> None:
    place = tmp_path / "further"
    place.mkdir()
    (place / "a.txt").write_text("plum")
    uses = [read(place / "a.txt"), bash(f"cat {place}/a.txt"), write(place / "b.txt")]
    async with open_agent("--add-dir", str(place)) as cli:
        frames = await use(cli, stub, *uses)
    asked = [frame["request"]["tool_name"] for frame in frames if asks_permission(frame)]
    assert asked == ["Write"]
    assert (place / "b.txt").exists()


@pytest.mark.parametrize(
    ("rules", "given"),
    [
        (["Bash"], bash("touch a; echo $(date)")),
        (["Bash(touch:*)", "Bash(mkdir *)"], bash("touch a && mkdir b")),
        (["Write"], write("a")),
        (["Read(//etc/**)"], read("/etc/hostname")),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
async def test_rules_at_the_start_give_permission(
    rules: list[str], given: ToolUse, open_agent: OpenAgent, stub: MessagesStub
) -> None:
    """Whether they come in one list or in several."""
    async with open_agent(*(word for rule in rules for word in ("--allowedTools", rule))) as cli:
        frames = await use(cli, stub, given)
    assert not any(map(asks_permission, frames))
    assert not any(result.get("is_error") for result in results_of(frames))


async def test_a_denied_tool_is_gone_and_a_denied_use_of_it_is_refused_unasked(
    open_agent: OpenAgent, stub: MessagesStub
) -> None:
    """Also where another rule allows it."""
    flags = ("--allowedTools", "Bash", "--disallowedTools", "WebFetch", "Bash(ls:*)")
    async with open_agent(*flags) as cli:
        frames = await use(cli, stub, bash("ls"))
    assert not any(map(asks_permission, frames))
    (result,) = results_of(frames)
    assert result["is_error"] is True
    assert result["content"] == "Permission to use Bash with command ls has been denied."
    assert "WebFetch" not in stub.requests[0].tools
    assert "Bash" in stub.requests[0].tools


# -- what goes on ----------------------------------------------------------------------------------


async def test_a_command_that_takes_too_long_is_ended(
    agent: RawCli, stub: MessagesStub, tmp_path: Path
) -> None:
    """With CLAUDE_CODE_DISABLE_BACKGROUND_TASKS; else it would go on in the background."""
    (workspace(tmp_path) / "ends.txt").touch()
    frames = await use(agent, stub, bash("tail -f ends.txt", timeout=1000))
    (result,) = results_of(frames)
    assert result["is_error"] is True
    assert result["content"].startswith("Exit code 143\nCommand timed out after 1s")
    await wait_until(lambda: not groups_running("tail", "-f", "ends.txt"))


async def test_a_command_in_the_background_has_the_cli_begin_a_turn_unasked(
    open_agent: OpenAgent, stub: MessagesStub
) -> None:
    """Why agents get CLAUDE_CODE_DISABLE_BACKGROUND_TASKS, which takes that parameter away."""
    async with open_agent() as cli:
        (result,) = results_of(await use(cli, stub, bash("true", run_in_background=True)))
        assert "unexpected parameter `run_in_background`" in result["content"]
    async with open_agent(environment={"CLAUDE_CODE_DISABLE_BACKGROUND_TASKS": ""}) as cli:
        (result,) = results_of(await use(cli, stub, bash("true", run_in_background=True)))
        assert result["content"].startswith("Command running in background with ID")
        unasked = (await cli.until(is_result))[-1]
    assert "user_message_uuid" not in unasked
    assert "<task-notification>" in str(stub.requests[-1].body["messages"])


async def test_a_subagents_frames_name_the_call_that_runs_it(
    agent: RawCli, stub: MessagesStub
) -> None:
    """There are no events of its stream, and its requests for permission come like any other."""
    given = {"description": "d", "prompt": "SUB", "subagent_type": "general-purpose"}
    started = ToolUse("Agent", given)
    stub.queue += [call(started), call(bash("touch sub")), say("of the subagent"), say("done")]
    await agent.send(user_frame("go"))
    frames = await run_out(agent)
    inner = [frame for frame in frames if frame.get("parent_tool_use_id") == started.id]
    assert {frame["type"] for frame in inner} == {"assistant", "user"}
    (asked,) = filter(asks_permission, frames)
    assert asked["request"]["agent_id"]
    (result,) = results_of(frames)
    assert result["tool_use_id"] == started.id
    (block,) = result["content"]
    assert "of the subagent" in block["text"]
    assert frames[-1]["result"] == "done"


async def test_questions_to_the_user_ask_for_permission_as_well(
    open_agent: OpenAgent, stub: MessagesStub
) -> None:
    """They need a person, and say so: agents are not given this tool."""
    options = [{"label": name, "description": name} for name in "AB"]
    question = {"question": "Which?", "header": "Pick", "multiSelect": False, "options": options}
    async with open_agent(tools=ALL_TOOLS) as cli:
        frames = await use(cli, stub, ToolUse("AskUserQuestion", {"questions": [question]}))
    (asked,) = filter(asks_permission, frames)
    assert asked["request"]["requires_user_interaction"] is True
    (result,) = results_of(frames)
    assert result["content"] == "The user did not answer the questions."
