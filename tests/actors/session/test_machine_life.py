"""Playbooks of the session's machine: what comes in, and word for word what is to be done.

Here: how children and conversations come and go, and what time does to them.
How events are said and actions read: `tests.support.talk`. A turn goes by the text of its prompt.
"""

import math

import pytest

from ccapi.actors.runtime.restart_budget import RESTARTS, WINDOW
from ccapi.actors.session.events import Started, StartTurn
from ccapi.actors.session.phases import Limits, Phase
from ccapi.schemas.claude.output import AssistantDone
from ccapi.schemas.errors import TurnInterrupted
from ccapi.schemas.turn import Failed, Memory, Setup, TurnRequest
from ccapi.schemas.turn_items import TextDelta
from tests.support.talk import (
    ASLEEP,
    AWAITING_TOOLS,
    BACKOFF,
    BUSY,
    CLOSED,
    IDLE,
    IN_PHASE,
    INTERRUPTING,
    RELEASING,
    STOPPING,
    WAKING,
    Talk,
    asleep,
    awaiting_tools,
    backing_off,
    busy,
    closed,
    idle,
    interrupting,
    stopping,
    turn_id,
    user,
    waking,
)


def every_phase_but(*others: Phase) -> pytest.MarkDecorator:
    phases = [phase for phase in Phase if phase not in others]
    return pytest.mark.parametrize("phase", phases, ids=[phase.value for phase in phases])


every_phase = every_phase_but()


@every_phase
def test_the_phases_of_these_playbooks_are_what_they_are_called(phase: Phase) -> None:
    assert IN_PHASE[phase]().phase is phase


# -- children that go ------------------------------------------------------------------------------


def test_a_child_that_dies_fails_its_turn_alone() -> None:
    talk = busy()
    talk.turn("two")
    talk.says("half")
    assert talk.gone() == ["end one: child_died", "wake"]
    assert talk.ready() == ["initialize sonnet", "history user zero"]
    assert talk.takes_history() == ["history assistant null", "ask two"]


def test_an_idle_child_that_dies_is_not_missed() -> None:
    talk = idle()
    assert talk.gone() == []
    assert talk.phase is ASLEEP
    assert talk.turn("one") == ["started one", "wake"]


def test_a_child_that_dies_in_a_rewind_does_not_affect_the_queue() -> None:
    talk = interrupting()
    talk.turn("two")
    assert talk.gone() == ["wake"]


@every_phase_but(ASLEEP, WAKING, BACKOFF, CLOSED)
def test_a_child_that_goes(phase: Phase) -> None:
    talk = IN_PHASE[phase]()
    # A new child gets the turn, since its client has received nothing.
    assert talk.gone() == (["wake"] if phase is BUSY else [])
    assert talk.phase is (WAKING if phase is BUSY else ASLEEP)


def test_no_child_can_be_had() -> None:
    talk = waking()
    talk.turn("two")
    assert talk.wake_failed() == ["end one: cli_not_found", "wake"]
    assert talk.wake_failed() == ["end two: cli_not_found"]
    assert talk.phase is ASLEEP


def test_a_child_that_cannot_be_set_up() -> None:
    talk = waking()
    talk.ready()
    assert talk.set_up("no such agent") == ["end one: upstream_failed", "kill"]
    assert talk.gone() == []
    assert talk.phase is ASLEEP


def test_a_lost_session_fails_with_its_own_error() -> None:
    talk = Talk(memory=Memory(Setup("sonnet", profile="agent")))
    talk.finish("zero", "null")
    talk.give_way()
    talk.gone()
    talk.turn("one")
    talk.ready()
    text = "No conversation found with session ID: cli-session"
    subtype = "error_during_execution"
    lost = talk.result(text, is_error=True, subtype=subtype, num_turns=0, user_uuid=None)
    assert lost == ["end one: conversation_lost", "kill"]  # and none of its messages are kept


def test_an_answer_shows_that_the_child_is_set_up() -> None:
    talk = idle(Limits(start=10, silence=50, turn=1000))
    talk.give_way()
    talk.gone()
    talk.turn("one")
    talk.ready()
    talk.takes_history()
    talk.answer("eins")
    talk.now = 100.0
    talk.turn("two")
    assert talk.machine.deadline == 150


def test_one_more_death_than_the_budget_has_room_for() -> None:
    talk = asleep()
    for number in range(RESTARTS):
        assert talk.turn(f"victim {number}")[1:] == ["wake"]
        talk.ready()
        talk.says("half")
        assert talk.gone() == [f"end victim {number}: child_died"]
        talk.now += 10
    talk.turn("last")
    talk.turn("waiting")
    talk.ready()
    talk.says("half")
    assert talk.gone() == ["end last: child_died", "end waiting: restart_budget_spent"]
    assert talk.phase is BACKOFF
    assert talk.turn("more") == ["started more", "end more: restart_budget_spent"]
    # The first one died at zero.
    assert talk.machine.deadline == WINDOW
    assert talk.rings() == []
    assert talk.phase is ASLEEP
    assert talk.turn("again") == ["started again", "wake"]


def test_a_turn_need_not_wait_for_the_timer() -> None:
    talk = backing_off()
    talk.now = talk.machine.deadline
    assert talk.turn("again") == ["started again", "wake"]


def test_the_error_has_the_time_to_wait() -> None:
    talk = backing_off()
    talk.now += 20
    talk.turn("too early")
    outcome = talk.ends[-1].outcome
    assert isinstance(outcome, Failed)
    assert outcome.error.retry_after == WINDOW - 20


def test_children_that_cannot_be_set_up_spend_the_budget_too() -> None:
    talk = asleep()
    talk.turn("one")
    talk.ready()
    talk.set_up("no")
    talk.gone()
    talk.turn("two")
    talk.ready()
    talk.fails()
    talk.gone()
    talk.turn("three")
    talk.ready()
    assert talk.rings() == ["end three: child_start_timeout", "kill"]
    talk.gone()
    talk.turn("four")
    talk.turn("five")
    talk.ready()
    assert talk.set_up("no") == ["end four: upstream_failed", "kill"]
    assert talk.gone() == ["end five: restart_budget_spent"]
    assert talk.phase is BACKOFF


def test_stopped_children_spend_nothing() -> None:
    talk = idle()
    for number in range(10):
        talk.give_way()
        assert talk.gone() == []
        assert talk.turn(f"{number}")[1:] == ["wake"]
        talk.ready()
        assert talk.interrupt(f"{number}")[1:] == ["kill"]
        talk.gone()
        talk.turn(f"and {number}")
        talk.serve("null")


def test_a_child_that_is_not_kept() -> None:
    talk = Talk(Limits(keep_child=False))
    talk.turn("one")
    talk.turn("two")
    talk.ready()
    talk.set_up()
    assert talk.answer("eins") == ["deliver eins", "end one: completed stop, eins", "retire"]
    assert talk.gone() == ["wake"]
    assert talk.ready() == ["initialize sonnet", "history user one"]


def test_an_idle_child_gives_way() -> None:
    talk = idle()
    assert talk.give_way() == ["retire"]
    assert talk.turn("one") == ["started one"]
    assert talk.gone() == ["wake"]


def test_a_child_that_waits_for_results_gives_way_at_once() -> None:
    # With its stdin closed it would answer its calls by itself, and continue the turn.
    talk = awaiting_tools()
    assert talk.give_way() == ["kill"]
    assert talk.gone() == []
    assert talk.phase is ASLEEP


@every_phase_but(IDLE, AWAITING_TOOLS)
def test_only_a_resting_child_gives_way(phase: Phase) -> None:
    talk = IN_PHASE[phase]()
    assert talk.give_way() == []
    assert talk.phase is phase


# -- time ------------------------------------------------------------------------------------------


def test_a_turn_that_takes_too_long() -> None:
    talk = busy(Limits(turn=100, silence=math.inf))
    assert talk.machine.deadline == 100
    talk.now = 60
    talk.turn("two")
    assert talk.rings() == ["end one: turn_timeout", "rewind one"]
    talk.rewound()
    assert talk.machine.deadline == 160
    assert talk.rings() == ["end two: turn_timeout", "rewind two"]


def test_a_turn_that_waits_too_long_for_a_child() -> None:
    talk = asleep(Limits(turn=100))
    talk.turn("one")
    talk.now = 30
    talk.turn("two")
    assert talk.machine.deadline == 100
    assert talk.rings() == ["end one: turn_timeout", "cancel wake", "wake"]
    assert talk.rings() == ["end two: turn_timeout", "cancel wake"]


def test_a_turn_that_waits_too_long_for_its_turn() -> None:
    talk = interrupting(Limits(turn=3, interrupt=5))
    talk.turn("two")
    assert talk.machine.deadline == 3
    assert talk.rings() == ["end two: turn_timeout"]
    assert (talk.phase, talk.machine.deadline) == (INTERRUPTING, 5)


def test_turns_that_time_out_together_wake_no_child() -> None:
    talk = asleep(Limits(turn=100))
    for name in ("one", "two", "three"):
        talk.turn(name)
    assert talk.rings() == [
        "end two: turn_timeout",
        "end three: turn_timeout",
        "end one: turn_timeout",
        "cancel wake",
    ]


def test_a_child_that_falls_silent() -> None:
    talk = busy(Limits(silence=20))
    talk.now = 15
    talk.machine.child_active(talk.now)
    assert talk.machine.deadline == 35
    assert talk.rings() == ["end one: turn_timeout", "rewind one"]


def test_an_idle_child_may_be_silent() -> None:
    talk = idle(Limits(silence=20))
    assert talk.machine.deadline == math.inf
    talk.now = 100
    talk.turn("one")
    assert talk.machine.deadline == 120


def test_a_timer_that_was_set_before_the_child_showed_life() -> None:
    talk = busy(Limits(silence=20))
    due = talk.machine.deadline
    talk.machine.child_active(19)
    talk.now = due
    assert talk.rings_now() == []
    assert (talk.phase, talk.machine.deadline) == (BUSY, 39)


def test_a_child_that_is_never_set_up() -> None:
    talk = Talk(Limits(start=10))
    talk.turn("one")
    talk.now = 5
    talk.ready()
    talk.now = 12
    talk.machine.child_active(talk.now)  # words, but not the answer
    assert talk.machine.deadline == 15
    assert talk.rings() == ["end one: child_start_timeout", "kill"]


def test_a_child_that_does_not_take_back_in_time() -> None:
    talk = interrupting(Limits(interrupt=5))
    talk.turn("two")
    assert talk.machine.deadline == 5
    assert talk.rings() == ["kill"]
    assert talk.rewound() == []  # too late
    assert talk.gone() == ["wake"]


def test_an_idle_child_is_frozen_then_hibernated_then_forgotten() -> None:
    talk = idle(Limits(freeze=30, hibernate=300, expire=1800))
    assert talk.machine.deadline == 30
    assert talk.rings() == ["freeze"]
    assert talk.machine.deadline == 300
    assert talk.rings() == ["retire"]
    talk.now += 1
    assert talk.gone() == []
    assert talk.machine.deadline == 1800
    assert talk.rings() == []
    assert talk.phase is CLOSED
    assert talk.machine.closing is not None
    assert talk.machine.closing.code == "expired"


def test_a_child_is_frozen_after_every_turn() -> None:
    talk = idle(Limits(freeze=30))
    assert talk.rings() == ["freeze"]
    talk.turn("one")
    talk.answer("eins")
    assert talk.machine.deadline == talk.now + 30
    assert talk.rings() == ["freeze"]


def test_a_timer_that_fires_late_does_what_is_left_to_do() -> None:
    talk = idle(Limits(freeze=30, hibernate=300))
    talk.now = 1000
    assert talk.rings_now() == ["retire"]


def test_a_conversation_expires_with_its_child() -> None:
    talk = idle(Limits(freeze=30, hibernate=3000, expire=1800))
    talk.rings()
    assert talk.machine.deadline == 1800
    assert talk.rings() == ["retire"]
    assert talk.phase is STOPPING
    assert talk.turn("one") == ["started one", "end one: expired"]
    assert talk.gone() == []
    assert talk.phase is CLOSED


def test_every_turn_keeps_a_conversation_alive() -> None:
    talk = idle(Limits(expire=1800))
    talk.now = 1000
    talk.turn("one")
    talk.now = 1100
    talk.answer("eins")
    assert talk.machine.deadline == 2900
    talk.give_way()
    talk.now = 1200
    talk.gone()
    assert talk.machine.deadline == 2900


def test_a_conversation_that_was_never_used_expires_too() -> None:
    talk = Talk(Limits(expire=1800))
    assert talk.machine.deadline == 1800
    talk.rings()
    assert talk.phase is CLOSED


# -- the end ---------------------------------------------------------------------------------------

CLOSING: dict[Phase, list[str]] = {
    ASLEEP: [],
    WAKING: ["end one: deleted", "cancel wake"],
    IDLE: ["retire"],
    BUSY: ["end one: deleted", "kill"],
    AWAITING_TOOLS: ["kill"],
    INTERRUPTING: ["kill"],
    BACKOFF: [],
    RELEASING: [],
    STOPPING: [],
    CLOSED: [],
}


@every_phase
def test_closing(phase: Phase) -> None:
    talk = IN_PHASE[phase]()
    assert talk.close() == CLOSING[phase]
    at_once = {ASLEEP, WAKING, BACKOFF, CLOSED}
    expected = CLOSED if phase in at_once else STOPPING
    assert talk.phase is (RELEASING if phase is RELEASING else expected)
    assert talk.close() == []
    assert talk.turn("late") == ["started late", "end late: deleted"]
    if talk.phase is RELEASING:
        assert talk.cut() == []
        assert talk.looked() == ["hand over"]
    if talk.phase is STOPPING:
        assert talk.gone() == []
    assert talk.phase is CLOSED
    assert talk.machine.deadline == math.inf
    assert talk.turn("later") == ["started later", "end later: deleted"]


def test_the_first_reason_to_close_counts() -> None:
    talk = stopping()
    talk.close()
    talk.close(TurnInterrupted("Again.", code="again"))
    assert talk.machine.closing is not None
    assert talk.machine.closing.code == "deleted"
    assert talk.turn("late") == ["started late", "end late: deleted"]


def test_closing_ends_the_turns_that_wait() -> None:
    talk = busy()
    talk.turn("two")
    assert talk.close() == ["end one: deleted", "end two: deleted", "kill"]


def test_closing_ends_a_turn_that_waits_for_another_child() -> None:
    talk = idle()
    talk.turn("one", model="opus")
    assert talk.close() == ["end one: deleted"]
    assert talk.gone() == []
    assert talk.phase is CLOSED


# -- children that say what they should not --------------------------------------------------------


@pytest.mark.parametrize("phase", [IDLE, BUSY, AWAITING_TOOLS, INTERRUPTING])
def test_what_the_child_asks_for_is_refused(phase: Phase) -> None:
    talk = IN_PHASE[phase]()
    assert talk.asks("r1") == ["refuse r1"]
    answer = talk.written[-1]["response"]
    assert answer["error"] == "can_use_tool is not served here"
    assert talk.phase is phase


@every_phase_but(ASLEEP, WAKING, IDLE, BUSY, AWAITING_TOOLS, BACKOFF, CLOSED)
def test_late_frames_change_nothing(phase: Phase) -> None:
    talk = IN_PHASE[phase]()
    memory, deadline = talk.machine.memory, talk.machine.deadline
    for frame in (TextDelta("late"), AssistantDone("u", synthetic=False, text="late")):
        assert talk.feed(frame) == []
    assert talk.result("late") == []
    assert talk.set_up() == []
    assert talk.set_up("late") == []
    assert (talk.phase, talk.machine.memory) == (phase, memory)
    assert talk.machine.deadline == deadline


def test_a_second_answer_to_the_initialize_changes_nothing() -> None:
    talk = Talk()
    talk.turn("one")
    talk.ready()
    talk.set_up()
    assert talk.set_up("second thoughts") == []
    assert talk.phase is BUSY


def test_an_error_before_the_turn_is_taken_on_is_a_started_turn_too() -> None:
    talk = closed()
    actions = talk.machine.advance(StartTurn(turn_id("x"), TurnRequest((user("x"),))), 0)
    assert actions[0] == Started(turn_id("x"), "sonnet")


def test_the_machine_shows_its_phase_and_its_turns() -> None:
    talk = busy()
    talk.turn("two")
    assert repr(talk.machine) == f"<Machine BUSY <TurnQueue current={turn_id('one')} waiting=1>>"
    assert repr(Talk().machine) == "<Machine ASLEEP <TurnQueue current=none waiting=0>>"
