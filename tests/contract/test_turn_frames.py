"""The frames of a turn: their order, their shape, what identifies them and what they count."""

import json
from uuid import uuid4

from tests.support.messages_stub import (
    MessagesStub,
    Reply,
    Text,
    Thinking,
    ToolUse,
    Usage,
    call,
    say,
)
from tests.support.raw_cli import RawCli, is_result, is_text_delta, kind, kinds, text_of, user_frame

BLOCK = ["content_block_start", "content_block_delta"]


def stream(*names: str) -> list[str]:
    return [f"stream_event/{name}" for name in names]


async def test_a_turn_is_init_stream_assistant_result(child: RawCli, stub: MessagesStub) -> None:
    """Protocol notes, sections 5 and 14: the assistant frame precedes its content_block_stop."""
    await child.turn("first")
    stub.queue.append(say("hello there", chunks=4))
    seen = await child.turn("second")
    assert kinds(seen) == [
        "system/init",
        *stream("message_start", *BLOCK),
        "assistant",
        *stream("content_block_stop", "message_delta", "message_stop"),
        "result/success",
    ]
    assert sum(map(is_text_delta, seen)) == 4
    assert text_of(seen) == "hello there"
    session = seen[-1]["session_id"]
    spoken = [f for f in seen if f["type"] in ("stream_event", "assistant", "result")]
    assert {f["session_id"] for f in spoken} == {session}
    assert len({f["uuid"] for f in spoken}) == len(spoken)


async def test_a_result_carries_what_a_turn_is_judged_by(child: RawCli) -> None:
    """Protocol notes, sections 6 and 12."""
    uuid = str(uuid4())
    result = (await child.turn("hello", uuid=uuid))[-1]
    assert result["subtype"] == "success"
    assert result["is_error"] is False
    assert result["api_error_status"] is None
    assert result["num_turns"] == 1
    assert result["stop_reason"] == "end_turn"
    assert result["terminal_reason"] == "completed"
    assert result["result"] == "turn 1: hello"
    assert result["user_message_uuid"] == uuid
    assert result["total_cost_usd"] > 0


async def test_usage_is_per_turn_with_the_cache_split(child: RawCli, stub: MessagesStub) -> None:
    """Protocol notes, section 12."""
    figures = [Usage(11, 7, 100, 50), Usage(12, 8, 200, 60)]
    for usage in figures:
        stub.queue.append(say("answer", usage=usage))
        counted = (await child.turn("question"))[-1]["usage"]
        assert counted["input_tokens"] == usage.input_tokens
        assert counted["output_tokens"] == usage.output_tokens
        assert counted["cache_read_input_tokens"] == usage.cache_read_input_tokens
        assert counted["cache_creation_input_tokens"] == usage.cache_creation_input_tokens
        assert counted["cache_creation"] == {
            "ephemeral_5m_input_tokens": usage.cache_creation_input_tokens,
            "ephemeral_1h_input_tokens": 0,
        }


async def test_usage_sums_the_api_calls_of_a_turn(child: RawCli, stub: MessagesStub) -> None:
    """Protocol notes, section 12. The call of a tool that does not exist makes the second one."""
    stub.queue.append(call(ToolUse("nowhere"), usage=Usage(10, 5, 3, 1)))
    stub.queue.append(say("done", usage=Usage(20, 6, 4, 2)))
    result = (await child.turn("use it"))[-1]
    assert result["num_turns"] == 2
    assert result["usage"]["input_tokens"] == 30
    assert result["usage"]["output_tokens"] == 11
    assert result["usage"]["cache_read_input_tokens"] == 7


async def test_the_stream_has_the_stop_reason_and_usage_before_the_result(
    child: RawCli, stub: MessagesStub
) -> None:
    """Protocol notes, section 12: message_start has the input side, message_delta the output."""
    stub.queue.append(say("cut", stop_reason="stop_sequence", stop_sequence="X"))
    seen = await child.turn("question")
    events = {f["event"]["type"]: f["event"] for f in seen if f["type"] == "stream_event"}
    assert events["message_start"]["message"]["usage"]["input_tokens"] == 10
    assert events["message_delta"]["usage"]["output_tokens"] == 5
    assert events["message_delta"]["delta"] == {
        "stop_reason": "stop_sequence",
        "stop_sequence": "X",
    }
    assert seen[-1]["stop_reason"] == "stop_sequence"
    assert seen[-1]["is_error"] is False


async def test_every_block_has_an_assistant_frame_and_the_result_only_the_last_text(
    child: RawCli, stub: MessagesStub
) -> None:
    """Protocol notes, section 14: so the whole text is what the deltas say."""
    stub.queue.append(Reply((Thinking("hmm"), Text("A-part."), Text("B-part."))))
    seen = await child.turn("question")
    frames = [f for f in seen if f["type"] == "assistant"]
    assert [f["message"]["content"][0]["type"] for f in frames] == ["thinking", "text", "text"]
    assert len({f["uuid"] for f in frames}) == 3
    assert len({f["message"]["id"] for f in frames}) == 1
    assert text_of(seen) == "A-part.B-part."
    assert seen[-1]["result"] == "B-part."
    first = next(f for f in seen if kind(f) == "stream_event/content_block_delta")
    assert first["event"]["delta"] == {"type": "thinking_delta", "thinking": "hmm"}


async def test_a_duplicate_uuid_is_dropped_without_a_word(
    child: RawCli, stub: MessagesStub
) -> None:
    """Protocol notes, section 11."""
    uuid = str(uuid4())
    await child.turn("once", uuid=uuid)
    await child.send(user_frame("twice", uuid=uuid))
    assert kinds(await child.settle()) == []
    await child.turn("next")
    assert [text for _, text in stub.requests[-1].conversation] == [
        ["once"],
        ["turn 1: once"],
        ["next"],
    ]


async def test_user_frames_queued_behind_a_turn_are_merged_into_one_turn(
    child: RawCli, stub: MessagesStub
) -> None:
    """Protocol notes, section 3: so the gateway keeps the queue and sends one turn at a time."""
    stub.queue.append(say("slow", chunks=2, hang_after=1))
    await child.send(user_frame("one"))
    await child.deltas(1)
    await child.send(user_frame("two"), user_frame("three"))
    await child.settle()
    await child.send(child.control_frame("interrupt"))
    await child.until(is_result)
    assert (await child.until(is_result))[-1]["is_error"] is False
    assert stub.requests[-1].last_user_text == "two\nthree"
    await child.turn("four")
    assert len(stub.requests) == 3


async def test_a_megabyte_of_answer_is_one_line(child: RawCli, stub: MessagesStub) -> None:
    """Protocol notes, section 14: the assistant frame and the result repeat the whole text."""
    stub.queue.append(say("x" * 1_000_000, chunks=1000))
    seen = await child.turn("go on")
    assert text_of(seen) == "x" * 1_000_000
    assert sum(map(is_text_delta, seen)) == 1000
    assert max(child.lines) > 1_000_000


async def test_an_answer_without_text_makes_the_cli_ask_again(
    child: RawCli, stub: MessagesStub
) -> None:
    """The second request says so in a message of the CLI's own: the user's in some releases, the
    system's in others."""
    stub.queue.append(Reply(()))
    result = (await child.turn("question"))[-1]
    assert len(stub.requests) == 2
    assert "no visible output" in json.dumps(stub.requests[1].body)
    assert result["num_turns"] == 2
