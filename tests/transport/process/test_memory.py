"""How much memory there is, in machines and control groups that are made up."""

from __future__ import annotations

from pathlib import Path

import pytest

from ccapi.transport.process.memory import available_bytes

KIB = 1024


def machine(tmp_path: Path, group: str = "/a/b") -> tuple[Path, Path]:
    proc, groups = tmp_path / "proc", tmp_path / "groups"
    (proc / "self").mkdir(parents=True)
    (groups / "a" / "b").mkdir(parents=True)
    (proc / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable:    5000 kB\n")
    (proc / "self" / "cgroup").write_text(f"0::{group}\n")
    return proc, groups


def limit(folder: Path, most: str, used: int) -> None:
    (folder / "memory.max").write_text(f"{most}\n")
    (folder / "memory.current").write_text(f"{used}\n")


def test_without_a_limit_it_is_what_the_machine_has(tmp_path: Path) -> None:
    proc, groups = machine(tmp_path)
    limit(groups / "a" / "b", "max", 5)
    assert available_bytes(proc, groups) == 5000 * KIB


@pytest.mark.parametrize("where", ["a", "a/b"])
def test_the_least_that_a_control_group_leaves_counts(tmp_path: Path, where: str) -> None:
    proc, groups = machine(tmp_path)
    limit(groups / where, str(3000 * KIB), 1000 * KIB)
    assert available_bytes(proc, groups) == 2000 * KIB


def test_a_group_that_is_full_leaves_nothing(tmp_path: Path) -> None:
    proc, groups = machine(tmp_path)
    limit(groups / "a", "1000", 3000)
    assert available_bytes(proc, groups) == 0


def test_where_the_system_does_not_say_it_is_not_known(tmp_path: Path) -> None:
    assert available_bytes(tmp_path, tmp_path) is None
