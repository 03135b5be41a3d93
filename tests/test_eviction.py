"""When there are too many conversations, those that have slept longest make room."""

from __future__ import annotations

from pathlib import Path

import pytest

from ccapi.actors.gateway import EVICTABLE_SECONDS, open_gateway
from ccapi.schemas.errors import NotFound, RateLimited
from ccapi.schemas.settings import ConversationSettings
from tests.support.live import settings_for


async def test_the_longest_asleep_makes_room(tmp_path: Path) -> None:
    settings = settings_for(
        tmp_path, {"HOME": str(tmp_path)}, conversation=ConversationSettings(max_conversations=3)
    )
    async with open_gateway(settings, environ={"PATH": "/usr/bin:/bin"}, demo=True) as gateway:
        live, older, old = (gateway.conversation() for _ in range(3))
        await live.ask("Hello")
        with pytest.raises(RateLimited):
            gateway.conversation()
        for conversation, age in ((live, 3), (older, 2), (old, 1)):
            conversation.entry.used_at -= age * EVICTABLE_SECONDS + 1
        gateway.conversation()
        with pytest.raises(NotFound):
            gateway.find(older.conversation_id)
        assert gateway.find(old.conversation_id).info.turns == 0
        assert gateway.find(live.conversation_id).info.turns == 1
        assert gateway.statistics().conversations == 3
