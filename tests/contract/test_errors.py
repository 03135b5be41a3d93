"""What the child makes of an API that refuses, breaks off, or stops early."""

import json
from typing import Any

import pytest
import trio

from tests.contract.conftest import OpenChild
from tests.support.logins import every_login
from tests.support.messages_stub import Failure, Hang, MessagesStub, Reply, say
from tests.support.raw_cli import (
    CHILD_ENVIRONMENT,
    Frame,
    RawCli,
    adoption,
    answers,
    assistant_frame,
    cli_environment,
    is_result,
    kind,
    kinds,
    open_raw_cli,
    text_of,
    user_frame,
)


async def failing_turn(child: RawCli) -> list[Frame]:
    """Take a turn and rewind it, so that the next one starts from the same history."""
    asked = user_frame("try")
    await child.send(asked)
    seen = await child.until(is_result)
    await child.control("rewind_conversation", target_message_uuid=asked["uuid"])
    return seen


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (429, "rate_limit"),
        (529, "server_error"),
        (500, "server_error"),
        (401, "authentication_failed"),
        (413, "invalid_request"),
    ],
)
async def test_an_api_error_is_a_success_with_is_error_and_the_status(
    child: RawCli, stub: MessagesStub, status: int, error: str
) -> None:
    """Protocol notes, section 6: no second request, no stream event, the child stays usable."""
    stub.queue.append(Failure(status, message="as scripted"))
    await child.settle()
    seen = await failing_turn(child)
    assert kinds(seen) == ["system/init", "assistant", "result/success"]
    result = seen[-1]
    assert (result["is_error"], result["api_error_status"]) == (True, status)
    assert result["stop_reason"] == "stop_sequence"
    synthetic = next(f for f in seen if f["type"] == "assistant")
    assert synthetic["message"]["model"] == "<synthetic>"
    assert synthetic["error"] == error
    assert len(stub.requests) == 1
    assert (await child.turn("next"))[-1]["is_error"] is False
    assert stub.requests[-1].conversation == [("user", ["next"])]


async def test_a_bad_request_may_be_sent_again_without_the_betas(
    child: RawCli, stub: MessagesStub
) -> None:
    """Protocol notes, section 6 (a single request before 2.1.330): the same messages each time."""
    stub.answer = lambda _: Failure(400, message="as scripted")
    result = (await failing_turn(child))[-1]
    assert (result["is_error"], result["api_error_status"]) == (True, 400)
    assert "as scripted" in result["result"]
    first, *others = stub.requests
    for other in others:
        assert other.body["messages"] == first.body["messages"]
        assert other.headers["anthropic-beta"] != first.headers["anthropic-beta"]


async def test_without_experimental_betas_a_bad_request_is_sent_once(
    open_child: OpenChild, stub: MessagesStub
) -> None:
    """CLAUDE_CODE_DISABLE_EXPERIMENTAL_BETAS leaves nothing to try without."""
    stub.answer = lambda _: Failure(400)
    async with open_child(environment={"CLAUDE_CODE_DISABLE_EXPERIMENTAL_BETAS": "1"}) as cli:
        assert (await cli.turn("try"))[-1]["api_error_status"] == 400
    assert len(stub.requests) == 1


async def test_after_a_404_the_answer_comes_from_a_second_request_without_a_stream(
    child: RawCli, stub: MessagesStub
) -> None:
    """Protocol notes, section 6: even with the fallback disabled; the text has no deltas then."""
    stub.queue.append(Failure(404))
    seen = await failing_turn(child)
    assert [request.body.get("stream") for request in stub.requests] == [True, False]
    assert text_of(seen) == ""
    assert seen[-1]["result"] == "turn 1: try"
    stub.answer = lambda _: Failure(404)
    result = (await failing_turn(child))[-1]
    assert (result["is_error"], result["api_error_status"]) == (True, 404)


async def test_a_refused_connection_is_an_error_without_a_status(
    stub: MessagesStub, tmp_path: Any
) -> None:
    """Protocol notes, section 6."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    await listener.aclose()
    environment = cli_environment(tmp_path, f"http://127.0.0.1:{port}") | CHILD_ENVIRONMENT
    async with open_raw_cli(environment, tmp_path) as cli:
        await cli.send(cli.control_frame("initialize", **adoption()))
        result = (await cli.turn("try"))[-1]
    assert (result["is_error"], result["api_error_status"]) == (True, None)
    assert "refused" in result["result"].lower()


@every_login
async def test_an_answer_cut_mid_stream_is_an_error_and_not_asked_for_again(
    child: RawCli, stub: MessagesStub
) -> None:
    """Protocol notes, section 6: CLAUDE_CODE_DISABLE_NONSTREAMING_FALLBACK."""
    cut = trio.Event()
    stub.queue.append(say("abcdefghij", chunks=5, cut_after=2, holds={2: cut}))
    asked = user_frame("try")
    await child.send(asked)
    assert text_of(await child.deltas(2)) == "abcd"
    cut.set()
    seen = await child.until(is_result)
    assert text_of(seen) == ""
    assert (seen[-1]["is_error"], seen[-1]["api_error_status"]) == (True, None)
    assert len(stub.requests) == 1
    await child.control("rewind_conversation", target_message_uuid=asked["uuid"])
    await child.turn("next")
    assert stub.requests[-1].conversation == [("user", ["next"])]


async def test_with_the_fallback_a_cut_answer_is_asked_for_again_behind_the_deltas(
    open_child: OpenChild, stub: MessagesStub
) -> None:
    """Protocol notes, section 6: the whole second answer follows text already delivered."""
    cut = trio.Event()
    stub.queue.append(say("abcdefghij", chunks=5, cut_after=2, holds={2: cut}))
    async with open_child(without=("CLAUDE_CODE_DISABLE_NONSTREAMING_FALLBACK",)) as cli:
        await cli.send(user_frame("try"))
        await cli.deltas(2)
        cut.set()
        assert (await cli.until(is_result))[-1]["result"] == "turn 1: try"
    assert [request.body.get("stream") for request in stub.requests] == [True, False]


async def test_a_silent_api_times_out_as_an_error_without_a_status(
    open_child: OpenChild, stub: MessagesStub
) -> None:
    """Protocol notes, section 6: API_TIMEOUT_MS."""
    stub.queue.append(Hang())
    async with open_child(environment={"API_TIMEOUT_MS": "1000"}) as cli:
        result = (await cli.turn("try"))[-1]
        assert (result["is_error"], result["api_error_status"]) == (True, None)
        assert "timed out" in result["result"]
        assert (await cli.turn("next"))[-1]["is_error"] is False


async def test_retries_are_announced_and_honour_retry_after(
    open_child: OpenChild, stub: MessagesStub
) -> None:
    """Protocol notes, section 6."""
    stub.queue.append(Failure(429, retry_after=1))
    async with open_child(environment={"CLAUDE_CODE_MAX_RETRIES": "1"}) as cli:
        seen = await cli.turn("try")
    (announced,) = [f for f in seen if kind(f) == "system/api_retry"]
    delay = announced.pop("retry_delay_ms")
    assert delay >= 1000
    assert {k: v for k, v in announced.items() if k not in ("session_id", "uuid")} == {
        "type": "system",
        "subtype": "api_retry",
        "attempt": 1,
        "max_retries": 1,
        "error_status": 429,
        "error": "rate_limit",
    }
    assert seen[-1]["is_error"] is False
    assert len(stub.requests) == 2


CUT_SHORT = say("cut short", stop_reason="max_tokens")


async def test_after_max_tokens_the_cli_asks_up_to_three_times_more(
    child: RawCli, stub: MessagesStub
) -> None:
    """Protocol notes, section 6: so the stream's stop_reason ends a turn, not the result."""
    stub.answer = lambda _: CUT_SHORT
    seen = await failing_turn(child)
    assert len(stub.requests) == 4
    # Told as the user in some releases, as the system in others.
    assert "Output token limit hit" in json.dumps(stub.requests[1].body)
    stops = [
        f["event"]["delta"]["stop_reason"] for f in seen if kind(f) == "stream_event/message_delta"
    ]
    assert stops[0] == "max_tokens"
    assert seen[-1]["is_error"] is True
    assert seen[-1]["api_error_status"] is None


@every_login
async def test_a_rewind_at_max_tokens_stops_the_asking_and_leaves_no_trace(
    child: RawCli, stub: MessagesStub
) -> None:
    """Protocol notes, sections 5 and 6: one more request may have gone out by then."""
    await child.turn("one")
    held = trio.Event()
    stub.queue.append(CUT_SHORT)
    stub.queue.append(say("continued", holds={0: held}))
    asked = user_frame("asked")
    await child.send(asked)
    await child.until(lambda frame: kind(frame) == "stream_event/message_delta")
    request = child.control_frame(
        "rewind_conversation", target_message_uuid=asked["uuid"], interrupt_if_running=True
    )
    await child.send(request)
    seen = await child.until(answers(request))
    assert sum(map(is_result, seen)) == 1
    assert text_of(seen) == ""
    assert len(stub.requests) <= 3
    stub.queue.clear()
    await child.turn("two")
    assert [texts for _, texts in stub.requests[-1].conversation] == [
        ["one"],
        ["turn 1: one"],
        ["two"],
    ]


async def test_a_cut_answer_can_be_kept_by_rewinding_and_replaying_it(
    child: RawCli, stub: MessagesStub
) -> None:
    """Protocol notes, sections 3a and 3e: how a `length` answer enters history as it was given."""
    stub.answer = lambda _: CUT_SHORT
    await failing_turn(child)
    await child.turn("try", shouldQuery=False)
    await child.send(assistant_frame([{"type": "text", "text": "cut short"}], id="msg_cut"))
    stub.answer = lambda _: say("whole")
    await child.turn("go on")
    assert [texts for _, texts in stub.requests[-1].conversation] == [
        ["try"],
        ["cut short"],
        ["go on"],
    ]


REFUSAL = Reply(say("I will not.").blocks, stop_reason="refusal")


async def test_after_a_refusal_the_cli_asks_once_more(child: RawCli, stub: MessagesStub) -> None:
    """Protocol notes, section 6 (ended the turn before 2.1.330)."""
    stub.queue.append(REFUSAL)
    result = (await failing_turn(child))[-1]
    assert len(stub.requests) == 2
    assert (result["is_error"], result["num_turns"]) == (False, 2)


async def test_with_the_refusal_retry_off_a_refusal_ends_the_turn(
    open_child: OpenChild, stub: MessagesStub
) -> None:
    """CLAUDE_CODE_DISABLE_REFUSAL_RETRY: one request, an error whose stop_reason says why."""
    stub.queue.append(REFUSAL)
    async with open_child(environment={"CLAUDE_CODE_DISABLE_REFUSAL_RETRY": "1"}) as cli:
        seen = await cli.turn("try")
    assert len(stub.requests) == 1
    assert "system/model_refusal_no_fallback" in map(kind, seen)
    assert (seen[-1]["is_error"], seen[-1]["stop_reason"]) == (True, "refusal")
