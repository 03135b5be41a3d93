"""The core of the suite again, with the logins of a subscription: what is said reaches the model as
it was said, but for the notes that the CLI puts before it (`served.spoken` knows them)."""

# The tests and fixtures that are imported run here, with the gateways of this module.
# ruff: noqa: F401, F811

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.logins import SUBSCRIPTIONS, LoginName, asked_as, reminders, write_account
from tests.support.messages_stub import ToolUse, call

from . import test_history as by_history
from .history_model import History
from .served import Served, function, open_served, spoken, system, tool, user
from .test_history import FAILED, LONG, PARALLEL, recorded
from .test_images import (
    test_pictures_in_the_history,
    test_pictures_stand_where_they_stood,
)
from .test_structured import (
    test_a_wrong_answer_is_asked_for_again,
    test_together_with_tools,
)
from .test_tools import (
    test_a_client_that_leaves_in_the_middle_of_a_call,
    test_by_lineage_in_the_same_child,
    test_one_call_after_another_in_the_same_child,
    test_tools_reach_the_model_as_they_are,
)
from .test_upstream_errors import (
    conversation,
    test_a_cut_in_a_whole_answer,
)

ALLOWED = {
    "token": set(),
    # Of the account's profile, and of a new token once the API has refused the old one.
    "file": {"CONNECT api.anthropic.com:443", "CONNECT platform.claude.com:443"},
}


@pytest.fixture(scope="module", params=SUBSCRIPTIONS)
def login(request: pytest.FixtureRequest) -> LoginName:
    name: LoginName = request.param
    return name


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, login: LoginName) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp(login)
    if login == "token":  # the operator's own account, whose address must stay secret
        write_account(folder / "config")
    with open_served(folder, login) as served:
        yield served
        assert asked_as(served.stub, login)
        assert served.live.proxy is not None
        assert set(served.live.proxy.asked) <= ALLOWED[login]
        assert "operator@example.com" not in str([each.body for each in served.stub.requests])


@pytest.mark.parametrize(
    ("model", "role", "count"), [("claude-haiku-4-5", "user", 3), ("claude-opus-4-8", "system", 1)]
)
def test_the_notes_of_the_cli_stand_once(served: Served, model: str, role: str, count: int) -> None:
    first = served.ask(user("Hello"), model=model)
    served.ask(user("Still there?"), conversation_id=first.conversation_id, model=model)
    for request in served.requests:
        assert [said_by for said_by, _ in reminders(request.body)] == [role] * count
    assert spoken(served.last) == [
        ("user", ["Hello"]),
        ("assistant", ["turn 1: Hello"]),
        ("user", ["Still there?"]),
    ]
    assert "claude_config" not in json.dumps(served.last.body)


@pytest.mark.parametrize(
    ("road", "history"),
    [("by_lineage", PARALLEL), ("by_replay", FAILED), ("after_the_child_was_killed", FAILED)],
    ids=["lineage", "replay", "killed"],
)
def test_histories(served: Served, road: str, history: History) -> None:
    run_once(road, served, history)


def test_a_long_history_by_a_transcript(served: Served, recorded: None) -> None:
    run_once("by_a_transcript", served, recorded, LONG)


def run_once(road: str, *given: Any) -> None:
    """One of `test_history`'s tests, with a history given."""
    getattr(by_history, f"test_{road}").hypothesis.inner_test(*given)


@pytest.mark.parametrize("name", ["Agent", "Bash"])
def test_a_clients_tool_may_be_called_as_one_of_the_clis(served: Served, name: str) -> None:
    served.answers(call(ToolUse(name, {"subagent_type": "gw"}, "toolu_own")))
    answer = served.ask(user("Go"), tools=[function(name)])
    assert [each["function"]["name"] for each in answer.calls] == [name]
    served.ask(tool("toolu_own", "done"), conversation_id=answer.conversation_id)
    assert len(reminders(served.last.body)) == 3
    assert spoken(served.last)[-1] == ("user", [("toolu_own", ["done"], False)])


def test_a_result_that_another_child_receives_stays_as_it_is(served: Served) -> None:
    look = {"id": "toolu_a", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    served.ask(
        system("results"),
        user("Look"),
        {"role": "assistant", "content": None, "tool_calls": [look]},
        tool("toolu_a", "seen"),
        tools=[function("look")],
    )
    assert spoken(served.last)[-1] == ("user", [("toolu_a", ["seen"], False)])


def test_the_folder_of_transcripts(served: Served, login: LoginName) -> None:
    """A token's are in a folder of the gateway's own, which no other user can read."""
    served.ask(user("Hello"))
    env = served.live.gateway.settings.claude.env
    storage = served.live.gateway.settings.storage.path
    own, operators = storage / "claude", Path(env["CLAUDE_CONFIG_DIR"])
    assert bool([*own.glob("projects/*/*.jsonl")]) is (login == "token")
    assert bool([*operators.glob("projects/*/*.jsonl")]) is (login == "file")
    if login == "token":
        assert own.stat().st_mode & 0o777 == 0o700
