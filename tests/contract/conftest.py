"""Fixtures of the CLI contract suite: a stub of the API, and real children in front of it.

The suite holds what the gateway believes about the Claude Code CLI, one fact a test, named after
the fact. It runs against whichever real CLI is installed; a release that changes a fact is named
by the test that fails. Nothing of the gateway's own code takes part.
"""

from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import pytest

from tests.support.messages_stub import MessagesStub, open_messages_stub
from tests.support.raw_agent import open_raw_agent
from tests.support.raw_cli import (
    CHILD_ENVIRONMENT,
    GENERIC_FLAGS,
    RawCli,
    adoption,
    cli_environment,
    open_raw_cli,
)


class OpenChild(Protocol):
    """Spawns a generic child in the test's folder; unless told not to, adopts it."""

    def __call__(
        self,
        *flags: str,
        adopt: bool = True,
        environment: Mapping[str, str] = ...,
        without: Collection[str] = (),
    ) -> AbstractAsyncContextManager[RawCli]: ...


class OpenAgent(Protocol):
    """Spawns an agent; see `open_raw_agent` for what it can be given."""

    def __call__(self, *flags: str, **given: Any) -> AbstractAsyncContextManager[RawCli]: ...


@pytest.fixture
async def stub() -> AsyncIterator[MessagesStub]:
    """The API that every child of the test talks to."""
    async with open_messages_stub() as running:
        yield running


@pytest.fixture
def open_child(stub: MessagesStub, tmp_path: Path) -> OpenChild:
    """How a test gets a child that it must configure, or more than one."""

    @asynccontextmanager
    async def spawn(
        *flags: str,
        adopt: bool = True,
        environment: Mapping[str, str] | None = None,
        without: Collection[str] = (),
    ) -> AsyncIterator[RawCli]:
        whole = cli_environment(tmp_path, stub.url) | CHILD_ENVIRONMENT | dict(environment or {})
        kept = {name: value for name, value in whole.items() if name not in without}
        async with open_raw_cli(kept, tmp_path, (*GENERIC_FLAGS, *flags)) as cli:
            if adopt:
                # Not waited for: the next frame the test writes is pipelined behind it.
                await cli.send(cli.control_frame("initialize", **adoption()))
            yield cli

    return spawn


@pytest.fixture
async def child(open_child: OpenChild) -> AsyncIterator[RawCli]:
    """A generic child that has been adopted."""
    async with open_child() as cli:
        yield cli


@pytest.fixture
def open_agent(stub: MessagesStub, tmp_path: Path) -> OpenAgent:
    """How a test gets an agent that it must configure, or more than one."""
    return partial(open_raw_agent, tmp_path, stub.url)


@pytest.fixture
async def agent(open_agent: OpenAgent) -> AsyncIterator[RawCli]:
    """An agent in a workspace of its own."""
    async with open_agent() as cli:
        yield cli
