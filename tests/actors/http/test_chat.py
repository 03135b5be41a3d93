"""The chat route, driven in process, over turns that the tests play themselves."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing

from ccapi.schemas.errors import ChildDied, RateLimited
from ccapi.schemas.settings.settings import ConversationSettings, ModelSettings, Settings
from ccapi.schemas.turn_items import (
    ReasoningDelta,
    Refused,
    TextDelta,
    ToolCallDelta,
    ToolCallStarted,
)

from ...support.asgi import Client, Streamed
from ...support.chat import (
    ASK,
    CHAT,
    HI,
    NO_STORE,
    STREAM,
    ask,
    chunks,
    completion,
    contents,
    events,
    never,
)
from ...support.gateway_double import (
    Asked,
    GatewayDouble,
    app_of,
    failing,
    open_gateway_double,
    saying,
)

# -- a whole answer --------------------------------------------------------------------------------


async def test_a_whole_answer(client: Client, gateway: GatewayDouble) -> None:
    gateway.script = saying("Hel", "lo")
    response = await ask(client)
    answer = completion(response)
    [choice] = answer.choices
    assert (choice.message.role, choice.message.content) == ("assistant", "Hello")
    assert choice.finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.total_tokens == 15
    assert response.json()["conversation_id"] == gateway.made[0].conversation_id
    assert response.headers["x-conversation-id"] == gateway.made[0].conversation_id


async def test_the_system_prompt_goes_to_the_conversation_and_history_to_the_turn(
    client: Client, gateway: GatewayDouble
) -> None:
    history = [{"role": "system", "content": "Be brief."}, HI]
    history += [{"role": "assistant", "content": "Hello"}, {"role": "user", "content": "More"}]
    await ask(client, messages=history, model="haiku")
    assert (gateway.made[0].system, gateway.made[0].model) == ("Be brief.", "haiku")
    assert [message.text for message in gateway.asked[0].messages] == ["Hi", "Hello", "More"]


async def test_of_a_long_history_a_new_child_receives_the_end_and_a_header_says_so() -> None:
    limited = Settings(conversation=ConversationSettings(max_history_messages=3))
    said = [
        {"role": role, "content": f"{role} {number}"}
        for number in range(5)
        for role in ("user", "assistant")
    ]
    messages = [{"role": "system", "content": "Be brief."}, *said, HI]
    async with open_gateway_double(limited) as gateway:
        client = Client(app_of(gateway))
        response = await ask(client, messages=messages)
        # The conversation holds all of it, and is recognised by it.
        texts = [message.text for message in gateway.asked[0].messages]
        assert texts == [message["content"] for message in messages[1:]]
        assert gateway.asked[0].history_limit == 3
        assert response.headers["x-ccapi-history-omitted"] == "8"
        assert gateway.made[0].system == "Be brief."
        short = await ask(client, messages=messages[-3:])
        assert "x-ccapi-history-omitted" not in short.headers


async def test_the_model_echoes_the_request_and_means_what_the_catalog_says() -> None:
    models = ModelSettings(aliases={"gpt-4o": "opus"}, default="gpt-4o")
    async with open_gateway_double(Settings(models=models)) as gateway:
        client = Client(app_of(gateway))
        named = await ask(client, NO_STORE, model="gpt-4o")
        assert completion(named).model == "gpt-4o"
        unnamed = await ask(client, NO_STORE, model=None)
        assert completion(unnamed).model == "opus"
        assert [conversation.model for conversation in gateway.made] == ["opus", "opus"]
        wrong = await ask(client, model="gpt-5")
        assert wrong.status == 404
        assert (wrong.error["code"], wrong.error["param"]) == ("model_not_found", "model")


async def test_ignored_parameters_are_named_also_when_the_turn_fails(
    client: Client, gateway: GatewayDouble
) -> None:
    fields = {"temperature": 0.2, "seed": 1, "stop": "x", "user": "ada", "metadata": {"a": "b"}}
    response = await ask(client, **fields)
    # The last one by the model alone.
    assert response.headers["x-ccapi-ignored"] == "seed, metadata, temperature"
    gateway.script = failing(ChildDied("It died."))
    response = await ask(client, NO_STORE, **fields)
    assert response.status == 502
    assert response.headers["x-ccapi-ignored"] == "seed, metadata, temperature"
    assert "x-ccapi-ignored" not in (await ask(client)).headers


async def test_a_failed_turn_is_its_own_status(client: Client, gateway: GatewayDouble) -> None:
    gateway.script = failing(RateLimited("Slow down.", retry_after=1.5), "Half an ans")
    response = await ask(client)
    assert response.status == 429
    assert response.error["type"] == "rate_limit_error"
    assert response.headers["retry-after"] == "2"
    assert response.headers["retry-after-ms"] == "1500"
    assert "Half" not in response.body.decode()


async def test_draining_refuses_turns(client: Client, gateway: GatewayDouble) -> None:
    gateway.draining = True
    for fields in (ASK, STREAM):
        response = await client.request("POST", CHAT, json=fields)
        assert response.status == 503
        assert (response.error["type"], response.error["code"]) == ("overloaded_error", "draining")
        assert int(response.headers["retry-after"]) > 0


async def everything(asked: Asked) -> None:
    """A turn that says one of everything."""
    for item in (
        ReasoningDelta("Hm"),
        ReasoningDelta("."),
        TextDelta("Let me see."),
        ToolCallStarted(0, "call_1", "add"),
        ToolCallDelta(0, '{"a"'),
        ToolCallDelta(0, ": 1}"),
        ToolCallStarted(1, "call_2", "now"),
    ):
        await asked.port.deliver(item)
    asked.end("tool_calls")


CALLS = [
    {"id": "call_1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}},
    {"id": "call_2", "type": "function", "function": {"name": "now", "arguments": "{}"}},
]


async def test_an_answer_is_more_than_text(client: Client, gateway: GatewayDouble) -> None:
    gateway.script = everything
    tools = [{"type": "function", "function": {"name": "add"}}]
    response = await ask(client, tools=tools, reasoning_effort="low")
    [choice] = completion(response).choices
    assert choice.finish_reason == "tool_calls"
    assert response.json()["choices"][0]["message"] == {
        "role": "assistant",
        "content": "Let me see.",
        "refusal": None,
        "reasoning_content": "Hm.",
        "tool_calls": CALLS,
    }
    [asked] = gateway.asked
    assert asked.tools is not None
    assert [tool.name for tool in asked.tools] == ["add"]
    assert (asked.options.effort, asked.options.reasoning) == ("low", True)
    assert "x-ccapi-cache" not in response.headers, "an answer in the cache has no thinking"


async def test_a_refusal_is_no_text(client: Client, gateway: GatewayDouble) -> None:
    async def script(asked: Asked) -> None:
        await asked.port.deliver(Refused("I will not."))
        asked.end("content_filter")

    gateway.script = script
    [choice] = completion(await ask(client)).choices
    assert (choice.message.content, choice.message.refusal) == (None, "I will not.")
    assert choice.finish_reason == "content_filter"
    said = chunks((await client.request("POST", CHAT, json=STREAM)).body)
    assert [chunk.choices[0].delta.refusal for chunk in said] == [None, "I will not.", None]


# -- a stream --------------------------------------------------------------------------------------


async def test_a_stream(client: Client, gateway: GatewayDouble) -> None:
    gateway.script = saying("Hel", "lo", finish_reason="length")
    response = await client.request("POST", CHAT, json=STREAM)
    assert response.status == 200
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.headers["cache-control"] == "no-cache"
    assert response.headers["x-accel-buffering"] == "no"
    assert response.headers["x-conversation-id"] == gateway.made[0].conversation_id
    assert response.whole
    assert contents(response.body) == ["", "Hel", "lo", None]
    first, *_, last = chunks(response.body)
    assert first.choices[0].delta.role == "assistant"
    assert last.choices[0].finish_reason == "length"
    raw = events(response.body)[:-1]
    named = [event.get("conversation_id") for event in raw]
    conversation_id = gateway.made[0].conversation_id
    assert named == [conversation_id, None, None, conversation_id]
    assert all("usage" not in event for event in raw)


async def test_a_stream_of_everything(client: Client, gateway: GatewayDouble) -> None:
    gateway.script = everything
    response = await client.request("POST", CHAT, json=STREAM)
    said = chunks(response.body)
    assert said[-1].choices[0].finish_reason == "tool_calls"
    deltas = [event["choices"][0]["delta"] for event in events(response.body)[:-1]]
    assert "".join(delta.get("reasoning_content", "") for delta in deltas) == "Hm."
    assert "".join(delta.get("content", "") for delta in deltas) == "Let me see."
    fragments = [call for delta in deltas for call in delta.get("tool_calls", ())]
    begun = [call for call in fragments if "id" in call]
    assert [(each["index"], each["id"], each["function"]["name"]) for each in begun] == [
        (0, "call_1", "add"),
        (1, "call_2", "now"),
    ]
    arguments = ["", ""]
    for call in fragments:
        arguments[call["index"]] += call["function"]["arguments"]
    assert arguments == ['{"a": 1}', ""]


async def test_usage_in_a_stream(client: Client) -> None:
    fields = STREAM | {"stream_options": {"include_usage": True}}
    *rest, bill = chunks((await client.request("POST", CHAT, json=fields)).body)
    assert bill.choices == []
    assert bill.usage is not None
    assert bill.usage.prompt_tokens == 12
    assert all(chunk.usage is None for chunk in rest)


async def test_an_empty_answer_is_still_a_whole_stream(client: Client) -> None:
    response = await client.request("POST", CHAT, json=STREAM)
    assert contents(response.body) == ["", None]


async def test_deltas_arrive_as_they_are_said_and_those_waiting_arrive_together(
    client: Client, gateway: GatewayDouble
) -> None:
    go_on = trio.Event()

    async def script(asked: Asked) -> None:
        await asked.say("a")
        await go_on.wait()
        for piece in "bcd":
            asked.port.deliver_nowait(TextDelta(piece))
        asked.end()

    gateway.script = script
    async with client.stream("POST", CHAT, json=STREAM) as streamed:
        await streamed.open()
        first = await streamed.read()
        assert first is not None
        assert first.count(b"data: ") == 2
        assert b'"content":"a"' in first
        go_on.set()
        second = await streamed.read()
        assert second is not None
        assert second.count(b"data: ") == 3
        assert contents(first + second + await streamed.rest()) == ["", "a", "b", "c", "d", None]


async def test_a_client_that_does_not_read_holds_up_its_own_turn(
    client: Client, gateway: GatewayDouble
) -> None:
    said = 0

    async def script(asked: Asked) -> None:
        nonlocal said
        for said in range(1000):  # noqa: B007 (counted for the test)
            await asked.say("x")

    gateway.script = script
    async with client.stream("POST", CHAT, json=STREAM) as streamed:
        await streamed.open()
        await streamed.read()
        await trio.testing.wait_all_tasks_blocked()
        assert said < 200


async def test_a_failure_before_the_first_delta_is_a_real_status(
    client: Client, gateway: GatewayDouble
) -> None:
    gateway.script = failing(ChildDied("It died."))
    response = await client.request("POST", CHAT, json=STREAM)
    assert response.status == 502
    assert response.error["code"] == "child_died"
    # Nothing is in the conversation, and no client has received any of it.
    assert "x-conversation-id" not in response.headers
    assert gateway.abandoned == [gateway.made[0].conversation_id]


async def test_a_failure_after_the_first_delta_is_an_event_without_an_end_mark(
    client: Client, gateway: GatewayDouble
) -> None:
    gateway.script = failing(ChildDied("It died."), "Half")
    response = await client.request("POST", CHAT, json=STREAM)
    assert response.status == 200
    assert response.whole
    *said, failed = events(response.body)
    assert [event["choices"][0]["finish_reason"] for event in said] == [None, None]
    assert failed == {"error": ChildDied("It died.").body()["error"]}


async def test_an_internal_error_in_a_stream_shows_nothing_of_internals(
    client: Client, gateway: GatewayDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def script(asked: Asked) -> None:
        await asked.say("Half")
        asked.port._send.close()  # the end without an outcome: a session that breaks its promise

    gateway.script = script
    failed = events((await client.request("POST", CHAT, json=STREAM)).body)[-1]
    assert failed["error"]["code"] == "internal_error"


# -- silence and hang-ups --------------------------------------------------------------------------


async def test_silence_is_filled_with_heartbeats_and_opens_the_response(
    client: Client, gateway: GatewayDouble, autojump_clock: trio.testing.MockClock
) -> None:
    async def script(asked: Asked) -> None:
        await trio.sleep(40)
        await asked.say("a")
        await trio.sleep(16)
        await asked.say("b")
        await trio.sleep(14)
        asked.end()

    gateway.script = script
    response = await client.request("POST", CHAT, json=STREAM)
    blocks = response.body.split(b"\n\n")
    beats = [index for index, block in enumerate(blocks) if block == b": heartbeat"]
    # At 15 and 30 s, then first and "a" at 40 s, a beat at 55 s, "b" at 56 s, the end at 70 s.
    assert beats == [0, 1, 4]
    assert contents(response.body) == ["", "a", "b", None]
    assert response.headers["x-conversation-id"] == gateway.made[0].conversation_id


async def test_a_failure_within_the_first_silence_is_a_status_and_later_an_event(
    client: Client, gateway: GatewayDouble, autojump_clock: trio.testing.MockClock
) -> None:
    for seconds, status in [(14, 502), (16, 200)]:

        async def script(asked: Asked, seconds: float = seconds) -> None:
            await trio.sleep(seconds)
            asked.fail(ChildDied("It died."))

        gateway.script = script
        response = await client.request("POST", CHAT, json=STREAM)
        assert response.status == status
        if status == 200:
            assert response.body.startswith(b": heartbeat\n\n")
            assert events(response.body)[-1]["error"]["code"] == "child_died"


async def hang_up_once_asked(streamed: Streamed, gateway: GatewayDouble) -> None:
    while not gateway.asked:
        await trio.lowlevel.checkpoint()
    await trio.testing.wait_all_tasks_blocked()
    assert not gateway.asked[0].port.over.is_set()
    streamed.hang_up()
    await streamed.ended.wait()
    assert gateway.asked[0].port.over.is_set()
    assert streamed.failure is None


@pytest.mark.parametrize("fields", [ASK, STREAM])
async def test_a_client_that_goes_away_ends_its_turn(
    client: Client, gateway: GatewayDouble, fields: dict[str, Any]
) -> None:
    gateway.script = never
    async with client.stream("POST", CHAT, json=fields) as streamed:
        await hang_up_once_asked(streamed, gateway)


async def test_a_client_that_goes_away_while_a_write_waits_for_it_ends_its_turn(
    client: Client, gateway: GatewayDouble
) -> None:
    gateway.script = never
    async with client.stream("POST", CHAT, json=STREAM) as streamed:
        await streamed.open()  # the body is not read: the write of the first events waits
        await hang_up_once_asked(streamed, gateway)


async def test_thinking_is_given_where_the_operator_says_so() -> None:
    settings = Settings(models=ModelSettings(include_reasoning=True))
    async with open_gateway_double(settings) as gateway:
        await ask(Client(app_of(gateway)), NO_STORE)
        assert gateway.asked[0].options.reasoning
