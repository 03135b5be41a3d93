"""Request bodies at the front: compressed, too slow, too many at once, and those that would cost
others more than their own length."""

from __future__ import annotations

import gzip
import json
import time
import zlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import brotli
import pytest
import trio
import zstandard
from starlette.types import Message, Receive, Scope, Send
from trio.testing import MockClock, wait_all_tasks_blocked

from ccapi.schemas.errors import InvalidRequest, TooLarge
from ccapi.schemas.settings.settings import ServerSettings, Settings
from ccapi.transport.http.asgi import read_body
from ccapi.transport.http.bodies import Bodies
from ccapi.transport.http.exchange import Exchange

from ...support.asgi import Client
from ...support.chat import ASK, CHAT, HI
from ...support.gateway_double import GatewayDouble, app_of, open_gateway_double
from ...support.live import open_live_demo

MIB = 1024 * 1024
T = TypeVar("T")
JSON = {"content-type": "application/json"}


def watch_room(gateway: GatewayDouble) -> list[int]:
    """The bytes that bodies take in all, behind each change from now on."""
    held: list[int] = []
    change = gateway.bodies.change

    def watched(share: Any, count: int) -> None:
        change(share, count)
        held.append(gateway.bodies.taken)

    gateway.bodies.change = watched  # type: ignore[method-assign]
    return held


# -- compressed ------------------------------------------------------------------------------------


def compress(coding: str, data: bytes) -> bytes:
    makers: dict[str, Callable[[bytes], bytes]] = {
        "gzip": gzip.compress,
        "deflate": zlib.compress,
        "zstd": zstandard.ZstdCompressor().compress,
        "br": brotli.compress,
        "identity": bytes,
    }
    for name in coding.split(", "):
        data = makers[name](data)
    return data


@pytest.mark.parametrize(
    "coding", ["gzip", "deflate", "zstd", "br", "identity", "gzip, zstd", "br, deflate, gzip"]
)
async def test_a_compressed_body_is_read(
    client: Client, gateway: GatewayDouble, coding: str
) -> None:
    body = compress(coding, json.dumps(ASK).encode())
    headers = {**JSON, "content-encoding": coding}
    response = await client.request("POST", CHAT, body=(body[:7], body[7:]), headers=headers)
    assert response.status == 200
    (asked,) = gateway.asked
    assert asked.messages[-1].text == HI["content"]
    assert gateway.bodies.taken == 0


@pytest.mark.parametrize("coding", ["compress", "gzip, snappy", "gzip, gzip, gzip, gzip", "*"])
async def test_a_coding_that_is_not_taken_is_a_415_that_names_those_that_are(
    client: Client, coding: str
) -> None:
    headers = {**JSON, "content-encoding": coding}
    response = await client.request("POST", CHAT, body=(b"{}",), headers=headers)
    assert (response.status, response.error["code"]) == (415, "unsupported_encoding")
    assert response.headers["accept-encoding"] == "gzip, deflate, zstd, br"


@pytest.mark.parametrize("coding", ["gzip", "deflate", "zstd", "br"])
async def test_what_is_not_in_its_coding_is_a_400(client: Client, coding: str) -> None:
    whole = compress(coding, json.dumps(ASK).encode())
    for body in (b'{"messages": []}', whole[:-3]):
        headers = {**JSON, "content-encoding": coding}
        response = await client.request("POST", CHAT, body=(body,), headers=headers)
        assert (response.status, response.error["code"]) == (400, "invalid_encoding")
        assert coding in response.error["message"]


@pytest.mark.parametrize("coding", ["gzip", "deflate", "zstd", "br", "gzip, gzip", "zstd, br"])
async def test_a_bomb_is_a_413_at_the_limit(coding: str) -> None:
    bomb = compress(coding, bytes(64 * MIB))
    settings = Settings(server=ServerSettings(max_body_bytes=2 * MIB))
    async with open_gateway_double(settings) as gateway:
        held = watch_room(gateway)
        headers = {**JSON, "content-encoding": coding}
        client = Client(app_of(gateway))
        response = await client.request("POST", CHAT, body=(bomb,), headers=headers)
        assert (response.status, response.error["code"]) == (413, "request_too_large")
        assert max(held) <= 5 * MIB
        assert gateway.bodies.taken == 0


# -- in pieces -------------------------------------------------------------------------------------


def receiving(pieces: list[bytes]) -> Receive:
    left = [*pieces]

    async def receive() -> Message:
        await trio.lowlevel.checkpoint()
        return {"type": "http.request", "body": left.pop(0), "more_body": bool(left)}

    return receive


async def test_a_body_of_tiny_pieces_is_given_up() -> None:
    scope: dict[str, Any] = {"headers": []}
    assert await read_body(scope, receiving([b"x"] * 9_000), MIB) == b"x" * 9_000
    with pytest.raises(InvalidRequest, match="small pieces"):
        await read_body(scope, receiving([b"x"] * 12_000), MIB)
    long = [b"x" * 1400] * 15_000  # as a slow network brings it
    assert len(await read_body(scope, receiving(long), 21 * MIB)) == 21_000_000


async def test_a_body_takes_room_as_it_comes_or_as_it_is_announced() -> None:
    bodies = Bodies(64 * MIB)
    pieces = [bytes(65536)] * 48
    with bodies.share() as share:
        await read_body({"headers": []}, receiving(pieces), 20 * MIB, share)
        assert 3 * MIB <= share.taken <= 4 * MIB
    with bodies.share() as share:
        announced = {"headers": [(b"content-length", b"%d" % (3 * MIB))]}
        await read_body(announced, receiving(pieces), 20 * MIB, share)
        assert share.taken == 3 * MIB
        with pytest.raises(TooLarge):
            await read_body(announced, receiving(pieces), 2 * MIB, share)
    assert bodies.taken == 0


async def test_bodies_that_do_not_fit_wait_and_then_get_a_503(autojump_clock: MockClock) -> None:
    settings = Settings(server=ServerSettings(max_bodies_bytes=4 * MIB, max_body_bytes=3 * MIB))
    body = json.dumps({**ASK, "messages": [{"role": "user", "content": "x" * 2 * MIB}]}).encode()
    async with open_gateway_double(settings) as gateway:
        client = Client(app_of(gateway))
        with gateway.bodies.share() as others:
            await others.grow_to(2 * MIB)
            response = await client.request("POST", CHAT, body=(body,), headers=JSON)
            assert (response.status, response.error["code"]) == (503, "too_many_bytes")
            assert "retry-after" in response.headers
            small = json.dumps(ASK).encode()
            assert (await client.request("POST", CHAT, body=(small,), headers=JSON)).status == 200
            async with trio.open_nursery() as nursery:

                async def ask() -> None:
                    answer = await client.request("POST", CHAT, body=(body,), headers=JSON)
                    assert answer.status == 200

                nursery.start_soon(ask)
                await wait_all_tasks_blocked()
                assert len(gateway.asked) == 1
                others.close()
        assert len(gateway.asked) == 2


@pytest.mark.parametrize(
    ("content", "times"),
    [
        ("hello, " * 40_000, 1.2),  # it is in memory six times
        ("\U0001f600" + "hello, " * 40_000, 1.8),  # which are four bytes a character
        ("\\ud83d\\ude00" + "hello, " * 40_000, 1.8),
        ([{"type": "text", "text": "x"}] * 9_000, 6.0),
    ],
)
async def test_a_body_holds_as_much_room_as_it_costs_memory(
    gateway: GatewayDouble, client: Client, content: Any, times: float
) -> None:
    held = watch_room(gateway)
    asked = {**ASK, "messages": [{"role": "user", "content": content}]}
    text = json.dumps(asked, ensure_ascii=False, separators=(",", ":"))
    body = text.replace("\\\\u", "\\u").encode()
    headers = {**JSON, "content-length": str(len(body))}
    response = await client.request("POST", CHAT, body=(body,), headers=headers)
    assert response.status == 200
    assert max(held) == pytest.approx(times * len(body), rel=0.15)
    assert gateway.bodies.taken == 0


# -- too slow --------------------------------------------------------------------------------------


async def upload(
    pause: float, piece: int, pieces: int, *, app_pause: float = 0.0
) -> tuple[int | None, float]:
    """The status that a client gets which sends so, and when, in seconds. None: the application
    had the whole body."""
    begun, statuses = trio.current_time(), list[int]()

    async def answer(message: Message | None) -> None:
        await trio.lowlevel.checkpoint()
        if message is not None and message["type"] == "http.response.start":
            statuses.append(message["status"])

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        while (message := await receive())["type"] != "http.disconnect":
            await trio.sleep(app_pause)
            if not message["more_body"]:
                break
        ended.append(trio.current_time() - begun)
        nursery.cancel_scope.cancel()

    ended: list[float] = []
    exchange = Exchange({"method": "POST", "path": "/"}, answer, 30.0, 8192.0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(exchange.run, app)
        for number in range(pieces):
            await trio.sleep(pause)
            more = number + 1 < pieces
            await exchange.put({"type": "http.request", "body": bytes(piece), "more_body": more})
    return (statuses[0] if statuses else None), ended[0]


@pytest.mark.parametrize(
    ("pause", "piece", "pieces", "status", "at"),
    [
        (29.0, 1, 100, 408, 30.0),  # one byte in time for every stall: no further than the first
        (1.0, 1, 100, 408, 30.0),
        (1.0, 4096, 1000, 408, 60.0),  # half of the least rate
        (1.0, 8192, 100, None, 100.0),
        (25.0, 1_000_000, 4, None, 100.0),
    ],
)
async def test_a_body_has_a_least_rate(
    autojump_clock: MockClock, pause: float, piece: int, pieces: int, status: int | None, at: float
) -> None:
    with trio.fail_after(10_000):
        got, ended = await upload(pause, piece, pieces)
    assert got == status
    assert ended == pytest.approx(at, abs=1.0)


async def test_an_application_that_is_slow_itself_blames_no_client(
    autojump_clock: MockClock,
) -> None:
    with trio.fail_after(10_000):
        got, ended = await upload(0.1, 1, 20, app_pause=20.0)
    assert got is None
    assert ended >= 400


# -- what others notice ----------------------------------------------------------------------------


def many(item: bytes, count: int) -> bytes:
    return b"[%s]" % b",".join([item] * count)


HOSTILE = {
    "tools": (CHAT, b'{"messages":[],"tools":%s}' % many(b"{}", 400_000)),
    "messages": (CHAT, b'{"messages":%s}' % many(b"[]", 5_000_000)),
    "stop": (CHAT, b'{"messages":[],"stop":%s}' % many(b"1", 400_000)),
    "prompt": ("/v1/completions", b'{"prompt":%s}' % many(b"{}", 400_000)),
    "include": ("/v1/responses", b'{"input":"x","include":%s}' % many(b"1", 400_000)),
    "input": ("/v1/responses", b'{"input":%s}' % many(b"[]", 5_000_000)),
    "items": ("/v1/conversations", b'{"items":%s}' % many(b"{}", 400_000)),
    "metadata": (
        "/v1/conversations",
        b'{"metadata":{%s}}' % b",".join(b'"%d":"x"' % n for n in range(400_000)),
    ),
    "arguments": (
        CHAT,
        b'{"messages":[{"role":"assistant","tool_calls":[{"id":"c","function":{"name":"f",'
        b'"arguments":%s}}]},{"role":"tool","tool_call_id":"c","content":"x"}]}'
        % json.dumps(many(b"{}", 4_000_000).decode()).encode(),
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
async def test_a_hostile_body_does_not_stop_the_loop(tmp_path: Path, name: str) -> None:
    path, body = HOSTILE[name]
    async with open_gateway_double() as gateway:
        client = Client(app_of(gateway))
        response, longest = await beating(
            lambda: client.request("POST", path, body=(body,), headers=JSON)
        )
        assert response.status == 400
        assert response.error["code"] in {"too_many_values", "invalid_value"}
        assert gateway.bodies.taken == 0
    # Measured: a hundredth of a second, where nothing else runs; seconds before there were bounds.
    assert longest < 0.5


async def test_a_long_history_does_not_stop_the_loop(tmp_path: Path) -> None:
    pair = [{"role": "user", "content": "a" * 900}, {"role": "assistant", "content": "b" * 900}]
    body = json.dumps({"messages": [*pair * 4_999, HI], "model": "sonnet"}).encode()
    async with open_live_demo(tmp_path) as live:
        port = int(live.url.rpartition(":")[2])
        head = "POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: {}\r\n\r\n"

        async def ask() -> bytes:
            async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
                await stream.send_all(head.format(len(body)).encode() + body)
                return bytes(await stream.receive_some())

        await trio.sleep(1)
        answer, longest = await beating(ask)
    assert answer.startswith(b"HTTP/1.1 200")
    assert longest < 0.5


async def beating(work: Callable[[], Awaitable[T]]) -> tuple[T, float]:
    """What comes of `work`, and the longest processor time between two beats of the loop."""
    longest = 0.0

    async def beat() -> None:
        nonlocal longest
        while True:
            begun = time.thread_time()
            await trio.sleep(0.001)
            longest = max(longest, time.thread_time() - begun)

    with trio.fail_after(120):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(beat)
            result = await work()
            nursery.cancel_scope.cancel()
    return result, longest
