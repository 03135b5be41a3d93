"""Several gateways on one store, asked as by a balancer that does not care which is which."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from ..support.embedded import script
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
