"""kill -9 at any moment: acknowledged turns are there, each runs once, and the database opens."""

from __future__ import annotations

import gc
import json
import os
import random
import signal
import sqlite3
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
import trio
from attrs import define, field

from tests.actors.commands.test_serve import Server, open_server
from tests.support.embedded import script
from tests.support.processes import eventually, marked

# httpx leaves the body of a request that breaks off to the collector.
pytestmark = pytest.mark.filterwarnings("ignore:Async generator 'httpx")

MARK = "CCAPI_TEST_KILL"
LIVES = int(os.environ.get("CCAPI_TEST_LIVES", "25"))
LIVES_OF_A_CONVERSATION = 8
AT_ONCE = 4


@define
class Talk:
    """What a client knows of one conversation: the answers it has, and the question that it has no
    answer to."""

    conversation_id: str
    said: list[str] = field(factory=list)
    open: str | None = None
    lost: list[str] = field(factory=list)

    async def ask(self, client: httpx.AsyncClient, question: str) -> None:
        """Adds to what is said only what was answered whole."""
        self.open = question
        response = await client.post(
            "/v1/chat/completions",
            json={
                "model": "haiku",
                "messages": [{"role": "user", "content": f"repeat: {question}"}],
                "conversation_id": self.conversation_id,
            },
        )
        assert response.status_code == 200, response.text
        if "x-ccapi-lost-turn" in response.headers:
            self.lost.append(response.headers["x-ccapi-lost-turn"])
        assert response.json()["choices"][0]["message"]["content"] == question
        self.said.append(question)
        self.open = None

    async def check(self, client: httpx.AsyncClient) -> None:
        """All that was acknowledged is there; what was not is there whole, or not at all."""
        response = await client.get(f"/v1/conversations/{self.conversation_id}/items?limit=100")
        assert response.status_code == 200, response.text
        texts = [
            (item["role"], item["content"][0]["text"]) for item in reversed(response.json()["data"])
        ]
        answers = [text for role, text in texts if role == "assistant"]
        assert [text for role, text in texts if role == "user"] == [
            f"repeat: {answer}" for answer in answers
        ]
        if self.open is not None and answers and answers[-1] == self.open:
            self.said.append(self.open)
            self.lost = []  # then no turn was lost
            self.open = None
        assert answers == self.said[-len(answers) :]
        assert len(answers) == min(len(self.said), 50)


async def new_talk(client: httpx.AsyncClient) -> Talk:
    made = await client.post("/v1/conversations", json={"model": "haiku"})
    return Talk(made.json()["id"])


async def talk_until_killed(
    server: Server, talks: list[Talk], seconds: float, numbers: random.Random
) -> None:
    """Every client asks on until the gateway is gone; then one turn at most has no answer."""

    async def talk(one: Talk) -> None:
        with suppress(httpx.HTTPError):
            while True:
                await one.ask(server.client, f"{numbers.getrandbits(48):x}")

    async with trio.open_nursery() as nursery:
        for each in talks:
            nursery.start_soon(talk, each)
        await trio.sleep(seconds)
        server.process.send_signal(signal.SIGKILL)
        await server.ended()


async def test_no_acknowledged_turn_is_lost_and_none_runs_twice(tmp_path: Path) -> None:
    numbers, mark = random.Random(20261129), uuid4().hex
    env = json.dumps({"DEMO_CLI_SWITCHES": json.dumps({"pace_ms": 0}), MARK: mark})
    talks: list[Talk] = []
    lost = 0
    for life in range(LIVES):
        async with open_server(tmp_path, CLAUDE__ENV=env) as server:
            for each in talks:
                await each.check(server.client)
                # A turn that was cut off is said to be lost at most once, to the next one.
                was_open, each.lost = each.open is not None, []
                await each.ask(server.client, "after")
                await each.ask(server.client, "again")
                assert len(each.lost) <= was_open
                lost += len(each.lost)
            if life % LIVES_OF_A_CONVERSATION == 0:
                talks = [await new_talk(server.client) for _ in range(AT_ONCE)]
            await talk_until_killed(server, talks, numbers.random() * 0.25, numbers)
        await eventually(lambda: not marked(MARK, mark))
    gc.collect()
    assert lost
    database = sqlite3.connect(tmp_path / "state" / "ccapi.db")
    assert database.execute("pragma integrity_check").fetchone() == ("ok",)
    database.close()
    async with open_server(tmp_path, CLAUDE__ENV=env) as server:
        for each in talks:
            await each.check(server.client)
            body = {
                "model": "haiku",
                "messages": [{"role": "user", "content": script(report=True)}],
                "conversation_id": each.conversation_id,
            }
            told = (await server.client.post("/v1/chat/completions", json=body)).json()
            history = json.loads(told["choices"][0]["message"]["content"])["history"][:-1]
            texts = [message["content"] for message in history]
            flat = [t if isinstance(t, str) else "".join(b["text"] for b in t) for t in texts]
            assert flat == [text for said in each.said for text in (f"repeat: {said}", said)]
