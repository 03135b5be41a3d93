"""Searches of the web: by the Messages API for a plain model, whose body gets the API's own tool,
and by Claude Code's ``WebSearch`` for an agent."""

from __future__ import annotations

import json
from typing import Any

from tests.contract.conftest import OpenAgent, OpenChild
from tests.support.messages_stub import (
    MessagesStub,
    Reply,
    Request,
    SearchResult,
    ServerToolUse,
    Text,
    ToolUse,
    Usage,
    call,
    say,
)
from tests.support.raw_agent import run_out
from tests.support.raw_cli import Frame, RawCli, assistant_frame, is_result, user_frame

PAGES = (("Plums", "https://plums.example/a"), ("Figs", "https://figs.example/b"))
TOOL = {"type": "web_search_20250305", "name": "web_search", "max_uses": 3}
USE = ServerToolUse({"query": "plums"}, id="srvtoolu_1")


def searched(*after: Text, error: str | None = None, stop: str | None = None) -> Reply:
    found = SearchResult(USE.id, () if error else PAGES, error)
    usage = Usage(web_search_requests=1, input_tokens=100, output_tokens=50)
    return Reply((Text("I look."), USE, found, *after), usage=usage, stop_reason=stop)


CITED = searched(Text("So "), Text("plums are blue", 2, PAGES[:1]), Text("."))
BLOCKS = CITED.message("")["content"]


def lay_over(cli: RawCli, tools: list[Any] | None) -> Frame:
    body = "" if tools is None else json.dumps({"tools": tools})
    settings = {"env": {"CLAUDE_CODE_EXTRA_BODY": body}}
    return cli.control_frame("apply_flag_settings", settings=settings)


def blocks_of(frames: list[Frame]) -> list[Any]:
    return [block for f in frames if f["type"] == "assistant" for block in f["message"]["content"]]


def said(request: Request, index: int) -> Any:
    return request.body["messages"][index]["content"]


# -- a plain model ---------------------------------------------------------------------------------


async def test_a_childs_body_takes_the_apis_own_search_for_one_turn(
    child: RawCli, stub: MessagesStub
) -> None:
    await child.send(lay_over(child, [TOOL]))
    stub.queue.append(CITED)
    frames = await child.turn("Of plums?")
    assert stub.requests[0].body["tools"] == [TOOL]
    assert blocks_of(frames) == BLOCKS, "one frame a block, as the API gave it"
    starts = [
        frame["event"]["content_block"]["type"]
        for frame in frames
        if frame["type"] == "stream_event" and frame["event"]["type"] == "content_block_start"
    ]
    assert starts == [block["type"] for block in BLOCKS]
    result = frames[-1]
    assert (result["is_error"], result["num_turns"]) == (False, 1)
    assert result["usage"]["server_tool_use"]["web_search_requests"] == 1
    [model] = result["modelUsage"].values()
    assert model["webSearchRequests"] == 1
    assert 0.01 < result["total_cost_usd"] < 0.02, "a search costs a cent"
    await child.send(lay_over(child, None))
    await child.turn("Thanks.")
    assert stub.requests[1].body["tools"] == []
    assert said(stub.requests[1], 1) == BLOCKS, "what it read stays, citations and all"


async def test_an_emptied_child_knows_nothing_of_a_search(
    child: RawCli, stub: MessagesStub
) -> None:
    """So it can serve another conversation."""
    asked = user_frame("Of plums?")
    await child.send(lay_over(child, [TOOL]), asked)
    stub.queue.append(CITED)
    await child.until(is_result)
    await child.send(lay_over(child, None))
    rewound = await child.control(
        "rewind_conversation",
        target_message_uuid=asked["uuid"],
        last_seen_user_message_uuid=asked["uuid"],
        interrupt_if_running=True,
    )
    assert rewound["response"]["rewound"] is True
    await child.turn("Hello")
    assert stub.requests[1].conversation == [("user", ["Hello"])]


async def test_searches_of_a_history_reach_the_api_as_they_are(
    child: RawCli, stub: MessagesStub
) -> None:
    await child.turn("Of plums?", shouldQuery=False)
    await child.send(assistant_frame(BLOCKS, id="msg_1"))
    await child.turn("Thanks.")
    assert said(stub.requests[0], 1) == BLOCKS


async def test_a_search_that_fails_is_a_block_with_a_code(
    child: RawCli, stub: MessagesStub
) -> None:
    await child.send(lay_over(child, [TOOL]))
    stub.queue.append(searched(Text("Sorry."), error="too_many_requests"))
    frames = await child.turn("Of plums?")
    error = {"type": "web_search_tool_result_error", "error_code": "too_many_requests"}
    assert blocks_of(frames)[2]["content"] == error
    assert frames[-1]["is_error"] is False


async def test_a_pause_of_the_api_ends_the_turn(child: RawCli, stub: MessagesStub) -> None:
    await child.send(lay_over(child, [TOOL]))
    """With an error, unless the last block is a text; the history holds what came."""
    await child.send(lay_over(child, [TOOL]))
    for number, (after, is_error) in enumerate([((), True), ((Text("So "),), False)]):
        stub.queue.append(searched(*after, stop="pause_turn"))
        frames = await child.turn("Of plums?")
        assert (frames[-1]["is_error"], frames[-1]["stop_reason"]) == (is_error, "pause_turn")
        assert len(stub.requests) == 1 + number
    await child.turn("Go on.")
    kinds = [block["type"] for block in said(stub.requests[-1], 1)]
    assert kinds == ["text", "server_tool_use", "web_search_tool_result"]


async def test_a_plain_child_cannot_have_claude_codes_search(
    open_child: OpenChild, stub: MessagesStub
) -> None:
    """CLAUDE_CODE_SIMPLE takes it away, whatever the flags say. (Why plain models do not use
    it.)"""
    async with open_child("--tools", "WebSearch", "--allowedTools", "WebSearch") as cli:
        stub.queue.append(call(ToolUse("WebSearch", {"query": "plums"})))
        frames = await cli.turn("Of plums?")
    assert stub.requests[0].tools == []
    assert not any(request.is_search for request in stub.requests)
    assert frames[-1]["result"].startswith("turn 2: <tool_use_error>Error: No such tool")


# -- an agent --------------------------------------------------------------------------------------


async def test_an_agents_search_is_a_call_of_the_api_beside_the_turn(
    open_agent: OpenAgent, stub: MessagesStub
) -> None:
    given = {"query": "plums", "allowed_domains": ["plums.example"]}

    def answer(request: Request) -> Reply:
        if request.is_search:
            return searched(Text("Blue."))
        return say("done") if len(stub.requests) > 1 else call(ToolUse("WebSearch", given))

    stub.answer = answer
    async with open_agent() as cli:
        await cli.send(user_frame("Of plums?"))
        frames = await run_out(cli)
    _, search, last = stub.requests
    tool = {"type": "web_search_20250305", "name": "web_search", "max_uses": 8}
    assert search.body["tools"] == [{**tool, "allowed_domains": ["plums.example"]}]
    assert search.body["tool_choice"] == {"type": "tool", "name": "web_search"}
    assert search.last_user_text == "Perform a web search for the query: plums"
    [returned] = [frame for frame in frames if "tool_use_result" in frame]
    told = returned["tool_use_result"]
    assert (told["query"], told["searchCount"]) == ("plums", 1)
    links = [{"title": title, "url": url} for title, url in PAGES]
    found = {"tool_use_id": USE.id, "content": links}
    assert told["results"] == ["I look.", found, "Blue."]
    assert f"Links: {json.dumps(links, separators=(',', ':'))}" in last.last_user_text
    assert "markdown hyperlinks" in last.last_user_text
    assert frames[-1]["usage"]["server_tool_use"]["web_search_requests"] == 0, "not the turn's own"
    [model] = frames[-1]["modelUsage"].values()
    assert (model["webSearchRequests"], frames[-1]["total_cost_usd"] > 0.01) == (1, True)


async def test_an_agents_search_that_fails_is_a_text(
    open_agent: OpenAgent, stub: MessagesStub
) -> None:
    def answer(request: Request) -> Reply:
        if request.is_search:
            return searched(Text("Sorry."), error="unavailable")
        use = ToolUse("WebSearch", {"query": "plums"})
        return say("done") if len(stub.requests) > 1 else call(use)

    stub.answer = answer
    async with open_agent() as cli:
        await cli.send(user_frame("Of plums?"))
        frames = await run_out(cli)
    [returned] = [frame for frame in frames if "tool_use_result" in frame]
    results = returned["tool_use_result"]["results"]
    assert results == ["I look.", "Web search error: unavailable", "Sorry."]
    assert "is_error" not in returned["message"]["content"][0]
