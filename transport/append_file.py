"""A file that lines are appended to, and nothing else.

Knows: how it is opened, and how a line that was cut short is completed. Refuses to know: what is in
a line, and what to do where it cannot be written.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

MODE = 0o600
"""Of a file that is made here. One that is there keeps its own: the operator's log rotation may
have made it."""


class AppendFile:
    """Opened when it is made. Raises `OSError` where `path` cannot be written, or is no file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = _open(path)
        self._cut = 0  # bytes of the next line that are written

    def __repr__(self) -> str:
        return f"<AppendFile {self._path}>"

    def write(self, line: bytes) -> None:
        """Append `line`, which ends in a newline, in one write. Raises `OSError` (a full disk):
        then the next call must be with the same line, and writes what is missing of it."""
        while self._cut < len(line):
            written = os.write(self._file, line[self._cut :])
            if not written:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            self._cut += written
        self._cut = 0

    def reopen(self) -> None:
        """Go on in the file that now has the path. Raises `OSError`: then the old one is kept."""
        file = _open(self._path)
        os.close(self._file)
        self._file, self._cut = file, 0

    def close(self) -> None:
        os.close(self._file)


def _open(path: Path) -> int:
    # Not to block on a pipe that no process reads: it is refused.
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
    file = os.open(path, flags, MODE)
    try:
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file")
        if status.st_size and os.pread(file, 1, status.st_size - 1) != b"\n":
            os.write(file, b"\n")  # a process that ended in the middle of a line left it so
    except BaseException:
        os.close(file)
        raise
    return file
