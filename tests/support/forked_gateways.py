"""Gateways that start in a moment: ``ccapi serve`` in forks of one process that has imported it.

A gateway takes a second of CPU to import its modules, which says nothing in a test that starts a
hundred of them. Each fork has its environment and its working directory from the test, opens
everything itself, and is a process of its own that a test can kill.

Run as a program, this module is the process that forks. Each line of its input is the JSON of a
`Start`; what the gateways log comes out of its standard error, between ``forked`` and ``dead``.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

import httpx
import trio
from attrs import asdict, define, frozen

from .processes import PATIENCE


@frozen
class Start:
    """How a gateway starts: the arguments of ``ccapi``, its environment, its working directory."""

    arguments: tuple[str, ...]
    environment: Mapping[str, str]
    folder: str


@define
class Forked:
    """One gateway, from its fork on. `url` is known from `listening` on."""

    pid: int
    _forks: Forks
    url: str = ""

    async def listening(self) -> httpx.AsyncClient:
        """Wait until it listens; returns a client for it, which the caller closes."""
        self.url = str((await self._forks.event("listening"))["url"])
        return httpx.AsyncClient(base_url=self.url, timeout=PATIENCE)

    def send(self, number: signal.Signals) -> None:
        """Does nothing to a gateway that has ended, as long as no other was forked."""
        os.kill(self.pid, number)

    async def dead(self) -> None:
        """Wait until it has ended."""
        await self._forks.event("dead")


class Forks:
    """The process that forks gateways, one at a time."""

    def __init__(self, process: trio.Process) -> None:
        self._process = process
        self._text = b""

    async def fork(self, start: Start) -> Forked:
        assert self._process.stdin is not None
        await self._process.stdin.send_all(json.dumps(asdict(start)).encode() + b"\n")
        return Forked(int((await self.event("forked"))["pid"]), self)

    async def event(self, name: str) -> dict[str, Any]:
        """The next line of the log that says this; what stands before it is passed over."""
        assert self._process.stderr is not None
        passed: list[bytes] = []
        with trio.fail_after(PATIENCE):
            while True:
                line, end, rest = self._text.partition(b"\n")
                if not end:
                    more = await self._process.stderr.receive_some(65_536)
                    assert more, b"\n".join(passed).decode()
                    self._text += more
                    continue
                self._text = rest
                passed.append(line)
                with suppress(ValueError):  # a line that a kill has cut
                    found = json.loads(line)
                    if found.get("event") == name:
                        return dict(found)
                    assert name == "dead" or found.get("event") != "dead", passed


@asynccontextmanager
async def open_forks() -> AsyncIterator[Forks]:
    """Forks while the block runs. What they left running ends with it."""
    process = await trio.lowlevel.open_process(
        [sys.executable, "-m", __name__],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdin is not None
    assert process.stderr is not None
    try:
        yield Forks(process)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        with trio.move_on_after(5, shield=True):
            await process.wait()
        await process.stdin.aclose()
        await process.stderr.aclose()


def serve_start(folder: Path, *, demo: bool = True, **settings: str) -> Start:
    """``ccapi serve`` (with ``--demo``) on a free port, in surroundings of its own."""
    environment = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(folder),
        "CLAUDE_CODE__STORAGE__PATH": str(folder / "state"),
        "CLAUDE_CODE__LOG__FORMAT": "json",
        **{f"CLAUDE_CODE__{name}": value for name, value in settings.items()},
    }
    arguments = ("serve", "--port", "0", *(["--demo"] if demo else []))
    return Start(arguments, environment, str(folder))


# -- the process that forks ------------------------------------------------------------------------


def _become_gateway(start: Mapping[str, Any]) -> NoReturn:
    from ccapi.actors.commands.main import main

    os.environ.clear()
    os.environ.update(start["environment"])
    os.chdir(start["folder"])
    os.close(0)
    os.open(os.devnull, os.O_RDONLY)
    main(start["arguments"], prog_name="ccapi")
    raise AssertionError  # it has raised SystemExit


def _say(event: str, pid: int) -> None:
    os.write(2, json.dumps({"event": event, "pid": pid}).encode() + b"\n")


def _fork_for_ever() -> None:
    import ccapi.actors.commands.main
    import ccapi.actors.commands.serve  # noqa: F401 (all that a gateway imports)

    pid = 0
    for line in sys.stdin:
        if pid:
            os.waitpid(pid, 0)
        pid = os.fork()
        if not pid:
            _become_gateway(json.loads(line))
        _say("forked", pid)
        # It is reaped only then: until the next one starts, its pid is no other process's.
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        _say("dead", pid)


if __name__ == "__main__":
    _fork_for_ever()
