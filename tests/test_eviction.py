"""When there are too many conversations, those that nobody needs make room."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ccapi.actors.gateway import EVICTABLE_SECONDS, Gateway, open_gateway
from ccapi.schemas.errors import NotFound, RateLimited
from ccapi.schemas.settings import ConversationSettings
from tests.support.live import settings_for
from tests.support.processes import eventually


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Gateway]:
    settings = settings_for(
        tmp_path,
        {"HOME": str(tmp_path)},
        claude={"use_interactive_sessions": False},  # so that all sleep between turns
        conversation=ConversationSettings(max_conversations=3),
    )
    async with open_gateway(settings, environ={"PATH": "/usr/bin:/bin"}, demo=True) as gateway:
        yield gateway


async def test_the_owners_oldest_unused_goes_first(gateway: Gateway) -> None:
    used, other, unused = (gateway.conversation(owner=owner) for owner in "aba")
    await used.ask("Hello")
    gateway.conversation(owner="a")
    with pytest.raises(NotFound):
        gateway.find(unused.conversation_id, owner="a")
    assert gateway.find(used.conversation_id, owner="a").info.turns == 1
    assert gateway.find(other.conversation_id, owner="b").info.turns == 0
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
        gateway.find(conversations[1].conversation_id)
    assert gateway.statistics().conversations == 3


async def test_a_conversation_in_which_nothing_finished_can_be_abandoned(gateway: Gateway) -> None:
    empty, held = gateway.conversation(), gateway.conversation()
    await held.ask("Hello")
    empty.abandon()
    held.abandon()
    assert [info.conversation_id for info in gateway.conversations()] == [held.conversation_id]
