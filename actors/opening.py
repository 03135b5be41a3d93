"""Opening a gateway: the order in which its parts live and die.

Knows: which part needs which. Refuses to know: what they do.

Listeners outside, then what is kept, then the children, then the sessions; the program that uses
the gateway is innermost. So users stop first, sessions next, no child is left after that, and the
listeners, who end last, receive every event.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from attrs import frozen

from ..schemas.errors import Unauthenticated
from ..schemas.settings.logins import DEFAULT
from ..schemas.settings.settings import Settings, without_keys
from ..transport.http.bodies import Bodies
from ..transport.loggers import get_logger
from ..transport.process.cli import Cli, clis_of, find_cli
from ..transport.store.interface import Store
from .batches.dialects import words_of
from .batches.engine import BatchEngine, open_batches
from .conversations.archive import Archive, open_archive
from .conversations.cleanup import Cleanup, open_cleanup
from .conversations.directory import Directory, Entry
from .conversations.models import ModelCatalog, open_learning
from .conversations.ownership import open_ownership
from .conversations.supervisor import Supervisor, open_supervisor
from .conversations.workspace_paths import new_conversation_id
from .gateway import Gateway
from .idempotency.requests import IdempotentRequests, open_idempotent_requests
from .keys.limits import KeyLimiter, open_limits, open_usage_store
from .keys.registry import KeyRegistry, open_keys
from .listeners.audit import Audit, open_audit
from .listeners.cache import Cache, open_cache
from .listeners.stats import Stats, open_stats
from .mcp.host import McpHost
from .mcp.servers import McpServers, open_mcp_servers
from .nodes.membership import Membership, open_nodes
from .parts import Parts
from .pool.cli_watch import CliWatch
from .pool.logins import LoginBook
from .pool.pool import ChildPool, open_pool
from .runtime.background import Background, open_background
from .runtime.bus import Bus

log = get_logger("ccapi.gateway")

BACKGROUND_TURNS = 256
"""Turns under way at once whose caller may have gone."""


@asynccontextmanager
async def open_gateway(
    settings: Settings | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    demo: bool = False,
    hidden: Sequence[Path] = (),
    store: Store | None = None,
) -> AsyncIterator[Gateway]:
    """Run a gateway while the block runs; afterwards no task and no process of it is left.

    `environ` is what children may inherit from (default: this process's), `demo` runs the
    demo CLI in place of the CLI, `hidden` are files that agents in a sandbox never see. `store`
    is one that is open (None: what the settings name is opened).
    Raises `Overloaded` (``cli_not_found``) and `SettingsError`. What the block raises comes out of
    it as it is, never in an exception group.
    """
    ground = _ground_of(
        without_keys(settings or Settings()),
        os.environ if environ is None else environ,
        demo=demo,
        hidden=hidden,
    )
    failure: Exception | None = None
    async with _open_listeners(ground) as listeners:
        try:
            async with (
                _open_kept(ground, store) as kept,
                _open_children(ground, kept) as children,
                _open_work(ground.settings, kept, children, ground.bodies) as work,
            ):
                if listeners.audit is not None:
                    listeners.audit.name_of = partial(_name_of, kept.keys)
                gateway = Gateway(_parts_of(ground, listeners, kept, children, work))
                try:
                    yield gateway
                except Exception as error:  # noqa: BLE001 (raised again, past the nurseries)
                    failure = error
                finally:
                    gateway.node_client.close()
        finally:
            ground.bus.close()
    if failure is not None:
        raise failure


# -- what all stand on ---------------------------------------------------------------------------


@frozen
class _Ground:
    """`logins` are the CLIs by the names of their logins, each with who watches it; empty where the
    settings name none. `cli` is the only one then, and `watch` watches it."""

    settings: Settings
    environ: Mapping[str, str]
    bus: Bus
    bodies: Bodies
    directory: Directory
    models: ModelCatalog
    cli: Cli
    watch: CliWatch
    logins: Mapping[str, tuple[Cli, CliWatch]]
    book: LoginBook

    @property
    def watches(self) -> list[CliWatch]:
        return [each for _, each in self.logins.values()] or [self.watch]


def _ground_of(
    settings: Settings, environ: Mapping[str, str], *, demo: bool, hidden: Sequence[Path]
) -> _Ground:
    """Raises `Overloaded`, `SettingsError`."""
    if settings.mcp.enabled:  # it holds the servers' keys
        hidden = [*hidden, settings.mcp.config_file]
    if settings.audit.path is not None:
        hidden = [*hidden, settings.audit.path.expanduser()]
    cli = find_cli(settings, environ, demo=demo, hidden=hidden)
    if settings.file_access.skip_permissions:
        log.warning(
            "agents do whatever they like, unasked: file_access.skip_permissions is set",
            additional_dirs=settings.file_access.additional_dirs,
        )
    program, bounds = cli.program[0], settings.conversation
    clis = clis_of(cli, settings, environ)
    return _Ground(
        settings,
        environ,
        Bus(),
        Bodies(settings.server.max_bodies_bytes),
        Directory(bounds.max_conversations, bounds.max_held_bytes, bounds.max_items_bytes),
        ModelCatalog(settings.models),
        cli,
        CliWatch(program, settings),
        {name: (each, CliWatch(program, settings, name)) for name, each in clis.items()},
        LoginBook(tuple(clis) or (DEFAULT,), program),
    )


def _parts_of(
    ground: _Ground, listeners: _Listeners, kept: _Kept, children: _Children, work: _Work
) -> Parts:
    return Parts(
        settings=ground.settings,
        bus=ground.bus,
        bodies=ground.bodies,
        directory=ground.directory,
        models=ground.models,
        cli=ground.cli,
        watches=ground.watches,
        audit=listeners.audit,
        stats=listeners.stats,
        cache=listeners.cache,
        archive=kept.archive,
        nodes=kept.nodes,
        keys=kept.keys,
        limits=kept.limits,
        mcp=children.mcp,
        pool=children.pool,
        supervisor=children.supervisor,
        background=work.background,
        idempotent=work.idempotent,
        batches=work.batches,
    )


# -- who listen to what happens ------------------------------------------------------------------


@frozen
class _Listeners:
    audit: Audit | None
    stats: Stats
    cache: Cache


@asynccontextmanager
async def _open_listeners(ground: _Ground) -> AsyncIterator[_Listeners]:
    settings, bus = ground.settings, ground.bus
    async with (
        open_audit(settings.audit, bus, has_logins=bool(ground.logins)) as audit,
        open_stats(bus, ground.book) as stats,
        open_cache(settings.cache, bus) as cache,
        open_learning(ground.models, bus),
    ):
        yield _Listeners(audit, stats, cache)


def _name_of(keys: KeyRegistry, owner: str) -> str:
    """What people call the key; empty where it has no name, or holds no more."""
    try:
        name = keys.find(owner).name
    except Unauthenticated:
        return ""
    return "" if name == owner else name


# -- what is kept, and who else has it -----------------------------------------------------------


@frozen
class _Kept:
    archive: Archive
    nodes: Membership | None
    keys: KeyRegistry
    limits: KeyLimiter


@asynccontextmanager
async def _open_kept(ground: _Ground, store: Store | None) -> AsyncIterator[_Kept]:
    settings = ground.settings
    async with (
        open_archive(settings.storage, ground.directory, store, settings.cluster) as archive,
        open_nodes(archive.store, settings.cluster, ground.cli.agents.root) as nodes,
        open_keys(settings.auth, settings.limits.as_limits(), archive.store) as keys,
        open_usage_store(archive.store) as usage,
        open_limits(keys, usage, is_shared=nodes is not None) as limits,
    ):
        yield _Kept(archive, nodes, keys, limits)


# -- who answer ----------------------------------------------------------------------------------


@frozen
class _Children:
    mcp: McpServers
    pool: ChildPool
    supervisor: Supervisor


@asynccontextmanager
async def _open_children(ground: _Ground, kept: _Kept) -> AsyncIterator[_Children]:
    settings, bus, cli, directory = ground.settings, ground.bus, ground.cli, ground.directory
    archive = kept.archive
    async with (
        open_cleanup(
            cli.cwd.parent,
            cli.agents.root,
            settings.workspaces.keep_days,
            directory.knows,
            archive.workspaces,
            archive.agents,
        ) as cleanup,
        open_mcp_servers(settings.mcp, bus, ground.environ) as mcp,
        open_pool(
            cli,
            settings.claude,
            bus,
            ground.watch,
            cleanup,
            new_conversation_id if _serves_agents(settings, kept.keys) else None,
            ground.book,
            ground.logins,
        ) as pool,
        open_supervisor(
            settings,
            directory,
            pool,
            bus,
            cli.program[0],
            McpHost(mcp, settings),
            meter=kept.limits,
        ) as supervisor,
        open_ownership(archive, supervisor, kept.nodes, settings.cluster),
    ):
        directory.removed = partial(_leave_memory, cleanup, archive)
        directory.added = lambda entry: cleanup.wake(entry.conversation_id)
        archive.deleted = cleanup.release
        yield _Children(mcp, pool, supervisor)


def _serves_agents(settings: Settings, keys: KeyRegistry) -> bool:
    """Whether any client may use agents: then one is started ahead."""
    return settings.models.agents and keys.serves_agents


def _leave_memory(cleanup: Cleanup, archive: Archive, entry: Entry) -> None:
    """What a stored agent has on the disk stays until its conversation is deleted."""
    archive.leave(entry)
    if entry.workspace and entry.is_stored:
        cleanup.sleep(entry.conversation_id)
    else:
        cleanup.release(entry.conversation_id, entry.workspace)


# -- what is done for which no client waits, or not one alone ------------------------------------


@frozen
class _Work:
    background: Background
    idempotent: IdempotentRequests
    batches: BatchEngine


@asynccontextmanager
async def _open_work(
    settings: Settings, kept: _Kept, children: _Children, bodies: Bodies
) -> AsyncIterator[_Work]:
    async with (
        open_background(BACKGROUND_TURNS) as background,
        open_idempotent_requests(
            settings.idempotency, kept.archive.store, BACKGROUND_TURNS
        ) as idempotent,
        open_batches(
            settings.batches,
            kept.limits.store,
            bodies,
            words_of,
            partial(_has_room, children.pool, kept.limits),
            max_concurrent=_batched(settings),
            max_line_bytes=settings.server.max_body_bytes,
            file_seconds=settings.files.keep_days * 86400,
        ) as batches,
    ):
        yield _Work(background, idempotent, batches)


def _batched(settings: Settings) -> int:
    """How many requests of batches run at once."""
    half = max(1, settings.claude.max_concurrent_sessions // 2)
    return settings.batches.max_concurrent or half


def _has_room(pool: ChildPool, limits: KeyLimiter, owner: str) -> bool:
    """Whether a turn may begin that no client waits for."""
    held = pool.statistics()
    is_free = not held.waiting and held.live - held.warm - held.idle < held.limit
    return is_free and limits.has_spare(owner)
