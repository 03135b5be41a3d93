"""Playbooks of the session's machine: what comes in, and word for word what is to be done.

Here: answers that end otherwise than the model's own way: at a stop text, at their length, in a
form that was asked for, or by a refusal.
How events are said and actions read: `tests.support.talk`. A turn goes by the text of its prompt.
"""

import pytest

from ccapi.actors.session.phases import Limits
from ccapi.schemas.claude.output import (
    AssistantDone,
    MessageEnded,
    MessageStarted,
    ToolInput,
    ToolUseStarted,
)
from ccapi.schemas.message import Message, Thinking, digest
from ccapi.schemas.turn import Completed, Memory, Usage
from ccapi.schemas.turn_items import ReasoningDelta
from tests.support.talk import (
    BUSY,
    IDLE,
    INTERRUPTING,
    LOOK,
    NULL,
    STOPPING,
    Talk,
    assistant,
    busy,
    idle,
    results,
    user,
)

SCHEMA = '{"type":"object","properties":{"n":{"type":"integer"}},"required":["n"]}'
ANSWER = "StructuredOutput"


def stopping_at(*stops: str, limits: Limits | None = None) -> Talk:
    """A child that works on its second turn, ``one``, whose answer ends at a stop text."""
    talk = idle(limits)
    assert talk.turn("one", stop=stops) == ["started one", "settings", "ask one"]
    return talk


def remembered(memory: Memory) -> tuple[bytes, ...]:
    return memory.digests[-2:]


def digests(*messages: Message) -> tuple[bytes, ...]:
    return tuple(map(digest, messages))


# -- stopped by a person ---------------------------------------------------------------------------


def stopped(*said: str) -> Talk:
    """A turn, ``one``, that keeps what was said when a person stops it."""
    talk = idle()
    assert talk.turn("one", keep_stopped=True) == ["started one", "ask one"]
    talk.says(*said)
    return talk


def test_a_stopped_answer_stays_as_far_as_it_came() -> None:
    talk = stopped("Hel", "lo wor")
    assert talk.interrupt("one") == ["end one: turn_interrupted, kept", "rewind one"]
    memory = talk.machine.memory
    assert memory.seed == (*NULL, user("one"), assistant("Hello wor"))
    assert (memory.turns, memory.resume) == (2, None)
    assert talk.aborted() == []
    assert talk.rewound() == []
    assert talk.turn("two") == ["started two", "history user one"]
    assert talk.taken_in() == ["history assistant Hello wor", "ask two"]
    talk.answer("zwei")
    said = (user("one"), assistant("Hello wor"), user("two"), assistant("zwei"))
    assert talk.machine.memory.digests[-4:] == digests(*said)
    assert talk.machine.memory.seed == (*NULL, *said)


def test_a_new_child_gets_a_stopped_answer_where_the_first_one_goes() -> None:
    talk = Talk()
    talk.turn("one", keep_stopped=True)
    talk.ready()
    talk.set_up()
    talk.says("half")
    assert talk.interrupt("one") == ["end one: turn_interrupted, kept", "rewind one"]
    assert talk.rewound(done=False) == ["kill"]
    talk.gone()
    assert talk.turn("two") == ["started two", "wake"]
    assert talk.ready() == ["initialize sonnet", "history user one"]
    assert talk.taken_in() == ["history assistant half", "ask two"]


@pytest.mark.parametrize("said", [(), (" ", "\n")])
def test_without_text_a_stopped_turn_keeps_no_question(said: tuple[str, ...]) -> None:
    talk = stopped(*said)
    assert talk.interrupt("one") == ["end one: turn_interrupted", "rewind one"]
    assert talk.machine.memory.turns == 1


def test_a_stopped_answer_that_is_not_kept_has_no_trace() -> None:
    talk = idle()
    talk.turn("one")
    talk.says("half")
    assert talk.interrupt("one") == ["end one: turn_interrupted", "rewind one"]
    assert talk.machine.memory.seed == NULL


def test_what_may_be_a_stop_text_is_kept_where_a_person_stops_before() -> None:
    talk = idle()
    talk.turn("one", keep_stopped=True, stop=("STOP",))
    talk.says("Hello ST")
    assert talk.interrupt("one")[:2] == ["deliver ST", "end one: turn_interrupted, kept"]
    assert talk.machine.memory.seed[-1] == assistant("Hello ST")


def test_a_call_without_a_result_is_no_part_of_a_stopped_answer() -> None:
    talk = idle()
    talk.turn("one", keep_stopped=True, tools=(LOOK,))
    talk.says("I look.")
    talk.calls("c1")
    talk.interrupt("one")
    assert talk.machine.memory.seed[-1] == assistant("I look.")
    assert talk.machine.memory.calls == ()


# -- stop texts ------------------------------------------------------------------------------------


def test_an_answer_ends_at_a_stop_text_and_is_taken_back() -> None:
    talk = stopping_at("STOP")
    assert talk.says("Hel", "lo ST") == ["deliver Hel", "deliver lo "]
    assert talk.says("OP and more") == []
    # The next write says to the child that this was all.
    assert talk.says(" and more") == ["end one: completed stop, Hello ", "rewind one"]
    assert talk.phase is INTERRUPTING
    memory = talk.machine.memory
    assert memory.seed == (*NULL, user("one"), assistant("Hello "))
    assert remembered(memory) == digests(user("one"), assistant("Hello "))
    assert talk.aborted() == []
    assert talk.rewound() == []
    # The next turn tells it the answer as the caller knows it.
    assert talk.turn("two") == ["started two", "settings plain", "history user one"]
    assert talk.taken_in() == ["history assistant Hello ", "ask two"]
    talk.answer("zwei")
    held = talk.machine.memory.seed
    assert held[2:] == (user("one"), assistant("Hello "), user("two"), assistant("zwei"))


def test_what_might_have_been_a_stop_text_is_delivered_in_the_end() -> None:
    talk = stopping_at("STOP")
    assert talk.says("ST") == []
    assert talk.done("ST") == []
    assert talk.result("ST") == ["deliver ST", "end one: completed stop, ST"]
    assert talk.phase is IDLE
    assert talk.machine.memory.seed == (*NULL, user("one"), assistant("ST"))


@pytest.mark.parametrize("last", ["done", "stops", "result"])
def test_a_stop_text_at_the_very_end_is_found_too(last: str) -> None:
    talk = stopping_at("STOP")
    talk.says("Hello STOP")
    words = {"done": lambda: talk.done("x"), "stops": talk.stops, "result": talk.result}[last]()
    assert words == ["end one: completed stop, Hello ", "rewind one"]


def test_a_stop_text_that_nothing_stands_before_leaves_an_empty_answer() -> None:
    talk = stopping_at("STOP")
    talk.says("STOP")
    assert talk.says("x") == ["end one: completed stop, ", "rewind one"]
    talk.rewound()
    # The Messages API takes no empty answer: the questions are sent as one.
    assert talk.turn("two") == ["started two", "settings plain", "ask one|two"]


def test_a_stop_text_in_a_first_turn() -> None:
    talk = Talk()
    talk.turn("one", stop=("STOP",))
    talk.ready()
    talk.set_up()
    talk.says("Hi STOP")
    talk.says("x")
    assert talk.rewound() == []
    assert talk.machine.memory.resume is None
    talk.give_way()
    talk.gone()
    assert talk.turn("two") == ["started two", "wake"]
    assert talk.ready() == ["initialize sonnet", "history user one"]
    assert talk.taken_in() == ["history assistant Hi ", "ask two"]


def test_a_child_gets_no_message_twice() -> None:
    talk = stopping_at("STOP")
    talk.says("Hello STOP", "x")
    talk.rewound()
    talk.turn("two", stop=("STOP",))
    talk.taken_in()
    talk.says("Again STOP", "x")
    talk.rewound()
    assert talk.turn("three") == ["started three", "settings plain", "history user two"]
    assert talk.taken_in() == ["history assistant Again ", "ask three"]
    # A turn that is taken back takes nothing along of what the conversation holds.
    assert talk.interrupt("three")[1:] == ["rewind three"]
    assert talk.rewound() == []
    assert talk.turn("four") == ["started four", "ask four"]


def test_history_of_a_turn_that_failed_is_not_the_conversations() -> None:
    talk = stopping_at("STOP")
    talk.says("Hello STOP", "x")
    talk.rewound()
    talk.turn(assistant("Hello "), user("a"), assistant("A"), "two")
    talk.taken_in()
    talk.taken_in()
    # After a rewind of the question the child would still hold ``a`` and ``A``.
    assert talk.interrupt("two") == ["end two: turn_interrupted", "kill"]


def test_the_child_of_a_stopped_answer_goes_where_none_is_kept() -> None:
    talk = Talk(Limits(keep_child=False))
    talk.turn("one", stop=("STOP",))
    talk.ready()
    talk.set_up()
    talk.says("Hi STOP")
    assert talk.says("x") == ["end one: completed stop, Hi ", "kill"]


def test_the_usage_of_a_stopped_answer_is_estimated() -> None:
    talk = stopping_at("STOP")
    talk.feed(MessageStarted(Usage(prompt_tokens=90, completion_tokens=1)))
    talk.says("x" * 40 + "STOP", "x")
    usage = talk.ends[-1].outcome.usage  # type: ignore[union-attr]
    assert usage == Usage(prompt_tokens=90, completion_tokens=10)


# -- length ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("reason", ["max_tokens", "model_context_window_exceeded"])
def test_the_child_of_an_answer_that_is_cut_off_goes_at_once(reason: str) -> None:
    # The CLI would have the model go on; only a dead child never does.
    talk = idle()
    talk.turn("one", max_tokens=5)
    talk.starts()
    talk.says("half")
    talk.done("half")
    assert talk.stops(reason) == ["end one: completed length, half", "kill"]
    assert talk.phase is STOPPING
    assert talk.machine.memory.seed == (*NULL, user("one"), assistant("half"))
    assert talk.ends[-1].outcome.usage == Usage(  # type: ignore[union-attr]
        prompt_tokens=10, completion_tokens=2
    )
    talk.gone()
    assert talk.turn("two") == ["started two", "wake"]
    assert talk.ready() == ["initialize sonnet", "history user zero"]
    talk.set_up()
    assert talk.takes_history()[-2:] == ["history assistant half", "ask two"]


# -- an answer that suits a schema -----------------------------------------------------------------


def asked_for(*, whole: bool, **more: object) -> Talk:
    """A child that works on its first turn, ``one``, whose answer has to suit a schema."""
    talk = Talk()
    talk.turn("one", schema=SCHEMA, whole=whole, **more)  # type: ignore[arg-type]
    words = talk.ready()
    assert (words[0], words[-1]) == ("initialize sonnet", "ask one")
    talk.set_up()
    return talk


def test_the_answer_is_a_call_that_the_client_does_not_see() -> None:
    talk = asked_for(whole=False)
    assert talk.mcp("r1", "tools/list") == [f"answer r1: {ANSWER}"]
    assert talk.says("Here it is:") == []
    assert talk.done("Here it is:") == []
    assert talk.feed(ToolUseStarted("c1", ANSWER)) == []
    assert talk.feed(ToolInput('{"n":')) == ['deliver {"n":']
    assert talk.feed(ToolInput(" 1}")) == ["deliver  1}"]
    assert talk.calls("c1", ANSWER, '{"n": 1}')[1:] == []


def test_an_answer_that_suits_ends_the_turn_and_is_taken_back() -> None:
    talk = asked_for(whole=False)
    assert talk.calls("c1", ANSWER, '{"n": 1}') == ['deliver {"n": 1}']
    assert talk.stops("tool_use") == ['end one: completed stop, {"n": 1}', "rewind one"]
    assert talk.machine.memory.seed == (user("one"), assistant('{"n": 1}'))
    talk.rewound()
    # The schema is that turn's alone: the tool by which it was answered goes with it.
    assert talk.turn("two") == ["started two", "tools of ", "history user one"]
    assert talk.taken_in() == ['history assistant {"n": 1}', "ask two"]


def test_an_answer_that_does_not_match_is_asked_for_again() -> None:
    talk = asked_for(whole=True)
    (rejected,) = talk.calls("c1", ANSWER, '{"n": "x"}')
    assert rejected.startswith("answer request c1: no, The arguments do not match")
    assert talk.stops("tool_use") == []
    assert talk.phase is BUSY
    assert talk.calls("c2", ANSWER, '{"n": 2}') == ['deliver {"n": 2}']
    assert talk.stops("tool_use")[0] == 'end one: completed stop, {"n": 2}'


def test_an_answer_that_was_delivered_in_part_cannot_be_asked_for_again() -> None:
    talk = asked_for(whole=False)
    words = talk.calls("c1", ANSWER, '{"n": "x"}')
    assert words == ['deliver {"n": "x"}', "end one: invalid_structured_output", "rewind one"]


def test_a_model_that_never_gives_the_right_answer_fails_the_turn() -> None:
    talk = asked_for(whole=True)
    for number in range(3):
        talk.calls(f"c{number}", ANSWER, "{}")
    words = talk.calls("c3", ANSWER, "{}")
    assert words[-2:] == ["end one: invalid_structured_output", "rewind one"]


def test_plain_text_is_no_answer_where_a_schema_is_asked_for() -> None:
    talk = asked_for(whole=True)
    talk.says("No.")
    talk.done("No.")
    assert talk.result("No.") == ["end one: invalid_structured_output", "rewind one"]


@pytest.mark.parametrize("order", [("c1", "c2"), ("c2", "c1")])
def test_an_answer_beside_calls_is_given_too_soon(order: tuple[str, str]) -> None:
    talk = Talk()
    talk.turn("one", schema=SCHEMA, whole=True, tools=[LOOK])
    talk.ready()
    talk.set_up()
    words = []
    for call in order:
        name, arguments = ("look", "{}") if call == "c1" else (ANSWER, '{"n": 1}')
        words += talk.calls(call, name, arguments)
    too_soon = "answer request c2: no, Wait for the results of your calls, then answer."
    assert too_soon in words
    assert talk.stops("tool_use") == ["end one: completed tool_calls"]
    # The child does not wait for anything but the result.
    words = talk.turn(results(c1="sunny"), schema=SCHEMA, whole=True)
    assert words[1:] == ["answer request c1: sunny"]
    assert talk.calls("c3", ANSWER, '{"n": 3}') == ['deliver {"n": 3}']
    assert talk.stops("tool_use")[0] == 'end c1 is sunny: completed stop, {"n": 3}'


def test_an_answer_that_is_given_twice_is_delivered_once() -> None:
    talk = asked_for(whole=False)
    assert talk.calls("c1", ANSWER, '{"n": 1}') == ['deliver {"n": 1}']
    assert not [word for word in talk.calls("c2", ANSWER, '{"n": 2}') if "deliver" in word]
    assert talk.stops("tool_use")[0] == 'end one: completed stop, {"n": 1}'


# -- refusals --------------------------------------------------------------------------------------


def test_a_refusal_is_delivered_and_forgotten() -> None:
    talk = busy()
    held = talk.machine.memory
    assert talk.stops("refusal") == []
    words = talk.result("I cannot.", is_error=True, stop_reason="refusal")
    assert words == ["refused I cannot.", "end one: completed content_filter, ", "rewind one"]
    assert talk.rewound() == []
    assert (talk.phase, talk.machine.memory) == (IDLE, held)
    assert talk.turn("two") == ["started two", "ask two"]


def test_a_refusal_ends_the_answer_for_a_client_of_blocks() -> None:
    """The CLI would ask the model once more; the client's own API would not."""
    talk = idle()
    talk.turn("one", blocks=True)
    talk.starts()
    assert talk.says("No") == ["deliver No"]
    words = talk.stops("refusal")
    assert words[0] == "text ended"
    assert words[1].startswith("refused ")
    assert words[2:] == ["end one: completed content_filter, No", "rewind one"]
    assert completed(talk).stop_reason == "refusal"


# -- blocks ----------------------------------------------------------------------------------------


def completed(talk: Talk) -> Completed:
    """How the last turn ended."""
    outcome = talk.ends[-1].outcome
    assert isinstance(outcome, Completed)
    return outcome


def test_a_turn_tells_why_the_model_stopped() -> None:
    talk = idle()
    talk.turn("one")
    talk.starts()
    talk.says("eins")
    talk.done("eins")
    assert talk.feed(MessageEnded("stop_sequence", Usage(), "END")) == []
    talk.result("eins", stop_reason="stop_sequence")
    assert completed(talk) == Completed("stop", completed(talk).usage, "END", "stop_sequence")
    assert talk.ends[-1].answer is not None
    assert talk.ends[-1].answer.stop_text == "END"
    talk.turn("two", stop=("X", "Y"))
    talk.starts()
    talk.says("zwY")
    assert "end two: completed stop, zw" in talk.says("ei")
    assert (completed(talk).stop_text, completed(talk).stop_reason) == ("Y", "stop_sequence")


@pytest.mark.parametrize("reason", ["max_tokens", "model_context_window_exceeded"])
def test_a_turn_tells_which_limit_it_met(reason: str) -> None:
    talk = idle()
    talk.turn("one")
    talk.starts()
    assert talk.stops(reason)[0] == "end one: completed length, "
    assert completed(talk).stop_reason == reason


def test_the_items_of_an_answer_in_blocks() -> None:
    talk = idle()
    assert talk.turn("one", blocks=True) == ["started one", "ask one"]
    talk.starts()
    assert talk.feed(ReasoningDelta("Hm.")) == ["think Hm."]
    thinking = Thinking("Hm.", "c2ln")
    assert talk.feed(AssistantDone("t", synthetic=False, thinking=thinking)) == ["thought Hm. c2ln"]
    assert talk.says("eins") == ["deliver eins"]
    assert talk.done("eins") == ["text ended"]
    assert talk.says("zwei") == ["deliver zwei"]
    assert talk.done("zwei") == ["text ended"]
    assert talk.stops() == []
    assert talk.result("zwei") == ["end one: completed stop"]
    assert talk.machine.memory.seed[-1].content == (thinking, "eins", "zwei")
    assert talk.ends[-1].answer is None  # the cache knows answers of one text


# -- thinking --------------------------------------------------------------------------------------


def test_thinking_is_delivered_where_it_is_asked_for() -> None:
    talk = idle()
    assert talk.turn("one", reasoning=True) == ["started one", "show thinking", "ask one"]
    assert talk.feed(ReasoningDelta("Hm.")) == ["think Hm."]
    assert talk.answer("eins")[-1] == "end one: completed stop, eins"
    assert talk.turn("two") == ["started two", "ask two"]
    assert talk.feed(ReasoningDelta("Hm.")) == []
    assert talk.ends[-1].answer is not None
    assert talk.ends[-1].answer.pieces == ("eins",)


def test_settings_are_sent_when_they_change_and_taken_back() -> None:
    talk = idle()
    assert talk.turn("one", user="u1")[1:] == ["settings", "ask one"]
    talk.answer("eins")
    assert talk.turn("two", user="u1")[1:] == ["ask two"]
    talk.answer("zwei")
    assert talk.turn("three")[1:] == ["settings plain", "ask three"]


# -- what the CLI would go on with by itself -------------------------------------------------------


def test_a_message_that_begins_while_another_has_not_ended_fails_the_turn() -> None:
    """The connection was cut, and the CLI asks for the rest: that would be another answer."""
    talk = idle()
    talk.turn("one")
    talk.starts()
    assert talk.says("Hel") == ["deliver Hel"]
    talk.done("Hel")
    assert talk.starts() == ["end one: upstream_failed", "rewind one"]
    assert talk.phase is INTERRUPTING


def test_a_message_that_is_retried_before_it_has_content_does_not() -> None:
    talk = idle()
    talk.turn("one")
    talk.starts()
    assert talk.starts() == []
    assert talk.phase is BUSY


def test_an_answer_without_a_word_ends_the_turn() -> None:
    """The CLI would tell the model that its answer was not seen, and have it continue."""
    talk = idle()
    talk.turn("one")
    talk.starts()
    assert talk.stops("end_turn") == ["end one: completed stop, ", "rewind one"]
    assert remembered(talk.machine.memory) == digests(user("one"), assistant(""))
