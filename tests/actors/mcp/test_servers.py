"""The actors of the operator's MCP servers, over links that the tests play."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from ccapi.actors.mcp.server import LISTING_SECONDS, PAUSE_SECONDS, STEADY_SECONDS
from ccapi.actors.mcp.servers import McpServers, ServerState, list_mcp_servers, open_mcp_servers
from ccapi.actors.runtime.bus import Bus
from ccapi.schemas.events import McpCalled, McpServerChanged
from ccapi.schemas.mcp_tools import ServerTool
from ccapi.schemas.settings.settings import McpSettings, SettingsError
from ccapi.transport.mcp.interface import CallError, LinkError, NeedsAuth
from tests.support.mcp_links import World, tool


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "mcp.json")


def state_of(servers: McpServers, name: str) -> ServerState:
    return next(state for state in servers.states() if state.name == name)


def names(servers: McpServers) -> list[str]:
    return [tool.full_name for tool in servers.tools()]


def found(servers: McpServers, name: str) -> ServerTool:
    tool = servers.find(name)
    assert tool is not None
    return tool


async def call(servers: McpServers, name: str = "mcp__a__echo", **arguments: Any) -> dict[str, Any]:
    with trio.fail_after(3600):
        return await servers.call(found(servers, name), arguments)


def text_of(result: dict[str, Any]) -> str:
    (block,) = result["content"]
    return str(block["text"])


def said_error(result: dict[str, Any]) -> str:
    assert result["isError"] is True
    return text_of(result)


# -- without servers -------------------------------------------------------------------------------


async def test_without_mcp_there_is_an_empty_registry(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    settings = McpSettings(config_file=tmp_path / "not there")
    async with open_mcp_servers(settings, Bus()) as servers:
        assert not servers.names
        assert not servers.tools()
        assert not servers.states()
        assert servers.per_conversation == {}
        assert servers.version == 0
        assert servers.find("mcp__a__b") is None
        gone = ServerTool("a", "b", "mcp__a__b", "", "{}", False)
        assert "no MCP server a" in said_error(await servers.call(gone, {}))
        await servers.reload()


# -- the file --------------------------------------------------------------------------------------


async def refused(world: World, **settings: Any) -> str:
    with pytest.raises(SettingsError) as raised:
        async with world.open(**settings):
            raise AssertionError("it started")
    return str(raised.value)


async def test_a_missing_file_is_refused_at_the_start(
    autojump_clock: MockClock, world: World
) -> None:
    said = await refused(world)
    assert said == f"mcp.config_file: {world.path} cannot be read: No such file or directory"


async def test_a_broken_file_is_refused_with_file_and_server(
    autojump_clock: MockClock, world: World
) -> None:
    world.write(notes={"foo": 1})
    said = await refused(world)
    assert said.startswith(f"{world.path}: mcpServers.notes: has neither command and url")


async def test_an_unknown_server_of_per_conversation_is_refused(
    autojump_clock: MockClock, world: World
) -> None:
    world.write("a")
    assert "mcp.per_conversation: names b" in await refused(world, per_conversation=("b",))


async def test_servers_of_each_conversation_are_not_connected_to(
    autojump_clock: MockClock, world: World
) -> None:
    world.write("a", "b")
    async with world.open(per_conversation=("b",)) as servers:
        await wait_all_tasks_blocked()
        assert servers.names == ("a",)
        assert servers.per_conversation == {
            "b": {"type": "stdio", "command": "b", "args": [], "env": {}}
        }
        assert not world["b"].tries


# -- the states ------------------------------------------------------------------------------------


async def test_the_start_does_not_wait_and_tools_come_as_servers_are_ready(
    autojump_clock: MockClock, world: World
) -> None:
    world.write("slow", "a")
    world["slow"].connect_seconds = 20
    world["a"].connect_seconds = 1
    began = trio.current_time()
    async with world.open() as servers:
        assert trio.current_time() == began
        assert [state.state for state in servers.states()] == ["connecting", "connecting"]
        assert names(servers) == []
        await trio.sleep(2)
        assert names(servers) == ["mcp__a__echo"]
        assert servers.version == 1
        await trio.sleep(20)
        assert names(servers) == ["mcp__slow__echo", "mcp__a__echo"]  # the order of the file
        assert servers.version == 2
        assert [state.state for state in servers.states()] == ["ready", "ready"]


async def test_a_server_that_cannot_be_reached_is_tried_again_with_growing_pauses(
    autojump_clock: MockClock,
    world: World,
) -> None:
    world.write("a")
    world["a"].refusals = [LinkError("no program")] * 9
    began = trio.current_time()
    async with world.open() as servers:
        await wait_all_tasks_blocked()
        state = state_of(servers, "a")
        assert (state.state, state.reason, state.next_try) == ("failed", "no program", 0.5)
        await trio.sleep(200)
        assert state_of(servers, "a").state == "ready"
        assert state_of(servers, "a").reason == ""
    tries = [at - began for at in world["a"].tries]
    pauses = [round(after - before, 3) for before, after in pairwise(tries)]
    assert pauses == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]


async def test_a_server_that_never_starts_is_failed_after_its_time(
    autojump_clock: MockClock, world: World
) -> None:
    world.write("a")
    world["a"].connect_seconds = 1e6
    async with world.open(start_timeout_seconds=5) as servers:
        await trio.sleep(5.2)
        state = state_of(servers, "a")
        assert (state.state, state.reason) == ("failed", "it was not ready within 5 seconds")


async def test_listing_belongs_to_the_start(autojump_clock: MockClock, world: World) -> None:
    world.write("a")
    world["a"].listing_seconds = 1e6
    async with world.open(start_timeout_seconds=5) as servers:
        await trio.sleep(5.2)
        assert state_of(servers, "a").state == "failed"
        assert world["a"].connected == 0


async def test_one_that_asks_for_authorization_waits_for_the_operator(
    autojump_clock: MockClock, world: World
) -> None:
    world.write("a")
    world["a"].refusals = [NeedsAuth("HTTP 401")]
    async with world.open() as servers:
        await trio.sleep(3600)
        state = state_of(servers, "a")
        assert (state.state, state.reason, state.next_try) == ("needs_auth", "HTTP 401", None)
        assert len(world["a"].tries) == 1
        await servers.reload()  # the operator says that it may work now
        await trio.sleep(1)
        assert state_of(servers, "a").state == "ready"


async def test_one_that_dies_is_connected_to_again_and_keeps_its_tools(
    autojump_clock: MockClock, world: World
) -> None:
    world.write("a")
    async with world.open() as servers:
        await wait_all_tasks_blocked()
        world["a"].refusals = [LinkError("not yet")]
        world["a"].die()
        await wait_all_tasks_blocked()
        assert state_of(servers, "a").state == "failed"
        assert names(servers) == ["mcp__a__echo"]
        assert servers.version == 1
        assert "is not connected (it is gone)" in said_error(await call(servers))
        await trio.sleep(2)
        assert state_of(servers, "a").state == "ready"
        assert servers.version == 1  # the same tools
        assert text_of(await call(servers, x=1)) == '{"x": 1}'


@pytest.mark.parametrize("steady", [True, False])
async def test_the_pause_begins_anew_after_a_steady_connection(
    autojump_clock: MockClock, world: World, steady: bool
) -> None:
    world.write("a")
    async with world.open() as servers:
        world["a"].refusals = [LinkError("x")] * 3
        await trio.sleep(10)
        assert state_of(servers, "a").state == "ready"
        await trio.sleep(STEADY_SECONDS if steady else 0)
        world["a"].die()
        await wait_all_tasks_blocked()
        next_try = state_of(servers, "a").next_try
        assert next_try is not None
        assert (next_try == PAUSE_SECONDS[0]) is steady


async def test_a_link_that_breaks_in_another_way_is_an_error_like_others(
    autojump_clock: MockClock, world: World
) -> None:
    world.write("a")
    world["a"].refusals = [ValueError("a bug")]  # type: ignore[list-item]
    async with world.open() as servers:
        await wait_all_tasks_blocked()
        assert state_of(servers, "a").reason == "the gateway's link to it failed (ValueError)"
        await trio.sleep(1)
        assert state_of(servers, "a").state == "ready"


async def test_states_are_published(autojump_clock: MockClock, world: World) -> None:
    world.write("a")
    with world.bus.subscribe(McpServerChanged) as news:
        async with world.open() as servers:
            await wait_all_tasks_blocked()
            world["a"].die()
            await wait_all_tasks_blocked()
            world.write("b")
            await servers.reload()
        seen = []
        with pytest.raises(trio.WouldBlock):
            while True:
                event = news.receive_nowait()
                assert isinstance(event, McpServerChanged)
                seen += [event.state] * (event.server == "a")
    assert (seen[:3], seen[-1]) == (["connecting", "ready", "failed"], "gone")


# -- strict ----------------------------------------------------------------------------------------


async def test_strict_waits_until_all_are_ready(autojump_clock: MockClock, world: World) -> None:
    world.write("a", "b")
    world["b"].connect_seconds = 7
    world["a"].refusals = [LinkError("not yet")]
    async with world.open(strict=True) as servers:
        assert [state.state for state in servers.states()] == ["ready", "ready"]


async def test_strict_refuses_to_start_and_names_those_that_are_not_ready(
    autojump_clock: MockClock, world: World
) -> None:
    world.write("a", "b", "c")
    world["b"].refusals = [LinkError("no program b")] * 99
    world["c"].connect_seconds = 1e6
    began = trio.current_time()
    said = await refused(world, strict=True, start_timeout_seconds=10)
    assert trio.current_time() - began == pytest.approx(10)
    b, c = said.splitlines()
    assert b == "mcp.strict: the MCP server b is not ready: no program b"
    assert c.startswith("mcp.strict: the MCP server c is not ready: ")
    assert world["a"].connected == 0


async def test_strict_does_not_wait_for_one_that_needs_the_operator(
    autojump_clock: MockClock, world: World
) -> None:
    world.write("a")
    world["a"].refusals = [NeedsAuth("HTTP 401")]
    began = trio.current_time()
    assert "HTTP 401" in await refused(world, strict=True)
    assert trio.current_time() == began


# -- tools -----------------------------------------------------------------------------------------


async def test_a_bad_tool_is_left_out_and_told(autojump_clock: MockClock, world: World) -> None:
    world.write("a")
    world["a"].tools = [tool("echo"), tool("weird name!"), tool("b", inputSchema={"type": "array"})]
    async with world.open() as servers:
        await wait_all_tasks_blocked()
        assert names(servers) == ["mcp__a__echo", "mcp__a__b"]
        assert json.loads(found(servers, "mcp__a__b").schema) == {"type": "object"}
        state = state_of(servers, "a")
        assert state.tools == 2
        assert [left.name for left in state.left_out] == ["weird name!"]


async def test_a_changed_list_is_fetched_again(autojump_clock: MockClock, world: World) -> None:
    world.write("a")
    async with world.open() as servers:
        await wait_all_tasks_blocked()
        world["a"].tools = [tool("echo"), tool("more")]
        world["a"].link.options.changed()
        await trio.sleep(1)
        assert names(servers) == ["mcp__a__echo", "mcp__a__more"]
        assert servers.version == 2
        world["a"].link.options.changed()  # nothing is different
        await trio.sleep(1)
        assert servers.version == 2
        world["a"].tools = []
        world["a"].link.options.changed()
        await trio.sleep(1)
        assert names(servers) == []
        assert servers.version == 3


async def test_a_server_that_says_for_ever_that_it_changed_is_asked_now_and_then(
    autojump_clock: MockClock,
    world: World,
) -> None:
    world.write("a")
    async with world.open():
        await wait_all_tasks_blocked()
        world["a"].is_restless = True
        world["a"].link.options.changed()
        await trio.sleep(10.1)
        assert world["a"].link.listings == pytest.approx(10 / LISTING_SECONDS, abs=3)


async def test_a_list_that_fails_leaves_the_last_one(
    autojump_clock: MockClock, world: World
) -> None:
    world.write("a")
    async with world.open(start_timeout_seconds=5) as servers:
        await wait_all_tasks_blocked()
        world["a"].listing_seconds = 1e6
        world["a"].link.options.changed()
        await trio.sleep(10)
        assert names(servers) == ["mcp__a__echo"]
        assert state_of(servers, "a").state == "ready"


# -- calls -----------------------------------------------------------------------------------------


async def test_many_calls_run_at_once_over_one_connection(
    autojump_clock: MockClock, world: World
) -> None:
    world.write("a")
    world["a"].seconds = 10
    async with world.open() as servers:
        await wait_all_tasks_blocked()
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            for number in range(50):
                nursery.start_soon(lambda number: call(servers, n=number), number)
        assert trio.current_time() - began == pytest.approx(10)
        assert len(world["a"].links) == 1
        state = state_of(servers, "a")
        assert (state.calls, state.errors) == (50, 0)
        assert state.latency_ms["p50"] == pytest.approx(10_000)
        assert state.latency_ms["count"] == 50


async def test_calls_in_flight_end_at_once_when_their_server_dies(
    autojump_clock: MockClock, world: World
) -> None:
    world.write("a")
    world["a"].seconds = 1e6
    async with world.open() as servers:
        await wait_all_tasks_blocked()
        results: list[dict[str, Any]] = []

        async def ask() -> None:
            results.append(await call(servers))

        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(ask)
            await wait_all_tasks_blocked()
            world["a"].die()
        assert trio.current_time() == began
        assert [said_error(result) for result in results] == [
            "The MCP server a is gone: it is gone."
        ] * 5
        assert state_of(servers, "a").errors == 5


async def test_a_call_is_bounded(autojump_clock: MockClock, world: World) -> None:
    world.write("a")
    world["a"].seconds = 1e6
    async with world.open(call_timeout_seconds=60) as servers:
        await wait_all_tasks_blocked()
        began = trio.current_time()
        said = said_error(await call(servers))
        assert said == "The MCP server a did not answer within 60 seconds."
        assert trio.current_time() - began == pytest.approx(60)
        assert world["a"].link.cancelled == 1
        assert state_of(servers, "a").state == "ready"


async def test_a_call_is_cancelled_with_its_caller(autojump_clock: MockClock, world: World) -> None:
    world.write("a")
    world["a"].seconds = 1e6
    async with world.open() as servers:
        await wait_all_tasks_blocked()
        with trio.move_on_after(1) as scope:
            await call(servers)
        assert scope.cancelled_caught
        assert world["a"].link.cancelled == 1
        assert state_of(servers, "a").errors == 1


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (CallError("no such file"), "The MCP server a answered with an error: no such file"),
        (LinkError("it is over"), "The MCP server a is gone: it is over."),
        (RuntimeError("a bug"), "The MCP server a could not be called."),
    ],
)
async def test_every_failure_is_an_error_result(
    autojump_clock: MockClock, world: World, error: Exception, said: str
) -> None:
    world.write("a")
    world["a"].error = error
    async with world.open() as servers:
        await wait_all_tasks_blocked()
        assert said_error(await call(servers)) == said


async def test_a_result_is_passed_on_as_it_is_and_counted(
    autojump_clock: MockClock, world: World
) -> None:
    world.write("a")
    async with world.open() as servers:
        await wait_all_tasks_blocked()
        whole = {
            "content": [{"type": "image", "data": "x", "mimeType": "image/png"}],
            "structuredContent": {"a": 1},
            "_meta": {"b": 2},
        }
        world["a"].result = whole
        with world.bus.subscribe(McpCalled) as news:
            assert await call(servers) is whole
            world["a"].result = {"content": [], "isError": True}
            assert await call(servers) == {"content": [], "isError": True}
            world["a"].result = {"text": "?"}
            assert said_error(await call(servers)) == "The MCP server a gave no result."
            outcomes = [news.receive_nowait() for _ in range(3)]
        assert [getattr(event, "outcome", "") for event in outcomes] == ["done", "error", "error"]
        state = state_of(servers, "a")
        assert (state.calls, state.errors) == (3, 2)


async def test_no_reason_shows_what_the_entry_hides(
    autojump_clock: MockClock, world: World
) -> None:
    world.write(a={"command": "a", "env": {"TOKEN": "hush-hush"}})
    world["a"].refusals = [LinkError("bad token hush-hush", "stderr hush-hush")]
    async with world.open() as servers:
        await wait_all_tasks_blocked()
        assert state_of(servers, "a").reason == "bad token ********"
        assert "hush" not in json.dumps(list_mcp_servers(servers), default=str)


# -- the file is read again ------------------------------------------------------------------------


async def test_reading_again_starts_stops_and_restarts(
    autojump_clock: MockClock, world: World
) -> None:
    world.write("same", "gone", changed={"command": "changed"})
    async with world.open() as servers:
        await wait_all_tasks_blocked()
        gone = found(servers, "mcp__gone__echo")
        version = servers.version
        world.write("new", "same", changed={"command": "changed", "args": ["x"]})
        world["changed"].connect_seconds = 1
        await servers.reload()
        assert servers.names == ("new", "same", "changed")
        assert "mcp__changed__echo" in names(servers)  # until the new one has listed its own
        await trio.sleep(2)
        assert names(servers) == ["mcp__new__echo", "mcp__same__echo", "mcp__changed__echo"]
        assert servers.version > version
        assert {name: len(server.links) for name, server in world.servers.items()} == {
            "same": 1, "gone": 1, "changed": 2, "new": 1,
        }  # fmt: skip
        assert world["gone"].connected == 0
        assert world["changed"].connected == 1
        assert "no MCP server gone any more" in said_error(await servers.call(gone, {}))


async def test_a_call_in_flight_of_a_server_that_goes_is_an_error(
    autojump_clock: MockClock, world: World
) -> None:
    world.write("a")
    world["a"].seconds = 5
    async with world.open() as servers:
        await wait_all_tasks_blocked()
        async with trio.open_nursery() as nursery:

            async def ask() -> None:
                assert text_of(await call(servers)) is not None

            nursery.start_soon(ask)
            await wait_all_tasks_blocked()
            world.write()
            await servers.reload()
        assert servers.names == ()


@pytest.mark.parametrize("text", ["", "{", '{"mcpServers": {"a": {"foo": 1}}}', None])
async def test_a_broken_file_changes_nothing(
    autojump_clock: MockClock, world: World, text: str | None
) -> None:
    world.write("a")
    async with world.open() as servers:
        await wait_all_tasks_blocked()
        if text is None:
            world.path.unlink()
        else:
            world.path.write_text(text)
        await servers.reload()
        await wait_all_tasks_blocked()
        assert names(servers) == ["mcp__a__echo"]
        assert world["a"].connected == 1
        assert text_of(await call(servers, x=1)) == '{"x": 1}'


async def test_reading_again_tries_those_at_once_that_are_not_there(
    autojump_clock: MockClock, world: World
) -> None:
    world.write("a")
    world["a"].refusals = [LinkError("x")] * 7
    async with world.open() as servers:
        await trio.sleep(40)
        next_try = state_of(servers, "a").next_try
        assert next_try is not None
        assert next_try > 5
        await servers.reload()
        await wait_all_tasks_blocked()
        assert state_of(servers, "a").state == "ready"


# -- what is shown ---------------------------------------------------------------------------------


async def test_the_list_of_servers_has_their_tools(autojump_clock: MockClock, world: World) -> None:
    world.write("a", "own")
    world["a"].tools = [tool("echo", annotations={"readOnlyHint": True}), tool("bad name")]
    async with world.open(per_conversation=("own",)) as servers:
        await wait_all_tasks_blocked()
        await call(servers)
        listed = list_mcp_servers(servers)
        (state,) = listed["data"]
        assert state["tools"] == [{"name": "mcp__a__echo", "description": "", "read_only": True}]
        assert state["calls"] == 1
        assert state["left_out"][0]["name"] == "bad name"
        assert listed["per_conversation"] == ["own"]
        json.dumps(listed)


async def test_what_the_block_raises_comes_out_as_it_is(
    autojump_clock: MockClock, world: World
) -> None:
    world.write("a")
    with pytest.raises(ZeroDivisionError):
        async with world.open():
            raise ZeroDivisionError
    assert world["a"].connected == 0
