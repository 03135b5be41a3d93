"""Several pieces of work at once: the first failure ends the rest, and comes out as it is."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from ccapi.actors.runtime.together import run_together


async def test_all_of_it_is_done_at_once(autojump_clock: MockClock) -> None:
    done: list[int] = []

    def work(number: int) -> object:
        async def run() -> None:
            await trio.sleep(10 - number)
            done.append(number)

        return run

    began = trio.current_time()
    await run_together(*(work(number) for number in range(3)))  # type: ignore[arg-type]
    assert done == [2, 1, 0]
    assert trio.current_time() - began == 10


@pytest.mark.parametrize("beside", [0, 2])
async def test_a_failure_ends_the_rest_and_comes_out_as_it_is(
    autojump_clock: MockClock, beside: int
) -> None:
    error = ValueError("no")
    ended = 0

    async def fail() -> None:
        await trio.sleep(1)
        raise error

    async def wait() -> None:
        nonlocal ended
        try:
            await trio.sleep_forever()
        finally:
            ended += 1

    with pytest.raises(ValueError, match="no") as caught:
        await run_together(*[wait] * beside, fail)
    assert caught.value is error
    assert ended == beside


async def test_it_can_be_cancelled(autojump_clock: MockClock) -> None:
    with trio.move_on_after(1) as scope:
        await run_together(trio.sleep_forever)
    assert scope.cancelled_caught
