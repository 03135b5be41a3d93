"""The client's tools: offered by an SDK server, called and answered on the control channel."""

import itertools
import json
import signal
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from tests.contract.conftest import OpenChild
from tests.contract.test_resume import last_assistant, wait_recorded
from tests.support.logins import by_key_and_token, every_login
from tests.support.messages_stub import MessagesStub, Reply, ToolUse, call, say
from tests.support.raw_cli import Frame, answers, is_result, kind, user_frame
from tests.support.raw_tools import (
    HANDSHAKE,
    answer,
    called,
    calls_of,
    is_mcp,
    serve,
    texts,
    tool,
    tool_child,
    tool_turn,
)

PNG = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5E"
    "rkJggg=="
)
IMAGE = {"type": "image", "data": PNG, "mimeType": "image/png"}


def results(stub: MessagesStub) -> dict[str, Frame]:
    """The tool results at the end of the last request, by the id of their call, in order."""
    content = stub.requests[-1].body["messages"][-1]["content"]
    return {block["tool_use_id"]: block for block in content if block["type"] == "tool_result"}


def outline(frames: list[Frame]) -> list[str]:
    """What of the frames is about the model's message and its calls; runs of one kind as one."""
    names = (
        frame["request"]["message"]["method"] if is_mcp(frame) else kind(frame)
        for frame in frames
        if kind(frame).startswith(("stream_event", "assistant", "user")) or is_mcp(frame)
    )
    return [name.removeprefix("stream_event/") for name, _ in itertools.groupby(names)]


# -- offering --------------------------------------------------------------------------------------


@every_login
async def test_tools_are_offered_to_the_turn_that_is_pipelined_behind_initialize(
    open_child: OpenChild, stub: MessagesStub
) -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"anyOf": [{"type": "string"}, {"type": "null"}], "x-own": 1}},
        "$defs": {"b": {"type": "integer"}},
    }
    async with tool_child(open_child) as cli:
        await tool_turn(cli, "hi", [tool("weather", inputSchema=schema), tool("Alarm")])
    first, weather = stub.requests[0].body["tools"]
    assert first["name"] == "Alarm"  # in alphabetical order
    assert weather == {
        "name": "weather",
        "description": "what weather does",
        "input_schema": schema,
    }


@pytest.mark.parametrize(
    "lacking",
    [
        {"capabilities": {"tools": {}}, "serverInfo": {"name": "c", "version": "1"}},
        {"protocolVersion": "2025-06-18", "serverInfo": {"name": "c", "version": "1"}},
        {"protocolVersion": "2025-06-18", "capabilities": {"tools": {}}},
        {**HANDSHAKE, "serverInfo": {"name": "c"}},
        {**HANDSHAKE, "capabilities": {}},
        {**HANDSHAKE, "protocolVersion": "1999-01-01"},
    ],
    ids=["version", "capabilities", "server", "server version", "tools", "known version"],
)
async def test_a_handshake_that_lacks_anything_leaves_the_child_without_tools(
    lacking: Frame, open_child: OpenChild, stub: MessagesStub
) -> None:
    """The turn goes on without an error."""
    async with tool_child(open_child) as cli:
        assert (await tool_turn(cli, "hi", [tool("t")], handshake=lacking))[-1]["is_error"] is False
    assert stub.requests[0].tools == []


async def test_one_schema_without_a_type_makes_every_tool_disappear(
    open_child: OpenChild, stub: MessagesStub
) -> None:
    async with tool_child(open_child) as cli:
        await tool_turn(cli, "hi", [tool("good"), tool("bad", inputSchema={"properties": {}})])
    assert stub.requests[0].tools == []


async def test_a_long_description_is_cut_unless_the_environment_allows_it(
    open_child: OpenChild, stub: MessagesStub
) -> None:
    long = tool("t", description="d" * 20_000)
    async with tool_child(open_child) as cli:
        await tool_turn(cli, "hi", [long])
    allowed = {"CLAUDE_CODE_MAX_MCP_DESCRIPTION_LENGTH": "100000"}
    async with tool_child(open_child, environment=allowed) as cli:
        await tool_turn(cli, "hi", [long])
    cut, whole = (request.body["tools"][0]["description"] for request in stub.requests)
    assert cut == "d" * 4096 + "… [truncated]"
    assert whole == "d" * 20_000


async def test_tools_keep_the_clients_names_whatever_they_are(
    open_child: OpenChild, stub: MessagesStub
) -> None:
    names = [
        "with.dot",
        "with space",
        "a/b",
        "ü日本",
        "x" * 64,
        "Bash",
        "Read",
        "Task",
        "WebSearch",
    ]
    names += ["StructuredOutput", "mcp__client__x", "__proto__", "1st", "-dash", 'a"b', "Agent"]
    stub.queue.append(call(*(ToolUse(name) for name in names)))
    seen: list[str] = []

    def ok(frame: Frame) -> Frame:
        seen.append(called(frame))
        return texts("ok")

    async with tool_child(open_child) as cli:
        await tool_turn(cli, "hi", [tool(name) for name in names], ok)
    assert sorted(stub.requests[0].tools) == sorted(names)
    assert sorted(seen) == sorted(names)
    assert not any(result.get("is_error") for result in results(stub).values())


async def test_a_tool_named_toolsearch_hides_all_others(
    open_child: OpenChild, stub: MessagesStub
) -> None:
    """The CLI takes it for its own; ENABLE_TOOL_SEARCH=false costs that one tool only."""
    tools = [tool("t"), tool("ToolSearch")]
    async with tool_child(open_child) as cli:
        await tool_turn(cli, "hi", tools)
    async with tool_child(open_child, environment={"ENABLE_TOOL_SEARCH": "false"}) as cli:
        await tool_turn(cli, "hi", tools)
    assert "t" not in stub.requests[0].tools
    assert stub.requests[1].tools == ["t"]


async def test_a_server_of_another_name_replaces_the_tools_between_turns(
    open_child: OpenChild, stub: MessagesStub
) -> None:
    """The same name again changes nothing: a live conversation alternates between two."""
    async with tool_child(open_child, "--allowedTools", "mcp__other") as cli:
        await tool_turn(cli, "one", [tool("first")])
        for name, offer in (("other", "second"), ("client", "third"), ("client", "ignored")):
            servers = {name: {"type": "sdk", "name": name}}
            stub.queue.append(call(ToolUse("third" if offer == "ignored" else offer)))
            await cli.send(cli.control_frame("mcp_set_servers", servers=servers))
            await tool_turn(cli, "next", [tool(offer)], lambda _: texts("ok"))
            assert results(stub).popitem()[1]["content"] == [{"type": "text", "text": "ok"}]
    offered = [request.tools for request in stub.requests]
    assert offered == [["first"], *([["second"]] * 2), *([["third"]] * 4)]
    assert len(stub.requests[-1].conversation) == 13  # and nothing else in the history


async def test_a_resumed_child_offers_the_tools_it_is_given(
    open_child: OpenChild, stub: MessagesStub
) -> None:
    async with tool_child(open_child) as cli:
        frames = await tool_turn(cli, "one", [tool("old")])
        await cli.close_stdin()
        assert await cli.wait() == 0
    last = last_assistant(frames)
    flags = ("--resume", frames[-1]["session_id"], "--resume-session-at", last)
    async with tool_child(open_child, *flags) as cli:
        await tool_turn(cli, "two", [tool("new")])
    assert [request.tools for request in stub.requests] == [["old"], ["new"]]
    assert len(stub.requests[-1].conversation) == 3


# -- calling ---------------------------------------------------------------------------------------


@by_key_and_token
async def test_a_call_comes_when_its_block_is_whole_and_before_the_message_ends(
    open_child: OpenChild, stub: MessagesStub
) -> None:
    stub.queue += [call(ToolUse("t", {"a": 1}, id="toolu_1"), text="hm"), say("done")]
    async with tool_child(open_child) as cli:
        await cli.send(user_frame("hi"))
        await serve(cli, lambda frame: kind(frame) == "stream_event/message_start", [tool("t")])
        frames = await serve(cli, is_result, [tool("t")], lambda _: texts("ok"))
    block = ["content_block_start", "content_block_delta", "assistant", "content_block_stop"]
    end = ["message_delta", "message_stop"]
    assert outline(frames) == [
        *block,
        *block,
        *("tools/call", *end, "user", "message_start"),
        *block,
        *end,
    ]
    (frame,) = (frame for frame in frames if is_mcp(frame))
    params = frame["request"]["message"]["params"]
    assert (params["name"], params["arguments"]) == ("t", {"a": 1})
    assert params["_meta"]["claudecode/toolUseId"] == "toolu_1"
    assert frames[-1]["num_turns"] == 2


async def test_parallel_calls_all_come_before_the_message_ends(
    open_child: OpenChild, stub: MessagesStub
) -> None:
    """With readOnlyHint. (In which order their results reach the model differs between releases:
    2.1.330 took that of the answers, 2.1.332 takes that of the calls.)"""
    ids = ["toolu_1", "toolu_2", "toolu_3"]
    stub.queue.append(call(*(ToolUse("t", id=id) for id in ids)))
    async with tool_child(open_child) as cli:
        calls, frames = await calls_of(cli, "hi", [tool("t")])
        assert [
            f["request"]["message"]["params"]["_meta"]["claudecode/toolUseId"] for f in calls
        ] == ids
        order = outline(frames)
        assert len(order) - 1 - order[::-1].index("tools/call") < order.index("message_delta")
        for frame in reversed(calls):
            await cli.send(answer(frame, texts("ok")))
        await cli.until(is_result)
    assert set(results(stub)) == set(ids)


async def test_arguments_are_exact_in_the_deltas_alone_and_never_validated(
    open_child: OpenChild, stub: MessagesStub
) -> None:
    """What the call carries, and the history too, went through JavaScript's numbers."""
    stub.queue.append(call(ToolUse("t", {"n": 1.0, "big": 9007199254740993})))
    strict = tool("t", inputSchema={"type": "object", "properties": {}, "required": ["city"]})
    async with tool_child(open_child) as cli:
        calls, frames = await calls_of(cli, "hi", [strict])
    deltas = [f["event"]["delta"] for f in frames if kind(f) == "stream_event/content_block_delta"]
    streamed = "".join(delta["partial_json"] for delta in deltas)
    assert streamed == '{"n":1.0,"big":9007199254740993}'
    (frame,) = calls
    assert frame["request"]["message"]["params"]["arguments"]["big"] == 9007199254740992


async def test_a_tool_that_was_not_offered_is_refused_by_the_cli_itself(
    open_child: OpenChild, stub: MessagesStub
) -> None:
    stub.queue += [call(ToolUse("ghost", id="toolu_1")), say("done")]
    async with tool_child(open_child) as cli:
        frames = await tool_turn(cli, "hi", [tool("t")])
    assert not any(is_mcp(frame, "tools/call") for frame in frames)
    assert len(stub.requests) == 2
    assert results(stub)["toolu_1"]["is_error"] is True
    assert "No such tool available: ghost" in results(stub)["toolu_1"]["content"]


# -- answering -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "arrived"),
    [
        (texts(" exact \n"), [{"type": "text", "text": " exact \n"}]),
        (texts("a", "b"), [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]),
        (texts("/help"), [{"type": "text", "text": "/help"}]),
        (texts(""), "(t completed with no output)"),
        ({"content": []}, "(t completed with no output)"),
        (texts("a", "b", isError=True), "a\nb"),
        ({"content": [*texts("a")["content"], IMAGE], "isError": True}, "a"),
        (texts("x" * 499_990), [{"type": "text", "text": "x" * 499_990}]),
    ],
    ids=["text", "texts", "slash", "empty", "nothing", "error", "error with image", "long"],
)
async def test_a_result_arrives_as(
    given: Frame, arrived: Any, open_child: OpenChild, stub: MessagesStub
) -> None:
    stub.queue.append(call(ToolUse("t", id="toolu_1")))
    async with tool_child(open_child) as cli:
        await tool_turn(cli, "hi", [tool("t")], lambda _: given)
    result = results(stub)["toolu_1"]
    assert result["content"] == arrived
    assert result.get("is_error", False) is given.get("isError", False)


async def test_an_image_in_a_result_gains_a_text_that_names_its_file(
    open_child: OpenChild, stub: MessagesStub
) -> None:
    stub.queue.append(call(ToolUse("t", id="toolu_1")))
    async with tool_child(open_child) as cli:
        await tool_turn(cli, "hi", [tool("t")], lambda _: {"content": [IMAGE]})
    image, text = results(stub)["toolu_1"]["content"]
    assert image["source"] == {"type": "base64", "media_type": "image/png", "data": PNG}
    assert text["text"].startswith("[Image: source:")


async def test_more_than_half_a_million_characters_are_replaced_by_a_preview(
    open_child: OpenChild, stub: MessagesStub
) -> None:
    """Whatever limit the tool asks for; and two results of one message count apart."""
    stub.queue.append(call(ToolUse("t", id="toolu_1"), ToolUse("u", id="toolu_2")))
    limit = {"anthropic/maxResultSizeChars": 5_000_000}
    tools = [tool("t", _meta=limit), tool("u", _meta=limit)]
    async with tool_child(open_child) as cli:
        await tool_turn(
            cli, "hi", tools, lambda f: texts("x" * (600_000 if called(f) == "t" else 400_000))
        )
    assert results(stub)["toolu_1"]["content"].startswith("<persisted-output>")
    assert len(results(stub)["toolu_2"]["content"][0]["text"]) == 400_000


async def test_a_refused_control_request_is_an_error_result(
    open_child: OpenChild, stub: MessagesStub
) -> None:
    stub.queue.append(call(ToolUse("t", id="toolu_1")))
    async with tool_child(open_child) as cli:
        (frame,), _ = await calls_of(cli, "hi", [tool("t")])
        error = {"subtype": "error", "request_id": frame["request_id"], "error": "boom"}
        await cli.send({"type": "control_response", "response": error})
        await cli.until(is_result)
    assert results(stub)["toolu_1"]["content"] == "boom"
    assert results(stub)["toolu_1"]["is_error"] is True


async def test_settings_written_before_an_answer_hold_for_the_next_request(
    open_child: OpenChild, stub: MessagesStub
) -> None:
    """All that EXTRA_BODY carries; CLAUDE_CODE_MAX_OUTPUT_TOKENS is fixed when a turn begins."""
    extra = {"tool_choice": {"type": "none"}, "max_tokens": 77, "thinking": {"type": "disabled"}}
    stub.queue.append(call(ToolUse("t")))
    async with tool_child(open_child) as cli:
        (frame,), _ = await calls_of(cli, "hi", [tool("t")])
        environment = {"CLAUDE_CODE_EXTRA_BODY": json.dumps(extra)}
        apply = cli.control_frame("apply_flag_settings", settings={"env": environment})
        await cli.send(apply, answer(frame, texts("ok")))
        await cli.until(is_result)

        stub.queue.append(call(ToolUse("t")))
        (frame,), _ = await calls_of(cli, "again", [tool("t")])
        environment = {"CLAUDE_CODE_EXTRA_BODY": "", "CLAUDE_CODE_MAX_OUTPUT_TOKENS": "55"}
        apply = cli.control_frame("apply_flag_settings", settings={"env": environment})
        await cli.send(apply, answer(frame, texts("ok")))
        await cli.until(is_result)
    bodies = [request.body for request in stub.requests]
    assert {name: bodies[1][name] for name in extra} == extra
    assert "tool_choice" not in bodies[3]
    assert bodies[3]["max_tokens"] not in (55, 77)


# -- calls that never get their answer -------------------------------------------------------------


@by_key_and_token
async def test_a_turn_with_open_calls_is_rewound_without_a_trace(
    open_child: OpenChild, stub: MessagesStub
) -> None:
    """Its answers may still come, late or twice: nothing happens."""
    async with tool_child(open_child) as cli:
        await tool_turn(cli, "one", [tool("t")])
        stub.queue.append(call(ToolUse("t"), ToolUse("t"), text="hm"))
        uuid = str(uuid4())
        calls, _ = await calls_of(cli, "two", [tool("t")], uuid=uuid)
        await cli.send(answer(calls[0], texts("early")))
        rewind = cli.control_frame(
            "rewind_conversation", target_message_uuid=uuid, interrupt_if_running=True
        )
        await cli.send(rewind)
        frames = await cli.until(answers(rewind))
        (result,) = filter(is_result, frames)
        assert (result["is_error"], result["terminal_reason"]) == (True, "aborted_tools")
        assert frames[-1]["response"]["response"]["rewound"] is True
        (cancelled,) = (frame for frame in frames if is_mcp(frame))
        message = cancelled["request"]["message"]
        assert message["method"] == "notifications/cancelled"
        assert message["params"]["requestId"] == calls[1]["request"]["message"]["id"]
        await cli.send(*(answer(frame, texts("late")) for frame in calls * 2))
        assert (await cli.turn("three"))[-1]["is_error"] is False
    assert stub.requests[-1].conversation == [
        ("user", ["one"]),
        ("assistant", ["turn 1: one"]),
        ("user", ["three"]),
    ]


async def test_a_child_killed_with_open_calls_is_resumed_before_them_or_at_them(
    open_child: OpenChild, stub: MessagesStub, tmp_path: Path
) -> None:
    """At the last assistant frame of the message that calls, results may come as a user frame.

    It is recorded some 0.1 s after the message ended; a child killed earlier cannot resume there.
    """
    async with tool_child(open_child) as cli:
        frames = await tool_turn(cli, "one", [tool("t")])
        stub.queue.append(call(ToolUse("t", id="toolu_1"), ToolUse("t", id="toolu_2"), text="hm"))
        _, more = await calls_of(cli, "two", [tool("t")])
        before, at = map(last_assistant, (frames, more))
        await wait_recorded(at, tmp_path)
        cli.signal(signal.SIGKILL)
        await cli.wait()
    session = frames[-1]["session_id"]
    blocks = [
        {"type": "tool_result", "tool_use_id": id, "content": "R" * 600_000}
        for id in ("toolu_1", "toolu_2")
    ]
    async with tool_child(open_child, "--resume", session, "--resume-session-at", at) as cli:
        await tool_turn(cli, blocks, [tool("t")])
    assert stub.requests[-1].conversation[2:] == [
        ("user", ["two"]),
        ("assistant", ["hm", "<tool_use>", "<tool_use>"]),
        ("user", ["<tool_result>", "<tool_result>"]),
    ]
    assert [len(block["content"]) for block in results(stub).values()] == [600_000] * 2
    async with tool_child(open_child, "--resume", session, "--resume-session-at", before) as cli:
        await tool_turn(cli, "again", [tool("t")])
    assert [texts for _, texts in stub.requests[-1].conversation] == [
        ["one"],
        ["turn 1: one"],
        ["again"],
    ]


async def test_a_connection_cut_behind_a_whole_call_waits_for_its_answer(
    open_child: OpenChild, stub: MessagesStub
) -> None:
    """The synthetic assistant frame is the only sign: no message_delta, no result."""
    cut = Reply((ToolUse("t"), ToolUse("t")), cut_after=3, pause=0.05)
    stub.queue.append(cut)
    async with tool_child(open_child) as cli:
        await cli.send(user_frame("hi"))

        def is_synthetic(frame: Frame) -> bool:
            return bool(frame["type"] == "assistant" and frame["message"]["model"] == "<synthetic>")

        frames = await serve(cli, is_synthetic, [tool("t")])
        assert frames[-1]["error"] == "server_error"
        calls = [frame for frame in frames if is_mcp(frame, "tools/call")]
        assert len(calls) == 1
        assert "stream_event/message_delta" not in map(kind, frames)
        assert not any(map(is_result, await cli.settle()))
        await cli.send(answer(calls[0], texts("ok")))
        assert (await cli.until(is_result))[-1]["is_error"] is False
