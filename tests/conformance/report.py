"""Runs named checks one after the other, and prints one line of JSON for what each of them saw.

The suites of Python clients import it, each in an environment that holds its client alone: so it
needs nothing but anyio, which all of them bring. `report.mjs` is the same for Node.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TextIO

import anyio

BASE_URL = os.environ.get("CCAPI_TEST_BASE_URL", "")

OBEDIENT = "claude-sonnet-5"
"""The newest model that can be made to call a tool; later ones are asked in words."""

PNG = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk"
    "+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
"""A picture of one pixel, in base64."""

PDF = (
    "JVBERi0xLjQKMSAwIG9iajw8L1R5cGUvQ2F0YWxvZy9QYWdlcyAyIDAgUj4+ZW5kb2JqCjIgMCBvYmo8"
    "PC9UeXBlL1BhZ2VzL0tpZHNbMyAwIFJdL0NvdW50IDE+PmVuZG9iagozIDAgb2JqPDwvVHlwZS9QYWdl"
    "L1BhcmVudCAyIDAgUi9NZWRpYUJveFswIDAgNzIgNzJdPj5lbmRvYmoKdHJhaWxlcjw8L1Jvb3QgMSAw"
    "IFI+PgolJUVPRgo="
)
"""An empty page, in base64."""

SLOW = f"Say slowly: {' '.join(f'word{i}' for i in range(400))}"

_PATIENCE = 60.0
"""Seconds for one check; ample, so that only a check that hangs reaches it."""

Check = Callable[[], Awaitable[Any]]


def report(checks: Sequence[Check]) -> None:
    """Run the checks in one event loop, as their client's users would, and print what they saw.

    What a client prints of its own goes to stderr.
    """
    lines, sys.stdout = sys.stdout, sys.stderr
    # The loop that these clients' users have.
    anyio.run(_report, checks, lines, backend="asyncio")


async def _report(checks: Sequence[Check], lines: TextIO) -> None:
    for check in checks:
        line: dict[str, Any] = {"check": check.__name__}
        try:
            with anyio.fail_after(_PATIENCE):
                line["saw"] = await check()
        except Exception:  # noqa: BLE001  a client may raise anything; it is the check's result
            line["error"] = traceback.format_exc(limit=-6)
        lines.write(f"{json.dumps(line)}\n")
        lines.flush()
