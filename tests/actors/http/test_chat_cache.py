"""The chat route and the cache: what is asked of it, and how a hit looks."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing

from ccapi.schemas.message import Message
from ccapi.schemas.settings.settings import CacheSettings, Settings

from ...support.asgi import Client
from ...support.chat import (
    ASK,
    CHAT,
    HI,
    NO_STORE,
    STREAM,
    ask,
    completion,
    contents,
    events,
    never,
)
from ...support.gateway_double import Asked, GatewayDouble, app_of, open_gateway_double

# -- the cache -------------------------------------------------------------------------------------


async def test_an_identical_request_is_answered_from_the_cache(
    client: Client, gateway: GatewayDouble
) -> None:
    gateway.script = gateway.remembered("Hel", "lo")
    first = await ask(client)
    assert first.headers["x-ccapi-cache"] == "miss"
    again = await ask(client)
    assert again.headers["x-ccapi-cache"] == "hit"
    assert completion(again).choices[0].message.content == "Hello"
    assert completion(again).usage == completion(first).usage
    assert completion(again).id != completion(first).id
    streamed = await client.request("POST", CHAT, json=STREAM)
    assert streamed.headers["x-ccapi-cache"] == "hit"
    assert contents(streamed.body) == ["", "Hel", "lo", None]
    assert len(gateway.asked) == 1
    # Each hit is a conversation of its own, which holds what was asked and answered.
    assert len(gateway.made) == 3
    for response, conversation in zip((first, again, streamed), gateway.made, strict=True):
        assert response.headers["x-conversation-id"] == conversation.conversation_id
    seeds = [conversation.seed for conversation in gateway.made]
    held = (Message("user", ("Hi",)), Message("assistant", ("Hello",)))
    assert seeds == [(), held, held]


async def test_what_is_not_asked_of_the_cache(client: Client, gateway: GatewayDouble) -> None:
    gateway.script = gateway.remembered("Hello")
    await ask(client)
    for headers in (NO_STORE, {"cache-control": "max-age=0, No-Store"}):
        assert "x-ccapi-cache" not in (await ask(client, headers)).headers
    named = await ask(client, conversation_id=gateway.made[0].conversation_id)
    assert "x-ccapi-cache" not in named.headers
    assert [asked.cache_key is None for asked in gateway.asked] == [False, True, True, True]


@pytest.mark.parametrize(
    "fields", [{"temperature": 1}, {"model": "opus"}, {"messages": [HI, HI]}, {"seed": 2}]
)
async def test_requests_that_differ_are_not_identical(
    client: Client, gateway: GatewayDouble, fields: dict[str, Any]
) -> None:
    gateway.script = gateway.remembered("Hello")
    for each in ({}, fields):
        assert (await ask(client, **each)).headers["x-ccapi-cache"] == "miss"
    assert (await ask(client, user="ada")).headers["x-ccapi-cache"] == "hit"


async def test_a_cache_that_is_off_is_not_asked() -> None:
    async with open_gateway_double(Settings(cache=CacheSettings(enabled=False))) as gateway:
        gateway.script = gateway.remembered("Hello")
        for _ in range(2):
            assert "x-ccapi-cache" not in (await ask(Client(app_of(gateway)))).headers
        assert len(gateway.asked) == 2


async def test_identical_requests_at_once_are_one_turn(
    client: Client, gateway: GatewayDouble
) -> None:
    go_on = trio.Event()

    async def script(asked: Asked) -> None:
        await go_on.wait()
        await gateway.remembered("Hello")(asked)

    gateway.script = script
    responses = []

    async def ask_once() -> None:
        responses.append(await ask(client))

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(ask_once)
        await trio.testing.wait_all_tasks_blocked()
        assert len(gateway.asked) == 1
        go_on.set()
    assert sorted(r.headers["x-ccapi-cache"] for r in responses) == ["hit"] * 4 + ["miss"]
    assert {completion(r).choices[0].message.content for r in responses} == {"Hello"}
    assert len({r.headers["x-conversation-id"] for r in responses}) == 5


async def test_a_follower_takes_over_when_the_leader_leaves(
    client: Client, gateway: GatewayDouble
) -> None:
    gateway.script = never
    async with client.stream("POST", CHAT, json=ASK) as leader, trio.open_nursery() as nursery:
        await trio.testing.wait_all_tasks_blocked()
        responses = []

        async def follow() -> None:
            responses.append(await ask(client))

        nursery.start_soon(follow)
        await trio.testing.wait_all_tasks_blocked()
        gateway.script = gateway.remembered("Hello")
        leader.hang_up()
    assert [response.headers["x-ccapi-cache"] for response in responses] == ["miss"]
    assert completion(responses[0]).choices[0].message.content == "Hello"


async def test_a_long_wait_for_someone_elses_turn_is_filled_with_heartbeats(
    client: Client, gateway: GatewayDouble, autojump_clock: trio.testing.MockClock
) -> None:
    async def script(asked: Asked) -> None:
        await trio.sleep(20)
        await gateway.remembered("Hello")(asked)

    gateway.script = script
    responses = []

    async def ask_once() -> None:
        responses.append(await client.request("POST", CHAT, json=STREAM))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask_once)
        nursery.start_soon(ask_once)
    for response in responses:
        assert response.body.startswith(b": heartbeat\n\n")
        assert contents(response.body) == ["", "Hello", None]
    named = {events(response.body)[0]["conversation_id"] for response in responses}
    assert len(named) == 2
