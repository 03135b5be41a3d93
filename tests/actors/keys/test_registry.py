"""How a gateway learns of keys that another one, or a command, has changed."""

from __future__ import annotations

import pytest
import trio

from ccapi.actors.keys import registry
from ccapi.actors.keys.registry import open_keys
from ccapi.schemas.errors import Unauthenticated
from ccapi.schemas.keys import NO_LIMITS, ApiKey
from ccapi.schemas.settings.settings import AuthSettings
from ccapi.transport.store.key_table import open_key_table
from ccapi.transport.store.postgres.store import open_postgres_store

ID = "a" * 64


async def test_a_key_that_a_command_revokes_is_refused_before_the_next_look(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "POLL_SECONDS", 600.0)

    def change(what: str) -> None:
        with open_key_table(postgres_url) as keys:
            if what == "add":
                keys.add(ApiKey(id=ID, name="ann", scopes=("chat",), created_at=1.0))
            else:
                keys.revoke(ID)

    async with (
        open_postgres_store(postgres_url, node_url="http://one") as store,
        open_keys(AuthSettings(), NO_LIMITS, store) as keys,
    ):
        await trio.to_thread.run_sync(change, "add")
        with trio.fail_after(10):
            # Also where hints come only from now on: then all is looked at.
            while not keys.holds(ID):
                await trio.sleep(0.01)
            await trio.to_thread.run_sync(change, "revoke")
            await keys.wait_revoked(ID)
        with pytest.raises(Unauthenticated):
            keys.find(ID)
