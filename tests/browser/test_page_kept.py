"""What the page keeps and what it does not: what `kept.mjs` saw."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from ccapi.schemas.settings.settings import AuthSettings
from tests.conformance.node import Seen, run_checks
from tests.support.live import open_live_demo

from .world import MATHS, NUMBERS, open_world

KEY = "a/key+of=32-characters-or-more!!"


@pytest.fixture(scope="module")
def seen(
    browser_folder: Path,
    browser_environment: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Seen:
    places = [tmp_path_factory.mktemp(name) for name in ("first", "second", "keyed")]

    async def go() -> Seen:
        async with (
            open_world(places[0]) as first,
            open_world(places[1]) as second,
            open_live_demo(places[2], auth=AuthSettings(api_keys=(KEY,))) as keyed,
        ):
            given = {
                **browser_environment,
                "CCAPI_TEST_BASE_URL": first.url,
                "CCAPI_TEST_OTHER_URL": second.url,
                "CCAPI_TEST_KEYED_URL": keyed.url,
                "CCAPI_TEST_KEY": KEY,
            }
            lines, stderr = await run_checks(browser_folder / "kept.mjs", places[0], given)
        return Seen(lines, 0, stderr)

    return trio.run(go)


def test_a_stopped_answer_stays_on_the_page_and_in_the_conversation(seen: Seen) -> None:
    stopped = seen.by("stops")
    assert stopped["words"].startswith("Stopped.")
    asked, partial, *rest = stopped["items"]
    assert asked == ["user", "completed", "Count"]
    assert partial[:2] == ["assistant", "incomplete"]
    # The answer may have been stopped behind a space, which no page shows.
    assert partial[2].rstrip() == stopped["written"] == stopped["again"]
    assert NUMBERS.startswith(partial[2])
    assert rest == [
        ["user", "completed", "What now?"],
        ["assistant", "completed", "You said: What now?"],
    ]
    assert stopped["marked"] == "This answer ended early."


def test_maths_is_shown_as_it_was_written(seen: Seen) -> None:
    shown = seen.by("maths")
    assert shown["emphasised"] == 1
    for line in filter(None, MATHS.splitlines()):
        assert line.replace("*so*", "so").strip() in shown["text"]


def test_the_wishes_for_one_conversation_do_not_leak_into_the_next(seen: Seen) -> None:
    assert seen.by("wishes") == {"effort": "low", "left": ["", "", ""]}


def test_text_and_code_are_attached_and_what_is_none_is_refused(seen: Seen) -> None:
    attached = seen.by("attaches")
    assert "bytes.bin is neither" in attached["refused"]
    assert "tune.mp3 is neither" in attached["refused"]
    assert attached["shown"] == ["half.py", "Makefile", "wide.txt"]
    assert attached["text"] == "I see 3: text/plain, text/plain, text/plain."
    assert attached["chips"] == attached["shown"]


def test_the_document_does_not_scroll(seen: Seen) -> None:
    assert seen.by("scrolls") == {"more": 0, "scrollTop": 0, "inside": True}


def test_a_restart_wipes_neither_the_screen_nor_what_waits(seen: Seen) -> None:
    restarted = seen.by("restarts")
    kept = restarted["kept"]
    assert kept["hash"]
    assert kept["said"] == ["My name is Ada.", "Count", "This waits."]
    assert kept["answers"][0] == "You said: My name is Ada."
    assert NUMBERS.startswith(kept["answers"][1])
    assert kept["box"] == restarted["box"] == "This is not sent yet."
    assert not kept["wide"]
    assert restarted["moved"]
    assert [text.strip() for _, _, text in restarted["items"]] == [
        "My name is Ada.",
        "You said: My name is Ada.",
        "Count",
        kept["answers"][1],
        "This waits.",
        "You said: This waits.",
    ]


def test_a_draft_for_a_conversation_that_is_gone_outlives_a_reload(seen: Seen) -> None:
    reloaded = seen.by("reloadsAfterRestart")
    assert reloaded["greeting"] == "This conversation does not exist (any more)."
    assert reloaded["box"] == "A draft."


def test_more_conversations_than_one_page_holds_are_listed(seen: Seen) -> None:
    assert seen.by("lists") == {"counts": [100, 200], "all": True, "once": True}


def test_a_key_that_no_header_can_hold_is_refused_in_words(seen: Seen) -> None:
    keys = seen.by("keys")
    assert all("A key is made of" in words for words in (*keys["complaints"], keys["kept"]))
    assert "“ü” as its character 5" in keys["complaints"][0]


def test_the_console_stays_empty_and_no_other_host_is_asked(seen: Seen) -> None:
    assert seen.by("quiet") == {"errors": [], "hosts": []}
