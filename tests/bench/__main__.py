"""Prints the table of the gateway's speed and memory: each figure beside its bound.

The pairs of one row are measured in turn within one run: the machine's mood is in both.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from statistics import median
from time import perf_counter

import trio

from tests.bench import nodes, postgres, store
from tests.bench.fidelity import lineage_hit, replay, tool_results
from tests.bench.parts import (
    CHAT,
    DELTAS,
    MESSAGES,
    Client,
    World,
    conversation_of,
    cpu_seconds,
    open_world,
    private_bytes,
)
from tests.support.raw_cli import (  # fmt: skip
    GENERIC_FLAGS,
    RawCli,
    adoption,
    is_result,
    is_text_delta,
    open_raw_cli,
    user_frame,
)

Row = tuple[str, str, str, bool]


def ask(text: str, **fields: object) -> dict[str, object]:
    message = {"role": "user", "content": text}
    return {"model": "haiku", "stream": True, "messages": [message], **fields}


async def first_delta_raw(cli: RawCli, text: str) -> float:
    began = perf_counter()
    await cli.send(user_frame(text))
    await cli.until(is_text_delta)
    took = perf_counter() - began
    await cli.until(is_result)
    return took


async def first_delta_gateway(client: Client, text: str, **fields: object) -> float:
    began = perf_counter()
    answered = await client.post(ask(text, **fields), "cache-control: no-store")
    return answered.first_delta - began


@asynccontextmanager
async def raw_child(world: World) -> AsyncIterator[RawCli]:
    async with open_raw_cli(world.cli_env, world.folder, GENERIC_FLAGS) as cli:
        await cli.send(cli.control_frame("initialize", **adoption(model="haiku")))
        yield cli


async def warm_turn(world: World, rounds: int = 60) -> Row:
    client = await world.connect()
    answered = await client.post(ask("hello"), "cache-control: no-store")
    conversation = conversation_of(answered)
    through, straight = [], []
    async with raw_child(world) as cli:
        for _ in range(5):
            await first_delta_raw(cli, "warm up")
            await first_delta_gateway(client, "warm up", conversation_id=conversation)
        for number in range(rounds):
            text = f"turn {number}"
            straight.append(await first_delta_raw(cli, text))
            through.append(await first_delta_gateway(client, text, conversation_id=conversation))
    extra = (median(through) - median(straight)) * 1000
    figure = f"{median(through) * 1000:.1f} - {median(straight) * 1000:.1f} = {extra:.2f} ms"
    return "(a) first delta of a warm turn, minus a raw child's", figure, "<= 3 ms", extra <= 3


async def warm_message(world: World, rounds: int = 200) -> Row:
    """By the Messages API, beside the same turn by chat completions."""
    client = await world.connect()
    took: dict[str, list[float]] = {CHAT: [], MESSAGES: []}
    places: dict[str, str] = {}
    for number in range(rounds + 10):
        for path in (CHAT, MESSAGES) if number % 2 else (MESSAGES, CHAT):
            headers = ["cache-control: no-store"]
            if path in places:
                headers.append(f"x-conversation-id: {places[path]}")
            asked = ask(f"turn {number}", max_tokens=1000)
            began = perf_counter()
            answered = await client.post(asked, *headers, path=path)
            if number >= 10:
                took[path].append(answered.first_delta - began)
            places[path] = conversation_of(answered)
    chat, message = (median(took[path]) * 1000 for path in (CHAT, MESSAGES))
    figure = f"{message:.2f} - {chat:.2f} = {message - chat:.2f} ms"
    name = "(k) first delta of a warm turn by Messages, minus Chat's"
    return name, figure, "<= 0.3 ms", message - chat <= 0.3


async def new_conversation(world: World, rounds: int = 10) -> Row:
    client = await world.connect()
    pooled, cold = [], []
    for number in range(rounds):
        await trio.sleep(2.5)  # the pool has refilled, and the machine is quiet again
        pooled.append(await first_delta_gateway(client, f"new {number}"))
        await trio.sleep(2.5)
        began = perf_counter()
        async with raw_child(world) as cli:
            await cli.send(user_frame(f"new {number}"))
            await cli.until(is_text_delta)
            cold.append(perf_counter() - began)
    ratio = median(pooled) / median(cold)
    figure = f"{median(pooled) * 1000:.0f} / {median(cold) * 1000:.0f} ms = {ratio:.2f}"
    return "(b) first delta of a new conversation / cold spawn", figure, "<= 0.30", ratio <= 0.3


async def cpu_per_delta(world: World, deltas: int, pause: float, path: str = CHAT) -> Row:
    client = await world.connect()
    headers = ["cache-control: no-store"]
    answered = await client.post(ask("hello", max_tokens=9000), *headers, path=path)
    headers.append(f"x-conversation-id: {conversation_of(answered)}")
    text = f"stream {deltas} {pause}"
    before = cpu_seconds(world.gateway_pid)
    rounds = 3
    for _ in range(rounds):
        answered = await client.post(ask(text, max_tokens=9000), *headers, path=path)
        got = sum(map(answered.body.count, DELTAS))
        assert got >= deltas, (got, deltas)
    spent = (cpu_seconds(world.gateway_pid) - before) / (rounds * deltas) * 1e6
    pace = f"{pause:g} ms apart" if pause else "full speed"
    name = f"(c) gateway CPU per streamed delta of {path}, {pace}"
    if pause:  # each delta wakes a machine that sleeps: told, not bounded
        return name, f"{spent:.0f} µs", "-", True
    return name, f"{spent:.0f} µs", "<= 60 µs", spent <= 60


async def memory_per_session(world: World, sessions: int = 30) -> Row:
    client = await world.connect()
    for _ in range(3):  # what is allocated once
        await client.post(ask("hello"), "cache-control: no-store")
    before = private_bytes(world.gateway_pid)
    for number in range(sessions):
        await client.post(ask(f"session {number}"), "cache-control: no-store")
    await trio.sleep(0.5)
    each = (private_bytes(world.gateway_pid) - before) / sessions / 1024
    name = f"(d) gateway memory per live session (of {sessions})"
    return name, f"{each:.0f} KB", "<= 100 KB", each <= 100


async def startup(world: World) -> Row:
    return "(e) start to serving", f"{world.startup:.2f} s", "<= 1 s", world.startup <= 1


async def cache_hit(world: World, rounds: int = 300) -> Row:
    client = await world.connect()
    request = ask("what is cached?", stream=False)
    took = []
    for number in range(rounds):
        began = perf_counter()
        answered = await client.post(request)
        took.append(perf_counter() - began)
        assert number < 1 or b"x-ccapi-cache: hit" in answered.head.lower()
    p50 = median(took[1:]) * 1000
    return "(f) a cache hit over HTTP, p50", f"{p50:.2f} ms", "<= 1.5 ms", p50 <= 1.5


async def main(chosen: str) -> None:
    rows: list[Row] = []

    async def measure(key: str, make: Callable[[], Awaitable[Row]]) -> None:
        if not chosen or key in chosen:
            rows.append(await make())
            name, figure, bound, good = rows[-1]
            print(f"| {name} | {figure} | {bound} | {'yes' if good else 'NO'} |", flush=True)

    print("| what | measured | bound | holds |\n|---|---|---|---|", flush=True)
    async with open_world() as world:
        await measure("e", lambda: startup(world))
        await measure("f", lambda: cache_hit(world))
        await measure("a", lambda: warm_turn(world))
        await measure("k", lambda: warm_message(world))
        await measure("c", lambda: cpu_per_delta(world, 2000, 0))
        await measure("c", lambda: cpu_per_delta(world, 2000, 0, MESSAGES))
        await measure("c", lambda: cpu_per_delta(world, 500, 2))
        await measure("b", lambda: new_conversation(world))
        await measure("i", lambda: tool_results(world))
    if not chosen or set("gh") & set(chosen):
        async with open_world(CLAUDE_CODE__CONVERSATION__MAX_HISTORY_MESSAGES="1000") as world:
            await measure("g", lambda: lineage_hit(world))
            await measure("h", lambda: replay(world, 50, 200))
            await measure("h", lambda: replay(world, 500, 900))
    if not chosen or "d" in chosen:
        async with open_world(
            CLAUDE_CODE__CLAUDE__MAX_CONCURRENT_SESSIONS="40",
        ) as world:
            await measure("d", lambda: memory_per_session(world))


if __name__ == "__main__":
    if sys.argv[1:] == ["store"]:
        trio.run(store.main)
    elif sys.argv[1:] == ["postgres"]:
        trio.run(postgres.main)
    elif sys.argv[1:2] == ["nodes"]:
        trio.run(nodes.main, "".join(sys.argv[2:]))
    else:
        trio.run(main, "".join(sys.argv[1:]))
