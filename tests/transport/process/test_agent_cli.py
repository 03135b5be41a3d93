"""How an agent is started."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Literal

import pytest
import structlog.testing

from ccapi.actors.conversations.workspace_paths import name_of_place
from ccapi.actors.conversations.workspaces import place_of
from ccapi.actors.opening import open_gateway
from ccapi.schemas.errors import InvalidRequest
from ccapi.schemas.settings.rules import is_permission_rule
from ccapi.schemas.settings.settings import (
    FileAccessSettings,
    PermissionSettings,
    Settings,
    SettingsError,
    StorageSettings,
    WorkspaceSettings,
)
from ccapi.schemas.turn import AgentOrigin, AgentSpare
from ccapi.transport.process.agent_cli import agent_environment, agents_of
from ccapi.transport.process.cli import find_cli
from ccapi.transport.sandbox.files import remove_tree

SPARE = f"conv_{'1' * 32}"
ORIGIN = AgentOrigin("sonnet", "mine", ("Bash(ls:*)",))


def value_of(arguments: list[str], flag: str) -> list[str]:
    """What stands behind a flag, up to the next one."""
    behind = arguments[arguments.index(flag) + 1 :]
    end = next((at for at, each in enumerate(behind) if each.startswith("-")), len(behind))
    return behind[:end]


def test_rules_and_folders_are_the_clis_to_apply(tmp_path: Path) -> None:
    settings = Settings(
        file_access=FileAccessSettings(additional_dirs=("/data", "/more")),
        permissions=PermissionSettings(mode="plan", allow=("Read",), deny=("Bash(rm:*)",)),
        workspaces=WorkspaceSettings(root=tmp_path, setting_sources=("project",)),
    )
    arguments = agents_of(settings, Path("/elsewhere")).arguments(ORIGIN)
    assert value_of(arguments, "--model") == ["sonnet"]
    assert value_of(arguments, "--permission-mode") == ["plan"]
    assert value_of(arguments, "--permission-prompt-tool") == ["stdio"]
    assert value_of(arguments, "--add-dir") == ["/data", "/more"]
    assert value_of(arguments, "--disallowedTools") == ["Bash(rm:*)"]
    assert value_of(arguments, "--setting-sources") == ["project"]
    allowed = value_of(arguments, "--allowedTools")
    assert allowed == [*(f"mcp__client{n}" for n in range(12)), "Read", "Bash(ls:*)"]


def test_a_spare_has_all_flags_of_an_agent_but_what_its_claim_brings(tmp_path: Path) -> None:
    settings = Settings(
        file_access=FileAccessSettings(additional_dirs=("/data",)),
        permissions=PermissionSettings(mode="plan", allow=("Read",), deny=("Bash(rm:*)",)),
    )
    agents = agents_of(settings, tmp_path)
    cold, spare = agents.arguments(AgentOrigin("sonnet", "mine")), agents.spare_arguments()
    model = cold.index("--model")
    assert [each for each in spare if each != "--await-claim"] == cold[:model] + cold[model + 2 :]


@pytest.mark.parametrize("sandbox", ["off", "auto"])
async def test_a_spare_waits_in_its_workspace_or_where_nothing_is(
    sandbox: Literal["off", "auto"], tmp_path: Path
) -> None:
    settings = Settings(
        storage=StorageSettings(path=tmp_path), workspaces=WorkspaceSettings(sandbox=sandbox)
    )
    cli = find_cli(settings, {"PATH": "/usr/bin:/bin"}, demo=True)
    binds = cli.binds_workspaces
    command = await cli.prepare(AgentSpare(SPARE if binds else ""))
    if command.scratch is not None:
        remove_tree(command.scratch)
    assert command.cwd == (tmp_path / "workspaces" / SPARE if binds else tmp_path / "chat")
    assert command.runs_others
    assert json.loads(command.ahead)["request"]["subtype"] == "get_context_usage"
    assert command.trace is not None
    assert command.trace.session_id in command.argv
    moved = cli.moved(command.trace, tmp_path / "workspaces" / "mine")
    assert moved.folder.endswith("-workspaces-mine")
    assert moved.session_id == command.trace.session_id


def test_nothing_is_skipped_unless_it_is_asked_for(tmp_path: Path) -> None:
    arguments = agents_of(Settings(), tmp_path).arguments(ORIGIN)
    assert not [each for each in arguments if "skip" in each]
    assert value_of(arguments, "--setting-sources") == [""]


def test_root_may_not_skip_permissions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    skipping = Settings(file_access=FileAccessSettings(skip_permissions=True))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(SettingsError, match=r"file_access\.skip_permissions"):
        agents_of(skipping, tmp_path)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    arguments = agents_of(skipping, tmp_path).arguments(ORIGIN)
    assert "--dangerously-skip-permissions" in arguments
    assert "--permission-mode" not in arguments


async def test_skipping_permissions_is_loud(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    settings = Settings(
        file_access=FileAccessSettings(skip_permissions=True),
        storage=StorageSettings(path=tmp_path),
    )
    with structlog.testing.capture_logs() as logs:
        async with open_gateway(settings, environ={"PATH": "/bin"}, demo=True):
            pass
    loud = [line for line in logs if "file_access.skip_permissions is set" in line["event"]]
    assert [line["log_level"] for line in loud] == ["warning"]


def test_a_workspace_is_made_and_stays_within_its_root(tmp_path: Path) -> None:
    agents = agents_of(Settings(workspaces=WorkspaceSettings(root=tmp_path / "w")), tmp_path)
    assert agents.workspace("a/b") == tmp_path / "w" / "a" / "b"
    assert (tmp_path / "w" / "a" / "b").is_dir()
    (tmp_path / "w" / "out").symlink_to("/tmp")
    with pytest.raises(PermissionError):
        agents.workspace("out")


def test_workspaces_and_what_is_around_them_are_closed_to_others(tmp_path: Path) -> None:
    """Also those that were there before. A folder that the operator named stays as it is."""
    agents = agents_of(Settings(), tmp_path)
    (tmp_path / "workspaces" / "key" / "old").mkdir(parents=True, mode=0o755)
    named = agents_of(Settings(workspaces=WorkspaceSettings(root=tmp_path / "named")), tmp_path)
    (tmp_path / "named").mkdir(mode=0o755)
    places = [agents.workspace("key/old"), agents.workspace("key/new"), named.workspace("a/b")]
    closed = [*places, places[0].parent, agents.root, places[2].parent]
    assert [oct(place.stat().st_mode & 0o777) for place in closed] == ["0o700"] * 6
    assert (tmp_path / "named").stat().st_mode & 0o777 == 0o755


def test_an_agent_has_its_tools_and_starts_nothing_later() -> None:
    env = agent_environment({"PATH": "/bin", "CLAUDE_CODE_SIMPLE": "1", "DISABLE_COMPACT": "1"})
    assert "CLAUDE_CODE_SIMPLE" not in env
    assert env["CLAUDE_CODE_DISABLE_BACKGROUND_TASKS"] == "1"


def test_a_key_has_workspaces_of_its_own() -> None:
    assert place_of("", "agent", "k" * 64) == ""
    assert place_of("mine", "agent", "local") == "mine"
    assert place_of("mine", "agent", "k" * 64) == "k" * 16 + "/mine"
    assert name_of_place("k" * 16 + "/mine") == "mine"
    assert name_of_place("") is None


@pytest.mark.parametrize("name", ["..", "a/b", ".hidden", "x" * 65, "conv_1", "a b", "é"])
def test_names_that_could_lead_elsewhere_are_refused(name: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        place_of(name, "agent", "local")
    assert caught.value.param == "workspace"


@pytest.mark.parametrize(
    ("rule", "good"),
    [
        ("Bash", True),
        ("Bash(git status:*)", True),
        ("mcp__server__*", True),
        ("", False),
        ("--flag", False),
        ("Bash(", False),
        ("Bash(ls), Read", False),
        (7, False),
    ],
)
def test_what_is_a_rule(rule: object, good: bool) -> None:
    assert is_permission_rule(rule) is good
