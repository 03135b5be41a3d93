"""Which rule of permission is about which tool of an MCP server."""

from __future__ import annotations

import pytest

from ccapi.schemas.mcp_rules import covers, denies
from ccapi.schemas.mcp_tools import ServerTool

TOOL = ServerTool("git", "log_all", "mcp__git__log_all", "", "{}", read_only=True)


@pytest.mark.parametrize(
    "rule",
    [
        "mcp__git",
        "mcp__git__*",
        "mcp__git__log_all",
        "mcp__git__log_*",
        "mcp__*__log_all",
        "mcp__*",
    ],
)
def test_rules_about_the_tool(rule: str) -> None:
    assert covers(rule, TOOL)
    assert denies(rule, TOOL)


@pytest.mark.parametrize(
    "rule",
    [
        "mcp__gi", "mcp__git__", "mcp__git__log", "mcp__github", "mcp__git__[l]og_all", "Bash(*)",
        "*", "mcp__git__LOG_ALL", "log_all",
    ],
)  # fmt: skip
def test_rules_about_others(rule: str) -> None:
    assert not covers(rule, TOOL)
    assert not denies(rule, TOOL)


def test_a_rule_for_some_inputs_denies_all_and_allows_none() -> None:
    assert denies("mcp__git__log_all(path:/etc)", TOOL)
    assert not covers("mcp__git__log_all(path:/etc)", TOOL)
