"""A node's lease: kept, lost, and begun anew."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from ccapi.actors.nodes.membership import Membership, open_nodes
from ccapi.schemas.settings.settings import ClusterSettings, SettingsError
from ccapi.transport.store.interface import Beat, LiveNode, Store, Unavailable
from ccapi.transport.store.memory import MemoryCluster, open_memory_store

LEASE = 1.2
SETTINGS = ClusterSettings(node_url="http://one:1", secret="what-all-nodes-share")


@asynccontextmanager
async def joined(store: Store, tmp_path: Path) -> AsyncIterator[Membership]:
    async with open_nodes(store, SETTINGS, tmp_path) as membership:
        assert membership is not None
        yield membership


@pytest.fixture
def cluster() -> MemoryCluster:
    return MemoryCluster(LEASE)


async def test_a_node_that_beats_keeps_its_lease(
    cluster: MemoryCluster, tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with joined(cluster.open_node("http://one:1"), tmp_path) as one:
        life = one.node.id
        await trio.sleep(100)
        assert (one.holds, one.node.id, one.lives) == (True, life, 0)
    assert cluster.nodes() == ()


async def test_who_lives_is_known_within_a_beat(
    cluster: MemoryCluster, tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with joined(cluster.open_node("http://one:1"), tmp_path) as one:
        other = cluster.open_node("http://other:1")
        await trio.sleep(LEASE / 4 + 0.01)
        assert [each.node for each in one.others] == [other.node]
        assert one.lives_on(other.node.id)
        begun = trio.current_time()
        await one.wait_gone(other.node.id)
        # Not a beat later: this node has looked again just when the lease ended.
        assert trio.current_time() - begun <= LEASE + 0.03


class Faulty:
    """A store whose beats do what a test says."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.before_beat: Callable[[], object] | None = None
        self.hangs = False

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)

    async def beat(self, facts: bytes = b"{}") -> Beat:
        if self.hangs:
            await trio.sleep_forever()
        if self.before_beat is not None:
            self.before_beat()
        return await self._store.beat(facts)


def fail() -> None:
    raise Unavailable("the database is gone")


@pytest.mark.parametrize("fault", ["hangs", "fails"])
async def test_a_node_whose_beats_do_not_arrive_drops_everything_in_time(
    cluster: MemoryCluster, tmp_path: Path, autojump_clock: MockClock, fault: str
) -> None:
    store = Faulty(cluster.open_node("http://one:1"))
    async with open_nodes(store, SETTINGS, tmp_path) as one:  # type: ignore[arg-type]
        assert one is not None
        life, dropped = one.node.id, []

        async def drop(is_silent: bool) -> None:
            assert is_silent
            dropped.append((trio.current_time(), one.holds))

        one.lapsed = drop
        begun = trio.current_time()
        store.hangs, store.before_beat = fault == "hangs", fail
        await trio.sleep(LEASE * 2)
        ((at, held),) = dropped
        assert at - begun <= LEASE + 0.01
        assert not held
        assert not one.holds
        store.hangs, store.before_beat = False, None
        await trio.sleep(LEASE)
        assert one.holds
        assert one.node.id != life
        assert one.lives == 1


@pytest.mark.parametrize(("others", "ends"), [("well", True), ("as this", False), ("gone", False)])
async def test_a_node_that_is_cut_off_asks_the_others_whether_it_is_the_only_one(
    cluster: MemoryCluster, tmp_path: Path, autojump_clock: MockClock, others: str, ends: bool
) -> None:
    store = Faulty(cluster.open_node("http://one:1"))
    other = cluster.open_node("http://other:1")
    async with open_nodes(store, SETTINGS, tmp_path) as one:  # type: ignore[arg-type]
        assert one is not None
        asked: list[list[str]] = []
        cut_off = trio.Event()

        async def others_heard(nodes: Sequence[LiveNode]) -> float:
            asked.append([each.node.id for each in nodes])
            since = trio.current_time() - begun  # when the store went
            return {"well": 0.2, "as this": since, "gone": math.inf}[others]

        async def end() -> None:
            cut_off.set()

        one.others_heard, one.cut_off = others_heard, end
        await other.beat()
        await trio.sleep(LEASE / 4 + 0.01)
        begun = trio.current_time()
        store.before_beat = fail
        with trio.move_on_after(LEASE * 3):
            await cut_off.wait()
        assert asked[0] == [other.node.id]
        assert cut_off.is_set() == ends
        if ends:
            assert trio.current_time() - begun <= LEASE + 0.11
        assert not one.holds
        store.before_beat = None
        await trio.sleep(LEASE)
        assert one.holds


async def test_a_store_that_is_back_for_others_first_cuts_no_node_off(
    cluster: MemoryCluster, tmp_path: Path, autojump_clock: MockClock
) -> None:
    store = Faulty(cluster.open_node("http://one:1"))
    async with open_nodes(store, SETTINGS, tmp_path) as one:  # type: ignore[arg-type]
        assert one is not None
        cut_off = trio.Event()
        begun = trio.current_time()

        async def others_heard(nodes: Sequence[LiveNode]) -> float:
            since = trio.current_time() - begun
            return 0.0 if since > LEASE + 0.2 else since

        async def end() -> None:
            cut_off.set()

        one.others_heard, one.cut_off = others_heard, end
        store.before_beat = fail
        await trio.sleep(LEASE + 0.35)
        store.before_beat = None
        await trio.sleep(LEASE)
        assert one.holds
        assert one.lives == 1
        assert not cut_off.is_set()


async def test_a_beat_in_vain_is_soon_followed_by_another(
    cluster: MemoryCluster, tmp_path: Path, autojump_clock: MockClock
) -> None:
    store = Faulty(cluster.open_node("http://one:1"))
    async with open_nodes(store, SETTINGS, tmp_path) as one:  # type: ignore[arg-type]
        assert one is not None
        store.before_beat = fail
        await trio.sleep(LEASE - 0.15)
        store.before_beat = None
        await trio.sleep(LEASE)
        assert one.lives == 0


async def test_a_node_that_was_given_up_begins_anew(
    cluster: MemoryCluster, tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with joined(cluster.open_node("http://one:1"), tmp_path) as one:
        dropped = trio.Event()

        async def drop(is_silent: bool) -> None:
            assert not is_silent
            dropped.set()

        one.lapsed = drop
        life = one.node.id
        cluster.drop(life)
        await dropped.wait()
        await trio.sleep(LEASE)
        assert one.holds
        assert one.node.id != life


async def test_a_database_for_one_gateway_is_refused(tmp_path: Path) -> None:
    async with open_memory_store() as store:
        with pytest.raises(SettingsError, match="several gateways can share"):
            async with open_nodes(store, SETTINGS, tmp_path):
                pass
