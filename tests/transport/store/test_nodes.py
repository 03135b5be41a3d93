"""What every store does that several nodes share."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.lowlevel
from attrs import evolve

from ccapi.schemas.keys import ApiKey
from ccapi.schemas.turn import Usage
from ccapi.transport.store.interface import (
    Allowance,
    Fenced,
    KeptRequest,
    Lapsed,
    LiveNode,
    Owned,
    Spent,
    Standing,
    Store,
    Used,
    WindowAllowance,
)
from ccapi.transport.store.memory import MemoryCluster
from ccapi.transport.store.postgres.store import open_postgres_store

from .support import KEY, begin, end, new_lease
from .test_batches import ANY, a_file, running

LEASE_SECONDS = 0.8

Join = Callable[[str], Awaitable[Store]]


@pytest.fixture(params=["memory", "postgres"])
def shared_url(request: pytest.FixtureRequest) -> str:
    """The database of the store, where it has one."""
    return "" if request.param == "memory" else request.getfixturevalue("postgres_url")


@pytest.fixture
async def join(shared_url: str) -> AsyncIterator[Join]:
    """Opens the store as one more node, which is reached at the URL that is given."""
    cluster = MemoryCluster(LEASE_SECONDS)

    async def keep_open(url: str, *, task_status: trio.TaskStatus[Store]) -> None:
        async with open_postgres_store(
            shared_url, node_url=url, lease_seconds=LEASE_SECONDS
        ) as store:
            task_status.started(store)
            await trio.sleep_forever()

    async def open_node(url: str) -> Store:
        if not shared_url:
            return cluster.open_node(url)
        store: Store = await nursery.start(keep_open, url)
        return store

    async with trio.open_nursery() as nursery:
        yield open_node
        nursery.cancel_scope.cancel()


async def lapse(*living: Store) -> None:
    """Wait until every node but these has lost its lease."""
    for _ in range(4):
        await trio.sleep(LEASE_SECONDS / 3)
        for store in living:
            await store.beat()


async def test_nodes_see_each_other_as_long_as_they_beat(join: Join) -> None:
    one, other = await join("http://one"), await join("http://other")
    until = (await one.beat(b'{"turns": 3}')).until
    assert trio.current_time() < until <= trio.current_time() + LEASE_SECONDS
    known = {each.node.url: each.facts for each in (await other.beat()).nodes}
    assert known == {"http://one": b'{"turns": 3}', "http://other": b"{}"}
    await lapse(other)
    assert [each.node for each in (await other.beat()).nodes] == [other.node]


async def test_a_conversation_is_one_nodes_at_a_time(join: Join) -> None:
    one, other = await join("http://one"), await join("http://other")
    lease = await new_lease(one)
    with pytest.raises(Owned) as caught:
        await other.acquire("conv_1", KEY)
    assert caught.value.node == one.node
    head = await other.head("conv_1")
    assert (head.owner, head.node) == (one.node.id, one.node)
    assert (await one.head("conv_1")).node is None  # no other's
    assert (await other.get("conv_1", KEY)).node == one.node
    assert (await one.get("conv_1", KEY)).node is None
    await one.release(lease)
    assert (await other.get("conv_1", KEY)).node is None
    taken = await other.acquire("conv_1", KEY)
    assert taken.token > lease.token


async def test_what_runs_is_not_given_up(join: Join) -> None:
    one, other = await join("http://one"), await join("http://other")
    lease = await new_lease(one)
    await begin(one, lease)
    await one.release(lease)
    with pytest.raises(Owned):
        await other.acquire("conv_1", KEY)


async def test_what_a_lapsed_node_had_is_taken_over_and_the_turn_is_lost(join: Join) -> None:
    one, other = await join("http://one"), await join("http://other")
    lease = await new_lease(one)
    turn_id = await begin(one, lease)
    assert await other.orphans() == ()
    await lapse(other)
    assert await other.orphans() == (("conv_1", KEY),)
    with pytest.raises(Lapsed):
        await one.beat()
    taken = await other.acquire("conv_1", KEY)
    assert taken.open_turn == 1
    await other.lose_turn(taken, "Its node is gone.")
    with pytest.raises(Fenced):
        await one.end_turn(lease, end(turn_id))
    found = await other.request("conv_1", turn_id)
    assert found is not None
    assert found.state == "lost"


async def test_a_lapsed_node_begins_another_life_with_nothing(join: Join) -> None:
    one, other = await join("http://one"), await join("http://other")
    first = one.node
    await new_lease(one)
    await lapse(other)
    again = await one.renew()
    assert again == one.node
    assert (again.url, again.id != first.id) == ("http://one", True)
    assert (await other.head("conv_1")).node is None
    await one.beat()
    assert LiveNode(again) in (await other.beat()).nodes


async def test_another_life_has_again_what_no_other_node_has_taken(join: Join) -> None:
    one, other = await join("http://one"), await join("http://other")
    lease = await new_lease(one)
    turn_id = await begin(one, lease)
    await lapse(other)
    await one.renew()
    assert await other.orphans() == (("conv_1", KEY),)
    gone = evolve(lease, conversation_id="conv_2")
    assert await one.reclaim([lease, gone]) == {"conv_1"}
    assert await other.orphans() == ()
    with pytest.raises(Owned):
        await other.acquire("conv_1", KEY)
    await one.end_turn(lease, end(turn_id))
    await lapse(other)
    await one.renew()
    await other.acquire("conv_1", KEY)
    assert await one.reclaim([lease]) == frozenset()


async def test_a_node_that_leaves_gives_up_what_it_has(join: Join) -> None:
    one, other = await join("http://one"), await join("http://other")
    await new_lease(one)
    await one.leave()
    await other.acquire("conv_1", KEY)
    assert [each.node for each in (await other.beat()).nodes] == [other.node]


async def test_a_request_that_another_node_runs_is_not_lost_before_the_node_is(join: Join) -> None:
    one, other = await join("http://one"), await join("http://other")
    assert await one.claim_request(KEY, "name", b"digest", 9e9) is None
    found = await other.claim_request(KEY, "name", b"digest", 9e9)
    assert found == KeptRequest(b"digest", "running", is_elsewhere=True)
    assert await one.claim_request(KEY, "name", b"digest", 9e9) == KeptRequest(b"digest", "running")
    await lapse(other)
    found = await other.claim_request(KEY, "name", b"digest", 9e9)
    assert found is not None
    assert found.state == "lost"


async def test_a_place_is_claimed_once(join: Join) -> None:
    one, other = await join("http://one"), await join("http://other")
    assert await one.claim_place("shop", "home-1") == "home-1"
    assert await other.claim_place("shop", "home-2") == "home-1"
    assert await one.claim_place("shop", "home-1") == "home-1"
    assert await other.claim_place("barn", "home-2") == "home-2"


async def test_keys_are_all_nodes(join: Join) -> None:
    one, other = await join("http://one"), await join("http://other")
    before = await other.keys()
    assert before is not None
    key = ApiKey(id="a" * 64, name="Ann", created_at=1.0)
    await one.add_key(key)
    after = await other.keys(before.version)
    assert after is not None
    assert after.keys == (key,)


# -- limits ----------------------------------------------------------------------------------------


async def admitted(store: Store, name: str | None, **limits: Any) -> bool:
    return (await store.admit(KEY, Allowance(**limits), name)).exceeded is None


async def test_turns_at_once_are_counted_on_all_nodes(join: Join) -> None:
    one, other = await join("http://one"), await join("http://other")
    asked: list[str] = []
    begun: list[str] = []

    async def ask(store: Store, name: str) -> None:
        asked.append(name)
        if await admitted(store, name, concurrent_turns=3):
            begun.append(name)

    async with trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(ask, (one, other)[number % 2], f"turn {number}")
    assert (len(asked), len(begun)) == (20, 3)
    await other.discharge([(KEY, begun[0]), (KEY, "no such turn")])
    assert (await one.standing(KEY, Allowance(concurrent_turns=3))).running == 2
    assert await admitted(one, "another", concurrent_turns=3)
    assert not await admitted(other, "one too many", concurrent_turns=3)
    assert (await one.admit("another key", Allowance(concurrent_turns=1), "t")).exceeded is None


async def test_turns_of_a_node_that_is_gone_run_no_more(join: Join) -> None:
    one, other = await join("http://one"), await join("http://other")
    for name in ("first", "second"):
        assert await admitted(one, name, concurrent_turns=2)
    assert not await admitted(other, "third", concurrent_turns=2)
    await lapse(other)
    assert await admitted(other, "third", concurrent_turns=2)
    with pytest.raises(Lapsed):  # it has been frozen, and does not know yet
        await one.admit(KEY, Allowance(concurrent_turns=2), "too late")
    await one.renew()
    assert not await admitted(one, "fourth", concurrent_turns=2)  # it may be that they run on
    await one.discharge([(KEY, "first"), (KEY, "second")])
    assert await admitted(one, "fourth", concurrent_turns=2)
    assert not await admitted(one, "fifth", concurrent_turns=2)
    await one.leave()
    assert await admitted(other, "fifth", concurrent_turns=2)


async def test_what_runs_on_in_another_life_of_its_node_counts(join: Join) -> None:
    one, other = await join("http://one"), await join("http://other")
    assert await admitted(one, "first", concurrent_turns=1)
    await lapse()  # the database was away
    for store in (other, one):
        await store.renew()
    assert not await admitted(other, "second", concurrent_turns=1)
    await one.discharge([(KEY, "first")])
    assert await admitted(other, "second", concurrent_turns=1)


async def test_batches_and_uploads_go_on_in_another_life_of_their_node(join: Join) -> None:
    one, other = await join("http://one"), await join("http://other")
    leases = [await running(one, name=name) for name in ("batch_1", "batch_2")]
    await one.files.begin(a_file(), ANY)
    await lapse(other)
    await other.batches.acquire("batch_2", KEY)
    await one.renew()
    await other.files.prune()
    assert await other.batches.orphans() == ()
    assert await one.batches.claim(leases[0]) is not None
    with pytest.raises(Fenced):
        await one.batches.claim(leases[1])
    await one.files.write("file_1", 0, b"one", ANY)
    assert (await one.files.finish(a_file())).bytes == 3


async def test_turns_in_a_minute_are_taken_from_one_bucket(join: Join) -> None:
    one, other = await join("http://one"), await join("http://other")
    begun: list[bool] = []

    async def ask(store: Store) -> None:
        begun.append(await admitted(store, None, turns_per_minute=5))

    async with trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(ask, (one, other)[number % 2])
    assert sum(begun) == 5
    refused = await other.standing(KEY, Allowance(turns_per_minute=5))
    assert (refused.exceeded, refused.running) == ("turns_per_minute", 0)
    assert 0 <= refused.left < 0.5
    often = Allowance(turns_per_minute=60)  # one in a second
    began = trio.current_time()
    for _ in range(5):
        await one.beat()
        for _ in range(10):
            await one.admit("busy", often)
    await trio.sleep(0.3)
    left = (await other.standing("busy", often)).left
    assert 10.3 <= left < 10.1 + trio.current_time() - began


async def test_what_was_counted_on_one_node_limits_another(join: Join) -> None:
    one, other = await join("http://one"), await join("http://other")
    early, late = "2026-01-31T09", "2026-01-31T10"
    windows = (
        WindowAllowance("5h", late, 0, 5.0),
        WindowAllowance("day", early, 100, 0.0),
    )
    await one.count([
        Spent(KEY, early, "opus", 1, Usage(30, 10, cost_usd=4.0)),
        Spent(KEY, late, "opus", 1, Usage(40, 0, cost_usd=1.0)),
        Spent("another key", late, "opus", 1, Usage(1000, 1000, cost_usd=100.0)),
    ])  # fmt: skip
    standing = await other.admit(KEY, Allowance(windows=windows), "first")
    assert standing == Standing(0, 0.0, (Used(40, 1.0, late), Used(80, 5.0, early)), None)
    await one.count([Spent(KEY, late, "haiku", 1, Usage(20))])
    refused = await other.admit(KEY, Allowance(windows=windows), "second")
    assert (refused.exceeded, refused.running) == ("tokens_per_day", 1)
    await one.count([Spent(KEY, late, "haiku", 1, Usage(cost_usd=4.0))])
    assert (await other.standing(KEY, Allowance(windows=windows))).exceeded == "usd_per_5h"
    assert (await one.standing("none", Allowance(windows=windows))).used == (Used(0, 0.0, ""),) * 2


async def test_many_clients_of_three_nodes_never_pass_a_limit(join: Join) -> None:
    nodes = [await join(f"http://{name}") for name in ("one", "two", "three")]
    running: set[str] = set()
    most, begun = 0, 0

    async def use(number: int) -> None:
        nonlocal most, begun
        for turn in range(8):
            node, name = nodes[(number + turn) % 3], f"{number} {turn}"
            if await admitted(node, name, concurrent_turns=3):
                running.add(name)
                most, begun = max(most, len(running)), begun + 1
                await trio.sleep(0.002)
                running.discard(name)
                await node.discharge([(KEY, name)])
            await trio.sleep(0.001)

    async with alive(nodes), trio.open_nursery() as nursery:
        for number in range(12):
            nursery.start_soon(use, number)
    assert (most, begun >= 12) == (3, True)
    assert (await nodes[0].standing(KEY, Allowance(concurrent_turns=3))).running == 0


async def test_many_clients_of_three_nodes_pass_a_budget_by_one_turn(join: Join) -> None:
    """What a turn used is counted before the turn is over: so of turns one after the other, only
    the last one can pass the budget."""
    nodes = [await join(f"http://{name}") for name in ("one", "two", "three")]
    hour = "2026-01-31T09"
    allowance = Allowance(concurrent_turns=1, windows=(WindowAllowance("day", hour, 100, 0.0),))
    begun: list[str] = []

    async def use(number: int) -> None:
        for turn in range(40):
            node, name = nodes[(number + turn) % 3], f"{number} {turn}"
            standing = await node.admit(KEY, allowance, name)
            if standing.exceeded == "tokens_per_day":
                return
            if standing.exceeded is None:
                begun.append(name)
                await node.count([Spent(KEY, hour, "opus", 1, Usage(7))])
                await node.discharge([(KEY, name)])
            await trio.lowlevel.checkpoint()

    async with alive(nodes), trio.open_nursery() as nursery:
        for number in range(9):
            nursery.start_soon(use, number)
    assert len(begun) == 15


@asynccontextmanager
async def alive(nodes: list[Store]) -> AsyncIterator[None]:
    """Have them beat while the block runs."""

    async def beat(node: Store) -> None:
        while True:
            await node.beat()
            await trio.sleep(LEASE_SECONDS / 4)

    async with trio.open_nursery() as nursery:
        for node in nodes:
            nursery.start_soon(beat, node)
        yield
        nursery.cancel_scope.cancel()
