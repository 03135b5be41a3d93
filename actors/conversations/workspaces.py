"""The names that clients give to an agent's surroundings: its workspace, and tools beside its own.

Knows: which names there may be, and that one key's workspaces are not another's. Refuses to know:
the disk, and how an agent is started (`transport.process.agent_cli`).
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Iterable

from ...schemas.errors import InvalidRequest
from ...schemas.turn import Profile, Tool
from ...transport.process.agent_cli import OWN_NAMES
from ..keys.registry import LOCAL
from .workspace_paths import OWN

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
    if not _NAME.fullmatch(name) or name.startswith(OWN):
        raise InvalidRequest(
            f"workspace must be a name of 1 to 64 letters, digits, ., _ and -, and not "
            f"{reprlib.repr(name)}.",
            code="invalid_value",
            param="workspace",
        )
    return name if owner == LOCAL else f"{owner[:16]}/{name}"


def check_tools(tools: Iterable[Tool], profile: Profile) -> None:
    """Refuse tools that an agent has itself under that name: the CLI would take its own, and the
    client would never be asked. Raises `InvalidRequest`."""
    if profile != "agent":
        return
    taken = [tool.name for tool in tools if tool.name in OWN_NAMES]
    if taken:
        raise InvalidRequest(
            f"An agent has tools of its own called {', '.join(taken)}: give yours other names.",
            code="tool_name_taken",
            param="tools",
        )
