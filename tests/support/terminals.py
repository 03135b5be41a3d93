"""A program at a terminal, with a person who types and reads; or at pipes, without one."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import sys
import termios
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio
from attrs import define

PATIENCE = 20.0
CTRL_C, CTRL_D = "\x03", "\x04"
COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def program(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "ccapi.actors.commands.main", *arguments]


def environment(home: Path, **variables: str) -> dict[str, str]:
    return {"PATH": "/usr/bin:/bin", "HOME": str(home), "TERM": "xterm", **variables}


@define
class Terminal:
    """`seen`: all that stood on the screen, without colours; `raw` with them."""

    process: trio.Process
    fd: int
    raw: str = ""
    _read: int = 0

    @property
    def seen(self) -> str:
        return COLOURS.sub("", self.raw).replace("\r\n", "\n")

    async def until(self, text: str) -> str:
        """What comes up to `text`, which is behind what was waited for before."""
        with trio.move_on_after(PATIENCE):
            while (found := self.seen.find(text, self._read)) < 0:
                if not await self._receive():
                    break
        assert found >= 0, f"{text!r} did not come after:\n{self.seen}"
        begun, self._read = self._read, found + len(text)
        return self.seen[begun : self._read]

    async def type(self, text: str) -> None:
        await trio.lowlevel.checkpoint()
        os.write(self.fd, text.encode())

    async def ended(self) -> int:
        """The exit code."""
        with trio.fail_after(PATIENCE):
            while await self._receive():
                pass
            return await self.process.wait()

    async def _receive(self) -> bool:
        await trio.lowlevel.wait_readable(self.fd)
        try:
            data = os.read(self.fd, 65536)
        except OSError:  # EIO: no process has the other side open any more
            return False
        self.raw += data.decode()
        return bool(data)


def _take_terminal() -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


@asynccontextmanager
async def open_terminal(home: Path, *arguments: str, **variables: str) -> AsyncIterator[Terminal]:
    """`ccapi` with these arguments, at a terminal of its own that does not echo."""
    ours, theirs = pty.openpty()
    try:
        attributes = termios.tcgetattr(theirs)
        attributes[3] &= ~termios.ECHO
        termios.tcsetattr(theirs, termios.TCSANOW, attributes)
        try:
            process = await trio.lowlevel.open_process(
                program(*arguments),
                stdin=theirs,
                stdout=theirs,
                stderr=theirs,
                env=environment(home, **variables),
                start_new_session=True,
                preexec_fn=_take_terminal,
            )
        finally:
            os.close(theirs)
        try:
            yield Terminal(process, ours)
        finally:
            process.kill()
            with trio.move_on_after(5, shield=True):
                await process.wait()
    finally:
        os.close(ours)


@define
class Ended:
    code: int
    out: str
    err: str


async def run_at_pipes(home: Path, *arguments: str, typed: str = "", **variables: str) -> Ended:
    """`ccapi` with these arguments, its input from a pipe."""
    with trio.fail_after(PATIENCE):
        done = await trio.run_process(
            program(*arguments),
            stdin=typed.encode(),
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            env=environment(home, **variables),
        )
    return Ended(done.returncode, done.stdout.decode(), done.stderr.decode())
