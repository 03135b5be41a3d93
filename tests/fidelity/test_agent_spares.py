"""Agents that were started ahead of their conversations, through HTTP on the real CLI."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from ccapi.schemas.settings.settings import PermissionSettings, WorkspaceSettings
from tests.fidelity.test_agent_workspaces import FIRST, TOOL, ask, grown, obeying, system
from tests.support.live import Live, open_live_cli

PATIENCE = 30.0
DONE = "Out: (Bash completed with no output)"
SPARE = {"prewarm": 0, "prewarm_agents": 1, "max_concurrent_sessions": 8, "max_retries": 0}
SANDBOXED = {"workspaces": WorkspaceSettings()}
FREE = {"workspaces": WorkspaceSettings(sandbox="off")}
either = pytest.mark.parametrize("options", [SANDBOXED, FREE], ids=["sandboxed", "free"])


@asynccontextmanager
async def open_spares(tmp_path: Path, **options: Any) -> AsyncIterator[Live]:
    permissions = PermissionSettings(allow=("Bash(touch:*)", "Bash(ls:*)", "Bash(pwd)"))
    options["claude"] = {**SPARE, **options.get("claude", {})}
    async with open_live_cli(tmp_path, permissions=permissions, **options) as live:
        assert live.stub is not None
        live.stub.answer = obeying
        yield live


async def spare_ready(live: Live) -> None:
    """A spare is there, and has booted."""
    with trio.fail_after(PATIENCE):
        while live.gateway._pool.statistics().warm < 1:
            await trio.sleep(0.02)
    await trio.sleep(1.5)


def text_of(response: httpx.Response) -> str:
    assert response.status_code == 200, response.text
    return str(response.json()["choices"][0]["message"]["content"])


def workspaces(tmp_path: Path) -> list[str]:
    root = tmp_path / "state" / "workspaces"
    return sorted(path.name for path in root.iterdir()) if root.is_dir() else []


def left(tmp_path: Path) -> list[Path]:
    """What spares leave elsewhere: scratch folders and folders of transcripts."""
    return [*tmp_path.glob("state/agents/*"), *tmp_path.glob("**/projects/*")]


@either
async def test_a_new_agent_takes_the_spare_and_its_files_are_the_conversations(
    options: dict[str, Any], tmp_path: Path
) -> None:
    async with open_spares(tmp_path, **options) as live:
        await spare_ready(live)
        first = await ask(live, [system("Be brief."), *FIRST], tools=[TOOL])
        assert text_of(first) == DONE
        assert first.headers["x-ccapi-child"] == "prewarmed"
        assert first.headers["x-ccapi-workspace"] == "new"
        name = first.headers["x-conversation-id"]
        place = tmp_path / "state" / "workspaces" / name
        assert (place / "made").exists()
        assert live.stub is not None
        request = live.stub.requests[0]
        assert request.model == "claude-haiku-4-5"
        assert request.system.endswith("Be brief.")
        assert "look_up" in request.tools
        # It is resumed, when its child has gone, with all that it said and made.
        await live.gateway.hibernate(live.gateway.loaded(name).entry)
        with trio.fail_after(PATIENCE):
            while live.gateway.loaded(name).info.phase != "asleep":
                await trio.sleep(0.02)
        body = {"conversation_id": name}
        again = await ask(live, [{"role": "user", "content": "ls"}], **body)
        assert text_of(again) == "Out: made"
        assert again.headers["x-ccapi-child"] == "new"
        assert "touch made" in str(live.stub.requests[-1].body["messages"][0])


@either
async def test_a_named_workspace_gets_a_spare_where_no_sandbox_binds_one(
    options: dict[str, Any], tmp_path: Path
) -> None:
    async with open_spares(tmp_path, **options) as live:
        await spare_ready(live)
        named = await ask(live, FIRST, workspace="mine")
        assert text_of(named) == DONE
        assert (tmp_path / "state" / "workspaces" / "mine" / "made").exists()
        expected = "new" if options is SANDBOXED else "prewarmed"
        assert named.headers["x-ccapi-child"] == expected


@either
async def test_what_is_resumed_or_in_anothers_workspace_gets_a_new_child_in_a_sandbox(
    options: dict[str, Any], tmp_path: Path
) -> None:
    async with open_spares(tmp_path, **options) as live:
        await spare_ready(live)
        first = await ask(live, [system("It is 10:01."), *FIRST])
        await spare_ready(live)
        other = await ask(live, [system("It is 10:02."), *grown(FIRST, first, "ls")])
        assert other.headers["x-ccapi-workspace"] == first.headers["x-conversation-id"]
        assert text_of(other) == "Out: made"
        expected = "new" if options is SANDBOXED else "prewarmed"
        assert other.headers["x-ccapi-child"] == expected


@either
async def test_an_unused_spare_leaves_no_workspace(options: dict[str, Any], tmp_path: Path) -> None:
    async with open_spares(tmp_path, **options) as live:
        await spare_ready(live)
        assert len(workspaces(tmp_path)) == (options is SANDBOXED)
        pool = live.gateway._pool
        former = {*pool._children}
        assert former
        pool.renew()
        with trio.fail_after(PATIENCE):
            while former & {*pool._children}:  # another one comes meanwhile
                await trio.sleep(0.02)
        await spare_ready(live)
        assert len(workspaces(tmp_path)) == (options is SANDBOXED)
    assert workspaces(tmp_path) == []
    assert left(tmp_path) == []


async def test_a_refused_spare_costs_no_turn(tmp_path: Path) -> None:
    """The directory of its claim has vanished: a new child gets the turn."""
    async with open_spares(tmp_path, **FREE) as live:
        await spare_ready(live)
        pool = live.gateway._pool
        claim = pool._claim

        def elsewhere(child: Any, workspace: str) -> Path:
            return claim(child, workspace) / "nowhere"

        pool._claim = elsewhere
        answered = await ask(live, FIRST)
        assert text_of(answered) == DONE
        assert answered.headers["x-ccapi-child"] == "new"
        assert live.stub is not None
        first = [each for each in live.stub.requests if "tool_result" not in str(each.body)]
        assert len(first) == 1, "the model was asked once"
