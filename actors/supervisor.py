"""The supervisor: owns the nursery of the session actors, and starts one when it is needed.

Knows: which conversation has an actor, how often an actor may crash, what to do when one ends.
Refuses to know: turns and tokens. It creates; streams go past it.

A conversation costs no task until somebody speaks to it. An actor that crashed comes back on the
next demand, with what its conversation remembers, within the restart budget.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial

import structlog
import trio
from attrs import frozen

from ..schemas.errors import GatewayError, InternalError, NotFound, TurnInterrupted
from ..schemas.events import ConversationClosed, SessionCrashed
from ..schemas.settings import Settings
from .bus import Bus
from .directory import Directory, Entry
from .mailbox import ActorGone, Mailbox, Ref, answer, open_mailbox
from .phases import Limits
from .pool import ChildPool
from .session import SessionMessage, Submit, run_session
from .signals import Close

log = structlog.get_logger("ccapi.supervisor")

Awakened = Ref[SessionMessage] | GatewayError


@frozen
class Awaken:
    """Start the actor of a conversation, unless it runs. Answered by its `Ref`, or why not."""

    entry: Entry
    reply: trio.MemorySendChannel[Awakened]


class Supervisor:
    """The handle others hold. `submit` and `forget` are all there is to say."""

    def __init__(self, ref: Ref[Awaken], directory: Directory, bus: Bus) -> None:
        self._ref = ref
        self._directory = directory
        self._bus = bus

    async def submit(self, entry: Entry, message: Submit) -> None:
        """Put a turn into the conversation's mailbox, waking its actor if there is none.

        A table read when the actor lives. Raises `NotFound` when the conversation is gone, and
        the error that keeps an actor from starting.
        """
        for _ in range(2):
            ref = entry.ref
            if ref is None:
                awakened: Awakened = await self._ref.ask(partial(Awaken, entry))
                if isinstance(awakened, GatewayError):
                    raise awakened
                ref = awakened
            try:
                await ref.tell(message)
            except ActorGone:
                continue  # it ended while we knocked: look again
            return
        raise InternalError("The conversation's session cannot be reached.")

    async def forget(self, entry: Entry, reason: str = "deleted") -> None:
        """Take a conversation out of the directory; what it still does ends."""
        if not self._directory.remove(entry):
            return
        self._bus.publish(ConversationClosed(entry.conversation_id, reason))
        if entry.ref is not None:
            error = TurnInterrupted("The conversation was deleted.", code=reason)
            with suppress(ActorGone):
                await entry.ref.tell(Close(error))


@frozen
class _Supervision:
    """What every session actor is started with."""

    directory: Directory
    pool: ChildPool
    bus: Bus
    limits: Limits
    stall_seconds: float

    async def run(self, mailbox: Mailbox[Awaken]) -> None:
        with mailbox:
            async with trio.open_nursery() as sessions:
                async for message in mailbox:
                    answer(message.reply, await self._awaken(message.entry, sessions))

    async def _awaken(self, entry: Entry, sessions: trio.Nursery) -> Awakened:
        if entry not in self.directory:
            return NotFound("No such conversation.", code="conversation_not_found")
        if entry.ref is not None:
            return entry.ref
        now = trio.current_time()
        if not entry.crashes.has_room(now):
            return InternalError(
                "The conversation's session keeps failing; it is left alone for a while.",
                code="restart_budget_spent",
                retry_after=entry.crashes.free_at - now,
            )
        ref: Ref[SessionMessage] = await sessions.start(self._guard, entry)
        return ref

    async def _guard(self, entry: Entry, task_status: trio.TaskStatus[Ref[SessionMessage]]) -> None:
        """The boundary around one session: its crash is its own."""
        try:
            why = await run_session(
                entry.conversation_id,
                entry.state,
                self.limits,
                self.stall_seconds,
                self.pool,
                self.bus,
                task_status=task_status,
            )
        except* Exception as crash:
            entry.crashes.spend(trio.current_time())
            log.exception(
                "a session crashed", conversation_id=entry.conversation_id, exc_info=crash
            )
            self.bus.publish(SessionCrashed(entry.conversation_id))
        else:
            if self.directory.remove(entry):
                self.bus.publish(ConversationClosed(entry.conversation_id, why.code))


def limits_of(settings: Settings) -> Limits:
    """What the settings allow a session."""
    claude, conversation = settings.claude, settings.conversation
    return Limits(
        turn=claude.timeout_seconds,
        silence=claude.idle_timeout_seconds,
        start=claude.start_timeout_seconds,
        freeze=claude.freeze_after_seconds or math.inf,
        hibernate=claude.hibernate_after_seconds or math.inf,
        expire=conversation.session_timeout_minutes * 60,
        queued=conversation.max_queued_turns,
        keep_child=claude.use_interactive_sessions,
    )


@asynccontextmanager
async def open_supervisor(
    settings: Settings, directory: Directory, pool: ChildPool, bus: Bus
) -> AsyncIterator[Supervisor]:
    """Run a supervisor while the block runs. Afterwards no session is left."""
    ref: Ref[Awaken]
    ref, mailbox = open_mailbox("supervisor")
    supervision = _Supervision(
        directory, pool, bus, limits_of(settings), settings.server.stall_seconds
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(supervision.run, mailbox)
        try:
            yield Supervisor(ref, directory, bus)
        finally:
            nursery.cancel_scope.cancel()
