"""The audit log: who did what in which conversation, and who permitted it; a file of JSON lines.

Knows: which events are written, as which line, and what happens while the file cannot be written.
Refuses to know: who publishes them. No line holds a key, or anything that was said: a key is
named by the beginning of its id, a tool by its name.

A line is written as soon as its event is read, by one append (a copy into the kernel's memory, so
no thread is needed). Lines that cannot be written wait, with the time at which they came. What is
lost beyond `WAITING` of them, or by lagging behind the bus, is a line in the place of the gap.
"""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import trio

from ...schemas import events
from ...schemas.convert import write_json
from ...schemas.keys import SHORT
from ...schemas.settings.settings import AuditSettings, Problem, SettingsError
from ...transport.append_file import AppendFile
from ...transport.loggers import get_logger
from ..runtime.bus import Bus, Subscription

log = get_logger("ccapi.audit")

WAITING = 10_000
"""Lines that wait, at most, while the file cannot be written."""

BUFFER = 4096
RETRY_SECONDS = 1.0

KINDS: tuple[type[events.Event], ...] = (
    events.TurnFinished,
    events.TurnFailed,
    events.ToolAsked,
    events.ToolDecided,
    events.CallerRefused,
    events.ConversationDeleted,
    events.ConversationExported,
    events.McpFileRead,
)


class Audit:
    """Made by `open_audit`. `name_of` gives the name of a key by its owner; empty: it has none."""

    def __init__(self, file: AppendFile) -> None:
        self.name_of: Callable[[str], str] = lambda owner: ""
        self._file = file
        self._lines: deque[bytes] = deque()
        self._gap = 0  # events lost that no line tells of yet
        self._written = self._lost = self._failures = 0
        self._retry_at = math.inf

    def __repr__(self) -> str:
        return f"<Audit {self._written} written, {len(self._lines)} waiting, {self._lost} lost>"

    def snapshot(self) -> dict[str, int]:
        """Of `/stats`: lines written and waiting, events lost, and writes that failed."""
        return {
            "written": self._written,
            "waiting": len(self._lines),
            "lost": self._lost,
            "failed_writes": self._failures,
        }

    def reopen(self) -> None:
        """Go on in the file that now has the path, after the old one was moved away."""
        try:
            self._file.reopen()
        except OSError as error:
            log.warning(
                "the audit log cannot be opened again: the old file is used", error=str(error)
            )
            return
        log.info("the audit log was opened again")
        self._write()

    # -- events ------------------------------------------------------------------------------------

    def take(self, event: events.Event) -> None:
        """Write what is to be written of `event`."""
        match event:
            case events.TurnFinished():
                self._turn(event, "finished")
            case events.TurnFailed():
                self._turn(event, event.error.code)
            case events.ToolAsked():
                self.add("tool_asked", event.owner, **_ids(event), tool=event.tool)
            case events.ToolDecided():
                self.add(
                    "tool_decided", event.owner, **_ids(event), tool=event.tool,
                    decision=event.behavior, by=event.by, always=event.always or None,
                )  # fmt: skip
            case events.ChildAdopted():
                ids = {"conversation_id": event.conversation_id}
                self.add("login_taken", event.owner, **ids, login=event.login)
            case events.CallerRefused():
                self.add(
                    "refused", event.owner, request_id=event.request_id, status=event.status,
                    code=event.code,
                )  # fmt: skip
            case events.ConversationDeleted(conversation_id, owner):
                self.add("conversation_deleted", owner, conversation_id=conversation_id)
            case events.ConversationExported(conversation_id, owner):
                self.add("conversation_exported", owner, conversation_id=conversation_id)
            case events.McpFileRead(refused):
                self.add("mcp_file_read", outcome="refused" if refused else "in_force")
            case events.EventsLost(missed):
                self._lose(missed)
            case _:
                raise AssertionError(f"not subscribed to: {event!r}")

    def _turn(self, event: events.TurnFinished | events.TurnFailed, outcome: str) -> None:
        self.add(
            "turn", event.owner, conversation_id=event.conversation_id, turn_id=event.turn_id,
            model=event.model, login=event.login, outcome=outcome,
        )  # fmt: skip

    def add(self, event: str, owner: str = "", **fields: object) -> None:
        """Write a line; fields that are empty are left out."""
        if len(self._lines) >= WAITING:
            self._lose(1)
            return
        self._tell_gap()
        self._lines.append(self._line(event, owner, fields))
        if self._retry_at == math.inf:
            self._write()

    def _line(self, event: str, owner: str, fields: dict[str, Any]) -> bytes:
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        line: dict[str, Any] = {"time": now.replace("+00:00", "Z"), "event": event}
        if owner:
            line |= {"key": owner[:SHORT], "name": self.name_of(owner)}
        line |= fields
        known = {name: value for name, value in line.items() if value not in (None, "")}
        return write_json(known) + b"\n"

    # -- what goes wrong ---------------------------------------------------------------------------

    def _lose(self, count: int) -> None:
        self._gap += count
        self._lost += count
        if len(self._lines) < WAITING and self._retry_at == math.inf:
            self._write()

    def _tell_gap(self) -> None:
        if self._gap:
            self._lines.append(self._line("events_lost", "", {"lost": self._gap}))
            self._gap = 0

    def _write(self) -> None:
        """Write the lines that wait, or have them wait on."""
        try:
            while self._lines or self._gap:
                if not self._lines:
                    self._tell_gap()
                self._file.write(self._lines[0])
                self._lines.popleft()
                self._written += 1
        except OSError as error:
            self._failures += 1
            if self._retry_at == math.inf:
                log.warning("the audit log cannot be written: its lines wait", error=str(error))
            self._retry_at = trio.current_time() + RETRY_SECONDS
        else:
            if self._retry_at < math.inf:
                log.info("the audit log is written again", lost=self._lost)
            self._retry_at = math.inf

    # -- life --------------------------------------------------------------------------------------

    def catch_up(self, news: Subscription) -> None:
        """Take everything that was published until now."""
        while True:
            try:
                event = news.receive_nowait()
            except (trio.WouldBlock, trio.EndOfChannel):
                return
            try:
                self.take(event)
            except Exception:
                log.exception("an event is not in the audit log", kind=type(event).__name__)
                self._lose(1)

    async def listen(self, news: Subscription) -> None:
        """Write what is published, until the bus is closed."""
        while True:
            is_open: bool | None = None
            with trio.move_on_at(self._retry_at):
                is_open = await news.wait()
            if is_open is None or trio.current_time() >= self._retry_at:
                self._write()
            self.catch_up(news)
            if is_open is False:
                return

    def close(self) -> None:
        self._write()
        if self._lines:
            log.error("the audit log was not written to its end", lines=len(self._lines))
        self._file.close()


def _ids(event: events.ToolAsked | events.ToolDecided) -> dict[str, str]:
    return {
        "conversation_id": event.conversation_id,
        "turn_id": event.turn_id,
        "permission_id": event.request_id,
    }


@asynccontextmanager
async def open_audit(
    settings: AuditSettings, bus: Bus, *, has_logins: bool = False
) -> AsyncIterator[Audit | None]:
    """Keep the audit log while the block runs; None where it is off. `has_logins`: there are
    several, and which one a child was taken with is written too.

    What is published until the block ends is written. Raises `SettingsError` where the file cannot
    be opened.
    """
    if settings.path is None:
        yield None
        return
    path = settings.path.expanduser()
    try:
        audit = Audit(AppendFile(path))
    except OSError as error:
        reason = f"{path} cannot be written: {error.strerror}"
        raise SettingsError([Problem("audit.path", reason)]) from error
    kinds = (*KINDS, events.ChildAdopted) if has_logins else KINDS
    try:
        with bus.subscribe(*kinds, buffer=BUFFER) as news:
            audit.add("gateway_started", pid=os.getpid())
            async with trio.open_nursery() as nursery:
                nursery.start_soon(audit.listen, news)
                try:
                    yield audit
                finally:
                    nursery.cancel_scope.cancel()
                    audit.catch_up(news)
                    audit.add("gateway_stopped", pid=os.getpid())
    finally:
        audit.close()
