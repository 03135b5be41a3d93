"""A gateway without children, for tests of the fronts: turns are played by the test's own scripts.

It follows `actors.gateway` word for word where the fronts touch it. Turn, port, bus, cache and
model catalog are the real ones, so backpressure, failures, hang-ups and single-flight are real.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

import trio
from attrs import define, field
from starlette.types import ASGIApp

from ccapi.actors.batches.dialects import words_of
from ccapi.actors.batches.engine import BatchEngine, open_batches
from ccapi.actors.conversations.archive import Listed, after_nothing
from ccapi.actors.conversations.conversation import DEFAULTS, ConversationInfo
from ccapi.actors.conversations.models import ModelCatalog
from ccapi.actors.gateway import COMPACTION_KEY, Gateway
from ccapi.actors.http.app import http_app
from ccapi.actors.idempotency.requests import (
    IdempotentRequests,
    open_idempotent_requests,
)
from ccapi.actors.keys.limits import KeyLimiter
from ccapi.actors.keys.registry import LOCAL, KeyRegistry
from ccapi.actors.listeners.cache import Cache, open_cache
from ccapi.actors.listeners.overview import GatewayStatistics, OwnStatistics, SessionInfo
from ccapi.actors.mcp.servers import McpServers
from ccapi.actors.nodes.figures import NodeFigures
from ccapi.actors.pool.pool import PoolStatistics
from ccapi.actors.responses.kept_responses import KeptResponses
from ccapi.actors.responses.store import ResponseStore
from ccapi.actors.runtime.background import Background, open_background
from ccapi.actors.runtime.bus import Bus
from ccapi.actors.runtime.reply_channel import CallerGone, Port, Turn, open_turn
from ccapi.actors.session.events import PermissionReply
from ccapi.actors.watching.history import TurnRecord
from ccapi.schemas.errors import Conflict, GatewayError, NotFound, Overloaded, draining
from ccapi.schemas.events import TurnFinished
from ccapi.schemas.message import Message
from ccapi.schemas.settings.settings import Settings
from ccapi.schemas.turn import Answer, Completed, Failed, Options, Setup, Tool, TurnRequest, Usage
from ccapi.schemas.turn_items import TextDelta
from ccapi.transport.http.bodies import Bodies
from ccapi.transport.media.attachments import AttachmentPolicy
from ccapi.transport.seals import Seals
from ccapi.transport.store.local import LocalStore, new_node
from ccapi.transport.store.memory import MemoryEngine, MemoryRunner, open_memory_store

USAGE = Usage(prompt_tokens=12, completion_tokens=3, cached_tokens=10)


@define(eq=False)
class Asked:
    """One turn as the gateway was asked for it. `over`: the caller hung up or the turn ended."""

    conversation: ConversationDouble
    messages: tuple[Message, ...]
    model: str | None
    system: str | None
    cache_key: str | None
    port: Port
    tools: tuple[Tool, ...] | None = None
    schema: str | None = None
    options: Options = DEFAULTS
    history_limit: int | None = None

    async def say(self, *pieces: str) -> None:
        for piece in pieces:
            await self.port.deliver(TextDelta(piece))

    def end(self, finish_reason: Any = "stop", usage: Usage = USAGE) -> None:
        self.port.end(Completed(finish_reason, usage))

    def fail(self, error: GatewayError) -> None:
        self.port.end(Failed(error))


Script = Callable[[Asked], Awaitable[None]]


def saying(*pieces: str, finish_reason: str = "stop") -> Script:
    """A turn that says `pieces` and ends well."""

    async def script(asked: Asked) -> None:
        await asked.say(*pieces)
        asked.end(finish_reason)

    return script


def in_two_parts(first: Sequence[str], go_on: trio.Event, then: Sequence[str]) -> Script:
    """A turn that waits for `go_on` in the middle of its answer."""

    async def script(asked: Asked) -> None:
        await asked.say(*first)
        await go_on.wait()
        await asked.say(*then)
        asked.end()

    return script


def failing(error: GatewayError, *pieces: str) -> Script:
    """A turn that says `pieces` and then fails."""

    async def script(asked: Asked) -> None:
        await asked.say(*pieces)
        asked.fail(error)

    return script


@define(eq=False)
class ConversationDouble:
    gateway: GatewayDouble
    conversation_id: str
    owner: str
    model: str
    system: str
    seed: tuple[Message, ...]
    created_at: float
    private: bool = True
    busy: bool = False
    held: tuple[bytes, ...] = ()
    is_free: bool = True
    warmed: int = 0
    place: str = ""

    @property
    def profile(self) -> str:
        return self.info.profile

    @property
    def info(self) -> ConversationInfo:
        return ConversationInfo(
            conversation_id=self.conversation_id,
            model=self.model,
            profile="chat",
            workspace="",
            system=self.system,
            phase="busy" if self.busy else "asleep",
            created_at=self.created_at,
            last_used_at=self.created_at,
            turns=0,
            messages=len(self.seed),
            usage=USAGE,
            metadata={},
            title=None,
        )

    async def warm(self) -> None:
        self.warmed += 1

    @property
    def entry(self) -> None:
        """It has none."""

    async def reply(self, reply: PermissionReply) -> None:
        """No agent waits."""
        raise NotFound("No such permission.", code="permission_not_found", param="request_id")

    async def position(self, turn_id: str) -> int | None:
        """It is not stored."""
        return None

    def claim(self) -> None:
        self.private = True

    def abandon(self) -> None:
        """Each of its turns that a double answers has failed, if this is called."""
        self.gateway.abandoned.append(self.conversation_id)

    @asynccontextmanager
    async def run(self, request: TurnRequest) -> AsyncIterator[Turn]:
        if self.gateway.draining:
            raise draining()
        if self.busy and request.reject_if_busy:
            raise Conflict("The conversation is busy.")
        turn_id = f"turn_{len(self.gateway.asked)}"
        turn, port = open_turn(turn_id, self.conversation_id, request.model or self.model)
        asked = Asked(
            self, request.messages, request.model, request.system, request.cache_key, port,
            request.tools, request.schema, request.options, request.history_limit,
        )  # fmt: skip
        self.gateway.begin(asked)
        try:
            yield turn
        finally:
            turn.hang_up()


@define
class StatsDouble:
    def snapshot(self, owner: str | None = None) -> dict[str, Any]:
        return {"turns": {"finished": 7}}

    def prometheus(self, owner: str | None = None) -> bytes:
        return b"ccapi_turns_total 7.0\n"


class ArchiveDouble:
    """It keeps nothing."""

    async def change_metadata(self, entry: object) -> None: ...

    async def records(self, entry: object) -> tuple[TurnRecord, ...]:
        return ()


@define(eq=False)
class GatewayDouble:
    """`script` plays the turns that follow; `asked` has every turn so far."""

    settings: Settings
    bus: Bus
    cache: Cache
    nursery: trio.Nursery
    models: ModelCatalog
    responses: ResponseStore
    background: Background
    idempotent: IdempotentRequests
    batches: BatchEngine
    bodies: Bodies
    stats: StatsDouble = field(factory=StatsDouble)
    mcp: McpServers = field(factory=McpServers)
    draining: bool = False
    abandoned: list[str] = field(factory=list)
    script: Script = field(factory=saying)
    asked: list[Asked] = field(factory=list)
    made: list[ConversationDouble] = field(factory=list)
    holds: ConversationDouble | None = None
    broken: GatewayError | None = None

    keys: KeyRegistry = field(init=False)
    audit: None = field(init=False, default=None)
    nodes: None = field(init=False, default=None)
    limits: KeyLimiter = field(init=False)

    @limits.default
    def _limits_of_settings(self) -> KeyLimiter:
        node = new_node()
        return KeyLimiter(self.keys, LocalStore(MemoryRunner(MemoryEngine(node.id)), node))

    @keys.default
    def _keys_of_settings(self) -> KeyRegistry:
        return KeyRegistry(self.settings.auth, self.settings.limits.as_limits())

    @property
    def trouble(self) -> GatewayError | None:
        draining = Overloaded("The gateway is draining.", code="draining")
        return draining if self.draining else self.broken

    def begin(self, asked: Asked) -> None:
        self.asked.append(asked)
        self.nursery.start_soon(self._play, self.script, asked)

    async def _play(self, script: Script, asked: Asked) -> None:
        try:
            await script(asked)
        except CallerGone:
            return

    def conversation(
        self,
        *,
        system: str = "",
        model: str | None = None,
        tools: Sequence[Tool] = (),
        owner: str = LOCAL,
        seed: Sequence[Message] = (),
        workspace: str = "",
        private: bool = True,
        metadata: Mapping[str, str] | None = None,
        place: str = "",
        kept: bool = True,
    ) -> ConversationDouble:
        number = len(self.made)
        conversation = ConversationDouble(
            self, f"conv_{number:032x}", owner, self.models.resolve(model).model, system,
            tuple(seed),
            created_at=1_700_000_000.5 + number, private=private,
        )  # fmt: skip
        self.made.append(conversation)
        return conversation

    @property
    def attachments(self) -> AttachmentPolicy:
        return AttachmentPolicy.of(self.settings)

    @property
    def seals(self) -> Seals:
        return Seals(self.settings.storage.path / COMPACTION_KEY)

    def turns_of(self, owner: str) -> tuple[TurnRecord, ...]:
        """It keeps no conversations' histories."""
        return ()

    def holder(
        self, messages: Sequence[Message], setup: Setup, *, owner: str = LOCAL, exact: bool = False
    ) -> tuple[ConversationDouble, Sequence[Message]] | None:
        """The conversation in `holds`, if the test has put one there."""
        return None if self.holds is None else (self.holds, messages[-1:])

    async def find(self, conversation_id: str, *, owner: str = LOCAL) -> ConversationDouble:
        return self.loaded(conversation_id, owner=owner)

    async def keep(self, conversation: ConversationDouble) -> None:
        """It keeps nothing."""

    async def recall(
        self, messages: Sequence[Message], setup: Setup, *, owner: str, exact: bool = False
    ) -> None:
        """It keeps nothing."""

    @property
    def archive(self) -> ArchiveDouble:
        return ArchiveDouble()

    @property
    def kept_responses(self) -> KeptResponses:
        return KeptResponses(None, self.responses, self.settings.responses.ttl_seconds)

    async def list_conversations(
        self, *, owner: str = LOCAL, limit: int = 20, after: str | None = None,
        newest_first: bool = True, q: str | None = None,
    ) -> Listed:  # fmt: skip
        """See `Archive.listed`; `q` finds nothing."""
        infos = [info for info in self.conversations(owner=owner) if q is None]
        infos.sort(key=lambda info: (info.created_at, info.conversation_id), reverse=newest_first)
        if after is not None:
            ids = [info.conversation_id for info in infos]
            if after not in ids:
                raise after_nothing()
            infos = infos[ids.index(after) + 1 :]
        return Listed(tuple(infos[:limit]), len(infos) > limit)

    def loaded(self, conversation_id: str, *, owner: str = LOCAL) -> ConversationDouble:
        for conversation in self.made:
            if (conversation.conversation_id, conversation.owner) == (conversation_id, owner):
                return conversation
        raise NotFound(
            "No such conversation.", code="conversation_not_found", param="conversation_id"
        )

    def conversations(self, *, owner: str = LOCAL) -> list[ConversationInfo]:
        return [conversation.info for conversation in self.made if conversation.owner == owner]

    async def forget(self, conversation_id: str, *, owner: str = LOCAL) -> None:
        self.made.remove(self.loaded(conversation_id, owner=owner))

    async def dismiss(self, conversation_id: str, *, owner: str) -> None:
        """A conversation that was for one turn is not used any more."""
        await self.forget(conversation_id, owner=owner)

    def node_figures(self) -> list[NodeFigures]:
        return []

    def sees_all(self, owner: str) -> bool:
        return self.keys.find(owner).sees_all

    def own_statistics(self, owner: str) -> OwnStatistics:
        mine = sum(made.owner == owner for made in self.made)
        return OwnStatistics({"idle": mine}, mine, 0, self.draining)

    def statistics(self) -> GatewayStatistics:
        return GatewayStatistics(
            children=PoolStatistics(limit=10, live=2, warm=1, idle=1, waiting=0),
            sessions={"idle": 1},
            conversations=len(self.made),
            turns_running=0,
            draining=self.draining,
        )

    def sessions(self, *, owner: str) -> list[SessionInfo]:
        return [
            SessionInfo(
                made.conversation_id if made.owner == owner else None,
                made.info.phase, made.model, "chat", made.created_at, 0,
            )
            for made in self.made
        ]  # fmt: skip

    async def count_tokens(self, setup: Setup, messages: Sequence[Message]) -> int:
        return 0

    def publish_finished(self, asked: Asked, *pieces: str) -> None:
        """What a session tells the bus at the end of a turn; the cache learns from it."""
        self.bus.publish(
            TurnFinished(
                turn_id="turn",
                conversation_id=asked.conversation.conversation_id,
                model=asked.conversation.model,
                usage=USAGE,
                seconds=1.0,
                first_delta_seconds=0.5,
                cache_key=asked.cache_key,
                answer=Answer(pieces, "stop", USAGE),
            )
        )

    def remembered(self, *pieces: str) -> Script:
        """A turn that says `pieces`, ends well, and is published on the bus."""

        async def script(asked: Asked) -> None:
            await asked.say(*pieces)
            self.publish_finished(asked, *pieces)
            asked.end()

        return script


def app_of(gateway: GatewayDouble) -> ASGIApp:
    """The HTTP front over `gateway`."""
    return http_app(cast(Gateway, gateway))


@asynccontextmanager
async def open_gateway_double(settings: Settings | None = None) -> AsyncIterator[GatewayDouble]:
    settings = settings or Settings()
    bus, bodies = Bus(), Bodies(settings.server.max_bodies_bytes)
    async with (
        open_cache(settings.cache, bus) as cache,
        trio.open_nursery() as nursery,
        open_background(8) as background,
        open_idempotent_requests(settings.idempotency, None, 2) as idempotent,
        open_memory_store() as store,
        open_batches(
            settings.batches,
            store,
            bodies,
            words_of,
            lambda _: True,
            max_concurrent=settings.batches.max_concurrent or 2,
            max_line_bytes=settings.server.max_body_bytes,
            file_seconds=settings.files.keep_days * 86400,
        ) as batches,
    ):
        yield GatewayDouble(
            settings, bus, cache, nursery,
            ModelCatalog(settings.models, KeyRegistry(settings.auth).find),
            ResponseStore(settings.responses), background, idempotent, batches, bodies,
        )  # fmt: skip
        nursery.cancel_scope.cancel()
