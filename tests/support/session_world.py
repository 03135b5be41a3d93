"""A world for session actors: conversations beside each other, a bus, a listener that hears all.

Knows how a session is started, as the supervisor does it, and what must hold for every session
whatever a test does: that is asserted when the world closes (`World.check`). Refuses to know the
supervisor, so that sessions can be tested without one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import pytest
import trio

from ccapi.actors.runtime.bus import Bus, Subscription
from ccapi.actors.runtime.mailbox import Ref, open_mailbox
from ccapi.actors.runtime.reply_channel import Port, Turn, open_turn
from ccapi.actors.session.actor import run_session
from ccapi.actors.session.events import StartTurn
from ccapi.actors.session.messages import Ended, SessionMessage, SessionState, Submit
from ccapi.actors.session.phases import Limits, Phase
from ccapi.actors.watching.broadcast import Broadcast
from ccapi.schemas import events
from ccapi.schemas.errors import GatewayError
from ccapi.schemas.message import Message, messages_of
from ccapi.schemas.turn import Completed, Failed, Memory, Options, Setup, TurnRequest
from ccapi.schemas.turn_items import TextDelta, TurnItem

from .fake_child import Brain, FakeChild, FakePool, echo, silent


class Seat:
    """One conversation, and its actor if one runs."""

    def __init__(self, world: World, conversation_id: str, state: SessionState[Broadcast]) -> None:
        self.conversation_id = conversation_id
        self.state = state
        self.ended: Ended | None = None
        self.turns: list[Turn] = []
        self._house = world
        self._over = trio.Event()

    def start(self) -> None:
        """Start an actor for it, as the supervisor does."""
        ref: Ref[SessionMessage]
        ref, mailbox = open_mailbox(self.conversation_id)
        assert self.state.ref is None, "two actors for one conversation"
        self.state.ref = ref
        self.ended, self._over = None, trio.Event()

        async def run() -> None:
            world = self._house
            try:
                with world.scopes[self.conversation_id]:
                    self.ended = await run_session(
                        self.conversation_id,
                        self.state,
                        mailbox,
                        world.limits,
                        world.stall_seconds,
                        world.pool,
                        world.bus,
                    )
            finally:
                self._over.set()

        self._house.scopes[self.conversation_id] = trio.CancelScope()
        self._house.nursery.start_soon(run)

    def cancel(self) -> None:
        """Cancel the actor, as the gateway's end does."""
        self._house.scopes[self.conversation_id].cancel()

    async def wait_ended(self) -> Ended | None:
        """How the actor ended; None if it was cancelled."""
        await self._over.wait()
        return self.ended

    @property
    def ref(self) -> Ref[SessionMessage]:
        assert self.state.ref is not None
        return self.state.ref

    def prepare(self, said: str | Message, **options: Any) -> tuple[Turn, Submit]:
        prompt = TurnRequest(
            messages_of(said if isinstance(said, str) else (said,)),
            model=options.get("model"),
            system=options.get("system"),
            cache_key=options.get("cache_key"),
            tools=options.get("tools"),
            options=options.get("options", Options()),
            reject_if_busy=options.get("reject_if_busy", False),
        )
        turn, port = open_turn(str(uuid4()), self.conversation_id, options.get("model") or "haiku")
        start = StartTurn(turn.turn_id, prompt)
        self.turns.append(turn)
        self._house.ports.append(port)
        return turn, Submit(start, port)

    async def submit(self, said: str | Message, **options: Any) -> Turn:
        turn, message = self.prepare(said, **options)
        await self.ref.tell(message)
        return turn

    def submit_nowait(self, text: str, **options: Any) -> Turn:
        turn, message = self.prepare(text, **options)
        assert self.ref.tell_nowait(message)
        return turn

    async def ask(self, text: str, **options: Any) -> str:
        """One turn, whole."""
        return (await (await self.submit(text, **options)).reply()).text

    async def wait_phase(self, phase: Phase) -> None:
        while self.state.phase is not phase:
            await self._house.wait_event()


class World:
    """Sessions beside each other, the bus they publish on, and a listener that hears everything."""

    nursery: trio.Nursery

    def __init__(self, pool: FakePool, limits: Limits, stall_seconds: float) -> None:
        self.pool = pool
        self.limits = limits
        self.stall_seconds = stall_seconds
        self.bus = Bus()
        self.active_at: list[events.Event] = []
        self.ports: list[Port] = []
        self.scopes: dict[str, trio.CancelScope] = {}
        self._news = trio.Event()

    def seat(self, name: str = "conv_a", memory: Memory | None = None) -> Seat:
        seat = Seat(self, name, SessionState(memory or Memory(Setup("haiku")), Broadcast()))
        seat.start()
        return seat

    async def listen(self, subscription: Subscription) -> None:
        async for event in subscription:
            self.active_at.append(event)
            self._news.set()
            self._news = trio.Event()

    async def wait_event(self) -> None:
        await self._news.wait()

    def of(self, kind: type[Any]) -> Iterator[Any]:
        return (event for event in self.active_at if isinstance(event, kind))

    def check(self) -> None:
        """What must hold when every actor has ended, whatever happened before."""
        assert all(port.outcome is not None for port in self.ports), "a turn did not end"
        begun = Counter(event.turn_id for event in self.of(events.TurnAccepted))
        ended = Counter(
            event.turn_id
            for event in self.active_at
            if isinstance(event, events.TurnFinished | events.TurnFailed)
        )
        assert begun == ended
        assert set(begun.values()) <= {1}
        held = [child for child in self.pool.lent if child not in self.pool.released]
        assert all(child.fate for child in held), "a child was left behind"
        assert not self.pool.offered, "a child that is gone is on offer"


@asynccontextmanager
async def open_world(
    brain: Brain = echo, *, limits: Limits | None = None, stall_seconds: float = 30.0
) -> AsyncIterator[World]:
    """Afterwards no actor is left, and `World.check` has passed."""
    world = World(FakePool(brain), limits or Limits(), stall_seconds)
    async with trio.open_nursery() as listening:
        with world.bus.subscribe(buffer=1 << 20) as subscription:
            listening.start_soon(world.listen, subscription)
            async with trio.open_nursery() as world.nursery:
                try:
                    yield world
                finally:
                    for scope in world.scopes.values():
                        scope.cancel()
    world.check()


# -- what tests ask --------------------------------------------------------------------------------


def outcome(turn: Turn) -> str:
    """How a turn ended, in a word."""
    match turn._port.outcome:
        case Completed():
            return "completed"
        case Failed(error):
            return error.code
        case None:
            return "running"


async def drain(turn: Turn) -> list[str]:
    return [text_of(item) async for item in turn]


def text_of(item: TurnItem) -> str:
    assert isinstance(item, TextDelta)
    return item.text


async def failure(turn: Turn) -> GatewayError:
    """The error with which the turn fails, and must."""
    with pytest.raises(GatewayError) as caught:
        await drain(turn)
    return caught.value


async def running_turn(world: World, seat: Seat, text: str = "go on") -> tuple[Turn, FakeChild]:
    """A turn that runs, of which nothing was said yet, in a child that holds one turn already."""
    await seat.ask("first")
    child = world.pool.child
    child.brain = silent
    turn = await seat.submit(text)
    await child.wait_prompts(2)
    return turn, child
