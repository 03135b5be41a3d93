"""Which messages are the same to the Messages API, and which are only alike."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccapi.schemas.message import (
    Block,
    Checked,
    Document,
    Image,
    Message,
    RedactedThinking,
    Thinking,
    ToolCall,
    ToolResult,
    ToolRound,
    agree,
    digest,
    exact_digest,
    merge_turns,
    parted,
)

from ..support.messages import assistant, user

HM, SECRET = Thinking("Hm.", "c2ln"), RedactedThinking("eA==")
DOT = Image("image/png", "eA==")
FILE = Document("application/pdf", "eA==", "a.pdf")

texts = st.text("ab ", max_size=3)
thoughts = st.sampled_from([HM, Thinking("Hm.", "other"), Thinking("", "c2ln"), SECRET])
parts = st.one_of(texts, st.sampled_from([DOT, FILE, Document("application/pdf", "eA==")]))
calls = st.builds(
    ToolCall,
    st.sampled_from("ab"),
    st.sampled_from(["look", "count"]),
    st.sampled_from(['{"a": 1, "b": 2}', '{"b":2,"a":1}', '{"a":1.0,"b":2}', "{}", "", "no"]),
)
results = st.builds(
    ToolResult, st.sampled_from("ab"), st.lists(parts, max_size=2).map(tuple), st.booleans()
)
messages = st.one_of(
    st.builds(
        Message, st.just("assistant"), st.lists(texts | thoughts | calls, max_size=4).map(tuple)
    ),
    st.builds(Message, st.just("user"), st.lists(parts | results, max_size=4).map(tuple)),
)


def read(message: Message, *, thinks: bool = True) -> list[Any]:
    """What the API reads, in other words than the code has."""
    ordered = sorted(message.results, key=lambda each: each.call_id)
    blocks = [ordered.pop(0) if isinstance(each, ToolResult) else each for each in message.content]
    return [message.role, *(_read(each) for each in blocks if _is_read(each, thinks=thinks))]


def _is_read(block: Block, *, thinks: bool) -> bool:
    if isinstance(block, Thinking | RedactedThinking):
        return thinks
    return not isinstance(block, str) or bool(block.strip())


def _read(block: Any) -> Any:
    match block:
        case ToolCall(id, name, arguments):
            try:
                value = json.loads(arguments or "{}", parse_float=lambda text: int(float(text)))
            except ValueError:
                return id, name, arguments
            return id, name, list(value.items())
        case ToolResult(call_id, content, is_error):
            return call_id, [each for each in content if _is_read(each, thinks=True)], is_error
    return block


@given(messages, messages)
def test_messages_agree_that_are_read_alike(asked: Message, held: Message) -> None:
    thinks = any(isinstance(each, Thinking | RedactedThinking) for each in asked.content)
    same = read(asked, thinks=thinks) == read(held, thinks=thinks)
    assert agree((asked,), (held,)) == same
    assert (exact_digest(asked) == exact_digest(held)) == (read(asked) == read(held))


def has_blank(message: Message) -> bool:
    parts = [*message.content, *(part for each in message.results for part in each.content)]
    return any(isinstance(part, str) and part.isspace() for part in parts)


spoken = messages.filter(lambda message: not has_blank(message))


@given(spoken, spoken)
def test_what_agrees_has_the_same_name(asked: Message, held: Message) -> None:
    """So a conversation that agrees is found."""
    assert agree((asked,), (asked,))
    assert agree((asked.without_thinking,), (asked,))
    assert digest(asked) == digest(held) or not agree((asked,), (held,))


CALL = ToolCall("a", "look", '{"x": [1, 2.50], "é": null}')


@pytest.mark.parametrize(
    ("asked", "held"),
    [
        (assistant("one", "two"), assistant("onetwo")),
        (assistant("one", CALL), assistant(CALL, "one")),
        (assistant(HM, "one"), assistant("one")),
        (assistant(HM, "one"), assistant(SECRET, "one")),
        (assistant(HM, "one"), assistant(HM, HM, "one")),
        (assistant(HM, "one"), assistant("one", HM)),
        (assistant(HM, "one"), assistant(Thinking("Hm.", "c2lo"), "one")),
        (assistant(CALL), assistant(ToolCall("a", "look", '{"é": null, "x": [1, 2.5]}'))),
        (user("a", DOT), user(DOT, "a")),
        (user("a"), assistant("a")),
        (user(FILE), user(Document("application/pdf", "eA=="))),
        (user(ToolResult("a", ("x", "y"))), user(ToolResult("a", ("xy",)))),
        (user(ToolResult("a", ("x",))), user(ToolResult("a", ("x",), is_error=True))),
        (user(ToolResult("a", ()), "x"), user("x", ToolResult("a", ()))),
    ],
    ids=str,
)
def test_what_is_only_alike(asked: Message, held: Message) -> None:
    assert not agree((asked,), (held,))
    assert exact_digest(asked) != exact_digest(held)


@pytest.mark.parametrize(
    ("asked", "held"),
    [
        (assistant("one"), assistant(HM, "one", SECRET)),
        (assistant(HM, "one"), assistant(HM, "", "one", " ")),
        (assistant("a", "b"), assistant("a", ToolRound((CALL,), (ToolResult("a", ()),)), "b")),
        (assistant(CALL), assistant(ToolCall("a", "look", '{"x":[1.0,2.5],"\\u00e9":null}'))),
        (
            assistant(ToolCall("a", "look", '{"x": 12345678901234567890}')),
            assistant(ToolCall("a", "look", '{"x": 12345678901234567000}')),
        ),
        (assistant(ToolCall("a", "look", "")), assistant(ToolCall("a", "look", "{}"))),
        (
            user(ToolResult("a", ("x",)), ToolResult("b", ())),
            user(ToolResult("b", ("",)), ToolResult("a", ("x",))),
        ),
    ],
    ids=str,
)
def test_what_the_api_cannot_tell_apart(asked: Message, held: Message) -> None:
    assert agree((asked,), (held,))


def test_histories_of_other_lengths_do_not_agree() -> None:
    assert not agree((user("a"),), (user("a"), assistant("b")))
    assert not agree((user("a"),), ())
    assert agree((), ())


def test_arguments_that_nest_without_end() -> None:
    deep = assistant(ToolCall("a", "look", "[" * 100_000))
    assert agree((deep,), (assistant(ToolCall("a", "look", "[" * 100_000)),))
    assert not agree((deep,), (assistant(ToolCall("a", "look", "[" * 99_999)),))
    assert exact_digest(deep) == exact_digest(deep)


# -- in one shape ----------------------------------------------------------------------------------

RESULT, OTHER = ToolResult("a", ("x",)), ToolResult("b", ())


def test_what_is_said_behind_results_stands_apart() -> None:
    given = Checked((user("q"), assistant(CALL), user(RESULT, OTHER, "And", DOT)))
    apart = parted(given)
    assert apart == (user("q"), assistant(CALL), user(RESULT, OTHER), user("And", DOT))
    assert isinstance(apart, Checked)
    assert merge_turns(apart) == merge_turns(given)


@pytest.mark.parametrize("message", [user("a", DOT), user(RESULT), user("a", RESULT), user()])
def test_other_messages_stay(message: Message) -> None:
    given = (message, assistant("b"))
    assert parted(given) is given
