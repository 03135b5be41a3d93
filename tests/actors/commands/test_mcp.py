"""``ccapi mcp``: what a person reads of the MCP servers."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import structlog
from click.testing import CliRunner, Result

from ccapi.actors.commands.main import main
from ccapi.actors.commands.mcp import list_lines
from tests.support.mcp_servers import program

INSTALL = "install it, or give its whole path as command"


def check(tmp_path: Path, servers: dict[str, Any], *options: str) -> Result:
    file = tmp_path / "mcp.json"
    file.write_text(json.dumps({"mcpServers": servers}))
    arguments = ["mcp", "check", "--mcp-config-file", str(file), *options]
    return CliRunner().invoke(main, arguments)


def test_check_says_what_is_wrong_with_each_server_and_the_cure(tmp_path: Path) -> None:
    dies = {"command": "sh", "args": ["-c", "echo no token >&2; exit 3"]}
    servers = {
        "good": program("bad"),
        "none": {"command": "no-such-program"},
        "dies": dies,
        "off": {"url": "http://127.0.0.1:9/mcp"},
    }
    ran = check(tmp_path, servers, "--mcp-enabled")
    assert ran.exit_code == 1
    lines = ran.stdout.splitlines()
    assert lines[0].startswith("good: ready, 4 tools, in ")
    assert [line for line in lines if not line.startswith(("good", "  left out"))] == [
        f"none: failed: there is no program no-such-program -> {INSTALL}",
        "dies: failed: the program ended with status 3 -> run its command by hand to see why",
        "  stderr: no token",
        "off: failed: the server cannot be reached (no connection) -> start it, or correct its url",
    ]
    assert sum(line.startswith("  left out") for line in lines) == 4


def test_check_of_a_server_that_never_answers_ends(tmp_path: Path) -> None:
    sleeps = {"command": "sleep", "args": ["60"]}
    ran = check(tmp_path, {"a": sleeps}, "--mcp-enabled", "--mcp-start-timeout-seconds", "0.5")
    assert ran.exit_code == 1
    assert ran.stdout.startswith("a: failed: it was not ready within 0.5 seconds -> run its")


def test_check_of_good_servers_is_a_success_and_tells_when_none_has_them(tmp_path: Path) -> None:
    ran = check(tmp_path, {})
    assert (ran.exit_code, ran.stdout) == (0, "")
    assert ran.stderr == "mcp.enabled is false: no conversation has these tools\n"


def test_check_of_a_broken_file(tmp_path: Path) -> None:
    ran = check(tmp_path, {"a": {"foo": 1}})
    assert ran.exit_code == 2
    assert "mcpServers.a: has neither command and url" in ran.stderr


@pytest.fixture(autouse=True)
def _surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    structlog.reset_defaults()  # another test may have set up a log
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in [name for name in os.environ if name.startswith("CLAUDE_CODE__")]:
        monkeypatch.delenv(name)


def test_the_list_is_a_line_for_each_server() -> None:
    base = {"transport": "stdio", "reason": "", "next_try": None, "calls": 0, "errors": 0}
    told = {
        "data": [
            {**base, "name": "a", "state": "ready", "tools": [{}, {}], "calls": 7, "errors": 1,
             "left_out": [{"name": "x y", "reason": "its name"}]},
            {**base, "name": "b", "state": "failed", "tools": [], "left_out": [],
             "reason": "no program", "next_try": 3.5},
        ],
        "per_conversation": ["own"],
    }  # fmt: skip
    assert [*list_lines(told)] == [
        "a (stdio): ready, 2 tools, 7 calls, 1 errors",
        "  left out: 'x y': its name",
        "b (stdio): failed, 0 tools, 0 calls: no program (next try in 3.5 s)",
        "own: each conversation has its own",
    ]
