"""Clients that watch a conversation through a node that has not got it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import trio
from trio_websocket import open_websocket_url

from ccapi.actors.websocket import shared_events
from ccapi.transport.http.websocket import WebSocket

from ..support.embedded import script
from ..support.joined import Joined, new_conversation, open_joined, post
from ..support.live import Live
from ..support.nodes import open_demo_nodes
from ..support.websocket_client import open_raw_websocket

PATIENCE = 30.0


@pytest.fixture
async def nodes(tmp_path: Path) -> AsyncIterator[list[Live]]:
    async with open_demo_nodes(tmp_path) as opened:
        yield opened


@pytest.fixture
async def name(nodes: list[Live]) -> str:
    """A conversation of the first node's, which has a child."""
    made = await new_conversation(nodes[0].url, model="haiku")
    await say(nodes[0], made, "One")
    return made


async def say(node: Live, conversation_id: str, text: str) -> dict[str, Any]:
    messages = [{"role": "user", "content": text}]
    body = {"messages": messages, "conversation_id": conversation_id}
    answer = await post(node.url, "/v1/chat/completions", body)
    assert "choices" in answer, answer
    return answer


def readers(node: Live, conversation_id: str) -> int:
    """Who reads the events there, be it a client or a node."""
    return node.gateway.loaded(conversation_id).broadcast._readers


def check_numbers(one: Joined) -> None:
    """It has received every event behind its hello, and each of them once."""
    first = one.hello["last_event_id"] + 1
    assert one.numbers == [*range(first, first + len(one.numbers))]


async def test_the_owner_sends_each_event_once_however_many_watch_there(
    nodes: list[Live], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = nodes
    sent = 0
    send = WebSocket.send_frames

    async def note(self: WebSocket, frames: bytes, count: int = 1, **how: bool) -> None:
        nonlocal sent
        sent += count
        await send(self, frames, count, **how)

    async with trio.open_nursery() as nursery:
        watchers: list[Joined] = []
        leave = trio.Event()

        async def watch(task_status: trio.TaskStatus[None]) -> None:
            async with open_joined(other.url, name) as joined:
                watchers.append(joined)
                task_status.started()
                await leave.wait()

        for _ in range(5):
            await nursery.start(watch)
        while watchers[0].hello["watchers"] + len(watchers[0].seen) < 5:
            await watchers[0].until("presence")
        assert watchers[-1].hello["watchers"] == 5
        # The shared connection is there, and no watcher.
        assert readers(one, name) == 6
        assert one.gateway.loaded(name).broadcast.watchers == 5
        monkeypatch.setattr(WebSocket, "send_frames", note)
        last = one.gateway.loaded(name).broadcast.last
        answer = await say(one, name, script("a b c d e f g h", pace_ms=5))
        for each in watchers:
            await each.until("turn.finished")
            check_numbers(each)
            assert each.text == answer["choices"][0]["message"]["content"]
        with trio.fail_after(PATIENCE):  # the session comes to rest
            while sent < one.gateway.loaded(name).broadcast.last - last:
                await trio.sleep(0.01)
        assert sent == one.gateway.loaded(name).broadcast.last - last
        leave.set()
    with trio.fail_after(PATIENCE):
        while readers(one, name):
            await trio.sleep(0.01)


async def test_whenever_a_client_joins_it_misses_nothing_and_receives_nothing_twice(
    nodes: list[Live], name: str
) -> None:
    one, other = nodes
    asked = script(deltas=150, pace_ms=4)
    texts: list[tuple[str, str]] = []

    async def watch(node: Live) -> None:
        async with open_joined(node.url, name) as joined:
            running = joined.hello["turn"]
            if running is None and len(joined.hello["items"]) > 2:
                return  # it is over already
            await joined.until("turn.finished")
            check_numbers(joined)
            said = "".join(part["text"] for item in (running["output"] if running else [])
                           for part in item.get("content", ()))  # fmt: skip
            texts.append((said + joined.text, joined.seen[-1]["items"][0]["content"][0]["text"]))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch, one)
        nursery.start_soon(watch, other)
        nursery.start_soon(say, one, name, asked)
        for _ in range(12):
            await trio.sleep(0.03)
            nursery.start_soon(watch, other)
    assert len(texts) > 2
    assert len({whole for pair in texts for whole in pair}) == 1


async def test_a_client_that_comes_back_goes_on_where_it_was(nodes: list[Live], name: str) -> None:
    one, other = nodes
    async with open_joined(one.url, name) as stays:
        async with open_joined(other.url, name) as lost:
            await lost.say("turn.create", input=script(deltas=60, pace_ms=15))
            for _ in range(5):
                await lost.until("text.delta")
            last = lost.numbers[-1]
            await trio.sleep(0.1)  # more comes than is read
            await lost.cut()
        # None is left that watches there: the shared connection is another one now.
        async with open_joined(other.url, name, after=last) as back:
            assert (back.hello["resumed"], back.hello["items"]) == (True, None)
            await back.until("turn.finished")
            assert back.numbers == [*range(last + 1, last + 1 + len(back.numbers))]
            await stays.until("turn.finished")
            assert lost.text + back.text == stays.text
        async with open_joined(other.url, name, after=1) as behind:
            assert (behind.hello["resumed"], behind.hello["reason"]) == (False, "behind")


async def test_what_a_watcher_does_is_answered_to_it_alone(nodes: list[Live], name: str) -> None:
    _, other = nodes
    async with open_joined(other.url, name) as one, open_joined(other.url, name) as two:
        await one.say("turn.create", input=script(first_ms=600_000), ref="mine")
        accepted = await one.until("turn.accepted")
        assert accepted["ref"] == "mine"
        await two.until("turn.started")
        await two.say("turn.interrupt", turn_id=accepted["turn_id"], ref="stop")
        assert (await two.until("ok"))["ref"] == "stop"
        for each in (one, two):
            assert (await each.until("turn.failed"))["error"]["code"] == "turn_interrupted"
        assert "ok" not in one.kinds()
        assert "turn.accepted" not in two.kinds()
        await two.say("nonsense", ref=3)
        assert (await two.until("error"))["ref"] == 3


async def test_watchers_leave_one_by_one_and_the_last_event_comes_before_the_close(
    nodes: list[Live], name: str
) -> None:
    one, other = nodes
    async with open_joined(other.url, name) as first, open_joined(other.url, name) as second:
        await first.until("presence")
        async with open_joined(other.url, name):
            assert (await first.until("presence"))["watchers"] == 3
        assert (await first.until("presence"))["watchers"] == 2
        await say(one, name, "Two")
        await first.until("turn.finished")
        check_numbers(first)
        path = f"/v1/conversations/{name}/events"
        async with (
            open_raw_websocket(int(other.url.rpartition(":")[2]), path) as third,
            open_raw_websocket(int(one.url.rpartition(":")[2]), path) as near,
        ):
            await second.until("turn.finished")
            while (await second.until("presence"))["watchers"] < 4:
                pass
            await one.gateway.forget(name)
            with trio.fail_after(PATIENCE):
                for raw in (third, near):
                    while '"conversation.closed"' not in await raw.message():
                        pass
                    assert await raw.close_code() == 1000
            for each in (first, second):
                assert (await each.until("conversation.closed"))["reason"] == "deleted"


async def test_where_the_owner_shares_nothing_events_come_by_each_connection(
    nodes: list[Live], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_events, "OPEN_SECONDS", 0.0)
    one, other = nodes
    async with open_joined(other.url, name) as first, open_joined(other.url, name) as second:
        assert second.hello["watchers"] == 2
        await say(one, name, "Two")
        for each in (first, second):
            await each.until("turn.finished")
            check_numbers(each)


async def test_only_nodes_say_how_events_come(nodes: list[Live], name: str) -> None:
    for node, mode in product(nodes, (b"shared", b"apart")):
        url = f"ws{node.url.removeprefix('http')}/v1/conversations/{name}/events"
        headers = [(b"x-ccapi-events", mode)]
        with trio.fail_after(PATIENCE):
            async with open_websocket_url(url, extra_headers=headers) as connection:
                hello = json.loads(await connection.get_message())
                assert hello["type"] == "conversation.joined"
                await say(nodes[0], name, "Two")
                while json.loads(await connection.get_message())["type"] != "turn.finished":
                    pass
