"""A WebSocket client that keeps to the protocol only as far as a test wants it to."""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import h11
import trio
from attrs import define, field, frozen

from .http_client import RawClient, Response, knock

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA


def client_frame(opcode: int, payload: bytes = b"", *, fin: bool = True) -> bytes:
    """A frame as a client sends it, masked with zeros."""
    size = len(payload)
    head = bytes([opcode | (0x80 if fin else 0)])
    if size < 126:
        head += bytes([0x80 | size])
    elif size < 65536:
        head += struct.pack("!BH", 0x80 | 126, size)
    else:
        head += struct.pack("!BQ", 0x80 | 127, size)
    return head + bytes(4) + payload


def text(message: str | bytes) -> bytes:
    return client_frame(TEXT, message.encode() if isinstance(message, str) else message)


def close(code: int = 1000, reason: str = "") -> bytes:
    return client_frame(CLOSE, struct.pack("!H", code) + reason.encode())


@frozen
class Frame:
    opcode: int
    payload: bytes

    @property
    def code(self) -> int:
        """What a close frame says."""
        assert self.opcode == CLOSE, self
        return int.from_bytes(self.payload[:2], "big")


@define
class RawWebSocket:
    """Sends bytes, and reads frames as a server may send them."""

    stream: trio.abc.Stream
    head: h11.InformationalResponse
    _unread: bytearray = field(converter=bytearray)

    async def send(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def frame(self) -> Frame:
        """The next frame, which is whole and unmasked. Raises EOFError."""
        first, second = await self._read(2)
        assert first & 0x80, "a server's frames are whole here"
        assert not first & 0x70, "an extension that was not agreed on"
        assert not second & 0x80, "a server does not mask"
        size = second
        if size == 126:
            (size,) = struct.unpack("!H", await self._read(2))
        elif size == 127:
            (size,) = struct.unpack("!Q", await self._read(8))
        return Frame(first & 0x0F, await self._read(size))

    async def message(self) -> str:
        """The next text message; pings are answered on the way."""
        while (frame := await self.frame()).opcode == PING:
            await self.send(client_frame(PONG, frame.payload))
        assert frame.opcode == TEXT, frame
        return frame.payload.decode()

    async def close_code(self) -> int:
        """The code of the close frame, whatever else comes before it."""
        while (frame := await self.frame()).opcode != CLOSE:
            pass
        return frame.code

    async def ended(self) -> bool:
        """Whether the server ended the connection, having sent nothing more."""
        try:
            return not self._unread and not await self.stream.receive_some(1)
        except trio.BrokenResourceError:
            return True

    async def _read(self, size: int) -> bytes:
        while len(self._unread) < size:
            data = await self.stream.receive_some()
            if not data:
                raise EOFError
            self._unread += data
        data = bytes(self._unread[:size])
        del self._unread[:size]
        return data


def handshake(path: str, headers: Mapping[str, str]) -> bytes:
    fields = {
        "host": "localhost",
        "connection": "Upgrade",
        "upgrade": "websocket",
        "sec-websocket-version": "13",
        "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
        **headers,
    }
    lines = [f"GET {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
    return "\r\n".join([*lines, "", ""]).encode()


@asynccontextmanager
async def open_raw_websocket(
    port: int, path: str = "/", headers: Mapping[str, str] | None = None
) -> AsyncIterator[RawWebSocket]:
    async with knock(port) as client:
        yield await upgrade(client, path, headers or {})


async def upgrade(client: RawClient, path: str, headers: Mapping[str, str]) -> RawWebSocket:
    await client.send(handshake(path, headers))
    parser = h11.Connection(h11.CLIENT)
    ask = [("host", "x"), ("upgrade", "websocket"), ("connection", "upgrade")]
    parser.send(h11.Request(method="GET", target="/", headers=ask))
    parser.send(h11.EndOfMessage())
    while (event := parser.next_event()) is h11.NEED_DATA:
        parser.receive_data(bytes(await client.stream.receive_some()))
    assert isinstance(event, h11.InformationalResponse), event
    return RawWebSocket(client.stream, event, parser.trailing_data[0])


async def refused(port: int, path: str = "/", headers: Mapping[str, str] | None = None) -> Response:
    """What a handshake gets that is not accepted, as plain HTTP."""
    async with knock(port) as client:
        await client.send(handshake(path, headers or {}))
        return await client.response()
