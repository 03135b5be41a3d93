"""The cache without its actor: keys, and table and flights against simple models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from attrs import define, evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ccapi.actors.listeners.cache_table import (
    FAILURES,
    LARGEST_SHARE,
    AnswerTable,
    Flights,
    cache_key,
    is_reusable,
    size,
)
from ccapi.schemas.message import Block, Message, Thinking
from ccapi.schemas.turn import Answer, Setup, Tool, Usage


def an_answer(*pieces: str) -> Answer:
    return Answer(pieces or ("Hel", "lo"), "stop", Usage(prompt_tokens=3, completion_tokens=2))


# -- keys ----------------------------------------------------------------------------------------

REQUEST: dict[str, Any] = {
    "owner": "local",
    "messages": (Message("user", ("Hi",)),),
    "setup": Setup("sonnet", "Be brief.", tools=(Tool("add"),)),
    "profile": "chat",
    "parameters": {"temperature": 0.5, "stop": ["a", "b"]},
}


def key_of(**changes: Any) -> str:
    """The key of `REQUEST` with other fields, or other fields of its setup."""
    request = {name: changes.pop(name, value) for name, value in REQUEST.items()}
    return cache_key(**{**request, "setup": evolve(request["setup"], **changes)})


@pytest.mark.parametrize(
    "change",
    [
        {"owner": "key-2"},
        {"messages": (Message("user", ("Ho",)),)},
        {"messages": (Message("assistant", ("Hi",)),)},
        {"messages": (Message("user", ("Hi",)), Message("user", ("",)))},
        {"messages": (Message("user", ("H",)), Message("user", ("i",)))},
        {"messages": ()},
        {"model": "opus"},
        {"system": "Be brief. "},
        {"system": ""},
        {"tools": ()},
        {"tools": (Tool("add", strict=True),)},
        {"tools": (Tool("add", "Adds."),)},
        {"tools": (Tool("add"), Tool("sub"))},
        {"schema": "{}"},
        {"schema": ""},
        {"profile": "agent"},
        {"parameters": {}},
        {"parameters": {"temperature": 0.6, "stop": ["a", "b"]}},
        {"parameters": {"temperature": 0.5, "stop": ["b", "a"]}},
        {"parameters": {"temperature": 0.5, "stop": "ab"}},
        {"parameters": {"temperature": 0.5, "stop": ["a", "b"], "seed": None}},
    ],
    ids=str,
)
def test_whatever_can_change_the_answer_changes_the_key(change: dict[str, Any]) -> None:
    assert key_of(**change) != key_of()


def test_the_key_of_an_exact_request() -> None:
    def key(*blocks: Block, exact: bool = True) -> str:
        messages = (Message("user", ("Hi",)), Message("assistant", blocks), Message("user", ("?",)))
        return cache_key(**{**REQUEST, "messages": messages}, exact=exact)

    keys = {
        key("a", "b"), key("ab"), key(Thinking("Hm.", "c2ln"), "ab"), key(Thinking("Hm."), "ab"),
        key("ab", exact=False),
    }  # fmt: skip
    assert len(keys) == 5
    assert key("a", "b", exact=False) == key("ab", exact=False)
    assert key("ab", "") == key("ab")


def test_a_key_is_64_hex_digits_and_the_same_for_the_same_request() -> None:
    assert key_of() == key_of()
    assert len(key_of()) == 64
    assert set(key_of()) <= set("0123456789abcdef")


def test_what_cannot_change_the_answer_does_not_change_the_key() -> None:
    assert key_of(parameters={"stop": ("a", "b"), "temperature": 0.5}) == key_of()
    assert key_of(messages=[Message("user", ("H", "i"))]) == key_of()


def test_values_of_different_type_are_different() -> None:
    values: list[Any] = [1, 1.0, True, "1", None, [1], {"a": 1}, "true", "null"]
    assert len({key_of(parameters={"x": value}) for value in values}) == len(values)


def test_fields_do_not_run_into_each_other() -> None:
    assert key_of(model="a", system="b") != key_of(model="b", system="a")
    assert key_of(model='a","b', system="c") != key_of(model="a", system='b","c')


def test_lone_surrogates_have_keys_of_their_own() -> None:
    """Legal in JSON; and two of them are not the character their pair would stand for."""
    texts = ["\ud800", "\udc00", "\ud800\udc00", "\U00010000", "\\ud800"]
    assert len({key_of(messages=(Message("user", (text,)),)) for text in texts}) == len(texts)
    assert len({key_of(parameters={text: 1}) for text in texts}) == len(texts)


@pytest.mark.parametrize("value", [object(), {1, 2}, b"bytes"], ids=["object", "set", "bytes"])
def test_what_json_does_not_have_has_no_key(value: Any) -> None:
    with pytest.raises(TypeError):
        key_of(parameters={"x": value})


anything = st.text(st.characters(exclude_categories=()), max_size=4)
requests = st.fixed_dictionaries(
    {
        "owner": anything,
        "messages": st.lists(
            st.builds(
                Message, st.sampled_from(["user", "assistant"]), anything.map(lambda text: (text,))
            ),
            max_size=3,
        ),
        "setup": st.builds(
            Setup,
            anything,
            anything,
            tools=st.lists(
                st.builds(Tool, anything, anything, anything, st.booleans()), max_size=2
            ).map(tuple),
            schema=st.none() | anything,
        ),
        "profile": anything,
        "parameters": st.dictionaries(anything, anything | st.integers() | st.none(), max_size=2),
    }
)


@settings(deadline=None)
@given(requests, requests)
def test_two_requests_share_a_key_only_if_they_are_the_same(
    one: Mapping[str, Any], other: Mapping[str, Any]
) -> None:
    assert (cache_key(**one) == cache_key(**other)) == (one == other)


# -- the table -----------------------------------------------------------------------------------

KEYS = st.sampled_from("abcdefghijkl")
# Sizes of 513 to 626 bytes: 625 is the largest that is kept of 5000, and both bounds are met.
ANSWERS = st.sampled_from(["", "a", "b" * 20, "c" * 47, "d" * 48, "e" * 49]).map(
    lambda text: evolve(an_answer(), pieces=(text,) if text else ())
)


class TableAgainstModel(RuleBasedStateMachine):
    """The model is a list of (key, answer, time of put), the least recently used first."""

    MAX_ENTRIES, TTL, MAX_BYTES = 9, 10.0, 5000

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.model: list[tuple[str, Answer, float]] = []
        self.table = AnswerTable(
            max_entries=self.MAX_ENTRIES, ttl_seconds=self.TTL, max_bytes=self.MAX_BYTES
        )

    def prune(self) -> None:
        self.model = [row for row in self.model if self.now < row[2] + self.TTL]

    def bytes(self) -> int:
        return sum(size(key, answer) for key, answer, _ in self.model)

    @rule(seconds=st.sampled_from([0.25, 3.0, 9.75, 10.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(key=KEYS, answer=ANSWERS)
    def put(self, key: str, answer: Answer) -> None:
        self.prune()
        self.model = [row for row in self.model if row[0] != key]
        fits = size(key, answer) * LARGEST_SHARE <= self.MAX_BYTES
        if fits:
            self.model.append((key, answer, self.now))
            while len(self.model) > self.MAX_ENTRIES or self.bytes() > self.MAX_BYTES:
                self.model.pop(0)
        assert self.table.put(key, answer, self.now) == fits

    @rule(key=KEYS)
    def get(self, key: str) -> None:
        self.prune()
        row = next((row for row in self.model if row[0] == key), None)
        if row is not None:
            self.model.remove(row)
            self.model.append(row)
        assert self.table.get(key, self.now) is (row and row[1])

    @rule()
    def expire(self) -> None:
        self.prune()
        self.table.expire(self.now)
        assert len(self.table) == len(self.model)

    @invariant()
    def never_over_its_bounds(self) -> None:
        assert len(self.table) <= self.MAX_ENTRIES
        assert self.table.bytes <= self.MAX_BYTES

    @invariant()
    def same_order_and_size(self) -> None:
        alive = [row for row in self.model if self.now < row[2] + self.TTL]
        held = list(self.table)
        assert [key for key in held if key in {row[0] for row in alive}] == [r[0] for r in alive]
        assert self.table.bytes == sum(size(k, a) for k, a, _ in self.model if k in held)


TestTable = TableAgainstModel.TestCase
TestTable.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def a_table(**bounds: int) -> AnswerTable:
    return AnswerTable(**{"max_entries": 100, "ttl_seconds": 60, "max_bytes": 100_000, **bounds})


def test_the_least_recently_used_leaves_first() -> None:
    table = a_table(max_entries=3)
    for key in "abc":
        table.put(key, an_answer(), now=0)
    table.get("a", now=1)
    table.put("d", an_answer(), now=1)
    assert list(table) == ["c", "a", "d"]


def test_bytes_are_bounded_too() -> None:
    answer = an_answer("x")
    table = a_table(max_bytes=10 * size("a", answer) - 1)
    for key in "abcdefghijkl":
        assert table.put(key, answer, now=0)
    assert "".join(table) == "defghijkl"
    assert table.bytes == 9 * size("a", answer)


def test_a_new_answer_takes_the_place_of_an_older_one_even_if_it_is_too_large_itself() -> None:
    table = a_table(max_bytes=8 * size("a", an_answer("x")))
    assert table.put("a", an_answer("x"), now=0)
    assert table.put("a", an_answer("y"), now=30)
    assert table.get("a", now=80) == an_answer("y")
    assert not table.put("a", an_answer("yy"), now=80)
    assert (len(table), table.bytes) == (0, 0)


def test_size_counts_utf8_and_the_cost_of_every_piece() -> None:
    assert size("k", an_answer("é")) == size("k", an_answer("ab"))
    assert size("k", an_answer("a", "b")) > size("k", an_answer("ab"))
    assert size("k", an_answer("\ud800")) > 0


@pytest.mark.parametrize(
    ("answer", "reusable"),
    [
        (an_answer("Hi"), True),
        (an_answer("", "Hi"), True),
        (an_answer(""), False),
        (evolve(an_answer(), pieces=()), False),
        (evolve(an_answer(), finish_reason="length"), False),
        (evolve(an_answer(), finish_reason="content_filter"), False),
    ],
)
def test_only_whole_answers_are_given_again(answer: Answer, reusable: bool) -> None:
    assert is_reusable(answer) is reusable


# -- flights -------------------------------------------------------------------------------------


@define(eq=False)
class Client:
    """One that asked. `answers` counts what it received; a leader's first is to run the turn
    itself."""

    key: str
    present: bool = True
    answers: int = 0


class FlightsKeepTheirOrder(RuleBasedStateMachine):
    """Each client receives one answer; while a client waits, one that was asked to lead has not
    left."""

    def __init__(self) -> None:
        super().__init__()
        self.flights: Flights[Client] = Flights()
        self.waiting: list[Client] = []  # in the order they came
        self.answered: list[Client] = []
        self.leader: dict[str, Client] = {}
        self.failures: dict[str, int] = {}

    def answer(self, client: Client) -> None:
        assert client.answers == 0
        assert client.present
        client.answers += 1
        self.waiting.remove(client)
        self.answered.append(client)

    @rule(key=st.sampled_from("ab"))
    def ask(self, key: str) -> None:
        client = Client(key)
        self.waiting.append(client)
        leads = self.flights.join(key, client)
        assert leads == (key not in self.leader)
        if leads:
            self.leader[key], self.failures[key] = client, 0
            self.answer(client)

    @rule(key=st.sampled_from("ab"))
    def land(self, key: str) -> None:
        waiting = [client for client in self.waiting if client.key == key]
        landed = self.flights.land(key)
        assert landed == (waiting if key in self.leader else [])
        for client in landed:
            client.present = (
                True  # one whose going is not noticed may be answered: no client listens
            )
            self.answer(client)
        self.leader.pop(key, None)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def vanish(self, data: st.DataObject) -> None:
        """A follower goes, and its leaving is not noticed yet."""
        data.draw(st.sampled_from(self.waiting)).present = False

    @precondition(lambda self: self.waiting or self.answered)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        client = data.draw(st.sampled_from(self.waiting + self.answered))
        key = client.key
        led = self.leader.get(key) is client
        if client in self.waiting:
            self.waiting.remove(client)
        else:
            self.answered.remove(client)
        following = self.flights.leave(key, client)
        if not led:
            assert following == []
            return
        for gone in [other for other in self.waiting if other.key == key and not other.present]:
            self.waiting.remove(gone)
        waiting = [other for other in self.waiting if other.key == key]
        self.failures[key] += 1
        if waiting and self.failures[key] < FAILURES:
            assert following == waiting[:1]
            self.leader[key] = waiting[0]
        else:
            assert following == waiting
            del self.leader[key]
        for other in following:
            self.answer(other)

    @invariant()
    def who_waits_has_a_leader(self) -> None:
        assert {client.key for client in self.waiting} <= self.leader.keys()
        assert len(self.flights) == len(self.leader)


TestFlights = FlightsKeepTheirOrder.TestCase
TestFlights.settings = settings(max_examples=80, stateful_step_count=30, deadline=None)
