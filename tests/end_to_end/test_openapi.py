"""What ``/openapi.json`` says is so: real answers are held against it, and schemathesis sends what
it allows and what it does not."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import httpx
import trio

from ccapi.actors.http.openapi import OPERATIONS
from ccapi.schemas.anthropic.answers import MESSAGE_EVENTS
from ccapi.schemas.openai.answers import RESPONSE_EVENTS
from ccapi.schemas.settings.settings import AuthSettings, ModelSettings
from tests.support.batches import FORM, a_form, jsonl, line
from tests.support.described import Described
from tests.support.embedded import SILENT, script
from tests.support.live import Live, open_live_demo

JSON = dict[str, Any]
EXAMPLES = int(os.environ.get("CCAPI_TEST_EXAMPLES", "3"))
"""Of each operation. By hand some hundreds."""

HELLO = {"role": "user", "content": "Hello"}
WEATHER = {"name": "weather", "parameters": {"type": "object", "properties": {}}}
USE = {"role": "user", "content": 'use weather {"city": "Paris"}'}
FAILING = {"name": "Bash", "input": {"command": "false"}, "output": "no", "is_error": True}
CHAT_TOOLS = [{"type": "function", "function": WEATHER}]
TOOLS = [
    {"type": "function", **WEATHER},
    {"type": "custom", "name": "paint", "description": "Paints."},
    {"type": "namespace", "name": "sky", "tools": [{"type": "function", **WEATHER}]},
]


@attrs.define
class Checked:
    """A client that holds every answer against the document."""

    client: httpx.AsyncClient
    described: Described

    async def send(
        self, method: str, path: str, body: object = None, **headers: str
    ) -> httpx.Response:
        if isinstance(body, bytes):
            response = await self.client.request(method, path, content=body, headers=headers)
        else:
            response = await self.client.request(method, path, json=body, headers=headers)
        self.described.check(
            method, path, response.status_code, dict(response.headers), response.content
        )
        return response

    async def good(self, method: str, path: str, body: object = None, **headers: str) -> JSON:
        response = await self.send(method, path, body, **headers)
        assert response.status_code == 200, response.text
        is_json = response.headers["content-type"] == "application/json"
        found: JSON = response.json() if is_json else {}
        return found

    async def bad(
        self, status: int, method: str, path: str, body: object = None, **headers: str
    ) -> None:
        response = await self.send(method, path, body, **headers)
        assert response.status_code == status, response.text


@asynccontextmanager
async def open_checked(live: Live) -> AsyncIterator[Checked]:
    async with httpx.AsyncClient(base_url=live.url, timeout=30) as client:
        document = (await client.get("/openapi.json")).json()
        yield Checked(client, Described(document))


async def test_real_answers_are_as_described(tmp_path: Path) -> None:
    models = ModelSettings(include_reasoning=True, agents=True)
    async with open_live_demo(tmp_path, models=models) as live, open_checked(live) as checked:
        await _ask_chat(checked)
        await _ask_messages(checked)
        await _ask_responses(checked)
        await _ask_conversations(checked)
        await _ask_batches(checked)
        await _ask_the_rest(checked)
        seen = checked.described.seen
        good = {(method, path) for method, path, status in seen if status == 200}
        assert {place for place, each in OPERATIONS.items() if each.answers} - good == {
            # Its agent asks for nothing here.
            ("POST", "/v1/conversations/{conversation_id}/permissions/{request_id}")
        }
        assert {(method, path) for method, path, status in seen if status >= 400} >= {
            place for place, each in OPERATIONS.items() if {404, 409, 413, 426} & {*each.errors}
        }
        unseen = set(RESPONSE_EVENTS) - checked.described.events
        unseen.add("error")  # which is a message's event too
        assert unseen == {
            "response.refusal.delta",
            "response.refusal.done",  # the demo CLI refuses nothing
            "error",  # of a stream that has begun without a response: see tests/actors/http
            # There is no MCP server: see tests/fidelity/test_response_mcp.py.
            "response.mcp_list_tools.in_progress",
            "response.mcp_list_tools.completed",
            "response.mcp_list_tools.failed",
        }


async def _ask_chat(checked: Checked) -> None:
    chat, completions = "/v1/chat/completions", "/v1/completions"
    hello: JSON = {"messages": [HELLO]}
    use: JSON = {"messages": [USE], "tools": CHAT_TOOLS}
    for more in ({}, {"stream": True, "stream_options": {"include_usage": True}}):
        await checked.good("POST", chat, hello | more | {"seed": 1, "n": 2})
        await checked.good("POST", chat, hello | more | {"reasoning_effort": "high"})
        await checked.good("POST", chat, use | more)
        key = {"idempotency-key": f"k{len(more)}"}
        for _ in range(2):
            await checked.good("POST", chat, hello | more, **key)
        await checked.good("POST", completions, {"prompt": "Hello", "echo": True} | more)
        await checked.bad(422, "POST", chat, {"messages": [USE]}, **key)
    await checked.bad(400, "POST", chat, {})
    await checked.bad(400, "POST", completions, b"{")
    await checked.bad(404, "POST", chat, hello | {"model": "nonsense"})
    await checked.bad(404, "POST", completions, {"prompt": "Hello", "model": "nonsense"})
    await checked.bad(415, "POST", chat, b"{}", **{"content-type": "text/plain"})


async def _ask_messages(checked: Checked) -> None:
    path = "/v1/messages"
    hello: JSON = {"model": "haiku", "max_tokens": 2000, "messages": [HELLO]}
    thinking: JSON = {"thinking": {"type": "enabled", "budget_tokens": 1024}}
    tools = [{"name": "weather", "input_schema": WEATHER["parameters"]}]
    for more in ({}, {"stream": True}):
        await checked.good("POST", path, hello | more | {"top_k": 3})
        thought = {"messages": [{"role": "user", "content": script("Hello", thinking=2)}]}
        await checked.good("POST", path, hello | more | thinking | thought)
        await checked.good("POST", path, hello | more | {"messages": [USE], "tools": tools})
        key = {"idempotency-key": f"m{len(more)}"}
        for _ in range(2):
            await checked.good("POST", path, hello | more, **key)
        await checked.bad(422, "POST", path, hello | {"messages": [USE]}, **key)
    failing = {"messages": [{"role": "user", "content": script("Hello", error="Alas", after=3)}]}
    await checked.good("POST", path, hello | failing | {"stream": True})
    await checked.bad(502, "POST", path, hello | failing)
    await checked.good("POST", f"{path}/count_tokens", {"model": "haiku", "messages": [HELLO]})
    for place in ("", "/count_tokens"):
        await checked.bad(400, "POST", f"{path}{place}", {})
        await checked.bad(404, "POST", f"{path}{place}", hello | {"model": "nonsense"})
    await checked.bad(415, "POST", path, b"{}", **{"content-type": "text/plain"})
    version = {"anthropic-version": "2026-10-21"}
    listed = await checked.good("GET", "/v1/models?limit=2", **version)
    await checked.good("GET", f"/v1/models/{listed['last_id']}", **version)
    await checked.bad(404, "GET", "/v1/models/nonsense", **version)
    unseen = set(MESSAGE_EVENTS) - checked.described.events
    assert unseen == set()


async def _ask_responses(checked: Checked) -> None:
    path = "/v1/responses"
    hello: JSON = {"input": "Hello"}
    asked: list[JSON] = [
        hello,
        {"input": script("Hello", thinking=2), "reasoning": {"summary": "auto"}},
        {"input": [USE], "tools": TOOLS, "metadata": {"a": "b"}, "tool_choice": "auto"},
        {"input": 'use paint {"input": "a tree"}', "tools": TOOLS},
        {"input": "list the files", "model": "agent/sonnet"},
        {"input": script(activity=[FAILING]), "model": "agent/sonnet"},
        {"input": script("Hello", stop_reason="max_tokens")},
    ]
    made = [await checked.good("POST", path, body) for body in asked]
    for body in asked:
        await checked.good("POST", path, body | {"stream": True, "truncation": "auto"})
    response_id = made[2]["id"]
    later = await checked.good("POST", path, hello | {"background": True})
    await checked.good("POST", f"{path}/{later['id']}/cancel")
    for query in ("", "?stream=true", "?stream=true&starting_after=3"):
        await checked.good("GET", f"{path}/{response_id}{query}")
    for query in ("", "?limit=1&order=asc"):
        await checked.good("GET", f"{path}/{response_id}/input_items{query}")
    failing = {"input": script("count to 9", error="Alas", after=3)}
    await checked.good("POST", path, failing | {"stream": True})
    await checked.bad(502, "POST", path, failing)
    await checked.good("POST", f"{path}/input_tokens", hello)
    await checked.good("POST", f"{path}/compact", {"model": "haiku", "input": [HELLO]})
    for query in ("?stream=maybe", "?starting_after=x", "?stream=1&stream=0"):
        await checked.bad(400, "GET", f"{path}/{response_id}{query}")
    await checked.bad(400, "POST", f"{path}/{response_id}/cancel")
    await checked.good("DELETE", f"{path}/{response_id}")
    for method, place in (
        ("GET", ""), ("DELETE", ""), ("POST", "/cancel"), ("GET", "/input_items"),
    ):  # fmt: skip
        await checked.bad(404, method, f"{path}/{response_id}{place}")
    for place in ("", "/input_tokens", "/compact"):
        await checked.bad(404, "POST", f"{path}{place}", {"input": "a", "model": "nonsense"})


async def _ask_conversations(checked: Checked) -> None:
    path = "/v1/conversations"
    await checked.good("POST", path)
    first: JSON = {
        "items": [{"type": "message", **HELLO}],
        "metadata": {"a": "b"},
        "model": "haiku",
    }
    made = await checked.good("POST", path, first)
    one = f"{path}/{made['id']}"
    headers = {"x-conversation-id": made["id"]}
    for said in ({"messages": [USE], "tools": CHAT_TOOLS}, {"messages": [HELLO]}):
        await checked.send("POST", "/v1/chat/completions", said, **headers)
    await checked.good("POST", one, {"metadata": {"a": "c"}})
    added = await checked.good("POST", f"{one}/items", first | {"model": None})
    for place in (
        "", "/items", "/items?limit=1&order=asc", f"/items/{added['data'][0]['id']}",
        "/permissions", "/export", "/export?format=markdown",
    ):  # fmt: skip
        await checked.good("GET", f"{one}{place}")
    for query in ("", "?limit=1&order=asc", "?q=hello", "?after="):
        await checked.good("GET", f"{path}{query}")
    for query in ("limit=", "limit=0", "order=", "limit=1&limit=2", "after=nothing"):
        await checked.bad(400, "GET", f"{path}?{query}")
    await checked.bad(400, "GET", f"{one}/export?format=")
    await checked.bad(400, "DELETE", f"{one}/items/{added['data'][0]['id']}")
    await checked.bad(404, "GET", f"{one}/items/nothing")
    await checked.bad(404, "POST", f"{path}", {"model": "nonsense"})
    await checked.good("DELETE", one)
    gone: list[tuple[str, str, JSON | None]] = [
        ("GET", "", None),
        ("DELETE", "", None),
        ("POST", "", {}),
        ("GET", "/items", None),
        ("POST", "/items", first),
        ("GET", "/export", None),
        ("GET", "/permissions", None),
        ("POST", "/permissions/a", {"behavior": "deny"}),
        ("DELETE", "/items/a", None),
    ]
    for method, place, body in gone:
        await checked.bad(404, method, f"{one}{place}", body)


async def _ask_batches(checked: Checked) -> None:
    files, batches = "/v1/files", "/v1/batches"
    two = jsonl([line("a"), line("b", script("count to 99", pace=1))])
    file = await checked.good("POST", files, a_form(two), **FORM)
    for place in ("", f"/{file['id']}", f"/{file['id']}/content", "?limit=1&purpose=batch"):
        await checked.good("GET", f"{files}{place}")
    body: JSON = {
        "input_file_id": file["id"],
        "endpoint": "/v1/chat/completions",
        "completion_window": "24h",
        "metadata": {"a": "b"},
    }
    batch = await checked.good("POST", batches, body)
    one = f"{batches}/{batch['id']}"
    await checked.good("GET", one)
    await checked.good("GET", f"{batches}?limit=1")
    await checked.good("POST", f"{one}/cancel")
    while (await checked.good("GET", one))["status"] == "cancelling":
        await trio.sleep(0.05)
    await checked.bad(409, "POST", f"{one}/cancel")
    bad = await checked.good("POST", files, a_form(b"{"), **FORM)
    failed = await checked.good("POST", batches, body | {"input_file_id": bad["id"]})
    while not (shown := await checked.good("GET", f"{batches}/{failed['id']}"))["errors"]:
        await trio.sleep(0.05)
    assert shown["status"] == "failed"
    await checked.bad(415, "POST", files, {})
    await checked.bad(400, "POST", files, a_form(b"x", "vision"), **FORM)
    await checked.bad(404, "POST", batches, body | {"input_file_id": "file-1"})
    asked: JSON = {"model": "haiku", "max_tokens": 100, "messages": [HELLO]}
    said: JSON = {"requests": [{"custom_id": "a", "params": asked}]}
    path = "/v1/messages/batches"
    made = await checked.good("POST", path, said)
    await checked.good("GET", f"{path}?limit=1")
    while (await checked.good("GET", f"{path}/{made['id']}"))["processing_status"] != "ended":
        await trio.sleep(0.05)
    await checked.good("GET", f"{path}/{made['id']}/results")
    await checked.bad(400, "POST", f"{path}/{made['id']}/cancel")
    await checked.good("DELETE", f"{path}/{made['id']}")
    slow: JSON = asked | {"messages": [{"role": "user", "content": SILENT}]}
    said["requests"][0]["params"] = slow
    made = await checked.good("POST", path, said)
    await checked.good("POST", f"{path}/{made['id']}/cancel")
    for method, place in (("GET", ""), ("DELETE", ""), ("POST", "/cancel"), ("GET", "/results")):
        await checked.bad(404, method, f"{path}/msgbatch_1{place}")
    await checked.bad(400, "POST", path, {})
    await checked.good("DELETE", f"{files}/{file['id']}")
    for method, place in (
        ("GET", f"{files}/{file['id']}"),
        ("DELETE", f"{files}/{file['id']}"),
        ("GET", f"{files}/{file['id']}/content"),
        ("GET", f"{files}?after={file['id']}"),
        ("GET", f"{batches}/batch_1"),
        ("POST", f"{batches}/batch_1/cancel"),
    ):
        await checked.bad(404, method, place)


async def _ask_the_rest(checked: Checked) -> None:
    await checked.bad(400, "GET", "/ready?else=405")
    listed = await checked.good("GET", "/v1/models")
    await checked.good("GET", f"/v1/models/{listed['data'][0]['id']}")
    await checked.bad(404, "GET", "/v1/models/nonsense")
    for path in (
        "/v1/mcp",
        "/v1/usage",
        "/stats",
        "/metrics",
        "/health",
        "/ready",
        "/",
        "/page/app.js",
        "/openapi.json",
    ):
        await checked.good("GET", path)
    etag = (await checked.send("GET", "/")).headers["etag"]
    response = await checked.send("GET", "/", **{"if-none-match": etag})
    assert response.status_code == 304
    await checked.bad(404, "GET", "/page/nothing.js")
    await checked.bad(403, "GET", "/", host="elsewhere")
    for path in ("/v1/overview", "/v1/house", "/v1/conversations/conv_1/events"):
        await checked.bad(426, "GET", path)


async def test_without_a_key(tmp_path: Path) -> None:
    auth = AuthSettings(api_keys=("one-long-enough-key",))
    key = {"x-api-key": "one-long-enough-key"}
    async with open_live_demo(tmp_path, auth=auth) as live:
        async with httpx.AsyncClient(base_url=live.url, timeout=30) as client:
            described = Described((await client.get("/openapi.json", headers=key)).json())
            checked = Checked(client, described)
            for (method, path), operation in OPERATIONS.items():
                path = path.replace("{response_id}", "resp_1").replace("{", "").replace("}", "")
                if operation.keyed:
                    await checked.bad(401, method, path)
            assert not [each for each in described.seen if each[2] != 401]


async def test_schemathesis_finds_nothing(tmp_path: Path) -> None:
    """What the document allows is answered as it says, what it does not allow is refused. That the
    gateway takes all that the document allows is not asked: a model has to be there, a tool choice
    needs tools, and so on."""
    (tmp_path / "hooks.py").write_text(HOOKS)
    async with open_live_demo(tmp_path) as live:
        command = [
            sys.executable, "-m", "schemathesis.cli", "run", f"{live.url}/openapi.json",
            "--phases", "examples,fuzzing,stateful", "--max-examples", str(EXAMPLES),
            "--exclude-checks", "positive_data_acceptance",
            "--generation-deterministic", "--no-color", "--continue-on-failure", "--max-time", "10",
        ]  # fmt: skip
        if EXAMPLES > 10:
            command[command.index("examples,fuzzing,stateful")] += ",coverage"
            del command[-2:]
        found = await trio.run_process(
            command,
            cwd=tmp_path,
            env={**os.environ, "SCHEMATHESIS_HOOKS": "hooks"},
            capture_stdout=True,
            stderr=subprocess.STDOUT,
            check=False,
        )
    said = found.stdout.decode()
    assert found.returncode == 0, said
    assert "Fuzzing" in said


HOOKS = '''
import schemathesis


@schemathesis.hook
def map_body(context, body):
    """Most names of models are of none: these turns would not run."""
    if isinstance(body, dict) and isinstance(body.get("model"), str):
        body["model"] = "haiku"
    return body
'''
