"""What is counted to each key is what the API billed, to the token: over mixed turns of two keys,
most of them at once.

`CCAPI_TEST_USAGE_TURNS` is how many there are (1000 by hand, some minutes): each key has each kind
of turn at least once.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from ccapi.actors.keys.registry import owner_of
from ccapi.schemas.settings.settings import AuthSettings
from tests.support.live import Live, open_live_cli
from tests.support.messages_answers import Answer, Failure, Hang, ToolUse, Usage, call, say
from tests.support.messages_stub import Request

TURNS = int(os.environ.get("CCAPI_TEST_USAGE_TURNS", "16"))
AT_ONCE = 6
KEYS = ("sk-key-of-ann", "sk-key-of-bob")
MODEL = "claude-haiku-4-5"
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
TASK = {"description": "d", "prompt": "", "subagent_type": "general-purpose"}
CUT = "So far and no more. "


class Bill:
    """The model, and what the API billed for each key: prompt and completion tokens."""

    def __init__(self) -> None:
        self.calls = 0
        self.of: dict[str, list[int]] = defaultdict(lambda: [0, 0])

    def answer(self, request: Request) -> Answer:
        self.calls += 1
        number = self.calls
        said = str(request.body["messages"])
        found = re.findall(r"(\w+) for (sk-key-of-\w+)", said)
        assert found, f"a call that belongs to no key: {said[:500]}"
        kind, key = found[-1]
        if kind == "failing":
            return Failure(400, "No such thing.")
        if kind == "limited" and "one two" in said:
            return Hang()  # the CLI goes on beyond the limit, in the moment in which it is killed
        used = Usage(100 + number, 10 + number % 7, number % 5, number % 3)
        has_results = "tool_result" in said
        self.of[key][0] += sum(
            (used.input_tokens, used.cache_read_input_tokens, used.cache_creation_input_tokens)
        )
        if kind == "cut":
            self.of[key][1] += len(CUT) // 4  # by the count that stands for the API's own
            return say(CUT + "Never to be said.   ", chunks=2, usage=used, hang_after=1)
        self.of[key][1] += used.output_tokens
        if kind == "calling" and not has_results:
            return call(ToolUse(_look(request), {}), usage=used)
        if kind == "delegating" and not has_results:
            return call(ToolUse("Agent", {**TASK, "prompt": f"helping for {key}"}), usage=used)
        if kind == "limited":
            return say("one two", usage=used, stop_reason="max_tokens")
        return say(f"Done {number}.", usage=used)


def _look(request: Request) -> str:
    return next(name for name in request.tools if name.endswith("look"))


class Client:
    def __init__(self, client: httpx.AsyncClient, key: str) -> None:
        self.http, self.key = client, key

    async def chat(self, kind: str, number: int, **fields: Any) -> httpx.Response:
        text = f"turn {number} is {kind} for {self.key}"
        body = {"model": MODEL, "messages": [{"role": "user", "content": text}], **fields}
        return await self.http.post("/v1/chat/completions", json=body)

    async def plain(self, number: int) -> None:
        assert (await self.chat("plain", number)).status_code == 200
        again = await self.chat("plain", number)  # of the cache: it costs nothing
        assert again.headers["x-ccapi-cache"] == "hit"

    async def failing(self, number: int) -> None:
        assert (await self.chat("failing", number)).status_code == 400

    async def limited(self, number: int) -> None:
        answer = await self.chat("limited", number, max_tokens=3)
        assert answer.json()["choices"][0]["finish_reason"] == "length"

    async def calling(self, number: int) -> None:
        first = await self.chat("calling", number, tools=[TOOL])
        message = first.json()["choices"][0]["message"]
        text = f"turn {number} is calling for {self.key}"
        result = {"role": "tool", "tool_call_id": message["tool_calls"][0]["id"], "content": "x"}
        asked = [{"role": "user", "content": text}, message, result]
        body = {"model": MODEL, "messages": asked, "tools": [TOOL]}
        assert (await self.http.post("/v1/chat/completions", json=body)).status_code == 200

    async def deleted(self, number: int) -> None:
        body = {"model": MODEL, "input": f"turn {number} is plain for {self.key}", "store": False}
        answer = (await self.http.post("/v1/responses", json=body)).json()
        gone = await self.http.delete(f"/v1/conversations/{answer['conversation_id']}")
        assert gone.status_code == 200

    async def cut(self, number: int) -> None:
        text = f"turn {number} is cut for {self.key}"
        body = {"model": MODEL, "messages": [{"role": "user", "content": text}], "stream": True}
        with trio.CancelScope() as scope:  # cancelled as it reads, the client leaves nothing open
            async with self.http.stream("POST", "/v1/chat/completions", json=body) as answer:
                async for piece in answer.aiter_raw():
                    if b"So far" in piece:
                        scope.cancel()

    async def delegating(self, number: int) -> None:
        answer = await self.chat("delegating", number, model=f"agent/{MODEL}")
        assert answer.status_code == 200, answer.text


KINDS = ("plain", "calling", "deleted", "cut", "limited", "failing", "delegating", "plain")


@pytest.mark.parametrize("persist", [True, False], ids=["stored", "in memory"])
async def test_what_a_key_is_counted_is_what_the_api_billed(persist: bool, tmp_path: Path) -> None:
    bill, turns = Bill(), TURNS if persist else max(16, TURNS // 3)
    auth = AuthSettings(api_keys=KEYS, agent_keys=KEYS)
    storage = {"persist": persist}
    async with open_live_cli(tmp_path, auth=auth, storage=storage) as live:
        assert live.stub is not None
        live.stub.answer = bill.answer
        numbers = iter(range(turns))

        async def work() -> None:
            for number in numbers:
                key = KEYS[number // len(KINDS) % 2]
                async with httpx.AsyncClient(
                    base_url=live.url, headers={"x-api-key": key}, trust_env=False, timeout=60
                ) as client:
                    await getattr(Client(client, key), KINDS[number % len(KINDS)])(number)

        with trio.fail_after(60 + turns):
            async with trio.open_nursery() as nursery:
                for _ in range(AT_ONCE):
                    nursery.start_soon(work)
            assert await settled(live, bill) == {key: tuple(bill.of[key]) for key in KEYS}
    assert bill.calls >= turns


async def settled(live: Live, bill: Bill) -> dict[str, tuple[int, int]]:
    """What is counted, once no turn is under way and what children report late has come."""
    counted: dict[str, tuple[int, int]] = {}
    for _ in range(100):
        await trio.sleep(0.1)
        await live.gateway.limits.flush()
        for key in KEYS:
            used = [each.usage for each in await live.gateway.limits.store.usage(owner_of(key))]
            tokens = ((each.prompt_tokens, each.completion_tokens) for each in used)
            prompt, completion = map(sum, zip(*tokens, strict=True))
            counted[key] = prompt, completion
        if all(counted[key] == tuple(bill.of[key]) for key in KEYS):
            break
    return counted
