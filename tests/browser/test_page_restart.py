"""A gateway that is restarted under the page: what `restart.mjs` saw."""

from __future__ import annotations

import json
import socket
import sys
from pathlib import Path

import pytest
import trio

from tests.conformance.node import Seen, run_checks

LOST = "The gateway was restarted while it answered; ask again if you still want the answer."


@pytest.fixture(scope="module")
def seen(
    browser_folder: Path,
    browser_environment: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Seen:
    home = tmp_path_factory.mktemp("restarted")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    command = [sys.executable, "-m", "ccapi.actors.commands.main", "serve", "--demo"]
    surroundings = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(home),
        "CLAUDE_CODE__CLAUDE__ENV": json.dumps({"DEMO_CLI_SWITCHES": "{}"}),
        "CLAUDE_CODE__STORAGE__PATH": str(home / "state"),
    }
    given = {
        **browser_environment,
        "CCAPI_TEST_GATEWAY": json.dumps([*command, "--port", port]),
        "CCAPI_TEST_GATEWAY_ENV": json.dumps(surroundings),
        "CCAPI_TEST_PORT": port,
    }
    lines, stderr = trio.run(run_checks, browser_folder / "restart.mjs", home, given)
    return Seen(lines, 0, stderr)


@pytest.mark.parametrize("name", ["terminated", "killed"])
def test_what_is_on_the_screen_stays_and_what_waits_is_sent_once(seen: Seen, name: str) -> None:
    assert seen.by(name) == {
        "same": True,
        "said": ["repeat: before", "how many messages?"],
        "fates": 0,
        "box": "This is not sent yet.",
        "asked": ["repeat: before", "how many messages?"],
    }


def test_a_lost_turn_stays_on_the_screen_and_says_so_once(seen: Seen) -> None:
    assert seen.by("loses") == {
        "said": 2,
        "kept": True,
        "mishaps": 1,
        "again": 0,
        "asked": ["repeat: before", "repeat: after"],
    }


def test_a_page_that_joins_later_is_told_of_a_lost_turn_once(seen: Seen) -> None:
    told = seen.by("joinsLate")
    assert told["told"].startswith(LOST)
    assert told["again"] == 0


def test_a_conversation_that_left_memory_is_joined_again(seen: Seen) -> None:
    reasons = ["expired", "evicted", "storage_unavailable", "draining"]
    assert seen.by("leavesMemory") == {reason: [True, "Still here."] for reason in reasons}


def test_stored_conversations_are_listed_and_searched(seen: Seen) -> None:
    assert seen.by("finds") == {"all": 4, "found": 2}


def test_the_console_stays_empty(seen: Seen) -> None:
    assert seen.by("quiet") == {"errors": []}
