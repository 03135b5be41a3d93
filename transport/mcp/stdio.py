"""A server that is a program: started with a minimal environment, in a process group of its own,
watched by the guardian; its lines in and out; its end.

Knows: bytes, lines, signals, and which line is a message. Refuses to know: what a message means.

The `mcp` package starts programs too, but does not say which process it started, so nothing could
end it after this one was killed.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any

import anyio
import trio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from attrs import define, field
from mcp.shared.message import SessionMessage
from mcp_types import (
    INTERNAL_ERROR,
    ErrorData,
    JSONRPCError,
    jsonrpc_message_adapter,
)

from ...schemas.mcp_config import StdioEntry, covered
from ..loggers import get_logger
from ..process.guardian import Guardian
from .interface import LinkError, LinkOptions
from .lines import LineTooLong, MessageLines, TooLong
from .streams import Streams

log = get_logger("ccapi.mcp")

INHERITED = ("PATH", "HOME", "LANG", "TMPDIR")
"""What a server has of the gateway's environment; the rest its entry says. Never a key."""

READ_BYTES = 65536

EXIT_SECONDS = 2.0
"""What a server has to end by itself once its stdin is closed."""

TERM_SECONDS = 1.0

LOGGED_LINES = 20
LOGGED_CHARACTERS = 500
"""How much of a server's stderr is logged each minute without ``mcp.debug``, and of each line."""

TAIL_LINES = 5

_CLOSED = (
    trio.BrokenResourceError,
    trio.ClosedResourceError,
    anyio.BrokenResourceError,
    anyio.ClosedResourceError,
)


def environment(entry: StdioEntry, environ: Mapping[str, str]) -> dict[str, str]:
    """What the program of `entry` sees."""
    return {name: environ[name] for name in INHERITED if name in environ} | dict(entry.env)


@define
class _Pipes:
    process: trio.Process
    entry: StdioEntry
    options: LinkOptions
    stderr: deque[str] = field(factory=lambda: deque(maxlen=TAIL_LINES))
    stderr_done: trio.Event = field(factory=trio.Event)
    trouble: str = ""
    returncode: int | None = None  # as it was before it was asked to go

    @property
    def stdin(self) -> trio.lowlevel.FdStream:
        return _fd(self.process.stdin)

    @property
    def stdout(self) -> trio.lowlevel.FdStream:
        return _fd(self.process.stdout)

    async def read(self, messages: MemoryObjectSendStream[SessionMessage | Exception]) -> None:
        """Hand on the messages of stdout until it ends."""
        lines = MessageLines(self.options.max_message_bytes)
        is_noisy = False
        async with messages:
            with suppress(*_CLOSED):
                async for data in self.stdout:
                    try:
                        found = lines.feed(bytes(data))
                    except LineTooLong as error:
                        self.trouble = f"the program wrote {error}"
                        return
                    for line in found:
                        message = _message(line)
                        if message is not None:
                            await messages.send(message)
                        elif not is_noisy:
                            is_noisy = True  # once: some programs greet people before they speak
                            log.warning(
                                "an MCP server writes what is no message to its standard output",
                                server=self.entry.name,
                            )

    async def write(self, messages: MemoryObjectReceiveStream[SessionMessage]) -> None:
        """Write messages to stdin; the one task that does."""
        with suppress(*_CLOSED):
            async with messages:
                async for each in messages:
                    text = each.message.model_dump_json(by_alias=True, exclude_unset=True)
                    await self.stdin.send_all(text.encode() + b"\n")

    async def log_stderr(self) -> None:
        """Log what it writes to stderr, as much as is allowed, and keep the end of it."""
        budget, since, rest = LOGGED_LINES, trio.current_time(), b""
        with suppress(*_CLOSED):
            async for data in _fd(self.process.stderr):
                *lines, rest = (rest + bytes(data)).split(b"\n")
                rest = rest[-READ_BYTES:]
                for line in lines:
                    text = covered(line.decode("utf-8", "replace").rstrip(), self.entry.hidden)
                    if not text:
                        continue
                    self.stderr.append(text[:LOGGED_CHARACTERS])
                    if trio.current_time() - since >= 60:
                        budget, since = LOGGED_LINES, trio.current_time()
                    budget -= 1
                    if self.options.debug:
                        log.info("an MCP server says", server=self.entry.name, line=text)
                    elif budget >= 0:
                        cut = text[:LOGGED_CHARACTERS]
                        log.info("an MCP server says", server=self.entry.name, line=cut)
                    elif budget == -1:
                        log.info("an MCP server says more: see mcp.debug", server=self.entry.name)
        self.stderr_done.set()

    def failure(self) -> LinkError | None:
        """Why it is gone; None where it is only gone because it was asked to go."""
        if self.trouble:
            return LinkError(self.trouble)
        if self.returncode is None:
            return None
        return LinkError(_how(self.returncode), cure="run its command by hand to see why")


def _message(line: bytes | TooLong) -> SessionMessage | None:
    """None: it is no message."""
    if isinstance(line, TooLong):
        error = ErrorData(code=INTERNAL_ERROR, message=str(line))
        return SessionMessage(JSONRPCError(jsonrpc="2.0", id=line.request_id, error=error))
    try:
        return SessionMessage(jsonrpc_message_adapter.validate_json(line, by_name=False))
    except ValueError:
        return None


def _fd(pipe: Any) -> trio.lowlevel.FdStream:
    assert isinstance(pipe, trio.lowlevel.FdStream)
    return pipe


@asynccontextmanager
async def open_program(
    entry: StdioEntry, options: LinkOptions, guardian: Guardian
) -> AsyncIterator[Streams]:
    """Run the server's program while the block runs; afterwards nothing of its group is left.

    Raises `LinkError` where it cannot be started.
    """
    try:
        process = await trio.lowlevel.open_process(
            [entry.command, *entry.args],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=entry.cwd,
            env=environment(entry, options.environ),
            start_new_session=True,
        )
    except OSError as error:
        raise _not_started(entry, error) from error
    except ValueError as error:  # its words may quote a value
        raise LinkError("the program cannot be started with such words") from error
    guardian.watch(process.pid)
    pipes = _Pipes(process, entry, options)
    incoming, received = anyio.create_memory_object_stream[SessionMessage | Exception](0)
    outgoing, to_send = anyio.create_memory_object_stream[SessionMessage](0)
    ended = trio.Event()
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pipes.read, incoming)
            nursery.start_soon(pipes.write, to_send)
            nursery.start_soon(pipes.log_stderr)
            nursery.start_soon(_close_at_exit, process, incoming)
            try:
                yield Streams(
                    received, outgoing, ended, pipes.failure, lambda: "\n".join(pipes.stderr)
                )
            finally:
                for stream in (received, outgoing, incoming, to_send):
                    stream.close()
                if ended.is_set():  # it ended by itself, or is about to
                    with trio.move_on_after(0.2, shield=True):
                        await process.wait()
                pipes.returncode = process.returncode
                await _stop(process)
                with trio.move_on_after(0.2, shield=True):  # what it wrote last
                    await pipes.stderr_done.wait()
                nursery.cancel_scope.cancel()
    finally:
        for pipe in (process.stdin, process.stdout, process.stderr):
            _fd(pipe).close()
        guardian.forget(process.pid)


async def _close_at_exit(process: trio.Process, incoming: MemoryObjectSendStream[Any]) -> None:
    await process.wait()
    # What it wrote last is in the pipe; but one that it started may hold the pipe open for ever.
    await trio.sleep(0.5)
    incoming.close()


async def _stop(process: trio.Process) -> None:
    """Closed stdin, then SIGTERM, then SIGKILL, each to the group; the last is certain."""
    _fd(process.stdin).close()
    for seconds, number in ((EXIT_SECONDS, signal.SIGTERM), (TERM_SECONDS, signal.SIGKILL)):
        with trio.move_on_after(seconds, shield=True):
            await process.wait()
            break
        _signal(process.pid, number)
    # What it left in its group goes too. The number cannot be another group's by now: the leader
    # was reaped this moment, or is not reaped yet.
    _signal(process.pid, signal.SIGKILL)
    with trio.move_on_after(5, shield=True):  # the kernel's, unless it hangs there
        await process.wait()


def _signal(group: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def _how(returncode: int) -> str:
    if returncode < 0:
        return f"the program was ended by signal {-returncode}"
    return f"the program ended with status {returncode}"


_WORD = re.compile(r"[\w./+-]{1,100}")


def _not_started(entry: StdioEntry, error: OSError) -> LinkError:
    command = entry.command if _WORD.fullmatch(entry.command) else "its command"
    command = covered(command, entry.hidden)
    if entry.cwd is not None and not os.path.isdir(entry.cwd):  # noqa: PTH112 (one look, no I/O)
        return LinkError("its directory (cwd) does not exist", cure="make it, or correct its cwd")
    if isinstance(error, FileNotFoundError):
        cure = "install it, or give its whole path as command"
        return LinkError(f"there is no program {command}", cure=cure)
    return LinkError(f"{command} cannot be started: {error.strerror}", cure="correct its command")
