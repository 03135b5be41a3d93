"""An answer while it is written and read, without a gateway."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from ccapi.actors.idempotency.answer import Answer, CutShort, Head, LostPlace, Reader
from ccapi.schemas.errors import Conflict
from ccapi.schemas.openai.sse import HEARTBEAT


async def rest(reader: Reader) -> bytes:
    found = b""
    while piece := await reader.receive():
        found += piece
    return found


async def test_every_reader_reads_all_from_the_beginning(autojump_clock: trio.abc.Clock) -> None:
    answer = Answer(100)
    read: list[bytes] = []

    async def follow(*, owner: bool, after: float) -> None:
        await trio.sleep(after)
        with answer.read(owner=owner) as reader:
            read.append(await rest(reader))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: follow(owner=True, after=0))
        nursery.start_soon(lambda: follow(owner=False, after=2.5))
        nursery.start_soon(lambda: follow(owner=False, after=60))
        answer.begin(Head(200, {}))
        for number in range(5):
            await answer.write(b"%d" % number)
            await answer.write(HEARTBEAT)
            await trio.sleep(1)
        answer.end(b"!")
    assert [each.replace(HEARTBEAT, b"") for each in read] == [b"01234!"] * 3
    assert answer.whole() == b"01234!"


async def test_beyond_the_limit_the_owner_holds_the_writer_up_and_no_other_reader() -> None:
    answer = Answer(10)
    with answer.read(owner=True) as owner, answer.read(owner=False) as slow:
        await answer.write(b"12345")
        assert await slow.receive() == b"12345"
        await answer.write(b"67890")  # all of it is in memory still: this does not wait
        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer.write, b"abcde")
            await trio.testing.wait_all_tasks_blocked()
            assert nursery.child_tasks
            assert await owner.receive() == b"1234567890abcde"
        assert answer.whole() is None
        with trio.fail_after(20):
            for _ in range(4):
                await answer.write(b"vwxyz")
                assert await owner.receive() == b"vwxyz"
        with pytest.raises(LostPlace):
            await slow.receive()
    with trio.fail_after(20):  # the owner has gone: nothing holds the writer up
        await answer.write(b"0" * 1000)
    with answer.read(owner=False) as late, pytest.raises(LostPlace):
        await late.receive()


async def test_an_owner_that_goes_lets_the_writer_go_on() -> None:
    answer = Answer(4)
    async with trio.open_nursery() as nursery:
        with answer.read(owner=True):
            nursery.start_soon(answer.write, b"too long")
            await trio.testing.wait_all_tasks_blocked()
            assert nursery.child_tasks
        with trio.fail_after(20):
            await trio.testing.wait_all_tasks_blocked()
        assert not nursery.child_tasks


async def test_a_reader_learns_how_an_answer_ends() -> None:
    cut = Answer(100)
    await cut.write(b"a")
    cut.cut()
    with cut.read(owner=False) as reader:
        assert await reader.receive() == b"a"
        with pytest.raises(CutShort):
            await reader.receive()
    refused = Answer(100)
    refused.refuse(Conflict("No."))
    with refused.read(owner=True) as reader, pytest.raises(Conflict):
        await reader.receive()
