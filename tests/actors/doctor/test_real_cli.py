"""The doctor in front of the real CLI, which asks a stub on loopback and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from ccapi.actors.doctor.examination import STEPS, TURN, examine
from ccapi.actors.doctor.finding import Finding, State
from tests.support.live import settings_for
from tests.support.logins import LoginName, login_environment, open_refusing_proxy
from tests.support.messages_stub import open_messages_stub
from tests.support.raw_cli import cli_binary

WANTED = ("cli", "login", "modes", "models", "turn")


@pytest.mark.parametrize(
    ("login", "state", "words"),
    [
        (None, State.FAILED, "the CLI is not logged in"),
        ("token", State.OK, "CLAUDE_CODE_OAUTH_TOKEN"),
    ],
)
async def test_each_login_is_recognised_and_tried(
    tmp_path: Path, login: LoginName | None, state: State, words: str
) -> None:
    findings: dict[str, Finding] = {}
    async with open_messages_stub() as stub, open_refusing_proxy() as proxy:
        env = login_environment(login, tmp_path, stub.url, proxy.url)
        settings = settings_for(tmp_path, env, cli_binary())
        steps = [step for step in (*STEPS, TURN) if step.name in WANTED]
        with trio.fail_after(60):
            async with examine(
                settings, {"PATH": "/usr/bin:/bin"}, file=Path("none"), sources={}, steps=steps
            ) as examination:
                async for finding in examination:
                    findings[finding.name] = finding
        assert len(stub.requests) == (0 if login is None else 1)
    assert findings["cli"].state is State.OK
    assert findings["login"].state is state
    assert words in findings["login"].text
    assert findings["modes"].state is State.OK
    assert "sonnet" in findings["models"].text
    assert findings["turn"].state is (State.FAILED if login is None else State.OK)
