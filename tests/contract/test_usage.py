"""What the CLI tells of tokens and cost: of a turn's own calls, and of all calls of its session."""

from __future__ import annotations

import signal
from typing import Any

from tests.contract.conftest import OpenAgent
from tests.support.messages_answers import Answer, Usage
from tests.support.messages_stub import MessagesStub, Request, ToolUse, call, say
from tests.support.raw_agent import bash, run_out
from tests.support.raw_cli import Frame, RawCli, user_frame

TASK = {"description": "d", "prompt": "SUBTASK", "subagent_type": "general-purpose"}
OWN = (21 + 25, 9 + 9)
OF_SUBAGENT = (20_000 + 30_000, 1500 + 2500)
PLAIN = (7, 3)


def model(request: Request) -> Answer:
    """It has a subagent do what it is to delegate; each call takes another number of tokens."""
    messages = request.body["messages"]
    if "SUBTASK" in str(messages[0]):
        if "tool_result" in str(messages):
            return say("sub done", usage=Usage(30_000, 2500))
        return call(bash("ls"), usage=Usage(20_000, 1500))
    if "sub done" in request.last_user_text:
        return say("done", usage=Usage(25, 9))
    if request.last_user_text == "delegate":
        return call(ToolUse("Agent", TASK), usage=Usage(21, 9))
    return say("plain", usage=Usage(*PLAIN))


async def turn(cli: RawCli, text: str) -> Frame:
    await cli.send(user_frame(text))
    return (await run_out(cli))[-1]


def own(result: Frame) -> tuple[int, int]:
    return result["usage"]["input_tokens"], result["usage"]["output_tokens"]


def total(result: Frame) -> tuple[int, int]:
    (figures,) = result["modelUsage"].values()
    return figures["inputTokens"], figures["outputTokens"]


def added(*figures: tuple[int, int]) -> tuple[int, int]:
    first, second = zip(*figures, strict=True)
    return sum(first), sum(second)


def resume(cli: RawCli, result: Frame) -> list[str]:
    uuids = [frame["uuid"] for frame in cli.transcript if frame["type"] == "assistant"]
    return ["--resume", result["session_id"], "--resume-session-at", uuids[-1]]


async def test_the_usage_of_a_turn_is_without_its_subagents_and_the_sessions_with_them(
    agent: RawCli, stub: MessagesStub
) -> None:
    stub.answer = model
    first = await turn(agent, "plain")
    assert (own(first), total(first)) == (PLAIN, PLAIN)
    second = await turn(agent, "delegate")
    assert own(second) == OWN
    assert total(second) == added(PLAIN, OWN, OF_SUBAGENT)
    (figures,) = second["modelUsage"].values()
    assert figures["costUSD"] == second["total_cost_usd"]


async def test_a_session_that_is_resumed_goes_on_with_the_total_of_a_child_that_ended_in_peace(
    open_agent: OpenAgent, stub: MessagesStub
) -> None:
    """One that is killed saves none."""
    stub.answer = model
    flags: list[str] = []
    totals: list[Any] = []
    for kill in (False, True, False):
        async with open_agent(*flags) as cli:
            result = await turn(cli, "plain")
            totals.append(total(result))
            flags = resume(cli, result)
            if kill:
                cli.signal(signal.SIGKILL)
            else:
                await cli.close_stdin()
            await cli.wait()
    assert totals == [PLAIN, added(PLAIN, PLAIN), added(PLAIN, PLAIN)]
