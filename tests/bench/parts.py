"""The parts a measurement is made of: processes, a lean HTTP client, CPU and memory figures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import trio
from attrs import define, frozen

from tests.support.raw_cli import CHILD_ENVIRONMENT, cli_binary, cli_environment

TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


@asynccontextmanager
async def open_program(*argv: str, env: dict[str, str]) -> AsyncIterator[trio.Process]:
    """A program of ours, ended with SIGTERM."""
    async with trio.open_nursery() as nursery:
        process: trio.Process = await nursery.start(
            partial(
                trio.run_process,
                argv,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                check=False,
            )
        )
        yield process
        process.terminate()


async def first_line(process: trio.Process) -> str:
    assert process.stdout is not None
    data = b""
    while not data.endswith(b"\n"):
        more = await process.stdout.receive_some(4096)
        assert more, "the program ended before it said where it listens"
        data += more
    return data.decode().strip()


def cpu_seconds(pid: int) -> float:
    """User and system time of one process, without its children's."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def private_bytes(pid: int) -> int:
    """Memory that is this process's alone."""
    total = 0
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith(("Private_Clean", "Private_Dirty")):
            total += int(line.split()[1]) * 1024
    return total


CHAT, MESSAGES = "/v1/chat/completions", "/v1/messages"
DELTAS = (b'"delta":{"content":', b'"delta":{"type":"text_delta"')
"""How a delta of text looks, by either route."""


@frozen
class Answered:
    """One answer: its parsed body, or the raw events of a stream, and when its text began."""

    head: bytes
    body: bytes
    first_delta: float


@define
class Client:
    """One kept-alive HTTP/1.1 connection, as lean as a client can be, so as to measure the
    gateway and not the client."""

    stream: trio.SocketStream

    async def post(self, payload: dict[str, Any], *headers: str, path: str = CHAT) -> Answered:
        body = json.dumps(payload).encode()
        lines = [
            f"POST {path} HTTP/1.1",
            "host: 127.0.0.1",
            "content-type: application/json",
            f"content-length: {len(body)}",
            *headers,
        ]
        await self.stream.send_all("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        return await self._read()

    async def _read(self) -> Answered:
        data = b""
        first = 0.0
        while True:
            data += await self.stream.receive_some(1 << 16)
            head, found, rest = data.partition(b"\r\n\r\n")
            if not found:
                continue
            if not first and any(delta in rest for delta in DELTAS):
                first = perf_counter()
            if b"transfer-encoding: chunked" in head.lower():
                if rest.endswith(b"0\r\n\r\n"):
                    return Answered(head, rest, first)
            else:
                length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
                if len(rest) >= length:
                    return Answered(head, rest, first or perf_counter())


def conversation_of(answered: Answered) -> str:
    return answered.head.lower().partition(b"x-conversation-id: ")[2].split(b"\r\n")[0].decode()


@frozen
class World:
    """The stub, a gateway in front of the real CLI, and what a raw child needs."""

    port: int
    gateway_pid: int
    cli_env: dict[str, str]
    folder: Path
    startup: float

    async def connect(self) -> Client:
        return Client(await trio.open_tcp_stream("127.0.0.1", self.port))


@asynccontextmanager
async def open_world(**settings: str) -> AsyncIterator[World]:
    """Everything on loopback, in processes of its own, in a temporary folder."""
    plain = {"PATH": os.environ["PATH"], "PYTHONPATH": str(Path.cwd())}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        async with open_program(sys.executable, "-m", "tests.bench.stub", env=plain) as stub:
            cli_env = cli_environment(folder, await first_line(stub))
            env = {
                **plain,
                "CLAUDE_CODE__CLAUDE__COMMAND": cli_binary(),
                "CLAUDE_CODE__CLAUDE__ENV": json.dumps(cli_env),
                "CLAUDE_CODE__STORAGE__PATH": str(folder / "state"),
                "CLAUDE_CODE__SERVER__PORT": str(port := await _free_port()),
                "CLAUDE_CODE__LOG__LEVEL": "warning",
                **settings,
            }
            began = perf_counter()
            command = [sys.executable, "-m", "ccapi.actors.commands.main", "serve"]
            async with open_program(*command, env=env) as gateway:
                await _wait_listening(port)
                startup = perf_counter() - began
                raw_env = cli_env | CHILD_ENVIRONMENT
                yield World(port, gateway.pid, raw_env, folder, startup)


async def _free_port() -> int:
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port: int = listener.socket.getsockname()[1]
    await listener.aclose()
    return port


async def _wait_listening(port: int) -> None:
    with trio.fail_after(30):
        while True:
            try:
                stream = await trio.open_tcp_stream("127.0.0.1", port)
            except OSError:
                await trio.sleep(0.005)
                continue
            await stream.send_all(b"GET /health HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
            answer = await stream.receive_some(4096)
            await stream.aclose()
            if b" 200 " in answer:
                return
