"""The accidents: what happens to the nodes and to the engine, one after the other."""

from __future__ import annotations

import random
import signal
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence

import trio
from attrs import define, field

from .cluster import Cluster, Node
from .load import Load, Takeover, Talk

HELD_SECONDS = 3.0
"""How long a node is frozen, or cut off."""

DOWN_SECONDS = 1.5
"""How long what was killed stays away."""

BETWEEN_SECONDS = 0.5

VICTIMS = 8
"""Conversations of a node that is gone for which clients wait."""

ALL = ("kill", "stop", "engine-link", "node-link", "engine-kill")


@define(eq=False)
class Injector:
    cluster: Cluster
    load: Load
    dice: random.Random
    counts: Counter[str] = field(factory=Counter)
    by_kind: dict[str, list[Takeover]] = field(factory=dict)

    async def run(self, seconds: float, kinds: Sequence[str] = ALL, least: int = 3) -> None:
        """Have accidents for about so long, and so many at `least`, each kind as often as the
        others."""
        until = trio.current_time() + seconds
        does: dict[str, Callable[[Node], Awaitable[None]]] = {
            "kill": self._kill,
            "stop": self._stop,
            "engine-link": self._cut_from_engine,
            "node-link": self._cut_from_others,
            "engine-kill": self._kill_engine,
        }
        while True:
            for kind in self.dice.sample(kinds, len(kinds)):
                if trio.current_time() > until and self.counts.total() >= least:
                    return
                node = self.dice.choice(self.cluster.nodes)
                self.counts[kind] += 1
                before = len(self.load.takeovers)
                await does[kind](node)
                await self.cluster.balancer.wait_ready()
                self.load.waited_for.clear()
                self.by_kind.setdefault(kind, []).extend(self.load.takeovers[before:])
                await trio.sleep(BETWEEN_SECONDS)

    async def _kill(self, node: Node) -> None:
        owned = await self._owned(node)
        node.signal(signal.SIGKILL)
        async with trio.open_nursery() as nursery:
            self._wait_for(owned, nursery)
            await node.wait()
            await trio.sleep(DOWN_SECONDS)
            await node.start()

    async def _stop(self, node: Node) -> None:
        owned = await self._owned(node)
        node.signal(signal.SIGSTOP)
        async with trio.open_nursery() as nursery:
            self._wait_for(owned, nursery)
            try:
                await trio.sleep(HELD_SECONDS)
            finally:
                node.signal(signal.SIGCONT)

    async def _cut_from_engine(self, node: Node) -> None:
        owned = await self._owned(node)
        node.to_engine.cut()
        async with trio.open_nursery() as nursery:
            self._wait_for(owned, nursery)
            await trio.sleep(HELD_SECONDS)
            node.to_engine.mend()

    async def _cut_from_others(self, node: Node) -> None:
        node.to_others.cut()
        await trio.sleep(HELD_SECONDS)
        node.to_others.mend()

    async def _kill_engine(self, node: Node) -> None:
        await trio.to_thread.run_sync(self.cluster.engine.kill)
        await trio.sleep(DOWN_SECONDS)
        await trio.to_thread.run_sync(self.cluster.engine.start)

    async def _owned(self, node: Node) -> list[Talk]:
        """Conversations of a node, those with a request first."""
        owned = set(await trio.to_thread.run_sync(self.cluster.owned_by, node))
        talks = [each for each in self.load.talks if each.name in owned]
        self.dice.shuffle(talks)
        return sorted(talks, key=lambda each: not each.lock.locked())[:VICTIMS]

    def _wait_for(self, talks: Sequence[Talk], nursery: trio.Nursery) -> None:
        """From now on, clients try to go on with these."""
        since = trio.current_time()
        for talk in talks:
            assert talk.name is not None
            self.load.waited_for[talk.name] = since
            nursery.start_soon(self._try, talk)

    async def _try(self, talk: Talk) -> None:
        async with talk.lock:
            if talk.name in self.load.waited_for:
                await self.load.ask_until_served(talk)
