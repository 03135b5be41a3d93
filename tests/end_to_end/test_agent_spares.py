"""Agents that are started ahead, in front of the demo CLI: taken, refused, dead."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from ccapi.actors.keys.registry import KeyRegistry
from ccapi.actors.opening import _serves_agents as serves_agents
from ccapi.schemas.settings.settings import AuthSettings, ModelSettings, WorkspaceSettings
from tests.support.live import Live, open_live, settings_for

CLAUDE = {"prewarm": 0, "prewarm_agents": 1, "max_concurrent_sessions": 8}
PATIENCE = 20.0
ONE, TWO = "first-key-of-a-test-0001", "second-key-of-a-test-002"


@asynccontextmanager
async def open_spares(
    tmp_path: Path, sandbox: Any = "auto", **switches: Any
) -> AsyncIterator[Live]:
    env = {"HOME": str(tmp_path), "DEMO_CLI_SWITCHES": json.dumps({"pace_ms": 0, **switches})}
    workspaces = WorkspaceSettings(sandbox=sandbox)
    settings = settings_for(tmp_path, env, claude=CLAUDE, workspaces=workspaces)
    async with open_live(settings, demo=True) as live:
        with trio.fail_after(PATIENCE):
            while not live.gateway._pool._spares:
                await trio.sleep(0.02)
        yield live


async def ask(live: Live, text: str, **fields: Any) -> tuple[str, str, str]:
    """What an agent answers, where its child came from, and the conversation's name."""
    body = {"model": "agent/haiku", "messages": [{"role": "user", "content": text}], **fields}
    async with httpx.AsyncClient(timeout=PATIENCE) as client:
        answer = await client.post(f"{live.base_url}/chat/completions", json=body)
    assert answer.status_code == 200, answer.text
    said = answer.json()["choices"][0]["message"]["content"]
    return said, answer.headers["x-ccapi-child"], answer.headers["x-conversation-id"]


async def test_a_new_agent_takes_one_and_goes_on_with_it(tmp_path: Path) -> None:
    async with open_spares(tmp_path) as live:
        said, source, name = await ask(live, "repeat: on")
        assert (said, source) == ("on", "prewarmed")
        assert (await ask(live, "repeat: off", conversation_id=name))[:2] == ("off", "warm")


async def test_the_turn_of_one_that_refuses_is_a_new_childs(tmp_path: Path) -> None:
    for sandbox in ("auto", "off"):
        async with open_spares(tmp_path, sandbox, refuse_claim=True) as live:
            for _ in range(2):
                assert (await ask(live, "repeat: on"))[:2] == ("on", "new")


async def test_one_that_dies_costs_a_new_agent_nothing_but_time(tmp_path: Path) -> None:
    async with open_spares(tmp_path) as live:
        [spare] = live.gateway._pool._spares._spares
        os.kill(spare.pid, signal.SIGKILL)
        assert (await ask(live, "repeat: on"))[0] == "on"


async def test_one_that_is_killed_after_it_was_promised(tmp_path: Path) -> None:
    async with open_spares(tmp_path) as live:
        [spare] = live.gateway._pool._spares._spares
        conversation = live.gateway.conversation(model="agent/haiku")
        spare.kill()
        said, source, _ = await ask(
            live, "repeat: on", conversation_id=conversation.conversation_id
        )
        assert (said, source) == ("on", "new")


@pytest.mark.parametrize(
    ("auth", "agents", "expected"),
    [
        ({}, True, True),
        ({}, False, False),
        ({"api_keys": (ONE, TWO)}, True, False),
        ({"api_keys": (ONE, TWO), "agent_keys": (TWO,)}, True, True),
    ],
)
def test_where_no_client_may_use_agents_none_is_started_ahead(
    tmp_path: Path, auth: dict[str, Any], agents: bool, expected: bool
) -> None:
    settings = settings_for(
        tmp_path, {}, auth=AuthSettings(**auth), models=ModelSettings(agents=agents)
    )
    assert serves_agents(settings, KeyRegistry(settings.auth)) is expected
