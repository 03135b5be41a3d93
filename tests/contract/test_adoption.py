"""What a generic, prewarmed child does before it has a conversation, and how it gets one."""

from typing import Any

import pytest
import trio

from ccapi.schemas.claude.model_traits import sizes_of
from ccapi.schemas.claude.models import listed_models
from tests.contract.conftest import OpenChild
from tests.support.logins import every_login
from tests.support.messages_stub import MessagesStub
from tests.support.raw_cli import (
    RawCli,
    adoption,
    answers,
    is_result,
    kind,
    kinds,
    user_frame,
)

WARM_UP = 1.0
"""Seconds a child gets to boot. A slower boot makes a test weaker, never red."""

PREAMBLE = "You are a Claude agent, built on Anthropic's Claude Agent SDK."


async def test_an_unadopted_child_writes_nothing_and_asks_the_api_for_nothing(
    open_child: OpenChild, stub: MessagesStub
) -> None:
    """Protocol notes, section 1. At most it asks for a repaint that is not needed."""
    async with open_child(adopt=False) as cli:
        await trio.sleep(WARM_UP)
        assert kinds(cli.transcript) == []
        assert {kind(frame) for frame in cli.transcript} <= {"system/ui_invalidate"}
        assert stub.requests == []
        await cli.close_stdin()
        assert await cli.wait() == 0


async def test_a_warm_child_is_adopted_by_one_pipelined_initialize(
    open_child: OpenChild, stub: MessagesStub
) -> None:
    """Protocol notes, section 1: system prompt, model and first turn in one write."""
    async with open_child(adopt=False) as cli:
        await trio.sleep(WARM_UP)
        first = cli.control_frame(
            "initialize", **adoption(model="claude-haiku-4-5", system=["Part A.", "Part B."])
        )
        await cli.send(first, user_frame("hello"))
        seen = await cli.until(is_result)

    (request,) = stub.requests
    assert request.model == "claude-haiku-4-5"
    assert request.system.endswith(f"{PREAMBLE}\n\nPart A.\n\nPart B.")
    assert request.tools == []
    assert request.body["messages"] == [
        {
            "role": "user",
            "content": [{"type": "text", "text": "hello", "cache_control": {"type": "ephemeral"}}],
        }
    ]
    assert kinds(seen)[:2] == ["control_response", "system/init"]


async def test_the_answer_to_initialize_has_this_shape(open_child: OpenChild) -> None:
    """Protocol notes, section 1."""
    async with open_child(adopt=False) as cli:
        answer = await cli.control("initialize", **adoption())
        assert answer["subtype"] == "success"
        content = answer["response"]
        assert content["pid"] == cli.pid
        assert {agent["name"] for agent in content["agents"]} >= {"gw"}
        assert content.keys() >= {"commands", "models", "account", "claude_code_version"}


@every_login
async def test_the_first_initialize_wins(open_child: OpenChild, stub: MessagesStub) -> None:
    """Protocol notes, section 1: later ones answer success and change nothing."""
    late = adoption(model="claude-haiku-4-5", system="Too late.")
    async with open_child() as cli:
        assert (await cli.control("initialize", **late))["subtype"] == "success"
        await cli.turn("one")
        assert (await cli.control("initialize", **late))["subtype"] == "success"
        await cli.turn("two")
    assert {request.model for request in stub.requests} == {"claude-sonnet-4-5"}
    assert all(request.system.endswith("\n\nYou are a test.") for request in stub.requests)


async def test_a_user_frame_before_initialize_settles_model_and_prompt(
    open_child: OpenChild, stub: MessagesStub
) -> None:
    """Protocol notes, section 1: so a child that was spoken to cannot be adopted any more."""
    async with open_child(adopt=False) as cli:
        await cli.turn("one")
        await cli.control("initialize", **adoption(model="claude-haiku-4-5"))
        await cli.turn("two")
    one, two = stub.requests
    assert one.model == two.model != "claude-haiku-4-5"
    assert "You are a test." not in two.system


@pytest.mark.parametrize(
    ("system", "sent"),
    [([], PREAMBLE), ("", f"{PREAMBLE}\n\np"), ([""], f"{PREAMBLE}\n\np")],
    ids=["empty-list", "empty-text", "list-of-empty-text"],
)
async def test_only_an_empty_list_means_no_system_prompt(
    open_child: OpenChild, stub: MessagesStub, system: Any, sent: str
) -> None:
    """Protocol notes, section 1. Anything else that is empty falls back on the agent's prompt."""
    async with open_child(adopt=False) as cli:
        await cli.send(cli.control_frame("initialize", **adoption(system=system)))
        await cli.turn("hello")
    assert stub.requests[0].system.endswith(sent)


async def test_frames_of_no_concern_may_come_before_the_answer_to_initialize(
    child: RawCli,
) -> None:
    """Protocol notes, section 1: a title is confirmed first, so the answer is sought by its id."""
    repeated = child.control_frame("initialize", **adoption())
    await child.send(repeated)
    seen = await child.until(answers(repeated))
    assert "system/session_title_changed" in map(kind, seen)


async def test_the_answer_to_an_initialize_lists_the_models(open_child: OpenChild) -> None:
    """Operations notes, section D: which name means which model, and how much it may be asked."""
    async with open_child(adopt=False) as cli:
        await cli.send(cli.control_frame("initialize", **adoption()))
        seen = await cli.until(lambda frame: kind(frame) == "control_response")
    listed = {each.name: each for each in listed_models(seen[-1]["response"]["response"])}
    assert {"default", "opus", "sonnet", "haiku"} <= set(listed)
    for each in listed.values():
        assert each.model.startswith("claude-")
        assert each.description
        assert set(each.efforts) <= {"low", "medium", "high", "xhigh", "max"}
        sizes = sizes_of(each.model)
        assert sizes is not None
