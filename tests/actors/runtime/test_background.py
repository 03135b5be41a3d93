"""Work that outlives its caller, on the autojump clock."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from ccapi.actors.runtime.background import open_background
from ccapi.schemas.errors import InternalError, Overloaded, RateLimited


async def test_work_goes_on_without_its_asker_and_ends_with_the_gateway(
    autojump_clock: trio.testing.MockClock,
) -> None:
    seen: list[str] = []

    async def work() -> None:
        try:
            await trio.sleep(1)
            seen.append("done")
            await trio.sleep_forever()
        finally:
            seen.append("ended")

    async with open_background(2) as background:
        background.start(work)
        await trio.sleep(2)
        assert seen == ["done"]
    assert seen == ["done", "ended"]


async def test_there_is_a_bound_and_what_ends_makes_room(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_background(1) as background:

        async def work() -> None:
            await trio.sleep(1)

        background.start(work)
        with pytest.raises(RateLimited):
            background.start(work)
        await trio.sleep(2)
        background.start(work)


async def test_a_crash_ends_nothing_else(autojump_clock: trio.testing.MockClock) -> None:
    seen: list[str] = []

    async def crash() -> None:
        raise RuntimeError("an error")

    async def fail() -> None:
        raise InternalError("reported already")

    async def work() -> None:
        await trio.sleep(1)
        seen.append("done")

    async with open_background(9) as background:
        for each in (crash, fail, work):
            background.start(each)
        await trio.sleep(2)
    assert seen == ["done"]
    with pytest.raises(Overloaded):
        background.start(work)
