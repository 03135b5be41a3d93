"""Work that outlives whoever asked for it: turns in the background, and those of a WebSocket that
may be gone before they end.

Knows: how much of it there may be, and that none outlives the gateway. Refuses to know: what the
work is. A piece of work is a boundary: its fault is logged, and ends nothing else.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import trio

from ...schemas.errors import GatewayError, Overloaded, RateLimited
from ...transport.loggers import get_logger

log = get_logger("ccapi.background")

Work = Callable[[], Awaitable[None]]


class Background:
    """Made by `open_background`. `limit` bounds what is under way at once."""

    def __init__(self, limit: int, nursery: trio.Nursery) -> None:
        self._limit = limit
        self._nursery = nursery
        self._running = 0
        self._closed = False

    def __repr__(self) -> str:
        return f"<Background {self._running}/{self._limit}>"

    def start(self, work: Work) -> None:
        """Begin `work`; never waits. What it raises is logged.

        Raises `RateLimited` (``too_many_background_turns``) when there is too much already, and
        `Overloaded` (``draining``) when the gateway is closing.
        """
        if self._closed:
            raise Overloaded("The gateway is stopping.", code="draining")
        if self._running >= self._limit:
            raise RateLimited(
                f"{self._limit} turns run in the background already.",
                code="too_many_background_turns",
                retry_after=5,
            )
        self._running += 1
        self._nursery.start_soon(self._run, work)

    async def _run(self, work: Work) -> None:
        try:
            await work()
        except GatewayError as error:
            log.debug("background work failed", error=error.message, code=error.code)
        except Exception:
            log.exception("background work crashed")
        finally:
            self._running -= 1

    def close(self) -> None:
        self._closed = True


@asynccontextmanager
async def open_background(limit: int) -> AsyncIterator[Background]:
    """Do background work while the block runs; at its end, what still runs is cancelled."""
    async with trio.open_nursery() as nursery:
        background = Background(limit, nursery)
        try:
            yield background
        finally:
            background.close()
            nursery.cancel_scope.cancel()
