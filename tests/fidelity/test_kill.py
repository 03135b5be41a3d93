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
from attrs import define, field

from tests.support.forked_gateways import open_forks, serve_start
from tests.support.logins import login_environment
from tests.support.messages_answers import Answer, say
from tests.support.messages_stub import MessagesStub, Request, open_messages_stub
from tests.support.processes import eventually, marked
from tests.support.raw_cli import cli_binary

# httpx leaves the body of a request that breaks off to the collector.
pytestmark = pytest.mark.filterwarnings("ignore:Async generator 'httpx")

MARK = "CCAPI_TEST_KILL_CLI"
LIVES = int(os.environ.get("CCAPI_TEST_CLI_LIVES", "10"))
AT_ONCE = 2
LIVES_OF_A_CONVERSATION = 8
MODEL = "claude-haiku-4-5"


def answer(request: Request) -> Answer:
    return say(f"To {text_of(request.body['messages'][-1])}.", chunks=4, pause=0.01)


def text_of(message: dict[str, Any]) -> str:
    content = message["content"]
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


def told(stub: MessagesStub, text: str) -> list[str]:
    """The texts that the API was given last, when it was asked this."""
    found = [[text_of(each) for each in request.body["messages"]] for request in stub.requests]
    return next(texts for texts in reversed(found) if texts[-1] == text)


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


@define
class Talk:
    """What a client knows of one conversation: what was said, and what has no answer."""

    conversation_id: str
    said: list[str] = field(factory=list)
    was_cut: str = ""

    async def ask(self, client: httpx.AsyncClient, text: str) -> httpx.Response:
        response = await ask(client, self.conversation_id, text)
        self.said += [text, f"To {text}."]
        return response

    async def ask_until_killed(self, client: httpx.AsyncClient, text: str) -> None:
        self.was_cut = text
        with suppress(httpx.HTTPError):
            await self.ask(client, text)
            self.was_cut = ""

    async def go_on(self, client: httpx.AsyncClient, stub: MessagesStub, texts: list[str]) -> int:
        """All that was acknowledged is there, and the API is given it exactly. Returns how often it
        was said that a turn was lost."""
        path = f"/v1/conversations/{self.conversation_id}/items?order=asc&limit=100"
        items = (await client.get(path)).json()["data"]
        kept = [item["content"][0]["text"] for item in items]
        if self.was_cut and kept[len(self.said) :] == [self.was_cut, f"To {self.was_cut}."]:
            self.said, self.was_cut = kept, ""  # it had ended, though its client was not told
        assert kept == self.said
        lost = 0
        for number, text in enumerate(texts):
            response = await self.ask(client, text)
            assert told(stub, text) == self.said[:-1]
            if "x-ccapi-lost-turn" in response.headers:
                assert self.was_cut
                assert number == 0, "it is said once"
                lost += 1
        return lost


async def test_the_context_is_exact_after_every_kill(tmp_path: Path) -> None:
    numbers, mark = random.Random(20261129), uuid4().hex
    talks: list[Talk] = []
    lost = 0

    def text() -> str:
        return f"{numbers.getrandbits(48):x}"

    async with open_messages_stub(answer) as stub, open_forks() as forks:
        env = login_environment("key", tmp_path, stub.url) | {MARK: mark}
        start = serve_start(
            tmp_path,
            demo=False,
            CLAUDE__COMMAND=cli_binary(),
            CLAUDE__ENV=json.dumps(env),
            CLAUDE__PREWARM="0",  # each life needs its own children, and no more
        )

        async def go_on(talk: Talk, texts: list[str]) -> None:
            nonlocal lost
            lost += await talk.go_on(client, stub, texts)

        for life in range(LIVES):
            gateway = await forks.fork(start)
            async with await gateway.listening() as client:
                async with trio.open_nursery() as nursery:
                    for each in talks:
                        nursery.start_soon(go_on, each, [text(), text()])
                if life % LIVES_OF_A_CONVERSATION == 0:
                    talks.clear()
                    for _ in range(AT_ONCE):
                        made = await client.post("/v1/conversations", json={"model": MODEL})
                        talks.append(Talk(made.json()["id"]))
                async with trio.open_nursery() as nursery:
                    for each in talks:
                        nursery.start_soon(each.ask_until_killed, client, text())
                    await trio.sleep(numbers.random() * 0.15)
                    gateway.send(signal.SIGKILL)
                await gateway.dead()
            await eventually(lambda: not marked(MARK, mark))
    gc.collect()
    assert lost or LIVES < 5
