"""Several answers to one request (`n`): over turns that the tests play, and over real children."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from ccapi.schemas.errors import ChildDied
from ccapi.schemas.settings.settings import ClaudeSettings, ConversationSettings, Settings

from ...support.asgi import Client
from ...support.chat import (
    ASK,
    CHAT,
    HI,
    NO_STORE,
    STREAM,
    answered,
    ask,
    chunks,
    completion,
    events,
    never,
    open_front,
    user,
)
from ...support.embedded import SILENT, script
from ...support.gateway_double import (
    Asked,
    GatewayDouble,
    Script,
    app_of,
    open_gateway_double,
    saying,
)
from ...support.pictures import data_url, png


def each(*scripts: Script) -> Script:
    """The first turn plays the first script, and so on."""
    rest = list(scripts)

    async def play(asked: Asked) -> None:
        await rest.pop(0)(asked)

    return play


def numbered(gateway: GatewayDouble, asked: Asked) -> int:
    return gateway.made.index(asked.conversation)


# -- whole ---------------------------------------------------------------------------------------


async def test_three_answers_are_three_choices(client: Client, gateway: GatewayDouble) -> None:
    gateway.script = each(saying("a"), saying("b", finish_reason="length"), saying("c"))
    response = await ask(client, n=3)
    answer = completion(response)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert sorted(str(choice.message.content) for choice in answer.choices) == ["a", "b", "c"]
    [cut] = [choice for choice in answer.choices if choice.finish_reason == "length"]
    assert cut.message.content == "b"
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (36, 9)
    # Each is a conversation of its own, so that none is the response's.
    assert len({id(asked.conversation) for asked in gateway.asked}) == 3
    assert "conversation_id" not in response.json()
    assert "x-conversation-id" not in response.headers
    assert "x-ccapi-cache" not in response.headers, "the cache knows one answer to a request"


async def test_they_run_at_once_and_are_written_in_their_own_order(
    client: Client, gateway: GatewayDouble
) -> None:
    turns = [trio.Event() for _ in range(3)]

    async def play(asked: Asked) -> None:
        number = numbered(gateway, asked)
        await turns[number].wait()
        await asked.say(f"answer {number}")
        asked.end()
        if number:  # the last one ends first
            turns[number - 1].set()

    gateway.script = play
    turns[2].set()
    answer = completion(await ask(client, n=3))
    texts = [choice.message.content for choice in answer.choices]
    assert texts == ["answer 0", "answer 1", "answer 2"]


async def test_one_that_fails_fails_the_request_and_ends_the_others(
    client: Client, gateway: GatewayDouble
) -> None:
    async def play(asked: Asked) -> None:
        if numbered(gateway, asked) == 1:
            await trio.testing.wait_all_tasks_blocked()
            asked.fail(ChildDied("It died."))
        else:
            await never(asked)

    gateway.script = play
    response = await ask(client, n=3)
    assert (response.status, response.error["code"]) == (502, "child_died")
    assert all(asked.port.over.is_set() for asked in gateway.asked)
    # No client has received any of them.
    assert sorted(gateway.abandoned) == [made.conversation_id for made in gateway.made]
    assert "x-conversation-id" not in response.headers


async def test_a_client_that_goes_away_ends_all_of_them(
    client: Client, gateway: GatewayDouble
) -> None:
    gateway.script = never
    for fields in (ASK, STREAM):
        gateway.asked.clear()
        async with client.stream("POST", CHAT, json=fields | {"n": 3}) as streamed:
            with trio.fail_after(10):
                while len(gateway.asked) < 3:
                    await trio.lowlevel.checkpoint()
            await trio.testing.wait_all_tasks_blocked()
            streamed.hang_up()
            await streamed.ended.wait()
        assert all(asked.port.over.is_set() for asked in gateway.asked)


async def test_an_attachment_is_looked_at_once(client: Client, gateway: GatewayDouble) -> None:
    picture = {"type": "image_url", "image_url": {"url": data_url(png())}}
    content = [{"type": "text", "text": "What is it?"}, picture]
    gateway.script = saying("A picture.")
    completion(await ask(client, n=3, messages=[{"role": "user", "content": content}]))
    first, *others = (asked.messages for asked in gateway.asked)
    assert len(others) == 2
    assert all(messages is first for messages in others)


# -- streamed --------------------------------------------------------------------------------------


def by_index(body: bytes) -> dict[int, list[Any]]:
    """The chunks of each choice, in order."""
    said: dict[int, list[Any]] = {}
    for chunk in chunks(body):
        for choice in chunk.choices:
            said.setdefault(choice.index, []).append(choice)
    return said


async def test_a_stream_of_three(client: Client, gateway: GatewayDouble) -> None:
    gateway.script = each(saying("Hel", "lo"), saying("b", finish_reason="length"), saying())
    fields = STREAM | {"n": 3, "stream_options": {"include_usage": True}}
    response = await client.request("POST", CHAT, json=fields)
    said = by_index(response.body)
    assert sorted(said) == [0, 1, 2]
    assert all(choices[0].delta.role == "assistant" for choices in said.values())
    assert all(choice.delta.role is None for choices in said.values() for choice in choices[1:])
    texts = sorted("".join(c.delta.content or "" for c in choices) for choices in said.values())
    assert texts == ["", "Hello", "b"]
    for choices in said.values():
        reasons = [choice.finish_reason for choice in choices]
        assert reasons[:-1] == [None] * (len(reasons) - 1)
        assert reasons[-1] in ("stop", "length")
    *rest, bill = chunks(response.body)
    assert len({(chunk.id, chunk.created, chunk.model) for chunk in (*rest, bill)}) == 1
    assert bill.usage is not None
    assert bill.usage.completion_tokens == 9
    assert "conversation_id" not in response.body.decode()
    assert "x-conversation-id" not in response.headers


async def test_one_that_fails_ends_the_stream_without_an_end_mark(
    client: Client, gateway: GatewayDouble
) -> None:
    async def play(asked: Asked) -> None:
        await asked.say("a")
        await trio.testing.wait_all_tasks_blocked()
        if numbered(gateway, asked) == 1:
            asked.fail(ChildDied("It died."))
        else:
            await trio.sleep_forever()

    gateway.script = play
    response = await client.request("POST", CHAT, json=STREAM | {"n": 3})
    assert response.status == 200
    *said, failed = events(response.body)
    assert failed == {"error": ChildDied("It died.").body()["error"]}
    reasons = [choice["finish_reason"] for event in said for choice in event["choices"]]
    assert set(reasons) == {None}
    assert all(asked.port.over.is_set() for asked in gateway.asked)
    assert len(gateway.abandoned) == 3


async def test_one_that_fails_before_anything_is_said_is_a_real_status(
    client: Client, gateway: GatewayDouble
) -> None:
    async def play(asked: Asked) -> None:
        if numbered(gateway, asked) == 1:
            asked.fail(ChildDied("It died."))
        await trio.sleep_forever()

    gateway.script = play
    response = await client.request("POST", CHAT, json=STREAM | {"n": 3})
    assert (response.status, response.error["code"]) == (502, "child_died")


# -- refused ---------------------------------------------------------------------------------------


async def test_more_than_there_may_be_children_is_refused() -> None:
    small = Settings(claude=ClaudeSettings(max_concurrent_sessions=2, prewarm=0))
    async with open_gateway_double(small) as gateway:
        client = Client(app_of(gateway))
        refused = await ask(client, n=3)
        assert refused.status == 400
        assert (refused.error["param"], refused.error["code"]) == ("n", "unsupported_parameter")
        assert gateway.made == []
        assert len(completion(await ask(client, n=2)).choices) == 2


@pytest.mark.parametrize("n", [0, 9, -1])
async def test_n_is_one_to_eight(client: Client, gateway: GatewayDouble, n: int) -> None:
    refused = await ask(client, n=n)
    assert (refused.status, refused.error["param"]) == (400, "n")
    assert gateway.asked == []


async def test_a_conversation_goes_on_in_one_way(client: Client, gateway: GatewayDouble) -> None:
    held = gateway.conversation()
    ways: list[tuple[dict[str, str], dict[str, Any]]] = [
        ({"x-conversation-id": held.conversation_id}, {}),
        ({}, {"conversation_id": held.conversation_id}),
        ({}, {"conversation": {"id": held.conversation_id}}),
    ]
    for headers, fields in ways:
        refused = await ask(client, headers, n=2, **fields)
        assert refused.status == 400
        assert (refused.error["param"], refused.error["code"]) == ("n", "unsupported_parameter")
    assert gateway.asked == []


async def test_of_a_long_history_the_header_says_what_new_children_did_not_receive() -> None:
    limited = Settings(conversation=ConversationSettings(max_history_messages=1))
    async with open_gateway_double(limited) as gateway:
        history = [HI, {"role": "assistant", "content": "Hello"}, HI]
        response = await ask(Client(app_of(gateway)), n=2, messages=history)
        assert response.headers["x-ccapi-history-omitted"] == "2"
        assert response.headers["x-ccapi-lineage"] == "miss"


# -- over real children ----------------------------------------------------------------------------


async def test_each_answer_has_a_child_and_can_be_gone_on_with(tmp_path: Path) -> None:
    async with open_front(tmp_path, claude={"max_concurrent_sessions": 3}) as (client, gateway):
        first: list[dict[str, Any]] = [user(script(report=True))]
        answer = completion(await ask(client, messages=first, n=3))
        told = [json.loads(str(choice.message.content)) for choice in answer.choices]
        assert len({each["pid"] for each in told}) == 3
        assert gateway.statistics().children.live == 3
        for choice, given in zip(answer.choices, told, strict=True):
            message = {"role": "assistant", "content": choice.message.content}
            history = [*first, message, user(script(report=True))]
            response = await ask(client, NO_STORE, messages=history)
            assert response.headers["x-ccapi-lineage"] == "hit"
            assert json.loads(answered(response)["content"])["pid"] == given["pid"]
        # The same again: one by the conversation that has it, the others by new ones.
        again = completion(await ask(client, messages=history, n=3))
        for choice in again.choices:
            seen = json.loads(str(choice.message.content))["history"]
            assert len(seen) == 3


async def test_two_requests_for_all_the_children_wait_for_each_other(tmp_path: Path) -> None:
    async with open_front(tmp_path, claude={"max_concurrent_sessions": 3}) as (client, _):
        answers: list[int] = []

        async def once(text: str) -> None:
            response = await ask(client, messages=[user(text)], n=3, stream=False)
            answers.append(len(completion(response).choices))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(once, script(deltas=200))
            nursery.start_soon(once, script(deltas=100))
        assert answers == [3, 3]


async def test_when_there_is_no_room_for_all_of_them_none_is_left(tmp_path: Path) -> None:
    few = ConversationSettings(max_conversations=2)
    async with open_front(tmp_path, conversation=few) as (client, gateway):
        response = await ask(client, messages=[user(SILENT)], n=3)
        assert (response.status, response.error["code"]) == (429, "too_many_conversations")
        assert gateway.conversations() == []
        assert gateway.statistics().turns_running == 0
        assert "x-conversation-id" not in response.headers


async def test_choices_that_fail_leave_no_conversation_behind(tmp_path: Path) -> None:
    async with open_front(tmp_path) as (client, gateway):
        response = await ask(client, messages=[user(script(error_status=500))], n=3)
        assert response.status == 502
        assert gateway.conversations() == []
