"""Playbooks of the session's machine: a tool call that the model can only be asked for.

How events are said and actions read: `tests.support.talk`. A turn goes by the text of its prompt.
"""

import pytest

from ccapi.actors.session.phases import Limits
from ccapi.schemas.claude.tool_wishes import MAX_HELD, ToolWish, wish_of
from ccapi.schemas.message import ToolCall, digest
from ccapi.schemas.turn import Options, Setup, Tool, ToolChoice, Usage
from ccapi.schemas.turn_items import TextDelta, ToolCallStarted
from tests.support.talk import (
    BUSY,
    IDLE,
    INTERRUPTING,
    LOOK,
    STOPPING,
    WAKING,
    Talk,
    assistant,
    called,
    results,
    user,
)

REQUIRED = ToolChoice("required")
OTHER = Tool("other")


def wishing(limits: Limits | None = None, **fields: object) -> Talk:
    talk = Talk(limits)
    choice = fields.get("tool_choice", REQUIRED)
    talk.turn("one", tools=[LOOK, OTHER], tool_choice=choice)
    assert talk.ready() == ["initialize sonnet", "choice: asked", "ask one|words"]
    talk.set_up()
    return talk


def test_a_call_ends_the_turn_and_the_words_are_taken_back() -> None:
    talk = wishing()
    assert talk.says("Let me ", "see.") == []  # held, until it is known what comes of it
    assert talk.done("Let me see.") == []
    assert talk.calls("c1") == ["deliver Let me see.", "call 0 look c1", "arguments 0 {}"]
    assert talk.stops("tool_use") == ["end one: completed tool_calls", "rewind one|words"]
    assert talk.phase is INTERRUPTING
    talk.aborted()
    assert talk.rewound() == []
    assert talk.phase is IDLE
    memory = talk.machine.memory
    answer = called("c1", text="Let me see.")
    assert memory.seed == (user("one"), answer)
    assert memory.digests == tuple(map(digest, memory.seed))
    assert memory.calls == ("c1",)
    assert talk.turn(results(c1="sunny")) == ["started c1 is sunny", "history user one"]
    assert talk.taken_in() == ["history assistant Let me see.|look c1", "ask c1 is sunny"]


def test_text_alone_is_taken_back_and_asked_for_once_more() -> None:
    talk = wishing()
    talk.says("Sunny.")
    assert talk.done("Sunny.") == []
    assert talk.stops() == []
    assert talk.result("Sunny.") == ["choice: asked-again", "rewind one|words"]
    assert talk.rewound() == ["ask one|words again"]
    assert talk.phase is BUSY
    assert talk.calls("c1") == ["call 0 look c1", "arguments 0 {}"]
    assert talk.stops("tool_use")[0] == "end one: completed tool_calls"
    assert talk.machine.memory.seed == (user("one"), called("c1"))


def disobeys(talk: Talk, text: str) -> list[str]:
    talk.says(text)
    talk.done(text)
    talk.stops()
    return talk.result(text)


def test_text_that_comes_again_is_the_answer() -> None:
    talk = wishing()
    disobeys(talk, "Sunny.")
    talk.rewound()
    assert disobeys(talk, "Still sunny.") == [
        "choice: not-called",
        "deliver Still sunny.",
        "end one: completed stop",  # and not with an answer that the cache could keep
        "rewind one|words again",
    ]
    assert talk.machine.memory.seed == (user("one"), assistant("Still sunny."))
    assert talk.machine.memory.usage.prompt_tokens > 0


def test_both_answers_are_paid_for() -> None:
    talk = wishing()
    usage = Usage(prompt_tokens=7, completion_tokens=2)
    talk.says("a")
    talk.done("a")
    talk.result("a", usage=usage)
    talk.rewound()
    talk.says("b")
    talk.done("b")
    talk.result("b", usage=usage)
    assert talk.machine.memory.usage == usage + usage


def test_a_child_that_cannot_take_it_back_is_replaced() -> None:
    talk = wishing()
    disobeys(talk, "Sunny.")
    assert talk.rewound(done=False) == ["kill"]
    assert talk.phase is STOPPING
    assert talk.gone() == ["wake"]
    assert talk.phase is WAKING
    assert talk.ready() == ["initialize sonnet", "ask one|words again"]


def test_without_children_that_are_kept_another_one_is_asked() -> None:
    talk = wishing(Limits(keep_child=False))
    assert disobeys(talk, "Sunny.") == ["choice: asked-again", "kill"]
    assert talk.gone() == ["wake"]


def test_another_tool_than_the_named_one_is_held_back_too() -> None:
    talk = wishing(tool_choice=ToolChoice("named", "look"))
    assert talk.calls("c1", "other") == []
    assert talk.stops("tool_use") == ["choice: asked-again", "rewind one|words"]
    talk.aborted()
    assert talk.rewound() == ["ask one|words again"]
    assert talk.calls("c2", "other") == []
    assert talk.stops("tool_use") == [
        "choice: not-called",
        "call 0 other c2",
        "arguments 0 {}",
        "end one: completed tool_calls",
        "rewind one|words again",
    ]


def test_a_long_text_is_not_held_to_its_end() -> None:
    talk = wishing()
    assert talk.says("a" * MAX_HELD) == []
    assert talk.says("b") == [f"deliver {'a' * MAX_HELD}b"]
    assert talk.says("c") == ["deliver c"]
    talk.done("long")
    assert talk.result("long")[:2] == ["choice: not-called", "end one: completed stop"]


def test_an_answer_that_was_cut_is_not_asked_for_again() -> None:
    talk = wishing()
    talk.says("Sun")
    assert talk.stops("max_tokens") == [
        "choice: not-called",
        "deliver Sun",
        "end one: completed length",
        "kill",
    ]


def test_an_interrupted_turn_is_over() -> None:
    talk = wishing()
    disobeys(talk, "Sunny.")
    assert talk.interrupt("one") == ["end one: turn_interrupted"]
    assert talk.rewound() == []
    assert talk.phase is IDLE


@pytest.mark.parametrize(
    ("choice", "setup", "name"),
    [
        (REQUIRED, Setup("sonnet", tools=(LOOK,)), ToolWish(None)),
        (ToolChoice("named", "look"), Setup("sonnet", tools=(LOOK,)), ToolWish("look")),
        (ToolChoice("named", "gone"), Setup("sonnet", tools=(LOOK,)), None),
        (REQUIRED, Setup("sonnet"), None),
        (ToolChoice(), Setup("sonnet", tools=(LOOK,)), None),
        (ToolChoice("none"), Setup("sonnet", tools=(LOOK,)), None),
        (REQUIRED, Setup("claude-haiku-4-5", tools=(LOOK,)), None),
        (REQUIRED, Setup("sonnet", profile="agent", tools=(LOOK,)), None),
    ],
)
def test_which_turns_need_words(choice: ToolChoice, setup: Setup, name: ToolWish | None) -> None:
    assert wish_of(Options(tool_choice=choice), setup) == name


def test_the_words_name_the_tool_as_the_model_knows_it() -> None:
    assert "`get_weather_dce3870e`" in ToolWish("get weather").words(again=False)
    assert "`" not in ToolWish(None).words(again=True)


def test_when_a_wish_is_met() -> None:
    started = ToolCallStarted(0, "c", "look")
    assert ToolWish(None).begins(started)
    assert ToolWish("look").begins(started)
    assert not ToolWish("other").begins(started)
    assert not ToolWish(None).begins(TextDelta("look"))
    assert ToolWish("look").is_met([ToolCall("c", "other"), ToolCall("d", "look")])
    assert not ToolWish("look").is_met([ToolCall("c", "other")])
