"""The turn service: what a `Conversation` asks of the gateway it belongs to.

Knows: how a turn reaches its session, how many turns run, and that none begins while the gateway
drains. Refuses to know: how a turn runs (`actors.session`), and who asks for it.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import trio

from ...schemas.errors import Conflict, GatewayError, draining, storage_unavailable
from ...schemas.message import Message
from ..keys.limits import KeyLimiter
from ..keys.registry import KeyRegistry
from ..nodes.membership import Membership
from ..runtime.reply_channel import Turn, open_turn
from ..session.events import Interrupt, StartTurn
from ..session.messages import Add, SessionMessage, Submit
from .directory import Directory, Entry
from .models import ModelCatalog
from .supervisor import Supervisor


class TurnService:
    """Made by the gateway, which lends it to every `Conversation`."""

    def __init__(
        self,
        directory: Directory,
        supervisor: Supervisor,
        models: ModelCatalog,
        keys: KeyRegistry,
        limits: KeyLimiter,
    ) -> None:
        self.models = models
        self._keys = keys
        self._limits = limits
        self._directory = directory
        self._supervisor = supervisor
        self._under_way: dict[str, dict[str, Entry]] = {}  # turns by owner, and where they run
        self._quiet = trio.Event()
        self.running = 0
        self.draining = False
        self.nodes: Membership | None = None
        """The node that this gateway is among others."""

    def __repr__(self) -> str:
        return f"<TurnService {self.running} running{', draining' if self.draining else ''}>"

    @asynccontextmanager
    async def run(self, entry: Entry, start: StartTurn) -> AsyncIterator[Turn]:
        """See `Conversation.turn`."""
        if self.draining:
            raise draining()
        if self.nodes is not None and not self.nodes.holds:
            raise storage_unavailable("No turn can begin now")
        owner = entry.owner
        self._keys.find(owner)  # it may have been revoked since the request was let in
        # Before the limits are asked, which may wait: no other client shall come to it by its
        # history meanwhile.
        self._directory.use(entry, time.time())
        self.running += 1
        under_way = self._under_way.setdefault(owner, {})
        under_way[start.turn_id] = entry
        is_counted = False
        try:
            await self._limits.begin(owner, start.turn_id)
            is_counted = True
            self._keys.find(owner)
            model = start.request.model or entry.state.memory.setup.model
            turn, port = open_turn(start.turn_id, entry.conversation_id, model)
            try:
                await self._supervisor.submit(entry, Submit(start, port))
                yield turn
            finally:
                turn.hang_up()
        finally:
            del under_way[start.turn_id]
            if not under_way:
                self._under_way.pop(owner, None)
            self._directory.release(entry, time.time())
            self._supervisor.relieve(entry)
            self.running -= 1
            if is_counted:
                self._limits.end(owner, start.turn_id)
            if self.draining and not self.running:
                self._quiet.set()

    def running_of(self, owner: str) -> int:
        """How many turns clients of this owner's have under way."""
        return len(self._under_way.get(owner, ()))

    def running_by_owner(self) -> dict[str, int]:
        """The same of every owner that has any."""
        return {owner: len(turns) for owner, turns in self._under_way.items()}

    async def end_all(self, owner: str, error: GatewayError) -> None:
        """End every turn that clients of this owner's have under way, with this error."""
        for turn_id, entry in [*self._under_way.get(owner, {}).items()]:
            if entry.ref is not None:
                with suppress(GatewayError):  # its conversation goes, and the turn with it
                    await self.tell(entry, Interrupt(turn_id, error))

    def drain(self) -> None:
        """Take no more turns; those that run may finish. For good."""
        self.draining = True
        if not self.running:
            self._quiet.set()

    async def wait_drained(self) -> None:
        """Wait until no turn is under way, after `drain`."""
        await self._quiet.wait()

    async def tell(self, entry: Entry, message: SessionMessage) -> None:
        """Send a message to the conversation's actor. Raises `NotFound`, `Overloaded`."""
        await self._supervisor.submit(entry, message)

    async def add(self, entry: Entry, messages: tuple[Message, ...]) -> None:
        """See `Conversation.add`."""
        send, receive = trio.open_memory_channel[bool | GatewayError](1)
        with receive:
            await self.tell(entry, Add(messages, send))
            added = await receive.receive()
        if isinstance(added, GatewayError):
            raise added
        if not added:
            raise Conflict("A turn of this conversation runs, or waits for its tools.")
        self._directory.claim(entry)
        self._directory.weigh(entry)
        self._supervisor.relieve(entry)

    def abandon(self, entry: Entry) -> None:
        """See `Conversation.abandon`."""
        self._supervisor.abandon(entry)

    def claim(self, entry: Entry) -> None:
        """See `Conversation.claim`."""
        self._directory.claim(entry)
