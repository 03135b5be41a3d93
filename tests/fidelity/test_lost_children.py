"""Tool calls whose child dies before their results come: another child receives the results."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.messages_stub import ToolUse, call, say
from tests.support.responses import RESPONSES, output
from tests.support.responses import tool as response_tool

from .served import (
    JSON,
    MODEL,
    Served,
    Spoken,
    assistant,
    called,
    function,
    spoken,
    tool,
    user,
)

CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
PARIS = ToolUse("get_weather", {"city": "Paris"}, "toolu_paris")
ROME = ToolUse("get_weather", {"city": "Rome"}, "toolu_rome")
AGENT = f"agent/{MODEL}"
TOLD = [
    (
        "assistant",
        [
            "Let me see.",
            ("toolu_paris", "get_weather", {"city": "Paris"}),
            ("toolu_rome", "get_weather", {"city": "Rome"}),
        ],
    ),
    ("user", [("toolu_paris", ["sun"], False), ("toolu_rome", ["rain"], False)]),
]


def terminate(served: Served, conversation_id: str) -> None:
    os.kill(served.adopted(conversation_id)[-1], signal.SIGTERM)


def kill_group(served: Served, conversation_id: str) -> None:
    os.killpg(served.adopted(conversation_id)[-1], signal.SIGKILL)


def lend(served: Served, conversation_id: str) -> None:
    """Others want children: this one has to give way."""
    for number in range(9):
        served.ask(user(f"Other {number}"))
    served.begin()


DEATHS = [
    Served.kill_unseen, Served.kill_child, Served.freeze_and_kill, terminate, kill_group, lend,
]  # fmt: skip
Suspended = tuple[str, Callable[[], str | None]]


def by_history(served: Served, model: str, before: int) -> Suspended:
    messages: list[JSON] = []
    for number in range(before):
        served.answers(say(f"Hello {number}."))
        messages.append(user(f"Hi {number}"))
        answer = served.ask(*messages, model=model, tools=_TOOLS)
        messages.append(assistant(answer.text))
    served.answers(call(PARIS, ROME, text="Let me see."))
    messages.append(user("Weather?"))
    answer = served.ask(*messages, model=model, tools=_TOOLS)
    messages.append(
        assistant(
            "Let me see.",
            called("toolu_paris", "get_weather", {"city": "Paris"}),
            called("toolu_rome", "get_weather", {"city": "Rome"}),
        )
    )
    messages += tool("toolu_rome", "rain"), tool("toolu_paris", "sun")
    return answer.conversation_id, lambda: served.ask(*messages, model=model, tools=_TOOLS).text


def by_id(served: Served, model: str, before: int) -> Suspended:
    fields: JSON = {"tools": _TOOLS, "model": model}
    for number in range(before):
        served.answers(say(f"Hello {number}."))
        answer = served.ask(user(f"Hi {number}"), **fields)
        fields["conversation_id"] = answer.conversation_id
    served.answers(call(PARIS, ROME, text="Let me see."))
    answer = served.ask(user("Weather?"), **fields)
    fields["conversation_id"] = answer.conversation_id
    results = tool("toolu_rome", "rain"), tool("toolu_paris", "sun")
    return answer.conversation_id, lambda: served.ask(*results, **fields).text


def by_response(served: Served, model: str, before: int) -> Suspended:
    last: JSON = {}

    def ask(given: Any) -> JSON:
        nonlocal last
        fields = {"previous_response_id": last["id"]} if last else {}
        body = {"model": model, "input": given, "tools": [_WEATHER], **fields}
        answered = served.post(RESPONSES, body)
        assert answered.status_code == 200, answered.text
        last = answered.json()
        return last

    for number in range(before):
        served.answers(say(f"Hello {number}."))
        ask(f"Hi {number}")
    served.answers(call(PARIS, ROME, text="Let me see."))
    conversation_id = ask("Weather?")["conversation_id"]

    def go_on() -> str | None:
        answer = ask([output("toolu_rome", "rain"), output("toolu_paris", "sun")])
        text: str = answer["output"][-1]["content"][0]["text"]
        return text

    return conversation_id, go_on


_TOOLS = [function("get_weather", CITY)]
_WEATHER = response_tool("get_weather", parameters=CITY)
WAYS = [by_history, by_id, by_response]


def plain(told: Spoken) -> Spoken:
    """Without what the CLI tells an agent by itself."""
    return [(role, [_plain(each) for each in said if not _is_own(each)]) for role, said in told]


def _is_own(block: Any) -> bool:
    return isinstance(block, str) and block.startswith("<")


def _plain(block: Any) -> Any:
    if isinstance(block, tuple) and isinstance(block[1], list):
        call_id, texts, failed = block
        return call_id, [text.strip() for text in texts if not _is_own(text)], failed
    return block


@pytest.mark.parametrize(
    ("model", "before", "death", "way"),
    [
        *((MODEL, 2, death, by_history) for death in DEATHS),
        *((MODEL, 0, terminate, way) for way in WAYS),
        (MODEL, 2, Served.kill_unseen, by_response),
        (MODEL, 0, lend, by_id),
        *((AGENT, 0, Served.kill_unseen, way) for way in WAYS),
        (AGENT, 2, terminate, by_response),
        (AGENT, 0, Served.kill_child, by_id),
        (AGENT, 0, lend, by_response),
    ],
)
def test_the_results_are_replayed_to_another_child(
    served: Served, model: str, before: int, death: Any, way: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    conversation_id, go_on = way(served, model, before)
    served.wait_phase(conversation_id, "awaiting_tools")
    death(served, conversation_id)
    monkeypatch.setattr(served.stub, "answer", lambda _: say("Sunny."))
    begun = len(served.requests)
    assert go_on() == "Sunny."
    assert plain(spoken(served.last))[-2:] == TOLD
    # A child that takes its time to die may still ask with the results that it was given.
    assert len(served.requests) - begun in (1, 2)
