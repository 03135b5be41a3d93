"""Several gateways in one process, on one store: each on a port of its own."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import trio

from ccapi.schemas.settings.settings import ClusterSettings, Settings
from ccapi.transport.store.memory import MemoryCluster

from .live import Live, open_live, settings_for

SECRET = "what-all-nodes-share"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def node_settings(settings: Settings, port: int, **cluster: Any) -> Settings:
    """`settings`, for one node at this port."""
    url = f"http://127.0.0.1:{port}"
    return attrs.evolve(
        settings,
        server=attrs.evolve(settings.server, port=port),
        # Nothing has to be noticed where each node is asked by its own URL.
        cluster=ClusterSettings(
            **{"node_url": url, "secret": SECRET, "notice_seconds": 0, **cluster}
        ),
    )


@asynccontextmanager
async def open_demo_nodes(
    tmp_path: Path,
    count: int = 2,
    cluster: dict[str, Any] | None = None,
    shared: MemoryCluster | None = None,
    **sections: Any,
) -> AsyncIterator[list[Live]]:
    """So many nodes over the demo CLI, on one store in memory (`shared`, or a new one)."""
    # A lease that a machine with much to do does not lose by itself.
    given = {"lease_seconds": 4.0, **(cluster or {})}
    shared = shared or MemoryCluster(given["lease_seconds"])
    async with AsyncExitStack() as stack:
        nodes = []
        for number in range(count):
            port = free_port()
            plain = settings_for(
                tmp_path / f"node-{number}",
                {"HOME": str(tmp_path), "DEMO_CLI_SWITCHES": "{}"},
                **sections,
            )
            settings = node_settings(plain, port, **given)
            store = shared.open_node(settings.cluster.node_url)
            nodes.append(
                await stack.enter_async_context(open_live(settings, demo=True, store=store))
            )
        for node in nodes:
            await _know_the_others(node, count - 1)
        yield nodes


async def _know_the_others(live: Live, count: int) -> None:
    membership = live.gateway.nodes
    assert membership is not None
    with trio.fail_after(60):
        while len(membership.others) < count:
            await membership.wait_beat()
