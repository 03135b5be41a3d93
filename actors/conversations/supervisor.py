"""The supervisor: owns the nursery of the session actors, and starts one when it is needed.

Knows: which conversation has an actor, how often an actor may crash, what to do when one ends.
Refuses to know: turns and tokens. It creates; streams go past it.

A conversation costs no task until a client asks it something. An actor that crashed comes back on
the next demand, with what its conversation remembers, within the restart budget. An actor sees to
it itself that its conversation expires; the supervisor does so for those that have none.
"""

from __future__ import annotations

import math
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

import trio
from attrs import frozen

from ...schemas.errors import (
    GatewayError,
    InternalError,
    TurnInterrupted,
    draining,
)
from ...schemas.events import ConversationClosed, SessionCrashed
from ...schemas.settings.settings import Settings
from ..runtime.bus import Bus
from ..runtime.mailbox import ActorGone, Mailbox, Ref, answer, open_mailbox
from ..session.actor import SessionPool, run_session
from ..session.events import Close
from ..session.hosted import Host
from ..session.machine import NO_HOST
from ..session.messages import SessionMessage
from ..session.metering import Meter
from ..session.phases import Limits
from .directory import Directory, Entry, not_found

SWEEP_SECONDS = 60.0
"""How late, at most, a conversation that has no actor expires."""

Awakened = Ref[SessionMessage] | GatewayError


@frozen
class Awaken:
    """Start the actor of a conversation, unless it runs. Answered by its `Ref`, or why not."""

    entry: Entry
    reply: trio.MemorySendChannel[Awakened]


class Supervisor:
    """The handle others hold: `submit`, `forget`, `abandon`, `make_room` and `relieve` are all
    there is to say."""

    def __init__(self, ref: Ref[Awaken], directory: Directory, bus: Bus) -> None:
        self._ref = ref
        self._directory = directory
        self._bus = bus
        self.abandoned: Callable[[Entry], None] = lambda _: None
        """Told of every conversation that no client will come back to."""

    async def submit(self, entry: Entry, message: SessionMessage) -> None:
        """Put a message into the conversation's mailbox, waking its actor if there is none.

        A table read when the actor lives. Raises `NotFound` when the conversation is gone,
        `InternalError` when its actor may not start, `Overloaded` when the gateway stops.
        """
        while True:
            ref = entry.ref
            if ref is None:
                ref = await self._awaken(entry)
            elif entry not in self._directory:
                raise not_found()
            try:
                await ref.tell(message)
            except ActorGone:
                continue  # it ended while we knocked: look again
            return

    async def _awaken(self, entry: Entry) -> Ref[SessionMessage]:
        try:
            awakened: Awakened = await self._ref.ask(partial(Awaken, entry))
        except ActorGone:
            raise draining(retry_after=None) from None
        if isinstance(awakened, GatewayError):
            raise awakened
        return awakened

    def make_room(self, owner: str, since: float) -> None:
        """If the directory is full, forget one conversation for a new one of `owner`'s.

        The owner's oldest that was never used goes first (a cache hit that no client continued);
        else the one that has been asleep for longest, if no client has used it since then (unix
        seconds).
        """
        if self._directory.full:
            entry = self._directory.oldest_unused(owner) or self._directory.longest_asleep(since)
            if entry is not None:
                _drop(self._directory, self._bus, entry, "evicted")

    def relieve(self, spared: Entry) -> None:
        """If conversations hold more memory than they may, forget some that sleep; not `spared`,
        which a client uses right now."""
        _relieve(self._directory, self._bus, spared)

    def entries(self) -> list[Entry]:
        """The conversations in memory."""
        return self._directory.all()

    async def drop(self, going: Iterable[Entry], error: GatewayError) -> None:
        """Forget these conversations, all before the first checkpoint; whatever runs in one ends
        with this error."""
        closing = [(entry.ref, entry) for entry in going]
        full = [ref for ref, _ in closing if ref and not ref.tell_nowait(Close(error))]
        for _, entry in closing:
            if self._directory.remove(entry):
                self._bus.publish(ConversationClosed(entry.conversation_id, error.code))
                entry.state.broadcast.close(error.code)
        for ref in full:
            with suppress(ActorGone):
                await ref.tell(Close(error))

    def release_idle(self) -> None:
        """Forget conversations in which no client asks anything, with a child or without, for this
        gateway stops: another node goes on with them. Their watchers come back there."""
        for entry in self._directory.all():
            if not entry.callers and entry.state.is_settled and not entry.is_unstored:
                _drop(self._directory, self._bus, entry, "moved")

    def release_asleep(self, since: float) -> None:
        """Forget conversations that have no child, and that no client has used since then (Unix
        seconds) or has open: another node may have them."""
        for entry in self._directory.all():
            if entry.used_at <= since and entry.sleeps and entry.is_stored:
                _drop(self._directory, self._bus, entry, "released")

    def abandon(self, entry: Entry) -> None:
        """Forget a conversation in which no turn has finished: no client will come back to it."""
        if entry.state.memory.turns == 0 and not entry.is_open:
            _drop(self._directory, self._bus, entry, "forgotten")
            self.abandoned(entry)

    async def forget(self, entry: Entry, reason: str = "deleted") -> None:
        """Take a conversation out of the directory; what it still does ends.

        A caller that is cancelled in here has forgotten nothing: an actor that no client could find
        any more would stay for as long as it likes.
        """
        if entry not in self._directory:
            return
        error = TurnInterrupted("The conversation was deleted.", code=reason)
        while entry.ref is not None:
            try:
                await entry.ref.tell(Close(error))
            except ActorGone:
                continue  # it ended while we knocked: another may have begun
            break
        if self._directory.remove(entry):
            self._bus.publish(ConversationClosed(entry.conversation_id, reason))
            entry.state.broadcast.close(reason)


@frozen
class _Supervision:
    """What every session actor is started with."""

    directory: Directory
    pool: SessionPool[Any]
    bus: Bus
    limits: Limits
    stall_seconds: float
    host: Host
    meter: Meter | None

    async def run(self, mailbox: Mailbox[Awaken]) -> None:
        interval = min(SWEEP_SECONDS, self.limits.expire)
        async with trio.open_nursery() as sessions:
            with mailbox:  # closed first: no caller has to wait until the sessions have ended
                sweep = trio.current_time() + interval
                while True:
                    message: Awaken | None = None
                    with trio.move_on_at(sweep):
                        message = await mailbox.receive()
                    if message is None:
                        self._sweep()
                        sweep = trio.current_time() + interval
                    else:
                        answer(message.reply, self._awaken(message.entry, sessions))

    def _awaken(self, entry: Entry, sessions: trio.Nursery) -> Awakened:
        # Decided in one step: a conversation that is forgotten meanwhile must not get an actor.
        if entry not in self.directory:
            return not_found()
        if entry.ref is not None:
            return entry.ref
        now = trio.current_time()
        if not entry.crashes.has_room(now):
            return InternalError(
                "The conversation's session keeps failing; it is left alone for a while.",
                code="restart_budget_spent",
                retry_after=entry.crashes.free_at - now,
            )
        mailbox: Mailbox[SessionMessage]
        entry.state.ref, mailbox = open_mailbox(entry.conversation_id)
        sessions.start_soon(self._look_after, entry, mailbox)
        return entry.state.ref

    async def _look_after(self, entry: Entry, mailbox: Mailbox[SessionMessage]) -> None:
        """Stay with one session actor. Its crash is its own."""
        ended = await run_session(
            entry.conversation_id,
            entry.state,
            mailbox,
            self.limits,
            self.stall_seconds,
            self.pool,
            self.bus,
            self.host,
            self.meter,
        )
        if ended.crashed:
            entry.crashes.spend(trio.current_time())
            self.bus.publish(SessionCrashed(entry.conversation_id))
        else:
            self._close(entry, ended.error.code)

    def _sweep(self) -> None:
        """Conversations that have no actor expire here: new ones, and those whose actor crashed.
        And those that fell asleep since the last turn may have to give way only now."""
        for entry in self.directory.all():
            entry.state.broadcast.prune()
        watched_since = trio.current_time() - self.limits.expire
        for entry in self.directory.dormant(since=time.time() - self.limits.expire):
            if entry.state.broadcast.watched_at <= watched_since:
                self._close(entry, "expired")
        self.directory.weigh_all()
        _relieve(self.directory, self.bus)

    def _close(self, entry: Entry, reason: str) -> None:
        if self.directory.remove(entry):
            self.bus.publish(ConversationClosed(entry.conversation_id, reason))
            entry.state.broadcast.close(reason)


def _drop(directory: Directory, bus: Bus, entry: Entry, reason: str) -> None:
    """Forget without waiting; not if its mailbox is full, so that its actor cannot receive the
    close."""
    error = TurnInterrupted("The conversation was forgotten.", code=reason)
    if entry.ref is not None and not entry.ref.tell_nowait(Close(error)):
        return
    if directory.remove(entry):
        bus.publish(ConversationClosed(entry.conversation_id, reason))
        entry.state.broadcast.close(reason)


def _relieve(directory: Directory, bus: Bus, spared: Entry | None = None) -> None:
    for entry in directory.giving_way(spared):
        _drop(directory, bus, entry, "evicted")


def limits_of(settings: Settings, program: str = "claude") -> Limits:
    """What the settings allow a session."""
    claude, conversation = settings.claude, settings.conversation
    return Limits(
        turn=claude.timeout_seconds,
        silence=claude.idle_timeout_seconds,
        start=claude.start_timeout_seconds,
        freeze=claude.freeze_after_seconds or math.inf,
        hibernate=claude.hibernate_after_seconds or math.inf,
        expire=conversation.session_timeout_minutes * 60,
        tool_wait=claude.tool_wait_seconds,
        permission=settings.permissions.timeout_seconds,
        queued=conversation.max_queued_turns,
        keep_child=claude.use_interactive_sessions,
        recycle=claude.recycle != "off",
        program=program,
    )


@asynccontextmanager
async def open_supervisor(
    settings: Settings,
    directory: Directory,
    pool: SessionPool[Any],
    bus: Bus,
    program: str = "claude",
    host: Host = NO_HOST,
    meter: Meter | None = None,
) -> AsyncIterator[Supervisor]:
    """Run a supervisor while the block runs. Afterwards no session is left. `program`: the CLI;
    `host`: the MCP servers."""
    ref: Ref[Awaken]
    ref, mailbox = open_mailbox("supervisor")
    supervision = _Supervision(
        directory,
        pool,
        bus,
        limits_of(settings, program),
        settings.server.stall_seconds,
        host,
        meter,
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(supervision.run, mailbox)
        try:
            yield Supervisor(ref, directory, bus)
        finally:
            nursery.cancel_scope.cancel()
