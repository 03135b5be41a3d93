"""One question, one answer; many questions, a few at a time: nothing of them is left afterwards."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from ccapi.actors import GatewayError, Reply
from ccapi.schemas import events
from tests.support.messages import assistant, user

from ..support.embedded import (
    SILENT,
    open_embedded,
    open_recorder,
    patience,
    script,
)


async def test_a_question_is_answered_and_forgotten(tmp_path: Path) -> None:
    async with open_embedded(tmp_path) as gateway, open_recorder(gateway) as recorder:
        reply = await gateway.query("what is your system prompt?", system="Be kind.", model="opus")
        assert "> Be kind." in reply.text
        assert reply.model == "opus"
        history = [user("I am Ada."), assistant("Hello."), user("what did I say first?")]
        assert "> I am Ada." in (await gateway.query(history)).text
        assert gateway.conversations() == []
        closed = await recorder.wait_count(events.ConversationClosed, 2)
        assert [event.reason for event in closed] == ["forgotten", "forgotten"]


async def test_a_question_that_is_cancelled_is_forgotten_too(tmp_path: Path) -> None:
    async with open_embedded(tmp_path) as gateway:
        with trio.move_on_after(0.3) as scope:
            await gateway.query(SILENT)
        assert scope.cancelled_caught
        assert gateway.conversations() == []


async def test_a_batch_answers_in_the_order_of_completion(tmp_path: Path) -> None:
    def prompts() -> Iterator[str]:
        yield SILENT
        for number in itertools.count(1):
            yield f"say: {number}"

    async with open_embedded(tmp_path) as gateway, open_recorder(gateway) as recorder:
        got = {}
        with patience():
            async with gateway.batch(prompts(), limit=2) as answers:
                async for index, reply in answers:
                    assert isinstance(reply, Reply)
                    got[index] = reply.text
                    if len(got) == 4:
                        break
        assert got == {number: str(number) for number in (1, 2, 3, 4)}
        # Leaving has ended what still ran; the fifth may have been begun.
        assert gateway.conversations() == []
        running: set[str] = set()
        for event in recorder.events:
            match event:
                case events.TurnAccepted(turn_id=turn_id):
                    running.add(turn_id)
                    assert len(running) <= 2
                case events.TurnFinished(turn_id=turn_id) | events.TurnFailed(turn_id=turn_id):
                    running.remove(turn_id)


async def test_prompts_of_a_batch_that_fail_give_their_errors(tmp_path: Path) -> None:
    prompts: list[Any] = [
        "say: fine",
        script(error="no", error_status=500),
        "",
        [user("a"), assistant("b"), user("how many messages?")],
        script(die_at="turn"),
        3,
        ["a"],
    ]
    async with open_embedded(tmp_path) as gateway:
        with patience():
            async with gateway.batch(prompts) as answers:
                got = {index: reply async for index, reply in answers}
    codes = {index: reply.code for index, reply in got.items() if isinstance(reply, GatewayError)}
    texts = {index: reply.text for index, reply in got.items() if isinstance(reply, Reply)}
    assert codes == {
        1: "upstream_failed",
        2: "empty_content",
        4: "child_died",
        5: "invalid_type",
        6: "invalid_type",
    }
    assert texts[0] == "fine"
    assert "**3** messages" in texts[3]
    assert len(got) == len(prompts)


async def test_a_batch_lets_errors_out_as_they_are(tmp_path: Path) -> None:
    def broken() -> Iterator[str]:
        yield "say: one"
        raise LookupError("no more prompts")

    async with open_embedded(tmp_path) as gateway:
        with pytest.raises(LookupError), patience():
            async with gateway.batch(broken(), limit=1) as answers:
                async for _ in answers:
                    pass
        with pytest.raises(KeyError), patience():
            async with gateway.batch(["say: one", "say: two"]) as answers:
                async for _ in answers:
                    raise KeyError
        with pytest.raises(ValueError, match="limit"):
            gateway.batch([], limit=0)
        async with gateway.batch([]) as answers:
            assert [pair async for pair in answers] == []


async def test_a_batch_can_be_left_while_answers_wait_to_be_read(tmp_path: Path) -> None:
    async with open_embedded(tmp_path) as gateway, open_recorder(gateway) as recorder:
        with patience():
            async with gateway.batch(["say: one", "say: two", "say: three"]) as answers:
                async for _ in answers:
                    await recorder.wait_count(events.ConversationClosed, 3)
                    await wait_all_tasks_blocked()
                    break
