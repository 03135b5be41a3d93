"""Clients that ask any node, and note what each of their requests came to.

Knows: chat completions as a client sees them, and that a request which got no whole answer is asked
again with another mark. Refuses to know: nodes, and what the gateway keeps.
"""

from __future__ import annotations

import json
import random
import time
from typing import Any, Literal
from uuid import uuid4

import httpx
import trio
from attrs import define, field, frozen

Outcome = Literal["acknowledged", "refused", "unknown"]

WORDS = "one two three four five six seven eight nine ten eleven twelve"
PATIENCE = 15.0
PAUSE = 0.05
"""Between a request that failed and the next one."""


@define
class Attempt:
    """One request (or one with an idempotency key, however often it was sent). `mark` stands in its
    prompt, and in no other one's. `began`, `first` and `ended` are by trio's clock."""

    mark: str
    conversation: str | None
    began: float
    first: float = 0.0
    ended: float = 0.0
    outcome: Outcome = "unknown"
    status: int = 0
    code: str = ""
    answer: str = ""
    may_run: int = 1
    """How often it may run: once, and once more for each time that it was sent again after an
    answer that allows that."""
    answers: list[str] = field(factory=list)
    """What it was answered in the end, or on the way to that."""


@frozen
class Takeover:
    """A client went on with a conversation whose node was gone: `since` then (Unix seconds, as the
    engine's clock has them), it had the first of an answer after so many `seconds`."""

    conversation: str
    since: float
    seconds: float


@define(eq=False)
class Talk:
    """A conversation as its client knows it: the id once it has one. One request at a time."""

    name: str | None = None
    lock: trio.Lock = field(factory=trio.Lock)


@define(eq=False)
class Load:
    url: str
    dice: random.Random
    attempts: list[Attempt] = field(factory=list)
    talks: list[Talk] = field(factory=list)
    waited_for: dict[str, float] = field(factory=dict)
    """Conversations whose node is gone, and since when."""
    takeovers: list[Takeover] = field(factory=list)
    stopping: bool = False
    _client: httpx.AsyncClient = field(init=False)

    def __attrs_post_init__(self) -> None:
        # Each request on a connection of its own, so that it may reach any node.
        limits = httpx.Limits(max_keepalive_connections=0, max_connections=None)
        self._client = httpx.AsyncClient(timeout=PATIENCE, limits=limits, trust_env=False)

    async def run(self, *, clients: int, conversations: int) -> None:
        """Ask, until `stopping`."""
        self.talks += [Talk() for _ in range(conversations)]
        async with self._client, trio.open_nursery() as nursery:
            for _ in range(clients):
                nursery.start_soon(self._be_a_client)

    async def _be_a_client(self) -> None:
        while not self.stopping:
            free = [each for each in self.talks if not each.lock.locked()]
            talk = self.dice.choice(free)
            async with talk.lock:
                await self.ask_until_served(talk)
            await trio.sleep(self.dice.uniform(0, 0.1))

    async def ask_until_served(self, talk: Talk) -> None:
        while True:
            if (await self.ask(talk)).outcome == "acknowledged" or self.stopping:
                return
            await trio.sleep(PAUSE)

    async def ask(self, talk: Talk) -> Attempt:
        """One turn of a conversation."""
        mark = f"mark-{uuid4().hex}"
        attempt = Attempt(mark, talk.name, trio.current_time())
        self.attempts.append(attempt)
        words = " ".join(WORDS.split()[: self.dice.randint(2, 12)])
        body: dict[str, Any] = {
            "messages": [{"role": "user", "content": f"repeat: {mark} {words}"}]
        }
        if talk.name is not None:
            body["conversation_id"] = talk.name
        if self.dice.random() < 0.7:
            await self._stream(attempt, talk, {**body, "stream": True})
        else:
            await self._insist(attempt, talk, body)
        attempt.ended = trio.current_time()
        if attempt.outcome == "acknowledged":
            self._note_takeover(talk, attempt)
        return attempt

    def _note_takeover(self, talk: Talk, attempt: Attempt) -> None:
        since = self.waited_for.get(talk.name or "")
        if since is not None and attempt.began >= since:
            del self.waited_for[talk.name or ""]
            seconds = attempt.first - since
            began = time.time() - (trio.current_time() - since)
            self.takeovers.append(Takeover(talk.name or "", began, seconds))

    async def _stream(self, attempt: Attempt, talk: Talk, body: dict[str, Any]) -> None:
        finish = ""
        try:
            async with self._client.stream("POST", self._chat, json=body) as response:
                attempt.status = response.status_code
                if response.status_code != 200:
                    self._refuse(attempt, await response.aread())
                    return
                talk.name = response.headers.get("x-conversation-id", talk.name)
                attempt.conversation = talk.name
                async for line in response.aiter_lines():
                    if not line.startswith("data: "):
                        continue
                    attempt.first = attempt.first or trio.current_time()
                    if line == "data: [DONE]":
                        attempt.outcome = "acknowledged" if finish == "stop" else attempt.outcome
                        continue
                    event = json.loads(line[6:])
                    if "error" in event:
                        attempt.code = str(event["error"].get("code"))
                    for choice in event.get("choices", ()):
                        attempt.answer += choice["delta"].get("content") or ""
                        finish = choice.get("finish_reason") or finish
        except httpx.HTTPError as error:
            attempt.code = type(error).__name__

    async def _insist(self, attempt: Attempt, talk: Talk, body: dict[str, Any]) -> None:
        """The same request, with an idempotency key, until there is an answer that stays."""
        for _ in range(4):
            try:
                response = await self._client.post(
                    self._chat, json=body, headers={"idempotency-key": attempt.mark}
                )
            except httpx.HTTPError as error:
                attempt.code = type(error).__name__
                attempt.answers.append(attempt.code)
                await trio.sleep(PAUSE)
                continue
            attempt.status, attempt.first = response.status_code, trio.current_time()
            if response.status_code == 200:
                answered = response.json()
                talk.name = attempt.conversation = answered["conversation_id"]
                attempt.answer = answered["choices"][0]["message"]["content"]
                attempt.outcome = "acknowledged"
                return
            self._refuse(attempt, response.content)
            attempt.answers.append(f"{attempt.status} {attempt.code}")
            for_good = response.headers.get("x-should-retry") == "false"
            if for_good or attempt.status < 500 or self.stopping:
                return
            attempt.may_run += 1
            await trio.sleep(PAUSE)

    @property
    def _chat(self) -> str:
        return f"{self.url}/v1/chat/completions"

    def _refuse(self, attempt: Attempt, body: bytes) -> None:
        try:
            attempt.code = str(json.loads(body)["error"]["code"])
        except (ValueError, KeyError, TypeError):
            attempt.code = body[:80].decode("latin-1")
        attempt.outcome = "refused"
