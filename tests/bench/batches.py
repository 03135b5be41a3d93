"""A batch of 1,000 one-turn requests beside the rate of recycled children, in the same run.

``python -m tests.bench.batches``. Both have as many turns under way at once, on the same gateway;
``… tests.bench.batches 200`` has fewer requests.
"""

from __future__ import annotations

import json
import sys
from statistics import median
from time import perf_counter
from typing import Any

import httpx
import trio

from tests.bench.parts import World, cpu_seconds, open_world
from tests.bench.recycling import CLIENTS, NO_STORE, new_one, share

SETTINGS = {
    "CLAUDE_CODE__CLAUDE__MAX_CONCURRENT_SESSIONS": "10",
    "CLAUDE_CODE__BATCHES__MAX_CONCURRENT": str(CLIENTS),
}


async def run_batch(world: World, client: httpx.AsyncClient, count: int) -> tuple[float, float]:
    """Requests per second, and the gateway's CPU in milliseconds for each."""
    lines = [
        json.dumps(
            {
                "custom_id": f"r{number}",
                "method": "POST",
                "url": "/v1/chat/completions",
                "body": {k: v for k, v in new_one(number).items() if not k.startswith("stream")},
            }
        )
        for number in range(count)
    ]
    files = {"file": ("in.jsonl", "\n".join(lines).encode())}
    made = await client.post("/v1/files", data={"purpose": "batch"}, files=files)
    asked: dict[str, Any] = {
        "input_file_id": made.json()["id"],
        "endpoint": "/v1/chat/completions",
        "completion_window": "24h",
    }
    began, before = perf_counter(), cpu_seconds(world.gateway_pid)
    batch = (await client.post("/v1/batches", json=asked)).json()
    while batch["status"] not in ("completed", "failed"):
        await trio.sleep(0.05)
        batch = (await client.get(f"/v1/batches/{batch['id']}")).json()
    took = perf_counter() - began
    assert batch["request_counts"]["completed"] == count, batch
    return count / took, (cpu_seconds(world.gateway_pid) - before) / count * 1000


async def recycled(world: World, count: int) -> tuple[float, float]:
    """The same of as many requests of clients."""
    free = [await world.connect() for _ in range(CLIENTS)]

    async def through(number: int) -> None:
        client = free.pop()
        await client.post(new_one(number), NO_STORE)
        free.append(client)

    before = cpu_seconds(world.gateway_pid)
    rate = await share(count, through)
    return rate, (cpu_seconds(world.gateway_pid) - before) / count * 1000


async def main(*total: str) -> None:
    count = int(total[0] if total else 1000)
    async with (
        open_world(**SETTINGS) as world,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{world.port}", timeout=60) as client,
    ):
        await trio.sleep(2)
        await recycled(world, 4 * CLIENTS)
        await run_batch(world, client, 2 * CLIENTS)
        batches, beside = [], []
        for _ in range(2):
            beside.append(await recycled(world, count // 4))
            batches.append(await run_batch(world, client, count // 2))
            beside.append(await recycled(world, count // 4))
    rate, cpu = (median(each[at] for each in batches) for at in range(2))
    other, other_cpu = (median(each[at] for each in beside) for at in range(2))
    print(f"requests per second of a batch / of clients: {rate:.1f} / {other:.1f} = ", end="")
    print(f"{rate / other:.2f} (>= 0.9: {'yes' if rate / other >= 0.9 else 'NO'})")
    print(f"gateway CPU for each: {cpu:.2f} / {other_cpu:.2f} ms")
    print(f"all: {[round(each[0]) for each in batches]} / {[round(each[0]) for each in beside]}")


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])
