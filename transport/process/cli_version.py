"""Which version of the Claude Code CLI runs, and whether the gateway's facts hold for it.

Knows: what ``claude --version`` prints, and the oldest version that will do. Refuses to know: when
to ask, and what follows (`actors.pool.cli_watch`, `actors.doctor`).

Source: measured on the real CLI; tests/contract/test_process.py holds the test.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import trio

from ...schemas.errors import CliUnusable
from .guardian import Guardian
from .short_run import output_of

OLDEST = (2, 1, 330)
"""The first version for which the facts of tests/contract hold: before it a blank line ended a
child, and the first message could not be taken back."""

VERSION_SECONDS = 5.0
"""Longest wait for the CLI's answer, usually 60 milliseconds."""

_VERSION = re.compile(rb"\s*(\d+)\.(\d+)\.(\d+)\b")

Version = tuple[int, int, int]


def read_version(printed: bytes) -> Version | None:
    """The version at the beginning of what a program printed ("2.1.332 (Claude Code)"); None where
    it is no such answer."""
    found = _VERSION.match(printed)
    return None if found is None else (int(found[1]), int(found[2]), int(found[3]))


def version_text(version: Version) -> str:
    return ".".join(map(str, version))


async def ask_version(
    program: Sequence[str], env: Mapping[str, str], cwd: Path, guardian: Guardian
) -> Version | None:
    """The CLI's version. None where that cannot be found out: perhaps it is another program.

    Takes `VERSION_SECONDS` at most, and raises nothing.
    """
    printed: bytes | None = None
    with trio.move_on_after(VERSION_SECONDS):
        printed = await output_of([*program, "--version"], env, cwd, guardian)
    return None if printed is None else read_version(printed)


def too_old(program: str, version: Version | None) -> CliUnusable | None:
    """The error where the CLI is older than the gateway needs."""
    if version is None or version >= OLDEST:
        return None
    return CliUnusable(
        f"The Claude Code CLI at {program} is version {version_text(version)}; this gateway needs "
        f"{version_text(OLDEST)} or newer. Install that (pip install -U claude-agent-sdk, or npm "
        "install -g @anthropic-ai/claude-code), or set claude.command to the path of another.",
        code="cli_too_old",
    )
