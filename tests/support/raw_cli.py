"""The real Claude Code CLI on a leash: spawn it, speak frames to it, read what it says.

Knows how to find the binary, build an environment out of nothing and reap a process group. Refuses
to know the gateway: no transport or actor code is used here, so that a contract test which fails
names a fact of the CLI and never an error of the gateway.
"""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import json
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeAlias
from uuid import uuid4

import trio

Frame: TypeAlias = dict[str, Any]
Predicate: TypeAlias = Callable[[Frame], bool]

PATIENCE = 30.0
"""Seconds to wait for a frame or an exit; ample, so that only a missing one reaches it."""

GENERIC_FLAGS = (
    *("-p", "--input-format", "stream-json", "--output-format", "stream-json", "--verbose"),
    *("--include-partial-messages", "--tools", "", "--strict-mcp-config"),
    *("--setting-sources", "", "--disable-slash-commands"),
    *("--agent", "gw", "--allowedTools", "mcp__x"),
)
"""The flags of a generic child, which its first initialize turns into any conversation."""


CHILD_ENVIRONMENT = {
    "CLAUDE_CODE_SIMPLE": "1",
    "CLAUDE_CODE_DISABLE_ATTACHMENTS": "1",
    "CLAUDE_CODE_DISABLE_NONSTREAMING_FALLBACK": "1",
    "CLAUDE_CODE_MAX_RETRIES": "0",
    "CLAUDE_CODE_EAGER_FLUSH": "1",
}
"""What makes the CLI a plain model: nothing injected, nothing read, nothing tried twice."""


def cli_binary() -> str:
    """Return the CLI under test: $CCAPI_TEST_CLI, else the one bundled in claude-agent-sdk."""
    if chosen := os.environ.get("CCAPI_TEST_CLI"):
        return chosen
    spec = importlib.util.find_spec("claude_agent_sdk")
    if spec is None or spec.origin is None:
        raise RuntimeError("claude-agent-sdk is not installed: pip install '.[test]'")
    return str(Path(spec.origin).parent / "_bundled" / "claude")


def cli_environment(tmp_path: Path, url: str) -> dict[str, str]:
    """Return the whole environment of a CLI that must meet nothing of this machine.

    Home, configuration and temporary files lie under `tmp_path`, the key is a dummy, the API is the
    stub at `url`. What a gateway sets for its children is not in here; see `CHILD_ENVIRONMENT`.
    """
    folders = {name: tmp_path / name for name in ("home", "config", "tmp")}
    for folder in folders.values():
        folder.mkdir(exist_ok=True)
    return {
        "PATH": "/usr/bin:/bin",
        "HOME": str(folders["home"]),
        "TMPDIR": str(folders["tmp"]),
        "CLAUDE_CONFIG_DIR": str(folders["config"]),
        "CLAUDE_CODE_TMPDIR": str(folders["tmp"]),
        "ANTHROPIC_BASE_URL": url,
        "ANTHROPIC_API_KEY": "sk-ant-dummy",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "DISABLE_TELEMETRY": "1",
        "DISABLE_AUTOUPDATER": "1",
    }


def user_frame(content: Any, *, uuid: str | None = None, **fields: Any) -> Frame:
    """Return a user frame; `content` is a string or a list of blocks."""
    return {
        "type": "user",
        "uuid": uuid or str(uuid4()),
        "message": {"role": "user", "content": content},
        "parent_tool_use_id": None,
        **fields,
    }


def assistant_frame(content: Any, *, id: str | None = None) -> Frame:
    """Return an assistant frame for replay; `id` None leaves the message without one."""
    message: Frame = {
        "type": "message",
        "role": "assistant",
        "model": "claude-sonnet-4-5",
        "content": content,
        "stop_reason": "end_turn",
        "usage": {"input_tokens": 1, "output_tokens": 1},
    }
    if id is not None:
        message["id"] = id
    return {
        "type": "assistant",
        "uuid": str(uuid4()),
        "message": message,
        "parent_tool_use_id": None,
    }


def is_result(frame: Frame) -> bool:
    """Whether the frame ends a turn."""
    return bool(frame["type"] == "result")


def is_text_delta(frame: Frame) -> bool:
    """Whether the frame carries a piece of the answer's text."""
    return kind(frame) == "stream_event/content_block_delta" and "text" in frame["event"]["delta"]


def text_of(frames: Iterable[Frame]) -> str:
    """Return the text that the deltas among the frames carry."""
    return "".join(f["event"]["delta"]["text"] for f in frames if is_text_delta(f))


def kind(frame: Frame) -> str:
    """Return the frame's type with what tells it apart: "system/init", "result/success"."""
    match frame:
        case {"type": "stream_event", "event": {"type": detail}}:
            return f"stream_event/{detail}"
        case {"type": "command_lifecycle", "state": detail}:
            return f"command_lifecycle/{detail}"
        case {"type": "system" | "result", "subtype": detail}:
            return f"{frame['type']}/{detail}"
    return str(frame["type"])


def kinds(frames: Iterable[Frame]) -> list[str]:
    """Return the kinds of the frames that belong to a turn, runs of one kind as one.

    What the CLI tells beside its turns (lifecycle of commands, titles, status) is left out: it may
    come at any time.
    """
    essential = (
        name
        for name in map(kind, frames)
        if not name.startswith("command_lifecycle")
        and (not name.startswith("system/") or name in ("system/init", "system/api_retry"))
    )
    return [name for name, _ in itertools.groupby(essential)]


class RawCli:
    """One running CLI. Frames are consumed in order; `transcript` keeps them all."""

    def __init__(self, process: trio.Process) -> None:
        self._process = process
        self._ids = itertools.count(1)
        self._read = 0
        self._eof = False
        self._news = trio.Event()
        self.transcript: list[Frame] = []
        self.lines: list[int] = []
        self.stderr = bytearray()
        self._stderr_ended = trio.Event()

    @property
    def pid(self) -> int:
        """The process id, which is also the process group's."""
        return self._process.pid

    async def send_bytes(self, data: bytes) -> None:
        """Write bytes as they are."""
        assert self._process.stdin is not None
        await self._process.stdin.send_all(data)

    async def send(self, *frames: Frame) -> None:
        """Write frames in one piece, one line each."""
        await self.send_bytes(b"".join(json.dumps(f).encode() + b"\n" for f in frames))

    async def close_stdin(self) -> None:
        """Say that nothing more will come."""
        assert self._process.stdin is not None
        await self._process.stdin.aclose()

    def signal(self, number: signal.Signals) -> None:
        """Signal the whole process group."""
        os.killpg(self.pid, number)

    async def wait(self) -> int:
        """Wait for the exit and the end of stderr; return the code (negative: that signal)."""
        with self._patience("the exit"):
            code = await self._process.wait()
            await self._stderr_ended.wait()
        return code

    async def until(self, wanted: Predicate, what: str = "the frame") -> list[Frame]:
        """Return the frames from the last one consumed up to the first that is wanted."""
        seen: list[Frame] = []
        with self._patience(what):
            while not seen or not wanted(seen[-1]):
                seen.append(await self._next())
        return seen

    async def deltas(self, count: int) -> list[Frame]:
        """Return the frames up to the `count`-th text delta from here."""
        seen: list[Frame] = []
        for _ in range(count):
            seen += await self.until(is_text_delta, "a text delta")
        return seen

    async def turn(self, content: Any, **fields: Any) -> list[Frame]:
        """Send a user frame and return the frames up to its result."""
        await self.send(user_frame(content, **fields))
        return await self.until(is_result, "the result")

    def control_frame(self, subtype: str, **fields: Any) -> Frame:
        """Return a control request with an id of its own."""
        request_id = f"r{next(self._ids)}"
        request = {"subtype": subtype, **fields}
        return {"type": "control_request", "request_id": request_id, "request": request}

    async def control(self, subtype: str, **fields: Any) -> Frame:
        """Send a control request and return the `response` object of its answer."""
        frame = self.control_frame(subtype, **fields)
        await self.send(frame)
        seen = await self.until(answers(frame), f"the answer to {subtype}")
        return dict(seen[-1]["response"])

    async def settle(self) -> list[Frame]:
        """Return what came unasked: the frames up to the answer to a question that changes nothing.

        The CLI reads its lines in order, so whatever an earlier line would have caused at once is
        among them.
        """
        frame = self.control_frame("get_session_cost")
        await self.send(frame)
        return (await self.until(answers(frame), "the answer to get_session_cost"))[:-1]

    async def _next(self) -> Frame:
        while self._read == len(self.transcript):
            if self._eof:
                raise AssertionError(f"the CLI closed its output early\n{self._story()}")
            await self._news.wait()
        self._read += 1
        return self.transcript[self._read - 1]

    @contextlib.contextmanager
    def _patience(self, what: str) -> Iterator[None]:
        with trio.move_on_after(PATIENCE) as scope:
            yield
        if scope.cancelled_caught:
            raise AssertionError(f"{what} did not come in {PATIENCE:.0f} s\n{self._story()}")

    def _story(self) -> str:
        frames = "\n".join(json.dumps(f)[:400] for f in self.transcript[-40:])
        return f"stdout:\n{frames}\nstderr:\n{self.stderr.decode(errors='replace')[-4000:]}"

    async def _read_stdout(self) -> None:
        assert self._process.stdout is not None
        pending = bytearray()
        async for data in self._process.stdout:
            pending += data
            if b"\n" not in data:
                continue
            *lines, rest = pending.split(b"\n")
            pending = rest
            self.lines.extend(map(len, lines))
            self.transcript.extend(json.loads(line) for line in lines)
            self._announce()
        self._eof = True
        self._announce()

    def _announce(self) -> None:
        self._news.set()
        self._news = trio.Event()

    async def _read_stderr(self) -> None:
        assert self._process.stderr is not None
        async for data in self._process.stderr:
            self.stderr += data
        self._stderr_ended.set()


def adoption(*, model: str = "claude-sonnet-4-5", system: Any = "You are a test.") -> Frame:
    """Return the fields of an initialize that gives a generic child its conversation."""
    agents = {"gw": {"description": "d", "prompt": "p", "model": model}}
    return {"systemPrompt": system, "agents": agents, "title": "t", "systemPromptSnapshot": False}


def answers(request: Frame) -> Predicate:
    """Return a predicate for the answer to a control request."""
    return lambda frame: (
        frame["type"] == "control_response"
        and frame["response"]["request_id"] == request["request_id"]
    )


@asynccontextmanager
async def open_raw_cli(
    environment: Mapping[str, str], cwd: Path, flags: Sequence[str] = GENERIC_FLAGS
) -> AsyncIterator[RawCli]:
    """Run the CLI in its own session in `cwd`; the whole group is killed and reaped at the end."""
    process = await trio.lowlevel.open_process(
        [cli_binary(), *flags],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=cwd,
        env=dict(environment),
        start_new_session=True,
    )
    cli = RawCli(process)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(cli._read_stdout)
            nursery.start_soon(cli._read_stderr)
            yield cli
            nursery.cancel_scope.cancel()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        with trio.move_on_after(5, shield=True):
            await process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            assert stream is not None
            with trio.move_on_after(1, shield=True):
                await stream.aclose()
