"""`ccapi completion`: scripts that the shells take, and what they then offer."""

from __future__ import annotations

import shutil
import subprocess

import pytest
from click.shell_completion import BashComplete
from click.testing import CliRunner

from ccapi.actors.commands.completion import SHELLS
from ccapi.actors.commands.main import main


@pytest.mark.parametrize("shell", SHELLS)
def test_each_shell_gets_a_script_that_asks_ccapi(shell: str) -> None:
    result = CliRunner().invoke(main, ["completion", shell])
    assert result.exit_code == 0, result.output
    assert f"_CCAPI_COMPLETE={shell}_complete" in result.stdout
    if shell == "bash" and shutil.which("bash"):
        subprocess.run(["bash", "-n"], input=result.stdout, text=True, check=True, timeout=20)


@pytest.mark.parametrize(
    ("words", "begun", "offered"),
    [
        ([], "do", {"doctor"}),
        (["doctor"], "--tu", {"--turn"}),
        (["completion"], "", set(SHELLS)),
        (["serve"], "--server-po", {"--server-port"}),
    ],
)
def test_what_is_offered(words: list[str], begun: str, offered: set[str]) -> None:
    complete = BashComplete(main, {}, "ccapi", "_CCAPI_COMPLETE")
    assert {item.value for item in complete.get_completions(words, begun)} == offered


def test_another_shell_is_refused() -> None:
    assert CliRunner().invoke(main, ["completion", "cmd"]).exit_code == 2
