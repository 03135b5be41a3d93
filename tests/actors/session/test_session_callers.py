"""The session actor and its callers: those that hang up, lag, stall, crowd in or come too late.

`tests.support.session_world` asserts for every test here that each turn ended exactly once, for its
caller and on the bus, that no conversation ever held two children, and that none was left.
"""

from __future__ import annotations

import math

import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from ccapi.actors.runtime.mailbox import MAILBOX
from ccapi.actors.runtime.reply_channel import REPLY_SLOTS, Turn
from ccapi.actors.session.events import (
    Close,
    Interrupt,
)
from ccapi.actors.session.phases import Limits
from ccapi.schemas import events
from ccapi.schemas.errors import (
    Conflict,
    TurnInterrupted,
    TurnTimeout,
)
from ccapi.schemas.turn import Options

from ...support.fake_child import echo, message_delta, silent, text_delta
from ...support.session_world import failure, open_world, outcome, running_turn, text_of

# -- callers that hang up, lag and stall ---------------------------------------------------------


async def test_a_caller_that_hangs_up_on_a_silent_model_interrupts_at_once(
    autojump_clock: MockClock,
) -> None:
    async with open_world() as world:
        seat = world.seat()
        turn, child = await running_turn(world, seat)
        before = trio.current_time()
        turn.hang_up()
        await wait_all_tasks_blocked()
        assert outcome(turn) == "turn_interrupted"
        child.brain = echo
        assert await seat.ask("and now?") == "echo: and now?"
        assert trio.current_time() == before


async def test_a_turn_whose_caller_left_before_it_was_taken_costs_nothing() -> None:
    async with open_world() as world:
        seat = world.seat()
        seat.submit_nowait("no caller waits for this").hang_up()
        assert await seat.ask("but for this") == "echo: but for this"
    assert world.pool.child.prompts == ["but for this"]
    assert len(list(world.of(events.TurnAccepted))) == 1


async def test_a_caller_that_hangs_up_while_its_turn_waits_ends_that_turn_alone() -> None:
    async with open_world() as world:
        seat = world.seat()
        running, child = await running_turn(world, seat)
        waiting = await seat.submit("waiting")
        waiting.hang_up()
        await wait_all_tasks_blocked()
        assert (outcome(running), outcome(waiting)) == ("running", "turn_interrupted")
        child.answer("done")
        assert (await running.reply()).text == "done"
    assert "waiting" not in child.prompts


async def test_a_caller_that_never_reads_delays_no_other(autojump_clock: MockClock) -> None:
    async with open_world() as world:
        seat, other = world.seat("conv_a"), world.seat("conv_b")
        stalled, child = await running_turn(world, seat)
        child.say(*(text_delta(f"{number} ") for number in range(REPLY_SLOTS * 2)))
        await wait_all_tasks_blocked()

        # Other conversations, and this one's own mailbox, are as quick as ever.
        before = trio.current_time()
        assert await other.ask("quick") == "echo: quick"
        refused = await seat.submit("now!", reject_if_busy=True)
        assert isinstance(await failure(refused), Conflict)
        await seat.ref.tell(Interrupt(stalled.turn_id))
        await wait_all_tasks_blocked()
        assert outcome(stalled) == "turn_interrupted"
        assert trio.current_time() == before

        # What was delivered can be read, then comes the end.
        got = list(map(text_of, await stalled.receive_items()))
        assert got == [f"{number} " for number in range(REPLY_SLOTS)]
        assert isinstance(await failure(stalled), TurnInterrupted)


async def test_a_stalled_caller_can_hang_up() -> None:
    async with open_world() as world:
        seat = world.seat()
        stalled, child = await running_turn(world, seat)
        child.say(*(text_delta("x") for _ in range(REPLY_SLOTS * 2)))
        await wait_all_tasks_blocked()
        stalled.hang_up()
        child.brain = echo
        assert await seat.ask("next") == "echo: next"
        assert outcome(stalled) == "turn_interrupted"


async def test_a_caller_that_stops_reading_is_taken_to_have_gone(autojump_clock: MockClock) -> None:
    async with open_world(stall_seconds=30) as world:
        seat = world.seat()
        stalled, child = await running_turn(world, seat)
        child.say(*(text_delta("x") for _ in range(REPLY_SLOTS + 1)))
        await wait_all_tasks_blocked()
        began = trio.current_time()
        await trio.sleep(29)
        assert outcome(stalled) == "running"
        await trio.sleep(2)
        assert outcome(stalled) == "turn_interrupted"
        # It comes back: what it missed must not look like a whole answer.
        assert isinstance(await failure(stalled), TurnInterrupted)
        assert trio.current_time() == began + 31


async def test_a_slow_caller_is_not_taken_for_a_silent_child(autojump_clock: MockClock) -> None:
    # The whole answer is read from the child in one piece, and given away in ten minutes.
    limits = Limits(turn=math.inf, silence=25)
    async with open_world(limits=limits, stall_seconds=30) as world:
        turn, child = await running_turn(world, world.seat())
        child.answer(*map(str, range(REPLY_SLOTS + 20)))
        got = []
        async for item in turn:
            got.append(text_of(item))
            await trio.sleep(29)
        assert got == list(map(str, range(REPLY_SLOTS + 20)))


async def test_after_a_slow_caller_the_childs_silence_counts_from_then_on(
    autojump_clock: MockClock,
) -> None:
    limits = Limits(turn=math.inf, silence=25)
    async with open_world(limits=limits, stall_seconds=30) as world:
        turn, child = await running_turn(world, world.seat())
        child.say(*map(text_delta, map(str, range(REPLY_SLOTS + 1))))
        await trio.sleep(20)
        began = trio.current_time()
        assert isinstance(await failure(turn), TurnTimeout)
        assert trio.current_time() == began + 25


# -- the mailbox -----------------------------------------------------------------------------------


async def test_a_caller_that_lags_does_not_keep_the_child_waiting(
    autojump_clock: MockClock,
) -> None:
    async with open_world() as world:
        seat = world.seat()
        await seat.ask("first")
        child = world.pool.child
        child.brain = silent
        turn = await seat.submit("go on", options=Options(stop=("STOP",)))
        await child.wait_prompts(2)
        child.say(*(text_delta("x") for _ in range(REPLY_SLOTS)))
        await wait_all_tasks_blocked()
        # Cut off, the model would be asked to go on: the child has to go at once, although there
        # is text left to deliver, and no room for it.
        child.say(text_delta("ST"), message_delta("max_tokens"))
        await child.gone.wait()
        assert child.fate == "killed"
        assert outcome(turn) == "running"
        reply = await turn.reply()
        assert (reply.text, reply.finish_reason) == ("x" * REPLY_SLOTS + "ST", "length")


async def test_more_turns_than_a_mailbox_and_a_queue_hold() -> None:
    limits = Limits(queued=5)
    async with open_world(silent, limits=limits) as world:
        seat = world.seat()
        turns: list[Turn] = []

        async def submit(number: int) -> None:
            turns.append(await seat.submit(str(number)))

        async with trio.open_nursery() as nursery:
            for number in range(MAILBOX * 3):
                nursery.start_soon(submit, number)
        await wait_all_tasks_blocked()
        outcomes = [outcome(turn) for turn in turns]
        assert outcomes.count("running") == 1 + limits.queued
        assert outcomes.count("too_many_turns") == MAILBOX * 3 - 1 - limits.queued


async def test_turns_that_the_actor_never_read_end_too() -> None:
    async with open_world() as world:
        seat = world.seat()
        assert seat.ref.tell_nowait(Close(TurnInterrupted("Gone.", code="deleted")))
        turns = [seat.submit_nowait(str(number)) for number in range(MAILBOX - 1)]
        late: list[Turn] = []

        async def submit() -> None:
            turn, message = seat.prepare("late")
            late.append(turn)
            await seat.ref.tell(message)  # the mailbox is full: it has to wait

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(submit)
        await seat.wait_ended()
        assert {outcome(turn) for turn in turns + late} == {"deleted"}
        assert world.pool.asked == 0


async def test_closing_ends_what_runs_and_what_waits() -> None:
    async with open_world() as world:
        seat = world.seat()
        turn, child = await running_turn(world, seat)
        waiting = await seat.submit("waiting")
        await seat.ref.tell(Close(TurnInterrupted("Gone.", code="deleted")))
        ended = await seat.wait_ended()
        assert ended is not None
        assert ended.error.code == "deleted"
        assert (outcome(turn), outcome(waiting), child.fate) == ("deleted", "deleted", "killed")
