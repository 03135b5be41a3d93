"""What a key may use: turns at once and per minute, tokens and dollars in windows; and how it is
counted and written."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import pytest
import trio
from attrs import define

from ccapi.actors.keys.limits import (
    DOUBTFUL_SECONDS,
    FRESH_SECONDS,
    KeyLimiter,
    duration_of,
    open_limits,
)
from ccapi.actors.keys.registry import LOCAL, KeyRegistry
from ccapi.schemas.errors import LimitReached, Overloaded
from ccapi.schemas.keys import NO_LIMITS, KeyLimits
from ccapi.schemas.settings.settings import AuthSettings
from ccapi.schemas.turn import Usage
from ccapi.transport.store.interface import Spent, Standing, Store, Unavailable, Unknown
from ccapi.transport.store.memory import MemoryCluster, open_memory_store


@define
class Clock:
    now: float

    def __call__(self) -> float:
        return self.now


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


@pytest.fixture
def clock() -> Clock:
    return Clock(at("2026-01-31T09:20"))


@pytest.fixture
async def store(clock: Clock) -> AsyncIterator[Store]:
    async with open_memory_store(clock) as opened:
        yield opened


def limiter(store: Store, clock: Clock, **limits: Any) -> KeyLimiter:
    keys = KeyRegistry(AuthSettings(), KeyLimits(**limits).over(NO_LIMITS))
    return KeyLimiter(keys, store, clock)


def refused(limits: KeyLimiter) -> LimitReached:
    with pytest.raises(LimitReached) as caught:
        limits.check(LOCAL)
    assert caught.value.status == 429
    assert caught.value.code == "key_limit_reached"
    return caught.value


async def test_turns_at_once(store: Store, clock: Clock) -> None:
    limits = limiter(store, clock, concurrent_turns=2)
    for name in ("one", "two"):
        await limits.begin(LOCAL, name)
    assert refused(limits).limit == "concurrent_turns"
    limits.end(LOCAL, "one")
    limits.check(LOCAL)


async def test_turns_per_minute_come_back_one_by_one(store: Store, clock: Clock) -> None:
    limits = limiter(store, clock, turns_per_minute=6)
    for left in range(5, -1, -1):
        await limits.begin(LOCAL, None)
        headers = limits.headers(LOCAL)
        assert headers["x-ratelimit-limit-requests"] == "6"
        assert headers["x-ratelimit-remaining-requests"] == str(left)
    assert headers["x-ratelimit-reset-requests"] == "1m0s"
    error = refused(limits)
    assert error.limit == "turns_per_minute"
    assert error.retry_after == pytest.approx(10)
    assert error.headers()["retry-after"] == "10"
    clock.now += 10.001
    await limits.begin(LOCAL, None)
    refused(limits)


@pytest.mark.parametrize(
    ("window", "until"),
    [
        ("5h", "2026-01-31T14:00"),
        ("day", "2026-02-01T00:00"),
        ("week", "2026-02-02T00:00"),
        ("month", "2026-02-01T00:00"),
    ],
)
@pytest.mark.parametrize("kind", ["tokens", "usd"])
async def test_a_window(kind: str, window: str, until: str, store: Store, clock: Clock) -> None:
    name = f"{kind}_per_{window}"
    limits = limiter(store, clock, **{name: 100})
    await limits.load(LOCAL)
    limits.spend(LOCAL, "sonnet", Usage(60, 39, cost_usd=99))
    limits.check(LOCAL)  # the last turn may pass it
    limits.spend(LOCAL, "opus", Usage(0, 1, cost_usd=1))
    error = refused(limits)
    assert error.limit == name
    assert error.retry_after == pytest.approx(at(until) - clock.now)
    assert error.body()["error"]["resets_at"] == at(until)
    assert f"resets at {until.replace('T', ' ')} UTC" in error.message
    assert error.headers()["x-should-retry"] == "false"  # an SDK should not wait so long
    if kind == "tokens":
        headers = limits.headers(LOCAL)
        assert headers["x-ratelimit-limit-tokens"] == "100"
        assert headers["x-ratelimit-remaining-tokens"] == "0"
    clock.now = at(until) - 1
    refused(limits)
    clock.now = at(until)
    limits.check(LOCAL)


async def test_what_was_used_before_the_gateway_began_counts(store: Store, clock: Clock) -> None:
    await store.count([Spent(LOCAL, "2026-01-31T00", "opus", 1, Usage(90, 10))])
    limits = limiter(store, clock, tokens_per_day=100, tokens_per_5h=100)
    await limits.load(LOCAL)
    assert refused(limits).limit == "tokens_per_day"


async def test_without_its_numbers_no_key_with_such_limits_may_begin(
    store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def spent(*_: object) -> None:
        raise Unavailable("The disk is gone.")

    monkeypatch.setattr(store, "spent", spent)
    with pytest.raises(Overloaded, match="cannot be read"):
        await limiter(store, clock, usd_per_day=1).load(LOCAL)
    await limiter(store, clock, turns_per_minute=1).load(LOCAL)


async def test_what_the_store_does_not_take_is_written_later(
    store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = KeyRegistry(AuthSettings())
    async with open_limits(keys, store, clock) as limits:
        with monkeypatch.context() as patch:

            async def count(*_: object) -> None:
                raise Unavailable("The disk is full.")

            patch.setattr(store, "count", count)
            limits.spend(LOCAL, "opus", Usage(1, 2, cost_usd=0.5), 1)
            with pytest.raises(Unavailable):
                await limits.flush()
            limits.spend(LOCAL, "opus", Usage(10, 20))
        assert await store.usage() == ()
    (used,) = await store.usage()  # the end of the gateway writes it
    assert (used.turns, used.usage) == (1, Usage(11, 22, cost_usd=0.5))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (0.0165, "17ms"), (1.5, "1.5s"), (60, "1m0s"), (360, "6m0s"), (3723, "1h2m3s")],
)
def test_durations_are_written_as_openai_does(seconds: float, text: str) -> None:
    assert duration_of(seconds) == text


async def test_what_is_used_within_an_hour_is_in_every_window_at_once(
    store: Store, clock: Clock
) -> None:
    limits = limiter(store, clock, tokens_per_day=100, usd_per_week=9, tokens_per_month=101)
    await limits.load(LOCAL)
    for _ in range(5):
        limits.check(LOCAL)  # sums the windows; what comes now is added to them
        limits.note(LOCAL, Usage(prompt_tokens=15, completion_tokens=5, cost_usd=1.0))
    assert refused(limits).limit == "tokens_per_day"
    clock.now = at("2026-01-31T10:00")  # summed anew
    assert refused(limits).limit == "tokens_per_day"
    clock.now = at("2026-02-01T00:00")  # another day and month, in the same week
    for _ in range(4):
        limits.check(LOCAL)
        limits.note(LOCAL, Usage(prompt_tokens=1, cost_usd=1.0))
    assert refused(limits).limit == "usd_per_week"


# -- several nodes ---------------------------------------------------------------------------------


@define
class Nodes:
    """The limits of one key as two nodes have them, on one store."""

    cluster: MemoryCluster
    clock: Clock
    keys: KeyRegistry

    @asynccontextmanager
    async def open(self) -> AsyncIterator[tuple[KeyLimiter, Store]]:
        store = self.cluster.open_node("http://node")
        async with open_limits(self.keys, store, self.clock, is_shared=True) as limits:
            yield limits, store

    @asynccontextmanager
    async def open_two(self) -> AsyncIterator[tuple[KeyLimiter, KeyLimiter]]:
        async with self.open() as (one, _), self.open() as (other, _):
            yield one, other


def nodes(clock: Clock, **limits: Any) -> Nodes:
    keys = KeyRegistry(AuthSettings(), KeyLimits(**limits).over(NO_LIMITS))
    return Nodes(MemoryCluster(60, clock), clock, keys)


async def over(limits: KeyLimiter) -> str:
    with pytest.raises(LimitReached) as caught:
        await limits.begin(LOCAL, "one too many")
    assert isinstance(caught.value, LimitReached)
    return caught.value.limit


async def test_turns_at_once_on_several_nodes(clock: Clock, autojump_clock: object) -> None:
    async with nodes(clock, concurrent_turns=2).open_two() as (one, other):
        await one.begin(LOCAL, "first")
        await other.begin(LOCAL, "second")
        assert await over(one) == await over(other) == "concurrent_turns"
        other.end(LOCAL, "second")
        await one.begin(LOCAL, "third")  # though the store has not heard of the end yet
        assert await over(other) == "concurrent_turns"


async def test_the_headers_are_of_all_nodes(clock: Clock, autojump_clock: object) -> None:
    limits = nodes(clock, turns_per_minute=6, tokens_per_day=100)
    async with limits.open_two() as (one, other):
        await one.begin(LOCAL, None)
        await other.begin(LOCAL, None)
        assert other.headers(LOCAL)["x-ratelimit-remaining-requests"] == "4"
        one.spend(LOCAL, "opus", Usage(30, 10))
        await one.flush()
        clock.now += FRESH_SECONDS
        await other.load_headers(LOCAL)
        headers = other.headers(LOCAL)
        assert headers["x-ratelimit-remaining-requests"] == "4"
        assert headers["x-ratelimit-remaining-tokens"] == "60"
        assert headers["x-ratelimit-reset-tokens"] == "14h39m59s"


async def test_what_a_turn_used_counts_on_all_nodes_once_it_is_over(
    clock: Clock, autojump_clock: object
) -> None:
    limits = nodes(clock, tokens_per_5h=100, concurrent_turns=1)
    async with limits.open_two() as (one, other):
        for turn in range(3):
            node = (one, other)[turn % 2]
            await node.begin(LOCAL, str(turn))
            node.spend(LOCAL, "opus", Usage(50))
            node.end(LOCAL, str(turn))
            if turn == 1:
                break
        with pytest.raises(LimitReached) as caught:
            await one.begin(LOCAL, "one too many")
        assert caught.value.limit == "tokens_per_5h"
        assert caught.value.resets_at == at("2026-01-31T14:00")
        await other.load(LOCAL)
        refused(other)
        clock.now = at("2026-01-31T14:00")
        await other.load(LOCAL)
        other.check(LOCAL)


async def test_what_no_store_admits_does_not_begin(
    clock: Clock, autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with nodes(clock, concurrent_turns=1).open() as (limits, store):
        admit = store.admit

        async def fail(*given: Any) -> Standing:
            await admit(*given)
            raise Unknown("The connection broke.")

        with monkeypatch.context() as patch:
            patch.setattr(store, "admit", fail)
            with pytest.raises(Overloaded):
                await limits.begin(LOCAL, "first")
        with trio.move_on_after(0) as scope:
            await limits.begin(LOCAL, "second")
        assert scope.cancelled_caught
        await trio.sleep(1)
        await limits.begin(LOCAL, "third")  # what may have begun was given back


async def test_the_end_of_a_turn_is_told_when_the_store_is_there_again(
    clock: Clock, autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with nodes(clock, concurrent_turns=1).open_two() as (one, other):
        await one.begin(LOCAL, "first")

        async def fail(*_: object) -> None:
            raise Unavailable("It is gone.")

        with monkeypatch.context() as patch:
            patch.setattr(one.store, "discharge", fail)
            one.end(LOCAL, "first")
            await trio.sleep(1)
            assert await over(other) == "concurrent_turns"
        await trio.sleep(1)
        await other.begin(LOCAL, "second")


async def test_a_slow_store_learns_what_was_used_and_that_the_turn_is_over_once(
    clock: Clock, autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with nodes(clock, concurrent_turns=1).open_two() as (one, other):
        await one.begin(LOCAL, "first")
        for name in ("discharge", "count"):
            monkeypatch.setattr(one.store, name, after(5, getattr(one.store, name)))
        one.spend(LOCAL, "sonnet", Usage(60, 39))
        one.end(LOCAL, "first")
        await trio.sleep(20)
        await other.begin(LOCAL, "second")
        assert [each.usage for each in await other.store.usage(LOCAL)] == [Usage(60, 39)]


def after(seconds: float, call: Callable[..., Awaitable[object]]) -> Callable[..., Any]:
    async def late(*given: object) -> object:
        await trio.sleep(seconds)
        return await call(*given)

    return late


async def test_what_the_store_admits_late_does_not_run_for_ever(
    clock: Clock, autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection broke, and the engine worked on."""
    async with nodes(clock, concurrent_turns=1).open() as (limits, store), trio.open_nursery() as n:
        admit = store.admit

        async def late(*given: Any) -> None:
            await trio.sleep(2)
            await admit(*given)

        async def fail(*given: Any) -> Standing:
            n.start_soon(late, *given)
            raise Unknown("The connection broke.")

        with monkeypatch.context() as patch:
            patch.setattr(store, "admit", fail)
            with pytest.raises(Overloaded):
                await limits.begin(LOCAL, "first")
        await trio.sleep(3)
        assert await over(limits) == "concurrent_turns"
        await trio.sleep(DOUBTFUL_SECONDS)
        await limits.begin(LOCAL, "second")


async def test_a_key_without_limits_costs_no_call(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with nodes(clock).open() as (limits, store):
        monkeypatch.delattr(type(store), "admit")
        monkeypatch.delattr(type(store), "standing")
        await limits.load(LOCAL)
        await limits.begin(LOCAL, "first")
        limits.end(LOCAL, "first")
