"""The names of workspaces that clients use, and the folders they are.

Knows: which names there may be, and that one key's are not another's. Refuses to know: the disk
(`transport.agent_cli`).
"""

from __future__ import annotations

import re
import reprlib

from ..schemas.errors import InvalidRequest
from ..schemas.turn import Profile

LOCAL = "local"
"""The owner of everything when no API keys are configured, and of what a program embeds."""

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")


def place_of(name: str, profile: Profile, owner: str) -> str:
    """The workspace that `name` is for `owner`, relative to ``workspaces.root``; empty for the
    conversation's own. Raises `InvalidRequest`."""
    if not name:
        return ""
    if profile != "agent":
        raise InvalidRequest(
            "Only agents work in a workspace: ask for a model whose name begins with agent/.",
            code="unsupported_parameter",
            param="workspace",
        )
    if not _NAME.fullmatch(name) or name.startswith("conv_"):
        raise InvalidRequest(
            f"workspace must be a name of 1 to 64 letters, digits, ., _ and -, and not "
            f"{reprlib.repr(name)}.",
            code="invalid_value",
            param="workspace",
        )
    return name if owner == LOCAL else f"{owner[:16]}/{name}"


def name_of_place(place: str) -> str | None:
    """The name that a client gave to it, if one did."""
    return place.rpartition("/")[2] or None
