"""When there are too many conversations, or they hold too much in memory, those that no client
needs make room."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from ccapi.actors.conversations.conversation import Conversation
from ccapi.actors.gateway import EVICTABLE_SECONDS, Gateway
from ccapi.actors.opening import open_gateway
from ccapi.schemas.errors import NotFound, RateLimited
from ccapi.schemas.events import ConversationClosed
from ccapi.schemas.message import Message
from ccapi.schemas.settings.settings import ConversationSettings
from ccapi.schemas.turn import Options
from tests.support.embedded import open_embedded, open_recorder
from tests.support.live import settings_for
from tests.support.processes import eventually


@asynccontextmanager
async def open_small(tmp_path: Path, *, persist: bool) -> AsyncIterator[Gateway]:
    settings = settings_for(
        tmp_path,
        {"HOME": str(tmp_path)},
        claude={"use_interactive_sessions": False},  # so that all sleep between turns
        conversation=ConversationSettings(max_conversations=3),
        storage={"persist": persist},
    )
    async with open_gateway(settings, environ={"PATH": "/usr/bin:/bin"}, demo=True) as gateway:
        yield gateway


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Gateway]:
    async with open_small(tmp_path, persist=False) as gateway:
        yield gateway


async def test_the_owners_oldest_unused_goes_first(gateway: Gateway) -> None:
    used, other, unused = (gateway.conversation(owner=owner) for owner in "aba")
    await used.ask("Hello")
    gateway.conversation(owner="a")
    with pytest.raises(NotFound):
        gateway.loaded(unused.conversation_id, owner="a")
    assert gateway.loaded(used.conversation_id, owner="a").info.turns == 1
    assert gateway.loaded(other.conversation_id, owner="b").info.turns == 0
    assert gateway.statistics().conversations == 3


async def test_then_the_longest_asleep_if_it_has_slept_for_a_while(gateway: Gateway) -> None:
    conversations = [gateway.conversation() for _ in range(3)]
    for conversation in conversations:
        await conversation.ask("Hello")
    await eventually(lambda: gateway.statistics().sessions == {"asleep": 3})
    with pytest.raises(RateLimited):
        gateway.conversation()
    for conversation, age in zip(conversations, (1, 3, 2), strict=True):
        conversation.entry.used_at -= age * EVICTABLE_SECONDS + 1
    gateway.conversation()
    with pytest.raises(NotFound):
        gateway.loaded(conversations[1].conversation_id)
    assert gateway.statistics().conversations == 3


async def test_one_that_is_stored_makes_room_at_once_and_comes_back(tmp_path: Path) -> None:
    async with open_small(tmp_path, persist=True) as gateway:
        conversations = [gateway.conversation() for _ in range(3)]
        for conversation in conversations:
            await conversation.ask("Hello")
        await eventually(lambda: gateway.statistics().sessions == {"asleep": 3})
        for conversation, age in zip(conversations, (1, 3, 2), strict=True):
            conversation.entry.used_at -= age
        gateway.conversation()
        with pytest.raises(NotFound):
            gateway.loaded(conversations[1].conversation_id)
        found = await gateway.find(conversations[1].conversation_id)
        assert gateway.statistics().conversations == 3
        assert "**3**" in (await found.ask("how many messages?")).text


async def test_several_who_ask_for_one_at_once_get_the_same(tmp_path: Path) -> None:
    """The first one is cancelled while it loads the conversation."""
    async with open_small(tmp_path, persist=True) as gateway:
        conversation = gateway.conversation()
        await conversation.ask("Hello")
    async with open_small(tmp_path, persist=True) as gateway:
        found = []

        async def find() -> None:
            found.append((await gateway.find(conversation.conversation_id)).entry)

        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                with trio.move_on_after(0.0):
                    await find()
                for _ in range(5):
                    nursery.start_soon(find)
        assert len(found) == 5
        assert len(set(map(id, found))) == 1
        assert gateway.statistics().conversations == 1


async def test_one_that_a_client_has_open_makes_no_room(gateway: Gateway) -> None:
    asked, unused, other = (gateway.conversation() for _ in range(3))
    await asked.ask("Hello")
    await eventually(lambda: asked.info.phase == "asleep")
    asked.entry.used_at -= 2 * EVICTABLE_SECONDS
    with asked.broadcast.watch(), unused.broadcast.watch():
        unused.abandon()
        gateway.conversation()
        assert not lives(gateway, other)
        with unused.broadcast.watch():
            gateway.conversation()  # in the place of the one before
        assert lives(gateway, asked)
        assert lives(gateway, unused)
    # Who has just left may be on the way back.
    gateway.conversation()
    assert lives(gateway, asked)
    assert lives(gateway, unused)


async def test_a_conversation_in_which_nothing_finished_can_be_abandoned(gateway: Gateway) -> None:
    empty, held = gateway.conversation(), gateway.conversation()
    await held.ask("Hello")
    empty.abandon()
    held.abandon()
    assert [info.conversation_id for info in gateway.conversations()] == [held.conversation_id]


# -- memory ----------------------------------------------------------------------------------------

BIG = 100_000
HELD = ConversationSettings(max_held_bytes=3 * BIG + BIG // 2)


async def ask_and_cut(conversation: Conversation, name: str) -> None:
    """A turn whose answer is cut short: no transcript holds it, so its messages are kept."""
    prompt = [
        Message("user", (f"My name is {name}. " + "x" * BIG,)),
        Message("assistant", ("Hello.",)),
        Message("user", ("Say: one two three four",)),
    ]
    reply = await conversation.ask(prompt, options=Options(max_tokens=2))
    assert reply.finish_reason == "length"
    await eventually(lambda: conversation.info.phase == "asleep")
    assert conversation.entry.memory.seed


def lives(gateway: Gateway, conversation: Conversation) -> bool:
    return conversation.conversation_id in {
        info.conversation_id for info in gateway.conversations()
    }


async def test_cut_answers_give_way_oldest_first_and_the_newer_ones_go_on(tmp_path: Path) -> None:
    async with (
        open_embedded(tmp_path, conversation=HELD) as gateway,
        open_recorder(gateway) as recorder,
    ):
        conversations = []
        for number in range(6):
            conversations.append(gateway.conversation(private=False))
            await ask_and_cut(conversations[-1], f"number {number}")
        assert [lives(gateway, each) for each in conversations] == [False] * 3 + [True] * 3
        with pytest.raises(NotFound):
            await conversations[0].ask("Hello")
        for number, conversation in enumerate(conversations[3:], 3):
            reply = await conversation.ask("What was the first thing that I said?")
            assert f"My name is number {number}." in reply.text
        await recorder.wait(
            lambda event: (
                isinstance(event, ConversationClosed)
                and (event.conversation_id, event.reason)
                == (conversations[2].conversation_id, "evicted")
            )
        )


def told(size: int) -> tuple[Message, Message]:
    return Message("user", ("x" * size,)), Message("assistant", ("Hello.",))


async def test_seeds_of_new_conversations_count_and_private_ones_go_last(tmp_path: Path) -> None:
    async with open_embedded(tmp_path, conversation=HELD) as gateway:
        named = gateway.conversation(seed=told(BIG))
        others = [gateway.conversation(seed=told(BIG), private=False) for _ in range(4)]
        assert [lives(gateway, each) for each in others] == [False, False, True, True]
        assert lives(gateway, named)
        # What is larger than all may be costs no other conversation its place, and is logged once
        # at least.
        huge = gateway.conversation(seed=told(4 * BIG))
        assert (await huge.ask("How many messages?")).text
        assert [lives(gateway, each) for each in (named, *others[2:], huge)] == [True] * 4
        huger = gateway.conversation(seed=told(4 * BIG))
        gateway.conversation()
        assert not lives(gateway, huger)


async def test_what_a_client_has_open_is_kept_beyond_the_bound(tmp_path: Path) -> None:
    async with open_embedded(tmp_path, conversation=HELD) as gateway:
        shown = [gateway.conversation(seed=told(BIG)) for _ in range(3)]
        with shown[0].broadcast.watch(), shown[1].broadcast.watch():
            others = [gateway.conversation(seed=told(BIG)) for _ in range(3)]
            alive = [lives(gateway, each) for each in (*shown, *others)]
            assert alive == [True, True, False, False, False, True]


async def test_who_fell_asleep_after_the_last_turn_gives_way_in_time(tmp_path: Path) -> None:
    # The supervisor looks every minute, or as often as conversations expire.
    soon = ConversationSettings(max_held_bytes=BIG // 2, session_timeout_minutes=1 / 120)
    async with (
        open_embedded(tmp_path, conversation=soon) as gateway,
        open_recorder(gateway) as recorder,
    ):
        huge = gateway.conversation(seed=told(BIG))
        huge.entry.used_at += 600  # so that it does not expire
        closed = await recorder.wait(lambda event: isinstance(event, ConversationClosed))
        assert closed == ConversationClosed(huge.conversation_id, "evicted")


async def test_what_leaves_memory_is_no_nodes_any_more(tmp_path: Path) -> None:
    """So another node may serve it, without asking this one."""
    async with open_small(tmp_path, persist=True) as gateway:
        store = gateway.archive.store
        assert store is not None
        first = gateway.conversation()
        await first.ask("Hello")
        await eventually(lambda: first.info.phase == "asleep")
        name = first.conversation_id
        assert (await store.head(name)).owner == store.node.id
        for _ in range(3):
            await gateway.conversation().ask("Hello")
        with pytest.raises(NotFound):
            gateway.loaded(name)
        with trio.fail_after(10):
            while (await store.head(name)).owner is not None:
                await trio.sleep(0.01)
        again = await gateway.find(name)
        await again.ask("Are you there?")
        head = await store.head(name)
        assert (head.owner, again.info.turns) == (store.node.id, 2)
