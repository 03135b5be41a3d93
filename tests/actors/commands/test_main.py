"""The command line: options, what reaches the server, exit codes, what people read."""

import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

import click
import pytest
from click.testing import CliRunner, Result

from ccapi.actors.commands.main import main
from ccapi.schemas.errors import GatewayError
from ccapi.schemas.settings.settings import Problem, Settings, SettingsError
from ccapi.transport.settings_loader import KEYS

SECRET = "sk-very-secret-4711"
Server = Callable[..., int]


@pytest.fixture(autouse=True)
def clean_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("CLAUDE_CODE__")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)


def run(*arguments: str) -> Result:
    result = CliRunner().invoke(main, arguments)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Settings, bool]]:
    """What reached the server, which ends at once with exit code 7."""
    calls: list[tuple[Settings, bool]] = []

    def run_server(settings: Settings, *, demo: bool, hidden: Sequence[Path]) -> int:
        calls.append((settings, demo))
        return 7

    install(monkeypatch, run_server)
    return calls


def install(monkeypatch: pytest.MonkeyPatch, run_server: Server) -> None:
    module = ModuleType("ccapi.actors.commands.serve")
    module.run_server = run_server  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ccapi.actors.commands.serve", module)


def test_serve_passes_the_settings_and_gives_back_the_exit_code(
    served: list[tuple[Settings, bool]],
) -> None:
    result = run("serve", "--host", "127.0.0.2", "--port", "0")
    assert result.exit_code == 7
    ((settings, demo),) = served
    assert (settings.server.host, settings.server.port, demo) == ("127.0.0.2", 0, False)
    assert settings.claude.command == "claude"


def test_the_server_gets_the_flag_of_a_demonstration(served: list[tuple[Settings, bool]]) -> None:
    assert run("serve", "--demo").exit_code == 7
    ((_, demo),) = served
    assert demo


def test_the_demonstration_does_not_overrule_a_command_in_silence(
    served: list[tuple[Settings, bool]],
) -> None:
    result = run("serve", "--demo", "--claude-command", "other")
    assert result.exit_code == 2
    assert "--demo runs its own child" in result.stderr
    assert not served


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (GatewayError("the port is taken"), 1, "Error: the port is taken\n"),
        (SettingsError([Problem("a.b", "is bad")]), 2, "Error: a.b: is bad\n"),
    ],
)
def test_what_the_server_refuses_is_a_message_and_an_exit_code(
    error: Exception, code: int, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_server(settings: Settings, *, demo: bool, hidden: Sequence[Path]) -> int:
        raise error

    install(monkeypatch, run_server)
    result = run("serve")
    assert (result.exit_code, result.stderr, result.stdout) == (code, text, "")


def test_every_setting_is_an_option_and_says_so() -> None:
    text = run("serve", "--help").stdout
    for key in KEYS.values():
        assert f"{key.option}" in text
        assert f"Settings [{key.section}]:" in text
    assert "--no-cache-enabled" in text
    assert "--demo" in text
    assert "--demo" not in run("config", "--help").stdout


def test_options_of_every_kind() -> None:
    result = run(
        *("config", "--json", "--server-host", "127.0.0.3", "--no-cache-enabled"),
        *("--claude-stop-seconds", "1", "--log-level", "debug", "--server-allowed-hosts", "a"),
        *("--server-allowed-hosts", "b", "--claude-env", "A=b=c", "--models-aliases", "x=haiku"),
        *("--storage-path", "~/state"),
    )
    shown = json.loads(result.stdout)
    settings, sources = shown["settings"], shown["sources"]
    assert settings["server"]["host"] == "127.0.0.3"
    assert settings["server"]["allowed_hosts"] == ["a", "b"]
    assert settings["cache"]["enabled"] is False
    assert settings["claude"]["stop_seconds"] == 1.0
    assert settings["claude"]["env"].keys() == {"A"}
    assert settings["models"]["aliases"] == {"x": "haiku"}
    assert settings["log"]["level"] == "debug"
    assert settings["storage"]["path"] == str(Path.home() / "state")
    assert sources["cache.enabled"] == "option --no-cache-enabled"
    assert sources["server.host"] == "option --host"
    assert sources["claude.env"] == "option --claude-env"
    assert sources["claude.command"] == "default"


def test_only_options_that_were_given_override(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLAUDE_CODE__CACHE__ENABLED", "false")
    monkeypatch.setenv("CLAUDE_CODE__SERVER__ALLOWED_HOSTS", '["a"]')
    Path("own.toml").write_text('[models]\naliases = { x = "haiku" }\n', "utf-8")
    shown = run("config", "--config", "own.toml").stdout
    assert "enabled = false  # environment CLAUDE_CODE__CACHE__ENABLED" in shown
    assert 'allowed_hosts = ["a"]  # environment CLAUDE_CODE__SERVER__ALLOWED_HOSTS' in shown
    assert 'aliases = { "x" = "haiku" }  # file own.toml' in shown


def test_config_prints_toml_with_secrets_masked() -> None:
    result = run("config", "--auth-api-keys", SECRET, "--claude-env", f"TOKEN={SECRET}")
    assert result.exit_code == 0
    assert tomllib.loads(result.stdout)["auth"]["api_keys"] == ["********"]
    assert SECRET not in result.output


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--config", "no.toml"], "Error: file no.toml: does not exist\n"),
        (["--port", "99999"], "Error: option --port: server.port: must be a whole number"),
        (["--host", "0.0.0.0"], "set auth.api_keys, or listen on 127.0.0.1"),
        (["--port", "x"], "Invalid value for '--server-port' / '--port': 'x' is not"),
        (["--log-level", "loud"], "Invalid value for '--log-level'"),
        (["--claude-env", SECRET], "Invalid value for '--claude-env': must be NAME=VALUE"),
        (["--auth-api-keys", f"{SECRET} "], "option --auth-api-keys: auth.api_keys: every key"),
        (["--prot", "1"], "No such option"),
    ],
)
@pytest.mark.parametrize("command", ["serve", "config"])
def test_refused_settings_end_with_the_reason_and_code_2(
    command: str, arguments: list[str], text: str, served: list[tuple[Settings, bool]]
) -> None:
    result = run(command, *arguments)
    assert result.exit_code == 2
    assert text in result.stderr
    assert SECRET not in result.output
    assert result.stdout == ""
    assert not served


def test_all_problems_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLAUDE_CODE__SERVER__PRT", "1")
    result = run("config", "--models-default", "nope", "--cache-max-entries", "0")
    assert result.exit_code == 2
    first, *reasons = result.stderr.splitlines()
    assert first == "Error: these settings are refused:"
    assert [line.split(":")[0] for line in reasons] == [
        "  environment CLAUDE_CODE__SERVER__PRT",
        "  option --cache-max-entries",
        "  option --models-default",
    ]


def test_the_group_has_help_and_version() -> None:
    assert run("--version").stdout.startswith("ccapi, version ")
    assert isinstance(main, click.Group)
    assert set(main.commands) == {
        *("serve", "config", "chat", "export", "import"),
        *("doctor", "login", "completion", "mcp", "key", "store"),
    }
    assert "CLAUDE_CODE__SECTION__KEY" in run("-h").stdout


@pytest.mark.parametrize("program", ["ccapi", "claude-code-api"])
def test_the_installed_programs_run(program: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [Path(sys.executable).parent / program, "config", "--port", "1"],
        env={"HOME": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert tomllib.loads(done.stdout)["server"]["port"] == 1


def test_showing_help_loads_nothing_that_serves(tmp_path: Path) -> None:
    """A start at a terminal stays short: the server's libraries come with `serve` alone."""
    heavy = ["trio", "hypercorn", "starlette", "structlog", "prometheus_client", "httpx", "asyncio"]
    code = (
        "import sys; from ccapi.actors.commands.main import main; "
        "main(['config'], standalone_mode=False); "
        f"print(*set({heavy}) & set(sys.modules), file=sys.stderr, end='')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"HOME": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
