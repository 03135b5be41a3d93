"""Chat requests and their answers, as the tests of the fronts write and read them."""

from __future__ import annotations

import json
from typing import Any

import trio
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from .asgi import Client, Response
from .gateway_double import Asked

CHAT = "/v1/chat/completions"
HI = {"role": "user", "content": "Hi"}
ASK = {"model": "sonnet", "messages": [HI]}
STREAM = ASK | {"stream": True}
NO_STORE = {"cache-control": "no-store"}


async def ask(client: Client, headers: dict[str, str] | None = None, /, **fields: Any) -> Response:
    return await client.request("POST", CHAT, json=ASK | fields, headers=headers)


def completion(response: Response) -> ChatCompletion:
    assert response.status == 200
    assert response.headers["content-type"] == "application/json"
    return ChatCompletion.model_validate_json(response.body, strict=True)


def events(body: bytes) -> list[Any]:
    """What a client makes of a stream: JSON of each event, the end mark, heartbeats left out."""
    *blocks, rest = body.split(b"\n\n")
    assert rest == b""
    payloads = [b.removeprefix(b"data: ") for b in blocks if not b.startswith(b":")]
    return ["[DONE]" if data == b"[DONE]" else json.loads(data) for data in payloads]


def chunks(body: bytes) -> list[ChatCompletionChunk]:
    """The chunks of a stream that ended well."""
    *parsed, done = events(body)
    assert done == "[DONE]"
    return [ChatCompletionChunk.model_validate_json(json.dumps(c), strict=True) for c in parsed]


def contents(body: bytes) -> list[str | None]:
    return [choice.delta.content for chunk in chunks(body) for choice in chunk.choices]


async def never(asked: Asked) -> None:
    await asked.say("a")
    await trio.sleep_forever()
