"""Each test of the contract runs over every store."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ccapi.transport.store.interface import Store
from ccapi.transport.store.memory import open_memory_store
from ccapi.transport.store.opening import open_sqlite_store
from ccapi.transport.store.postgres.store import open_postgres_store

from .support import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def kind(request: pytest.FixtureRequest) -> tuple[str, str]:
    """Which store, and the URL of its database."""
    is_shared = request.param == "postgres"
    return request.param, request.getfixturevalue("postgres_url") if is_shared else ""


@pytest.fixture
async def store(kind: tuple[str, str], tmp_path: Path, clock: Clock) -> AsyncIterator[Store]:
    match kind:
        case "memory", _:
            async with open_memory_store(clock) as opened:
                yield opened
        case "sqlite", _:
            async with open_sqlite_store(tmp_path / "state", clock) as opened:
                yield opened
        case _, url:
            async with open_postgres_store(url, clock=clock) as shared:
                yield shared
