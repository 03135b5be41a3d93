"""A node that goes while it answers what another one has passed on to it: what the client sees.

The node that goes is a socket of the test's own, which the store knows as the conversation's owner.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anthropic
import httpx
import openai
import pytest
import trio
from structlog.testing import capture_logs
from trio_websocket import open_websocket_url

from ccapi.actors.keys.registry import LOCAL
from ccapi.schemas.node_seal import UNDONE
from ccapi.schemas.turn import Setup
from ccapi.transport.store.interface import NewConversation
from ccapi.transport.store.memory import MemoryCluster

from ..support.live import Live
from ..support.nodes import open_demo_nodes

NAME = "5b7cb5f2-8d0c-4a4b-8d3a-0d9a2c6f7e11"

WEBSOCKET = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
"""What a handshake is answered with (RFC 6455, section 1.3)."""

JSON = b"content-type: application/json"
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
CHAT = (
    b'data: {"id":"a","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":'
    b'0,"delta":{"role":"assistant","content":"Half"},"finish_reason":null}]}\n\n'
)
MESSAGE = (
    b'event: message_start\ndata: {"type":"message_start","message":{"id":"msg_1","type":"message",'
    b'"role":"assistant","model":"m","content":[],"stop_reason":null,"stop_sequence":null,'
    b'"usage":{"input_tokens":1,"output_tokens":1}}}\n\n'
)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


@asynccontextmanager
async def open_node_beside(tmp_path: Path, *answers: bytes) -> AsyncIterator[Live]:
    """A node, and beside it one that has the conversation `NAME`: it reads as many requests as
    there are `answers`, gives each of these, and closes the connection."""
    asked = 0

    async def serve(stream: trio.SocketStream) -> None:
        nonlocal asked
        head = b""
        async with stream:
            while b"\r\n\r\n" not in head:
                head += await stream.receive_some()
            if head.startswith(b"POST"):  # the other node looks whether this one is there
                asked += 1
                await stream.send_all(answers[asked - 1])

    shared = MemoryCluster(60.0)
    async with trio.open_nursery() as nursery:
        [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, serve, [listener])
        port = listener.socket.getsockname()[1]
        ghost = shared.open_node(f"http://127.0.0.1:{port}")
        await ghost.beat()
        await ghost.acquire(NAME, LOCAL, NewConversation(setup=Setup("sonnet")))
        async with open_demo_nodes(tmp_path, 1, {"lease_seconds": 60.0}, shared) as [node]:
            yield node
        nursery.cancel_scope.cancel()
    assert asked == len(answers), "a turn that may have begun is asked for once"


async def test_a_stream_of_chunks_ends_with_the_error(tmp_path: Path) -> None:
    answer = HEAD + b"transfer-encoding: chunked\r\n\r\n" + chunk(CHAT)
    with trio.fail_after(30), capture_logs() as logs:
        async with (
            open_node_beside(tmp_path, answer) as node,
            openai.AsyncOpenAI(base_url=node.base_url, api_key="-") as sdk,
        ):
            said = ""
            stream = await sdk.chat.completions.create(
                model="sonnet",
                messages=[{"role": "user", "content": "Two"}],
                stream=True,
                extra_body={"conversation_id": NAME},
            )
            with pytest.raises(openai.APIError) as failed:
                async for each in stream:
                    said += each.choices[0].delta.content or ""
    assert said == "Half"
    assert failed.value.code == "node_lost"
    assert not [each for each in logs if each["event"] == "app_failed"]


async def test_a_streamed_message_ends_with_the_error(tmp_path: Path) -> None:
    answer = HEAD + b"transfer-encoding: chunked\r\n\r\n" + chunk(MESSAGE)

    def read(url: str) -> None:
        with anthropic.Anthropic(base_url=url, api_key="-") as sdk:
            stream = sdk.messages.create(
                model="sonnet",
                max_tokens=100,
                messages=[{"role": "user", "content": "Two"}],
                stream=True,
                extra_headers={"x-conversation-id": NAME},
            )
            with pytest.raises(anthropic.APIStatusError, match="is gone"):
                for each in stream:
                    assert each.type == "message_start"

    with trio.fail_after(30):
        async with open_node_beside(tmp_path, answer) as node:
            await trio.to_thread.run_sync(read, node.url)


@pytest.mark.parametrize(
    "answer",
    [
        HEAD + b"transfer-encoding: chunked\r\n\r\n" + chunk(CHAT[:-1]),
        HEAD + b"transfer-encoding: chunked\r\n\r\n" + chunk(CHAT) + chunk(CHAT[:50]),
        b'HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{"id":',
    ],
    ids=["before the end of an event", "in a later event", "no stream"],
)
async def test_what_cannot_say_so_is_cut_short(tmp_path: Path, answer: bytes) -> None:
    with trio.fail_after(30), capture_logs() as logs:
        async with open_node_beside(tmp_path, answer) as node, httpx.AsyncClient() as client:
            body = {"messages": [{"role": "user", "content": "Two"}], "conversation_id": NAME}
            with pytest.raises(httpx.RemoteProtocolError):
                await client.post(f"{node.base_url}/chat/completions", json=body)
    [cut] = [each for each in logs if each["event"] == "response_cut_short"]
    assert cut["code"] == "node_lost"


async def test_a_request_without_a_response_is_not_to_be_sent_again(tmp_path: Path) -> None:
    with trio.fail_after(30):
        async with (
            open_node_beside(tmp_path, b"") as node,
            openai.AsyncOpenAI(base_url=node.base_url, api_key="-") as sdk,
        ):
            with pytest.raises(openai.InternalServerError) as failed:
                await sdk.chat.completions.create(
                    model="sonnet",
                    messages=[{"role": "user", "content": "Two"}],
                    extra_body={"conversation_id": NAME},
                )
    assert failed.value.code == "node_lost"


def whole(status: str, body: bytes, *headers: bytes) -> bytes:
    lines = [f"HTTP/1.1 {status}".encode(), b"connection: close", JSON, *headers]
    return b"\r\n".join([*lines, b"content-length: %d" % len(body), b"", body])


ANSWER = whole("200 OK", b'{"id":"a"}')
ERROR = b'data: {"error":{"code":"child_died"}}\n\n'
FAILED = HEAD + b"connection: close\r\ntransfer-encoding: chunked\r\n\r\n" + chunk(CHAT)


@pytest.mark.parametrize(
    ("failed", "is_kept"),
    [
        (whole("503 Service Unavailable", b"{}"), False),
        # An operator has to do something, or a limit ends in a day: not that something was done.
        (whole("503 Service Unavailable", b"{}", b"x-should-retry: false"), False),
        (whole("503 Service Unavailable", b"{}", b"x-ccapi-final: 1"), True),
        (FAILED + chunk(ERROR) + chunk(b""), True),
        (FAILED + chunk(ERROR + UNDONE) + chunk(b""), False),
    ],
)
async def test_a_failure_elsewhere_is_kept_for_its_key_only_if_it_is_for_good(
    tmp_path: Path, failed: bytes, is_kept: bool
) -> None:
    answers = [failed] if is_kept else [failed, ANSWER]
    with trio.fail_after(30):
        async with open_node_beside(tmp_path, *answers) as node, httpx.AsyncClient() as client:
            body = {"messages": [{"role": "user", "content": "Two"}], "conversation_id": NAME}
            first, second = [
                await client.post(
                    f"{node.base_url}/chat/completions",
                    json=body,
                    headers={"idempotency-key": "once"},
                )
                for _ in range(2)
            ]
    assert "x-ccapi-final" not in first.headers
    assert (second.headers.get("idempotent-replayed") == "true") is is_kept
    assert (second.content == first.content) is is_kept


async def test_a_node_that_lives_and_cannot_be_reached_is_not_waited_for_for_ever(
    tmp_path: Path,
) -> None:
    shared = MemoryCluster(60.0)
    ghost = shared.open_node("http://127.0.0.1:1")
    await ghost.beat()
    await ghost.acquire(NAME, LOCAL, NewConversation(setup=Setup("sonnet")))
    upgrade = {
        "connection": "upgrade",
        "upgrade": "websocket",
        "sec-websocket-version": "13",
        "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
    }
    body = {"messages": [{"role": "user", "content": "Two"}], "conversation_id": NAME}
    async with (
        open_demo_nodes(tmp_path, 1, {"lease_seconds": 0.3}, shared) as [node],
        httpx.AsyncClient(timeout=10) as client,
    ):
        asked = [
            await client.post(f"{node.base_url}/chat/completions", json=body),
            await client.get(f"{node.base_url}/conversations/{NAME}/events", headers=upgrade),
        ]
    for failed in asked:
        assert (failed.status_code, failed.json()["error"]["code"]) == (
            503,
            "conversation_elsewhere",
        )
        assert failed.headers["retry-after"]


@pytest.mark.parametrize("answers", [True, False], ids=["in a response", "in the handshake"])
async def test_a_node_that_freezes_ends_no_websocket(tmp_path: Path, answers: bool) -> None:
    shared, asked = MemoryCluster(60.0), trio.Event()

    async def serve(stream: trio.SocketStream) -> None:
        head = await stream.receive_some()
        if b"/v1/responses" not in head:
            return
        if answers:
            [key] = re.findall(rb"(?i)sec-websocket-key: *([^\r]+)", head)
            accept = base64.b64encode(hashlib.sha1(key + WEBSOCKET).digest())
            await stream.send_all(
                b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade"
                b"\r\nsec-websocket-accept: " + accept + b"\r\n\r\n"
            )
            await stream.receive_some()
        asked.set()
        await trio.sleep_forever()

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
            nursery.start_soon(trio.serve_listeners, serve, [listener])
            ghost = shared.open_node(f"http://127.0.0.1:{listener.socket.getsockname()[1]}")
            await ghost.beat()
            async with open_demo_nodes(tmp_path, 1, {"lease_seconds": 1.2}, shared) as [node]:
                await ghost.acquire(NAME, LOCAL, NewConversation(setup=Setup("sonnet")))
                url = f"ws{node.url.removeprefix('http')}/v1/responses"
                async with open_websocket_url(url) as connection:
                    create = {"type": "response.create", "input": "Two", "conversation": NAME}
                    await connection.send_message(json.dumps(create))
                    await asked.wait()
                    await ghost.leave()
                    event = json.loads(await connection.get_message())
                    if answers:
                        assert event["error"]["code"] == "node_lost", event
                    else:  # it was never asked
                        assert event["type"] == "response.created", event
            nursery.cancel_scope.cancel()
