"""Several logins, with the real CLI: who asks the API for which conversation, and what another
login does for a turn that the API refused."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ccapi.schemas.settings.settings import LoginSettings, ModelSettings, WorkspaceSettings
from tests.support.logins import FILE_TOKEN, limit_headers, shows, write_credentials
from tests.support.messages_stub import Failure, Request, say

from .served import Served, open_served, spoken, user

KEYS = {"OF_ONE": "sk-ant-dummy-one", "OF_TWO": "sk-ant-dummy-two"}
TOKENS = {"OF_ONE": "sk-ant-oat01-dummy-one", "OF_TWO": "sk-ant-oat01-dummy-two"}


def by(request: Request) -> str:
    """Whose login a request shows, and that it shows no other."""
    (shown,) = shows(request).values()
    return {
        **{f"Bearer {token}": name for name, token in TOKENS.items()},
        **{key: name for name, key in KEYS.items()},
        f"Bearer {FILE_TOKEN}": "FILE",
    }[shown]


@pytest.fixture
def keys(tmp_path: Path) -> Iterator[Served]:
    with open_with(tmp_path, KEYS, "key_env") as served:
        yield served


@pytest.fixture
def tokens(tmp_path: Path) -> Iterator[Served]:
    with open_with(tmp_path, TOKENS, "token_env") as served:
        yield served


def open_with(tmp_path: Path, secrets: dict[str, str], key: str, **sections: Any) -> Any:
    logins = tuple(
        LoginSettings(name=name, key_env=variable)
        if key == "key_env"
        else LoginSettings(name=name, token_env=variable)
        for name, variable in (("one", "OF_ONE"), ("two", "OF_TWO"))
    )
    return open_served(tmp_path, "key", environ=secrets, logins=logins, **sections)


def test_conversations_keep_their_login_and_are_spread(keys: Served) -> None:
    first = keys.ask(user("Hello"))
    second = keys.ask(user("Good day"))
    assert {by(request) for request in keys.requests} == {"OF_ONE", "OF_TWO"}
    for answer in (first, second, first, second):
        keys.ask(user("And now?"), conversation_id=answer.conversation_id)
    owners: dict[str, set[str]] = {}
    for request in keys.requests:
        owners.setdefault(request.conversation[0][1][0], set()).add(by(request))
    assert all(len(each) == 1 for each in owners.values()), "each by one login for good"
    stats = keys.get("/stats")
    assert [login["name"] for login in stats["logins"]] == ["one", "two"]
    shown = json.dumps([stats, dict(first.headers)])
    assert not any(secret in shown for secret in KEYS.values())


def test_a_refused_turn_goes_to_the_other_login_before_its_first_delta(keys: Served) -> None:
    """With keys nothing reports the limits: the refusal itself is all that is known."""
    first = keys.ask(user("Hello"))
    loser = by(keys.last)
    keys.answers(Failure(429, "slow down"))
    answer = keys.ask(user("And now?"), conversation_id=first.conversation_id)
    assert answer.text == "turn 2: And now?"
    hopped = [by(request) for request in keys.requests]
    assert hopped[-2:] == [loser, ({*KEYS} - {loser}).pop()]
    assert spoken(keys.requests[-1]) == spoken(keys.requests[-2]), "the same was asked"
    keys.answers(Failure(429, "slow down"), Failure(429, "slow down"))
    refused = keys.ask(user("Again?"), conversation_id=first.conversation_id)
    assert (refused.status, refused.error["code"]) == (429, "upstream_rate_limited")
    assert len({by(request) for request in keys.requests[-2:]}) == 2, "one hop, and no second"


def test_a_stream_that_has_begun_goes_nowhere_else(keys: Served) -> None:
    keys.answers(say("one two three", chunks=3, cut_after=2))
    streamed = keys.stream(user("Hello"))
    assert not streamed.done or streamed.text
    assert len(keys.requests) == 1


def test_a_login_that_is_used_up_gives_its_conversations_to_the_other(tokens: Served) -> None:
    first = tokens.ask(user("Hello"))
    loser = by(tokens.last)
    ends = int(time.time()) + 3600
    tokens.answers(Failure(429, headers=limit_headers("rejected", ends)))
    again = tokens.ask(user("And now?"), conversation_id=first.conversation_id)
    assert again.text == "turn 2: And now?"
    winner = by(tokens.last)
    assert winner != loser
    for _ in range(2):
        tokens.ask(user("Something else"))
    assert {by(request) for request in tokens.requests[-2:]} == {winner}
    by_name = {login["name"]: login for login in tokens.get("/stats")["logins"]}
    names = {"OF_ONE": "one", "OF_TWO": "two"}
    assert by_name[names[loser]]["limited_until"] == ends
    assert by_name[names[winner]]["limited_until"] is None
    tokens.answers(Failure(429, headers=limit_headers("rejected", ends - 1000)))
    refused = tokens.ask(user("And then?"), conversation_id=first.conversation_id)
    asked = len(tokens.requests)
    assert (refused.status, tokens.ask(user("A new one")).status) == (429, 429)
    assert len(tokens.requests) == asked
    assert int(refused.headers["retry-after"]) <= 2600, "the first that counts anew"


def test_an_agent_goes_on_with_another_login_and_after_a_restart(tmp_path: Path) -> None:
    """Its transcript lies in the configuration folder of the login that it had: where another takes
    over, the new process is given what was said."""
    one, two = tmp_path / "one", tmp_path / "two"
    for folder in (one, two):
        write_credentials(folder)
    secrets = {"OF_ONE": KEYS["OF_ONE"]}
    key = LoginSettings(name="key", key_env="OF_ONE")
    file = LoginSettings(name="file", config_dir=two)
    given: dict[str, Any] = {
        "environ": secrets, "models": ModelSettings(agents=True),
        "workspaces": WorkspaceSettings(sandbox="off", network=True),
    }  # fmt: skip
    model = "agent/claude-haiku-4-5"
    with open_served(tmp_path, "key", logins=(file,), **given) as served:
        first = served.ask(user("Hello"), model=model)
        assert first.text == "turn 1: Hello"
        assert by(served.last) == "FILE"
        assert [*two.glob("projects/*/*.jsonl")], "resumed from there"
    with open_served(tmp_path, "key", logins=(key, file), **given) as served:
        served.begin()
        again = served.ask(user("Still there?"), model=model, conversation_id=first.conversation_id)
        assert again.text == "turn 2: Still there?"
        assert by(served.last) == "FILE", "it keeps its login over a restart"
        served.answers(Failure(429, "slow down"))
        moved = served.ask(user("And now?"), model=model, conversation_id=first.conversation_id)
        assert moved.text == "turn 3: And now?"
        assert by(served.last) == "OF_ONE"
    with open_served(tmp_path, "key", logins=(file,), **given) as served:
        back = served.ask(user("Back?"), model=model, conversation_id=first.conversation_id)
        assert back.text == "turn 4: Back?", "the login that it had is gone"
        assert by(served.last) == "FILE"
