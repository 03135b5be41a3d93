"""Conversations over HTTP: made, named, listed, deleted, and never another key's."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest

from ccapi.schemas.settings.settings import AuthSettings, Settings

from ...support.asgi import Client
from ...support.chat import CHAT, HI, ask, completion
from ...support.gateway_double import GatewayDouble, app_of, open_gateway_double

# -- conversations ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "headers"),
    [
        ({"conversation_id": "ID"}, {}),
        ({"conversation": "ID"}, {}),
        ({"conversation": {"id": "ID"}}, {}),
        ({}, {"x-conversation-id": "ID"}),
        ({"conversation_id": "ID"}, {"x-conversation-id": "ID"}),
    ],
)
async def test_a_conversation_goes_on_by_its_id(
    client: Client, gateway: GatewayDouble, fields: dict[str, Any], headers: dict[str, str]
) -> None:
    made = gateway.conversation(model="haiku", system="Be brief.")
    filled = json.loads(json.dumps([fields, headers]).replace("ID", made.conversation_id))
    request = {"messages": [HI], **filled[0]}
    response = await client.request("POST", CHAT, json=request, headers=filled[1])
    assert response.json()["conversation_id"] == made.conversation_id
    assert response.headers["x-conversation-id"] == made.conversation_id
    assert completion(response).model == "haiku"
    [asked] = gateway.asked
    assert asked.conversation is made
    assert (asked.model, asked.system, asked.cache_key) == (None, None, None)
    assert gateway.made == [made]


async def test_a_named_conversation_gets_what_the_request_changes(
    client: Client, gateway: GatewayDouble
) -> None:
    made = gateway.conversation(model="haiku")
    messages = [{"role": "system", "content": "New rules."}] + [HI] * 30
    await ask(client, conversation_id=made.conversation_id, model="opus", messages=messages)
    [asked] = gateway.asked
    assert (asked.model, asked.system) == ("opus", "New rules.")
    assert len(asked.messages) == 30  # what is new of it, only the session knows


async def test_an_unknown_conversation_is_a_404_before_anything_is_spent(
    client: Client, gateway: GatewayDouble
) -> None:
    for fields, headers in [
        ({"conversation_id": "conv_x"}, {}),
        ({}, {"x-conversation-id": "conv_x"}),
    ]:
        response = await ask(client, headers, **fields)
        assert response.status == 404
        assert response.error["code"] == "conversation_not_found"
        assert response.error["param"] == "conversation_id"
    assert gateway.asked == []
    assert gateway.made == []


@pytest.mark.parametrize(
    ("fields", "headers", "param"),
    [
        ({"conversation_id": ""}, {}, "conversation_id"),
        ({"conversation": ""}, {}, "conversation"),
        ({}, {"x-conversation-id": ""}, "x-conversation-id"),
        ({"conversation_id": "a"}, {"x-conversation-id": ""}, "x-conversation-id"),
    ],
)
async def test_an_empty_name_of_a_conversation_is_a_mistake(
    client: Client, fields: dict[str, Any], headers: dict[str, str], param: str
) -> None:
    response = await ask(client, headers, **fields)
    assert (response.status, response.error["code"]) == (400, "invalid_value")
    assert response.error["param"] == param


async def test_header_and_body_must_name_the_same_conversation(client: Client) -> None:
    response = await ask(client, {"x-conversation-id": "a"}, conversation_id="b")
    assert response.status == 400
    assert response.error["param"] == "x-conversation-id"


async def test_a_busy_conversation_queues_unless_the_setting_rejects(
    client: Client, gateway: GatewayDouble
) -> None:
    made = gateway.conversation()
    made.busy = True
    named = {"conversation_id": made.conversation_id}
    assert (await ask(client, **named)).status == 200
    assert (await ask(client, {"x-ccapi-on-busy": "queue"}, **named)).status == 200
    rejected = await ask(client, {"x-ccapi-on-busy": "reject"}, **named)
    assert rejected.status == 409
    assert (rejected.error["type"], rejected.error["code"]) == (
        "conflict_error",
        "conversation_busy",
    )
    assert rejected.headers["x-conversation-id"] == made.conversation_id
    assert (await ask(client, {"x-ccapi-on-busy": "panic"})).status == 400


async def test_the_conversation_routes(client: Client, gateway: GatewayDouble) -> None:
    made = await client.request("POST", "/v1/conversations", json={"system": "S", "model": "haiku"})
    assert made.status == 200
    shown = made.json()
    conversation_id = shown["id"]
    assert shown["object"] == "conversation"
    assert shown["metadata"] == {}
    assert shown["conversation_id"] == made.headers["x-conversation-id"] == conversation_id
    assert shown["created_at"] == 1_700_000_000
    assert (gateway.made[0].system, gateway.made[0].model) == ("S", "haiku")
    path = f"/v1/conversations/{conversation_id}"
    assert (await client.request("GET", path)).json() == shown
    listed = (await client.request("GET", "/v1/conversations")).json()
    assert (listed["object"], listed["data"], listed["has_more"]) == ("list", [shown], False)
    deleted = (await client.request("DELETE", path)).json()
    assert deleted["deleted"] is True
    assert (deleted["id"], deleted["object"]) == (conversation_id, "conversation.deleted")
    for method in ("GET", "DELETE"):
        gone = await client.request(method, path)
        assert gone.status == 404
        assert gone.error["code"] == "conversation_not_found"


async def test_new_conversations_that_cannot_be(client: Client, gateway: GatewayDouble) -> None:
    for body, status, param in [
        ({"model": "gpt-5"}, 404, "model"),
        ({"system": 1}, 400, "system"),
        ({"items": [{"type": "message", "content": "?"}]}, 400, "items[0].role"),
        ({"items": [{"type": "wat"}]}, 400, "items[0].type"),
        ({"metadata": {"a": 1}}, 400, "metadata.a"),
        ([], 400, None),
    ]:
        response = await client.request("POST", "/v1/conversations", json=body)
        assert (response.status, response.error["param"]) == (status, param)
    assert gateway.made == []


async def test_a_gateway_that_stops_makes_no_conversation(
    client: Client, gateway: GatewayDouble
) -> None:
    gateway.draining = True
    response = await client.request("POST", "/v1/conversations")
    assert (response.status, response.error["code"]) == (503, "draining")
    assert response.headers["retry-after"] == "5"
    assert gateway.made == []


async def test_the_list_comes_in_pages_newest_first(client: Client, gateway: GatewayDouble) -> None:
    ids = [gateway.conversation().conversation_id for _ in range(5)]

    async def page(query: str) -> tuple[list[str], bool]:
        body = (await client.request("GET", f"/v1/conversations?{query}")).json()
        got = [item["id"] for item in body["data"]]
        assert [body["first_id"], body["last_id"]] == ([got[0], got[-1]] if got else [None, None])
        return got, body["has_more"]

    assert await page("limit=2") == ([ids[4], ids[3]], True)
    assert await page(f"limit=3&after={ids[3]}") == ([ids[2], ids[1], ids[0]], False)
    assert await page(f"after={ids[0]}") == ([], False)
    for query in ("limit=0", "limit=101", "limit=x", "limit=-1", "after=conv_x"):
        response = await client.request("GET", f"/v1/conversations?{query}")
        assert response.status == 400
        assert response.error["param"] == query.partition("=")[0]


async def test_another_keys_conversation_does_not_exist() -> None:
    settings = Settings(auth=AuthSettings(api_keys=("sk-of-ada-lovelace", "sk-of-grace-hopper")))
    async with open_gateway_double(settings) as gateway:
        app = app_of(gateway)
        ada = Client(app, {"authorization": "Bearer sk-of-ada-lovelace"})
        grace = Client(app, {"x-api-key": "sk-of-grace-hopper"})
        conversation_id = (await ada.request("POST", "/v1/conversations")).json()["id"]
        assert gateway.made[0].owner == hashlib.sha256(b"sk-of-ada-lovelace").hexdigest()
        path = f"/v1/conversations/{conversation_id}"
        assert (await grace.request("GET", path)).status == 404
        assert (await grace.request("DELETE", path)).status == 404
        assert (await ask(grace, conversation_id=conversation_id)).status == 404
        assert (await grace.request("GET", "/v1/conversations")).json()["data"] == []
        assert gateway.asked == []
        assert (await ask(ada, conversation_id=conversation_id)).status == 200
        begun = (await ask(ada)).json()["conversation_id"]
        assert (await ask(ada, conversation_id=begun)).status == 200
        assert (await ask(grace, conversation_id=begun)).status == 404


async def test_no_answer_crosses_from_key_to_key() -> None:
    settings = Settings(auth=AuthSettings(api_keys=("sk-of-ada-lovelace", "sk-of-grace-hopper")))
    async with open_gateway_double(settings) as gateway:
        gateway.script = gateway.remembered("Hello")
        client = Client(app_of(gateway))
        for outcome in ("miss", "hit"):
            for name in ("ada-lovelace", "grace-hopper"):
                response = await ask(client, {"x-api-key": f"sk-of-{name}"})
                assert response.headers["x-ccapi-cache"] == outcome
