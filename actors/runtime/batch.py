"""Many independent prompts, a few at a time (`Gateway.batch`).

Knows: how many may run at once, and that one failure leaves the others alone. Refuses to know: what
a prompt is, and how it gets its answer.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import TypeVar

import trio

from ...schemas.errors import GatewayError

P = TypeVar("P")
R = TypeVar("R")


@asynccontextmanager
async def run_batch(
    ask: Callable[[P], Awaitable[R]], prompts: Iterable[P], limit: int
) -> AsyncIterator[AsyncIterator[tuple[int, R | GatewayError]]]:
    """Ask all `prompts`, at most `limit` at once; yields each one's number and its result or error,
    in the order of completion. See `Gateway.batch`."""
    numbered = iter(enumerate(prompts))
    send, receive = trio.open_memory_channel[tuple[int, R | GatewayError]](0)
    failure: Exception | None = None

    async def work(send: trio.MemorySendChannel[tuple[int, R | GatewayError]]) -> None:
        nonlocal failure
        with send:
            try:
                for index, prompt in numbered:  # shared: each prompt goes to one worker
                    try:
                        outcome: R | GatewayError = await ask(prompt)
                    except GatewayError as error:
                        outcome = error
                    await send.send((index, outcome))
            except Exception as error:  # noqa: BLE001 (the prompts' own, raised again below)
                failure = error
                nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        with send:
            for _ in range(limit):
                nursery.start_soon(work, send.clone())
        with receive:
            try:
                yield receive
            except Exception as error:  # noqa: BLE001 (the block's own, raised again below)
                failure = error
            # Before the channel closes, which would break a worker that is about to send.
            nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure  # past the nursery, so that it comes out as it is
