"""Which program is run as the CLI, with which flags, and what it sees of the world."""

from __future__ import annotations

import importlib.util
import shutil
import stat
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from ccapi.schemas.errors import ChildDied, Overloaded
from ccapi.schemas.message import Message
from ccapi.schemas.settings.rules import SettingsError
from ccapi.schemas.settings.settings import ClaudeSettings, Settings, StorageSettings
from ccapi.schemas.turn import Recording, ResumePoint
from ccapi.transport.process.cli import FIXED_ENVIRONMENT, Cli, child_environment, find_cli


def settings_in(tmp_path: Path, **claude: Any) -> Settings:
    return Settings(
        claude=ClaudeSettings(**claude), storage=StorageSettings(path=tmp_path / "state")
    )


def find(
    tmp_path: Path, environ: Mapping[str, str] = {}, *, demo: bool = False, **claude: Any
) -> Cli:
    return find_cli(settings_in(tmp_path, **claude), environ, demo=demo)


def executable(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o700)
    return path


# --- the environment ------------------------------------------------------------------------------

INHERITED = [
    *("PATH", "HOME", "LANG", "TZ", "TMPDIR", "USER", "SHELL", "XDG_CONFIG_HOME"),
    *("LC_ALL", "LC_CTYPE", "ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL", "CLAUDE_CONFIG_DIR"),
    *("CLAUDE_CODE_USE_BEDROCK", "CLAUDE_CODE_OAUTH_TOKEN", "AWS_REGION", "AWS_PROFILE"),
    *("GOOGLE_APPLICATION_CREDENTIALS", "CLOUD_ML_REGION", "SSL_CERT_FILE", "SSL_CERT_DIR"),
    *("HTTPS_PROXY", "https_proxy", "NO_PROXY", "ALL_PROXY", "NODE_EXTRA_CA_CERTS"),
]
KEPT_BACK = [
    *("CLAUDECODE", "CLAUDE_CODE_ENTRYPOINT", "CLAUDE_CODE_SSE_PORT"),
    *("CLAUDE_CODE__AUTH__API_KEYS", "CLAUDE_CODE__SERVER__PORT", "CLAUDE_CODE__CLAUDE__ENV"),
    *("OPENAI_API_KEY", "DATABASE_URL", "SSH_AUTH_SOCK", "LD_PRELOAD", "NODE_OPTIONS"),
    *("PYTHONPATH", "BASH_ENV", "MY_ANTHROPIC_KEY", "claude_x", "DEMO_CLI_SWITCHES", "PROXY_USER"),
]


@pytest.mark.parametrize("name", INHERITED)
def test_inherited(tmp_path: Path, name: str) -> None:
    assert child_environment(settings_in(tmp_path), {name: "value"})[name] == "value"


@pytest.mark.parametrize("name", KEPT_BACK)
def test_kept_back(tmp_path: Path, name: str) -> None:
    assert name not in child_environment(settings_in(tmp_path), {name: "value"})


def test_nothing_comes_of_nothing(tmp_path: Path) -> None:
    ours = {"CLAUDE_CODE_MAX_RETRIES": "2", "MCP_TOOL_TIMEOUT": "660000"}
    expected = {**FIXED_ENVIRONMENT, **ours}
    assert child_environment(settings_in(tmp_path), {}) == expected


def test_settings_win_over_what_is_inherited(tmp_path: Path) -> None:
    settings = settings_in(
        tmp_path, env={"ANTHROPIC_API_KEY": "set", "NODE_OPTIONS": "too"}, max_retries=7
    )
    inherited = {"ANTHROPIC_API_KEY": "found", "CLAUDE_CODE_MAX_RETRIES": "9"}
    environment = child_environment(settings, inherited)
    assert environment["ANTHROPIC_API_KEY"] == "set"
    assert environment["NODE_OPTIONS"] == "too"
    assert environment["CLAUDE_CODE_MAX_RETRIES"] == "7"


@pytest.mark.parametrize("name", FIXED_ENVIRONMENT)
def test_what_safety_rests_on_wins_over_everything(tmp_path: Path, name: str) -> None:
    settings = settings_in(tmp_path, env={name: "0"})
    assert child_environment(settings, {name: "0"})[name] == FIXED_ENVIRONMENT[name]


# --- the program ----------------------------------------------------------------------------------


def test_found_on_the_path(tmp_path: Path) -> None:
    program = executable(tmp_path / "bin" / "claude")
    assert find(tmp_path, {"PATH": f"/nowhere:{tmp_path}/bin"}).program == (str(program),)


def test_found_by_another_name(tmp_path: Path) -> None:
    program = executable(tmp_path / "bin" / "my-claude")
    cli = find(tmp_path, {"PATH": f"{tmp_path}/bin"}, command="my-claude")
    assert cli.program == (str(program),)


def test_found_by_its_path(tmp_path: Path) -> None:
    program = executable(tmp_path / "with space" / "claude")
    assert find(tmp_path, command=str(program)).program == (str(program),)


@pytest.mark.parametrize(
    ("command", "path"), [("./bin/claude", ""), ("bin/claude", ""), ("claude", "bin")]
)
def test_a_relative_path_is_relative_to_the_gateway(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, path: str
) -> None:
    # A child runs in a directory of its own, where the path would lead nowhere.
    program = executable(tmp_path / "bin" / "claude")
    monkeypatch.chdir(tmp_path)
    assert find(tmp_path, {"PATH": path}, command=command).program == (str(program),)


def test_home_is_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = executable(tmp_path / "claude")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find(tmp_path, command="~/claude").program == (str(program),)


def test_without_one_on_the_path_the_bundled_one_serves(tmp_path: Path) -> None:
    [program] = find(tmp_path, {"PATH": "/nowhere"}).program
    assert Path(program).parent.name == "_bundled"
    assert Path(program).is_file()


def test_nowhere_to_be_found_is_an_error_with_advice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(Overloaded) as raised:
        find(tmp_path, {"PATH": "/nowhere"})
    assert raised.value.code == "cli_not_found"
    for advice in ("npm install", "pip install", "claude.command", "--demo"):
        assert advice in raised.value.message


@pytest.mark.parametrize("kind", ["missing", "not executable", "a directory"])
def test_a_command_that_was_asked_for_is_not_replaced(tmp_path: Path, kind: str) -> None:
    command = tmp_path / "cli"
    if kind == "not executable":
        command.write_text("#!/bin/sh\n")
    if kind == "a directory":
        command.mkdir()
    with pytest.raises(Overloaded) as raised:
        find(tmp_path, {"PATH": "/usr/bin:/bin"}, command=str(command))
    assert raised.value.code == "cli_not_found"
    assert str(command) in raised.value.message


# --- the command ----------------------------------------------------------------------------------


def test_a_generic_child(tmp_path: Path) -> None:
    program = executable(tmp_path / "claude")
    cli = find(tmp_path, command=str(program), stop_seconds=1.5, max_line_bytes=70_000)
    command = cli.command()
    argv = list(command.argv)
    assert argv[0] == str(program)
    for flag, value in [
        ("--input-format", "stream-json"),
        ("--output-format", "stream-json"),
        ("--tools", ""),
        ("--setting-sources", ""),
        ("--agent", "gw"),
    ]:
        assert argv[argv.index(flag) + 1] == value
    for flag in ("-p", "--include-partial-messages", "--strict-mcp-config"):
        assert flag in argv
    assert "--resume" not in argv
    assert command.env == cli.env
    assert command.stop_seconds == 1.5
    assert command.max_line_bytes == 70_000


@pytest.mark.parametrize(
    ("point", "flags"),
    [
        (ResumePoint("s-1", "u-9"), ["--resume", "s-1", "--resume-session-at", "u-9"]),
        (ResumePoint("s-1", None), ["--resume", "s-1"]),
    ],
)
def test_a_child_that_resumes(tmp_path: Path, point: ResumePoint, flags: list[str]) -> None:
    cli = find(tmp_path, demo=True)
    # What another conversation may get writes no transcript; what resumes one goes on with it.
    *generic, last = cli.command().argv
    assert last == "--no-session-persistence"
    assert list(cli.command(point).argv) == [*generic, *flags]


def test_children_work_under_the_storage_path(tmp_path: Path) -> None:
    cwd = find(tmp_path, demo=True).cwd
    assert cwd == tmp_path / "state" / "chat"
    assert cwd.is_dir()


def test_the_demo_runs_whatever_lies_in_its_directory(tmp_path: Path) -> None:
    command = find(tmp_path, {"PATH": "/usr/bin:/bin", "PYTHONPATH": "/nowhere"}, demo=True)
    for name in ("json.py", "ccapi.py", "signal.py"):
        (command.cwd / name).write_text("raise SystemExit(9)")
    argv = [*command.command().argv, "--version"]
    done = subprocess.run(
        argv, cwd=command.cwd, env=dict(command.env), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "(demo)" in done.stdout
    assert argv[0] == sys.executable


# --- the working directory ------------------------------------------------------------------------


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_what_the_gateway_stores_is_for_its_owner_alone(tmp_path: Path) -> None:
    cli = find(tmp_path, demo=True)
    assert (mode(tmp_path / "state"), mode(cli.cwd)) == (0o700, 0o700)


def test_a_directory_that_was_deleted_is_made_again_for_the_next_child(tmp_path: Path) -> None:
    cli = find(tmp_path, demo=True)
    shutil.rmtree(tmp_path / "state")
    assert cli.command().cwd.is_dir()
    assert (mode(tmp_path / "state"), mode(cli.cwd)) == (0o700, 0o700)


def test_a_directory_that_cannot_be_made_again_fails_the_child(tmp_path: Path) -> None:
    cli = find(tmp_path, demo=True)
    shutil.rmtree(tmp_path / "state")
    (tmp_path / "state").write_text("in the way")
    with pytest.raises(ChildDied, match=r"could not be started: .*File exists"):
        cli.command()


@pytest.mark.parametrize("path", ["/proc/x", "file", "file/x", "~no-user-of-that-name/x"])
def test_a_storage_path_that_cannot_be_used_is_a_refused_setting(tmp_path: Path, path: str) -> None:
    (tmp_path / "file").write_text("in the way")
    where = Path(path) if path.startswith("~") else tmp_path / path
    with pytest.raises(SettingsError) as raised:
        find_cli(Settings(storage=StorageSettings(path=where)), {}, demo=True)
    [problem] = raised.value.problems
    assert problem.key == "storage.path"
    assert problem.reason


def test_a_child_waits_longer_for_tools_than_the_gateway_does(tmp_path: Path) -> None:
    """The CLI would tell the model that a call timed out; the gateway takes the turn back."""
    settings = settings_in(tmp_path, tool_wait_seconds=1.5)
    assert child_environment(settings, {})["MCP_TOOL_TIMEOUT"] == "61500"


async def test_a_recorded_history_is_where_the_child_looks_for_it(tmp_path: Path) -> None:
    cli = find(tmp_path, {"CLAUDE_CONFIG_DIR": str(tmp_path / "config")}, demo=True)
    said = (Message("user", ("one",)), Message("assistant", ("two",)))
    point = await cli.record(Recording(said, "haiku"))
    [path] = (tmp_path / "config" / "projects").glob(f"*/{point.session_id}.jsonl")
    assert str(point.assistant_uuid) in path.read_text().splitlines()[-1]
    argv = cli.command(point).argv
    assert argv[argv.index("--resume") + 1] == point.session_id


async def test_a_history_that_cannot_be_recorded_says_so(tmp_path: Path) -> None:
    (tmp_path / "config").write_text("a file")
    cli = find(tmp_path, {"CLAUDE_CONFIG_DIR": str(tmp_path / "config")}, demo=True)
    said = (Message("user", ("one",)), Message("assistant", ("two",)))
    with pytest.raises(ChildDied, match="could not be written"):
        await cli.record(Recording(said, "haiku"))
