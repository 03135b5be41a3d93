"""Clients that mean no good, at the join endpoint and the world, over real sockets."""

from __future__ import annotations

import base64
import struct
from contextlib import suppress
from pathlib import Path

import orjson
import pytest
import trio

from ccapi.schemas.settings.settings import AuthSettings, WebSocketSettings
from tests.support.joined import new_conversation, open_joined
from tests.support.live import Live, open_live_demo
from tests.support.websocket_client import (
    BINARY,
    TEXT,
    client_frame,
    open_raw_websocket,
    refused,
    text,
)

KEY = "sk-one/of+them"
HUGE = bytes([0x80 | TEXT, 0x80 | 127]) + struct.pack("!Q", 1 << 40) + bytes(4) + b"x" * 5000
FLOOD = '!script {"deltas": 20000, "pace_ms": 0, "answer": null}'


def port_of(live: Live) -> int:
    return int(live.url.rpartition(":")[2])


async def place_of(live: Live, kind: str) -> str:
    if kind == "overview":
        return "/v1/overview"
    return f"/v1/conversations/{await new_conversation(live.url)}/events"


both = pytest.mark.parametrize("kind", ["join", "overview"])


@both
async def test_what_is_no_message_ends_its_own_connection(tmp_path: Path, kind: str) -> None:
    websocket = WebSocketSettings(max_message_bytes=4000)
    async with open_live_demo(tmp_path, websocket=websocket) as live:
        path = await place_of(live, kind)
        for data, code in [
            (HUGE, 1009),
            (client_frame(BINARY, b"{}"), 1003),
            (client_frame(TEXT, b"\xff\xfe"), 1007),
        ]:
            async with open_raw_websocket(port_of(live), path) as client:
                await client.send(data)
                with trio.fail_after(5):
                    assert await client.close_code() == code
        async with open_raw_websocket(port_of(live), path) as client:
            with trio.fail_after(5):
                assert "type" in orjson.loads(await client.message())


@both
async def test_who_is_not_let_in_is_refused_before_the_upgrade(tmp_path: Path, kind: str) -> None:
    async with open_live_demo(tmp_path, auth=AuthSettings(api_keys=(KEY,))) as live:
        path = "/v1/overview" if kind == "overview" else "/v1/conversations/conv_x/events"
        key = {"authorization": f"Bearer {KEY}"}
        port = port_of(live)
        for where, headers, status in [
            (path, {**key, "origin": "https://evil.example"}, 403),
            (path, {"authorization": "Bearer sk-wrong"}, 401),
            (f"{path}?api_key={KEY}", {}, 401),
        ]:
            assert (await refused(port, where, headers)).status == status
        coded = base64.urlsafe_b64encode(KEY.encode()).decode().rstrip("=")
        offer = {"sec-websocket-protocol": f"ccapi.v1, ccapi-key.{coded}"}
        if kind == "join":  # let in, as far as there is something to join
            assert (await refused(port, path, offer)).status == 404
        else:
            async with open_raw_websocket(port, path, offer) as client:
                assert dict(client.head.headers)[b"sec-websocket-protocol"] == b"ccapi.v1"


async def test_a_client_that_floods_and_one_that_never_reads_hold_up_no_other(
    tmp_path: Path,
) -> None:
    async with open_live_demo(tmp_path) as live:
        path = await place_of(live, "join")
        other = await new_conversation(live.url)

        async def flood() -> None:
            # One that reads none of the answers may be hung up on: that is for the better.
            with suppress(trio.BrokenResourceError):
                async with open_raw_websocket(port_of(live), path) as client:
                    while True:
                        await client.send(text('{"type":"ping"}') * 1000)

        async with (
            open_raw_websocket(port_of(live), path) as deaf,
            open_joined(live.url, other) as one,
            trio.open_nursery() as nursery,
        ):
            await deaf.send(text(orjson.dumps({"type": "turn.create", "input": FLOOD})))
            nursery.start_soon(flood)
            await one.turn("Hello")  # its child is awake
            for _ in range(10):
                await one.say("ping")
                await one.until("pong")
            nursery.cancel_scope.cancel()
