"""Node scripts on a live gateway: install their packages, run them, read what they saw.

Knows npm and the lines that `report.mjs` prints. Refuses to know what a check has to see.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import trio
from attrs import frozen

from .gateway import open_gateway_for_clients

HERE = Path(__file__).parent
PATIENCE = 10.0
"""Seconds to wait until the API is hung up on; ample, so that only a turn left running takes it."""


@frozen
class Seen:
    """What the checks of one script saw, by name.

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


def install(cache: Path, here: Path = HERE) -> Path:
    """Install the packages that `here`'s package-lock.json pins, once, and put the scripts beside
    them.

    Raises AssertionError where node or npm is missing or npm fails; says which.
    """
    for program in ("node", "npm"):
        assert shutil.which(program), f"{program} is missing; the Node clients are tried with it"
    lock = (here / "package-lock.json").read_bytes()
    folder = cache / hashlib.sha256(lock).hexdigest()[:12]
    folder.mkdir(exist_ok=True)
    for file in (HERE / "report.mjs", *here.glob("*.mjs"), *here.glob("package*.json")):
        shutil.copy(file, folder)
    # npm writes this file last: where it is, the installation was not broken off.
    if not (folder / "node_modules" / ".package-lock.json").exists():
        done = subprocess.run(
            ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, f"npm ci failed\n{done.stdout}\n{done.stderr}"
    return folder


def run(script: Path, tmp_path: Path) -> Seen:
    """Run the script against a gateway of its own, in front of the real CLI."""
    return trio.run(_run, script, tmp_path)


async def _run(script: Path, tmp_path: Path) -> Seen:
    async with open_gateway_for_clients(tmp_path) as (url, stub):
        lines, stderr = await run_checks(script, tmp_path, {"CCAPI_TEST_BASE_URL": url})
        slow = [r for r in stub.requests if r.last_user_text.startswith("Say slowly")]
        with trio.move_on_after(PATIENCE):
            for request in slow:
                await request.left.wait()
        # Asked before the gateway stops, which ends every child in any case.
        abandoned = sum(request.left.is_set() for request in slow)
    return Seen(lines, abandoned, stderr)


async def run_checks(
    script: Path, home: Path, environment: Mapping[str, str]
) -> tuple[dict[str, Mapping[str, Any]], str]:
    """Run the script in an environment out of nothing; return its lines by check, and its stderr.

    Raises AssertionError with all it wrote where it did not get to its end.
    """
    done = await trio.run_process(
        ["node", str(script)],
        env={"PATH": os.environ["PATH"], "HOME": str(home), **environment},
        capture_stdout=True,
        capture_stderr=True,
        check=False,
    )
    stdout, stderr = done.stdout.decode(), done.stderr.decode()
    assert done.returncode == 0, f"{script.name} failed\n{stdout}\n{stderr}"
    lines = map(json.loads, stdout.splitlines())
    return {line.pop("check"): line for line in lines}, stderr
