"""Several pieces of work at once, each in a task of its own.

A task of its own also for a single piece: a task that waits for each token is resumed for each, and
every frame that stands between the task's start and the wait is entered again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

Work = Callable[[], Awaitable[object]]


async def run_together(*work: Work) -> None:
    """Do all of `work` at once. The first failure ends the rest, and comes out as it is."""
    failures: list[Exception] = []

    async def run(one: Work) -> None:
        try:
            await one()
        except Exception as error:  # noqa: BLE001 (raised again, past the nursery)
            failures.append(error)
            nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        for one in work:
            nursery.start_soon(run, one)
    if failures:
        raise failures[0]
