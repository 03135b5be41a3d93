"""Agents of the demo, from the join endpoint down to the demo CLI that plays them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.support.joined import Joined, new_conversation, open_joined
from tests.support.live import Live, open_live_demo

MODEL = "agent/claude-haiku-4-5"


@pytest.fixture
async def live(tmp_path: Path) -> AsyncIterator[Live]:
    async with open_live_demo(tmp_path) as live:
        yield live


@pytest.fixture
async def one(live: Live) -> AsyncIterator[Joined]:
    """A client that has joined a new agent's conversation."""
    conversation_id = await new_conversation(live.url, model=MODEL)
    async with open_joined(live.url, conversation_id) as joined:
        yield joined


def does(*activity: dict[str, Any]) -> str:
    return f"!script {json.dumps({'activity': activity, 'pace_ms': 0})}"


def ends(one: Joined) -> list[bool]:
    """Whether each use of a tool that ended was an error."""
    return [event["is_error"] for event in one.seen if event["type"] == "activity.ended"]


async def test_what_only_looks_is_done_at_once(one: Joined) -> None:
    done = await one.turn("list the files")
    assert done["type"] == "turn.finished"
    assert "permission.requested" not in one.kinds()
    assert ends(one) == [False]
    assert "notes.txt" in one.text


async def test_leave_is_given_once_and_refused_once(one: Joined) -> None:
    for behavior in ("allow", "deny"):
        await one.say("turn.create", input="write plum.txt: ripe")
        asked = await one.until("permission.requested")
        assert (asked["tool"], asked["input"]["content"]) == ("Write", "ripe")
        await one.say(
            "permission.reply",
            request_id=asked["request_id"],
            behavior=behavior,
            message="Not now.",
        )
        assert (await one.until("turn.finished", "turn.failed"))["type"] == "turn.finished"
    assert ends(one) == [False, True]
    assert "Not now." in one.text
    assert "ripe" in json.dumps(await one.turn("read plum.txt"))


async def test_always_is_asked_no_more(one: Joined) -> None:
    await one.say("turn.create", input="run: make")
    asked = await one.until("permission.requested")
    await one.say("permission.reply", request_id=asked["request_id"], behavior="allow", always=True)
    await one.until("turn.finished")
    before = len(one.seen)
    done = await one.turn("run: make")
    assert done["type"] == "turn.finished"
    assert "permission.requested" not in [event["type"] for event in one.seen[before:]]


@pytest.mark.parametrize("asks", [True, False], ids=["asking", "running"])
async def test_an_interrupted_agent_goes_on(asks: bool, one: Joined) -> None:
    use = {"name": "Bash", "input": {"command": "make"}, "permission": asks, "run_ms": 60_000}
    await one.say("turn.create", input=does(use))
    await one.until("permission.requested" if asks else "activity.started")
    await one.say("turn.interrupt")
    ended = await one.until("turn.failed")
    assert ended["error"]["code"] == "turn_interrupted"
    with trio.fail_after(10):
        assert (await one.turn("repeat: fine"))["type"] == "turn.finished"
    assert one.text.endswith("fine")
