"""The few threads in which this process works on megabytes.

Knows: how many work at once. Refuses to know: on what.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import trio

T = TypeVar("T")

WORKERS = 2
"""Threads that work at once: more would only take the processor from each other."""

_limiter: trio.lowlevel.RunVar[trio.CapacityLimiter] = trio.lowlevel.RunVar("workers")


async def work(function: Callable[[], T]) -> T:
    """What `function` returns, called in a thread. It is never given up: a task that is
    cancelled meanwhile waits for its end."""
    try:
        limiter = _limiter.get()
    except LookupError:
        limiter = trio.CapacityLimiter(WORKERS)
        _limiter.set(limiter)
    return await trio.to_thread.run_sync(function, limiter=limiter)
