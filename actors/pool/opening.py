"""How the pool's children come to be: processes of the CLI, under a guardian.

Knows: what a child needs before its process starts (a transcript to resume, a command, someone who
outlives the gateway). Refuses to know: who gets a child, and when there is room for one
(`actors.pool.pool`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import trio

from ...schemas.settings.settings import ClaudeSettings
from ...schemas.turn import Origin
from ...transport.process.child import Child, open_child
from ...transport.process.cli import Cli
from ...transport.process.guardian import open_guardian
from ...transport.process.login import LEAN, Login
from ..conversations.cleanup import Cleanup
from ..runtime.bus import Bus
from .cli_watch import CliWatch
from .pool import ChildPool, run_pool


@asynccontextmanager
async def open_pool(
    cli: Cli,
    settings: ClaudeSettings,
    bus: Bus,
    watch: CliWatch | None = None,
    cleanup: Cleanup | None = None,
) -> AsyncIterator[ChildPool]:
    """Run a pool while the block runs; after it no child is left, its own children included.

    `watch` asks for the login that the children get (None: it is a key). `cleanup` sees to what
    they leave on the disk.
    """

    async def known() -> Login:
        if watch is not None:
            return await watch.known()
        await trio.lowlevel.checkpoint()
        return LEAN

    taken = None if cleanup is None else cleanup.adopt

    async with open_guardian() as guardian:

        @asynccontextmanager
        async def open_one(origin: Origin | None) -> AsyncIterator[Child]:
            command = await cli.prepare(origin, await known())
            if cleanup is None:
                async with open_child(command, guardian) as child:
                    yield child
                return
            try:
                await cleanup.begin(command.trace)
                async with open_child(command, guardian) as child:
                    yield child
            finally:
                cleanup.end(command.trace)

        async with (
            run_pool(open_one, settings, bus, known, taken) as pool,
            trio.open_nursery() as nursery,
        ):
            if watch is not None:
                nursery.start_soon(watch.listen, bus)
                nursery.start_soon(watch.run, partial(cli.ask_login, guardian), pool.renew)
            yield pool
            nursery.cancel_scope.cancel()
