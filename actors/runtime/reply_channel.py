"""A turn seen from both sides: the caller's `Turn`, and the `Port` the session answers into.

Knows: the bounded channel between them (the backpressure), how a turn ends once, and how a caller
hangs up. Refuses to know: conversations, and where the items come from.

The outcome does not travel through the channel. The session sets it beside the channel, then closes
the channel: so the end of a turn is synchronous, and a caller that does not read cannot delay it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress

import trio

from ...schemas.errors import GatewayError, InternalError, TurnInterrupted
from ...schemas.turn import (
    ChildSource,
    ChoiceFate,
    Completed,
    Failed,
    FinishReason,
    Outcome,
    Reply,
    Usage,
)
from ...schemas.turn_items import Gathering, TurnItem

REPLY_SLOTS = 32


class CallerGone(Exception):
    """The caller no longer takes items: it has hung up, or its turn has ended."""


class Port:
    """The session's side: items go in, the outcome is set once."""

    def __init__(self, send: trio.MemorySendChannel[TurnItem]) -> None:
        self._send = send
        self.outcome: Outcome | None = None
        self.choice: ChoiceFate | None = None
        self.on_choice: Callable[[ChoiceFate], None] | None = None
        self.lost: str | None = None
        self.on_lost: Callable[[str], None] | None = None
        self.source: ChildSource | None = None
        self.on_source: Callable[[ChildSource], None] | None = None
        self.has_effects = False  # some of what it did must not be done twice
        self.over = trio.Event()
        """Set when either side is done: the turn has ended, or the caller has hung up."""

    def report_choice(self, fate: ChoiceFate) -> None:
        self.choice = fate
        if self.on_choice is not None:
            self.on_choice(fate)

    def report_lost(self, turn_id: str) -> None:
        self.lost = turn_id
        if self.on_lost is not None:
            self.on_lost(turn_id)

    def report_source(self, source: ChildSource) -> None:
        self.source = source
        if self.on_source is not None:
            self.on_source(source)

    def deliver_nowait(self, item: TurnItem) -> None:
        """Raises `trio.WouldBlock` when the caller lags by the whole channel, or `CallerGone`."""
        try:
            self._send.send_nowait(item)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise CallerGone from None

    async def deliver(self, item: TurnItem) -> None:
        """Wait for room. Raises `CallerGone`, also when the turn ends meanwhile."""
        try:
            await self._send.send(item)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise CallerGone from None

    def end(self, outcome: Outcome) -> None:
        """End the turn. What was delivered stays readable; a second end is an error."""
        assert self.outcome is None, "a turn ends exactly once"
        if isinstance(outcome, Failed) and self.has_effects:
            outcome = Failed(outcome.error.for_good())
        self.outcome = outcome
        self._send.close()
        self.over.set()


class Turn:
    """The caller's side: iterate it for the answer's items, then read how it ended.

    ``async for item in turn`` yields `TurnItem`s as the CLI produces them and ends with a whole
    answer; it raises the `GatewayError` with which the turn failed. Afterwards `usage` and
    `finish_reason` are set. A caller that reads slowly slows down its own turn only; one that stops
    reading for `server.stall_seconds` counts as gone.

    Read it inside its block; after `hang_up`, which the end of the block calls, reading raises the
    turn's own error or else `TurnInterrupted`. Turns of one conversation run one at a time: a
    second one that is awaited inside the block of the first waits for the first to end.
    """

    def __init__(
        self, turn_id: str, conversation_id: str, model: str, port: Port,
        receive: trio.MemoryReceiveChannel[TurnItem],
    ) -> None:  # fmt: skip
        self.turn_id = turn_id
        self.conversation_id = conversation_id
        self.model = model
        self._port = port
        self._receive = receive

    def __repr__(self) -> str:
        state = "running" if self._port.outcome is None else type(self._port.outcome).__name__
        return f"<Turn {self.turn_id} {state}>"

    def __aiter__(self) -> Turn:
        return self

    async def __anext__(self) -> TurnItem:
        # An item that waits already needs no scheduler step; after 32 items there is one anyway.
        await trio.lowlevel.checkpoint_if_cancelled()
        with suppress(trio.WouldBlock, trio.EndOfChannel, trio.ClosedResourceError):
            return self._receive.receive_nowait()
        with suppress(trio.ClosedResourceError):
            with suppress(trio.EndOfChannel):
                return await self._receive.receive()
            # Outside the handler, so that the turn's error does not get the channel's as context.
            self._check()
            raise StopAsyncIteration
        raise self._lost()

    async def receive_items(self) -> list[TurnItem]:
        """The next item, once it is there, and all that wait behind it. None at the end of a whole
        answer. Raises the `GatewayError` with which the turn failed."""
        items: list[TurnItem] = []
        with suppress(trio.ClosedResourceError):
            with suppress(trio.EndOfChannel):
                items.append(await self._receive.receive())
                with suppress(trio.WouldBlock):
                    while True:
                        items.append(self._receive.receive_nowait())
            # Outside the handler, so that the turn's error does not get the channel's as context.
            if not items:
                self._check()
            return items
        raise self._lost()

    def _lost(self) -> GatewayError:
        """Why nothing can be read after `hang_up`, whether the turn is complete or not."""
        if isinstance(self._port.outcome, Failed):
            return self._port.outcome.error
        return TurnInterrupted(
            "The client has closed this turn; the unread rest of its answer is lost."
        )

    def _check(self) -> Completed:
        match self._port.outcome:
            case Completed() as completed:
                return completed
            case Failed(error):
                raise error
            case None:
                raise InternalError("The turn has not ended.")

    @property
    def finish_reason(self) -> FinishReason:
        """Why the answer ended. Raises the turn's error where it failed."""
        return self._check().finish_reason

    @property
    def stop_text(self) -> str | None:
        """The text of `Options.stop` at which the answer ended, if it did. Raises the turn's error
        where it failed."""
        return self._check().stop_text

    @property
    def stop_reason(self) -> str | None:
        """Why the model stopped, in the Messages API's own word, as far as that was said
        (`Completed`). Raises the turn's error where it failed."""
        return self._check().stop_reason

    @property
    def choice(self) -> ChoiceFate | None:
        """What became of a `tool_choice` that only an instruction in the prompt can bring about;
        None: there was none. It is final when the first item comes."""
        return self._port.choice

    def follow_choice(self, on_choice: Callable[[ChoiceFate], None]) -> None:
        """Have `on_choice` called with what `choice` is and becomes; it must not wait or raise."""
        if self._port.choice is not None:
            on_choice(self._port.choice)
        self._port.on_choice = on_choice

    @property
    def lost(self) -> str | None:
        """The id of an earlier turn of this conversation that was lost because the gateway ended
        while it ran: said to one caller, before the first item."""
        return self._port.lost

    def follow_lost(self, on_lost: Callable[[str], None]) -> None:
        """Have `on_lost` called with what `lost` becomes; it must not wait or raise."""
        if self._port.lost is not None:
            on_lost(self._port.lost)
        self._port.on_lost = on_lost

    @property
    def source(self) -> ChildSource | None:
        """How the turn got its child; None: it has none yet. It is final when the first item
        comes."""
        return self._port.source

    def follow_source(self, on_source: Callable[[ChildSource], None]) -> None:
        """Have `on_source` called with what `source` is and becomes; it must not wait or raise."""
        if self._port.source is not None:
            on_source(self._port.source)
        self._port.on_source = on_source

    @property
    def usage(self) -> Usage:
        """What the turn cost. Raises the turn's error where it failed."""
        return self._check().usage

    @property
    def has_effects(self) -> bool:
        """Whether the turn did something that must not be done twice: an agent used a tool, or the
        client brought results of its own tools. The error of such a turn has `should_retry` False;
        so should any error that follows it."""
        return self._port.has_effects

    async def reply(self, timeout: float = math.inf) -> Reply:
        """Read the rest of the turn and return it as one reply.

        Raises the turn's `GatewayError`, or `trio.TooSlowError` after `timeout` seconds (the turn
        then goes on: only `hang_up` stops it).
        """
        gathered = Gathering()
        with trio.fail_after(timeout):
            async for item in self:
                gathered.add(item)
        completed = self._check()
        return Reply(
            text=gathered.text,
            finish_reason=completed.finish_reason,
            usage=completed.usage,
            conversation_id=self.conversation_id,
            model=self.model,
            tool_calls=gathered.tool_calls,
            reasoning=gathered.reasoning,
            refusal=gathered.refusal,
            cited=gathered.cited,
        )

    def hang_up(self) -> None:
        """Take no more items: a running turn is interrupted, and unread items are lost."""
        self._receive.close()
        self._port.over.set()


def open_turn(turn_id: str, conversation_id: str, model: str) -> tuple[Turn, Port]:
    """Both sides of a new turn."""
    send, receive = trio.open_memory_channel[TurnItem](REPLY_SLOTS)
    port = Port(send)
    return Turn(turn_id, conversation_id, model, port, receive), port
