from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock, assert_checkpoints, memory_stream_pair, wait_all_tasks_blocked

from ccapi.transport.http.guarded_stream import GuardedStream, ReplayStream

STALL = 30.0
MUCH = b"x" * 8_000_000  # more than any socket buffer


def guarded_pair(linger: float = 2.0) -> tuple[GuardedStream, trio.SocketStream]:
    ours, theirs = trio.socket.socketpair()
    return GuardedStream(trio.SocketStream(ours), STALL, linger), trio.SocketStream(theirs)


async def read_all(stream: trio.abc.ReceiveStream) -> bytes:
    data = b""
    while piece := await stream.receive_some():
        data += piece
    return data


async def test_bytes_pass_unchanged_both_ways() -> None:
    guard, peer = guarded_pair()
    async with guard, peer:
        await guard.send_all(b"to the peer")
        assert await peer.receive_some() == b"to the peer"
        await peer.send_all(b"from the peer")
        assert await guard.receive_some() == b"from the peer"
        await guard.send_all(b"")
        await guard.send_eof()
        assert await peer.receive_some() == b""


async def test_a_large_write_arrives_whole() -> None:
    guard, peer = guarded_pair()
    data = bytes(range(256)) * 20_000

    async def send() -> None:
        await guard.send_all(data)
        await guard.send_eof()

    async with guard, peer, trio.open_nursery() as nursery:
        nursery.start_soon(send)
        assert await read_all(peer) == data


async def test_a_peer_that_does_not_read_is_given_up(autojump_clock: MockClock) -> None:
    guard, peer = guarded_pair()
    async with guard, peer:
        began = trio.current_time()
        with pytest.raises(trio.BrokenResourceError, match="no byte for 30 s"):
            await guard.send_all(MUCH)
        assert trio.current_time() - began == pytest.approx(STALL)
        assert guard.closed
        with pytest.raises(trio.ClosedResourceError):
            await guard.send_all(b"more")


async def test_a_slow_peer_is_waited_for(autojump_clock: MockClock) -> None:
    guard, peer = guarded_pair()
    received = 0

    async def read_slowly() -> None:
        nonlocal received
        while received < len(MUCH):
            await trio.sleep(STALL * 0.9)
            received += len(await peer.receive_some(1_000_000))

    async with guard, peer, trio.open_nursery() as nursery:
        nursery.start_soon(read_slowly)
        began = trio.current_time()
        await guard.send_all(MUCH)
        assert trio.current_time() - began > 3 * STALL
    assert received == len(MUCH)


async def test_patience_begins_anew_with_each_byte_taken(autojump_clock: MockClock) -> None:
    guard, peer = guarded_pair()

    async def read_for_a_while() -> None:
        for _ in range(3):
            await trio.sleep(20)
            await peer.receive_some(1_000_000)

    async with guard, peer, trio.open_nursery() as nursery:
        nursery.start_soon(read_for_a_while)
        began = trio.current_time()
        with pytest.raises(trio.BrokenResourceError, match="no byte"):
            await guard.send_all(MUCH)
        assert trio.current_time() - began == pytest.approx(60 + STALL)


async def test_a_cancelled_write_closes_the_stream() -> None:
    guard, peer = guarded_pair()
    async with guard, peer:
        with trio.move_on_after(0.01) as scope:
            await guard.send_all(MUCH)
        assert scope.cancelled_caught
        assert guard.closed
        assert len(await read_all(peer)) < len(MUCH)


async def test_a_write_cancelled_before_its_first_byte_closes_the_stream_too() -> None:
    guard, peer = guarded_pair()
    async with guard, peer:
        with trio.CancelScope() as scope:
            scope.cancel()
            await guard.send_all(b"little")
        assert guard.closed
        assert await read_all(peer) == b""


async def test_close_wakes_a_shielded_write() -> None:
    guard, peer = guarded_pair()

    async def send_shielded() -> None:
        with trio.CancelScope(shield=True), pytest.raises(trio.ClosedResourceError):
            await guard.send_all(MUCH)

    async with guard, peer, trio.open_nursery() as nursery:
        nursery.start_soon(send_shielded)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
        guard.close()


async def test_two_writers_at_once_are_an_error() -> None:
    guard, peer = guarded_pair()
    async with guard, peer, trio.open_nursery() as nursery:
        nursery.start_soon(guard.send_all, MUCH)
        await wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError):
            await guard.send_all(b"in between")
        assert repr(guard).endswith(" sending>")
        assert not guard.closed
        nursery.cancel_scope.cancel()


async def test_a_write_to_a_peer_that_has_gone_is_broken() -> None:
    guard, peer = guarded_pair()
    await peer.aclose()
    with pytest.raises(trio.BrokenResourceError):
        await guard.send_all(b"anyone?")
    assert guard.closed


async def test_a_write_that_fits_lets_other_tasks_run() -> None:
    guard, peer = guarded_pair()
    async with guard, peer:
        with assert_checkpoints():
            await guard.send_all(b"short")
        with assert_checkpoints():
            await guard.send_all(b"")


async def test_closing_waits_until_the_peer_has_closed_too(autojump_clock: MockClock) -> None:
    guard, peer = guarded_pair()

    async def hang_up_later() -> None:
        await trio.sleep(1)
        await peer.send_all(b"still sending")
        assert await peer.receive_some() == b""
        await peer.aclose()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(hang_up_later)
        await guard.aclose()
        assert trio.current_time() == pytest.approx(1)


async def test_closing_does_not_wait_for_ever(autojump_clock: MockClock) -> None:
    guard, peer = guarded_pair(linger=2)
    async with peer:
        began = trio.current_time()
        await guard.aclose()
        assert trio.current_time() - began == pytest.approx(2)
        assert guard.closed
        await guard.aclose()


async def test_closing_when_cancelled_is_immediate(autojump_clock: MockClock) -> None:
    guard, peer = guarded_pair()
    async with peer:
        began = trio.current_time()
        await trio.aclose_forcefully(guard)
        assert trio.current_time() == began
        assert guard.closed


@pytest.mark.parametrize("size", [1, 3, 4, 100, None])
async def test_a_replayed_head_comes_before_the_rest(size: int | None) -> None:
    ours, theirs = memory_stream_pair()
    replay = ReplayStream(b"head", ours)
    await theirs.send_all(b" and rest")
    await theirs.send_eof()
    pieces = []
    while piece := await replay.receive_some(size):
        pieces.append(piece)
    assert b"".join(pieces) == b"head and rest"
    assert all(len(piece) <= (size or 100) for piece in pieces)


async def test_a_replaying_stream_knows_whether_it_was_answered() -> None:
    ours, theirs = memory_stream_pair()
    replay = ReplayStream(b"", ours)
    assert not replay.written
    await replay.wait_send_all_might_not_block()
    await replay.send_all(b"answer")
    assert replay.written
    assert await theirs.receive_some() == b"answer"
    await replay.aclose()
    assert await theirs.receive_some() == b""
