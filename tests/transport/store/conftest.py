"""Each test of the contract runs over every store."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ccapi.transport.store.interface import Store
from ccapi.transport.store.memory import open_memory_store
from ccapi.transport.store.opening import open_sqlite_store

from .support import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["memory", "sqlite"])
async def store(
    request: pytest.FixtureRequest, tmp_path: Path, clock: Clock
) -> AsyncIterator[Store]:
    if request.param == "memory":
        async with open_memory_store(clock) as opened:
            yield opened
    else:
        async with open_sqlite_store(tmp_path / "state", clock) as opened:
            yield opened
