"""The audit log of a whole gateway: who did what, and no secret in it."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import httpx
import trio

from ccapi.actors.keys.registry import owner_of
from ccapi.schemas.settings.settings import AuditSettings, AuthSettings
from tests.support.joined import open_joined
from tests.support.live import open_live_demo

ANN, BOB, WRONG = "sk-ann-has-agents-and-more", "sk-bob-has-chats-only", "sk-of-no-client-here"
CONTENT = "a-secret-that-was-said"


async def test_who_asked_for_what_and_who_decided(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    auth = AuthSettings(api_keys=(ANN, BOB), agent_keys=(ANN,), admin_keys=(ANN,))
    audit = AuditSettings(path=path)
    async with (
        open_live_demo(tmp_path, auth=auth, audit=audit) as live,
        httpx.AsyncClient(base_url=live.url, trust_env=False, timeout=20) as client,
    ):
        ann = {"x-api-key": ANN}

        async def post(url: str, key: str, **body: Any) -> httpx.Response:
            return await client.post(url, headers={"x-api-key": key}, json=body)

        made = (await post("/v1/conversations", ANN, model="agent/sonnet")).json()["id"]
        permissions = f"/v1/conversations/{made}/permissions"
        async with open_joined(live.url, made, key=ANN) as one:
            await one.say("turn.create", input=f"write plum.txt: {CONTENT}")
            first = await one.until("permission.requested")
            await one.say("permission.reply", request_id=first["request_id"], behavior="deny")
            await one.until("turn.finished")
            await one.say("turn.create", input="run: make")
            second = await one.until("permission.requested")
            allowed = f"{permissions}/{second['request_id']}"
            assert (await post(allowed, ANN, behavior="allow")).status_code == 200
            await one.until("turn.finished")
        chat = [{"role": "user", "content": "write pear.txt: ripe"}]
        alone = await post("/v1/chat/completions", ANN, model="agent/sonnet", messages=chat)
        assert alone.status_code == 200
        refused = [
            await post("/v1/chat/completions", WRONG, model="sonnet", messages=chat),
            await post("/v1/chat/completions", BOB, model="agent/sonnet", messages=chat),
            await client.post(
                "/v1/chat/completions", json={"model": "agent/sonnet", "messages": chat},
                headers={"x-api-key": BOB, "idempotency-key": "once"},
            ),
        ]  # fmt: skip
        assert [each.status_code for each in refused] == [401, 403, 403]
        conversation = f"/v1/conversations/{made}"
        assert (await client.get(f"{conversation}/export", headers=ann)).status_code == 200
        assert (await client.delete(conversation, headers=ann)).status_code == 200
        assert (await client.delete(conversation, headers=ann)).status_code == 404
        with trio.fail_after(20):
            while b"conversation_deleted" not in path.read_bytes():
                await trio.sleep(0.01)
        stats = (await client.get("/stats", headers=ann)).json()
        assert stats["audit"]["written"] == len(path.read_bytes().splitlines())
        bobs = await client.get("/stats", headers={"x-api-key": BOB})
        assert "audit" not in bobs.json()

    text = path.read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    keys = {owner_of(ANN)[:12]: "ann", owner_of(BOB)[:12]: "bob"}
    assert {line["name"] for line in lines if "key" in line} == {
        "auth.api_keys[1]", "auth.api_keys[2]",
    }  # fmt: skip

    def seen(*fields: str) -> list[list[Any]]:
        wanted = [line for line in lines if line["event"] == fields[0]]
        return [[line.get(field) for field in fields[1:]] for line in wanted]

    assert [line["event"] for line in lines][:: len(lines) - 1] == [
        "gateway_started", "gateway_stopped",
    ]  # fmt: skip
    assert seen("tool_asked", "tool", "permission_id") == [
        ["Write", first["request_id"]], ["Bash", second["request_id"]],
    ]  # fmt: skip
    assert seen("tool_decided", "tool", "decision", "by") == [
        ["Write", "deny", "watcher"], ["Bash", "allow", "http"], ["Write", "deny", "no_client"],
    ]  # fmt: skip
    assert [(keys.get(key, key), status, code, bool(request_id))
            for key, status, code, request_id in seen(
                "refused", "key", "status", "code", "request_id")] == [
        (None, 401, "invalid_api_key", True),
        ("bob", 403, "agents_not_allowed", True),
        ("bob", 403, "agents_not_allowed", True),
    ]  # fmt: skip
    assert [line["request_id"] for line in lines if line["event"] == "refused"] == [
        each.headers["x-request-id"] for each in refused
    ]
    assert seen("conversation_exported", "conversation_id") == [[made]]
    assert seen("conversation_deleted", "conversation_id") == [[made]]
    turns = seen("turn", "conversation_id", "outcome", "turn_id")
    assert [turn[:2] for turn in turns[:2]] == [[made, "finished"]] * 2
    decided = {line["turn_id"] for line in lines if line["event"] == "tool_decided"}
    assert decided == {turn[2] for turn in turns}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for secret in (ANN, BOB, WRONG, CONTENT, owner_of(ANN), "plum.txt", "make"):
        assert secret not in text
