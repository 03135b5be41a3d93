"""Files and batches on a real port: the SDKs against the gateway, and what a batch outlives."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai
import pytest
import trio

from ccapi.schemas.settings.settings import BatchSettings
from tests.support.batches import jsonl, line
from tests.support.live import Live, open_live_cli

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
