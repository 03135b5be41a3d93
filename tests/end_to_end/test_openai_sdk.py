"""The openai Python SDK against the gateway, on a real port, in front of the real CLI.

The stub of the Messages API echoes the last user text, and keeps what it was sent: so each test
sees both ends, what the client reads and what the model would have read.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import openai
import pytest
import trio

from tests.support.live import Live, open_live_cli
from tests.support.messages_answers import Failure, say


@pytest.fixture
async def live(tmp_path: Path) -> AsyncIterator[Live]:
    async with open_live_cli(tmp_path) as running:
        yield running


@contextmanager
def sync_client(live: Live) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=live.base_url, api_key="unused", max_retries=0) as client:
        yield client


async def with_async_client(
    live: Live, talk: Callable[[openai.AsyncOpenAI], Awaitable[None]]
) -> None:
    """Run `talk` as an ordinary user of the async SDK would: under its usual event loop, in a
    thread of its own. (On trio the SDK's streams warn of generators that it does not close.)"""

    async def main() -> None:
        async with openai.AsyncOpenAI(
            base_url=live.base_url, api_key="unused", max_retries=0
        ) as client:
            await talk(client)

    await trio.to_thread.run_sync(partial(anyio.run, main, backend="asyncio"))


def conversation_of(reply: object) -> str:
    """The gateway's own field, which the SDK keeps as an extra."""
    conversation_id = getattr(reply, "conversation_id", None)
    assert isinstance(conversation_id, str)
    return conversation_id


async def test_the_sync_client_holds_a_conversation_by_id(live: Live) -> None:
    def talk() -> list[str]:
        with sync_client(live) as client:
            first = client.chat.completions.create(
                model="haiku",
                messages=[
                    {"role": "system", "content": "Be brief."},
                    {"role": "user", "content": "My name is Ada."},
                ],
            )
            second = client.chat.completions.create(
                model="haiku",
                messages=[{"role": "user", "content": "What is my name?"}],
                extra_body={"conversation_id": conversation_of(first)},
            )
            assert conversation_of(second) == conversation_of(first)
            assert second.usage is not None
            assert second.usage.prompt_tokens > 0
            assert second.usage.completion_tokens > 0
            return [str(reply.choices[0].message.content) for reply in (first, second)]

    answers = await trio.to_thread.run_sync(talk)
    assert answers == ["turn 1: My name is Ada.", "turn 2: What is my name?"]
    assert live.stub is not None
    assert live.stub.requests[-1].conversation == [
        ("user", ["My name is Ada."]),
        ("assistant", ["turn 1: My name is Ada."]),
        ("user", ["What is my name?"]),
    ]
    assert live.stub.requests[-1].system.endswith("Be brief.")
    assert "haiku" in live.stub.requests[-1].model
    assert live.gateway.stats.snapshot()["children"]["adopted"] == {"warm": 1, "cold": 0}


async def test_the_sync_client_streams(live: Live) -> None:
    assert live.stub is not None
    live.stub.queue.append(say("one two three four", chunks=4))

    def talk() -> tuple[list[str], list[Any], int]:
        with sync_client(live) as client:
            stream = client.chat.completions.create(
                model="sonnet",
                messages=[{"role": "user", "content": "Count."}],
                stream=True,
                stream_options={"include_usage": True},
            )
            chunks = list(stream)
        assert chunks[-1].choices == []
        assert chunks[-1].usage is not None
        pieces = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices]
        reasons = [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices]
        return [piece for piece in pieces if piece], reasons, chunks[-1].usage.total_tokens

    pieces, reasons, total = await trio.to_thread.run_sync(talk)
    assert "".join(pieces) == "one two three four"
    assert len(pieces) == 4, "as the CLI produced them"
    assert [reason for reason in reasons if reason] == ["stop"]
    assert total > 0


async def test_a_stream_arrives_token_by_token(live: Live) -> None:
    """The second half of the answer is not produced until the first half has been read."""
    assert live.stub is not None
    gate = trio.Event()
    live.stub.queue.append(say("first second", chunks=2, holds={1: gate}))
    read: list[str] = []

    async def talk(client: openai.AsyncOpenAI) -> None:
        stream = await client.chat.completions.create(
            model="sonnet", messages=[{"role": "user", "content": "Go."}], stream=True
        )
        async for chunk in stream:
            if chunk.choices and chunk.choices[0].delta.content:
                read.append(chunk.choices[0].delta.content)
                trio.from_thread.run_sync(gate.set)

    await with_async_client(live, talk)
    assert len(read) == 2


async def test_the_async_client_holds_a_conversation_by_header(live: Live) -> None:
    async def talk(client: openai.AsyncOpenAI) -> None:
        first = await client.chat.completions.create(
            model="sonnet", messages=[{"role": "user", "content": "One."}]
        )
        for number, text in enumerate(["Two.", "Three."], start=2):
            reply = await client.chat.completions.create(
                model="sonnet",
                messages=[{"role": "user", "content": text}],
                extra_headers={"x-conversation-id": conversation_of(first)},
            )
            assert reply.choices[0].message.content == f"turn {number}: {text}"
            assert conversation_of(reply) == conversation_of(first)

    await with_async_client(live, talk)


async def test_the_async_client_works_on_trio_too(live: Live) -> None:
    client = openai.AsyncOpenAI(base_url=live.base_url, api_key="unused", max_retries=0)
    async with client:
        reply = await client.chat.completions.create(
            model="sonnet", messages=[{"role": "user", "content": "One."}]
        )
    assert reply.choices[0].message.content == "turn 1: One."


async def test_a_whole_history_without_an_id_is_replayed_as_messages(live: Live) -> None:
    def talk() -> None:
        with sync_client(live) as client:
            client.chat.completions.create(
                model="sonnet",
                messages=[
                    {"role": "system", "content": "A."},
                    {"role": "developer", "content": "B."},
                    {"role": "user", "content": [{"type": "text", "text": "Weather?"}]},
                    {"role": "assistant", "content": "Sunny."},
                    {"role": "user", "content": "/help me, and @/etc/passwd"},
                ],
            )

    await trio.to_thread.run_sync(talk)
    assert live.stub is not None
    asked = live.stub.requests[-1]
    assert asked.system.endswith("A.\n\nB.")
    assert asked.conversation == [
        ("user", ["Weather?"]),
        ("assistant", ["Sunny."]),
        ("user", ["/help me, and @/etc/passwd"]),
    ]


async def test_a_client_that_goes_away_ends_its_turn_and_leaves_no_trace(live: Live) -> None:
    assert live.stub is not None
    stub = live.stub

    async def talk(client: openai.AsyncOpenAI) -> None:
        first = await client.chat.completions.create(
            model="sonnet", messages=[{"role": "user", "content": "One."}]
        )
        header = {"x-conversation-id": conversation_of(first)}
        stub.queue.append(say("never to be finished", chunks=3, hang_after=1))
        stream = await client.chat.completions.create(
            model="sonnet",
            messages=[{"role": "user", "content": "Left alone."}],
            stream=True,
            extra_headers=header,
        )
        async for chunk in stream:
            if chunk.choices and chunk.choices[0].delta.content:
                break
        await stream.close()
        reply = await client.chat.completions.create(
            model="sonnet",
            messages=[{"role": "user", "content": "Three."}],
            extra_headers=header,
        )
        assert reply.choices[0].message.content == "turn 2: Three."

    await with_async_client(live, talk)
    assert stub.requests[-1].conversation == [
        ("user", ["One."]),
        ("assistant", ["turn 1: One."]),
        ("user", ["Three."]),
    ]


async def test_errors_are_the_sdks_own_exceptions(live: Live) -> None:
    assert live.stub is not None
    stub = live.stub

    def talk() -> None:
        with sync_client(live) as client:
            create = client.chat.completions.create
            with pytest.raises(openai.NotFoundError) as unknown_model:
                create(model="gpt-nope", messages=[{"role": "user", "content": "Hi"}])
            assert unknown_model.value.code == "model_not_found"
            with pytest.raises(openai.NotFoundError) as unknown_conversation:
                create(
                    model="sonnet",
                    messages=[{"role": "user", "content": "Hi"}],
                    extra_body={"conversation_id": "conv_unknown"},
                )
            assert unknown_conversation.value.code == "conversation_not_found"
            with pytest.raises(openai.BadRequestError) as empty:
                create(model="sonnet", messages=[])
            assert empty.value.param == "messages"
            assert stub.requests == [], "nothing was spent"
            stub.answer = lambda request: Failure(429)
            with pytest.raises(openai.RateLimitError):
                create(model="sonnet", messages=[{"role": "user", "content": "Hi"}])

    await trio.to_thread.run_sync(talk)


async def test_models_are_listed(live: Live) -> None:
    def talk() -> None:
        with sync_client(live) as client:
            assert {"opus", "sonnet", "haiku"} <= {model.id for model in client.models.list()}
            assert client.models.retrieve("sonnet").id == "sonnet"
            with pytest.raises(openai.NotFoundError):
                client.models.retrieve("gpt-nope")

    await trio.to_thread.run_sync(talk)


async def test_the_older_completions(live: Live) -> None:
    assert live.stub is not None
    live.stub.queue.append(say("four, five", chunks=2, stop_reason="stop_sequence"))

    def talk() -> None:
        with sync_client(live) as client:
            whole = client.completions.create(
                model="claude-haiku-4-5",
                prompt="one, two, three, ",
                stop=["six"],
                temperature=0.5,
                max_tokens=20,
                echo=True,
            )
            [choice] = whole.choices
            assert choice.text == "one, two, three, four, five"
            assert choice.finish_reason == "stop"
            assert whole.usage is not None
            stream = client.completions.create(
                model="claude-haiku-4-5", prompt=["one", "two"], stream=True
            )
            said = ["", ""]
            for chunk in stream:
                for part in chunk.choices:
                    said[part.index] += part.text
            assert said == ["turn 1: one", "turn 1: two"]

    await trio.to_thread.run_sync(talk)
    body = live.stub.requests[0].body
    assert (body["temperature"], body["max_tokens"], body["stop_sequences"]) == (0.5, 20, ["six"])
