"""The examples run as they stand, each as a program of its own, with the demo CLI or the CLI.

An example that is not listed here fails a test: what is shown to people has to work.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import trio

from ..support.live import open_live_demo
from ..support.messages_stub import open_messages_stub
from ..support.raw_cli import cli_binary, cli_environment

EXAMPLES = Path(__file__).parents[2] / "examples"
PATIENCE = 60.0

STANDALONE: dict[str, list[tuple[tuple[str, ...], tuple[str, ...]]]] = {
    "embedding.py": [((), ("> Hello! My name is Ada.", "[stop, "))],
    "batch.py": [
        ((), ("--- Count to 20.", "19, 20.", "\nstructured concurrency")),
        (("say: one", "say: two"), ("--- say: one\none\n", "--- say: two\ntwo\n")),
    ],
}
"""Programs that bring their own gateway: arguments beside --demo, and what they print."""

CLIENTS = {
    "openai_sdk.py": ("/v1", "> My name is Ada."),
    "tools.py": ("/v1", "add({'a': 19, 'b': 23}) = 42\n"),
    "curl.sh": ("", "data: [DONE]"),
}
"""Programs that want a gateway to be running: what follows its URL, and what they print."""


async def run(program: str, *args: str, env: Mapping[str, str]) -> str:
    """What the example prints; it must succeed and keep its stderr to itself."""
    interpreter = sys.executable if program.endswith(".py") else "/bin/sh"
    with trio.fail_after(PATIENCE):
        done = await trio.run_process(
            [interpreter, str(EXAMPLES / program), *args],
            env=dict(env),
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    assert done.returncode == 0, done.stderr.decode()
    assert done.stderr == b""
    return bytes(done.stdout).decode()


def test_every_example_is_tried() -> None:
    found = {path.name for path in EXAMPLES.iterdir() if path.suffix in (".py", ".sh")}
    assert found == STANDALONE.keys() | CLIENTS.keys()


@pytest.mark.parametrize("program", CLIENTS)
async def test_it_talks_to_a_running_gateway(program: str, tmp_path: Path) -> None:
    path, words = CLIENTS[program]
    async with open_live_demo(tmp_path) as live:
        env = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
        assert words in await run(program, live.url + path, env=env)


@pytest.mark.parametrize(
    ("program", "args", "said"),
    [(program, *case) for program, cases in STANDALONE.items() for case in cases],
)
async def test_it_runs_without_an_account(
    program: str, args: tuple[str, ...], said: tuple[str, ...], tmp_path: Path
) -> None:
    printed = await run(
        program, "--demo", *args, env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    )
    for words in said:
        assert words in printed


@pytest.mark.parametrize("program", STANDALONE)
async def test_it_runs_with_the_cli(program: str, tmp_path: Path) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "claude").symlink_to(cli_binary())
    async with open_messages_stub() as stub:
        env = cli_environment(tmp_path, stub.url)
        printed = await run(program, env={**env, "PATH": f"{folder}:{env['PATH']}"})
    assert "turn 1: " in printed
    assert len(stub.requests) >= 2
