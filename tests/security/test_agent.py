"""An agent of the real CLI, everything allowed, in each kind of sandbox: what it reaches."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import trio

from ccapi.schemas.settings.settings import PermissionSettings, WorkspaceSettings
from tests.security.scene import open_scene
from tests.security.test_sandbox import KINDS, outs
from tests.security.ways import WAYS, script_of
from tests.support.joined import get, new_conversation, open_joined
from tests.support.live import Live, open_live, settings_for
from tests.support.messages_answers import ToolUse, call, say
from tests.support.messages_stub import open_messages_stub
from tests.support.raw_cli import cli_binary, cli_environment

MODEL = "agent/claude-haiku-4-5"


@asynccontextmanager
async def open_confined(
    tmp_path: Path, kind: str, environ: Mapping[str, str] = {}, **sections: Any
) -> AsyncIterator[Live]:
    """A gateway whose agents may do anything, in the `kind` of sandbox."""
    chosen: Any = {"sandbox": kind, **sections.pop("workspaces", {})}
    async with open_messages_stub() as stub:
        settings = settings_for(
            tmp_path,
            cli_environment(tmp_path, stub.url),
            cli_binary(),
            workspaces=WorkspaceSettings(**chosen),
            permissions=PermissionSettings(allow=("Bash", "Read", "Write")),
            **sections,
        )
        async with open_live(settings, environ=environ) as live:
            yield Live(live.url, live.gateway, live.stop, stub)


async def do(live: Live, conversation_id: str, *commands: str) -> list[str]:
    """Have the agent run the commands, one call each; what it received of them."""
    assert live.stub is not None
    uses = [ToolUse("Bash", {"command": command}) for command in commands]
    live.stub.queue += [*(call(use) for use in uses), say("done")]
    async with open_joined(live.url, conversation_id) as one:
        ended = await one.turn("Do it.")
        assert ended["type"] == "turn.finished", ended
    return [item["output"] for item in ended["items"] if item["type"] == "mcp_call"]


async def begin(live: Live, *, spare: bool) -> str:
    """A conversation in the workspace ``own``; or in one of its own, with a child that waits."""
    if not spare:
        return await new_conversation(live.url, model=MODEL, workspace="own")
    with trio.fail_after(30):
        while not live.gateway._pool._spares:
            await trio.sleep(0.02)
    return await new_conversation(live.url, model=MODEL)


async def taken_spares(live: Live) -> int:
    """How many turns got a child that was started ahead."""
    count: int = (await get(live.url, "/stats"))["children"]["turns"]["prewarmed"]
    return count


@pytest.mark.parametrize("spare", [False, True], ids=["cold", "spare"])
@pytest.mark.parametrize("kind", KINDS)
async def test_no_way_leads_out_of_its_workspace(kind: str, spare: bool, tmp_path: Path) -> None:
    """What leads out of no sandbox is shown in `test_sandbox`."""
    environ, claude = {"CLAUDE_CODE__LOG__LEVEL": "info"}, {"prewarm_agents": int(spare)}
    async with open_confined(tmp_path, kind, environ, claude=claude) as live:
        port = urlsplit(live.url).port
        assert (await get(live.url, "/v1/models"))["object"] == "list", "it asks for no key"
        async with open_scene(tmp_path, port or 0, tmp_path / "config") as scene:
            conversation_id = await begin(live, spare=spare)
            own = scene.state / "workspaces" / conversation_id if spare else scene.own
            if spare:
                (own / "planted").symlink_to(scene.own / "planted")
            (own / "try.sh").write_text(script_of(WAYS, scene.variables))
            [told] = await do(live, conversation_id, "sh try.sh > out.txt 2>&1; echo ended")
            assert "ended" in told
            assert outs((own / "out.txt").read_text()) == []
            scene.assert_untouched()
            assert await taken_spares(live) == spare


@pytest.mark.parametrize("kind", KINDS)
async def test_it_works_and_comes_back(kind: str, tmp_path: Path) -> None:
    """Its tools work, its transcript outlives its child, and nothing of another's is in its
    folders."""
    async with open_confined(tmp_path, kind, claude={"prewarm": 0}) as live:
        assert live.stub is not None
        one = await new_conversation(live.url, model=MODEL, workspace="one")
        two = await new_conversation(live.url, model=MODEL, workspace="two")
        await do(live, one, "echo first > a.txt; git init -q && python3 -c 'print(1 + 1)'")
        await do(live, two, "echo mine > b.txt")
        conversation = live.gateway.loaded(one)
        await live.gateway.hibernate(conversation.entry)
        [told] = await do(live, one, 'cat a.txt; ls "$CLAUDE_CONFIG_DIR"/projects')
        assert told.splitlines()[0] == "first"
        assert len(told.splitlines()) == 2, "only its own transcripts"
        asked = json.dumps(live.stub.requests[-1].body["messages"])
        assert "echo first > a.txt" in asked, "what was said before is sent again"
        assert "echo mine" not in asked


async def test_keys_of_the_gateway_never_reach_an_agent(tmp_path: Path) -> None:
    """Whatever its environment holds; and the credential that it needs itself is all there is."""
    key = "sk-of-a-client-of-the-gateway"
    environ = {"CLAUDE_CODE__AUTH__API_KEYS": f'["{key}"]', "SECRET_OF_OTHERS": "s3cret"}
    async with open_confined(tmp_path, "auto", environ) as live:
        conversation_id = await new_conversation(live.url, model=MODEL, workspace="own")
        [told] = await do(live, conversation_id, "env; cat /proc/*/environ | tr '\\0' '\\n'")
        assert "ANTHROPIC_API_KEY" in told
        assert key not in told
        assert "s3cret" not in told
        assert "CLAUDE_CODE__" not in told


@pytest.mark.parametrize("kind", KINDS)
async def test_commands_do_not_have_the_login_in_their_environment(
    kind: str, tmp_path: Path
) -> None:
    """So it is in no listing that a model reads. Who looks for it finds it in bubblewrap's sandbox,
    in the CLI's own environment; Landlock's has no way to that either."""
    async with open_confined(tmp_path, kind) as live:
        conversation_id = await new_conversation(live.url, model=MODEL, workspace="own")
        told = await do(
            live,
            conversation_id,
            "env; bash -c env; python3 -c 'import os; print(dict(os.environ))'",
            "cd /; env",
            "cat /proc/[0-9]*/environ | tr '\\0' '\\n' | grep -c ^ANTHROPIC_API_KEY= || true",
        )
        assert all("CLAUDE_CONFIG_DIR" in each for each in told[:2]), "it is an environment"
        assert not any("ANTHROPIC_API_KEY" in each for each in told[:2])
        if kind == "landlock":
            assert told[2].splitlines()[-1] == "0"
