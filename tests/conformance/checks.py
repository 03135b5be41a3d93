"""Programs of checks on a live gateway: run them, read what they saw.

Knows the lines that `report.mjs` and `report.py` print. Refuses to know what a check has to see,
and how a client is installed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import trio
from attrs import frozen

from .gateway import open_gateway_for_clients

ROOT = Path(__file__).parents[2]
PATIENCE = 10.0
"""Seconds to wait until the API is hung up on; ample, so that only a turn left running takes it."""

LOOPBACK_ONLY = {
    "HTTP_PROXY": "http://127.0.0.1:9",
    "HTTPS_PROXY": "http://127.0.0.1:9",
    "NO_PROXY": "127.0.0.1,localhost",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
}
"""What keeps clients that would fetch something (price lists, news of versions) on this machine."""


@frozen
class Seen:
    """What the checks of one program saw, by name.

    `abandoned` is how often the gateway's child hung up on the API in the middle of an answer.
    """

    lines: Mapping[str, Mapping[str, Any]]
    abandoned: int
    stderr: str

    def by(self, check: str) -> Any:
        """Return what the check saw; AssertionError with its own story where it failed."""
        assert check in self.lines, f"no check {check} ran\n{self.stderr}"
        line = self.lines[check]
        assert "error" not in line, line["error"]
        return line["saw"]


def run(command: Sequence[str], tmp_path: Path) -> Seen:
    """Run the program against a gateway of its own, in front of the real CLI."""
    return trio.run(_run, command, tmp_path)


async def _run(command: Sequence[str], tmp_path: Path) -> Seen:
    async with open_gateway_for_clients(tmp_path) as (url, stub):
        given = {"CCAPI_TEST_BASE_URL": url, **LOOPBACK_ONLY}
        lines, stderr = await run_program(command, tmp_path, given)
        slow = [r for r in stub.requests if r.last_user_text.startswith("Say slowly")]
        with trio.move_on_after(PATIENCE):
            for request in slow:
                await request.left.wait()
        # Asked before the gateway stops, which ends every child in any case.
        abandoned = sum(request.left.is_set() for request in slow)
    return Seen(lines, abandoned, stderr)


async def run_program(
    command: Sequence[str], home: Path, environment: Mapping[str, str]
) -> tuple[dict[str, Mapping[str, Any]], str]:
    """Run the program in an environment out of nothing; return its lines by check, and its stderr.

    Raises AssertionError with all it wrote where it did not get to its end.
    """
    done = await trio.run_process(
        command,
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "HOME": str(home), **environment},
        capture_stdout=True,
        capture_stderr=True,
        check=False,
    )
    stdout, stderr = done.stdout.decode(), done.stderr.decode()
    assert done.returncode == 0, f"{command[-1]} failed\n{stdout}\n{stderr}"
    lines = map(json.loads, stdout.splitlines())
    return {line.pop("check"): line for line in lines}, stderr
