"""Messages: which are the same, which are new, which can be asked, and what a child is given."""

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccapi.schemas.claude.tool_names import wire_id
from ccapi.schemas.errors import InvalidRequest
from ccapi.schemas.message import (
    BESIDE,
    PIECE,
    Block,
    Citations,
    Document,
    Image,
    Message,
    RedactedThinking,
    Role,
    ServerBlock,
    Thinking,
    ToolCall,
    ToolResult,
    ToolRound,
    agree,
    check_results,
    digest,
    exact_digest,
    is_blank,
    length_of,
    merge_turns,
    messages_of,
    settle_results,
    size_of,
    spell_calls,
    trim,
    unrolled,
    unseen,
    utf8_size,
)
from tests.support.messages import assistant, user

ROLES = st.sampled_from(["user", "assistant"])
MESSAGES = st.builds(
    Message,
    role=ROLES,
    content=st.lists(st.sampled_from(["a", "b", "", " "]), min_size=1, max_size=3).map(tuple),
)
HISTORIES = st.lists(MESSAGES, max_size=6)
# Few words, so that the same things are said again.
TALKS = st.lists(st.sampled_from("ab"), max_size=5).map(
    lambda words: [said for word in words for said in (user(word), assistant(word))]
)


# -- digests ---------------------------------------------------------------------------------------


def test_a_digest_is_of_the_role_and_the_text() -> None:
    assert digest(user("ab")) == digest(user("a", "b")) == digest(user("ab", ""))
    assert len(digest(user("ab"))) == 32
    assert digest(user("ab")) != digest(assistant("ab"))
    assert digest(user("ab")) != digest(user("ab "))


def test_a_digest_stays_what_it_is() -> None:
    """It will be kept where it outlives a release."""
    expected = "87ce4613405ac8c20165d125a5c2219e8b38a9e030616dffd73a89faaf7293c8"
    assert digest(user("hello")).hex() == expected


def test_a_lone_surrogate_has_a_digest() -> None:
    assert digest(user("\ud800")) != digest(user("\ud801"))


@given(MESSAGES, MESSAGES)
def test_equal_digests_mean_equal_messages(one: Message, other: Message) -> None:
    same = (one.role, one.text) == (other.role, other.text)
    assert (digest(one) == digest(other)) == same


PNG, JPEG = Image("image/png", "AAAA"), Image("image/jpeg", "AAAA")
PDF = Document("application/pdf", "AAAA", "a.pdf")

SAME: dict[str, tuple[Message, Message]] = {
    "text before or after the calls": (
        assistant("a", "b", ToolCall("t", "n"), ToolCall("u", "n")),
        assistant(ToolCall("t", "n"), "ab", ToolCall("u", "n")),
    ),
    "no text": (assistant(ToolCall("t", "n")), assistant("", ToolCall("t", "n"))),
    "spaces in arguments": (
        assistant(ToolCall("t", "n", '{"a": 1, "b": [2]}')),
        assistant(ToolCall("t", "n", '{"b":[2],\n"a":1}')),
    ),
    "escapes in arguments": (
        assistant(ToolCall("t", "n", '{"a":"\\u00e9"}')),
        assistant(ToolCall("t", "n", '{"a":"é"}')),
    ),
    "no arguments": (assistant(ToolCall("t", "n", "")), assistant(ToolCall("t", "n", "{}"))),
    "order of results": (
        user(ToolResult("t", ("1",)), ToolResult("u", ("2",)), "x"),
        user(ToolResult("u", ("2",)), ToolResult("t", ("1",)), "x"),
    ),
    "text before or after the results": (
        user("x", ToolResult("t", ("1",))),
        user(ToolResult("t", ("1",)), "x"),
    ),
    "blocks of text in a result": (
        user(ToolResult("t", ("1", "2", PNG))),
        user(ToolResult("t", ("12", "", PNG))),
    ),
    "blocks of text beside a picture": (user("a", "b", PNG), user("ab", PNG, "")),
}
OTHER: dict[str, tuple[Message, Message]] = {
    "a picture": (user(PNG), user(JPEG)),
    "its place": (user(PNG, "a"), user("a", PNG)),
    "its data": (user(PNG), user(Image("image/png", "AAAB"))),
    "kind of file": (user(PNG), user(Document("image/png", "AAAA"))),
    "name of a file": (user(PDF), user(Document("application/pdf", "AAAA", "b.pdf"))),
    "id of a call": (assistant(ToolCall("t", "n")), assistant(ToolCall("u", "n"))),
    "name of a call": (assistant(ToolCall("t", "n")), assistant(ToolCall("t", "m"))),
    "arguments": (
        assistant(ToolCall("t", "n", '{"a":1}')),
        assistant(ToolCall("t", "n", '{"a":"1"}')),
    ),
    "order of calls": (
        assistant(ToolCall("t", "n"), ToolCall("u", "n")),
        assistant(ToolCall("u", "n"), ToolCall("t", "n")),
    ),
    "text beside a call": (assistant("a", ToolCall("t", "n")), assistant(ToolCall("t", "n"))),
    "whose result": (user(ToolResult("t", ("1",))), user(ToolResult("u", ("1",)))),
    "the result": (user(ToolResult("t", ("1",))), user(ToolResult("t", ("2",)))),
    "an error": (user(ToolResult("t", ("1",))), user(ToolResult("t", ("1",), is_error=True))),
    "no result but text": (
        user(ToolResult("t", ("1",))),
        user('[["result", "t", ["1"], false]]'),
    ),
    "what is no JSON": (
        assistant(ToolCall("t", "n", "{")),
        assistant(ToolCall("t", "n", "{ ")),
    ),
}


@pytest.mark.parametrize(("one", "other"), SAME.values(), ids=SAME)
def test_what_a_client_may_change_does_not_count(one: Message, other: Message) -> None:
    assert digest(one) == digest(other)


@pytest.mark.parametrize(("one", "other"), OTHER.values(), ids=OTHER)
def test_what_makes_another_message(one: Message, other: Message) -> None:
    assert digest(one) != digest(other)


def test_the_digest_of_a_call_stays_what_it_is() -> None:
    said = assistant("Let me see.", ToolCall("toolu_1", "get_weather", '{"city":"Rome"}'))
    expected = "ed8c35bf96dee28aeaade8c16e4f5769fed8cce872f90b837d87c1bbf753d62b"
    assert digest(said).hex() == expected


@pytest.mark.parametrize(
    "arguments", ["{", "[1]", "\ud800", '{"a":' * 9999, "[" * 99999 + "]" * 99999]
)
def test_any_arguments_have_a_digest(arguments: str) -> None:
    assert digest(assistant(ToolCall("t", "n", arguments))) != digest(assistant(ToolCall("t", "n")))


# -- blocks ----------------------------------------------------------------------------------------


def test_what_a_message_holds() -> None:
    call, result = ToolCall("t", "n", '{"a": 1}'), ToolResult("t", ("sunny",))
    said = assistant("a", call, "b")
    assert (said.text, said.calls, said.results) == ("ab", (call,), ())
    brought = user(result, "c", PNG)
    assert (brought.text, brought.calls, brought.results) == ("c", (), (result,))


@pytest.mark.parametrize(
    "message", [user(PNG), user(ToolResult("t", ())), assistant(ToolCall("t", "n"))]
)
def test_what_is_no_text_is_not_blank(message: Message) -> None:
    assert not message.is_blank
    assert messages_of([message]) if message.role == "user" else message.calls


def test_the_input_of_a_call() -> None:
    assert ToolCall("t", "n").input == ToolCall("t", "n", "").input == {}
    assert ToolCall("t", "n", ' {"a": [1.5, null]} ').input == {"a": [1.5, None]}
    assert ToolCall("t", "n", '{"a":' * 254 + "1" + "}" * 254).input


@pytest.mark.parametrize(
    "arguments",
    [
        "{",
        "[1]",
        "null",
        '"a"',
        "{} x",
        '{"a":' * 255 + "1" + "}" * 255,
        '{"a":' * 9999,
        "1" * 9999,
    ],
    ids=lambda arguments: arguments[:9],
)
def test_what_is_no_input(arguments: str) -> None:
    with pytest.raises(ValueError):
        ToolCall("t", "n", arguments).input  # noqa: B018 (read for its error)


# -- what is new -----------------------------------------------------------------------------------


def new(held: list[Message], said: list[Message]) -> list[Message] | None:
    found = unseen([digest(message) for message in held], said)
    return None if found is None else list(found)


HELD = [user("one"), assistant("eins"), user("two"), assistant("zwei")]
NEXT = user("three")


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ([NEXT], [NEXT]),
        ([*HELD, NEXT], [NEXT]),
        ([*HELD[1:], NEXT], [NEXT]),
        ([*HELD[3:], NEXT], [NEXT]),
        ([user("failed"), NEXT], [user("failed"), NEXT]),
        ([*HELD, user("failed"), NEXT], [user("failed"), NEXT]),
        # It went on elsewhere: the answer came from a cache.
        ([*HELD, user("x"), assistant("y"), NEXT], [user("x"), assistant("y"), NEXT]),
        # Said twice is said twice.
        ([user("two")], [user("two")]),
        ([*HELD, user("two")], [user("two")]),
    ],
)
def test_what_is_new(said: list[Message], found: list[Message]) -> None:
    assert new(HELD, said) == found


@pytest.mark.parametrize(
    "said",
    [
        [*HELD[:2], NEXT],  # two turns behind: a branch
        [*HELD[:3]],  # the last turn again
        [user("one"), assistant("uno"), NEXT],
        [assistant("who?"), NEXT],
        [*HELD[:3], assistant("zwo"), NEXT],
        [*HELD[:2], assistant("other"), NEXT],
    ],
)
def test_what_contradicts(said: list[Message]) -> None:
    assert new(HELD, said) is None


def test_in_an_empty_conversation_everything_is_new() -> None:
    assert new([], [*HELD, NEXT]) == [*HELD, NEXT]


def test_the_last_message_is_always_new() -> None:
    assert new([NEXT], [NEXT]) == [NEXT]


def test_of_several_readings_the_one_that_knows_most_is_taken() -> None:
    held = [user("a"), assistant("b"), user("a"), assistant("b")]
    assert new(held, [*held, NEXT]) == [NEXT]
    assert new(held, [*held[2:], NEXT]) == [NEXT]
    # More of the same than is held: the rest is history that is new.
    assert new(held[:2], [*held, NEXT]) == [*held[2:], NEXT]


@given(TALKS, st.integers(0, 10))
def test_any_end_of_the_history_is_known(held: list[Message], cut: int) -> None:
    known = held[max(0, len(held) - cut) :]
    assert new(held, [*known, NEXT]) == [NEXT]


@given(HISTORIES, HISTORIES)
def test_nothing_new_is_lost_or_made_up(held: list[Message], said: list[Message]) -> None:
    said = [*said, NEXT]
    found = new(held, said)
    if found is None:
        assert held
        assert any(message.role == "assistant" for message in said)
        return
    assert found
    known = said[: len(said) - len(found)]
    assert known + found == said
    both = min(len(known), len(held))  # what is known may begin before what is held
    ends = [[digest(m) for m in texts[len(texts) - both :]] for texts in (known, held)]
    assert ends[0] == ends[1]


def test_a_history_that_begins_before_what_is_held_joins_on() -> None:
    """A cold child is given only the end of a long history; its client goes on sending all."""
    history = [Message(("user", "assistant")[n % 2], (f"{n}",)) for n in range(7)]
    held = [digest(message) for message in history[2:6]]
    assert unseen(held, history) == (history[6],)
    contradicting = [*history[:4], Message("assistant", ("no",)), history[6]]
    assert unseen(held, contradicting) is None


# -- prompts ---------------------------------------------------------------------------------------


def test_a_prompt_may_be_text() -> None:
    assert messages_of("hello") == (user("hello"),)


def test_a_prompt_may_be_messages() -> None:
    said = [user("a"), assistant("", " "), user("b", "")]
    assert messages_of(said) == tuple(said)


@pytest.mark.parametrize(
    ("prompt", "code", "param"),
    [
        ([], "invalid_request", "messages"),
        ("", "empty_content", "messages[0].content"),
        (" \n\t", "empty_content", "messages[0].content"),
        ("\ufeff \ufeff", "empty_content", "messages[0].content"),
        ([user("a"), assistant("b"), user("", " ")], "empty_content", "messages[2].content"),
        ([user("a"), assistant("b")], "invalid_request", "messages[1].role"),
    ],
)
def test_what_cannot_be_asked(prompt: str | list[Message], code: str, param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        messages_of(prompt)
    assert (caught.value.code, caught.value.param) == (code, param)


@pytest.mark.parametrize(
    ("prompt", "param"),
    [
        (3, "messages"),
        (None, "messages"),
        (user("a"), "messages"),
        (["a"], "messages[0]"),
        (b"a", "messages[0]"),
        ([user("a"), {"role": "user", "content": "b"}], "messages[1]"),
        ([Message("user", "abc")], "messages[0].content"),  # type: ignore[arg-type]
        ([Message("user", (1,))], "messages[0].content"),  # type: ignore[arg-type]
        ([Message("user", None)], "messages[0].content"),  # type: ignore[arg-type]
        ([Message("system", ("a",)), user("b")], "messages[0].role"),  # type: ignore[arg-type]
        ([user(ToolCall("t", "n"))], "messages[0].content"),
        ([assistant(PNG), user("b")], "messages[0].content"),
        ([assistant(ToolResult("t", ("1",))), user("b")], "messages[0].content"),
        ([user(ToolResult("t", "text"))], "messages[0].content"),  # type: ignore[arg-type]
        ([user(ToolResult("t", (1,)))], "messages[0].content"),  # type: ignore[arg-type]
    ],
)
def test_what_is_no_prompt_at_all(prompt: Any, param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        messages_of(prompt)
    assert (caught.value.code, caught.value.param) == ("invalid_type", param)


CALL = assistant("Let me see.", ToolCall("t", "n"), ToolCall("u", "n"))
SUNNY, RAINY = ToolResult("t", ("sunny",)), ToolResult("u", ("rainy",))


def test_an_old_message_that_says_nothing_is_passed_over() -> None:
    said = [user("a"), assistant("b"), user(""), assistant("c"), user(" "), user("d")]
    assert messages_of(said) == (said[0], said[1], said[3], said[5])
    assert messages_of([user(""), assistant("b"), user("c")]) == (assistant("b"), user("c"))


A, B = ToolCall("a", "n"), ToolCall("b", "n")
OF_A, OF_B = ToolResult("a", ("1",)), ToolResult("b", ("2",))


@pytest.mark.parametrize(
    ("said", "settled"),
    [
        (
            [user("q"), assistant(A), user("hm"), user(OF_A)],
            [user("q"), assistant(A), user(OF_A), user("hm")],
        ),
        (
            [assistant(A, B), user(OF_A), user("hm"), user(OF_B), user("?")],
            [assistant(A, B), user(OF_A, OF_B), user("hm"), user("?")],
        ),
        (
            [assistant(A), assistant(B), user(OF_A, OF_B, "and?")],
            [assistant(A), user(OF_A), assistant(B), user(OF_B, "and?")],
        ),
        ([user("hm"), user(OF_A)], [user(OF_A), user("hm")]),
        ([assistant(A), user("hm"), user(OF_A), assistant(A), user(OF_A)], None),
    ],
)
def test_results_are_found_wherever_they_stand(
    said: list[Message], settled: list[Message] | None
) -> None:
    if settled is None:
        settled = [said[0], said[2], said[1], *said[3:]]
    assert [message for _, message in settle_results(said)] == settled
    assert tuple(settle_results(settled)) == tuple(enumerate(settled))
    check_results(settled, None, str)
    assert messages_of([*said, user("x")]) == (*settled, user("x"))


@pytest.mark.parametrize(
    "said",
    [
        [user("q"), assistant(A), user(OF_A, "text")],  # in place, so as it is
        [user("q"), assistant("b"), user(OF_A)],  # of no call
        [user("q"), assistant(A), user(OF_A), user("x"), user(OF_A)],  # one too many
        [user(OF_A), assistant(A)],
    ],
)
def test_what_is_in_place_or_of_no_call_is_not_moved(said: list[Message]) -> None:
    assert tuple(settle_results(said)) == tuple(enumerate(said))


@given(st.permutations([0, 1, 2, 3, 4]), st.integers(0, 5))
def test_no_block_is_lost_in_settling(order: list[int], cut: int) -> None:
    parts = [assistant(A), assistant(B), user(OF_A), user(OF_B), user("hm")]
    said = [parts[number] for number in order][:cut]
    settled = [message for _, message in settle_results(said)]
    before = sorted(str(block) for message in said for block in message.content)
    assert sorted(str(block) for message in settled for block in message.content) == before


@pytest.mark.parametrize("arguments", ["{", "[1]", '{"a":' * 9999, '{"a": NaN}', '{"a": [-1e999]}'])
def test_arguments_that_are_no_json_object_are_a_history_too(arguments: str) -> None:
    """Some model called so, and a client kept it."""
    said = (user("a"), assistant(ToolCall("t", "n", arguments)), user(SUNNY))
    assert messages_of(said) == said
    with pytest.raises(ValueError):
        said[1].calls[0].input  # noqa: B018 (read for its error)


def test_an_identity_is_worked_out_once() -> None:
    message = user("a")
    assert digest(message) is digest(message)
    assert message == user("a")


def test_numbers_are_what_they_are_in_javascript() -> None:
    one, other = (assistant(ToolCall("t", "n", text)) for text in ('{"a":1.0}', '{"a": 1}'))
    assert digest(one) == digest(other)
    third = assistant(ToolCall("t", "n", '{"a": 1.5}'))
    assert digest(one) != digest(third)


def test_ids_that_come_again_are_spelt_apart() -> None:
    """Other providers count the calls of each message anew; the Messages API wants them unique."""
    call, result = ToolCall("call_0", "n"), ToolResult("call_0", ("x",))
    said = [user("a"), assistant(call), user(result), assistant(call), user(result), assistant("b")]
    merged = merge_turns(said)
    assert merged[:3] == tuple(said[:3])
    spelt = merged[3].calls[0].id
    assert spelt == merged[4].results[0].call_id
    assert spelt.startswith("call_0-")
    assert merged[5] == said[5]


def _rounds(*ids: str) -> list[Message]:
    """A question, a call and its result for each of the ids."""
    return [
        message
        for call_id in ids
        for message in (
            user("q"),
            assistant(ToolCall(call_id, "n")),
            user(ToolResult(call_id, (call_id,))),
        )
    ]


def _wires(messages: Sequence[Message]) -> list[str]:
    """The ids of the calls, as the API receives them; each result follows its call."""
    calls = [wire_id(call.id) for message in messages for call in message.calls]
    results = [wire_id(result.call_id) for message in messages for result in message.results]
    assert calls == results
    return calls


@pytest.mark.parametrize(
    ("ids", "kept"),
    [
        (["call_0", "call_0", "call_0"], ["call_0"]),
        (["abc", "abc_2"], ["abc"]),
        (["abc_2", "abc"], ["abc"]),
        (["call_0", "call_1", "call_10"], ["call_0", "call_1", "call_10"]),
        (["a.b", "a_b", "a_b_1"], ["a_b"]),
        (["call", "call_1", "call_1_1"], ["call"]),
    ],
)
def test_a_call_is_spelt_otherwise_only_where_its_result_would_be_lost(
    ids: list[str], kept: list[str]
) -> None:
    wires = _wires(spell_calls(_rounds(*ids)))
    assert [wire for wire in wires if wire in ids] == kept


def test_calls_before_those_that_are_sent_count_too() -> None:
    first, second, third = (
        _wires(spell_calls(_rounds("call_0"), before))[0]
        for before in ([], ["call_0"], ["call_0", "call_0"])
    )
    assert len({first, second, third}) == 3
    assert _wires(spell_calls(_rounds("abc"), ["abc_2"])) != ["abc"]
    assert _wires(spell_calls(_rounds("abc_2"), ["abc"])) != ["abc_2"]


CALL_IDS = st.text(st.sampled_from("a_1."), min_size=1, max_size=6)


@given(st.lists(CALL_IDS, max_size=6), st.lists(CALL_IDS, max_size=6))
def test_no_result_is_lost_whatever_the_ids(before: list[str], ids: list[str]) -> None:
    """Told in one piece or in two: the CLI's rule is in tests/contract/test_call_ids.py."""
    pieces = [spell_calls(_rounds(*before)), spell_calls(_rounds(*ids), before)]
    wires = [wire for piece in pieces for wire in _wires(piece)]
    assert len(set(wires)) == len(wires)
    assert not any(re.sub("_[0-9]+$", "", wire) in set(wires) - {wire} for wire in wires)


@pytest.mark.parametrize(
    "said",
    [
        [user("a"), CALL, user(SUNNY, RAINY)],
        [user("a"), CALL, user(RAINY, SUNNY, "and?"), assistant("b"), user("c")],
        [user("a"), CALL, user(SUNNY, RAINY), CALL, user(SUNNY, RAINY)],
        [user(SUNNY)],  # of a call that the conversation knows
        [CALL, user(SUNNY, RAINY)],
    ],
)
def test_calls_and_their_results(said: list[Message]) -> None:
    assert messages_of(said) == tuple(said)


@pytest.mark.parametrize(
    ("said", "calls", "code", "index"),
    [
        ([user("a"), CALL, user("b")], None, "missing_tool_results", 2),
        ([user("a"), CALL, user(SUNNY)], None, "missing_tool_results", 2),
        ([user("a"), CALL, assistant("b"), user(SUNNY, RAINY)], None, "missing_tool_results", 2),
        ([user("a"), CALL, user(SUNNY), user(RAINY)], None, "missing_tool_results", 2),
        ([user("a"), user(SUNNY)], None, "unknown_tool_call_id", 1),
        ([CALL, user(SUNNY, RAINY), user(SUNNY)], None, "unknown_tool_call_id", 2),
        ([CALL, user(SUNNY, RAINY, ToolResult("x", ()))], None, "unknown_tool_call_id", 1),
        ([user(SUNNY)], (), "unknown_tool_call_id", 0),
        ([user("b")], ("t",), "missing_tool_results", 0),
        ([user(SUNNY)], ("t", "u"), "missing_tool_results", 0),
        ([user(SUNNY, RAINY)], ("t",), "unknown_tool_call_id", 0),
        ([user(SUNNY, SUNNY)], ("t",), "duplicate_tool_results", 0),
        ([user(SUNNY, SUNNY)], None, "duplicate_tool_results", 0),
    ],
)
def test_a_call_has_one_result_and_a_result_one_call(
    said: list[Message], calls: tuple[str, ...] | None, code: str, index: int
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        check_results(said, calls, lambda number: f"at {number}")
    assert (caught.value.code, caught.value.param) == (code, f"at {index}")


def test_results_of_calls_that_stand_open() -> None:
    check_results([user(SUNNY, RAINY)], ("u", "t"), str)
    check_results([user("a")], (), str)


@pytest.mark.parametrize("text", ["", " ", "\u00a0", "\u2028", "\u3000", "\ufeff", "\r\n\ufeff \t"])
def test_what_the_cli_takes_for_blank(text: str) -> None:
    assert is_blank(text)


@pytest.mark.parametrize("text", ["a", " a ", "\0", "\u200b", "/", "\ufeffa"])
def test_what_it_does_not(text: str) -> None:
    assert not is_blank(text)


# -- histories -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limit", "kept"),
    [(9, HELD), (4, HELD), (3, HELD[2:]), (2, HELD[2:]), (1, HELD[2:])],
)
def test_trimming_keeps_the_end_from_a_user_message_on(limit: int, kept: list[Message]) -> None:
    assert trim(HELD, limit) == tuple(kept)


TOOLS = [*HELD, user("look"), CALL, user(SUNNY, RAINY), CALL, user(SUNNY, RAINY), assistant("so")]


@pytest.mark.parametrize(
    ("said", "limit", "begin"),
    [
        ([*TOOLS, NEXT], 7, 4),
        ([*TOOLS, NEXT], 6, 10),  # NEXT is the only one of these that answers no call
        (TOOLS, 1, 4),
        (TOOLS, 5, 4),
        (TOOLS, 7, 4),
        (TOOLS, 8, 2),
        ([CALL, user(SUNNY, RAINY), assistant("so")], 1, 0),
        ([assistant("x"), NEXT], 2, 0),
        ([assistant("x"), NEXT, assistant("y"), NEXT], 3, 1),
    ],
)
def test_trimming_parts_no_result_from_its_call(
    said: list[Message], limit: int, begin: int
) -> None:
    assert trim(said, limit) == tuple(said[begin:])


@given(HISTORIES, st.integers(1, 8))
def test_trimming_keeps_the_end(said: list[Message], limit: int) -> None:
    said = [*said, NEXT]
    kept = trim(said, limit)
    assert list(kept) == said[-len(kept) :]
    if len(said) <= limit:
        assert list(kept) == said
    else:
        assert kept[0].role == "user"
        assert len(kept) <= limit  # since the last message could always be the first


def test_neighbours_of_one_role_are_one_message() -> None:
    said = [assistant("x"), user("a", "b"), user("c"), assistant("d"), assistant("e"), user("f")]
    assert merge_turns(said) == (
        assistant("x"),
        user("a", "b", "c"),
        assistant("d", "e"),
        user("f"),
    )


def test_what_is_no_text_is_not_left_out() -> None:
    said = [user(PNG), user("a"), assistant("", CALL.content[1]), assistant(" "), user(SUNNY)]
    assert merge_turns(said) == (user(PNG, "a"), assistant("", CALL.content[1]), user(SUNNY))


def test_a_message_without_text_is_none() -> None:
    assert merge_turns([user("a"), assistant("", " "), user("b")]) == (user("a", "b"),)


def test_results_stand_in_the_order_of_their_calls() -> None:
    one, two = ToolCall("one", "look", "{}"), ToolCall("two", "look", "{}")
    results = {name: ToolResult(name, (name,)) for name in ("one", "two", "other")}
    said = [
        assistant("", one, two),
        user(results["other"], results["two"]),
        user("And?", results["one"]),
    ]
    merged = merge_turns(said)
    assert merged[1] == user(results["one"], results["two"], "And?", results["other"])
    assert merge_turns(merged) == merged


@given(HISTORIES)
def test_merging_changes_no_word(said: list[Message]) -> None:
    merged = merge_turns(said)
    roles: list[Role] = [message.role for message in merged]
    assert all(one != other for one, other in pairwise(roles))
    assert merge_turns(merged) == merged
    spoken = [(m.role, block) for m in said if not is_blank(m.text) for block in m.content]
    assert [(m.role, block) for m in merged for block in m.content] == spoken


def test_what_was_checked_is_not_checked_again() -> None:
    checked = messages_of((Message("user", ("hello",)),))
    assert messages_of(checked) is checked
    assert checked == (Message("user", ("hello",)),)


# -- size ------------------------------------------------------------------------------------------


@given(st.text(st.characters(), max_size=20), st.integers(0, 3))
def test_a_text_is_as_large_as_its_utf8(text: str, times: int) -> None:
    """Lone surrogates have three bytes, in JSON or not."""
    assert utf8_size(text) == len(text.encode("utf-8", "surrogatepass"))
    long = text + "\N{SNOWMAN}" * (PIECE - 1) * times + text
    assert utf8_size(long) == len(long.encode("utf-8", "surrogatepass"))


@pytest.mark.parametrize(
    ("block", "size"),
    [
        ("ab", 2),
        ("\xe9", 2),
        ("\N{SNOWMAN}" * 10, 30),
        ("\N{GRINNING FACE}a", 5),
        ("\ud800", 3),
        (Image("image/png", "AAAA"), BESIDE + 4),
        (Document("text/plain", "AAAA", "a.txt"), BESIDE + 4),
        (ToolCall("id", "name", '{"a":"\xe9"}'), BESIDE + 2 + 4 + 10),
        (ToolResult("id", ("\xe9", Image("image/png", "AAAA"))), BESIDE + 2 + 2 + BESIDE + 4),
    ],
    ids=repr,
)
def test_a_message_is_as_large_as_its_utf8(block: Block, size: int) -> None:
    message = Message("user", (block,))
    assert size_of([message]) == BESIDE + size
    assert size_of([message, message]) == 2 * (BESIDE + size)


def test_thinking_is_no_part_of_what_a_message_is_or_says() -> None:
    thinking = (Thinking("Hm.", "c2ln"), RedactedThinking("eA=="))
    for said in (("Yes.",), ("Yes.", ToolCall("a", "look")), (ToolCall("a", "look"),), ("",)):
        plain, exact = Message("assistant", said), Message("assistant", (*thinking, *said))
        assert digest(exact) == digest(plain)
        assert (exact.text, exact.calls, exact.is_blank) == (
            plain.text, plain.calls, plain.is_blank,
        )  # fmt: skip
        assert size_of([exact]) == size_of([plain]) + 2 * BESIDE + len("Hm.c2lneA==")
        assert length_of(exact.content) == length_of(plain.content) + 2 * BESIDE + 11


def test_thinking_is_kept_for_a_child() -> None:
    said = [
        Message("user", ("Go.",)),
        Message("assistant", (Thinking("Hm.", "c2ln"), ToolCall("a", "look"))),
        Message("assistant", (RedactedThinking("eA=="), ToolCall("a", "look"))),
    ]
    (_, joined) = merge_turns(trim(said, 3))
    assert joined.content[0] == Thinking("Hm.", "c2ln")
    assert joined.content[2] == RedactedThinking("eA==")


# -- rounds of tools -------------------------------------------------------------------------------

CALLED = ToolCall("c1", "mcp__a__echo", '{"text":"hi"}')
ROUND = ToolRound((CALLED,), (ToolResult("c1", ("echoed",)),))


def test_rounds_of_tools_are_no_part_of_what_a_client_knows() -> None:
    said = Message("assistant", ("Let me see.", ROUND, "\n\nSo."))
    seen = Message("assistant", ("Let me see.\n\nSo.",))
    assert digest(said) == digest(seen)
    assert (said.text, said.calls, said.is_blank) == (seen.text, (), False)
    assert size_of([said]) > size_of([seen])
    assert length_of(said.content) > length_of(seen.content)


def test_a_history_is_unrolled_for_the_model() -> None:
    said = Message("assistant", ("Let me see.", ROUND, ROUND, "\n\nSo."))
    history = (Message("user", ("one",)), said, Message("user", ("two",)))
    flat, origins = unrolled(history)
    assert [(message.role, message.content) for message in flat] == [
        ("user", ("one",)),
        ("assistant", ("Let me see.", CALLED)),
        ("user", ROUND.results),
        ("assistant", (CALLED,)),
        ("user", ROUND.results),
        ("assistant", ("So.",)),
        ("user", ("two",)),
    ]
    assert [*origins] == [0, 1, -1, -1, -1, -1, 2]


def test_a_text_without_one_before_it_stays_as_the_model_gave_it() -> None:
    flat, _ = unrolled([Message("assistant", (ROUND, "\n\nSo."))])
    assert flat[-1].content == ("\n\nSo.",)


def test_a_history_without_rounds_is_itself() -> None:
    history = (Message("user", ("one",)), Message("assistant", ("eins",)))
    flat, origins = unrolled(history)
    assert flat is history
    assert [*origins] == [0, 1]


def test_clients_may_bring_thinking_back() -> None:
    thinking = (Thinking("Hm.", "c2ln"), RedactedThinking("eA=="))
    asked = (user("a"), Message("assistant", (*thinking, "b")), user("c"))
    assert messages_of(asked) == asked
    with pytest.raises(InvalidRequest, match="must be a tuple of blocks that suit the role"):
        messages_of([Message("user", thinking)])


def test_what_is_said_of_a_document_is_part_of_the_message() -> None:
    plain, said = Document("a/b", "AA=="), Document("a/b", "AA==", context="Old.")
    assert digest(Message("user", (plain,))) != digest(Message("user", (said,)))
    assert size_of([Message("user", (said,))]) == size_of([Message("user", (plain,))]) + 4
    assert length_of((said,)) == length_of((plain,)) + 4


# -- searches of the web ---------------------------------------------------------------------------

USED, FOUND, CITED = ServerBlock('{"id":1}'), ServerBlock("[1]"), Citations("[2]")


def test_searches_are_no_part_of_what_a_message_is_or_says() -> None:
    searched = Message("assistant", ("So: ", USED, FOUND, "blue", CITED))
    assert digest(searched) == digest(Message("assistant", ("So: blue",)))
    assert searched.text == "So: blue"
    assert not Message("assistant", (USED, FOUND)).is_blank, "the API would miss it"
    assert Message("assistant", (CITED, " ")).is_blank


@pytest.mark.parametrize(
    ("asked", "same"),
    [
        (("blue",), True),  # of a client that never saw them
        ((USED, FOUND, "blue", CITED), True),
        ((USED, FOUND, "blue", CITED, " "), True),  # which the API does not read
        ((USED, FOUND, "blue"), False),
        ((USED, "blue", CITED), False),
        ((FOUND, USED, "blue", CITED), False),
        ((USED, FOUND, "blue", Citations("[3]")), False),
    ],
)
def test_what_the_api_reads_of_searches_has_to_agree(
    asked: tuple[Block, ...], *, same: bool
) -> None:
    held = [Message("assistant", (USED, FOUND, "blue", CITED))]
    brought = [Message("assistant", asked)]
    assert agree(brought, held) is same
    assert (exact_digest(brought[0]) == exact_digest(held[0])) is (same and len(asked) > 1)
