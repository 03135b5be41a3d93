"""Compaction: what comes out of it, and where it may be brought back."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from ccapi.schemas.errors import ChildDied
from ccapi.schemas.openai.compactions import REQUEST, with_preface
from ccapi.schemas.settings.settings import AuthSettings, Settings, StorageSettings
from ccapi.schemas.turn import ToolChoice

from ...support.asgi import Client
from ...support.gateway_double import GatewayDouble, app_of, failing, open_gateway_double, saying
from ...support.open_responses import check_compaction
from ...support.responses import RESPONSES, ask, output, read, text_of, tool, user

MINE, THEIRS = ({"authorization": f"Bearer {key}"} for key in ("one", "two"))
HISTORY = [user("I am Ada."), {"role": "assistant", "content": "Hello Ada."}, user("Bye.")]


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[GatewayDouble]:
    storage, auth = (
        StorageSettings(path=tmp_path),
        AuthSettings(api_keys=("one", "two"), agent_keys=("one",)),
    )
    async with open_gateway_double(Settings(storage=storage, auth=auth)) as double:
        double.script = saying("It was ", "Ada. ")
        yield double


@pytest.fixture
async def client(gateway: GatewayDouble) -> Client:
    return Client(app_of(gateway))


async def compact(client: Client, *, status: int = 200, **fields: Any) -> dict[str, Any]:
    body = {"model": "sonnet", **fields}
    answered = await client.request("POST", f"{RESPONSES}/compact", json=body, headers=MINE)
    assert answered.status == status, answered.body
    found: dict[str, Any] = answered.json()
    if status != 200:
        error: dict[str, Any] = found["error"]
        return error
    check_compaction(found)
    assert not {"x-conversation-id", "x-ccapi-lineage"} & answered.headers.keys()
    return found


async def test_a_history_becomes_what_the_user_said_and_a_summary(
    client: Client, gateway: GatewayDouble
) -> None:
    found = await compact(client, input=HISTORY, prompt_cache_key="x")
    said = [item["content"][0]["text"] for item in found["output"][:-1]]
    assert said == ["I am Ada.", "Bye."]
    assert "Ada" not in json.dumps(found["output"][-1])
    assert found["usage"]["total_tokens"] == 15
    [asked] = gateway.asked
    texts = [message.text for message in asked.messages]
    assert texts == ["I am Ada.", "Hello Ada.", "Bye.", REQUEST]
    assert (asked.tools, asked.history_limit) == ((), None)
    assert asked.options.tool_choice == ToolChoice("auto")
    assert gateway.made == []  # nothing is left of it
    again = read(await ask(client, MINE, input=[*found["output"], user("Who?")]))
    assert text_of(again) == "It was Ada. "
    texts = [message.text for message in gateway.asked[-1].messages]
    assert texts == ["I am Ada.", "Bye.", with_preface("It was Ada."), "Who?"]


async def test_a_stored_response_is_summed_up_and_stays_what_it_is(
    client: Client, gateway: GatewayDouble
) -> None:
    rules = {"role": "developer", "content": "Be kind."}
    first = read(await ask(client, MINE, input=[rules, user("One")], instructions="Rhyme."))
    held = gateway.made[0]
    found = await compact(client, previous_response_id=first.id, input="Two")
    assert [item.get("role") for item in found["output"]] == ["system", "user", "user", None]
    assert held in gateway.made  # its own conversation goes on
    assert len({asked.conversation.conversation_id for asked in gateway.asked}) == 2
    texts = [message.text for message in gateway.asked[-1].messages]
    assert texts == ["One", "It was Ada. ", "Two", REQUEST]


async def test_tool_calls_are_sent_and_summed_up(client: Client, gateway: GatewayDouble) -> None:
    call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
    found = await compact(client, input=[user("Do it."), call, output("c", "done")])
    assert [item["type"] for item in found["output"]] == ["message", "compaction"]
    assert gateway.asked[-1].messages[1].calls[0].name == "f"
    refused = await compact(client, input=[user("Do it."), call], status=400)
    assert refused["code"] == "missing_tool_results"


async def test_a_summary_is_summed_up_again(client: Client) -> None:
    first = await compact(client, input=HISTORY)
    second = await compact(client, input=[*first["output"], user("More.")])
    said = [item["content"][0]["text"] for item in second["output"][:-1]]
    assert said == ["I am Ada.", "Bye.", "More."]


async def test_an_agent_is_not_asked_to_act(tmp_path: Path) -> None:
    settings = Settings(storage=StorageSettings(path=tmp_path))
    async with open_gateway_double(settings) as gateway:
        gateway.script = saying("It was Ada.")
        await compact(Client(app_of(gateway)), model="agent/sonnet", input=HISTORY)
        assert gateway.asked[-1].conversation.model == "sonnet"


@pytest.mark.parametrize(
    ("fields", "status", "code", "param"),
    [
        ({"model": None, "input": "Hi"}, 400, "invalid_type", "model"),
        ({}, 400, "missing_field", "input"),
        ({"input": 7}, 400, "invalid_type", "input"),
        ({"input": []}, 400, "missing_field", "input"),
        ({"input": [{"role": "user"}]}, 400, "missing_field", "input[0].content"),
        ({"model": "nope", "input": "Hi"}, 404, "model_not_found", "model"),
        ({"previous_response_id": "resp_0"}, 400, "previous_response_not_found",
         "previous_response_id"),
    ],
)  # fmt: skip
async def test_what_cannot_be_summed_up(
    client: Client, fields: dict[str, Any], status: int, code: str, param: str
) -> None:
    found = await compact(client, status=status, **fields)
    assert (found["code"], found["param"]) == (code, param)


async def test_the_model_has_to_be_named(client: Client) -> None:
    path = f"{RESPONSES}/compact"
    answered = await client.request("POST", path, json={"input": "Hi"}, headers=MINE)
    assert answered.status == 400
    assert answered.json()["error"]["param"] == "model"
    assert (await client.request("GET", path, headers=MINE)).status in (404, 405)


async def test_no_summary_is_an_error(client: Client, gateway: GatewayDouble) -> None:
    gateway.script = saying(" ")
    assert (await compact(client, input="Hi", status=502))["code"] == "no_summary"
    gateway.script = failing(ChildDied("It died."))
    assert (await compact(client, input="Hi", status=502))["code"] == "child_died"
    assert len(gateway.made) == len(gateway.abandoned)


@pytest.mark.parametrize("route", [RESPONSES, f"{RESPONSES}/compact", "/v1/conversations"])
async def test_only_what_was_made_here_for_this_key_is_taken(client: Client, route: str) -> None:
    compaction = (await compact(client, input=HISTORY))["output"][-1]
    sealed = compaction["encrypted_content"]
    key = "items" if route.endswith("conversations") else "input"
    cases = [(MINE, sealed, 200), (THEIRS, sealed, 400), (MINE, sealed[:-3] + "xx=", 400)]
    for headers, content, status in cases:
        items = [{**compaction, "encrypted_content": content}, user("Go on.")]
        body = {"model": "sonnet", key: items}
        answered = await client.request("POST", route, json=body, headers=headers)
        assert answered.status == status, answered.body
        if status == 400:
            error = answered.json()["error"]
            assert error["param"] == f"{key}[0].encrypted_content"
            assert error["code"] == "invalid_encrypted_content"


async def test_tools_do_not_get_in_the_way(client: Client) -> None:
    """A compaction among a request's items, as Codex and the agents SDK have it."""
    compaction = (await compact(client, input=HISTORY))["output"][-1]
    items = [user("Hi"), compaction, user("Go on.")]
    assert (await ask(client, MINE, input=items, tools=[tool("f")])).status == 200
