"""The results of tool calls reach the model, whatever ids the client's history has for them."""

from __future__ import annotations

import pytest

from .served import JSON, Served, assistant, called, function, spoken, tool, user

TOOLS = [function("look")]


def rounds(*ids: str) -> list[JSON]:
    """A question, a call, its result and an answer for each of the ids."""
    return [
        message
        for number, call_id in enumerate(ids)
        for message in (
            user(f"question {number}"),
            assistant(None, called(call_id, "look", {"number": number})),
            tool(call_id, f"result {number}"),
            assistant(f"answer {number}"),
        )
    ]


def results(served: Served) -> list[str]:
    """The results in the last request, in order; each follows the call that it is of."""
    calls: list[str] = []
    found: list[tuple[str, str]] = []
    for _, blocks in spoken(served.last):
        for block in blocks:
            match block:
                case (str(call_id), str(), dict()):
                    calls.append(call_id)
                case (str(call_id), [str(text)], bool()):
                    found.append((call_id, text))
    assert [call_id for call_id, _ in found] == calls
    assert len(set(calls)) == len(calls)
    return [text for _, text in found]


@pytest.mark.parametrize(
    "ids",
    [
        ["call_0"] * 12,
        ["call_0"] * 20,  # so many are put into a transcript
        ["abc", "abc_2"],
        ["abc_2", "abc"],
        ["call", "call_1", "call_2"],
        ["functions.look:0", "functions.look:0"],
    ],
    ids=["again", "recorded", "behind", "before", "several", "odd"],
)
def test_no_result_is_lost(served: Served, ids: list[str]) -> None:
    answer = served.ask(*rounds(*ids), user("And now?"), tools=TOOLS)
    assert answer.status == 200
    assert results(served) == [f"result {number}" for number in range(len(ids))]


def test_calls_of_one_message(served: Served) -> None:
    calls = [called(call_id, "look", {}) for call_id in ("call", "call_1")]
    given = [tool("call", "result 0"), tool("call_1", "result 1")]
    served.ask(user("hi"), assistant(None, *calls), *given, tools=TOOLS)
    assert sorted(results(served)) == ["result 0", "result 1"]


def test_a_live_child_receives_more(served: Served) -> None:
    """It holds the first calls already, in a transcript of its own, when it receives the others."""
    first = served.ask(*rounds("call_0", "abc_2"), user("And now?"), tools=TOOLS)
    said = [*rounds("call_0", "abc_2"), user("And now?"), assistant(first.text)]
    second = served.ask(
        *said,
        *rounds("call_0", "abc"),
        user("And then?"),
        conversation_id=first.conversation_id,
    )
    assert second.status == 200
    assert len(served.adopted(first.conversation_id)) == 1
    assert results(served) == ["result 0", "result 1", "result 0", "result 1"]


def test_the_client_sees_its_own_ids(served: Served) -> None:
    answer = served.ask(*rounds("call_0", "call_0"), user("And now?"), tools=TOOLS)
    listed = served.get(f"/v1/conversations/{answer.conversation_id}/items?limit=100")
    ids = [item["call_id"] for item in listed["data"] if "call_id" in item]
    assert ids == ["call_0"] * 4
