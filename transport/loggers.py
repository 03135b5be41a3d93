"""Where this package's log lines go: where the program that runs it wants them.

Knows: structlog and the standard library's `logging`. Refuses to know: levels and formats
(`actors.commands.serve` sets them up for ``ccapi serve``).

A program that embeds the gateway and has not configured structlog gets the lines through
`logging`, under ``ccapi.…``, and sees nothing unless it configured that. Left to itself structlog
would print them to the program's standard output.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import Any, TextIO

import structlog

logging.getLogger("ccapi").addHandler(logging.NullHandler())


class HeldLog:
    """A text file that keeps what is written to it until `release`, so that something can be said
    before; from then on it passes all on to `file`. It holds `MOST_HELD` pieces, then no longer."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._held: list[str] | None = []

    def write(self, text: str) -> int:
        if self._held is None:
            return self._file.write(text)
        self._held.append(text)
        if len(self._held) >= MOST_HELD:
            self.release()
        return len(text)

    def flush(self) -> None:
        if self._held is None:
            self._file.flush()

    def release(self, before: str = "") -> None:
        """Write `before`, and what was held."""
        held, self._held = self._held or [], None
        self._file.write(before + "".join(held))
        self._file.flush()


MOST_HELD = 1000


def get_logger(name: str) -> Any:
    """A structlog logger that is bound on first use, called ``ccapi.…``."""
    choose: Any = partial(_bound, name)  # called as a class would be
    return structlog.wrap_logger(None, wrapper_class=choose)


def _bound(name: str, logger: Any, processors: Any, context: Any) -> Any:
    if structlog.is_configured():
        chosen = structlog.get_config()
        return chosen["wrapper_class"](logger, chosen["processors"], context)
    plain = [structlog.contextvars.merge_contextvars, structlog.stdlib.render_to_log_kwargs]
    return structlog.stdlib.BoundLogger(logging.getLogger(name), plain, context)
