"""The demo CLI as a real process, spoken to in frames and read in bytes.

Knows how to start it with switches in an environment made of nothing, and how to end it with all
that it left behind. Stdout is read only when a test asks for a line, so that a test can be the
slow reader; stderr is always drained. Refuses to know what the child should say.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, TypeAlias
from uuid import uuid4

import trio

Frame: TypeAlias = dict[str, Any]

PATIENCE = 30.0  # seconds until a missing line or exit fails the test
MODULE = "ccapi.transport.demo_cli"
CLI_FLAGS = (
    *("-p", "--input-format", "stream-json", "--output-format", "stream-json", "--verbose"),
    *("--include-partial-messages", "--tools", "", "--strict-mcp-config"),
    *("--setting-sources", "", "--disable-slash-commands", "--agent", "gw"),
)
FLAGS = (*CLI_FLAGS, "--some-future-flag", "x")


def user(content: Any, uuid: str | None = None, **fields: Any) -> Frame:
    """A user frame; without `uuid` it has none, and the child prints no lifecycle for it."""
    frame = {"type": "user", "message": {"role": "user", "content": content}, **fields}
    return frame if uuid is None else {**frame, "uuid": uuid}


def control(subtype: str, request_id: str = "r", **fields: Any) -> Frame:
    """A control request."""
    request = {"subtype": subtype, **fields}
    return {"type": "control_request", "request_id": request_id, "request": request}


def kind(frame: Frame) -> str:
    """What tells a frame apart: "init", "queued", "message_start", "assistant", "success"."""
    if frame["type"] == "stream_event":
        return str(frame["event"]["type"])
    return str(frame.get("state") or frame.get("subtype") or frame["type"])


def is_result(frame: Frame) -> bool:
    return bool(frame["type"] == "result")


def is_delta(frame: Frame) -> bool:
    return kind(frame) == "content_block_delta"


def is_answer(frame: Frame) -> bool:
    return bool(frame["type"] == "control_response")


def text_of(frames: list[Frame]) -> str:
    """The text that the deltas among the frames carry."""
    return "".join(f["event"]["delta"].get("text", "") for f in filter(is_delta, frames))


class DemoCli:
    """One running child. What is printed is consumed in order; `printed` keeps every byte read."""

    def __init__(self, process: trio.Process) -> None:
        self.process = process
        self.printed = bytearray()
        self.stderr = bytearray()
        self._stderr_ended = trio.Event()
        self._taken = 0

    async def send_bytes(self, data: bytes) -> None:
        assert self.process.stdin is not None
        await self.process.stdin.send_all(data)

    async def send(self, *frames: Frame) -> None:
        """Write the frames in one piece."""
        await self.send_bytes(b"".join(json.dumps(frame).encode() + b"\n" for frame in frames))

    async def close_stdin(self) -> None:
        assert self.process.stdin is not None
        await self.process.stdin.aclose()

    async def line(self) -> bytes:
        """The next line without its newline; b"" at the end (no line of the protocol is empty)."""
        assert self.process.stdout is not None
        with trio.fail_after(PATIENCE):
            while (end := self.printed.find(b"\n", self._taken)) < 0:
                chunk = await self.process.stdout.receive_some(1 << 20)
                if not chunk:
                    end = len(self.printed)
                    break
                self.printed += chunk
        line = bytes(self.printed[self._taken : end])
        self._taken = min(end + 1, len(self.printed))
        return line

    async def until(self, wanted: Callable[[Frame], bool]) -> list[Frame]:
        """The frames up to the first that is wanted."""
        frames: list[Frame] = []
        while not frames or not wanted(frames[-1]):
            line = await self.line()
            assert line, f"stdout ended after {frames[-3:]}; stderr: {self.stderr.decode()}"
            frames.append(json.loads(line))
        return frames

    async def rest(self) -> list[Frame]:
        """The frames up to the end of stdout."""
        frames: list[Frame] = []
        while line := await self.line():
            frames.append(json.loads(line))
        return frames

    async def silent(self, seconds: float = 0.15) -> bool:
        """Whether nothing comes for a while, nor the end; a slow machine can only make it true."""
        with trio.move_on_after(seconds):
            await self.line()
            return False
        return True

    async def turn(self, content: Any, uuid: str | None = None, **fields: Any) -> list[Frame]:
        """Send a user frame; the frames up to its result."""
        await self.send(user(content, uuid, **fields))
        return await self.until(is_result)

    async def ask(self, subtype: str, **fields: Any) -> Frame:
        """Send a control request; the `response` object of its answer."""
        await self.send(control(subtype, **fields))
        return dict((await self.until(is_answer))[-1]["response"])

    async def report(self) -> Frame:
        """What the child was given (switch `report`)."""
        frames = await self.turn('!script {"report": true}')
        return dict(json.loads(frames[-1]["result"]))

    async def wait(self) -> int:
        """The exit status; negative for a signal."""
        with trio.fail_after(PATIENCE):
            return await self.process.wait()

    async def complaint(self) -> str:
        """All of stderr, once it has ended."""
        with trio.fail_after(PATIENCE):
            await self._stderr_ended.wait()
        return self.stderr.decode()

    async def drain_stderr(self) -> None:
        assert self.process.stderr is not None
        async for data in self.process.stderr:
            self.stderr += data
        self._stderr_ended.set()


@asynccontextmanager
async def open_demo_cli(
    home: Path,
    *flags: str,
    switches: Mapping[str, Any] | None = {},
    environment: Mapping[str, str] = {},
    base: Sequence[str] = FLAGS,
) -> AsyncIterator[DemoCli]:
    """Run the child in its own process group, home and working directory under `home`.

    `base`: the flags of a plain model's child, unless given. `switches` None: the variable is not
    set, as in the demo. Tokens come without pauses unless the
    switches say otherwise.
    """
    whole = {"PATH": os.environ["PATH"], "HOME": str(home), **environment}
    if switches is not None:
        whole["DEMO_CLI_SWITCHES"] = json.dumps({"pace_ms": 0, **switches})
    process = await trio.lowlevel.open_process(
        [sys.executable, "-m", MODULE, *base, *flags],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=home,
        env=whole,
        start_new_session=True,
    )
    child = DemoCli(process)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(child.drain_stderr)
            yield child
            nursery.cancel_scope.cancel()
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        with trio.move_on_after(5, shield=True):
            await process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            assert stream is not None
            with trio.move_on_after(1, shield=True):
                await stream.aclose()


def new_uuids(count: int) -> list[str]:
    return [str(uuid4()) for _ in range(count)]
