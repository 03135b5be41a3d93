"""A gateway whose disk fails it: clients receive errors, nothing acknowledged is lost, and it goes
on by itself."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import httpx
import trio

from tests.support.disks import fill, mount, small_disk
from tests.support.joined import JSON, get
from tests.support.live import open_live_demo


async def ask(client: httpx.AsyncClient, text: str, **fields: object) -> httpx.Response:
    body = {"model": "haiku", "messages": [{"role": "user", "content": text}], **fields}
    return await client.post("/v1/chat/completions", json=body)


async def texts(url: str, conversation_id: str) -> list[str]:
    items = await get(url, f"/v1/conversations/{conversation_id}/items?order=asc")
    return [item["content"][0]["text"] for item in items["data"]]


async def test_a_full_disk(tmp_path: Path) -> None:
    with small_disk(tmp_path / "state", "4m") as disk:
        async with (
            open_live_demo(tmp_path) as live,
            httpx.AsyncClient(base_url=live.url, timeout=30) as client,
        ):
            first = await ask(client, "repeat: one")
            conversation_id = first.headers["x-conversation-id"]
            filler = fill(disk)
            refused, ready = 0, []
            for number in range(2000):  # there is some room in the files that are there
                response = await ask(client, f"repeat: {number}")
                if response.status_code != 200:
                    refused += 1
                    error: JSON = response.json()["error"]
                    assert (response.status_code, error["code"]) == (503, "storage_unavailable")
                    assert "retry-after" in response.headers
                    ready.append(await client.get("/ready"))
                if refused == 8:
                    break
            assert refused == 8
            # (What is small may still find room, and then it is ready again.)
            assert [each for each in ready if each.status_code == 503 and "kept" in each.text]
            # What is there can be read.
            assert await texts(live.url, conversation_id) == ["repeat: one", "one"]
            filler.unlink()
            with trio.fail_after(20):
                while (await client.get("/ready")).status_code != 200:
                    await trio.sleep(0.1)
                while True:
                    response = await ask(client, "repeat: two", conversation_id=conversation_id)
                    if response.status_code == 200:
                        break
                    await trio.sleep(0.1)
        async with open_live_demo(tmp_path) as live:
            assert await texts(live.url, conversation_id) == [
                "repeat: one", "one", "repeat: two", "two",
            ]  # fmt: skip


async def test_a_second_gateway_on_the_same_folder_does_not_start(tmp_path: Path) -> None:
    async with open_live_demo(tmp_path):
        done = await trio.run_process(
            [sys.executable, "-m", "ccapi.actors.commands.main", "serve", "--demo", "--port", "0"],
            env={
                "PATH": "/usr/bin:/bin",
                "HOME": str(tmp_path),
                "CLAUDE_CODE__STORAGE__PATH": str(tmp_path / "state"),
            },
            cwd=tmp_path,
            check=False,
            capture_stdout=True,
            capture_stderr=True,
        )
        assert done.returncode == 1
        assert f"Another gateway (process {os.getpid()})".encode() in done.stderr
        assert b"Traceback" not in done.stderr


async def test_without_persistence_nothing_is_written(tmp_path: Path) -> None:
    async with (
        open_live_demo(tmp_path, storage={"persist": False}) as live,
        httpx.AsyncClient(base_url=live.url, timeout=30) as client,
    ):
        response = await ask(client, "repeat: one")
        listed = (await client.get("/v1/conversations")).json()["data"]
        assert [each["id"] for each in listed] == [response.headers["x-conversation-id"]]
        found = (await client.get("/v1/conversations?q=one")).json()["data"]
        assert found == listed
        assert (await client.get("/v1/conversations?q=two")).json()["data"] == []
    assert not list((tmp_path / "state").glob("ccapi.db*"))


async def test_a_folder_that_cannot_be_written_at_the_start(tmp_path: Path) -> None:
    """The gateway starts, says so, and keeps everything that was there."""
    with small_disk(tmp_path / "state") as disk:
        async with (
            open_live_demo(tmp_path) as live,
            httpx.AsyncClient(base_url=live.url, timeout=30) as client,
        ):
            first = await ask(client, "repeat: one")
            conversation_id = first.headers["x-conversation-id"]
        mount("-o", "remount,ro", str(disk))
        try:
            async with (
                open_live_demo(tmp_path) as live,
                httpx.AsyncClient(base_url=live.url, timeout=30) as client,
            ):
                assert (await client.get("/ready")).status_code == 503
                refused = await ask(client, "repeat: two")
                assert (refused.status_code, refused.json()["error"]["code"]) == (
                    503, "storage_unavailable",
                )  # fmt: skip
                mount("-o", "remount,rw", str(disk))
                with trio.fail_after(30):
                    while (await client.get("/ready")).status_code != 200:
                        await trio.sleep(0.1)
                assert await texts(live.url, conversation_id) == ["repeat: one", "one"]
                assert (await ask(client, "repeat: two")).status_code == 200
        finally:
            mount("-o", "remount,rw", str(disk))


async def test_what_was_not_used_for_so_long_is_deleted(tmp_path: Path) -> None:
    async with (
        open_live_demo(tmp_path) as live,
        httpx.AsyncClient(base_url=live.url, timeout=30) as client,
    ):
        old = (await ask(client, "repeat: old")).headers["x-conversation-id"]
    await trio.sleep(1.5)
    second = 1 / 86_400
    async with open_live_demo(tmp_path, storage={"retention_days": second}) as live:
        async with httpx.AsyncClient(base_url=live.url, timeout=30) as client:
            with trio.fail_after(10):
                while (await client.get("/v1/conversations")).json()["data"]:
                    await trio.sleep(0.1)
            assert (await client.get(f"/v1/conversations/{old}")).status_code == 404
