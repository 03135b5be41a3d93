"""Playbooks of a session's machine: turns of which the API has to read what the client sends, block
by block, where what the conversation or the child holds may be only alike.
"""

from __future__ import annotations

import pytest

from ccapi.actors.session.child import ChildState
from ccapi.actors.session.phases import Limits
from ccapi.schemas.claude.output import AssistantDone, MessageEnded, MessageStarted
from ccapi.schemas.message import Message, RedactedThinking, Thinking, ToolCall, digest
from ccapi.schemas.turn import Memory, Setup, Usage
from tests.support.talk import (
    AWAITING_TOOLS,
    BUSY,
    IDLE,
    LOOK,
    RELEASING,
    WAKING,
    Talk,
    assistant,
    idle,
    results,
    user,
)

RECYCLE = Limits(recycle=True)
HM = Thinking("Hm.", "c2ln")
ASKED = Message("user", ("one", "1"))
SAID = Message("assistant", (HM, "ei", "ns"))


def thought(limits: Limits | None = RECYCLE) -> Talk:
    """A conversation whose first turn was asked and answered in two blocks, with thinking."""
    talk = Talk(limits)
    talk.turn(ASKED, blocks=True, exact=True)
    talk.ready()
    talk.set_up()
    talk.starts()
    talk.feed(AssistantDone("t", synthetic=False, thinking=HM))
    for text in ("ei", "ns"):
        talk.says(text)
        talk.done(text)
    talk.result("ns")
    assert talk.phase is IDLE
    assert talk.machine.memory.seed == (ASKED, SAID)
    return talk


def the_child(talk: Talk) -> ChildState:
    child = talk.machine.resident
    assert child is not None
    return child


# -- the conversation ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer", [SAID, Message("assistant", ("ei", "ns"))], ids=["whole", "without thinking"]
)
def test_a_history_that_is_held_goes_on(answer: Message) -> None:
    talk = thought()
    assert talk.turn(ASKED, answer, "two", exact=True) == ["started two", "ask two"]


@pytest.mark.parametrize(
    "history",
    [
        (ASKED, Message("assistant", (HM, "eins"))),
        (ASKED, Message("assistant", (RedactedThinking("eA=="), "ei", "ns"))),
        (Message("user", ("one1",)), SAID),
        (user("before"), assistant("vorher"), ASKED, SAID),
    ],
    ids=["border", "thinking", "question", "earlier times"],
)
def test_a_history_that_is_only_alike_contradicts_a_named_conversation(
    history: tuple[Message, ...],
) -> None:
    talk = thought()
    assert talk.turn(*history, "two", exact=True) == ["started two", "end two: history_mismatch"]
    assert talk.turn(*history, "three") == ["started three", "ask three"]


def test_only_what_is_new_goes_on() -> None:
    talk = thought()
    assert talk.turn("two", exact=True) == ["started two", "ask two"]


# -- the child -------------------------------------------------------------------------------------


def test_a_child_that_was_spared_a_beginning_serves_no_exact_turn() -> None:
    talk = Talk(RECYCLE)
    said = [user("a"), assistant("A"), user("b"), assistant("B")]
    talk.turn(*said, "one", history_limit=3)
    talk.serve("eins")
    assert the_child(talk).is_alike
    talk.turn("two", exact=True)
    assert talk.phase is RELEASING
    talk.cut()
    assert talk.looked()[-1] == "wake"
    assert talk.ready() == ["initialize sonnet", "history user a"]


def test_a_child_that_resumes_a_transcript_holds_all_of_it() -> None:
    talk = Talk(RECYCLE)
    said = [each for n in range(40) for each in (user(f"q{n}"), assistant(f"a{n}"))]
    talk.turn(*said, "one", tools=[LOOK])
    talk.serve("eins")
    assert the_child(talk).is_partial
    assert not the_child(talk).is_alike
    assert talk.turn("two", exact=True) == ["started two", "ask two"]


def test_a_child_whose_answer_the_conversation_words_otherwise_serves_no_exact_turn() -> None:
    """The CLI had the model go on after a refusal, and keeps its own words between."""
    talk = idle(RECYCLE)
    talk.turn("one")
    for text in ("ei", "ns"):
        talk.starts()
        talk.says(text)
        talk.done(text)
        talk.stops("refusal" if text == "ei" else "end_turn")
    talk.result("ns")
    assert talk.machine.memory.seed[-1] == assistant("eins")
    assert the_child(talk).is_alike
    talk.turn("two", exact=True)
    assert talk.phase is RELEASING


def test_a_child_is_cut_back_to_the_same_blocks() -> None:
    talk = thought()
    talk.finish("two", "zwei")
    child, setup = the_child(talk), Setup("sonnet")

    def cut(answer: Message, *, exact: bool = True) -> int:
        said = (ASKED, answer, user("else"))
        return child.cut_for(setup, [*map(digest, said)], said if exact else None)

    assert cut(SAID) == cut(Message("assistant", ("ei", "ns"))) == 2
    merged = Message("assistant", (HM, "eins"))
    assert cut(merged) == 0
    assert cut(merged, exact=False) == 2
    child.is_alike = True
    assert cut(SAID) == 0
    assert cut(SAID, exact=False) == 2


@pytest.mark.parametrize(
    ("said", "is_alike"),
    [
        ((ASKED, SAID), False),
        ((ASKED, Message("assistant", ("ei", "ns"))), False),
        ((ASKED, assistant("eins")), True),
        ((user("one1"), SAID), True),
    ],
    ids=["same", "without thinking", "answer", "question"],
)
def test_a_child_that_comes_with_other_blocks(said: tuple[Message, ...], *, is_alike: bool) -> None:
    """It does for a chat; not for an exact turn that follows there."""
    talk = thought()
    talk.finish("two", "zwei")
    talk.give_way(2)
    talk.cut(before="uuid of ns")
    other = Talk(RECYCLE, Memory(Setup("sonnet")))
    other._names |= talk._names  # of the messages that the child got before
    other.turn(*said, "else")
    assert other.ready(talk.handed[0], source="prefix") == ["ask else"]
    assert the_child(other).is_alike is is_alike
    other.answer("anders")
    other.turn("more", exact=True)
    assert (other.phase is RELEASING) is is_alike
    if is_alike:
        other.cut()
        assert other.looked()[-1] == "wake"
        # Emptied, it may come back: it holds nothing that is only alike.
        other.ready(other.handed[0], source="recycled")
        assert not the_child(other).is_alike


def test_results_reach_a_child_that_holds_the_same() -> None:
    talk = Talk(RECYCLE)
    talk.turn("one", tools=[LOOK], exact=True, blocks=True)
    talk.ready()
    talk.set_up()
    talk.suspends("c1")
    assert talk.phase is AWAITING_TOOLS
    talk.turn(
        user("one"), Message("assistant", (ToolCall("c1", "look"),)), results(c1="sunny"),
        exact=True,
    )  # fmt: skip
    assert talk.phase is BUSY


def test_results_for_a_child_that_holds_other_words_go_to_another() -> None:
    talk = Talk(RECYCLE)
    talk.turn("one", tools=[LOOK])
    talk.ready()
    talk.set_up()
    talk.feed(MessageStarted(Usage()))
    talk.says("Well")
    talk.done("Well, well")  # not what the client has received
    talk.calls("c1")
    talk.feed(MessageEnded("tool_use", Usage()))
    assert talk.phase is AWAITING_TOOLS
    assert the_child(talk).is_alike
    talk.turn(results(c1="sunny"), exact=True)
    assert talk.phase is RELEASING
    talk.cut()
    talk.looked()
    assert talk.phase is WAKING
