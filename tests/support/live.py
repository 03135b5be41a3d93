"""A whole gateway on a real port, in front of the real CLI on the stub, or the demo CLI."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import trio

from ccapi.actors.commands.serve import serve
from ccapi.actors.gateway import Gateway
from ccapi.schemas.settings.settings import (
    ClaudeSettings,
    ServerSettings,
    Settings,
    StorageSettings,
)
from ccapi.transport.store.interface import Store

from .logins import LoginName, RefusingProxy, login_environment, open_refusing_proxy
from .messages_stub import MessagesStub, open_messages_stub
from .raw_cli import cli_binary


@attrs.frozen
class Live:
    """`url` without a path; `stub` is what the real CLI talks to, and `proxy` what keeps it from
    all else (None with the demo CLI)."""

    url: str
    gateway: Gateway
    stop: trio.Event
    stub: MessagesStub | None = None
    proxy: RefusingProxy | None = None

    @property
    def base_url(self) -> str:
        return f"{self.url}/v1"


def settings_for(
    tmp_path: Path, env: Mapping[str, str], command: str = "claude", **sections: Any
) -> Settings:
    """Settings with everything in `tmp_path`, a free port, no agent ahead of its conversation, and
    `claude`/`server`/`storage` keys replaced by ``claude={…}`` and so on; other sections are given
    whole."""
    given = {"prewarm_agents": 0, **sections.pop("claude", {})}
    claude = ClaudeSettings(env=dict(env), command=command, **given)
    server = ServerSettings(port=0, **sections.pop("server", {}))
    storage = StorageSettings(path=tmp_path / "state", **sections.pop("storage", {}))
    return Settings(claude=claude, server=server, storage=storage, **sections)


@asynccontextmanager
async def open_live(
    settings: Settings,
    *,
    demo: bool = False,
    environ: Mapping[str, str] = {},
    store: Store | None = None,
) -> AsyncIterator[Live]:
    """Serve while the block runs; leaving it drains, and then nothing is left. `environ`: what the
    gateway's own environment holds beside PATH; `store`: as for `serve`."""
    async with trio.open_nursery() as nursery:
        stop = trio.Event()
        surroundings = {"PATH": "/usr/bin:/bin", **environ}
        url, gateway = await nursery.start(
            partial(serve, settings, demo=demo, environ=surroundings, stop=stop, store=store)
        )
        yield Live(url, gateway, stop)
        stop.set()


@asynccontextmanager
async def open_live_cli(
    tmp_path: Path,
    login: LoginName | None = "key",
    environ: Mapping[str, str] = {},
    **sections: Any,
) -> AsyncIterator[Live]:
    """A gateway in front of the real CLI, in surroundings of its own and logged in so. `environ`:
    as for `open_live`."""
    async with open_messages_stub() as stub, open_refusing_proxy() as proxy:
        env = login_environment(login, tmp_path, stub.url, proxy.url)
        settings = settings_for(tmp_path, env, cli_binary(), **sections)
        async with open_live(settings, environ=environ) as live:
            yield attrs.evolve(live, stub=stub, proxy=proxy)


@asynccontextmanager
async def open_live_demo(tmp_path: Path, **sections: Any) -> AsyncIterator[Live]:
    """A gateway in front of the demo CLI, its switches on."""
    env = {"HOME": str(tmp_path), "DEMO_CLI_SWITCHES": "{}"}
    async with open_live(settings_for(tmp_path, env, **sections), demo=True) as live:
        yield live
