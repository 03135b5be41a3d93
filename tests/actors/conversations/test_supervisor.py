"""The supervisor: an actor when there is demand, none when there is not, and what comes between."""

from __future__ import annotations

import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from uuid import uuid4

import pytest
import trio
from attrs import evolve
from trio.testing import MockClock, wait_all_tasks_blocked

from ccapi.actors.conversations.directory import Directory, Entry
from ccapi.actors.conversations.supervisor import (
    SWEEP_SECONDS,
    Supervisor,
    limits_of,
    open_supervisor,
)
from ccapi.actors.runtime.bus import Bus, Subscription
from ccapi.actors.runtime.mailbox import MAILBOX, ActorGone, Ref
from ccapi.actors.runtime.reply_channel import Port, Turn, open_turn
from ccapi.actors.runtime.restart_budget import RESTARTS
from ccapi.actors.session.events import Action, Event, StartTurn
from ccapi.actors.session.machine import Machine
from ccapi.actors.session.messages import SessionMessage, Submit
from ccapi.schemas import events
from ccapi.schemas.errors import (
    GatewayError,
    InternalError,
    NotFound,
    Overloaded,
    TurnInterrupted,
)
from ccapi.schemas.message import messages_of
from ccapi.schemas.settings.settings import ClaudeSettings, ConversationSettings, Settings
from ccapi.schemas.turn import Memory, Origin, Setup, TurnRequest

from ...support.fake_child import Brain, FakeChild, FakePool, echo, silent
from ...support.session_world import failure, outcome

EXPIRY = 1800.0
SETTINGS = Settings(
    claude=ClaudeSettings(freeze_after_seconds=0, hibernate_after_seconds=0),
    conversation=ConversationSettings(session_timeout_minutes=EXPIRY / 60),
)


class World:
    """A supervisor over children made of memory, and what it published."""

    def __init__(
        self, supervisor: Supervisor, directory: Directory, pool: FakePool, news: Subscription
    ) -> None:
        self.supervisor = supervisor
        self.directory = directory
        self.pool = pool
        self._news = news
        self._published: list[events.Event] = []
        self.ports: list[Port] = []

    @property
    def published(self) -> list[events.Event]:
        """What was published so far, phases apart."""
        while True:
            try:
                event = self._news.receive_nowait()
            except (trio.WouldBlock, trio.EndOfChannel):
                return self._published
            if not isinstance(event, events.PhaseChanged):
                self._published.append(event)

    def entry(self, used_at: float | None = None) -> Entry:
        now = time.time() if used_at is None else used_at
        return self.directory.create("local", Memory(Setup("haiku")), now)

    async def submit(self, entry: Entry, text: str = "hello") -> Turn:
        turn, port = open_turn(str(uuid4()), entry.conversation_id, "haiku")
        message = Submit(StartTurn(turn.turn_id, TurnRequest(messages_of(text))), port)
        await self.supervisor.submit(entry, message)
        self.ports.append(port)
        return turn

    async def ask(self, entry: Entry, text: str) -> str:
        return (await (await self.submit(entry, text)).reply()).text


@asynccontextmanager
async def open_world(brain: Brain = echo, settings: Settings = SETTINGS) -> AsyncIterator[World]:
    bus, directory, pool = Bus(), Directory(100), FakePool(brain)
    with bus.subscribe(buffer=10_000) as news:
        async with open_supervisor(settings, directory, pool, bus) as supervisor:
            world = World(supervisor, directory, pool, news)
            yield world
        held = [child for child in pool.lent if child not in pool.released]
        assert all(child.fate for child in held), "a child was left behind"
        assert all(entry.ref is None for entry in directory.all()), "an actor was left behind"
        assert all(port.outcome is not None for port in world.ports), "a turn did not end"


@pytest.fixture
def crash(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Turns that say one of these make the machine of their conversation fail."""
    words: set[str] = set()
    advance = Machine.advance

    def advance_or_fail(self: Machine, event: Event, now: float) -> list[Action]:
        if isinstance(event, StartTurn) and event.request.messages[-1].text in words:
            raise RuntimeError("a bug")
        return advance(self, event, now)

    monkeypatch.setattr(Machine, "advance", advance_or_fail)
    return words


# -- on demand -------------------------------------------------------------------------------------


async def test_a_conversation_costs_nothing_until_its_first_message() -> None:
    async with open_world() as world:
        entry = world.entry()
        await wait_all_tasks_blocked()
        assert entry.ref is None
        assert world.pool.asked == 0
        assert await world.ask(entry, "hi") == "echo: hi"
        actor = entry.ref
        assert await world.ask(entry, "again") == "echo: again"
        assert entry.ref is actor is not None


async def test_many_who_speak_at_once_get_the_same_actor() -> None:
    async with open_world() as world:
        entry = world.entry()
        answers: list[str] = []

        async def ask(number: int) -> None:
            answers.append(await world.ask(entry, str(number)))

        async with trio.open_nursery() as nursery:
            for number in range(10):
                nursery.start_soon(ask, number)
        assert sorted(answers) == [f"echo: {number}" for number in range(10)]
        assert len(world.pool.lent) == 1


async def test_an_asker_that_is_cancelled_does_not_disturb_the_supervisor() -> None:
    async with open_world() as world:
        entry = world.entry()
        with trio.CancelScope() as scope:
            scope.cancel()
            await world.submit(entry, "never mind")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(world.submit, entry, "never mind")
            await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        assert await world.ask(entry, "hi") == "echo: hi"


# -- forgetting ------------------------------------------------------------------------------------


async def test_a_forgotten_conversation_is_gone_and_so_is_what_it_did() -> None:
    async with open_world(silent) as world:
        entry = world.entry()
        turn = await world.submit(entry)
        waiting = await world.submit(entry)
        child = await world.pool.wait_lent(1)
        await world.supervisor.forget(entry)
        assert entry not in world.directory
        for lost in (turn, waiting):
            error = await failure(lost)
            assert (type(error), error.code) == (TurnInterrupted, "deleted")
        assert child.fate == "killed"
        with pytest.raises(NotFound):
            await world.submit(entry)
        await world.supervisor.forget(entry)  # twice does no harm
        await wait_all_tasks_blocked()
        closed = [
            event for event in world.published if isinstance(event, events.ConversationClosed)
        ]
        assert closed == [events.ConversationClosed(entry.conversation_id, "deleted")]


async def test_a_conversation_without_an_actor_is_forgotten_too() -> None:
    async with open_world() as world:
        entry = world.entry()
        await world.supervisor.forget(entry, "forgotten")
        assert world.published == [events.ConversationClosed(entry.conversation_id, "forgotten")]
        with pytest.raises(NotFound) as caught:
            await world.submit(entry)
        assert caught.value.param == "conversation_id"


@pytest.mark.parametrize("head_start", range(8))
async def test_forgetting_leaves_no_actor_behind_however_it_meets_a_turn(head_start: int) -> None:
    async with open_world(silent) as world:
        entry = world.entry()
        ends: list[str] = []

        async def submit() -> None:
            try:
                ends.append((await failure(await world.submit(entry))).code)
            except NotFound as error:
                ends.append(error.code)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(submit)
            for _ in range(head_start):
                await trio.lowlevel.checkpoint()
            await world.supervisor.forget(entry)
        await wait_all_tasks_blocked()
        assert entry.ref is None
        assert ends in (["deleted"], ["conversation_not_found"])
        assert all(child.fate for child in world.pool.lent)


async def test_a_task_that_is_cancelled_while_forgetting_has_forgotten_nothing() -> None:
    async with open_world() as world:
        entry = world.entry()
        await world.ask(entry, "one")
        with trio.CancelScope() as scope:
            scope.cancel()
            await world.supervisor.forget(entry)
        assert entry in world.directory
        assert await world.ask(entry, "two") == "echo: two"


# -- crashes ---------------------------------------------------------------------------------------


async def test_a_crashed_session_comes_back_with_the_next_turn(crash: set[str]) -> None:
    crash.add("boom")
    async with open_world() as world:
        entry, other = world.entry(), world.entry()
        assert await world.ask(entry, "one") == "echo: one"
        assert await world.ask(other, "one") == "echo: one"
        lost = await failure(await world.submit(entry, "boom"))
        assert (lost.status, type(lost)) == (500, InternalError)
        assert world.published[-1] == events.SessionCrashed(entry.conversation_id)
        assert entry in world.directory
        assert await world.ask(entry, "two") == "echo: two"
        assert world.pool.child.history == ["one"]
        assert entry.state.memory.turns == 2
        assert await world.ask(other, "two") == "echo: two"
        assert len(world.pool.lent) == 3


async def test_a_session_that_keeps_crashing_is_left_alone_for_a_while(
    crash: set[str], autojump_clock: MockClock
) -> None:
    crash.add("boom")
    async with open_world() as world:
        entry, other = world.entry(), world.entry()
        for _ in range(RESTARTS + 1):
            assert (await failure(await world.submit(entry, "boom"))).code == "internal_error"
        with pytest.raises(InternalError) as caught:
            await world.submit(entry, "harmless")
        assert caught.value.code == "restart_budget_spent"
        assert caught.value.retry_after is not None
        assert await world.ask(other, "fine?") == "echo: fine?"
        await trio.sleep(caught.value.retry_after)
        assert await world.ask(entry, "harmless") == "echo: harmless"


async def test_those_who_knock_while_a_session_crashes_get_an_answer(crash: set[str]) -> None:
    crash.add("boom")
    async with open_world() as world:
        entry = world.entry()
        await world.ask(entry, "one")
        ends: list[str] = []

        async def ask(text: str) -> None:
            try:
                ends.append(await world.ask(entry, text))
            except GatewayError as error:
                ends.append(error.code)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, "boom")
            for _ in range(MAILBOX * 2):  # more than the mailbox holds: some have to wait
                nursery.start_soon(ask, "hi")
        assert len(ends) == MAILBOX * 2 + 1
        assert set(ends) <= {"internal_error", "echo: hi", "too_many_turns"}
        assert "internal_error" in ends
        assert await world.ask(entry, "two") == "echo: two"


async def test_a_turn_that_finds_the_actor_gone_knocks_again() -> None:
    class Vanishing(Ref[SessionMessage]):
        """An actor that ends in the moment in which a message reaches it."""

        async def tell(self, message: SessionMessage) -> None:
            entry.state.ref = None
            raise ActorGone("it")

    async with open_world() as world:
        nowhere, _ = trio.open_memory_channel[SessionMessage](1)
        entry = world.entry()
        entry.state.ref = Vanishing(nowhere, "it", set())
        assert await world.ask(entry, "hello?") == "echo: hello?"
        await world.supervisor.forget(entry)
        entry = world.entry()
        entry.state.ref = Vanishing(nowhere, "it", set())
        await world.supervisor.forget(entry)
        assert entry not in world.directory


# -- expiry ----------------------------------------------------------------------------------------


async def test_an_unused_conversation_expires(autojump_clock: MockClock) -> None:
    async with open_world() as world:
        entry = world.entry()
        await world.ask(entry, "one")
        await trio.sleep(EXPIRY - 1)
        assert entry in world.directory
        await trio.sleep(2)
        assert entry not in world.directory
        assert entry.ref is None
        assert events.ConversationClosed(entry.conversation_id, "expired") in world.published


@pytest.mark.parametrize("offset", [-1e-6, 0.0, 1e-6])
async def test_a_turn_that_comes_as_the_conversation_expires_gets_an_answer(
    offset: float, autojump_clock: MockClock
) -> None:
    async with open_world() as world:
        entry = world.entry()
        await world.ask(entry, "one")
        await trio.sleep(EXPIRY + offset)
        end = "conversation_not_found"
        with suppress(NotFound):
            turn = await world.submit(entry, "two")
            await wait_all_tasks_blocked()
            end = outcome(turn)
        assert end in ("completed", "expired", "conversation_not_found")


async def test_conversations_that_have_no_actor_expire_too(
    crash: set[str], autojump_clock: MockClock
) -> None:
    crash.add("boom")
    async with open_world() as world:
        now = time.time()
        never_used = world.entry(used_at=now - EXPIRY - 1)
        crashed = world.entry()
        await failure(await world.submit(crashed, "boom"))
        crashed.used_at = now - EXPIRY - 1
        live, young = world.entry(), world.entry(used_at=now)
        await world.ask(live, "one")
        live.used_at = now - EXPIRY - 1  # its own actor knows better
        await trio.sleep(SWEEP_SECONDS + 1)
        assert world.directory.all() == [live, young]
        for entry in (never_used, crashed):
            assert events.ConversationClosed(entry.conversation_id, "expired") in world.published


async def test_one_that_has_no_actor_and_is_open_does_not_expire_either(
    autojump_clock: MockClock,
) -> None:
    async with open_world() as world:
        entry = world.entry(used_at=time.time() - EXPIRY - 1)
        with entry.state.broadcast.watch():
            await trio.sleep(3 * EXPIRY)
            assert entry in world.directory
        await trio.sleep(EXPIRY - 1)
        assert entry in world.directory
        await trio.sleep(SWEEP_SECONDS + 2)
        assert entry not in world.directory


async def test_a_busy_supervisor_sweeps_all_the_same(autojump_clock: MockClock) -> None:
    async with open_world() as world:
        entry = world.entry(used_at=time.time() - EXPIRY - 1)
        for _ in range(10):
            await world.ask(world.entry(), "hello")
            await trio.sleep(SWEEP_SECONDS / 5)
        assert entry not in world.directory


# -- the end ---------------------------------------------------------------------------------------


async def test_the_end_of_the_supervisor_ends_every_turn() -> None:
    async with open_world(silent) as world:
        turns = [await world.submit(world.entry()) for _ in range(3)]
        await world.pool.wait_lent(3)
    for turn in turns:
        error = await failure(turn)
        assert (type(error), error.code) == (Overloaded, "draining")
    entry = world.entry()
    with pytest.raises(Overloaded) as caught:
        await world.submit(entry)
    assert caught.value.code == "draining"


async def test_a_turn_that_comes_while_it_ends_need_not_wait_until_it_has_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    door = trio.Event()
    refused = []

    async def stubborn(conversation_id: str, origin: Origin | None) -> FakeChild:
        with trio.CancelScope(shield=True):
            await door.wait()
        return FakeChild()

    async def knock(world: World, entry: Entry) -> None:
        await wait_all_tasks_blocked()  # the supervisor is stuck in its end
        with pytest.raises(Overloaded) as caught:
            await world.submit(entry)
        refused.append(caught.value.code)
        door.set()

    async with trio.open_nursery() as nursery:
        async with open_world(silent) as world:
            monkeypatch.setattr(world.pool, "acquire", stubborn)
            entry, other = world.entry(), world.entry()
            await world.submit(entry)
            await wait_all_tasks_blocked()
            nursery.start_soon(knock, world, other)
    assert refused == ["draining"]


# -- what the settings allow -----------------------------------------------------------------------


def test_limits_come_from_the_settings_and_zero_means_never() -> None:
    limits = limits_of(SETTINGS)
    assert (limits.freeze, limits.hibernate, limits.expire) == (math.inf, math.inf, EXPIRY)
    claude = ClaudeSettings(
        timeout_seconds=1,
        idle_timeout_seconds=2,
        start_timeout_seconds=3,
        freeze_after_seconds=4,
        hibernate_after_seconds=5,
        use_interactive_sessions=False,
    )
    conversation = ConversationSettings(session_timeout_minutes=6, max_queued_turns=7)
    limits = limits_of(evolve(SETTINGS, claude=claude, conversation=conversation))
    assert (limits.turn, limits.silence, limits.start) == (1, 2, 3)
    assert (limits.freeze, limits.hibernate, limits.expire) == (4, 5, 360)
    assert (limits.queued, limits.keep_child) == (7, False)
