"""The guardian: a tiny process that ends the children's process groups if the gateway is killed.

Knows: process groups, and that its standard input ends when the gateway is gone, however it went.
Refuses to know: what runs in a group.

Why a process: a SIGKILLed gateway cannot clean up, a child in the middle of a turn would run it
out, a frozen (SIGSTOPped) child would stay for ever, and so would a child's own children.
PR_SET_PDEATHSIG does not serve: it is tied to the thread that forked, and trio forks in a worker
thread that ends when it has been idle. A child that was started and not yet announced when the
gateway was killed goes by itself: nothing was said to it, and its stdin ends.

The protocol, on the guardian's stdin: lines ``+PGID`` and ``-PGID``.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import trio

# Runs with -I -S -E: no site, no environment; it must stay small and start fast.
_PROGRAM = r"""
import os, signal, sys, time
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
groups = set()
for line in sys.stdin:
    (groups.add if line[0] == "+" else groups.discard)(int(line[1:]))
def tell(number):
    for group in groups:
        try:
            os.killpg(group, number)
        except OSError:
            pass
# An agent's commands run in groups of their own, which it ends itself if it is given a moment.
tell(signal.SIGTERM)
tell(signal.SIGCONT)
if groups:
    time.sleep(0.3)
tell(signal.SIGKILL)
"""


class Guardian:
    """Tell it which process groups to end should this process vanish."""

    def __init__(self, process: trio.Process) -> None:
        self._stdin = process.stdin
        self.pid = process.pid

    def watch(self, group: int) -> None:
        self._say(b"+%d\n" % group)

    def forget(self, group: int) -> None:
        """Must follow at once when the group is gone: its number may be used again."""
        self._say(b"-%d\n" % group)

    def _say(self, line: bytes) -> None:
        assert isinstance(self._stdin, trio.lowlevel.FdStream)
        # The pipe does not block and holds 64 KiB, thousands of these lines. A guardian that was
        # killed leaves only the case that it was there for, so its loss is no error.
        with suppress(OSError):
            os.write(self._stdin.fileno(), line)


@asynccontextmanager
async def open_guardian() -> AsyncIterator[Guardian]:
    """Run a guardian while the block runs."""
    process = await trio.lowlevel.open_process(
        [sys.executable, "-I", "-S", "-E", "-c", _PROGRAM],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # a Ctrl-C at the terminal is not meant for it
    )
    try:
        yield Guardian(process)
    finally:
        assert isinstance(process.stdin, trio.lowlevel.FdStream)
        process.stdin.close()
        with trio.move_on_after(2, shield=True):
            await process.wait()
        if process.returncode is None:
            process.kill()
            with trio.move_on_after(1, shield=True):
                await process.wait()
