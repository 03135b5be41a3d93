"""What keys may do on several gateways at once: the limits, budgets and idempotency keys of one are
those of all."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from ccapi.actors.keys import registry
from ccapi.actors.keys.registry import owner_of
from ccapi.schemas.keys import ApiKey, KeyLimits, Scope, new_secret

from ..support.embedded import SILENT, script
from ..support.live import Live
from ..support.nodes import open_demo_nodes


@pytest.fixture
async def nodes(tmp_path: Path) -> AsyncIterator[list[Live]]:
    async with open_demo_nodes(tmp_path, 3) as opened:
        yield opened


async def new_key(nodes: list[Live], scopes: tuple[Scope, ...] = ("chat",), **limits: Any) -> str:
    """A key that all nodes know."""
    secret = new_secret()
    store = nodes[0].gateway.archive.store
    assert store is not None
    id = owner_of(secret)
    await store.add_key(ApiKey(id=id, name=id, scopes=scopes, limits=KeyLimits(**limits)))
    with trio.fail_after(1):
        while not all(id in node.gateway.keys.names() for node in nodes):
            await trio.sleep(0.02)
    return secret


@asynccontextmanager
async def client_of(secret: str) -> AsyncIterator[httpx.AsyncClient]:
    headers = {"authorization": f"Bearer {secret}"}
    async with httpx.AsyncClient(timeout=30, headers=headers, trust_env=False) as client:
        yield client


async def ask(
    client: httpx.AsyncClient, node: Live, text: str, name: str | None = None, **fields: Any
) -> httpx.Response:
    body = {"messages": [{"role": "user", "content": text}], "model": "sonnet", **fields}
    headers = {} if name is None else {"idempotency-key": name}
    return await client.post(f"{node.base_url}/chat/completions", json=body, headers=headers)


def running(nodes: list[Live]) -> int:
    return sum(node.gateway.statistics().turns_running for node in nodes)


async def test_never_one_turn_too_many_whichever_nodes_are_asked(nodes: list[Live]) -> None:
    secret = await new_key(nodes, concurrent_turns=3)
    owner = owner_of(secret)
    most = 0
    statuses: list[int] = []

    async def watch() -> None:
        nonlocal most
        while True:
            # What runs in children, and not what waits for its place.
            at_once = sum(
                each.phase in ("waking", "busy")
                for node in nodes
                for each in node.gateway.sessions(owner=owner)
            )
            most = max(most, at_once)
            await trio.sleep(0.002)

    async def use(number: int) -> None:
        async with client_of(secret) as client:
            for turn in range(3):
                node = nodes[(number + turn) % len(nodes)]
                text = script(f"client {number} turn {turn}", pace_ms=30)
                statuses.append((await ask(client, node, text)).status_code)

    async with trio.open_nursery() as watching:
        watching.start_soon(watch)
        async with trio.open_nursery() as nursery:
            for number in range(8):
                nursery.start_soon(use, number)
        watching.cancel_scope.cancel()
    counted = Counter(statuses)
    assert set(counted) == {200, 429}, counted
    assert most == 3
    # All places are free again, on any node.
    async with client_of(secret) as client:
        for number, node in enumerate(nodes * 2):
            assert (await ask(client, node, f"{number}")).status_code == 200


async def test_turns_in_a_minute_are_exact_and_the_headers_say_so(nodes: list[Live]) -> None:
    secret = await new_key(nodes, turns_per_minute=6)
    statuses: list[int] = []
    async with client_of(secret) as client:
        for left in (5, 4):
            answer = await ask(client, nodes[left % 3], f"left {left}")
            assert answer.headers["x-ratelimit-remaining-requests"] == str(left)

        async def use(number: int) -> None:
            answer = await ask(client, nodes[number % 3], f"turn {number}")
            statuses.append(answer.status_code)

        async with trio.open_nursery() as nursery:
            for number in range(12):
                nursery.start_soon(use, number)
        assert Counter(statuses) == {200: 4, 429: 8}
        for node in nodes:
            refused = await ask(client, node, "one more")
            assert refused.json()["error"]["code"] == "key_limit_reached"
            assert refused.headers["x-ratelimit-remaining-requests"] == "0"


async def test_another_key_finds_nothing_at_any_node(nodes: list[Live]) -> None:
    """Also where another node has the conversation: that says to none whether there is one."""
    mine, other = await new_key(nodes), await new_key(nodes)
    async with client_of(mine) as client:
        name = (await ask(client, nodes[0], "One")).json()["conversation_id"]
    async with client_of(other) as client:
        for node in nodes:
            url = f"{node.base_url}/conversations/{name}"
            tried = [
                await client.delete(url),
                await client.get(url),
                await client.get(f"{url}/items"),
                await client.post(f"{url}/items", json={"items": []}),
                await ask(client, node, "Two", conversation_id=name),
            ]
            assert [each.status_code for each in tried[:3]] == [404] * 3, tried
            assert {each.status_code for each in tried} <= {400, 404, 405}, tried
            assert "elsewhere" not in "".join(each.text for each in tried)
    async with client_of(mine) as client:
        for node in nodes:
            assert (await client.get(f"{node.base_url}/conversations/{name}")).status_code == 200


async def test_a_request_that_is_passed_on_counts_once(nodes: list[Live]) -> None:
    secret = await new_key(nodes, turns_per_minute=10, concurrent_turns=1)
    one, other, _ = nodes
    async with client_of(secret) as client:
        name = (await ask(client, one, "One")).json()["conversation_id"]
        for left in (8, 7, 6):
            answer = await ask(client, other, "More", conversation_id=name)
            assert answer.status_code == 200, answer.text
            assert answer.headers["x-ratelimit-remaining-requests"] == str(left)


async def test_a_budget_is_spent_on_all_nodes_together(nodes: list[Live]) -> None:
    secret = await new_key(nodes, tokens_per_day=100, concurrent_turns=1)
    owner = owner_of(secret)
    used, turns = 0, 0
    async with client_of(secret) as client:
        while True:
            node = nodes[turns % 3]
            answer = await ask(client, node, f"turn {turns}", store=turns % 2 == 0)
            if answer.status_code != 200:
                break
            assert used < 100, "a turn has begun behind the budget"
            used += answer.json()["usage"]["total_tokens"]
            turns += 1
        assert used >= 100
        assert answer.json()["error"]["code"] == "key_limit_reached"
        for node in nodes:
            refused = await ask(client, node, "no more")
            assert (refused.status_code, refused.headers["x-ratelimit-remaining-tokens"]) == (
                429,
                "0",
            )
            usage = (await client.get(f"{node.base_url}/usage")).json()["data"]
            assert sum(each["total_tokens"] for each in usage) == used
            assert sum(each["turns"] for each in usage) == turns
            assert {each["key_id"] for each in usage} == {owner[:12]}


async def test_a_revoked_key_ends_on_all_nodes(
    nodes: list[Live], monkeypatch: pytest.MonkeyPatch
) -> None:
    await trio.sleep(registry.POLL_SECONDS)
    monkeypatch.setattr(registry, "POLL_SECONDS", 600.0)  # a hint has to do
    await trio.sleep(0.4)
    secret = await new_key(nodes)
    await new_key(nodes)  # so that a key is needed, afterwards too
    endings: list[tuple[int, str]] = []

    async def use(node: Live) -> None:
        async with client_of(secret) as client:
            answer = await ask(client, node, SILENT + node.url)
            endings.append((answer.status_code, answer.json()["error"]["code"]))

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            for node in nodes:
                nursery.start_soon(use, node)
            while running(nodes) < 3:
                await trio.sleep(0.01)
            store = nodes[1].gateway.archive.store
            assert store is not None
            began = trio.current_time()
            await store.revoke_key(owner_of(secret))
    assert trio.current_time() - began < 1.0
    assert endings == [(401, "key_revoked")] * 3
    async with client_of(secret) as client:
        for node in nodes:
            assert (await ask(client, node, "hello")).status_code == 401


async def test_an_idempotency_key_is_done_once_on_all_nodes(nodes: list[Live]) -> None:
    secret = await new_key(nodes)
    answers: list[httpx.Response] = []
    text = script("only once", pace_ms=100)
    async with client_of(secret) as client:

        async def use(node: Live) -> None:
            answers.append(await ask(client, node, text, "name"))

        async with trio.open_nursery() as nursery:
            for node in nodes * 2:
                nursery.start_soon(use, node)
        assert {each.status_code for each in answers} == {200}
        assert len({each.content for each in answers}) == 1
        assert sum("idempotent-replayed" in each.headers for each in answers) == 5
        usage = (await client.get(f"{nodes[0].base_url}/usage")).json()["data"]
        assert sum(each["turns"] for each in usage) == 1
        reused = await ask(client, nodes[2], "another request", "name")
        assert reused.json()["error"]["code"] == "idempotency_key_reused"


async def test_a_key_is_used_with_a_conversation_of_another_node(nodes: list[Live]) -> None:
    secret = await new_key(nodes)
    one, other, _ = nodes
    async with client_of(secret) as client:
        begun = await ask(client, one, "One")
        body = {
            "messages": [{"role": "user", "content": "Two"}],
            "conversation_id": begun.json()["conversation_id"],
        }
        answers = [
            await client.post(
                f"{other.base_url}/chat/completions", json=body, headers={"idempotency-key": "name"}
            )
            for _ in range(2)
        ]
    assert [each.status_code for each in answers] == [200, 200], answers[0].text
    assert answers[0].content == answers[1].content
    ids = [each.headers.get_list("x-request-id") for each in answers]
    assert (len(ids[0]), len(ids[1])) == (1, 1)
    assert ids[0] != ids[1]
    assert "idempotent-replayed" in answers[1].headers


async def test_what_a_node_gave_back_another_does(nodes: list[Live]) -> None:
    """The first is refused, and has done nothing: so the one that waited is done."""
    secret = await new_key(nodes)
    text = script("not while it drains", pace_ms=1)
    one, other, _ = nodes
    store = one.gateway.archive.store
    assert store is not None
    asked: list[int] = []
    async with client_of(secret) as client, trio.open_nursery() as nursery:
        digest = await _digest_of(client, other, text)
        assert await store.claim_request(owner_of(secret), "name", digest, 9e9) is None

        async def use() -> None:
            asked.append((await ask(client, other, text, "name")).status_code)

        nursery.start_soon(use)
        await trio.sleep(0.4)
        assert not asked
        await store.release_request(owner_of(secret), "name")
    assert asked == [200]


async def _digest_of(client: httpx.AsyncClient, node: Live, text: str) -> bytes:
    """Of such a request, as a node finds it."""
    store = node.gateway.archive.store
    assert store is not None
    await ask(client, node, text, "another")
    key = owner_of(client.headers["authorization"].removeprefix("Bearer "))
    kept = await store.claim_request(key, "another", b"", 9e9)
    assert kept is not None
    return kept.digest


async def test_a_request_of_a_node_that_is_gone_is_lost(nodes: list[Live]) -> None:
    secret = await new_key(nodes)
    one, other, _ = nodes
    store = one.gateway.archive.store
    assert store is not None
    text = script("of one that is gone", pace_ms=1)
    async with client_of(secret) as client:
        digest = await _digest_of(client, other, text)
        assert await store.claim_request(owner_of(secret), "name", digest, 9e9) is None
        await store.leave()
        lost = await ask(client, other, text, "name")
        assert (lost.status_code, lost.json()["error"]["code"]) == (409, "turn_lost")


async def test_an_approved_call_is_done_once_on_all_nodes(nodes: list[Live]) -> None:
    done: list[bool] = []

    async def call(node: Live) -> None:
        done.append(await node.gateway.idempotent.claim_once("me", "approval one", b"x", 60))

    async with trio.open_nursery() as nursery:
        for node in nodes * 3:
            nursery.start_soon(partial(call, node))
    assert sum(done) == 1


async def test_what_one_node_has_compacted_another_reads(nodes: list[Live]) -> None:
    secret = await new_key(nodes)
    one, other, _ = nodes
    async with client_of(secret) as client:
        compacted = await client.post(
            f"{one.base_url}/responses/compact", json={"model": "sonnet", "input": "Remember 42."}
        )
        assert compacted.status_code == 200, compacted.text
        history = [*compacted.json()["output"], {"role": "user", "content": "What was it?"}]
        answer = await client.post(
            f"{other.base_url}/responses", json={"model": "sonnet", "input": history}
        )
        assert answer.status_code == 200, answer.text


# -- statistics of all nodes -----------------------------------------------------------------------


async def test_statistics_are_of_all_nodes(nodes: list[Live]) -> None:
    admin, plain = await new_key(nodes, scopes=("admin", "chat")), await new_key(nodes)
    async with client_of(admin) as mine, client_of(plain) as theirs, trio.open_nursery() as nursery:
        for number, node in enumerate(nodes):
            assert (await ask(mine, node, f"turn {number}")).status_code == 200
        for node in nodes[:2]:
            nursery.start_soon(ask, theirs, node, SILENT + node.url)
        with trio.fail_after(10):
            while running(nodes) < 2:
                await trio.sleep(0.01)
        for node in nodes:
            with trio.fail_after(10):  # the others tell it with their next beats
                while True:
                    told = (await mine.get(f"{node.url}/stats")).json()
                    whole = told["cluster"]
                    found = whole["turns_running"], whole["turns_finished"]
                    if found == (2, 3):
                        break
                    await trio.sleep(0.05)
            assert whole["nodes"] == 3
            assert whole["completion_tokens"] > 0
            assert [each["url"] for each in told["nodes"]] == sorted(each.url for each in nodes)
            assert all(each["store_ms"] > 0 and each["version"] for each in told["nodes"])
            own = (await theirs.get(f"{node.url}/stats")).json()
            assert own["cluster"] == {"nodes": 3, "turns_running": 2}
            assert "nodes" not in own
            metrics = (await mine.get(f"{node.url}/metrics")).text
            assert f'url="{node.url}"' in metrics
            assert "ccapi_nodes 3.0" in metrics
            assert "ccapi_node_info" not in (await theirs.get(f"{node.url}/metrics")).text
        nursery.cancel_scope.cancel()
