"""What waits for the journal: lines until their turn's start is kept, ends until they are."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from attrs import define, field

from ccapi.actors.session.events import End
from ccapi.actors.session.keeping import MAX_STEPS, Keeper
from ccapi.actors.session.turn import TurnState
from ccapi.actors.watching.broadcast import Broadcast
from ccapi.schemas.errors import GatewayError, Overloaded, TurnInterrupted
from ccapi.schemas.message import Message
from ccapi.schemas.openai.conversation_events import TurnEnded, TurnStarted
from ccapi.schemas.turn import (
    Completed,
    Failed,
    Memory,
    Outcome,
    Profile,
    Setup,
    TurnRequest,
    Usage,
)
from ccapi.schemas.turn_items import TextDelta
from ccapi.transport.store.interface import Charge

MEMORY = Memory(Setup("haiku"))
DONE = Completed("stop", Usage())


def new_turn(name: str, profile: Profile = "agent") -> TurnState:
    request = TurnRequest(messages=(Message("user", (name,)),))
    return TurnState(name, request, Setup("haiku", profile=profile), 0.0, 100.0)


def end_of(name: str, outcome: Outcome = DONE) -> End:
    return End(name, outcome, TurnRequest(), "haiku", None, 0.0, None)


@define(eq=False)
class World:
    """A keeper, a journal that goes on when it is let, and all that happens, in order."""

    happened: list[Any] = field(factory=list)
    gate: trio.Event = field(factory=trio.Event)
    failing: str = ""
    lost: str | None = None
    is_well: bool = True
    started: list[bool] = field(factory=list)
    broadcast: Broadcast = field(factory=Broadcast)
    keeper: Keeper = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.keeper = Keeper(
            self, self.broadcast,
            finish=lambda end: self.happened.append(("finish", end.turn_id, end.outcome)),
            lost=lambda turn_id, lost: self.happened.append(("lost", turn_id, lost)),
            write=lambda line: self.happened.append(("write", bytes(line))),
            started=lambda: self.started.append(self.keeper.is_starting),
            broken=lambda error: self.happened.append(("broken", error.code)),
        )  # fmt: skip

    async def _do(self, what: str, name: str) -> None:
        await self.gate.wait()
        if self.failing == f"{what} {name}":
            raise Overloaded("No.", code="storage_unavailable")
        self.happened.append((what, name))

    async def begin(
        self, turn_id: str, model: str, messages: object, memory: Memory, *, replaces: bool
    ) -> str | None:
        await self._do("begin", turn_id)
        return self.lost

    async def end(
        self, turn_id: str, outcome: Outcome, items: object, memory: Memory,
        said: Message | None = None, *, charge: Charge | None = None,
    ) -> None:  # fmt: skip
        await self._do("end", turn_id)
        self.happened.append(("items", items))

    async def add(self, messages: tuple[Message, ...]) -> list[str]:
        await self._do("add", messages[0].text)
        return ["00000000-0000-4000-8000-000000000000"]

    async def grant(self, rules: tuple[str, ...]) -> None:
        await self._do("grant", rules[0])

    async def work(self) -> list[Any]:
        """Let the journal do everything; returns what happened by then."""
        assert self.keeper.begin_work()
        self.gate.set()
        await self.keeper.work()
        assert self.keeper.is_settled
        return self.happened


@pytest.mark.parametrize(("profile", "is_well"), [("agent", True), ("chat", False)])
async def test_a_prompt_that_may_have_effects_or_cannot_be_kept_waits_for_its_turns_start(
    profile: Profile, is_well: bool
) -> None:
    world = World(is_well=is_well)
    world.keeper.write(b"initialize")
    world.keeper.follow([], new_turn("one", profile), MEMORY)
    world.is_well = True  # which changes nothing for lines that wait
    world.keeper.write(b"prompt")
    assert world.happened == [("write", b"initialize")]
    assert await world.work() == [
        ("write", b"initialize"), ("begin", "one"), ("write", b"prompt"),
    ]  # fmt: skip
    world.keeper.write(b"more")
    assert world.happened[-1] == ("write", b"more")


async def test_a_chats_child_has_its_prompt_at_once_and_is_read_once_the_start_is_kept() -> None:
    world = World()
    world.keeper.follow([], new_turn("one", "chat"), MEMORY)
    world.keeper.write(b"prompt")
    assert world.happened == [("write", b"prompt")]
    assert world.keeper.is_starting
    assert await world.work() == [("write", b"prompt"), ("begin", "one")]
    assert world.started == [False]


async def test_a_child_is_read_again_when_the_start_of_its_turn_cannot_be_kept() -> None:
    """The session ends then, and no task of it may wait for ever."""
    world = World(failing="begin one")
    world.keeper.follow([], new_turn("one", "chat"), MEMORY)
    await world.work()
    assert world.started == [False]


async def test_an_end_waits_until_it_is_kept() -> None:
    world = World()
    world.keeper.follow([], new_turn("one"), MEMORY)
    await world.work()
    world.broadcast.say(TextDelta("Hi"))
    world.gate = trio.Event()
    end = end_of("one")
    world.keeper.follow([end], None, MEMORY)
    world.keeper.end(end)
    assert ("finish", "one", DONE) not in world.happened
    assert (await world.work())[-3:] == [
        ("end", "one"), ("items", (TextDelta("Hi"),)), ("finish", "one", DONE),
    ]  # fmt: skip


async def test_an_end_waits_until_its_caller_has_all_that_comes_before_it() -> None:
    world = World()
    world.keeper.follow([], new_turn("one"), MEMORY)
    await world.work()
    end = end_of("one")
    world.keeper.follow([end], None, MEMORY)
    await world.work()
    assert ("finish", "one", DONE) not in world.happened
    world.keeper.end(end)
    assert world.happened[-1] == ("finish", "one", DONE)


async def test_a_turn_behind_another_is_kept_behind_it() -> None:
    """The example of the module: [end 1, begin 2], and one line held back."""
    world = World()
    with world.broadcast.watch() as watcher:
        world.keeper.follow([], new_turn("one"), MEMORY)
        await world.work()
        world.gate = trio.Event()
        end = end_of("one")
        world.keeper.follow([end], new_turn("two"), MEMORY)
        world.keeper.end(end)
        world.keeper.write(b"prompt 2")
        happened = await world.work()
        assert [each[:2] for each in happened] == [
            ("begin", "one"), ("end", "one"), ("items", ()), ("finish", "one"),
            ("begin", "two"), ("write", b"prompt 2"),
        ]  # fmt: skip
        events = [slot.event for slot in await watcher.read()]
    kinds = [type(event) for event in events if isinstance(event, TurnStarted | TurnEnded)]
    assert kinds == [TurnStarted, TurnEnded, TurnStarted]


async def test_a_turn_that_was_never_begun_ends_at_once() -> None:
    world = World()
    outcome = Failed(TurnInterrupted("It was still waiting."))
    world.keeper.end(end_of("queued", outcome))
    assert world.happened == [("finish", "queued", outcome)]


async def test_the_caller_learns_which_turn_was_lost_before_the_prompt_is_written() -> None:
    world = World(lost="before")
    world.keeper.follow([], new_turn("one"), MEMORY)
    world.keeper.write(b"prompt")
    assert (await world.work())[1:] == [("lost", "one", "before"), ("write", b"prompt")]


async def test_a_start_that_cannot_be_kept_writes_nothing_and_ends_the_session() -> None:
    world = World(failing="begin one")
    world.keeper.follow([], new_turn("one"), MEMORY)
    world.keeper.write(b"prompt")
    assert await world.work() == [("broken", "storage_unavailable")]
    # The session ends its turn, and the caller receives the reason.
    outcome = Failed(Overloaded("No.", code="storage_unavailable"))
    end = end_of("one", outcome)
    world.keeper.follow([end], None, MEMORY)
    world.keeper.end(end)
    await world.work()
    assert world.happened[1:] == [("finish", "one", outcome)]


async def test_an_end_that_cannot_be_kept_is_a_failed_turn() -> None:
    world = World(failing="end one")
    world.keeper.follow([], new_turn("one"), MEMORY)
    await world.work()
    end = end_of("one")
    world.keeper.follow([end], new_turn("two"), MEMORY)
    world.keeper.end(end)
    world.keeper.write(b"prompt 2")
    happened = await world.work()
    kind, name, outcome = happened[1]
    assert (kind, name, outcome.error.code) == ("finish", "one", "storage_unavailable")
    assert happened[2:] == [("broken", "storage_unavailable")]  # and nothing is written


async def test_added_messages_are_answered_when_they_are_kept() -> None:
    world, replies = World(), list[GatewayError | None]()
    world.keeper.add((Message("user", ("more",)),), replies.append)
    assert replies == []
    assert await world.work() == [("add", "more")]
    assert replies == [None]
    assert len(world.broadcast.history) == 1
    world.failing = "add again"
    world.keeper.add((Message("user", ("again",)),), replies.append)
    await world.work()
    assert isinstance(replies[1], Overloaded)
    assert len(world.broadcast.history) == 1


async def test_lines_for_a_child_that_has_gone_are_dropped() -> None:
    world = World()
    world.keeper.follow([], new_turn("one"), MEMORY)
    world.keeper.write(b"prompt")
    world.keeper.drop_lines()
    assert await world.work() == [("begin", "one")]


async def test_the_steps_are_bounded() -> None:
    world = World()
    for number in range(MAX_STEPS):
        assert not world.keeper.is_full
        world.keeper.grant((str(number),))
    assert world.keeper.is_full
    with trio.fail_after(5):
        await world.work()
    assert not world.keeper.is_full


async def test_only_one_task_works_at_a_time() -> None:
    world = World()
    world.keeper.grant(("a",))
    assert world.keeper.begin_work()
    assert not world.keeper.begin_work()


async def test_the_first_step_is_taken_before_a_task_of_the_session_runs() -> None:
    """`hurry` has the journal begin at once, and only what no other step goes before."""
    asked: list[str] = []

    class Asked(World):
        def begin(self, turn_id: str, *_: object, **__: object) -> Any:
            asked.append(turn_id)
            return self._do("begin", turn_id)

    world = Asked()
    world.keeper.follow([], new_turn("one"), MEMORY)
    world.keeper.hurry()  # no task is coming yet
    assert not asked
    assert world.keeper.begin_work()
    world.keeper.follow([end_of("one")], new_turn("two"), MEMORY)
    world.keeper.hurry()
    world.keeper.hurry()
    assert asked == ["one"]
    assert not world.keeper.is_settled
    world.gate.set()
    with trio.fail_after(5):
        await world.keeper.work()
    assert [what for what in world.happened if what[0] in ("begin", "end")] == [
        ("begin", "one"), ("end", "one"), ("begin", "two"),
    ]  # fmt: skip
    assert world.keeper.is_settled
