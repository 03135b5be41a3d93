"""The table of responses: whose they are, and how many and how large they may be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from ccapi.actors.responses.record import Record
from ccapi.actors.responses.store import ResponseStore
from ccapi.schemas.errors import NotFound
from ccapi.schemas.message import Message
from ccapi.schemas.openai.response_events import Ending, ResponseHeading
from ccapi.schemas.settings.settings import ResponseSettings
from ccapi.schemas.turn import Tool, Usage
from ccapi.schemas.turn_items import TextDelta, ToolCallDelta, ToolCallStarted

NOW = 1_700_000_000
DONE = Ending("completed", NOW, Usage())


def record(
    text: str = "Hi", *, before: tuple[Message, ...] | None = (), at: int = NOW, **fields: Any
) -> Record:
    heading = ResponseHeading(str(uuid4()), at, "sonnet", "conv_1", False, {})
    asked = (Message("user", (text,)),)
    fields = {"owner": "local", "model": "sonnet", "workspace": "", "said": None} | fields
    return Record(heading=heading, asked=asked, before=before, place=(), **fields)


def ended(*args: Any, answer: str = "Hello", **fields: Any) -> Record:
    made = record(*args, **fields)
    made.add([TextDelta(answer)])
    made.end(DONE, ())
    return made


def store(**settings: Any) -> ResponseStore:
    return ResponseStore(ResponseSettings(**settings))


def keep(shelf: ResponseStore, made: Record, now: float = NOW) -> Record:
    shelf.put(made, now)
    return made


def test_a_response_is_its_owners_alone() -> None:
    shelf = store()
    made = keep(shelf, ended())
    assert shelf.find(made.id, "local", NOW) is made
    for response_id, owner in ((made.id, "other"), ("resp_none", "local")):
        with pytest.raises(NotFound) as caught:
            shelf.find(response_id, owner, NOW)
        assert caught.value.code == "response_not_found"


def test_the_oldest_makes_room_but_not_one_that_runs() -> None:
    shelf = store(max_stored=2)
    running = keep(shelf, record())
    first, second = keep(shelf, ended()), keep(shelf, ended())
    assert len(shelf) == 2
    for made in (running, second):
        assert shelf.find(made.id, "local", NOW) is made
    with pytest.raises(NotFound):
        shelf.find(first.id, "local", NOW)


def test_large_ones_make_room_too_once_it_is_known_how_large_they_are() -> None:
    shelf = store(max_bytes=100_000)
    small = keep(shelf, ended())
    large = keep(shelf, record())
    large.add([TextDelta("x" * 99_000)])
    large.end(DONE, ())
    shelf.settle(large, NOW)
    assert shelf.bytes <= 100_000
    with pytest.raises(NotFound):
        shelf.find(small.id, "local", NOW)


def test_they_expire() -> None:
    shelf = store(ttl_seconds=60.0)
    made = keep(shelf, ended())
    assert shelf.find(made.id, "local", NOW + 59) is made
    with pytest.raises(NotFound):
        shelf.find(made.id, "local", NOW + 61)
    assert (len(shelf), shelf.bytes) == (0, 0)


def test_messages_that_responses_share_are_counted_once() -> None:
    shelf = store()
    said = (Message("user", ("x" * 50_000,)), Message("assistant", ("y" * 50_000,)))
    keep(shelf, ended(before=said))
    alone = shelf.bytes
    keep(shelf, ended(before=said))
    assert shelf.bytes - alone < 20_000


def test_what_a_record_repeats_of_its_request_is_counted() -> None:
    shelf = store()
    heading = ResponseHeading(str(uuid4()), NOW, "m", "c", False, {"instructions": "x" * 9_000})
    made = record()
    made.heading = heading
    keep(shelf, made)
    assert shelf.bytes > 9_000


@pytest.mark.parametrize(
    ("grow", "times"),
    [
        (lambda text: ended(text), 1),
        (lambda text: ended(answer=text), 2),  # as items, and as a message of the history
        (lambda text: ended(spoken=text), 1),
        (lambda text: ended(brought=(Tool("f", text),)), 1),
        (lambda text: ended(brought=(Tool("f", "", text),)), 1),
    ],
    ids=["asked", "answered", "spoken", "description", "parameters"],
)
def test_texts_are_counted_in_bytes_of_utf8(grow: Callable[[str], Record], times: int) -> None:
    """Whatever Python takes for a character, one of them counts for its bytes in UTF-8."""
    sizes = []
    for text in ("", "x" * 100, "\xe9" * 100, "\N{SNOWMAN}" * 100):
        shelf = store()
        keep(shelf, grow(text))
        sizes.append(shelf.bytes)
    assert [size - sizes[0] for size in sizes] == [0, 100 * times, 200 * times, 300 * times]


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 3), st.integers(0, 3_000)), max_size=40))
def test_when_all_are_gone_nothing_is_counted(steps: list[tuple[bool, int, int]]) -> None:
    shelf = store(max_stored=5, max_bytes=60_000)
    kept: list[Record] = []
    for puts, index, size in steps:
        if puts or not kept:
            before = kept[index % len(kept)].history if kept else ()
            made = keep(shelf, record("x" * size, before=before or ()))
            kept.append(made)
            if index:
                made.add([TextDelta("y" * size)])
                made.end(DONE, ())
                shelf.settle(made, NOW)
        else:
            shelf.drop(kept.pop(index % len(kept)))
        finished = [each for each in kept if each.ending is not None]
        running = len(kept) - len(finished)
        assert len(shelf) <= max(5, running)
        assert shelf.bytes <= 60_000 or all(each.ending is None for each in shelf._records.values())
    for each in [*shelf._records.values()]:
        shelf.drop(each)
    assert (len(shelf), shelf.bytes, shelf._messages, shelf._latest) == (0, 0, {}, {})


# -- records ---------------------------------------------------------------------------------------


def test_what_was_said_up_to_the_end_of_a_response() -> None:
    before = (Message("user", ("a",)), Message("assistant", ("b",)))
    made = ended("c", before=before, answer="d")
    assert made.history == (*before, Message("user", ("c",)), Message("assistant", ("d",)))
    assert made.history[0] is before[0]
    assert made.is_settled
    assert ended(before=None).history is None


def test_calls_that_wait_for_their_outputs() -> None:
    made = record()
    made.add([ToolCallStarted(0, "c1", "f"), ToolCallDelta(0, "{}")])
    made.end(DONE, ())
    assert made.open_calls == ("c1",)
    torn = record()
    torn.add([TextDelta("So"), ToolCallStarted(0, "c1", "f"), ToolCallDelta(0, "{")])
    torn.end(Ending("incomplete", NOW, Usage(), "max_output_tokens"), ())
    assert torn.open_calls == ()
    assert torn.history is not None
    assert torn.history[-1] == Message("assistant", ("So",))


def test_a_refused_question_leaves_no_trace_but_what_came_before_it_does() -> None:
    filtered = Ending("incomplete", NOW, Usage(), "content_filter")
    made = record(before=(Message("user", ("a",)), Message("assistant", ("b",))))
    made.end(filtered, ())
    assert made.history == made.before
    assert made.is_settled
    whole = record()
    whole.asked = (Message("user", ("a",)), Message("assistant", ("b",)), Message("user", ("c",)))
    whole.end(filtered, ())
    assert whole.history == whole.asked[:2]
    assert not whole.is_settled


def test_of_a_steered_answer_what_was_said_is_kept() -> None:
    steered = Ending("incomplete", NOW, reason="steered")
    made = record()
    made.add([TextDelta("Hel")])
    made.end(steered, ())
    assert made.history == (*made.asked, Message("assistant", ("Hel",)))
    assert not made.is_settled
    silent = record()
    silent.end(steered, ())
    assert silent.history == silent.asked


def test_pieces_are_joined_unless_a_client_may_count_them() -> None:
    pieces = [TextDelta("Hel"), TextDelta("lo")]
    for keeps, count in ((False, 1), (True, 2)):
        made = record(keeps_pieces=keeps)
        made.add(pieces)
        made.end(DONE, ())
        assert len(made.items) == count
    made = record()
    with made.reading():
        made.add(pieces)
        made.end(DONE, ())
    assert len(made.items) == 2


async def test_a_reader_of_a_record_receives_what_comes(autojump_clock: Any) -> None:
    made, published = record(), list[int]()

    async def read() -> None:
        with made.reading():
            while made.ending is None:
                await made.wait_news()
                published.append(len(made.items))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        nursery.start_soon(made.wait_ended)
        await trio.testing.wait_all_tasks_blocked()
        made.add([TextDelta("a")])
        await trio.testing.wait_all_tasks_blocked()
        made.add([TextDelta("b")])
        made.end(DONE, ())
    assert published == [1, 2]
    await made.wait_ended()


def test_a_record_shows_how_it_stands() -> None:
    made = record()
    assert repr(made) == f"<Record {made.id} running>"
    made.end(DONE, ())
    assert repr(made) == f"<Record {made.id} completed>"


def test_system_texts_and_tools_of_inputs_are_counted() -> None:
    tools = (Tool("f", "d" * 1000),)
    store = ResponseStore(ResponseSettings())
    store.put(record(), NOW)
    plain = store.bytes
    store.put(record(spoken="s" * 1000, brought=tools), NOW)
    assert store.bytes - 2 * plain > 1900
