"""The directory: ids, owners, the bound, and which conversations no actor looks after."""

from __future__ import annotations

import re

import pytest
from attrs import evolve

from ccapi.actors.conversations.directory import Directory, Entry
from ccapi.actors.runtime.mailbox import Ref, open_mailbox
from ccapi.actors.session.messages import SessionMessage
from ccapi.actors.session.phases import Phase
from ccapi.actors.session.replay import RECORDED_FROM
from ccapi.schemas.errors import NotFound, RateLimited
from ccapi.schemas.message import (
    Block,
    Document,
    Image,
    Message,
    Thinking,
    ToolCall,
    ToolResult,
    digest,
    size_of,
)
from ccapi.schemas.turn import Memory, ResumePoint, Setup


def add(
    directory: Directory, owner: str = "local", now: float = 100.0, *, private: bool = True
) -> Entry:
    return directory.create(owner, Memory(Setup("haiku")), now, private=private)


def test_a_new_conversation_has_an_id_that_cannot_be_guessed_and_no_actor() -> None:
    directory = Directory(10)
    first, second = add(directory), add(directory)
    assert re.fullmatch("conv_[0-9a-f]{32}", first.conversation_id)
    assert first.conversation_id != second.conversation_id
    assert (first.created_at, first.used_at, first.ref) == (100.0, 100.0, None)
    assert repr(directory) == "<Directory 2 conversations, 0 live>"


def test_it_is_found_by_its_owner_alone_and_for_others_it_does_not_exist() -> None:
    directory = Directory(10)
    entry = add(directory, "alice")
    assert directory.find(entry.conversation_id, "alice") is entry
    errors = []
    for conversation_id, owner in [(entry.conversation_id, "bob"), ("conv_none", "alice")]:
        with pytest.raises(NotFound) as caught:
            directory.find(conversation_id, owner)
        errors.append((caught.value.body(), caught.value.status))
    assert errors[0] == errors[1]
    assert errors[0][0]["error"]["code"] == "conversation_not_found"
    assert errors[0][0]["error"]["param"] == "conversation_id"


def test_conversations_are_listed_by_owner_oldest_first() -> None:
    directory = Directory(10)
    entries = [add(directory, owner) for owner in ("alice", "bob", "alice")]
    assert directory.of("alice") == [entries[0], entries[2]]
    assert directory.of("carol") == []
    assert directory.all() == entries


def test_it_holds_so_many_and_no_more() -> None:
    directory = Directory(2)
    entry, _ = add(directory), add(directory)
    with pytest.raises(RateLimited) as caught:
        add(directory)
    assert caught.value.code == "too_many_conversations"
    assert caught.value.retry_after is not None
    assert directory.remove(entry)
    assert add(directory) in directory
    assert len(directory) == 2


def test_a_conversation_is_removed_once() -> None:
    directory = Directory(10)
    entry = add(directory)
    assert entry in directory
    assert directory.remove(entry)
    assert not directory.remove(entry)
    assert entry not in directory


def test_dormant_are_those_without_an_actor_that_were_not_used_since() -> None:
    directory = Directory(10)
    old, live, young = add(directory, now=1), add(directory, now=1), add(directory, now=50)
    ref: Ref[SessionMessage]
    ref, mailbox = open_mailbox("session")
    live.state.ref = ref
    assert directory.dormant(since=10) == [old]
    live.state.ref = None
    mailbox.close()
    assert directory.dormant(since=10) == [old, live]
    assert directory.dormant(since=50) == [old, live, young]


# -- who holds a history ---------------------------------------------------------------------------

SETUP = Setup("haiku")
HISTORY = (b"a" * 32, b"b" * 32)
LONG = (b"c" * 32,) * (RECORDED_FROM + 1)


def add_holder(
    directory: Directory, digests: tuple[bytes, ...] = HISTORY, phase: Phase = Phase.IDLE
) -> Entry:
    """A conversation in which one turn has ended."""
    entry = add(directory, private=False)
    directory.use(entry, 100.0)
    resume = ResumePoint("session", "uuid")
    entry.state.memory = evolve(entry.memory, digests=digests, resume=resume)
    entry.state.phase = phase
    directory.release(entry, 101.0)
    return entry


def test_a_history_is_found_once_its_turn_has_been_left() -> None:
    directory = Directory(10)
    entry = add(directory, private=False)
    directory.use(entry, 100.0)
    entry.state.memory = evolve(entry.memory, digests=HISTORY)
    entry.state.phase = Phase.IDLE
    assert directory.holder("local", SETUP, HISTORY) is None
    directory.release(entry, 105.0)
    assert (entry.callers, entry.used_at) == (0, 105.0)
    assert directory.holder("local", SETUP, HISTORY) is entry
    for owner, setup, digests in [
        ("bob", SETUP, HISTORY),
        ("local", Setup("opus"), HISTORY),
        ("local", SETUP, HISTORY[:1]),
        ("local", SETUP, (*HISTORY, HISTORY[0])),
        ("local", SETUP, ()),
    ]:
        assert directory.holder(owner, setup, digests) is None


def test_a_holder_with_a_turn_is_not_free() -> None:
    directory = Directory(10)
    first, second = add_holder(directory), add_holder(directory)
    assert directory.holder("local", SETUP, HISTORY) is second
    directory.use(second, 102.0)
    assert directory.holder("local", SETUP, HISTORY) is first
    directory.use(first, 102.0)
    assert directory.holder("local", SETUP, HISTORY) is None
    directory.release(second, 103.0)  # it failed: the history is what it was
    assert directory.holder("local", SETUP, HISTORY) is second


def test_an_exact_history_is_held_block_by_block() -> None:
    directory = Directory(10)
    entry = add_holder(directory)
    asked, said = (
        Message("user", ("Hi",)),
        Message("assistant", (Thinking("Hm.", "c2ln"), "a", "b")),
    )
    seed = (asked, said)
    names = tuple(map(digest, seed))
    directory.use(entry, 102.0)
    entry.state.memory = evolve(entry.memory, digests=names, seed=seed, resume=None)
    entry.state.phase = Phase.IDLE
    directory.release(entry, 103.0)
    alike = (asked, Message("assistant", ("ab",)))
    assert directory.holder("local", SETUP, names, alike) is None
    for exact in (None, seed, (asked, said.without_thinking)):
        assert directory.holder("local", SETUP, names, exact) is entry
    # Of a conversation whose messages are in a transcript, that is not known.
    entry.state.memory = evolve(entry.memory, seed=())
    assert directory.holder("local", SETUP, names, seed) is None


@pytest.mark.parametrize("phase", Phase)
def test_a_holder_has_a_child_at_rest_or_sleeps_on_a_long_history(phase: Phase) -> None:
    directory = Directory(10)
    short = add_holder(directory, phase=phase)
    long = add_holder(directory, LONG, phase)
    rests = phase in (Phase.IDLE, Phase.AWAITING_TOOLS, Phase.INTERRUPTING)
    assert directory.holder("local", SETUP, HISTORY) is (short if rests else None)
    resumes = rests or phase is Phase.ASLEEP
    assert directory.holder("local", SETUP, LONG) is (long if resumes else None)


def test_a_private_conversation_has_no_other_user() -> None:
    directory = Directory(10)
    entry = add_holder(directory)
    directory.claim(entry)
    assert directory.holder("local", SETUP, HISTORY) is None
    directory.use(entry, 102.0)
    directory.release(entry, 103.0)
    assert directory.holder("local", SETUP, HISTORY) is None, "for good"
    born = add(directory)
    directory.use(born, 102.0)
    born.state.memory, born.state.phase = evolve(born.memory, digests=HISTORY), Phase.IDLE
    directory.release(born, 103.0)
    assert directory.holder("local", SETUP, HISTORY) is None


def test_a_conversation_that_was_removed_holds_nothing() -> None:
    directory = Directory(10)
    entry, late = add_holder(directory), add(directory, private=False)
    directory.use(late, 100.0)
    late.state.memory = evolve(late.memory, digests=LONG)
    late.state.phase = Phase.IDLE
    for each in (entry, late):
        directory.remove(each)
    directory.release(late, 101.0)  # its caller comes after that
    assert directory.holder("local", SETUP, HISTORY) is None
    assert directory.holder("local", SETUP, LONG) is None


# -- what they hold in memory ----------------------------------------------------------------------

KILO = 1000
SLACK = 400  # what a message of one block may count beside its texts


def big(kilos: int) -> tuple[Message, ...]:
    return (Message("assistant", ("x" * (kilos * KILO - 149),)),)  # as much as `kilos` with it all


def add_holding(
    directory: Directory, kilos: int, now: float = 100.0, *, private: bool = False
) -> Entry:
    return directory.create("local", Memory(SETUP, seed=big(kilos)), now, private=private)


@pytest.mark.parametrize(
    "block",
    [
        "x" * KILO,
        Image("image/png", "x" * KILO),
        Document("application/pdf", "x" * KILO, "a.pdf"),
        ToolCall("c1", "f", "x" * KILO),
        ToolCall("c1", "f" * KILO),
        ToolResult("c1", ("x" * (KILO // 2), Image("image/png", "x" * (KILO // 2)))),
    ],
)
def test_a_message_is_as_large_as_what_is_in_it(block: Block) -> None:
    one = size_of([Message("user", (block,))])
    assert KILO <= one <= KILO + 2 * SLACK
    assert KILO <= size_of([Message("user", (block, block))]) - one <= KILO + 2 * SLACK


def test_a_message_is_measured_in_bytes_and_a_short_one_is_not_free() -> None:
    assert size_of([Message("user", ("\N{SNOWMAN}" * KILO,))]) >= 2 * KILO
    assert size_of([Message("user", ("a",))] * 10) >= 1000


def test_what_seeds_take_is_counted_as_they_come_change_and_go() -> None:
    directory = Directory(10)
    entry, other = add_holding(directory, 10), add_holding(directory, 5)
    late = add(directory)
    assert abs(entry.held_bytes - 10 * KILO) < SLACK
    assert directory.held_bytes == entry.held_bytes + other.held_bytes
    for kilos in (30, 0, 20):
        directory.use(entry, 101.0)
        entry.state.memory = evolve(entry.memory, seed=big(kilos) if kilos else ())
        directory.release(entry, 102.0)
        assert abs(directory.held_bytes - other.held_bytes - kilos * KILO) < SLACK
    directory.use(late, 102.0)
    late.state.memory = evolve(late.memory, seed=big(7))
    for each in (entry, late):
        directory.remove(each)
        directory.remove(each)
    directory.release(late, 103.0)  # its caller comes after that
    assert directory.held_bytes == other.held_bytes
    directory.remove(other)
    assert directory.held_bytes == 0


def test_what_changes_behind_the_caller_is_found_when_all_are_weighed() -> None:
    directory = Directory(10)
    entry = add_holding(directory, 10)
    entry.state.memory = evolve(entry.memory, seed=())
    directory.weigh_all()
    assert (entry.held_bytes, directory.held_bytes) == (0, 0)


def test_no_conversation_gives_way_within_the_bound() -> None:
    directory = Directory(10, 20 * KILO + SLACK)
    add_holding(directory, 10)
    add_holding(directory, 10)
    assert directory.giving_way() == []


def test_the_longest_unused_give_way_and_private_ones_last_and_no_more_than_it_takes() -> None:
    directory = Directory(10, 25 * KILO)
    private = add_holding(directory, 10, now=1, private=True)
    young, old = add_holding(directory, 10, now=3), add_holding(directory, 10, now=2)
    light = add(directory, now=0, private=False)  # it would free nothing
    assert directory.giving_way() == [old]
    assert directory.giving_way(spared=old) == [young]
    latest = add_holding(directory, 20, now=4)
    assert directory.giving_way(spared=latest) == [old, young, private]
    for entry in directory.giving_way(spared=latest):
        directory.remove(entry)
    assert directory.giving_way(spared=latest) == []
    assert directory.all() == [light, latest]


@pytest.mark.parametrize("phase", [phase for phase in Phase if phase is not Phase.ASLEEP])
def test_only_those_that_sleep_undisturbed_give_way(phase: Phase) -> None:
    directory = Directory(10, 15 * KILO)
    awake, called = add_holding(directory, 10, now=1), add_holding(directory, 10, now=2)
    awake.state.phase = phase
    directory.use(called, 3.0)
    assert directory.giving_way() == []
    directory.release(called, 4.0)
    assert directory.giving_way() == [called]


def test_one_that_is_too_large_for_all_costs_no_other_its_place() -> None:
    directory = Directory(10, 25 * KILO)
    add_holding(directory, 10, now=1)
    huge = add_holding(directory, 30, now=2, private=True)
    assert directory.giving_way(spared=huge) == []
    assert directory.giving_way() == [huge]
    huge.state.phase = Phase.IDLE
    assert directory.giving_way() == []


def test_of_what_was_said_the_oldest_goes_first_and_the_conversations_stay() -> None:
    directory = Directory(limit=9, said_limit=5000)
    memory = Memory(Setup("m"))
    entries = [directory.create("local", memory, 1.0) for _ in range(3)]
    for number in range(6):
        for entry in entries:
            entry.state.broadcast.add((Message("user", (f"{number} " + "x" * 500,)),))
            directory.weigh(entry)
    kept = [len(entry.state.broadcast.history) for entry in entries]
    assert len(directory) == 3
    assert sum(kept) * 600 <= 5000
    assert kept[-1] >= kept[0]
    assert entries[0].state.broadcast.history.forgotten
    assert directory.remove(entries[-1])
    entries[0].state.broadcast.add((Message("user", ("x",)),))
    directory.weigh(entries[0])
    assert entries[0].state.broadcast.history.last is not None


def test_one_that_sleeps_without_a_transcript_is_told_its_history_like_a_new_one() -> None:
    directory = Directory(10)
    entry = add_holder(directory, phase=Phase.ASLEEP)
    assert directory.holder("local", SETUP, HISTORY) is None
    entry.state.memory = evolve(entry.memory, resume=None)
    assert directory.holder("local", SETUP, HISTORY) is entry
