"""MCP servers that a response's tools name: which tools the model gets, the items that say what
became of them, and calls that the client approves; with the real CLI, and a server in a process."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ccapi.schemas.settings.settings import AuditSettings, McpSettings, PermissionSettings
from tests.support.mcp_servers import program
from tests.support.messages_stub import ToolUse, call, say
from tests.support.responses import kinds

from .served import JSON, Served, open_served, spoken
from .test_mcp import wait_ready
from .test_responses import ask, same_child, stream

NOTES = {"type": "mcp", "server_label": "notes"}
NOT_READY = {"type": "mcp", "server_label": "never"}


@contextmanager
def opened(place: Path) -> Iterator[Served]:
    file = place / "mcp.json"
    servers = {"notes": program(), "never": program("never")}
    file.write_text(json.dumps({"mcpServers": servers}))
    with open_served(
        place,
        audit=AuditSettings(path=place / "audit.jsonl"),
        mcp=McpSettings(enabled=True, config_file=file, call_timeout_seconds=20),
        permissions=PermissionSettings(allow=("mcp__notes__echo",), deny=("mcp__notes__die",)),
    ) as served:
        wait_ready(served, "notes")
        yield served


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with opened(tmp_path_factory.mktemp("response_mcp")) as served:
        yield served


@pytest.fixture
def served(shared: Served) -> Served:
    shared.begin()
    return shared


def use(name: str, call_id: str, **given: Any) -> ToolUse:
    return ToolUse(f"mcp__notes__{name}", given, call_id)


def types(response: JSON) -> list[str]:
    return [item["type"] for item in response["output"]]


def answer(item: JSON, *, approve: bool = True, **more: Any) -> JSON:
    said = {"approval_request_id": item["id"], "approve": approve}
    return {"type": "mcp_approval_response", **said, **more}


def results(served: Served) -> list[JSON]:
    content = served.last.body["messages"][-1]["content"]
    return [block for block in content if block["type"] == "tool_result"]


def block_kind(block: Any) -> str:
    if isinstance(block, str):
        return "text"
    return "tool_use" if isinstance(block[1], str) else "tool_result"


def calls_made(served: Served) -> int:
    states = served.do(served.live.gateway.mcp.states)
    return next(each.calls for each in states if each.name == "notes")


def offered(served: Served) -> set[str]:
    return {each["name"] for each in served.last.body["tools"]}


def test_the_tools_of_a_server_are_listed_once_and_called(served: Served) -> None:
    tools = [{**NOTES, "allowed_tools": ["echo", "big"], "require_approval": "never"}]
    served.answers(call(use("echo", "toolu_a", text="hi"), text="Let me see."), say("So."))
    found = stream(served, "Echo.", tools=tools)
    assert kinds(found)[2:6] == [
        "output_item.added", "mcp_list_tools.in_progress", "mcp_list_tools.completed",
        "output_item.done",
    ]  # fmt: skip
    first = found[-1]["response"]
    assert types(first) == ["mcp_list_tools", "message", "mcp_call", "message"]
    assert [each["name"] for each in first["output"][0]["tools"]] == ["echo", "big"]
    made = first["output"][2]
    assert (made["server_label"], made["name"], made["status"]) == ("notes", "echo", "completed")
    assert offered(served) == {"mcp__notes__echo", "mcp__notes__big"}
    # A client that keeps its own history comes back to the same conversation.
    history = [{"role": "user", "content": "Echo."}, *first["output"]]
    second = ask(served, [*history, {"role": "user", "content": "And?"}], tools=tools)
    assert types(second) == ["message"]
    third = ask(served, "Sure?", tools=tools, previous_response_id=second["id"])
    assert types(third) == ["message"]
    assert same_child(served, first, second, third)
    # In a conversation of its own, the model receives what the tools said.
    apart = ask(served, [*history, {"role": "user", "content": "No?"}], tools=tools)
    assert apart["conversation_id"] != first["conversation_id"]
    assert [kind for _, said in spoken(served.last) for kind in map(block_kind, said)] == [
        "text", "text", "tool_use", "tool_result", "text", "text",
    ]  # fmt: skip


def test_a_call_that_the_client_approves_is_made_once(served: Served) -> None:
    before = calls_made(served)
    served.answers(call(use("big", "toolu_b1", n=3), use("fail", "toolu_b2")), say("Read."))
    first = stream(served, "Read.", tools=[NOTES])[-1]["response"]
    assert types(first) == ["mcp_list_tools", "mcp_approval_request", "mcp_approval_request"]
    big, fail = first["output"][1:]
    assert (big["server_label"], big["name"], big["arguments"]) == ("notes", "big", '{"n":3}')
    assert calls_made(served) == before
    answers = [answer(big), answer(fail, approve=False, reason="not now")]
    again = {"tools": [NOTES], "previous_response_id": first["id"]}
    second = stream(served, answers, **again)[-1]["response"]
    assert types(second) == ["mcp_call", "message"]
    assert (second["output"][0]["output"], second["output"][0]["error"]) == ("xxx", None)
    assert second["output"][0]["approval_request_id"] == big["id"]
    made, denied = results(served)
    assert "xxx" in str(made["content"])
    assert denied["is_error"]
    assert "not now" in str(denied["content"])
    # The same request once more: another answer, and no other call.
    third = ask(served, answers, **again)
    assert third["output"][0]["output"] == "xxx"
    assert calls_made(served) == before + 1
    listed = served._client.get(f"/v1/responses/{second['id']}/input_items?order=asc").json()
    assert [each["type"] for each in listed["data"]] == ["mcp_approval_response"] * 2


def test_who_has_to_approve(served: Served) -> None:
    """The operator's rules come first; the client can want more approval than they, and no less."""
    never = {**NOTES, "require_approval": "never", "allowed_tools": ["big", "echo"]}
    served.answers(call(use("big", "toolu_c1", n=1)))
    assert types(ask(served, "Big.", tools=[never]))[1:] == ["mcp_approval_request"]
    served.answers(call(use("echo", "toolu_c2", text="x")), say("Done."))
    assert types(ask(served, "Echo.", tools=[NOTES]))[1:] == ["mcp_call", "message"]
    assert "mcp__notes__die" not in offered(served)
    served.answers(call(use("echo", "toolu_c3", text="x")))
    always = {**NOTES, "require_approval": {"always": {"tool_names": ["echo"]}}}
    assert types(ask(served, "Echo.", tools=[always]))[1:] == ["mcp_approval_request"]


def test_no_other_dialect_can_be_asked(served: Served) -> None:
    first = ask(served, "Hello.", tools=[NOTES])
    assert "mcp__notes__big" in offered(served)
    served.answers(call(use("big", "toolu_d", n=1)), say("Not done."))
    chat = served.ask({"role": "user", "content": "Big."}, conversation_id=first["conversation_id"])
    assert (chat.calls, chat.text) == ([], "Not done.")
    assert results(served)[0]["is_error"]


def test_a_server_that_is_not_ready_has_no_tools(served: Served) -> None:
    response = ask(served, "Hello.", tools=[NOT_READY])
    listed, _ = response["output"]
    assert (listed["server_label"], listed["tools"]) == ("never", [])
    assert "not ready" in listed["error"]
    assert not served.last.body.get("tools")


@pytest.mark.parametrize(
    ("tool", "param"),
    [
        ({**NOTES, "server_label": "none"}, "tools[0].server_label"),
        ({**NOTES, "allowed_tools": ["none"]}, "tools[0].allowed_tools[0]"),
        ({**NOTES, "server_url": "https://mcp.example"}, "tools[0].server_url"),
        ({**NOTES, "server_label": "x", "server_url": "https://x.example"}, "tools[0].server_url"),
    ],
)
def test_what_is_refused(served: Served, tool: JSON, param: str) -> None:
    assert ask(served, "Hello.", tools=[tool], status=400)["param"] == param


def test_an_approval_of_nothing_is_refused(served: Served) -> None:
    first = ask(served, "Hello.", tools=[NOTES])
    unknown = answer({"id": f"mcpr_{'0' * 32}_toolu_x"})
    error = ask(served, [unknown], previous_response_id=first["id"], status=400)
    assert error["type"] == "invalid_request_error"
    error = ask(served, [unknown], conversation=first["conversation_id"], status=400)
    assert error["type"] == "invalid_request_error"


def test_an_approval_outlives_the_gateway(tmp_path: Path) -> None:
    with opened(tmp_path) as served:
        served.begin()
        served.answers(call(use("big", "toolu_e", n=4)))
        first = ask(served, "Read.", tools=[NOTES])
    with opened(tmp_path) as served:
        served.begin()
        served.answers(say("Read."))
        given = [answer(first["output"][-1])]
        second = ask(served, given, tools=[NOTES], previous_response_id=first["id"])
        assert types(second) == ["mcp_call", "message"]
        assert "xxxx" in str(results(served)[0]["content"])
    lines = [json.loads(line) for line in (tmp_path / "audit.jsonl").read_text().splitlines()]
    decided = [line for line in lines if line["event"] == "tool_decided"]
    assert [
        [line[key] for key in ("tool", "decision", "by", "permission_id")] for line in decided
    ] == [
        ["mcp__notes__big", "allow", "approval", first["output"][-1]["id"]],
    ]
