"""How the gateway asks the CLI for its login, and what a child's environment then is."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio

from ccapi.schemas.message import Message
from ccapi.schemas.settings.settings import ClaudeSettings, Settings, StorageSettings
from ccapi.schemas.turn import Recording
from ccapi.transport.process import login
from ccapi.transport.process.cli import FIXED_ENVIRONMENT, Cli, find_cli
from ccapi.transport.process.guardian import Guardian, open_guardian
from ccapi.transport.process.login import (
    LEAN,
    SUBSCRIPTION_ENVIRONMENT,
    Login,
    Means,
    ask_login,
    login_by_status,
    login_by_variables,
    read_status,
)
from ccapi.transport.process.short_run import MOST_BYTES

IN = {"loggedIn": True}
OUT = {"loggedIn": False, "authMethod": "none"}


def status(method: str, **fields: Any) -> dict[str, Any]:
    return {"loggedIn": True, "authMethod": method, **fields}


# --- the decision ---------------------------------------------------------------------------------

DECISIONS: list[Any] = [
    # the child's own variables, the answers with and without SIMPLE, the login
    ({}, status("api_key"), status("api_key"), Means.KEY),
    ({}, status("third_party"), status("third_party"), Means.KEY),
    ({"CLAUDE_CODE_OAUTH_TOKEN": "t"}, status("third_party"), None, Means.KEY),
    ({"CLAUDE_CODE_OAUTH_TOKEN": "t"}, OUT, None, Means.OAUTH_TOKEN),
    ({"CLAUDE_CODE_OAUTH_TOKEN": "t"}, None, None, Means.OAUTH_TOKEN),
    ({}, OUT, status("claude.ai"), Means.FILE),
    ({}, OUT, status("oauth_token"), Means.FILE),  # by what is not known here: as careful
    ({}, OUT, status("api_key", apiKeySource="/login managed key"), Means.MANAGED_KEY),
    ({}, OUT, status("api_key_helper"), Means.KEY_HELPER),
    ({}, OUT, OUT, Means.NOTHING),
    ({}, OUT, None, Means.NOTHING),
    ({}, None, status("claude.ai"), Means.FILE),
    ({}, None, None, Means.UNKNOWN),
]


@pytest.mark.parametrize(("env", "lean", "full", "means"), DECISIONS)
def test_the_login_by_the_answers(env: Any, lean: Any, full: Any, means: Means) -> None:
    assert login_by_status(env, lean, full) == Login(means)


@pytest.mark.parametrize(
    ("env", "means"),
    [
        ({"ANTHROPIC_AUTH_TOKEN": "t", "CLAUDE_CODE_OAUTH_TOKEN": "o"}, Means.AUTH_TOKEN),
        ({"ANTHROPIC_AUTH_TOKEN": "t", "ANTHROPIC_API_KEY": "k"}, Means.AUTH_TOKEN),
        ({"ANTHROPIC_API_KEY": "k", "CLAUDE_CODE_OAUTH_TOKEN": "o"}, Means.KEY),
        ({"ANTHROPIC_API_KEY": ""}, None),
        ({"CLAUDE_CODE_OAUTH_TOKEN": "o"}, None),
        ({"CLAUDE_CODE_USE_BEDROCK": "1"}, None),
        ({}, None),
    ],
)
def test_two_variables_decide_alone(env: dict[str, str], means: Means | None) -> None:
    assert login_by_variables(env) == (None if means is None else Login(means))


@pytest.mark.parametrize("means", Means)
def test_what_a_login_means(means: Means) -> None:
    found = Login(means)
    subscription = means in (Means.OAUTH_TOKEN, Means.FILE, Means.MANAGED_KEY)
    assert found.is_lean is not subscription
    assert found.has_own_config is (means is Means.OAUTH_TOKEN)
    assert found.tells_account is (means is Means.FILE)
    assert found.is_missing is (means in (Means.NOTHING, Means.KEY_HELPER))
    assert not (found.is_fixed and found.is_missing)


@pytest.mark.parametrize(
    "printed", [b"", b"no JSON", b"[]", b"{}", b'{"loggedIn": "yes"}', b"\xff", b'{"loggedIn":']
)
def test_what_is_no_answer(printed: bytes) -> None:
    assert read_status(printed) is None


# --- what a child sees ----------------------------------------------------------------------------


def cli_in(tmp_path: Path, **env: str) -> Cli:
    program = tmp_path / "claude"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o700)
    claude = ClaudeSettings(command=str(program), env=env)
    settings = Settings(claude=claude, storage=StorageSettings(path=tmp_path / "state"))
    return find_cli(settings, {"HOME": str(tmp_path), "SHELL": "/bin/zsh"})


def test_a_key_keeps_the_lean_mode(tmp_path: Path) -> None:
    cli = cli_in(tmp_path)
    assert cli.environment(LEAN) == cli.env
    assert cli.command().env["CLAUDE_CODE_SIMPLE"] == "1"


@pytest.mark.parametrize("means", [Means.OAUTH_TOKEN, Means.FILE, Means.MANAGED_KEY])
def test_a_subscription_cannot_have_it(tmp_path: Path, means: Means) -> None:
    cli = cli_in(tmp_path, CLAUDE_CONFIG_DIR="/operator", CLAUDE_CODE_DISABLE_AUTO_MEMORY="0")
    env = cli.command(login=Login(means)).env
    assert "CLAUDE_CODE_SIMPLE" not in env
    assert "SHELL" not in env
    assert env.items() >= SUBSCRIPTION_ENVIRONMENT.items()
    others = FIXED_ENVIRONMENT.keys() - {"CLAUDE_CODE_SIMPLE"}
    assert all(env[name] == FIXED_ENVIRONMENT[name] for name in others)
    own = str(tmp_path / "state" / "claude")
    assert env["CLAUDE_CONFIG_DIR"] == (own if means is Means.OAUTH_TOKEN else "/operator")


async def test_with_a_token_the_folder_is_the_gateways_and_private(tmp_path: Path) -> None:
    cli = cli_in(tmp_path, CLAUDE_CONFIG_DIR=str(tmp_path / "operator"))
    await cli.prepare(None, Login(Means.OAUTH_TOKEN))
    own = tmp_path / "state" / "claude"
    assert own.stat().st_mode & 0o777 == 0o700
    said = (Message("user", ("hello",)), Message("assistant", ("hi",)))
    history = Recording(said, "claude-haiku-4-5")
    await cli.prepare(history, Login(Means.OAUTH_TOKEN))
    assert [*own.glob("projects/*/*.jsonl")]
    assert not (tmp_path / "operator").exists()
    await cli.prepare(history, Login(Means.FILE))
    assert [*(tmp_path / "operator").glob("projects/*/*.jsonl")]


# --- asking ---------------------------------------------------------------------------------------


@pytest.fixture
async def guardian() -> AsyncIterator[Guardian]:
    async with open_guardian() as running:
        yield running


def program(tmp_path: Path, script: str) -> tuple[str, ...]:
    file = tmp_path / "asked"
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o700)
    return (str(file),)


BY_MODE = (
    '[ "$*" = "auth status --json" ] || exit 3; cat >/dev/null\n'
    'if [ -n "$CLAUDE_CODE_SIMPLE" ]; then echo \'{"loggedIn": false}\'; exit 1; fi\n'
    f"echo '{json.dumps(status('claude.ai'), indent=1)}'"
)


async def test_it_is_asked_in_both_modes(tmp_path: Path, guardian: Guardian) -> None:
    asked = await ask_login(program(tmp_path, BY_MODE), {"PATH": "/bin"}, tmp_path, guardian)
    assert asked == Login(Means.FILE)


async def test_with_a_token_it_is_asked_once(tmp_path: Path, guardian: Guardian) -> None:
    counting = program(tmp_path, f'echo "$CLAUDE_CODE_SIMPLE" >>{tmp_path}/count\n{BY_MODE}')
    env = {"PATH": "/bin", "CLAUDE_CODE_OAUTH_TOKEN": "t", "CLAUDE_CODE_SIMPLE": "1"}
    assert await ask_login(counting, env, tmp_path, guardian) == Login(Means.OAUTH_TOKEN)
    assert (tmp_path / "count").read_text() == "1\n"


async def test_with_a_key_it_is_not_asked(tmp_path: Path, guardian: Guardian) -> None:
    nowhere = ("/nowhere",)
    assert await ask_login(nowhere, {"ANTHROPIC_API_KEY": "k"}, tmp_path, guardian) == LEAN


@pytest.mark.parametrize(
    "script",
    [
        "exit 0",
        "echo hello",
        "exit 7",
        f"head -c {MOST_BYTES * 4} /dev/zero; sleep 1000",
        "kill -9 $$",
        "exec /nowhere/at/all",
    ],
)
async def test_another_program_is_let_be(tmp_path: Path, guardian: Guardian, script: str) -> None:
    with trio.fail_after(5):
        asked = await ask_login(program(tmp_path, script), {"PATH": "/bin"}, tmp_path, guardian)
    assert asked == Login(Means.UNKNOWN)


async def test_no_program_at_all_is_no_error(tmp_path: Path, guardian: Guardian) -> None:
    assert await ask_login(("/nowhere",), {}, tmp_path, guardian) == Login(Means.UNKNOWN)


async def test_one_that_hangs_is_ended_with_all_that_it_runs(
    tmp_path: Path, guardian: Guardian, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(login, "PROBE_SECONDS", 0.3)
    hangs = program(tmp_path, f"sleep 1000 & echo $! >>{tmp_path}/pids; wait")
    with trio.fail_after(5):
        asked = await ask_login(hangs, {"PATH": "/bin"}, tmp_path, guardian)
        assert asked == Login(Means.UNKNOWN)
        for pid in (tmp_path / "pids").read_text().split():
            while _runs(int(pid)):
                await trio.sleep(0.01)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(") ")[1][0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


async def test_what_it_says_in_time_counts_if_the_other_hangs(
    tmp_path: Path, guardian: Guardian, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(login, "PROBE_SECONDS", 1.0)
    says = """[ -n "$CLAUDE_CODE_SIMPLE" ] || sleep 1000; echo '{"loggedIn": false}'"""
    half = program(tmp_path, says)
    with trio.fail_after(5):
        asked = await ask_login(half, {"PATH": os.defpath}, tmp_path, guardian)
    assert asked == Login(Means.NOTHING)
