"""Each test of the contract runs over every store."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psycopg
import pytest

from ccapi.transport.store.interface import Store
from ccapi.transport.store.memory import open_memory_store
from ccapi.transport.store.opening import open_sqlite_store
from ccapi.transport.store.postgres.store import open_postgres_store
from tests.support.postgres import Engine, engine

from .support import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


EMPTY = """
delete from conversation; delete from response; delete from usage; delete from api_key;
delete from request; delete from node; delete from allowance; delete from permit;
delete from file; delete from batch;
update counter set value = 0 where name = 'keys'
"""


@pytest.fixture(scope="session")
def postgres() -> Iterator[Engine]:
    """One engine for all tests."""
    with engine() as started:
        yield started


@pytest.fixture(scope="session")
def tables(postgres: Engine) -> str:
    """A database that many tests use, one after the other."""
    return postgres.new_database()


@pytest.fixture
def url(postgres: Engine, tables: str) -> Iterator[str]:
    """A database in which nothing is kept."""
    yield tables
    with psycopg.connect(tables, autocommit=True) as connection:
        connection.execute(EMPTY)


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def kind(request: pytest.FixtureRequest) -> tuple[str, str]:
    """Which store, and the URL of its database."""
    is_shared = request.param == "postgres"
    return request.param, request.getfixturevalue("url") if is_shared else ""


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
