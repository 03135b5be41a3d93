"""Work that outlives its caller: background turns, and turns of a WebSocket that may close first.

Knows: how much of it there may be, and that none outlives the gateway. Refuses to know: what the
work is. Each piece of work is a boundary: its exception is logged, and ends nothing else.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import trio

from ...schemas.errors import GatewayError, RateLimited, draining
from ...transport.loggers import get_logger

log = get_logger("ccapi.background")

Work = Callable[[], Awaitable[None]]


class Background:
    """Made by `open_background`. `limit` bounds how much runs at once."""

    def __init__(self, limit: int, nursery: trio.Nursery) -> None:
        self._limit = limit
        self._nursery = nursery
        self._running = 0
        self._closed = False

    def __repr__(self) -> str:
        return f"<Background {self._running}/{self._limit}>"

    def start(self, work: Work) -> None:
        """Begin `work`; never waits. What it raises is logged.

        Raises `RateLimited` (``too_many_background_turns``) at the limit, and `Overloaded`
        (``draining``) when the gateway is closing.
        """
        if self._closed:
            raise draining(retry_after=None)
        if self._running >= self._limit:
            raise RateLimited(
                f"At most {self._limit} turns may run in the background.",
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
    """Do background work while the block runs; its end cancels what still runs."""
    async with trio.open_nursery() as nursery:
        background = Background(limit, nursery)
        try:
            yield background
        finally:
            background.close()
            nursery.cancel_scope.cancel()
