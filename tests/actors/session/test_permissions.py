"""An agent's permission requests, and how each is answered."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from ccapi.actors.session.events import PermissionReply
from ccapi.actors.session.permissions import PermissionRequests
from ccapi.schemas.claude.output import PermissionAsked
from ccapi.schemas.claude.permissions import read_suggestions

BASH = PermissionAsked(
    "r1",
    "Bash",
    {"command": "npm test"},
    "toolu_1",
    suggestions=(
        {
            "type": "addRules",
            "rules": [{"toolName": "Bash", "ruleContent": "npm test:*"}],
            "behavior": "allow",
            "destination": "localSettings",
        },
    ),
)


def answer(tool_calls: PermissionRequests, **reply: Any) -> Any:
    answered = tool_calls.answer(PermissionReply(request_id="r1", **reply))
    assert answered is not None
    response = json.loads(bytes(answered.line))["response"]
    assert (response["subtype"], response["request_id"]) == ("success", "r1")
    return answered, response["response"]


@pytest.fixture
def tool_calls() -> PermissionRequests:
    tool_calls = PermissionRequests()
    tool_calls.open(BASH, due=10)
    return tool_calls


def test_allowed_as_it_was_asked(tool_calls: PermissionRequests) -> None:
    answered, body = answer(tool_calls, allow=True)
    assert body == {"behavior": "allow", "updatedInput": {"command": "npm test"}}
    assert (answered.allowed, answered.rules) == (True, ())
    assert tool_calls.answer(PermissionReply(request_id="r1", allow=True)) is None
    assert tool_calls.due == math.inf


def test_allowed_with_another_input(tool_calls: PermissionRequests) -> None:
    _, body = answer(tool_calls, allow=True, updated_input={"command": "true"})
    assert body["updatedInput"] == {"command": "true"}


def test_always_means_the_first_suggestion_and_never_a_file(tool_calls: PermissionRequests) -> None:
    answered, body = answer(tool_calls, allow=True, always=True)
    assert answered.rules == ("Bash(npm test:*)",)
    [update] = body["updatedPermissions"]
    assert update["destination"] == "session"
    assert update["rules"] == [{"toolName": "Bash", "ruleContent": "npm test:*"}]


def test_always_can_mean_the_whole_tool(tool_calls: PermissionRequests) -> None:
    answered, body = answer(tool_calls, allow=True, always=True, suggestion="s1")
    assert answered.rules == ("Bash",)
    assert body["updatedPermissions"][0]["rules"] == [{"toolName": "Bash"}]


def test_denied_with_a_reason_or_without(tool_calls: PermissionRequests) -> None:
    answered, body = answer(tool_calls, allow=False, message="Not today.", always=True)
    assert (body, answered.rules) == ({"behavior": "deny", "message": "Not today."}, ())
    tool_calls.open(BASH, due=10)
    assert answer(tool_calls, allow=False)[1]["message"]


def test_time_runs_out_for_each_on_its_own(tool_calls: PermissionRequests) -> None:
    assert tool_calls.due == 10
    assert tool_calls.expire(9.9) == []
    [late] = tool_calls.expire(10)
    assert late.asked.request_id == "r1"
    assert json.loads(bytes(late.line))["response"]["response"]["behavior"] == "deny"
    assert len(tool_calls) == 0


@pytest.mark.parametrize(
    ("given", "labels"),
    [
        ((), ["Write"]),
        (({"type": "setMode", "mode": "acceptEdits"},), ["Edit, Write, NotebookEdit", "Write"]),
        (({"type": "addDirectories", "directories": ["/tmp"]},), ["Write"]),
        (({"type": "addRules", "behavior": "deny", "rules": [{"toolName": "X"}]},), ["Write"]),
        (({"type": "addRules", "behavior": "allow", "rules": "odd"},), ["Write"]),
        (({"type": "addRules", "behavior": "allow", "rules": [{"toolName": "Write"}]},), ["Write"]),
    ],
)
def test_what_is_suggested(given: Any, labels: list[str]) -> None:
    assert [each.label for each in read_suggestions(given, "Write")] == labels
