"""What a node does about conversations because there are other nodes.

Knows: that it gives up those that rest, drops all when its lease is over, and ends the turns of
nodes that are gone. Refuses to know: leases (`actors.nodes`), and what happens in a conversation.

While the store does not answer, no node can take anything. So chats that run when a lease ends for
that reason may go on for `GRACE_SECONDS`: a child does nothing there but ask the model, and whether
the answer counts, the store decides by the token and the head once it is back. An agent's tools
have effects: agents stop with the lease.

A conversation is a node's as long as it has a child or a running turn there: requests for it go to
that node. One that rests is the store's, and the next request that needs it takes it wherever it
arrives. So conversations move, and requests do so only while that saves a child.
"""

from __future__ import annotations

import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from ...schemas.errors import Overloaded
from ...schemas.settings.settings import ClusterSettings
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


def _is_running_chat(entry: Entry) -> bool:
    return entry.callers > 0 and entry.memory.setup.profile == "chat"


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

    grace_until = -math.inf
    lapsed = Overloaded(
        "This gateway lost its lease on the conversation: the turn does not count.",
        code="node_lapsed",
        retry_after=settings.lease_seconds,
    )

    async def drop(is_silent: bool) -> None:
        nonlocal grace_until
        grace_until = trio.current_time() + GRACE_SECONDS if is_silent else -math.inf
        await supervisor.drop_all(lapsed, _is_running_chat if is_silent else None)

    async def sweep() -> None:
        nonlocal grace_until
        number = 0
        while True:
            await trio.sleep(SWEEP_SECONDS)
            number += 1
            now = trio.current_time()
            # A node that was cut off itself lets the others say first what became of their turns.
            if nodes.holds and now > nodes.since + SETTLE_SECONDS:
                await archive.close_lost_turns()
            if nodes.draining or grace_until > now:
                supervisor.release_idle()
            elif grace_until > -math.inf:
                grace_until = -math.inf
                await supervisor.drop_all(lapsed)
            if number % RELEASE_EVERY == 0:
                supervisor.release_asleep(time.time() - settings.release_seconds)

    nodes.lapsed = drop
    archive.grace_seconds, archive.nodes = GRACE_SECONDS, nodes
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sweep)
        try:
            yield
        finally:
            nursery.cancel_scope.cancel()
