"""Whether the CLI can answer turns, as `/ready` and the log have it; no process, and a clock that
jumps."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from attrs import define, field
from structlog.testing import capture_logs
from trio.testing import MockClock, wait_all_tasks_blocked

from ccapi.actors.pool.cli_watch import DOUBT_SECONDS, LEAST_SECONDS, RECHECK_SECONDS, CliWatch
from ccapi.actors.runtime.bus import Bus
from ccapi.actors.runtime.once_log import MOST_CAUSES, OnceLog
from ccapi.schemas.claude.upstream import not_logged_in
from ccapi.schemas.errors import (
    ChildDied,
    ChildError,
    CliUnusable,
    GatewayError,
    InvalidRequest,
    NotLoggedIn,
    TurnTimeout,
)
from ccapi.schemas.events import TurnFailed, TurnFinished
from ccapi.schemas.settings.settings import ClaudeSettings, ServerSettings, Settings, SettingsError
from ccapi.schemas.turn import Usage
from ccapi.transport.process.login import Login, Means


@define
class World:
    watch: CliWatch
    bus: Bus
    login: Login
    asked: list[float] = field(factory=list)
    renewed: int = 0
    seconds: float = 0.2

    async def ask(self) -> Login:
        self.asked.append(trio.current_time())
        await trio.sleep(self.seconds)
        return self.login

    def renew(self) -> None:
        self.renewed += 1

    async def fail(self, error: GatewayError) -> None:
        self.bus.publish(TurnFailed("t", "c", "m", error, 1.0, None))
        await wait_all_tasks_blocked()

    async def finish(self) -> None:
        self.bus.publish(TurnFinished("t", "c", "m", Usage(), 1.0, None, None, None))
        await wait_all_tasks_blocked()


@asynccontextmanager
async def open_world(means: Means, host: str = "127.0.0.1", **claude: Any) -> AsyncIterator[World]:
    server = ServerSettings(host=host)
    watch = CliWatch("/opt/claude", Settings(server=server, claude=ClaudeSettings(**claude)))
    world = World(watch, Bus(), Login(means))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch.listen, world.bus)
        nursery.start_soon(watch.run, world.ask, world.renew)
        await wait_all_tasks_blocked()
        yield world
        nursery.cancel_scope.cancel()


async def test_who_starts_a_child_waits_for_the_first_answer(autojump_clock: MockClock) -> None:
    async with open_world(Means.OAUTH_TOKEN) as world:
        trouble = world.watch.trouble
        assert trouble is not None
        assert (trouble.status, trouble.code) == (503, "starting")
        began = trio.current_time()
        assert await world.watch.known() == Login(Means.OAUTH_TOKEN)
        assert trio.current_time() - began == pytest.approx(world.seconds)
        assert world.watch.trouble is None


@pytest.mark.parametrize("means", Means)
async def test_readiness_by_login(autojump_clock: MockClock, means: Means) -> None:
    async with open_world(means) as world:
        await world.watch.known()
        missing = means in (Means.NOTHING, Means.KEY_HELPER)
        assert isinstance(world.watch.trouble, NotLoggedIn if missing else type(None))
        if missing:
            assert "ccapi login --token" in str(world.watch.trouble)


async def test_without_a_login_it_is_asked_for_until_there_is_one(
    autojump_clock: MockClock,
) -> None:
    async with open_world(Means.NOTHING) as world:
        await trio.sleep(3.5 * (RECHECK_SECONDS + LEAST_SECONDS))
        assert len(world.asked) == 4
        assert world.renewed == 0
        world.login = Login(Means.FILE)
        await trio.sleep(RECHECK_SECONDS + LEAST_SECONDS + 1)
        assert world.watch.trouble is None
        assert await world.watch.known() == Login(Means.FILE)
        assert world.renewed == 1
        await trio.sleep(1000)
        assert len(world.asked) == 5


async def test_another_login_ends_what_the_last_one_brought_about(
    autojump_clock: MockClock,
) -> None:
    async with open_world(Means.NOTHING) as world:
        await trio.sleep(5)
        with capture_logs() as lines:
            await world.fail(not_logged_in("claude"))
        assert warnings(lines) == []  # it was logged when the CLI said so
        world.login = Login(Means.FILE)
        await world.fail(not_logged_in("claude"))
        await trio.sleep(LEAST_SECONDS + 1)
        assert world.watch.trouble is None


async def test_the_gateway_asks_again_when_a_turn_finds_no_login(
    autojump_clock: MockClock,
) -> None:
    async with open_world(Means.FILE) as world:
        await trio.sleep(100)
        for _ in range(50):  # however many say so
            await world.fail(not_logged_in("claude"))
        trouble = world.watch.trouble
        assert trouble is not None
        assert trouble.code == "cli_not_logged_in"
        await trio.sleep(20)
        assert (len(world.asked), world.renewed) == (3, 2)  # those during the second count once
        world.login = Login(Means.NOTHING)
        await world.fail(not_logged_in("claude"))
        await trio.sleep(LEAST_SECONDS + 1)
        assert isinstance(world.watch.trouble, NotLoggedIn)


async def test_what_variables_give_is_not_asked_for_again(autojump_clock: MockClock) -> None:
    async with open_world(Means.OAUTH_TOKEN) as world:
        await trio.sleep(10)
        await world.fail(not_logged_in("claude"))
        await trio.sleep(10)
        assert (len(world.asked), world.renewed) == (1, 0)


async def test_readiness_comes_back_by_a_turn_or_by_itself(autojump_clock: MockClock) -> None:
    async with open_world(Means.KEY) as world:
        await trio.sleep(10)
        await world.fail(not_logged_in("claude"))
        assert world.watch.trouble is not None
        await world.finish()
        assert world.watch.trouble is None
        await world.fail(not_logged_in("claude"))
        await trio.sleep(DOUBT_SECONDS + 0.1)  # else no turn would be sent here to find out
        assert world.watch.trouble is None


@pytest.mark.parametrize(
    "error",
    [
        CliUnusable("No permission (403).", code="cli_not_logged_in"),
        ChildError("500"),
        InvalidRequest("no"),
    ],
)
async def test_a_clients_errors_do_not_make_the_gateway_unready(
    autojump_clock: MockClock, error: GatewayError
) -> None:
    async with open_world(Means.KEY) as world:
        await trio.sleep(10)
        await world.fail(error)
        assert world.watch.trouble is None


# --- beyond loopback ------------------------------------------------------------------------------


async def test_a_credentials_file_is_refused_beyond_loopback(autojump_clock: MockClock) -> None:
    async with open_world(Means.FILE, "0.0.0.0") as world:
        with pytest.raises(SettingsError) as refused:
            await world.watch.check_exposure()
        (problem,) = refused.value.problems
        assert problem.key == "server.host"
        for word in ("e-mail", "ccapi login --token", "claude.allow_credentials_file"):
            assert word in problem.reason
        # A program may serve all the same, or the file may come later: no child is started then.
        with pytest.raises(NotLoggedIn, match="e-mail"):
            await world.watch.known()
        assert isinstance(world.watch.trouble, NotLoggedIn)


@pytest.mark.parametrize(
    ("means", "host", "allowed"),
    [
        (Means.FILE, "127.0.0.1", False),
        (Means.FILE, "0.0.0.0", True),
        (Means.OAUTH_TOKEN, "0.0.0.0", False),
        (Means.KEY, "0.0.0.0", False),
        (Means.NOTHING, "0.0.0.0", False),
        (Means.UNKNOWN, "0.0.0.0", False),
    ],
)
async def test_all_else_is_served(
    autojump_clock: MockClock, means: Means, host: str, allowed: bool
) -> None:
    async with open_world(means, host, allow_credentials_file=allowed) as world:
        await world.watch.check_exposure()
        await world.watch.known()


# --- the log --------------------------------------------------------------------------------------


def warnings(lines: list[Any]) -> list[str]:
    return [line["event"] for line in lines if line["log_level"] in ("warning", "error")]


@pytest.mark.parametrize(
    ("means", "level"),
    [
        (Means.KEY, "info"),
        (Means.OAUTH_TOKEN, "info"),
        (Means.FILE, "warning"),
        (Means.NOTHING, "warning"),
        (Means.KEY_HELPER, "warning"),
        (Means.UNKNOWN, "info"),
    ],
)
async def test_the_login_is_logged_once(
    autojump_clock: MockClock, means: Means, level: str
) -> None:
    with capture_logs() as lines:
        async with open_world(means):
            await trio.sleep(1000)
    assert [line["log_level"] for line in lines] == [level]


async def test_a_cli_that_never_works_is_logged_once_for_each_cause(
    autojump_clock: MockClock,
) -> None:
    async with open_world(Means.KEY) as world:
        await trio.sleep(10)
        with capture_logs() as lines:
            for seconds in range(5):
                await world.fail(TurnTimeout(f"Not ready within {seconds} s."))
                await world.fail(not_logged_in("claude"))
                await world.fail(InvalidRequest("the client's own"))
                await world.fail(ChildDied("told by the pool"))
        assert warnings(lines) == ["a turn failed"] * 2
        assert [line["code"] for line in lines] == ["turn_timeout", "cli_not_logged_in"]
        await world.finish()
        with capture_logs() as lines:
            await world.fail(not_logged_in("claude"))
        assert warnings(lines) == ["a turn failed"]


def test_the_causes_that_are_remembered_are_bounded() -> None:
    with capture_logs() as lines:
        import structlog

        once = OnceLog(structlog.get_logger())
        for number in range(MOST_CAUSES + 10):
            once.warn("it failed", "x" * number)
            once.warn("it failed", "x" * number)
    assert len(lines) == MOST_CAUSES + 2 * 10
    assert repr(once) == f"<OnceLog {MOST_CAUSES}>"


async def test_children_that_never_become_ready_are_reported_from_the_second_on(
    autojump_clock: MockClock,
) -> None:
    async with open_world(Means.KEY) as world:
        await world.watch.known()
        slow = TurnTimeout("It was not ready within 30 seconds.", code="child_start_timeout")
        await world.fail(slow)
        assert world.watch.trouble is None
        await world.finish()
        await world.fail(slow)
        assert world.watch.trouble is None
        await world.fail(slow)
        trouble = world.watch.trouble
        assert trouble is not None
        assert (trouble.status, trouble.code) == (503, "child_start_timeout")
        await world.finish()
        assert world.watch.trouble is None
        await world.fail(slow)
        await world.fail(slow)
        await trio.sleep(DOUBT_SECONDS + 0.1)
        assert world.watch.trouble is None


async def test_a_cli_that_is_too_old_answers_no_turn(autojump_clock: MockClock) -> None:
    watch = CliWatch("/opt/claude", Settings())

    async def ask() -> Login:
        await trio.sleep(1)
        return Login(Means.KEY)

    async def ask_version() -> tuple[int, int, int]:
        await trio.sleep(0.5)
        return (2, 1, 9)

    async with trio.open_nursery() as nursery:
        with capture_logs() as lines:
            nursery.start_soon(watch.run, ask, lambda: None, ask_version)
            with trio.fail_after(5):
                for wait in (watch.check_version, watch.known):
                    with pytest.raises(CliUnusable, match="this gateway needs"):
                        await wait()
                await watch.wait_known()
        assert trio.current_time() >= 1
        trouble = watch.trouble
        assert trouble is not None
        assert (trouble.status, trouble.code) == (503, "cli_too_old")
        assert next(line["event"] for line in lines) == "no turn is answered"
        nursery.cancel_scope.cancel()
