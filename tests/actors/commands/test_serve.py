"""The whole server as a process: starting, refusing to start, draining, ending at once."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from attrs import frozen

SLOW = '!script {"deltas": 10, "pace_ms": 100}'
ENDLESS = '!script {"deltas": 100000, "pace_ms": 50}'


@frozen
class Server:
    process: trio.Process
    url: str
    client: httpx.AsyncClient

    async def ended(self) -> int:
        with trio.fail_after(20):
            return await self.process.wait()


@asynccontextmanager
async def open_server(
    tmp_path: Path, *, demo: bool = True, port: int = 0, **settings: str
) -> AsyncIterator[Server]:
    """``ccapi serve`` (with ``--demo``) in surroundings of its own; `port` 0 takes a free one."""
    env = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(tmp_path),
        "CLAUDE_CODE__CLAUDE__ENV": json.dumps({"DEMO_CLI_SWITCHES": "{}"}),
        "CLAUDE_CODE__STORAGE__PATH": str(tmp_path / "state"),
        "CLAUDE_CODE__LOG__FORMAT": "json",
        **{f"CLAUDE_CODE__{name}": value for name, value in settings.items()},
    }
    process = await trio.lowlevel.open_process(
        [
            *(sys.executable, "-m", "ccapi.actors.commands.main", "serve", "--port", str(port)),
            *(["--demo"] if demo else []),
        ],
        env=env,
        cwd=tmp_path,
        stderr=subprocess.PIPE,
    )
    assert process.stderr is not None
    try:
        with trio.fail_after(20):
            url = await _listening(process.stderr)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_drain, process.stderr)
            async with httpx.AsyncClient(base_url=url, timeout=20) as client:
                yield Server(process, url, client)
            nursery.cancel_scope.cancel()
    finally:
        if process.returncode is None:
            process.kill()
            with trio.move_on_after(5, shield=True):
                await process.wait()
        await process.stderr.aclose()


async def _listening(stderr: trio.abc.ReceiveStream) -> str:
    text = b""
    while b'"listening"' not in text or not text.endswith(b"\n"):
        more = await stderr.receive_some(4096)
        assert more, text.decode()
        text += more
    lines = [json.loads(line) for line in text.splitlines()]
    return str(next(line["url"] for line in lines if line["event"] == "listening"))


async def _drain(stderr: trio.abc.ReceiveStream) -> None:
    async for _ in stderr:
        pass


def chat(text: str, **fields: Any) -> dict[str, Any]:
    return {"model": "sonnet", "messages": [{"role": "user", "content": text}], **fields}


async def wait_for_turn(server: Server) -> None:
    with trio.fail_after(10):
        while (await server.client.get("/stats")).json()["turns"]["running"] == 0:
            await trio.sleep(0.02)


async def test_a_signal_drains_running_turns_finish_and_new_ones_are_refused(
    tmp_path: Path,
) -> None:
    async with open_server(tmp_path) as server:
        answers: list[httpx.Response] = []

        async def ask() -> None:
            answers.append(await server.client.post("/v1/chat/completions", json=chat(SLOW)))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await wait_for_turn(server)
            assert (await server.client.get("/ready")).status_code == 200
            server.process.send_signal(signal.SIGTERM)
            with trio.fail_after(10):
                while (await server.client.get("/ready")).status_code != 503:
                    await trio.sleep(0.02)
            assert (await server.client.get("/health")).status_code == 200
            refused = await server.client.post("/v1/chat/completions", json=chat("Hello"))
            assert refused.status_code == 503
            assert refused.json()["error"]["code"] == "draining"
            assert "retry-after" in refused.headers
        assert answers[0].status_code == 200
        assert len(answers[0].json()["choices"][0]["message"]["content"]) == 50
        assert await server.ended() == 0


async def test_turns_that_outlast_the_drain_end_with_it(tmp_path: Path) -> None:
    async with open_server(tmp_path, SERVER__GRACEFUL_SECONDS="0.5") as server:
        async with server.client.stream(
            "POST", "/v1/chat/completions", json=chat(ENDLESS, stream=True)
        ) as response:
            lines = response.aiter_lines()
            await anext(lines)
            server.process.send_signal(signal.SIGINT)
            rest = []
            try:
                async for line in lines:
                    rest.append(line)
            except httpx.RemoteProtocolError:
                pass  # the connection may be cut: what matters is that no end mark was sent
            await lines.aclose()  # type: ignore[attr-defined]
        assert "data: [DONE]" not in rest
        assert await server.ended() == 0


async def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    async with open_server(tmp_path, SERVER__GRACEFUL_SECONDS="3600") as server:
        async with trio.open_nursery() as nursery:

            async def ask() -> None:
                try:
                    await server.client.post("/v1/chat/completions", json=chat(ENDLESS))
                except httpx.HTTPError:
                    pass

            nursery.start_soon(ask)
            await wait_for_turn(server)
            server.process.send_signal(signal.SIGTERM)
            with trio.fail_after(10):
                while (await server.client.get("/ready")).status_code != 503:
                    await trio.sleep(0.02)
            server.process.send_signal(signal.SIGTERM)
            assert await server.ended() == 0
            nursery.cancel_scope.cancel()


def refused_start(
    tmp_path: Path, *arguments: str, **settings: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ccapi.actors.commands.main", "serve", *arguments],
        env={
            "PATH": "/nowhere",
            "HOME": str(tmp_path),
            **{f"CLAUDE_CODE__{name}": value for name, value in settings.items()},
        },
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_a_host_beyond_loopback_without_keys_refuses_to_start(tmp_path: Path) -> None:
    refused = refused_start(tmp_path, "--demo", "--host", "0.0.0.0")
    assert refused.returncode == 2
    assert "auth.api_keys" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_missing_cli_refuses_to_start_and_says_how_to_get_it(tmp_path: Path) -> None:
    refused = refused_start(tmp_path, "--claude-command", "no-such-claude", "--port", "0")
    assert refused.returncode == 1
    assert "no-such-claude" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_cli_that_is_too_old_refuses_to_start_and_says_what_is_needed(tmp_path: Path) -> None:
    program = tmp_path / "claude"
    program.write_text('#!/bin/sh\n[ "$*" = --version ] && echo "2.1.197 (Claude Code)"\nexit 1\n')
    program.chmod(0o700)
    refused = refused_start(tmp_path, "--claude-command", str(program), "--port", "0")
    assert refused.returncode == 1
    last = refused.stderr.splitlines()[-1]
    assert f"{program} is version 2.1.197; this gateway needs 2.1.330 or newer" in last
    assert "Traceback" not in refused.stderr


@pytest.mark.parametrize("path", ["/proc/x", "/dev/null", "/dev/null/x"])
def test_a_storage_path_that_cannot_be_used_refuses_to_start(tmp_path: Path, path: str) -> None:
    refused = refused_start(tmp_path, "--demo", "--port", "0", STORAGE__PATH=path)
    assert refused.returncode == 2
    assert f"storage.path: no directory can be made at {path}" in refused.stderr
    assert "Traceback" not in refused.stderr


async def test_a_port_that_is_taken_refuses_to_start(tmp_path: Path) -> None:
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        port = str(listener.socket.getsockname()[1])
        refused = await trio.to_thread.run_sync(refused_start, tmp_path, "--demo", "--port", port)
    assert refused.returncode == 1
    assert port in refused.stderr
    assert "Traceback" not in refused.stderr


async def test_it_says_what_it_is_before_it_logs_anything(tmp_path: Path) -> None:
    async with open_console(tmp_path) as (process, lines):
        assert [line.split()[0] for line in lines[:6]] == [
            "ccapi", "cli", "models", "agents", "keys", "storage",
        ]  # fmt: skip
        assert "http://127.0.0.1:" in lines[0]
        assert lines[1].endswith("demo: it makes its answers up; login: none needed")
        assert "sonnet (default), opus, haiku" in lines[2]
        assert lines[3].endswith("off")
        assert lines[4].endswith("none needed: this machine only")
        assert lines[5].endswith(str(tmp_path / "state"))
        assert "listening" in "".join(lines[6:])
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0


@asynccontextmanager
async def open_console(tmp_path: Path) -> AsyncIterator[tuple[trio.Process, list[str]]]:
    """A server whose log is for people, and what it wrote up to the line that says it listens."""
    env = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(tmp_path),
        "CLAUDE_CODE__STORAGE__PATH": str(tmp_path / "state"),
        "CLAUDE_CODE__LOG__FORMAT": "console",
        "CLAUDE_CODE__MODELS__AGENTS": "false",
    }
    command = [sys.executable, "-m", "ccapi.actors.commands.main", "serve", "--demo", "--port", "0"]
    process = await trio.lowlevel.open_process(command, env=env, stderr=subprocess.PIPE)
    assert process.stderr is not None
    try:
        text = b""
        with trio.fail_after(20):
            while b"listening" not in text or not text.endswith(b"\n"):
                more = await process.stderr.receive_some(4096)
                assert more, text.decode()
                text += more
            yield process, text.decode().splitlines()
    finally:
        if process.returncode is None:
            process.kill()
            with trio.move_on_after(5, shield=True):
                await process.wait()
        await process.stderr.aclose()


def test_a_start_that_fails_shows_what_was_logged_until_then(tmp_path: Path) -> None:
    refused = refused_start(
        tmp_path, "--demo", "--port", "0", LOG__FORMAT="console", WORKSPACES__SANDBOX="off",
        STORAGE__PATH=str(tmp_path / "state"), SERVER__TLS_CERT_FILE="/nowhere",
        SERVER__TLS_KEY_FILE="/nowhere",
    )  # fmt: skip
    assert refused.returncode == 1
    assert "cannot serve TLS" in refused.stderr


async def test_for_machines_what_it_is_is_one_line_of_the_log(tmp_path: Path) -> None:
    done = await trio.to_thread.run_sync(logged_start, tmp_path)
    (line,) = [each for each in map(json.loads, done) if each["event"] == "serving"]
    assert line["url"].startswith("http://127.0.0.1:")
    assert (line["login"], line["agents"], line["keys"]) == ("none needed", False, 0)
    assert line["default"] == "sonnet"


def logged_start(tmp_path: Path) -> list[str]:
    """What a server logs that has to stop as soon as it has said what it is."""
    with subprocess.Popen(
        [sys.executable, "-m", "ccapi.actors.commands.main", "serve", "--demo", "--port", "0"],
        env={
            "PATH": "/usr/bin:/bin",
            "HOME": str(tmp_path),
            "CLAUDE_CODE__MODELS__AGENTS": "false",
        },
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        lines = []
        for line in process.stderr:
            lines.append(line)
            if '"serving"' in line:
                process.terminate()
        assert process.wait(20) == 0
    return lines
