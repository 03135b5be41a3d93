"""The speed of what clients bring with them: their history, and what their tools came to."""

from __future__ import annotations

import json
from statistics import median
from time import perf_counter

import trio

from tests.bench.parts import Client, World, conversation_of
from tests.support.raw_cli import (
    GENERIC_FLAGS,
    adoption,
    is_result,
    is_text_delta,
    open_raw_cli,
)
from tests.support.raw_tools import (
    SERVER,
    TOOL_ENVIRONMENT,
    TOOL_FLAGS,
    answer,
    calls_of,
    serve,
    texts,
    tool,
)

Row = tuple[str, str, str, bool]
Chat = list[dict[str, object]]

FRESH = "cache-control: no-store"
FUNCTION = {"name": "look", "description": "what look does", "parameters": {"type": "object"}}


def say(role: str, text: str) -> dict[str, object]:
    return {"role": role, "content": text}


def ask(messages: Chat, **fields: object) -> dict[str, object]:
    return {"model": "haiku", "stream": True, "messages": messages, **fields}


async def lineage_hit(world: World, rounds: int = 60) -> Row:
    """A turn by id and one by its whole history, in conversations of the same length."""
    client = await world.connect()
    answered = await client.post(ask([say("user", "by id")]), FRESH)
    conversation = conversation_of(answered)
    history = [say("user", "by history")]
    await client.post(ask(history), FRESH)
    history.append(say("assistant", "ok"))
    by_id, by_history = [], []
    for number in range(rounds):
        news = say("user", f"turn {number}")
        began = perf_counter()
        answered = await client.post(ask([news], conversation_id=conversation), FRESH)
        by_id.append(answered.first_delta - began)
        history.append(news)
        began = perf_counter()
        answered = await client.post(ask(history), FRESH)
        by_history.append(answered.first_delta - began)
        assert b"x-ccapi-lineage: hit" in answered.head.lower(), number
        history.append(say("assistant", "ok"))
    ratio = median(by_history) / median(by_id)
    figure = f"{median(by_history) * 1000:.1f} / {median(by_id) * 1000:.1f} ms = {ratio:.2f}"
    return "(g) first delta by lineage / by id", figure, "<= 1.1", ratio <= 1.1


async def replay(world: World, count: int, bound: float, rounds: int = 5) -> Row:
    """First delta of a request that brings `count` messages that are new here."""
    client = await world.connect()
    took = []
    for number in range(rounds):
        await trio.sleep(3)  # the pool has refilled, and the machine is quiet again
        history = [
            say("assistant" if index % 2 else "user", f"{number} said {index}")
            for index in range(count)
        ]
        began = perf_counter()
        answered = await client.post(ask([*history, say("user", "and now?")]), FRESH)
        took.append(answered.first_delta - began)
        assert b"x-ccapi-lineage: miss" in answered.head.lower()
        assert b"history-omitted" not in answered.head.lower()
    figure = median(took) * 1000
    name = f"(h) first delta behind {count} messages of unknown history"
    return name, f"{figure:.0f} ms", f"<= {bound:.0f} ms", figure <= bound


async def tool_results(world: World, rounds: int = 40) -> Row:
    """Results in, first delta out: through the gateway, and straight on a child."""
    client = await world.connect()
    tools: Chat = [{"type": "function", "function": FUNCTION}]
    through, straight = [], []
    answered = await client.post(ask([say("user", "hello")], tools=tools), FRESH)
    conversation = conversation_of(answered)
    async with open_raw_cli(
        world.cli_env | TOOL_ENVIRONMENT, world.folder, (*GENERIC_FLAGS, *TOOL_FLAGS)
    ) as cli:
        setup = {**adoption(model="haiku"), "sdkMcpServers": [SERVER]}
        await cli.send(cli.control_frame("initialize", **setup))
        for _ in range(rounds + 5):
            [call], _ = await calls_of(cli, "use look", [tool("look")])
            began = perf_counter()
            await cli.send(answer(call, texts("seen")))
            await serve(cli, is_text_delta)
            straight.append(perf_counter() - began)
            await serve(cli, is_result)
            through.append(await _through(client, conversation, tools))
    extra = (median(through[5:]) - median(straight[5:])) * 1000
    figure = (
        f"{median(through[5:]) * 1000:.1f} - {median(straight[5:]) * 1000:.1f} = {extra:.2f} ms"
    )
    return (
        "(i) tool results in, first delta out, minus a raw child's",
        figure,
        "<= 3 ms",
        extra <= 3,
    )


async def _through(client: Client, conversation: str, tools: Chat) -> float:
    named = {"conversation_id": conversation, "tools": tools}
    answered = await client.post(ask([say("user", "use look")], **named), FRESH)
    events = [line[6:] for line in answered.body.splitlines() if line.startswith(b'data: {"id')]
    [call_id] = [
        call["id"]
        for event in events
        for choice in json.loads(event)["choices"]
        for call in choice["delta"].get("tool_calls", [])
        if "id" in call
    ]
    result = {"role": "tool", "tool_call_id": call_id, "content": "seen"}
    began = perf_counter()
    answered = await client.post(ask([result], **named), FRESH)
    return answered.first_delta - began
