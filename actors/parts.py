"""What a gateway is made of.

Knows: the names of the parts. Refuses to know: what they do, and in which order they live and die
(`actors.opening`).
"""

from __future__ import annotations

from collections.abc import Sequence

from attrs import frozen

from ..schemas.settings.settings import Settings
from ..transport.http.bodies import Bodies
from ..transport.process.cli import Cli
from .batches.engine import BatchEngine
from .conversations.archive import Archive
from .conversations.directory import Directory
from .conversations.models import ModelCatalog
from .conversations.supervisor import Supervisor
from .idempotency.requests import IdempotentRequests
from .keys.limits import KeyLimiter
from .keys.registry import KeyRegistry
from .listeners.audit import Audit
from .listeners.cache import Cache
from .listeners.stats import Stats
from .mcp.servers import McpServers
from .nodes.membership import Membership
from .pool.cli_watch import CliWatch
from .pool.pool import ChildPool
from .runtime.background import Background
from .runtime.bus import Bus


@frozen(kw_only=True)
class Parts:
    """`watches` see to the CLI, one for each of its logins. `audit` is None where nothing is
    written down, `nodes` where there can be no other gateways."""

    settings: Settings
    bus: Bus
    bodies: Bodies
    directory: Directory
    models: ModelCatalog
    cli: Cli
    watches: Sequence[CliWatch]

    # Who listen to what happens.
    audit: Audit | None
    stats: Stats
    cache: Cache

    # What is kept, and who else has it.
    archive: Archive
    nodes: Membership | None
    keys: KeyRegistry
    limits: KeyLimiter

    # Who answer.
    mcp: McpServers
    pool: ChildPool
    supervisor: Supervisor

    # What is done for which no client waits, or not one alone.
    background: Background
    idempotent: IdempotentRequests
    batches: BatchEngine
