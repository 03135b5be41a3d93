"""The demo CLI's edges: its standard streams, its end, and what it leaves behind.

Knows file descriptors 0, 1 and 2 (waiting for lines with a deadline, writing everything, and how
to do either badly on request), signals and child processes. Refuses to know what a line says.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from collections.abc import Iterator
from typing import NoReturn

from .switches import Switches


class Wire:
    """Lines in, bytes out. `eof` is true once stdin has ended and its last line was given out."""

    def __init__(self, switches: Switches) -> None:
        self.eof = False
        self.switches = switches
        self._partial: list[bytes] = []
        self._reader_gone = False

    def lines(self, seconds: float | None) -> Iterator[bytes]:
        """The lines that arrive with the next read, after at most `seconds` (None: no limit).

        A last line without a newline counts, as it does with the CLI.
        """
        if self.eof:
            time.sleep(seconds or 0)
            return
        if not select.select([0], [], [], seconds)[0]:
            return
        if self.switches.read_pause_ms:
            time.sleep(self.switches.read_pause_ms / 1000)
        chunk = os.read(0, self.switches.read_bytes)
        if not chunk:
            self.eof = True
            tail = b"".join(self._partial)
            if tail:
                yield tail
            return
        head, *rest = chunk.split(b"\n")
        self._partial.append(head)
        for piece in rest:
            line = b"".join(self._partial)
            self._partial = [piece]
            yield line

    def write(self, data: bytes) -> None:
        """Write to stdout, waiting for a slow reader; into the void once there is none.

        A CLI whose stdout was closed lives on until its stdin ends.
        """
        if self._reader_gone:
            return
        size = self.switches.write_bytes or max(len(data), 1)
        try:
            for start in range(0, len(data), size):
                _write_all(1, data[start : start + size])
        except BrokenPipeError:
            self._reader_gone = True

    def complain(self) -> None:
        """Write to stderr what the switches ask for."""
        if self.switches.stderr:
            _write_all(2, f"{self.switches.stderr}\n".encode())
        line = b"scripted noise on stderr " * 40 + b"\n"
        whole, rest = divmod(self.switches.stderr_bytes, len(line))
        for _ in range(whole):
            _write_all(2, line)
        _write_all(2, line[:rest])


def fatal(text: str, code: int = 1) -> NoReturn:
    """End the process as the CLI does when it cannot go on: a line on stderr, a status."""
    _write_all(2, f"{text}\n".encode(errors="replace"))
    sys.exit(code)


def die(switches: Switches) -> NoReturn:
    """End at once, without a word: with the status, or by the signal, that the switches name."""
    if switches.exit_code < 0:
        if -switches.exit_code != signal.SIGKILL:
            signal.signal(-switches.exit_code, signal.SIG_DFL)
        os.kill(os.getpid(), -switches.exit_code)
    os._exit(switches.exit_code)


def hang() -> NoReturn:
    """Do nothing and read nothing until a signal ends the process."""
    while True:
        signal.pause()


def ignore_sigterm() -> None:
    """From now on only SIGKILL ends the process."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def leave_grandchild(switches: Switches) -> int:
    """Start a process that outlives this one, in its process group; its id.

    "open": it holds on to stdout and stderr, so that their readers see no end of file; "closed":
    it has let go of them.
    """
    nothing = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in (0, 1, 2)]
    return os.posix_spawnp(
        "sleep",
        ["sleep", str(switches.grandchild_seconds)],
        os.environ,
        file_actions=nothing if switches.grandchild == "closed" else nothing[:1],
    )


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
