"""Keys that are made and revoked beside a gateway that runs: scopes, models, and what a revoked key
leaves behind."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from click.testing import CliRunner
from trio_websocket import ConnectionClosed, open_websocket_url

from ccapi.actors.commands.main import main
from ccapi.schemas.settings.settings import AuthSettings
from tests.support.joined import open_joined
from tests.support.live import Live, open_live_demo

SAID = [{"role": "user", "content": "repeat: hello"}]
OF_SETTINGS = "sk-the-one-of-the-settings"


def slowly(deltas: int) -> str:
    """A prompt whose answer takes 50 ms for each delta; of another number it is another question,
    which waits for no other."""
    return f'!script {{"deltas": {deltas}, "pace_ms": 50}}'


async def key(live: Live, *arguments: str) -> str:
    """``ccapi key …`` beside the gateway; returns what it prints on stdout."""
    folder = str(live.gateway.settings.storage.path)
    command = ["key", *arguments, "--storage-path", folder]
    result = await trio.to_thread.run_sync(partial(CliRunner().invoke, main, command))
    assert result.exit_code == 0, result.output
    # The gateway of this process logs there too, when it finds that keys have changed.
    lines = [line for line in result.stdout.splitlines() if "keys changed" not in line]
    return "\n".join(lines).strip()


async def followed(live: Live) -> None:
    """The gateway has read what was changed."""
    keys, version = live.gateway.keys, live.gateway.keys.version
    with trio.fail_after(20):
        while keys.version == version:
            await trio.sleep(0.01)


@contextlib.asynccontextmanager
async def client_of(live: Live, secret: str = "") -> AsyncIterator[httpx.AsyncClient]:
    headers = {"x-api-key": secret} if secret else {}
    async with httpx.AsyncClient(
        base_url=live.url, trust_env=False, timeout=20, headers=headers
    ) as client:
        yield client


async def ask(client: httpx.AsyncClient, model: str = "sonnet", **fields: Any) -> httpx.Response:
    return await client.post(
        "/v1/chat/completions", json={"model": model, "messages": SAID, **fields}
    )


def error_of(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json()["error"]["code"]


async def test_once_there_is_a_key_clients_need_one(tmp_path: Path) -> None:
    async with open_live_demo(tmp_path) as live, client_of(live) as open_to_all:
        assert (await ask(open_to_all)).status_code == 200
        secret = await key(live, "create", "ann")
        await followed(live)
        assert error_of(await ask(open_to_all)) == (401, "invalid_api_key")
        async with client_of(live, secret) as ann:
            assert (await ask(ann)).status_code == 200
            await key(live, "revoke", "ann")
            await followed(live)
            assert error_of(await ask(ann)) == (401, "invalid_api_key")
        # The end of the last key does not open the gateway; that there is none any more does.
        assert error_of(await ask(open_to_all)) == (401, "invalid_api_key")
        await key(live, "delete", "ann")
        await followed(live)
        assert (await ask(open_to_all)).status_code == 200


async def test_scopes_and_models(tmp_path: Path) -> None:
    auth = AuthSettings(api_keys=(OF_SETTINGS,))
    async with open_live_demo(tmp_path, auth=auth) as live:
        plain = await key(live, "create", "plain")
        agent = await key(live, "create", "agent", "--scope", "agents")
        few = await key(
            live, "create", "few", "--scope", "chat", "--scope", "agents",
            "--model", "haiku", "--model", "agent/haiku",
        )  # fmt: skip
        watcher = await key(live, "create", "watcher", "--scope", "read-only")
        await followed(live)
        async with client_of(live, plain) as client:
            assert (await ask(client)).status_code == 200
            assert error_of(await ask(client, "agent/sonnet")) == (403, "agents_not_allowed")
        async with client_of(live, agent) as client:
            assert (await ask(client, "agent/sonnet")).status_code == 200
            assert error_of(await ask(client)) == (403, "scope_missing")
            names = {each["id"] for each in (await client.get("/v1/models")).json()["data"]}
            assert names
            assert all(name.startswith("agent/") for name in names)
        async with client_of(live, few) as client:
            names = {each["id"] for each in (await client.get("/v1/models")).json()["data"]}
            assert names == {"haiku", "agent/haiku"}
            assert error_of(await ask(client, "sonnet")) == (404, "model_not_found")
            assert error_of(await client.get("/v1/models/sonnet")) == (404, "model_not_found")
            unnamed = await client.post("/v1/responses", json={"input": "repeat: hello"})
            assert unnamed.json()["model"] == "haiku", "the default is not its"
        async with client_of(live, watcher) as client:
            for path in ("/v1/conversations", "/v1/responses/resp_1"):
                refused = await client.get(path)
                assert error_of(refused) == (403, "scope_missing")
                assert "it has read-only" in refused.json()["error"]["message"]
            assert error_of(await ask(client)) == (403, "scope_missing")
            assert (await client.get("/stats")).status_code == 200
            assert (await client.get("/v1/models")).json()["data"] == []
        async with client_of(live, OF_SETTINGS) as client:
            assert (await ask(client)).status_code == 200
            assert error_of(await ask(client, "agent/sonnet")) == (403, "agents_not_allowed")


async def test_all_that_a_revoked_key_has_open_ends_within_a_second(tmp_path: Path) -> None:
    async with open_live_demo(tmp_path, claude={"max_concurrent_sessions": 8}) as live:
        secret = await key(live, "create", "ann")
        other = await key(live, "create", "bob")
        await followed(live)
        ends: dict[str, float] = {}
        endings: dict[str, Any] = {}
        begun: list[str] = []

        async def stream(name: str, secret: str, path: str, body: dict[str, Any]) -> None:
            async with (
                client_of(live, secret) as client,
                client.stream("POST", path, json={**body, "stream": True}) as response,
            ):
                lines: list[str] = []
                async for line in response.aiter_lines():
                    if not lines:
                        begun.append(name)
                    lines.append(line)
            ends[name], endings[name] = trio.current_time(), "\n".join(lines[-3:])

        async def socket(name: str, path: str, first: dict[str, Any] | None) -> None:
            url = live.url.replace("http", "ws") + path
            async with open_websocket_url(
                url, extra_headers=[(b"x-api-key", secret.encode())]
            ) as ws:
                if first is not None:
                    await ws.send_message(json.dumps(first))
                received: list[Any] = []
                try:
                    while True:
                        received.append(json.loads(await ws.get_message()))
                        if len(received) == 2:
                            begun.append(name)
                except ConnectionClosed as closed:
                    ends[name] = trio.current_time()
                    errors = [each for each in received if each["type"] == "error"]
                    endings[name] = getattr(closed.reason, "code", None), errors
                    # trio-websocket leaves it open where the server was the first to close.
                    await ws._stream.aclose()

        async with client_of(live, secret) as client:
            made = (await client.post("/v1/conversations", json={"model": "sonnet"})).json()["id"]
        chat = {"model": "sonnet", "messages": [{"role": "user", "content": slowly(400)}]}
        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                start = nursery.start_soon
                start(stream, "chat", secret, "/v1/chat/completions", chat)
                start(stream, "responses", secret, "/v1/responses", {"input": slowly(401)})
                turn = {"type": "turn.create", "input": slowly(402)}
                start(socket, "join", f"/v1/conversations/{made}/events", turn)
                create = {"type": "response.create", "input": slowly(403)}
                start(socket, "responses socket", "/v1/responses", create)
                start(socket, "overview", "/v1/overview", None)
                chat = {"model": "sonnet", "messages": [{"role": "user", "content": slowly(60)}]}
                start(stream, "bob", other, "/v1/chat/completions", chat)
                while len(begun) < 6:
                    await trio.sleep(0.02)
                await key(live, "revoke", "ann")
                revoked = trio.current_time()
        assert "[DONE]" in endings.pop("bob")
        for name, ending in endings.items():
            assert ends[name] - revoked < 1, name
            assert "revoked" in str(ending), (name, ending)
        with trio.fail_after(20):
            while live.gateway.statistics().turns_running:
                await trio.sleep(0.02)


@pytest.mark.parametrize("name", ["ann", "eve"])
def test_what_the_command_cannot_do_it_says_in_a_line(name: str, tmp_path: Path) -> None:
    def run(*arguments: str, **environ: str) -> str:
        env = {"CLAUDE_CODE__STORAGE__PATH": str(tmp_path), **environ}
        result = CliRunner().invoke(main, ["key", *arguments], env=env)
        assert result.exit_code == 1
        assert "Traceback" not in result.output
        return result.output

    made = CliRunner().invoke(main, ["key", "create", "ann", "--storage-path", str(tmp_path)])
    assert made.exit_code == 0
    if name == "ann":
        assert "There is a key called ann already" in run("create", "ann")
        assert "There is no revoked key called ann" in run("delete", "ann")
    else:
        assert f"There is no key called {name}" in run("revoke", name)
        off = {"CLAUDE_CODE__STORAGE__PERSIST": "false"}
        assert "storage.persist is off" in run("create", name, **off)
        (tmp_path / "ccapi.db").write_bytes(b"no database" * 1000)
        assert "is damaged" in run("list")


def test_the_secret_is_kept_nowhere(tmp_path: Path) -> None:
    def run(*arguments: str) -> str:
        command = ["key", *arguments, "--storage-path", str(tmp_path)]
        return CliRunner().invoke(main, command).output

    secret = run("create", "ann", "--tokens-per-day", "1000").splitlines()[0]
    table, as_json = run("list"), run("list", "--json")
    assert "tokens_per_day=1000" in table
    assert json.loads(as_json)[0]["limits"] == {"tokens_per_day": 1000}
    kept = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    for text in (table, as_json, kept.decode("latin-1")):
        assert secret not in text
        assert secret.removeprefix("sk-ccapi-") not in text
    assert all(path.stat().st_mode & 0o077 == 0 for path in tmp_path.iterdir())


def test_a_gateway_that_serves_keys_tells_none(tmp_path: Path) -> None:
    """Neither in its log, what it answers, its processes' arguments and environments, nor on the
    disk; keys that are valid, wrong, revoked, or stand in the settings."""
    state, log = tmp_path / "state", tmp_path / "log"
    storage = ["--storage-path", str(state)]

    def run(*arguments: str) -> str:
        result = CliRunner().invoke(main, ["key", *arguments, *storage])
        assert result.exit_code == 0, result.output
        return result.stdout.strip()

    valid, revoked = (
        run("create", "ann", "--scope", "admin", "--scope", "chat"),
        run("create", "bo"),
    )
    run("revoke", "bo")
    secrets = [valid, revoked, OF_SETTINGS, "sk-that-was-never-made"]
    environ = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(tmp_path),
        "CLAUDE_CODE__AUTH__API_KEYS": json.dumps([OF_SETTINGS]),
        "CLAUDE_CODE__AUDIT__PATH": str(tmp_path / "audit"),
    }
    serve = ["serve", "--demo", "--port", "0", "--log-format", "json", "--log-level", "debug"]
    command = [sys.executable, "-m", "ccapi.actors.commands.main", *serve, *storage]
    with log.open("w") as stderr:
        gateway = subprocess.Popen(command, env=environ, stderr=stderr, cwd=tmp_path)
    try:
        url = _url_in(log)
        said: list[str] = []
        for secret in secrets:
            for header in ({"x-api-key": secret}, {"authorization": f"Bearer {secret}"}):
                with httpx.Client(base_url=url, timeout=20, headers=header) as client:
                    said += [client.get(path).text for path in ("/stats", "/metrics", "/v1/usage")]
                    body = {"model": "sonnet", "messages": SAID}
                    said.append(client.post("/v1/chat/completions", json=body).text)
        processes = [f"/proc/{gateway.pid}"]
        for children in Path(f"/proc/{gateway.pid}/task").glob("*/children"):
            processes += [f"/proc/{pid}" for pid in children.read_text().split()]
        said += [Path(each, "cmdline").read_text() for each in processes]
        # The gateway's own environment is not readable to others, and was cleared.
        said += [Path(each, "environ").read_bytes().decode("latin-1") for each in processes]
    finally:
        gateway.terminate()
        assert gateway.wait(20) == 0
    assert any('"turns"' in text for text in said)
    assert any("invalid_api_key" in text for text in said)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {"audit", "log", "ccapi.db"} <= {path.name for path in files}
    said += [path.read_bytes().decode("latin-1") for path in files]
    for secret in secrets:
        assert not [text[:80] for text in said if secret in text]


def _url_in(log: Path) -> str:
    until = time.monotonic() + 30
    while time.monotonic() < until:
        for line in log.read_text().splitlines():
            told = json.loads(line) if line.startswith("{") else {}
            if told.get("event") == "listening":
                return str(told["url"])
        time.sleep(0.05)
    raise AssertionError(log.read_text())


def test_a_stored_key_lets_other_machines_in(tmp_path: Path) -> None:
    env = {"CLAUDE_CODE__STORAGE__PATH": str(tmp_path), "CLAUDE_CODE__SERVER__HOST": "0.0.0.0"}
    refused = CliRunner().invoke(main, ["config"], env=env)
    assert refused.exit_code == 2
    assert "ccapi key create" in refused.output
    assert CliRunner().invoke(main, ["key", "create", "ann"], env=env).exit_code == 0
    assert CliRunner().invoke(main, ["config"], env=env).exit_code == 0


async def test_limits_hold_on_every_route_and_headers_tell(tmp_path: Path) -> None:
    async with open_live_demo(tmp_path) as live:
        secret = await key(live, "create", "ann", "--turns-per-minute", "3")
        one = await key(live, "create", "bob", "--concurrent-turns", "1")
        poor = await key(live, "create", "eve", "--tokens-per-day", "10")
        await followed(live)
        async with client_of(live, secret) as ann:
            first = await ask(ann)
            assert first.headers["x-ratelimit-limit-requests"] == "3"
            assert first.headers["x-ratelimit-remaining-requests"] == "2"
            assert (await ask(ann)).headers["x-ccapi-cache"] == "hit"  # a turn all the same
            answered = await ann.post("/v1/responses", json={"input": "repeat: x"})
            assert answered.headers["x-ratelimit-remaining-requests"] == "0"
            body = {"model": "sonnet", "prompt": "repeat: y"}
            for path, fields in [
                ("/v1/chat/completions", {"messages": SAID, "model": "sonnet"}),
                ("/v1/chat/completions", {"messages": SAID, "model": "sonnet", "stream": True}),
                ("/v1/completions", body),
                ("/v1/responses", {"input": "repeat: z"}),
                ("/v1/responses", {"input": "repeat: z", "background": True}),
            ]:
                refused = await ann.post(path, json=fields)
                assert error_of(refused) == (429, "key_limit_reached")
                assert refused.json()["error"]["limit"] == "turns_per_minute"
                assert 1 <= int(refused.headers["retry-after"]) <= 20
            made = (await ann.post("/v1/conversations", json={"model": "sonnet"})).json()["id"]
            async with open_joined(live.url, made, key=secret) as joined:
                await joined.say("turn.create", input="repeat: a", ref="r")
                assert (await joined.until("error"))["error"]["code"] == "key_limit_reached"
            listed = await ann.get("/v1/models")
            assert listed.headers["x-ratelimit-remaining-requests"] == "0"
        async with client_of(live, one) as bob:
            async with bob.stream(
                "POST", "/v1/responses", json={"input": slowly(100), "stream": True}
            ) as running:
                assert running.status_code == 200
                assert "x-ratelimit-limit-requests" not in running.headers
                refused = await ask(bob)
                assert refused.json()["error"]["limit"] == "concurrent_turns"
            with trio.fail_after(5):
                while live.gateway.statistics().turns_running:
                    await trio.sleep(0.01)
            assert (await ask(bob)).status_code == 200
        async with client_of(live, poor) as eve:
            assert (await ask(eve)).status_code == 200
            refused = await ask(eve)
            assert refused.json()["error"]["limit"] == "tokens_per_day"
            assert refused.headers["x-ratelimit-remaining-tokens"] == "0"
            assert refused.headers["x-should-retry"] == "false"


async def test_a_key_sees_its_own_numbers_and_an_admin_all(tmp_path: Path) -> None:
    async with open_live_demo(tmp_path) as live:
        ann, bob = await key(live, "create", "ann"), await key(live, "create", "bob")
        admin = await key(live, "create", "root", "--scope", "admin")
        watcher = await key(live, "create", "prometheus", "--scope", "read-only")
        await followed(live)
        told: dict[str, Any] = {}
        for name, secret, turns in [("ann", ann, 2), ("bob", bob, 1)]:
            async with client_of(live, secret) as client:
                for number in range(turns):
                    body = {"input": f"repeat: {number}", "store": False}
                    answer = await client.post("/v1/responses", json=body)
                    assert answer.status_code == 200
                    if name == "ann":  # what was used outlives the conversation
                        gone = answer.json()["conversation_id"]
                        deleted = await client.delete(f"/v1/conversations/{gone}")
                        assert deleted.status_code == 200
        for name, secret in [("ann", ann), ("bob", bob), ("root", admin), ("watch", watcher)]:
            async with client_of(live, secret) as client:
                stats = (await client.get("/stats")).json()
                metrics = (await client.get("/metrics")).text
                usage = (await client.get("/v1/usage")).json()["data"]
                told[name] = (
                    stats["turns"]["finished"],
                    "ccapi_turns_finished_total 3.0" in metrics,
                    sorted((each["key_name"], each["turns"]) for each in usage),
                )
                assert ("children" in stats) is (name in ("root", "watch"))
                url = live.url.replace("http", "ws") + "/v1/overview"
                header = (b"x-api-key", secret.encode())
                async with open_websocket_url(url, extra_headers=[header]) as ws:
                    picture = json.loads(await ws.get_message())
                assert picture["turns"]["finished"] == stats["turns"]["finished"]
        assert told == {
            "ann": (2, False, [("ann", 2)]),
            "bob": (1, False, [("bob", 1)]),
            "root": (3, True, [("ann", 2), ("bob", 1)]),
            "watch": (3, True, []),
        }
        async with client_of(live, ann) as client:
            (own,) = (await client.get("/v1/usage")).json()["data"]
            assert own["total_tokens"] == own["prompt_tokens"] + own["completion_tokens"] > 0
            assert own["cost_usd"] > 0
            assert own["model"] == "sonnet"
            early = await client.get("/v1/usage", params={"end": "2000-01-01"})
            assert early.json()["data"] == []
            bad = await client.get("/v1/usage", params={"start": "yesterday"})
            assert bad.status_code == 400
            assert bad.json()["error"]["param"] == "start"
