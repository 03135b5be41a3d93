"""Several gateways on one store, asked as by a balancer that does not care which is which."""

from __future__ import annotations

import gc
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import attrs
import httpx
import pytest
import trio
from trio_websocket import ConnectionClosed, open_websocket_url

from ccapi.actors import open_gateway
from ccapi.actors.commands import serve
from ccapi.actors.http.request import Call
from ccapi.actors.nodes.checks import problem_of
from ccapi.schemas.settings.settings import SettingsError, WorkspaceSettings
from ccapi.transport.store.interface import StoredConversation
from ccapi.transport.store.memory import MemoryCluster

from ..support.embedded import script
from ..support.joined import open_joined
from ..support.live import Live, settings_for
from ..support.nodes import free_port, node_settings, open_demo_nodes


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


async def test_a_message_is_asked_for_through_any_node(
    nodes: list[Live], client: httpx.AsyncClient
) -> None:
    one, other = nodes
    body = {
        "model": "sonnet",
        "max_tokens": 1000,
        "messages": [{"role": "user", "content": "One"}],
    }
    first = await client.post(f"{one.base_url}/messages", json=body)
    name = {"x-conversation-id": first.headers["x-conversation-id"]}
    second = await client.post(f"{other.base_url}/messages", json=body, headers=name)
    assert (second.status_code, second.json()["type"]) == (200, "message"), second.text
    assert second.headers["x-ccapi-child"] == "warm"
    assert second.headers.get_list("request-id") == [second.headers["x-request-id"]]
    wrong = {**body, "messages": [{"role": "user", "content": ""}]}
    failed = await client.post(f"{other.base_url}/messages", json=wrong, headers=name)
    assert (failed.status_code, failed.json()["type"]) == (400, "error")


async def test_a_request_that_is_passed_on_is_done_once(
    nodes: list[Live], client: httpx.AsyncClient
) -> None:
    one, other = nodes
    body = {"model": "sonnet", "max_tokens": 1000, "messages": [{"role": "user", "content": "One"}]}
    first = await client.post(f"{one.base_url}/messages", json=body)
    headers = {
        "x-conversation-id": first.headers["x-conversation-id"],
        "idempotency-key": "once",
    }
    asked = [await client.post(f"{other.base_url}/messages", json=body, headers=headers)]
    asked += [await client.post(f"{one.base_url}/messages", json=body, headers=headers)]
    assert [each.status_code for each in asked] == [200, 200], asked[0].text
    assert asked[0].json() == asked[1].json()
    assert [each.headers.get("idempotent-replayed") for each in asked] == [None, "true"]
    for each in asked:
        assert each.headers.get_list("request-id") == [each.headers["x-request-id"]]


@pytest.mark.parametrize("stream", [True, False])
async def test_a_failure_on_another_node_may_be_tried_again_with_its_key(
    nodes: list[Live], client: httpx.AsyncClient, stream: bool
) -> None:
    one, other = nodes
    name = (await ask(client, one, "One")).json()["conversation_id"]
    body = {
        "messages": [{"role": "user", "content": script("a b c", error="no", after=1)}],
        "stream": stream,
        "conversation_id": name,
    }
    for _ in range(2):
        failed = await client.post(
            f"{other.base_url}/chat/completions", json=body, headers={"idempotency-key": "again"}
        )
        assert '"error"' in failed.text
        assert "idempotent-replayed" not in failed.headers


async def test_nothing_stays_of_a_request_that_was_passed_on(
    nodes: list[Live], client: httpx.AsyncClient
) -> None:
    one, other = nodes
    name = (await ask(client, one, "One")).json()["conversation_id"]
    for text in ("Two", "Three"):  # the second one goes there without a look into the store
        assert (await ask(client, other, text, conversation_id=name)).status_code == 200
    await trio.sleep(0.1)
    gc.collect()
    assert not [each for each in gc.get_objects() if isinstance(each, Call)]


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


async def test_a_conversation_is_looked_for_once_and_again_when_it_has_moved(
    tmp_path: Path, client: httpx.AsyncClient
) -> None:
    async with open_demo_nodes(
        tmp_path, 3, cluster={"release_seconds": 0.1}, claude={"hibernate_after_seconds": 1.0}
    ) as (one, other, third):
        looks: list[str] = []
        store = other.gateway.archive.store
        assert store is not None
        get = store.get

        async def note(conversation_id: str, key_id: str) -> StoredConversation:
            looks.append(conversation_id)
            return await get(conversation_id, key_id)

        store.get = note  # type: ignore[method-assign]
        name = (await ask(client, one, "One")).json()["conversation_id"]
        for text in ("Two", "Three", "Four"):
            answer = await ask(client, other, text, conversation_id=name)
            assert answer.status_code == 200, answer.text
        assert looks == [name]
        with trio.fail_after(20):
            while one.gateway.conversations():
                await trio.sleep(0.05)
        # Another node takes it; the one that was asked before says that it has not got it.
        assert (await ask(client, third, "Five", conversation_id=name)).status_code == 200
        answer = await ask(client, other, "Six", conversation_id=name)
        assert (answer.status_code, answer.headers["x-ccapi-child"]) == (200, "warm")
        assert not one.gateway.conversations()
        assert len(looks) == 2


async def test_only_nodes_say_which_conversation_is_expected(
    nodes: list[Live], client: httpx.AsyncClient
) -> None:
    one, other = nodes
    name = (await ask(client, one, "One")).json()["conversation_id"]
    body = {"messages": [{"role": "user", "content": "Two"}], "conversation_id": name}
    for node in (one, other, other):
        answer = await client.post(
            f"{node.base_url}/chat/completions", json=body, headers={"x-ccapi-expected": "none"}
        )
        assert answer.status_code == 200, answer.text


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


async def test_an_answer_of_the_cache_is_gone_on_with_through_any_node(
    nodes: list[Live], client: httpx.AsyncClient
) -> None:
    """Its conversation is in no store before that."""
    one, other = nodes
    names = []
    for _ in range(3):
        answered = await ask(client, one, "The same")
        names.append(answered.json()["conversation_id"])
    assert answered.headers["x-ccapi-cache"] == "hit"
    _, second, third = names
    again = await ask(client, other, "how many messages?", conversation_id=second)
    assert again.status_code == 200, again.text
    assert "**3** messages" in again.json()["choices"][0]["message"]["content"]
    one.stop.set()  # what it has not stored it stores now
    with trio.fail_after(20):
        while True:
            again = await ask(client, other, "how many messages?", conversation_id=third)
            if again.status_code != 503:
                break
            await trio.sleep(0.1)
    assert again.status_code == 200, again.text
    assert "**3** messages" in again.json()["choices"][0]["message"]["content"]
    gone = await ask(client, other, "More", conversation_id=f"{third[:-4]}0000")
    assert gone.status_code == 404


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


async def test_a_response_that_one_node_deletes_is_gone_on_all(
    nodes: list[Live], client: httpx.AsyncClient
) -> None:
    one, other = nodes
    made = (await client.post(f"{one.base_url}/responses", json={"input": "One"})).json()
    path = f"responses/{made['id']}"
    for node in nodes:  # both have it in memory
        assert (await client.get(f"{node.base_url}/{path}")).status_code == 200
    assert (await client.delete(f"{other.base_url}/{path}")).status_code == 200
    for node in nodes:
        assert (await client.get(f"{node.base_url}/{path}")).status_code == 404


async def test_a_response_that_is_just_being_stored_is_no_lost_one(
    nodes: list[Live], client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = nodes
    store = one.gateway.archive.store
    assert store is not None
    put, ended = store.put_response, trio.Event()

    async def put_slowly(stored: Any, *rest: Any) -> None:
        if stored.ending is not None:
            ended.set()
            await trio.sleep(0.5)
        await put(stored, *rest)

    monkeypatch.setattr(store, "put_response", put_slowly)
    body = {"input": "Hello", "background": True}
    begun = (await client.post(f"{one.base_url}/responses", json=body)).json()
    with trio.fail_after(20):
        await ended.wait()
        for node in (other, one):
            shown = (await client.get(f"{node.base_url}/responses/{begun['id']}")).json()
            assert shown["status"] == "in_progress", "it is not stored yet"
        url = f"{other.base_url}/responses/{begun['id']}"
        events = (await client.get(url, params={"stream": "true"})).text
    assert '"type":"response.completed"' in events
    shown = (await client.get(url)).json()
    assert (shown["status"], shown["error"]) == ("completed", None)


async def responses_over(node: Live, *messages: dict[str, Any]) -> list[dict[str, Any]]:
    """What comes back over a WebSocket, up to the end of the last response."""
    events: list[dict[str, Any]] = []
    url = f"ws{node.url.removeprefix('http')}/v1/responses"
    with trio.fail_after(30):
        async with open_websocket_url(url, max_message_size=2**24) as connection:
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


async def test_a_long_response_passes_over_a_websocket_between_nodes(
    nodes: list[Live], client: httpx.AsyncClient
) -> None:
    one, other = nodes
    first = (await client.post(f"{one.base_url}/responses", json={"input": "One"})).json()
    long = {"input": script("x" * 1_100_000), "previous_response_id": first["id"]}
    events = await responses_over(other, long)
    assert events[-1]["type"] == "response.completed", events[-1]


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


# -- who is there ----------------------------------------------------------------------------------


async def test_nodes_find_each_other(nodes: list[Live]) -> None:
    one, other = nodes
    for each, to in ((one, other), (other, one), (one, one)):
        membership, node = each.gateway.nodes, to.gateway.nodes
        assert membership is not None
        assert node is not None
        client = each.gateway.node_client
        assert await problem_of(membership, client, to.url, node.node.id) is None


async def test_clients_do_not_reach_what_nodes_ask(
    nodes: list[Live], client: httpx.AsyncClient
) -> None:
    answer = await client.get(f"{nodes[0].base_url}/node")
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "not_found"


async def test_what_is_wrong_between_nodes_is_said(nodes: list[Live]) -> None:
    one, other = nodes
    membership, client = one.gateway.nodes, one.gateway.node_client
    assert membership is not None
    said = await problem_of(membership, client, other.url, "another life")
    assert said is not None
    assert "two have one cluster.node_url" in said
    said = await problem_of(membership, client, f"http://127.0.0.1:{free_port()}", "node")
    assert said is not None
    assert "nothing answers there" in said
    membership._secret = "another-secret-altogether"
    said = await problem_of(membership, client, other.url, "node")
    assert said is not None
    assert "made with another secret (cluster.secret)" in said


async def test_a_balancer_that_strips_headers_is_noticed(
    nodes: list[Live], client: httpx.AsyncClient
) -> None:
    one, other = nodes
    membership = one.gateway.nodes
    assert membership is not None

    async def strip(stream: trio.SocketStream) -> None:
        async with stream, await trio.open_tcp_stream(*address(other.url)) as behind:
            head = (await stream.receive_some(65536)).split(b"\r\n")
            kept = [line for line in head if not line.lower().startswith(b"x-ccapi")]
            await behind.send_all(b"\r\n".join(kept))
            await stream.send_all(await behind.receive_some(65536))

    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    url = f"http://127.0.0.1:{listener.socket.getsockname()[1]}"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, strip, [listener])
        said = await problem_of(membership, one.gateway.node_client, url, "node")
        nursery.cancel_scope.cancel()
    assert said is not None
    assert "takes x-ccapi-node away" in said


async def test_whatever_answers_in_a_nodes_place_is_told_of(nodes: list[Live]) -> None:
    """A proxy's page of its own, most likely."""
    membership = nodes[0].gateway.nodes
    assert membership is not None
    bodies = [b"", b"<html>", b"[1]", b"7", b'{"id": 7}', b"\xff" * 70_000]
    answers = [(status, body) for status in (b"200 OK", b"502 Bad Gateway") for body in bodies]
    left = iter(answers)

    async def answer(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some(65536)
            status, body = next(left)
            length = b"content-length: %d" % len(body)
            head = b"HTTP/1.1 %b\r\nconnection: close\r\n%b\r\n\r\n" % (status, length)
            with suppress(trio.BrokenResourceError):
                await stream.send_all(head + body)

    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    url = f"http://127.0.0.1:{listener.socket.getsockname()[1]}"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, answer, [listener])
        said = [
            await problem_of(membership, nodes[0].gateway.node_client, url, "node") for _ in answers
        ]
        nursery.cancel_scope.cancel()
    for each in said:
        assert each is not None
        assert each.startswith(("what answers there is no node", "another node answers there"))


def address(url: str) -> tuple[str, int]:
    host, _, port = url.removeprefix("http://").partition(":")
    return host, int(port)


async def test_two_nodes_at_one_url_are_refused(tmp_path: Path) -> None:
    shared = MemoryCluster(0.5)
    settings = node_settings(settings_for(tmp_path, {"HOME": str(tmp_path)}), free_port())
    url = settings.cluster.node_url
    settings = attrs.evolve(settings, cluster=attrs.evolve(settings.cluster, lease_seconds=0.5))
    first = shared.open_node(url)

    async def beat() -> None:
        while True:
            await first.beat()
            await trio.sleep(0.1)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(beat)
        with pytest.RaisesGroup(
            pytest.RaisesExc(SettingsError, match="another gateway's, which lives"),
            flatten_subgroups=True,
        ):
            async with open_gateway(settings, demo=True, store=shared.open_node(url)):
                pass
        nursery.cancel_scope.cancel()
    # Once it is gone, its place is free.
    await trio.sleep(0.6)
    async with open_gateway(settings, demo=True, store=shared.open_node(url)) as gateway:
        assert gateway.nodes is not None


async def test_a_conversation_is_deleted_where_it_is(
    nodes: list[Live], client: httpx.AsyncClient
) -> None:
    one, other = nodes
    name = (await ask(client, one, "One")).json()["conversation_id"]
    deleted = await client.delete(f"{other.base_url}/conversations/{name}")
    assert deleted.status_code == 200
    assert not one.gateway.conversations()
    assert (await client.get(f"{other.base_url}/conversations/{name}")).status_code == 404


async def test_a_node_that_drains_passes_turns_on(
    nodes: list[Live], client: httpx.AsyncClient
) -> None:
    one, other = nodes
    name = (await ask(client, one, "One")).json()["conversation_id"]
    one.gateway.drain()
    for fields in ({}, {"conversation_id": name}):
        answer = await ask(client, one, "Two", **fields)
        assert answer.status_code == 200, answer.text
    assert name in {each.conversation_id for each in other.gateway.conversations()}
    assert (await client.get(f"{one.url}/ready")).status_code == 503


async def test_a_request_waits_for_the_turn_that_runs_at_a_node_that_drains(
    nodes: list[Live], client: httpx.AsyncClient
) -> None:
    """Whichever node is asked; and who joins sees that turn."""
    one, other = nodes
    name = (await ask(client, one, "One")).json()["conversation_id"]
    answers: dict[str, httpx.Response] = {}

    async def keep(node: Live, key: str, text: str) -> None:
        answers[key] = await ask(client, node, text, conversation_id=name)

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            words = "a b c d e f g h"
            nursery.start_soon(keep, one, "running", script(words, pace_ms=200))
            while not one.gateway.runs(name):
                await trio.sleep(0.01)
            one.gateway.drain()
            nursery.start_soon(keep, one, "there", "Two")
            nursery.start_soon(keep, other, "elsewhere", "Three")
            async with open_joined(other.url, name) as joined:
                ended = await joined.until("turn.finished", "turn.failed")
            assert ended["type"] == "turn.finished"
    assert {key: each.status_code for key, each in answers.items()} == {
        "running": 200, "there": 200, "elsewhere": 200,
    }, [each.text for each in answers.values()]  # fmt: skip
    shown = await client.get(f"{other.base_url}/conversations/{name}/items")
    assert len(shown.json()["data"]) == 8
    assert name in {each.conversation_id for each in other.gateway.conversations()}


async def test_a_node_that_stops_waits_for_what_it_has_passed_on(
    tmp_path: Path, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve, "DRAIN_MARGIN", 0.1)
    async with open_demo_nodes(tmp_path) as (one, other):
        await stream_through_one_that_stops(one, other, client)


async def stream_through_one_that_stops(one: Live, other: Live, client: httpx.AsyncClient) -> None:
    name = (await ask(client, other, "One")).json()["conversation_id"]
    body = {
        "messages": [{"role": "user", "content": script("a b c d e f g h", pace_ms=60)}],
        "stream": True,
        "conversation_id": name,
    }
    with trio.fail_after(40):
        async with client.stream("POST", f"{one.base_url}/chat/completions", json=body) as stream:
            lines = stream.aiter_lines()
            while not (await anext(lines)).startswith("data:"):
                pass
            one.stop.set()
            rest = [line async for line in lines]
    assert "data: [DONE]" in rest


async def test_a_websocket_at_a_node_that_drains_is_passed_on(
    nodes: list[Live], client: httpx.AsyncClient
) -> None:
    one, other = nodes
    first = (await client.post(f"{other.base_url}/responses", json={"input": "One"})).json()
    one.gateway.drain()
    events = await responses_over(one, {"input": "Two", "previous_response_id": first["id"]})
    assert events[-1]["type"] == "response.completed", events[-1]
    with trio.fail_after(30):
        async with open_joined(one.url, first["conversation_id"]) as joined:
            ended = await joined.turn("Three")
            assert ended["type"] == "turn.finished"
            # The node in between is about to stop: what is not answered by then is not done.
            closed = await joined.until("conversation.closed")
            assert closed["reason"] == "moved"
            with pytest.raises(ConnectionClosed):
                while True:
                    await joined.next()


# -- agents ----------------------------------------------------------------------------------------


async def test_an_agents_conversation_stays_where_its_workspace_is(
    tmp_path: Path, client: httpx.AsyncClient
) -> None:
    fast = {"hibernate_after_seconds": 0.1}
    async with open_demo_nodes(
        tmp_path, cluster={"release_seconds": 0.1}, claude=fast, count=2
    ) as (one, other):
        first = await ask(client, one, "One", model="agent/sonnet", workspace="shop")
        assert first.status_code == 200, first.text
        name = first.json()["conversation_id"]
        with trio.fail_after(20):
            while one.gateway.conversations():
                await trio.sleep(0.05)
        # At rest it is no node's, but its files are on the first.
        second = await ask(client, other, "Two", conversation_id=name)
        assert second.status_code == 200, second.text
        assert not other.gateway.conversations()
        # So is the workspace, for whichever conversation.
        third = await ask(client, other, "Three", model="agent/sonnet", workspace="shop")
        assert third.status_code == 200, third.text
        assert not other.gateway.conversations()
        one.stop.set()
        with trio.fail_after(20):
            while True:
                gone = await ask(client, other, "Four", conversation_id=name)
                if gone.json()["error"]["code"] == "agent_node_gone":
                    break
                await trio.sleep(0.1)
        assert gone.status_code == 503
        assert "on another machine, whose gateway is gone" in gone.json()["error"]["message"]


async def test_an_agent_moves_where_nodes_see_the_same_workspaces(
    tmp_path: Path, client: httpx.AsyncClient
) -> None:
    shared = WorkspaceSettings(root=tmp_path / "workspaces")
    async with open_demo_nodes(
        tmp_path,
        cluster={"release_seconds": 0.1},
        claude={"hibernate_after_seconds": 0.1},
        workspaces=shared,
    ) as (one, other):
        name = (await ask(client, one, "One", model="agent/sonnet")).json()["conversation_id"]
        with trio.fail_after(20):
            while one.gateway.conversations():
                await trio.sleep(0.05)
        second = await ask(client, other, "Two", conversation_id=name)
        assert second.status_code == 200, second.text
        assert [each.conversation_id for each in other.gateway.conversations()] == [name]
