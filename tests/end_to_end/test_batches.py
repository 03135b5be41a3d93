"""Files and batches on a real port: the SDKs against the gateway, and what a batch outlives."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anthropic
import httpx
import openai
import pytest
import trio

from ccapi.schemas.settings.settings import BatchSettings
from tests.support.batches import FORM, a_form, jsonl, line
from tests.support.embedded import script
from tests.support.forked_gateways import open_forks, serve_start
from tests.support.live import Live, open_live_cli
from tests.support.logins import limit_headers
from tests.support.messages_answers import Failure

ENDED = ("completed", "failed", "expired", "cancelled")


@contextmanager
def openai_client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0) as client:
        yield client


def wait_for(show: Callable[[], Any], is_there: Callable[[Any], bool]) -> Any:
    until = time.monotonic() + 60
    while not is_there(found := show()):
        assert time.monotonic() < until, found
        time.sleep(0.05)
    return found


@pytest.fixture
async def live(tmp_path: Path) -> AsyncIterator[Live]:
    async with open_live_cli(tmp_path, batches=BatchSettings(max_concurrent=3)) as running:
        yield running


async def test_the_openai_sdk_runs_a_batch(live: Live) -> None:
    def talk() -> None:
        with openai_client(live.url) as client:
            lines = [line(f"r{n}", f"question {n}") for n in range(6)]
            file = client.files.create(file=("in.jsonl", jsonl(lines)), purpose="batch")
            assert client.files.retrieve(file.id).filename == "in.jsonl"
            batch = client.batches.create(
                input_file_id=file.id,
                endpoint="/v1/chat/completions",
                completion_window="24h",
                metadata={"job": "nightly"},
            )
            assert batch.status == "validating"
            ended = wait_for(lambda: client.batches.retrieve(batch.id), lambda b: b.status in ENDED)
            assert ended.status == "completed"
            assert ended.request_counts.completed == 6
            assert ended.metadata == {"job": "nightly"}
            assert [each.id for each in client.batches.list()] == [batch.id]
            content = client.files.content(ended.output_file_id).text
            results = {each["custom_id"]: each for each in map(json.loads, content.splitlines())}
            for n in range(6):
                answer = results[f"r{n}"]["response"]["body"]["choices"][0]["message"]["content"]
                assert answer == f"turn 1: question {n}", "each is a conversation of its own"
            assert {each.purpose for each in client.files.list()} == {"batch", "batch_output"}
            assert client.files.delete(file.id).deleted
            with pytest.raises(openai.NotFoundError):
                client.files.content(file.id)

    await trio.to_thread.run_sync(talk)
    assert live.stub is not None
    assert live.gateway.conversations() == [], "none of them is left"
    assert live.gateway.stats.snapshot()["turns"]["finished"] == 6
    usage = await live.gateway.limits.store.usage()
    await live.gateway.limits.flush()
    usage = await live.gateway.limits.store.usage()
    assert sum(each.turns for each in usage) == 6, "they are counted to the key"


@contextmanager
def anthropic_client(url: str) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=url, api_key="unused", max_retries=0) as client:
        yield client


async def test_the_anthropic_sdk_uploads_a_file_and_asks_about_it(live: Live) -> None:
    def run() -> None:
        with anthropic_client(live.url) as client:
            made = client.files.upload(file=("notes.txt", b"The sky is green.", "text/plain"))
            assert made.filename == "notes.txt"
            assert [each.id for each in client.files.list(limit=1)] == [made.id]
            assert client.files.download(made.id).read() == b"The sky is green."
            message = client.messages.create(
                model="sonnet",
                max_tokens=100,
                messages=[
                    {
                        "role": "user",
                        "content": [
                            {"type": "document", "source": {"type": "file", "file_id": made.id}},
                            {"type": "text", "text": "What colour?"},
                        ],
                    }
                ],
            )
            assert message.stop_reason == "end_turn"
            assert client.files.delete(made.id).type == "file_deleted"
            with pytest.raises(anthropic.NotFoundError):
                client.files.retrieve_metadata(made.id)

    await trio.to_thread.run_sync(run)


async def test_the_anthropic_sdk_runs_a_batch(live: Live) -> None:
    def talk() -> None:
        with anthropic_client(live.url) as client:
            batch = client.messages.batches.create(
                requests=[
                    {
                        "custom_id": f"r{n}",
                        "params": {
                            "model": "haiku",
                            "max_tokens": 100 if n else 0,
                            "messages": [{"role": "user", "content": f"question {n}"}],
                        },
                    }
                    for n in range(4)
                ]
            )
            assert batch.processing_status == "in_progress"
            ended = wait_for(
                lambda: client.messages.batches.retrieve(batch.id),
                lambda b: b.processing_status == "ended",
            )
            assert (ended.request_counts.succeeded, ended.request_counts.errored) == (3, 1)
            found = {
                each.custom_id: each.result for each in client.messages.batches.results(batch.id)
            }
            assert found["r0"].type == "errored"
            assert found["r0"].error.error.type == "invalid_request_error"
            for n in range(1, 4):
                result = found[f"r{n}"]
                assert result.type == "succeeded"
                [block] = result.message.content
                assert block.type == "text"
                assert block.text == f"turn 1: question {n}"
            assert [each.id for each in client.messages.batches.list()] == [batch.id]
            with pytest.raises(anthropic.BadRequestError):
                client.messages.batches.cancel(batch.id)
            assert client.messages.batches.delete(batch.id).id == batch.id
            with pytest.raises(anthropic.NotFoundError):
                client.messages.batches.retrieve(batch.id)

    await trio.to_thread.run_sync(talk)


async def test_a_batch_waits_until_the_account_may_go_on(tmp_path: Path) -> None:
    """Nothing of it fails, and it does not ask all the time."""
    batches = BatchSettings(max_concurrent=3)
    async with open_live_cli(tmp_path, login="token", batches=batches) as live:
        await _wait_for_the_limit(live)


async def _wait_for_the_limit(live: Live) -> None:
    assert live.stub is not None
    live.stub.queue += [Failure(429, headers=limit_headers("rejected", int(time.time()) + 4))] * 2
    began = time.monotonic()

    def talk() -> None:
        with openai_client(live.url) as client:
            lines = [line(f"r{n}", f"question {n}") for n in range(4)]
            file = client.files.create(file=("in.jsonl", jsonl(lines)), purpose="batch")
            batch = client.batches.create(
                input_file_id=file.id,
                endpoint="/v1/chat/completions",
                completion_window="24h",
            )
            ended = wait_for(lambda: client.batches.retrieve(batch.id), lambda b: b.status in ENDED)
            assert (ended.request_counts.completed, ended.error_file_id) == (4, None)

    await trio.to_thread.run_sync(talk)
    assert time.monotonic() - began > 2
    asked = [each.conversation[-1][1] for each in live.stub.requests]
    assert len(asked) <= 4 + 2 + 1


# -- over the end of a gateway ---------------------------------------------------------------------


async def begin_batch(client: httpx.AsyncClient, prompts: list[str]) -> str:
    lines = [line(f"r{n}", prompt) for n, prompt in enumerate(prompts)]
    made = await client.post("/v1/files", content=a_form(jsonl(lines)), headers=FORM)
    body = {
        "input_file_id": made.json()["id"],
        "endpoint": "/v1/chat/completions",
        "completion_window": "24h",
    }
    batch_id: str = (await client.post("/v1/batches", json=body)).json()["id"]
    return batch_id


async def show_batch(client: httpx.AsyncClient, batch_id: str) -> Any:
    return (await client.get(f"/v1/batches/{batch_id}")).json()


async def ended_batch(client: httpx.AsyncClient, batch_id: str) -> tuple[Any, Any, Any]:
    """The batch once it has ended, and the lines of its files by their custom ids."""
    with trio.fail_after(60):
        while (batch := await show_batch(client, batch_id))["status"] not in ENDED:
            await trio.sleep(0.05)
    lines = []
    for name in ("output_file_id", "error_file_id"):
        text = ""
        if batch[name] is not None:
            text = (await client.get(f"/v1/files/{batch[name]}/content")).text
        found = [json.loads(each) for each in text.splitlines()]
        lines.append({each["custom_id"]: each for each in found})
        assert len(lines[-1]) == len(found), "none is there twice"
    return batch, *lines


async def until_some(client: httpx.AsyncClient, batch_id: str, count: int) -> None:
    with trio.fail_after(60):
        while (await show_batch(client, batch_id))["request_counts"]["completed"] < count:
            await trio.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_a_batch_goes_on_in_the_next_life(tmp_path: Path, number: signal.Signals) -> None:
    """What ran at a SIGKILL is said to be lost, and not run again; a SIGTERM loses nothing."""
    start = serve_start(
        tmp_path,
        CLAUDE__ENV=json.dumps({"DEMO_CLI_SWITCHES": json.dumps({"pace_ms": 0})}),
        CLAUDE__MAX_CONCURRENT_SESSIONS="4",
        BATCHES__MAX_CONCURRENT="2",
    )
    prompts = [script(f"answer {n}", first_ms=150) for n in range(16)]
    async with open_forks() as forks:
        gateway = await forks.fork(start)
        async with await gateway.listening() as client:
            batch_id = await begin_batch(client, prompts)
            await until_some(client, batch_id, 3)
            gateway.send(number)
        await gateway.dead()
        gateway = await forks.fork(start)
        async with await gateway.listening() as client:
            batch, good, bad = await ended_batch(client, batch_id)
            gateway.send(signal.SIGTERM)
        await gateway.dead()
    assert batch["status"] == "completed"
    assert {*good, *bad} == {f"r{n}" for n in range(16)}
    if number == signal.SIGKILL:
        assert 0 < len(bad) <= 2, "what ran, and nothing else"
        assert {each["error"]["code"] for each in bad.values()} == {"turn_lost"}
    else:
        assert bad == {}
    assert batch["request_counts"]["completed"] == len(good)
