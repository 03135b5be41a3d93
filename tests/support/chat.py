"""Chat requests and their answers, as the tests of the fronts write and read them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from ccapi.actors import Gateway
from ccapi.actors.http.app import http_app

from .asgi import Client, Response
from .embedded import open_embedded, patience
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


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def answered(response: Response) -> dict[str, Any]:
    """The answer, as a client puts it into its history. (Null fields are those it leaves out.)"""
    message = completion(response).choices[0].message
    return message.model_dump(exclude_none=True) | {"content": message.content}


def report(response: Response) -> dict[str, Any]:
    """What the demo CLI says it was given; it was asked by `embedded.script(report=True)`."""
    told: dict[str, Any] = json.loads(str(answered(response)["content"]))
    return told


@asynccontextmanager
async def open_front(tmp_path: Path, **options: Any) -> AsyncIterator[tuple[Client, Gateway]]:
    """A client of a whole gateway with real children; `options` are those of `open_embedded`."""
    async with open_embedded(tmp_path, **options) as gateway:
        with patience():
            yield Client(http_app(gateway)), gateway


def contents(body: bytes) -> list[str | None]:
    return [choice.delta.content for chunk in chunks(body) for choice in chunk.choices]


async def never(asked: Asked) -> None:
    await asked.say("a")
    await trio.sleep_forever()
