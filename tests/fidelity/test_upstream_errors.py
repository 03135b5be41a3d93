"""When the Messages API fails: the client receives what happened, and the conversation goes on as
if no request had come."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from ccapi.actors import open_gateway
from ccapi.schemas.errors import ChildError, Overloaded
from tests.support import chat
from tests.support.live import settings_for
from tests.support.messages_stub import (
    Answer,
    Block,
    Failure,
    Hang,
    Reply,
    Text,
    ToolUse,
    call,
    say,
)
from tests.support.raw_cli import cli_binary, cli_environment

from .served import JSON, Served, function, open_served, spoken, system, tool, user

TOOLS = [function("look")]
HELD = [("user", ["Hello"]), ("assistant", ["turn 1: Hello"])]


@pytest.fixture(scope="module")
def conversation(shared: Served) -> str:
    """One that the tests of this module go on with, and whose failures leave no trace."""
    shared.begin()
    return shared.ask(system("errors"), user("Hello"), tools=TOOLS).conversation_id


def fail(
    served: Served, conversation: str, stream: bool, *answers: Answer
) -> tuple[int, Any, JSON]:
    """Ask what the API answers so: the status, the headers, the error."""
    served.answers(*answers)
    ask = served.stream if stream else served.ask
    answer = ask(user("What now?"), conversation_id=conversation)
    return answer.status, answer.headers, answer.error


def untouched(served: Served, conversation: str, tail: str = "Still there?") -> None:
    """The conversation works, and the model hears nothing of what failed."""
    served.begin()
    held = served.live.gateway.loaded(conversation).info.messages
    answer = served.ask(user(tail), conversation_id=conversation)
    assert answer.finish_reason == "stop"
    told = spoken(served.last)
    assert told[:2] == HELD
    assert told[-1] == ("user", [tail])
    assert "What now?" not in str(told)
    assert len(told) == held + 1


TOO_LONG = "prompt is too long: 250000 tokens > 200000 maximum"

FAILURES: list[Any] = [
    # The CLI asks again, with less and less of what is new in the API.
    pytest.param([Failure(400, "bad thing")] * 3, 400, "upstream_rejected", id="400"),
    pytest.param([Failure(401)], 503, "cli_not_logged_in", id="401"),
    pytest.param([Failure(403)], 503, "cli_not_logged_in", id="403"),
    # The CLI asks a second time, without a stream.
    pytest.param([Failure(404)] * 2, 404, "model_not_found", id="404"),
    pytest.param([Failure(413)], 413, "request_too_large", id="413"),
    pytest.param([Failure(429)], 429, "upstream_rate_limited", id="429"),
    pytest.param([Failure(500)], 502, "upstream_failed", id="500"),
    pytest.param([Failure(529)], 503, "upstream_overloaded", id="529"),
    pytest.param([Failure(400, TOO_LONG)], 400, "context_length_exceeded", id="too long"),
    pytest.param([say("x y z", chunks=3, cut_after=0)], 502, "upstream_failed", id="cut at once"),
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("answers", "status", "code"), FAILURES)
def test_a_failure_before_the_answer(
    served: Served, conversation: str, stream: bool, answers: list[Answer], status: int, code: str
) -> None:
    told, headers, error = fail(served, conversation, stream, *answers)
    assert (told, error["code"]) == (status, code)
    assert error["message"]
    if status in (429, 503):
        assert "retry-after" not in headers, "the API did not say, and nothing is guessed"
    if code == "context_length_exceeded":
        assert error["param"] == "messages"
    assert len(served.requests) == len(answers)
    untouched(served, conversation)


LOOK = ToolUse("look", {"at": "it"}, "toolu_look")
SECOND = ToolUse("look", {"at": "that"}, "toolu_second")

CUTS: list[Any] = [
    pytest.param((Text("one two three", 3),), 2, ["one t", "wo t"], id="in the text"),
    pytest.param((Text("Hm."), Text("I see", 2)), 2, ["Hm.", "I s"], id="in the second text"),
    pytest.param((Text("Hm."), LOOK), 2, ["Hm."], id="in a call"),
    pytest.param((Text("Hm."), LOOK, SECOND), 4, ["Hm."], id="behind a call"),
    pytest.param((LOOK, SECOND), 3, [], id="behind a call alone"),
]


@pytest.mark.parametrize(("blocks", "after", "pieces"), CUTS)
def test_a_cut_in_the_answer(
    served: Served, conversation: str, blocks: tuple[Block, ...], after: int, pieces: list[str]
) -> None:
    cut = trio.Event()
    served.answers(Reply(blocks, holds={after: cut}, cut_after=after))
    with served.streaming(user("What now?"), conversation_id=conversation) as response:
        body = b""
        for chunk in response.iter_bytes():
            body += chunk
            if body.count(b"data: ") > after:  # the first event tells nothing yet
                served.do(cut.set)
    assert response.status_code == 200
    *told, failure = chat.events(body)
    assert failure["error"]["code"] == "upstream_failed"
    choices = [event["choices"][0] for event in told]
    assert not any(choice["finish_reason"] for choice in choices)
    texts = [choice["delta"].get("content") for choice in choices]
    assert [text for text in texts if text] == pieces
    untouched(served, conversation)


def test_a_cut_in_a_whole_answer(served: Served, conversation: str) -> None:
    served.answers(Reply((Text("Hm."), LOOK), pause=0.02, cut_after=2))
    answer = served.ask(user("What now?"), conversation_id=conversation)
    assert (answer.status, answer.error["code"]) == (502, "upstream_failed")
    untouched(served, conversation)


@pytest.mark.parametrize("stream", [False, True])
def test_a_refusal(served: Served, conversation: str, stream: bool) -> None:
    served.answers(Reply((Text("I cannot"),), stop_reason="refusal"))
    if stream:
        streamed = served.stream(user("What now?"), conversation_id=conversation)
        assert streamed.finish_reasons == ["content_filter"]
        assert "".join(delta.get("refusal") or "" for delta in streamed.deltas)
        assert streamed.chunks
    else:
        whole = served.ask(user("What now?"), conversation_id=conversation)
        assert whole.finish_reason == "content_filter"
        assert whole.message["refusal"]
        assert whole.completion.usage
    assert len(served.requests) == 1
    untouched(served, conversation)


@pytest.mark.parametrize("answer", [Failure(500), say("a b", chunks=2, cut_after=1)])
def test_a_failure_behind_a_tool(served: Served, answer: Answer) -> None:
    """The results may be brought again: the calls stand open still."""
    served.answers(call(LOOK))
    first = served.ask(user("Look"), tools=TOOLS)
    conversation = first.conversation_id
    served.answers(answer)
    failed = served.ask(tool("toolu_look", "seen"), conversation_id=conversation)
    assert failed.status == 502
    again = served.ask(tool("toolu_look", "seen again"), conversation_id=conversation)
    assert again.finish_reason == "stop"
    assert spoken(served.last) == [
        ("user", ["Look"]),
        ("assistant", [("toolu_look", "look", {"at": "it"})]),
        ("user", [("toolu_look", ["seen again"], False)]),
    ]
    assert len(served.requests) == 3


def test_the_first_turn_of_a_conversation_may_fail(served: Served) -> None:
    served.answers(Failure(500))
    assert served.ask(user("Hello")).status == 502
    answer = served.ask(user("Hello"))
    assert answer.text == "turn 1: Hello"


# -- with other settings ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def patient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The CLI tries again once; a silent API is given up early."""
    claude = {"max_retries": 1, "idle_timeout_seconds": 2.0, "prewarm": 1}
    with open_served(tmp_path_factory.mktemp("patient"), claude=claude) as served:
        yield served


def test_how_long_to_wait_is_passed_on(patient: Served) -> None:
    served = patient
    served.begin()
    served.answers(Failure(429, "slow down", retry_after=1), Failure(429, retry_after=1))
    answer = served.ask(user("hi"))
    assert (answer.status, answer.error["code"]) == (429, "upstream_rate_limited")
    assert 1 <= int(answer.headers["retry-after"]) <= 3, "as the API says, and not a guess"
    assert len(served.requests) == 2


def test_what_goes_well_the_second_time_is_no_failure(patient: Served) -> None:
    served = patient
    served.begin()
    served.answers(Failure(529), say("Here."))
    answer = served.stream(user("hi"))
    assert (answer.text, answer.finish_reasons) == ("Here.", ["stop"])


@pytest.mark.parametrize("answer", [Hang(), say("one two", chunks=2, hang_after=1)])
def test_silence_is_a_timeout(patient: Served, answer: Answer) -> None:
    served = patient
    served.begin()
    first = served.ask(user("Hello"))
    served.answers(answer)
    streamed = served.stream(user("What now?"), conversation_id=first.conversation_id)
    assert streamed.error["code"] == "turn_timeout"
    assert streamed.status == (504 if isinstance(answer, Hang) else 200)
    assert streamed.finish_reasons == []
    untouched(served, first.conversation_id)


async def test_an_api_that_is_not_there(tmp_path: Path) -> None:
    env = cli_environment(tmp_path, "http://127.0.0.1:9")  # no server is at the discard port
    settings = settings_for(tmp_path, env, cli_binary(), claude={"max_retries": 0, "prewarm": 0})
    async with open_gateway(settings, environ={"PATH": "/usr/bin:/bin"}) as gateway:
        with pytest.raises(ChildError) as refused:
            await gateway.query("hi")
        assert (refused.value.status, refused.value.code) == (502, "upstream_unreachable")


async def test_a_cli_that_is_not_logged_in(tmp_path: Path) -> None:
    env = cli_environment(tmp_path, "http://127.0.0.1:9")
    del env["ANTHROPIC_API_KEY"]
    settings = settings_for(tmp_path, env, cli_binary(), claude={"max_retries": 0, "prewarm": 0})
    async with open_gateway(settings, environ={"PATH": "/usr/bin:/bin"}) as gateway:
        with pytest.raises(Overloaded) as refused:
            await gateway.query("hi")
        assert (refused.value.status, refused.value.code) == (503, "cli_not_logged_in")
