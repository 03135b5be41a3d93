"""Playbooks of the session's machine: what comes in, and word for word what is to be done.

Here: turns that call tools, and what their results may find: the child that called, one that has
taken it back, or one that was never there.
How events are said and actions read: `tests.support.talk`. A turn goes by the text of its prompt.
"""

import pytest

from ccapi.actors.session.phases import Limits
from ccapi.schemas.claude.output import AssistantDone, ToolReturned, ToolsReturned, ToolUseStarted
from ccapi.schemas.claude.tool_names import wire_name
from ccapi.schemas.message import Image, Message, ToolCall, ToolResult, digest
from ccapi.schemas.turn import Tool, Usage
from tests.support.talk import (
    ASLEEP,
    AWAITING_TOOLS,
    BUSY,
    IDLE,
    INTERRUPTING,
    LOOK,
    NULL,
    STOPPING,
    WAKING,
    Talk,
    assistant,
    awaiting_tools,
    called,
    results,
    user,
    working,
)

# -- calls -----------------------------------------------------------------------------------------


def test_a_child_gets_the_tool_server_and_asks_for_the_tools() -> None:
    talk = Talk()
    assert talk.turn("one", tools=[LOOK, Tool("weird.name")]) == ["started one", "wake"]
    assert talk.ready() == ["initialize sonnet", "ask one"]
    assert talk.written[0]["request"]["sdkMcpServers"] == ["client0"]
    assert talk.mcp("r1", "initialize", {"protocolVersion": "2025-11-25"}) == ["answer r1: yes"]
    assert talk.mcp("r2", "notifications/initialized") == ["answer r2: yes"]
    assert talk.mcp("r3", "tools/list") == [f"answer r3: look, {wire_name('weird.name')}"]


def test_a_turn_that_calls_a_tool_ends_and_its_child_waits() -> None:
    talk = working()
    assert talk.says("Let me see.") == ["deliver Let me see."]
    assert talk.done("Let me see.") == []
    assert talk.calls("c1", arguments='{"a":1.0}') == ["call 0 look c1", 'arguments 0 {"a":1.0}']
    assert talk.stops("tool_use") == ["end one: completed tool_calls"]
    assert talk.phase is AWAITING_TOOLS
    memory = talk.machine.memory
    answer = Message("assistant", ("Let me see.", ToolCall("c1", "look", '{"a":1.0}')))
    assert memory.seed == (*NULL, user("one"), answer)
    assert memory.calls == ("c1",)
    assert memory.digests[-2:] == (digest(user("one")), digest(answer))


def test_results_alone_go_to_the_child_that_waits_for_them() -> None:
    talk = awaiting_tools()
    assert talk.turn(results(c1="sunny")) == ["started c1 is sunny", "answer request c1: sunny"]
    assert talk.phase is BUSY
    words = talk.answer("It is ", "sunny")
    assert words[-1] == "end c1 is sunny: completed stop, It is sunny"
    memory = talk.machine.memory
    said = (user("one"), called("c1"), results(c1="sunny"), assistant("It is sunny"))
    assert (memory.seed, memory.calls) == ((*NULL, *said), ())
    assert memory.digests[-4:] == tuple(map(digest, said))
    assert talk.turn("two") == ["started two", "ask two"]


def test_a_client_may_repeat_the_whole_history_with_the_results() -> None:
    talk = awaiting_tools()
    said = (user("zero"), assistant("null"), user("one"), called("c1"), results(c1="sunny"))
    assert talk.turn(*said)[1:] == ["answer request c1: sunny"]


def test_parallel_calls_are_answered_in_their_own_order() -> None:
    talk = working()
    assert talk.suspends("c1", "c2") == [
        "call 0 look c1",
        "arguments 0 {}",
        "call 1 look c2",
        "arguments 1 {}",
        "end one: completed tool_calls",
    ]
    words = talk.turn(results(c2="two", c1="one"))
    assert words[1:] == ["answer request c1: one", "answer request c2: two"]


def test_a_result_waits_until_the_child_asks_for_it() -> None:
    talk = working()
    talk.feed(ToolUseStarted("c1", "look"))
    block = ToolCall("c1", "look", "{}")
    talk.feed(AssistantDone("u", synthetic=False, call=block))
    talk.stops("tool_use")
    assert talk.turn(results(c1="sunny")) == ["started c1 is sunny"]
    assert talk.calls_out("c1") == ["answer request c1: sunny"]


def test_a_turn_may_call_again_and_again() -> None:
    talk = awaiting_tools()
    talk.turn(results(c1="no"))
    assert talk.suspends("c2")[-1] == "end c1 is no: completed tool_calls"
    said = (user("one"), called("c1"), results(c1="no"), called("c2"))
    assert talk.machine.memory.seed == (*NULL, *said)
    assert talk.turn(results(c2="yes"))[1:] == ["answer request c2: yes"]
    talk.answer("Found.")
    assert talk.phase is IDLE
    assert talk.machine.memory.seed[-1] == assistant("Found.")


def test_each_part_of_a_turn_has_its_own_usage() -> None:
    talk = working()
    talk.starts(Usage(prompt_tokens=100))
    talk.calls("c1")
    talk.stops("tool_use", Usage(completion_tokens=7))
    talk.turn(results(c1="sunny"))
    talk.starts(Usage(prompt_tokens=120))
    talk.done("Sunny")
    talk.stops("end_turn", Usage(completion_tokens=5))
    whole = Usage(prompt_tokens=220, completion_tokens=12)
    talk.result("Sunny", usage=whole, total_cost_usd=0.5)
    first, second = (end.outcome.usage for end in talk.ends[-2:])  # type: ignore[union-attr]
    assert first == Usage(prompt_tokens=100, completion_tokens=7)
    assert second == Usage(prompt_tokens=120, completion_tokens=5, cost_usd=0.5)


def test_settings_of_the_turn_that_brings_results_reach_the_same_child() -> None:
    talk = awaiting_tools()
    words = talk.turn(results(c1="sunny"), max_tokens=100)
    assert words[1:] == ["settings", "answer request c1: sunny"]


def test_a_tool_that_was_never_offered_is_the_clis_own_business() -> None:
    talk = working()
    assert talk.calls("c1", "ghost") == []
    assert talk.stops("tool_use") == []
    assert talk.answer("Well.")[-1] == "end one: completed stop, Well."


def test_a_strict_call_that_does_not_match_never_reaches_the_client() -> None:
    schema = '{"type":"object","properties":{"n":{"type":"integer"}},"required":["n"]}'
    talk = Talk()
    talk.turn("one", tools=[Tool("count", parameters=schema, strict=True)])
    talk.ready()
    talk.set_up()
    (rejected,) = talk.calls("c1", "count", '{"n":"x"}')
    assert rejected.startswith("answer request c1: no, The arguments do not match")
    assert talk.stops("tool_use") == []
    words = talk.calls("c2", "count", '{"n":2}') + talk.stops("tool_use")
    assert words == ["call 0 count c2", 'arguments 0 {"n":2}', "end one: completed tool_calls"]


def test_a_strict_call_is_not_asked_for_for_ever() -> None:
    talk = Talk()
    strict = Tool("count", parameters='{"type":"object","required":["n"]}', strict=True)
    talk.turn("one", tools=[strict])
    talk.ready()
    talk.set_up()
    for number in range(3):
        assert len(talk.calls(f"c{number}", "count")) == 1
    assert talk.calls("c3", "count")[:2] == ["end one: invalid_tool_call", "rewind one"]


def test_a_connection_that_is_lost_behind_a_call_fails_the_turn() -> None:
    talk = working()
    talk.calls("c1")
    # No result follows: the CLI waits for the call to be answered.
    lost = talk.done("API Error: Connection lost mid-response", synthetic=True)
    assert lost == ["end one: upstream_failed", "rewind one"]
    assert (talk.machine.memory.calls, talk.machine.memory.seed) == ((), NULL)


# -- results that do not fit -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "code"),
    [
        (results(c1="sunny"), "missing_tool_results"),
        (results(c1="a", c2="b", c3="c"), "unknown_tool_call_id"),
        (user("Never mind."), "missing_tool_results"),
    ],
)
def test_results_must_be_those_of_the_calls(said: Message, code: str) -> None:
    talk = working()
    talk.suspends("c1", "c2")
    assert talk.turn(said)[1].endswith(f": {code}")
    assert talk.phase is AWAITING_TOOLS
    assert len(talk.turn(results(c1="a", c2="b"))) == 3


def test_results_without_an_open_call_are_refused() -> None:
    talk = working()
    talk.answer("No call.")
    assert talk.turn(results(c1="sunny"))[1] == "end c1 is sunny: unknown_tool_call_id"


def test_results_with_text_behind_them_are_written_after_a_rewind() -> None:
    # A user message would reach a child that waits as a remark of the system's.
    talk = awaiting_tools()
    both = Message("user", (*results(c1="sunny").content, "And now?"))
    assert talk.turn(both) == ["started c1 is sunny|And now?", "rewind one"]
    assert talk.phase is INTERRUPTING
    assert talk.rewound() == ["history user one"]
    assert talk.taken_in() == ["history assistant look c1", "ask c1 is sunny|And now?"]
    assert talk.answer("Night.")[-1].endswith("completed stop, Night.")
    assert talk.machine.memory.seed[2:] == (user("one"), called("c1"), both, assistant("Night."))


@pytest.mark.parametrize(
    "result",
    [
        ToolResult("c1", ("boom",), is_error=True),
        ToolResult("c1", ()),
        ToolResult("c1", ("x" * 500_001,)),
        ToolResult("c1", (Image("image/png", "QUJD"),)),
    ],
    ids=["error", "empty", "long", "picture"],
)
def test_results_that_mcp_cannot_carry_are_written_after_a_rewind(result: ToolResult) -> None:
    talk = awaiting_tools()
    assert talk.turn(Message("user", (result,)))[1:] == ["rewind one"]
    assert talk.rewound() == ["history user one"]
    assert talk.taken_in()[0] == "history assistant look c1"


def test_a_turn_for_another_child_ends_the_one_that_waits() -> None:
    talk = awaiting_tools()
    assert talk.turn(results(c1="sunny"), model="opus")[1:] == ["kill"]
    assert talk.phase is STOPPING
    assert talk.gone() == ["wake"]
    assert talk.ready() == ["initialize opus", "history user zero"]
    talk.set_up()
    assert talk.takes_history() == [
        "history assistant null",
        "history user one",
        "history assistant look c1",
        "ask c1 is sunny",
    ]


def test_a_turn_that_waits_for_the_rewind_may_be_interrupted() -> None:
    talk = awaiting_tools()
    talk.turn(Message("user", (*results(c1="sunny").content, "And now?")))
    assert talk.interrupt("c1 is sunny|And now?") == ["end c1 is sunny|And now?: turn_interrupted"]
    assert talk.rewound() == []
    assert talk.phase is IDLE
    # The calls still stand open.
    assert talk.turn(results(c1="rain")) == ["started c1 is rain", "history user one"]


# -- results that come late ------------------------------------------------------------------------


def test_a_child_does_not_wait_for_results_for_ever() -> None:
    talk = awaiting_tools(Limits(freeze=30, tool_wait=600, hibernate=60))
    assert talk.rings() == ["freeze"]
    assert talk.machine.deadline == 600
    assert talk.rings() == ["rewind one"]
    assert talk.rewound() == []
    assert talk.phase is IDLE
    # What the child has forgotten, the conversation has not.
    assert talk.turn(results(c1="sunny")) == ["started c1 is sunny", "history user one"]
    assert talk.taken_in() == ["history assistant look c1", "ask c1 is sunny"]
    talk.answer("Sunny.")
    assert talk.machine.memory.seed[-1] == assistant("Sunny.")


def test_a_refused_turn_does_not_extend_the_wait() -> None:
    talk = awaiting_tools(Limits(tool_wait=600))
    talk.now += 500
    assert "missing_tool_results" in talk.turn("Hello?")[-1]
    assert talk.machine.deadline == 600


def test_results_for_a_child_that_is_lost_go_to_another() -> None:
    talk = awaiting_tools()
    assert talk.gone() == []
    assert talk.phase is ASLEEP
    assert talk.turn(results(c1="sunny")) == ["started c1 is sunny", "wake"]
    assert talk.ready() == ["initialize sonnet", "history user zero"]


def test_results_given_to_a_child_that_was_dead_already_go_to_another() -> None:
    talk = awaiting_tools()
    talk.turn(results(c1="sunny"))
    # Its last words: the model has said nothing.
    talk.feed(ToolsReturned((ToolReturned("c1", "[Request interrupted]", is_error=True),)))
    assert talk.gone() == ["wake"]
    assert talk.ready() == ["initialize sonnet", "history user zero"]
    talk.set_up()
    assert talk.takes_history()[-2:] == ["history assistant look c1", "ask c1 is sunny"]
    assert talk.answer("Sunny.")[-1] == "end c1 is sunny: completed stop, Sunny."
    assert talk.machine.memory.calls == ()


def test_results_go_to_one_other_child_and_to_no_third() -> None:
    talk = awaiting_tools()
    talk.turn(results(c1="sunny"))
    talk.gone()
    talk.ready()
    assert talk.gone() == ["end c1 is sunny: child_died"]
    assert talk.machine.memory.calls == ("c1",)
    assert talk.turn(results(c1="rain"))[1:] == ["wake"]


def test_results_whose_answer_has_begun_are_not_written_again() -> None:
    talk = awaiting_tools()
    talk.turn(results(c1="sunny"))
    talk.starts()
    assert talk.gone() == ["end c1 is sunny: child_died"]


def test_a_child_that_does_not_wait_for_results_goes() -> None:
    talk = awaiting_tools()
    assert talk.result("I went on.", total_cost_usd=0.5) == ["kill"]
    talk.gone()
    assert talk.machine.memory.calls == ("c1",)
    assert talk.turn(results(c1="sunny"))[1:] == ["wake"]


def test_the_calls_stay_open_after_a_turn_with_results_fails() -> None:
    talk = awaiting_tools()
    held = talk.machine.memory
    talk.turn(results(c1="sunny"))
    assert talk.fails() == ["end c1 is sunny: upstream_failed", "rewind one"]
    talk.rewound()
    assert talk.machine.memory == held
    assert talk.turn(results(c1="rain")) == ["started c1 is rain", "history user one"]
    assert talk.taken_in() == ["history assistant look c1", "ask c1 is rain"]
    # The CLI does not part those from the calls that the child received.
    assert talk.interrupt("c1 is rain")[1:] == ["kill"]
    assert talk.gone() == []
    assert talk.turn(results(c1="snow")) == ["started c1 is snow", "wake"]


def test_a_turn_that_called_is_not_put_before_another_child() -> None:
    talk = working()
    talk.starts()
    assert talk.gone() == ["end one: child_died"]


def test_without_kept_children_no_child_waits_for_results() -> None:
    talk = Talk(Limits(keep_child=False))
    talk.turn("one", tools=[LOOK])
    talk.ready()
    talk.set_up()
    assert talk.suspends("c1")[-2:] == ["end one: completed tool_calls", "kill"]
    talk.gone()
    assert talk.turn(results(c1="sunny")) == ["started c1 is sunny", "wake"]
    assert talk.ready() == ["initialize sonnet", "history user one"]


def test_a_conversation_that_waits_for_results_expires_with_its_child() -> None:
    talk = awaiting_tools(Limits(expire=1800))
    assert talk.rings() == ["kill"]
    assert talk.gone() == []
    assert talk.machine.closing is not None


def test_turns_that_wait_behind_a_call_are_refused_until_one_brings_the_results() -> None:
    talk = working()
    talk.turn("two")
    talk.turn(results(c1="sunny"))
    assert talk.suspends("c1")[2:] == [
        "end one: completed tool_calls",
        "end two: missing_tool_results",
        "answer request c1: sunny",
    ]
    assert talk.phase is BUSY


def test_a_call_that_crosses_the_rewind_is_not_answered() -> None:
    talk = working()
    talk.interrupt("one")
    assert talk.calls_out("c1") == []
    assert talk.rewound() == []
    assert talk.phase is IDLE


def test_a_new_child_gets_a_history_with_calls() -> None:
    talk = Talk()
    said = (user("one"), called("c1", text="Hm."), results(c1="sunny"))
    assert talk.turn(*said, tools=[LOOK]) == ["started c1 is sunny", "wake"]
    assert talk.phase is WAKING
    assert talk.ready() == ["initialize sonnet", "history user one"]
    assert talk.taken_in() == ["history assistant Hm.|look c1", "ask c1 is sunny"]
