"""The cleanup: what conversations leave on the disk, and that it goes with them.

Knows: which conversation has which sessions of the CLI, and which of them a child still writes.
Refuses to know: where a session leaves what (`transport.process.leftovers`).

A session that no conversation took, or whose conversation has been forgotten, goes as soon as its
child has gone. All others go with the gateway, but for those of agents whose conversation is stored
(`kept`): their transcripts are what another child resumes, after a restart too. Which these are
stands in the list that the next gateway reads. Removal is one task's, in a worker thread.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from ...transport.loggers import get_logger
from ...transport.process.leftovers import (
    SessionList,
    Trace,
    mark_used,
    remove_left,
    remove_traces,
    remove_unused,
    remove_workspaces,
)
from .workspace_paths import OWN

log = get_logger("ccapi.cleanup")

SWEEP_SECONDS = 3600.0
"""How late, at most, a workspace goes whose days are over."""

CLOSE_SECONDS = 5.0
"""Longest wait for the last removal. What is left then goes when the next gateway starts."""


class Cleanup:
    """Made by `open_cleanup`. `lives` says whether there is a conversation of that id in memory,
    `kept` which agents' conversations are stored (None: that is not known), `used` which workspaces
    conversations have; `keep_days` is how long one stays after its last conversation."""

    def __init__(
        self, storage: Path, root: Path, keep_days: float,
        lives: Callable[[str], bool], used: Callable[[], Awaitable[set[str]]],
        kept: Callable[[], Awaitable[set[str] | None]],
    ) -> None:  # fmt: skip
        self._storage = storage / "sessions"
        self._root = root
        self._keep_days = keep_days
        self._lives = lives
        self._used = used
        self._kept = kept
        self._asleep: set[str] = set()  # stored conversations of agents that have left memory
        self._owners: dict[Trace, str] = {}
        self._of: dict[str, set[Trace]] = {}
        self._open: Counter[Trace] = Counter()
        self._going: set[Trace] = set()
        self._ended: set[str] = set()  # workspaces whose days begin
        self._spares: set[str] = set()  # workspaces of children that wait for a conversation
        self._unused: set[str] = set()  # of those that no conversation came for
        self._more = trio.Event()
        self._list: SessionList | None = None

    def __repr__(self) -> str:
        return f"<Cleanup {len(self._open)} open, {len(self._going)} going>"

    # -- children --------------------------------------------------------------------------------

    async def begin(self, trace: Trace | None, spare: str = "") -> None:
        """A child will write this session. Comes before its process does. `spare`: the child waits
        for a conversation, in this new workspace."""
        if trace is None:
            return
        self._open[trace] += 1
        if spare:
            self._spares.add(spare)
        if self._list is not None:
            with trio.CancelScope(shield=True):  # a short line
                await trio.to_thread.run_sync(self._begin, self._list, trace, spare)

    def _begin(self, sessions: SessionList, trace: Trace, spare: str) -> None:
        self._write(sessions, trace)
        if spare:
            try:
                sessions.add_spare(spare)
            except OSError as error:
                log.warning("a spare's workspace could not be listed", error=error.strerror)

    def _write(self, sessions: SessionList, trace: Trace, conversation_id: str = "") -> None:
        try:
            sessions.add(trace, conversation_id)
        except OSError as error:
            log.warning("a session could not be listed", error=error.strerror)

    def adopt(self, trace: Trace | None, conversation_id: str) -> None:
        """It is this conversation's."""
        if trace is None:
            return
        self._own(trace, conversation_id)
        if self._list is not None:
            self._write(self._list, trace, conversation_id)  # into the page cache: microseconds

    def _own(self, trace: Trace, conversation_id: str) -> None:
        self._owners[trace] = conversation_id
        self._of.setdefault(conversation_id, set()).add(trace)

    def move(self, trace: Trace, other: Trace) -> None:
        """The child that was to write the former session writes the latter: of the same id, in
        another directory. It has written nothing yet."""
        self._open[trace] -= 1
        if not self._open[trace]:
            del self._open[trace]
        self._open[other] += 1

    def end(self, trace: Trace | None, spare: str = "") -> None:
        """The child has gone. `spare`: it was begun as one."""
        if trace is None:
            return
        self._spares.discard(spare)
        # The workspace has the name of the conversation that takes it.
        if spare and not (self._lives(spare) or spare in self._asleep):
            self._unused.add(spare)
            self._more.set()
        self._open[trace] -= 1
        if not self._open[trace]:
            del self._open[trace]
            owner = self._owners.get(trace)
            if owner is None or not (self._lives(owner) or owner in self._asleep):
                self._schedule_removal(trace)

    # -- conversations ---------------------------------------------------------------------------

    def sleep(self, conversation_id: str) -> None:
        """A stored conversation of an agent's has left memory: what it has stays."""
        self._asleep.add(conversation_id)

    def wake(self, conversation_id: str) -> None:
        """The conversation is in memory again."""
        self._asleep.discard(conversation_id)

    def release(self, conversation_id: str, workspace: str) -> None:
        """The conversation has been forgotten."""
        self._asleep.discard(conversation_id)
        for trace in self._of.pop(conversation_id, set()):
            if trace not in self._open:  # else when its child has gone
                self._schedule_removal(trace)
        if workspace:
            self._ended.add(workspace)
            self._more.set()

    def _schedule_removal(self, trace: Trace) -> None:
        owner = self._owners.pop(trace, "")
        if owner in self._of:
            self._of[owner].discard(trace)
            if not self._of[owner]:
                del self._of[owner]
        self._going.add(trace)
        self._more.set()

    # -- removal ---------------------------------------------------------------------------------

    async def start(self) -> None:
        """Begin the list of this gateway's sessions."""
        try:
            self._list = await trio.to_thread.run_sync(SessionList, self._storage)
        except OSError as error:
            log.warning("sessions cannot be listed", error=error.strerror)

    async def run(self) -> None:
        """Remove what is not needed any more, and first what was left by others."""
        await self._take_over()
        while True:
            going, ended, unused = self._going, self._ended, self._unused
            self._going, self._ended, self._unused, self._more = set(), set(), set(), trio.Event()
            try:
                used = {*await self._used(), *self._spares}
                await trio.to_thread.run_sync(
                    self._remove, going, ended, unused, used, abandon_on_cancel=True
                )
            except trio.Cancelled:
                self._going |= going
                self._unused |= unused
                raise
            with trio.move_on_after(SWEEP_SECONDS):
                await self._more.wait()

    async def _take_over(self) -> None:
        """See to what the sessions of earlier gateways have left."""
        sessions = self._list
        if sessions is None:
            return
        kept = await self._kept()
        if kept is None:
            return  # a later gateway sees to it: what an agent needs must not go
        found = await trio.to_thread.run_sync(
            remove_left, self._storage, self._root, kept, sessions.add, abandon_on_cancel=True
        )
        for trace, owner in found.items():
            self._own(trace, owner)
            if not self._lives(owner):
                self._asleep.add(owner)

    def _remove(self, going: set[Trace], ended: set[str], unused: set[str], used: set[str]) -> None:
        remove_traces(going)
        remove_unused(self._root, unused)
        for workspace in ended - used:
            if workspace.startswith(OWN):
                mark_used(self._root / workspace)
        remove_workspaces(self._root, self._keep_days, used)

    async def close(self) -> None:
        """No child is left: neither is any session, but for those of stored agents."""
        finished = False
        with trio.move_on_after(CLOSE_SECONDS, shield=True):
            kept = await self._kept()
            stays = {
                trace for trace, owner in self._owners.items() if kept is None or owner in kept
            }
            left = {*self._going, *self._owners, *self._open} - stays
            ended = {*self._ended, *await self._used()}
            unused = {*self._unused, *self._spares}
            await trio.to_thread.run_sync(
                self._remove, left, ended, unused, set(), abandon_on_cancel=True
            )
            finished = not stays
        if self._list is not None:
            self._list.close(finished=finished)


@asynccontextmanager
async def open_cleanup(
    storage: Path, root: Path, keep_days: float,
    lives: Callable[[str], bool], used: Callable[[], Awaitable[set[str]]],
    kept: Callable[[], Awaitable[set[str] | None]],
) -> AsyncIterator[Cleanup]:  # fmt: skip
    """See to what is left on the disk while the block runs, and after it to the rest."""
    cleanup = Cleanup(storage, root, keep_days, lives, used, kept)
    await cleanup.start()
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(cleanup.run)
            try:
                yield cleanup
            finally:
                nursery.cancel_scope.cancel()
    finally:
        await cleanup.close()
