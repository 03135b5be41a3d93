"""MCP servers that a response names by their URL, with the real CLI and a server on loopback."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from ccapi.schemas.settings.settings import AuditSettings, McpSettings, PermissionSettings
from tests.support.mcp_servers import HttpServer, http_program
from tests.support.messages_stub import call, say

from .served import JSON, Served, open_served
from .test_response_mcp import answer, offered, results, types, use
from .test_responses import ask

SECRET = "secret-of-the-client"


@pytest.fixture(scope="module")
def http() -> Iterator[HttpServer]:
    with http_program() as program:
        yield program


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("response_mcp_urls")


@pytest.fixture(scope="module")
def shared(place: Path, http: HttpServer) -> Iterator[Served]:
    file = place / "mcp.json"
    file.write_text(json.dumps({"mcpServers": {}}))
    by_name = "http://private.localhost:9"
    with open_served(
        place,
        audit=AuditSettings(path=place / "audit.jsonl"),
        mcp=McpSettings(enabled=True, config_file=file, allowed_urls=(http.url, by_name)),
        permissions=PermissionSettings(deny=("mcp__notes__die",)),
    ) as served:
        yield served


@pytest.fixture
def served(shared: Served) -> Served:
    shared.begin()
    return shared


def remote(url: str, **fields: object) -> JSON:
    headers = {"x-key": SECRET}
    named = {"type": "mcp", "server_label": "notes", "server_url": url, "headers": headers}
    return {**named, "authorization": SECRET, **fields}


def test_tools_are_listed_called_and_approved(
    served: Served, http: HttpServer, place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    never = {"never": {"tool_names": ["echo"]}}
    tools = [remote(f"{http.url}/mcp", require_approval=never)]
    served.answers(call(use("echo", "toolu_a", text="hi")), say("So."))
    first = ask(served, "Echo.", tools=tools)
    assert types(first) == ["mcp_list_tools", "mcp_call", "message"]
    assert "echo" in {each["name"] for each in first["output"][0]["tools"]}
    assert "hi" in first["output"][1]["output"]
    assert {"mcp__notes__echo", "mcp__notes__big"} <= offered(served)
    assert "mcp__notes__die" not in offered(served)
    served.answers(call(use("big", "toolu_b", n=3)), say("Read."))
    again = {"tools": tools, "previous_response_id": first["id"]}
    second = ask(served, "Big.", **again)
    assert types(second) == ["mcp_approval_request"]
    again["previous_response_id"] = second["id"]
    third = ask(served, [answer(second["output"][0])], **again)
    assert types(third) == ["mcp_call", "message"]
    assert third["output"][0]["output"] == "xxx"
    assert "xxx" in str(results(served)[0]["content"])
    # They are that request's alone.
    ask(served, "And without?", previous_response_id=third["id"])
    assert not served.last.body.get("tools")
    assert served.get("/v1/mcp")["data"] == []
    kept = served._client.get(f"/v1/responses/{third['id']}").text
    shown = [kept, str(served.get("/stats")), str(served.get("/v1/mcp")), caplog.text]
    shown += [json.dumps(each) for each in (first, second, third)]
    assert not [each for each in shown if SECRET in each]
    files = [path for path in place.rglob("*") if path.is_file()]
    assert any(path.name.startswith("audit") for path in files)
    assert not [path for path in files if SECRET.encode() in path.read_bytes()]


def test_a_server_that_wants_another_authorization(served: Served, http: HttpServer) -> None:
    response = ask(served, "Hello.", tools=[remote(f"{http.url}/auth")])
    listed, _ = response["output"]
    assert listed["tools"] == []
    assert "401" in listed["error"]
    assert SECRET not in str(response)


def test_a_private_address_by_name_is_not_reached(served: Served) -> None:
    """`private.localhost` is listed, and is this machine or nothing."""
    listed, _ = ask(served, "Hello.", tools=[remote("http://private.localhost:9/mcp")])["output"]
    assert listed["tools"] == []
    assert "no address that may be reached" in listed["error"]


@pytest.mark.parametrize(
    "url",
    ["https://mcp.example/mcp", "http://127.0.0.1/mcp", "http://localhost:9/mcp", "no url at all"],
)
def test_an_origin_that_is_not_listed(served: Served, url: str) -> None:
    error = ask(served, "Hello.", tools=[remote(url)], status=400)
    assert error["param"] == "tools[0].server_url"
    if "://" in url:
        assert error["code"] == "url_not_allowed"
    assert SECRET not in str(error)


def test_a_label_that_no_server_may_have(served: Served, http: HttpServer) -> None:
    tool = remote(f"{http.url}/mcp", server_label="a__b")
    assert ask(served, "Hello.", tools=[tool], status=400)["param"] == "tools[0].server_label"
