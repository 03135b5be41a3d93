"""Where agents work whose conversations are gone on with by their history, on the real CLI."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from ccapi.schemas.settings.settings import PermissionSettings
from tests.support.live import Live, open_live_cli
from tests.support.messages_answers import Answer, ToolUse, call, say
from tests.support.messages_stub import Request

MODEL = "agent/claude-haiku-4-5"
TOOL = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}
FIRST = [{"role": "user", "content": "touch made"}]


@pytest.fixture
async def live(tmp_path: Path) -> AsyncIterator[Live]:
    permissions = PermissionSettings(allow=("Bash(touch:*)", "Bash(ls:*)"))
    async with open_live_cli(tmp_path, permissions=permissions) as live:
        assert live.stub is not None
        live.stub.answer = obeying
        yield live


def obeying(request: Request) -> Answer:
    """A model that runs what the prompt says, and says what came of it."""
    if "tool_result" in str(request.body["messages"][-1]["content"]):
        return say(f"Out: {request.last_user_text}")
    return call(ToolUse("Bash", {"command": request.last_user_text, "description": "x"}))


async def ask(live: Live, messages: list[dict[str, Any]], **fields: Any) -> httpx.Response:
    async with httpx.AsyncClient(timeout=60) as client:
        body = {"model": MODEL, "messages": messages, **fields}
        return await client.post(f"{live.base_url}/chat/completions", json=body)


def grown(messages: list[dict[str, Any]], answer: httpx.Response, text: str) -> Any:
    said = answer.json()["choices"][0]["message"]["content"]
    return [*messages, {"role": "assistant", "content": said}, {"role": "user", "content": text}]


def system(text: str) -> dict[str, Any]:
    return {"role": "system", "content": text}


async def test_files_stay_where_a_history_goes_on(live: Live) -> None:
    first = await ask(live, [system("It is 10:01."), *FIRST])
    assert first.headers["x-ccapi-workspace"] == "new"
    home = first.headers["x-conversation-id"]
    asked = grown(FIRST, first, "ls")
    for messages, fields in (
        ([system("It is 10:02."), *asked], {}),  # another system prompt
        ([system("It is 10:01."), *asked], {"tools": [TOOL]}),  # further tools
        ([system("It is 10:02."), *grown(FIRST, first, "ls .")], {}),  # another last message
    ):
        again = await ask(live, messages, **fields)
        assert again.headers["x-ccapi-lineage"] == "miss"
        assert again.headers["x-conversation-id"] != home
        assert again.headers["x-ccapi-workspace"] == home
        assert again.json()["choices"][0]["message"]["content"] == "Out: made"
    # What goes on from there is a hit again, in the same directory.
    hit = await ask(live, grown(messages, again, "ls -a made"))
    assert hit.headers["x-ccapi-lineage"] == "hit"
    assert hit.headers["x-ccapi-workspace"] == home
    assert hit.json()["choices"][0]["message"]["content"] == "Out: made"


async def test_another_history_has_a_directory_of_its_own(live: Live) -> None:
    first = await ask(live, FIRST)
    other = grown([{"role": "user", "content": "touch another"}], first, "ls")
    for messages in (FIRST, other):
        apart = await ask(live, messages)
        assert apart.headers["x-ccapi-workspace"] == "new"
    assert "made" not in apart.json()["choices"][0]["message"]["content"]


async def test_a_chat_names_its_workspace(live: Live, tmp_path: Path) -> None:
    named = await ask(live, FIRST, workspace="mine")
    assert named.headers["x-ccapi-workspace"] == "mine"
    assert (tmp_path / "state" / "workspaces" / "mine" / "made").exists()
    elsewhere = await ask(live, grown(FIRST, named, "ls"), workspace="other")
    assert elsewhere.headers["x-ccapi-workspace"] == "other"
    assert elsewhere.headers["x-ccapi-lineage"] == "miss"
    kept = await ask(live, [system("New."), *grown(FIRST, named, "ls")])
    assert kept.headers["x-ccapi-workspace"] == "other"  # the branch that was used last
    # A conversation that exists works where it does.
    place = {"conversation_id": named.headers["x-conversation-id"]}
    last = [{"role": "user", "content": "ls"}]
    for name, ignored in (("mine", None), ("other", "workspace")):
        held = await ask(live, last, workspace=name, **place)
        assert held.headers["x-ccapi-workspace"] == "mine"
        assert held.headers.get("x-ccapi-ignored") == ignored
    response = {"model": MODEL, "input": "ls", "workspace": "other"}
    async with httpx.AsyncClient(timeout=60) as client:
        body = {**response, "conversation": place["conversation_id"]}
        held = await client.post(f"{live.base_url}/responses", json=body)
    assert held.headers["x-ccapi-ignored"] == "workspace"


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"workspace": "../../etc"}, "invalid_value"),
        ({"workspace": "conv_1"}, "invalid_value"),
        ({"workspace": "mine", "model": "claude-haiku-4-5"}, "unsupported_parameter"),
    ],
)
async def test_a_workspace_that_cannot_be_is_refused(
    live: Live, fields: dict[str, Any], code: str
) -> None:
    refused = await ask(live, FIRST, **fields)
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "workspace"
    assert refused.json()["error"]["code"] == code
