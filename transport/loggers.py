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
from typing import Any

import structlog

logging.getLogger("ccapi").addHandler(logging.NullHandler())


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
