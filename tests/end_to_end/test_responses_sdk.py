"""The openai Python SDK's Responses against the gateway, on a real port, in front of the real CLI.

The stub of the Messages API echoes the last user text, and keeps what it was sent: so each test
sees both ends, what the client reads and what the model would have read.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, TypeVar

import openai
import pytest
import trio
from openai.types.responses import FunctionToolParam, Response, ResponseStreamEvent
from pydantic import BaseModel

from tests.support.live import Live, open_live_cli
from tests.support.messages_stub import ToolUse, call, say

from .test_openai_sdk import sync_client, with_async_client

MODEL = "claude-haiku-4-5"
WEATHER: FunctionToolParam = {
    "type": "function",
    "name": "get_weather",
    "description": "The weather of a city.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
        "additionalProperties": False,
    },
    "strict": False,
}

T = TypeVar("T")


@pytest.fixture
async def live(tmp_path: Path) -> AsyncIterator[Live]:
    async with open_live_cli(tmp_path) as running:
        yield running


async def with_sync_client(live: Live, talk: Callable[[openai.OpenAI], T]) -> T:
    def main() -> T:
        with sync_client(live) as client:
            return talk(client)

    return await trio.to_thread.run_sync(main)


def told(live: Live) -> list[Any]:
    """What the model received last."""
    assert live.stub is not None
    return [
        (message["role"], _text(message["content"]))
        for message in live.stub.requests[-1].body["messages"]
    ]


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "".join(block.get("text") or "" for block in content)


# -- over HTTP -------------------------------------------------------------------------------------


async def test_the_sync_client_goes_on_behind_a_response(live: Live) -> None:
    def talk(client: openai.OpenAI) -> list[Response]:
        first = client.responses.create(
            model=MODEL, input="My name is Ada.", instructions="Be brief."
        )
        second = client.responses.create(
            model=MODEL,
            input="What is my name?",
            instructions="Be brief.",
            previous_response_id=first.id,
        )
        again = client.responses.retrieve(first.id)
        assert again.output_text == first.output_text
        fork = client.responses.create(
            model=MODEL,
            input="And hers?",
            instructions="Be brief.",
            previous_response_id=first.id,
        )
        items = client.responses.input_items.list(second.id)
        assert [item.type for item in items] == ["message"]
        client.responses.delete(first.id)
        with pytest.raises(openai.NotFoundError):
            client.responses.retrieve(first.id)
        return [first, second, fork]

    first, second, fork = await with_sync_client(live, talk)
    assert first.output_text == "turn 1: My name is Ada."
    assert second.output_text == "turn 2: What is my name?"
    assert second.usage is not None
    assert second.usage.input_tokens > 0
    # The second went on in the live conversation, the third in one of its own.
    ids = [getattr(each, "conversation_id", None) for each in (first, second, fork)]
    assert ids[0] == ids[1] != ids[2]
    assert fork.output_text == "turn 2: And hers?"
    assert told(live)[-3:] == [
        ("user", "My name is Ada."),
        ("assistant", "turn 1: My name is Ada."),
        ("user", "And hers?"),
    ]


async def test_a_stream_of_the_sync_client_is_what_was_said(live: Live) -> None:
    assert live.stub is not None
    live.stub.queue.append(say("one two three", chunks=3))

    def talk(client: openai.OpenAI) -> tuple[list[ResponseStreamEvent], list[ResponseStreamEvent]]:
        with client.responses.create(model=MODEL, input="Hi", stream=True) as stream:
            events = list(stream)
        response = events[-1]
        assert response.type == "response.completed"
        again = client.responses.retrieve(response.response.id, stream=True, starting_after=4)
        return events, list(again)

    events, again = await with_sync_client(live, talk)
    assert [event.sequence_number for event in events] == [*range(len(events))]
    assert "".join(e.delta for e in events if e.type == "response.output_text.delta") == (
        "one two three"
    )
    assert again == events[5:]


async def test_the_stream_helper_puts_the_response_together(live: Live) -> None:
    def talk(client: openai.OpenAI) -> Response:
        with client.responses.stream(model=MODEL, input="Hi") as stream:
            for _ in stream:
                pass
            return stream.get_final_response()

    assert (await with_sync_client(live, talk)).output_text == "turn 1: Hi"


async def test_tools_go_round(live: Live) -> None:
    assert live.stub is not None
    live.stub.queue += [
        call(ToolUse("get_weather", {"city": "Paris"}, "toolu_1"), text="Let me see."),
        say("Sunny."),
    ]

    def talk(client: openai.OpenAI) -> Response:
        first = client.responses.create(model=MODEL, input="Weather?", tools=[WEATHER])
        said, made = first.output
        assert said.type == "message"
        assert made.type == "function_call"
        assert (made.name, json.loads(made.arguments)) == ("get_weather", {"city": "Paris"})
        return client.responses.create(
            model=MODEL,
            previous_response_id=first.id,
            tools=[WEATHER],
            input=[
                {"type": "function_call_output", "call_id": made.call_id, "output": "It is sunny."}
            ],
        )

    assert (await with_sync_client(live, talk)).output_text == "Sunny."
    [*_, last] = live.stub.requests[-1].body["messages"]
    [result] = [block for block in last["content"] if block["type"] == "tool_result"]
    assert result["tool_use_id"] == "toolu_1"
    assert live.gateway.statistics().conversations == 1


async def test_a_client_that_keeps_its_own_history_sends_it_back_as_it_was(live: Live) -> None:
    assert live.stub is not None
    live.stub.queue += [
        call(ToolUse("get_weather", {"city": "Paris"}, "toolu_1"), text="Let me see."),
        say("Sunny."),
    ]

    def talk(client: openai.OpenAI) -> tuple[Response, str]:
        history: list[Any] = [{"role": "user", "content": "Weather?"}]
        first = client.responses.create(model=MODEL, input=history, tools=[WEATHER], store=False)
        history += [item.model_dump(exclude_none=True) for item in first.output]
        history.append(
            {"type": "function_call_output", "call_id": "toolu_1", "output": "It is sunny."}
        )
        raw = client.responses.with_raw_response.create(
            model=MODEL, input=history, tools=[WEATHER], store=False
        )
        return raw.parse(), str(raw.headers["x-ccapi-lineage"])

    answered, lineage = await with_sync_client(live, talk)
    assert (answered.output_text, lineage) == ("Sunny.", "hit")


class Person(BaseModel):
    name: str
    age: int


async def test_an_answer_is_parsed_into_a_class(live: Live) -> None:
    assert live.stub is not None
    live.stub.queue.append(call(ToolUse("StructuredOutput", {"name": "Ada", "age": 36}, "toolu_1")))

    def talk(client: openai.OpenAI) -> Person | None:
        parsed = client.responses.parse(model=MODEL, input="Who?", text_format=Person)
        return parsed.output_parsed

    found = await with_sync_client(live, talk)
    assert found == Person(name="Ada", age=36)


async def test_a_response_in_the_background_is_polled(live: Live) -> None:
    def talk(client: openai.OpenAI) -> Response:
        response = client.responses.create(model=MODEL, input="Hi", background=True)
        while response.status in ("queued", "in_progress"):
            response = client.responses.retrieve(response.id)
        return client.responses.cancel(response.id)

    assert (await with_sync_client(live, talk)).output_text == "turn 1: Hi"


async def test_errors_are_the_sdks_own(live: Live) -> None:
    def talk(client: openai.OpenAI) -> tuple[Any, Any]:
        with pytest.raises(openai.BadRequestError) as behind:
            client.responses.create(model=MODEL, input="Hi", previous_response_id="resp_x")
        with pytest.raises(openai.NotFoundError) as model:
            client.responses.create(model="gpt-5", input="Hi")
        return behind.value, model.value

    behind, model = await with_sync_client(live, talk)
    assert (behind.code, behind.param) == ("previous_response_not_found", "previous_response_id")
    assert model.code == "model_not_found"


async def test_the_async_client_streams_and_goes_on(live: Live) -> None:
    async def talk(client: openai.AsyncOpenAI) -> None:
        async with await client.responses.create(model=MODEL, input="Hi", stream=True) as stream:
            events = [event async for event in stream]
        assert [event.sequence_number for event in events] == [*range(len(events))]
        last = events[-1]
        assert last.type == "response.completed"
        more = await client.responses.create(
            model=MODEL, input="More", previous_response_id=last.response.id
        )
        assert more.output_text == "turn 2: More"

    await with_async_client(live, talk)


# -- over a WebSocket ------------------------------------------------------------------------------


async def test_the_sync_client_connects(live: Live) -> None:
    def talk(client: openai.OpenAI) -> list[Any]:
        with client.responses.connect() as connection:
            connection.response.create(
                model=MODEL, generate=False, instructions="Be brief.", input=[]
            )
            warm = _read(connection)[-1]
            connection.response.create(
                model=MODEL, input="Hi", previous_response_id=warm.response.id
            )
            first = _read(connection)
            connection.response.create(
                model=MODEL, input="More", previous_response_id=first[-1].response.id
            )
            return [warm, *first, _read(connection)[-1]]

    warm, *first, second = await with_sync_client(live, talk)
    assert warm.response.output == []
    assert [event.sequence_number for event in first] == [*range(len(first))]
    assert first[-1].response.output_text == "turn 1: Hi"
    assert second.response.output_text == "turn 2: More"
    assert live.stub is not None
    assert any("Be brief." in json.dumps(r.body["system"]) for r in live.stub.requests)


def _read(connection: Any) -> list[Any]:
    """The events of one response, or of its lane."""
    events = []
    for event in connection:
        events.append(event)
        if event.type in ("response.completed", "response.incomplete", "response.failed", "error"):
            return events
    raise AssertionError("the connection ended")


async def test_several_streams_on_one_connection(live: Live) -> None:
    lanes = ("a", "b", "c")

    def talk(client: openai.OpenAI) -> dict[str, str]:
        with client.responses.connect() as connection:
            for lane in lanes:
                connection.response.create(model=MODEL, input=f"Hi from {lane}", stream_id=lane)
            texts: dict[str, str] = {}
            while len(texts) < len(lanes):
                done = _read(connection)[-1]
                assert done.type == "response.completed"
                texts[done.stream_id] = done.response.output_text
            return texts

    texts = await with_sync_client(live, talk)
    assert texts == {lane: f"turn 1: Hi from {lane}" for lane in lanes}


async def test_a_response_is_steered(live: Live) -> None:
    assert live.stub is not None
    live.stub.queue += [say("one two three four", chunks=4, hang_after=2), say("By two.")]

    def talk(client: openai.OpenAI) -> tuple[list[Any], list[Any]]:
        with client.responses.connect() as connection:
            connection.response.create(model=MODEL, input="Count.")
            events = [connection.recv()]
            while events[-1].type != "response.output_text.delta":
                events.append(connection.recv())
            begun: Any = events[0]
            connection.response.steer(previous_response_id=begun.response.id, input="By two!")
            return [*events, *_read(connection)], _read(connection)

    first, second = await with_sync_client(live, talk)
    assert "response.steer.accepted" in [event.type for event in first]
    assert first[-1].response.incomplete_details.reason == "steered"
    assert second[-1].response.previous_response_id == first[-1].response.id
    assert second[-1].response.output_text == "By two."
    partial = first[-1].response.output_text
    assert partial
    assert "one two three four".startswith(partial)
    assert told(live)[-3:] == [("user", "Count."), ("assistant", partial), ("user", "By two!")]


async def test_a_response_is_cancelled_on_its_connection(live: Live) -> None:
    assert live.stub is not None
    live.stub.queue.append(say("one two three four", chunks=4, hang_after=2))

    def talk(client: openai.OpenAI) -> list[Any]:
        with client.responses.connect() as connection:
            connection.response.create(model=MODEL, input="Count.")
            begun: Any = connection.recv()
            while connection.recv().type != "response.output_text.delta":
                pass
            cancel: Any = {"type": "response.cancel", "response_id": begun.response.id}
            connection.send(cancel)
            ended = _read(connection)[-1]
            connection.response.create(model=MODEL, input="Hi")
            return [ended, _read(connection)[-1]]

    ended, after = await with_sync_client(live, talk)
    assert ended.response.status == "cancelled"
    assert after.response.output_text == "turn 1: Hi"


async def test_the_async_client_connects_and_receives_errors(live: Live) -> None:
    async def talk(client: openai.AsyncOpenAI) -> None:
        async with client.responses.connect() as connection:
            await connection.response.create(model="gpt-5", input="Hi")
            refused = await connection.recv()
            assert refused.type == "error"
            assert (refused.status, refused.error.code) == (404, "model_not_found")
            await connection.response.create(model=MODEL, input="Hi", store=False)
            first = [event async for event in _until_done(connection)]
            last: Any = first[-1]
            assert last.response.output_text == "turn 1: Hi"
            await connection.response.create(
                model=MODEL, input="More", store=False, previous_response_id=last.response.id
            )
            second: Any = [event async for event in _until_done(connection)][-1]
            assert second.response.output_text == "turn 2: More"

    await with_async_client(live, talk)


async def _until_done(connection: Any) -> AsyncIterator[Any]:
    while True:
        event = await connection.recv()
        yield event
        if event.type in ("response.completed", "response.failed", "error"):
            return
