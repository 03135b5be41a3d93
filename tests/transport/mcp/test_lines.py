"""The lines of a server's standard output (transport.mcp.lines)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccapi.transport.mcp.lines import HEAD_BYTES, LineTooLong, MessageLines, TooLong

ANSWER = b'{"jsonrpc":"2.0","id":7,"result":"'


@given(st.binary(max_size=200), st.lists(st.integers(1, 9), max_size=80))
def test_lines_are_the_same_however_they_come(data: bytes, cuts: list[int]) -> None:
    whole = MessageLines(1000).feed(data)
    lines, pieces, at = MessageLines(1000), [], 0
    for cut in [*cuts, len(data)]:
        pieces += lines.feed(data[at : at + cut])
        at += cut
    assert pieces == whole == [line for line in data.split(b"\n")[:-1] if line]


@given(st.lists(st.integers(1, 5000), max_size=40))
def test_a_line_that_is_too_long_is_passed_over_and_the_next_is_read(cuts: list[int]) -> None:
    data = ANSWER + b"x" * 5000 + b'"}\nnext\n'
    lines, found, at = MessageLines(1000), [], 0
    for cut in [*cuts, len(data)]:
        found += lines.feed(data[at : at + cut])
        at += cut
    assert found == [TooLong(7, 1000), b"next"]


def test_it_keeps_no_more_than_a_line() -> None:
    lines = MessageLines(1000)
    found: list[bytes | TooLong] = lines.feed(ANSWER)
    for _ in range(1000):
        found += lines.feed(b"x" * 10_000)
    assert found == [TooLong(7, 1000)]
    assert sum(map(len, lines._pieces)) == 0


@pytest.mark.parametrize(
    "head",
    [
        b'{"jsonrpc":"2.0","result":{"a":"',
        b'{"jsonrpc":"2.0","method":"x","id":7,',
        b'{"jsonrpc":"2.0","id":"7","result":"',
        b'{"jsonrpc":"2.0","id":' + b"7" * HEAD_BYTES + b",",
        b"noise " * 50,
    ],
)
def test_one_that_does_not_say_whose_answer_it_is_ends_the_connection(head: bytes) -> None:
    with pytest.raises(LineTooLong, match="more than 1000 bytes"):
        MessageLines(1000).feed(head + b"x" * 2000)


@pytest.mark.parametrize("head", [ANSWER, b'{ "id": 7 , "jsonrpc": "2.0"', b' {"id":7}'])
def test_the_number_stands_at_the_beginning(head: bytes) -> None:
    assert MessageLines(1000).feed(head + b" " * 2000) == [TooLong(7, 1000)]
