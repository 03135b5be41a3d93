"""A request with an idempotency key that another node does."""

from __future__ import annotations

import pytest
import trio

from ccapi.actors.idempotency.answer import Answer, Head
from ccapi.actors.idempotency.requests import (
    WAIT_SECONDS,
    IdempotentRequests,
    Served,
    open_idempotent_requests,
)
from ccapi.schemas.errors import Conflict
from ccapi.schemas.settings.settings import IdempotencySettings
from ccapi.transport.store.memory import MemoryCluster


async def unasked(answer: Answer) -> Served:
    raise AssertionError("another node does it")


async def read(requests: IdempotentRequests) -> bytes:
    run = requests.start("me", "name", b"digest", unasked, lambda: None)
    with requests.attend(run, owner=True) as reader:
        found = b""
        while piece := await reader.receive():
            found += piece
    assert run.is_replayed
    return found


async def test_its_answer_is_waited_for(autojump_clock: trio.abc.Clock) -> None:
    cluster, settings = MemoryCluster(9e9), IdempotencySettings()

    async def serve(answer: Answer) -> Served:
        answer.begin(Head(200, {}))
        await trio.sleep(60)
        return Served(b"done", counts=True)

    async with (
        open_idempotent_requests(settings, cluster.open_node("http://one"), 9) as one,
        open_idempotent_requests(settings, cluster.open_node("http://other"), 9) as other,
    ):
        run = one.start("me", "name", b"digest", serve, lambda: None)
        with one.attend(run, owner=True):
            await trio.sleep(1)
            assert await read(other) == b"done"
            assert 59 < trio.current_time() < 62


async def test_it_is_not_waited_for_for_ever(autojump_clock: trio.abc.Clock) -> None:
    """The other node could not keep what became of it."""
    cluster = MemoryCluster(9e9)
    claimed = await cluster.open_node("http://one").claim_request("me", "name", b"digest", 9e9)
    assert claimed is None
    async with open_idempotent_requests(
        IdempotencySettings(), cluster.open_node("http://other"), 9
    ) as other:
        with trio.fail_after(WAIT_SECONDS + 10), pytest.raises(Conflict) as caught:
            await read(other)
        assert caught.value.code == "request_in_progress"
