"""The events of a response, and the response that they end with."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.responses import Response as ResponseObject

from ccapi.schemas.convert import write_json
from ccapi.schemas.errors import ChildDied, InvalidRequest, RateLimited
from ccapi.schemas.openai.response_events import (
    Ending,
    Framing,
    ResponseHeading,
    ResponseWriter,
    encode_response,
    ending_of,
)
from ccapi.schemas.openai.responses import parse_response
from ccapi.schemas.turn import Completed, Usage
from ccapi.schemas.turn_items import (
    ActivityDelta,
    ActivityEnded,
    ActivityStarted,
    ReasoningDelta,
    Refused,
    TextDelta,
    ToolCallDelta,
    ToolCallStarted,
    TurnItem,
    compact,
)

from ...support.responses import Event, events, kinds, server_event, text_of, tool, whole_stream

TURN = "0e8dbd39-f99c-49ed-af4a-a6b7d1a73ad6"
HEX = TURN.replace("-", "")
ECHO = parse_response({"input": "Hi", "tools": [tool("f")], "metadata": {"a": "b"}}).echo
HEADING = ResponseHeading(TURN, 1_700_000_000, "sonnet", "conv_1", False, ECHO)
USAGE = Usage(prompt_tokens=12, completion_tokens=3, cached_tokens=10, reasoning_tokens=1)
DONE = Ending("completed", 1_700_000_001, USAGE)


def write(*items: TurnItem, ending: Ending = DONE, after: int = -1) -> bytes:
    writer = ResponseWriter(HEADING, after=after)
    told = writer.first()
    for item in items:
        told += writer.item(item)
    return b"".join([*told, *writer.last(ending)])


def stream(*items: TurnItem, ending: Ending = DONE) -> list[Event]:
    found = events(write(*items, ending=ending))
    whole_stream(found)
    return found


def test_a_text() -> None:
    found = stream(TextDelta("Hel"), TextDelta("lo"))
    assert kinds(found) == [
        "created", "in_progress", "output_item.added", "content_part.added", "output_text.delta",
        "output_text.delta", "output_text.done", "content_part.done", "output_item.done",
        "completed",
    ]  # fmt: skip
    assert found[0]["response"]["status"] == found[1]["response"]["status"] == "in_progress"
    assert found[2]["item"] == {
        "id": f"msg_{HEX}_0",
        "type": "message",
        "role": "assistant",
        "status": "in_progress",
        "content": [],
    }
    assert [event["delta"] for event in found[4:6]] == ["Hel", "lo"]
    assert found[6]["text"] == found[7]["part"]["text"] == "Hello"
    assert found[8]["item"]["status"] == "completed"
    response = found[-1]["response"]
    assert (response["id"], response["status"]) == (f"resp_{HEX}", "completed")
    assert response["output"] == [found[8]["item"]]
    assert text_of(response) == "Hello"
    assert response["usage"] == {
        "input_tokens": 12,
        "input_tokens_details": {"cached_tokens": 10, "cache_write_tokens": 0},
        "output_tokens": 3,
        "output_tokens_details": {"reasoning_tokens": 1},
        "total_tokens": 15,
    }


def test_thinking_comes_as_a_summary() -> None:
    found = stream(ReasoningDelta("Hm"), ReasoningDelta("m"), TextDelta("Yes"))
    assert kinds(found)[2:8] == [
        "output_item.added", "reasoning_summary_part.added", "reasoning_summary_text.delta",
        "reasoning_summary_text.delta", "reasoning_summary_text.done",
        "reasoning_summary_part.done",
    ]  # fmt: skip
    thought, said = found[-1]["response"]["output"]
    assert thought["summary"] == [{"type": "summary_text", "text": "Hmm"}]
    assert (thought["id"], said["id"]) == (f"rs_{HEX}_0", f"msg_{HEX}_1")


def test_calls_of_tools() -> None:
    found = stream(
        ToolCallStarted(0, "c1", "f"),
        ToolCallDelta(0, '{"a"'),
        ToolCallDelta(0, ":1}"),
        ToolCallStarted(1, "c2", "g"),
        ToolCallDelta(1, "{}"),
    )
    assert kinds(found)[2:7] == [
        "output_item.added", "function_call_arguments.delta", "function_call_arguments.delta",
        "function_call_arguments.done", "output_item.done",
    ]  # fmt: skip
    assert found[5]["arguments"] == '{"a":1}'
    first, second = found[-1]["response"]["output"]
    assert first == {
        "id": f"fc_{HEX}_0",
        "type": "function_call",
        "call_id": "c1",
        "name": "f",
        "arguments": '{"a":1}',
        "status": "completed",
    }
    assert (second["call_id"], second["status"]) == ("c2", "completed")


def test_a_refusal_is_a_part_of_the_message() -> None:
    found = stream(TextDelta("Well"), Refused("no"), ending=ending_of(cut("content_filter"), 5))
    [message] = found[-1]["response"]["output"]
    assert [part["type"] for part in message["content"]] == ["output_text", "refusal"]
    assert message["content"][1]["refusal"] == "no"
    assert "refusal.delta" in kinds(found)
    assert "refusal.done" in kinds(found)
    assert found[-1]["response"]["incomplete_details"] == {"reason": "content_filter"}


def test_an_agents_own_tools_stay_open_until_it_is_known_what_came_of_them() -> None:
    found = stream(
        TextDelta("Let me see."),
        ActivityStarted("a1", "Bash"),
        ActivityDelta("a1", "{}"),
        ActivityStarted("a2", "Read"),
        ActivityEnded("a1", "ok"),
        ActivityEnded("a2", "no such file", True),
        TextDelta("Done."),
    )
    assert kinds(found)[6:18] == [
        "content_part.done", "output_item.done",
        "output_item.added", "mcp_call.in_progress", "mcp_call_arguments.delta",
        "mcp_call_arguments.done",
        "output_item.added", "mcp_call.in_progress",
        "mcp_call.completed", "output_item.done",
        "mcp_call_arguments.done", "mcp_call.failed",
    ]  # fmt: skip
    response = found[-1]["response"]
    assert [item["type"] for item in response["output"]] == [
        "message", "mcp_call", "mcp_call", "message",
    ]  # fmt: skip
    first, second = response["output"][1:3]
    assert (first["server_label"], first["name"], first["output"]) == ("claude_code", "Bash", "ok")
    assert (first["status"], first["error"]) == ("completed", None)
    assert (second["status"], second["output"]) == ("failed", "no such file")
    assert second["error"]["content"] == "no such file"
    assert text_of(response) == "Let me see.Done."


def test_an_answer_without_anything() -> None:
    found = stream()
    assert kinds(found) == ["created", "in_progress", "completed"]
    assert found[-1]["response"]["output"] == []


def cut(reason: Any) -> Completed:
    return Completed(reason, USAGE)


def test_an_answer_that_was_cut_short() -> None:
    found = stream(TextDelta("Hel"), ending=ending_of(cut("length"), 5))
    response = found[-1]["response"]
    assert kinds(found)[-1] == response["status"] == "incomplete"
    assert response["incomplete_details"] == {"reason": "max_output_tokens"}
    assert response["output"][0]["status"] == "incomplete"
    assert response["usage"]["output_tokens"] == 3
    assert response["completed_at"] is None


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (RateLimited("too much"), "rate_limit_exceeded"),
        (ChildDied("gone"), "server_error"),
        (InvalidRequest("no", param="input"), "invalid_prompt"),
    ],
)
def test_an_answer_that_failed(error: Any, code: str) -> None:
    found = stream(TextDelta("Hel"), ending=Ending("failed", 5, error=error))
    response = found[-1]["response"]
    assert kinds(found)[-1] == response["status"] == "failed"
    assert (response["error"]["code"], response["error"]["message"]) == (code, error.message)
    assert response["usage"] is None


def test_an_answer_that_was_cancelled_or_steered() -> None:
    cancelled = stream(TextDelta("Hel"), ending=Ending("cancelled", 5))
    assert kinds(cancelled)[-1] == "incomplete"
    assert cancelled[-1]["response"]["status"] == "cancelled"
    steered = stream(ending=Ending("incomplete", 5, reason="steered"))
    assert steered[-1]["response"]["incomplete_details"] == {"reason": "steered"}


def test_activity_whose_end_never_came() -> None:
    found = stream(ActivityStarted("a", "Bash"), ending=Ending("cancelled", 5))
    assert found[-1]["response"]["output"][0]["status"] == "incomplete"


def test_a_conversation_is_returned_where_the_request_named_it() -> None:
    plain = encode_response(HEADING, (), None)
    assert (plain["conversation"], plain["conversation_id"]) == (None, "conv_1")
    named = ResponseHeading(TURN, 1, "sonnet", "conv_1", True, ECHO)
    assert encode_response(named, (), None)["conversation"] == {"id": "conv_1"}


def test_the_request_is_echoed() -> None:
    asked = {
        "input": "Hi",
        "instructions": "Be brief.",
        "temperature": 0.5,
        "top_p": 0.9,
        "max_output_tokens": 99,
        "metadata": {"a": "b"},
        "tools": [tool("f", description="F.", strict=True)],
        "tool_choice": {"type": "function", "name": "f"},
        "parallel_tool_calls": False,
        "previous_response_id": "resp_0",
        "reasoning": {"effort": "low", "summary": "auto"},
        "text": {"format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}}},
        "truncation": "auto",
        "user": "u",
        "store": False,
    }
    heading = ResponseHeading(TURN, 1, "sonnet", "conv_1", False, parse_response(asked).echo)
    told = encode_response(heading, (), DONE)
    for name in set(asked) - {"input", "reasoning", "text", "tools"}:
        assert told[name] == asked[name]
    assert told["reasoning"]["effort"] == "low"
    assert told["text"]["format"]["schema"] == {"type": "object"}
    assert told["tools"][0]["name"] == "f"
    ResponseObject.model_validate_json(json.dumps(told), strict=True)


# -- any answer ------------------------------------------------------------------------------------

words = st.text(max_size=8)


@st.composite
def answers(draw: st.DrawFn) -> list[TurnItem]:
    """The items of any answer: calls follow each other, and activities overlap as they like."""
    items: list[TurnItem] = []
    calls, acting, begun = 0, list[str](), 0
    for kind in draw(st.lists(st.integers(0, 6), max_size=14)):
        match kind:
            case 0:
                items.append(TextDelta(draw(words)))
            case 1:
                items.append(ReasoningDelta(draw(words)))
            case 2:
                items.append(Refused(draw(words)))
            case 3:
                items.append(ToolCallStarted(calls, f"c{calls}", "f"))
                pieces = draw(st.lists(words, max_size=3))
                items += [ToolCallDelta(calls, piece) for piece in pieces]
                calls += 1
            case 4:
                acting.append(f"a{begun}")
                begun += 1
                items.append(ActivityStarted(acting[-1], "Bash"))
                pieces = draw(st.lists(words, max_size=3))
                items += [ActivityDelta(acting[-1], piece) for piece in pieces]
            case 5 | 6 if acting:
                ended = acting.pop(draw(st.integers(0, len(acting) - 1)))
                items.append(ActivityEnded(ended, draw(words), draw(st.booleans())))
    return items


endings = st.sampled_from(
    [
        DONE,
        ending_of(cut("length"), 5),
        ending_of(cut("content_filter"), 5),
        Ending("cancelled", 5),
        Ending("failed", 5, error=ChildDied("gone")),
    ]
)


def put_together(found: list[Event]) -> list[dict[str, Any]]:
    """The output items as a client makes them of deltas."""
    items: list[dict[str, Any]] = []
    for event in found:
        match event["type"].removeprefix("response."):
            case "output_item.added":
                assert event["output_index"] == len(items)
                items.append(event["item"])
            case "content_part.added":
                content = items[event["output_index"]]["content"]
                assert event["content_index"] == len(content)
                content.append(event["part"])
            case "output_text.delta":
                part = items[event["output_index"]]["content"][event["content_index"]]
                part["text"] += event["delta"]
            case "refusal.delta":
                part = items[event["output_index"]]["content"][event["content_index"]]
                part["refusal"] += event["delta"]
            case "reasoning_summary_part.added":
                items[event["output_index"]]["summary"].append(event["part"])
            case "reasoning_summary_text.delta":
                items[event["output_index"]]["summary"][0]["text"] += event["delta"]
            case "function_call_arguments.delta" | "mcp_call_arguments.delta":
                items[event["output_index"]]["arguments"] += event["delta"]
            case "output_item.done":
                item, made = event["item"], items[event["output_index"]]
                beside = {"status", "output", "error"}
                assert {k: v for k, v in made.items() if k not in beside} == {
                    k: v for k, v in item.items() if k not in beside
                }
                items[event["output_index"]] = item
    return items


@given(answers(), endings)
def test_any_answer_is_sound_event_by_event(items: list[TurnItem], ending: Ending) -> None:
    found = stream(*items, ending=ending)
    response = found[-1]["response"]
    assert put_together(found) == response["output"]
    assert all(item["status"] != "in_progress" for item in response["output"])
    ids = [item["id"] for item in response["output"]]
    assert len(set(ids)) == len(ids)
    # Every item that was added is done, once.
    done = [e["output_index"] for e in found if e["type"] == "response.output_item.done"]
    assert sorted(done) == [*range(len(ids))]


@given(answers(), endings)
def test_a_response_is_the_same_whether_it_was_streamed_or_not(
    items: list[TurnItem], ending: Ending
) -> None:
    streamed = events(write(*items, ending=ending))[-1]["response"]
    for given_items in (items, compact(items)):
        assert json.loads(write_json(encode_response(HEADING, given_items, ending))) == streamed


@given(answers(), endings, st.integers(-1, 80))
def test_a_stream_can_be_given_again_from_any_event_on(
    items: list[TurnItem], ending: Ending, after: int
) -> None:
    whole = write(*items, ending=ending)
    blocks = whole.split(b"\n\n")[:-1]
    rest = write(*items, ending=ending, after=after)
    assert rest == b"".join(block + b"\n\n" for block in blocks[after + 1 :])


@given(st.text())
def test_any_text_is_written_as_json_and_nothing_breaks_the_frame(said: str) -> None:
    found = stream(TextDelta("a"), TextDelta(said))
    assert found[5]["delta"] == said
    assert text_of(found[-1]["response"]) == "a" + said


def test_the_messages_of_a_websocket_say_whose_lane_it_is() -> None:
    for lane in (None, 'a"b'):
        writer = ResponseWriter(HEADING, Framing(sse=False, stream_id=lane))
        told = [*writer.first(), *writer.item(TextDelta("a")), *writer.item(TextDelta("b"))]
        found = [server_event(message) for message in [*told, *writer.last(DONE)]]
        whole_stream(found)
        assert {event.get("stream_id") for event in found} == {lane}
