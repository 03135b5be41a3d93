"""Figures of those who join conversations: the first delta, what idle ones cost, and fan-out."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import trio

from tests.bench.__main__ import first_delta_raw, raw_child
from tests.bench.parts import World, cpu_seconds, first_line, open_program, open_world
from tests.bench.parts import private_bytes as memory_of
from tests.support.joined import Joined, new_conversation, open_joined


async def first_delta(joined: Joined, text: str) -> float:
    began = perf_counter()
    await joined.say("turn.create", input=text)
    await joined.until("text.delta")
    took = perf_counter() - began
    await joined.until("turn.finished")
    return took


async def warm_turn(world: World, rounds: int = 40) -> str:
    url = f"http://127.0.0.1:{world.port}"
    through, straight = [], []
    async with (
        open_joined(url, await new_conversation(url, model="haiku")) as joined,
        raw_child(world) as cli,
    ):
        for number in range(rounds + 5):
            straight.append(await first_delta_raw(cli, f"turn {number}"))
            through.append(await first_delta(joined, f"turn {number}"))
    a, b = median(through[5:]) * 1000, median(straight[5:]) * 1000
    return f"first delta of a warm turn: {a:.1f} - {b:.1f} = {a - b:.2f} ms"


def watchers(world: World, conversation: str, sockets: int, seconds: float) -> Any:
    path = f"/v1/conversations/{conversation}/events"
    argv = ["-m", "tests.bench.watchers", str(world.port), path, str(sockets), str(seconds)]
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(Path.cwd())}
    return open_program(sys.executable, *argv, env=env)


async def idle(world: World, sockets: int = 500) -> str:
    conversation = await new_conversation(f"http://127.0.0.1:{world.port}", model="haiku")
    async with watchers(world, conversation, 1, 60) as one:
        await first_line(one)
        before = memory_of(world.gateway_pid)
        async with watchers(world, conversation, sockets, 60) as process:
            await first_line(process)
            await trio.sleep(1)
            each = (memory_of(world.gateway_pid) - before) / sockets / 1024
            spent = cpu_seconds(world.gateway_pid)
            await trio.sleep(8)
            share = (cpu_seconds(world.gateway_pid) - spent) / 8 * 100
    return f"{sockets} idle sockets: {each:.1f} KB each, {share:.2f} % of a CPU"


async def fan_out(world: World, sockets: int = 100, deltas: int = 1000) -> str:
    url = f"http://127.0.0.1:{world.port}"
    conversation = await new_conversation(url, model="haiku")
    async with open_joined(url, conversation) as joined:
        await joined.turn("hello")
        async with watchers(world, conversation, sockets, 4) as process:
            await first_line(process)
            spent = cpu_seconds(world.gateway_pid)
            await joined.say("turn.create", input=f"stream {deltas} 0")
            await joined.until("turn.finished")
            count, seconds = (await first_line(process)).split()
            spent = cpu_seconds(world.gateway_pid) - spent
    rate = int(count) / float(seconds)
    return json.dumps(
        {"watchers": sockets, "frames": int(count), "seconds": round(float(seconds), 2),
         "frames_per_second": round(rate), "gateway_cpu_us_per_frame":
         round(spent / max(int(count), 1) * 1e6, 1)}
    )  # fmt: skip


async def main() -> None:
    async with open_world(CLAUDE_CODE__WEBSOCKET__MAX_CONNECTIONS="2000") as world:
        print(await warm_turn(world), flush=True)
        print(await fan_out(world), flush=True)
        print(await idle(world), flush=True)


if __name__ == "__main__":
    trio.run(main)
