"""Python clients on a live gateway, each in an environment of its own: install and run them.

One environment for all of them would have to suit every client's pins at once. Knows uv and the
files in `locks`, which `uv pip compile --universal` wrote. Refuses to know what a check has to see.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

from uv import find_uv_bin

from . import checks
from .checks import Seen

HERE = Path(__file__).parent
LOCKS = HERE / "locks"


def install(cache: Path, client: str) -> Path:
    """Make an environment of what ``locks/CLIENT.txt`` pins, once; return its interpreter.

    Raises AssertionError with uv's words where it fails.
    """
    lock = LOCKS / f"{client}.txt"
    folder = cache / f"{client}-{hashlib.sha256(lock.read_bytes()).hexdigest()[:12]}"
    python = folder / "bin" / "python"
    whole = folder / "installed"
    if not whole.exists():
        _uv("venv", "--clear", "--python", sys.executable, str(folder))
        _uv("pip", "install", "--python", str(python), "--requirements", str(lock))
        whole.touch()
    return python


def run(cache: Path, client: str, tmp_path: Path) -> Seen:
    """Run ``CLIENT_suite.py`` against a gateway of its own, in front of the real CLI."""
    module = f"{__package__}.{client}_suite"
    return checks.run([str(install(cache, client)), "-m", module], tmp_path)


def _uv(*arguments: str) -> None:
    done = subprocess.run(
        [find_uv_bin(), "--quiet", "--no-config", *arguments],
        env={**os.environ, "UV_LINK_MODE": "copy"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, f"uv {arguments[0]} failed\n{done.stdout}\n{done.stderr}"
