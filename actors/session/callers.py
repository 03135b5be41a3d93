"""The callers of one session: who waits for which turn, and what they and the bus are told of it.

Knows: the port of every turn that a session has taken on, until its end. Refuses to know: when a
turn starts, what it says and how it ends (`actors.session.machine`).
"""

from __future__ import annotations

import trio
from attrs import define

from ...schemas.errors import GatewayError
from ...schemas.events import TurnAccepted, TurnFailed, TurnFinished
from ...schemas.turn import ChoiceFate, Completed, Failed, Prompt
from ...schemas.turn_items import TurnItem
from ..runtime.bus import Bus
from .events import End, StartTurn
from .reply_channel import CallerGone, Port


@define(eq=False)
class _Waiting:
    """A caller that was not told the end; `model` is None until the turn was accepted."""

    port: Port
    prompt: Prompt
    taken: float
    model: str | None = None


class Callers:
    """Every turn of one conversation that has been taken on and has not ended."""

    def __init__(self, conversation_id: str, bus: Bus, stall_seconds: float) -> None:
        self._conversation_id = conversation_id
        self._bus = bus
        self._stall_seconds = stall_seconds
        self._waiting: dict[str, _Waiting] = {}

    def __repr__(self) -> str:
        return f"<Callers {len(self._waiting)}>"

    def take(self, start: StartTurn, port: Port) -> None:
        """A turn is about to be started."""
        self._waiting[start.turn_id] = _Waiting(port, start.prompt, trio.current_time())

    def started(self, turn_id: str, model: str) -> Port:
        """The turn was accepted; its end will be published too, whatever happens."""
        waiting = self._waiting[turn_id]
        waiting.model = model
        self._bus.publish(TurnAccepted(turn_id, self._conversation_id, model))
        return waiting.port

    def tell_choice(self, turn_id: str, fate: ChoiceFate) -> None:
        waiting = self._waiting.get(turn_id)
        if waiting is not None:
            waiting.port.tell_choice(fate)

    def note_effects(self, turn_id: str) -> None:
        """The turn has done something that must not be done twice."""
        self._waiting[turn_id].port.has_effects = True

    def deliver_nowait(self, turn_id: str, item: TurnItem) -> None:
        """Raises `trio.WouldBlock` while the caller lags, `CallerGone` when it has hung up."""
        waiting = self._waiting.get(turn_id)
        if waiting is not None:
            waiting.port.deliver_nowait(item)

    async def deliver(self, turn_id: str, item: TurnItem) -> None:
        """Wait for a caller that lags. Raises `CallerGone`, also for one that has stalled."""
        with trio.move_on_after(self._stall_seconds) as patience:
            await self._waiting[turn_id].port.deliver(item)
        if patience.cancelled_caught:
            raise CallerGone

    def end(self, end: End) -> None:
        """Publish how the turn ended, then tell its caller: the order that the cache relies on."""
        seconds = trio.current_time() - end.accepted
        key = end.prompt.cache_key
        match end.outcome:
            case Completed(usage=usage):
                first = None if end.first_delta is None else end.first_delta - end.accepted
                self._bus.publish(
                    TurnFinished(
                        end.turn_id, self._conversation_id, end.model, usage, seconds, first, key,
                        end.answer,
                    )
                )  # fmt: skip
            case Failed(error):
                self._publish_failure(end.turn_id, end.model, error, seconds, key)
        self._waiting.pop(end.turn_id).port.end(end.outcome)

    def abandon(self, error: GatewayError) -> None:
        """The session ends with turns unfinished: they end with `error`."""
        now = trio.current_time()
        while self._waiting:
            turn_id, waiting = self._waiting.popitem()
            if waiting.model is not None:
                seconds, key = now - waiting.taken, waiting.prompt.cache_key
                self._publish_failure(turn_id, waiting.model, error, seconds, key)
            waiting.port.end(Failed(error))

    def _publish_failure(
        self, turn_id: str, model: str, error: GatewayError, seconds: float, key: str | None
    ) -> None:
        self._bus.publish(TurnFailed(turn_id, self._conversation_id, model, error, seconds, key))
