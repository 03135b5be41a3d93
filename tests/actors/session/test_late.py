"""Which event fits which phase, which may come late, and that every other one is raised.

The machine's own table (`actors.session.late.LATE`) names the late ones. Here is the rest: every
pair of a phase and a kind of event is either handled, or late, or unexpected.
"""

from itertools import product

import pytest
import trio.testing
from structlog.testing import capture_logs

from ccapi.actors.session import actor
from ccapi.actors.session.events import (
    ChildGone,
    ChildReady,
    Close,
    Event,
    Extend,
    GiveWay,
    Interrupt,
    PermissionReply,
    PermissionRequested,
    StartTurn,
    TimedOut,
    WakeFailed,
    Warm,
)
from ccapi.actors.session.late import LATE, UnexpectedEvent, late_because
from ccapi.actors.session.phases import Phase
from ccapi.schemas.claude.limits import LimitState
from ccapi.schemas.claude.output import (
    ApiRetry,
    AssistantDone,
    ControlAnswer,
    ControlAsked,
    ControlCancelled,
    MessageEnded,
    MessageStarted,
    PermissionAsked,
    ToolInput,
    ToolsReturned,
    ToolUseStarted,
    TurnResult,
)
from ccapi.schemas.errors import ChildDied, InternalError, Overloaded, TurnInterrupted
from ccapi.schemas.turn import TurnRequest, Usage
from ccapi.schemas.turn_items import ReasoningDelta, TextDelta
from tests.support.fake_child import text_delta
from tests.support.session_world import drain, open_world
from tests.support.talk import (
    AWAITING_TOOLS,
    BUSY,
    IDLE,
    IN_PHASE,
    INTERRUPTING,
    RELEASING,
    STOPPING,
    WAKING,
    turn_id,
    user,
)

EVERY = set(Phase)
WITH_CHILD = {IDLE, BUSY, AWAITING_TOOLS, INTERRUPTING, RELEASING}

ANSWER: tuple[Event, ...] = (
    TextDelta("t"),
    ReasoningDelta("r"),
    MessageStarted(Usage()),
    MessageEnded("end_turn", Usage()),
    ToolUseStarted("c", "look"),
    ToolInput("{}"),
    AssistantDone("u", synthetic=False, text="t"),
    ToolsReturned(()),
    ApiRetry(1.0),
)
FITS: tuple[tuple[Event, set[Phase]], ...] = (
    (StartTurn(turn_id("x"), TurnRequest((user("x"),))), EVERY),
    (Interrupt(turn_id("x")), EVERY),
    (TimedOut(), EVERY),
    (Close(TurnInterrupted("Closed.")), EVERY),
    (Extend((user("x"),)), EVERY),
    (Warm(), {Phase.ASLEEP}),
    (GiveWay(), {IDLE, AWAITING_TOOLS}),
    (ChildReady(), {WAKING}),
    (WakeFailed(Overloaded("None.")), {WAKING}),
    (ChildGone(ChildDied("It ended.")), {*WITH_CHILD, STOPPING}),
    (PermissionRequested(PermissionAsked("p", "Bash", {}, "c"), answerable=True), WITH_CHILD),
    (PermissionReply(request_id="p", allow=True), {BUSY}),
    (ControlCancelled("p"), {BUSY}),
    (ControlAnswer("initialize", {}, None), {BUSY, IDLE, RELEASING}),
    (ControlAsked("r", "any"), WITH_CHILD),
    (LimitState(), WITH_CHILD),
    (TurnResult(False, "success", 1, "", "end_turn", None, "s", Usage(), 0.1), WITH_CHILD),
    *((frame, {BUSY}) for frame in ANSWER),
)


CASES = [
    pytest.param(phase, event, phases, id=f"{phase.value}-{type(event).__name__}")
    for phase, (event, phases) in product(Phase, FITS)
]


@pytest.mark.parametrize(("phase", "event", "phases"), CASES)
def test_an_event_is_handled_or_late_or_unexpected(
    phase: Phase, event: Event, phases: set[Phase]
) -> None:
    talk = IN_PHASE[phase]()
    machine, reason = talk.machine, late_because(phase, event)
    before = machine.memory, machine.deadline
    if phase in phases:
        assert reason is None, "an event that is handled is not late"
        machine.advance(event, talk.now)
        return
    if reason is None:
        with pytest.raises(UnexpectedEvent, match=f"{type(event).__name__} does not fit"):
            machine.advance(event, talk.now)
    else:
        assert machine.advance(event, talk.now) == []
    assert machine.phase is phase
    assert (machine.memory, machine.deadline) == before


def test_each_late_event_has_a_reason_of_its_own() -> None:
    pairs = [(phase, kind) for each in LATE for phase in each.phases for kind in each.kinds]
    assert len(pairs) == len(set(pairs))
    assert all(each.reason.endswith(".") for each in LATE)


async def test_under_test_an_unexpected_event_ends_its_session() -> None:
    assert actor.RAISE_UNEXPECTED, "tests/conftest.py sees to that"
    async with open_world() as world:
        seat = world.seat()
        assert await seat.ask("one") == "echo: one"
        world.pool.child.say(text_delta("stray"))
        ended = await seat.wait_ended()
        assert ended is not None
        assert ended.crashed
        assert isinstance(ended.error, InternalError)


async def test_in_production_an_unexpected_event_is_logged_and_dropped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(actor, "RAISE_UNEXPECTED", False)
    with capture_logs() as lines:
        async with open_world() as world:
            seat = world.seat()
            assert await seat.ask("one") == "echo: one"
            world.pool.child.say(text_delta("stray"), text_delta("stray"))
            await trio.testing.wait_all_tasks_blocked()
            assert await drain(await seat.submit("two")) == ["echo: ", "two"]
    logged = [line for line in lines if line["event"] == "unexpected event dropped"]
    assert len(logged) == 1, "once for each phase and kind"
