"""Server-sent events as bytes (WHATWG HTML, 9.2 "Server-sent events").

Knows: how one event is framed. Refuses to know: what an event means, and who writes it.
"""

from __future__ import annotations

CONTENT_TYPE = "text/event-stream; charset=utf-8"

PREFIX = b"data: "
SUFFIX = b"\n\n"

DONE = b"data: [DONE]\n\n"
"""OpenAI's end mark. A stream that lacks it was cut off."""

HEARTBEAT = b": heartbeat\n\n"
"""A comment: it keeps proxies and read timeouts calm, and clients never see it."""


def event(data: bytes) -> bytes:
    """One event. `data` is JSON without line ends, as every JSON encoder here writes it."""
    return PREFIX + data + SUFFIX
