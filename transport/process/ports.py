"""Which process listens on a port of this machine.

Knows: ``/proc/net/tcp``, ``/proc/PID/fd``. Refuses to know: why that is asked.

Source: proc_pid_net(5), proc_pid_fd(5). Others' processes are only seen by root.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

LISTENING = "0A"


def listener_of(port: int, proc: Path = Path("/proc")) -> tuple[int, str] | None:
    """Pid and name of a process that listens on `port`; None where that is not known."""
    inodes = {f"socket:[{inode}]" for inode in _inodes(port, proc)}
    for folder in proc.glob("[0-9]*") if inodes else ():
        with suppress(OSError):
            for file in (folder / "fd").iterdir():
                if str(file.readlink()) in inodes:
                    return int(folder.name), (folder / "comm").read_text().strip()
    return None


def _inodes(port: int, proc: Path) -> Iterator[str]:
    for name in ("tcp", "tcp6"):
        try:
            lines = (proc / "net" / name).read_text().splitlines()[1:]
        except OSError:
            continue
        for words in map(str.split, lines):
            if words[3] == LISTENING and int(words[1].rpartition(":")[2], 16) == port:
                yield words[9]
