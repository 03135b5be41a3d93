"""The Message Batches routes, driven in process over turns that the tests play."""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from ccapi.schemas.errors import ChildDied, Overloaded
from ccapi.schemas.settings.settings import AuthSettings, BatchSettings, Settings

from ...support.asgi import Client, Response
from ...support.gateway_double import Asked, GatewayDouble, app_of, failing, open_gateway_double
from ...support.gateway_double import saying as says

PATH = "/v1/messages/batches"
JSON = dict[str, Any]


def item(custom_id: str, text: str = "Hi", **params: Any) -> JSON:
    said = [{"role": "user", "content": text}]
    return {
        "custom_id": custom_id,
        "params": {"model": "haiku", "max_tokens": 100, "messages": said, **params},
    }


async def create(client: Client, *items: object, **headers: str) -> Response:
    return await client.request("POST", PATH, json={"requests": [*items]}, headers=headers)


async def until_ended(client: Client, batch_id: str) -> JSON:
    while True:
        batch: JSON = (await client.request("GET", f"{PATH}/{batch_id}")).json()
        if batch["processing_status"] == "ended":
            return batch
        await trio.sleep(1)


async def results(client: Client, batch_id: str) -> dict[str, JSON]:
    response = await client.request("GET", f"{PATH}/{batch_id}/results")
    assert response.status == 200, response.body
    lines = map(json.loads, response.body.splitlines())
    return {each["custom_id"]: each["result"] for each in lines}


async def test_a_batch_is_answered(
    client: Client, gateway: GatewayDouble, autojump_clock: MockClock
) -> None:
    async def script(asked: Asked) -> None:
        bad = asked.messages[-1].text == "bad"
        await (failing(ChildDied("It died.")) if bad else says("Well"))(asked)

    gateway.script = script
    made = (await create(client, item("a"), item("b", "bad"), item("c", "x", max_tokens=0))).json()
    assert made["id"].startswith("msgbatch_")
    assert (made["type"], made["processing_status"], made["results_url"]) == (
        "message_batch",
        "in_progress",
        None,
    )
    assert made["request_counts"]["processing"] == 3
    batch = await until_ended(client, made["id"])
    assert batch["request_counts"] == {
        "processing": 0,
        "succeeded": 1,
        "errored": 2,
        "canceled": 0,
        "expired": 0,
    }
    assert batch["ended_at"].endswith("Z")
    assert batch["results_url"] == f"http://localhost:8080{PATH}/{made['id']}/results"
    found = await results(client, made["id"])
    assert found["a"]["type"] == "succeeded"
    assert found["a"]["message"]["content"][0]["text"] == "Well"
    assert found["b"]["type"] == "errored"
    assert (found["b"]["error"]["type"], found["b"]["error"]["error"]["type"]) == (
        "error",
        "api_error",
    )
    assert found["c"]["error"]["error"]["type"] == "invalid_request_error"
    kept = [each for each in gateway.made if each.conversation_id not in gateway.abandoned]
    assert kept == []
    deleted = await client.request("DELETE", f"{PATH}/{made['id']}")
    assert deleted.json() == {"id": made["id"], "type": "message_batch_deleted"}
    assert (await client.request("GET", f"{PATH}/{made['id']}")).status == 404


@pytest.mark.parametrize(
    ("body", "place"),
    [
        ({}, "requests"),
        ({"requests": []}, "requests"),
        ({"requests": [1]}, "requests"),
        ({"requests": [{"custom_id": "a"}]}, "requests.0.params"),
        ({"requests": [item("")]}, "requests.0.custom_id"),
        ({"requests": [item("a b")]}, "requests.0.custom_id"),
        ({"requests": [item("a" * 65)]}, "requests.0.custom_id"),
        ({"requests": [item("a"), item("a")]}, "requests.1.custom_id"),
        ({"requests": [item("a", stream=True)]}, "requests.0.params.stream"),
        ({"requests": [item(str(n)) for n in range(4)]}, "batches.max_requests"),
        ({"requests": [[]] * 100_001}, "JSON values"),
    ],
)
async def test_what_is_no_batch_is_refused(body: JSON, place: str) -> None:
    settings = Settings(batches=BatchSettings(max_requests=3))
    async with open_gateway_double(settings) as gateway:
        client = Client(app_of(gateway))
        response = await client.request("POST", PATH, json=body)
        assert response.status == 400
        assert response.json()["type"] == "error"
        assert place in response.json()["error"]["message"]
        page = await client.request("GET", PATH)
        assert page.json()["data"] == []


async def test_a_cancelled_batch_says_what_was_canceled(
    client: Client, gateway: GatewayDouble, autojump_clock: MockClock
) -> None:
    async def script(asked: Asked) -> None:
        if asked.messages[-1].text == "slow":
            await trio.sleep_forever()
        await says("fine")(asked)

    gateway.script = script
    made = (await create(client, item("a"), item("b", "slow"), item("c", "slow"))).json()
    while len(gateway.asked) < 3:
        await trio.sleep(0.1)
    for place in ("/results", ""):
        method = "GET" if place else "DELETE"
        response = await client.request(method, f"{PATH}/{made['id']}{place}")
        assert response.status == 400
    canceled = (await client.request("POST", f"{PATH}/{made['id']}/cancel")).json()
    assert canceled["processing_status"] == "canceling"
    assert canceled["cancel_initiated_at"]
    batch = await until_ended(client, made["id"])
    assert batch["request_counts"]["canceled"] == 2
    found = await results(client, made["id"])
    assert (found["a"]["type"], found["b"], found["c"]) == (
        "succeeded",
        {"type": "canceled"},
        {"type": "canceled"},
    )
    assert (await client.request("POST", f"{PATH}/{made['id']}/cancel")).status == 400


async def test_what_does_not_run_in_time_expires(autojump_clock: MockClock) -> None:
    async with open_gateway_double(Settings(batches=BatchSettings(window_hours=0.001))) as gateway:
        client = Client(app_of(gateway))
        gateway.script = failing(Overloaded("Full.", retry_after=600))
        made = (await create(client, item("a"))).json()
        await until_ended(client, made["id"])
        assert await results(client, made["id"]) == {"a": {"type": "expired"}}


async def test_batches_are_listed_both_ways_and_are_a_keys_own(autojump_clock: MockClock) -> None:
    settings = Settings(auth=AuthSettings(api_keys=("alice", "bob")))
    async with open_gateway_double(settings) as gateway:
        app = app_of(gateway)
        alice, bob = (Client(app, {"x-api-key": name}) for name in ("alice", "bob"))
        names = [(await create(alice, item("a"))).json()["id"] for _ in range(4)]

        async def listed(query: str) -> tuple[list[str], bool]:
            page = (await alice.request("GET", f"{PATH}?{query}")).json()
            return [each["id"] for each in page["data"]], page["has_more"]

        assert await listed("limit=2") == ([names[3], names[2]], True)
        assert await listed(f"limit=2&after_id={names[2]}") == ([names[1], names[0]], False)
        assert await listed(f"limit=2&before_id={names[0]}") == ([names[2], names[1]], True)
        for query in (f"after_id={names[0]}&before_id={names[1]}", "limit=0", "after_id=x"):
            assert (await alice.request("GET", f"{PATH}?{query}")).status == 400
        for method, place in (
            ("GET", ""),
            ("DELETE", ""),
            ("POST", "/cancel"),
            ("GET", "/results"),
        ):
            response = await bob.request(method, f"{PATH}/{names[0]}{place}")
            assert response.status == 404
            assert response.json()["error"]["type"] == "not_found_error"
        assert (await bob.request("GET", PATH)).json()["data"] == []
        shown = await alice.request("GET", f"/v1/batches/{names[0]}")
        assert shown.status == 404, "it is none of OpenAI's"


async def test_the_version_is_that_of_its_requests(
    client: Client, gateway: GatewayDouble, autojump_clock: MockClock
) -> None:
    refused = await create(client, item("a"), **{"anthropic-version": "1999-01-01"})
    assert refused.status == 400
    gateway.script = says("fine")
    made = await create(client, item("a", temperature=0.5), **{"anthropic-version": "2026-10-21"})
    await until_ended(client, made.json()["id"])
    [found] = (await results(client, made.json()["id"])).values()
    alone = await client.request(
        "POST",
        "/v1/messages",
        json=item("a", temperature=0.5)["params"],
        headers={"anthropic-version": "2026-10-21"},
    )
    assert (found["type"] == "succeeded") == (alone.status == 200)
