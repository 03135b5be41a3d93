"""What is written to a log is read again as it was, to the last character."""

from __future__ import annotations

from typing import Any

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from ccapi.schemas.errors import GatewayError, Overloaded, QuotaExhausted
from ccapi.schemas.log.codec import decode, decode_setup, dumps, encode, encode_setup, loads
from ccapi.schemas.log.items import decode_item, encode_item, items_of
from ccapi.schemas.log.messages import ExactMessage
from ccapi.schemas.log.records import Record, Said
from ccapi.schemas.log.responses import StoredResponse, decode_response, encode_response
from ccapi.schemas.message import Image, Message, RedactedThinking, Thinking, ToolCall, ToolResult
from ccapi.schemas.openai.response_events import Ending, ResponseHeading
from ccapi.schemas.turn import Setup, Usage
from ccapi.schemas.turn_items import TurnItem, answer_of, compact

from .strategies import items, messages, records, setups, texts, tools, usages


def exact(value: object) -> str:
    """As `repr`: some fields are no part of a call's or a result's equality."""
    return repr(value)


@given(records)
def test_a_record_is_read_as_it_was_written(record: Record) -> None:
    written = encode(record)
    read = decode(written.kind, written.body, written.parts.__getitem__)
    assert exact(read) == exact(record)
    assert encode(read) == written


@given(items)
def test_an_item_is_read_as_it_was_written(item: TurnItem) -> None:
    assert exact(decode_item(loads(dumps(encode_item(item))))) == exact(item)


@given(setups)
def test_a_setup_is_read_as_it_was_written(setup: Setup) -> None:
    assert decode_setup(encode_setup(setup)) == setup


plain = messages.map(lambda message: message.plain)
errors = st.builds(
    lambda kind, text, after: kind(text, retry_after=after),
    st.sampled_from([GatewayError, Overloaded, QuotaExhausted]),
    texts,
    st.none() | st.floats(0, 100),
)
endings = st.builds(
    Ending,
    st.sampled_from(["completed", "incomplete", "failed", "cancelled"]),
    st.integers(0, 2**40),
    st.none() | usages,
    st.none() | st.sampled_from(["max_output_tokens", "content_filter", "steered"]),
    st.none() | errors,
)
echoes = st.dictionaries(texts, st.none() | st.integers() | st.booleans() | texts, max_size=3)
responses = st.builds(
    StoredResponse,
    heading=st.builds(
        ResponseHeading,
        st.uuids().map(str),
        st.integers(0, 2**40),
        texts,
        texts,
        st.booleans(),
        echoes,
    ),
    key_id=texts,
    model=texts,
    asked=st.lists(plain, max_size=2).map(tuple),
    said=st.none() | texts,
    brought=st.lists(tools, max_size=2).map(tuple),
    background=st.booleans(),
    items=st.lists(items, max_size=4).map(tuple),
    ending=st.none() | endings,
    begins=st.none() | st.integers(0, 1000),
    place=st.lists(st.binary(min_size=32, max_size=32), max_size=3).map(tuple),
)


@given(responses)
def test_a_response_is_read_as_it_was_written(response: StoredResponse) -> None:
    written = encode_response(response)
    read = decode_response(written.body, written.parts.__getitem__)

    def told(each: StoredResponse) -> Any:
        error = each.ending and each.ending.error
        said = error and (type(error), error.body(), error.headers())
        ending = each.ending and evolve(each.ending, error=None)
        return exact(evolve(each, ending=ending)), said

    assert told(read) == told(response)


def test_a_large_image_is_kept_once_and_apart() -> None:
    image = Image("image/png", "QUJD" * 5000)
    message = ExactMessage("user", ("look", image, ToolResult("a", (image,))))
    written = encode(Said(message))
    assert len(written.parts) == 1
    assert len(written.body) < 500
    [part] = written.parts.values()
    assert part == b"ABC" * 5000


@pytest.mark.parametrize(
    ("kind", "body"), [("start?", b"[]"), ("user", b'{"content":[{"type":"?"}]}')]
)
def test_what_is_no_record_is_an_error(kind: str, body: bytes) -> None:
    with pytest.raises(ValueError, match="no kind of"):
        decode(kind, body, lambda _: b"")


def test_a_message_without_its_thinking_is_what_the_client_was_given() -> None:
    call = ToolCall("call_1", "look", '{"at":1}')
    told = ExactMessage(
        "assistant", (Thinking("Hm.", "c2ln"), RedactedThinking("eA=="), "Yes.", call), "msg_1"
    )
    assert told.plain == Message("assistant", ("Yes.", call)) == answer_of(items_of((told,)))
    assert ExactMessage("assistant", (Thinking("Hm.", "c2ln"),)).plain == Message(
        "assistant", ("",)
    )
    assert ExactMessage.of(told.plain).plain == told.plain


@given(st.lists(messages, max_size=3))
def test_the_items_of_messages_are_as_few_as_can_be(given: list[ExactMessage]) -> None:
    assert compact(items_of(given)) == items_of(given)


def test_usage_keeps_every_digit() -> None:
    usage = Usage(1, 2, 3, 4, 0.1 + 0.2, 5)
    assert Usage(*loads(dumps([1, 2, 3, 4, usage.cost_usd, 5]))) == usage
