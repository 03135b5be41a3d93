"""The CLI's version: how it is read, and what is too old."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from ccapi.transport.process import cli_version
from ccapi.transport.process.cli_version import (
    OLDEST,
    ask_version,
    read_version,
    too_old,
    version_text,
)
from ccapi.transport.process.guardian import open_guardian


@pytest.mark.parametrize(
    ("printed", "version"),
    [
        (b"2.1.332 (Claude Code)\n", (2, 1, 332)),
        (b"10.0.0\n", (10, 0, 0)),
        (b"2.1.332-beta.1 (Claude Code)\n", (2, 1, 332)),
        (b"2.1\n", None),
        (b"node v22.1.0\n", None),
        (b"", None),
        (b"\xff\xfe", None),
    ],
)
def test_the_version_is_what_the_answer_begins_with(
    printed: bytes, version: tuple[int, int, int] | None
) -> None:
    assert read_version(printed) == version


def test_only_a_version_that_is_known_can_be_too_old() -> None:
    assert too_old("claude", None) is None
    assert too_old("claude", OLDEST) is None
    assert too_old("claude", (2, 10, 0)) is None
    error = too_old("/opt/claude", (2, 1, 9))
    assert error is not None
    assert (error.status, error.code) == (503, "cli_too_old")
    assert "/opt/claude is version 2.1.9" in error.message
    assert version_text(OLDEST) in error.message


async def asked(tmp_path: Path, script: str) -> object:
    program = tmp_path / "claude"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o700)
    async with open_guardian() as guardian:
        return await ask_version([str(program)], {"PATH": "/usr/bin:/bin"}, tmp_path, guardian)


@pytest.mark.parametrize(
    ("script", "version"),
    [
        ('test "$*" = --version && echo "3.2.1 (Claude Code)"', (3, 2, 1)),
        ("exit 1", None),
        ("yes 1.2.3", (1, 2, 3)),
    ],
)
async def test_it_is_asked_of_the_program(
    tmp_path: Path, script: str, version: tuple[int, int, int] | None
) -> None:
    with trio.fail_after(20):
        assert await asked(tmp_path, script) == version


async def test_a_program_that_does_not_answer_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli_version, "VERSION_SECONDS", 0.3)
    with trio.fail_after(20):
        assert await asked(tmp_path, "sleep 1000") is None
