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

from tests.support.logins import (
    LoginName,
    RefusingProxy,
    asked_as,
    child_environment,
    child_flags,
    login_environment,
    open_refusing_proxy,
)
from tests.support.messages_stub import MessagesStub, open_messages_stub
from tests.support.raw_agent import open_raw_agent
from tests.support.raw_cli import (
    GENERIC_FLAGS,
    RawCli,
    adoption,
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


PROFILE_CALL = "CONNECT api.anthropic.com:443"
"""What a child with a credentials file asks for at its start, wherever the API is."""

REFRESH_CALL = "CONNECT platform.claude.com:443"
"""What it asks for when the API has refused its login."""


@pytest.fixture
def login(request: pytest.FixtureRequest) -> LoginName:
    """How the test's children are logged in: by a key, unless the test says `every_login`."""
    name: LoginName = getattr(request, "param", "key")
    return name


@pytest.fixture
async def proxy() -> AsyncIterator[RefusingProxy]:
    """What stands between the test's children and everything but loopback."""
    async with open_refusing_proxy() as running:
        yield running


@pytest.fixture
async def open_child(
    stub: MessagesStub, proxy: RefusingProxy, tmp_path: Path, login: LoginName
) -> AsyncIterator[OpenChild]:
    """How a test gets a child that it must configure, or more than one. In the end nothing has left
    the machine, and all that the API was asked showed the login."""

    @asynccontextmanager
    async def spawn(
        *flags: str,
        adopt: bool = True,
        environment: Mapping[str, str] | None = None,
        without: Collection[str] = (),
    ) -> AsyncIterator[RawCli]:
        whole = login_environment(login, tmp_path, stub.url, proxy.url)
        whole |= child_environment(login) | dict(environment or {})
        kept = {name: value for name, value in whole.items() if name not in without}
        all_flags = (*GENERIC_FLAGS, *child_flags(login), *flags)
        async with open_raw_cli(kept, tmp_path, all_flags) as cli:
            if adopt:
                # Not waited for: the next frame the test writes is pipelined behind it.
                await cli.send(cli.control_frame("initialize", **adoption()))
            yield cli

    yield spawn
    assert set(proxy.asked) <= ({PROFILE_CALL, REFRESH_CALL} if login == "file" else set())
    assert asked_as(stub, login)


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
