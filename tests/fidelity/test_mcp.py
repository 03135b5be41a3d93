"""MCP servers in processes of their own, behind the real CLI: a plain model and an agent use their
tools, and each way in which a server can fail costs its own calls alone.

One gateway, with one server of each kind. What a conversation is offered and remembers is in
tests/fidelity/test_hosted.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from ccapi.schemas.settings.settings import AuditSettings, McpSettings, PermissionSettings
from tests.support.mcp_servers import http_program, program
from tests.support.messages_stub import ToolUse, call, say

from .served import MODEL, Served, open_served, user


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    place = tmp_path_factory.mktemp("mcp")
    file = place / "mcp.json"
    with http_program() as http:
        servers = {
            "notes": program(),
            "web": http.entry("/mcp"),
            "bad": program("bad"),
            "never": program("never"),
            "closed": http.entry("/auth"),
        }
        file.write_text(json.dumps({"mcpServers": servers}))
        with open_served(
            place,
            audit=AuditSettings(path=place / "audit.jsonl"),
            mcp=McpSettings(enabled=True, config_file=file, call_timeout_seconds=20),
            permissions=PermissionSettings(allow=("mcp__notes", "mcp__web", "mcp__bad")),
        ) as served:
            wait_ready(served, "notes", "web", "bad")
            yield served


@pytest.fixture
def served(shared: Served) -> Served:
    shared.begin()
    return shared


def states(served: Served) -> dict[str, str]:
    """Of the servers, by name; to be asked where the gateway runs."""
    return {state.name: state.state for state in served.live.gateway.mcp.states()}


def wait_ready(served: Served, *names: str) -> None:
    served.wait(lambda: all(states(served)[name] == "ready" for name in names))


def use(name: str, call_id: str, **given: Any) -> ToolUse:
    return ToolUse(name, given, call_id)


def result(served: Served) -> dict[str, Any]:
    """What the model received last of a tool."""
    blocks = served.last.body["messages"][-1]["content"]
    found: dict[str, Any] = next(each for each in blocks if each["type"] == "tool_result")
    return found


@pytest.mark.parametrize("model", [MODEL, f"agent/{MODEL}"])
def test_tools_of_programs_and_of_urls_are_called(served: Served, model: str) -> None:
    kind = model.partition("/")[0]
    served.answers(
        call(use("mcp__notes__echo", f"toolu_{kind}1", text="one")),
        call(use("mcp__web__echo", f"toolu_{kind}2", text="two")),
        say("Both."),
    )
    answer = served.ask(user("Ask both."), model=model)
    assert answer.text == "Both."
    said = [each["content"] for each in served.last.body["messages"] if each["role"] == "user"]
    results = [block for content in said[-2:] for block in content if "tool_use_id" in block]
    # The CLI gives the model what a server says in a structured form, where it does.
    assert [each["content"] for each in results] == ['{"text":"one"}', '{"text":"two"}']


def test_what_is_offered_is_what_the_api_takes(served: Served) -> None:
    """Of the server with bad tools the good ones; of those that are not there, none."""
    served.ask(user("Hello."))
    names = [each["name"] for each in served.last.body["tools"]]
    assert {name.split("__")[1] for name in names} == {"notes", "web", "bad"}
    bad = sorted(name for name in names if name.startswith("mcp__bad__"))
    assert bad == ["mcp__bad__array", "mcp__bad__choice", "mcp__bad__good", "mcp__bad__no_schema"]
    shown = {each["name"]: each["state"] for each in served.get("/v1/mcp")["data"]}
    assert shown["closed"] == "needs_auth"
    assert shown["never"] in ("connecting", "failed")


def test_a_big_result_comes_whole(served: Served) -> None:
    served.answers(call(use("mcp__notes__big", "toolu_big", n=300_000)), say("Read."))
    served.ask(user("Read it all."))
    assert result(served)["content"] == [{"type": "text", "text": "x" * 300_000}]


def test_a_server_that_dies_in_a_call_costs_that_call(served: Served) -> None:
    served.answers(call(use("mcp__notes__die", "toolu_die")), say("It died."))
    answer = served.ask(user("Die."))
    assert answer.text == "It died."
    assert result(served)["is_error"]
    assert "notes" in str(result(served)["content"])
    wait_ready(served, "notes")
    served.answers(call(use("mcp__notes__echo", "toolu_again", text="back")), say("Back."))
    served.ask(user("Again."), conversation_id=answer.conversation_id)
    assert result(served)["content"] == '{"text":"back"}'


def test_errors_of_a_server_are_results(served: Served) -> None:
    served.answers(
        call(use("mcp__notes__fail", "toolu_fail"), use("mcp__notes__raise", "toolu_raise")),
        say("Both failed."),
    )
    assert served.ask(user("Fail.")).text == "Both failed."
    blocks = served.last.body["messages"][-1]["content"]
    assert [each["is_error"] for each in blocks if "tool_use_id" in each] == [True, True]


def test_the_gateway_counts_the_calls(served: Served) -> None:
    before = {each["name"]: each["calls"] for each in served.get("/v1/mcp")["data"]}
    served.answers(call(use("mcp__web__echo", "toolu_count", text="x")), say("Counted."))
    served.ask(user("Count."))
    after = {each["name"]: each["calls"] for each in served.get("/v1/mcp")["data"]}
    assert after["web"] == before["web"] + 1


def test_the_audit_log_has_the_calls(served: Served) -> None:
    served.answers(call(use("mcp__web__echo", "toolu_audit", text="unwritten")), say("Written."))
    served.ask(user("Write."))
    path = served.live.gateway.settings.audit.path
    assert path is not None
    text = path.read_text()
    last = [line for line in map(json.loads, text.splitlines()) if line["event"] == "tool_decided"][
        -1
    ]
    assert [last[key] for key in ("tool", "decision", "by")] == ["mcp__web__echo", "allow", "rule"]
    assert last["turn_id"]
    assert "unwritten" not in text
