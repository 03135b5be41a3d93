"""Warnings that are logged once per cause, however often the cause recurs.

Knows: which causes it has logged since the last success. Refuses to know: what they mean.
"""

from __future__ import annotations

import re
from typing import Any

MOST_CAUSES = 64
"""Causes that are remembered; beyond them every warning is logged."""

_NUMBERS = re.compile(r"0x[0-9a-f]+|\d+", re.IGNORECASE)


class OnceLog:
    """Warnings to `log`, of each cause one until `forget` is called."""

    def __init__(self, log: Any) -> None:
        self._log = log
        self._logged: set[str] = set()

    def __repr__(self) -> str:
        return f"<OnceLog {len(self._logged)}>"

    def warn(self, event: str, cause: str, **details: Any) -> None:
        """Log the warning unless one of the same cause was logged. Numbers in `cause` (times,
        process ids) do not make it another cause."""
        like = f"{event}: {_NUMBERS.sub('#', cause)}"
        if like in self._logged:
            return
        if len(self._logged) < MOST_CAUSES:
            self._logged.add(like)
        self._log.warning(event, **details)

    def forget(self) -> bool:
        """A success: the next warning of any cause is new. Returns whether there was one."""
        had, self._logged = bool(self._logged), set()
        return had
