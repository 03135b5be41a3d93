"""The limits of a subscription, from the API's headers to the client: told with their time, asked
for no more than needed, and forgotten when they count anew."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.logins import TOKEN, limit_headers
from tests.support.messages_stub import Failure, say

from .served import Served, open_served, user


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with open_served(tmp_path, "token") as served:
        yield served


def test_a_limit_is_told_truly_and_not_asked_for_again(served: Served) -> None:
    ends = int(time.time()) + 3600
    first = served.ask(user("Hello"))
    (login,) = served.get("/stats")["logins"]
    assert login["windows"] == {}, "the API has said nothing"
    assert first.status == 200

    served.answers(say("Here.", headers=limit_headers("allowed", ends, 0.5)))
    assert served.ask(user("And now?"), conversation_id=first.conversation_id).text == "Here."
    (login,) = served.get("/stats")["logins"]
    assert (login["status"], login["limited_until"]) == ("allowed", None)
    assert login["windows"]["five_hour"] == {
        "utilization": 0.5, "resets_at": ends, "status": "allowed",
    }  # fmt: skip
    assert login["windows"]["seven_day"]["utilization"] == 0.25

    soon = int(time.time()) + 8
    served.answers(Failure(429, headers=limit_headers("rejected", soon)))
    refused = served.ask(user("And then?"), conversation_id=first.conversation_id)
    asked, spawned = len(served.requests), served.get("/stats")["children"]["spawned"]
    for answer in (
        refused,
        served.ask(user("And then?"), conversation_id=first.conversation_id),
        served.ask(user("A new conversation")),
    ):
        assert (answer.status, answer.error["code"]) == (429, "upstream_rate_limited")
        left = soon - time.time()
        assert left - 1 <= int(answer.headers["retry-after"]) <= left + 3
    streamed = served.stream(user("A stream"))
    assert (streamed.status, "retry-after" in streamed.headers) == (429, True)
    assert len(served.requests) == asked, "nothing of it reached the API"
    stats = served.get("/stats")
    assert stats["children"]["spawned"] == spawned, "nor cost a child"
    assert (stats["logins"][0]["status"], stats["logins"][0]["limited_until"]) == ("rejected", soon)
    assert TOKEN not in json.dumps(stats)
    metrics = served._client.get("/metrics").text
    assert 'ccapi_login_limited{login="default"} 1.0' in metrics

    time.sleep(max(0.0, soon - time.time()) + 0.1)
    again = served.ask(user("And then?"), conversation_id=first.conversation_id)
    assert again.text == "turn 3: And then?"


def test_overage_pays_for_what_the_limit_rejects(served: Served) -> None:
    headers = limit_headers("rejected", int(time.time()) + 3600, overage="allowed")
    served.answers(say("One.", headers=headers), say("Two.", headers=headers))
    assert served.ask(user("Hello")).text == "One."
    assert served.ask(user("Hello again")).text == "Two."
    (login,) = served.get("/stats")["logins"]
    assert (login["limited_until"], login["overage"]["in_use"]) == (None, True)
