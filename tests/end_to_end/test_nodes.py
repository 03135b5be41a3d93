"""Several gateways on one store, asked as by a balancer that does not care which is which."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from trio_websocket import ConnectionClosed, open_websocket_url

from ..support.embedded import script
from ..support.joined import open_joined
from ..support.live import Live
from ..support.nodes import open_demo_nodes


@pytest.fixture
async def nodes(tmp_path: Path) -> AsyncIterator[list[Live]]:
    async with open_demo_nodes(tmp_path) as opened:
        yield opened


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(timeout=30) as opened:
        yield opened


async def ask(client: httpx.AsyncClient, node: Live, text: str, **fields: Any) -> httpx.Response:
    messages = fields.pop("messages", [{"role": "user", "content": text}])
    body = {"messages": messages, **fields}
    return await client.post(f"{node.base_url}/chat/completions", json=body)


async def test_a_conversation_goes_on_through_any_node(
    nodes: list[Live], client: httpx.AsyncClient
) -> None:
    one, other = nodes
    first = await ask(client, one, "One")
    name = first.json()["conversation_id"]
    second = await ask(client, other, "Two", conversation_id=name)
    assert second.status_code == 200, second.text
    assert second.headers["x-conversation-id"] == name
    assert second.headers["x-ccapi-child"] == "warm"  # the child of the node that had it
    shown = await client.get(f"{other.base_url}/conversations/{name}/items")
    assert len(shown.json()["data"]) == 4


async def test_a_history_finds_the_warm_child_on_another_node(
    nodes: list[Live], client: httpx.AsyncClient
) -> None:
    one, other = nodes
    first = await ask(client, one, "One")
    answer = first.json()["choices"][0]["message"]["content"]
    messages = [
        {"role": "user", "content": "One"},
        {"role": "assistant", "content": answer},
        {"role": "user", "content": "Two"},
    ]
    second = await ask(client, other, "", messages=messages)
    assert second.headers["x-ccapi-lineage"] == "hit"
    assert second.headers["x-ccapi-child"] == "warm"
    assert second.json()["conversation_id"] == first.json()["conversation_id"]


async def test_a_stream_passes_as_it_comes(nodes: list[Live], client: httpx.AsyncClient) -> None:
    one, other = nodes
    name = (await ask(client, one, "One")).json()["conversation_id"]
    body = {
        "messages": [{"role": "user", "content": script("a b c d e f g h", pace_ms=40)}],
        "stream": True,
        "conversation_id": name,
    }
    times = []
    async with client.stream("POST", f"{other.base_url}/chat/completions", json=body) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        async for line in response.aiter_lines():
            if line.startswith("data:"):
                times.append(trio.current_time())
    assert line == "" or line.endswith("[DONE]")
    assert times[-1] - times[0] > 0.15


async def test_a_conversation_at_rest_moves(tmp_path: Path, client: httpx.AsyncClient) -> None:
    async with open_demo_nodes(
        tmp_path, cluster={"release_seconds": 0.1}, claude={"hibernate_after_seconds": 0.1}
    ) as (one, other):
        name = (await ask(client, one, "One")).json()["conversation_id"]
        with trio.fail_after(20):
            while one.gateway.conversations():
                await trio.sleep(0.05)
        second = await ask(client, other, "Two", conversation_id=name)
        assert second.status_code == 200
        assert name in {each.conversation_id for each in other.gateway.conversations()}


async def test_a_node_that_stops_gives_its_conversations_up(
    tmp_path: Path, client: httpx.AsyncClient
) -> None:
    async with open_demo_nodes(tmp_path) as (one, other):
        name = (await ask(client, one, "One")).json()["conversation_id"]
        one.stop.set()
        with trio.fail_after(20):
            while True:
                second = await ask(client, other, "Two", conversation_id=name)
                if second.status_code == 200:
                    break
                await trio.sleep(0.1)
        assert second.headers["x-conversation-id"] == name


async def test_a_client_cannot_pretend_to_be_a_node(
    nodes: list[Live], client: httpx.AsyncClient
) -> None:
    url = f"{nodes[0].base_url}/models"
    refused = await client.get(url, headers={"x-ccapi-node": "v1 me 1 00"})
    assert refused.status_code == 403
    assert refused.json()["error"]["code"] == "node_refused"


# -- watchers --------------------------------------------------------------------------------------


async def test_watchers_of_any_node_see_the_same(
    nodes: list[Live], client: httpx.AsyncClient
) -> None:
    one, other = nodes
    name = (await ask(client, one, "One")).json()["conversation_id"]
    async with open_joined(other.url, name) as far, open_joined(one.url, name) as near:
        assert len(far.hello["items"]) == 2
        ended = await far.turn("Two")
        assert ended["type"] == "turn.finished"
        await near.until("turn.finished")
        assert far.text == near.text
        assert far.text


async def test_a_watcher_comes_back_when_the_node_has_gone(
    nodes: list[Live], client: httpx.AsyncClient
) -> None:
    one, other = nodes
    name = (await ask(client, one, "One")).json()["conversation_id"]
    async with open_joined(other.url, name) as watcher:
        one.stop.set()
        with pytest.raises(ConnectionClosed), trio.fail_after(20):
            while True:
                await watcher.next()
        await watcher.cut()
    with trio.fail_after(20):
        async with open_joined(other.url, name) as again:
            assert len(again.hello["items"]) == 2


# -- Responses -------------------------------------------------------------------------------------


async def test_a_response_goes_on_through_any_node(
    nodes: list[Live], client: httpx.AsyncClient
) -> None:
    one, other = nodes
    first = (await client.post(f"{one.base_url}/responses", json={"input": "One"})).json()
    body = {"input": "Two", "previous_response_id": first["id"]}
    second = await client.post(f"{other.base_url}/responses", json=body)
    assert second.status_code == 200, second.text
    assert second.headers["x-ccapi-child"] == "warm"
    shown = await client.get(f"{one.base_url}/responses/{second.json()['id']}")
    assert shown.json()["output"] == second.json()["output"]


async def test_a_response_in_the_background_is_followed_through_any_node(
    nodes: list[Live], client: httpx.AsyncClient
) -> None:
    one, other = nodes
    body = {"input": script("a b c d e f g h", pace_ms=60), "background": True}
    begun = (await client.post(f"{one.base_url}/responses", json=body)).json()
    assert begun["status"] == "in_progress"
    url = f"{other.base_url}/responses/{begun['id']}"
    async with client.stream("GET", url, params={"stream": "true"}) as events:
        text = "".join([piece async for piece in events.aiter_text()])
    assert '"type":"response.completed"' in text
    again = await client.get(url, params={"stream": "true", "starting_after": "2"})
    assert '"sequence_number":2,' not in again.text
    assert '"type":"response.completed"' in again.text
    shown = await client.get(url)
    assert shown.json()["status"] == "completed"


async def test_one_in_the_background_is_cancelled_through_any_node(
    nodes: list[Live], client: httpx.AsyncClient
) -> None:
    one, other = nodes
    body = {"input": script(first_ms=600_000), "background": True}
    begun = (await client.post(f"{one.base_url}/responses", json=body)).json()
    with trio.fail_after(20):
        ended = await client.post(f"{other.base_url}/responses/{begun['id']}/cancel")
    assert ended.json()["status"] == "cancelled"


async def responses_over(node: Live, *messages: dict[str, Any]) -> list[dict[str, Any]]:
    """What comes back over a WebSocket, up to the end of the last response."""
    events: list[dict[str, Any]] = []
    url = f"ws{node.url.removeprefix('http')}/v1/responses"
    with trio.fail_after(30):
        async with open_websocket_url(url) as connection:
            for message in messages:
                await connection.send_message(json.dumps({"type": "response.create", **message}))
                while True:
                    events.append(json.loads(await connection.get_message()))
                    if events[-1]["type"] in ("response.completed", "response.failed", "error"):
                        break
    return events


async def test_responses_over_a_websocket_go_on_through_any_node(
    nodes: list[Live], client: httpx.AsyncClient
) -> None:
    one, other = nodes
    first = (await client.post(f"{one.base_url}/responses", json={"input": "One"})).json()
    events = await responses_over(
        other, {"input": "Two", "previous_response_id": first["id"], "stream_id": "a"}
    )
    assert events[-1]["type"] == "response.completed", events[-1]
    assert {event["stream_id"] for event in events} == {"a"}
    assert [event["sequence_number"] for event in events] == [*range(len(events))]


async def test_a_response_elsewhere_is_steered_and_cancelled(
    nodes: list[Live], client: httpx.AsyncClient
) -> None:
    one, other = nodes
    first = (await client.post(f"{one.base_url}/responses", json={"input": "One"})).json()
    url = f"ws{other.url.removeprefix('http')}/v1/responses"

    async def until(connection: Any, kind: str) -> dict[str, Any]:
        while True:
            event: dict[str, Any] = json.loads(await connection.get_message())
            if event["type"] == kind:
                return event

    with trio.fail_after(30):
        async with open_websocket_url(url) as connection:
            create = {
                "type": "response.create",
                "input": script("a b c d e f g h", pace_ms=200),
                "previous_response_id": first["id"],
            }
            await connection.send_message(json.dumps(create))
            begun = (await until(connection, "response.created"))["response"]["id"]
            await until(connection, "response.output_text.delta")
            steer = {"type": "response.steer", "previous_response_id": begun, "input": "Shorter"}
            await connection.send_message(json.dumps(steer))
            await until(connection, "response.steer.accepted")
            await until(connection, "response.incomplete")
            second = (await until(connection, "response.created"))["response"]["id"]
            assert second != begun
