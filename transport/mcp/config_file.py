"""Reads the file of MCP servers.

Knows: files. Refuses to know: what is in one (`schemas.mcp_config`).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping

from ...schemas.mcp_config import MAX_FILE_BYTES, McpConfig, read_config
from ...schemas.settings.rules import Problem, SettingsError
from ...schemas.settings.settings import McpSettings


def load_config(settings: McpSettings, environ: Mapping[str, str]) -> McpConfig:
    """The servers of ``mcp.config_file``. Raises `SettingsError`."""
    path = settings.config_file
    try:
        with path.open("rb") as file:
            text = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        reason = f"{path} cannot be read: {error.strerror}"
        raise SettingsError([Problem("mcp.config_file", reason)]) from error
    return read_config(text, str(path), environ, settings.per_conversation)


def check_package() -> None:
    """Raises `SettingsError` where the `mcp` package is not installed. Does not import it."""
    if importlib.util.find_spec("mcp") is None:
        reason = "needs the package mcp: pip install 'claude-code-api[mcp]'"
        raise SettingsError([Problem("mcp.enabled", reason)])
