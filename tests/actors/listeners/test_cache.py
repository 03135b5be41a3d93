"""The cache actor, over a real bus: one turn for ten, and never a worse answer than without it."""

from __future__ import annotations

from typing import Any, cast

import pytest
import trio
import trio.testing
from attrs import evolve

from ccapi.actors.listeners.cache import FOLLOW_SECONDS, Ask, Cache, open_cache
from ccapi.actors.listeners.cache_table import LARGEST_SHARE, size
from ccapi.actors.runtime.bus import BUFFER, Bus
from ccapi.schemas.events import CacheAsked, ChildFrozen, TurnFinished
from ccapi.schemas.settings.settings import CacheSettings
from ccapi.schemas.turn import Answer, Usage

ON = CacheSettings(max_entries=10, ttl_seconds=60, max_bytes=100_000)


def an_answer(*pieces: str) -> Answer:
    return Answer(pieces or ("Hel", "lo"), "stop", Usage(prompt_tokens=3, completion_tokens=2))


def finished(key: str | None, answer: Answer | None = None) -> TurnFinished:
    answer = answer or an_answer()
    return TurnFinished("turn", "conv_1", "sonnet", answer.usage, 1.0, 0.1, key, answer)


class Callers:
    """Those who ask for one key. Each is `start`ed, and its turn ends when the test says so."""

    def __init__(self, cache: Cache, bus: Bus, key: str = "key") -> None:
        self.cache = cache
        self.bus = bus
        self.key = key
        self.leading: list[str] = []
        """Names of those that had to run their turn, in that order."""
        self.answers: dict[str, Answer] = {}
        self._outcomes: dict[str, Answer | None] = {}
        self._ended: dict[str, trio.Event] = {}
        self.scopes: dict[str, trio.CancelScope] = {}

    async def run(self, name: str) -> None:
        self._ended[name] = trio.Event()
        with trio.CancelScope() as self.scopes[name]:
            async with self.cache.flight(self.key) as answer:
                if answer is not None:
                    self.answers[name] = answer
                    return
                self.leading.append(name)
                await self._ended[name].wait()
                outcome = self._outcomes[name]
                if outcome is not None:
                    # As a session does it: published, then ended; the caller leaves at once.
                    self.bus.publish(finished(self.key, outcome))

    def end(self, name: str, outcome: Answer | None = None) -> None:
        """End the turn that `name` runs, with an answer or (None) without."""
        self._outcomes[name] = outcome
        self._ended[name].set()


async def settle() -> None:
    await trio.testing.wait_all_tasks_blocked()


async def ask(cache: Cache, key: str = "key") -> Answer | None:
    async with cache.flight(key) as answer:
        return answer


async def test_a_miss_then_a_hit_with_the_pieces_as_they_came() -> None:
    bus = Bus()
    answer = an_answer("Hel", "lo ", "you")
    with trio.fail_after(5):
        async with open_cache(ON, bus) as cache:
            async with cache.flight("key") as found:
                assert found is None
                assert cache.statistics().flights == 1
                bus.publish(finished("key", answer))
            assert await ask(cache) == answer
            assert await ask(cache, "other") is None
            await settle()
            statistics = cache.statistics()
            assert (statistics.hits, statistics.misses, statistics.joined) == (1, 2, 0)
            assert (statistics.entries, statistics.flights) == (1, 0)
            assert statistics.bytes == size("key", answer)


async def test_ten_identical_requests_are_one_turn() -> None:
    bus = Bus()
    answer = an_answer("only once")
    async with open_cache(ON, bus) as cache, trio.open_nursery() as nursery:
        callers = Callers(cache, bus)
        for number in range(10):
            nursery.start_soon(callers.run, str(number))
        await settle()
        assert len(callers.leading) == 1
        assert cache.statistics().joined == 9
        callers.end(callers.leading[0], answer)
        await settle()
        assert len(callers.leading) == 1
        assert list(callers.answers.values()) == [answer] * 9
        assert cache.statistics().flights == 0


async def test_followers_have_the_answer_before_a_slow_leader_has_left() -> None:
    """A leader's client may read its answer slowly; that is no reason for others to wait."""
    bus = Bus()
    async with open_cache(ON, bus) as cache, trio.open_nursery() as nursery:
        callers = Callers(cache, bus)
        async with cache.flight("key"):
            nursery.start_soon(callers.run, "follower")
            await settle()
            bus.publish(finished("key"))
            await settle()
            assert callers.answers == {"follower": an_answer()}


async def test_no_follower_waits_for_ever_for_a_leader(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_cache(ON, Bus()) as cache:
        async with cache.flight("key") as led:
            assert led is None
            began = trio.current_time()
            async with cache.flight("key") as followed:
                assert followed is None
                assert trio.current_time() - began == pytest.approx(FOLLOW_SECONDS)


async def test_a_leader_that_leaves_right_after_its_turn_hands_its_followers_the_answer() -> None:
    """The event may be unread when the leaving is noticed; no follower must be promoted then.

    Many times over, because trio shuffles what is ready to run in one step.
    """
    for _ in range(100):
        bus = Bus()
        async with open_cache(ON, bus) as cache, trio.open_nursery() as nursery:
            callers = Callers(cache, bus)
            async with cache.flight("key"):
                nursery.start_soon(callers.run, "first")
                nursery.start_soon(callers.run, "second")
                await settle()
                bus.publish(finished("key"))
            await settle()
            assert callers.leading == []
            assert callers.answers.keys() == {"first", "second"}


async def test_a_question_right_after_a_turn_is_a_hit() -> None:
    for _ in range(50):
        bus = Bus()
        async with open_cache(ON, bus) as cache:
            await settle()
            bus.publish(finished("key"))
            assert await ask(cache) == an_answer()


async def test_a_turn_whose_answer_cannot_be_reused_holds_up_no_follower() -> None:
    """Such as one that calls tools: those who wait for it run their own, all at once."""
    bus = Bus()
    async with open_cache(ON, bus) as cache, trio.open_nursery() as nursery:
        callers = Callers(cache, bus)
        await start_in_order(nursery, callers, "a", "b", "c")
        bus.publish(evolve(finished("key"), answer=None))
        await settle()
        assert sorted(callers.leading) == ["a", "b", "c"]
        assert callers.answers == {}
        for name in "abc":
            callers.end(name)
        await settle()
        assert cache.statistics().entries == 0


async def start_in_order(nursery: trio.Nursery, callers: Callers, *names: str) -> None:
    for name in names:
        nursery.start_soon(callers.run, name)
        await settle()


async def test_a_leader_that_fails_is_followed_by_the_one_who_waits_longest() -> None:
    bus = Bus()
    async with open_cache(ON, bus) as cache, trio.open_nursery() as nursery:
        callers = Callers(cache, bus)
        await start_in_order(nursery, callers, "a", "b", "c", "d")
        callers.end("a")
        await settle()
        assert callers.leading == ["a", "b"]
        callers.end("b", an_answer())
        await settle()
        assert callers.leading == ["a", "b"]
        assert callers.answers.keys() == {"c", "d"}


async def test_after_a_second_failure_the_rest_run_on_their_own_and_at_once() -> None:
    bus = Bus()
    async with open_cache(ON, bus) as cache, trio.open_nursery() as nursery:
        callers = Callers(cache, bus)
        await start_in_order(nursery, callers, "a", "b", "c", "d", "e")
        callers.end("a")
        await settle()
        callers.end("b")
        await settle()
        assert callers.leading[:2] == ["a", "b"]
        assert sorted(callers.leading[2:]) == ["c", "d", "e"]
        assert cache.statistics().flights == 0
        for name in "cd":
            callers.end(name)
        callers.end("e", an_answer())
        await settle()
        assert await ask(cache) == an_answer(), "an answer of one of them is kept all the same"


async def test_a_cancelled_leader_is_followed_too() -> None:
    bus = Bus()
    async with open_cache(ON, bus) as cache, trio.open_nursery() as nursery:
        callers = Callers(cache, bus)
        await start_in_order(nursery, callers, "a", "b")
        callers.scopes["a"].cancel()
        await settle()
        assert callers.leading == ["a", "b"]
        callers.end("b", an_answer())


async def test_a_cancelled_follower_is_passed_over() -> None:
    bus = Bus()
    async with open_cache(ON, bus) as cache, trio.open_nursery() as nursery:
        callers = Callers(cache, bus)
        await start_in_order(nursery, callers, "a", "b", "c")
        callers.scopes["b"].cancel()
        await settle()
        assert "1 waiting" in repr(cache)
        callers.end("a")
        await settle()
        assert callers.leading == ["a", "c"]
        callers.end("c")


async def test_followers_cancelled_in_the_step_in_which_the_leader_fails_are_no_failures() -> None:
    """No request has tried on their behalf, so the next one leads and the others go on waiting."""
    for _ in range(50):
        bus = Bus()
        async with open_cache(ON, bus) as cache, trio.open_nursery() as nursery:
            callers = Callers(cache, bus)
            await start_in_order(nursery, callers, "a", "b", "c", "d", "e")
            for name in "abc":
                callers.scopes[name].cancel()
            await settle()
            assert callers.leading == ["a", "d"]
            callers.end("d", an_answer())
            await settle()
            assert callers.answers.keys() == {"e"}


async def test_a_promoted_follower_that_is_cancelled_before_it_knows_makes_way() -> None:
    bus = Bus()
    async with open_cache(ON, bus) as cache, trio.open_nursery() as nursery:
        callers = Callers(cache, bus)
        await start_in_order(nursery, callers, "a", "b", "c")
        callers.end("a")
        for _ in range(3):  # somewhere on the way of the news
            await trio.lowlevel.checkpoint()
        callers.scopes["b"].cancel()
        await settle()
        assert callers.leading[-1] == "c"
        callers.end("c")


async def test_a_question_whose_asker_has_gone_is_not_asked() -> None:
    """Otherwise it would lead, leave at once, and count as a failure to those who come after."""
    async with open_cache(ON, Bus()) as cache:
        reply, _ = trio.open_memory_channel[Answer | None](1)
        lifeline, held = trio.open_memory_channel[None](0)
        held.close()
        assert cache._ref.tell_nowait(Ask("key", reply, lifeline))
        await settle()
        assert cache.statistics().misses == 0


async def test_an_answer_that_may_not_be_given_again_is_a_failure_to_those_who_wait() -> None:
    bus = Bus()
    async with open_cache(ON, bus) as cache, trio.open_nursery() as nursery:
        callers = Callers(cache, bus)
        await start_in_order(nursery, callers, "a", "b")
        callers.end("a", evolve(an_answer(), finish_reason="length"))
        await settle()
        assert callers.leading == ["a", "b"]
        callers.end("b", an_answer(""))
        await settle()
        assert await ask(cache) is None
        assert cache.statistics().entries == 0


async def test_an_answer_too_large_to_keep_still_reaches_those_who_wait() -> None:
    bus = Bus()
    large = an_answer("x" * (ON.max_bytes // LARGEST_SHARE))
    async with open_cache(ON, bus) as cache, trio.open_nursery() as nursery:
        callers = Callers(cache, bus)
        await start_in_order(nursery, callers, "a", "b")
        callers.end("a", large)
        await settle()
        assert callers.answers == {"b": large}
        assert cache.statistics().entries == 0
        assert await ask(cache) is None


async def test_a_turn_without_a_key_is_not_kept() -> None:
    bus = Bus()
    async with open_cache(ON, bus) as cache:
        bus.publish(finished(None))
        bus.publish(ChildFrozen(1))
        assert await ask(cache) is None
        assert cache.statistics().entries == 0


async def test_an_answer_is_dropped_at_its_age(autojump_clock: trio.testing.MockClock) -> None:
    bus = Bus()
    async with open_cache(ON, bus) as cache:
        bus.publish(finished("key"))
        assert await ask(cache) is not None
        await trio.sleep(ON.ttl_seconds - 1)
        assert await ask(cache) is not None, "a use does not make it younger, nor older"
        await trio.sleep(1)
        assert cache.statistics().entries == 0
        assert await ask(cache) is None


async def test_every_question_is_published_once() -> None:
    bus = Bus()
    with bus.subscribe() as listener:
        async with open_cache(ON, bus) as cache, trio.open_nursery() as nursery:
            callers = Callers(cache, bus)
            await start_in_order(nursery, callers, "a", "b", "c")
            callers.end("a")
            await settle()
            callers.end("b", an_answer())
            await settle()
            await ask(cache)
        bus.close()
        asked = [event async for event in listener if isinstance(event, CacheAsked)]
    assert [event.outcome for event in asked] == ["miss", "joined", "joined", "hit"]


async def test_more_askers_than_the_mailbox_holds() -> None:
    bus = Bus()
    async with open_cache(ON, bus) as cache, trio.open_nursery() as nursery:
        callers = Callers(cache, bus)
        for number in range(200):
            nursery.start_soon(callers.run, str(number))
        await settle()
        assert len(callers.leading) == 1
        callers.end(callers.leading[0], an_answer())
        await settle()
        assert len(callers.answers) == 199


async def test_the_block_of_a_flight_raises_what_it_raises() -> None:
    bus = Bus()
    async with open_cache(ON, bus) as cache:
        with pytest.raises(ZeroDivisionError):
            async with cache.flight("key"):
                raise ZeroDivisionError
        assert await ask(cache) is None


# -- invariant 7: a cache that lags, crashes or is gone changes no output --------------------------


def crash(bus: Bus) -> None:
    """The cache trips over what no session ever says. (That it has no answer is nothing new.)"""
    unfinished = Answer(cast(Any, None), "stop", Usage())
    bus.publish(evolve(finished("any"), answer=unfinished))


async def test_a_cache_that_crashes_lets_all_clients_run_their_own_turn() -> None:
    bus = Bus()
    async with open_cache(ON, bus) as cache, trio.open_nursery() as nursery:
        callers = Callers(cache, bus)
        await start_in_order(nursery, callers, "a", "b", "c")
        crash(bus)
        await settle()
        assert callers.leading[0] == "a"
        assert sorted(callers.leading) == ["a", "b", "c"]
        assert repr(bus) == "<Bus 0 listeners>", "a listener that crashes is unsubscribed"
        for name in "abc":
            callers.end(name, an_answer())
        await settle()
        assert await ask(cache) is None
        assert cache.statistics().joined == 2


async def test_a_cache_that_lost_the_answer_lets_the_next_one_run_it() -> None:
    bus = Bus()
    async with open_cache(ON, bus) as cache, trio.open_nursery() as nursery:
        callers = Callers(cache, bus)
        await start_in_order(nursery, callers, "a", "b")
        for number in range(BUFFER):
            bus.publish(finished(f"other {number}"))
        bus.publish(finished("key"))
        callers.end("a")
        await settle()
        assert callers.leading == ["a", "b"]
        assert callers.answers == {}
        callers.end("b", an_answer())
        await settle()
        assert await ask(cache) == an_answer()


async def test_a_cache_that_is_switched_off_knows_nothing() -> None:
    bus = Bus()
    async with open_cache(evolve(ON, enabled=False), bus) as cache:
        bus.publish(finished("key"))
        assert await ask(cache) is None
        async with cache.flight("key") as one, cache.flight("key") as other:
            assert (one, other) == (None, None)
        statistics = cache.statistics()
        assert (statistics.entries, statistics.misses) == (0, 0)


async def test_when_the_bus_is_closed_the_cache_ends_and_no_follower_waits_any_more() -> None:
    bus = Bus()
    async with open_cache(ON, bus) as cache, trio.open_nursery() as nursery:
        callers = Callers(cache, bus)
        await start_in_order(nursery, callers, "a", "b")
        bus.close()
        await settle()
        assert callers.leading == ["a", "b"]
        assert await ask(cache) is None
        callers.end("a")
        callers.end("b")
    with trio.fail_after(1):
        async with open_cache(ON, bus) as cache:
            assert await ask(cache) is None


async def test_leaving_the_cache_ends_it_and_those_who_still_hold_it_run_their_own_turns() -> None:
    bus = Bus()
    async with trio.open_nursery() as nursery:
        async with open_cache(ON, bus) as cache:
            callers = Callers(cache, bus)
            await start_in_order(nursery, callers, "a", "b")
        await settle()
        assert callers.leading == ["a", "b"]
        assert await ask(cache) is None
        callers.end("a")
        callers.end("b")
    assert repr(bus) == "<Bus 0 listeners>"


async def test_a_cancelled_cache_ends_at_once() -> None:
    bus = Bus()
    with trio.CancelScope() as scope:
        async with open_cache(ON, bus) as cache, cache.flight("key"):
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert repr(bus) == "<Bus 0 listeners>"


async def test_the_repr_needs_no_running_clock() -> None:
    async with open_cache(ON, Bus()) as cache:
        assert repr(cache) == (
            "<Cache <AnswerTable 0/10 answers 0/100000 bytes> <Flights 0 under way, 0 waiting>>"
        )
