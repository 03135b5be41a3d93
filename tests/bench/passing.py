"""What a node spends for a delta that it passes on, beside a bare relay of bytes on trio:
``python -m tests.bench nodes p``.

The owner is this program, which speaks at a rate that no two cores full of children would: so many
streams, each a delta every 10 ms. The relay is the least that a program on trio can do: it waits
for a socket, reads, and writes. What it spends is the machine's price for being woken, and the
difference is ours. CPU is that of the one process that passes on, by the scheduler's clock.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from statistics import median

import trio

from ccapi.actors.keys.registry import LOCAL
from ccapi.schemas.turn import Setup
from ccapi.transport.store.interface import NewConversation, Store
from ccapi.transport.store.postgres.store import open_postgres_store

DELTAS = 200
PAUSE_SECONDS = 0.01
LEASE_SECONDS = 30.0

RELAY = """
import os, sys, trio

async def copy(source, target):
    file = source.socket.fileno()
    while True:
        await trio.lowlevel.wait_readable(file)
        data = os.read(file, 65536)
        if not data:
            break
        await target.send_all(data)

async def relay(client):
    try:
        async with await trio.open_tcp_stream("127.0.0.1", int(sys.argv[2])) as owner, client:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(copy, client, owner)
                await copy(owner, client)
                nursery.cancel_scope.cancel()
    except* Exception:
        pass

trio.run(trio.serve_tcp, relay, int(sys.argv[1]))
"""

HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)


def _chunk() -> bytes:
    choice = {"index": 0, "delta": {"content": "a word "}, "logprobs": None, "finish_reason": None}
    event = {
        "id": "chatcmpl-0123456789abcdef0123456789abcdef",
        "object": "chat.completion.chunk",
        "created": 1_800_000_000,
        "model": "claude-haiku-4-5",
        "choices": [choice],
    }
    data = b"data: " + json.dumps(event).encode() + b"\n\n"
    return b"%x\r\n%b\r\n" % (len(data), data)


async def _own(stream: trio.SocketStream) -> None:
    """Answer request after request, each with so many deltas."""
    chunk, data = _chunk(), b""
    async with stream:
        while True:
            while b"\r\n\r\n" not in data:
                more = await stream.receive_some()
                if not more:
                    return
                data += more
            head, _, data = data.partition(b"\r\n\r\n")
            length = 0
            for line in head.lower().split(b"\r\n"):
                if line.startswith(b"content-length:"):
                    length = int(line.partition(b":")[2])
            while len(data) < length:
                data += await stream.receive_some()
            data = data[length:]
            if not head.startswith(b"POST"):  # another node looks who is there
                await stream.send_all(b"HTTP/1.1 404 No\r\ncontent-length: 0\r\n\r\n")
                continue
            await stream.send_all(HEAD)
            due = trio.current_time()
            for _ in range(DELTAS):
                due += PAUSE_SECONDS
                await trio.sleep_until(due)
                await stream.send_all(chunk)
            await stream.send_all(b"0\r\n\r\n")


@asynccontextmanager
async def open_owner(url: str, names: list[str]) -> AsyncIterator[int]:
    """A node at a port that has these conversations while the block runs."""
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]

    async def beat(store: Store) -> None:
        while True:
            await store.beat()
            await trio.sleep(LEASE_SECONDS / 4)

    async with (
        open_postgres_store(
            url, node_url=f"http://127.0.0.1:{port}", lease_seconds=LEASE_SECONDS
        ) as store,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(beat, store)
        for name in names:
            await store.acquire(name, LOCAL, NewConversation(setup=Setup("haiku")))
        nursery.start_soon(trio.serve_listeners, _own, [listener])
        yield port
        nursery.cancel_scope.cancel()


async def _ask(port: int, name: str) -> None:
    """One turn, read to its end."""
    message = {"role": "user", "content": "Go on"}
    body = json.dumps(
        {"model": "haiku", "stream": True, "messages": [message], "conversation_id": name}
    ).encode()
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n"
        "cache-control: no-store\r\n\r\n"
    )
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(head.encode() + body)
        tail = b""
        while not tail.endswith(b"0\r\n\r\n"):
            data = bytes(await stream.receive_some(65536))
            assert data, "it broke off"
            tail = (tail + data)[-16:]


async def _wait_listening(port: int) -> None:
    with trio.fail_after(30):
        while True:
            await trio.sleep(0.1)
            with suppress(OSError):
                async with await trio.open_tcp_stream("127.0.0.1", port):
                    return


async def _spent(pid: int, port: int, names: list[str], cpu: Callable[[int], float]) -> float:
    """µs of CPU for each delta, when all conversations stream at once through this port."""
    before = cpu(pid)
    async with trio.open_nursery() as nursery:
        for number, name in enumerate(names):
            nursery.start_soon(_ask, port, name)
            await trio.sleep(PAUSE_SECONDS / len(names) * (1 + number % 3))
    return (cpu(pid) - before) / (DELTAS * len(names)) * 1e6


async def passing(
    url: str,
    node: tuple[int, int],
    free_port: int,
    row: Callable[[str, str, str, bool], None],
    cpu: Callable[[int], float],
) -> None:
    """`node`: the process that passes on, and its port."""
    pid, port = node
    for streams in (20, 50):
        names = [f"conv_{streams}_{number}" for number in range(streams)]
        async with open_owner(url, names) as owner:
            await trio.sleep(2)  # more than a beat: they know each other
            relay = await trio.to_thread.run_sync(
                lambda to: subprocess.Popen([sys.executable, "-c", RELAY, str(free_port), str(to)]),
                owner,
            )
            try:
                await _wait_listening(free_port)
                ours, bare = [], []
                await _spent(pid, port, names, cpu)
                for _ in range(3):
                    ours.append(await _spent(pid, port, names, cpu))
                    bare.append(await _spent(relay.pid, free_port, names, cpu))
            finally:
                relay.kill()
                await trio.to_thread.run_sync(relay.wait)
        took, least = median(ours), median(bare)
        rate = streams / PAUSE_SECONDS
        row(
            f"(p) CPU for a delta at {rate:.0f} a second in {streams} streams: the passing node, "
            "its request included; a bare relay on trio",
            f"{took:.1f} µs; {least:.1f} µs", "<= 50 µs", took <= 50,
        )  # fmt: skip
