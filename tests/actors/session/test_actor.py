"""The session actor: turns, deadlines, and the children it borrows, gives back and loses.

`tests.support.session_world` asserts for every test here that each turn ended exactly once, for its
caller and on the bus, that no conversation ever held two children, and that none was left.
"""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from ccapi.actors.runtime.restart_budget import RESTARTS
from ccapi.actors.session.events import Close
from ccapi.actors.session.messages import Lent
from ccapi.actors.session.phases import Limits, Phase
from ccapi.schemas import events
from ccapi.schemas.claude.limits import LimitState
from ccapi.schemas.claude.sampling import PLAIN
from ccapi.schemas.errors import (
    ChildDied,
    ChildProtocolError,
    Overloaded,
    RateLimited,
    TurnInterrupted,
    TurnTimeout,
)
from ccapi.schemas.message import Message, ToolCall, ToolResult
from ccapi.schemas.turn import Options, Tool
from ccapi.schemas.turn_items import TextDelta

from ...support.fake_child import (
    FakeChild,
    Json,
    control_answer,
    echo,
    message_delta,
    mute,
    prompt_text,
    result,
    silent,
    text_delta,
    tool_call,
)
from ...support.session_world import drain, failure, open_world, outcome, running_turn, text_of

# -- turns ---------------------------------------------------------------------------------------


async def test_an_answer_comes_in_the_pieces_the_child_wrote() -> None:
    async with open_world() as world:
        turn = await world.seat().submit("Hi", cache_key="k")
        assert await drain(turn) == ["echo: ", "Hi"]
        assert (turn.finish_reason, turn.usage.completion_tokens) == ("stop", 2)
        await wait_all_tasks_blocked()
    (finished,) = world.of(events.TurnFinished)
    assert (finished.turn_id, finished.cache_key) == (turn.turn_id, "k")
    assert finished.answer.pieces == ("echo: ", "Hi")
    assert 0 <= finished.first_delta_seconds <= finished.seconds


@pytest.mark.parametrize("piece", [1, 7, 100])
async def test_the_bytes_of_a_child_may_be_cut_anywhere(piece: int) -> None:
    def cut(child: FakeChild, frame: Json) -> None:
        child.piece = piece
        echo(child, frame)

    async with open_world(cut) as world:
        seat = world.seat()
        assert await drain(await seat.submit("é\u2028x")) == ["echo: ", "é\u2028x"]


async def test_turns_of_one_conversation_run_one_at_a_time_in_order() -> None:
    async with open_world(silent) as world:
        seat = world.seat()
        turns = [await seat.submit(text) for text in "abc"]
        child = await world.pool.wait_lent(1)
        for count, (text, turn) in enumerate(zip("abc", turns, strict=True), 1):
            await child.wait_prompts(count)
            await wait_all_tasks_blocked()
            assert child.prompts == list("abc")[:count]
            child.answer(text.upper())
            assert (await turn.reply()).text == text.upper()
    assert len(world.pool.lent) == 1


async def test_conversations_do_not_wait_for_each_other() -> None:
    async with open_world() as world:
        world.pool.brains = [silent]
        first, second = world.seat("conv_a"), world.seat("conv_b")
        slow = await first.submit("slow")
        await world.pool.wait_lent(1)
        assert await second.ask("quick") == "echo: quick"
        assert outcome(slow) == "running"


# -- time ----------------------------------------------------------------------------------------


async def test_a_turn_that_takes_too_long_ends(autojump_clock: MockClock) -> None:
    async with open_world(silent, limits=Limits(turn=300, silence=60)) as world:
        turn = await world.seat().submit("talk")
        child = await world.pool.wait_lent(1)
        began = trio.current_time()

        async def read() -> None:
            error = await failure(turn)
            assert (error.status, error.code) == (504, "turn_timeout")
            assert trio.current_time() == began + 300
            nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            while True:
                child.say(text_delta("and "))
                await trio.sleep(50)


async def test_a_child_that_falls_silent_fails_its_turn(autojump_clock: MockClock) -> None:
    async with open_world(limits=Limits(silence=120)) as world:
        turn, child = await running_turn(world, world.seat())
        await trio.sleep(100)
        child.say({"type": "system", "subtype": "status"})  # any sign of life counts
        began = trio.current_time()
        assert isinstance(await failure(turn), TurnTimeout)
        assert trio.current_time() == began + 120


async def test_a_child_that_never_gets_ready_fails_its_turn(autojump_clock: MockClock) -> None:
    async with open_world(mute, limits=Limits(start=30)) as world:
        began = trio.current_time()
        error = await failure(await world.seat().submit("hello?"))
        assert (error.code, trio.current_time()) == ("child_start_timeout", began + 30)


async def test_the_wait_for_a_child_counts_too(autojump_clock: MockClock) -> None:
    async with open_world(limits=Limits(turn=300)) as world:
        world.pool.gate = trio.Event()
        began = trio.current_time()
        seat = world.seat()
        turns = [await seat.submit("one"), await seat.submit("two")]
        for turn in turns:
            assert isinstance(await failure(turn), TurnTimeout)
            assert trio.current_time() == began + 300


async def test_an_idle_child_is_frozen_then_sent_home_and_the_conversation_expires(
    autojump_clock: MockClock,
) -> None:
    limits = Limits(freeze=30, hibernate=300, expire=1800)
    async with open_world(limits=limits) as world:
        seat = world.seat()
        await seat.ask("one")
        child = world.pool.child
        await trio.sleep(29)
        assert not world.pool.frozen
        await trio.sleep(2)
        assert world.pool.frozen == [child]
        assert child in world.pool.offered
        await trio.sleep(270)
        assert (child.fate, seat.state.phase) == ("retired", Phase.ASLEEP)
        # It goes on where it was, in another child.
        assert await seat.ask("two") == "echo: two"
        assert world.pool.child.history == ["one"]
        await trio.sleep(1799)
        assert seat.state.ref is not None
        ended = await seat.wait_ended()
        assert ended is not None
        assert (ended.error.code, ended.crashed) == ("expired", False)
        assert seat.state.ref is None


async def test_a_conversation_that_a_client_has_open_does_not_expire(
    autojump_clock: MockClock,
) -> None:
    async with open_world(limits=Limits(hibernate=300, expire=1800)) as world:
        seat = world.seat()
        await seat.ask("one")
        await trio.sleep(1000)
        with seat.state.broadcast.watch():
            await trio.sleep(10 * 1800)
            assert (seat.state.ref is not None, seat.state.phase) == (True, Phase.ASLEEP)
            assert await seat.ask("two") == "echo: two"
            await trio.sleep(10 * 1800 + 7)
        left = trio.current_time()
        ended = await seat.wait_ended()
        assert ended is not None
        assert ended.error.code == "expired"
        assert trio.current_time() == pytest.approx(left + 1800)


async def test_a_timer_is_off_once_something_happened(
    autojump_clock: MockClock,
) -> None:
    async with open_world(limits=Limits(freeze=30)) as world:
        seat = world.seat()
        await seat.ask("one")
        await trio.sleep(20)
        await seat.ask("two")
        await trio.sleep(20)
        assert not world.pool.frozen
        await trio.sleep(11)
        assert world.pool.frozen


# -- tools ---------------------------------------------------------------------------------------


async def test_a_child_that_called_a_tool_waits_and_goes_on_with_the_result() -> None:
    async with open_world(silent) as world:
        seat = world.seat()
        turn = await seat.submit("look", tools=(Tool("look"),), cache_key="k")
        child = await world.pool.wait_lent(1)
        await child.wait_prompts(1)
        child.say(*tool_call("c1", "look"), message_delta("tool_use"))
        reply = await turn.reply()
        assert (reply.finish_reason, reply.tool_calls) == (
            "tool_calls",
            (ToolCall("c1", "look", "{}"),),
        )
        await wait_all_tasks_blocked()
        assert world.pool.suspended == set(world.pool.offered) == {child}
        turn = await seat.submit(Message("user", (ToolResult("c1", ("sunny",)),)))
        await wait_all_tasks_blocked()
        answer = child.written[-1]["response"]
        assert answer["request_id"] == "request c1"
        child.answer("It is sunny.")
        assert (await turn.reply()).text == "It is sunny."
        await wait_all_tasks_blocked()
        assert not world.pool.suspended
    assert len(world.pool.lent) == 1
    first, second = world.of(events.TurnFinished)
    assert first.answer is None  # nothing that could be given again
    assert second.answer.text == "It is sunny."


async def test_a_session_that_ends_does_not_leave_calls_to_the_child() -> None:
    async with open_world(silent) as world:
        seat = world.seat()
        turn = await seat.submit("look", tools=(Tool("look"),))
        child = await world.pool.wait_lent(1)
        await child.wait_prompts(1)
        child.say(*tool_call("c1", "look"), message_delta("tool_use"))
        await turn.reply()
        seat.cancel()
        await seat.wait_ended()
    assert child.fate == "killed"


# -- giving way ------------------------------------------------------------------------------------


async def test_a_child_is_on_offer_only_while_it_is_idle() -> None:
    async with open_world() as world:
        seat = world.seat()
        turn, child = await running_turn(world, seat)
        assert not world.pool.offered
        child.answer("done")
        await turn.reply()
        await wait_all_tasks_blocked()
        assert list(world.pool.offered) == [child]
        turn = seat.submit_nowait("more")
        assert list(world.pool.offered) == [child]  # it lies in the mailbox
        await child.wait_prompts(3)
        assert not world.pool.offered


async def test_giving_way_is_done_when_the_call_returns() -> None:
    async with open_world() as world:
        seat = world.seat()
        await seat.ask("one")
        await wait_all_tasks_blocked()
        world.pool.call_in(world.pool.child)
        assert world.pool.child.fate == "retired"
        assert seat.state.phase is Phase.STOPPING
        assert await seat.ask("two") == "echo: two"
        assert [child.prompts for child in world.pool.lent] == [["one"], ["two"]]


async def test_a_turn_on_its_way_to_a_child_that_gives_way_runs_in_the_next_one() -> None:
    async with open_world() as world:
        seat = world.seat()
        await seat.ask("one")
        await wait_all_tasks_blocked()
        world.pool.child.lingers = True
        turn = seat.submit_nowait("two")
        world.pool.call_in(world.pool.child)  # before the actor has read its mailbox
        await wait_all_tasks_blocked()
        assert len(world.pool.lent) == 1  # never two at once: the first one has not gone yet
        world.pool.child.bury()
        assert (await turn.reply()).text == "echo: two"
        assert [child.prompts for child in world.pool.lent] == [["one"], ["two"]]


async def test_a_child_can_be_called_in_in_the_moment_it_is_offered() -> None:
    async with open_world() as world:
        world.pool.needy = True
        seat = world.seat()
        for text in ("one", "two"):
            assert await seat.ask(text) == f"echo: {text}"
        await wait_all_tasks_blocked()
    assert [child.fate for child in world.pool.lent] == ["retired", "retired"]


async def test_a_child_that_retires_slowly_is_not_lent_over_again() -> None:
    async with open_world() as world:
        seat = world.seat()
        await seat.ask("one")
        await wait_all_tasks_blocked()
        world.pool.child.lingers = True
        world.pool.call_in(world.pool.child)
        turns = [await seat.submit(text) for text in ("two", "three")]
        await wait_all_tasks_blocked()
        assert world.pool.asked == 1
        world.pool.child.bury()
        assert [(await turn.reply()).text for turn in turns] == ["echo: two", "echo: three"]


# -- finding a child -------------------------------------------------------------------------------


async def test_a_caller_that_hangs_up_while_the_session_waits_for_a_child() -> None:
    async with open_world() as world:
        world.pool.gate = trio.Event()
        seat = world.seat()
        turn = await seat.submit("one")
        await wait_all_tasks_blocked()
        turn.hang_up()
        await wait_all_tasks_blocked()
        assert (outcome(turn), seat.state.phase) == ("turn_interrupted", Phase.ASLEEP)
        world.pool.gate.set()
        assert await seat.ask("two") == "echo: two"
        assert world.pool.asked == 2
        assert len(world.pool.lent) == 1


@pytest.mark.parametrize("found_first", [True, False])
async def test_a_child_found_in_the_moment_it_is_no_longer_wanted(found_first: bool) -> None:
    async with open_world() as world:
        world.pool.gate = trio.Event()
        seat = world.seat()
        turn = await seat.submit("one")
        await wait_all_tasks_blocked()
        if found_first:
            world.pool.gate.set()
            turn.hang_up()
        else:
            turn.hang_up()
            world.pool.gate.set()
        await wait_all_tasks_blocked()
        assert outcome(turn) == "turn_interrupted"
        assert seat.state.phase is Phase.ASLEEP
        assert await seat.ask("two") == "echo: two"
        for child in world.pool.lent[:-1]:
            assert child.fate == "killed"


async def test_a_child_that_is_lent_although_the_search_was_called_off_is_let_go_unused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with open_world() as world:
        acquire, door = world.pool.acquire, trio.Event()

        async def stubborn(*given: Any) -> Lent[FakeChild]:
            with trio.CancelScope(shield=True):  # as a pool does while a process is being started
                await door.wait()
            return await acquire(*given)

        monkeypatch.setattr(world.pool, "acquire", stubborn)
        seat = world.seat()
        turn = await seat.submit("one")
        await wait_all_tasks_blocked()
        turn.hang_up()
        await wait_all_tasks_blocked()
        assert seat.state.phase is Phase.ASLEEP
        door.set()
        await wait_all_tasks_blocked()
        assert (world.pool.child.fate, world.pool.child.written) == ("killed", [])


async def test_a_child_that_is_lent_to_a_cancelled_session_is_let_go_unused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with open_world() as world:
        acquire, door = world.pool.acquire, trio.Event()

        async def stubborn(*given: Any) -> Lent[FakeChild]:
            with trio.CancelScope(shield=True):
                await door.wait()
            return await acquire(*given)

        monkeypatch.setattr(world.pool, "acquire", stubborn)
        seat = world.seat()
        await seat.submit("one")
        await wait_all_tasks_blocked()
        seat.cancel()
        await wait_all_tasks_blocked()
        door.set()
        await seat.wait_ended()
        assert (world.pool.child.fate, world.pool.child.written) == ("killed", [])


async def test_a_turn_of_a_login_that_is_known_to_be_rejected_costs_no_child() -> None:
    async with open_world() as world:
        seat = world.seat()
        world.pool.refused = {"haiku": RateLimited("Used up.", retry_after=60)}
        error = await failure(await seat.submit("one"))
        assert (error.status, error.retry_after, world.pool.asked) == (429, 60, 0)
        world.pool.refused.clear()
        assert await seat.ask("two") == "echo: two"
        world.pool.refused = {"haiku": RateLimited("Used up.", retry_after=60)}
        assert (await failure(await seat.submit("three"))).status == 429
        assert not world.pool.child.fate
        world.pool.refused.clear()
        assert await seat.ask("four") == "echo: four", "by the child that it has"


async def test_what_a_child_reports_of_its_limits_is_noted_also_when_the_api_refuses() -> None:
    """The CLI reports a change once, and children of the same login report in any order."""
    info = {"status": "rejected", "resetsAt": 2_000_000_000, "rateLimitType": "five_hour"}

    def refuse(child: FakeChild, frame: Json) -> None:
        silent(child, frame)
        if frame["type"] != "user":
            return
        turn = prompt_text(frame)
        if turn == "one":
            child.say({"type": "rate_limit_event", "rate_limit_info": info})
        child.say(result("No.", is_error=True, api_error_status=429 if turn != "two" else 500))

    async with open_world() as world:
        world.pool.brain = refuse
        seat = world.seat()
        for turn in ("one", "two", "three"):
            await failure(await seat.submit(turn))
        state = LimitState("rejected", 2_000_000_000.0, "five_hour")
        noted = [(model, each.status, each.resets_at) for model, each in world.pool.limits]
        assert noted == [("haiku", state.status, state.resets_at)] * 3  # the event; one; three


LIMITED = {"status": "rejected", "resetsAt": 2_000_000_000, "rateLimitType": "five_hour"}


def limited(child: FakeChild, frame: Json) -> None:
    """The API refuses each prompt for the login's limits."""
    silent(child, frame)
    if frame["type"] == "user":
        child.say(
            {"type": "rate_limit_event", "rate_limit_info": LIMITED},
            result("You've hit your limit.", is_error=True, api_error_status=429),
        )


async def test_a_turn_that_is_refused_for_limits_goes_to_another_login_once() -> None:
    async with open_world() as world:
        world.pool.others = {"": "a", "a": "b"}
        world.pool.brains = [limited]
        seat = world.seat()
        assert await seat.ask("one") == "echo: one"
        assert world.pool.logins == [("", ""), ("a", "a")]
        first, second = world.pool.lent
        assert first.fate == "killed"
        assert await seat.ask("two") == "echo: two"
        assert world.pool.lent == [first, second]
        await wait_all_tasks_blocked()
    assert [event.login for event in world.of(events.TurnFinished)] == ["b", "b"]
    assert list(world.of(events.TurnFailed)) == []


async def test_it_goes_to_another_login_no_second_time() -> None:
    async with open_world() as world:
        world.pool.others = {"": "a", "a": "b", "b": "c"}
        world.pool.brain = limited
        error = await failure(await world.seat().submit("one"))
        assert (error.status, error.code, len(world.pool.lent)) == (429, "upstream_rate_limited", 2)


async def test_without_another_login_it_fails_in_its_child() -> None:
    async with open_world() as world:
        world.pool.brain = limited
        error = await failure(await world.seat().submit("one"))
        assert (error.status, len(world.pool.lent), world.pool.child.fate) == (429, 1, "")


async def test_after_the_first_delta_a_turn_goes_nowhere_else() -> None:
    def begin(child: FakeChild, frame: Json) -> None:
        if frame["type"] == "user":
            child.say(text_delta("Half an ans"))
        limited(child, frame)

    async with open_world() as world:
        world.pool.others = {"": "a", "a": "b"}
        world.pool.brains = [begin]
        error = await failure(await world.seat().submit("one"))
        assert (error.status, len(world.pool.lent)) == (429, 1)


async def test_a_turn_with_effects_goes_nowhere_else() -> None:
    """It brings the results of tools that the client used."""

    def use(child: FakeChild, frame: Json) -> None:
        silent(child, frame)
        if frame["type"] == "user":
            child.say(*tool_call("call_1", "look"), message_delta("tool_use"))

    look = Tool("look", "Looks.", "{}")
    async with open_world() as world:
        world.pool.others = {"": "a", "a": "b"}
        world.pool.brains = [use, limited]
        seat = world.seat()
        await (await seat.submit("one", tools=(look,))).reply()
        await wait_all_tasks_blocked()
        world.pool.call_in(world.pool.child)  # the results come to another child
        await wait_all_tasks_blocked()
        answer = Message("user", (ToolResult("call_1", ("seen",)),))
        error = await failure(await seat.submit(answer, tools=(look,)))
        assert (error.status, len(world.pool.lent)) == (429, 2)


async def test_a_conversation_whose_login_is_rejected_lets_its_child_go_for_another() -> None:
    async with open_world() as world:
        world.pool.others = {"": "a"}
        seat = world.seat()
        await seat.ask("one")
        world.pool.refused = {"haiku": RateLimited("Used up.", retry_after=60)}
        world.pool.others = {"": "b", "a": "b"}
        assert await seat.ask("two") == "echo: two"
        assert (world.pool.lent[0].fate, seat.state.login) == ("retired", "b")
        assert world.pool.logins[-1] == ("a", "")


async def test_no_child_to_be_had_fails_the_turn_and_no_more() -> None:
    async with open_world() as world:
        world.pool.failure = RateLimited("All children are busy.", retry_after=3)
        seat = world.seat()
        error = await failure(await seat.submit("one"))
        assert (error.status, error.retry_after) == (429, 3)
        world.pool.failure = None
        assert await seat.ask("two") == "echo: two"


# -- one conversation after another ----------------------------------------------------------------


RECYCLING = Limits(recycle=True)


async def test_a_released_child_serves_another_conversation() -> None:
    async with open_world(limits=RECYCLING) as world:
        first, second = world.seat("conv_a"), world.seat("conv_b")
        await first.ask("one")
        child = world.pool.child
        world.pool.call_in(child, 0)
        await wait_all_tasks_blocked()
        assert first.state.phase is Phase.ASLEEP
        assert list(world.pool.released) == [child]
        turn = await second.submit("two")
        assert await drain(turn) == ["echo: ", "two"]
        assert turn.source == "recycled"
        # The first one goes on as if nothing had happened.
        assert await first.ask("three") == "echo: three"
        assert [each.history for each in world.pool.lent] == [[], ["one"]]
        assert child.fate == ""


async def test_a_child_that_is_asked_for_in_a_release_is_not_written_to() -> None:
    def slow(child: FakeChild, frame: Json) -> None:
        if frame.get("request", {}).get("subtype") != "rewind_conversation":
            echo(child, frame)

    async with open_world(slow, limits=RECYCLING) as world:
        seat = world.seat("conv_a")
        await seat.ask("one")
        child = world.pool.child
        world.pool.call_in(child, 0)
        before = len(child.written)
        turn = await seat.submit("two")
        await wait_all_tasks_blocked()
        assert (seat.state.phase, outcome(turn)) == (Phase.RELEASING, "running")
        assert len(child.written) == before
        child.die()
        assert await drain(turn) == ["echo: ", "two"]
        assert world.pool.child.history == ["one"]


class SlowJournal:
    """A journal that keeps the start of a turn when it is let."""

    is_well = True

    def __init__(self) -> None:
        self.gate = trio.Event()
        self.gate.set()

    async def begin(self, *_: Any, **__: Any) -> None:
        await self.gate.wait()

    async def end(self, *_: Any, charge: object = None) -> None:
        await trio.lowlevel.checkpoint()

    async def add(self, messages: tuple[Message, ...]) -> list[str]:
        return [str(uuid4()) for _ in messages]

    async def grant(self, rules: tuple[str, ...]) -> None: ...


async def test_the_last_lines_for_a_released_child_wait_for_no_turn() -> None:
    async with open_world(limits=RECYCLING) as world:
        seat = world.seat("conv_a")
        seat.cancel()
        await seat.wait_ended()
        journal = seat.state.journal = SlowJournal()
        journal.is_well = False  # so that the next turn's lines are held back
        seat.start()
        await drain(await seat.submit("one", options=Options(max_tokens=5000)))
        child, kept = world.pool.child, silent
        child.brain = mute
        world.pool.call_in(child, 0)
        await seat.submit("two")
        journal.gate = trio.Event()
        asked = [each for each in child.written if each["type"] == "control_request"][-2:]
        child.brain = kept
        for frame in asked:
            silent(child, frame)
        await wait_all_tasks_blocked()
        assert child.written[-1]["request"]["settings"] == PLAIN
        journal.gate.set()
        await wait_all_tasks_blocked()
        # Nothing else was lent, so it got the same one again: told what it had forgotten.
        assert world.pool.lent == [child]
        assert child.history == ["one"]


async def test_nothing_that_a_child_says_is_read_before_its_turns_start_is_kept() -> None:
    async with open_world() as world:
        seat = world.seat("conv_a")
        seat.cancel()
        await seat.wait_ended()
        journal = seat.state.journal = SlowJournal()
        seat.start()
        await seat.ask("one")
        journal.gate = trio.Event()
        turn = await seat.submit("two")
        await wait_all_tasks_blocked()
        assert "two" in str(world.pool.child.written[-1])  # it works meanwhile
        assert outcome(turn) == "running"
        with trio.move_on_after(0) as nothing_came:
            await turn.receive_items()
        assert nothing_came.cancelled_caught
        journal.gate.set()
        assert await drain(turn) == ["echo: ", "two"]


async def test_a_start_that_cannot_be_kept_ends_the_session_and_its_child() -> None:
    class Failing(SlowJournal):
        async def begin(self, *_: Any, **__: Any) -> None:
            await self.gate.wait()
            raise Overloaded("No.", code="storage_unavailable")

    async with open_world() as world:
        seat = world.seat("conv_a")
        seat.cancel()
        await seat.wait_ended()
        journal = seat.state.journal = Failing()
        journal.gate = trio.Event()
        seat.start()
        turn = await seat.submit("one")
        await wait_all_tasks_blocked()
        assert "one" in str(world.pool.child.written[-1])
        journal.gate.set()
        with trio.fail_after(5):
            assert (await failure(turn)).code == "storage_unavailable"
            await seat.wait_ended()
        assert world.pool.child.fate == "killed"


async def test_a_child_that_does_not_say_that_it_is_empty_is_ended(
    autojump_clock: MockClock,
) -> None:
    def mistaken(child: FakeChild, frame: Json) -> None:
        if frame.get("request", {}).get("subtype") == "get_context_usage":
            body: Json = {"categories": [{"name": "Messages"}]}
            child.say(control_answer(frame["request_id"], body))
        else:
            echo(child, frame)

    async with open_world(mistaken, limits=RECYCLING) as world:
        seat = world.seat("conv_a")
        await seat.ask("one")
        world.pool.call_in(world.pool.child, 0)
        await seat.wait_phase(Phase.ASLEEP)
        assert world.pool.child.fate == "killed"
        assert not world.pool.released


async def test_a_child_that_does_not_answer_the_cut_is_ended(autojump_clock: MockClock) -> None:
    def deaf(child: FakeChild, frame: Json) -> None:
        if frame["type"] == "user":
            echo(child, frame)
        elif frame["request"]["subtype"] == "initialize":
            silent(child, frame)

    async with open_world(deaf, limits=RECYCLING) as world:
        seat = world.seat("conv_a")
        await seat.ask("one")
        began = trio.current_time()
        world.pool.call_in(world.pool.child, 0)
        await seat.wait_phase(Phase.ASLEEP)
        assert world.pool.child.fate == "killed"
        assert trio.current_time() - began == pytest.approx(RECYCLING.interrupt)


async def test_a_deleted_conversation_leaves_its_child_to_others() -> None:
    async with open_world(limits=RECYCLING) as world:
        seat = world.seat("conv_a")
        await seat.ask("one")
        await seat.ref.tell(Close(TurnInterrupted("Deleted.", code="deleted")))
        assert await seat.wait_ended() is not None
        assert list(world.pool.released) == [world.pool.child]


# -- children that fail ----------------------------------------------------------------------------


async def test_a_child_that_dies_takes_its_turn_with_it_and_nothing_else() -> None:
    async with open_world() as world:
        seat, other = world.seat("conv_a"), world.seat("conv_b")
        turn, child = await running_turn(world, seat)
        waiting = await seat.submit("next")
        child.say(text_delta("half an"))
        child.die()
        assert isinstance(await failure(turn), ChildDied)
        assert (await waiting.reply()).text == "echo: next"
        assert world.pool.child.history == ["first"]
        assert await other.ask("fine?") == "echo: fine?"


async def test_what_a_child_wrote_before_it_died_is_delivered() -> None:
    async with open_world() as world:
        turn, child = await running_turn(world, world.seat())
        child.say(*map(text_delta, "abc"))
        child.die()
        got = []
        with pytest.raises(ChildDied):
            async for item in turn:
                got.append(text_of(item))
        assert got == list("abc")


async def test_a_child_that_talks_nonsense_is_ended() -> None:
    async with open_world() as world:
        seat = world.seat()
        turn, child = await running_turn(world, seat)
        child.say(text_delta("half an"))
        assert await anext(turn) == TextDelta("half an")
        child.say_bytes(b"Segmentation fault\n")
        assert isinstance(await failure(turn), ChildProtocolError)
        assert child.fate == "killed"
        assert await seat.ask("again") == "echo: again"


@pytest.mark.parametrize("last_words", [b"", b"Segmentation fault\n"])
async def test_a_turn_that_delivered_nothing_goes_to_a_new_child(
    last_words: bytes,
) -> None:
    async with open_world() as world:
        turn, child = await running_turn(world, world.seat(), "again?")
        child.say_bytes(last_words)
        child.die()
        assert await drain(turn) == ["echo: ", "again?"]
        assert world.pool.child is not child
        assert world.pool.child.prompts == ["again?"]


async def test_a_child_that_dies_idle_affects_no_turn() -> None:
    async with open_world() as world:
        seat = world.seat()
        await seat.ask("one")
        await wait_all_tasks_blocked()
        world.pool.child.die()
        await wait_all_tasks_blocked()
        assert not world.pool.offered
        assert seat.state.phase is Phase.ASLEEP
        assert await seat.ask("two") == "echo: two"


async def test_children_that_keep_dying_are_left_alone_for_a_while(
    autojump_clock: MockClock,
) -> None:
    def die(child: FakeChild, frame: Json) -> None:
        child.die()

    async with open_world(die) as world:
        seat = world.seat()
        for _ in range((RESTARTS + 1) // 2):  # each one is put before two children
            assert isinstance(await failure(await seat.submit("x")), ChildDied)
        error = await failure(await seat.submit("x"))
        assert error.code == "restart_budget_spent"
        assert error.retry_after is not None
        assert len(world.pool.lent) == RESTARTS + 1
        world.pool.brain = echo
        await trio.sleep(error.retry_after)
        assert await seat.ask("better?") == "echo: better?"
