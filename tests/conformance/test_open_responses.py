"""What the compliance suite of Open Responses (edition 2026-04-24) asks, asked of the gateway.

Written after the suite's own tests, whose names these have: the same requests, all at once as the
suite sends them; every object and every event is validated by the standard's schema. One of the
suite's seventeen sends nothing (it validates the suite's own fixture), and has no place here.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from attrs import frozen
from trio_websocket import open_websocket_url

from tests.support.open_responses import (
    check,
    check_compaction,
    check_event,
    check_response,
    check_socket_message,
)
from tests.support.pictures import data_url, png

from .gateway import open_gateway_for_clients

JSON = dict[str, Any]
MODEL = "sonnet"
PATIENCE = 120.0
TERMINAL = ("response.completed", "response.failed", "response.incomplete", "error")

WEATHER = {
    "type": "function",
    "name": "get_weather",
    "description": "Get the current weather for a location",
    "parameters": {
        "type": "object",
        "properties": {
            "location": {
                "type": "string",
                "description": "The city and state, e.g. San Francisco, CA",
            }
        },
        "required": ["location"],
    },
}


def said(text: Any, role: str = "user", **fields: Any) -> JSON:
    return {"type": "message", "role": role, "content": text, **fields}


def part(kind: str, text: str) -> JSON:
    return {"type": kind, "text": text}


@frozen
class Server:
    url: str
    client: httpx.AsyncClient

    async def post(self, path: str = "/responses", *, status: int = 200, **body: Any) -> JSON:
        answered = await self.client.post(f"{self.url}{path}", json=body)
        assert answered.status_code == status, answered.text
        found: JSON = answered.json()
        return found

    async def ask(self, *items: JSON, **fields: Any) -> JSON:
        response = await self.post(model=MODEL, input=[*items], **fields)
        check_response(response)
        assert response["status"] == "completed"
        assert response["output"]
        return response

    async def stream(self, *items: JSON, **fields: Any) -> tuple[list[JSON], JSON]:
        """The events, and the response they end with."""
        body = {"model": MODEL, "input": [*items], "stream": True, **fields}
        answered = await self.client.post(f"{self.url}/responses", json=body)
        assert answered.headers["content-type"].startswith("text/event-stream")
        events = []
        for block in answered.text.split("\n\n"):
            lines = dict(line.split(": ", 1) for line in block.splitlines() if line[:1] != ":")
            if lines:
                event = json.loads(lines["data"])
                assert event["type"] == lines["event"]
                check_event(event)
                events.append(event)
        check_response(events[-1]["response"])
        return events, events[-1]["response"]

    async def converse(self, *steps: JSON | Callable[[list[JSON]], JSON]) -> list[JSON]:
        """The last message of each turn on one WebSocket: a response, or an error."""
        ends: list[JSON] = []
        async with open_websocket_url(f"{self.url.replace('http', 'ws', 1)}/responses") as socket:
            for step in steps:
                fields = step(ends) if callable(step) else step
                body = {"type": "response.create", "model": MODEL, **fields}
                await socket.send_message(json.dumps(body))
                event: JSON = {"type": ""}
                while event["type"] not in TERMINAL:
                    event = json.loads(await socket.get_message())
                    check_socket_message(event)
                ends.append(event.get("response", event))
        return ends


def code_of(end: JSON) -> str:
    assert end.get("type") == "error", end
    return str(end["error"]["code"])


def text_of(response: JSON) -> str:
    check_response(response)
    assert response["status"] == "completed"
    messages = [item for item in response["output"] if item["type"] == "message"]
    return "".join(part["text"] for item in messages for part in item["content"])


# -- what is asked ---------------------------------------------------------------------------------


async def basic_response(server: Server) -> None:
    await server.ask(said("Say hello in exactly 3 words."))


async def assistant_phase(server: Server) -> None:
    await server.ask(
        said("I should answer with the saved number.", "assistant", phase="commentary"),
        said("The number is four.", "assistant", phase="final_answer"),
        said("Repeat only the number."),
    )


async def streaming_response(server: Server) -> None:
    events, response = await server.stream(said("Count from 1 to 5."))
    assert response["status"] == "completed"
    assert "response.output_text.delta" in [event["type"] for event in events]


async def system_prompt(server: Server) -> None:
    rules = said("You are a pirate. Always respond in pirate speak.", "system")
    await server.ask(rules, said("Say hello."))


async def tool_calling(server: Server) -> None:
    question = said("What's the weather like in San Francisco?")
    response = await server.ask(question, tools=[WEATHER])
    assert "function_call" in [item["type"] for item in response["output"]]


async def tool_calling_streaming(server: Server) -> None:
    question = said("What's the weather like in San Francisco?")
    events, _ = await server.stream(question, tools=[WEATHER])
    kinds = {event["type"].removeprefix("response.") for event in events}
    assert {"function_call_arguments.delta", "function_call_arguments.done"} <= kinds


async def image_input(server: Server) -> None:
    url = data_url(png())
    look = part("input_text", "What do you see in this image? Answer in one sentence.")
    response = await server.ask(said([look, {"type": "input_image", "image_url": url}]))
    assert "1 image" in text_of(response)


async def multi_turn(server: Server) -> None:
    response = await server.ask(
        said("My name is Alice."),
        said("Hello Alice! Nice to meet you. How can I help you today?", "assistant"),
        said("What is my name?"),
    )
    assert "Alice" in text_of(response)


async def reasoning(server: Server) -> None:
    """Not the suite's: the events of thinking are the standard's too."""
    events, response = await server.stream(
        said("Think: is 7 a prime?"), reasoning={"effort": "low", "summary": "auto"}
    )
    assert response["output"][0]["type"] == "reasoning"
    assert "response.reasoning_summary_text.delta" in [event["type"] for event in events]


async def compact_response(server: Server) -> None:
    compacted = await server.post(
        "/responses/compact",
        model=MODEL,
        prompt_cache_key="openresponses-compact-test",
        input=[
            said("We agreed to launch on Tuesday and notify support first."),
            said("Understood. The launch is Tuesday, with support told beforehand.", "assistant"),
        ],
    )
    check_compaction(compacted)
    assert compacted["output"][-1]["type"] == "compaction"


async def compact_missing_model(server: Server) -> None:
    await server.post("/responses/compact", status=400, input=[said("Compact this.")])


async def websocket_response(server: Server) -> None:
    [end] = await server.converse({"input": [said("Count from 1 to 3.")]})
    text_of(end)


async def websocket_sequential_responses(server: Server) -> None:
    ends = await server.converse(
        {"store": False, "input": "Say first"}, {"store": False, "input": "Say second"}
    )
    assert [text_of(end) for end in ends] == ["first", "second"]


async def websocket_continuation(server: Server) -> None:
    ends = await server.converse(
        {"store": False, "input": "My name is Cobalt."},
        lambda before: {
            "store": False,
            "previous_response_id": before[0]["id"],
            "input": "What is my name?",
        },
    )
    assert "Cobalt" in text_of(ends[1])


async def websocket_reconnect_store_false_recovery(server: Server) -> None:
    [first] = await server.converse({"store": False, "input": "My name is Copper."})
    behind = {"store": False, "previous_response_id": first["id"], "input": "Go on."}
    lost, recovered = await server.converse(behind, {"store": False, "input": [said("Say new")]})
    assert code_of(lost) == "previous_response_not_found"
    assert text_of(recovered) == "new"


async def websocket_previous_response_not_found(server: Server) -> None:
    behind = {"store": False, "previous_response_id": "resp_missing_1", "input": "Go on."}
    [end] = await server.converse(behind)
    assert code_of(end) == "previous_response_not_found"


async def websocket_failed_continuation_evicts_cache(server: Server) -> None:
    output = {"type": "function_call_output", "call_id": "call_missing", "output": "nothing"}

    def behind(given: Any, before: list[JSON]) -> JSON:
        return {"store": False, "previous_response_id": before[0]["id"], "input": given}

    ends = await server.converse(
        {"store": False, "input": "Remember the code word: ember. Reply with OK."},
        partial(behind, [output]),
        partial(behind, "Go on."),
    )
    assert code_of(ends[1]) == "unknown_tool_call_id"
    assert code_of(ends[2]) == "previous_response_not_found"


async def websocket_compact_new_chain(server: Server) -> None:
    compacted = await server.post(
        "/responses/compact",
        model=MODEL,
        input=[
            said([part("input_text", "My name is Slate.")]),
            said([part("output_text", "OK.")], "assistant"),
            said([part("input_text", "Compress this conversation for later continuation.")]),
        ],
    )
    # Of the last item alone, so that the name can come from nowhere else.
    for kept in (compacted["output"], compacted["output"][-1:]):
        items = [*kept, said("What is my name?")]
        [end] = await server.converse({"store": False, "input": items, "tools": []})
        assert "Slate" in text_of(end)


CHECKS: tuple[Callable[[Server], Awaitable[None]], ...] = (
    basic_response, assistant_phase, streaming_response, system_prompt, tool_calling,
    tool_calling_streaming, image_input, multi_turn, reasoning, compact_response,
    compact_missing_model, websocket_response, websocket_sequential_responses,
    websocket_continuation, websocket_reconnect_store_false_recovery,
    websocket_previous_response_not_found, websocket_failed_continuation_evicts_cache,
    websocket_compact_new_chain,
)  # fmt: skip


def name_of(one: Callable[..., Any]) -> str:
    return str(getattr(one, "__name__", one))


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Exception | None]:
    return trio.run(_check_all, tmp_path_factory.mktemp("open_responses"))


async def _check_all(folder: Path) -> Mapping[str, Exception | None]:
    found: dict[str, Exception | None] = {}

    async def run(one: Callable[[Server], Awaitable[None]], server: Server) -> None:
        try:
            await one(server)
            found[name_of(one)] = None
        except Exception as error:  # noqa: BLE001 (told by the test of that name)
            found[name_of(one)] = error

    with trio.fail_after(PATIENCE):
        async with (
            open_gateway_for_clients(folder) as (url, _),
            httpx.AsyncClient(timeout=PATIENCE) as client,
            trio.open_nursery() as nursery,
        ):
            for one in CHECKS:
                nursery.start_soon(run, one, Server(url, client))
    return found


@pytest.mark.parametrize("name", [name_of(one) for one in CHECKS])
def test_open_responses(outcomes: Mapping[str, Exception | None], name: str) -> None:
    if (error := outcomes[name]) is not None:
        raise error


def test_the_schema_finds_errors() -> None:
    with pytest.raises(AssertionError, match="encrypted_content"):
        check("CompactionBody", {"type": "compaction", "id": "cmp_1"})
