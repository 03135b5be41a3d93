"""What sandboxes leave on the disk, and its removal.

Knows: a child's scratch folder, named after the gateway's process. Refuses to know: what is in it.
"""

from __future__ import annotations

import os
import subprocess
from contextlib import suppress
from pathlib import Path

CONTROL, FILTER = "@CONTROL@", "@FILTER@"
"""Words of a command that stand for the numbers of descriptors: the launcher's socket to the
gateway, and what the filter for system calls is read from."""


def remove_tree(path: Path) -> None:
    """Remove what an agent has left. It may be of any depth, and closed to its own user."""
    if not _run("rm", "-rf", "--", str(path)):
        _run("chmod", "-R", "u+rwX", "--", str(path))
        _run("rm", "-rf", "--", str(path))


def remove_left(folder: Path) -> None:
    """Remove the scratch folders in `folder` whose gateway is gone without having done so."""
    with suppress(OSError):
        for place in folder.iterdir():
            number = place.name.partition("-")[0]
            if number.isdecimal() and not _lives(int(number)):
                remove_tree(place)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def _run(*command: str) -> bool:
    done = subprocess.run(  # noqa: S603
        command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False
    )
    return done.returncode == 0
