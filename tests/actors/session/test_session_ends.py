"""The session actor cancelled, broken, and in weather of every kind.

`tests.support.session_world` asserts for every test here that each turn ended exactly once, for its
caller and on the bus, that no conversation ever held two children, and that none was left.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import trio
from hypothesis import example, given, settings
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from ccapi.actors.runtime.reply_channel import REPLY_SLOTS, Turn
from ccapi.actors.session.events import (
    Action,
    ChildGone,
    ChildReady,
    Close,
    Event,
    GiveWay,
    Interrupt,
    StartTurn,
)
from ccapi.actors.session.machine import Machine
from ccapi.actors.session.phases import Limits, Phase
from ccapi.schemas import events
from ccapi.schemas.claude.output import TurnResult
from ccapi.schemas.errors import (
    GatewayError,
    InternalError,
    Overloaded,
    TurnInterrupted,
)
from ccapi.schemas.turn import Failed, Memory, Setup
from ccapi.schemas.turn_items import TextDelta

from ...support.fake_child import echo, mute, result, silent, text_delta
from ...support.session_world import (
    Seat,
    World,
    drain,
    failure,
    open_world,
    outcome,
    running_turn,
)

# -- cancellation ----------------------------------------------------------------------------------


async def test_a_caller_that_is_cancelled_interrupts_its_turn(autojump_clock: MockClock) -> None:
    async with open_world() as world:
        seat = world.seat()
        turn, child = await running_turn(world, seat)
        with trio.move_on_after(5):
            try:
                await turn.reply()
            finally:
                turn.hang_up()
        await wait_all_tasks_blocked()
        assert outcome(turn) == "turn_interrupted"
        child.brain = echo
        assert await seat.ask("next") == "echo: next"


async def until_waking(world: World, seat: Seat) -> list[Turn]:
    world.pool.gate = trio.Event()
    return [await seat.submit("one"), await seat.submit("two")]


async def until_busy(world: World, seat: Seat) -> list[Turn]:
    turn, _ = await running_turn(world, seat)
    return [turn, await seat.submit("waiting")]


async def until_delivering(world: World, seat: Seat) -> list[Turn]:
    turn, child = await running_turn(world, seat)
    child.say(*(text_delta("x") for _ in range(REPLY_SLOTS + 1)))
    return [turn]


async def until_interrupting(world: World, seat: Seat) -> list[Turn]:
    turn, child = await running_turn(world, seat)
    child.brain, child.lingers = mute, True
    turn.hang_up()
    await wait_all_tasks_blocked()
    return [await seat.submit("next")]


async def until_stopping(world: World, seat: Seat) -> list[Turn]:
    await seat.ask("one")
    await wait_all_tasks_blocked()
    world.pool.child.lingers = True
    world.pool.call_in(world.pool.child)
    return [await seat.submit("next")]


async def until_unread(world: World, seat: Seat) -> list[Turn]:
    return [seat.submit_nowait("unread")]


@pytest.mark.parametrize(
    "until",
    [until_waking, until_busy, until_delivering, until_interrupting, until_stopping, until_unread],
)
async def test_a_session_that_is_cancelled_ends_its_turns(until: Any) -> None:
    async with open_world() as world:
        seat = world.seat()
        turns = await until(world, seat)
        if until is not until_unread:
            await wait_all_tasks_blocked()
        seat.cancel()
        assert await seat.wait_ended() is None
        for turn in turns:
            error = await failure(turn)
            assert isinstance(error, Overloaded)
            assert error.code == "draining"
        for child in world.pool.lent:
            assert child.fate


async def test_a_cancelled_session_retires_an_idle_child() -> None:
    async with open_world() as world:
        seat = world.seat()
        await seat.ask("one")
        await wait_all_tasks_blocked()
        seat.cancel()
        await seat.wait_ended()
        assert world.pool.child.fate == "retired"
        assert not world.pool.offered


# -- crashes ---------------------------------------------------------------------------------------


class Bug(Exception):
    """What a machine that is broken raises."""


@pytest.fixture
def sabotage(monkeypatch: pytest.MonkeyPatch) -> Callable[[type, str], None]:
    """Make the machine of one conversation fail at an event."""
    broken: list[tuple[type, str]] = []
    advance = Machine.advance

    def advance_or_fail(self: Machine, event: Event, now: float) -> list[Action]:
        for kind, system in broken:
            if isinstance(event, kind) and self.memory.setup.system == system:
                raise Bug(type(event).__name__)
        return advance(self, event, now)

    monkeypatch.setattr(Machine, "advance", advance_or_fail)
    return lambda kind, system: broken.append((kind, system))


def fragile_seat(world: World) -> Seat:
    return world.seat("conv_fragile", Memory(Setup("haiku", system="fragile")))


async def provoke(world: World, seat: Seat, kind: type) -> None:
    """See to it that the event happens to a session with a running turn."""
    turn, child = seat.turns[1], world.pool.child
    match kind:
        case _ if kind is StartTurn:
            await seat.submit("one more")
        case _ if kind is TextDelta:
            child.say(text_delta("x"))
        case _ if kind is TurnResult:
            child.say(result("x"))
        case _ if kind is ChildGone:
            child.die()
        case _ if kind is Interrupt:
            turn.hang_up()
        case _ if kind is Close:
            await seat.ref.tell(Close(TurnInterrupted("Gone.")))


@pytest.mark.parametrize("kind", [StartTurn, TextDelta, TurnResult, ChildGone, Interrupt, Close])
async def test_a_session_that_crashes_ends_its_turns_and_no_other_session(
    kind: type, sabotage: Callable[[type, str], None]
) -> None:
    async with open_world() as world:
        sibling = world.seat("conv_sibling")
        undisturbed, sound = await running_turn(world, sibling)
        seat = fragile_seat(world)
        turn, child = await running_turn(world, seat)
        waiting = await seat.submit("waiting")
        await wait_all_tasks_blocked()
        sabotage(kind, "fragile")
        await provoke(world, seat, kind)
        ended = await seat.wait_ended()
        assert ended is not None
        assert ended.crashed
        for lost in seat.turns[1:]:
            assert outcome(lost) == "internal_error"
        assert isinstance(await failure(waiting), InternalError)
        assert child.fate in ("killed", "died")
        assert outcome(undisturbed) == "running"
        sound.answer("unharmed")
        assert (await undisturbed.reply()).text == "unharmed"
        assert {event.error.code for event in world.of(events.TurnFailed)} == {"internal_error"}
        assert outcome(turn) == "internal_error"


async def test_a_crash_while_giving_way_is_not_the_pools(
    sabotage: Callable[[type, str], None],
) -> None:
    async with open_world() as world:
        seat = fragile_seat(world)
        await seat.ask("one")
        await wait_all_tasks_blocked()
        sabotage(GiveWay, "fragile")
        world.pool.call_in(world.pool.child)  # would raise here, in another session's task
        ended = await seat.wait_ended()
        assert ended is not None
        assert ended.crashed
        assert world.pool.child.fate == "killed"


async def test_a_crashed_session_has_nothing_on_offer(
    sabotage: Callable[[type, str], None],
) -> None:
    async with open_world() as world:
        seat = fragile_seat(world)
        await seat.ask("one")
        await wait_all_tasks_blocked()
        sabotage(StartTurn, "fragile")
        turn = seat.submit_nowait("two")
        await seat.wait_ended()
        assert not world.pool.offered
        assert world.pool.child.fate == "killed"
        assert outcome(turn) == "internal_error"


async def test_a_crash_in_the_first_moment_of_a_child_leaves_none_behind(
    sabotage: Callable[[type, str], None],
) -> None:
    async with open_world() as world:
        seat = fragile_seat(world)
        sabotage(ChildReady, "fragile")
        turn = await seat.submit("one")
        await seat.wait_ended()
        assert (outcome(turn), world.pool.child.fate) == ("internal_error", "killed")


async def test_after_a_crash_the_conversation_goes_on_where_it_was(
    sabotage: Callable[[type, str], None],
) -> None:
    async with open_world() as world:
        seat = fragile_seat(world)
        await running_turn(world, seat)
        remembered = seat.state.memory
        assert remembered.turns == 1
        sabotage(Interrupt, "fragile")
        seat.turns[-1].hang_up()
        await seat.wait_ended()
        assert (seat.state.memory, seat.state.phase) == (remembered, Phase.ASLEEP)
        seat.start()
        assert await seat.ask("still there?") == "echo: still there?"
        assert world.pool.child.history == ["first"]
        assert seat.state.memory.turns == 2


# -- listeners -------------------------------------------------------------------------------------


async def test_a_listener_that_lags_or_crashes_changes_no_answer() -> None:
    async def crash(world: World) -> None:
        with pytest.raises(Bug):
            with world.bus.subscribe() as subscription:
                async for _ in subscription:
                    raise Bug

    async with open_world() as world:
        world.nursery.start_soon(crash, world)
        await wait_all_tasks_blocked()
        with world.bus.subscribe(buffer=1) as laggard:
            seat = world.seat()
            for text in ("one", "two", "three"):
                assert await drain(await seat.submit(text)) == ["echo: ", text]
            assert laggard.lost > 3


# -- anything, in any order ------------------------------------------------------------------------

STEPS = st.sampled_from(
    (
        *("submit", "submit now", "other model", "read", "leave", "interrupt"),
        *("delta", "answer", "die", "nonsense", "linger", "bury"),
        *("give way", "gate", "settle", "wait"),
    )
)


SETTLED_TURN = [("submit", 0), ("settle", 0), ("answer", 0), ("settle", 0)]


@settings(max_examples=300, deadline=None)
@given(steps=st.lists(st.tuples(STEPS, st.integers(0, 3)), max_size=40))
@example(steps=[*SETTLED_TURN, ("delta", 0), ("settle", 0), ("submit", 0), ("settle", 0)])
def test_every_turn_ends_once_whatever_happens(steps: list[tuple[str, int]]) -> None:
    trio.run(live_through, steps, clock=MockClock(autojump_threshold=0))


async def live_through(steps: list[tuple[str, int]]) -> None:
    limits = Limits(turn=60, silence=40, queued=3, freeze=10, hibernate=50)
    async with open_world(silent, limits=limits, stall_seconds=20) as world:
        seat = world.seat()
        for step, number in steps:
            if seat.state.ref is None:  # it crashed: its child spoke although no turn ran
                await seat.wait_ended()
                seat.start()
            await take(step, number, world, seat)


async def take(step: str, number: int, world: World, seat: Seat) -> None:
    """One thing that can happen; `number` says to which of several, from the last."""
    turn = seat.turns[-1 - number] if number < len(seat.turns) else None
    child = world.pool.child if world.pool.lent else None
    match step:
        case "submit" | "other model":
            model = "opus" if step == "other model" else None
            with trio.move_on_after(1):
                await seat.submit("x", model=model, reject_if_busy=number == 3)
        case "submit now":
            message = seat.prepare("y")
            if not seat.ref.tell_nowait(message[1]):
                message[1].port.end(Failed(InternalError("The mailbox is full.")))
        case "read" if turn is not None:
            with trio.move_on_after(number):
                with suppress(GatewayError, trio.ClosedResourceError):
                    await drain(turn)
        case "leave" if turn is not None:
            turn.hang_up()
        case "interrupt" if turn is not None:
            seat.ref.tell_nowait(Interrupt(turn.turn_id))
        case "delta" if child is not None:
            child.say(*(text_delta("z") for _ in range(number * 20 + 1)))
        case "answer" if child is not None and child.running:
            child.answer("a", "b")
        case "die" if child is not None:
            child.die()
        case "nonsense" if child is not None and number == 0:
            child.say_bytes(b"nonsense\n")
        case "linger" if child is not None and not child.fate:
            child.lingers = True
        case "bury" if child is not None and child.fate:
            child.bury()
        case "give way":
            for offered in list(world.pool.offered):
                world.pool.call_in(offered)
        case "gate":
            if world.pool.gate is None or world.pool.gate.is_set():
                world.pool.gate = trio.Event()
            else:
                world.pool.gate.set()
        case "settle":
            await wait_all_tasks_blocked()
        case "wait":
            await trio.sleep(number * 15)
