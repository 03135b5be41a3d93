"""Tools of MCP servers, whichever serves them: what the model is offered, receives and remembers.

The servers are stand-ins here (tests/fidelity/test_mcp.py has real ones).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import trio

from ccapi.schemas.mcp_tools import ServerTool
from ccapi.schemas.settings.settings import PermissionSettings, WorkspaceSettings
from tests.support.live import open_live_cli
from tests.support.messages_stub import ToolUse, call, say

from .served import JSON, MODEL, Served, function, open_served, tool, user

SCHEMA = '{"type":"object","properties":{"text":{"type":"string"}}}'
BIG = "x" * 300_000


def hosted(name: str, *, read_only: bool = True) -> ServerTool:
    return ServerTool("a", name, f"mcp__a__{name}", f"Tool {name}.", SCHEMA, read_only)


class StandIn:
    """What takes the place of the gateway's servers; `asked` is what they were asked."""

    def __init__(self) -> None:
        self.listed: tuple[ServerTool, ...] = (
            hosted("echo"),
            hosted("write", read_only=False),
            hosted("big"),
        )
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.given_up = 0

    def tools(self) -> tuple[ServerTool, ...]:
        return self.listed

    async def call(self, tool: ServerTool, arguments: Mapping[str, Any]) -> dict[str, Any]:
        self.asked.append((tool.name, dict(arguments)))
        if arguments.get("text") == "never":
            try:
                await trio.sleep_forever()
            finally:
                self.given_up += 1
        text = BIG if tool.name == "big" else f"{arguments.get('text')} again"
        return {"content": [{"type": "text", "text": text}]}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Served, StandIn]]:
    rules = PermissionSettings(allow=("mcp__a__echo", "mcp__a__big"))
    with open_served(tmp_path_factory.mktemp("hosted"), permissions=rules) as served:
        servers, stand_in = served.live.gateway.mcp, StandIn()
        servers.tools = stand_in.tools  # type: ignore[method-assign]
        servers.call = stand_in.call  # type: ignore[method-assign]
        servers.version += 1
        yield served, stand_in


@pytest.fixture
def served(world: tuple[Served, StandIn]) -> Served:
    world[0].begin()
    world[1].asked.clear()
    return world[0]


@pytest.fixture
def stand_in(world: tuple[Served, StandIn]) -> StandIn:
    return world[1]


def use(name: str, call_id: str, text: str = "hi") -> ToolUse:
    return ToolUse(f"mcp__a__{name}", {"text": text}, call_id)


def blocks(message: JSON) -> list[JSON]:
    """The blocks of a message to the API, without marks of caching."""
    content = message["content"]
    listed = [{"type": "text", "text": content}] if isinstance(content, str) else content
    return [{key: each[key] for key in each if key != "cache_control"} for each in listed]


def test_a_plain_model_is_offered_the_tools_and_gets_the_results(
    served: Served, stand_in: StandIn
) -> None:
    served.answers(call(use("echo", "toolu_a1"), text="Let me see."), say("So."))
    answer = served.ask(user("Echo."))
    assert (answer.text, answer.finish_reason) == ("Let me see.\n\nSo.", "stop")
    assert answer.calls == []
    assert stand_in.asked == [("echo", {"text": "hi"})]
    offered = [each["name"] for each in served.last.body["tools"]]
    assert sorted(offered) == ["mcp__a__big", "mcp__a__echo", "mcp__a__write"]
    [result] = blocks(served.last.body["messages"][-1])
    assert result["content"] == [{"type": "text", "text": "hi again"}]


def test_calls_of_one_answer_run_beside_each_other_and_big_results_come_whole(
    served: Served, stand_in: StandIn
) -> None:
    served.answers(call(use("echo", "toolu_b1"), use("big", "toolu_b2")), say("Done."))
    served.ask(user("Both."))
    echo, big = blocks(served.last.body["messages"][-1])
    assert echo["tool_use_id"] == "toolu_b1"
    assert big["content"] == [{"type": "text", "text": BIG}]


def test_the_clients_tools_stand_beside_them(served: Served) -> None:
    served.answers(call(ToolUse("look", {}, "toolu_c1"), use("echo", "toolu_c2")), say("Seen."))
    first = served.ask(user("Look."), tools=[function("look")])
    assert [each["function"]["name"] for each in first.calls] == ["look"]
    second = served.ask(
        tool("toolu_c1", "a cat"), conversation_id=first.conversation_id, tools=[function("look")]
    )
    assert second.text == "Seen."
    results = blocks(served.last.body["messages"][-1])
    # In the order in which they came: the gateway does not wait for the client.
    assert sorted(each["tool_use_id"] for each in results) == ["toolu_c1", "toolu_c2"]


def test_what_no_rule_allows_is_refused_where_no_client_can_be_asked(
    served: Served, stand_in: StandIn
) -> None:
    served.answers(call(use("write", "toolu_d1")), say("Not done."))
    served.ask(user("Write."))
    assert stand_in.asked == []
    [result] = blocks(served.last.body["messages"][-1])
    assert result["is_error"]
    assert "No client is connected" in str(result["content"])


def test_another_child_receives_what_the_tools_said(served: Served) -> None:
    served.answers(
        call(use("echo", "toolu_e1", "one"), text="First."), call(use("echo", "toolu_e2", "two")),
        say("So."),
    )  # fmt: skip
    answer = served.ask(user("Twice."))
    held = [blocks(message) for message in served.last.body["messages"]]
    served.kill_child(answer.conversation_id)
    again = served.ask(user("And?"), conversation_id=answer.conversation_id)
    assert len(served.adopted(answer.conversation_id)) == 2
    assert again.text is not None
    said = [blocks(message) for message in served.last.body["messages"]]
    assert said[:-2] == held
    assert said[-2] == [{"type": "text", "text": "So."}]


def test_a_call_ends_with_its_turn(served: Served, stand_in: StandIn) -> None:
    before = stand_in.given_up
    served.answers(call(use("echo", "toolu_f1", "never"), text="Wait."))
    with served.streaming(user("Forever.")) as response:
        chunks = response.iter_bytes()  # which closes the response when it is dropped
        next(chunks)
        served.wait(lambda: stand_in.asked)
    served.wait(lambda: stand_in.given_up > before)


def test_an_answer_in_a_schema_may_use_tools_first(served: Served) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    form = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
    served.answers(
        call(use("echo", "toolu_g1")), call(ToolUse("StructuredOutput", {"n": 1}, "toolu_g2"))
    )
    answer = served.ask(user("Count."), response_format=form)
    assert answer.text is not None
    assert '"n"' in answer.text


def test_another_list_reaches_a_conversation_that_goes_on(
    served: Served, stand_in: StandIn
) -> None:
    first = served.ask(user("Hello."))
    before, stand_in.listed = stand_in.listed, (hosted("later"),)
    served.live.gateway.mcp.version += 1
    try:
        served.ask(user("And now?"), conversation_id=first.conversation_id)
        assert [each["name"] for each in served.last.body["tools"]] == ["mcp__a__later"]
        assert served.adopted(first.conversation_id) == served.adopted(first.conversation_id)[:1]
    finally:
        stand_in.listed = before
        served.live.gateway.mcp.version += 1


STDIO = """
import json, os, sys
said = f"{os.getcwd()} {'ANTHROPIC_API_KEY' in os.environ} {os.environ.get('EXTRA')}"
for line in sys.stdin:
    asked = json.loads(line)
    match asked.get("method"):
        case "initialize":
            info = {"name": "files", "version": "1"}
            version = asked["params"]["protocolVersion"]
            result = {"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": info}
        case "tools/list":
            result = {"tools": [{"name": "where", "inputSchema": {"type": "object"}}]}
        case "tools/call":
            result = {"content": [{"type": "text", "text": said}]}
        case _:
            continue
    print(json.dumps({"jsonrpc": "2.0", "id": asked["id"], "result": result}), flush=True)
"""


async def test_an_agent_starts_servers_of_its_own(tmp_path: Path) -> None:
    """In its workspace, with its own variables and none of the gateway's; one that cannot be
    started keeps it from nothing."""
    rules = PermissionSettings(allow=("mcp__files",))
    sandbox = WorkspaceSettings(sandbox="off")  # in which this Python may not be
    async with open_live_cli(tmp_path, permissions=rules, workspaces=sandbox) as live:
        assert live.stub is not None
        live.gateway.mcp.per_conversation = {
            "files": {
                "type": "stdio", "command": sys.executable, "args": ["-c", STDIO],
                "env": {"EXTRA": "yes"},
            },
            "broken": {"type": "stdio", "command": "/nowhere/at/all", "args": [], "env": {}},
        }  # fmt: skip
        live.stub.queue += [call(ToolUse("mcp__files__where", {}, "toolu_1")), say("There.")]
        conversation = live.gateway.conversation(model=f"agent/{MODEL}")
        with trio.fail_after(60):
            reply = await conversation.ask("Where?")
        assert reply.text.endswith("There.")
        [result] = blocks(live.stub.requests[-1].body["messages"][-1])
        place = tmp_path / "state" / "workspaces" / conversation.conversation_id
        assert result["content"] == f"{place} False yes" or result["content"] == [
            {"type": "text", "text": f"{place} False yes"}
        ]
