"""Joining a conversation over a real WebSocket, with the demo CLI behind it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import trio
from trio_websocket import ConnectionClosed

from tests.support.joined import get, new_conversation, open_joined, post
from tests.support.live import open_live_demo

SLOW = '!script {"deltas": 40, "pace_ms": 20, "answer": null}'


async def test_a_client_that_has_joined_can_talk_and_sees_it_all(tmp_path: Path) -> None:
    async with open_live_demo(tmp_path) as live:
        conversation_id = await new_conversation(live.url, model="haiku")
        async with open_joined(live.url, conversation_id) as one:
            assert one.hello["conversation"]["id"] == conversation_id
            assert (one.hello["items"], one.hello["turn"], one.hello["resumed"]) == (
                [],
                None,
                False,
            )
            done = await one.turn("Hello", ref="mine")
            assert done["finish_reason"] == "stop"
            [answer] = done["items"]
            assert answer["content"][0]["text"] == one.text
            assert done["usage"]["output_tokens"] > 0
            accepted = next(e for e in one.seen if e["type"] == "turn.accepted")
            assert (accepted["ref"], accepted["turn_id"]) == ("mine", done["turn_id"])
            started = next(e for e in one.seen if e["type"] == "turn.started")
            assert started["items"][0]["content"] == [{"type": "input_text", "text": "Hello"}]
            assert one.numbers == [*range(one.numbers[0], one.numbers[-1] + 1)]
        items = (await get(live.url, f"/v1/conversations/{conversation_id}/items?order=asc"))[
            "data"
        ]
        assert [item["role"] for item in items] == ["user", "assistant"]
        assert items == [*started["items"], answer]
        shown = await get(live.url, f"/v1/conversations/{conversation_id}")
        assert (shown["title"], shown["turns"]) == ("Hello", 1)


async def test_two_watch_a_turn_that_a_third_has_asked_over_http(tmp_path: Path) -> None:
    async with open_live_demo(tmp_path) as live:
        conversation_id = await new_conversation(live.url)
        async with (
            open_joined(live.url, conversation_id) as one,
            open_joined(live.url, conversation_id) as two,
        ):
            await one.until("presence")
            body = {
                "conversation_id": conversation_id,
                "messages": [{"role": "user", "content": "Hello"}],
            }
            answered = await post(live.url, "/v1/chat/completions", body)
            for each in (one, two):
                await each.until("turn.finished")
                assert each.text == answered["choices"][0]["message"]["content"]


async def test_a_lost_connection_is_taken_up_where_it_was(tmp_path: Path) -> None:
    async with open_live_demo(tmp_path) as live:
        conversation_id = await new_conversation(live.url)
        async with (
            open_joined(live.url, conversation_id) as stays,
            open_joined(live.url, conversation_id) as lost,
        ):
            await lost.say("turn.create", input=SLOW)
            for _ in range(5):
                await lost.until("text.delta")
            last = lost.numbers[-1]
            await trio.sleep(0.2)  # more comes than is read
            await lost.cut()
            await stays.until("text.delta")
            async with open_joined(live.url, conversation_id, after=last) as back:
                assert (back.hello["resumed"], back.hello["items"]) == (True, None)
                await back.until("turn.finished")
                assert back.numbers[0] == last + 1
                await stays.until("turn.finished")
                assert lost.text + back.text == stays.text


async def test_a_client_that_joins_in_the_middle_receives_what_came_before(tmp_path: Path) -> None:
    async with open_live_demo(tmp_path) as live:
        conversation_id = await new_conversation(live.url)
        async with open_joined(live.url, conversation_id) as one:
            await one.turn("Hello")
            await one.say("turn.create", input=SLOW)
            for _ in range(5):
                await one.until("text.delta")
            async with open_joined(live.url, conversation_id) as late:
                assert len(late.hello["items"]) == 2
                running = late.hello["turn"]
                assert running["items"][0]["role"] == "user"
                said = running["output"][0]["content"][0]["text"]
                done = await late.until("turn.finished")
                assert said + late.text == done["items"][0]["content"][0]["text"]


async def test_a_place_that_is_not_kept_any_more_is_said_so(tmp_path: Path) -> None:
    async with open_live_demo(tmp_path) as live:
        conversation_id = await new_conversation(live.url)
        async with open_joined(live.url, conversation_id, after=999) as one:
            assert (one.hello["resumed"], one.hello["reason"]) == (False, "behind")


async def test_a_turn_can_be_interrupted_and_another_asked(tmp_path: Path) -> None:
    async with open_live_demo(tmp_path) as live:
        conversation_id = await new_conversation(live.url)
        async with open_joined(live.url, conversation_id) as one:
            await one.turn("Hello")
            await one.say("turn.create", input=SLOW)
            await one.until("text.delta")
            await one.say("turn.interrupt", ref="stop")
            failed = await one.until("turn.failed")
            assert failed["error"]["code"] == "turn_interrupted"
            assert (failed["finish_reason"], failed["usage"]["output_tokens"] > 0) == (
                "interrupted",
                True,
            )
            [kept] = failed["items"]
            assert kept["status"] == "incomplete"
            assert kept["content"][0]["text"]
            assert (await one.turn("And now?"))["type"] == "turn.finished"
            counted = await one.turn("how many messages?")
            assert "**7** messages" in counted["items"][0]["content"][0]["text"]
        items = await get(live.url, f"/v1/conversations/{conversation_id}/items?order=asc")
        assert len(items["data"]) == 8
        assert items["data"][3] == kept
        async with open_joined(live.url, conversation_id) as other:
            assert kept in other.hello["items"]


async def test_a_stopped_answer_can_be_asked_for_again(tmp_path: Path) -> None:
    async with open_live_demo(tmp_path) as live:
        conversation_id = await new_conversation(live.url)
        async with open_joined(live.url, conversation_id) as one:
            await one.say("turn.create", input=SLOW)
            await one.until("text.delta")
            await one.say("turn.interrupt")
            await one.until("turn.failed")
            assert (await one.turn("", regenerate=True))["type"] == "turn.finished"
        shown = await get(live.url, f"/v1/conversations/{conversation_id}")
        assert (shown["turns"], shown["messages"]) == (1, 2)


async def test_a_turn_of_the_api_that_a_watcher_stops_leaves_no_trace(tmp_path: Path) -> None:
    async with open_live_demo(tmp_path) as live:
        conversation_id = await new_conversation(live.url)
        async with open_joined(live.url, conversation_id) as one, trio.open_nursery() as nursery:
            body = {
                "model": "claude-haiku-4-5",
                "conversation_id": conversation_id,
                "messages": [{"role": "user", "content": SLOW}],
            }
            nursery.start_soon(post, live.url, "/v1/chat/completions", body)
            await one.until("text.delta")
            await one.say("turn.interrupt")
            assert "items" not in await one.until("turn.failed")
        items = await get(live.url, f"/v1/conversations/{conversation_id}/items")
        assert items["data"] == []


async def test_a_turn_outlives_the_connection_it_was_asked_on(tmp_path: Path) -> None:
    async with open_live_demo(tmp_path) as live:
        conversation_id = await new_conversation(live.url)
        async with open_joined(live.url, conversation_id) as one:
            await one.say("turn.create", input=SLOW)
            await one.until("text.delta")
        async with open_joined(live.url, conversation_id) as again:
            if again.hello["turn"] is not None:
                await again.until("turn.finished")
        shown = await get(live.url, f"/v1/conversations/{conversation_id}")
        assert shown["turns"] == 1


async def test_the_last_answer_can_be_asked_for_again(tmp_path: Path) -> None:
    async with open_live_demo(tmp_path) as live:
        conversation_id = await new_conversation(live.url)
        async with open_joined(live.url, conversation_id) as one:
            await one.turn("Hello")
            first = await one.turn("how many messages?")
            again = await one.turn("", regenerate=True)
            assert again["type"] == "turn.finished"
            removed = next(e for e in one.seen if e["type"] == "turn.removed")
            assert removed["turn_id"] == first["turn_id"]
            assert again["items"][0]["content"] == first["items"][0]["content"]
        shown = await get(live.url, f"/v1/conversations/{conversation_id}")
        assert (shown["turns"], shown["messages"]) == (2, 4)


async def test_what_cannot_be_done_is_said_and_nothing_ends(tmp_path: Path) -> None:
    async with open_live_demo(tmp_path) as live:
        conversation_id = await new_conversation(live.url)
        async with open_joined(live.url, conversation_id) as one:
            errors: list[tuple[dict[str, object], str, str | None]] = [
                ({"type": "turn.create"}, "missing_field", "input"),
                ({"type": "turn.create", "regenerate": True}, "no_turn", None),
                ({"type": "turn.create", "input": "x", "model": "gpt-9"},
                 "model_not_found", "model"),
                ({"type": "turn.create", "input": "x", "model": "agent/haiku"},
                 "profile_mismatch", "model"),
                ({"type": "turn.create", "input": "x", "conversation": "c"},
                 "unsupported_parameter", "conversation"),
                ({"type": "turn.interrupt"}, "no_turn", None),
                ({"type": "permission.reply"}, "missing_field", "request_id"),
                ({"type": "permission.reply", "request_id": "r", "behavior": "allow"},
                 "permission_not_found", "request_id"),
                ({"type": "dance"}, "invalid_value", "type"),
                ({}, "missing_field", "type"),
            ]  # fmt: skip
            for message, code, param in errors:
                await one.connection.send_message(json.dumps({**message, "ref": "r1"}))
                error = await one.until("error")
                assert error["ref"] == "r1"
                assert (error["error"]["code"], error["error"]["param"]) == (code, param), message
            await one.connection.send_message("not JSON")
            assert (await one.until("error"))["error"]["code"] == "invalid_json"
            assert (await one.turn("Hello"))["type"] == "turn.finished"


async def test_a_conversation_that_is_deleted_says_so_and_closes(tmp_path: Path) -> None:
    async with open_live_demo(tmp_path) as live:
        conversation_id = await new_conversation(live.url)
        async with open_joined(live.url, conversation_id) as one:
            await live.gateway.forget(conversation_id)
            assert (await one.until("conversation.closed"))["reason"] == "deleted"
            with pytest.raises(ConnectionClosed), trio.fail_after(5):
                await one.connection.get_message()


async def test_items_can_be_added_without_an_answer(tmp_path: Path) -> None:
    async with open_live_demo(tmp_path) as live:
        conversation_id = await new_conversation(live.url)
        async with open_joined(live.url, conversation_id) as one:
            await one.turn("Hello")
            added = await post(
                live.url,
                f"/v1/conversations/{conversation_id}/items",
                {"items": [{"role": "user", "content": "The word is plum."}]},
            )
            assert [item["content"][0]["text"] for item in added["data"]] == ["The word is plum."]
            assert (await one.until("items.added"))["items"] == added["data"]
            await one.turn("how many messages?")
        shown = await get(live.url, f"/v1/conversations/{conversation_id}")
        assert shown["messages"] == 5
