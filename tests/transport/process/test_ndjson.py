"""Cutting a child's bytes into lines: any split of the same bytes gives the same lines."""

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccapi.schemas.claude.output import decode
from ccapi.transport.process.ndjson import LineSplitter, LineTooLong

ROOM = 1 << 20
SCRAPS = st.sampled_from([b"\n", b"\r", b"a", b"bc", b"\xff\x00", b"\n\n", b"{}"])
BYTES = st.lists(SCRAPS).map(b"".join)


def cut(data: bytes, borders: list[int]) -> list[bytes]:
    ends = sorted({border % (len(data) + 1) for border in borders})
    return [data[a:b] for a, b in zip([0, *ends], [*ends, len(data)], strict=True)]


def feed(pieces: list[bytes], room: int = ROOM) -> tuple[list[bytes], int]:
    splitter = LineSplitter(room)
    lines = [line for piece in pieces for line in splitter.feed(piece)]
    return lines, splitter.unfinished


@given(BYTES, st.lists(st.integers(0, 1000)))
def test_any_split_gives_the_same_lines(data: bytes, borders: list[int]) -> None:
    *lines, rest = data.split(b"\n")
    assert feed(cut(data, borders)) == (lines, len(rest))


@given(BYTES)
def test_byte_by_byte(data: bytes) -> None:
    assert feed([bytes([byte]) for byte in data]) == feed([data])


@given(BYTES, st.lists(st.integers(0, 1000)), st.integers(0, 6))
def test_any_split_breaks_the_limit_alike(data: bytes, borders: list[int], room: int) -> None:
    whole = max(map(len, data.split(b"\n")))
    if whole > room:
        with pytest.raises(LineTooLong, match=f"more than {room} bytes"):
            feed(cut(data, borders), room)
    else:
        feed(cut(data, borders), room)


@given(st.lists(st.integers(0, 1000)))
def test_any_split_gives_the_same_frames(borders: list[int]) -> None:
    said = (
        b'{"type":"result","result":"gr\xc3\xbc\xc3\x9fe \xe2\x80\xa8 \\n"}\n'
        b'{"type":"keep_alive"}\n{"type":"system","subtype":"init"}\n'
    )
    frames = [decode(line) for line in feed([said])[0]]
    assert len(frames) == 3
    assert [decode(line) for line in feed(cut(said, borders))[0]] == frames


def test_nothing_is_said() -> None:
    assert feed([b"", b""]) == ([], 0)


def test_empty_lines_are_lines() -> None:
    assert feed([b"\n", b"\n\na"]) == ([b"", b"", b""], 1)


def test_only_a_newline_ends_a_line() -> None:
    assert feed([b"a\r\x0b\x0c\x85\xe2\x80\xa8b\n"])[0] == [b"a\r\x0b\x0c\x85\xe2\x80\xa8b"]


def test_a_line_of_exactly_the_limit() -> None:
    assert feed([b"abc", b"d\n"], room=4) == ([b"abcd"], 0)
    with pytest.raises(LineTooLong):
        feed([b"abcd", b"e\n"], room=4)


def test_a_line_that_never_ends_is_found_out_before_it_ends() -> None:
    splitter = LineSplitter(10)
    splitter.feed(b"0123456789")
    with pytest.raises(LineTooLong):
        splitter.feed(b"x")


def test_a_long_line_is_copied_once() -> None:
    """A line of many pieces: joining it anew at each piece would be quadratic."""
    piece, count = b"x" * 65536, 256
    splitter = LineSplitter(1 << 30)
    tracemalloc.start()
    try:
        for _ in range(count):
            assert splitter.feed(piece) == []
            assert splitter.unfinished % 65536 == 0
        held, _ = tracemalloc.get_traced_memory()
        (line,) = splitter.feed(b"\n")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(line) == 65536 * count
    # The pieces, and the line: nothing else of that size.
    assert peak < held + len(line) + 1_000_000
