"""`ccapi doctor` as a command: what it prints, and its exit code."""

from __future__ import annotations

import json
import os
from pathlib import Path

import click
import pytest
import structlog
from click.testing import CliRunner, Result

from ccapi.actors.commands.main import main
from tests.actors.doctor.test_examination import LOGGED_OUT, SOUND, VERSION


@pytest.fixture(autouse=True)
def clean_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith(("CLAUDE_", "ANTHROPIC_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    structlog.reset_defaults()  # a process of its own has set up no log


def examined(tmp_path: Path, script: str, *arguments: str) -> Result:
    program = tmp_path / "claude"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o700)
    given = ("--claude-command", str(program), "--port", "0", "--no-models-agents")
    return CliRunner().invoke(main, ["doctor", *given, *arguments])


def test_a_line_for_each_check_and_one_at_the_end(tmp_path: Path) -> None:
    result = examined(tmp_path, SOUND)
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert [line.split()[0] for line in lines[:-1]] == ["ok"] * 13
    assert lines[-1] == "Turns can be answered (0 warnings)."


def test_what_fails_has_its_cure_and_makes_the_exit_code(tmp_path: Path) -> None:
    result = examined(tmp_path, "\n".join((VERSION, LOGGED_OUT, "exit 1")))
    assert result.exit_code == 1
    lines = result.output.splitlines()
    at = next(place for place, line in enumerate(lines) if line.startswith("failed   login"))
    assert lines[at + 1].strip().startswith("cure: `ccapi login`")
    assert lines[-1].startswith("No: 2 failed")


def test_as_json_it_is_one_document(tmp_path: Path) -> None:
    result = examined(tmp_path, SOUND, "--json")
    assert result.exit_code == 0
    document = json.loads(result.stdout)
    assert document["ok"] is True
    assert [each["state"] for each in document["checks"]] == ["ok"] * 13


def test_a_turn_is_announced_before_it_costs_anything(tmp_path: Path) -> None:
    result = examined(tmp_path, SOUND, "--json", "--turn")
    assert "costs a few tokens" in result.stderr
    assert json.loads(result.stdout)["checks"][-1]["name"] == "turn"


@pytest.mark.parametrize("as_json", [False, True])
def test_broken_settings_are_findings(tmp_path: Path, as_json: bool) -> None:
    Path("config").mkdir()
    Path("config/local.toml").write_text('[server]\nprot = 1\nport = "x"\n[auth]\napi_keys = 5\n')
    result = CliRunner().invoke(main, ["doctor", *(["--json"] if as_json else [])])
    assert result.exit_code == 1
    if as_json:
        checks = json.loads(result.stdout)["checks"]
        assert {each["name"] for each in checks} == {"settings"}
        assert all(each["cure"] for each in checks)
        assert "server.port" in " ".join(each["text"] for each in checks)
    else:
        assert (
            "failed   settings  file config/local.toml: server.prot: unknown key" in result.output
        )


def test_the_help_says_what_the_exit_code_means() -> None:
    assert isinstance(main, click.Group)
    assert "Exit code 0" in CliRunner().invoke(main, ["doctor", "--help"]).output
