"""Effort, thinking and output limits: what reaches the API, and what is reported."""

import json
import signal
from typing import Any

import pytest
import trio

from tests.contract.conftest import OpenChild
from tests.support.messages_answers import JSON
from tests.support.messages_stub import Failure, MessagesStub, Reply, Text, Thinking, Usage, say
from tests.support.raw_cli import Frame, RawCli, adoption, kind, user_frame


class ThinkingUsage(Usage):
    """An answer whose thinking the API counted."""

    def document(self) -> JSON:
        return super().document() | {"output_tokens_details": {"thinking_tokens": 77}}


async def adopted(cli: RawCli, model: str) -> None:
    await cli.send(cli.control_frame("initialize", **adoption(model=model)))


async def bodies_after(cli: RawCli, stub: MessagesStub, *settings: Frame) -> list[Frame]:
    """The body of a turn after each of the settings."""
    for each in settings:
        assert (await cli.control("apply_flag_settings", settings=each))["subtype"] == "success"
        await cli.turn("hi")
    return [request.body for request in stub.requests[-len(settings) :]]


def environment(**variables: str) -> Frame:
    return {"env": variables}


# -- effort ----------------------------------------------------------------------------------------


async def test_effort_levels_reach_the_body_and_null_takes_them_back(
    open_child: OpenChild, stub: MessagesStub
) -> None:
    levels = ["low", "medium", "high", "xhigh", "max"]
    async with open_child(adopt=False) as cli:
        await adopted(cli, "claude-opus-4-8")
        steps = [{"effortLevel": level} for level in [None, *levels, None]]
        bodies = await bodies_after(cli, stub, *steps)
    efforts = [body["output_config"]["effort"] for body in bodies]
    assert efforts == ["high", *levels, "high"]
    assert all("effort" in request.headers["anthropic-beta"] for request in stub.requests)
    assert len(stub.requests[-1].conversation) == 13  # and nothing in the history


async def test_a_level_that_the_cli_does_not_know_leaves_the_last_one_in_force(
    open_child: OpenChild, stub: MessagesStub
) -> None:
    """It answers success all the same."""
    async with open_child(adopt=False) as cli:
        await adopted(cli, "claude-opus-4-8")
        steps = [{"effortLevel": level} for level in ["low", "", "minimal", "none", "auto", "LOW"]]
        bodies = await bodies_after(cli, stub, *steps)
    assert {body["output_config"]["effort"] for body in bodies} == {"low"}


async def test_effort_and_an_output_format_go_out_together(
    open_child: OpenChild, stub: MessagesStub
) -> None:
    schema = {"type": "json_schema", "schema": {"type": "object", "unevaluatedProperties": False}}
    extra = json.dumps({"output_config": {"format": schema}})
    async with open_child(adopt=False) as cli:
        await adopted(cli, "claude-opus-4-8")
        both = environment(CLAUDE_CODE_EXTRA_BODY=extra) | {"effortLevel": "low"}
        (body,) = await bodies_after(cli, stub, both)
    assert body["output_config"] == {"format": schema, "effort": "low"}
    assert "effort" in stub.requests[0].headers["anthropic-beta"]


@pytest.mark.parametrize("model", ["claude-haiku-4-5", "claude-sonnet-4-5"])
async def test_a_model_without_effort_is_sent_none(
    model: str, open_child: OpenChild, stub: MessagesStub
) -> None:
    async with open_child(adopt=False) as cli:
        await adopted(cli, model)
        (body,) = await bodies_after(cli, stub, {"effortLevel": "low"})
    assert "output_config" not in body


# -- thinking --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "thinking"),
    [
        ("claude-opus-4-8", {"type": "adaptive"}),
        ("claude-sonnet-5", {"type": "adaptive"}),
        ("sonnet", {"type": "adaptive"}),
        ("claude-haiku-4-5", {"type": "enabled", "budget_tokens": 31999}),
        ("claude-of-tomorrow", {"type": "adaptive"}),
    ],
)
async def test_thinking_is_what_the_model_can_do_and_can_be_taken_out(
    model: str, thinking: Any, open_child: OpenChild, stub: MessagesStub
) -> None:
    plain = {"CLAUDE_CODE_DISABLE_EXPERIMENTAL_BETAS": "1"}
    async with open_child(adopt=False, environment=plain) as cli:
        await adopted(cli, model)
        bodies = await bodies_after(
            cli,
            stub,
            environment(),
            environment(CLAUDE_CODE_DISABLE_THINKING="1"),
            environment(CLAUDE_CODE_DISABLE_THINKING=""),
        )
    assert [body.get("thinking") for body in bodies] == [thinking, None, thinking]


async def test_an_output_limit_does_not_bound_the_thinking_budget(
    child: RawCli, stub: MessagesStub
) -> None:
    """The real API refuses such a body: a small limit goes along with thinking disabled."""
    extra = json.dumps({"max_tokens": 50})
    (body,) = await bodies_after(child, stub, environment(CLAUDE_CODE_EXTRA_BODY=extra))
    assert body["max_tokens"] == 50
    assert body["thinking"]["budget_tokens"] > 50


@pytest.mark.parametrize(("model", "most"), [("claude-haiku-4-5", 64000), ("sonnet", 128000)])
async def test_an_output_limit_beyond_the_models_own_is_lowered_to_that(
    model: str, most: int, open_child: OpenChild, stub: MessagesStub
) -> None:
    """The real API refuses more. What is laid over the body is not lowered."""
    beyond = environment(CLAUDE_CODE_MAX_OUTPUT_TOKENS="500000")
    async with open_child(adopt=False) as cli:
        await adopted(cli, model)
        (body,) = await bodies_after(cli, stub, beyond)
    assert body["max_tokens"] == most


async def test_thinking_comes_before_the_text_and_is_estimated_as_it_comes(
    child: RawCli, stub: MessagesStub
) -> None:
    stub.queue.append(Reply((Thinking("t" * 400, chunks=4), Text("answer", 2))))
    frames = await child.turn("hi")
    deltas = [
        frame["event"]["delta"]["type"]
        for frame in frames
        if kind(frame) == "stream_event/content_block_delta"
    ]
    assert deltas == ["thinking_delta"] * 4 + ["signature_delta"] + ["text_delta"] * 2
    estimates = [
        frame["estimated_tokens"] for frame in frames if kind(frame) == "system/thinking_tokens"
    ]
    assert estimates == [25, 50, 75, 100]  # a running total, four characters to a token


async def test_the_count_of_thinking_tokens_is_the_apis(child: RawCli, stub: MessagesStub) -> None:
    stub.queue += [
        Reply((Thinking("hm"), Text("one")), usage=ThinkingUsage(output_tokens=120)),
        say("two"),
    ]
    usages = [(await child.turn("hi"))[-1]["usage"] for _ in range(2)]
    assert [usage["output_tokens_details"]["thinking_tokens"] for usage in usages] == [77, 0]


# -- the end of what may be said -------------------------------------------------------------------


async def test_a_child_killed_at_its_limit_asks_the_model_no_more(
    child: RawCli, stub: MessagesStub
) -> None:
    """It would go on with "Output token limit hit", and no setting prevents it."""
    stub.answer = lambda _: say("abcdefghij", chunks=5, stop_reason="max_tokens")
    await child.send(user_frame("hi"))
    await child.until(lambda frame: kind(frame) == "stream_event/message_delta")
    child.signal(signal.SIGKILL)
    await child.wait()
    with trio.move_on_after(0.2):
        await stub.wait_requests(2)
    assert len(stub.requests) == 1


async def test_retry_delays_honour_what_the_api_asks_for(
    open_child: OpenChild, stub: MessagesStub
) -> None:
    stub.queue.append(Failure(429, retry_after=3))
    async with open_child(environment={"CLAUDE_CODE_MAX_RETRIES": "1"}) as cli:
        await cli.send(user_frame("hi"))
        retry = (await cli.until(lambda frame: kind(frame) == "system/api_retry"))[-1]
    assert 3000 <= retry["retry_delay_ms"] < 4000
