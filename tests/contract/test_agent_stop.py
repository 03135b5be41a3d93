"""How an agent is stopped in the middle of what it does, and what is left of that."""

import os
import signal
from pathlib import Path

import pytest
import trio

from tests.contract.conftest import OpenAgent
from tests.contract.test_resume import last_assistant
from tests.contract.test_rewind import rewind
from tests.support.messages_stub import MessagesStub, call, say
from tests.support.raw_agent import (
    allow,
    bash,
    groups_running,
    read,
    results_of,
    until_asked,
    wait_until,
    workspace,
)
from tests.support.raw_cli import Frame, RawCli, answers, is_result, kinds, user_frame

STOPPED = "[Request interrupted by user for tool use]"


def texts_of(frames: list[Frame]) -> list[str]:
    """The texts that the CLI says in the user's name."""
    blocks = (b for f in frames if f["type"] == "user" for b in f["message"]["content"])
    return [block["text"] for block in blocks if block["type"] == "text"]


async def ask(cli: RawCli, stub: MessagesStub) -> tuple[Frame, Frame]:
    """A turn that has used a tool and waits for permission to use another: its user frame and the
    question."""
    stub.queue += [call(bash("echo plum")), call(bash("touch a"))]
    asked = user_frame("asked")
    await cli.send(asked)
    return asked, await until_asked(cli)


async def run(cli: RawCli, stub: MessagesStub, name: str) -> Frame:
    """A turn in which a command runs until it is ended, on a file of this name: its user frame."""
    stub.queue.append(call(bash(f"tail -f {name}")))
    asked = user_frame("asked")
    await cli.send(asked)
    await wait_until(lambda: groups_running("tail", "-f", name))
    return asked


@pytest.fixture(autouse=True)
def files(tmp_path: Path) -> None:
    """What the commands run on; each name is one test's own, to be found among all processes."""
    for name in ("interrupted", "rewound", "killed", "terminated", "awaited"):
        (workspace(tmp_path) / f"{name}.txt").touch()


async def test_an_interrupt_takes_the_open_question_back_first(
    agent: RawCli, stub: MessagesStub
) -> None:
    _, question = await ask(agent, stub)
    await agent.settle()
    await agent.send(agent.control_frame("interrupt"))
    frames = await agent.until(is_result)
    assert kinds(frames) == [
        *("control_cancel_request", "control_response", "user", "result/error_during_execution")
    ]
    assert frames[0]["request_id"] == question["request_id"]
    (result,) = results_of(frames)
    assert result["is_error"] is True
    assert result["content"].startswith("The user doesn't want to proceed with this tool use.")
    assert texts_of(frames) == [STOPPED]
    end = frames[-1]
    assert (end["is_error"], end["terminal_reason"]) == (True, "aborted_tools")
    assert end["stop_reason"] == "tool_use"


async def test_an_answer_that_comes_too_late_changes_nothing(
    agent: RawCli, stub: MessagesStub, tmp_path: Path
) -> None:
    _, question = await ask(agent, stub)
    await agent.send(agent.control_frame("interrupt"))
    await agent.until(is_result)
    await agent.send(allow(question))
    assert (await agent.turn("next"))[-1]["is_error"] is False
    assert not (workspace(tmp_path) / "a").exists()
    assert stub.requests[-1].conversation[-1] == (
        "user",
        ["<tool_result>", f"{STOPPED}\n", "next"],
    )


async def test_an_interrupt_ends_the_command_that_runs(agent: RawCli, stub: MessagesStub) -> None:
    await run(agent, stub, "interrupted.txt")
    await agent.send(agent.control_frame("interrupt"))
    frames = await agent.until(is_result)
    (result,) = results_of(frames)
    assert result["is_error"] is True
    assert texts_of(frames) == [STOPPED]
    assert frames[-1]["terminal_reason"] == "aborted_tools"
    await wait_until(lambda: not groups_running("tail", "-f", "interrupted.txt"))
    assert (await agent.turn("next"))[-1]["is_error"] is False


@pytest.mark.parametrize("what", ["question", "command", "answer"])
async def test_a_rewind_takes_the_turn_back_with_all_its_tools(
    what: str, agent: RawCli, stub: MessagesStub
) -> None:
    """Exactly one result, and it precedes the answer, whatever the turn was at."""
    await agent.turn("one")
    match what:
        case "question":
            asked, _ = await ask(agent, stub)
        case "command":
            asked = await run(agent, stub, "rewound.txt")
        case _:
            said = say("abcdefghij", chunks=4, hang_after=3)
            stub.queue += [call(bash("echo plum")), said]
            asked = user_frame("asked")
            await agent.send(asked)
            await agent.deltas(3)
    request = rewind(agent, asked)
    await agent.send(request)
    *before, answer = await agent.until(answers(request))
    assert answer["response"]["response"]["rewound"] is True
    assert sum(map(is_result, before)) == 1
    taken_back = [f for f in before if f["type"] == "control_cancel_request"]
    assert len(taken_back) == (1 if what == "question" else 0)
    await agent.turn("two")
    assert stub.requests[-1].conversation == [
        ("user", ["one"]),
        ("assistant", ["turn 1: one"]),
        ("user", ["two"]),
    ]
    assert not groups_running("tail", "-f", "rewound.txt")


# -- the process -----------------------------------------------------------------------------------


async def test_what_an_agent_runs_is_in_a_group_of_its_own_and_outlives_a_kill(
    agent: RawCli, stub: MessagesStub
) -> None:
    """Why an agent is never killed without a word."""
    await run(agent, stub, "killed.txt")
    (group,) = groups_running("tail", "-f", "killed.txt")
    assert group != agent.pid
    agent.signal(signal.SIGKILL)
    assert await agent.wait() == -signal.SIGKILL
    try:
        await trio.sleep(0.1)
        assert groups_running("tail", "-f", "killed.txt") == {group}
    finally:
        os.killpg(group, signal.SIGKILL)


async def test_sigterm_ends_what_an_agent_runs_before_the_agent_itself(
    agent: RawCli, stub: MessagesStub
) -> None:
    """Within half a second; a kill may then follow."""
    await run(agent, stub, "terminated.txt")
    agent.signal(signal.SIGTERM)
    with trio.fail_after(0.5):
        await wait_until(lambda: not groups_running("tail", "-f", "terminated.txt"))
    assert await agent.wait() == 143


async def test_stdin_closed_while_a_command_runs_waits_for_the_command(
    agent: RawCli, stub: MessagesStub
) -> None:
    await run(agent, stub, "awaited.txt")
    await agent.close_stdin()
    with trio.move_on_after(1) as patience:
        await agent.wait()
    assert patience.cancelled_caught
    assert groups_running("tail", "-f", "awaited.txt")
    agent.signal(signal.SIGTERM)
    await agent.wait()


async def test_an_agent_whose_last_turn_was_interrupted_ends_with_a_status(
    agent: RawCli, stub: MessagesStub
) -> None:
    await ask(agent, stub)
    await agent.send(agent.control_frame("interrupt"))
    await agent.until(is_result)
    await agent.close_stdin()
    assert await agent.wait() == 1


async def test_an_interrupted_agent_is_resumed_before_or_after_what_was_interrupted(
    open_agent: OpenAgent, stub: MessagesStub, tmp_path: Path
) -> None:
    """After it where no message is named: with all that was done, and a word that it was stopped.
    A message that calls a tool is no good place: the call is left without its result."""
    async with open_agent() as cli:
        done = await cli.turn("one")
        (workspace(tmp_path) / "a.txt").write_text("plum")
        stub.queue += [call(read(workspace(tmp_path) / "a.txt")), call(bash("touch b"))]
        await cli.send(user_frame("Find a fig."))
        await until_asked(cli)
        await cli.send(cli.control_frame("interrupt"))
        await cli.until(is_result)
        calls = [frame for frame in cli.transcript if frame["type"] == "assistant"]
        await cli.close_stdin()
        await cli.wait()
    session = ("--resume", done[-1]["session_id"])
    for point in ([last_assistant(done)], [calls[-1]["uuid"]], []):
        at = ("--resume-session-at", *point) if point else ()
        async with open_agent(*session, *at, "--fork-session") as cli:
            await cli.turn("next")
    before, within, after = (request.body["messages"] for request in stub.requests[-3:])
    assert "Find a fig." not in str(before)
    assert "Tool result missing due to internal error" in str(within)
    assert STOPPED in str(after)
    assert "plum" in str(after)
