"""What this process keeps from others of the same user: its memory, and the secrets it was started
with.

Knows: where the kernel shows a process's arguments and environment, and how that ends. Refuses to
know: which words are secret.

Root can look at any process all the same, and so can whatever runs as root without a sandbox.

Source: proc(5), prctl(2).
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Collection, Iterator, MutableMapping
from pathlib import Path

LEAST_SECRET = 6
"""Characters of what is covered in the arguments: less would cover what only looks like it."""

_PR_SET_DUMPABLE = 4
_BLOCKS = {"arguments": (45, 46), "environment": (47, 48)}
"""Begin and end of both, among the fields of /proc/self/stat from the state on."""


def forget_start(
    secrets: Collection[str], prefix: str, environ: MutableMapping[str, str] | None = None
) -> None:
    """Take all variables that begin with `prefix` out of the environment, and those and `secrets`
    out of what the kernel shows of this process's start.

    Done once, before any thread that reads the environment. `environ` is for tests.
    """
    environ = os.environ if environ is None else environ
    secrets = [secret for secret in secrets if len(secret) >= LEAST_SECRET]
    for name in [name for name in environ if name.startswith(prefix)]:
        del environ[name]
    sys.argv[:] = [_covered(word, secrets) for word in sys.argv]
    if not sys.platform.startswith("linux"):
        return
    begin, block = _block("environment")
    for at, end in _variables(block, os.fsencode(prefix)):
        ctypes.memset(begin + at, ord("*"), end - at)
    begin, block = _block("arguments")
    for secret in map(os.fsencode, secrets):
        at = block.find(secret)
        while at >= 0:
            ctypes.memset(begin + at, ord("*"), len(secret))
            at = block.find(secret, at + len(secret))


def close_to_others() -> None:
    """No other process of the user may read this one's memory, environment or open files, or trace
    it; nor is a core written. Does nothing where that is not Linux's to say."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def _block(name: str) -> tuple[int, bytes]:
    """Where the block lies in memory, and what is in it."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    begin, end = (int(fields[at]) for at in _BLOCKS[name])
    if not begin:  # the kernel does not say
        return 0, b""
    return begin, ctypes.string_at(begin, end - begin)


def _variables(block: bytes, prefix: bytes) -> Iterator[tuple[int, int]]:
    """Begin and end of the value of each variable whose name begins so."""
    at = 0
    for variable in block.split(b"\0"):
        if variable.startswith(prefix) and b"=" in variable:
            yield at + variable.index(b"=") + 1, at + len(variable)
        at += len(variable) + 1


def _covered(word: str, secrets: Collection[str]) -> str:
    for secret in secrets:
        word = word.replace(secret, "*" * len(secret))
    return word
