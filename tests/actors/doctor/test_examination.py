"""The doctor in broken worlds: what it finds, and that no check hangs.

The CLI is a script here, as broken as each test needs it; `test_real_cli.py` has the real one.
"""

from __future__ import annotations

import json
import os
import stat
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from ccapi.actors.commands.key import create
from ccapi.actors.doctor import machine, storage
from ccapi.actors.doctor.examination import STEPS, TURN, Step, examine
from ccapi.actors.doctor.finding import Finding, State, is_well, render_json
from ccapi.schemas.settings.logins import LoginSettings
from ccapi.schemas.settings.settings import (
    AuthSettings,
    ClaudeSettings,
    McpSettings,
    ModelSettings,
    ServerSettings,
    Settings,
    StorageSettings,
    WorkspaceSettings,
)
from ccapi.transport.process import cli_version, login
from ccapi.transport.process.cli_version import OLDEST, version_text
from ccapi.transport.store.database import Database
from ccapi.transport.store.files import DATABASE, FolderLock
from ccapi.transport.store.key_table import open_key_table
from ccapi.transport.store.opening import open_store
from tests.support.live import open_live_demo
from tests.support.postgres import Engine

VERSION = f'[ "$*" = --version ] && echo "{version_text(OLDEST)} (Claude Code)" && exit 0'
STATUS = '[ "$*" = "auth status --json" ] &&'
LOGGED_IN = f"""{STATUS} echo '{{"loggedIn": true, "authMethod": "api_key"}}' && exit 0"""
LOGGED_OUT = f"""{STATUS} echo '{{"loggedIn": false}}' && exit 1"""
DEMO = f'exec {sys.executable} -I -m ccapi.transport.demo_cli "$@"'
SOUND = "\n".join((VERSION, LOGGED_IN, DEMO))
CLI = ("cli", "login", "modes", "models")
PATIENCE = 40.0


def settings_for(tmp_path: Path, script: str = SOUND, **sections: Any) -> Settings:
    program = tmp_path / "claude"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o700)
    given = {
        "claude": ClaudeSettings(command=str(program), env={"DEMO_CLI_SWITCHES": "{}"}),
        "server": ServerSettings(port=0),
        "storage": StorageSettings(path=tmp_path / "state"),
        "models": ModelSettings(agents=False),
    }
    return Settings(**{**given, **sections})


async def found(
    settings: Settings,
    *names: str,
    file: Path = Path("none.toml"),
    sources: Mapping[str, str] = {},
    steps: tuple[Step, ...] = (*STEPS, TURN),
) -> dict[str, Finding]:
    """What these checks find, by their names; all of them but the turn where none is named."""
    wanted = [step for step in steps if (step.name in names if names else step.name != TURN.name)]
    environ = {"PATH": "/usr/bin:/bin", "HOME": str(settings.storage.path)}
    findings: dict[str, Finding] = {}
    with trio.fail_after(PATIENCE):
        async with examine(
            settings, environ, file=file, sources=sources, steps=wanted
        ) as examination:
            async for finding in examination:
                findings[finding.name] = finding
    return findings


def states(findings: Mapping[str, Finding]) -> dict[str, State]:
    return {name: finding.state for name, finding in findings.items()}


async def test_a_sound_world_is_well(tmp_path: Path) -> None:
    findings = await found(settings_for(tmp_path))
    assert list(findings) == [step.name for step in STEPS]
    assert {*states(findings).values()} == {State.OK}, render_json(findings.values())
    assert version_text(OLDEST) in findings["cli"].text
    assert "it offers" in findings["models"].text
    assert all(not finding.cure for finding in findings.values())


async def test_there_is_no_cli(tmp_path: Path) -> None:
    settings = settings_for(tmp_path, claude=ClaudeSettings(command="no-such-claude"))
    findings = await found(settings, *CLI)
    assert set(states(findings).values()) == {State.FAILED}
    assert "no-such-claude" in findings["cli"].text
    assert "claude.command" in findings["cli"].cure


async def test_the_cli_is_too_old(tmp_path: Path) -> None:
    script = '[ "$*" = --version ] && echo "2.0.14 (Claude Code)"'
    finding = (await found(settings_for(tmp_path, script), "cli"))["cli"]
    assert finding.state is State.FAILED
    assert "is version 2.0.14; this gateway needs" in finding.text
    assert finding.cure.startswith("Install that (pip install -U claude-agent-sdk")


async def test_the_cli_is_not_logged_in(tmp_path: Path) -> None:
    findings = await found(
        settings_for(tmp_path, "\n".join((VERSION, LOGGED_OUT, DEMO))), "cli", "login", "modes"
    )
    assert findings["login"].state is State.FAILED
    assert findings["login"].cure.startswith("`ccapi login`")
    assert findings["modes"].text.endswith("no login")


@pytest.mark.parametrize(
    ("host", "state"), [("127.0.0.1", State.WARNING), ("0.0.0.0", State.FAILED)]
)
async def test_a_login_that_tells_the_account_is_not_for_other_machines(
    tmp_path: Path, host: str, state: State
) -> None:
    by_file = """echo '{"loggedIn": true, "authMethod": "claude.ai"}'"""
    script = f'if [ -n "$CLAUDE_CODE_SIMPLE" ]; then {LOGGED_OUT}\nelse {STATUS} {by_file}\nfi'
    settings = settings_for(
        tmp_path, "\n".join((VERSION, script)), server=ServerSettings(host=host, port=0)
    )
    findings = await found(settings, "cli", "login", "modes")
    assert findings["login"].state is state
    assert findings["login"].cure.startswith("`ccapi login --token`")
    assert findings["modes"].state is State.OK


async def test_the_two_modes_of_children_disagree(tmp_path: Path) -> None:
    """A login that plain models' children find, which have CLAUDE_CODE_SIMPLE, and agents' not."""
    by_mode = f'if [ -n "$CLAUDE_CODE_SIMPLE" ]; then {LOGGED_IN}\nelse {LOGGED_OUT}\nfi'
    findings = await found(
        settings_for(tmp_path, "\n".join((VERSION, by_mode, DEMO))), "cli", "login", "modes"
    )
    assert findings["login"].state is State.OK
    assert findings["modes"].state is State.FAILED
    assert findings["modes"].text == "plain models have a login by api_key, agents no login"


async def test_a_child_does_not_start(tmp_path: Path) -> None:
    script = "\n".join((VERSION, LOGGED_IN, "echo it is broken. >&2; exit 3"))
    finding = (await found(settings_for(tmp_path, script), *CLI))["models"]
    assert finding.state is State.FAILED
    assert "it is broken" in finding.text


async def test_a_cli_that_hangs_keeps_no_check_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli_version, "VERSION_SECONDS", 0.2)
    monkeypatch.setattr(login, "PROBE_SECONDS", 0.2)
    steps = tuple(attrs.evolve(step, seconds=min(step.seconds, 0.5)) for step in STEPS)
    script = '[ "$1" = auth ] && [ -z "$CLAUDE_CODE_SIMPLE" ] && sleep 1000\nexec sleep 1000'
    with trio.fail_after(20):
        findings = await found(settings_for(tmp_path, script), *CLI, steps=steps)
    assert findings["cli"].state is State.WARNING
    assert findings["login"].state is State.WARNING
    assert findings["models"] == Finding(
        "models", State.FAILED, "no answer within 0.5 s", findings["models"].cure
    )


async def test_a_check_that_breaks_keeps_no_other_from_running(tmp_path: Path) -> None:
    async def broken(_: object) -> Finding:
        await trio.lowlevel.checkpoint()
        raise RuntimeError("boo")

    steps = (Step("one", broken), *(step for step in STEPS if step.name == "disk"))
    findings = await found(settings_for(tmp_path), "one", "disk", steps=steps)
    assert findings["one"].text == "the check broke: RuntimeError: boo"
    assert findings["disk"].state is State.OK


# -- what outlives the process ---------------------------------------------------------------------


def make_database(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / DATABASE
    database = Database(path, "node")
    database.open()
    database.close()
    return path


async def test_the_store_is_whole(tmp_path: Path) -> None:
    path = make_database(tmp_path / "state")
    finding = (await found(settings_for(tmp_path), "store"))["store"]
    assert finding == Finding("store", State.OK, f"{path} is whole")


async def test_the_store_is_locked_by_another_gateway(tmp_path: Path) -> None:
    path = make_database(tmp_path / "state")
    lock = FolderLock(path)
    lock.take()
    try:
        finding = (await found(settings_for(tmp_path), "store"))["store"]
    finally:
        lock.free(closed=True)
    assert finding.state is State.FAILED
    assert f"another gateway (process {os.getpid()}) has {path.parent} open" in finding.text
    assert str(os.getpid()) in finding.cure


async def test_keys_of_the_settings_and_of_the_store_are_counted(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    assert (await found(settings, "keys"))["keys"].text == "none needed: this machine only"
    folder = settings.storage.path
    ids = [create(folder, name, (), (), {})[0].id for name in ("ann", "bob", "eve")]
    with open_key_table(folder) as table:
        table.revoke(ids[0])
    with_own = attrs.evolve(settings, auth=AuthSettings(api_keys=("secret-1",)))
    finding = (await found(with_own, "keys"))["keys"]
    assert finding == Finding("keys", State.OK, "3 keys (1 of the settings)")
    assert (await found(settings, "keys"))["keys"].text == "2 keys"
    with open_key_table(folder) as table:
        table.revoke(ids[1])
        table.revoke(ids[2])
    finding = (await found(settings, "keys"))["keys"]
    assert finding.state is State.WARNING
    assert "ccapi key create" in finding.cure


async def test_other_machines_need_a_key(tmp_path: Path) -> None:
    settings = settings_for(tmp_path, server=ServerSettings(host="0.0.0.0", port=0))
    finding = (await found(settings, "keys"))["keys"]
    assert finding.state is State.FAILED
    assert "can be reached from other machines" in finding.text
    create(settings.storage.path, "ann", (), (), {})
    assert (await found(settings, "keys"))["keys"] == Finding("keys", State.OK, "1 key")


@pytest.mark.parametrize(
    ("token", "script", "state", "text"),
    [
        ("oat-2", SOUND, State.OK, "3 logins: a (key), b (token), c (folder)"),
        (
            "oat-2",
            "\n".join((VERSION, LOGGED_OUT, DEMO)),
            State.WARNING,
            "3 logins: a (key), b (token), c (folder: the CLI is not logged in)",
        ),
        ("", SOUND, State.FAILED, "b: the environment variable TOKEN_B is not set"),
    ],
)
async def test_each_of_several_logins_is_looked_at(
    tmp_path: Path, token: str, script: str, state: State, text: str
) -> None:
    env = {"DEMO_CLI_SWITCHES": "{}", "KEY_A": "sk-ant-1", "TOKEN_B": token}
    logins = (
        LoginSettings(name="a", key_env="KEY_A"),
        LoginSettings(name="b", token_env="TOKEN_B"),
        LoginSettings(name="c", config_dir=tmp_path),
    )
    settings = settings_for(tmp_path, script, logins=logins)
    claude = attrs.evolve(settings.claude, env=env)
    findings = await found(attrs.evolve(settings, claude=claude), "cli", "login", "models")
    assert (findings["login"].state, findings["login"].text) == (state, text)
    assert bool(findings["login"].cure) is (state is not State.OK)
    assert "sk-ant-1" not in render_json(findings.values())
    if token:
        assert findings["models"].state is State.OK, findings["models"]


@pytest.mark.parametrize("how", ["pages", "no database", "another program's"])
async def test_the_store_is_damaged(tmp_path: Path, how: str) -> None:
    path = make_database(tmp_path / "state")
    whole = path.read_bytes()
    match how:
        case "pages":
            path.write_bytes(whole[:4096] + b"\x5a" * (len(whole) - 4096))
        case "no database":
            path.write_bytes(b"hello" * 1000)
        case _:
            path.write_bytes(whole[:68] + b"\x01\x02\x03\x04" + whole[72:])  # application_id
    finding = (await found(settings_for(tmp_path), "store"))["store"]
    assert finding.state is State.FAILED
    assert str(path) in finding.text
    assert "ove it away" in finding.cure


async def test_a_store_that_is_too_large_to_be_looked_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "LOOK_SECONDS", -1.0)
    monkeypatch.setattr(storage, "STEPS", 1)
    make_database(tmp_path / "state")
    finding = (await found(settings_for(tmp_path), "store"))["store"]
    assert finding.state is State.OK
    assert "so large" in finding.text


@pytest.mark.parametrize("folder", ["/proc/ccapi", "/dev/null/ccapi"])
async def test_the_disk_cannot_be_written_to(tmp_path: Path, folder: str) -> None:
    settings = settings_for(tmp_path, storage=StorageSettings(path=Path(folder)))
    findings = await found(settings, "disk", "cli")
    assert set(states(findings).values()) == {State.FAILED}
    assert folder in findings["disk"].text
    assert "storage.path" in findings["disk"].cure


async def test_the_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(**_: object) -> object:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    finding = (await found(settings_for(tmp_path), "disk"))["disk"]
    assert finding.state is State.FAILED
    assert "is full" in finding.text


@pytest.mark.parametrize(
    ("free", "state"),
    [(storage.LEAST_FREE - 1, State.FAILED), (storage.SCARCE_FREE - 1, State.WARNING)],
)
async def test_there_is_little_room_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, state: State
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": free}))
    assert (await found(settings_for(tmp_path), "disk"))["disk"].state is state


# -- the machine -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("free", "state", "words"),
    [
        (machine.CHILD_BYTES - 1, State.FAILED, "for 0 children"),
        (3 * machine.CHILD_BYTES, State.WARNING, "for 3 children"),
        (10 * machine.CHILD_BYTES, State.OK, "for 10 children"),
        (None, State.OK, "does not say"),
    ],
)
async def test_memory_for_children(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    free: int | None,
    state: State,
    words: str,
) -> None:
    monkeypatch.setattr(machine, "available_bytes", lambda: free)
    finding = (await found(settings_for(tmp_path), "memory"))["memory"]
    assert finding.state is state
    assert words in finding.text
    if state is State.WARNING:
        assert finding.cure.startswith("Set claude.max_concurrent_sessions to 3 or less")


async def test_the_port_is_taken_by_another_program(tmp_path: Path) -> None:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]

    async def hang_up(stream: trio.SocketStream) -> None:
        await stream.aclose()

    settings = settings_for(tmp_path, server=ServerSettings(port=port))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, hang_up, [listener])
        finding = (await found(settings, "port"))["port"]
        nursery.cancel_scope.cancel()
    assert finding.state is State.FAILED
    assert f"process {os.getpid()} " in finding.text
    assert str(port) in finding.text
    assert f"kill {os.getpid()}" in finding.cure


async def test_a_program_on_the_port_that_never_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "ANSWER_SECONDS", 0.2)
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        server = ServerSettings(port=listener.socket.getsockname()[1])
        finding = (await found(settings_for(tmp_path, server=server), "port"))["port"]
    assert finding.state is State.FAILED


async def test_a_gateway_that_runs_here_is_well_and_may_have_the_store(tmp_path: Path) -> None:
    async with open_live_demo(tmp_path) as live:
        port = int(live.url.rpartition(":")[2])
        settings = settings_for(tmp_path, server=ServerSettings(port=port))
        findings = await found(settings, "port", "store")
        assert findings["port"].text.endswith("and is ready")
        assert f"process {os.getpid()} has it open" in findings["store"].text
        assert is_well(findings.values())
        live.gateway.drain()
        finding = (await found(settings, "port"))["port"]
        assert finding.state is State.WARNING
        assert "draining" in finding.text


async def test_no_sandbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ccapi.transport.sandbox.sandbox._probe_bubblewrap", lambda: "none here")
    monkeypatch.setattr("ccapi.transport.sandbox.sandbox._probe_landlock", lambda: "none there")
    for wanted, state in (
        ("auto", State.WARNING),
        ("off", State.WARNING),
        ("bubblewrap", State.FAILED),
    ):
        workspaces = WorkspaceSettings(sandbox=wanted)  # type: ignore[arg-type]
        settings = settings_for(tmp_path, workspaces=workspaces, models=ModelSettings())
        finding = (await found(settings, "cli", "sandbox"))["sandbox"]
        assert finding.state is state, wanted
        assert ("none here" in finding.text) is (wanted != "off")


async def test_no_process_can_be_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(*_: object, **__: object) -> object:
        await trio.lowlevel.checkpoint()
        raise OSError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(trio.lowlevel, "open_process", refuse)
    findings = await found(settings_for(tmp_path))
    assert list(findings) == ["guardian"]
    assert findings["guardian"].text == "it does not start: Resource temporarily unavailable"


# -- the settings ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "mode", "state"),
    [
        ("a-key-as-it-is", 0o644, State.WARNING),
        ("a-key-as-it-is", 0o600, State.OK),
        ("sha256:" + "0" * 64, 0o644, State.OK),
    ],
)
async def test_a_settings_file_with_keys_is_for_its_owner(
    tmp_path: Path, key: str, mode: int, state: State
) -> None:
    file = tmp_path / "local.toml"
    file.touch()
    file.chmod(mode)
    settings = settings_for(tmp_path, auth=AuthSettings(api_keys=(key,)))
    sources = {"auth.api_keys": f"file {file}"}
    finding = (await found(settings, "settings", file=file, sources=sources))["settings"]
    assert finding.state is state
    assert key not in finding.text
    if state is State.WARNING:
        assert finding.cure == f"chmod 600 {file}"
        assert stat.S_IMODE(file.stat().st_mode) == mode


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"mcpServers": {"a": {"command": "x"}}}', "1 servers in"),
        ('{"mcpServers": []}', "mcpServers"),
        ('{"mcpServers": {"a": {"command": "x", "env": {"KEY": "secret-word"}}', "JSON"),
        ('{"mcpServers": {"a": {"command": "${NOT_THERE}"}}}', "NOT_THERE"),
        (None, "mcp.json"),
    ],
)
async def test_the_file_of_the_mcp_servers(tmp_path: Path, text: str | None, words: str) -> None:
    file = tmp_path / "mcp.json"
    if text is not None:
        file.write_text(text)
    settings = settings_for(tmp_path, mcp=McpSettings(enabled=True, config_file=file))
    finding = (await found(settings, "mcp"))["mcp"]
    assert words in finding.text
    assert "secret-word" not in finding.text
    assert finding.state is (State.OK if "servers in" in words else State.FAILED)


# -- a turn ----------------------------------------------------------------------------------------


async def test_a_turn_is_taken_where_it_is_asked_for(tmp_path: Path) -> None:
    findings = await found(settings_for(tmp_path), "cli", "turn")
    assert findings["turn"].state is State.OK, findings["turn"]
    assert "tokens" in findings["turn"].text
    assert not (tmp_path / "state" / DATABASE).exists()


async def test_a_turn_that_fails_says_what_to_do(tmp_path: Path) -> None:
    script = "\n".join((VERSION, LOGGED_OUT, "exit 1"))
    finding = (await found(settings_for(tmp_path, script), "cli", "turn"))["turn"]
    assert finding.state is State.FAILED
    assert "`ccapi login`" in finding.cure


def test_findings_as_json() -> None:
    one = Finding("cli", State.FAILED, "no\nCLI", "get one")
    two = Finding("disk", State.OK, "room")
    assert json.loads(render_json([one, two])) == {
        "ok": False,
        "checks": [
            {"name": "cli", "state": "failed", "text": "no CLI", "cure": "get one"},
            {"name": "disk", "state": "ok", "text": "room", "cure": None},
        ],
    }


@pytest.fixture(autouse=True)
def no_state_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(("CLAUDE_", "ANTHROPIC_"))]:
        monkeypatch.delenv(name)


async def test_a_shared_database(tmp_path: Path, postgres: Engine) -> None:
    url = postgres.new_place()
    settings = settings_for(tmp_path, storage=StorageSettings(path=tmp_path / "state", url=url))
    findings = await found(settings, "store", "keys")
    assert findings["store"].state is State.OK
    assert "is empty: its tables will be made" in findings["store"].text
    assert findings["keys"].text == "none needed: this machine only"
    async with open_store(url):  # which makes them, and has it open meanwhile
        create(url, "ann", (), (), {})
        findings = await found(settings, "store", "keys")
        assert "answers, and keeps 0 conversations" in findings["store"].text
        assert findings["keys"].text == "1 key"
        postgres.run(
            f"update {url.rpartition('%3D')[2]}.counter set value = 99 where name = 'schema'"
        )
    finding = (await found(settings, "store"))["store"]
    assert (finding.state, finding.cure.split()[0]) == (State.FAILED, "Install")
    away = attrs.evolve(settings.storage, url="postgresql://me:secret@127.0.0.1:9/none")
    findings = await found(attrs.evolve(settings, storage=away), "store", "keys")
    assert states(findings) == {"store": State.FAILED, "keys": State.FAILED}
    assert "cannot be reached" in findings["store"].text
    assert "secret" not in repr(findings)
