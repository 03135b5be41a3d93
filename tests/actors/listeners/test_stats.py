"""The stats: every event is counted as what it is, for people and for Prometheus alike."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, cast

import pytest
import trio
import trio.testing
from attrs import evolve
from prometheus_client import REGISTRY
from prometheus_client.parser import text_string_to_metric_families

from ccapi.actors.listeners.metrics import LABEL_VALUES, RECENT
from ccapi.actors.listeners.stats import Stats, open_stats
from ccapi.actors.runtime.bus import BUFFER, Bus
from ccapi.schemas.errors import ChildDied, ChildError, TurnTimeout
from ccapi.schemas.events import (
    CacheAsked,
    ChildAdopted,
    ChildExited,
    ChildFrozen,
    ChildSpawned,
    ChildTaken,
    ConversationClosed,
    ConversationOpened,
    Event,
    McpCalled,
    McpServerChanged,
    PhaseChanged,
    SessionCrashed,
    TurnAccepted,
    TurnFailed,
    TurnFinished,
)
from ccapi.schemas.turn import Answer, Usage

USAGE = Usage(
    prompt_tokens=100,
    completion_tokens=20,
    cached_tokens=60,
    cache_write_tokens=30,
    cost_usd=0.25,
)

SOURCES = ("warm", "prefix", "recycled", "prewarmed", "new")


def started(turn_id: str = "turn") -> TurnAccepted:
    return TurnAccepted(turn_id, "conv_1", "sonnet")


def finished(turn_id: str = "turn", seconds: float = 2.0, first: float | None = 0.5) -> Event:
    answer = Answer(("Hi",), "stop", USAGE)
    return TurnFinished(turn_id, "conv_1", "sonnet", USAGE, seconds, first, None, answer)


def failed(turn_id: str = "turn", code: str = "child_died") -> TurnFailed:
    error = ChildDied("It is gone.", code=code)
    return TurnFailed(turn_id, "conv_1", "sonnet", error, 1.0, None)


def counted(*published: Event) -> dict[str, Any]:
    """The snapshot after `published`, which has to be plain JSON."""
    stats = Stats()
    for event in published:
        stats.count(event)
    snapshot = stats.snapshot()
    assert json.loads(json.dumps(snapshot, allow_nan=False)) == snapshot
    return snapshot


def exposed(stats: Stats) -> dict[str, float]:
    """What Prometheus reads, as ``name{label="value"}`` to value."""
    return {
        sample.name + "".join(f"{{{k}={v}}}" for k, v in sample.labels.items()): sample.value
        for family in text_string_to_metric_families(stats.prometheus().decode())
        for sample in family.samples
    }


async def test_nothing_has_happened_yet() -> None:
    none = {"count": 0, "mean": None, "p50": None, "p95": None, "p99": None, "max": None}
    snapshot = counted()
    assert snapshot.pop("uptime_seconds") >= 0
    assert snapshot == {
        "turns": {"started": 0, "finished": 0, "failed": {}, "running": 0},
        "latency": {"first_delta_ms": none, "turn_ms": none},
        "tokens": {"prompt": 0, "completion": 0, "cached": 0, "cache_write": 0},
        "cost_usd": 0.0,
        "children": {
            "spawned": 0,
            "resumed": 0,
            "adopted": {"warm": 0, "cold": 0},
            "turns": dict.fromkeys(SOURCES, 0),
            "exited": {"expected": 0, "unexpected": 0},
            "frozen": 0,
            "wait_ms": none,
        },
        "conversations": {"opened": 0, "closed": {}},
        "sessions": {"by_phase": {}, "crashed": 0},
        "cache": {"hit": 0, "miss": 0, "joined": 0},
        "events_lost": 0,
    }


async def test_turns() -> None:
    snapshot = counted(
        started("a"), started("b"), started("c"), started("d"),
        finished("a"), failed("b"), failed("c", "turn_timeout"),
    )  # fmt: skip
    assert snapshot["turns"] == {
        "started": 4,
        "finished": 1,
        "failed": {"child_died": 1, "turn_timeout": 1},
        "running": 1,
    }
    assert snapshot["latency"]["turn_ms"]["p50"] == 2000
    assert snapshot["latency"]["first_delta_ms"]["max"] == 500


async def test_the_error_code_is_what_a_failure_is_counted_as() -> None:
    timeout = evolve(failed(), error=TurnTimeout("late"))
    upstream = evolve(failed(), error=ChildError("no"))
    snapshot = counted(timeout, upstream, upstream)
    assert snapshot["turns"]["failed"] == {"turn_timeout": 1, "upstream_failed": 2}


async def test_tokens_and_cost_add_up() -> None:
    snapshot = counted(finished("a"), finished("b"))
    assert snapshot["tokens"] == {
        "prompt": 200,
        "completion": 40,
        "cached": 120,
        "cache_write": 60,
    }
    assert snapshot["cost_usd"] == 0.5


async def test_figures_below_zero_count_as_nothing_and_stop_nothing() -> None:
    event = cast(TurnFinished, finished())
    odd = evolve(event, usage=Usage(prompt_tokens=-5, completion_tokens=7, cost_usd=-1.0))
    snapshot = counted(odd)
    assert snapshot["tokens"]["prompt"] == 0
    assert snapshot["tokens"]["completion"] == 7
    assert snapshot["cost_usd"] == 0


async def test_percentiles_are_values_that_were_measured() -> None:
    latency = counted(*(finished(str(n), seconds=n / 1000) for n in range(1, 101)))["latency"]
    assert latency["turn_ms"] == {
        "count": 100, "mean": 50.5, "p50": 50, "p95": 95, "p99": 99, "max": 100,
    }  # fmt: skip


async def test_percentiles_are_of_the_latest_turns() -> None:
    old = [finished("old", seconds=100.0)] * RECENT
    new = [finished("new", seconds=1.0)] * (RECENT - 1)
    turn = counted(*old, *new)["latency"]["turn_ms"]
    assert (turn["count"], turn["p50"], turn["max"]) == (RECENT, 1000, 100_000)


async def test_a_turn_without_text_has_no_first_delta() -> None:
    latency = counted(finished("a", first=None), finished("b", first=0.1))["latency"]
    assert latency["first_delta_ms"]["count"] == 1
    assert latency["turn_ms"]["count"] == 2


async def test_children() -> None:
    snapshot = counted(
        ChildSpawned(1, resumed=False),
        ChildSpawned(2, resumed=True),
        ChildAdopted(1, "conv_1", warm=True, waited=0.002),
        ChildAdopted(2, "conv_2", warm=False, waited=0.004),
        ChildAdopted(3, "conv_2", warm=False, waited=0.006),
        ChildTaken("turn_1", "conv_1", "recycled"),
        ChildTaken("turn_2", "conv_1", "warm"),
        ChildTaken("turn_3", "conv_1", "warm"),
        ChildFrozen(1),
        ChildExited(1, 0, expected=True),
        ChildExited(2, -9, expected=False),
    )
    children = snapshot["children"]
    assert children.pop("wait_ms")["mean"] == 4
    assert children == {
        "spawned": 2,
        "resumed": 1,
        "adopted": {"warm": 1, "cold": 2},
        "turns": dict.fromkeys(SOURCES, 0) | {"warm": 2, "recycled": 1},
        "exited": {"expected": 1, "unexpected": 1},
        "frozen": 1,
    }


async def test_conversations_and_the_phases_of_their_sessions() -> None:
    stats = Stats()

    def by_phase(*published: Event) -> dict[str, int]:
        for event in published:
            stats.count(event)
        return cast("dict[str, int]", stats.snapshot()["sessions"]["by_phase"])

    assert by_phase(*(ConversationOpened(name) for name in "abc")) == {}
    assert by_phase(*(PhaseChanged(name, "asleep", "waking") for name in "abc")) == {"waking": 3}
    assert by_phase(PhaseChanged("a", "waking", "BUSY")) == {"waking": 2, "busy": 1}
    assert exposed(stats)["ccapi_sessions{phase=waking}"] == 2
    assert by_phase(PhaseChanged("a", "busy", "closed"), ConversationClosed("a", "deleted")) == {
        "waking": 2
    }
    assert by_phase(ConversationClosed("b", "expired"), PhaseChanged("b", "idle", "closed")) == {
        "waking": 1
    }
    assert exposed(stats)["ccapi_sessions{phase=busy}"] == 0
    assert stats.snapshot()["conversations"] == {
        "opened": 3,
        "closed": {"deleted": 1, "expired": 1},
    }


async def test_a_session_that_crashes_is_in_no_phase() -> None:
    snapshot = counted(
        PhaseChanged("conv_1", "idle", "busy"),
        PhaseChanged("conv_2", "idle", "busy"),
        SessionCrashed("conv_1"),
    )
    assert snapshot["sessions"] == {"by_phase": {"busy": 1}, "crashed": 1}


async def test_the_cache() -> None:
    outcomes = ("miss", "joined", "joined", "hit")
    snapshot = counted(*(CacheAsked(outcome) for outcome in outcomes))
    assert snapshot["cache"] == {"hit": 1, "miss": 1, "joined": 2}


@pytest.mark.parametrize(
    "invent",
    [
        lambda n: failed(str(n), f"code_{n}"),
        lambda n: ConversationClosed(str(n), f"reason_{n}"),
        lambda n: CacheAsked(f"outcome_{n}"),
        lambda n: PhaseChanged(str(n), "idle", f"phase_{n}"),
    ],
    ids=["code", "reason", "outcome", "phase"],
)
async def test_a_label_takes_boundedly_many_values(invent: Callable[[int], Event]) -> None:
    stats = Stats()
    before = len(exposed(stats))
    for number in range(3 * LABEL_VALUES):
        stats.count(invent(number))
    exposition = exposed(stats)
    assert len(exposition) - before <= 2 * (LABEL_VALUES + 1)  # a counter has a _created too
    assert any(name.endswith("=other}") for name in exposition)
    stats.snapshot()


async def test_no_label_says_which_conversation_or_model() -> None:
    stats = Stats()
    opened = ConversationOpened("conv_secret")
    asked = TurnAccepted("turn_secret", "conv_secret", "model_secret")
    for event in (opened, asked, PhaseChanged("conv_secret", "asleep", "busy"), finished()):
        stats.count(event)
    assert b"secret" not in stats.prometheus()


async def test_prometheus_reads_the_same_numbers() -> None:
    stats = Stats()
    for event in (started("a"), started("b"), finished("a"), CacheAsked("hit"), failed("b")):
        stats.count(event)
    exposition = exposed(stats)
    assert exposition["ccapi_turns_started_total"] == 2
    assert exposition["ccapi_turns_finished_total"] == 1
    assert exposition["ccapi_turns_running"] == 0
    assert exposition["ccapi_turns_failed_total{code=child_died}"] == 1
    assert exposition["ccapi_tokens_total{kind=cached}"] == 60
    assert exposition["ccapi_cost_usd_total"] == 0.25
    assert exposition["ccapi_cache_asked_total{outcome=hit}"] == 1
    assert exposition["ccapi_turn_seconds_bucket{le=1.0}"] == 0
    assert exposition["ccapi_turn_seconds_bucket{le=2.5}"] == 1
    assert exposition["ccapi_first_delta_seconds_sum"] == 0.5


async def test_two_gateways_in_one_process_do_not_share_numbers() -> None:
    one, other = Stats(), Stats()
    one.count(started())
    assert exposed(other)["ccapi_turns_started_total"] == 0
    assert not [name for name in REGISTRY._names_to_collectors if name.startswith("ccapi")]


async def test_uptime(autojump_clock: trio.testing.MockClock) -> None:
    async with open_stats(Bus()) as stats:
        await trio.sleep(90)
        assert stats.snapshot()["uptime_seconds"] == 90
        assert exposed(stats)["ccapi_uptime_seconds"] == 90


# -- the actor -----------------------------------------------------------------------------------


async def test_it_counts_what_is_published_from_the_first_moment_to_the_last() -> None:
    bus = Bus()
    with trio.fail_after(5):
        async with open_stats(bus) as stats:
            bus.publish(started("a"))
            await trio.testing.wait_all_tasks_blocked()
            assert stats.snapshot()["turns"]["running"] == 1
            for number in range(100):
                bus.publish(finished(str(number)))
    assert stats.snapshot()["turns"]["finished"] == 100
    assert repr(bus) == "<Bus 0 listeners>"


async def test_it_reads_what_is_left_when_the_bus_is_closed() -> None:
    bus = Bus()
    with trio.fail_after(5):
        async with open_stats(bus) as stats:
            bus.publish(started("a"))
            bus.close()
            bus.publish(started("late"))
    assert stats.snapshot()["turns"]["started"] == 1


async def test_what_it_lost_is_counted_and_what_was_under_way_is_counted_anew() -> None:
    bus = Bus()
    async with open_stats(bus) as stats:
        bus.publish(started("a"))
        bus.publish(PhaseChanged("conv_1", "idle", "busy"))
        for pid in range(BUFFER):
            bus.publish(ChildFrozen(pid))  # the last two are lost
        await trio.testing.wait_all_tasks_blocked()
        snapshot = stats.snapshot()
        assert snapshot["events_lost"] == 2
        assert snapshot["children"]["frozen"] == BUFFER - 2
        assert snapshot["turns"]["running"] == 0
        assert snapshot["sessions"]["by_phase"] == {}
        assert exposed(stats)["ccapi_turns_running"] == 0
        assert exposed(stats)["ccapi_events_lost_total"] == 2
        bus.publish(finished("a"))
        bus.publish(PhaseChanged("conv_1", "busy", "idle"))
        await trio.testing.wait_all_tasks_blocked()
        snapshot = stats.snapshot()
        assert snapshot["turns"]["running"] == 0
        assert snapshot["sessions"]["by_phase"] == {"idle": 1}


async def test_when_it_crashes_its_numbers_stand_still_and_no_client_notices() -> None:
    """Invariant 7."""
    bus = Bus()
    async with open_stats(bus) as stats:
        bus.publish(started("a"))
        bus.publish(evolve(cast(TurnFinished, finished("a")), usage=cast(Any, None)))
        bus.publish(started("b"))
        await trio.testing.wait_all_tasks_blocked()
        assert repr(bus) == "<Bus 0 listeners>"
        bus.publish(started("c"))
        await trio.testing.wait_all_tasks_blocked()
        assert stats.snapshot()["turns"]["started"] == 1
        assert exposed(stats)["ccapi_turns_started_total"] == 1


async def test_cancelled_it_ends_at_once() -> None:
    bus = Bus()
    with trio.CancelScope() as scope:
        async with open_stats(bus):
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert repr(bus) == "<Bus 0 listeners>"


async def test_mcp_servers_and_their_calls() -> None:
    stats = Stats()
    for event in (
        McpServerChanged("a", "connecting"), McpServerChanged("a", "ready"),
        McpServerChanged("b", "failed"), McpServerChanged("c", "ready"),
        McpServerChanged("c", "gone"),
        McpCalled("a", "done", 0.2), McpCalled("a", "error", 0.4), McpCalled("b", "error", 0.0),
    ):  # fmt: skip
        stats.count(event)
    numbers = exposed(stats)
    assert numbers["ccapi_mcp_servers{state=ready}"] == 1
    assert numbers["ccapi_mcp_servers{state=failed}"] == 1
    assert numbers["ccapi_mcp_servers{state=connecting}"] == 0
    assert numbers["ccapi_mcp_calls_total{server=a}"] == 2
    assert numbers["ccapi_mcp_errors_total{server=a}"] == 1
    assert numbers["ccapi_mcp_errors_total{server=b}"] == 1
    assert numbers["ccapi_mcp_call_seconds_count"] == 3
    assert numbers["ccapi_mcp_call_seconds_sum"] == pytest.approx(0.6)
