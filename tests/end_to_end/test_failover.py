"""PostgreSQL behind a gateway goes: a synchronous standby takes its place, or a backup that was
made while the gateway ran, as README says."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
import trio

from tests.support.live import Live, open_live, settings_for
from tests.support.nodes import free_port, node_settings
from tests.support.postgres import NAME_OF_STANDBY, Engine, engine

from ..support.balanced import wait_until
from ..support.readme import read

pytestmark = pytest.mark.timeout(120)


def one(running: Engine, statement: str) -> Any:
    with psycopg.connect(running.url("postgres"), autocommit=True) as connection:
        row = connection.execute(statement.encode()).fetchone()
        return None if row is None else row[0]


@contextmanager
def open_standby(primary: Engine) -> Iterator[Engine]:
    """A standby that has all that the primary has said to be committed."""
    folder = Path(tempfile.mkdtemp(prefix="ccapi-pg-", dir=primary.folder.parent))
    standby = Engine(folder)
    try:
        standby.copy(primary)
        standby.start()
        primary.run(f"alter system set synchronous_standby_names = '{NAME_OF_STANDBY}'")
        primary.run("select pg_reload_conf()")
        state = "select sync_state from pg_stat_replication"
        wait_until(lambda: one(primary, state) == "sync", "the standby is synchronous")
        yield standby
    finally:
        standby.stop()
        shutil.rmtree(folder, ignore_errors=True)


async def ask(client: httpx.AsyncClient, text: str, **fields: Any) -> httpx.Response:
    body = {"messages": [{"role": "user", "content": text}], **fields}
    return await client.post("/v1/chat/completions", json=body)


async def texts(client: httpx.AsyncClient, name: str) -> list[str]:
    page = await client.get(f"/v1/conversations/{name}/items?order=asc&limit=100")
    return [item["content"][0]["text"] for item in page.json()["data"]]


async def ask_until_answered(client: httpx.AsyncClient, text: str, **fields: Any) -> None:
    with trio.fail_after(30):
        while (answered := await ask(client, text, **fields)).status_code != 200:
            assert answered.status_code == 503, answered.text
            await trio.sleep(0.1)


def client_of(live: Live) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=live.url, timeout=30, trust_env=False)


async def test_a_gateway_goes_on_with_a_synchronous_standby(tmp_path: Path) -> None:
    with engine() as primary, open_standby(primary) as standby:
        url = (
            f"postgresql://postgres@127.0.0.1:{primary.port},127.0.0.1:{standby.port}/postgres"
            "?target_session_attrs=read-write&connect_timeout=2"
        )
        plain = settings_for(tmp_path, {"HOME": str(tmp_path)}, storage={"url": url})
        settings = node_settings(plain, free_port())  # its lease goes to the standby, too
        async with open_live(settings, demo=True) as live, client_of(live) as client:
            name = (await ask(client, "repeat: 0")).json()["conversation_id"]
            said = ["repeat: 0", "0"]
            killed = trio.Event()

            async def talk() -> None:
                while not killed.is_set():
                    number = len(said) // 2
                    answered = await ask(client, f"repeat: {number}", conversation_id=name)
                    if answered.status_code == 200:
                        said.extend([f"repeat: {number}", str(number)])

            async with trio.open_nursery() as nursery:
                nursery.start_soon(talk)
                with trio.fail_after(20):
                    while len(said) < 12:
                        await trio.sleep(0.01)
                await trio.to_thread.run_sync(primary.kill)
                killed.set()
                await trio.to_thread.run_sync(standby.run, "select pg_promote()")
            await ask_until_answered(client, "repeat: after", conversation_id=name)
            kept = await texts(client, name)
            assert kept[: len(said)] == said, "what was acknowledged is there"
            assert kept[-2:] == ["repeat: after", "after"]
            # A turn that was on its way may be there too, once.
            assert len(kept) <= len(said) + 4


async def test_a_backup_of_a_running_gateway_is_restored(tmp_path: Path, postgres: Engine) -> None:
    def settings(folder: str, database: str) -> Any:
        (tmp_path / folder).mkdir()
        place = {"url": postgres.url(database)}
        return settings_for(tmp_path / folder, {"HOME": str(tmp_path)}, storage=place)

    for database in ("backed_up", "restored"):
        postgres.run(f"create database {database}")
    file = str(postgres.folder / "ccapi.dump")
    async with (
        open_live(settings("one", "backed_up"), demo=True) as live,
        client_of(live) as client,
    ):
        name = (await ask(client, "repeat: kept")).json()["conversation_id"]
        dump = ("-Fc", "-d", postgres.url("backed_up"), "-f", file)
        await trio.to_thread.run_sync(postgres.program, "pg_dump", *dump)
        await ask(client, "repeat: too late", conversation_id=name)
    postgres.program("pg_restore", "-d", postgres.url("restored"), file)
    # What is to be run on a standby that may lack something: a backup does.
    statements = re.findall(r"`((?:select setval|update conversation)[^`]*)`", read("README.md"))
    assert len(statements) == 2
    for statement in statements:
        with psycopg.connect(postgres.url("restored"), autocommit=True) as connection:
            connection.execute(statement.encode())
    async with (
        open_live(settings("two", "restored"), demo=True) as live,
        client_of(live) as client,
    ):
        assert await texts(client, name) == ["repeat: kept", "kept"]
        await ask_until_answered(client, "repeat: more", conversation_id=name)
        assert len(await texts(client, name)) == 4
    for database in ("backed_up", "restored"):
        postgres.run(f"drop database {database}")
