"""Three nodes and what is between them: their engine, their links to it and to each other, and the
balancer in front. All of them are children of this process.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from types import MappingProxyType

import psycopg
import trio
from attrs import define, field

from ..support.nodes import SECRET, free_port
from ..support.postgres import Engine, engine
from .links import Balancer, Link, listen

ROOT = Path(__file__).parents[2]

WATCH = """
create table audit(
    number bigint generated always as identity primary key, n bigint, what text, token bigint,
    owner text, seq integer, at timestamptz default clock_timestamp());
create function note_grant() returns trigger language plpgsql as $$ begin
    insert into audit(n, what, token, owner) values(new.n, 'grant', new.token, new.owner);
    return null; end $$;
create function note_record() returns trigger language plpgsql as $$ begin
    insert into audit(n, what, token, seq) values(new.n, 'record', new.token, new.seq);
    return null; end $$;
create trigger granted after insert or update of token on conversation
    for each row execute function note_grant();
create trigger recorded after insert on log for each row execute function note_record();
"""
"""What the checker reads beside the tables: in which order leases were granted and records were
written. A conversation's row is locked by both, so that this order is the true one."""


@define(eq=False)
class Node:
    """One process. `to_engine` and `to_others` are how it reaches the engine, and how the other
    nodes reach it."""

    number: int
    port: int
    folder: Path
    url: str
    to_engine: Link
    to_others: Link
    arguments: list[str]
    environ: dict[str, str]
    process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        def start() -> subprocess.Popen[bytes]:
            with (self.folder / "log.txt").open("ab") as log:
                return subprocess.Popen(
                    self.arguments, env=self.environ, stdout=log, stderr=log, cwd=ROOT
                )

        await self.to_others.listen()
        self.process = await trio.to_thread.run_sync(start)

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    async def wait(self) -> int:
        """Until it has ended: then it refuses connections."""
        assert self.process is not None
        code = await trio.to_thread.run_sync(self.process.wait)
        await self.to_others.refuse()
        return code

    def end(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()


@define(eq=False)
class Cluster:
    folder: Path
    engine: Engine
    nodes: list[Node] = field(factory=list)
    balancer: Balancer = field(default=None)

    @property
    def notes(self) -> Path:
        """What children were asked, a line for each time."""
        return self.folder / "notes.txt"

    @property
    def database(self) -> str:
        return self.engine.url("postgres")

    def owned_by(self, node: Node) -> list[str]:
        """The conversations that a node has now."""
        with psycopg.connect(self.database, autocommit=True) as connection:
            rows = connection.execute(
                "select conversation.id from conversation join node on node.id = owner "
                "where node.url = %s and node.expires > clock_timestamp()", [node.url]
            ).fetchall()  # fmt: skip
        return [name for (name,) in rows]


def _environment(folder: Path, settings: Iterable[tuple[str, str]]) -> dict[str, str]:
    return {
        "PATH": "/usr/bin:/bin",
        "HOME": str(folder),
        "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)]),
        "CLAUDE_CODE__CLUSTER__SECRET": SECRET,
        "CLAUDE_CODE__CLAUDE__PREWARM": "1",
        "CLAUDE_CODE__CLAUDE__PREWARM_AGENTS": "0",
        **dict(settings),
    }


@asynccontextmanager
async def open_cluster(
    folder: Path,
    *,
    count: int = 3,
    unfenced: bool = False,
    direct: bool = False,
    patience: float = 0.5,
    settings: Mapping[str, str] = MappingProxyType({}),
) -> AsyncIterator[Cluster]:
    """So many nodes behind a balancer, all ready. It takes a node for frozen that does not answer
    for `patience` seconds. `direct`: nothing is between them and the engine.
    `settings` are environment variables."""
    with engine(fsync=True) as running:
        cluster = Cluster(folder, running)
        async with trio.open_nursery() as nursery:
            try:
                for number in range(count):
                    made = await _node(
                        cluster, number, unfenced=unfenced, direct=direct, settings=settings
                    )
                    cluster.nodes.append(made)
                    nursery.start_soon(made.to_engine.run)
                    nursery.start_soon(made.to_others.run)
                ports = [each.port for each in cluster.nodes]
                cluster.balancer = Balancer(ports, await listen(), patience)
                nursery.start_soon(cluster.balancer.run)
                for each in cluster.nodes:
                    await each.start()
                await cluster.balancer.wait_ready()
                await trio.to_thread.run_sync(_watch, cluster.database)
                yield cluster
            finally:
                for each in cluster.nodes:
                    each.end()
                nursery.cancel_scope.cancel()


def _watch(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(WATCH)


async def _node(
    cluster: Cluster, number: int, *, unfenced: bool, direct: bool, settings: Mapping[str, str]
) -> Node:
    folder = cluster.folder / f"node-{number}"
    folder.mkdir()
    port = free_port()
    to_engine = Link(lambda: cluster.engine.port, await listen())
    to_others = Link(lambda: port, await listen())
    url = f"http://127.0.0.1:{to_others.port}"
    database = cluster.engine.port if direct else to_engine.port
    arguments = [
        *(sys.executable, "-m", "tests.accidents.node", str(cluster.notes)),
        *(["--unfenced"] if unfenced else []),
        *("serve", "--demo", "--port", str(port), "--cluster-node-url", url),
        *("--storage-url", f"postgresql://postgres@127.0.0.1:{database}/postgres"),
        *("--storage-path", str(folder / "state")),
    ]
    environ = _environment(folder, settings.items())
    return Node(number, port, folder, url, to_engine, to_others, arguments, environ)


async def wait_quiet(cluster: Cluster, seconds: float) -> None:
    """Until no turn is open, or that long."""

    def is_quiet() -> bool:
        with suppress(psycopg.OperationalError):
            with psycopg.connect(cluster.database, autocommit=True) as connection:
                found = connection.execute(
                    "select count(*) from conversation where open_turn is not null"
                ).fetchone()
            return found == (0,)
        return False

    with trio.move_on_after(seconds):
        while not await trio.to_thread.run_sync(is_quiet):
            await trio.sleep(0.1)
