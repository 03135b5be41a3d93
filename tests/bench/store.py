"""The store's speed and size: appends, opening, lists and search over 100,000 conversations.

By hand: ``python -m tests.bench store``. Each conversation has one turn of about 700 characters.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median
from time import perf_counter
from uuid import uuid4

import trio

from ccapi.schemas.log.messages import ExactMessage
from ccapi.schemas.log.records import Said, TurnEnd
from ccapi.schemas.turn import Setup, Usage
from ccapi.transport.store.interface import Lease, NewConversation, Store
from ccapi.transport.store.opening import open_sqlite_store

Row = tuple[str, str, str, bool]

KEY = "benchmark"
NEW = NewConversation(setup=Setup("sonnet", "You are of help."))
WORDS = [f"{first}{second}" for first in ("ba", "ke", "lo", "mi", "tu") for second in "bcdfghjklm"]
WORDS += [f"word{number}" for number in range(3000)]


def text(rng: random.Random, length: int) -> str:
    # Some words are in most turns, most are in few.
    return " ".join(
        WORDS[min(int(rng.paretovariate(0.6)) - 1, len(WORDS) - 1)] for _ in range(length)
    )


async def turn(store: Store, lease: Lease, asked: str, said: str) -> None:
    turn_id = str(uuid4())
    prompts = [Said(ExactMessage("user", (asked,)))]
    await store.begin_turn(
        lease, turn_id=turn_id, request_id=turn_id, model="sonnet", prompts=prompts
    )
    answer = Said(ExactMessage("assistant", (said,)))
    await store.end_turn(lease, TurnEnd(turn_id, "stop", Usage(100, 50)), [answer])


def percentile(took: list[float], part: float) -> float:
    return sorted(took)[min(len(took) - 1, int(len(took) * part))] * 1000


async def timed(work: Callable[[], Awaitable[object]], rounds: int) -> list[float]:
    took = []
    for _ in range(rounds):
        began = perf_counter()
        await work()
        took.append(perf_counter() - began)
    return took


async def append_alone(store: Store) -> Row:
    lease = await store.acquire("alone", KEY, NEW)
    said = [Said(ExactMessage("user", ("word " * 100,)))]
    took = await timed(lambda: store.append(lease, said), 2000)
    p50, p99 = median(took) * 1000, percentile(took, 0.99)
    return (
        "append and commit, alone: p50 / p99",
        f"{p50:.2f} / {p99:.2f} ms",
        "p50 <= 0.25 ms",
        p50 <= 0.25,
    )


async def append_together(store: Store, many: int = 32) -> Row:
    said = [Said(ExactMessage("user", ("word " * 100,)))]
    took: list[float] = []

    async def one(number: int) -> None:
        lease = await store.acquire(f"together_{number}", KEY, NEW)
        took.extend(await timed(lambda: store.append(lease, said), 200))

    began = perf_counter()
    async with trio.open_nursery() as nursery:
        for number in range(many):
            nursery.start_soon(one, number)
    rate = len(took) / (perf_counter() - began)
    p50, p99 = median(took) * 1000, percentile(took, 0.99)
    figure = f"{p50:.2f} / {p99:.2f} ms, {rate:,.0f}/s"
    return f"append and commit, {many} at once: p50 / p99", figure, "p99 <= 25 ms", p99 <= 25


async def whole_turn(store: Store) -> Row:
    lease = await store.acquire("turns", KEY, NEW)
    took = await timed(lambda: turn(store, lease, "word " * 20, "word " * 100), 1000)
    p50, p99 = median(took) * 1000, percentile(took, 0.99)
    return (
        "a turn's start and end: p50 / p99",
        f"{p50:.2f} / {p99:.2f} ms",
        "p50 <= 0.5 ms",
        p50 <= 0.5,
    )


async def listing(store: Store) -> Row:
    rng = random.Random(1)

    async def page() -> None:
        after = f"conv_{rng.randrange(1000, 99_000)}"
        found = await store.conversations(KEY, limit=100, after=after)
        assert len(found.conversations) == 100

    p99 = percentile(await timed(page, 300), 0.99)
    return "a page of 100 of 100,000 conversations, p99", f"{p99:.1f} ms", "<= 50 ms", p99 <= 50


async def searching(store: Store) -> Row:
    queries = ["bab", "word7", "word123 word5", "bab kec tud", "word2999", "w", "word", "nowhere"]
    worst, slowest = 0.0, ""
    for query in queries:
        took = await timed(lambda query=query: store.conversations(KEY, limit=20, q=query), 20)  # type: ignore[misc]
        if (p99 := percentile(took, 0.99)) > worst:
            worst, slowest = p99, query
    figure = f"{worst:.1f} ms ({slowest!r})"
    return "a search over 100,000 turns, the slowest of 8, p99", figure, "<= 100 ms", worst <= 100


async def reading(store: Store) -> Row:
    rng = random.Random(2)
    took = await timed(lambda: store.read(f"conv_{rng.randrange(100_000)}", KEY), 500)
    return (
        "a conversation's log is read, p50",
        f"{median(took) * 1000:.2f} ms",
        "<= 1 ms",
        median(took) <= 0.001,
    )


async def fill(store: Store, count: int) -> tuple[int, float]:
    """Makes conversations of one turn; returns what was said in bytes, and the seconds taken."""
    rng, said, began = random.Random(3), 0, perf_counter()

    async def some(numbers: range) -> None:
        nonlocal said
        for number in numbers:
            lease = await store.acquire(f"conv_{number}", KEY, NEW)
            asked, answer = text(rng, 20), text(rng, 100)
            said += len(asked) + len(answer)
            await turn(store, lease, asked, answer)

    async with trio.open_nursery() as nursery:
        for part in range(20):
            nursery.start_soon(some, range(part, count, 20))
    await store.conversations(KEY, q="index it all")
    return said, perf_counter() - began


@asynccontextmanager
async def opened(folder: Path) -> AsyncIterator[tuple[Store, float]]:
    began = perf_counter()
    async with open_sqlite_store(folder) as store:
        await store.conversations(KEY, limit=1)
        yield store, perf_counter() - began


async def main(count: int = 100_000) -> None:
    def show(row: Row) -> None:
        name, figure, bound, good = row
        print(f"| {name} | {figure} | {bound} | {'yes' if good else 'NO'} |", flush=True)

    print("| what | measured | bound | holds |\n|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as name:
        async with open_sqlite_store(Path(name)) as store:
            show(await append_alone(store))
            show(await append_together(store))
            show(await whole_turn(store))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        async with open_sqlite_store(folder) as store:
            said, seconds = await fill(store, count)
        show(
            (f"{count:,} conversations with a turn each are written", f"{seconds:.0f} s", "-", True)
        )
        size = (folder / "ccapi.db").stat().st_size
        figure = f"{size / count:,.0f} bytes, of which said {said / count:,.0f}"
        show(("the database, for each turn and conversation", figure, "-", True))
        async with opened(folder) as (again, took):
            show(("open, and the first page", f"{took * 1000:.0f} ms", "<= 2000 ms", took <= 2))
            show(await listing(again))
            show(await searching(again))
            show(await reading(again))
            show(await append_alone(again))
            show(await whole_turn(again))
