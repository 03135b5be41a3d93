"""What a node does about conversations because there are other nodes.

Knows: that it gives up those that rest, drops all when its lease is over, and ends the turns of
nodes that are gone. Refuses to know: leases (`actors.nodes`), and what happens in a conversation.

A conversation is a node's as long as it has a child or a running turn there: requests for it go to
that node. One that rests is the store's, and the next request that needs it takes it wherever it
arrives. So conversations move, and requests do so only while that saves a child.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from ...schemas.errors import Overloaded
from ...schemas.settings.settings import ClusterSettings
from ..nodes.membership import Membership
from .archive import Archive
from .supervisor import Supervisor

SWEEP_SECONDS = 0.25
"""How often a node looks for the turns of nodes that are gone."""

RELEASE_EVERY = 4
"""Sweeps between two looks for conversations that rest."""


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

    async def drop_all() -> None:
        await supervisor.drop_all(
            Overloaded(
                "This gateway lost its lease on the conversation: the turn does not count.",
                code="node_lapsed",
                retry_after=settings.lease_seconds,
            )
        )

    async def sweep() -> None:
        number = 0
        while True:
            await trio.sleep(SWEEP_SECONDS)
            number += 1
            if nodes.holds:
                await archive.close_lost_turns()
            if nodes.draining:
                supervisor.release_idle()
            if number % RELEASE_EVERY == 0:
                supervisor.release_asleep(time.time() - settings.release_seconds)

    nodes.lapsed = drop_all
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sweep)
        try:
            yield
        finally:
            nursery.cancel_scope.cancel()
