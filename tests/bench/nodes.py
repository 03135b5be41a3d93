"""What passing on costs, and what a second worker brings: ``python -m tests.bench nodes``.

Real processes on a PostgreSQL of their own, with the demo CLI. The pairs of one row are measured in
turn within one run. CPU is that of gateway processes alone, by the scheduler's clock: of all
threads, without children. Letters choose rows:

- ``f``: what a streamed chat completion takes longer that another node passes on, and what each of
  the two nodes spends more for each delta than where the owner is asked itself. Its deltas come at
  full speed; 2 ms apart, where each wakes two machines that sleep; and on twenty streams 15 ms
  apart each, where some come together.
- ``p``: what a node spends for a delta that it passes on at 2,000 and 5,000 of them a second,
  beside a bare relay (`tests.bench.passing`).
- ``w``: what two workers serve, beside one. The clients and the children need processors too, and
  on a machine with as many as there are workers they have the same ones. So there are two ratios:
  of the work done in a second, and of the capacity: the work for each second of CPU of the worker
  that had most to do.
- ``o``: what an event costs its owner, and the node that passes it on, where twenty clients watch
  through that.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter

import httpx
import trio
from attrs import frozen

from tests.bench.parts import DELTAS, Client, conversation_of
from tests.bench.passing import passing
from tests.support.postgres import Engine, engine

SECRET = "what-all-nodes-share"

PATIENCE = 60.0


# -- gateways --------------------------------------------------------------------------------------


@frozen
class Gateway:
    """One process that serves, at the port of its command."""

    port: int
    pid: int

    async def connect(self) -> Client:
        return Client(await trio.open_tcp_stream("127.0.0.1", self.port))


def cpu_seconds(pid: int) -> float:
    """User and system time of all threads that the process has now."""
    tasks = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(each.read_text().split()[0]) for each in tasks) / 1e9


def _environ(folder: Path) -> dict[str, str]:
    root = Path(__file__).parents[2]
    return {
        "PATH": "/usr/bin:/bin",
        "HOME": str(folder),
        "PYTHONPATH": os.pathsep.join([str(root), *filter(None, sys.path)]),
        "CLAUDE_CODE__CLUSTER__SECRET": SECRET,
        "CLAUDE_CODE__CLUSTER__LEASE_SECONDS": "4",
        "CLAUDE_CODE__CLAUDE__ENV": json.dumps({"DEMO_CLI_SWITCHES": "{}"}),
        "CLAUDE_CODE__CLAUDE__PREWARM": "0",
        "CLAUDE_CODE__CLAUDE__PREWARM_AGENTS": "0",
        "CLAUDE_CODE__CLAUDE__MAX_CONCURRENT_SESSIONS": "40",
        "CLAUDE_CODE__LOG__LEVEL": "warning",
    }


@asynccontextmanager
async def _serving(folder: Path, url: str, *options: str) -> AsyncIterator[Gateway]:
    """One command, once it takes turns."""
    port = await _free_port()
    arguments = [
        *(sys.executable, "-m", "ccapi.actors.commands.main", "serve", "--demo"),
        *("--port", str(port), "--storage-url", url, "--storage-path", str(folder / "state")),
        *(each.format(port=port) for each in options),
    ]
    process = await trio.to_thread.run_sync(_start, arguments, folder)
    try:
        await _wait_ready(port)
        yield Gateway(port, process.pid)
    finally:
        process.terminate()
        await trio.to_thread.run_sync(process.wait)


def _start(arguments: Sequence[str], folder: Path) -> subprocess.Popen[bytes]:
    folder.mkdir(exist_ok=True)
    with (folder / "log.txt").open("ab") as log:
        return subprocess.Popen(arguments, env=_environ(folder), stdout=log, stderr=log)


def _children(pid: int) -> list[int]:
    return [*map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]


async def _free_port() -> int:
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port: int = listener.socket.getsockname()[1]
    await listener.aclose()
    return port


async def _wait_ready(port: int) -> None:
    with trio.fail_after(PATIENCE):
        while True:
            try:
                async with httpx.AsyncClient(timeout=5) as client:
                    ready = await client.get(f"http://127.0.0.1:{port}/ready")
                if ready.status_code == 200:
                    return
            except httpx.TransportError:
                pass
            await trio.sleep(0.1)


@asynccontextmanager
async def open_nodes(folder: Path, url: str) -> AsyncIterator[tuple[Gateway, Gateway]]:
    """Two nodes that know each other."""
    option = ("--cluster-node-url", "http://127.0.0.1:{port}")
    async with (
        _serving(folder / "one", url, *option) as one,
        _serving(folder / "other", url, *option) as other,
    ):
        await trio.sleep(2)  # more than one beat
        yield one, other


@asynccontextmanager
async def open_workers(
    folder: Path, url: str, count: int
) -> AsyncIterator[tuple[Gateway, Sequence[int]]]:
    """One command, and the processes of it that serve."""
    option = ("--workers", str(count)) if count > 1 else ()
    async with _serving(folder / f"workers-{count}", url, *option) as gateway:
        if count == 1:
            yield gateway, [gateway.pid]
            return
        with trio.fail_after(PATIENCE):
            while len(_children(gateway.pid)) < count:
                await trio.sleep(0.1)
        await trio.sleep(2)
        yield gateway, _children(gateway.pid)


# -- requests --------------------------------------------------------------------------------------


_numbers = itertools.count()


def say(deltas: int, pace_ms: float = 0.0, conversation: str | None = None) -> dict[str, object]:
    """Each is another question: none is answered by the child of an earlier one."""
    script = json.dumps({"deltas": deltas, "pace_ms": pace_ms})
    return {
        "model": "haiku",
        "stream": True,
        "messages": [{"role": "user", "content": f"!script {script} {next(_numbers)}"}],
        **({} if conversation is None else {"conversation_id": conversation}),
    }


NO_CACHE = "cache-control: no-store"


async def first_delta(client: Client, asked: dict[str, object]) -> float:
    began = perf_counter()
    return (await client.post(asked, NO_CACHE)).first_delta - began


async def drain(client: Client, asked: dict[str, object]) -> int:
    """Ask, and count the deltas that come, without keeping what was read."""
    body = json.dumps(asked).encode()
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n{NO_CACHE}\r\n\r\n"
    )
    await client.stream.send_all(head.encode() + body)
    count, tail = 0, b""
    while not tail.endswith(b"0\r\n\r\n"):
        data = tail + await client.stream.receive_some(1 << 18)
        assert len(data) > len(tail), data
        count += data.count(DELTAS[0])
        tail = data[-len(DELTAS[0]) + 1 :]
    return count


# -- f: a stream that is passed on -----------------------------------------------------------------


async def passed_on(one: Gateway, other: Gateway) -> None:
    straight, through = await one.connect(), await other.connect()
    first = await straight.post(say(1), NO_CACHE)
    name = conversation_of(first)
    took: tuple[list[float], list[float]] = [], []
    for number in range(210):
        for way in (0, 1) if number % 2 else (1, 0):
            seconds = await first_delta((straight, through)[way], say(1, 0, name))
            if number >= 10:
                took[way].append(seconds)
    plain, passed = (median(each) * 1000 for each in took)
    added = passed - plain
    figure = f"{passed:.2f} - {plain:.2f} = {added:.2f} ms"
    row(
        "(f) first delta through another node, minus the owner's own", figure, "<= 1 ms", added <= 1
    )
    await _cpu_of_passing(one, other, "full speed", 4000, 0, 1, bound=True)
    await _cpu_of_passing(one, other, "20 streams, 15 ms apart each", 150, 15, 20, bound=True)
    await _cpu_of_passing(one, other, "2 ms apart", 800, 2, 1, bound=False)


async def _cpu_of_passing(
    one: Gateway, other: Gateway, pace: str, deltas: int, pause: float, streams: int, *, bound: bool
) -> None:
    """What each node spends for a delta that is passed on, beyond what it does where the owner is
    asked. (The other node has nothing to do then but to live.)"""
    names = []
    for _ in range(streams):
        names.append(conversation_of(await (await one.connect()).post(say(1), NO_CACHE)))
    clients = {each.pid: [await each.connect() for _ in names] for each in (one, other)}

    async def stream(asked: Gateway) -> tuple[float, float]:
        """CPU seconds of each, for all streams at once through one of them."""
        before = [cpu_seconds(each.pid) for each in (one, other)]
        counts: list[int] = []

        async def follow(client: Client, name: str) -> None:
            counts.append(await drain(client, say(deltas, pause, name)))

        async with trio.open_nursery() as nursery:
            for client, name in zip(clients[asked.pid], names, strict=True):
                nursery.start_soon(follow, client, name)
        # (One that ends in the next chunk is not counted.)
        assert sum(counts) >= 0.99 * deltas * streams, counts
        await trio.sleep(0.1)
        spent = [cpu_seconds(each.pid) for each in (one, other)]
        return spent[0] - before[0], spent[1] - before[1]

    straight: list[tuple[float, float]] = []
    through: list[tuple[float, float]] = []
    await stream(one)
    await stream(other)
    for number in range(6):
        for asked in (one, other) if number % 2 else (other, one):
            (straight if asked is one else through).append(await stream(asked))
    each = deltas * streams / 1e6

    def spent(rounds: list[tuple[float, float]], node: int) -> float:
        return median(seconds[node] for seconds in rounds) / each

    own, owner = spent(straight, 0), spent(through, 0)
    idle, passing = spent(straight, 1), spent(through, 1)
    name = f"(f) CPU for a delta, {pace}: "
    figure = f"{passing:.1f} - {idle:.1f} = {passing - idle:.1f} µs"
    limit = "<= 50 µs" if bound else "-"
    row(name + "the node that passes it on", figure, limit, not bound or passing - idle <= 50)
    figure = f"{owner:.1f} - {own:.1f} = {owner - own:.1f} µs"
    row(name + "its owner, beyond its own work", figure, limit, not bound or owner - own <= 50)


# -- w: workers ------------------------------------------------------------------------------------


@frozen
class Work:
    """What was done, in how many seconds, by how much CPU of each process."""

    done: int
    seconds: float
    cpu: Sequence[float]

    @property
    def rate(self) -> float:
        return self.done / self.seconds

    @property
    def capacity(self) -> float:
        """Work for each CPU second of the process that had most to do."""
        return self.done / max(self.cpu)

    @property
    def even_capacity(self) -> float:
        """The same, had all had as much to do: the kernel deals connections out by chance."""
        return self.done / (sum(self.cpu) / len(self.cpu))


async def measured(pids: Sequence[int], work: Callable[[], Awaitable[int]]) -> Work:
    before, began = [cpu_seconds(pid) for pid in pids], perf_counter()
    done = await work()
    seconds = perf_counter() - began
    return Work(done, seconds, [cpu_seconds(pid) - b for pid, b in zip(pids, before, strict=True)])


CLIENTS = 32
CONVERSATIONS = 24


async def cache_hits(talk: Talk) -> Work:
    """The same question from many connections, which the kernel spreads."""
    clients = [await talk.gateway.connect() for _ in range(CLIENTS)]
    asked = {**say(5), "stream": False}

    async def ask(client: Client, count: int) -> None:
        for _ in range(count):
            answered = await client.post(asked)
            assert b" 200 " in answered.head[:20], answered

    async def all_ask(count: int) -> int:
        async with trio.open_nursery() as nursery:
            for client in clients:
                nursery.start_soon(ask, client, count)
        return count * CLIENTS

    await all_ask(2)
    return await measured(talk.pids, partial(all_ask, 60))


@frozen
class Talk:
    """Conversations that have a child, each with the connection on which it began."""

    gateway: Gateway
    pids: Sequence[int]
    clients: Sequence[Client]
    names: Sequence[str]


async def begin(gateway: Gateway, pids: Sequence[int]) -> Talk:
    clients = [await gateway.connect() for _ in range(CONVERSATIONS)]
    names = [conversation_of(await each.post(say(5), NO_CACHE)) for each in clients]
    return Talk(gateway, pids, clients, names)


async def warm_turns(talk: Talk, *, again: bool) -> Work:
    """Turns of conversations that have a child. `again`: each on a new connection, so that half of
    them reach the worker that has not got the conversation."""
    warm = 0

    async def ask(client: Client, name: str, count: int) -> None:
        nonlocal warm
        for _ in range(count):
            if again:
                await client.stream.aclose()
                client.stream = await trio.open_tcp_stream("127.0.0.1", talk.gateway.port)
            answered = await client.post(say(5, 0, name), NO_CACHE)
            assert b" 200 " in answered.head[:20], answered
            warm += b"x-ccapi-child: warm" in answered.head.lower()

    async def all_ask(count: int) -> int:
        async with trio.open_nursery() as nursery:
            for client, name in zip(talk.clients, talk.names, strict=True):
                nursery.start_soon(ask, client, name, count)
        return count * len(talk.clients)

    await all_ask(2)
    warm = 0
    work = await measured(talk.pids, partial(all_ask, 20))
    assert warm > 0.95 * work.done, f"{warm} of {work.done}"
    return work


@asynccontextmanager
async def watching(
    gateway: Gateway, names: Sequence[str], each: int
) -> AsyncIterator[Callable[[], Awaitable[tuple[int, float]]]]:
    """So many clients of each conversation, in a process of their own. Call what is yielded when
    all has been said: how many deltas came to them, and in how many seconds."""
    paths = ",".join(f"/v1/conversations/{name}/events" for name in names)
    program = [sys.executable, "-m", "tests.bench.watchers"]
    arguments = [*program, str(gateway.port), paths, str(each), "1"]
    async with trio.open_nursery() as nursery:
        process = await nursery.start(
            partial(
                trio.run_process, arguments, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                env={"PATH": "/usr/bin:/bin", "PYTHONPATH": os.pathsep.join(["", *sys.path])},
            )
        )  # fmt: skip

        async def line() -> bytes:
            data = b""
            while not data.endswith(b"\n"):
                more = await process.stdout.receive_some()
                assert more, "the watchers ended"
                data += more
            return data

        async def result() -> tuple[int, float]:
            count, seconds = (await line()).split()
            return int(count), float(seconds)

        assert await line() == b"joined\n"
        yield result


async def watched(talk: Talk) -> Work:
    """Deltas that reach the clients that have joined, six for each conversation. (They come as the
    children say them: all the same, by the clock.)"""
    async with watching(talk.gateway, talk.names, 6) as result:
        before = [cpu_seconds(pid) for pid in talk.pids]
        async with trio.open_nursery() as nursery:
            for client, name in zip(talk.clients, talk.names, strict=True):
                nursery.start_soon(drain, client, say(200, 20, name))
        cpu = [cpu_seconds(pid) - b for pid, b in zip(talk.pids, before, strict=True)]
        count, seconds = await result()
    assert count >= 6 * 200 * len(talk.names), count
    return Work(count, seconds, cpu)


async def workers(folder: Path, started: Engine) -> None:
    works: dict[str, Callable[[Talk], Awaitable[Work]]] = {
        "answers from the cache": cache_hits,
        "turns of warm conversations, on kept connections": partial(warm_turns, again=False),
        "turns of warm conversations, on new connections": partial(warm_turns, again=True),
        "deltas that reach watchers": watched,
    }
    found: dict[tuple[str, int], list[Work]] = {}
    for number in range(ROUNDS):
        for count in (1, 2) if number % 2 else (2, 1):
            url = started.new_place()
            async with open_workers(folder, url, count) as (gateway, pids):
                talk = await begin(gateway, pids)
                for name, work in works.items():
                    found.setdefault((name, count), []).append(await work(talk))

    def ratio(name: str, what: Callable[[Work], float]) -> tuple[float, float, float]:
        one, two = (median(map(what, found[name, count])) for count in (1, 2))
        return one, two, two / one

    for name in works:
        one, two, more = ratio(name, lambda work: work.rate)
        figure = f"{two:,.0f} / {one:,.0f} a second = {more:.2f}"
        row(f"(w) {name}: two workers / one, by the clock", figure, "-", True)
        _, _, even = ratio(name, lambda work: work.even_capacity)
        one, two, more = ratio(name, lambda work: work.capacity)
        figure = f"{two:,.0f} / {one:,.0f} a CPU second = {more:.2f} (evenly: {even:.2f})"
        row(f"(w) {name}: capacity of two / one", figure, ">= 1.6", more >= 1.6)


ROUNDS = 3


# -- o: watchers at another node -------------------------------------------------------------------


async def watched_elsewhere(one: Gateway, other: Gateway) -> None:
    """Twenty clients at the other node, one conversation, 400 deltas 5 ms apart."""
    client = await one.connect()
    figures: dict[int, list[tuple[float, float]]] = {0: [], 20: []}
    deltas = 400
    for _ in range(3):
        for sockets in figures:
            name = conversation_of(await client.post(say(5), NO_CACHE))
            async with watching(other, [name], sockets) as result:
                before = [cpu_seconds(each.pid) for each in (one, other)]
                await drain(client, say(deltas, 5, name))
                spent = [cpu_seconds(each.pid) for each in (one, other)]
                count, _ = await result()
            assert count >= sockets * deltas, count
            figures[sockets].append((spent[0] - before[0], spent[1] - before[1]))
    for node, who in enumerate(("its owner", "the node that they joined at")):
        alone, many = (
            median(each[node] for each in figures[sockets]) / deltas * 1e6 for sockets in (0, 20)
        )
        figure = f"{many:.0f} - {alone:.0f} = {many - alone:.0f} µs"
        row(f"(o) CPU for a delta that 20 watch through another node: {who}", figure, "-", True)


# -- the table -------------------------------------------------------------------------------------


def row(name: str, figure: str, bound: str, holds: bool) -> None:
    told = "" if bound == "-" else "yes" if holds else "NO"
    print(f"| {name} | {figure} | {bound} | {told} |", flush=True)


async def main(chosen: str = "") -> None:
    print("| what | measured | bound | holds |\n|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as name, engine(fsync=True) as started:
        folder = Path(name)
        if not chosen or set("fo") & set(chosen):
            async with open_nodes(folder, started.new_place()) as (one, other):
                if not chosen or "f" in chosen:
                    await passed_on(one, other)
                if not chosen or "o" in chosen:
                    await watched_elsewhere(one, other)
        if not chosen or "p" in chosen:
            place = started.new_place()
            option = ("--cluster-node-url", "http://127.0.0.1:{port}")
            async with _serving(folder / "passing", place, *option) as node:
                free = await _free_port()
                await passing(place, (node.pid, node.port), free, row, cpu_seconds)
        if not chosen or "w" in chosen:
            await workers(folder, started)
