"""Disks in memory that can be filled, and made writable again."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def small_disk(folder: Path, size: str = "2m") -> Iterator[Path]:
    """A disk in memory that has room for `size`."""
    folder.mkdir()
    mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder))
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def mount(*args: str) -> None:
    """Skips the test where this user may not."""
    try:
        done = subprocess.run(["mount", *args], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("There is no mount command: no small or read-only disk can be made.")
    if done.returncode:
        pytest.skip(f"This user cannot mount a disk of its own: {done.stderr.strip()}")


def fill(folder: Path) -> Path:
    """Take all the room that a disk has; returns the file that has it."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError:
            return filler
