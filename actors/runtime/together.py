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
    try:
        async with trio.open_nursery() as nursery:
            for one in work:
                nursery.start_soon(one)
    except ExceptionGroup as failures:
        first = failures.exceptions[0]
    else:
        return
    raise first  # outside the handler, so that it does not get the group as its context
