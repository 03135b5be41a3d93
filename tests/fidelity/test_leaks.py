"""No conversation ever reads a word of another, whichever children serve them.

Clients with three keys talk at once through one gateway with eight children, and each conversation
has a secret in all that is said in it. The API checks every request that it gets: it holds the
secret of one conversation and no other, its messages are exactly that conversation's, and the
process that sends it has served no other key.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import re
from collections import Counter, defaultdict
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from attrs import define, field

from ccapi.schemas.settings.settings import AuthSettings, CacheSettings, ConversationSettings
from tests.support import chat
from tests.support.live import open_live_cli
from tests.support.logins import LoginName
from tests.support.messages_answers import Answer, Failure, Reply, Text, ToolUse, call, say
from tests.support.messages_stub import Request

from .history_model import expected
from .served import JSON, Spoken, assistant, function, spoken, system, tool, user

# httpx leaves the body of a request that breaks off to the collector.
pytestmark = pytest.mark.filterwarnings("ignore:Async generator 'http")

CONVERSATIONS = int(os.environ.get("CCAPI_TEST_CONVERSATIONS", "40"))
SEED = int(os.environ.get("CCAPI_TEST_SEED", "13"))
KEYS = ("key-of-the-first-client", "key-of-the-second-client", "key-of-the-third-client")
WORKERS = 2
"""Clients for each key."""

MODELS = ("claude-haiku-4-5", "claude-opus-4-8")
MARK = re.compile(r"mark-\d+-[0-9a-f]{8}")
PROMPT = re.compile(r"prompt-of-key-\d")
ANSWER = "StructuredOutput"
FORMAT = {
    "type": "json_schema",
    "json_schema": {
        "name": "answer",
        "strict": True,
        "schema": {
            "type": "object",
            "properties": {"secret": {"type": "string"}},
            "required": ["secret"],
            "additionalProperties": False,
        },
    },
}
LONG = 60
"""Pairs of messages: more than a child receives one by one."""

KINDS = (
    *("plain",) * 6,
    *("stream", "tools", "format", "choices", "hang", "fail", "stop", "regenerate", "edit") * 2,
    "length",
)


@define(eq=False)
class Talk:
    """One conversation, as its client has it. `due`: what the API should receive now. `is_cut`:
    the model has said, or will say, that its answer is too long."""

    number: int
    key: int
    mark: str
    prompt: str | None
    model: str
    by_id: bool
    messages: list[JSON] = field(factory=list)
    conversation_id: str | None = None
    due: Spoken = field(factory=list)
    is_cut: bool = False

    def say(self, order: str, chance: random.Random) -> JSON:
        """What the user says, and how the model should take it."""
        return user(f"{order}: {self.mark} {chance.random()}")


@define(eq=False)
class Api:
    """Answers as the test says, and notes what is wrong."""

    talks: dict[str, Talk] = field(factory=dict)
    errors: list[str] = field(factory=list)
    keys: dict[str, set[int]] = field(factory=lambda: defaultdict(set))
    conversations: dict[str, set[str]] = field(factory=lambda: defaultdict(set))

    def answer(self, request: Request) -> Answer:
        found = set(MARK.findall(json.dumps(request.body)))
        if len(found) != 1:
            self.errors.append(f"a request with the secrets {found}")
            return say("None of mine.")
        mark = found.pop()
        talk = self.talks[mark]
        process = request.headers["x-claude-code-session-id"]
        assert process in json.dumps(request.body["metadata"])
        self.keys[process].add(talk.key)
        self.conversations[process].add(mark)
        self.check(talk, request)
        return reply(mark, request)

    def check(self, talk: Talk, request: Request) -> None:
        told = spoken(request)
        if talk.is_cut:  # the CLI has the model go on, if it is not stopped in time
            told = told[: len(talk.due)]
        if told != talk.due:
            self.errors.append(f"{talk.mark}:\nwas told {told}\ninstead of {talk.due}")
        if request.model != talk.model:
            self.errors.append(f"{talk.mark}: {request.model} instead of {talk.model}")
        texts = [block["text"] for block in request.body.get("system") or []]
        prompts = set(PROMPT.findall(str(texts)))
        mine = {f"prompt-of-key-{talk.key}"} if "prompt-of" in (talk.prompt or "") else set()
        if prompts != mine or (talk.prompt is not None and talk.prompt not in texts):
            self.errors.append(f"{talk.mark}: the system prompt {texts} instead of {talk.prompt}")


CALLS = itertools.count()


def reply(mark: str, request: Request) -> Answer:
    order = request.last_user_text.partition(":")[0]
    match order:
        case "tools":
            arguments = {"secret": mark}
            names = request.tools
            return call(
                # The API never gives an id twice.
                *(ToolUse(name, arguments, f"toolu_{mark}_{next(CALLS)}") for name in names),
                text=f"Let me see, {mark}.",
            )
        case "format":
            return call(ToolUse(ANSWER, {"secret": mark}))
        case "hang":
            return say(f"For {mark} and on and on and on", chunks=8, hang_after=4)
        case "stop":
            assert request.body["stop_sequences"] == ["END"]
            text = Text(f"Until here, {mark}. ", 3)
            return Reply((text,), stop_reason="stop_sequence", stop_sequence="END")
        case "length":
            return say(f"As far as this, {mark}", chunks=3, stop_reason="max_tokens")
        case _ if order.startswith("fail"):
            return Failure(int(order.removeprefix("fail ")), f"not for {mark}")
    return say(f"Said to {mark}: {request.last_user_text[-12:]}", chunks=3)


@define(eq=False)
class Client:
    """One of the clients of a key."""

    http: httpx.AsyncClient
    api: Api
    chance: random.Random
    sources: Counter[str]

    async def converse(self, talk: Talk) -> None:
        self.api.talks[talk.mark] = talk
        start = self.chance.random()
        if start < 0.15 and not talk.by_id:
            self.bring(talk, LONG if start < 0.05 else 3)
        kinds = self.chance.choices(KINDS, k=self.chance.choice((1, 1, 1, 2, 3)))
        if talk.number % 8 == 0:
            talk.by_id = False
            kinds = ["plain", "plain", "edit"]
        for kind in kinds:
            if kind in ("regenerate", "edit") and (talk.by_id or not self.can_go_back(talk)):
                kind = "plain"
            if kind == "choices" and talk.by_id:
                kind = "stream"
            await getattr(self, f"_{kind}")(talk)

    def bring(self, talk: Talk, pairs: int) -> None:
        """A history that the gateway has never seen."""
        for number in range(pairs):
            talk.messages += [talk.say("plain", self.chance), assistant(f"{number} {talk.mark}")]

    @staticmethod
    def can_go_back(talk: Talk) -> bool:
        last = talk.messages[-2:]
        return [each["role"] for each in last] == ["user", "assistant"]

    def body(self, talk: Talk, new: list[JSON], **fields: Any) -> JSON:
        talk.due = expected([*talk.messages, *new])
        talk.is_cut = str(new[0]["content"]).startswith("length")
        head = [] if talk.prompt is None else [system(talk.prompt)]
        messages = [*head, *talk.messages, *new]
        if talk.conversation_id is not None:
            fields["conversation_id"] = talk.conversation_id
            messages = new
        return {"model": talk.model, "messages": messages, **fields}

    def note(self, response: httpx.Response, talk: Talk) -> None:
        source = response.headers.get("x-ccapi-child")
        if source is not None:
            self.sources[source] += 1
        if talk.by_id and response.status_code == 200:
            talk.conversation_id = response.headers["x-conversation-id"]

    async def ask(self, talk: Talk, new: list[JSON], **fields: Any) -> JSON:
        """Ask, and return the answer's message, which the conversation has from now on."""
        response = await self.http.post(chat.CHAT, json=self.body(talk, new, **fields))
        assert response.status_code == 200, response.text
        self.note(response, talk)
        message: JSON = response.json()["choices"][0]["message"]
        assert talk.mark in json.dumps(message)
        assert set(MARK.findall(response.text)) == {talk.mark}
        kept = {"role": "assistant", "content": message["content"]}
        if message.get("tool_calls"):
            kept["tool_calls"] = message["tool_calls"]
        talk.messages += [*new, kept]
        return message

    async def _plain(self, talk: Talk) -> None:
        await self.ask(talk, [talk.say("plain", self.chance)])

    async def _stream(self, talk: Talk) -> None:
        new = [talk.say("stream", self.chance)]
        body = self.body(talk, new, stream=True)
        async with self.http.stream("POST", chat.CHAT, json=body) as response:
            assert response.status_code == 200, await response.aread()
            self.note(response, talk)
            events = chat.events(await response.aread())
        assert events[-1] == "[DONE]", events[-1]
        pieces = [each["choices"][0]["delta"].get("content") or "" for each in events[:-1]]
        talk.messages += [*new, assistant("".join(pieces))]

    async def _tools(self, talk: Talk) -> None:
        names = self.chance.sample(("look", "find", "add"), self.chance.choice((1, 2)))
        own = self.chance.random() < 0.5
        fields: JSON = {"description": f"It is for {talk.mark}."} if own else {}
        tools = [function(name, **fields) for name in names]
        message = await self.ask(talk, [talk.say("tools", self.chance)], tools=tools)
        calls = [each["id"] for each in message["tool_calls"]]
        assert len(calls) == len(names)
        if self.chance.random() < 0.2:  # it never answers them
            del talk.messages[-2:]
            if talk.by_id:
                talk.by_id, talk.conversation_id = False, None
            return
        results = [tool(each, f"result for {talk.mark}") for each in calls]
        await self.ask(talk, results, tools=tools)

    async def _format(self, talk: Talk) -> None:
        await self.ask(talk, [talk.say("format", self.chance)], response_format=FORMAT)

    async def _choices(self, talk: Talk) -> None:
        await self.ask(talk, [talk.say("plain", self.chance)], n=2)

    async def _hang(self, talk: Talk) -> None:
        body = self.body(talk, [talk.say("hang", self.chance)], stream=True)
        async with self.http.stream("POST", chat.CHAT, json=body) as response:
            assert response.status_code == 200, await response.aread()
            self.note(response, talk)
            async for line in response.aiter_lines():
                if "For " in line:
                    break
        await trio.sleep(0.1)

    async def _fail(self, talk: Talk) -> None:
        status = self.chance.choice((400, 429, 500, 529))
        response = await self.http.post(
            chat.CHAT, json=self.body(talk, [talk.say(f"fail {status}", self.chance)])
        )
        assert response.status_code >= 400, response.text
        self.note(response, talk)

    async def _stop(self, talk: Talk) -> None:
        await self.ask(talk, [talk.say("stop", self.chance)], stop=["END"])

    async def _length(self, talk: Talk) -> None:
        await self.ask(talk, [talk.say("length", self.chance)], max_tokens=2000)

    async def _regenerate(self, talk: Talk) -> None:
        question = talk.messages[-2]
        fields: JSON = {}
        match str(question["content"]).partition(":")[0]:  # asked as it was asked before
            case "stop":
                fields = {"stop": ["END"]}
            case "format":
                fields = {"response_format": FORMAT}
            case "length":
                fields = {"max_tokens": 2000}
        del talk.messages[-2:]
        await self.ask(talk, [question], **fields)

    async def _edit(self, talk: Talk) -> None:
        del talk.messages[-2:]
        await self.ask(talk, [talk.say("plain", self.chance)])


def conversations(chance: random.Random, count: int) -> list[Talk]:
    """Some have a system prompt that others of the key have, some one that all keys have, some
    one of their own, some none."""
    made = []
    for number in range(count):
        key = number % len(KEYS)
        mark = f"mark-{number}-{chance.getrandbits(32):08x}"
        shared = f"You are prompt-of-key-{key}, number {chance.choice((1, 2))}."
        own = f"You are prompt-of-key-{key} for {mark}."
        prompt = chance.choice((*(shared,) * 14, *("You are brief.",) * 4, own, None))
        by_id = chance.random() < 0.4
        made.append(Talk(number, key, mark, prompt, chance.choice(MODELS), by_id))
    return made


@pytest.mark.parametrize(
    ("login", "count"), [("key", CONVERSATIONS), ("token", max(12, CONVERSATIONS // 10))]
)
async def test_no_request_holds_a_word_of_another_conversation(
    tmp_path: Path, login: LoginName, count: int
) -> None:
    chance, api, sources = random.Random(SEED), Api(), Counter[str]()
    talks = conversations(chance, count)
    claude = {"max_concurrent_sessions": 8, "prewarm": 1, "max_retries": 0}
    sections: dict[str, Any] = {
        "claude": claude,
        "auth": AuthSettings(api_keys=KEYS),
        "cache": CacheSettings(enabled=False),
        "conversation": ConversationSettings(max_history_messages=10_000),
    }
    async with open_live_cli(tmp_path, login, **sections) as live:
        assert live.stub is not None
        live.stub.answer = api.answer

        async def work(key: int, worker: int) -> None:
            headers = {"authorization": f"Bearer {KEYS[key]}"}
            async with httpx.AsyncClient(
                base_url=live.url, headers=headers, timeout=60, trust_env=False, verify=False
            ) as http:
                client = Client(http, api, random.Random(f"{SEED} {key} {worker}"), sources)
                while mine := next((each for each in talks if each.key == key), None):
                    talks.remove(mine)
                    await client.converse(mine)

        async with trio.open_nursery() as nursery:
            for key in range(len(KEYS)):
                for worker in range(WORKERS):
                    nursery.start_soon(partial(work, key, worker))

        assert api.errors == []
        assert [keys for keys in api.keys.values() if len(keys) > 1] == []
        most = max(len(served) for served in api.conversations.values())
        processes, requests = len(api.keys), len(live.stub.requests)
        print(f"{count} conversations, {requests} requests, {processes} processes", dict(sources))
        print(f"at most {most} conversations in one process")
        assert sources["recycled"] >= count // 8, "children are lent again"
        assert sources["prefix"] > 0, "and cut back to a common beginning"
