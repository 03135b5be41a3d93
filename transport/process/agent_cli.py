"""How an agent is started: Claude Code with its own tools and prompt, in a workspace.

Knows: the flags and variables that make an agent of the CLI, and where its workspace is. Refuses to
know: which messages it gets, and who permits what it does.

Source: measured on the real CLI; tests/contract/test_agent_*.py hold one test per fact.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from attrs import frozen

from ...schemas.claude.input import TOOL_SERVERS
from ...schemas.settings.rules import Problem, SettingsError
from ...schemas.settings.settings import Settings
from ...schemas.turn import AgentOrigin

AGENT_FLAGS = (
    "-p",
    *("--input-format", "stream-json"),
    *("--output-format", "stream-json"),
    "--verbose",
    "--include-partial-messages",
    "--strict-mcp-config",
    "--disable-slash-commands",
    *("--permission-prompt-tool", "stdio"),
)

NOT_FOR_AGENTS = ("CLAUDE_CODE_SIMPLE", "DISABLE_COMPACT")
"""Variables of a plain model's child that would take an agent's tools, or its way to go on when
its conversation has become too long."""

TOOLS = (
    "Agent", "Bash", "Edit", "Glob", "Grep", "NotebookEdit", "Read", "TaskCreate", "TaskGet",
    "TaskList", "TaskUpdate", "WebFetch", "WebSearch", "Write",
)  # fmt: skip
"""What agents have of Claude Code's tools. Left out: what needs a terminal with a person before it
(questions, plans), and what has the CLI begin turns of its own later (schedules, monitors)."""

OWN_NAMES = frozenset((*TOOLS, "Task"))
"""Names under which the CLI finds its own tools, whatever else is offered. (Task is Agent's older
one.)"""

FOR_AGENTS = {
    # A command in the background would have the CLI begin a turn when it ends, unasked.
    "CLAUDE_CODE_DISABLE_BACKGROUND_TASKS": "1",
    # Else there is a memory that other conversations in the same workspace share.
    "CLAUDE_CODE_DISABLE_AUTO_MEMORY": "1",
    # What the operator's account is connected to is not the clients'.
    "ENABLE_CLAUDEAI_MCP_SERVERS": "0",
    # Else the MCP servers that it starts itself have its whole environment, and the login in it.
    "CLAUDE_CODE_MCP_ALLOWLIST_ENV": "1",
}


@frozen
class Agents:
    """What all agents are started with. `root` is the folder of their workspaces; `owns_root`: it
    is the gateway's own, and no folder that the operator has named."""

    root: Path
    flags: Sequence[str]
    allowed: Sequence[str]
    owns_root: bool = False

    def workspace(self, name: str) -> Path:
        """The working directory called `name`, made where it is missing, and closed to others.

        Raises `OSError`; also where it leads out of `root`.
        """
        place = self.root / name
        if not place.resolve().is_relative_to(self.root.resolve()):
            raise PermissionError(1, "it leads out of workspaces.root", str(place))
        # `mkdir` gives its mode to the last part only, and to none that is there already.
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        below = [part for part in (place, *place.parents) if part.is_relative_to(self.root)]
        for part in reversed(below):
            part.mkdir(mode=0o700, exist_ok=True)
            if part.stat().st_mode & 0o77 and (part != self.root or self.owns_root):
                part.chmod(0o700)
        return place

    def arguments(self, origin: AgentOrigin) -> list[str]:
        """The flags of one agent, but for what it resumes."""
        rules = dict.fromkeys((*self.allowed, *origin.grants))
        return [*AGENT_FLAGS, *self.flags, "--model", origin.model, "--allowedTools", *rules]

    def spare_arguments(self) -> list[str]:
        """The flags of a child that any new agent's conversation can have: model and grants come
        behind its claim."""
        return [*AGENT_FLAGS, *self.flags, "--await-claim", "--allowedTools", *self.allowed]


def agents_of(settings: Settings, root: Path) -> Agents:
    """Raises `SettingsError` where `file_access.skip_permissions` cannot be had."""
    access, permissions = settings.file_access, settings.permissions
    sources = ",".join(settings.workspaces.setting_sources)
    flags = ["--tools", ",".join(TOOLS), "--setting-sources", sources]
    if access.skip_permissions:
        if os.geteuid() == 0:
            reason = "the CLI refuses it to root; run the gateway as another user"
            raise SettingsError([Problem("file_access.skip_permissions", reason)])
        flags.append("--dangerously-skip-permissions")
    else:
        flags += ["--permission-mode", permissions.mode]
    if access.additional_dirs:
        flags += ["--add-dir", *access.additional_dirs]
    if permissions.deny:
        flags += ["--disallowedTools", *permissions.deny]
    return Agents(
        root=(settings.workspaces.root or root / "workspaces").expanduser().absolute(),
        flags=flags,
        allowed=(*(f"mcp__{server}" for server in TOOL_SERVERS), *permissions.allow),
        owns_root=settings.workspaces.root is None,
    )


def agent_environment(env: Mapping[str, str]) -> dict[str, str]:
    """What an agent's child sees, of what a plain model's does."""
    kept = {name: value for name, value in env.items() if name not in NOT_FOR_AGENTS}
    return kept | FOR_AGENTS
