"""More of the page in a browser, beside test_page.py: what `further.mjs` saw."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from tests.conformance.node import Seen, run_checks

from .world import NUMBERS, open_world


def run(script: Path, home: Path, environment: dict[str, str]) -> Seen:
    async def go() -> Seen:
        async with open_world(home) as live:
            given = {**environment, "CCAPI_TEST_BASE_URL": live.url}
            lines, stderr = await run_checks(script, home, given)
        return Seen(lines, 0, stderr)

    return trio.run(go)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("page")


@pytest.fixture(scope="module")
def seen(browser_folder: Path, browser_environment: dict[str, str], home: Path) -> Seen:
    return run(browser_folder / "further.mjs", home, browser_environment)


def test_a_message_makes_a_conversation_and_is_answered(seen: Seen) -> None:
    chat = seen.by("chats")
    assert chat["text"] == "You said: Good morning"
    assert chat["hash"].startswith("#/c/conv_")
    assert chat["listed"] == ["Good morning"]


def test_a_pdf_is_attached_and_what_is_none_is_refused(seen: Seen) -> None:
    attached = seen.by("attaches")
    assert "tune.mp3" in attached["refused"]
    assert attached["text"] == "I see 1: application/pdf."
    assert attached["shown"] == "paper.pdf"


def test_nothing_a_model_says_runs_or_becomes_an_element(seen: Seen) -> None:
    attack = seen.by("hostile")
    assert attack["hacked"] is None
    assert attack["made"] == 0
    assert attack["said"]
    assert attack["links"]
    assert all(link.startswith("https://evil.example/") for link in attack["links"])


def test_an_agents_request_is_allowed_after_a_reload(seen: Seen, home: Path) -> None:
    permit = seen.by("permits")
    assert "note.txt" in permit["asked"]
    assert "Dear diary" in permit["asked"]
    assert permit["tools"] == ["Write"]
    assert permit["state"] == "done"
    note = home / "state" / "workspaces" / permit["id"] / "note.txt"
    assert note.read_text() == "Dear diary"


def test_an_agents_request_is_denied_with_a_reason(seen: Seen) -> None:
    assert "Not today." in seen.by("denies")["text"]


def test_a_lost_connection_loses_and_doubles_nothing(seen: Seen) -> None:
    reconnected = seen.by("reconnects")
    assert len(reconnected["held"]) < len(NUMBERS)
    assert reconnected["answers"] == [NUMBERS, "You said: And this was said meanwhile"]
    assert reconnected["questions"] == ["Count again", "And this was said meanwhile"]


def test_a_reload_shows_the_same_conversation(seen: Seen) -> None:
    assert seen.by("reloads") == {"turns": 2, "last": "You said: And this was said meanwhile"}


def test_it_is_used_with_keys_alone_and_keeps_a_draft(seen: Seen) -> None:
    assert seen.by("keyboard") == {"focus": "ask", "draft": "kept"}


def test_the_overview_shows_what_is_at_work(seen: Seen) -> None:
    overview = seen.by("overview")
    assert "At work\t1" in overview["table"]
    assert overview["cells"] >= 5
    assert overview["captions"] == [
        "Sessions by phase",
        "Children",
        "Turns by how they got their process",
        "Work",
    ]
    assert not overview["wide"]
    assert overview["errors"] == []


def test_usage_is_shown_by_day_and_model_with_sums(seen: Seen) -> None:
    usage = seen.by("usage")
    assert usage["rows"][0] == ["Day (UTC)", "Model", "Turns", "Tokens", "USD"]
    rows = usage["rows"][1:]
    assert rows, "there were turns before"
    turns = sum(int(row[2]) for row in rows)
    tokens = sum(int(row[3].replace(",", "")) for row in rows)
    assert usage["sums"][5] == f"{tokens:,} tokens, {turns} turns", "this month is all there is"
    assert turns >= 8
    assert usage["sums"][4].startswith("$")
    assert usage["reached"] == "By day and model"
    assert (usage["wide"], usage["errors"]) == (False, [])


def test_usage_of_several_keys_of_none_and_of_an_error(seen: Seen) -> None:
    usage = seen.by("usage")
    assert "bob\t48\t29,616\t$12.00" in usage["keys"]
    assert (usage["listed"], usage["focus"]) == (25, "By day and model")
    assert usage["none"] == "Nothing was used this month."
    assert usage["fault"] == "Usage is not known: The storage has a fault."


def test_who_else_watches_is_shown_and_sees_the_same(seen: Seen) -> None:
    assert seen.by("watchers") == {"errors": []}


def test_on_a_phone_nothing_scrolls_sideways_or_overlaps(seen: Seen) -> None:
    phone = seen.by("phone")
    assert phone == {"wide": [False, False, False], "apart": True, "errors": []}


def test_a_conversation_is_deleted(seen: Seen) -> None:
    assert seen.by("deletes") == {"greeting": "Who is at home?", "hash": "#/"}


def test_the_console_stays_empty_and_no_other_host_is_asked(seen: Seen) -> None:
    assert seen.by("quiet") == {"errors": [], "hosts": []}
