"""The engine over stores that fail, and over nodes that go, on a clock that jumps."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from attrs import evolve
from trio.testing import MockClock, wait_all_tasks_blocked

from ccapi.actors.batches.dialects import words_of
from ccapi.actors.batches.engine import BatchEngine, open_batches
from ccapi.actors.batches.road import Answered, Asked
from ccapi.actors.batches.slots import Slots
from ccapi.actors.keys.limits import KeyLimiter
from ccapi.actors.keys.registry import LOCAL, KeyRegistry
from ccapi.schemas.keys import NO_LIMITS
from ccapi.schemas.settings.settings import AuthSettings, BatchSettings, LimitSettings
from ccapi.transport.http.bodies import Bodies
from ccapi.transport.store.batch_interface import ENDED, StoredBatch
from ccapi.transport.store.interface import Store, StoreError, Unavailable, Unknown
from ccapi.transport.store.memory import MemoryCluster, open_memory_store

KEY = "key"


@asynccontextmanager
async def open_engine(
    store: Store,
    answer: Callable[[Asked], Any] | None = None,
    may_begin: Callable[[str], bool] = lambda _: True,
) -> AsyncIterator[BatchEngine]:
    async with open_batches(
        BatchSettings(),
        store,
        Bodies(1 << 20),
        words_of,
        may_begin,
        max_concurrent=2,
        max_line_bytes=1000,
        file_seconds=0,
    ) as engine:

        async def road(asked: Asked) -> Answered:
            if answer is not None:
                await answer(asked)
            return Answered(200, b"{}")

        engine.road = road
        yield engine


async def made(store: Store, count: int, name: str = "msgbatch_1") -> StoredBatch:
    """A batch whose requests came with it."""
    batch = StoredBatch(
        id=name,
        key_id=KEY,
        dialect="anthropic",
        endpoint="/v1/messages",
        created_at=time.time(),
        expires_at=time.time() + 86400,
    )
    lease = await store.batches.add(batch, max_open=9)
    await store.batches.add_requests(lease, [(f"r{n}", b"{}") for n in range(count)])
    await store.batches.change(lease, ["validating"], "in_progress")
    return batch


async def opened(engine: BatchEngine, count: int) -> StoredBatch:
    batch = await made(engine.store, count)
    await engine.open(await engine.store.batches.acquire(batch.id, KEY))
    return batch


async def ended(store: Store, batch: StoredBatch) -> StoredBatch:
    with trio.fail_after(10_000):
        while (found := await store.batches.get(batch.id, KEY)).state not in ENDED:
            await trio.sleep(1)
    return found


class Failing:
    """Some methods of a store of batches, as they are when the disk fails: each fails a few times,
    before it has done anything or after."""

    def __init__(self, store: Any, **failures: list[StoreError]) -> None:
        self._store = store
        self._failures = failures

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._store, name)
        failures = self._failures.get(name, [])

        async def call(*args: Any, **named: Any) -> Any:
            if failures:
                failure = failures.pop()
                if isinstance(failure, Unknown):
                    await method(*args, **named)
                raise failure
            return await method(*args, **named)

        return call


@pytest.mark.parametrize(
    ("method", "failure", "lost"),
    [
        ("claim", Unavailable("full"), 0),
        ("claim", Unknown("?"), 2),
        ("settle", Unavailable("full"), 0),
        ("settle", Unknown("?"), 0),
        ("change", Unavailable("full"), 0),
        ("change", Unknown("?"), 0),
        ("get", Unavailable("full"), 0),
        ("lost", Unavailable("full"), 0),
    ],
)
async def test_a_store_that_fails_is_waited_for(
    autojump_clock: MockClock, method: str, failure: StoreError, lost: int
) -> None:
    """Each request is answered once, or said to be lost: never twice, never not."""
    asked: Counter[str] = Counter()

    async def answer(each: Asked) -> None:
        asked[each.request_id] += 1
        await trio.sleep(1)

    async with open_memory_store() as store:
        async with open_engine(store, answer) as engine:
            batch = await made(store, 6)
            lease = await store.batches.acquire(batch.id, KEY)
            inner = store.batches
            failures = [type(failure)(*failure.args) for _ in range(2)]
            store.batches = Failing(inner, **{method: failures})  # type: ignore[assignment]
            await engine.open(lease)
            with trio.fail_after(10_000):
                while (found := await inner.get(batch.id, KEY)).state not in ENDED:
                    await trio.sleep(1)
            assert failures == []
    assert found.state == "completed"
    assert found.counts.ended == 6
    assert (found.counts.succeeded, found.counts.errored) == (6 - lost, lost)
    assert set(asked.values()) == {1}


async def test_another_node_goes_on_with_a_batch(autojump_clock: MockClock) -> None:
    cluster = MemoryCluster(lease_seconds=1e6)
    one, two = cluster.open_node("http://one"), cluster.open_node("http://two")
    asked: Counter[str] = Counter()

    async def answer(each: Asked) -> None:
        asked[each.request_id] += 1
        await trio.sleep(10)

    async with open_engine(two, answer) as second:
        async with open_engine(one, answer) as first:
            batch = await opened(first, 8)
            await trio.sleep(15)  # two have ended, two run
            assert not second.running
        await one.leave()
        found = await ended(two, batch)
    assert (found.counts.succeeded, found.counts.errored) == (6, 2)
    assert len(asked) == 8
    assert set(asked.values()) == {1}


async def test_what_runs_ends_where_another_node_is_asked_to_cancel(
    autojump_clock: MockClock,
) -> None:
    cluster = MemoryCluster(lease_seconds=1e6)
    one, two = cluster.open_node("http://one"), cluster.open_node("http://two")

    async def answer(each: Asked) -> None:
        await trio.sleep(1000)

    async with open_engine(two) as second, open_engine(one, answer) as first:
        batch = await opened(first, 8)
        await trio.sleep(15)  # two run
        await two.batches.cancel(batch.id, KEY)
        await second.stop(batch.id)
        began = trio.current_time()
        found = await ended(two, batch)
        assert trio.current_time() - began < 10
    assert (found.state, found.counts.canceled) == ("cancelled", 8)


async def test_a_node_that_begins_another_life_goes_on(autojump_clock: MockClock) -> None:
    cluster = MemoryCluster(lease_seconds=1e6)
    store = cluster.open_node("http://one")
    asked: Counter[str] = Counter()

    async def answer(each: Asked) -> None:
        asked[each.request_id] += 1
        await trio.sleep(10)

    async with open_engine(store, answer) as engine:
        batch = await opened(engine, 8)
        await trio.sleep(15)
        await store.leave()
        await store.renew()
        await store.batches.acquire(batch.id, KEY)  # as a node would that has seen it gone
        found = await ended(store, batch)
    assert (found.counts.succeeded, found.counts.errored) == (6, 2)
    assert set(asked.values()) == {1}


async def test_a_batch_of_another_life_that_has_no_input_goes(autojump_clock: MockClock) -> None:
    """Its client never had an answer."""
    cluster = MemoryCluster(lease_seconds=1e6)
    one, two = cluster.open_node("http://one"), cluster.open_node("http://two")
    batch = evolve(await made(one, 1), id="msgbatch_2")
    await one.batches.add(batch, max_open=9)
    await one.leave()
    async with open_engine(two):
        await trio.sleep(60)
    page = await two.batches.page(KEY, "anthropic", limit=9)
    assert [(each.id, each.state) for each in page.batches] == [("msgbatch_1", "completed")]


async def test_nothing_begins_without_room(autojump_clock: MockClock) -> None:
    room = False
    async with (
        open_memory_store() as store,
        open_engine(store, may_begin=lambda _: room) as engine,
    ):
        batch = await opened(engine, 3)
        await trio.sleep(100)
        assert (await store.batches.get(batch.id, KEY)).counts.ended == 0
        room = True
        assert (await ended(store, batch)).counts.succeeded == 3


# -- slots -----------------------------------------------------------------------------------------


async def test_keys_take_turns(autojump_clock: MockClock) -> None:
    slots, order = Slots(1, lambda _: True), list[str]()

    async def work(owner: str) -> None:
        slot = await slots.take(owner)
        order.append(owner)
        await trio.sleep(1)
        slot.close()

    async with trio.open_nursery() as nursery:
        for owner in "aaaabbc":
            nursery.start_soon(work, owner)
            await trio.sleep(0.01)
    assert {*order[:5]} == {"a", "b", "c"}, order
    assert (slots.running, slots.busy) == (0, 0)


async def test_one_that_gives_up_leaves_its_place(autojump_clock: MockClock) -> None:
    slots = Slots(1, lambda _: True)

    async def take() -> None:
        (await slots.take("b")).close()

    first = await slots.take("a")
    with trio.move_on_after(1):
        await slots.take("a")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(take)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
        first.close()
    assert (slots.running, slots.busy) == (0, 0)
    with trio.fail_after(1):
        await slots.take("c")


async def test_a_batch_leaves_a_key_half_of_its_turns() -> None:
    now = 0.0
    limits = LimitSettings(concurrent_turns=4, turns_per_minute=60).as_limits()
    keys = KeyRegistry(AuthSettings(), limits.over(NO_LIMITS))
    limiter = KeyLimiter(keys, None, lambda: now)  # type: ignore[arg-type]
    for running in range(4):
        assert limiter.has_spare(LOCAL) == (running < 2)
        await limiter.begin(LOCAL, f"turn_{running}")
    for running in range(4):
        limiter.end(LOCAL, f"turn_{running}")
    taken = 4
    while limiter.has_spare(LOCAL):
        await limiter.begin(LOCAL, "turn")
        limiter.end(LOCAL, "turn")
        taken += 1
    assert taken == 31, "half of the bucket is left"
    now = 2.0
    assert limiter.has_spare(LOCAL)
