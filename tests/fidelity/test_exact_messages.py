"""What the model said goes back to it as it was: every block in its order, thinking with its
signature, whether the first child goes on or another one, that knows it from the log."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from ccapi.actors.session import replay
from ccapi.actors.session.phases import Phase
from tests.support.logins import LoginName
from tests.support.messages_stub import RedactedThinking, Reply, Text, Thinking, ToolUse
from tests.support.pictures import data_url, png

from .served import JSON, Served, function, open_served, part, tool, user

MODEL = "claude-opus-4-8"
TOOLS = [function(name) for name in ("look", "count")]
PICTURE = {"type": "image_url", "image_url": {"url": data_url(png(2, 3))}}

PLAIN = Reply((Thinking("A dot, or six?", 2, "c2lnMQ=="), RedactedThinking(), Text("Six.", 2)))
CALLS = Reply(
    (
        Thinking("Both at once.", 1, "c2lnMg=="),
        Text("Let me see."),
        ToolUse("look", {"at": [1, None, "é"]}, "toolu_look"),
        Thinking("And the other.", 1, "c2lnMw=="),
        ToolUse("count", {}, "toolu_count"),
    )
)
AFTER = Reply((Thinking("So it is.", 1, "c2lnNA=="), Text("Two.")))
RESULTS = (
    tool("toolu_look", [part("here"), PICTURE]),
    tool("toolu_count", "no such thing", is_error=True),
)
QUESTIONS = (
    (user([PICTURE, part("How many?")]),),
    (user("Look again."),),
    RESULTS,
    (user("Sure?"),),
)
REPLIES = (PLAIN, CALLS, AFTER, Reply((Text("Yes."),)))
ANSWERS = ("Six.", "Let me see.", "Two.", "Yes.")
Between = Callable[[Served, str], None]


def undisturbed(_house: Served, _conversation_id: str) -> None:
    pass


def sent(served: Served) -> list[tuple[str, list[JSON]]]:
    """The messages that the API read last, block by block; neighbours of one role are joined, as
    the API joins them."""
    joined: list[tuple[str, list[JSON]]] = []
    for message in served.last.body["messages"]:
        if message["role"] == "system":  # of the CLI's own
            continue
        content = message["content"]
        blocks = [part(content)] if isinstance(content, str) else content
        if not joined or joined[-1][0] != message["role"]:
            joined.append((message["role"], []))
        joined[-1][1].extend(map(without_cache, filter(is_said, blocks)))
    return joined


def without_cache(block: JSON) -> JSON:
    block = {name: value for name, value in block.items() if name != "cache_control"}
    content = block.get("content")
    if isinstance(content, str):
        content = [part(content)]
    if content is not None:
        block["content"] = [*filter(is_said, content)]
    return block


def is_said(block: JSON) -> bool:
    """Not where the CLI keeps a picture. It says so behind one that a child was given, in a prompt
    or as a tool's result: a path in its own folders, with its session's id. A child that receives
    the picture says no path, or its own: the first one's is none of the conversation."""
    return not block.get("text", "").startswith("[Image: source: ")


def ask(served: Served, fields: JSON, *numbers: int, results: Sequence[JSON] = RESULTS) -> None:
    """Have these turns of the conversation happen: a picture; parallel calls; their results; one
    more question. All of them with thinking."""
    for number in numbers:
        asked = results if number == 2 else QUESTIONS[number]
        answer = served.ask(*asked, model=MODEL, tools=TOOLS, **fields)
        assert answer.text == ANSWERS[number]
        assert len(answer.calls) == (2 if number == 1 else 0)
        fields["conversation_id"] = answer.conversation_id


def play(
    served: Served, between: Between, at: int = 3, results: Sequence[JSON] = RESULTS
) -> list[Any]:
    """The whole conversation, with something `between` its first `at` turns and the others, and
    these `results`. Returns what the API read with the last one."""
    served.begin()
    served.answers(*REPLIES)
    fields: JSON = {}
    ask(served, fields, *range(at), results=results)
    between(served, fields["conversation_id"])
    ask(served, fields, *range(at, 4), results=results)
    assert len(served.requests) == 4
    return sent(served)


def thoughts(messages: Iterable[tuple[str, list[JSON]]]) -> list[str]:
    """The signatures of the thinking, and the data of what is redacted."""
    blocks = [block for _, content in messages for block in content]
    kinds = ("thinking", "redacted_thinking")
    return [block.get("signature") or block["data"] for block in blocks if block["type"] in kinds]


@pytest.fixture(scope="module")
def expected(shared: Served) -> list[Any]:
    """What one child sends that lives all the time."""
    messages = play(shared, undisturbed)
    assert thoughts(messages) == ["c2lnMQ==", "cmVkYWN0ZWQ=", "c2lnMg==", "c2lnMw==", "c2lnNA=="]
    return messages


def lend(served: Served, conversation_id: str) -> None:
    """Others take the child: the conversation gets one that was emptied, or cut back."""
    stub = served.live.stub
    assert stub is not None
    answers, asked = list(stub.queue), len(stub.requests)
    stub.queue.clear()
    with ThreadPoolExecutor(12) as clients:  # more than there are children
        others = [
            clients.submit(served.ask, user(f"Other {number}"), model=MODEL, tools=TOOLS)
            for number in range(24)
        ]
        assert all(each.result().status == 200 for each in others)
    del stub.requests[asked:]
    stub.queue.extend(answers)
    assert served.live.gateway.loaded(conversation_id).entry.state.phase is Phase.ASLEEP


@pytest.mark.parametrize("between", [Served.kill_child, lend])
def test_another_child_goes_on(served: Served, expected: list[Any], between: Between) -> None:
    assert play(served, between) == expected


@pytest.mark.parametrize("between", [Served.kill_child, Served.kill_unseen])
def test_another_child_is_told_the_results(
    served: Served, expected: list[Any], between: Between
) -> None:
    """The first one dies while its calls wait for them."""
    assert play(served, between, at=2) == expected


@pytest.mark.parametrize(
    "results",
    [
        [tool("toolu_look", "here"), tool("toolu_count", "one")],
        [tool("toolu_count", "one"), tool("toolu_look", "here")],
        [tool("toolu_count", [part("a"), PICTURE, part("b")]), tool("toolu_look", [PICTURE])],
        [tool("toolu_count", "one"), tool("toolu_look", [part("a"), part("b")], is_error=True)],
        [tool("toolu_count", ""), tool("toolu_look", "here"), user("And now?")],
    ],
    ids=["in order", "turned round", "pictures", "one failed", "more than results"],
)
def test_any_results(served: Served, results: Sequence[JSON]) -> None:
    """A child that waits for results takes texts and pictures from its tool server; the CLI has
    them stand in the order of the calls. What it would change there (it joins and cuts the text of
    an error, and words what is empty), and what comes with a question, reaches the child after
    its calls were taken back: so it is also where nothing happens in between."""
    first = play(served, undisturbed, results=results)
    assert [block["tool_use_id"] for block in results_in(first)] == ["toolu_look", "toolu_count"]
    for at in (2, 3):
        assert play(served, Served.kill_child, at, results) == first


def results_in(messages: Iterable[tuple[str, list[JSON]]]) -> list[JSON]:
    return [block for _, said in messages for block in said if block["type"] == "tool_result"]


@pytest.mark.parametrize("login", ["key", "token"])
def test_no_id_of_a_message_reaches_the_api(tmp_path: Path, login: LoginName) -> None:
    """The API names each of its messages ``msg_...``; the CLI keeps that name, and sends it neither
    in the messages nor anywhere else, whether it had the message from the API or from us. So it
    is not recorded: a child receives messages under ids of its own."""
    with open_served(tmp_path, login) as served:
        play(served, Served.kill_child)
        play(served, undisturbed)
        for request in served.requests:
            assert "msg_" not in json.dumps([request.body, request.headers])
            for message in request.body["messages"]:
                assert message.keys() <= {"role", "content"}


def test_another_child_gets_a_transcript(
    served: Served, expected: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it gets of long histories."""
    monkeypatch.setattr(replay, "RECORDED_FROM", 1)
    assert play(served, Served.kill_child) == expected


@pytest.mark.parametrize("at", [2, 3], ids=["calls wait", "all is said"])
@pytest.mark.parametrize("way", ["told", "recorded"])
def test_another_gateway_goes_on(
    tmp_path: Path, expected: list[Any], at: int, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if way == "recorded":
        monkeypatch.setattr(replay, "RECORDED_FROM", 1)
    fields: JSON = {}
    with open_served(tmp_path) as served:
        served.answers(*REPLIES[:at])
        ask(served, fields, *range(at))
    with open_served(tmp_path) as served:
        served.answers(*REPLIES[at:])
        ask(served, fields, *range(at, 4))
        assert sent(served) == expected
