"""The settings of agents: where they work, what they may do unasked, how long a request waits.

Knows: the keys of ``[workspaces]`` and ``[permissions]``. Refuses to know: what a rule means (that
is the CLI's).
"""

from pathlib import Path
from typing import ClassVar, Literal

from attrs import frozen

from . import rules
from .section import Section, key


@frozen(kw_only=True)
class WorkspaceSettings(Section):
    section: ClassVar[str] = "workspaces"

    root: Path | None = key(  # noqa: RUF009
        None,
        rules.optional_path,
        "Folder of the agents' working directories: one for each conversation, and those that "
        "requests name.",
        default_text="`workspaces` under `storage.path`",
    )
    keep_days: float = key(
        7.0,
        rules.not_negative,
        "How long the working directory of a conversation's own is kept after the conversation has "
        "ended. Those that requests name are never removed.",
    )
    setting_sources: tuple[str, ...] = key(
        (),
        rules.each(
            lambda source: source in ("user", "project", "local"),
            "must list user, project or local",
        ),
        "Claude Code's own settings that agents load (`user`, `project`, `local`), with CLAUDE.md "
        "and the permissions in them. Empty: none.",
    )
    sandbox: Literal["auto", "bubblewrap", "landlock", "off"] = key(
        "auto",
        rules.one_of("auto", "bubblewrap", "landlock", "off"),
        "What keeps agents within their workspace: bubblewrap, Landlock (Linux 6.12), or the first "
        "of them that this machine has. Where there is none, `auto` warns and the others refuse.",
    )
    network: bool = key(
        True,
        rules.boolean,
        "Let agents' tools reach public addresses, by HTTP proxy. Without it they reach the API "
        "and `workspaces.allowed_hosts` alone, which needs a sandbox.",
    )
    allowed_hosts: tuple[str, ...] = key(
        (),
        rules.each(rules.is_host_and_port, "must list hosts, with or without :port"),
        "Further hosts that agents may reach from a sandbox, also private ones: `name`, "
        "`name:port`, `.domain`.",
    )


@frozen(kw_only=True)
class PermissionSettings(Section):
    section: ClassVar[str] = "permissions"

    mode: Literal["default", "acceptEdits", "plan", "dontAsk"] = key(
        "default",
        rules.one_of("default", "acceptEdits", "plan", "dontAsk"),
        "What agents may do unasked, before any rule: Claude Code's permission mode.",
    )
    allow: tuple[str, ...] = key(
        (),
        rules.each(rules.is_permission_rule, "must list rules such as Bash(git status:*)"),
        "Rules of what agents may do without asking, as in Claude Code.",
    )
    deny: tuple[str, ...] = key(
        (),
        rules.each(rules.is_permission_rule, "must list rules such as Read(./secrets/**)"),
        "Rules of what agents may never do, even where a client allows it.",
    )
    timeout_seconds: float = key(
        60.0,
        rules.positive,
        "How long an agent waits for permission; without an answer it is denied.",
    )
