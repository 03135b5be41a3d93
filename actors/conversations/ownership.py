"""What a node does about conversations because there are other nodes.

Knows: that it gives up those that rest, drops all when its lease is over, and ends the turns of
nodes that are gone. Refuses to know: leases (`actors.nodes`), and what happens in a conversation.

While the store does not answer, no node can take anything. So when a lease ends for that reason
chats stay for `GRACE_SECONDS`, and those that run go on: a child does nothing there but ask the
model, and whether the answer counts, the store decides by the token and the head once it is back.
What no other node has taken by then is this node's again (`Store.reclaim`), with its child and its
watchers: a database that is started again costs neither. An agent's tools have effects: agents stop
with the lease. A node that finds that the store answers others, and not
itself, ends these chats too: their clients can be answered elsewhere by then.

A conversation is a node's as long as it has a child or a running turn there: requests for it go to
that node. One that rests is the store's, and the next request that needs it takes it wherever it
arrives. So conversations move, and requests do so only while that saves a child.
"""

from __future__ import annotations

import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import trio

from ...schemas.errors import Overloaded
from ...schemas.settings.settings import ClusterSettings
from ...transport.store.interface import StoreError
from ..nodes.membership import Membership
from .archive import Archive
from .directory import Entry
from .journal import GRACE_SECONDS
from .supervisor import Supervisor

SWEEP_SECONDS = 0.25
"""How often a node looks for the turns of nodes that are gone."""

SETTLE_SECONDS = 1.0
"""How long a node that has begun anew looks for no lost turns."""

RELEASE_EVERY = 4
"""Sweeps between two looks for conversations that rest."""


def _lapsed(settings: ClusterSettings) -> Overloaded:
    """A new one each time: it keeps what was on the stack of those who raise it."""
    return Overloaded(
        "This gateway lost its lease on the conversation: the turn does not count.",
        code="node_lapsed",
        retry_after=settings.lease_seconds,
    )


def _is_chat(entry: Entry) -> bool:
    return entry.memory.setup.profile == "chat"


@asynccontextmanager
async def open_ownership(
    archive: Archive,
    supervisor: Supervisor,
    nodes: Membership | None,
    settings: ClusterSettings,
) -> AsyncIterator[None]:
    """See to it while the block runs. `nodes` None: there are no other nodes."""
    if nodes is None:
        yield
        return

    spared: set[Entry] = set()  # what is here under the lease of an earlier life
    grace_until = -math.inf

    async def drop(is_silent: bool) -> None:
        nonlocal grace_until
        entries = supervisor.entries()
        spared.clear()
        if is_silent:
            spared.update(filter(_is_chat, entries))
            grace_until = trio.current_time() + GRACE_SECONDS
        await supervisor.drop((each for each in entries if each not in spared), _lapsed(settings))

    async def drop_spared() -> None:
        going = {*spared}
        spared.clear()
        await supervisor.drop(going, _lapsed(settings))

    async def reclaim_spared() -> None:
        entries = {*spared}
        with suppress(StoreError):  # else once more with the next sweep
            taken = await archive.reclaim(entries)
            spared.difference_update(entries)
            await supervisor.drop(taken, _lapsed(settings))

    async def sweep() -> None:
        number = 0
        while True:
            await trio.sleep(SWEEP_SECONDS)
            number += 1
            now = trio.current_time()
            spared.intersection_update(supervisor.entries())
            if spared and nodes.holds:
                await reclaim_spared()
            elif spared and now >= grace_until:
                await drop_spared()
            # A node that was cut off itself lets the others say first what became of their turns.
            if nodes.holds and now > nodes.since + SETTLE_SECONDS:
                await archive.close_lost_turns()
            if nodes.draining:
                supervisor.release_idle()
            if number % RELEASE_EVERY == 0:
                supervisor.release_asleep(time.time() - settings.release_seconds)

    nodes.lapsed, nodes.cut_off = drop, drop_spared
    archive.grace_seconds, archive.nodes = GRACE_SECONDS, nodes
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sweep)
        try:
            yield
        finally:
            nursery.cancel_scope.cancel()
