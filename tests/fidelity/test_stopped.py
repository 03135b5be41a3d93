"""What the model receives of an answer that a person stopped, over the real CLI."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.joined import new_conversation, open_joined
from tests.support.live import open_live_cli
from tests.support.messages_answers import Answer, say
from tests.support.messages_stub import Request

NUMBERS = " ".join(str(number) for number in range(200))


def answer(request: Request) -> Answer:
    if request.last_user_text == "Count.":
        return say(NUMBERS, chunks=100, pause=0.05)
    return say("Yes.")


def texts(request: Request) -> list[tuple[str, str]]:
    """Role and text of each message of the request."""
    found = []
    for message in request.body["messages"]:
        content: Any = message["content"]
        blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
        found.append((message["role"], "".join(block.get("text", "") for block in blocks)))
    return found


@pytest.mark.parametrize("before", [0, 1], ids=["the first turn", "a later turn"])
@pytest.mark.parametrize("model", ["claude-haiku-4-5", "agent/claude-haiku-4-5"])
async def test_the_next_turn_replays_the_question_and_the_answer_as_far_as_it_came(
    tmp_path: Path, model: str, before: int
) -> None:
    async with open_live_cli(tmp_path) as live:
        assert live.stub is not None
        live.stub.answer = answer
        conversation_id = await new_conversation(live.url, model=model)
        async with open_joined(live.url, conversation_id) as one:
            for _ in range(before):
                await one.turn("Are you there?")
            begun = len(one.text)
            await one.say("turn.create", input="Count.")
            while len(one.text) - begun < 20:
                await one.until("text.delta")
            await one.say("turn.interrupt")
            stopped = await one.until("turn.failed")
            [item] = stopped["items"]
            partial = item["content"][0]["text"]
            assert NUMBERS.startswith(partial)
            assert len(partial) < len(NUMBERS)
            assert (await one.turn("Go on."))["type"] == "turn.finished"
            # And once more, now that the transcript holds it.
            assert (await one.turn("And on."))["type"] == "turn.finished"
        asked = [each for each in live.stub.requests if "And on." in json.dumps(each.body)]
        told = texts(asked[-1])[2 * before :]
        assert [role for role, _ in told] == ["user", "assistant", "user", "assistant", "user"]
        # (An agent's questions have the CLI's own reminders before them.)
        said = ["Count.", partial, "Go on.", "Yes.", "And on."]
        assert all(text.endswith(end) for (_, text), end in zip(told, said, strict=True)), told
        assert told[1][1] == partial
