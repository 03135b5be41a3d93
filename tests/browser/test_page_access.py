"""The page by keyboard, by recorder, without a connection, with a key: what `access.mjs` saw."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from ccapi.schemas.settings.settings import AuthSettings
from tests.conformance.node import Seen, run_checks
from tests.support.live import open_live_demo

KEY = "sk-page-0123456789abcdef0123456789abcdef"


async def _look(script: Path, home: Path, environment: dict[str, str]) -> Seen:
    async with open_live_demo(home, auth=AuthSettings(api_keys=(KEY,))) as live:
        given = {**environment, "CCAPI_TEST_BASE_URL": live.url, "CCAPI_TEST_KEY": KEY}
        lines, stderr = await run_checks(script, home, given)
    return Seen(lines, 0, stderr)


@pytest.fixture(scope="module")
def seen(
    browser_folder: Path,
    browser_environment: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Seen:
    home = tmp_path_factory.mktemp("access")
    return trio.run(_look, browser_folder / "access.mjs", home, browser_environment)


def test_it_asks_for_a_key_and_says_when_it_is_the_wrong_one(seen: Seen) -> None:
    asked = seen.by("asksForAKey")
    assert (asked["focus"], asked["axed"], asked["open"]) == ("key", [], 0)
    assert asked["wrong"] == "The API key is not valid."
    assert asked["kept"] == [True, False], "for as long as the tab is open, unless told otherwise"


def test_everything_can_be_done_by_keyboard(seen: Seen) -> None:
    done = seen.by("worksByKeyboard")
    assert done["written"] == "count to 5\nplease"
    assert "5" in done["answer"]
    assert done["moved"]
    assert done["after"] == "ask", "the message box is where one goes on"
    assert done["left"] == 1


def test_an_answer_is_read_out_once_when_it_is_whole(seen: Seen) -> None:
    spoken = seen.by("isSpokenNotSpelt")
    assert (spoken["live"], spoken["log"], spoken["times"]) == ("polite", "off", 1)
    assert spoken["said"].startswith("Answer:")


def test_what_is_written_without_a_connection_waits_and_is_sent_once(seen: Seen) -> None:
    fates = seen.by("waitsForTheConnection")["fates"]
    assert [fate.startswith("Waits for the connection") for fate in fates] == [True, True]
    kept = seen.by("keepsWhatWaits")
    assert kept["asked"] == ["repeat: better late", "repeat: than never"]
    assert kept["answers"] == ["better late", "than never"]
    assert (kept["draft"], kept["fates"]) == ("half a thought", 0)


def test_axe_finds_nothing_serious(seen: Seen) -> None:
    found = seen.by("pleasesAxe")
    assert found.pop("wide") <= 360
    assert found == {view: [] for view in found}
    assert len(found) == 7


def test_day_and_night_can_be_set(seen: Seen) -> None:
    (before, light, dark, after) = seen.by("switchesDayAndNight")
    assert [before[0], light[0], dark[0], after[0]] == ["system", "light", "dark", "system"]
    assert light[1] != dark[1]


def test_the_console_stays_empty_and_no_other_host_is_asked(seen: Seen) -> None:
    assert seen.by("quiet") == {"errors": [], "hosts": []}
