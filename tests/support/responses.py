"""Responses and their events, as the tests of the fronts write and read them.

Every object and every event is looked at with the openai SDK's own types and with the schema of
Open Responses, strictly: a field of the wrong kind, or one that is missing, is a failure.
"""

from __future__ import annotations

import json
from typing import Any

from openai.types.responses import Response as ResponseObject
from openai.types.responses import ResponseStreamEvent
from openai.types.responses.response_item import ResponseItem
from openai.types.responses.responses_server_event import ResponsesServerEvent
from pydantic import TypeAdapter

from .asgi import Client, Response
from .open_responses import check_event, check_response, check_socket_message

RESPONSES = "/v1/responses"
ASK = {"model": "sonnet", "input": "Hi"}
STREAM = ASK | {"stream": True}

_EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
_SERVER_EVENT: TypeAdapter[Any] = TypeAdapter(ResponsesServerEvent)
_ITEM: TypeAdapter[Any] = TypeAdapter(ResponseItem)

Event = dict[str, Any]
TERMINAL = ("response.completed", "response.incomplete", "response.failed")


async def ask(client: Client, headers: dict[str, str] | None = None, /, **fields: Any) -> Response:
    return await client.request("POST", RESPONSES, json=ASK | fields, headers=headers)


async def get(client: Client, response_id: str, more: str = "") -> Response:
    return await client.request("GET", f"{RESPONSES}/{response_id}{more}")


def read(response: Response) -> ResponseObject:
    assert response.status == 200, response.body
    assert response.headers["content-type"] == "application/json"
    check_response(json.loads(response.body))
    return ResponseObject.model_validate_json(response.body, strict=True)


def check_item(item: dict[str, Any]) -> None:
    _ITEM.validate_json(json.dumps(item), strict=True)


def events(body: bytes) -> list[Event]:
    """The events of a stream, each of them sound; heartbeats are left out."""
    *blocks, rest = body.split(b"\n\n")
    assert rest == b""
    found = []
    for block in blocks:
        if block.startswith(b":"):
            continue
        name, data = block.split(b"\n")
        event = json.loads(data.removeprefix(b"data: "))
        assert name == b"event: " + event["type"].encode()
        _EVENT.validate_json(data.removeprefix(b"data: "), strict=True)
        check_event(event)
        found.append(event)
    return found


def server_event(message: bytes) -> Event:
    """One message of a WebSocket."""
    _SERVER_EVENT.validate_json(message, strict=True)
    event: Event = json.loads(message)
    check_socket_message(event)
    return event


def whole_stream(found: list[Event], first: int = 0) -> Event:
    """The response that a stream ends with, whose events are numbered without a gap."""
    numbers = [event["sequence_number"] for event in found]
    assert numbers == list(range(first, first + len(found)))
    assert found[-1]["type"] in TERMINAL
    assert not [event for event in found[:-1] if event["type"] in TERMINAL]
    response: Event = found[-1]["response"]
    return response


def kinds(found: list[Event]) -> list[str]:
    return [event["type"].removeprefix("response.") for event in found]


def deltas(found: list[Event]) -> list[str]:
    return [e["delta"] for e in found if e["type"] == "response.output_text.delta"]


def text_of(response: Event | ResponseObject) -> str:
    """What the SDK calls `output_text`."""
    if not isinstance(response, ResponseObject):
        response = ResponseObject.model_validate(response)
    return response.output_text


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def tool(name: str, **fields: Any) -> dict[str, Any]:
    parameters = {"type": "object", "properties": {}}
    return {"type": "function", "name": name, "parameters": parameters, **fields}


def output(call_id: str, text: str) -> dict[str, Any]:
    return {"type": "function_call_output", "call_id": call_id, "output": text}
