"""Frames that pass by: whatever the reads are, each is cut where it ends."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccapi.transport.http.websocket import PING as EMPTY_PING
from ccapi.transport.http.websocket import encode_frame
from ccapi.transport.http.websocket_frames import (
    BINARY,
    CLOSE,
    PING,
    BadFrame,
    FrameSplitter,
    Piece,
    encode_close,
    encode_mark,
    payload_of,
    pong_to,
    read_mark,
)

PAYLOADS = st.one_of(
    st.binary(max_size=200), st.sampled_from([125, 126, 127, 65535, 65536, 70000]).map(bytes)
)
FRAMES = st.one_of(
    PAYLOADS.map(encode_frame),
    st.integers(0, 2**63 - 1).map(encode_mark),
    st.just(EMPTY_PING),
    st.text(max_size=20).map(lambda reason: encode_close(4008, reason)),
)


def joined(pieces: list[Piece]) -> list[bytes]:
    """The frames that the pieces make, each of which has to end."""
    frames: list[bytes] = []
    is_between = True
    for piece in pieces:
        assert piece.begins == is_between
        assert piece.data
        if piece.begins:
            frames.append(b"")
        frames[-1] += piece.data
        assert piece.opcode == frames[-1][0] & 0x0F
        is_between = piece.ends
    assert is_between
    return frames


@given(st.lists(FRAMES, max_size=8), st.lists(st.integers(1, 70000), min_size=1, max_size=20))
def test_frames_are_the_same_however_they_come(frames: list[bytes], sizes: list[int]) -> None:
    data, at, number, pieces = b"".join(frames), 0, 0, []
    splitter = FrameSplitter()
    while at < len(data):
        size = sizes[number % len(sizes)]
        pieces += splitter.feed(data[at : at + size])
        at, number = at + size, number + 1
    assert joined(pieces) == frames
    assert splitter.is_between


@pytest.mark.parametrize("size", [0, 125, 126, 65535, 65536])
def test_byte_by_byte(size: int) -> None:
    frame = encode_frame(bytes(size))
    splitter, pieces = FrameSplitter(), []
    for at in range(len(frame)):
        pieces += splitter.feed(frame[at : at + 1])
        assert splitter.is_between == (at == len(frame) - 1 or not pieces)
    assert joined(pieces) == [frame]
    assert payload_of(frame) == bytes(size)


@pytest.mark.parametrize(
    "head",
    [
        b"\x01\x02hi",  # the first of several
        b"\x80\x02hi",  # the last of several
        b"\xc1\x02hi",  # an extension
        b"\x81\x82\0\0\0\0hi",  # as a client sends it
    ],
)
def test_what_no_server_of_ours_sends(head: bytes) -> None:
    with pytest.raises(BadFrame):
        FrameSplitter().feed(head)


def test_a_mark_says_a_number() -> None:
    assert read_mark(encode_mark(1_700_000_000_000)) == 1_700_000_000_000
    (piece,) = FrameSplitter().feed(encode_mark(7))
    assert (piece.opcode, piece.begins, piece.ends) == (BINARY, True, True)
    with pytest.raises(BadFrame):
        read_mark(b"\x82\x01x")


def test_a_pong_is_a_clients() -> None:
    assert pong_to(b"\x89\x02hi") == b"\x8a\x82\0\0\0\0hi"
    (piece,) = FrameSplitter().feed(b"\x89\x00")
    assert piece.opcode == PING


def test_a_close_frame_says_why() -> None:
    (piece,) = FrameSplitter().feed(encode_close(4008, "too far behind"))
    assert piece.opcode == CLOSE
    assert payload_of(piece.data) == struct.pack("!H", 4008) + b"too far behind"
