"""A message that came over a WebSocket, read: how much of the room it holds for that."""

from __future__ import annotations

import pytest

from ccapi.actors.websocket.call import read_message
from ccapi.schemas.convert import weigh_json
from ccapi.schemas.errors import InvalidRequest, Overloaded
from ccapi.transport.http.bodies import LONG, MEMORY_PER_BYTE, Bodies

DENSE = b"[%s]" % b",".join([b"{}"] * 25_000)
EMOJIS = b'"%s"' % ("\U0001f600" * LONG).encode()


@pytest.mark.parametrize("message", [b"{}", DENSE, EMOJIS])
async def test_it_holds_what_its_objects_take(message: bytes) -> None:
    held: list[int] = []

    async def hold(count: int) -> None:
        held.append(count)

    given = bytearray(message)
    read = await read_message(given, Bodies(1 << 30), hold)
    assert isinstance(read, dict | list | str)
    assert held == [weigh_json(message) // MEMORY_PER_BYTE]
    assert not given, "its bytes are given back"
    assert held[0] > len(message)


async def test_without_room_nothing_is_read() -> None:
    async def hold(count: int) -> None:
        raise Overloaded("There is no room.", code="too_many_bytes", retry_after=1)

    with pytest.raises(Overloaded):
        await read_message(bytearray(b"no JSON"), Bodies(1 << 20), hold)


@pytest.mark.parametrize("message", [b"", b"no JSON", b"[" * 20_000_000])
async def test_what_is_no_json_is_refused(message: bytes) -> None:
    async def hold(count: int) -> None:
        pass

    with pytest.raises(InvalidRequest):
        await read_message(bytearray(message), Bodies(1 << 30), hold)
