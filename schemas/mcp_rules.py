"""Rules of permission for the tools of MCP servers.

Knows: the rules of Claude Code's settings that are about such tools (its documentation, "Configure
permissions"): ``mcp__SERVER`` and ``mcp__SERVER__*`` mean all tools of a server,
``mcp__SERVER__TOOL`` means one, and ``*`` in it any text. Refuses to know: who is asked where no
rule says (`actors.mcp.host`).
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Literal

from .mcp_tools import ServerTool

PREFIX = "mcp__"

Decision = Literal["allow", "deny", "ask"]
"""What becomes of a call: it is made, it is not, or clients are asked."""


def covers(rule: str, tool: ServerTool) -> bool:
    """Whether `rule` is about `tool`, whatever it is given."""
    if not rule.startswith(PREFIX):
        return False
    # In fnmatch, "[" begins a set; no name has one.
    return rule == f"{PREFIX}{tool.server}" or fnmatchcase(tool.full_name, rule.replace("[", "[[]"))


def denies(rule: str, tool: ServerTool) -> bool:
    """Whether `rule`, one of those that deny, is about some calls of `tool` at least. Of a rule for
    some inputs (``TOOL(…)``), which Claude Code does not have for such tools, all calls are meant:
    what denies too much can be mended."""
    return covers(rule.partition("(")[0], tool)
