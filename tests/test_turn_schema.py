"""Messages, what is new among them, and what a conversation remembers."""

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccapi.schemas.errors import InvalidRequest
from ccapi.schemas.turn import (
    Memory,
    Message,
    Prompt,
    ResumePoint,
    Role,
    Setup,
    Usage,
    add_usage,
    digest,
    is_blank,
    merge_turns,
    messages_of,
    trim,
    unseen,
)


def user(*blocks: str) -> Message:
    return Message("user", blocks)


def assistant(*blocks: str) -> Message:
    return Message("assistant", blocks)


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
        ([user(""), assistant("b"), user("c")], "empty_content", "messages[0].content"),
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
    ],
)
def test_what_is_no_prompt_at_all(prompt: Any, param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        messages_of(prompt)
    assert (caught.value.code, caught.value.param) == ("invalid_type", param)


@pytest.mark.parametrize("text", ["", " ", "\u00a0", "\u2028", "\u3000", "\ufeff", "\r\n\ufeff \t"])
def test_what_the_cli_takes_for_blank(text: str) -> None:
    assert is_blank(text)


@pytest.mark.parametrize("text", ["a", " a ", "\0", "\u200b", "/", "\ufeffa"])
def test_what_it_does_not(text: str) -> None:
    assert not is_blank(text)


HELD_SETUP = Setup("sonnet", "Be brief.")


@pytest.mark.parametrize(
    ("prompt", "setup"),
    [
        (Prompt(()), HELD_SETUP),
        (Prompt((), model="opus"), Setup("opus", "Be brief.")),
        (Prompt((), system="Be long."), Setup("sonnet", "Be long.")),
        (Prompt((), model="opus", system=""), Setup("opus", "")),
    ],
)
def test_what_a_prompt_leaves_open_stays(prompt: Prompt, setup: Setup) -> None:
    assert prompt.setup(HELD_SETUP) == setup


# -- histories -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limit", "kept"),
    [(9, HELD), (4, HELD), (3, HELD[2:]), (2, HELD[2:]), (1, HELD[3:])],
)
def test_trimming_keeps_the_end_from_a_user_message_on(limit: int, kept: list[Message]) -> None:
    assert trim(HELD, limit) == tuple(kept)


@given(HISTORIES, st.integers(1, 8))
def test_trimming_keeps_the_last_message(said: list[Message], limit: int) -> None:
    said = [*said, NEXT]
    kept = trim(said, limit)
    assert 1 <= len(kept) <= limit
    assert list(kept) == said[-len(kept) :]
    assert kept[0].role == "user"


def test_neighbours_of_one_role_are_one_message() -> None:
    said = [assistant("x"), user("a", "b"), user("c"), assistant("d"), assistant("e"), user("f")]
    assert merge_turns(said) == (
        assistant("x"),
        user("a", "b", "c"),
        assistant("d", "e"),
        user("f"),
    )


def test_a_message_without_text_is_none() -> None:
    assert merge_turns([user("a"), assistant("", " "), user("b")]) == (user("a", "b"),)


@given(HISTORIES)
def test_merging_changes_no_word(said: list[Message]) -> None:
    merged = merge_turns(said)
    roles: list[Role] = [message.role for message in merged]
    assert all(one != other for one, other in pairwise(roles))
    assert merge_turns(merged) == merged
    spoken = [(m.role, block) for m in said if not is_blank(m.text) for block in m.content]
    assert [(m.role, block) for m in merged for block in m.content] == spoken


# -- memory ----------------------------------------------------------------------------------------


def test_memory_grows_by_a_turn() -> None:
    said = (user("a"), assistant("b"))
    seeded = Memory(Setup("sonnet"), digests=(digest(user("seed")),), seed=(user("seed"),))
    point = ResumePoint("session", "uuid")
    usage = Usage(1, 2, 3, 4, 0.5)
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
    assert (again.turns, again.usage) == (2, Usage(2, 4, 6, 8, 1.0))


def test_usage_adds_up() -> None:
    total = add_usage(Usage(1, 2, 3, 4, 0.25), Usage(10, 20, 30, 40, 0.5))
    assert total == Usage(11, 22, 33, 44, 0.75)
    assert total.total_tokens == 33


def test_a_history_that_begins_before_what_is_held_joins_on() -> None:
    """A cold child is given only the end of a long history; its client goes on sending all."""
    history = [Message(("user", "assistant")[n % 2], (f"{n}",)) for n in range(7)]
    held = [digest(message) for message in history[2:6]]
    assert unseen(held, history) == (history[6],)
    contradicting = [*history[:4], Message("assistant", ("no",)), history[6]]
    assert unseen(held, contradicting) is None
