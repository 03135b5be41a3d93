"""What is kept of a conversation, and when: on the store in memory, with a session double."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from ccapi.actors.conversations.journal import MANY, Journal, seed_ids
from ccapi.schemas.errors import Conflict, Overloaded, TurnInterrupted
from ccapi.schemas.log.fold import fold, messages_of
from ccapi.schemas.log.records import TurnEnd
from ccapi.schemas.message import Message, RedactedThinking, Thinking
from ccapi.schemas.turn import Completed, Failed, Memory, Setup, Usage
from ccapi.schemas.turn_items import ReasoningDelta, TextDelta
from ccapi.transport.store.interface import Missing, Store, Unavailable
from ccapi.transport.store.memory import open_memory_store
from tests.support.messages import user

SETUP = Setup("haiku")
USAGE = Usage(prompt_tokens=3, completion_tokens=2)
KEY = "key"


@pytest.fixture
async def store() -> AsyncIterator[Store]:
    async with open_memory_store() as opened:
        yield opened


def journal_in(store: Store, **fields: Any) -> Journal:
    return Journal(store, "conv_1", KEY, lambda: True, lambda: {"a": "b"}, **fields)


async def turn(journal: Journal, number: int, memory: Memory, **begin: Any) -> Memory:
    """One whole turn; returns what is remembered behind it."""
    asked = (user(f"question {number}"),)
    await journal.begin(f"turn {number}", "haiku", asked, memory, replaces=False, **begin)
    answer = f"answer {number}"
    after = memory.grown(SETUP, (*asked, Message("assistant", (answer,))), None, USAGE)
    await journal.end(f"turn {number}", Completed("stop", USAGE), (TextDelta(answer),), after)
    return after


async def texts(store: Store) -> list[str]:
    log = await store.read("conv_1", KEY)
    return [message.text for message in messages_of(fold(log))]


async def test_nothing_is_kept_before_the_first_turn(store: Store) -> None:
    journal = journal_in(store, seed=(user("before"),))
    with pytest.raises(Missing):
        await store.get("conv_1", KEY)
    await turn(journal, 1, Memory(SETUP))
    stored = await store.get("conv_1", KEY)
    assert (stored.turns, stored.usage, stored.metadata) == (1, USAGE, {"a": "b"})
    assert await texts(store) == ["before", "question 1", "answer 1"]


async def test_a_failed_turn_leaves_no_trace(store: Store) -> None:
    journal = journal_in(store)
    memory = await turn(journal, 1, Memory(SETUP))
    await journal.begin("turn 2", "haiku", (user("no"),), memory, replaces=False)
    await journal.end("turn 2", Failed(TurnInterrupted("gone")), (TextDelta("half"),), memory)
    await turn(journal, 3, memory)
    assert await texts(store) == ["question 1", "answer 1", "question 3", "answer 3"]


async def test_a_stopped_answer_is_kept_as_far_as_it_came(store: Store) -> None:
    journal = journal_in(store)
    await journal.begin("turn 1", "haiku", (user("go"),), Memory(SETUP), replaces=False)
    after = Memory(SETUP).grown(SETUP, (user("go"), Message("assistant", ("ha",))), None, USAGE)
    await journal.end("turn 1", Failed(TurnInterrupted("stop"), USAGE), (TextDelta("ha"),), after)
    [kept] = fold(await store.read("conv_1", KEY))
    assert (kept.finish_reason, kept.output) == ("interrupted", (TextDelta("ha"),))


async def test_a_turn_that_replaces_the_last_one(store: Store) -> None:
    journal = journal_in(store)
    first = await turn(journal, 1, Memory(SETUP))
    await turn(journal, 2, first)
    for again in (3, 4):
        asked = (user(f"question {again}"),)
        await journal.begin(f"turn {again}", "haiku", asked, first, replaces=True)
        answer = Message("assistant", ("other",))
        after = first.grown(SETUP, (*asked, answer), None, USAGE)
        items = (TextDelta("other"),)
        await journal.end(f"turn {again}", Completed("stop", USAGE), items, after)
        assert await texts(store) == ["question 1", "answer 1", f"question {again}", "other"]
    stored = await store.get("conv_1", KEY)
    assert (stored.turns, stored.messages) == (2, 4)


async def test_a_turn_whose_session_failed_is_lost_and_reported_once(store: Store) -> None:
    journal = journal_in(store)
    await journal.begin("turn 1", "haiku", (user("go"),), Memory(SETUP), replaces=False)
    lost = await journal.begin("turn 2", "haiku", (user("on"),), Memory(SETUP), replaces=False)
    assert lost == "turn 1"
    after = Memory(SETUP).grown(SETUP, (user("on"), Message("assistant", ("k",))), None, USAGE)
    await journal.end("turn 2", Completed("stop", USAGE), (TextDelta("k"),), after)
    assert await journal.begin("turn 3", "haiku", (user("x"),), after, replaces=False) is None


async def test_the_same_turn_does_not_run_twice(store: Store) -> None:
    journal = journal_in(store)
    memory = await turn(journal, 1, Memory(SETUP))
    with pytest.raises(Conflict):
        await turn(journal, 1, memory)


async def test_added_messages_have_the_ids_of_their_places(store: Store) -> None:
    journal = journal_in(store, seed=(user("a"), user("b")))
    await journal.keep(SETUP)
    assert await journal.add((user("c"),)) == seed_ids("conv_1", 3)[2:]
    assert await texts(store) == ["a", "b", "c"]


async def test_what_left_memory_does_not_come_back(store: Store) -> None:
    """A conversation that is deleted before anything was kept of it, in the middle of a turn."""
    journal = journal_in(store)
    journal.is_closed = True
    with pytest.raises(Conflict):
        await journal.begin("turn 1", "haiku", (user("go"),), Memory(SETUP), replaces=False)
    with pytest.raises(Missing):
        await store.get("conv_1", KEY)


async def test_a_store_that_takes_nothing_is_a_503(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: object, **__: object) -> None:
        raise Unavailable("The disk is full.")

    journal = journal_in(store)
    monkeypatch.setattr(store, "acquire", refuse)
    with pytest.raises(Overloaded) as caught:
        await journal.begin("turn 1", "haiku", (user("go"),), Memory(SETUP), replaces=False)
    assert (caught.value.status, caught.value.code) == (503, "storage_unavailable")
    assert caught.value.retry_after is not None


async def test_others_learn_it_became_private(store: Store) -> None:
    is_private = False
    journal = Journal(store, "conv_1", KEY, lambda: is_private, dict)
    memory = await turn(journal, 1, Memory(SETUP))
    assert not (await store.get("conv_1", KEY)).private
    is_private = True
    await turn(journal, 2, memory)
    assert (await store.get("conv_1", KEY)).private


@pytest.mark.parametrize("shown", [True, False])
async def test_an_answer_is_kept_with_its_thinking(store: Store, shown: bool) -> None:
    """A client that was not shown it is not shown it later either."""
    journal = journal_in(store)
    said = Message("assistant", (Thinking("Hm.", "c2ln"), RedactedThinking("eA=="), "Yes."))
    await journal.begin("turn 1", "haiku", (user("go"),), Memory(SETUP), replaces=False)
    after = Memory(SETUP).grown(SETUP, (user("go"), said), None, USAGE)
    items = ((ReasoningDelta("Hm."),) if shown else ()) + (TextDelta("Yes."),)
    await journal.end("turn 1", Completed("stop", USAGE), items, after, said)
    log = await store.read("conv_1", KEY)
    [kept] = fold(log)
    assert [message.message for message in kept.answer] == [said]
    assert kept.output == items
    end = log[-1].record
    assert isinstance(end, TurnEnd)
    assert end.output is None, "nothing is written twice"


async def test_a_turn_of_very_many_messages_is_kept_like_any_other(store: Store) -> None:
    journal, memory = journal_in(store), Memory(SETUP)
    await turn(journal, 1, memory)
    asked = tuple(user(f"question {number}") for number in range(MANY + 1))
    await journal.begin("turn 2", "haiku", asked, memory, replaces=False)
    await journal.end("turn 2", Completed("stop", USAGE), (TextDelta("done"),), memory)
    kept = await store.read("conv_1", KEY, 1, 2 * MANY)
    assert [each.text for each in messages_of(fold(kept))][2:] == [
        *(each.text for each in asked),
        "done",
    ]
