"""The two streams of messages that a transport gives to the session."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import trio
from attrs import frozen

from .interface import LinkError


def _nothing() -> str:
    return ""


@frozen
class Streams:
    """`received` and `outgoing` carry the `mcp` package's messages. `ended` is set when the
    connection is over, and `failure` then says why, where the transport knows. `stderr` is what a
    program wrote there last."""

    received: Any
    outgoing: Any
    ended: trio.Event
    failure: Callable[[], LinkError | None]
    stderr: Callable[[], str] = _nothing
