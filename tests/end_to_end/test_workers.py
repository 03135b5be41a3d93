"""``ccapi serve --workers``: several processes at one port, on a real PostgreSQL."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from ccapi.actors.commands.workers import own_address, worker_settings
from ccapi.schemas.settings.settings import (
    ClusterSettings,
    ServerSettings,
    Settings,
    StorageSettings,
)

from ..support.nodes import free_port
from ..support.processes import eventually, lives

PATIENCE = 60.0


class Command:
    """A running ``ccapi serve --workers``."""

    def __init__(self, process: subprocess.Popen[Any], port: int) -> None:
        self.process = process
        self.url = f"http://127.0.0.1:{port}"

    @property
    def workers(self) -> list[int]:
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(pid) for pid in children.read_text().split()]

    async def ask(self, text: str, **fields: Any) -> httpx.Response:
        """Ask on a connection of its own, so that any worker may have it."""
        body = {"messages": [{"role": "user", "content": text}], **fields}
        async with httpx.AsyncClient(timeout=30) as client:
            return await client.post(f"{self.url}/v1/chat/completions", json=body)

    async def wait_ready(self) -> None:
        with trio.fail_after(PATIENCE):
            while True:
                try:
                    async with httpx.AsyncClient(timeout=5) as client:
                        if (await client.get(f"{self.url}/ready")).status_code == 200:
                            return
                except httpx.TransportError:
                    pass
                await trio.sleep(0.1)


@asynccontextmanager
async def open_workers(tmp_path: Path, url: str, count: int = 2) -> AsyncIterator[Command]:
    port = free_port()
    arguments = [
        *(sys.executable, "-m", "ccapi.actors.commands.main", "serve", "--demo"),
        *("--workers", str(count), "--port", str(port)),
        *("--storage-url", url, "--storage-path", str(tmp_path / "state")),
    ]
    environ = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(tmp_path),
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    with (tmp_path / "log.txt").open("wb") as log:
        process = await trio.to_thread.run_sync(
            partial(subprocess.Popen, arguments, env=environ, stdout=log, stderr=log, cwd=tmp_path)
        )
    command = Command(process, port)
    try:
        await command.wait_ready()
        yield command
    finally:
        workers = command.workers if process.poll() is None else []
        process.kill()
        process.wait()
        await eventually(lambda: not any(map(lives, workers)), PATIENCE)


@pytest.fixture
async def command(tmp_path: Path, postgres_url: str) -> AsyncIterator[Command]:
    async with open_workers(tmp_path, postgres_url) as opened:
        yield opened


async def test_any_worker_goes_on_with_a_conversation_also_after_one_was_killed(
    command: Command,
) -> None:
    await eventually(lambda: len(command.workers) == 2, PATIENCE)
    first = await command.ask("One")
    name = first.json()["conversation_id"]
    for _ in range(8):  # more than one of them reaches the other worker
        answer = await command.ask("Two", conversation_id=name)
        assert (answer.status_code, answer.headers["x-ccapi-child"]) == (200, "warm")
    before = command.workers
    os.kill(before[0], signal.SIGKILL)
    await eventually(lambda: len({*command.workers} - {*before}) == 1, PATIENCE)
    await command.wait_ready()
    with trio.fail_after(PATIENCE):
        while (answer := await command.ask("Three", conversation_id=name)).status_code != 200:
            assert answer.status_code in (502, 503), answer.text
            await trio.sleep(0.1)


async def test_a_signal_stops_all_workers(command: Command) -> None:
    workers = command.workers
    command.process.send_signal(signal.SIGTERM)
    await eventually(lambda: command.process.poll() is not None, PATIENCE)
    assert command.process.returncode == 0
    assert not any(map(lives, workers))


async def test_no_worker_outlives_the_command(command: Command) -> None:
    workers = command.workers
    command.process.kill()
    command.process.wait()
    await eventually(lambda: not any(map(lives, workers)), PATIENCE)


def test_workers_need_a_database_that_they_can_share(tmp_path: Path) -> None:
    arguments = [
        sys.executable,
        "-m",
        "ccapi.actors.commands.main",
        "serve",
        "--demo",
        "--workers",
        "2",
    ]
    environ = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(tmp_path),
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    refused = subprocess.run(
        arguments,
        env=environ,
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        timeout=60,
    )
    assert refused.returncode == 2
    assert "storage.url: must be a database that workers can share" in refused.stderr


def test_each_worker_has_a_folder_and_all_have_the_same_workspaces(tmp_path: Path) -> None:
    settings = Settings(
        server=ServerSettings(host="10.0.0.5"),
        storage=StorageSettings(path=tmp_path),
        cluster=ClusterSettings(node_url="http://10.0.0.5:9000", secret="what-all-nodes-share"),
    )
    made = [
        worker_settings(settings, number, f"http://10.0.0.5:{9001 + number}", "s" * 16)
        for number in (0, 1)
    ]
    assert {each.workspaces.root for each in made} == {tmp_path / "workspaces"}
    assert [each.storage.path for each in made] == [tmp_path / "worker-0", tmp_path / "worker-1"]
    assert [own_address(settings, number) for number in (0, 1)] == [
        ("10.0.0.5", 9001),
        ("10.0.0.5", 9002),
    ]
