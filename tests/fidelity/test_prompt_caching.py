"""Each request of a conversation begins with the bytes of the one before it, whichever children
serve the two: what the Messages API has cached of the one, it reads for the other.

Compared are the tools, the system prompt and the messages as they stand in the body, but for the
marks that say how far to cache; and each request has such a mark at its end.

With a subscription's login that cannot be so: the CLI puts a reminder of the date before what it is
asked first as a turn, and a child that receives the messages before has it further behind. How many
requests that concerns is counted; without the CLI's reminders they begin with the one before.
"""

from __future__ import annotations

import json
import os
import random
import re
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest
from attrs import define, field

from ccapi.schemas.settings.settings import CacheSettings, ConversationSettings
from tests.support import chat
from tests.support.live import open_live_cli
from tests.support.logins import LoginName
from tests.support.messages_answers import Answer, ToolUse, call, say
from tests.support.messages_stub import Request

from .served import JSON, assistant, function, system, tool, user

TURNS = int(os.environ.get("CCAPI_TEST_TURNS", "45"))
SEED = int(os.environ.get("CCAPI_TEST_SEED", "13"))
MODEL = "claude-haiku-4-5"
PROMPTS = ("You are brief.", "You are thorough.", "You are kind.")
TOOLS = [function("look"), function("find")]
MARK = re.compile(r"mark-\d+-")
LONG = 60
"""Pairs of messages: more than a child receives one by one."""


def answer(request: Request) -> Answer:
    text = request.last_user_text
    if text.startswith("tools"):
        mark = MARK.findall(text)[0]
        return call(*(ToolUse(name, {"at": mark}, f"toolu_{mark}{name}") for name in request.tools))
    return say(f"Said: {text}", chunks=2)


def without_marks(value: Any) -> Any:
    """The same without the marks of how far to cache; a text alone as a block, which is the same
    to the cache."""
    if isinstance(value, list):
        return [without_marks(each) for each in value]
    if isinstance(value, dict):
        kept = {key: each for key, each in value.items() if key != "cache_control"}
        if isinstance(kept.get("content"), str) and "role" in kept:
            kept["content"] = [{"type": "text", "text": kept["content"]}]
        return {key: without_marks(each) for key, each in kept.items()}
    return value


def beginning(body: JSON, *, reminders: bool = True) -> bytes:
    """The bytes that the API caches by, in its order, open at the end."""
    parts = [without_marks(body.get(name) or []) for name in ("tools", "system", "messages")]
    if not reminders:
        parts[-1] = without_reminders(parts[-1])
    return json.dumps(parts, ensure_ascii=False)[:-2].encode()


def without_reminders(messages: list[JSON]) -> list[JSON]:
    """The messages, their content in blocks, without what the CLI itself says in them."""
    return [
        {
            **message,
            "content": [
                block
                for block in message["content"]
                if not str(block.get("text")).startswith("<system-reminder>")
            ],
        }
        for message in messages
        if message["role"] != "system"
    ]


def is_marked(body: JSON) -> bool:
    """Whether the last message says that all up to it is to be cached."""
    content = body["messages"][-1]["content"]
    return isinstance(content, list) and any("cache_control" in block for block in content)


@define(eq=False)
class Talk:
    """One conversation, as its client has it, and the last request that it caused."""

    mark: str
    head: list[JSON]
    tools: list[JSON]
    by_id: bool
    messages: list[JSON] = field(factory=list)
    conversation_id: str | None = None
    last: tuple[bytes, bytes] | None = None
    said: int = 0

    def say(self, order: str = "plain") -> JSON:
        self.said += 1
        return user(f"{order} {self.mark} question {self.said}")


@define(eq=False)
class Book:
    """Of how many requests the beginning was the one before, by the child's source. `moved`: it was
    but for the CLI's own reminders."""

    kept: Counter[str] = field(factory=Counter)
    moved: Counter[str] = field(factory=Counter)
    lost: Counter[str] = field(factory=Counter)
    examples: list[str] = field(factory=list)
    unmarked: int = 0

    def enter(self, source: str, talk: Talk, body: JSON) -> None:
        self.unmarked += not is_marked(body)
        now, own = beginning(body), beginning(body, reminders=False)
        if talk.last is not None:
            before, own_before = talk.last
            if now.startswith(before):
                self.kept[source] += 1
            elif own.startswith(own_before):
                self.moved[source] += 1
            else:
                self.lost[source] += 1
                self.examples.append(_difference(source, own_before, own))
        talk.last = now, own

    @property
    def share(self) -> float:
        return self.kept.total() / self.all

    @property
    def all(self) -> int:
        return self.kept.total() + self.moved.total() + self.lost.total()


def _difference(source: str, before: bytes, now: bytes) -> str:
    pairs = enumerate(zip(now, before, strict=False))
    same = next((at for at, (one, other) in pairs if one != other), len(now))
    start = max(0, same - 60)
    return (
        f"{source}, at {same} of {len(before)}:\n  was {before[start:][:200]!r}\n"
        f"  is  {now[start:][:200]!r}"
    )


@pytest.mark.parametrize(("login", "turns"), [("key", TURNS), ("token", max(15, TURNS // 3))])
async def test_the_next_request_begins_with_the_one_before(
    tmp_path: Path, login: LoginName, turns: int
) -> None:
    chance, book, done = random.Random(SEED), Book(), 0
    sections: dict[str, Any] = {
        "claude": {"max_concurrent_sessions": 4, "prewarm": 1, "max_retries": 0},
        "cache": CacheSettings(enabled=False),
        "conversation": ConversationSettings(max_history_messages=10_000),
    }
    async with (
        open_live_cli(tmp_path, login, **sections) as live,
        httpx.AsyncClient(base_url=live.url, timeout=60, trust_env=False, verify=False) as http,
    ):
        assert live.stub is not None
        stub = live.stub
        stub.answer = answer

        async def ask(talk: Talk, new: list[JSON]) -> JSON:
            messages = [*talk.head, *talk.messages, *new]
            fields: JSON = {"tools": talk.tools} if talk.tools else {}
            if talk.conversation_id is not None:
                fields["conversation_id"] = talk.conversation_id
                messages = new
            count = len(stub.requests)
            body = {"model": MODEL, "messages": messages, **fields}
            response = await http.post(chat.CHAT, json=body)
            assert response.status_code == 200, response.text
            (request,) = stub.requests[count:]
            source = response.headers["x-ccapi-child"]
            in_body = not talk.tools and not talk.by_id and len(talk.messages) >= 2 * LONG
            book.enter(f"{source}, long" if in_body else source, talk, request.body)
            if talk.by_id:
                talk.conversation_id = response.headers["x-conversation-id"]
            message: JSON = response.json()["choices"][0]["message"]
            kept = {"role": "assistant", "content": message["content"]}
            if message.get("tool_calls"):
                kept["tool_calls"] = message["tool_calls"]
            talk.messages += [*new, kept]
            return message

        talks: list[Talk] = []
        for number in range(12):
            tools = TOOLS if number % 3 == 1 else []
            head = [system(chance.choice(PROMPTS))]
            talk = Talk(f"mark-{number}-", head, tools, by_id=number % 4 == 2)
            if number % 6 in (3, 4):  # comes with a history; longer than is replayed, where it may
                pairs = LONG if number % 6 == 3 else 3
                for each in range(pairs):
                    talk.messages += [talk.say(), assistant(f"Answer {each}")]
            talks.append(talk)
        while done < turns:
            talk = chance.choice(talks)
            if talk.tools and chance.random() < 0.5:
                talk.mark = f"{talk.mark.rstrip('-')}0-"  # ids of calls are new each time
                message = await ask(talk, [talk.say("tools")])
                done += 1
                results = [
                    tool(each["id"], "a result", **chance.choice(({}, {}, {"is_error": True})))
                    for each in message["tool_calls"]
                ]
                await ask(talk, results)
            else:
                await ask(talk, [talk.say()])
            done += 1
    print(f"{login}: {book.share:.1%} of {book.all} requests begin with the one before")
    print(f"kept {dict(book.kept)}, moved {dict(book.moved)}, lost {dict(book.lost)}")
    assert book.unmarked == 0
    assert book.lost == {}, book.examples
    if login == "key":
        assert book.moved == {}
