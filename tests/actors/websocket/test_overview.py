"""The overview as those see it who look at it as a whole."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import orjson
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from ccapi.actors.gateway import Gateway
from ccapi.actors.http.auth import KeyRing
from ccapi.actors.keys.registry import KeyRegistry
from ccapi.actors.listeners import overview as overview_module
from ccapi.actors.listeners.overview import INTERVAL, REFRESH, Overview, open_overview
from ccapi.actors.listeners.stats import Stats
from ccapi.schemas.events import CacheAsked, PhaseChanged
from ccapi.schemas.settings.settings import AuthSettings

from ...support.gateway_double import GatewayDouble, open_gateway_double
from ...support.live import open_live_demo
from ...support.websocket_client import (
    RawWebSocket,
    close,
    open_raw_websocket,
    text,
)

CHANGE = PhaseChanged("conv_1", "IDLE", "BUSY")


async def picture_of(client: RawWebSocket) -> dict[str, Any]:
    told: dict[str, Any] = orjson.loads(await client.message())
    assert told["type"] == "overview"
    return told


# -- when it is drawn ------------------------------------------------------------------------------


@pytest.fixture
async def gateway() -> AsyncIterator[GatewayDouble]:
    async with open_gateway_double() as double:
        yield double


@pytest.fixture
async def overview(gateway: GatewayDouble) -> AsyncIterator[Overview]:
    gateway.stats = cast(Any, Stats())
    async with open_overview(cast(Gateway, gateway)) as overview:
        yield overview


async def next_after(overview: Overview) -> float:
    """Seconds until there is another picture."""
    began = trio.current_time()
    await overview.wait_newer(overview.number)
    return trio.current_time() - began


async def test_a_change_is_shown_soon_and_many_at_once(
    autojump_clock: MockClock, overview: Overview, gateway: GatewayDouble
) -> None:
    with overview.watch():
        await wait_all_tasks_blocked()
        for _ in range(100):  # more than is kept for it
            gateway.bus.publish(CHANGE)
        assert await next_after(overview) == pytest.approx(INTERVAL)
        assert await next_after(overview) == pytest.approx(REFRESH)


async def test_there_are_never_more_than_five_a_second(
    autojump_clock: MockClock, overview: Overview, gateway: GatewayDouble
) -> None:
    async def go_on() -> None:
        while True:
            gateway.bus.publish(CacheAsked("hit"))
            await trio.sleep(0.01)

    with overview.watch():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(go_on)
            await overview.wait_newer(overview.number)
            waits = [await next_after(overview) for _ in range(20)]
            nursery.cancel_scope.cancel()
    assert min(waits) + 1e-9 >= INTERVAL
    assert max(waits) < INTERVAL + 0.02


async def test_without_a_change_there_is_one_every_few_seconds(
    autojump_clock: MockClock, overview: Overview
) -> None:
    with overview.watch():
        assert [await next_after(overview) for _ in range(3)] == pytest.approx([REFRESH] * 3)


async def test_nothing_is_drawn_without_watchers(
    autojump_clock: MockClock,
    overview: Overview,
    gateway: GatewayDouble,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with overview.watch():
        await next_after(overview)
    await trio.sleep(2 * REFRESH)
    number = overview.number
    for _ in range(10):
        gateway.bus.publish(CHANGE)
        await trio.sleep(10)
    assert overview.number == number
    with overview.watch():  # and again for a client
        assert await next_after(overview) <= REFRESH + 1e-9


async def test_it_is_drawn_once_for_all_who_show_the_same_key(
    autojump_clock: MockClock,
    overview: Overview,
    gateway: GatewayDouble,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn = []
    draw = Overview._draw

    def count(self: Overview, owner: str) -> dict[str, Any]:
        drawn.append(owner)
        return draw(self, owner)

    monkeypatch.setattr(Overview, "_draw", count)
    with overview.watch():
        assert overview.picture("a") is overview.picture("a")
        overview.picture("b")
        await overview.wait_newer(overview.number)
        for _ in range(100):
            overview.picture("a")
    assert drawn == ["a", "b", "a"]


async def test_who_comes_later_sees_no_old_picture(
    autojump_clock: MockClock, overview: Overview, gateway: GatewayDouble
) -> None:
    with overview.watch():
        before = overview.picture("a")
    await trio.sleep(60)
    gateway.conversation()
    with overview.watch():
        assert overview.picture("a") != before


async def test_a_bus_that_is_closed_ends_no_watching(
    autojump_clock: MockClock, overview: Overview, gateway: GatewayDouble
) -> None:
    with overview.watch():
        await wait_all_tasks_blocked()
        gateway.bus.close()
        assert await next_after(overview) == pytest.approx(REFRESH)


# -- what is in it ---------------------------------------------------------------------------------


async def test_the_ids_of_others_are_not_shown(
    autojump_clock: MockClock, overview: Overview, gateway: GatewayDouble
) -> None:
    mine, theirs = gateway.conversation(owner="a"), gateway.conversation(owner="b")
    frame = overview.picture("a")
    assert mine.conversation_id.encode() in frame
    assert theirs.conversation_id.encode() not in frame
    assert len(overview._draw("a")["sessions"]) == 2


async def test_of_very_many_sessions_those_that_do_something_are_shown(
    autojump_clock: MockClock,
    overview: Overview,
    gateway: GatewayDouble,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(overview_module, "SHOWN", 3)
    for number in range(10):
        gateway.conversation().busy = number == 2
    drawn = overview._draw("local")
    assert [session["phase"] for session in drawn["sessions"]] == ["busy", "asleep", "asleep"]
    assert drawn["phases"] == {"busy": 1, "asleep": 9}
    assert [s["id"][-1] for s in drawn["sessions"]] == ["2", "9", "8"]  # then the last used


@asynccontextmanager
async def look(
    port: int, path: str = "/v1/overview", **headers: str
) -> AsyncIterator[RawWebSocket]:
    async with open_raw_websocket(port, path, headers) as client:
        with trio.fail_after(20):
            yield client


async def test_the_former_name_of_the_route_answers_as_it_did(tmp_path: Path) -> None:
    async with open_live_demo(tmp_path) as live:
        port = int(live.url.rpartition(":")[2])
        async with look(port, "/v1/house") as client:
            told = orjson.loads(await client.message())
    assert told["type"] == "house"
    assert "children" in told


async def test_a_turn_is_seen_as_it_goes(tmp_path: Path) -> None:
    async with open_live_demo(tmp_path) as live:
        port = int(live.url.rpartition(":")[2])
        async with look(port) as client:
            first = await picture_of(client)
            by_child = first["turns"].pop("by_child")
            assert set(by_child.values()) == {0}
            assert first["turns"] == {"running": 0, "started": 0, "finished": 0, "failed": 0}
            assert abs(first["at"] - time.time()) < 5
            assert first.keys() == {
                "type", "at", "uptime_seconds", "draining", "children", "sessions", "phases",
                "conversations", "turns", "tokens", "cost_usd", "cache", "latency", "mcp",
                "logins",
            }  # fmt: skip
            assert first["children"].keys() == {"limit", "live", "warm", "idle", "waiting"}
            conversation = live.gateway.conversation()
            seen: list[dict[str, Any]] = []
            prompt = '!script {"deltas": 5, "pace_ms": 100}'
            async with conversation.turn(prompt) as turn:
                while not (seen and seen[-1]["turns"]["running"]):
                    seen.append(await picture_of(client))
                [session] = seen[-1]["sessions"]
                assert session["id"] == conversation.conversation_id
                assert session["phase"] in {"waking", "busy"}
                assert (session["profile"], session["turns"]) == ("chat", 0)
                await turn.reply()
            while not seen[-1]["turns"]["finished"]:
                seen.append(await picture_of(client))
            assert seen[-1]["sessions"][0]["turns"] == 1
            assert seen[-1]["latency"]["first_delta_ms"]["p50"] > 0
            await client.send(text('{"type": "ping"}') + text("nonsense"))
            told: dict[str, Any] = {}
            while told != {"type": "pong"}:
                told = orjson.loads(await client.message())
            await client.send(close())
            assert await client.close_code() == 1000


async def test_each_key_sees_its_own(tmp_path: Path) -> None:
    keys = ("sk-one", "sk-two")
    async with open_live_demo(tmp_path, auth=AuthSettings(api_keys=keys)) as live:
        port = int(live.url.rpartition(":")[2])
        owner = KeyRing(KeyRegistry(AuthSettings(api_keys=keys))).owner({b"x-api-key": [b"sk-one"]})
        conversation = live.gateway.conversation(owner=owner)
        await conversation.ask("repeat: x")
        for key, shown in [("sk-one", [conversation.conversation_id]), ("sk-two", [])]:
            async with look(port, **{"x-api-key": key}) as client:
                sessions = (await picture_of(client))["sessions"]
                assert [session["id"] for session in sessions] == shown


async def test_a_client_that_does_not_read_misses_pictures_and_no_other_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = Overview._draw

    def draw_big(self: Overview, owner: str) -> dict[str, Any]:
        return draw(self, owner) | {"number": self.number, "rest": "x" * 5_000_000}

    monkeypatch.setattr(Overview, "_draw", draw_big)
    async with open_live_demo(tmp_path) as live:
        port = int(live.url.rpartition(":")[2])
        async with look(port) as lagging, look(port) as client:
            numbers = []
            for _ in range(5):
                live.gateway.bus.publish(CHANGE)
                numbers.append((await picture_of(client))["number"])
            first = numbers[0]
            assert numbers == [first + n for n in range(5)]
            stale, latest = [(await picture_of(lagging))["number"] for _ in range(2)]
            assert stale <= first + 1
            assert latest >= numbers[-1]


async def test_stopping_ends_the_watching(tmp_path: Path) -> None:
    async with open_live_demo(tmp_path) as live:
        port = int(live.url.rpartition(":")[2])
        async with look(port) as client:
            await picture_of(client)
            live.stop.set()
            assert await client.close_code() == 1001
            await client.send(close(1001))
            assert await client.ended()
