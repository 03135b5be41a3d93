"""Connections to the servers that clients name by URL, over links that the tests play."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from ccapi.actors.mcp.connections import COUNTED_AS, IDLE_SECONDS, MAX_CONNECTIONS, Connections
from ccapi.actors.mcp.servers import McpServers, list_mcp_servers
from ccapi.schemas.errors import Overloaded
from ccapi.schemas.events import McpCalled, McpServerChanged
from ccapi.schemas.mcp_connection import Connection, origin_of
from ccapi.schemas.settings.rules import MASK
from ccapi.transport.mcp.interface import CallError, NeedsAuth
from tests.support.mcp_links import World

SECRET = "secret-of-one-client"


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path / "mcp.json")
    world.write()
    return world


def connection(owner: str = "a", label: str = "web", secret: str = SECRET) -> Connection:
    headers = frozenset({("authorization", f"Bearer {secret}")})
    return Connection(owner, label, "https://mcp.example/mcp", headers)


def of(servers: McpServers) -> Connections:
    assert servers.connections is not None
    return servers.connections


async def test_two_owners_share_nothing(world: World, autojump_clock: MockClock) -> None:
    async with world.open() as servers:
        for each in (connection(), connection(), connection("b"), connection(secret="other")):
            state, [tool] = await of(servers).list_tools(each)
            assert (state.state, tool.full_name, tool.connection) == (
                "ready",
                "mcp__web__echo",
                each,
            )
        assert len(of(servers)) == len(world["web"].links) == 3
        _, [tool] = await of(servers).list_tools(connection("b"))
        assert "isError" not in await servers.call(tool, {})
        assert [link.calls for link in world["web"].links] == [0, 1, 0]
        assert servers.find("mcp__web__echo") is None
        assert list_mcp_servers(servers)["data"] == []


async def test_idle_ones_are_closed_and_made_again(world: World, autojump_clock: MockClock) -> None:
    async with world.open() as servers:
        _, [tool] = await of(servers).list_tools(connection())
        await trio.sleep(IDLE_SECONDS - 1)
        assert world["web"].connected == 1
        await trio.sleep(2)
        assert (len(of(servers)), world["web"].connected) == (0, 0)
        assert "isError" not in await servers.call(tool, {})
        world["web"].seconds = 2 * IDLE_SECONDS / 3
        for _ in range(2):
            await servers.call(tool, {})
        assert len(world["web"].links) == 2


async def test_the_longest_idle_one_goes(world: World, autojump_clock: MockClock) -> None:
    async with world.open() as servers:
        for number in range(MAX_CONNECTIONS):
            await of(servers).list_tools(connection(str(number)))
            await trio.sleep(0.1)
        await of(servers).list_tools(connection("0"))
        await of(servers).list_tools(connection("new"))
        await trio.sleep(0.1)
        ended = [link.ended.is_set() for link in world["web"].links]
        assert (len(of(servers)), ended.index(True), sum(ended)) == (MAX_CONNECTIONS, 1, 1)
        world["web"].seconds = 60
        async with trio.open_nursery() as nursery:
            for each in [*of(servers)._held]:
                _, [tool] = await of(servers).list_tools(each)
                nursery.start_soon(servers.call, tool, {})
            await trio.sleep(1)
            with pytest.raises(Overloaded, match="server_url"):
                await of(servers).list_tools(connection("more"))
            nursery.cancel_scope.cancel()


async def test_a_server_that_refuses_is_asked_again_by_the_next_request(
    world: World, autojump_clock: MockClock
) -> None:
    async with world.open() as servers:
        world["web"].refusals = [NeedsAuth(f"it refuses {SECRET}")]
        state, tools = await of(servers).list_tools(connection())
        assert (state.state, state.reason, tools) == ("needs_auth", f"it refuses {MASK}", ())
        state, tools = await of(servers).list_tools(connection())
        assert (state.state, len(tools)) == ("ready", 1)


async def test_a_silent_server_is_not_waited_for_longer_than_said(
    world: World, autojump_clock: MockClock
) -> None:
    async with world.open(start_timeout_seconds=3.0) as servers:
        world["web"].connect_seconds = 100
        began = trio.current_time()
        state, tools = await of(servers).list_tools(connection())
        assert state.state != "ready"
        assert not tools
        assert trio.current_time() - began <= 3.1


async def test_secrets_and_labels_are_not_shown(
    world: World, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with world.open() as servers:
        with world.bus.subscribe(McpCalled, McpServerChanged) as news:
            _, [tool] = await of(servers).list_tools(connection())
            world["web"].error = CallError(f"bad token {SECRET}")
            result = await servers.call(tool, {})
            event = news.receive_nowait()
            with pytest.raises(trio.WouldBlock):
                news.receive_nowait()
        assert isinstance(event, McpCalled)
        assert event.server == COUNTED_AS
        assert result["isError"]
        shown = [repr(tool), repr(connection()), str(result), repr(servers), caplog.text]
        assert not [each for each in shown if SECRET in each or "mcp.example" in each]


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("https://MCP.example/x?y", "https://mcp.example"),
        ("https://mcp.example:443/", "https://mcp.example"),
        ("http://127.0.0.1:9000/mcp", "http://127.0.0.1:9000"),
        ("http://[::1]:9000/mcp", "http://[::1]:9000"),
        ("https://mcp.example@evil.example/", None),
        ("https://mcp.example\\@evil.example/", None),
        ("https://mcp.example/#x", None),
        ("ftp://mcp.example/", None),
        ("https://mcp.example:0/", None),
        ("https://mcp.example:99999/", None),
        ("https:///x", None),
        ("mcp.example", None),
    ],
)
def test_origins(url: str, origin: str | None) -> None:
    assert origin_of(url) == origin
