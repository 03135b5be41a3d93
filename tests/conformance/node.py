"""Node scripts on a live gateway: install their packages, run them.

Knows npm. Refuses to know what a check has to see.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from . import checks
from .checks import Seen

__all__ = ["Seen", "install", "run", "run_checks"]

HERE = Path(__file__).parent


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
    return checks.run(["node", str(script)], tmp_path)


async def run_checks(
    script: Path, home: Path, environment: Mapping[str, str]
) -> tuple[dict[str, Mapping[str, Any]], str]:
    """Run the script in an environment out of nothing; return its lines by check, and its stderr.

    Raises AssertionError with all it wrote where it did not get to its end.
    """
    return await checks.run_program(["node", str(script)], home, environment)
