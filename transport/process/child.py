"""One child process: its pipes, its process group, how it is frozen, its end.

Knows: bytes in and out, lines, signals, the stop sequence. Refuses to know: what a frame means,
whose conversation it is, and when a child should go (`actors.pool.pool` and `actors.session.actor`
decide).

A child's process group is its own (`start_new_session`), so that signals reach what the child
started too, and nothing of it is left behind.
"""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path

import trio
from attrs import frozen

from ...schemas.claude.lines import Line
from ...schemas.claude.output import Frame, decode
from ...schemas.errors import ChildDied, ChildProtocolError, CliUnusable, GatewayError
from ..sandbox.egress import Egress
from ..sandbox.files import CONTROL, FILTER, remove_tree
from ..workers import work
from .guardian import Guardian
from .leftovers import Trace
from .ndjson import LineSplitter, LineTooLong

READ_BYTES = 65536
PIPE_BYTES = 1 << 20
"""More than a pipe holds (64 KiB here): one read of so much takes all that is in it."""

STDERR_TAIL_BYTES = 8192
AGENT_SECONDS = 0.5
"""What an agent has to end the commands it runs, which are in groups of their own: it does so at
SIGTERM, within a tenth of that."""

REMOVAL_SECONDS = 10.0
"""Longest wait for the removal of what a child wrote beside its workspace."""

UNWRITTEN_LINES = 1024
"""Lines that may wait for a child to read them. More than a replayed history needs by far: a
child that lets so many wait has stopped reading."""


@frozen
class ChildCommand:
    """How to start a child: the whole argument vector, environment and working directory.
    `runs_others`: it starts processes in groups of their own. `egress`: it has no network but
    this, and `argv` has the word `CONTROL`. `filter`: what is to be read from the descriptor whose
    number stands for the word `FILTER`. `scratch` is removed when it has gone. `trace`
    is the session that it writes. `ahead` are lines that it gets at once."""

    argv: Sequence[str]
    env: Mapping[str, str]
    cwd: Path
    stop_seconds: float = 5.0
    max_line_bytes: int = 64 * 1024 * 1024
    runs_others: bool = False
    egress: Egress | None = None
    filter: bytes | None = None
    scratch: Path | None = None
    trace: Trace | None = None
    ahead: bytes = b""


class Child:
    """A running child. Made by `open_child`, which also ends it.

    Reading belongs to one task at a time (`receive_frames`). Everything else is synchronous, so
    that a child that hangs can hold up no caller.
    """

    def __init__(self, process: trio.Process, command: ChildCommand) -> None:
        self.pid = process.pid
        self.trace = command.trace
        self._process = process
        self._stdout = _fd(process.stdout)
        self._lines = LineSplitter(command.max_line_bytes)
        self._outbox, self._to_write = trio.open_memory_channel[Line](UNWRITTEN_LINES)
        self._stderr: deque[bytes] = deque()
        self._stderr_bytes = 0
        self._unwritten = 0  # lines handed over that the writer has not written whole
        self._frozen = False
        self._runs_others = command.runs_others
        self._urgent = False
        self._ended = False  # the last signal is sent: the group's number may go to others
        self._stdout_kept = False  # a task reads, and will read what is left in the end
        self._receiving: trio.CancelScope | None = None
        self._failure: ChildProtocolError | None = None
        self._stderr_done = trio.Event()
        self.leave = trio.Event()
        """Set when the child is to go, or has gone by itself: `open_child`'s block should end."""
        self.gone = trio.Event()
        """Set when the process is reaped and its whole group has been ended."""
        self.expected = False
        """Whether the gateway asked the child to go."""

    def __repr__(self) -> str:
        if self.gone.is_set():
            state = f"gone {self.returncode}"
        elif self.leave.is_set():
            state = "leaving"
        else:
            state = "frozen" if self._frozen else "alive"
        return f"<Child {self.pid} {state}>"

    @property
    def returncode(self) -> int | None:
        return self._process.returncode

    @property
    def frozen(self) -> bool:
        return self._frozen

    @property
    def stderr_tail(self) -> str:
        """The end of what the child wrote to stderr (up to 8 KiB)."""
        return b"".join(self._stderr)[-STDERR_TAIL_BYTES:].decode("utf-8", "replace").strip()

    def post_mortem(self) -> GatewayError:
        """Why the child is gone, as an error a turn can end with.

        Clients read it, so what the child wrote to stderr is not in it: the pool logs that.
        """
        match self.returncode:
            case None:
                how = "closed its output"
            case code if code < 0:
                how = f"ended by signal {-code}"
            case code:
                how = f"ended with status {code}"
        if self._lines.unfinished:
            how += ", in the middle of a line"
        return ChildDied(f"The CLI process {how}.")

    # -- in ----------------------------------------------------------------------------------------

    def write(self, line: Line) -> None:
        """Hand over one line, newline included, to be written in order; thaws a frozen child.

        A child that reads nothing is killed once `UNWRITTEN_LINES` wait.
        """
        self.thaw()
        if isinstance(line, bytes) and not self._unwritten and not self.leave.is_set():
            line = line[self._write_some(line) :]
            if not line:
                return
        try:
            self._outbox.send_nowait(line)
            self._unwritten += 1
        except trio.WouldBlock:
            self.kill()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # it is leaving or gone; the task that reads from it will see that

    def _write_some(self, line: bytes) -> int:
        # The pipe does not block, and nearly always takes a line at once: no task has to wake for
        # it. Only while no line waits, so that the order stays.
        try:
            return os.write(_fd(self._process.stdin).fileno(), line)
        except OSError:
            return 0  # the writer will wait, or find out

    # -- out ---------------------------------------------------------------------------------------

    async def receive_frames(self) -> list[Frame]:
        """The frames of the next piece of stdout (none, if it completes no line).

        Raises `ChildProtocolError` on a line that is not JSON or is too long, after the frames
        before it, and kills the child; and `EOFError` when the child has closed its stdout, or is
        gone and all it wrote is read. A task that has begun to read must `stop_reading` in the end:
        what a child wrote before it went can then still be read after it has gone.
        """
        if self._receiving is not None:
            raise trio.BusyResourceError("another task reads from this child")
        self._stdout_kept = True
        frames: list[Frame] = []
        if self._failure is None:
            data = None
            try:
                if not self.gone.is_set():
                    with trio.CancelScope() as self._receiving:
                        # This wakes the reader once for each piece; trio's `receive_some`, twice.
                        await trio.lowlevel.wait_readable(self._stdout.fileno())
                        data = os.read(self._stdout.fileno(), READ_BYTES)
                if data is None:
                    # What the child wrote is in the pipe. Its end may never come: a process that
                    # left the child's group may hold the pipe open, and owes us nothing.
                    data = os.read(self._stdout.fileno(), PIPE_BYTES)
                    self._stdout.close()
            except (trio.ClosedResourceError, OSError, ValueError):  # a descriptor of -1 is closed
                data = b""
            finally:
                self._receiving = None
            if not data:
                self.leave.set()
                raise EOFError
            try:
                for line in self._lines.feed(data):
                    frames.append(decode(line))  # noqa: PERF401 (what came before an error counts)
            except LineTooLong as error:
                self._failure = ChildProtocolError(f"The CLI process wrote {error}.")
            except ValueError:
                self._failure = ChildProtocolError("The CLI process wrote a line that is not JSON.")
        if self._failure is not None and not frames:
            self.kill()
            raise self._failure
        return frames

    def rest(self) -> None:
        """The task that reads from it is done, and another may begin to read later."""
        self._stdout_kept = False

    def stop_reading(self) -> None:
        """Close our end of stdout, and let the child go if it has not."""
        self.leave.set()
        self._stdout.close()

    # -- life --------------------------------------------------------------------------------------

    def freeze(self) -> None:
        """Stop the whole group (SIGSTOP): no CPU until the next `write`."""
        if not self._frozen and not self.leave.is_set():
            self._frozen = True
            self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        if self._frozen:
            self._frozen = False
            self._signal(signal.SIGCONT)

    def retire(self) -> None:
        """Ask the child to go: its stdin is closed, and it may finish what it does.

        It has `stop_seconds` before it gets SIGTERM, then SIGKILL.
        """
        self.expected = self.expected or not self.leave.is_set()
        self.thaw()
        self._outbox.close()
        self.leave.set()

    def kill(self) -> None:
        """End the whole group at once; an agent is given a moment to end what it runs."""
        self.expected = self.expected or not self.leave.is_set()
        if self._runs_others:
            self._urgent = True
            self._signal(signal.SIGTERM)
            self.thaw()
        else:
            self._signal(signal.SIGKILL)
        self._outbox.close()
        self.leave.set()

    def _signal(self, number: signal.Signals) -> None:
        if not self._ended:
            # Some kernels forbid to signal a group of which nothing but a zombie is left.
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, number)

    # -- the tasks that serve it, all in open_child's nursery --------------------------------------

    async def _drain_stderr(self) -> None:
        try:
            async for data in _fd(self._process.stderr):
                self._stderr.append(bytes(data))
                self._stderr_bytes += len(data)
                while self._stderr_bytes - len(self._stderr[0]) > STDERR_TAIL_BYTES:
                    self._stderr_bytes -= len(self._stderr.popleft())
        except trio.BrokenResourceError:
            pass
        finally:
            self._stderr_done.set()

    async def _write_lines(self) -> None:
        """The one writer. Ends when the child is to retire, having written what was handed over."""
        with suppress(trio.BrokenResourceError):
            async with _fd(self._process.stdin) as stdin, self._to_write:
                async for line in self._to_write:
                    if isinstance(line, bytes):
                        await stdin.send_all(line)
                    else:
                        await self._write_long(stdin.fileno(), line.pieces())
                    self._unwritten -= 1

    async def _write_long(self, pipe: int, pieces: Iterator[bytes]) -> None:
        """Write a line that is made meanwhile: in a thread, as much at once as the pipe takes."""
        _widen(pipe)
        rest = b""
        while True:
            # Not given up when cancelled: the pipe is not closed while the thread writes.
            rest = await work(partial(_write_on, pipe, rest, pieces))
            if not rest:
                return
            await trio.lowlevel.wait_writable(pipe)

    async def _await_exit(self) -> None:
        await self._process.wait()
        self.leave.set()

    async def _stop(self, stop_seconds: float) -> None:
        """Closed stdin, then SIGTERM, then SIGKILL, each to the group; the last is certain."""
        self.thaw()
        self._outbox.close()
        if self._urgent:
            stop_seconds = min(stop_seconds, AGENT_SECONDS)
        with trio.move_on_after(stop_seconds, shield=True) as patience:
            await self._process.wait()
        if patience.cancelled_caught:
            self._signal(signal.SIGTERM)
            with trio.move_on_after(min(1.0, stop_seconds), shield=True):
                await self._process.wait()
        # What the leader left in its group goes too. The group's number cannot belong to another
        # by now: the leader was reaped this moment, or is not reaped yet.
        self._signal(signal.SIGKILL)
        self._ended = True
        # Bounded by the kernel, unless a process hangs in it: then nothing is left to be done.
        with trio.move_on_after(5, shield=True):
            await self._process.wait()
        with trio.move_on_after(0.5, shield=True):
            await self._stderr_done.wait()

    def _close(self) -> None:
        self.leave.set()
        self.gone.set()
        if self._receiving is not None:
            self._receiving.cancel()
        elif not self._stdout_kept:
            self._stdout.close()
        _fd(self._process.stdin).close()
        _fd(self._process.stderr).close()


def _widen(pipe: int) -> None:
    """Have the pipe take more at once, where the system lets it."""
    if sys.platform == "linux":
        with suppress(OSError):
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, PIPE_BYTES)


def _write_on(pipe: int, rest: bytes, pieces: Iterator[bytes]) -> bytes:
    """Write until the pipe is full, or all is written. Returns what is left of the last piece.

    Raises `trio.BrokenResourceError` where nothing reads the pipe any more.
    """
    while rest or (rest := next(pieces, b"")):
        try:
            rest = rest[os.write(pipe, rest) :]
        except BlockingIOError:
            return rest
        except OSError as error:
            raise trio.BrokenResourceError from error
    return b""


def _fd(pipe: object) -> trio.lowlevel.FdStream:
    assert isinstance(pipe, trio.lowlevel.FdStream)
    return pipe


@asynccontextmanager
async def open_child(command: ChildCommand, guardian: Guardian) -> AsyncIterator[Child]:
    """Start a child, serve its pipes while the block runs, and end it for certain afterwards.

    Raises `ChildDied` when it cannot be started, `CliUnusable` (``cli_not_found``) when there is
    no such program. The block should end when `child.leave` is set.
    """
    ours, theirs = socket.socketpair() if command.egress is not None else (None, None)
    try:
        try:
            process = await _start(command, theirs)
        finally:
            if theirs is not None:
                theirs.close()
        guardian.watch(process.pid)
        child = Child(process, command)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(child._drain_stderr)  # noqa: SLF001 (its own module)
                nursery.start_soon(child._write_lines)  # noqa: SLF001
                nursery.start_soon(child._await_exit)  # noqa: SLF001
                if command.egress is not None and ours is not None:
                    nursery.start_soon(command.egress.serve, ours)
                if command.ahead:
                    child.write(command.ahead)
                try:
                    yield child
                finally:
                    child.expected = child.expected or not child.leave.is_set()
                    await child._stop(command.stop_seconds)  # noqa: SLF001
                    nursery.cancel_scope.cancel()
        finally:
            child._close()  # noqa: SLF001
            guardian.forget(process.pid)
    finally:
        if ours is not None:
            ours.close()
        if command.scratch is not None:
            with trio.move_on_after(REMOVAL_SECONDS, shield=True):
                await trio.to_thread.run_sync(remove_tree, command.scratch, abandon_on_cancel=True)


async def _start(command: ChildCommand, control: socket.socket | None) -> trio.Process:
    words = {} if control is None else {CONTROL: control.fileno()}
    try:
        if command.filter is not None:
            words[FILTER], whole = os.pipe()
            with os.fdopen(whole, "wb") as pipe:
                pipe.write(command.filter)  # less than a pipe holds
        return await trio.lowlevel.open_process(
            [str(words.get(word, word)) for word in command.argv],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=command.cwd,
            env=dict(command.env),
            start_new_session=True,
            pass_fds=[*words.values()],
        )
    except OSError as error:
        raise _not_started(command, error) from error
    finally:
        if FILTER in words:
            os.close(words[FILTER])


def _not_started(command: ChildCommand, error: OSError) -> GatewayError:
    """What keeps a process from starting, in words for the operator."""
    program = command.argv[0]
    if not command.cwd.is_dir():
        why = f"there is no directory {command.cwd}"
    elif not isinstance(error, FileNotFoundError):
        why = f"{program}: {error.strerror}"
    elif Path(program).exists():
        why = f"{program} is a script, and what its first line names does not exist"
    else:
        return CliUnusable(f"The CLI was not found: there is no {program}.", code="cli_not_found")
    return ChildDied(f"The CLI process could not be started: {why}.")
