"""How the pool's children come to be: processes of the CLI, under a guardian.

Knows: what a child needs before its process starts (a transcript to resume, a command, someone who
outlives the gateway). Refuses to know: who gets a child, and when there is room for one
(`actors.pool`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from ..schemas.settings import ClaudeSettings
from ..schemas.turn import Origin
from ..transport.child import Child, open_child
from ..transport.cli import Cli
from ..transport.guardian import open_guardian
from .bus import Bus
from .pool import ChildPool, run_pool


@asynccontextmanager
async def open_pool(cli: Cli, settings: ClaudeSettings, bus: Bus) -> AsyncIterator[ChildPool]:
    """Run a pool while the block runs; after it no child is left, its own children included."""
    async with open_guardian() as guardian:

        @asynccontextmanager
        async def open_one(origin: Origin | None) -> AsyncIterator[Child]:
            async with open_child(await cli.prepare(origin), guardian) as child:
                yield child

        async with run_pool(open_one, settings, bus) as pool:
            yield pool
