"""Both sides of a turn: backpressure, one end, and a caller that may go whenever it likes."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from ccapi.actors.runtime.reply_channel import REPLY_SLOTS, CallerGone, Port, Turn, open_turn
from ccapi.schemas.errors import ChildDied, InternalError, TurnInterrupted
from ccapi.schemas.turn import Completed, Failed, Reply, Usage
from ccapi.schemas.turn_items import TextDelta

USAGE = Usage(prompt_tokens=3, completion_tokens=2)
WHOLE = Completed("stop", USAGE)


def a_turn(turn_id: str = "turn-1") -> tuple[Turn, Port]:
    return open_turn(turn_id, "conv_1", "sonnet")


def fill(port: Port) -> None:
    for number in range(REPLY_SLOTS):
        port.deliver_nowait(TextDelta(str(number)))


async def expect_caller_gone(port: Port) -> None:
    with pytest.raises(CallerGone), trio.fail_after(5):
        await port.deliver(TextDelta("late"))


async def expect_over(port: Port) -> None:
    with trio.fail_after(5):
        await port.over.wait()


async def test_items_then_the_outcome() -> None:
    turn, port = a_turn()
    assert repr(turn) == "<Turn turn-1 running>"
    async with trio.open_nursery() as nursery:

        async def session() -> None:
            await port.deliver(TextDelta("Hel"))
            port.deliver_nowait(TextDelta("lo"))
            port.end(WHOLE)

        nursery.start_soon(session)
        with trio.fail_after(5):
            assert [item async for item in turn] == [TextDelta("Hel"), TextDelta("lo")]
    assert (turn.finish_reason, turn.usage) == ("stop", USAGE)
    assert repr(turn) == "<Turn turn-1 Completed>"


async def test_a_reply_is_the_turn_read_whole() -> None:
    turn, port = a_turn()
    port.deliver_nowait(TextDelta("Hel"))
    port.deliver_nowait(TextDelta("lo"))
    port.end(WHOLE)
    assert await turn.reply() == Reply("Hello", "stop", USAGE, "conv_1", "sonnet")


async def test_a_failed_turn_gives_what_it_has_and_then_raises() -> None:
    turn, port = a_turn()
    port.deliver_nowait(TextDelta("half"))
    died = ChildDied("It is gone.")
    port.end(Failed(died))
    read = []
    with pytest.raises(ChildDied) as caught:
        async for item in turn:
            read.append(item)
    assert read == [TextDelta("half")]
    assert caught.value is died
    assert caught.value.__context__ is None
    for read_outcome in (lambda: turn.usage, lambda: turn.finish_reason):
        with pytest.raises(ChildDied):
            read_outcome()
    with pytest.raises(ChildDied):
        await turn.reply()


async def test_an_outcome_is_not_there_before_the_end() -> None:
    turn, _ = a_turn()
    with pytest.raises(InternalError):
        _ = turn.usage


async def test_a_turn_ends_exactly_once() -> None:
    turn, port = a_turn()
    port.end(WHOLE)
    with pytest.raises(AssertionError, match="exactly once"):
        port.end(Failed(ChildDied("no")))
    assert port.outcome == WHOLE
    assert turn.finish_reason == "stop"


async def test_nothing_is_delivered_after_the_end() -> None:
    turn, port = a_turn()
    port.end(WHOLE)
    with pytest.raises(CallerGone):
        port.deliver_nowait(TextDelta("late"))
    await expect_caller_gone(port)
    assert [item async for item in turn] == []


async def test_a_caller_that_does_not_read_holds_up_its_own_turn_alone() -> None:
    """Invariant 4."""
    stalled, stalled_port = a_turn("stalled")
    other, other_port = a_turn("other")
    fill(stalled_port)
    with pytest.raises(trio.WouldBlock):
        stalled_port.deliver_nowait(TextDelta("over"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stalled_port.deliver, TextDelta("over"))
        await trio.testing.wait_all_tasks_blocked()
        for number in range(3 * REPLY_SLOTS):
            await other_port.deliver(TextDelta(str(number)))
            assert await anext(other) == TextDelta(str(number))
        assert stalled_port.outcome is None
        assert await anext(stalled) == TextDelta("0")  # one read makes room for one item
    stalled_port.end(WHOLE)
    rest = [item.text async for item in stalled if isinstance(item, TextDelta)]
    assert rest == [*map(str, range(1, REPLY_SLOTS)), "over"]


async def test_ending_a_turn_does_not_wait_for_its_caller() -> None:
    """A delivery at that moment raises `CallerGone`; what was delivered stays readable."""
    turn, port = a_turn()
    fill(port)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(expect_caller_gone, port)
        await trio.testing.wait_all_tasks_blocked()
        port.end(WHOLE)
        assert port.over.is_set()
    said = [item.text async for item in turn if isinstance(item, TextDelta)]
    assert said == [*map(str, range(REPLY_SLOTS))]
    assert turn.finish_reason == "stop"


async def test_hanging_up_ends_a_wait_to_deliver() -> None:
    turn, port = a_turn()
    fill(port)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(expect_caller_gone, port)
        nursery.start_soon(expect_over, port)
        await trio.testing.wait_all_tasks_blocked()
        assert not port.over.is_set()
        turn.hang_up()
    assert port.outcome is None, "hanging up is not an outcome: the session gives that"
    with pytest.raises(CallerGone):
        port.deliver_nowait(TextDelta("late"))


async def test_the_end_may_come_after_the_caller_has_gone_and_before() -> None:
    turn, port = a_turn()
    turn.hang_up()
    turn.hang_up()
    port.end(WHOLE)
    assert port.outcome == WHOLE
    turn, port = a_turn()
    port.end(WHOLE)
    turn.hang_up()
    assert turn.finish_reason == "stop"


@pytest.mark.parametrize("outcome", [None, WHOLE])
async def test_a_turn_that_was_hung_up_raises_that_when_read(outcome: Completed | None) -> None:
    turn, port = a_turn()
    port.deliver_nowait(TextDelta("lost"))
    if outcome is not None:
        port.end(outcome)
    turn.hang_up()
    with pytest.raises(TurnInterrupted, match="closed this turn"):
        await anext(turn)
    with pytest.raises(TurnInterrupted, match="closed this turn"):
        await turn.reply()
    with pytest.raises(TurnInterrupted, match="closed this turn"):
        await turn.receive_items()


async def test_a_failed_turn_that_was_hung_up_raises_its_own_error() -> None:
    turn, port = a_turn()
    turn.hang_up()
    port.end(Failed(ChildDied("no")))
    with pytest.raises(ChildDied):
        await anext(turn)
    with pytest.raises(ChildDied):
        await turn.receive_items()


async def test_a_reader_that_waits_learns_that_the_turn_was_left() -> None:
    turn, _ = a_turn()

    async def read() -> None:
        with pytest.raises(TurnInterrupted):
            await anext(turn)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await trio.testing.wait_all_tasks_blocked()
        turn.hang_up()


async def test_items_that_wait_come_together() -> None:
    turn, port = a_turn()
    port.deliver_nowait(TextDelta("a"))
    port.deliver_nowait(TextDelta("b"))
    assert await turn.receive_items() == [TextDelta("a"), TextDelta("b")]
    with trio.move_on_after(0.01) as none_waits:
        await turn.receive_items()
    assert none_waits.cancelled_caught
    port.deliver_nowait(TextDelta("c"))
    port.end(Failed(ChildDied("no")))
    assert await turn.receive_items() == [TextDelta("c")]  # how it ended comes behind
    with pytest.raises(ChildDied) as caught:
        await turn.receive_items()
    assert caught.value.__context__ is None


async def test_no_items_come_at_the_end_of_a_whole_answer() -> None:
    turn, port = a_turn()
    port.deliver_nowait(TextDelta("a"))
    port.end(WHOLE)
    assert [await turn.receive_items(), await turn.receive_items()] == [[TextDelta("a")], []]


async def test_a_cancelled_reader_loses_no_item() -> None:
    turn, port = a_turn()
    port.deliver_nowait(TextDelta("a"))
    with trio.CancelScope() as scope:
        scope.cancel()
        await anext(turn)
    assert scope.cancelled_caught
    with trio.CancelScope() as scope:
        scope.cancel()
        await turn.receive_items()
    assert scope.cancelled_caught
    assert await turn.receive_items() == [TextDelta("a")]


async def test_a_reply_that_takes_too_long(autojump_clock: trio.testing.MockClock) -> None:
    turn, port = a_turn()
    with pytest.raises(trio.TooSlowError):
        await turn.reply(timeout=5)
    assert not port.over.is_set(), "only hanging up stops a turn"
    assert trio.current_time() == pytest.approx(5)
