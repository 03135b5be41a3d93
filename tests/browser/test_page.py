"""The page in Debian's Chromium, on a gateway with the real CLI: what `page.mjs` saw."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import trio

from ccapi.schemas.settings.settings import AuthSettings
from tests.conformance.node import Seen, install
from tests.support.live import open_live_cli, open_live_demo
from tests.support.messages_answers import Answer, ToolUse, call, say
from tests.support.messages_stub import Request

HERE = Path(__file__).parent
SHOTS = HERE.parent.parent / ".artefacts"
PARAGRAPHS = 30
KEY = "a/key+of=32-characters-or-more!!"
SLOW = "\n\n".join(
    [
        "# A slow answer",
        "With <script>alert(1)</script> and <img src=x onerror=alert(1)>.",
        "And [a link](https://example.org) and [another](javascript:alert(1)).",
        *(f"Paragraph {number}. It has **bold** words and `code`." for number in range(PARAGRAPHS)),
        "```python\ndef half(x):\n    return x / 2  # of it\n```",
        "| a | b |\n|---|---|\n| 1 | 2 |",
    ]
)


class Model:
    """What stands behind the CLI."""

    def __init__(self) -> None:
        self.counted = 0

    def answer(self, request: Request) -> Answer:
        text = request.last_user_text
        if text.startswith("Say slowly"):
            return say(SLOW, chunks=120, pause=0.02)
        if text == "Count":
            self.counted += 1
            return say(f"You asked {self.counted} times.")
        if text.startswith("Write it down"):
            note = {"file_path": "note.md", "content": "Remember the plums.\n"}
            return call(ToolUse("Write", note), text="I will write it down.")
        pictures = json.dumps(request.body["messages"][-1]).count('"type": "image"')
        return say(f"I have read: {text} (pictures: {pictures})")


async def _look(folder: Path, tmp_path: Path) -> Seen:
    model = Model()
    keyed = {"auth": AuthSettings(api_keys=(KEY,))}
    (tmp_path / "keyed").mkdir()
    async with (
        open_live_cli(tmp_path) as live,
        open_live_demo(tmp_path / "keyed", **keyed) as locked,
    ):
        assert live.stub is not None
        live.stub.answer = model.answer
        done = await trio.run_process(
            ["node", str(folder / "page.mjs")],
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(tmp_path),
                "CCAPI_TEST_URL": live.url,
                "CCAPI_TEST_KEYED_URL": locked.url,
                "CCAPI_TEST_KEY": KEY,
                "CCAPI_TEST_SHOTS": str(SHOTS),
                "CCAPI_TEST_CHROMIUM": shutil.which("chromium") or "chromium is missing",
            },
            capture_stdout=True,
            capture_stderr=True,
            check=False,
        )
    stdout, stderr = done.stdout.decode(), done.stderr.decode()
    assert done.returncode == 0, f"{stdout}\n{stderr}"
    lines = map(json.loads, stdout.splitlines())
    return Seen({line.pop("check"): line for line in lines}, 0, stderr)


@pytest.fixture(scope="module")
def seen(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Seen:
    SHOTS.mkdir(exist_ok=True)
    folder = install(pytestconfig.cache.mkdir("browser"), HERE)
    return trio.run(_look, folder, tmp_path_factory.mktemp("page"))


def saw(seen: Seen, check: str) -> Any:
    return seen.by(check)


def test_it_opens(seen: Seen) -> None:
    assert saw(seen, "opens")["title"] == "New conversation · ccapi"


def test_an_answer_grows_and_nothing_of_it_runs(seen: Seen) -> None:
    chat = saw(seen, "chats")
    assert chat["grew"]
    assert chat["heading"] == "A slow answer"
    assert chat["code"] == "def half(x):\n    return x / 2  # of it"
    assert (chat["scripts"], chat["links"]) == (0, ["https://example.org"])
    assert (chat["address"], chat["listed"]) == (True, "Say slowly")


def test_escape_stops_the_answer(seen: Seen) -> None:
    assert saw(seen, "stops")["said"].startswith("Stopped.")


def test_an_answer_can_be_had_again(seen: Seen) -> None:
    assert saw(seen, "regenerates") == {"same": True}


def test_a_picture_is_pasted_and_reaches_the_model(seen: Seen) -> None:
    assert saw(seen, "pastes") == {"shown": 1}


def test_a_lost_connection_comes_back_and_nothing_is_lost_or_doubled(seen: Seen) -> None:
    back = saw(seen, "comesBack")
    assert back["once"] == [1] * PARAGRAPHS
    assert (back["state"], back["turns"]) == (True, 1)


def test_a_person_allows_what_an_agent_asks(seen: Seen) -> None:
    asked = saw(seen, "asksPermission")
    assert (asked["input"], asked["step"]) == ("Remember the plums.\n", "Write")
    assert asked["settled"].startswith("Allowed")
    assert "I have read:" in asked["answer"]
    assert asked["bar"]


def test_a_permission_answered_by_another_client_is_settled_here_too(seen: Seen) -> None:
    answered = saw(seen, "isAnsweredElsewhere")
    assert answered["settled"].startswith("Denied over HTTP")
    assert answered["step"] == "failed"
    assert "Not today." in answered["told"]


def test_the_overview_shows_what_is_at_work(seen: Seen) -> None:
    overview = saw(seen, "overview")
    assert overview["tables"] == [
        "Sessions by phase",
        "Children",
        "Turns by how they got their process",
        "Work",
    ]
    assert overview["cells"] >= 2
    assert overview["moved"]
    assert overview["former"], "bookmarks have #/house"


def test_it_fits_a_phone(seen: Seen) -> None:
    saw(seen, "night")
    assert saw(seen, "phone")["wide"] <= 360


def test_where_there_are_keys_it_asks_for_one(seen: Seen) -> None:
    asked = saw(seen, "asksForKey")
    assert asked["complaint"] == "The API key is not valid."
    assert "Hello! This is turn 1" in asked["answer"]


def test_it_complains_of_nothing_and_talks_to_no_other_host(seen: Seen) -> None:
    quiet = saw(seen, "quiet")
    assert quiet["wrong"] == []
    assert {host.partition(":")[0] for host in quiet["hosts"]} == {"127.0.0.1"}
