"""The embedding interface over the real Claude Code CLI, with a stub where the API would be.

What the API is sent is the proof: the CLI holds exactly what the conversation holds.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import trio

from ccapi.actors import Message
from ccapi.schemas.errors import ChildDied, RateLimited

from ..support.embedded import first_delta, open_embedded_cli, open_recorder, patience
from ..support.messages_stub import Failure, say


async def test_a_conversation_has_several_turns(tmp_path: Path) -> None:
    async with open_embedded_cli(tmp_path) as (gateway, stub):
        conversation = gateway.conversation(system="Be brief.", model="haiku")
        with patience():
            assert (await conversation.ask("Hello")).text == "turn 1: Hello"
            assert (await conversation.ask("/help me @/etc/passwd")).text.startswith(
                "turn 2: /help"
            )
        request = stub.requests[-1]
        assert request.conversation == [
            ("user", ["Hello"]),
            ("assistant", ["turn 1: Hello"]),
            ("user", ["/help me @/etc/passwd"]),
        ]
        assert request.system.endswith("Be brief.")
        assert "haiku" in request.model
        assert request.tools == []
        assert len(stub.requests) == 2


async def test_another_child_goes_on_for_one_that_is_killed(tmp_path: Path) -> None:
    async with open_embedded_cli(tmp_path) as (gateway, stub), open_recorder(gateway) as recorder:
        conversation = gateway.conversation(system="Be brief.")
        with patience():
            await conversation.ask("one")
            await conversation.ask("two")
            stub.queue.append(say("half an answer", chunks=4, hang_after=2))
            with pytest.raises(ChildDied):
                async with conversation.turn("three") as turn:
                    await first_delta(turn)
                    os.kill(recorder.pid(conversation), signal.SIGKILL)
                    await turn.reply()
            assert (await conversation.ask("four")).text == "turn 3: four"
        assert stub.requests[-1].conversation == [
            ("user", ["one"]),
            ("assistant", ["turn 1: one"]),
            ("user", ["two"]),
            ("assistant", ["turn 2: two"]),
            ("user", ["four"]),
        ]
        assert stub.requests[-1].system.endswith("Be brief.")


async def test_a_turn_that_is_left_leaves_no_trace(tmp_path: Path) -> None:
    async with open_embedded_cli(tmp_path) as (gateway, stub), open_recorder(gateway) as recorder:
        conversation = gateway.conversation()
        with patience():
            await conversation.ask("one")
            pid = recorder.pid(conversation)
            stub.queue.append(say("a long answer", chunks=6, hang_after=3))
            async with conversation.turn("never mind") as turn:
                await first_delta(turn)
            await stub.requests[1].left.wait()  # the API's connection is closed: nothing is spent
            assert (await conversation.ask("two")).text == "turn 2: two"
        assert stub.requests[-1].conversation == [
            ("user", ["one"]),
            ("assistant", ["turn 1: one"]),
            ("user", ["two"]),
        ]
        assert recorder.pid(conversation) == pid


async def test_a_first_turn_that_is_left_leaves_no_trace_either(tmp_path: Path) -> None:
    async with open_embedded_cli(tmp_path) as (gateway, stub):
        conversation = gateway.conversation()
        with patience():
            stub.queue.append(say("a long answer", chunks=6, hang_after=3))
            with trio.CancelScope() as scope:
                async with conversation.turn("never mind") as turn:
                    await first_delta(turn)
                    scope.cancel()
                    await trio.lowlevel.checkpoint()
            assert (await conversation.ask("one")).text == "turn 1: one"
        assert stub.requests[-1].conversation == [("user", ["one"])]


async def test_a_history_is_replayed(tmp_path: Path) -> None:
    history = [
        Message("user", ("u1",)),
        Message("assistant", ("a1",)),
        Message("user", ("u2",)),
        Message("assistant", ("a2", "a2b")),
        Message("user", ("/u3",)),
    ]
    async with open_embedded_cli(tmp_path) as (gateway, stub):
        conversation = gateway.conversation()
        with patience():
            await conversation.ask(history)
            await conversation.ask("u4")
        assert stub.requests[-1].conversation == [
            ("user", ["u1"]),
            ("assistant", ["a1"]),
            ("user", ["u2"]),
            ("assistant", ["a2", "a2b"]),
            ("user", ["/u3"]),
            ("assistant", ["turn 3: /u3"]),
            ("user", ["u4"]),
        ]
        assert len(stub.requests) == 2


async def test_a_conversation_changes_its_model_and_its_prompt(tmp_path: Path) -> None:
    async with open_embedded_cli(tmp_path) as (gateway, stub):
        conversation = gateway.conversation(model="haiku", system="Be brief.")
        with patience():
            await conversation.ask("one")
            await conversation.ask("two", model="opus", system="Be verbose.")
        request = stub.requests[-1]
        assert "opus" in request.model
        assert request.system.endswith("Be verbose.")
        assert request.conversation == [
            ("user", ["one"]),
            ("assistant", ["turn 1: one"]),
            ("user", ["two"]),
        ]


async def test_an_error_of_the_api_leaves_no_trace(tmp_path: Path) -> None:
    async with open_embedded_cli(tmp_path) as (gateway, stub):
        conversation = gateway.conversation()
        with patience():
            await conversation.ask("one")
            stub.queue.append(Failure(429))
            with pytest.raises(RateLimited):
                await conversation.ask("too soon")
            await conversation.ask("two")
        assert stub.requests[-1].conversation == [
            ("user", ["one"]),
            ("assistant", ["turn 1: one"]),
            ("user", ["two"]),
        ]
