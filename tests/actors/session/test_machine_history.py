"""Playbooks of the session's machine: what comes in, and word for word what is to be done.

Here: turns that are put before a second child, and histories too long to be replayed.
How events are said and actions read: `tests.support.talk`. A turn goes by the text of its prompt.
"""

import pytest
from attrs import evolve

from ccapi.actors.runtime.restart_budget import RESTARTS
from ccapi.actors.session import replay
from ccapi.actors.session.events import WakeFailed
from ccapi.schemas.errors import HistoryNotWritten
from ccapi.schemas.message import Message, digest
from ccapi.schemas.turn import Memory, Setup
from tests.support.talk import (
    BACKOFF,
    BUSY,
    IDLE,
    LOOK,
    MEMORY,
    NULL,
    WAKING,
    Talk,
    assistant,
    busy,
    called,
    results,
    user,
    waking,
)

AGENT = Memory(Setup("sonnet", profile="agent"))

# -- a second child --------------------------------------------------------------------------------


def test_a_turn_that_delivered_nothing_goes_to_a_new_child_once() -> None:
    talk = busy()
    first = talk.last_user_uuid
    talk.turn("two")
    assert talk.gone() == ["wake"]
    assert talk.phase is WAKING
    assert talk.ready() == ["initialize sonnet", "history user zero"]
    assert talk.takes_history() == ["history assistant null", "ask one"]
    # An agent's may find the first one's message in the transcript: a uuid that it knows, it drops.
    assert talk.last_user_uuid != first
    assert talk.gone() == ["end one: child_died", "wake"]
    assert talk.ready() == ["initialize sonnet", "history user zero"]


def test_its_answer_is_the_second_childs() -> None:
    talk = busy()
    talk.starts()
    talk.gone()
    talk.ready()
    talk.set_up()
    talk.takes_history()
    assert talk.answer("eins") == ["deliver eins", "end one: completed stop, eins"]
    assert talk.machine.memory.turns == 2


def test_a_turn_that_delivered_something_does_not() -> None:
    talk = busy()
    talk.says("half")
    assert talk.gone() == ["end one: child_died"]


def test_a_turn_that_could_have_called_a_tool_is_not() -> None:
    talk = Talk()
    talk.turn("one", tools=[LOOK])
    talk.ready()
    talk.set_up()
    talk.starts()
    assert talk.gone() == ["end one: child_died"]


def test_a_turn_with_tools_whose_child_was_dead_already_is_asked_again_once() -> None:
    talk = Talk()
    talk.turn("one", tools=[LOOK])
    talk.ready()
    assert talk.gone() == ["wake"]
    talk.ready()
    assert talk.gone() == ["end one: child_died"]


def test_results_whose_child_was_dead_already_go_to_another() -> None:
    talk = Talk()
    talk.turn("ask", tools=[LOOK])
    talk.ready()
    talk.set_up()
    talk.suspends("c1")
    talk.turn(results(c1="sunny"))
    assert talk.phase is BUSY
    assert talk.gone() == ["wake"]
    talk.ready()
    talk.set_up()
    talk.taken_in()
    written = [line["message"]["content"] for line in talk.written if "message" in line]
    assert written[-3][0]["text"] == "ask"
    assert [block["type"] for block in written[-2]] == ["tool_use"]
    assert written[-1][0]["type"] == "tool_result"
    talk.answer("Sunny.")
    assert talk.phase is IDLE


def test_an_interrupted_history_is_written_from_the_start() -> None:
    talk = Talk()
    talk.turn("a", assistant("A"), "b", assistant("B"), "one")
    talk.ready()
    talk.taken_in()
    assert talk.gone() == ["wake"]
    assert talk.ready() == ["initialize sonnet", "history user a"]


def test_a_turn_that_waits_for_its_second_child_may_be_interrupted() -> None:
    talk = busy()
    talk.gone()
    assert talk.interrupt("one") == ["end one: turn_interrupted", "cancel wake"]


def test_every_death_counts() -> None:
    talk = waking()
    for number in range((RESTARTS + 1) // 2):
        talk.ready()
        talk.gone()
        talk.ready()
        assert talk.gone()[0].endswith(("child_died", "restart_budget_spent"))
        talk.turn(f"and {number}")
    assert talk.phase is BACKOFF


# -- histories that are too long to be replayed ----------------------------------------------------


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four messages are replayed, five are too many."""
    monkeypatch.setattr(replay, "RECORDED_FROM", 4)


def history(count: int) -> list[Message]:
    return [(assistant if n % 2 else user)(f"said {n}") for n in range(count)]


@pytest.mark.usefixtures("short")
def test_a_long_history_is_recorded_for_the_child() -> None:
    talk = Talk()
    assert talk.turn(*history(4), "one") == ["started one", "wake with 4 messages, said 3"]
    assert talk.ready() == ["initialize sonnet", "ask one"]
    talk.set_up()
    talk.answer("eins")
    said = (*history(4), user("one"), assistant("eins"))
    assert talk.machine.memory.digests == tuple(map(digest, said))
    talk.give_way()
    talk.gone()
    assert talk.turn("two") == ["started two", "wake with 6 messages, eins"]


@pytest.mark.usefixtures("short")
def test_a_history_that_is_not_long_is_written_to_the_child() -> None:
    talk = Talk()
    assert talk.turn(*history(2), "one") == ["started one", "wake"]


@pytest.mark.usefixtures("short")
def test_a_recorded_history_ends_with_an_answer() -> None:
    talk = Talk()
    assert talk.turn(*history(5), "one") == ["started one", "wake with 4 messages, said 3"]
    assert talk.ready() == ["initialize sonnet", "ask said 4|one"]


@pytest.mark.usefixtures("short")
def test_a_child_that_resumed_a_recording_goes_with_the_turn_that_brought_it() -> None:
    talk = Talk()
    talk.turn(*history(4), "one")
    talk.ready()
    talk.set_up()
    assert talk.interrupt("one") == ["end one: turn_interrupted", "kill"]
    talk.gone()
    assert talk.turn("two") == ["started two", "wake"]
    assert talk.ready() == ["initialize sonnet", "ask two"]


@pytest.mark.usefixtures("short")
def test_a_child_that_resumed_what_the_conversation_holds_takes_a_turn_back() -> None:
    said = tuple(history(6))
    talk = Talk(memory=evolve(MEMORY, seed=said, digests=tuple(map(digest, said))))
    assert talk.turn("one") == ["started one", "wake with 6 messages, said 5"]
    talk.ready()
    talk.set_up()
    assert talk.interrupt("one") == ["end one: turn_interrupted", "rewind one"]
    assert talk.rewound() == []
    assert talk.turn("two") == ["started two", "ask two"]
    talk.answer("zwei")
    assert talk.machine.memory.seed == (*said, user("two"), assistant("zwei"))


@pytest.mark.usefixtures("short")
def test_a_recording_is_made_anew_for_the_next_turn() -> None:
    talk = Talk()
    talk.turn(*history(4), "one")
    talk.turn("two")
    assert talk.interrupt("one") == ["end one: turn_interrupted", "cancel wake", "wake"]
    assert talk.ready() == ["initialize sonnet", "ask two"]
    assert talk.phase is BUSY


@pytest.mark.usefixtures("short")
def test_only_the_end_of_a_history_is_given_where_it_is_limited() -> None:
    talk = Talk()
    words = talk.turn(*history(10), "one", history_limit=7)
    assert words == ["started one", "wake with 6 messages, said 9"]
    talk.ready()
    talk.set_up()
    talk.answer("eins")
    # The conversation holds all of it.
    assert len(talk.machine.memory.digests) == 12


def test_a_limited_history_that_is_short_is_written_to_the_child() -> None:
    talk = Talk()
    assert talk.turn(*history(10), "one", history_limit=3) == ["started one", "wake"]
    assert talk.ready() == ["initialize sonnet", "history user said 8"]
    assert talk.taken_in() == ["history assistant said 9", "ask one"]


# -- transcripts that are lost ---------------------------------------------------------------------


def resuming() -> Talk:
    """A child is sought for an agent's turn ``one``: it is to resume what the first one left."""
    talk = Talk(memory=AGENT)
    talk.finish("zero", "null")
    talk.give_way()
    talk.gone()
    assert talk.turn("one") == ["started one", "wake agent sonnet"]
    return talk


def not_resumed(talk: Talk, text: str = "No conversation found") -> list[str]:
    """The child says that there is nothing for it to take up, before it is set up."""
    return talk.result(
        text, is_error=True, subtype="error_during_execution", num_turns=0, user_uuid=None
    )


@pytest.mark.parametrize("text", ["No conversation found", "No message found", "EISDIR"])
def test_a_new_child_gets_the_messages_of_a_lost_transcript(text: str) -> None:
    talk = resuming()
    talk.kept = NULL
    talk.ready()
    assert not_resumed(talk, text) == ["transcriptlost", "kill"]
    assert talk.machine.memory.resume is None
    assert talk.machine.memory.seed == NULL
    assert talk.gone() == ["wake agent sonnet"]
    assert talk.ready() == ["initialize agent", "history user zero"]
    talk.set_up()
    assert talk.taken_in() == ["history assistant null", "ask one"]
    assert talk.answer("eins") == ["deliver eins", "end one: completed stop, eins"]
    assert talk.machine.memory.resume is not None
    assert not talk.machine.memory.seed


def test_a_new_child_also_gets_what_the_transcript_lacked() -> None:
    talk = Talk(memory=AGENT)
    talk.finish("zero", "null")
    talk.turn("look", tools=[LOOK])
    talk.suspends("c1")
    talk.gone()
    talk.kept = (*NULL, user("look"), called("c1"))
    assert talk.turn(results(c1="sunny"))[-1] == "wake agent sonnet"
    talk.ready()
    assert not_resumed(talk) == ["transcriptlost", "kill"]
    assert talk.machine.memory.seed == talk.kept
    assert talk.machine.memory.calls == ("c1",)


def test_of_a_lost_transcript_a_new_child_gets_only_what_is_kept() -> None:
    """Only the last ones that are the very messages held, and no result without its call."""
    kept = (user("other"), *NULL, results(c1="sunny"), assistant("A"), user("b"), assistant("B"))
    held = (user("a"), called("c1"), *kept[3:])
    memory = evolve(MEMORY, digests=tuple(map(digest, held)))
    assert memory.untold(kept).seed == kept[-2:]
    assert memory.untold(held).seed == held
    # Their calls stand in no transcript any more: they are sent under their own ids.
    assert evolve(memory, called=("c1",)).untold(held).called == ()
    assert memory.untold(kept[:-1]).seed == ()
    assert memory.untold(()).seed == ()


def test_a_session_that_is_lost_twice_is_replayed_once() -> None:
    """A second child that is not set up has no transcript to do without."""
    talk = resuming()
    talk.kept = NULL
    talk.ready()
    not_resumed(talk)
    talk.gone()
    talk.ready()
    assert not_resumed(talk) == ["transcriptlost", "kill"]  # as if one had been written for it
    talk.gone()
    talk.ready()
    assert not_resumed(talk) == ["end one: upstream_failed", "kill"]


def test_an_interrupt_meanwhile_ends_the_turn_alone() -> None:
    talk = resuming()
    talk.kept = NULL
    talk.ready()
    not_resumed(talk)
    assert talk.interrupt("one") == ["end one: turn_interrupted"]
    assert talk.gone() == []
    assert talk.turn("two") == ["started two", "wake agent sonnet"]


def test_a_history_without_a_transcript_is_written_line_by_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(replay, "RECORDED_FROM", 4)
    talk = Talk()
    history = (*NULL, user("a"), assistant("A"), user("b"), assistant("B"))
    assert talk.turn(*history, "one")[1:] == ["wake with 6 messages, B"]
    assert talk.feed(WakeFailed(HistoryNotWritten("disk full"))) == ["transcriptlost", "wake"]
    assert talk.ready() == ["initialize sonnet", "history user zero"]
    talk.set_up()
    told = [word for _ in range(3) for word in talk.taken_in()]
    assert told[-1] == "ask one"
    assert talk.answer("eins")[-1] == "end one: completed stop, eins"


def test_a_history_whose_transcript_is_not_found_is_written_line_by_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(replay, "RECORDED_FROM", 4)
    talk = Talk()
    history = (*NULL, user("a"), assistant("A"), user("b"), assistant("B"))
    talk.turn(*history, "one")
    talk.ready()
    assert not_resumed(talk) == ["transcriptlost", "kill"]
    assert talk.gone() == ["wake"]
    assert talk.ready() == ["initialize sonnet", "history user zero"]
