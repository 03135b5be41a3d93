"""Playbooks of a session's machine: children that are given from one conversation to another.

Facts of the CLI behind them: tests/contract/test_recycling.py.
"""

from __future__ import annotations

import pytest

from ccapi.actors.session.child import CUT_PAUSE, MAX_CUT_TRIES, MOST_TOOLS, ChildState
from ccapi.actors.session.child import _signed as signed
from ccapi.actors.session.events import StartTurn
from ccapi.actors.session.machine import AT_ONCE_SECONDS
from ccapi.actors.session.phases import Limits
from ccapi.actors.session.replay import IN_BODY_FROM
from ccapi.schemas.claude.input import TOOL_SERVERS
from ccapi.schemas.message import digest
from ccapi.schemas.turn import Memory, Setup, Tool, TurnRequest
from tests.support.talk import (
    ASLEEP,
    BUSY,
    CLOSED,
    IDLE,
    LOOK,
    RELEASING,
    STOPPING,
    WAKING,
    Talk,
    assistant,
    awaiting_tools,
    called,
    idle,
    releasing,
    results,
    turn_id,
    user,
)

RECYCLE = Limits(recycle=True)


def released(talk: Talk) -> ChildState:
    """Empty its child; return what the next conversation gets."""
    talk.give_way(0)
    talk.cut()
    assert talk.looked()[-1].startswith("hand over")
    return talk.handed[-1]


def after(state: ChildState, memory: Memory | None = None) -> Talk:
    """Another conversation, whose first turn ``new`` waits for a child."""
    talk = Talk(RECYCLE, memory or Memory(Setup("sonnet")))
    talk.turn("new")
    assert talk.phase is WAKING
    return talk


# -- a release -------------------------------------------------------------------------------------


def test_a_child_is_emptied_looked_at_and_handed_over() -> None:
    talk = idle(RECYCLE)
    talk.finish("one", "eins")
    assert talk.give_way(0) == ["cut zero to one", "look"]
    assert talk.phase is RELEASING
    assert talk.cut() == []
    assert talk.looked() == ["hand over"]
    assert talk.phase is ASLEEP
    assert talk.handed[0].held == ()
    assert not talk.handed[0].cuts


def test_the_next_conversation_writes_its_prompt_and_no_initialize() -> None:
    talk = after(state := released(idle(RECYCLE)))
    assert talk.ready(state, source="recycled") == ["ask new"]
    assert talk.sources == ["recycled"]
    talk.answer("neu")
    assert talk.turn("two") == ["started two", "ask two"]
    assert talk.sources == ["recycled", "warm"]


def test_the_first_conversation_goes_on_in_another_child() -> None:
    talk = idle(RECYCLE)
    released(talk)
    assert talk.turn("one") == ["started one", "wake"]
    assert talk.ready() == ["initialize sonnet", "history user zero"]
    assert talk.takes_history() == ["history assistant null", "ask one"]


def test_a_child_whose_only_turn_was_taken_back_is_only_looked_at() -> None:
    talk = Talk(RECYCLE)
    talk.turn("one")
    talk.ready()
    talk.set_up()
    talk.fails(529)
    talk.rewound()
    assert talk.give_way(0) == ["look"]
    assert talk.looked() == ["hand over"]


def test_a_turn_that_comes_meanwhile_waits_for_the_next_child() -> None:
    talk = releasing()
    assert talk.turn("one") == ["started one"]
    assert talk.cut() == []
    assert talk.looked() == ["hand over", "wake"]
    assert talk.phase is WAKING


def test_a_child_is_cut_back_to_a_common_beginning() -> None:
    talk = idle(RECYCLE)
    talk.finish("one", "eins")
    talk.finish("two", "zwei")
    child = talk.machine.resident
    assert child is not None
    said = [user("zero"), assistant("null"), user("one"), assistant("eins"), user("other")]
    digests = [digest(message) for message in said]
    assert child.cut_for(Setup("sonnet"), digests) == 4
    assert child.cut_for(Setup("sonnet"), digests[:3]) == 2
    assert child.cut_for(Setup("sonnet"), digests[1:]) == 0
    assert child.cut_for(Setup("opus"), digests) == 0
    assert talk.give_way(4) == ["cut two to two"]
    assert talk.cut(before="uuid of eins") == ["hand over"]
    memory = Memory(Setup("sonnet"))
    other = Talk(RECYCLE, memory)
    other.turn(*said)
    assert other.ready(talk.handed[0], source="prefix") == ["ask other"]
    other.answer("anders")
    assert other.machine.memory.seed == (*said, assistant("anders"))


def test_the_calls_of_a_child_that_waits_for_results_go_with_them() -> None:
    talk = awaiting_tools(RECYCLE)
    assert talk.give_way(0) == ["cut zero to one", "look"]
    assert talk.aborted() == []
    talk.cut()
    assert talk.looked() == ["hand over"]
    # The conversation still waits for its results.
    assert talk.turn(results(c1="sunny")) == ["started c1 is sunny", "wake"]
    assert talk.ready() == ["initialize sonnet", "history user zero"]


def test_a_cut_does_not_part_calls_from_their_results() -> None:
    """The CLI refuses that."""
    talk = Talk(RECYCLE)
    said = [user("one"), called("c1"), results(c1="sunny")]
    talk.turn(*said, tools=[LOOK])
    talk.serve("Sunny.")
    talk.finish("two", "zwei")
    child = talk.machine.resident
    assert child is not None
    digests = [digest(each) for each in (*said, assistant("Sunny."), user("other"))]
    setup = Setup("sonnet", tools=(LOOK,))
    assert child.cut_for(setup, digests) == 4
    assert child.cut_for(setup, digests[:3]) == 0, "not before the results, behind the calls"


def test_a_child_that_was_spared_a_beginning_is_only_emptied() -> None:
    talk = Talk(RECYCLE)
    said = [user("a"), assistant("A"), user("b"), assistant("B")]
    talk.turn(*said, "one", history_limit=3)
    talk.serve("eins")
    child = talk.machine.resident
    assert child is not None
    assert child.is_partial
    digests = [digest(each) for each in (*said, user("one"), assistant("eins"), user("two"))]
    assert child.cut_for(Setup("sonnet"), digests) == 0
    assert talk.give_way(0)[0].startswith("cut ")


def test_a_conversation_is_valued_once_a_client_came_back_or_named_it() -> None:
    talk = Talk(RECYCLE)
    talk.finish("one", "eins")
    assert not talk.machine.is_valued
    talk.finish("two", "zwei")
    assert talk.machine.is_valued
    named = Talk(RECYCLE)
    request = TurnRequest((user("one"),), conversation_id="conv_a")
    named.machine.advance(StartTurn(turn_id("one"), request), 0.0)
    assert named.machine.is_valued


def test_a_turn_is_expected_at_once_of_a_client_that_came_at_once() -> None:
    talk = Talk(RECYCLE)
    talk.finish("one", "eins")
    talk.finish("two", "zwei")  # at once
    soon = talk.machine.expected_within
    assert 0 < soon < 0.05
    talk.now += 0.1
    talk.finish("three", "drei")
    assert soon < talk.machine.expected_within <= AT_ONCE_SECONDS
    talk.now += 1
    talk.finish("four", "vier")
    assert not talk.machine.expected_within


# -- children in doubt -----------------------------------------------------------------------------


@pytest.mark.parametrize("reason", ["target_not_found", "stale_target", "unseen_later_turn", ""])
def test_a_child_that_refuses_goes(reason: str) -> None:
    talk = releasing()
    assert talk.cut(reason=reason) == ["kill"]
    assert talk.phase is STOPPING
    assert talk.gone() == []


def test_a_busy_child_is_asked_again_and_not_for_ever() -> None:
    talk = releasing()
    for _ in range(MAX_CUT_TRIES - 1):
        assert talk.looked() == []  # it looked too early
        assert talk.cut(reason="commands_queued") == []
        assert talk.machine.deadline == pytest.approx(talk.now + CUT_PAUSE)
        assert talk.rings() == ["cut zero to zero", "look"]
    assert talk.cut(reason="commands_queued") == ["kill"]


def test_an_answer_to_an_earlier_try_does_not_count() -> None:
    talk = releasing()
    first = [f["request_id"] for f in talk.written if "release" in f.get("request_id", "")][-1]
    talk.cut(reason="turn_running")
    talk.rings()
    assert talk.rewound(first) == []
    assert talk.phase is RELEASING


def test_a_look_before_the_cut_is_no_proof() -> None:
    talk = releasing()
    assert talk.looked() == []
    assert talk.cut() == ["look"]
    assert talk.looked() == ["hand over"]


def test_a_child_that_still_holds_messages_goes() -> None:
    talk = releasing()
    assert talk.cut() == []
    assert talk.looked("System prompt", "Messages") == ["kill"]


def test_a_history_that_begins_with_an_answer_cannot_be_emptied() -> None:
    talk = Talk(RECYCLE)
    talk.turn(assistant("I began."), "one")
    talk.serve("eins")
    assert talk.give_way(0) == ["cut one to one", "look"]
    assert talk.cut(before="uuid of it") == ["kill"]


def test_a_cut_in_the_middle_needs_an_answer_before_it() -> None:
    talk = idle(RECYCLE)
    talk.finish("one", "eins")
    assert talk.give_way(2) == ["cut one to one"]
    assert talk.cut() == ["kill"]


@pytest.mark.parametrize(
    ("status", "is_kept"), [(400, False), (413, False), (429, True), (529, True)]
)
def test_a_child_of_which_the_api_refused_something_serves_no_other(
    status: int, is_kept: bool
) -> None:
    talk = idle(RECYCLE)
    talk.turn("one")
    talk.fails(status)
    talk.rewound()
    assert talk.phase is IDLE
    assert talk.give_way(0) == (["cut zero to zero", "look"] if is_kept else ["retire"])


def test_without_recycling_a_child_is_retired() -> None:
    assert idle().give_way(0) == ["retire"]


def test_an_agents_child_is_never_handed_over() -> None:
    talk = Talk(RECYCLE, Memory(Setup("sonnet", profile="agent")))
    talk.finish("one", "eins")
    assert talk.give_way(0) == ["retire"]


# -- the end of a conversation ---------------------------------------------------------------------


def test_a_closed_conversation_leaves_its_child_to_others() -> None:
    talk = idle(RECYCLE)
    assert talk.close() == ["cut zero to zero", "look"]
    assert talk.cut() == []
    assert talk.looked() == ["hand over"]
    assert talk.phase is CLOSED


# -- what changes from one conversation to the next ------------------------------------------------


def test_a_child_learns_prompts_and_changes_from_one_to_another() -> None:
    talk = Talk(RECYCLE, Memory(Setup("sonnet", "Be brief.")))
    talk.turn("one")
    words = talk.ready(palette=("Be kind.", "Be brief."))
    assert words == ["initialize sonnet, Be brief., Be kind.", "ask one"]
    talk.set_up()
    talk.answer("eins")
    state = released(talk)
    assert state.knows(Setup("opus", "Be kind."))
    assert not state.knows(Setup("sonnet", "Be bold."))
    assert not state.knows(Setup("sonnet"))
    other = after(state, Memory(Setup("opus", "Be kind.")))
    assert other.ready(state) == ["agent p1, opus", "ask new"]
    other.answer("neu")
    state = released(other)
    third = after(state, Memory(Setup("sonnet", "Be kind.")))
    assert third.ready(state) == ["model sonnet", "ask new"]


def test_a_child_without_a_prompt_takes_conversations_without_one() -> None:
    state = released(idle(RECYCLE))
    assert state.knows(Setup("opus"))
    assert not state.knows(Setup("sonnet", "Be brief."))


def test_in_one_conversation_another_model_takes_an_emptied_child() -> None:
    talk = idle(RECYCLE)
    assert talk.turn("one", model="opus") == ["started one", "cut zero to zero", "look"]
    talk.cut()
    assert talk.looked() == ["hand over", "wake"]
    assert talk.ready(talk.handed[0]) == ["model opus", "history user zero"]
    assert talk.takes_history() == ["history assistant null", "ask one"]


def test_settings_of_a_turn_go_with_its_conversation() -> None:
    talk = Talk(RECYCLE)
    talk.turn("one", max_tokens=5000, reasoning=True)
    assert talk.ready() == ["initialize sonnet", "settings", "show thinking", "ask one"]
    talk.set_up()
    talk.answer("eins")
    talk.give_way(0)
    talk.cut()
    assert talk.looked() == ["hand over, settings plain, thinking as before"]


def test_a_name_of_a_tool_server_comes_back_once_the_model_was_asked_without_it() -> None:
    talk = Talk(RECYCLE)
    talk.turn("one", tools=[LOOK])
    talk.ready()
    talk.set_up()
    talk.answer("eins")
    state = released(talk)
    first, second = TOOL_SERVERS[:2]
    # Without a turn of the model between them, every change takes a new name.
    for number in range(1, len(TOOL_SERVERS)):
        setup = Setup("sonnet", tools=(Tool(f"tool {number}"),))
        assert state.can_reconfigure(setup)
        state.reconfigure(setup)
    again = Setup("sonnet", tools=(LOOK,))
    assert not state.can_reconfigure(again)
    assert not state.knows(again), "the pool gives it to no conversation with other tools"
    assert state.can_reconfigure(Setup("sonnet")), "no tools need no name"
    other = after(state, Memory(Setup("sonnet")))
    assert other.ready(state) == ["tools of ", "ask new"]
    other.starts()
    assert state.can_reconfigure(Setup("sonnet", tools=(LOOK,)))
    assert {first, second} <= set(state._names)


def test_a_child_that_knows_a_tool_otherwise_does_not_serve_the_conversation() -> None:
    """The CLI would show the model the first description, for as long as it runs."""
    talk = Talk(RECYCLE)
    talk.turn("one", tools=[Tool("look", "It is Ada's.")])
    talk.ready()
    talk.set_up()
    talk.answer("eins")
    child = talk.machine.resident
    assert child is not None
    digests = [digest(user("one")), digest(assistant("eins"))]
    other = Setup("sonnet", tools=(Tool("look", "It is Eve's."),))
    same = Setup("sonnet", tools=(Tool("look", "It is Ada's."), Tool("count")))
    talk.finish("two", "zwei")
    assert child.cut_for(same, digests) == 2
    assert child.cut_for(other, digests) == 0
    assert child.knows(same)
    assert not child.knows(other)
    # Another schema makes it another tool; its keys' order, and how a number is written, do not.
    one, two = '{"type":"object","n":1}', '{"n":1.0,"type":"object"}'
    child._told.clear()
    child._told |= signed(Setup("sonnet", tools=(Tool("look", "It is Ada's.", one),)))
    assert child.knows(other)
    assert not child.knows(Setup("sonnet", tools=(Tool("look", "It is Eve's.", two),)))
    assert child.knows(Setup("sonnet", tools=(Tool("look", "It is Ada's.", two),)))
    assert child.knows(Setup("sonnet", schema='{"type":"object"}'))
    child._told |= {("look", 0, number): b"" for number in range(MOST_TOOLS)}
    assert child.knows(Setup("sonnet"))
    assert not child.knows(Setup("sonnet", schema='{"type":"object"}')), "its memory is bounded"
    child._told.clear()
    child._told |= signed(Setup("sonnet", tools=(Tool("look", "It is Ada's."),)))
    # In its own conversation too, another child takes the turn.
    words = talk.turn("three", tools=[Tool("look", "Anew.")])
    assert words == ["started three", "cut one to two", "look"]


# -- long histories --------------------------------------------------------------------------------


def long(count: int) -> list[str]:
    return [f"said {number}" for number in range(count)]


def test_a_long_plain_history_goes_in_the_body() -> None:
    talk = Talk(RECYCLE)
    said = [(assistant if n % 2 else user)(text) for n, text in enumerate(long(40))]
    assert talk.turn(*said, "now") == ["started now", "wake"]
    assert talk.ready() == ["initialize sonnet", "settings", "ask said 0"]
    talk.set_up()
    assert talk.answer("jetzt")[-1] == "rewind said 0"
    talk.rewound()
    assert talk.phase is IDLE
    held = (*said, user("now"), assistant("jetzt"))
    assert talk.machine.memory.seed == held
    assert talk.machine.resident is not None
    assert talk.machine.resident.held == ()
    # The next turn does the same.
    assert talk.turn("then") == ["started then", "settings", "ask said 0"]
    assert talk.phase is BUSY


def test_with_tools_a_long_history_is_replayed() -> None:
    talk = Talk(RECYCLE)
    said = [(assistant if n % 2 else user)(text) for n, text in enumerate(long(40))]
    talk.turn(*said, "now", tools=[LOOK])
    assert talk.ready() == ["initialize sonnet", "history user said 0"]


def test_a_child_that_was_told_calls_and_got_their_results_takes_no_turn_back() -> None:
    """The CLI refuses that: ``target_splits_tool_call``."""
    talk = Talk(RECYCLE)
    talk.turn("one", called("c1"), results(c1="sunny"), tools=[LOOK])
    talk.ready()
    talk.set_up()
    talk.takes_history()
    assert talk.interrupt("c1 is sunny") == ["end c1 is sunny: turn_interrupted", "kill"]


def test_a_child_that_holds_most_of_a_long_history_is_replayed_the_rest() -> None:
    talk = Talk(RECYCLE)
    said = [(assistant if n % 2 else user)(text) for n, text in enumerate(long(14))]
    talk.turn(*said, "one")
    talk.serve("eins")
    talk.finish("two", "zwei")
    talk.finish("three", "drei")
    child = talk.machine.resident
    assert child is not None
    whole = [*talk.machine.memory.seed[:-2], user("other")]
    assert len(whole) > IN_BODY_FROM
    assert child.cut_for(Setup("sonnet"), [digest(each) for each in whole]) == len(whole) - 1
    talk.give_way(len(whole) - 1)
    talk.cut(before="uuid of zwei")
    other = Talk(RECYCLE)
    other.turn(*whole)
    assert other.ready(talk.handed[0], source="prefix") == ["ask other"]
