"""Files of this machine that requests may name: only regular ones, only inside allowed folders.

Knows: paths, ``file:`` URLs (RFC 8089), and how to open what was checked and nothing else. Refuses
to know: what is in a file, and who asks.

A path is resolved first and then walked, part by part, from the allowed folder, without following
any link: a file that becomes a link in between is not opened. (A hard link cannot be distinguished
from the file; who can make one inside the folder may read the file anyway.)

Everything here blocks, and is called in a thread.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import PurePosixPath
from urllib.parse import unquote_to_bytes

from ...schemas.media import TooManyBytes

_FILE_URL = re.compile(r"file:(?://(?:localhost)?)?(/[^?#]*)", re.IGNORECASE | re.DOTALL)

# A folder is opened to walk through it, which needs no right to list it (Linux has a flag for it).
_FOLDER = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: not to hang in a pipe that was put in the file's place after it was looked at.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class NotAllowed(Exception):
    """The path is not a readable regular file inside an allowed folder. Which of these is not the
    case stays unsaid: a client must not learn what exists elsewhere."""


def read_allowed(source: str, folders: Sequence[str], limit: int) -> bytes:
    """The content of the file at `source`, an absolute path or a ``file:`` URL.

    `folders` are absolute paths, themselves trusted: links in them are followed. Raises
    `NotAllowed`, and `TooManyBytes` (before reading, where the size shows it).
    """
    try:
        path = _path_of(source)
        for folder, inside in _places(path, folders):
            return _read(folder, inside, limit)
    except (OSError, ValueError) as error:  # ValueError: NUL, or what no file name can hold
        if isinstance(error, TooManyBytes):
            raise
        raise NotAllowed from None
    raise NotAllowed


def _path_of(source: str) -> PurePosixPath:
    url = _FILE_URL.fullmatch(source)
    path = PurePosixPath(os.fsdecode(unquote_to_bytes(url[1])) if url else source)
    # Lexical and real parents differ where there are links; the ambiguity has no use.
    if not path.is_absolute() or ".." in path.parts:
        raise NotAllowed
    return path


def _places(path: PurePosixPath, folders: Sequence[str]) -> Iterator[tuple[str, PurePosixPath]]:
    """The allowed folders that hold `path`, without links in their paths, and where in them it is.

    What lies outside all folders by its name is not looked at."""
    for given in folders:
        folder = os.path.realpath(given)
        if path.is_relative_to(given) or path.is_relative_to(folder):
            real = PurePosixPath(os.path.realpath(path, strict=True))
            if real.is_relative_to(folder) and real != PurePosixPath(folder):
                yield folder, real.relative_to(folder)


def _read(folder: str, inside: PurePosixPath, limit: int) -> bytes:
    with ExitStack() as opened:
        here = os.open(folder, _FOLDER)
        opened.callback(os.close, here)
        for part in inside.parts[:-1]:
            here = os.open(part, _FOLDER, dir_fd=here)
            opened.callback(os.close, here)
        # A look first: opening a device may already do something.
        _see_that_regular(os.stat(inside.name, dir_fd=here, follow_symlinks=False))
        file = opened.enter_context(os.fdopen(os.open(inside.name, _FILE, dir_fd=here), "rb"))
        size = _see_that_regular(os.fstat(file.fileno())).st_size
        if size > limit:
            raise TooManyBytes(limit)
        data = file.read(limit + 1)  # it may be growing
        if len(data) > limit:
            raise TooManyBytes(limit)
        return data


def _see_that_regular(status: os.stat_result) -> os.stat_result:
    if not stat.S_ISREG(status.st_mode):
        raise NotAllowed
    return status
