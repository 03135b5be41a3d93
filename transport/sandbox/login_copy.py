"""The login of an agent in its sandbox: a copy of the operator's, kept the same as that.

Knows: the CLI's ``.credentials.json``, and that the CLI replaces it (by a rename) whenever a token
is renewed, inside of a sandbox and outside. Refuses to know: sandboxes, and how tokens are renewed.

A renewed token makes the one before it worthless, so what one process gets has to reach all others.
A file that is bound into a sandbox would not do: after the first rename outside, it is another file
than the one that all others read.
"""

from __future__ import annotations

import json
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import Any

import trio
from attrs import define, field

NAME = ".credentials.json"

LARGEST = 64 * 1024
"""Bytes of a file that is taken for a login: the child may write there what it likes."""

SECONDS = 0.5
"""Between two looks at both files, each of which costs two calls of ``stat``."""


@define
class LoginCopy:
    """`kept` is the operator's file, `copy` the child's, in a folder that the child may write."""

    kept: Path
    copy: Path
    _seen: tuple[object, object] = field(default=(None, None), repr=False)

    def make(self) -> bool:
        """Make the copy. Says whether there is a login to be copied."""
        login = _read(self.kept)
        if login is None:
            return False
        _replace(self.copy, login)
        self._seen = self._look()
        return True

    def agree(self) -> None:
        """Have both say the same, if one has changed: what expires later, which is the newer."""
        if self._look() == self._seen:
            return
        kept, copy = _read(self.kept), _read(self.copy)
        with suppress(OSError):  # a full disk, a folder that has gone: tried at the next change
            if copy is not None and kept is not None and _due(copy) > _due(kept):
                _replace(self.kept, copy)
            elif kept is not None and copy != kept:
                _replace(self.copy, kept)
            elif _mark(self.kept) is None:  # logged out
                self.copy.unlink(missing_ok=True)
        self._seen = self._look()

    async def follow(self) -> None:
        """Have them agree until cancelled, and once more then."""
        try:
            while True:
                await trio.sleep(SECONDS)
                self.agree()
        finally:
            self.agree()

    def _look(self) -> tuple[object, object]:
        return _mark(self.kept), _mark(self.copy)


def _mark(path: Path) -> object:
    try:
        status = path.lstat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size


def _read(path: Path) -> bytes | None:
    """A login; None where the file holds none, or is none."""
    try:
        # What the child has put there is not followed, nor waited for.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size > LARGEST:
            return None
        data = os.read(descriptor, LARGEST)
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return data if _login(data) else None


def _login(data: bytes) -> dict[str, Any]:
    try:
        login = json.loads(data)["claudeAiOauth"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}
    return login if isinstance(login, dict) and isinstance(login.get("accessToken"), str) else {}


def _due(data: bytes) -> float:
    due = _login(data).get("expiresAt")
    return due if isinstance(due, int | float) else 0.0


def _replace(path: Path, data: bytes) -> None:
    aside = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(6).hex()}")
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        aside.replace(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
