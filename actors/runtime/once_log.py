"""Warnings that are written once per cause, however often it comes again.

Knows: which causes were told since something last went well. Refuses to know: what they are about.
"""

from __future__ import annotations

import re
from typing import Any

MOST_CAUSES = 64
"""Causes that are remembered; beyond them every one is told."""

_NUMBERS = re.compile(r"0x[0-9a-f]+|\d+", re.IGNORECASE)


class OnceLog:
    """Warnings to `log`, of each cause one until `forget` is called."""

    def __init__(self, log: Any) -> None:
        self._log = log
        self._told: set[str] = set()

    def __repr__(self) -> str:
        return f"<OnceLog {len(self._told)}>"

    def warn(self, event: str, cause: str, **details: Any) -> None:
        """Write the warning unless its like was written. Numbers in `cause` (times, process ids)
        make no other cause of it."""
        like = f"{event}: {_NUMBERS.sub('#', cause)}"
        if like in self._told:
            return
        if len(self._told) < MOST_CAUSES:
            self._told.add(like)
        self._log.warning(event, **details)

    def forget(self) -> bool:
        """All went well: what happens from here on is new. Whether there was anything to forget."""
        had, self._told = bool(self._told), set()
        return had
