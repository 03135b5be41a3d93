"""The directory: ids, owners, the bound, and which conversations nobody looks after."""

from __future__ import annotations

import re

import pytest

from ccapi.actors.directory import Directory, Entry
from ccapi.actors.mailbox import Ref, open_mailbox
from ccapi.actors.session import SessionMessage
from ccapi.schemas.errors import NotFound, RateLimited
from ccapi.schemas.turn import Memory, Setup


def add(directory: Directory, owner: str = "local", now: float = 100.0) -> Entry:
    return directory.create(owner, Memory(Setup("haiku")), now)


def test_a_new_conversation_has_an_id_that_nobody_can_guess_and_no_actor() -> None:
    directory = Directory(10)
    first, second = add(directory), add(directory)
    assert re.fullmatch("conv_[0-9a-f]{32}", first.conversation_id)
    assert first.conversation_id != second.conversation_id
    assert (first.created_at, first.used_at, first.ref) == (100.0, 100.0, None)
    assert repr(directory) == "<Directory 2 conversations, 0 live>"


def test_it_is_found_by_its_owner_alone_and_the_others_cannot_tell() -> None:
    directory = Directory(10)
    entry = add(directory, "alice")
    assert directory.find(entry.conversation_id, "alice") is entry
    refusals = []
    for conversation_id, owner in [(entry.conversation_id, "bob"), ("conv_none", "alice")]:
        with pytest.raises(NotFound) as caught:
            directory.find(conversation_id, owner)
        refusals.append((caught.value.body(), caught.value.status))
    assert refusals[0] == refusals[1]
    assert refusals[0][0]["error"]["code"] == "conversation_not_found"
    assert refusals[0][0]["error"]["param"] == "conversation_id"


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


def test_dormant_are_those_without_an_actor_that_nobody_used_since() -> None:
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
