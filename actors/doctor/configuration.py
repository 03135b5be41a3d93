"""The settings: which are refused, and who can read the file that holds keys.

Knows: the settings loader's sources, file modes. Refuses to know: what a setting does.
"""

from __future__ import annotations

import json
import shlex
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import trio

from ...schemas.settings.rules import HASHED, Problem
from ...schemas.settings.settings import Settings
from ...transport.settings_loader import KEYS
from .case import Case
from .finding import Finding, failed, ok, warning

SETTINGS = "settings"

MCP_CURE = "Mend mcp.config_file, or set mcp.enabled to false."

OTHERS = stat.S_IRWXG | stat.S_IRWXO


def refused(problem: Problem) -> Finding:
    """One reason why no gateway starts with these settings."""
    cure = "Mend it; `ccapi config` shows all settings and where each comes from."
    return failed(SETTINGS, str(problem), cure)


async def check_settings(case: Case) -> Finding:
    """Whether others can read the file, where it holds a secret."""
    given = [key for key, source in case.sources.items() if source != "default"]
    text = f"{len(given)} of {len(case.sources)} settings are given"
    in_file = [key for key in given if case.sources[key].startswith("file ")]
    if not in_file:
        return ok(SETTINGS, f"{text}, none in a file")
    secret = [key for key in in_file if _is_secret(key, case.settings)]
    mode = await trio.to_thread.run_sync(_mode, case.file, abandon_on_cancel=True)
    if secret and mode & OTHERS:
        return warning(
            SETTINGS,
            f"{case.file} holds {', '.join(secret)}, and other users can read it "
            f"(mode {stat.S_IMODE(mode):o})",
            f"chmod 600 {shlex.quote(str(case.file))}",
        )
    return ok(SETTINGS, f"{text}, {len(in_file)} in {case.file}")


def _mode(path: Path) -> int:
    try:
        return path.stat().st_mode
    except OSError:
        return 0  # it was there a moment ago


def _is_secret(key: str, settings: Settings) -> bool:
    """Whether a setting holds a secret as it is, and not as a hash."""
    section, _, name = key.partition(".")
    value = getattr(getattr(settings, section), name)
    return KEYS[key].secret and any(not text.startswith(HASHED) for text in _texts(value))


def _texts(value: Any) -> Iterable[str]:
    if isinstance(value, Mapping):
        return [str(each) for each in value.values()]
    if isinstance(value, str):
        return [value]
    return [] if value is None else [str(each) for each in value]


async def check_mcp(case: Case) -> Finding:
    """Whether the file of the MCP servers can be read, where it is wanted. Starts none of them."""
    settings = case.settings.mcp
    if not settings.enabled:
        await trio.lowlevel.checkpoint()
        return ok("mcp", "not asked for (mcp.enabled)")
    file = settings.config_file.expanduser()
    try:
        document = json.loads(await trio.to_thread.run_sync(file.read_bytes))
        servers = document["mcpServers"]
        if not isinstance(servers, dict):
            raise TypeError
    except OSError as error:
        return failed("mcp", f"{file} cannot be read: {error.strerror}", MCP_CURE)
    except (KeyError, TypeError):
        return failed("mcp", f"{file} has no object mcpServers", MCP_CURE)
    except (ValueError, RecursionError) as error:
        return failed("mcp", f"{file} is no JSON: {error}", MCP_CURE)
    return ok("mcp", f"{len(servers)} servers in {file}")
