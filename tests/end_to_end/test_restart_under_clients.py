"""A gateway is restarted on its port and folder while clients have a conversation joined."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import trio

from tests.actors.commands.test_serve import ENDLESS, Server, open_server
from tests.support.joined import JSON, get, new_conversation, open_joined
from tests.support.live import open_live_demo
from tests.support.terminals import CTRL_D, open_terminal

STOPS = [signal.SIGTERM, signal.SIGKILL]


async def stop(server: Server, number: int) -> int:
    server.process.send_signal(number)
    await server.ended()
    return int(server.client.base_url.port or 0)


async def questions(url: str) -> list[str]:
    [conversation] = (await get(url, "/v1/conversations"))["data"]
    page = await get(url, f"/v1/conversations/{conversation['id']}/items?order=asc")
    return [item["content"][0]["text"] for item in page["data"] if item["role"] == "user"]


@pytest.mark.parametrize("number", STOPS)
async def test_a_line_that_was_typed_without_a_gateway_is_sent_once(
    tmp_path: Path, number: int
) -> None:
    async with open_server(tmp_path) as server:
        async with open_terminal(tmp_path, "chat", "--url", server.url) as terminal:
            await terminal.until("> ")
            await terminal.type("repeat: before\n")
            await terminal.until("before\n> ")
            port = await stop(server, number)
            await terminal.until("the connection is lost")
            await terminal.type("how many messages?\n")
            await terminal.until("the line waits")
            async with open_server(tmp_path, port=port) as again:
                await terminal.until("(connected again)")
                await terminal.until("3")  # it knows the turn before it
                await terminal.until("\n> ")
                await terminal.type("repeat: after\n")
                await terminal.until("after\n> ")
                await terminal.type(CTRL_D)
                assert await terminal.ended() == 0
                assert await questions(again.url) == [
                    "repeat: before", "how many messages?", "repeat: after",
                ]  # fmt: skip


async def test_a_turn_that_was_lost_is_reported_once_to_who_joins(tmp_path: Path) -> None:
    async with open_server(tmp_path) as server:
        async with open_terminal(tmp_path, "chat", "--url", server.url) as terminal:
            await terminal.until("> ")
            await terminal.type("repeat: before\n")
            await terminal.until("before\n> ")
            [made] = (await get(server.url, "/v1/conversations"))["data"]
            await terminal.type(f"{ENDLESS}\n")
            await terminal.until("0001")
            async with open_joined(server.url, made["id"]) as joined:
                assert joined.hello["lost_turn"] is None
                assert joined.hello["turn"] is not None
                turn_id = joined.hello["turn"]["turn_id"]
            port = await stop(server, signal.SIGKILL)
            await terminal.until("the connection is lost")
            async with open_server(tmp_path, port=port) as again:
                shown = await terminal.until("(connected again)\n> ")
                assert "the gateway was restarted while it answered" in shown
                assert "before" not in shown
                async with open_joined(again.url, made["id"]) as joined:
                    assert joined.hello["lost_turn"] == turn_id
                    assert joined.hello["turn"] is None
                await terminal.type("repeat: after\n")
                await terminal.until("after\n> ")
                async with open_joined(again.url, made["id"]) as joined:
                    assert joined.hello["lost_turn"] is None
                assert await questions(again.url) == ["repeat: before", "repeat: after"]


async def test_an_event_of_an_earlier_gateway_is_not_resumed_from(tmp_path: Path) -> None:
    """Its number may be one that the later gateway has given to another event."""
    async with open_live_demo(tmp_path) as live:
        conversation_id = await new_conversation(live.url)
        async with open_joined(live.url, conversation_id) as joined:
            seen = joined.hello["last_event_id"]
            await live.gateway.loaded(conversation_id).ask("repeat: missed")
    async with open_live_demo(tmp_path) as live:
        async with open_joined(live.url, conversation_id):
            await live.gateway.loaded(conversation_id).ask("repeat: more")
            async with open_joined(live.url, conversation_id, after=seen) as joined:
                hello: JSON = joined.hello
                assert (hello["resumed"], hello["reason"]) == (False, "behind")
                assert [item["content"][0]["text"] for item in hello["items"]] == [
                    "repeat: missed", "missed", "repeat: more", "more",
                ]  # fmt: skip


async def test_a_conversation_that_left_memory_goes_on_at_the_terminal(tmp_path: Path) -> None:
    async with open_live_demo(tmp_path) as live:
        async with open_terminal(tmp_path, "chat", "--url", live.url) as terminal:
            await terminal.until("> ")
            await terminal.type("repeat: before\n")
            await terminal.until("before\n> ")
            [info] = live.gateway.conversations()
            entry = live.gateway.loaded(info.conversation_id).entry
            await live.gateway._supervisor.forget(entry, "evicted")
            await terminal.until("(connected again)\n> ")
            await terminal.type("how many messages?\n")
            await terminal.until("3")
            await terminal.until("> ")
            await terminal.type(CTRL_D)
            with trio.fail_after(20):
                assert await terminal.ended() == 0


async def test_a_draining_gateway_takes_no_line_and_the_next_one_does(tmp_path: Path) -> None:
    async with open_server(tmp_path) as server:
        async with (
            open_terminal(tmp_path, "chat", "--url", server.url) as other,
            open_terminal(tmp_path, "chat", "--url", server.url) as terminal,
        ):
            await other.until("> ")
            await terminal.until("> ")
            await other.type('!script {"deltas": 20, "pace_ms": 100}\n')
            with trio.fail_after(20):
                while (await server.client.get("/stats")).json()["turns"]["running"] == 0:
                    await trio.sleep(0.02)
            server.process.send_signal(signal.SIGTERM)
            with trio.fail_after(20):
                while (await server.client.get("/ready")).status_code != 503:
                    await trio.sleep(0.02)
            await terminal.type("repeat: late\n")
            await terminal.until("the line waits")
            await server.ended()
            async with open_server(tmp_path, port=int(server.client.base_url.port or 0)):
                await terminal.until("(connected again)")
                await terminal.until("late\n> ")
                await terminal.type(CTRL_D)
                assert await terminal.ended() == 0
