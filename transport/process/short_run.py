"""A program that runs to its end and prints little: what the CLI's own commands are asked with.

Knows: one process, its group, bounds on what it prints. Refuses to know: what it is asked, and how
long that may take (the caller's cancel scope).
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import trio

from .guardian import Guardian

MOST_BYTES = 65536
"""What is read of a program; one that prints more is ended."""


async def output_of(
    argv: Sequence[str], env: Mapping[str, str], cwd: Path, guardian: Guardian
) -> bytes | None:
    """What `argv` prints to stdout until it ends, as much as `MOST_BYTES` and a little more; None
    where it cannot be started. Its process group ends with it, also when this is cancelled."""
    try:
        process = await trio.lowlevel.open_process(
            list(argv),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=cwd,
            env=dict(env),
            start_new_session=True,
        )
    except OSError:
        return None  # the next start of a child says why
    guardian.watch(process.pid)
    stdout = process.stdout
    assert isinstance(stdout, trio.lowlevel.FdStream)
    printed = bytearray()
    try:
        while len(printed) <= MOST_BYTES and (data := await stdout.receive_some()):
            printed += data
        if len(printed) <= MOST_BYTES:
            await process.wait()
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            with trio.move_on_after(5, shield=True):
                await process.wait()
        guardian.forget(process.pid)
        stdout.close()
    return bytes(printed)
