"""The embedding interface with real processes: conversations, their callers, children and room.

Every gateway here is opened in a block that asserts that no task, process or file of it is left.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import trio

from ccapi.actors import Gateway, GatewayError, open_gateway
from ccapi.schemas import events
from ccapi.schemas.errors import (
    ChildDied,
    NotFound,
    Overloaded,
    RateLimited,
    TurnInterrupted,
)
from ccapi.schemas.settings.settings import (
    ClaudeSettings,
    ConversationSettings,
    Settings,
    StorageSettings,
)
from ccapi.schemas.turn import Tool
from tests.support.messages import assistant, user

from ..support.embedded import (
    SILENT,
    first_delta,
    open_embedded,
    open_recorder,
    patience,
    script,
    text_in,
)

ENDLESS = script(deltas=1000, pace_ms=1000)


# -- conversations ---------------------------------------------------------------------------------


async def test_a_conversation_remembers(tmp_path: Path) -> None:
    async with open_embedded(tmp_path) as gateway:
        conversation = gateway.conversation(system="Be brief.", model="haiku")
        assert conversation.info.phase == "asleep"
        assert "turn **1**" in (await conversation.ask("Hello")).text
        reply = await conversation.ask("What did I say first?")
        assert "> Hello" in reply.text
        assert (reply.conversation_id, reply.model) == (conversation.conversation_id, "haiku")
        assert reply.usage.completion_tokens > 0
        info = conversation.info
        assert (info.model, info.system) == ("haiku", "Be brief.")
        assert (info.phase, info.turns, info.messages) == ("idle", 2, 4)
        assert info.usage.completion_tokens > reply.usage.completion_tokens
        assert info.created_at <= info.last_used_at
        assert repr(conversation) == f"<Conversation {conversation.conversation_id} idle>"


async def test_an_answer_streams(tmp_path: Path) -> None:
    async with open_embedded(tmp_path) as gateway:
        prompt = script("count to 200", pace_ms=5)
        async with gateway.conversation().turn(prompt) as turn:
            assert await first_delta(turn) == "1, "
            assert turn.conversation_id == gateway.conversations()[0].conversation_id
            with pytest.raises(GatewayError):
                _ = turn.finish_reason  # the model is still counting
            rest = [text_in(item) async for item in turn]
        assert "".join(rest).endswith("200.")
        assert turn.finish_reason == "stop"


async def test_turns_of_one_conversation_queue(tmp_path: Path) -> None:
    async with open_embedded(tmp_path) as gateway:
        conversation = gateway.conversation()
        answers: dict[int, str] = {}

        async def ask(number: int) -> None:
            answers[number] = (await conversation.ask("how many turns?")).text

        with patience():
            async with trio.open_nursery() as nursery:
                for number in range(4):
                    nursery.start_soon(ask, number)
        assert sorted("turn **" + text.partition("turn **")[2] for text in answers.values()) == [
            f"turn **{number}**." for number in (1, 2, 3, 4)
        ]


async def test_a_busy_conversation_can_refuse(tmp_path: Path) -> None:
    async with open_embedded(tmp_path) as gateway:
        conversation = gateway.conversation()
        async with conversation.turn(SILENT):
            async with conversation.turn("now!", reject_if_busy=True) as second:
                with pytest.raises(GatewayError) as caught:
                    await second.reply()
        assert caught.value.code == "conversation_busy"


async def test_a_conversation_changes_its_model_and_keeps_its_memory(tmp_path: Path) -> None:
    async with open_embedded(tmp_path) as gateway:
        conversation = gateway.conversation(model="haiku")
        assert "`haiku`" in (await conversation.ask("which model are you?")).text
        changed = await conversation.ask("which model are you?", model="opus")
        assert (changed.model, conversation.info.model) == ("opus", "opus")
        assert "`opus`" in changed.text
        assert "> which model" in (await conversation.ask("what did I say first?")).text
        assert "`opus`" in (await conversation.ask("which model are you?")).text
        system = await conversation.ask("what is your system prompt?", system="Speak Latin.")
        assert "> Speak Latin." in system.text


async def test_a_child_for_every_turn(tmp_path: Path) -> None:
    claude = {"use_interactive_sessions": False}
    async with (
        open_embedded(tmp_path, claude=claude) as gateway,
        open_recorder(gateway) as recorder,
    ):
        conversation = gateway.conversation()
        pids = []
        for text in ("Hello", "what did I say first?"):
            reply = await conversation.ask(text)
            await recorder.wait_phase(conversation, "asleep")
            pids.append(recorder.pid(conversation))
        assert "> Hello" in reply.text
        assert pids[0] != pids[1]


async def test_a_conversation_can_begin_with_a_history(tmp_path: Path) -> None:
    async with open_embedded(tmp_path) as gateway:
        seed = [user("My name is Ada."), assistant("Hello, Ada.")]
        conversation = gateway.conversation(seed=seed)
        assert conversation.info.messages == 2
        assert "> My name is Ada." in (await conversation.ask("what did I say first?")).text
        open_ended = gateway.conversation(seed=[user("My name is Ada.")])
        await open_ended.ask("Who am I?")
        assert open_ended.info.messages == 3


async def test_messages_that_repeat_what_is_held_are_not_said_twice(tmp_path: Path) -> None:
    async with open_embedded(tmp_path) as gateway:
        conversation = gateway.conversation()
        first = await conversation.ask("Hello")
        whole = [user("Hello"), assistant(first.text), user("how many messages?")]
        assert "**3** messages" in (await conversation.ask(whole)).text
        with pytest.raises(GatewayError) as caught:
            await conversation.ask([user("Hello"), assistant("Never said."), user("Well?")])
        assert (caught.value.code, caught.value.param) == ("history_mismatch", "messages")


async def test_conversations_belong_to_their_owner(tmp_path: Path) -> None:
    async with open_embedded(tmp_path) as gateway:
        conversation = gateway.conversation(owner="alice")
        conversation_id = conversation.conversation_id
        assert gateway.loaded(conversation_id, owner="alice").info == conversation.info
        assert [info.conversation_id for info in gateway.conversations(owner="alice")] == [
            conversation_id
        ]
        assert gateway.conversations(owner="bob") == []
        for owner in ("bob", "local"):
            with pytest.raises(NotFound):
                gateway.loaded(conversation_id, owner=owner)
            with pytest.raises(NotFound):
                await gateway.forget(conversation_id, owner=owner)
        assert (await conversation.ask("Hello")).text


async def test_there_are_so_many_conversations_and_no_more(tmp_path: Path) -> None:
    bound = ConversationSettings(max_conversations=2)
    async with open_embedded(tmp_path, conversation=bound) as gateway:
        first, second = gateway.conversation(), gateway.conversation()
        for conversation in (first, second):  # those that were never used would make room
            await conversation.ask("Hello")
        with pytest.raises(RateLimited):
            gateway.conversation()
        await gateway.forget(first.conversation_id)
        gateway.conversation()


async def test_an_unknown_model(tmp_path: Path) -> None:
    async with open_embedded(tmp_path) as gateway:
        with pytest.raises(NotFound):
            gateway.conversation(model="gpt-17")
        with pytest.raises(NotFound):
            gateway.conversation().turn("Hello", model="gpt-17")


async def test_a_conversation_is_forgotten_in_the_middle_of_a_turn(tmp_path: Path) -> None:
    async with open_embedded(tmp_path) as gateway, open_recorder(gateway) as recorder:
        conversation = gateway.conversation()
        async with conversation.turn(script("count to 1000", pace_ms=50)) as turn:
            await first_delta(turn)
            await gateway.forget(conversation.conversation_id)
            with pytest.raises(TurnInterrupted) as caught, patience():
                await turn.reply()
        assert caught.value.code == "deleted"
        pid = recorder.pid(conversation)
        await recorder.wait(
            lambda event: isinstance(event, events.ChildExited) and event.pid == pid
        )
        with pytest.raises(NotFound):
            await conversation.ask("Hello?")


# -- callers that leave ----------------------------------------------------------------------------


@pytest.mark.parametrize("first", [True, False])
async def test_leaving_a_turn_early_leaves_no_trace(tmp_path: Path, first: bool) -> None:
    async with open_embedded(tmp_path, switches={"rewind_first": True}) as gateway:
        conversation = gateway.conversation()
        if not first:
            await conversation.ask("Hello")
        async with conversation.turn(script("count to 1000", pace_ms=20)) as turn:
            await first_delta(turn)
        with patience():
            reply = await conversation.ask("how many messages?")
        assert f"**{1 if first else 3}** message" in reply.text


async def test_cancelling_the_caller_interrupts_its_turn(tmp_path: Path) -> None:
    async with open_embedded(tmp_path) as gateway, open_recorder(gateway) as recorder:
        conversation = gateway.conversation()
        await conversation.ask("Hello")
        pid = recorder.pid(conversation)
        with trio.CancelScope() as scope:
            async with conversation.turn(script("count to 1000", pace_ms=20)) as turn:
                await first_delta(turn)
                scope.cancel()
                await trio.lowlevel.checkpoint()
        assert scope.cancelled_caught
        with patience():
            reply = await conversation.ask("how many messages?")
        assert "**3** messages" in reply.text
        assert recorder.pid(conversation) == pid  # the child received it, and goes on
        failed = await recorder.wait_count(events.TurnFailed, 1)
        assert [event.error.code for event in failed] == ["turn_interrupted"]


async def test_a_model_that_says_nothing_can_be_left_too(tmp_path: Path) -> None:
    async with open_embedded(tmp_path) as gateway:
        conversation = gateway.conversation()
        await conversation.ask("Hello")
        with patience():
            async with conversation.turn(SILENT) as turn:
                with pytest.raises(trio.TooSlowError):
                    await turn.reply(timeout=0.05)
            assert "> Hello" in (await conversation.ask("what did I say last?")).text


async def test_it_works_in_the_callers_own_nursery(tmp_path: Path) -> None:
    async with open_embedded(tmp_path) as gateway:
        answers: dict[str, str] = {}

        async def ask(name: str) -> None:
            conversation = gateway.conversation()
            await conversation.ask(f"My name is {name}.")
            answers[name] = (await conversation.ask("what did I say first?")).text

        names = ["Ada", "Grace", "Barbara", "Radia"]
        with patience():
            async with trio.open_nursery() as nursery:
                for name in names:
                    nursery.start_soon(ask, name)
        for name in names:
            assert f"> My name is {name}." in answers[name]


# -- children that fail ----------------------------------------------------------------------------


async def test_a_child_that_dies_takes_its_turn_along_and_nothing_else(tmp_path: Path) -> None:
    async with open_embedded(tmp_path) as gateway, open_recorder(gateway) as recorder:
        conversation, sibling = gateway.conversation(), gateway.conversation()
        await conversation.ask("Hello")
        async with sibling.turn(script("count to 40", pace_ms=10)) as undisturbed:
            await first_delta(undisturbed)
            said = []
            with pytest.raises(ChildDied) as caught, patience():
                async with conversation.turn(script("count to 9", die_at="delta", after=3)) as turn:
                    async for item in turn:
                        said.append(text_in(item))
            assert (caught.value.status, caught.value.code) == (502, "child_died")
            assert "".join(said) == "1, 2, 3, "
            with patience():
                assert "> Hello" in (await conversation.ask("what did I say last?")).text
                assert (await undisturbed.reply()).text.endswith("40.")
        gone = [event.pid for event in recorder.events if isinstance(event, events.ChildExited)]
        assert len(gone) == 1, "its sibling's stays"
        assert recorder.pid(conversation) not in gone


async def test_a_child_that_is_killed_while_idle_is_replaced(tmp_path: Path) -> None:
    async with open_embedded(tmp_path) as gateway, open_recorder(gateway) as recorder:
        conversation = gateway.conversation()
        await conversation.ask("Hello")
        await recorder.wait_phase(conversation, "idle")
        os.kill(recorder.pid(conversation), signal.SIGKILL)
        await recorder.wait_phase(conversation, "asleep")
        assert "> Hello" in (await conversation.ask("what did I say first?")).text


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (429, "upstream_rate_limited"),
        (401, "cli_not_logged_in"),
        (529, "upstream_overloaded"),
        (500, "upstream_failed"),
        (None, "upstream_failed"),
    ],
)
async def test_what_the_api_refuses_is_an_error_and_leaves_no_trace(
    status: int | None, code: str, tmp_path: Path
) -> None:
    async with open_embedded(tmp_path) as gateway:
        conversation = gateway.conversation()
        await conversation.ask("Hello")
        with pytest.raises(GatewayError) as caught:
            await conversation.ask(script(error="The API said no.", error_status=status))
        assert caught.value.code == code
        assert "The API said no" in caught.value.message
        assert "**3** messages" in (await conversation.ask("how many messages?")).text


async def test_no_cli_is_an_error_at_the_door(tmp_path: Path) -> None:
    settings = Settings(
        claude=ClaudeSettings(command=str(tmp_path / "nothing")),
        storage=StorageSettings(path=tmp_path),
    )
    with pytest.raises(Overloaded) as caught:
        async with open_gateway(settings, environ={}):
            pytest.fail("it must not open")
    assert caught.value.code == "cli_not_found"


# -- room ------------------------------------------------------------------------------------------


async def test_a_turn_waits_while_all_children_are_busy(tmp_path: Path) -> None:
    claude = {"max_concurrent_sessions": 1, "prewarm": 0}
    async with open_embedded(tmp_path, claude=claude) as gateway:
        busy, patient = gateway.conversation(), gateway.conversation()
        answers = []

        async def ask() -> None:
            answers.append((await patient.ask("Hello")).text)

        with patience():
            async with trio.open_nursery() as nursery:
                async with busy.turn(script("count to 1000", pace_ms=20)) as turn:
                    await first_delta(turn)
                    nursery.start_soon(ask)
                    while not gateway.statistics().children.waiting:
                        await trio.sleep(0.01)
                    assert text_in(await anext(turn)) == "2, "
                    assert not answers
        assert "turn **1**" in answers[0]


async def test_the_child_that_was_idle_longest_gives_way(tmp_path: Path) -> None:
    claude = {"max_concurrent_sessions": 2, "prewarm": 0}
    async with (
        open_embedded(tmp_path, claude=claude) as gateway,
        open_recorder(gateway) as recorder,
    ):
        oldest, younger, newcomer = (gateway.conversation() for _ in range(3))
        with patience():
            await oldest.ask("I was first.")
            await younger.ask("I was second.")
            await newcomer.ask("I was third.")
            await recorder.wait_phase(oldest, "asleep")
            assert (younger.info.phase, newcomer.info.phase) == ("idle", "idle")
            assert "> I was first." in (await oldest.ask("what did I say first?")).text
            assert "> I was second." in (await younger.ask("what did I say first?")).text
        statistics = gateway.statistics()
        assert statistics.children.limit == 2
        assert statistics.conversations == 3
        assert sum(statistics.sessions.values()) == 3


# -- the end ---------------------------------------------------------------------------------------


async def test_draining_lets_turns_finish_and_takes_no_more(tmp_path: Path) -> None:
    async with open_embedded(tmp_path) as gateway:
        conversation = gateway.conversation()
        with patience():
            async with conversation.turn(script("count to 30", pace_ms=5)) as turn:
                await first_delta(turn)
                gateway.drain()
                assert gateway.statistics().draining
                assert gateway.statistics().turns_running == 1
                with pytest.raises(Overloaded) as caught:
                    await gateway.query("Hello")
                assert caught.value.code == "draining"
                with trio.move_on_after(0.02) as patience_lost:
                    await gateway.wait_drained()
                assert patience_lost.cancelled_caught
                assert (await turn.reply()).text.endswith("30.")
            await gateway.wait_drained()
        assert repr(gateway).startswith("<Gateway draining")


async def test_a_gateway_that_ends_takes_its_turns_along(tmp_path: Path) -> None:
    outcomes: list[str] = []

    async def ask(gateway: Gateway, opened: trio.Event) -> None:
        async with gateway.conversation().turn(script("count to 1000", pace_ms=20)) as turn:
            await first_delta(turn)
            opened.set()
            with pytest.raises(Overloaded) as caught:
                await turn.reply()
            outcomes.append(caught.value.code)

    with patience():
        async with trio.open_nursery() as nursery:
            opened = trio.Event()
            async with open_ended(tmp_path) as gateway:
                nursery.start_soon(ask, gateway, opened)
                await opened.wait()
    assert outcomes == ["draining"]
    with pytest.raises(Overloaded), patience():
        await gateway.query("Hello?")


def open_ended(tmp_path: Path) -> Any:
    """A gateway whose users outlive it, so that their tasks are not its own."""
    settings = Settings(
        claude=ClaudeSettings(env={"HOME": str(tmp_path), "DEMO_CLI_SWITCHES": "{}"}, prewarm=0),
        storage=StorageSettings(path=tmp_path / "state"),
    )
    return open_gateway(settings, environ={"PATH": "/usr/bin:/bin"}, demo=True)


async def test_a_listener_receives_every_event_until_the_end(tmp_path: Path) -> None:
    seen: list[events.Event] = []

    async def listen(gateway: Gateway, listening: trio.Event) -> None:
        with gateway.bus.subscribe() as subscription:
            listening.set()
            async for event in subscription:
                seen.append(event)

    with patience():
        async with trio.open_nursery() as nursery, open_ended(tmp_path) as gateway:
            listening = trio.Event()
            nursery.start_soon(listen, gateway, listening)
            await listening.wait()
            await gateway.conversation().ask("Hello")
    spawned = {event.pid for event in seen if isinstance(event, events.ChildSpawned)}
    exited = {event.pid for event in seen if isinstance(event, events.ChildExited)}
    assert spawned == exited != set()


async def test_killing_the_children_fails_their_turns(tmp_path: Path) -> None:
    """A turn of which nothing was seen goes to another child, and there is none to come; so it is
    with tools, which the model cannot have called then. Where something was seen, it has failed."""
    tool = Tool("add")
    turns = {"silent": (SILENT, ()), "tools": (SILENT, (tool,)), "seen": (ENDLESS, ())}
    for name, (prompt, tools) in turns.items():
        async with open_embedded(tmp_path) as gateway, open_recorder(gateway) as recorder:
            conversation = gateway.conversation(tools=tools)
            with pytest.raises(GatewayError) as caught, patience():
                async with conversation.turn(prompt) as turn:
                    await recorder.wait_phase(conversation, "busy")
                    if name == "seen":
                        await first_delta(turn)
                    gateway.kill_children()
                    await turn.reply()
            error = caught.value
            if name != "seen":
                assert isinstance(error, Overloaded)
                assert error.code == "draining"
            else:
                assert isinstance(error, ChildDied)


async def test_what_the_block_raises_comes_out_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(LookupError), patience():
        async with open_embedded(tmp_path) as gateway:
            await gateway.query("Hello")
            raise LookupError
    with trio.CancelScope() as scope:
        async with open_embedded(tmp_path) as gateway:
            await gateway.query("Hello")
            scope.cancel()
            await trio.lowlevel.checkpoint()
    assert scope.cancelled_caught
