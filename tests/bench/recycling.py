"""Children as caches, measured: each figure beside raw children of the same CLI, in the same run.

``python -m tests.bench.recycling`` prints the whole table, ``… throughput`` or another name of a
part that one alone. What is compared alternates, so that the machine's mood is in both.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from statistics import median
from time import perf_counter
from typing import Any

import trio

from tests.bench.__main__ import Row, ask, first_delta_gateway, first_delta_raw, raw_child
from tests.bench.parts import Answered, Client, World, conversation_of, cpu_seconds, open_world
from tests.support.raw_cli import (
    GENERIC_FLAGS,
    adoption,
    is_result,
    open_raw_cli,
    user_frame,
)

CLIENTS = 8
PROMPTS = ("You are brief.", "You are kind.", "You are bold.")
AGENT_ROUNDS = 11
NO_STORE = "cache-control: no-store"


def source_of(answered: Answered) -> str:
    return answered.head.lower().partition(b"x-ccapi-child: ")[2].split(b"\r\n")[0].decode()


def new_one(number: int) -> dict[str, Any]:
    system = {"role": "system", "content": PROMPTS[number % len(PROMPTS)]}
    request: dict[str, Any] = ask(f"new {number}")
    return {**request, "messages": [system, *request["messages"]]}


async def share(count: int, one: Callable[[int], Awaitable[None]]) -> float:
    """Have `count` clients do things for as long as there are any; return things per second."""
    numbers = iter(range(count))
    began = perf_counter()

    async def work() -> None:
        for number in numbers:
            await one(number)

    async with trio.open_nursery() as nursery:
        for _ in range(CLIENTS):
            nursery.start_soon(work)
    return count / (perf_counter() - began)


async def throughput(world: World) -> list[Row]:
    clients = [await world.connect() for _ in range(CLIENTS)]
    free = list(clients)
    sources: Counter[str] = Counter()

    async def through(number: int) -> None:
        client = free.pop()
        sources[source_of(await client.post(new_one(number), NO_STORE))] += 1
        free.append(client)

    async def spawned(number: int) -> None:
        async with open_raw_cli(world.cli_env, world.folder, GENERIC_FLAGS) as cli:
            system = [PROMPTS[number % len(PROMPTS)]]
            await cli.send(
                cli.control_frame("initialize", **adoption(model="haiku", system=system))
            )
            await cli.send(user_frame(f"new {number}"))
            await cli.until(is_result)

    async with AsyncExitStack() as stack:
        warm = [await stack.enter_async_context(raw_child(world)) for _ in range(CLIENTS)]
        resting = list(warm)

        async def straight(number: int) -> None:
            cli = resting.pop()
            await cli.turn(f"new {number}")
            resting.append(cli)

        await share(2 * CLIENTS, straight)
        await share(4 * CLIENTS, through)
        sources.clear()
        gateway, spawns, raws = [], [], []
        before = cpu_seconds(world.gateway_pid)
        for _ in range(3):
            gateway.append(await share(96, through))
            raws.append(await share(96, straight))
        cpu = (cpu_seconds(world.gateway_pid) - before) / 288 * 1000
    spawns = [await share(8, spawned) for _ in range(2)]
    rate, spawn, raw = median(gateway), median(spawns), median(raws)
    figure = f"{rate:.1f} / {spawn:.1f} per s = {rate / spawn:.1f}"
    beside = f"{rate:.1f} / {raw:.1f} per s = {rate / raw:.2f}; {dict(sources)}"
    name = f"{CLIENTS} clients, every request a new conversation"
    return [
        (f"{name} / raw spawns", figure, ">= 8", rate / spawn >= 8),
        (f"{name} / as many raw warm children", beside, ">= 0.7", rate / raw >= 0.7),
        ("gateway CPU per such turn", f"{cpu:.2f} ms", "<= 2 ms", cpu <= 2),
    ]


async def many_by_id(world: World) -> list[Row]:
    """32 clients, each with a conversation of its own by id, on 8 children."""
    names: list[str] = []
    first = await world.connect()
    for number in range(32):
        names.append(conversation_of(await first.post(ask(f"mine {number}"), NO_STORE)))
    waits: list[float] = []
    sources: Counter[str] = Counter()

    async def one(name: str) -> None:
        client = await world.connect()
        for turn in range(4):
            began = perf_counter()
            answered = await client.post(ask(f"turn {turn}", conversation_id=name), NO_STORE)
            waits.append(perf_counter() - began)
            sources[source_of(answered)] += 1

    began = perf_counter()
    async with trio.open_nursery() as nursery:
        for name in names:
            nursery.start_soon(one, name)
    rate = len(waits) / (perf_counter() - began)
    figure = f"{median(waits):.2f} s ({rate:.1f} turns/s; {dict(sources)})"
    return [
        ("32 conversations by id on 8 children: median", figure, "<= 1.5 s", median(waits) <= 1.5)
    ]


async def new_conversation(world: World) -> list[Row]:
    client = await world.connect()
    through, straight = [], []
    async with raw_child(world) as cli:
        for number in range(12):
            await client.post(new_one(number), NO_STORE)
            await first_delta_raw(cli, "warm up")
        await trio.sleep(3)
        for number in range(60):
            straight.append(await first_delta_raw(cli, f"new {number}"))
            began = perf_counter()
            answered = await client.post(new_one(number), NO_STORE)
            through.append(answered.first_delta - began)
            await trio.sleep(0.02)
    extra = (median(through) - median(straight)) * 1000
    figure = f"{median(through) * 1000:.1f} - {median(straight) * 1000:.1f} = {extra:.1f} ms"
    name = "first delta of a new conversation, known prompt, minus a raw warm turn"
    return [(name, figure, "<= 10 ms", extra <= 10)]


async def warm_turn(world: World) -> list[Row]:
    client = await world.connect()
    conversation = conversation_of(await client.post(ask("hello"), NO_STORE))
    through, straight = [], []
    async with raw_child(world) as cli:
        for number in range(120):
            raw = await first_delta_raw(cli, f"turn {number}")
            ours = await first_delta_gateway(client, f"turn {number}", conversation_id=conversation)
            if number >= 20:
                straight.append(raw)
                through.append(ours)
    extra = (median(through) - median(straight)) * 1000
    tail = (sorted(through)[-2] - sorted(straight)[-2]) * 1000
    return [
        ("warm turn by id minus a raw one, median", f"{extra:.2f} ms", "<= 1.5 ms", extra <= 1.5),
        ("the same, p99", f"{tail:.2f} ms", "<= 5 ms", tail <= 5),
    ]


async def long_history(world: World) -> list[Row]:
    client: Client = await world.connect()
    rows: list[Row] = []
    for count, bound in [(10, 100), (50, 100), (500, 300)]:
        for tools in (False, True):
            took = []
            for number in range(6):
                said = [
                    {"role": ("user", "assistant")[n % 2], "content": f"{number} said {n}"}
                    for n in range(count)
                ]
                request: dict[str, Any] = ask("and now?")
                request["messages"] = [*said, *request["messages"]]
                if tools:
                    function = {"name": "look", "parameters": {"type": "object"}}
                    request["tools"] = [{"type": "function", "function": function}]
                began = perf_counter()
                answered = await client.post(request, NO_STORE)
                took.append(answered.first_delta - began)
                await trio.sleep(0.5)
            value = median(took) * 1000
            name = f"{count} unknown messages{' with tools' if tools else ''}: first delta"
            rows.append((name, f"{value:.0f} ms", f"<= {bound} ms", value <= bound))
    return rows


SPARE_BOOTS = 4.0
"""Seconds after which an agent's spare is there again, and has booted."""


async def agents(world: World) -> list[Row]:
    """A new agent's first delta: from a child that was started ahead, and from a new one. In a
    sandbox a request that names its workspace gets a new one."""
    client = await world.connect()
    took: dict[str, list[float]] = {"prewarmed": [], "new": []}
    for number in range(AGENT_ROUNDS + 1):
        for expected, fields in (("prewarmed", {}), ("new", {"workspace": f"w{number}"})):
            await trio.sleep(SPARE_BOOTS)
            began = perf_counter()
            request = {**ask(f"agent {number}", **fields), "model": "agent/haiku"}
            answered = await client.post(request, NO_STORE)
            assert source_of(answered) == expected, f"{expected}: {answered.head!r}"
            if number:
                took[expected].append(answered.first_delta - began)
    ahead, cold = median(took["prewarmed"]) * 1000, median(took["new"]) * 1000
    figure = f"{ahead:.0f} / {cold:.0f} ms = {ahead / cold:.2f} (n={AGENT_ROUNDS})"
    name = "first delta of a new agent, started ahead / cold"
    return [(name, figure, "<= 0.35", ahead / cold <= 0.35)]


PARTS: dict[str, tuple[Callable[[World], Awaitable[list[Row]]], dict[str, str]]] = {
    "new": (new_conversation, {}),
    "warm": (warm_turn, {}),
    "history": (long_history, {"CLAUDE_CODE__CONVERSATION__MAX_HISTORY_MESSAGES": "1000"}),
    "by_id": (many_by_id, {"CLAUDE_CODE__CLAUDE__MAX_CONCURRENT_SESSIONS": "8"}),
    "agents": (agents, {"CLAUDE_CODE__CLAUDE__USE_INTERACTIVE_SESSIONS": "false"}),
    "throughput": (throughput, {"CLAUDE_CODE__CLAUDE__MAX_CONCURRENT_SESSIONS": "10"}),
}


async def main(*chosen: str) -> None:
    print("| what | measured | bound | holds |\n|---|---|---|---|", flush=True)
    for name, (part, settings) in PARTS.items():
        if chosen and name not in chosen:
            continue
        async with open_world(**settings) as world:
            await trio.sleep(2)
            for what, figure, bound, good in await part(world):
                print(f"| {what} | {figure} | {bound} | {'yes' if good else 'NO'} |", flush=True)


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])
