"""kill -9 in front of the real CLI: afterwards the API is given exactly what was acknowledged."""

from __future__ import annotations

import gc
import json
import os
import random
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
import trio

from tests.actors.commands.test_serve import open_server
from tests.support.logins import login_environment
from tests.support.messages_answers import Answer, say
from tests.support.messages_stub import MessagesStub, Request, open_messages_stub
from tests.support.processes import eventually, marked
from tests.support.raw_cli import cli_binary

# httpx leaves the body of a request that breaks off to the collector.
pytestmark = pytest.mark.filterwarnings("ignore:Async generator 'httpx")

MARK = "CCAPI_TEST_KILL_CLI"
LIVES = int(os.environ.get("CCAPI_TEST_CLI_LIVES", "5"))
MODEL = "claude-haiku-4-5"


def answer(request: Request) -> Answer:
    return say(f"To {text_of(request.body['messages'][-1])}.", chunks=4, pause=0.01)


def text_of(message: dict[str, Any]) -> str:
    content = message["content"]
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


def told(stub: MessagesStub) -> list[str]:
    """The texts that the API was given last."""
    return [text_of(message) for message in stub.requests[-1].body["messages"]]


async def ask(client: httpx.AsyncClient, conversation_id: str, text: str) -> httpx.Response:
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": text}],
        "conversation_id": conversation_id,
    }
    response = await client.post("/v1/chat/completions", json=body)
    assert response.status_code == 200, response.text
    assert response.json()["choices"][0]["message"]["content"] == f"To {text}."
    return response


async def ask_while_killed(
    client: httpx.AsyncClient, conversation_id: str, text: str, said: list[str]
) -> None:
    with suppress(httpx.HTTPError):
        await ask(client, conversation_id, text)
        said += [text, f"To {text}."]


async def test_the_context_is_exact_after_every_kill(tmp_path: Path) -> None:
    numbers, mark = random.Random(20261129), uuid4().hex
    said: list[str] = []
    async with open_messages_stub(answer) as stub:
        env = login_environment("key", tmp_path, stub.url) | {MARK: mark}
        command, surroundings = cli_binary(), json.dumps(env)
        conversation_id, was_cut = "", ""
        for _ in range(LIVES):
            async with open_server(
                tmp_path, demo=False, CLAUDE__COMMAND=command, CLAUDE__ENV=surroundings
            ) as server:
                if not conversation_id:
                    made = await server.client.post("/v1/conversations", json={"model": MODEL})
                    conversation_id = made.json()["id"]
                path = f"/v1/conversations/{conversation_id}/items?order=asc&limit=100"
                items = (await server.client.get(path)).json()["data"]
                kept = [item["content"][0]["text"] for item in items]
                if was_cut and kept[len(said) :] == [was_cut, f"To {was_cut}."]:
                    said, was_cut = kept, ""  # it had ended, though its client was not told
                assert kept == said
                for number in range(2):
                    text = f"{numbers.getrandbits(32):x}"
                    response = await ask(server.client, conversation_id, text)
                    if "x-ccapi-lost-turn" in response.headers:
                        assert was_cut
                        assert number == 0, "it is said once"
                    assert told(stub) == [*said, text]
                    said += [text, f"To {text}."]
                was_cut = f"{numbers.getrandbits(32):x}"
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(
                        ask_while_killed, server.client, conversation_id, was_cut, said
                    )
                    await trio.sleep(numbers.random() * 0.15)
                    server.process.send_signal(signal.SIGKILL)
                    await server.ended()
                if said[-2:-1] == [was_cut]:
                    was_cut = ""
            await eventually(lambda: not marked(MARK, mark))
    gc.collect()
