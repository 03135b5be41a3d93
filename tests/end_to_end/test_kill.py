"""kill -9 at any moment: acknowledged turns are there, each runs once, and the database opens.

Several gateways live beside each other, each in a folder of its own, and die again and again: while
they start, under load, and while they end.
"""

from __future__ import annotations

import gc
import json
import os
import random
import signal
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
import trio
from attrs import define, field

from tests.support.embedded import script
from tests.support.forked_gateways import Forked, Forks, Start, open_forks, serve_start
from tests.support.processes import eventually, marked

# httpx leaves the body of a request that breaks off to the collector.
pytestmark = pytest.mark.filterwarnings("ignore:Async generator 'httpx")

MARK = "CCAPI_TEST_KILL"
LIVES = int(os.environ.get("CCAPI_TEST_LIVES", "30"))
BESIDE_EACH_OTHER = 3
LIVES_OF_A_CONVERSATION = 8
AT_ONCE = 3
START_SECONDS = 0.3
"""About how long a gateway takes from its start until it listens, on a busy machine."""


@define
class Talk:
    """What a client knows of one conversation: the answers it has, and the question that it has no
    answer to."""

    conversation_id: str
    said: list[str] = field(factory=list)
    open: str | None = None
    lost: list[str] = field(factory=list)

    async def ask(self, client: httpx.AsyncClient, question: str) -> bool:
        """Adds to what is said only what was answered whole. False: the gateway takes no turns any
        more, and has not taken this one."""
        self.open = question
        response = await client.post(
            "/v1/chat/completions",
            json={
                "model": "haiku",
                "messages": [{"role": "user", "content": f"repeat: {question}"}],
                "conversation_id": self.conversation_id,
            },
        )
        if response.status_code == 503 and response.json()["error"]["code"] == "draining":
            self.open = None
            return False
        assert response.status_code == 200, response.text
        if "x-ccapi-lost-turn" in response.headers:
            self.lost.append(response.headers["x-ccapi-lost-turn"])
        assert response.json()["choices"][0]["message"]["content"] == question
        self.said.append(question)
        self.open = None
        return True

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

    async def go_on(self, client: httpx.AsyncClient) -> int:
        """Check, and ask twice. A turn that was cut off is said to be lost at most once, to the
        next one; returns how often it was said."""
        await self.check(client)
        was_open, self.lost = self.open is not None, []
        await self.ask(client, "after")
        await self.ask(client, "again")
        assert len(self.lost) <= was_open
        return len(self.lost)


async def new_talk(client: httpx.AsyncClient) -> Talk:
    made = await client.post("/v1/conversations", json={"model": "haiku"})
    return Talk(made.json()["id"])


@define
class KilledGateway:
    """A folder in which one gateway lives after the other, and what their clients know."""

    forks: Forks
    start: Start
    mark: str
    numbers: random.Random
    talks: list[Talk] = field(factory=list)
    deaths: Counter[str] = field(factory=Counter)
    lost: int = 0

    @asynccontextmanager
    async def life(self) -> AsyncIterator[Forked]:
        """A gateway, which is dead behind the block, its children too."""
        gateway = await self.forks.fork(self.start)
        try:
            yield gateway
        finally:
            gateway.send(signal.SIGKILL)
        await gateway.dead()
        await eventually(lambda: not marked(MARK, self.mark))

    async def go_on(self, client: httpx.AsyncClient) -> None:
        async def go_on(talk: Talk) -> None:
            self.lost += await talk.go_on(client)

        async with trio.open_nursery() as nursery:
            for talk in self.talks:
                nursery.start_soon(go_on, talk)

    async def die(self, number: int) -> None:
        """One life, and its end by a SIGKILL."""
        if number and not self.numbers.randrange(4):
            async with self.life():
                await trio.sleep(self.numbers.random() * START_SECONDS)
                self.deaths["while it starts"] += 1
            return
        async with self.life() as gateway, await gateway.listening() as client:
            await self.go_on(client)
            if number % LIVES_OF_A_CONVERSATION == 0:
                self.talks = [await new_talk(client) for _ in range(AT_ONCE)]
            async with trio.open_nursery() as nursery:
                for talk in self.talks:
                    nursery.start_soon(self.load, client, talk)
                await trio.sleep(self.numbers.random() * 0.15)
                if not self.numbers.randrange(3):
                    gateway.send(signal.SIGTERM)
                    await trio.sleep(self.numbers.random() * 0.1)
                    self.deaths["while it ends"] += 1
                else:
                    self.deaths["under load"] += 1
                gateway.send(signal.SIGKILL)

    async def load(self, client: httpx.AsyncClient, talk: Talk) -> None:
        """A client asks on until the gateway is gone; then one turn at most has no answer."""
        with suppress(httpx.HTTPError):
            while await talk.ask(client, f"{self.numbers.getrandbits(48):x}"):
                pass

    async def check_all(self, folder: Path) -> None:
        """The database is whole, and a child receives each conversation as it was said."""
        database = sqlite3.connect(folder / "state" / "ccapi.db")
        assert database.execute("pragma integrity_check").fetchone() == ("ok",)
        database.close()
        async with self.life() as gateway, await gateway.listening() as client:
            for each in self.talks:
                await each.check(client)
                body = {
                    "model": "haiku",
                    "messages": [{"role": "user", "content": script(report=True)}],
                    "conversation_id": each.conversation_id,
                }
                told = (await client.post("/v1/chat/completions", json=body)).json()
                history = json.loads(told["choices"][0]["message"]["content"])["history"][:-1]
                texts = [message["content"] for message in history]
                flat = [t if isinstance(t, str) else "".join(b["text"] for b in t) for t in texts]
                assert flat == [text for said in each.said for text in (f"repeat: {said}", said)]


async def live(folder: Path, seed: int, lives: int, found: list[KilledGateway]) -> None:
    folder.mkdir()  # noqa: ASYNC240
    mark = uuid4().hex
    env = json.dumps({"DEMO_CLI_SWITCHES": json.dumps({"pace_ms": 0}), MARK: mark})
    async with open_forks() as forks:
        killed = KilledGateway(
            forks, serve_start(folder, CLAUDE__ENV=env), mark, random.Random(seed)
        )
        for number in range(lives):
            await killed.die(number)
        await killed.check_all(folder)
    found.append(killed)


async def test_no_acknowledged_turn_is_lost_and_none_runs_twice(tmp_path: Path) -> None:
    found: list[KilledGateway] = []
    async with trio.open_nursery() as nursery:
        for number in range(BESIDE_EACH_OTHER):
            lives = LIVES // BESIDE_EACH_OTHER + (number < LIVES % BESIDE_EACH_OTHER)
            nursery.start_soon(live, tmp_path / f"gateway {number}", number, lives, found)
    gc.collect()
    deaths = sum((killed.deaths for killed in found), Counter())
    assert deaths.total() == LIVES
    assert len(deaths) == 3, deaths
    assert sum(killed.lost for killed in found)
