"""What a turn is asked with, and what a conversation remembers of it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccapi.schemas.message import ToolCall, digest
from ccapi.schemas.turn import (
    LONG_TEXT,
    DigestedText,
    Memory,
    ResumePoint,
    Setup,
    Tool,
    TurnRequest,
    Usage,
    named,
)
from ccapi.schemas.turn_items import (
    Gathering,
    ReasoningDelta,
    Refused,
    TextDelta,
    ToolCallDelta,
    ToolCallStarted,
    TurnItem,
)
from tests.support.messages import assistant, user

NEXT = user("three")

# -- setups ----------------------------------------------------------------------------------------

HELD_SETUP = Setup("sonnet", "Be brief.")


@pytest.mark.parametrize("text", ["x" * LONG_TEXT, "\ud800" * LONG_TEXT])
def test_a_text_that_knows_its_digest_is_named_like_any_other(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = DigestedText.of(text)
    assert made == text
    name = named(Setup("sonnet", text))
    assert named(Setup("sonnet", text + "y")) != name
    monkeypatch.setattr("hashlib.sha256", None)  # digested once
    assert named(Setup("sonnet", made)) == name


@pytest.mark.parametrize(
    ("prompt", "setup"),
    [
        (TurnRequest(()), HELD_SETUP),
        (TurnRequest((), model="opus"), Setup("opus", "Be brief.")),
        (TurnRequest((), system="Be long."), Setup("sonnet", "Be long.")),
        (TurnRequest((), model="opus", system=""), Setup("opus", "")),
    ],
)
def test_what_a_prompt_leaves_open_stays(prompt: TurnRequest, setup: Setup) -> None:
    assert prompt.setup(HELD_SETUP) == setup


WEATHER, NOW = Tool("weather"), Tool("now")


@pytest.mark.parametrize(
    ("prompt", "setup"),
    [
        (TurnRequest(()), Setup("m", tools=(WEATHER,))),
        (TurnRequest((), tools=(NOW,)), Setup("m", tools=(NOW,))),
        (TurnRequest((), tools=()), Setup("m")),
        (TurnRequest((), schema="{}"), Setup("m", tools=(WEATHER,), schema="{}")),
    ],
)
def test_tools_stay_but_a_schema_is_the_turns_alone(prompt: TurnRequest, setup: Setup) -> None:
    assert prompt.setup(Setup("m", tools=(WEATHER,), schema="[]")) == setup


# -- items -----------------------------------------------------------------------------------------


def test_items_are_put_together() -> None:
    gathered = Gathering()
    assert (gathered.text, gathered.reasoning, gathered.tool_calls) == ("", "", ())
    assert gathered.refusal is None
    items: list[TurnItem] = [
        ReasoningDelta("H"),
        TextDelta("a"),
        ReasoningDelta("m"),
        ToolCallStarted(0, "t", "weather"),
        ToolCallDelta(0, '{"a"'),
        TextDelta("b"),
        ToolCallStarted(1, "u", "now"),
        ToolCallDelta(0, ":1}"),
        ToolCallDelta(1, "{}"),
    ]
    for item in items:
        gathered.add(item)
    assert (gathered.text, gathered.reasoning) == ("ab", "Hm")
    assert gathered.tool_calls == (ToolCall("t", "weather", '{"a":1}'), ToolCall("u", "now", "{}"))
    gathered.add(Refused("I will not."))
    assert gathered.refusal == "I will not."


# -- memory ----------------------------------------------------------------------------------------


def test_memory_grows_by_a_turn() -> None:
    said = (user("a"), assistant("b"))
    seeded = Memory(Setup("sonnet"), digests=(digest(user("seed")),), seed=(user("seed"),))
    point = ResumePoint("session", "uuid")
    usage = Usage(1, 2, 3, 4, 0.5, 6)
    grown = seeded.grown(Setup("opus"), said, point, usage)
    assert grown == Memory(
        setup=Setup("opus"),
        digests=(digest(user("seed")), *map(digest, said)),
        resume=point,
        seed=(),
        turns=1,
        usage=usage,
    )
    again = grown.grown(Setup("opus"), (NEXT,), point, usage)
    assert (again.turns, again.usage) == (2, Usage(2, 4, 6, 8, 1.0, 12))


def test_usage_adds_up() -> None:
    total = Usage(1, 2, 3, 4, 0.25, 5) + Usage(10, 20, 30, 40, 0.5, 50)
    assert total == Usage(11, 22, 33, 44, 0.75, 55)
    assert total.total_tokens == 33


FIGURES = st.integers(0, 9)
USAGES = st.builds(Usage, *[FIGURES] * 4, FIGURES.map(float), FIGURES)


@given(USAGES, USAGES)
def test_what_is_left_of_a_usage(one: Usage, other: Usage) -> None:
    assert one + other - other == one
    assert one - (one + other) == Usage()
    assert Usage() - one == Usage()
    assert one - Usage() == one


def test_memory_of_what_no_transcript_holds() -> None:
    point = ResumePoint("session", "uuid")
    held = Memory(Setup("m"), resume=point)
    cut = held.grown(Setup("m"), (user("a"), assistant("b")), None, Usage())
    assert (cut.resume, cut.seed) == (point, (user("a"), assistant("b")))
    again = cut.grown(Setup("m"), (user("c"), assistant("d")), None, Usage())
    assert again.seed == (user("a"), assistant("b"), user("c"), assistant("d"))
    assert len(again.digests) == 4
    later = again.grown(Setup("m"), (user("e"), assistant("f")), ResumePoint("s", "v"), Usage())
    assert (later.resume, later.seed, later.turns) == (ResumePoint("s", "v"), (), 3)


def test_memory_of_calls_that_stand_open() -> None:
    said = assistant("Let me see.", ToolCall("t", "weather"), ToolCall("u", "now"))
    open_calls = Memory(Setup("m")).grown(Setup("m"), (user("a"), said), None, Usage())
    assert open_calls.calls == ("t", "u")
    assert open_calls.grown(Setup("m"), (user("b"), assistant("c")), None, Usage()).calls == ()
