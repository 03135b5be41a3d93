"""A CLI that does not work: what `/ready`, a client and the log receive, and that it passes."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import trio
from structlog.testing import capture_logs

from ccapi.actors.pool import pool
from tests.support.live import Live, open_live, settings_for

PATIENCE = 30.0

DEMO = f'exec {sys.executable} -I -m ccapi.transport.demo_cli "$@"'
STATUS = 'case "$*" in "auth status --json")'
WORKS = f"{STATUS} exit 0;; esac\n{DEMO}"
"""The demo CLI, as a program that is no real CLI and does not know of logins."""

LOGGED_OUT = f"""{STATUS} echo '{{"loggedIn": false}}'; exit 1;; esac\n{DEMO}"""


def write(program: Path, script: str) -> None:
    new = program.with_suffix(".new")  # a script that runs must not be written to
    new.write_text(f"#!/bin/sh\n{script}\n")
    new.chmod(0o700)
    new.rename(program)


@asynccontextmanager
async def serving(
    tmp_path: Path, script: str, **claude: Any
) -> AsyncIterator[tuple[Live, httpx.AsyncClient, Path]]:
    program = tmp_path / "claude"
    write(program, script)
    env = {"HOME": str(tmp_path), "DEMO_CLI_SWITCHES": "{}"}
    settings = settings_for(tmp_path, env, str(program), claude={"prewarm": 1, **claude})
    with trio.fail_after(PATIENCE):
        async with (
            open_live(settings) as live,
            httpx.AsyncClient(base_url=live.url, trust_env=False, timeout=PATIENCE) as client,
        ):
            yield live, client, program


async def until(client: httpx.AsyncClient, true: Callable[[httpx.Response], bool]) -> Any:
    """What `/ready` says once it is as wanted."""
    while not true(response := await client.get("/ready")):
        await trio.sleep(0.02)
    return response.json()


def is_ready(response: httpx.Response) -> bool:
    return response.status_code == 200


def because(code: str) -> Callable[[httpx.Response], bool]:
    return lambda answer: answer.status_code == 503 and answer.json()["error"]["code"] == code


async def ask(client: httpx.AsyncClient) -> httpx.Response:
    message = {"role": "user", "content": "Hello"}
    return await client.post("/v1/chat/completions", json={"messages": [message]})


def warnings(lines: list[Any]) -> list[str]:
    return [line["event"] for line in lines if line["log_level"] in ("warning", "error")]


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pauses between two starts stay short, and so does the proof of life."""
    monkeypatch.setattr(pool, "REFILL_PAUSE", (0.05, 0.2))
    monkeypatch.setattr(pool, "SETTLED_SECONDS", 0.3)


async def test_a_program_that_knows_of_no_login_works_as_ever(tmp_path: Path) -> None:
    with capture_logs() as lines:
        async with serving(tmp_path, WORKS) as (_, client, _):
            await until(client, is_ready)
            assert (await ask(client)).status_code == 200
    assert warnings(lines) == []


async def test_one_that_ends_at_once_is_reported_once_and_may_be_mended(tmp_path: Path) -> None:
    with capture_logs() as lines:
        async with serving(tmp_path, "echo it is broken >&2; exit 3") as (_, client, program):
            told = await until(client, because("child_died"))
            assert "status 3" in told["error"]["message"]
            for _ in range(3):
                assert (await ask(client)).status_code == 502
            write(program, WORKS)
            await until(client, is_ready)
            assert (await ask(client)).status_code == 200
    (line,) = [each for each in lines if each["event"] == "a child died"]
    assert (line["returncode"], line["stderr"]) == (3, "it is broken")
    assert warnings(lines) == ["a child died"]


async def test_what_it_says_of_a_login_is_said_in_the_words_of_the_gateway(tmp_path: Path) -> None:
    script = "echo 'Not logged in · Please run /login' >&2; exit 1"
    with capture_logs() as lines:
        async with serving(tmp_path, script) as (_, client, _):
            told = await until(client, because("child_died"))
    (line,) = [each for each in lines if each["event"] == "a child died"]
    assert (line["stderr"], line["cure"]) == ("Not logged in", "ccapi login")
    assert "/login" not in str(told) + str(lines)


async def test_one_that_goes_missing_is_reported_once_and_may_come_back(tmp_path: Path) -> None:
    with capture_logs() as lines:
        async with serving(tmp_path, WORKS) as (live, client, program):
            await until(client, is_ready)
            program.unlink()
            live.gateway._pool.renew()
            await until(client, because("cli_not_found"))
            answer = await ask(client)
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "cli_not_found")
            assert answer.headers["x-should-retry"] == "false"
            write(program, WORKS)
            await until(client, is_ready)
    told = [each["error"] for each in lines if each["event"] == "no child could be started"]
    assert "was not found" in told[0]
    assert len(told) == len(set(told))  # another may come of its coming back at that moment


async def test_one_that_goes_missing_is_seen_without_a_warm_child_too(tmp_path: Path) -> None:
    async with serving(tmp_path, WORKS, prewarm=0) as (_, client, program):
        await until(client, is_ready)
        program.unlink()
        await until(client, because("cli_not_found"))
        write(program, WORKS)
        await until(client, is_ready)


async def test_one_that_writes_nothing_is_reported_once(tmp_path: Path) -> None:
    silent = f"{STATUS} exit 0;; esac\nexec sleep 1000"
    bounds = {"start_timeout_seconds": 0.3, "stop_seconds": 0.1}
    with capture_logs() as lines:
        async with serving(tmp_path, silent, **bounds) as (_, client, _):
            for _ in range(3):
                answer = await ask(client)
                assert answer.json()["error"]["code"] == "child_start_timeout"
            await until(client, because("child_start_timeout"))
    assert warnings(lines) == ["a turn failed"]


async def test_without_a_login_the_gateway_is_not_ready_until_there_is_one(tmp_path: Path) -> None:
    with capture_logs() as lines:
        async with serving(tmp_path, LOGGED_OUT) as (_, client, program):
            told = await until(client, because("cli_not_logged_in"))
            for word in (
                "`ccapi login --token`",
                "`ccapi login`",
                str(program),
                "ANTHROPIC_API_KEY",
            ):
                assert word in told["error"]["message"]
            assert told["error"]["type"] != "overloaded_error"
    assert warnings(lines) == ["the CLI is not logged in"]


async def test_the_openai_sdk_asks_once(tmp_path: Path) -> None:
    async with (
        serving(tmp_path, WORKS) as (live, _, _),
        openai.AsyncOpenAI(base_url=live.base_url, api_key="-", max_retries=3) as sdk,
    ):
        failing = '!script {"error": "Not logged in \\u00b7 Please run /login"} x'
        with pytest.raises(openai.InternalServerError) as refused:
            await sdk.chat.completions.create(
                model="sonnet", messages=[{"role": "user", "content": failing}]
            )
        assert (refused.value.status_code, refused.value.code) == (503, "cli_not_logged_in")
        assert "/login" not in refused.value.message
        assert live.gateway.stats.snapshot()["turns"]["started"] == 1
