"""What reaches a chat at a terminal: lines, Ctrl-C, and the conversation over its link.

Knows: how each is waited for, and when to connect again. Refuses to know: what any of it means
(`actors.commands.chat`).
"""

from __future__ import annotations

import signal
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import trio
from attrs import frozen

from ...transport.client.gateway_client import GatewayClient, Link, LinkLost, Refused, Unreachable
from ...transport.client.line_input import LineInput, LineTooLong

RETRY_SECONDS = (0.2, 0.5, 1.0, 2.0, 5.0)
PATIENCE_SECONDS = 120.0
"""How long a gateway that went away is waited for."""


@frozen
class Line:
    """None: there will be no more."""

    text: str | None


@frozen
class Interrupt:
    """Ctrl-C."""


@frozen
class Ended:
    """A signal that ends the program; the terminal has to be set as it was before that."""

    number: int


@frozen
class LinkUp:
    """`joined`: the first message, which says how the conversation stands."""

    link: Link
    joined: Mapping[str, Any]


@frozen
class LinkDown:
    pass


@frozen
class ServerEvent:
    event: Mapping[str, Any]


@frozen
class GaveUp:
    error: Exception


Happening = Line | Interrupt | Ended | LinkUp | LinkDown | ServerEvent | GaveUp


class Senses:
    """Brings what happens into one channel, `happenings`, in the order in which it did.

    `seen` is the number of the last event that was dealt with, from which a link that was lost is
    taken up again; None before the first. A line is read only when it is wanted (`want_line`).
    """

    def __init__(self, client: GatewayClient, conversation_id: str, lines: LineInput) -> None:
        self.seen: int | None = None
        self.happenings: trio.MemoryReceiveChannel[Happening]
        self._send: trio.MemorySendChannel[Happening]
        self._send, self.happenings = trio.open_memory_channel(16)
        self._client = client
        self._path = f"/v1/conversations/{quote(conversation_id, safe='')}/events"
        self._lines = lines
        self._wanted = trio.Event()

    @property
    def is_line_wanted(self) -> bool:
        return self._wanted.is_set()

    def want_line(self) -> None:
        self._wanted.set()

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        """For ever; started once Ctrl-C is heeded."""
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
            task_status.started()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._keep_link)
                nursery.start_soon(self._read_lines)
                async for number in signals:
                    interrupted = number == signal.SIGINT
                    await self._send.send(Interrupt() if interrupted else Ended(number))

    async def _keep_link(self) -> None:
        """Be connected, for as long as that can be had."""
        failures = 0
        since = trio.current_time()
        while True:
            try:
                await self._follow()
            except LinkLost:
                failures = 0
                since = trio.current_time()
                await self._send.send(LinkDown())
            except (Unreachable, Refused) as error:
                lasting = isinstance(error, Refused) and error.status < 500
                overdue = trio.current_time() > since + PATIENCE_SECONDS
                if self.seen is None or lasting or overdue:
                    await self._send.send(GaveUp(error))
                    return
                failures += 1
            await trio.sleep(RETRY_SECONDS[min(failures, len(RETRY_SECONDS) - 1)])

    async def _follow(self) -> None:
        after = "" if self.seen is None else f"?after={self.seen}"
        async with self._client.open_link(f"{self._path}{after}") as link:
            joined = await link.receive()
            if joined.get("type") == "error":
                raise Refused(500, str(joined["error"]["message"]))
            await self._send.send(LinkUp(link, joined))
            while True:
                await self._send.send(ServerEvent(await link.receive()))

    async def _read_lines(self) -> None:
        while True:
            await self._wanted.wait()
            try:
                line = await self._lines.read()
            except LineTooLong as error:
                await self._send.send(GaveUp(error))
                return
            self._wanted = trio.Event()
            await self._send.send(Line(line))
