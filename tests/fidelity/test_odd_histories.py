"""Histories as some clients have them, which OpenAI's API answers: only system text, empty messages
in an old chat, results that do not follow their calls at once."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.messages_stub import ToolUse, call
from tests.support.pictures import data_url, png

from .served import (
    JSON,
    Served,
    assistant,
    called,
    function,
    part,
    spoken,
    system,
    tool,
    user,
)

TOOLS = [function("look")]
LOOK = called("c1", "look", {})
CALL: tuple[str, str, JSON] = ("c1", "look", {})


def developer(text: str) -> JSON:
    return {"role": "developer", "content": text}


@pytest.mark.parametrize("speak", [system, developer])
def test_system_text_alone_is_answered(served: Served, speak: Any) -> None:
    answer = served.ask(speak("Say hello."))
    assert answer.text == "turn 1: Say hello."
    assert spoken(served.last) == [("user", ["Say hello."])]


def test_all_but_the_last_of_it_stays_the_systems(served: Served) -> None:
    served.ask(system("Be brief."), developer("Say hello."))
    assert spoken(served.last) == [("user", ["Say hello."])]
    assert "Be brief." in served.last.system


def test_in_responses_too(served: Served) -> None:
    body = {"model": "sonnet", "input": [developer("Say hello.")], "instructions": "Be brief."}
    answer = served.post("/v1/responses", body)
    assert answer.status_code == 200
    assert spoken(served.last) == [("user", ["Say hello."])]
    assert "Be brief." in served.last.system


@pytest.mark.parametrize("empty", ["", " \n", [part("")]])
def test_an_empty_message_does_not_block_an_old_chat(served: Served, empty: Any) -> None:
    said = [user("a"), assistant("b"), user(empty), assistant("c")]
    answer = served.ask(*said, user("d"))
    assert answer.status == 200
    assert spoken(served.last) == [("user", ["a"]), ("assistant", ["b", "c"]), ("user", ["d"])]
    again = served.ask(*said, user("d"), assistant(answer.text), user("e"))
    assert again.headers["x-ccapi-lineage"] == "hit"
    last = served.ask(*said, user(empty))
    assert (last.status, last.error["param"]) == (400, "messages[4].content")


def test_results_are_found_by_the_ids_of_their_calls(served: Served) -> None:
    """As semantic-kernel writes them: what the user says meanwhile comes before the result."""
    said = [user("q"), assistant(None, LOOK), user("Well?"), tool("c1", "blue")]
    answer = served.ask(*said, tools=TOOLS)
    assert answer.status == 200
    assert spoken(served.last) == [
        ("user", ["q"]),
        ("assistant", [CALL]),
        ("user", [("c1", ["blue"], False), "Well?"]),
    ]
    again = served.ask(*said, assistant(answer.text), user("And?"), tools=TOOLS)
    assert again.headers["x-ccapi-lineage"] == "hit"


def test_a_child_that_waits_is_given_them_too(served: Served) -> None:
    served.answers(call(ToolUse("look", {}, "toolu_1")))
    first = served.ask(user("q"), tools=TOOLS)
    second = served.ask(
        user("Well?"), tool("toolu_1", "blue"), conversation_id=first.conversation_id
    )
    assert second.status == 200
    assert spoken(served.last)[-1] == ("user", [("toolu_1", ["blue"], False), "Well?"])


def test_pictures_stay_where_they_were_said(served: Served) -> None:
    """One in what the user says, one in the result that is moved before it."""

    def picture(width: int) -> JSON:
        return {"type": "image_url", "image_url": {"url": data_url(png(width, 1))}}

    said = user([part("first"), picture(1)])
    served.ask(user("q"), assistant(None, LOOK), said, tool("c1", [picture(2)]), tools=TOOLS)
    (result, *rest) = spoken(served.last)[-1][1]
    pictures = [block[1]["data"] for block in (*result[1], *rest) if block[0] == "image"]
    wanted = [data_url(png(width, 1)).partition(",")[2] for width in (2, 1)]
    assert pictures == wanted


def test_a_result_without_a_call_is_still_refused(served: Served) -> None:
    answer = served.ask(user("q"), assistant("a"), tool("c9", "?"), user("b"))
    assert (answer.status, answer.error["code"]) == (400, "unknown_tool_call_id")
