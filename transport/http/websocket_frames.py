"""The frames of a WebSocket that pass by: where each begins and ends.

Knows: the head of a frame that a server of ours sends (RFC 6455, section 5.2: whole, not masked,
without extensions), and the mark, a frame between two nodes. Refuses to know: what a message says,
and who receives it.
"""

from __future__ import annotations

from attrs import frozen

TEXT, BINARY, CLOSE, PING, PONG = 0x1, 0x2, 0x8, 0x9, 0xA

_WHOLE = 0x80
_MASKED = 0x80
_HEADS = {126: 4, 127: 10}
_NUMBER_BYTES = 8

_MARK_HEAD = bytes([_WHOLE | BINARY, _NUMBER_BYTES])


class BadFrame(ValueError):
    """No server of ours sends this."""


@frozen
class Piece:
    """What has come of one frame, its head too."""

    opcode: int
    data: bytes
    begins: bool
    ends: bool


class FrameSplitter:
    """Cuts what is received where one frame ends and the next begins. Keeps no more than a head
    that is not whole yet."""

    def __init__(self) -> None:
        self._head = b""
        self._opcode = 0
        self._left = 0

    def __repr__(self) -> str:
        return f"<FrameSplitter {'between frames' if self.is_between else 'in a frame'}>"

    @property
    def is_between(self) -> bool:
        """Whether every frame that has begun has ended; a head that is not whole has not begun."""
        return not self._left

    def feed(self, data: bytes) -> list[Piece]:
        """The pieces of frames in what comes next. Raises `BadFrame`."""
        if self._head:
            data, self._head = self._head + data, b""
        pieces: list[Piece] = []
        at, size = 0, len(data)
        while at < size:
            if self._left:
                end = min(size, at + self._left)
                self._left -= end - at
                pieces.append(Piece(self._opcode, data[at:end], False, not self._left))
                at = end
                continue
            length = _length_of(data, at)
            if length is None:
                self._head = data[at:]
                break
            end = min(size, at + length)
            self._opcode, self._left = data[at] & 0x0F, at + length - end
            pieces.append(Piece(self._opcode, data[at:end], True, not self._left))
            at = end
        return pieces


def _length_of(data: bytes, at: int) -> int | None:
    """Of the frame that begins there, its head included; None: its head is not whole."""
    if len(data) < at + 2:
        return None
    first, second = data[at], data[at + 1]
    if first & 0xF0 != _WHOLE or not first & 0x0F or second & _MASKED:
        raise BadFrame(f"a frame begins with {first:#04x} {second:#04x}")
    head = _HEADS.get(second)
    if head is None:
        return 2 + second
    if len(data) < at + head:
        return None
    return head + int.from_bytes(data[at + 2 : at + head], "big")


def payload_at(frame: bytes) -> int:
    """Where the payload of a whole frame begins."""
    return _HEADS.get(frame[1], 2)


def payload_of(frame: bytes) -> bytes:
    return frame[payload_at(frame) :]


def encode_mark(number: int) -> bytes:
    """What one node tells another within a WebSocket: the events up to this number belong before
    what follows. Clients never receive it: a server of ours sends them text alone."""
    return _MARK_HEAD + number.to_bytes(_NUMBER_BYTES, "big")


def read_mark(frame: bytes) -> int:
    """The number in a whole binary frame. Raises `BadFrame`."""
    if len(frame) != len(_MARK_HEAD) + _NUMBER_BYTES:
        raise BadFrame("a binary frame is no mark")
    return int.from_bytes(payload_of(frame), "big")


def pong_to(ping: bytes) -> bytes:
    """A client's answer to a whole ping frame: masked, as all that a client sends, with zeros."""
    payload = payload_of(ping)
    return bytes([_WHOLE | PONG, _MASKED | len(payload)]) + bytes(4) + payload


def encode_close(code: int, reason: str) -> bytes:
    """A server's close frame. `reason` takes 123 bytes at most."""
    payload = code.to_bytes(2, "big") + reason.encode()
    assert len(payload) < 126, reason
    return bytes([_WHOLE | CLOSE, len(payload)]) + payload
