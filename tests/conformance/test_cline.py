"""Cline's command-line program on the gateway, with its entry for Anthropic's API.

Its own settings file has the address, as its editor extension writes it. It runs in a
home and working directories of its own. A run costs seconds of its own, so few of them do much.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import trio
from attrs import frozen

from . import node
from .checks import LOOPBACK_ONLY
from .gateway import open_gateway_for_clients
from .report import OBEDIENT

HERE = Path(__file__).parent / "cline"
PATIENCE = 150.0
LOCAL = {"CLINE_SESSION_BACKEND_MODE": "local", "CLINE_NO_AUTO_UPDATE": "1"}
"""Without the first it leaves a daemon behind."""


def settings(url: str) -> dict[str, Any]:
    given = {"provider": "anthropic", "apiKey": "unused", "baseUrl": url, "model": OBEDIENT}
    entry = {"settings": given, "tokenSource": "manual", "updatedAt": "2026-01-01T00:00:00.000Z"}
    return {"version": 1, "lastUsedProvider": "anthropic", "providers": {"anthropic": entry}}


@frozen
class Ran:
    """One ``cline --json PROMPT``: its events, and what the model was asked meanwhile."""

    status: int
    events: Sequence[Mapping[str, Any]]
    stderr: str

    @property
    def end(self) -> Mapping[str, Any]:
        [end] = [event for event in self.events if event["type"] == "run_result"]
        return end

    @property
    def said(self) -> str:
        assert (self.status, self.end["finishReason"]) == (0, "completed"), self.events
        return str(self.end["text"])


@frozen
class Seen:
    runs: Mapping[str, Ran]
    work: Path
    models: frozenset[str]


@pytest.fixture(scope="module")
def seen(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Seen:
    if platform.machine() != "x86_64":
        pytest.skip("the program that package.json pins is for x86-64")
    assert pytestconfig.cache is not None
    folder = node.install(pytestconfig.cache.mkdir("cline"), HERE)
    program = folder / "node_modules" / "@cline" / "cli-linux-x64" / "bin" / "cline"
    return trio.run(_look, program, tmp_path_factory.mktemp("cline"))


async def _look(program: Path, folder: Path) -> Seen:
    runs: dict[str, Ran] = {}
    home, work = folder / "home", folder / "work"
    written = home / ".cline" / "data" / "settings"
    for place in (written, work):
        place.mkdir(parents=True)
    commands = {"commands": ["echo made by cline > made.txt", "cat made.txt"]}
    prompts = {
        "turn": "My name is Ada. What is my name?",
        "tools": f"Call run_commands with {json.dumps(commands)}",
    }
    with trio.fail_after(PATIENCE):
        async with open_gateway_for_clients(folder) as (url, stub):
            (written / "providers.json").write_text(json.dumps(settings(url)))

            async def run(name: str, model: str, prompt: str) -> None:
                done = await trio.run_process(
                    [str(program), "--json", "-P", "anthropic", "-m", model, prompt],
                    cwd=work,
                    env={"PATH": os.environ["PATH"], "HOME": str(home), **LOCAL, **LOOPBACK_ONLY},
                    capture_stdout=True,
                    capture_stderr=True,
                    check=False,
                )
                events = tuple(map(json.loads, done.stdout.decode().splitlines()))
                runs[name] = Ran(done.returncode, events, done.stderr.decode())

            async with trio.open_nursery() as nursery:
                for name, prompt in prompts.items():
                    nursery.start_soon(run, name, OBEDIENT, prompt)
                nursery.start_soon(run, "unknown", "gpt-nope", "Hello to you")
            models = frozenset(request.model for request in stub.requests)
    return Seen(runs, work, models)


def test_a_turn_and_its_usage(seen: Seen) -> None:
    run = seen.runs["turn"]
    assert run.said == "Your name is Ada."
    assert run.end["usage"]["inputTokens"] > 0
    assert seen.models == {OBEDIENT}


def test_its_tools_work(seen: Seen) -> None:
    assert "made by cline" in seen.runs["tools"].said
    assert (seen.work / "made.txt").read_text() == "made by cline\n"


def test_an_unknown_model_is_named(seen: Seen) -> None:
    run = seen.runs["unknown"]
    assert run.end["finishReason"] == "error"
    assert "gpt-nope" in json.dumps(run.events)
