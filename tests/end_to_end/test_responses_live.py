"""Responses that go on and fork, over real children.

The demo CLI says what it was given, so each answer shows whose history it is.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import trio

from ccapi.schemas.settings.settings import ConversationSettings

from ..support.asgi import Client, Response
from ..support.chat import CHAT, NO_STORE, open_front
from ..support.embedded import script
from ..support.responses import RESPONSES, ask, events, output, read, text_of, tool

REPORT = script(report=True)
CONVERSATIONS = "/v1/conversations"


def told(response: Response) -> dict[str, Any]:
    """What the child says it was given."""
    found: dict[str, Any] = json.loads(text_of(response.json()))
    return found


def texts(found: dict[str, Any]) -> list[str]:
    """The texts that a child holds, its own report excluded."""
    return [
        content if isinstance(content, str) else "".join(block["text"] for block in content)
        for content in (message["content"] for message in found["history"][:-1])
    ]


async def behind(client: Client, response: Response, given: Any, **fields: Any) -> Response:
    answered = await ask(
        client, NO_STORE, input=given, previous_response_id=response.json()["id"], **fields
    )
    read(answered)
    return answered


def place(response: Response) -> tuple[str, str]:
    return response.headers["x-ccapi-lineage"], response.headers["x-conversation-id"]


async def test_a_response_goes_on_in_the_live_child(tmp_path: Path) -> None:
    async with open_front(tmp_path) as (client, gateway):
        first = await ask(client, NO_STORE, input=REPORT)
        second = await behind(client, first, "repeat: two")
        third = await behind(client, second, REPORT)
        assert place(second) == place(third) == ("hit", place(first)[1])
        assert told(third)["pid"] == told(first)["pid"]
        assert texts(told(third))[-2:] == ["repeat: two", "two"]
        assert gateway.statistics().conversations == 1


async def test_an_older_response_forks_and_the_trunk_goes_on(tmp_path: Path) -> None:
    async with open_front(tmp_path) as (client, gateway):
        first = await ask(client, NO_STORE, input="repeat: one")
        second = await behind(client, first, "repeat: two")
        fork = await behind(client, first, REPORT)
        assert place(fork)[0] == "miss"
        assert place(fork)[1] != place(first)[1]
        assert texts(told(fork)) == ["repeat: one", "one"]
        trunk = await behind(client, second, REPORT)
        assert place(trunk) == ("hit", place(first)[1])
        assert texts(told(trunk)) == ["repeat: one", "one", "repeat: two", "two"]
        # One child may serve both, one after the other.
        more = await behind(client, fork, "repeat: more")
        assert place(more) == ("hit", place(fork)[1])
        assert gateway.statistics().conversations == 2


async def test_two_behind_the_same_response_at_once_are_a_trunk_and_a_fork(
    tmp_path: Path,
) -> None:
    async with open_front(tmp_path) as (client, _):
        first = await ask(client, NO_STORE, input="repeat: one")
        found: list[Response] = []

        async def once() -> None:
            found.append(await behind(client, first, REPORT))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(once)
            nursery.start_soon(once)
        assert sorted(place(each)[0] for each in found) == ["hit", "miss"]
        for each in found:
            assert texts(told(each)) == ["repeat: one", "one"]


async def test_a_conversation_that_went_on_elsewhere_is_forked_from(tmp_path: Path) -> None:
    """By a chat completion, which knows nothing of responses."""
    async with open_front(tmp_path) as (client, _):
        first = await ask(client, NO_STORE, input="repeat: one")
        conversation_id = place(first)[1]
        body = {"model": "sonnet", "conversation_id": conversation_id}
        message = {"role": "user", "content": "repeat: secret"}
        await client.request("POST", CHAT, json=body | {"messages": [message]})
        fork = await behind(client, first, REPORT)
        assert place(fork)[0] == "miss"
        assert texts(told(fork)) == ["repeat: one", "one"]


async def test_instructions_are_each_requests_own(tmp_path: Path) -> None:
    async with open_front(tmp_path) as (client, _):
        first = await ask(client, NO_STORE, input="repeat: one", instructions="Be brief.")
        second = await behind(client, first, REPORT)
        assert told(second)["system"] in (None, "")
        assert place(second) == ("hit", place(first)[1])
        third = await behind(client, second, REPORT, instructions="Be long.")
        assert told(third)["system"] == "Be long."
        assert texts(told(third))[:2] == ["repeat: one", "one"]


async def test_a_deleted_conversation_is_replayed(tmp_path: Path) -> None:
    async with open_front(tmp_path) as (client, _):
        first = await ask(client, NO_STORE, input="repeat: one")
        await client.request("DELETE", f"{CONVERSATIONS}/{place(first)[1]}")
        again = await behind(client, first, REPORT)
        assert texts(told(again)) == ["repeat: one", "one"]


async def test_however_long_the_history(tmp_path: Path) -> None:
    short = ConversationSettings(max_history_messages=2)
    async with open_front(tmp_path, conversation=short) as (client, _):
        last = await ask(client, NO_STORE, input="repeat: 0")
        for number in range(1, 5):
            last = await behind(client, last, f"repeat: {number}")
        await client.request("DELETE", f"{CONVERSATIONS}/{place(last)[1]}")
        again = await behind(client, last, REPORT)
        assert texts(told(again))[::2] == [f"repeat: {number}" for number in range(5)]


async def test_tools_go_round_in_the_child_that_called_them(tmp_path: Path) -> None:
    async with open_front(tmp_path) as (client, gateway):
        tools = [tool("lookup")]
        first = await ask(client, NO_STORE, input='use lookup {"a": 1}', tools=tools)
        [call] = [item for item in first.json()["output"] if item["type"] == "function_call"]
        assert (call["name"], json.loads(call["arguments"])) == ("lookup", {"a": 1})
        conversation_id = place(first)[1]
        assert gateway.loaded(conversation_id).info.phase == "awaiting_tools"
        given = [output(call["call_id"], "forty-two")]
        second = await behind(client, first, given, tools=tools)
        assert place(second) == ("hit", conversation_id)
        assert "forty-two" in text_of(second.json())
        # Another client answers the same call: that is another history.
        fork = await behind(client, first, [output(call["call_id"], "six")], tools=tools)
        assert place(fork)[1] != conversation_id
        assert "six" in text_of(fork.json())


async def test_outputs_may_come_without_the_tools(tmp_path: Path) -> None:
    async with open_front(tmp_path) as (client, _):
        first = await ask(client, NO_STORE, input="use lookup {}", tools=[tool("lookup")])
        [call] = [item for item in first.json()["output"] if item["type"] == "function_call"]
        second = await behind(client, first, [output(call["call_id"], "forty-two")])
        assert place(second) == ("hit", place(first)[1])
        assert "forty-two" in text_of(second.json())


async def test_a_conversation_and_its_responses(tmp_path: Path) -> None:
    async with open_front(tmp_path) as (client, _):
        made = await client.request("POST", CONVERSATIONS, json={"system": "Kept."})
        named = {"conversation": made.json()["id"]}
        first = await ask(client, NO_STORE, input="repeat: one", **named)
        second = await ask(client, NO_STORE, input=REPORT, **named)
        assert told(second)["system"] == "Kept."
        assert texts(told(second)) == ["repeat: one", "one"]
        assert second.json()["conversation"] == {"id": made.json()["id"]}
        fork = await behind(client, first, REPORT)
        assert place(fork)[1] != made.json()["id"]
        assert texts(told(fork)) == ["repeat: one", "one"]
        # What a response of it was called stands in the conversation too.
        items = await client.request("GET", f"{CONVERSATIONS}/{made.json()['id']}/items")
        ids = [item["id"] for item in items.json()["data"]]
        assert first.json()["output"][0]["id"] in ids


async def test_what_a_conversation_held_before_is_known_from_what_was_said(
    tmp_path: Path,
) -> None:
    """Of turns that were no responses, too."""
    async with open_front(tmp_path) as (client, _):
        message = {"role": "user", "content": "repeat: one"}
        chat = {"model": "sonnet", "messages": [message]}
        begun = await client.request("POST", CHAT, json=chat, headers=NO_STORE)
        conversation_id = begun.json()["conversation_id"]
        first = await ask(client, NO_STORE, input="repeat: two", conversation=conversation_id)
        await ask(client, NO_STORE, input="repeat: three", conversation=conversation_id)
        fork = await behind(client, first, REPORT)
        assert texts(told(fork)) == ["repeat: one", "one", "repeat: two", "two"]


async def test_a_client_that_keeps_its_history_is_recognised(tmp_path: Path) -> None:
    async with open_front(tmp_path) as (client, _):
        history: list[dict[str, Any]] = [{"role": "user", "content": "repeat: one"}]
        first = await ask(client, NO_STORE, input=history, store=False)
        history += first.json()["output"]
        history.append({"role": "user", "content": REPORT})
        second = await ask(client, NO_STORE, input=history, store=False)
        assert place(second) == ("hit", place(first)[1])
        assert texts(told(second)) == ["repeat: one", "one"]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_ends_the_turn(tmp_path: Path, stream: bool) -> None:
    async with open_front(tmp_path) as (client, gateway):
        slow = {"model": "sonnet", "input": script("a b c d", pace_ms=60_000), "stream": stream}
        async with client.stream("POST", RESPONSES, json=slow):
            while not gateway.statistics().turns_running:
                await trio.sleep(0.01)
        while gateway.statistics().turns_running:
            await trio.sleep(0.01)
        assert text_of((await ask(client, NO_STORE, input="repeat: x")).json()) == "x"


async def test_one_in_the_background_goes_on_and_is_followed(tmp_path: Path) -> None:
    async with open_front(tmp_path) as (client, gateway):
        slow = script("one two three", pace_ms=50)
        started = await ask(client, input=slow, background=True)
        assert started.json()["status"] == "in_progress"
        path = f"{RESPONSES}/{started.json()['id']}"
        followed = await client.request("GET", f"{path}?stream=true")
        found = events(followed.body)
        assert found[-1]["type"] == "response.completed"
        shown = await client.request("GET", path)
        assert shown.json() == found[-1]["response"]
        assert gateway.statistics().turns_running == 0


async def test_one_in_the_background_is_waited_for_by_a_gateway_that_drains(
    tmp_path: Path,
) -> None:
    async with open_front(tmp_path) as (client, gateway):
        slow = script("one two", pace_ms=100)
        started = await ask(client, input=slow, background=True)
        gateway.drain()
        await gateway.wait_drained()
        shown = await client.request("GET", f"{RESPONSES}/{started.json()['id']}")
        assert shown.json()["status"] == "completed"


async def test_one_in_the_background_is_cancelled_with_its_child_at_rest(tmp_path: Path) -> None:
    async with open_front(tmp_path) as (client, gateway):
        first = await ask(client, NO_STORE, input="repeat: one")
        slow = script("two " * 500, pace_ms=100)
        started = await behind(client, first, slow, background=True)
        response_id = started.json()["id"]
        while not (await client.request("GET", f"{RESPONSES}/{response_id}")).json()["output"]:
            await trio.sleep(0.01)
        cancelled = await client.request("POST", f"{RESPONSES}/{response_id}/cancel")
        assert cancelled.json()["status"] == "cancelled"
        # It has left no trace: what comes next goes on where the first one ended.
        again = await behind(client, first, REPORT)
        assert place(again) == ("hit", place(first)[1])
        assert texts(told(again)) == ["repeat: one", "one"]
        assert gateway.statistics().conversations == 1


async def test_closing_the_gateway_ends_what_runs_in_the_background(
    tmp_path: Path,
) -> None:
    """`open_front` asserts that no task and no process is left."""
    async with open_front(tmp_path) as (client, _):
        slow = script("two", pace_ms=60_000)
        assert (await ask(client, input=slow, background=True)).status == 200
