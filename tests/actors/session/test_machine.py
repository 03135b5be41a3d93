"""Playbooks of the session's machine: what comes in, and word for word what is to be done.

Here: how turns come, what is sent for them, what comes back, how they are interrupted.
How events are said and actions read: `tests.support.talk`. A turn goes by the text of its prompt.
"""

import pytest
from attrs import evolve

from ccapi.actors.session.events import Deliver
from ccapi.actors.session.phases import Limits, Phase
from ccapi.schemas.claude.output import ControlAnswer
from ccapi.schemas.message import digest
from ccapi.schemas.turn import Memory, Setup, Usage
from ccapi.schemas.turn_items import TextDelta
from tests.support.talk import (
    ASLEEP,
    BUSY,
    IDLE,
    IN_PHASE,
    INTERRUPTING,
    MEMORY,
    STOPPING,
    WAKING,
    Talk,
    assistant,
    busy,
    idle,
    interrupting,
    turn_id,
    user,
    waking,
)

every_phase = pytest.mark.parametrize("phase", Phase, ids=lambda phase: phase.value)


# -- turns -----------------------------------------------------------------------------------------


def test_a_child_reports_the_models_that_it_lists_when_it_is_set_up() -> None:
    talk = Talk()
    talk.turn("one")
    talk.ready()
    body = {"models": [{"value": "sonnet"}]}
    assert talk.feed(ControlAnswer("settings", body, None)) == []
    assert talk.feed(ControlAnswer("initialize", body, None)) == ["modelslisted"]


def test_a_first_turn() -> None:
    talk = Talk()
    assert talk.turn("one") == ["started one", "wake"]
    # The prompt does not wait for the answer to the initialize.
    assert talk.ready() == ["initialize sonnet", "ask one"]
    assert talk.set_up() == []
    assert talk.says("Hel", "lo") == ["deliver Hel", "deliver lo"]
    assert talk.done("Hello") == []
    assert talk.result("Hello") == ["end one: completed stop, Hello"]
    assert talk.phase is IDLE


def test_a_second_turn_goes_to_the_same_child() -> None:
    talk = Talk()
    talk.finish("one", "eins")
    assert talk.turn("two") == ["started two", "ask two"]
    assert talk.answer("zw", "ei") == ["deliver zw", "deliver ei", "end two: completed stop, zwei"]


def test_what_a_conversation_remembers() -> None:
    talk = Talk()
    talk.finish("one", "eins")
    talk.turn("two")
    talk.says("zw")
    talk.done("zw", "first block")
    talk.says("ei")
    talk.done("ei", "last block")
    talk.result("ei")
    said = (user("one"), assistant("eins"), user("two"), assistant("zwei"))
    assert talk.machine.memory == Memory(
        setup=Setup("sonnet"),
        digests=tuple(map(digest, said)),
        seed=(*said[:3], assistant("zw", "ei")),  # with its blocks as the model gave them
        turns=2,
        usage=Usage(prompt_tokens=20, completion_tokens=4),
    )


def test_turns_are_served_one_at_a_time_in_the_order_they_came() -> None:
    talk = busy()
    assert talk.turn("two") == ["started two"]
    assert talk.turn("three") == ["started three"]
    assert talk.answer("1") == ["deliver 1", "end one: completed stop, 1", "ask two"]
    assert talk.answer("2") == ["deliver 2", "end two: completed stop, 2", "ask three"]
    assert talk.answer("3") == ["deliver 3", "end three: completed stop, 3"]


def test_a_turn_that_would_have_to_wait_is_rejected_on_request() -> None:
    talk = busy()
    assert talk.turn("two", reject_if_busy=True) == ["started two", "end two: conversation_busy"]
    talk.answer("1")
    assert talk.turn("three", reject_if_busy=True) == ["started three", "ask three"]


def test_the_queue_is_bounded() -> None:
    talk = busy(Limits(queued=2))
    assert talk.turn("two") == ["started two"]
    assert talk.turn("three") == ["started three"]
    assert talk.turn("four") == ["started four", "end four: too_many_turns"]


def test_where_no_turn_may_wait_one_is_served_all_the_same() -> None:
    talk = busy(Limits(queued=0))
    assert talk.turn("two") == ["started two", "end two: too_many_turns"]
    talk.answer("1")
    assert talk.turn("three") == ["started three", "ask three"]
    # Nor does the one behind it, that waits for a child and not for a turn.
    talk.interrupt("three")
    assert talk.phase is INTERRUPTING
    assert talk.turn("four") == ["started four"]
    assert talk.turn("five") == ["started five", "end five: too_many_turns"]


def test_a_message_that_starts_with_a_slash_is_no_command() -> None:
    talk = idle()
    assert talk.turn("/help") == ["started /help", "ask /help|"]


# -- what is new in a request ----------------------------------------------------------------------


def test_of_a_repeated_history_only_what_is_new_is_sent() -> None:
    talk = Talk()
    talk.finish("one", "eins")
    assert talk.turn("one", assistant("eins"), "two") == ["started two", "ask two"]
    talk.answer("zwei")
    assert talk.turn(assistant("zwei"), "three") == ["started three", "ask three"]


def test_user_messages_in_a_row_are_one_message_of_several_blocks() -> None:
    talk = idle()
    assert talk.turn("one", "two") == ["started two", "ask one|two"]
    # It was all that was said, so one rewind takes it back.
    assert talk.interrupt("two") == ["end two: turn_interrupted", "rewind one|two"]


def test_a_history_that_contradicts_the_conversation_fails_the_turn() -> None:
    talk = idle()
    assert talk.turn("else", assistant("no"), "on") == ["started on", "end on: history_mismatch"]
    assert talk.phase is IDLE
    assert talk.turn("one") == ["started one", "ask one"]


def test_a_contradiction_is_found_only_when_the_turn_is_due() -> None:
    talk = busy()
    assert talk.turn("one", assistant("eins"), "two") == ["started two"]
    assert talk.turn("else", assistant("no"), "bad") == ["started bad"]
    assert talk.turn("three") == ["started three"]
    assert talk.answer("eins")[-1] == "ask two"
    assert talk.answer("zwei")[-2:] == ["end bad: history_mismatch", "ask three"]


def test_history_is_put_before_a_child_in_batches() -> None:
    talk = Talk()
    history = (assistant("hi"), user("a"), assistant("A"), user("b", "c"), assistant("B"))
    assert talk.turn(*history, "one") == ["started one", "wake"]
    assert talk.ready() == ["initialize sonnet", "history assistant hi", "history user a"]
    assert talk.set_up() == []
    assert talk.taken_in() == ["history assistant A", "history user b|c"]
    assert talk.taken_in() == ["history assistant B", "ask one"]
    assert talk.answer("eins") == ["deliver eins", "end one: completed stop, eins"]
    held = (*history, user("one"), assistant("eins"))
    assert talk.machine.memory.digests == tuple(map(digest, held))


def test_a_live_child_is_given_history_too() -> None:
    talk = idle()
    said = (user("zero"), assistant("null"), user("a"), assistant("A"))
    assert talk.turn(*said, "one") == ["started one", "history user a"]
    assert talk.taken_in() == ["history assistant A", "ask one"]


def test_a_result_of_another_message_does_not_go_on_with_the_history() -> None:
    talk = Talk()
    talk.turn("a", assistant("A"), "b", assistant("B"), "one")
    talk.ready()
    first = talk.last_user_uuid
    assert talk.taken_in() == ["history assistant A", "history user b"]
    assert talk.result(num_turns=0, user_uuid=first) == []
    assert talk.taken_in() == ["history assistant B", "ask one"]
    assert talk.result(num_turns=0, user_uuid=first) == []
    assert talk.answer("eins")[-1] == "end one: completed stop, eins"


def test_history_that_is_answered_fails_the_turn() -> None:
    talk = Talk()
    talk.turn("a", assistant("A"), "one")
    talk.ready()
    talk.set_up()
    talk.done("what?")
    assert talk.result("what?") == ["end one: upstream_failed", "kill"]


def test_history_that_is_refused_fails_the_turn() -> None:
    talk = Talk()
    talk.turn("a", assistant("A"), "one")
    talk.ready()
    talk.set_up()
    assert talk.fails() == ["end one: upstream_failed", "kill"]


def test_a_seed_is_history_that_no_child_has_seen() -> None:
    said = (user("a"), assistant("A"))
    seeded = evolve(MEMORY, seed=said, digests=tuple(map(digest, said)))
    talk = Talk(memory=seeded)
    assert talk.turn(*said, "one") == ["started one", "wake"]
    assert talk.ready() == ["initialize sonnet", "history user a"]
    # Until a turn is finished it stays one: the next child is given it again.
    talk.set_up()
    assert talk.fails() == ["end one: upstream_failed", "kill"]
    assert talk.gone() == []
    assert talk.turn("two") == ["started two", "wake"]
    assert talk.ready() == ["initialize sonnet", "history user a"]
    assert talk.taken_in() == ["history assistant A", "ask two"]
    talk.answer("zwei")
    talk.give_way()
    talk.gone()
    assert talk.turn("three") == ["started three", "wake"]
    assert talk.ready() == ["initialize sonnet", "history user a"]
    assert talk.takes_history()[-1] == "ask three"


# -- model and system prompt -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"model": "opus"}, "opus"), ({"system": "Be brief."}, "sonnet, Be brief.")],
)
def test_another_model_or_system_prompt_takes_another_child(
    changes: dict[str, str], words: str
) -> None:
    talk = Talk()
    talk.finish("one", "eins")
    assert talk.turn("two", **changes) == ["started two", "retire"]  # type: ignore[arg-type]
    assert talk.phase is STOPPING
    assert talk.gone() == ["wake"]
    assert talk.ready() == [f"initialize {words}", "history user one"]
    talk.set_up()
    assert talk.taken_in() == ["history assistant eins", "ask two"]
    talk.answer("zwei")
    # From here on it is the conversation's.
    assert talk.turn("three") == ["started three", "ask three"]


def test_what_a_failed_turn_wanted_is_not_the_conversations() -> None:
    talk = Talk()
    talk.finish("one", "eins")
    talk.turn("two", model="opus")
    talk.gone()
    talk.ready()
    talk.set_up()
    talk.takes_history()
    assert talk.fails() == ["end two: upstream_failed", "rewind two"]
    talk.rewound()
    assert talk.machine.memory.setup == Setup("sonnet")
    assert talk.turn("three") == ["started three", "retire"]
    talk.gone()
    assert talk.ready() == ["initialize sonnet", "history user one"]
    assert talk.takes_history()[-1] == "ask three"


def test_a_turn_ends_with_the_model_that_served_it() -> None:
    talk = busy()
    talk.turn("two", model="opus")
    talk.turn("three")
    assert talk.answer("1")[-1] == "retire"
    talk.gone()
    talk.serve("2")
    talk.serve("3")
    assert [end.model for end in talk.ends[-3:]] == ["sonnet", "opus", "opus"]


def test_a_turn_that_waits_for_another_child_may_be_interrupted() -> None:
    talk = idle()
    talk.turn("one", model="opus")
    assert talk.interrupt("one") == ["end one: turn_interrupted"]
    assert talk.turn("two") == ["started two"]
    assert talk.gone() == ["wake"]


def test_a_turn_that_waits_for_another_child_has_its_time_limit() -> None:
    talk = idle(Limits(turn=100))
    talk.turn("one", model="opus")
    assert talk.machine.deadline == 100
    assert talk.rings() == ["end one: turn_timeout"]
    assert talk.phase is STOPPING
    assert talk.gone() == []
    assert talk.phase is ASLEEP


# -- interrupts ------------------------------------------------------------------------------------


def test_a_running_turn_is_taken_back() -> None:
    talk = busy()
    assert talk.says("half") == ["deliver half"]
    assert talk.interrupt("one") == ["end one: turn_interrupted", "rewind one"]
    assert talk.turn("two") == ["started two"]
    # What was under way is dropped, the aborted result too.
    assert talk.says("an", "swer") == []
    assert talk.done("half an") == []
    assert talk.aborted() == []
    assert talk.rewound() == ["ask two"]
    assert talk.answer("zwei") == ["deliver zwei", "end two: completed stop, zwei"]
    said = (user("zero"), assistant("null"), user("two"), assistant("zwei"))
    assert talk.machine.memory.digests == tuple(map(digest, said))


@pytest.mark.parametrize("answer", [False, None, "yes", 1])
def test_a_child_that_cannot_take_a_turn_back_goes(answer: object) -> None:
    talk = interrupting()
    talk.turn("two")
    assert talk.rewound(done=answer) == ["kill"]
    assert talk.gone() == ["wake"]
    assert talk.ready() == ["initialize sonnet", "history user zero"]
    assert talk.takes_history() == ["history assistant null", "ask two"]


def test_only_the_answer_to_the_rewind_ends_it() -> None:
    talk = interrupting()
    assert talk.rewound("initialize") == []
    assert talk.rewound("rewind of old") == []
    assert talk.phase is INTERRUPTING


def test_a_first_turn_is_taken_back_too() -> None:
    talk = Talk()
    talk.turn("one")
    talk.ready()
    talk.set_up()
    talk.says("half")
    assert talk.interrupt("one") == ["end one: turn_interrupted", "rewind one"]
    assert talk.turn("two") == ["started two"]
    assert talk.rewound() == ["ask two"]


def test_an_older_child_cannot_take_back_a_first_turn_and_goes_with_it() -> None:
    talk = Talk()
    talk.turn("one")
    talk.ready()
    talk.set_up()
    talk.interrupt("one")
    assert talk.rewound(done=False) == ["kill"]
    assert talk.turn("two") == ["started two"]
    assert talk.gone() == ["wake"]


def test_a_turn_that_brought_history_takes_its_child_along() -> None:
    talk = idle()
    talk.turn("zero", assistant("null"), "a", assistant("A"), "one")
    talk.taken_in()
    assert talk.interrupt("one") == ["end one: turn_interrupted", "kill"]
    talk.gone()
    assert talk.turn("two") == ["started two", "wake"]


def test_a_child_that_is_not_set_up_goes_with_the_interrupted_turn() -> None:
    talk = waking()
    talk.ready()
    assert talk.interrupt("one") == ["end one: turn_interrupted", "kill"]


def test_a_turn_that_waits_for_a_child_may_be_interrupted() -> None:
    talk = waking()
    talk.turn("two")
    assert talk.interrupt("one") == [
        "end one: turn_interrupted",
        "cancel wake",
        "wake",
    ]
    assert talk.interrupt("two") == ["end two: turn_interrupted", "cancel wake"]
    assert talk.phase is ASLEEP


@pytest.mark.parametrize("phase", [WAKING, BUSY, INTERRUPTING, STOPPING])
def test_a_turn_that_waits_its_turn_may_be_interrupted(phase: Phase) -> None:
    talk = IN_PHASE[phase]()
    talk.turn("two")
    talk.turn("three")
    assert talk.interrupt("two") == ["end two: turn_interrupted"]
    assert talk.interrupt("two") == []
    assert talk.interrupt("three") == ["end three: turn_interrupted"]
    assert talk.phase is phase


@every_phase
def test_an_interrupt_of_a_turn_that_has_ended_comes_too_late(phase: Phase) -> None:
    talk = IN_PHASE[phase]()
    assert talk.interrupt("zero") == []
    assert talk.phase is phase


def test_an_interrupt_behind_the_result_comes_too_late() -> None:
    talk = busy()
    talk.turn("two")
    assert talk.answer("1")[-1] == "ask two"
    assert talk.interrupt("one") == []
    assert talk.answer("2")[-1] == "end two: completed stop, 2"


def test_a_result_that_crosses_the_rewind_is_not_remembered() -> None:
    talk = busy()
    talk.says("whole")
    talk.done("whole")
    held = talk.machine.memory
    talk.interrupt("one")
    assert talk.result("whole") == []
    assert talk.rewound() == []
    assert talk.phase is IDLE
    assert talk.machine.memory == held


def test_without_a_kept_child_a_turn_is_not_taken_back() -> None:
    talk = Talk(Limits(keep_child=False))
    talk.finish("one", "eins")
    talk.gone()
    talk.turn("two")
    talk.ready()
    talk.set_up()
    assert talk.interrupt("two") == ["end two: turn_interrupted", "kill"]


# -- results ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "code"),
    [(400, "upstream_rejected"), (429, "upstream_rate_limited"), (500, "upstream_failed")],
)
def test_an_error_of_the_api_is_taken_back_too(status: int, code: str) -> None:
    talk = busy()
    held = talk.machine.memory
    assert talk.done("API Error", synthetic=True) == []
    assert talk.fails(status) == [f"end one: {code}", "rewind one"]
    assert talk.rewound() == []
    assert (talk.phase, talk.machine.memory) == (IDLE, held)


def test_a_result_is_no_success_just_because_it_is_no_error() -> None:
    talk = busy()
    talk.done("eins")
    assert talk.result(subtype="error_max_turns") == ["end one: upstream_failed", "rewind one"]


def test_what_the_cli_answers_by_itself_is_no_answer() -> None:
    talk = busy()
    assert talk.done("Not available here.", synthetic=True) == []
    words = talk.result("Not available here.", num_turns=0)
    assert words == ["end one: upstream_failed", "rewind one"]


def test_a_success_without_a_session_could_not_be_resumed() -> None:
    talk = busy()
    talk.says("eins")
    talk.done("eins")
    assert talk.result("eins", session_id="") == ["end one: upstream_failed", "rewind one"]


def test_an_answer_without_a_stream_is_delivered_in_one_piece() -> None:
    talk = busy()
    assert talk.done("eins") == ["deliver eins"]
    assert talk.result("eins") == ["end one: completed stop, eins"]


def test_no_block_is_delivered_twice_and_none_is_lost() -> None:
    talk = busy()
    assert talk.done("") == []  # thoughts
    assert talk.says("ei", "ns") == ["deliver ei", "deliver ns"]
    assert talk.done("eins") == []
    assert talk.done(" zwei") == ["deliver  zwei"]
    assert talk.says(" drei") == ["deliver  drei"]
    assert talk.done(" drei") == []
    assert talk.result(" drei") == ["end one: completed stop, eins zwei drei"]


def test_an_empty_answer_is_an_answer() -> None:
    talk = busy()
    talk.done("")
    assert talk.result() == ["end one: completed stop, "]


def test_a_cut_answer_ends_as_such() -> None:
    talk = busy()
    talk.says("ei")
    talk.done("ei")
    assert talk.result("ei", stop_reason="max_tokens") == ["end one: completed length, ei"]


def test_a_result_that_names_no_message_is_taken_for_the_turns_own() -> None:
    talk = busy()
    talk.done("eins")
    assert talk.result(user_uuid=None) == ["end one: completed stop, eins"]


def test_a_late_result_of_an_earlier_turn_ends_nothing() -> None:
    talk = busy()
    late = talk.last_user_uuid
    talk.interrupt("one")
    talk.rewound()
    talk.turn("two")
    assert talk.result(is_error=True, user_uuid=late) == []
    assert talk.result("eins", user_uuid=late) == []
    assert talk.phase is BUSY


@pytest.mark.parametrize("continues", [True, False])
def test_each_turn_is_billed_its_own_share(continues: bool) -> None:
    """The CLI's figure is a running total, which a resumed child may or may not go on with."""
    talk = Talk(memory=evolve(MEMORY, setup=Setup("sonnet", profile="agent")))
    costs: list[float] = []

    def bill(total: float) -> None:
        talk.turn(f"turn {len(costs)}")
        if talk.phase is WAKING:
            talk.ready()
            talk.set_up()
        talk.done("said")
        before = talk.machine.memory.usage.cost_usd
        talk.result(total_cost_usd=total)
        costs.append(round(talk.machine.memory.usage.cost_usd - before, 6))

    bill(0.25)
    bill(0.75)
    talk.turn("failed")
    talk.fails()  # its total is 0 in this talk; the next ones go on
    talk.rewound()
    talk.give_way()
    talk.gone()
    bill(1.75 if continues else 0.5)
    bill(2.0 if continues else 0.75)
    assert costs == [0.25, 0.5, 1.0 if continues else 0.5, 0.25]


def test_a_failed_turn_is_not_billed_to_the_next() -> None:
    talk = Talk()
    talk.finish("one", "eins")
    talk.turn("two")
    talk.interrupt("two")
    talk.result(is_error=True, total_cost_usd=5.0)
    talk.rewound()
    talk.turn("three")
    talk.done("drei")
    talk.result(total_cost_usd=5.25)
    assert talk.machine.memory.usage.cost_usd == 0.25


def test_the_first_item_is_timed() -> None:
    talk = Talk()
    talk.turn("one")
    talk.now = 2.0
    talk.ready()
    talk.set_up()
    talk.now = 3.0
    talk.says("ei")
    talk.now = 4.0
    talk.says("ns")
    talk.done("eins")
    talk.now = 5.0
    talk.result("eins")
    assert (talk.ends[-1].accepted, talk.ends[-1].first_delta) == (0.0, 3.0)


def test_a_delivery_comes_alone() -> None:
    talk = busy()
    assert talk.machine.advance(TextDelta("x"), 0) == [Deliver(turn_id("one"), TextDelta("x"))]
