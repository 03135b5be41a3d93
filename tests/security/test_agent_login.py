"""The login of an agent in its sandbox: an expired token is renewed, and kept for all others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import trio

from ccapi.schemas.settings.settings import WorkspaceSettings
from tests.security.test_sandbox import KINDS
from tests.support.joined import new_conversation, open_joined
from tests.support.live import open_live, settings_for
from tests.support.logins import login_environment, shows
from tests.support.messages_answers import say
from tests.support.messages_stub import open_messages_stub
from tests.support.raw_cli import cli_binary
from tests.support.token_maker import NEW_REFRESH, NEW_TOKEN, open_token_maker

MODEL = "agent/claude-haiku-4-5"


def credentials(file: Path) -> dict[str, object]:
    known: dict[str, object] = json.loads(file.read_text())["claudeAiOauth"]
    return known


@pytest.mark.parametrize("kind", [*KINDS, "off"])
async def test_a_renewed_token_is_kept(kind: str, tmp_path: Path) -> None:
    with trio.fail_after(60):
        async with open_messages_stub() as stub, open_token_maker(tmp_path) as maker:
            env = login_environment("file", tmp_path, stub.url, maker.url)
            env["NODE_EXTRA_CA_CERTS"] = str(maker.ca)
            file = Path(env["CLAUDE_CONFIG_DIR"]) / ".credentials.json"
            expired = {**credentials(file), "expiresAt": 1_000}
            workspaces = WorkspaceSettings(sandbox=kind)  # type: ignore[arg-type]
            settings = settings_for(
                tmp_path, env, cli_binary(), workspaces=workspaces, claude={"prewarm": 0}
            )
            async with open_live(settings) as live:
                # Not before: the gateway asks the CLI for its login, outside of all sandboxes.
                await trio.sleep(3)
                file.write_text(json.dumps({"claudeAiOauth": expired}))
                stub.queue += [say("done"), say("again")]
                for workspace in ("one", "two"):
                    name = await new_conversation(live.url, model=MODEL, workspace=workspace)
                    async with open_joined(live.url, name) as one:
                        ended = await one.turn("Hello")
                        assert ended["type"] == "turn.finished", ended
                    await trio.sleep(1)
            assert [shows(each)["authorization"] for each in stub.requests] == [
                f"Bearer {NEW_TOKEN}"
            ] * len(stub.requests)
            assert credentials(file)["accessToken"] == NEW_TOKEN
            assert credentials(file)["refreshToken"] == NEW_REFRESH
            assert file.stat().st_mode & 0o777 == 0o600
            assert maker.given == [expired["refreshToken"]], "once, not by each agent"
