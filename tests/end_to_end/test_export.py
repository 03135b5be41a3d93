"""Conversations are exported and imported: by route, and by command."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import httpx
import pytest
import trio

from tests.support.embedded import script
from tests.support.joined import JSON, get, post
from tests.support.live import open_live_demo
from tests.support.pictures import data_url, png

MESSAGES: list[JSON] = [
    {"role": "system", "content": "Be brief."},
    {
        "role": "user",
        "content": [
            {"type": "text", "text": "Hello"},
            {"type": "image_url", "image_url": {"url": data_url(png())}},
        ],
    },
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {"id": "a", "type": "function", "function": {"name": "look", "arguments": "{}"}}
        ],
    },
    {"role": "tool", "tool_call_id": "a", "content": "sun"},
    {"role": "assistant", "content": "Sun."},
]


async def told(url: str, conversation_id: str) -> list[JSON]:
    """What the child holds of the conversation."""
    body = {
        "conversation_id": conversation_id,
        "messages": [{"role": "user", "content": script(report=True)}],
    }
    answer = await post(url, "/v1/chat/completions", body)
    history: list[JSON] = json.loads(answer["choices"][0]["message"]["content"])["history"]
    return history[:-1]


async def run(*args: str) -> tuple[int, str, str]:
    """A command in a process of its own: its exit code, stdout and stderr."""
    done = await trio.run_process(
        [sys.executable, "-m", "ccapi.actors.commands.main", *args],
        check=False,
        capture_stdout=True,
        capture_stderr=True,
    )
    return done.returncode, done.stdout.decode(), done.stderr.decode()


async def test_what_was_exported_is_imported(tmp_path: Path) -> None:
    async with open_live_demo(tmp_path / "one") as live:
        made = await post(
            live.url, "/v1/conversations",
            {"model": "haiku", "messages": MESSAGES, "metadata": {"a": "b"}},
        )  # fmt: skip
        path = f"/v1/conversations/{made['id']}/export"
        exported = await get(live.url, path)
        assert exported["object"] == "conversation.export"
        assert exported["messages"] == MESSAGES
        assert (exported["model"], exported["metadata"]) == (made["model"], {"a": "b"})
        first = await told(live.url, made["id"])
        after = (await get(live.url, path))["messages"]
        assert after[: len(MESSAGES)] == MESSAGES
        assert [each["role"] for each in after[len(MESSAGES) :]] == ["user", "assistant"]
        async with httpx.AsyncClient() as client:
            answer = await client.get(f"{live.url}{path}?format=markdown")
            assert answer.headers["content-type"] == "text/markdown; charset=utf-8"
            assert answer.text.startswith("# Hello\n\n## System\n\nBe brief.\n\n## User\n\nHello")
            refused = await client.get(f"{live.url}{path}?format=pdf")
            assert (refused.status_code, refused.json()["error"]["param"]) == (400, "format")
    async with open_live_demo(tmp_path / "two") as live:
        again = await post(
            live.url, "/v1/conversations", {"model": "haiku", "messages": exported["messages"]}
        )
        assert await told(live.url, again["id"]) == first


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"role": "no role", "content": "x"}, "messages[1].role"),
        ({"role": "tool", "tool_call_id": "b", "content": "x"}, "messages[1]"),
        ({"role": "user", "content": [{"type": "audio"}]}, "messages[1].content[0].type"),
        ({"role": "user", "content": 1}, "messages[1].content"),
        ("x", "messages[1]"),
    ],
)
async def test_malformed_messages_are_named(tmp_path: Path, message: object, param: str) -> None:
    async with open_live_demo(tmp_path) as live, httpx.AsyncClient() as client:
        body = {"messages": [{"role": "user", "content": "Hello"}, message]}
        refused = await client.post(f"{live.url}/v1/conversations", json=body)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, param)
        assert (await get(live.url, "/v1/conversations"))["data"] == []


async def test_items_and_messages_are_not_given_both(tmp_path: Path) -> None:
    async with open_live_demo(tmp_path) as live, httpx.AsyncClient() as client:
        item = {"role": "user", "content": "Hello"}
        body = {"messages": [item], "items": [item]}
        refused = await client.post(f"{live.url}/v1/conversations", json=body)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "messages")


async def test_all_conversations_go_from_one_gateway_to_another(tmp_path: Path) -> None:
    file = tmp_path / "all.jsonl"
    async with open_live_demo(tmp_path / "one") as live:
        for number in range(3):
            body = {"messages": [*MESSAGES, {"role": "user", "content": str(number)}]}
            await post(live.url, "/v1/conversations", body)
        assert await run("export", "--url", live.url, "--output", str(file)) == (
            0, "", "3 conversations exported\n",
        )  # fmt: skip
    async with open_live_demo(tmp_path / "two") as live:
        code, out, err = await run("import", "--url", live.url, str(file))
        assert (code, err) == (0, "3 conversations imported\n")
        pairs = [line.split("\t") for line in out.splitlines()]
        assert [old for old, _ in pairs] == [
            json.loads(line)["id"] for line in file.read_text().splitlines()
        ]
        for number, (_, new) in enumerate(pairs):
            exported = await get(live.url, f"/v1/conversations/{new}/export")
            assert exported["messages"] == [*MESSAGES, {"role": "user", "content": str(number)}]


async def test_a_file_that_is_none_of_export_is_refused_by_its_line(tmp_path: Path) -> None:
    async with open_live_demo(tmp_path) as live:
        for text, reason in (("{", "line 2 is not JSON"), ("[]", "line 2 is no exported")):
            file = tmp_path / "bad.jsonl"
            file.write_text("\n" + text)
            code, _, err = await run("import", "--url", live.url, str(file))
            assert code == 1
            assert reason in err
    code, _, err = await run("import", "--url", live.url, str(file))
    assert code == 1
