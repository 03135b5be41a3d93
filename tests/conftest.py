"""What all tests share: Hypothesis measures no time, since machines are noisy; a session raises on
an event that fits no phase, which it only logs in production; and no test hangs for ever.

A test on trio is cancelled after `LONGEST_TEST` seconds of the real clock, so that the traceback
shows what it waited for and its processes go with it. pytest-timeout ends what that does not reach:
tests without trio, fixtures, and a loop that never yields.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Coroutine, Iterator
from functools import wraps
from typing import Any

import pytest
import trio
from hypothesis import HealthCheck, settings
from trio.testing import MockClock

from ccapi.actors.session import actor
from tests.support.postgres import Engine, empty, engine

LONGEST_TEST = float(os.environ.get("CCAPI_TEST_SECONDS", "300"))
"""A test by hand may take longer (``CCAPI_TEST_SOAK``)."""

settings.register_profile(
    "ccapi",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    # `.ci/run` tries the same examples in each run, other runs try others.
    derandomize="CCAPI_TEST_DERANDOMIZE" in os.environ,
)
settings.load_profile("ccapi")

actor.RAISE_UNEXPECTED = True


def bounded(
    test: Callable[..., Coroutine[Any, Any, None]],
) -> Callable[..., Coroutine[Any, Any, None]]:
    @wraps(test)
    async def bounded_test(*args: Any, **kwargs: Any) -> None:
        # A mock clock jumps as far as a test likes: 300 seconds of it say nothing.
        if isinstance(trio.lowlevel.current_clock(), MockClock):
            await test(*args, **kwargs)
            return
        with trio.fail_after(LONGEST_TEST):
            await test(*args, **kwargs)

    return bounded_test


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if not isinstance(item, pytest.Function) or hasattr(item.obj, "hypothesis"):
            continue
        if inspect.iscoroutinefunction(item.obj):
            item.obj = bounded(item.obj)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Engine]:
    """One PostgreSQL for all tests that want one; it ends with them."""
    with engine() as started:
        yield started


@pytest.fixture(scope="session")
def postgres_tables(postgres: Engine) -> str:
    """A place that many tests use, one after the other."""
    return postgres.new_place()


@pytest.fixture
def postgres_url(postgres_tables: str) -> Iterator[str]:
    """The URL of a database in which nothing is kept."""
    yield postgres_tables
    empty(postgres_tables)
