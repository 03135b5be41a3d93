"""`ccapi login`: it becomes the CLI, which sees what a child sees, and the terminal."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from ccapi.actors.commands.login import login_environment
from ccapi.actors.commands.main import main
from ccapi.schemas.settings.settings import ClaudeSettings, Settings
from tests.support.logins import login_environment as cli_login
from tests.support.raw_cli import cli_binary

SHOWS = 'echo "asked: $*"; env; read line; echo "typed: $line"; exit 7'


def logged_in(
    tmp_path: Path, script: str, *arguments: str, **environ: str
) -> subprocess.CompletedProcess[str]:
    program = tmp_path / "claude"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o700)
    return run(tmp_path, "--claude-command", str(program), *arguments, **environ)


def run(tmp_path: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ccapi.actors.commands.main", "login", *arguments],
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), **environ},
        cwd=tmp_path,
        input="code\n",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("arguments", "asked"),
    [
        (("--console",), "auth login --console"),
        (("--token",), "setup-token"),
    ],
)
def test_the_clis_own_command_runs_and_its_exit_code_is_handed_on(
    tmp_path: Path, arguments: tuple[str, ...], asked: str
) -> None:
    done = logged_in(tmp_path, SHOWS, *arguments)
    assert done.returncode == 7, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == f"asked: {asked}"
    assert lines[-1] == "typed: code"
    assert ("CLAUDE_CODE_OAUTH_TOKEN" in done.stderr) is ("--token" in arguments)


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        ((), ["auth", "login"]),
        (("--sso",), ["auth", "login", "--sso"]),
        (("--status",), ["auth", "status", "--text"]),
    ],
)
def test_each_option_is_a_command_of_the_clis(
    monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], command: list[str]
) -> None:
    def execve(program: str, argv: list[str], env: dict[str, str]) -> None:
        assert argv == ["/bin/true", *command]
        raise SystemExit(7)

    monkeypatch.setattr("os.execve", execve)
    result = CliRunner().invoke(main, ["login", "--claude-command", "/bin/true", *arguments])
    assert result.exit_code == 7, result.output


def test_it_sees_what_a_child_of_a_subscription_sees_and_the_terminal() -> None:
    environ = {
        "PATH": "/bin", "HOME": "/home/a", "TERM": "xterm", "BROWSER": "lynx", "CLAUDECODE": "1",
        "CLAUDE_CODE__AUTH__API_KEYS": "secret", "SECRET": "x", "CLAUDE_CONFIG_DIR": "/conf",
    }  # fmt: skip
    settings = Settings(claude=ClaudeSettings(env={"HTTPS_PROXY": "http://127.0.0.1:9"}))
    seen = login_environment(settings, environ)
    assert {name: seen[name] for name in ("TERM", "BROWSER", "CLAUDE_CONFIG_DIR")} == {
        "TERM": "xterm", "BROWSER": "lynx", "CLAUDE_CONFIG_DIR": "/conf",
    }  # fmt: skip
    assert seen["HTTPS_PROXY"] == "http://127.0.0.1:9"
    hidden = {"CLAUDE_CODE_SIMPLE", "CLAUDECODE", "CLAUDE_CODE__AUTH__API_KEYS", "SECRET"}
    assert hidden.isdisjoint(seen)


def test_a_variable_that_wins_over_the_login_is_named(tmp_path: Path) -> None:
    done = logged_in(tmp_path, "exit 0", ANTHROPIC_API_KEY="sk-very-secret")
    assert "ANTHROPIC_API_KEY is set: the gateway goes by that" in done.stderr
    assert "sk-very-secret" not in done.stderr


def test_two_wishes_at_once_are_refused() -> None:
    result = CliRunner().invoke(main, ["login", "--token", "--status"])
    assert result.exit_code == 2
    assert "different things" in result.output


def test_without_a_cli_it_says_how_to_get_one() -> None:
    result = CliRunner().invoke(main, ["login", "--claude-command", "no-such-claude"])
    assert result.exit_code == 1
    assert result.output.startswith("Error: claude.command is 'no-such-claude'")


def test_the_real_cli_shows_its_status(tmp_path: Path) -> None:
    env = cli_login("token", tmp_path, "http://127.0.0.1:9")
    done = run(tmp_path, "--claude-command", cli_binary(), "--status", **env)
    assert done.returncode == 0, done.stderr
    assert "CLAUDE_CODE_OAUTH_TOKEN" in done.stdout
