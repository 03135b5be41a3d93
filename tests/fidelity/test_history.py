"""Whatever a client's history is made of, the model reads it as it was: whether it went by
lineage, was replayed, resumed out of a transcript, or outlived its child."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings

from ccapi.actors.session import replay

from .history_model import ODD_TEXTS, TOOLS, Exchange, History, expected, histories
from .served import (
    JSON,
    Served,
    Streamed,
    assistant,
    called,
    open_served,
    part,
    spoken,
    system,
    tool,
    user,
)

pytestmark = pytest.mark.filterwarnings("ignore:Generating overly large repr")

_cases = itertools.count()


HISTORIES = int(os.environ.get("CCAPI_TEST_HISTORIES", "1"))


def few(examples: int) -> settings:
    """Each example costs a child. Shrinking goes on where one failed, so it is left out."""
    return settings(
        max_examples=examples * HISTORIES,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
        phases=[Phase.explicit, Phase.reuse, Phase.generate],
    )


def same(answer: Streamed, exchange: Exchange) -> None:
    """The client receives what the model said."""
    assert answer.done, answer.events
    told, calls = exchange.answer, exchange.answer.get("tool_calls", [])
    assert answer.text == (told["content"] or "")
    assert [call["id"] for call in answer.calls] == [call["id"] for call in calls]


PARALLEL = History(
    (
        Exchange(
            (user("weather?"),),
            assistant("Let me see.", called("a", "get_weather", {}), called("b", "Read", {})),
        ),
    ),
    (tool("b", "two"), tool("a", [part("one"), part("/more")])),
)
FAILED = History(
    (Exchange((user("read"),), assistant(None, called("a", "Read", {"p": [1, None, "é"]}))),),
    (tool("a", "no such file", is_error=True), user("/why"), user([part("now"), part("then")])),
)


LONG = History(
    tuple(
        Exchange((user(f"question {n} {text}"),), assistant(f"{text} answer {n}"))
        for n, text in enumerate(ODD_TEXTS[:6])
    ),
    (user("and now?"),),
)


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every history of more than one message is put into a transcript."""
    monkeypatch.setattr(replay, "RECORDED_FROM", 1)


def play(served: Served, history: History, **fields: Any) -> str:
    """Have the exchanges happen, each as a request with the whole history before it; answers with
    the conversation that they happened in."""
    conversation_id = ""
    for number, exchange in enumerate(history.exchanges):
        served.answers(exchange.reply)
        answer = served.stream(
            *fields["head"], *history.before(number), *exchange.asked, tools=TOOLS
        )
        assert answer.headers["x-ccapi-lineage"] == ("hit" if number else "miss")
        same(answer, exchange)
        conversation_id = answer.conversation_id
    return conversation_id


def head() -> list[JSON]:
    """A system prompt that no other conversation has."""
    return [system(f"case {next(_cases)}")]


def bring(served: Served, history: History) -> None:
    """Bring a whole history that no child has seen."""
    served.begin()
    answer = served.stream(*head(), *history.messages, tools=TOOLS)
    assert answer.done
    assert answer.headers["x-ccapi-lineage"] == "miss"
    assert spoken(served.last) == expected(history.messages)
    assert len(served.requests) == 1


@few(4)
@given(histories(least=1))
@example(PARALLEL)
@example(FAILED)
def test_by_lineage(served: Served, history: History) -> None:
    served.begin()
    opening = head()
    conversation_id = play(served, history, head=opening)
    answer = served.stream(*opening, *history.messages, tools=TOOLS)
    assert answer.done
    assert answer.headers["x-ccapi-lineage"] == "hit"
    assert spoken(served.last) == expected(history.messages)
    assert len(served.requests) == len(history.exchanges) + 1
    assert answer.conversation_id == conversation_id


@few(4)
@given(histories())
@example(PARALLEL)
@example(FAILED)
@example(LONG)
def test_by_replay(served: Served, history: History) -> None:
    bring(served, history)


@few(3)
@given(histories(least=1))
@example(FAILED)
@example(LONG)
def test_by_a_transcript(served: Served, recorded: None, history: History) -> None:
    bring(served, history)


@few(3)
@given(histories(least=1))
@example(PARALLEL)
@example(FAILED)
def test_after_the_child_was_killed(served: Served, history: History) -> None:
    served.begin()
    opening = head()
    conversation_id = play(served, history, head=opening)
    children = len(served.adopted(conversation_id))
    served.kill_child(conversation_id)
    answer = served.stream(
        *opening, *history.messages, tools=TOOLS, conversation_id=conversation_id
    )
    assert answer.done
    assert spoken(served.last) == expected(history.messages)
    assert len(served.requests) == len(history.exchanges) + 1
    assert len(served.adopted(conversation_id)) == children + 1


@pytest.fixture(scope="module")
def sleepy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A child without a conversation ends soon."""
    claude = {"hibernate_after_seconds": 0.2, "tool_wait_seconds": 0.2, "prewarm": 1}
    with open_served(tmp_path_factory.mktemp("sleepy"), claude=claude) as served:
        yield served


@pytest.mark.parametrize("history", [PARALLEL, FAILED, LONG], ids=["calls", "failed", "long"])
def test_after_the_child_went_to_sleep(sleepy: Served, history: History) -> None:
    served = sleepy
    served.begin()
    opening = head()
    begun = History(history.exchanges[:1], ())
    conversation_id = play(served, begun, head=opening)
    served.wait_phase(conversation_id, "asleep")
    asked = history.exchanges[1].asked if history.exchanges[1:] else history.asked
    answer = served.stream(*opening, *asked, tools=TOOLS, conversation_id=conversation_id)
    assert answer.done
    assert spoken(served.last) == expected([*begun.before(1), *asked])
    assert len(served.requests) == 2
    assert len(served.adopted(conversation_id)) == 2
