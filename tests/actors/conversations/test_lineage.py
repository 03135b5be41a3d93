"""Lineage without its actors: names of histories, and the table against a simple model."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import pytest
from attrs import define, evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ccapi.actors.conversations.lineage import LineageTable, likeness, lineage_key, new_from
from ccapi.schemas.message import Message, ToolCall, ToolResult, digest
from ccapi.schemas.turn import Memory, Setup, Tool

HI = Message("user", ("Hi",))
HELLO = Message("assistant", ("Hello",))
CALL = Message("assistant", (ToolCall("call_1", "add", '{"a": 1}'),))
RESULT = Message("user", (ToolResult("call_1", ("2",)),))
SETUP = Setup("sonnet", "Be brief.", tools=(Tool("add"),))


def key_of(
    messages: Sequence[Message] = (HI, HELLO), owner: str = "local", setup: Setup = SETUP
) -> bytes:
    return lineage_key(owner, setup, [digest(message) for message in messages])


# -- names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"owner": "key-2"},
        {"owner": ""},
        {"messages": ()},
        {"messages": (HI,)},
        {"messages": (HELLO, HI)},
        {"messages": (HI, HELLO, HI)},
        {"messages": (HI, HI, HELLO)},
        {"messages": (HI, Message("assistant", ("Hello ",)))},
        {"messages": (HI, CALL)},
        {"setup": evolve(SETUP, model="opus")},
        {"setup": evolve(SETUP, system="Be brief. ")},
        {"setup": evolve(SETUP, tools=())},
        {"setup": evolve(SETUP, tools=(Tool("add", strict=True),))},
        {"setup": evolve(SETUP, tools=(Tool("add", "Adds."),))},
        {"setup": evolve(SETUP, tools=(Tool("add"), Tool("sub")))},
    ],
    ids=str,
)
def test_whatever_a_conversation_is_made_of_changes_the_name(change: dict[str, Any]) -> None:
    assert key_of(**change) != key_of()


def test_the_form_of_the_answer_is_each_turns_own() -> None:
    assert key_of(setup=evolve(SETUP, schema="{}")) == key_of()


def test_what_a_client_changes_without_meaning_to_does_not() -> None:
    assert len(key_of()) == 32
    assert key_of((HI, Message("assistant", ("Hel", "lo")))) == key_of()
    spaced = Message("assistant", (ToolCall("call_1", "add", '{"a":1}'),))
    assert key_of((HI, spaced)) == key_of((HI, CALL))


anything = st.text(st.characters(exclude_categories=()), max_size=3)
setups = st.builds(
    Setup,
    anything,
    anything,
    tools=st.lists(st.builds(Tool, anything, anything), max_size=2).map(tuple),
)
digests = st.lists(st.binary(min_size=32, max_size=32), max_size=3)
histories = st.tuples(anything, setups, digests)


@settings(deadline=None)
@given(histories, histories)
def test_two_histories_share_a_name_only_if_they_are_the_same(
    one: tuple[str, Setup, list[bytes]], other: tuple[str, Setup, list[bytes]]
) -> None:
    assert (lineage_key(*one) == lineage_key(*other)) == (one == other)


@settings(deadline=None)
@given(anything, anything, anything)
def test_fields_do_not_run_into_each_other(owner: str, model: str, system: str) -> None:
    split = {
        (owner, model, system),
        (owner + model, "", system),
        (owner, model + system, ""),
        ("", owner, model + system),
    }
    names = {lineage_key(who, Setup(which, what), ()) for who, which, what in split}
    assert len(names) == len(split)


# -- what is new in a history ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("messages", "border"),
    [
        ((HI,), 0),
        ((HI, HI), 0),
        ((HI, HELLO, HI), 2),
        ((HI, HELLO, HI, HI), 2),
        ((HI, HELLO, HI, CALL, RESULT), 4),
        ((HI, HELLO), 2),
        ((), 0),
    ],
)
def test_what_is_new_stands_behind_the_last_answer(
    messages: Sequence[Message], border: int
) -> None:
    assert new_from(messages) == border


# -- the table -----------------------------------------------------------------------------------


@define(eq=False)
class Held:
    """A conversation, as far as its history goes."""

    owner: str
    memory: Memory
    fits: bool = True

    @property
    def identity(self) -> tuple[str, Setup, tuple[bytes, ...]]:
        return self.owner, self.memory.setup, self.memory.digests

    @property
    def key(self) -> bytes:
        return lineage_key(*self.identity)

    def grow(self, message: Message) -> None:
        self.memory = evolve(self.memory, digests=(*self.memory.digests, digest(message)))


def held(*messages: Message, owner: str = "local", setup: Setup = SETUP) -> Held:
    return Held(owner, Memory(setup, tuple(map(digest, messages))))


def always(_: Held) -> bool:
    return True


def test_who_came_to_a_history_last_is_found_first() -> None:
    table: LineageTable[Held] = LineageTable()
    first, second = held(HI, HELLO), held(HI, HELLO)
    for holder in (first, second):
        table.keep(holder)
    assert table.find(key_of(), always) is second
    assert table.find(key_of(), lambda holder: holder is first) is first
    table.drop(second)
    table.drop(second)  # once is enough
    assert table.find(key_of(), always) is first
    table.drop(first)
    assert table.find(key_of(), always) is None
    assert len(table) == 0


def test_a_conversation_that_went_on_holds_its_old_history_no_more() -> None:
    table: LineageTable[Held] = LineageTable()
    holder = held(HI, HELLO)
    table.keep(holder)
    holder.grow(HI)
    holder.grow(HELLO)
    assert table.find(key_of(), always) is None, "the table has not noticed it yet"
    assert table.find(holder.key, always) is None
    table.keep(holder)
    assert table.find(key_of(), always) is None
    assert table.find(holder.key, always) is holder
    assert len(table) == 1


def test_an_empty_conversation_is_the_holder_of_no_history() -> None:
    table: LineageTable[Held] = LineageTable()
    table.keep(held())
    assert table.find(key_of(()), always) is None
    assert len(table) == 0


OWNERS = st.sampled_from(["alice", "bob"])
SETUPS = st.sampled_from([SETUP, evolve(SETUP, system=""), evolve(SETUP, tools=())])
SAYS = st.sampled_from([HI, HELLO])


class TableModel(RuleBasedStateMachine):
    """Conversations come, go on with or without the table's knowledge, and go. What is found
    holds exactly what was asked for; and one is found where one that was kept does."""

    def __init__(self) -> None:
        super().__init__()
        self.table: LineageTable[Held] = LineageTable()
        self.all: list[Held] = []
        self.kept: dict[Held, tuple[Any, ...]] = {}  # what each held when it was last kept

    @rule(owner=OWNERS, setup=SETUPS)
    def create(self, owner: str, setup: Setup) -> None:
        self.all.append(held(owner=owner, setup=setup))

    @precondition(lambda self: self.all)
    @rule(data=st.data(), message=SAYS)
    def grow(self, data: st.DataObject, message: Message) -> None:
        data.draw(st.sampled_from(self.all)).grow(message)

    @precondition(lambda self: self.all)
    @rule(data=st.data(), setup=SETUPS)
    def change_setup(self, data: st.DataObject, setup: Setup) -> None:
        holder = data.draw(st.sampled_from(self.all))
        holder.memory = evolve(holder.memory, setup=setup)

    @precondition(lambda self: self.all)
    @rule(data=st.data())
    def keep(self, data: st.DataObject) -> None:
        holder = data.draw(st.sampled_from(self.all))
        self.table.keep(holder)
        self.kept.pop(holder, None)
        if holder.memory.digests:
            self.kept[holder] = holder.identity

    @precondition(lambda self: self.all)
    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        holder = data.draw(st.sampled_from(self.all))
        self.table.drop(holder)
        self.kept.pop(holder, None)

    @precondition(lambda self: self.all)
    @rule(data=st.data(), fits=st.booleans())
    def occupy(self, data: st.DataObject, fits: bool) -> None:
        data.draw(st.sampled_from(self.all)).fits = fits

    @rule(owner=OWNERS, setup=SETUPS, messages=st.lists(SAYS, min_size=1, max_size=3))
    def find(self, owner: str, setup: Setup, messages: list[Message]) -> None:
        wanted = owner, setup, tuple(map(digest, messages))
        found = self.table.find(lineage_key(*wanted), lambda holder: holder.fits)
        those = [
            holder
            for holder, told in self.kept.items()
            if told == wanted == holder.identity and holder.fits
        ]
        assert (found is not None) == bool(those)
        assert found is None or found in those

    @invariant()
    def nothing_else_is_kept(self) -> None:
        assert len(self.table) == len(self.kept)


TableModel.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestTable = TableModel.TestCase


LONG_TEXTS = ["", *(letter * 5000 for letter in "ab\ud800")]


@given(st.lists(st.sampled_from(LONG_TEXTS), min_size=2, max_size=2))
def test_a_long_system_text_is_distinguished_by_its_digest(texts: list[str]) -> None:
    one, other = (lineage_key("me", Setup("sonnet", text), ()) for text in texts)
    assert (one == other) is (texts[0] == texts[1])
    digested = hashlib.sha256(texts[0].encode("utf-8", "surrogatepass")).hexdigest()
    assert lineage_key("me", Setup("sonnet", digested), ()) != one


# -- likeness --------------------------------------------------------------------------------------


def alike(held: str, asked: str) -> tuple[int, int]:
    """Of histories written as "u1 a1 …": user's messages and answers."""

    def said(words: str) -> list[Message]:
        return [Message("user" if w[0] == "u" else "assistant", (w,)) for w in words.split()]

    history = said(asked)
    return likeness([*map(digest, said(held))], [*map(digest, history)], history)


def test_a_history_is_like_what_it_goes_on_with() -> None:
    assert alike("u1 a1 u2 a2", "u1 a1") == (1, 2)  # its last message is another
    assert alike("u1 a1 u2 a2", "u1 a1 u2 a2") == (2, 4)
    assert alike("u1 a9", "u1 a1") == (1, 1)  # answers decide among several
    assert alike("u1 a1", "u1 a1 u2 a2") == (1, 2)  # a turn was interrupted
    assert alike("u1 a1 u2 a2 u3 a3", "u1 a1 u3 a3 u2 a2") == (2, 6)


@pytest.mark.parametrize(
    ("held", "asked"),
    [
        ("", "u1 a1"),
        ("u1 a1", ""),
        ("u1 a1", "u2 a1"),
        ("u1 a1 u2 a2", "u2 a2"),
        ("u1 a1 u2 a2", "u1 a9 u9 a8"),  # nothing but its first words are the same
    ],
)
def test_a_history_is_not_like_another(held: str, asked: str) -> None:
    assert alike(held, asked) == (0, 0)
