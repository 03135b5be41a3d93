"""Where keys are asked for, only those in `auth.agent_keys` may use agents: on every route."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from trio_websocket import open_websocket_url

from ccapi.actors.conversations.models import ModelCatalog
from ccapi.actors.keys.registry import KeyRegistry
from ccapi.schemas.errors import Forbidden
from ccapi.schemas.settings.settings import AuthSettings, ModelSettings, SettingsError
from tests.support.joined import open_joined
from tests.support.live import Live, open_live_demo

WITH, WITHOUT = "sk-with-agents", "sk-without-agents"
SAID = [{"role": "user", "content": "hello"}]
AGENT = "agent/sonnet"


@pytest.fixture
async def live(tmp_path: Path) -> AsyncIterator[Live]:
    auth = AuthSettings(api_keys=(WITH, WITHOUT), agent_keys=(WITH,))
    models = ModelSettings(aliases={"helper": AGENT})
    async with open_live_demo(tmp_path, auth=auth, models=models) as live:
        yield live


async def ask(live: Live, key: str, method: str, path: str, **body: Any) -> httpx.Response:
    async with httpx.AsyncClient(base_url=live.url, trust_env=False, timeout=20) as client:
        return await client.request(method, path, json=body or None, headers={"x-api-key": key})


@pytest.mark.parametrize("model", [AGENT, "helper"])
@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/v1/chat/completions", {"messages": SAID}),
        ("/v1/chat/completions", {"messages": SAID, "stream": True, "n": 2}),
        ("/v1/completions", {"prompt": "hello"}),
        ("/v1/responses", {"input": "hello"}),
        ("/v1/responses/input_tokens", {"input": "hello"}),
        ("/v1/responses", {"input": "hello", "background": True}),
        ("/v1/responses", {"input": "hello", "stream": True, "workspace": "mine"}),
        ("/v1/conversations", {}),
        ("/v1/conversations", {"workspace": "mine"}),
    ],
)
async def test_a_key_without_agents_is_refused(
    model: str, path: str, fields: dict[str, Any], live: Live
) -> None:
    refused = await ask(live, WITHOUT, "POST", path, model=model, **fields)
    assert refused.status_code == 403
    error = refused.json()["error"]
    assert (error["type"], error["code"], error["param"]) == (
        *("permission_error", "agents_not_allowed", "model"),
    )
    assert "auth.agent_keys" in error["message"]
    allowed = await ask(live, WITH, "POST", path, model=model, **fields)
    assert allowed.status_code == (400 if "input_tokens" in path else 200), "no agent is counted"


async def test_it_sees_no_agents_among_the_models(live: Live) -> None:
    async def names(key: str) -> set[str]:
        return {each["id"] for each in (await ask(live, key, "GET", "/v1/models")).json()["data"]}

    assert {AGENT, "helper"} <= await names(WITH)
    assert await names(WITHOUT) == {
        name for name in await names(WITH) if name != "helper" and not name.startswith("agent/")
    }
    for name in (AGENT, "helper"):
        assert (await ask(live, WITHOUT, "GET", f"/v1/models/{name}")).status_code == 403
        assert (await ask(live, WITH, "GET", f"/v1/models/{name}")).status_code == 200


async def test_over_websocket_it_is_refused_too(live: Live) -> None:
    url = live.base_url.replace("http", "ws") + "/responses"
    headers = [(b"x-api-key", WITHOUT.encode())]
    with trio.fail_after(20):
        async with open_websocket_url(url, extra_headers=headers) as socket:
            for fields in ('"input": "hello"', '"input": [], "generate": false'):
                await socket.send_message(
                    f'{{"type": "response.create", "model": "{AGENT}", {fields}}}'
                )
                assert "agents_not_allowed" in await socket.get_message()


async def test_a_joined_conversation_stays_what_it_is(live: Live) -> None:
    made = await ask(live, WITHOUT, "POST", "/v1/conversations", model="sonnet")
    async with open_joined(live.url, made.json()["id"], key=WITHOUT) as one:
        await one.say("turn.create", input="hello", model=AGENT, ref="r")
        refused = await one.until("error")
        assert refused["error"]["code"] == "agents_not_allowed"


async def test_without_keys_agents_are_for_all_clients(tmp_path: Path) -> None:
    async with open_live_demo(tmp_path) as live:
        made = await ask(live, "unused", "POST", "/v1/conversations", model=AGENT)
        assert made.status_code == 200


def test_a_default_that_is_an_agent_is_one() -> None:
    keys = KeyRegistry(AuthSettings(api_keys=(WITHOUT,)))
    catalog = ModelCatalog(ModelSettings(default=AGENT), keys.find)
    with pytest.raises(Forbidden):
        catalog.resolve(None, "some-owner")
    assert catalog.resolve(None).profile == "agent", "for a program that embeds the gateway"


def test_agent_keys_are_keys() -> None:
    with pytest.raises(SettingsError, match=r"auth\.agent_keys: holds a key that auth\.api_keys"):
        AuthSettings(api_keys=(WITHOUT,), agent_keys=(WITH,))
    hashed = AuthSettings(api_keys=(WITH,)).hashed().api_keys
    assert AuthSettings(api_keys=hashed, agent_keys=(WITH,)).hashed().agent_keys == hashed
