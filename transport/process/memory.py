"""Memory that is given back to the system once it is not used any more, and what a process uses.

Knows: glibc's allocator (``mallopt(3)``), ``/proc``. Refuses to know: who uses memory.

glibc raises the size from which on a block gets pages of its own to that of the largest block that
was ever freed, up to 32 MiB. From then on bodies of megabytes lie in the heap, between others, and
their memory stays with the process for good. Setting the size, once, ends that.
"""

from __future__ import annotations

import ctypes
import resource
import sys
from pathlib import Path

PAGE = resource.getpagesize()

GROUPS = Path("/sys/fs/cgroup")
"""Where the system shows control groups."""


def resident_bytes(pid: int) -> int:
    """How much memory a process uses, as ``/proc`` says; 0 where that is not known."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE
    except (OSError, ValueError, IndexError):
        return 0


def available_bytes(proc: Path = Path("/proc"), groups: Path = GROUPS) -> int | None:
    """How much memory this process may still take without swapping: what the machine has, or what
    its control group leaves of that (cgroups(7), version 2). None where that is not known."""
    try:
        lines = (proc / "meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvail"))
        group = (proc / "self" / "cgroup").read_text().rpartition("::")[2].strip()
    except (OSError, ValueError, StopIteration):
        return None
    folder = groups / group.lstrip("/")
    for place in (folder, *folder.parents):
        if not place.is_relative_to(groups):
            break
        try:
            most = int((place / "memory.max").read_text())  # "max" is no number
            free = min(free, most - int((place / "memory.current").read_text()))
        except (OSError, ValueError):
            continue
    return max(0, free)


_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8

OWN_PAGES = 256 * 1024
"""Bytes from which on a block gets pages of its own."""

ARENAS = 2
"""Heaps: one for each of the few threads that work at once is too many."""


def give_back_memory() -> bool:
    """For the whole process. Says whether the allocator is one that takes it."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False  # another C library: musl gives back by itself
    wishes = (
        (_MMAP_THRESHOLD, OWN_PAGES),
        (_TRIM_THRESHOLD, 2 * OWN_PAGES),
        (_ARENA_MAX, ARENAS),
    )
    return all(mallopt(name, value) == 1 for name, value in wishes)
