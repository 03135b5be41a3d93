"""What PostgreSQL costs beside SQLite: appends and whole turns, in one run.

By hand: ``python -m tests.bench postgres``. The engine is a child of the run, with ``fsync``.
"""

from __future__ import annotations

import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from uuid import uuid4

import trio

from ccapi.schemas.log.messages import ExactMessage
from ccapi.schemas.log.records import Said
from ccapi.transport.store.interface import Lease, Store
from ccapi.transport.store.opening import open_sqlite_store
from ccapi.transport.store.postgres.store import open_postgres_store
from tests.bench.store import KEY, NEW, percentile, turn
from tests.support.postgres import engine

ROUNDS = 1000
SAID = [Said(ExactMessage("user", ("word " * 100,)))]

Work = Callable[[Store, Lease], Awaitable[object]]
Figures = tuple[float, float, float, float]


async def append(store: Store, lease: Lease) -> None:
    await store.append(lease, SAID)


async def whole(store: Store, lease: Lease) -> None:
    await turn(store, lease, "word " * 20, "word " * 100)


async def take(store: Store, lease: Lease) -> None:
    await store.acquire(lease.conversation_id, KEY)


async def measure(store: Store, work: Work, tasks: int) -> Figures:
    """p50 and p99 in milliseconds, how many a second, and microseconds of this process for each."""
    took: list[float] = []

    async def one() -> None:
        lease = await store.acquire(f"bench_{uuid4()}", KEY, NEW)
        for _ in range(ROUNDS // tasks):
            at = perf_counter()
            await work(store, lease)
            took.append(perf_counter() - at)

    began, spent = perf_counter(), process_time()
    async with trio.open_nursery() as nursery:
        for _ in range(tasks):
            nursery.start_soon(one)
    rate = len(took) / (perf_counter() - began)
    cpu = (process_time() - spent) / len(took) * 1e6
    return median(took) * 1000, percentile(took, 0.99), rate, cpu


WORKS: dict[str, Work] = {"append": append, "a turn's start and end": whole, "acquire": take}


async def main() -> None:
    print("| what | store | p50 / p99 | rate | CPU of the gateway |\n|---|---|---|---|---|")
    medians: dict[tuple[str, str], float] = {}
    with tempfile.TemporaryDirectory() as folder, engine(fsync=True, on_disk=True) as started:
        url = started.new_place()
        for kind in ("SQLite", "PostgreSQL", "PostgreSQL, in threads"):
            opened = (
                open_sqlite_store(Path(folder))
                if kind == "SQLite"
                else open_postgres_store(url, threads="threads" in kind)
            )
            async with opened as store:
                for name, work in WORKS.items():
                    for tasks in (1, 32):
                        p50, p99, rate, cpu = await measure(store, work, tasks)
                        if tasks == 1:
                            medians[kind, name] = p50
                        print(
                            f"| {name}, {tasks} at once | {kind} | {p50:.2f} / {p99:.2f} ms "
                            f"| {rate:,.0f}/s | {cpu:.0f} µs |",
                            flush=True,
                        )
    for name in WORKS:
        added = medians["PostgreSQL", name] - medians["SQLite", name]
        print(f"{name}: PostgreSQL adds {added:.2f} ms at the median (goal: <= 1 ms)")
