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
from contextlib import asynccontextmanager

import trio

from ..loggers import get_logger

log = get_logger("ccapi.guardian")

# Runs with -I -S -E: no site, no environment; it must stay small and start fast.
_PROGRAM = r"""
import os, signal, sys, time
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
groups = set()
for line in sys.stdin:
    (groups.add if line[0] == "+" else groups.discard)(int(line[1:]))
def signal_all(number):
    for group in groups:
        try:
            os.killpg(group, number)
        except OSError:
            pass
# An agent's commands run in groups of their own, which it ends itself if it is given a moment.
signal_all(signal.SIGTERM)
signal_all(signal.SIGCONT)
if groups:
    time.sleep(0.3)
signal_all(signal.SIGKILL)
"""


RESTART_SECONDS = 0.1, 30.0
"""Pause before another guardian is started in place of one that died: at first, and at most."""

STEADY_SECONDS = 60.0
"""A guardian that lived so long was well: the next death is answered at once again."""


class Guardian:
    """Tell it which process groups to end should this process vanish.

    A guardian process that dies, or that is stuck so that it takes no more lines, is replaced, and
    its successor receives all groups that are watched. Between the two, only a gateway that is
    killed in just that moment could leave something behind.
    """

    def __init__(self, process: trio.Process) -> None:
        self._process = process
        self._groups: set[int] = set()

    @property
    def pid(self) -> int:
        """The present guardian process."""
        return self._process.pid

    def watch(self, group: int) -> None:
        self._groups.add(group)
        self._say(b"+%d\n" % group)

    def forget(self, group: int) -> None:
        """Must follow at once when the group is gone: its number may be used again."""
        self._groups.discard(group)
        self._say(b"-%d\n" % group)

    def _say(self, lines: bytes) -> None:
        stdin = self._process.stdin
        assert isinstance(stdin, trio.lowlevel.FdStream)
        try:
            # The pipe does not block and holds 64 KiB, thousands of these lines.
            written = os.write(stdin.fileno(), lines)
        except BlockingIOError:
            written = 0
        except (OSError, trio.ClosedResourceError):
            return  # it is dead; its successor receives everything
        if written < len(lines):
            # It is stuck, and would later act on a list that is not true.
            self._process.kill()

    async def keep(self) -> None:
        """Replace the guardian process whenever it dies. Never ends; cancelled with its block."""
        first, most = RESTART_SECONDS
        pause = first
        while True:
            born = trio.current_time()
            status = await self._process.wait()
            if trio.current_time() - born >= STEADY_SECONDS:
                pause = first
            log.warning(
                "the guardian died and is replaced", pid=self.pid, returncode=status, pause=pause
            )
            _stdin(self._process).close()
            while True:
                await trio.sleep(pause)
                pause = min(most, pause * 2)
                try:
                    # Shielded for its few milliseconds: a process must not be lost half started.
                    with trio.move_on_after(5, shield=True):
                        self._process = await _start()
                        break
                except OSError as error:
                    log.warning("no guardian can be started", reason=error.strerror, pause=pause)
            self._say(b"".join(b"+%d\n" % group for group in self._groups))

    async def stop(self) -> None:
        """End the guardian process; what it still watches goes with it."""
        process = self._process
        _stdin(process).close()
        with trio.move_on_after(2, shield=True):
            await process.wait()
        if process.returncode is None:
            process.kill()
            with trio.move_on_after(1, shield=True):
                await process.wait()


def _stdin(process: trio.Process) -> trio.lowlevel.FdStream:
    assert isinstance(process.stdin, trio.lowlevel.FdStream)
    return process.stdin


async def _start() -> trio.Process:
    return await trio.lowlevel.open_process(
        [sys.executable, "-I", "-S", "-E", "-c", _PROGRAM],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={},
        start_new_session=True,  # a Ctrl-C at the terminal is not meant for it
    )


@asynccontextmanager
async def open_guardian() -> AsyncIterator[Guardian]:
    """Run a guardian while the block runs, and another whenever it dies."""
    guardian = Guardian(await _start())
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(guardian.keep)
            yield guardian
            nursery.cancel_scope.cancel()
    finally:
        await guardian.stop()
