"""The operator's MCP servers in a whole gateway, with servers in processes of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import trio

from ccapi.actors.mcp.servers import McpServers
from ccapi.actors.opening import open_gateway
from ccapi.schemas.settings.settings import McpSettings
from tests.support.live import settings_for
from tests.support.mcp_servers import http_program, program

SECRETS = {
    "NOTES_TOKEN": "secret-of-notes",
    "WEB_TOKEN": "secret-of-web",
    "URL_TOKEN": "secret-in-a-url",
    "ANTHROPIC_API_KEY": "secret-of-the-gateway",
}


def write(path: Path, servers: dict[str, Any]) -> None:
    path.write_text(json.dumps({"mcpServers": servers}))


def eventually(what: Callable[[], bool], seconds: float = 30) -> None:
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until
        time.sleep(0.05)


def arguments_of(pid: int) -> Iterator[bytes]:
    """Of a process and all that it has started."""
    yield Path(f"/proc/{pid}/cmdline").read_bytes()
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in children.read_text().split():
            yield from arguments_of(int(child))


def test_a_gateway_shows_its_servers_reads_the_file_again_and_tells_no_secret(
    tmp_path: Path,
) -> None:
    """One gateway for all of it: a start is a second."""
    file, log, audit = tmp_path / "mcp.json", tmp_path / "log", tmp_path / "audit.jsonl"
    notes = program("bad")
    notes["env"] |= {"TOKEN": "${NOTES_TOKEN}"}
    gone = {"command": "no-such-program", "args": ["${UNSET:-x}"]}
    environ = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(tmp_path),
        "CLAUDE_CODE__CLAUDE__ENV": '{"DEMO_CLI_SWITCHES": "{}"}',
        "CLAUDE_CODE__STORAGE__PATH": str(tmp_path / "state"),
        "CLAUDE_CODE__MCP__ENABLED": "true",
        "CLAUDE_CODE__MCP__DEBUG": "true",
        "CLAUDE_CODE__MCP__CONFIG_FILE": str(file),
        "CLAUDE_CODE__AUDIT__PATH": str(audit),
        **SECRETS,
    }
    command = [sys.executable, "-m", "ccapi.actors.commands.main"]
    with http_program() as http, log.open("w") as stderr, ExitStack() as stack:
        bearer = {"headers": {"Authorization": "Bearer ${WEB_TOKEN}"}}
        write(
            file,
            {
                "notes": notes,
                "web": http.entry("/mcp?key=${URL_TOKEN}", **bearer),
                "closed": http.entry("/auth", **bearer),
                "gone": gone,
            },
        )
        serve = [*command, "serve", "--demo", "--port", "0", "--log-format", "json"]
        gateway = subprocess.Popen(serve, env=environ, stderr=stderr, cwd=tmp_path)
        try:
            eventually(lambda: '"listening"' in log.read_text())
            lines = [json.loads(line) for line in log.read_text().splitlines() if line[:1] == "{"]
            url = next(line["url"] for line in lines if line["event"] == "listening")
            client = stack.enter_context(httpx.Client(base_url=url, timeout=20))

            def states() -> dict[str, str]:
                data = client.get("/v1/mcp").json()["data"]
                return {server["name"]: server["state"] for server in data}

            wanted = {
                "notes": "ready",
                "web": "ready",
                "closed": "needs_auth",
                "gone": "failed",
            }
            eventually(lambda: states() == wanted)
            listed = client.get("/v1/mcp").json()
            tools = {server["name"]: server["tools"] for server in listed["data"]}
            assert [tool["name"] for tool in tools["notes"]] == [
                "mcp__notes__good",
                "mcp__notes__no_schema",
                "mcp__notes__array",
                "mcp__notes__choice",
            ]
            assert tools["web"][0]["read_only"] is True
            assert len(listed["data"][0]["left_out"]) == 4
            stats = client.get("/stats").json()["mcp"]
            assert [server["tools"] for server in stats] == [4, 9, 0, 0]
            metrics = client.get("/metrics").text
            assert 'ccapi_mcp_servers{state="ready"} 2.0' in metrics
            shown = subprocess.run(
                [*command, "mcp", "list", "--url", url], capture_output=True, text=True, check=True
            ).stdout.splitlines()
            assert shown[0] == "notes (stdio): ready, 4 tools, 0 calls"
            assert any(line.startswith("closed (http): needs_auth") for line in shown)
            arguments = b"".join(arguments_of(gateway.pid))
            assert b"tests.support.mcp_servers" in arguments

            # Another file; then one that is broken.
            write(file, {"gone": gone, "notes": notes})
            audit.rename(tmp_path / "audit.jsonl.1")
            gateway.send_signal(signal.SIGHUP)
            eventually(lambda: states() == {"gone": "failed", "notes": "ready"})
            write(file, {"notes": {"command": "${NOT_SET}"}})
            gateway.send_signal(signal.SIGHUP)
            eventually(lambda: "needs the environment variable NOT_SET" in log.read_text())
            assert states() == {"gone": "failed", "notes": "ready"}
            eventually(lambda: audit.read_text().count("mcp_file_read") == 2)
            lines = [json.loads(line) for line in audit.read_text().splitlines()]
            assert [line["outcome"] for line in lines] == ["in_force", "refused"]

            said = [log.read_text(), json.dumps(listed), json.dumps(stats), metrics, *shown]
            assert "my token is ********" in log.read_text()
            assert "tools/list" in log.read_text()  # mcp.debug
            for secret in SECRETS.values():
                assert not [text for text in said if secret in text]
                assert secret.encode() not in arguments
        finally:
            gateway.send_signal(signal.SIGTERM)
            assert gateway.wait(20) == 0


def test_a_broken_file_refuses_the_start_with_file_and_server(tmp_path: Path) -> None:
    file = tmp_path / "mcp.json"
    write(file, {"notes": {"url": "http://x/", "headers": {"K": "${GONE}"}}})
    environ = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "XDG_STATE_HOME": str(tmp_path)}
    options = ["--mcp-enabled", "--mcp-config-file", str(file), "--port", "0"]
    ran = subprocess.run(
        [sys.executable, "-m", "ccapi.actors.commands.main", "serve", "--demo", *options],
        env=environ, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert ran.returncode == 2
    reason = "mcpServers.notes.headers.K: needs the environment variable GONE, which is not set"
    assert ran.stderr.splitlines()[-1] == f"Error: {file}: {reason}"


async def ready(servers: McpServers, name: str) -> None:
    with trio.fail_after(30):
        while not any(each.name == name and each.state == "ready" for each in servers.states()):
            await trio.sleep(0.05)


async def test_a_server_that_dies_in_a_call_comes_back(tmp_path: Path) -> None:
    file = tmp_path / "mcp.json"
    write(file, {"tests": program()})
    settings = settings_for(tmp_path, {}, mcp=McpSettings(enabled=True, config_file=file))
    began = time.monotonic()
    async with open_gateway(settings, demo=True, environ=dict(os.environ)) as gateway:
        started = time.monotonic() - began
        servers = gateway.mcp
        assert servers.names == ("tests",)
        await ready(servers, "tests")
        assert time.monotonic() - began > started  # the start has not waited for it
        echo, die = servers.find("mcp__tests__echo"), servers.find("mcp__tests__die")
        assert echo is not None
        assert die is not None
        result = await servers.call(echo, {"text": "hello"})
        assert result["content"] == [{"type": "text", "text": "hello"}]
        with trio.fail_after(10):
            result = await servers.call(die, {})
        assert result["isError"] is True
        assert "The MCP server tests is gone" in result["content"][0]["text"]
        with trio.fail_after(10):
            while servers.states()[0].state != "failed":
                await trio.sleep(0.01)
        assert servers.states()[0].reason == "the program ended with status 7"
        assert servers.find("mcp__tests__echo") is not None
        await ready(servers, "tests")
        result = await servers.call(echo, {"text": "again"})
        assert result["content"] == [{"type": "text", "text": "again"}]


def test_a_terminal_that_closes_ends_the_gateway_though_the_signal_is_the_same(
    tmp_path: Path,
) -> None:
    file = tmp_path / "mcp.json"
    write(file, {})
    environ = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(tmp_path),
        "CLAUDE_CODE__STORAGE__PATH": str(tmp_path / "state"),
    }
    options = ["--mcp-enabled", "--mcp-config-file", str(file), "--port", "0"]
    serve = [sys.executable, "-m", "ccapi.actors.commands.main", "serve", "--demo", *options]
    ours, theirs = os.openpty()
    gateway = subprocess.Popen(serve, env=environ, stderr=theirs, cwd=tmp_path)
    os.close(theirs)
    said = b""
    while b"listening" not in said:
        said += os.read(ours, 4096)
    gateway.send_signal(signal.SIGHUP)
    while b"read again" not in said:
        said += os.read(ours, 4096)
    assert gateway.poll() is None
    os.close(ours)
    gateway.send_signal(signal.SIGHUP)
    gateway.wait(20)
