"""Searches of the web: the API's own for plain models, Claude Code's for agents. What the client
asks for reaches the API, what was found and cited reaches the client, and the conversation keeps
it for every later child."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import trio
from attrs import evolve
from openai.types.chat import ChatCompletion
from openai.types.responses import Response as ResponseObject

from tests.support.anthropic_messages import MESSAGES, events_of, message_of, put_together
from tests.support.messages_stub import (
    Answer,
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
from tests.support.raw_agent import open_raw_agent, results_of, run_out
from tests.support.raw_cli import user_frame
from tests.support.responses import RESPONSES, Event, events, text_of, tool

from .served import JSON, MODEL, Served, function, user

PLUMS, FIGS = ("Plums", "https://plums.example/a"), ("Figs", "https://figs.example/b")
SEARCH = {"type": "web_search"}
CITED = "Plums are blue, says Plums."


def searched(*after: Text | ToolUse, id: str = "srvtoolu_1", error: str | None = None) -> Reply:
    """The API searches, and answers."""
    found = SearchResult(id, () if error else (PLUMS, FIGS), error)
    return Reply(
        (Text("I look."), ServerToolUse({"query": "plums"}, id=id), found, *after),
        usage=Usage(web_search_requests=1),
    )


def cited() -> Reply:
    return searched(Text("So: "), Text("plums are blue", 3, (PLUMS,)), Text("."))


TEXT = "I look.\n\nSo: plums are blue."
PLACE = {"start_index": TEXT.index("plums"), "end_index": len(TEXT) - 1}
CITATION = {"title": PLUMS[0], "url": PLUMS[1]}


def respond(served: Served, given: Any, **fields: Any) -> tuple[JSON, httpx.Headers]:
    answered = served.post(RESPONSES, {"model": MODEL, "input": given, **fields})
    assert answered.status_code == 200, answered.text
    ResponseObject.model_validate_json(answered.content, strict=True)
    found: JSON = answered.json()
    return found, answered.headers


def stream(served: Served, given: Any, **fields: Any) -> list[Event]:
    body = {"model": MODEL, "input": given, "stream": True, **fields}
    found = events(served.post(RESPONSES, body).content)
    shown = served.get(f"{RESPONSES}/{found[-1]['response']['id']}")
    assert shown == found[-1]["response"]
    return found


# -- plain models ----------------------------------------------------------------------------------


def test_a_chat_searches_and_its_answer_says_where_it_is_from(served: Served) -> None:
    served.answers(cited(), cited())
    near = {"type": "approximate", "approximate": {"city": "Rome", "country": "IT"}}
    fields: Any = {"web_search_options": {"user_location": near, "search_context_size": "low"}}
    whole = served.ask(user("Of plums?"), **fields)
    ChatCompletion.model_validate(whole.body, strict=True)
    assert whole.text == TEXT
    note = {"type": "url_citation", "url_citation": {**PLACE, **CITATION}}
    assert whole.message["annotations"] == [note]
    assert whole.headers["x-ccapi-ignored"] == "web_search_options.search_context_size"
    assert served.last.body["tools"] == [
        {
            "type": "web_search_20250305",
            "name": "web_search",
            "user_location": {"type": "approximate", "city": "Rome", "country": "IT"},
        }
    ]
    streamed = served.stream(user("Of plums, streamed?"), **fields)
    assert streamed.text == TEXT
    assert [each["annotations"] for each in streamed.deltas if "annotations" in each] == [[note]]


def test_later_turns_of_every_child_read_what_was_found(served: Served) -> None:
    """Warm, and told to another child; the search itself is for its own turn alone."""
    served.answers(cited())
    first = served.ask(user("Of plums?"), web_search_options={})
    history = [user("Of plums?"), {"role": "assistant", "content": TEXT}]
    then = [user("And figs?")]
    served.ask(*history, *then)
    warm = served.last.body["messages"]
    assert served.last.tools == []
    said = warm[1]["content"]
    assert [block["type"] for block in said] == [
        "text", "server_tool_use", "web_search_tool_result", "text", "text", "text",
    ]  # fmt: skip
    assert said[2]["content"][0]["encrypted_content"] == "ZW5j"
    assert said[4]["citations"] == Text("plums are blue", cites=(PLUMS,)).citations()
    served.kill_child(first.conversation_id)
    again = [*then, {"role": "assistant", "content": "turn 2: And figs?"}, user("Really?")]
    served.ask(*history, *again)
    assert served.last.body["messages"][1]["content"] == said
    assert len(served.adopted(first.conversation_id)) == 2


def test_a_response_has_its_searches_as_items(served: Served) -> None:
    served.answers(cited())
    filters = {"allowed_domains": ["plums.example"]}
    found = stream(
        served,
        "Of plums?",
        tools=[{**SEARCH, "filters": filters}],
        include=["web_search_call.action.sources"],
        tool_choice={"type": "web_search"},
    )
    asked = served.last.body
    assert asked["tools"][0]["allowed_domains"] == ["plums.example"]
    assert asked["tool_choice"] == {"type": "tool", "name": "web_search"}
    kinds = [event["type"].removeprefix("response.") for event in found]
    about = [kind for kind in kinds if "search" in kind or "annotation" in kind]
    assert about == [
        "web_search_call.in_progress",
        "web_search_call.searching",
        "web_search_call.completed",
        "output_text.annotation.added",
    ]
    _, search, message = found[-1]["response"]["output"]
    sources = [{"type": "url", "url": url} for _, url in (PLUMS, FIGS)]
    action = {"type": "search", "query": "plums", "queries": ["plums"], "sources": sources}
    assert (search["status"], search["action"]) == ("completed", action)
    [part] = message["content"]
    text = TEXT.removeprefix("I look.")
    begin = text.index("plums")
    place = {"start_index": begin, "end_index": begin + len("plums are blue")}
    assert part["text"] == text
    assert part["annotations"] == [{"type": "url_citation", **place, **CITATION}]


def test_the_clients_own_tools_stand_beside_a_search(served: Served) -> None:
    """The API receives them in the form that the CLI gives them, and a call suspends the turn."""
    look = tool("look", parameters={"type": "object", "properties": {"a": {"type": "string"}}})
    served.answers(say("Hi."), searched(ToolUse("look", {"a": "b"}, "toolu_1")), say("Fine."))
    respond(served, "Hello", tools=[look])
    told = served.last.body["tools"]
    first, headers = respond(served, "Look.", tools=[look, SEARCH])
    assert served.last.body["tools"][:-1] == told
    assert "x-ccapi-ignored" not in headers
    kinds = [item["type"] for item in first["output"]]
    assert kinds == ["message", "web_search_call", "function_call"]
    assert [each["type"] for each in first["tools"]] == ["function", "web_search"]
    result = {"type": "function_call_output", "call_id": "toolu_1", "output": "seen"}
    history = [{"role": "user", "content": "Look."}, *first["output"], result]
    second, headers = respond(served, history, tools=[look, SEARCH])
    assert text_of(second) == "Fine."
    assert second["conversation_id"] == first["conversation_id"]
    assert "x-ccapi-ignored" not in headers


def test_a_search_that_fails_has_failed_for_the_client(served: Served) -> None:
    served.answers(searched(Text("I could not look."), error="too_many_requests"))
    found = stream(served, "Of plums?", tools=[SEARCH])
    _, search, _ = found[-1]["response"]["output"]
    assert (search["status"], search["action"]["sources"]) == ("failed", [])


def test_a_pause_of_the_api_is_an_answer_that_was_cut(served: Served) -> None:
    """And its conversation goes on."""
    served.answers(evolve(searched(), stop_reason="pause_turn"), say("Blue."))
    first, _ = respond(served, "Of plums, at length?", tools=[SEARCH])
    assert (first["status"], first["incomplete_details"]["reason"]) == (
        "incomplete", "max_output_tokens",
    )  # fmt: skip
    assert [item["type"] for item in first["output"]] == ["message", "web_search_call"]
    second, _ = respond(served, "Go on.", previous_response_id=first["id"])
    assert text_of(second) == "Blue."
    kinds = [block["type"] for block in served.last.body["messages"][1]["content"]]
    assert kinds == ["text", "server_tool_use", "web_search_tool_result"]


def test_what_searches_cost_is_counted(served: Served) -> None:
    """By the CLI's own figure: a cent for each."""
    served.answers(cited())
    first = served.ask(user("What does it cost?"), web_search_options={})
    conversation = served.live.gateway.loaded(first.conversation_id)
    assert conversation.info.usage.cost_usd > 0.01


def test_a_function_of_that_name_is_the_clients(served: Served) -> None:
    served.answers(say("Hi."))
    given = served.ask(user("Hello"), tools=[function("web_search")], web_search_options={})
    assert given.headers["x-ccapi-ignored"] == "web_search_options"
    assert [tool.get("type") for tool in served.last.body["tools"]] == [None]


# -- agents ----------------------------------------------------------------------------------------


def test_an_agent_searches_with_its_own_tool_within_the_wish(served: Served) -> None:
    """No client has to permit what it has asked for; the links in the text are its citations."""
    answer = f"[Blue]({PLUMS[1]}), they say; or see {FIGS[1]}. Not https://other.example/."

    def agent(request: Request) -> Answer:
        if request.is_search:
            return searched(Text("Blue."))
        if request.last_user_text.startswith(("Web search results", "No more")):
            return say(answer, chunks=3)
        return call(
            ToolUse("WebSearch", {"query": "plums", "blocked_domains": ["x.example"]}), text="So."
        )

    served.stub.answer = agent
    filters = {"allowed_domains": ["plums.example"]}
    found = stream(
        served, "Of plums?", model=f"agent/{MODEL}", tools=[{**SEARCH, "filters": filters}]
    )
    [search] = [request for request in served.requests if request.is_search]
    assert search.body["tools"][0]["allowed_domains"] == ["plums.example"]
    assert "blocked_domains" not in search.body["tools"][0]
    _, called, message = found[-1]["response"]["output"]
    assert (called["type"], called["status"]) == ("web_search_call", "completed")
    assert [each["url"] for each in called["action"]["sources"]] == [PLUMS[1], FIGS[1]]
    [part] = message["content"]
    notes = part["annotations"]
    linked = [part["text"][note["start_index"] : note["end_index"]] for note in notes]
    assert linked == [f"[Blue]({PLUMS[1]})", FIGS[1]]
    assert [note["url"] for note in notes] == [PLUMS[1], FIGS[1]]


# -- the Messages API's own words ------------------------------------------------------------------

OWN = {"type": "web_search_20250305", "name": "web_search", "max_uses": 3}


def message(served: Served, messages: list[JSON], **fields: Any) -> tuple[JSON, httpx.Headers]:
    body = {"model": MODEL, "max_tokens": 5000, "messages": messages, **fields}
    answered = served.post(MESSAGES, body)
    assert answered.status_code == 200, answered.text
    message_of(answered.content)
    found: JSON = answered.json()
    return found, answered.headers


def plain(blocks: list[JSON]) -> list[JSON]:
    """Without the nulls that a client brings back."""
    return [{key: value for key, value in each.items() if value is not None} for each in blocks]


def test_a_message_has_the_blocks_as_the_api_gave_them(served: Served) -> None:
    """Whole and streamed; brought back they are found, and told to another child as they were."""
    served.answers(cited(), cited())
    asked = [user("Of plums, in blocks?")]
    near = {"type": "approximate", "city": "Rome"}
    tools = [{**OWN, "blocked_domains": ["x.example"], "user_location": near}]
    choice = {"type": "tool", "name": "web_search"}
    first, headers = message(served, asked, tools=tools, tool_choice=choice)
    assert served.last.body["tools"] == tools
    assert served.last.body["tool_choice"] == choice
    given = cited().message("")["content"]
    assert plain(first["content"]) == given
    assert first["usage"]["server_tool_use"]["web_search_requests"] == 1
    assert "x-ccapi-ignored" not in headers
    body = {"model": MODEL, "max_tokens": 5000, "messages": asked, "tools": tools, "stream": True}
    streamed = served.post(MESSAGES, body).content
    events_of(streamed)
    again = put_together(streamed)
    assert plain(again["content"]) == given
    assert again["usage"]["server_tool_use"]["web_search_requests"] == 1
    history = [*asked, {"role": "assistant", "content": first["content"]}]
    warm, headers = message(served, [*history, user("And figs?")])
    assert headers["x-ccapi-lineage"] == "hit"
    assert "x-ccapi-ignored" not in headers
    assert served.last.body["messages"][1]["content"] == given
    served.kill_child(headers["x-conversation-id"])
    history += [user("And figs?"), {"role": "assistant", "content": warm["content"]}]
    other = [user("Hello."), {"role": "assistant", "content": first["content"]}]
    for earlier in (history, other):
        message(served, [*earlier, user("Really?")])
        assert served.last.body["messages"][1]["content"] == given


def test_an_error_of_a_search_is_the_apis_own(served: Served) -> None:
    served.answers(searched(Text("Sorry."), error="max_uses_exceeded"))
    found, _ = message(served, [user("Of plums, in vain?")], tools=[OWN])
    error = {"type": "web_search_tool_result_error", "error_code": "max_uses_exceeded"}
    assert found["content"][2]["content"] == error


def test_a_pause_of_the_api_goes_on_where_it_was(served: Served) -> None:
    served.answers(evolve(searched(), stop_reason="pause_turn"), say("Blue."))
    asked = [user("Of plums, in two parts?")]
    first, _ = message(served, asked, tools=[OWN])
    assert first["stop_reason"] == "pause_turn"
    history = [*asked, {"role": "assistant", "content": first["content"]}]
    second, _ = message(served, history, tools=[OWN])
    assert second["content"][0]["text"] == "Blue."
    sent = served.last.body
    assert [each["role"] for each in sent["messages"]] == ["user", "assistant"]
    assert sent["messages"][1]["content"] == plain(first["content"])
    assert sent["tools"] == [OWN]


def test_claude_as_a_client_searches(served: Served, tmp_path: Path) -> None:
    """Its ``WebSearch`` is a request of its own with the API's tool, which it has to call."""

    def model(request: Request) -> Answer:
        if request.is_search:
            return searched(Text("Blue."))
        if request.last_user_text.startswith("Web search results"):
            return say("Done.")
        return call(ToolUse("WebSearch", {"query": "plums"}))

    async def ask() -> list[JSON]:
        async with open_raw_agent(tmp_path, served.live.url, model=MODEL) as cli:
            await cli.send(user_frame("Of plums?"))
            return await run_out(cli)

    served.stub.answer = model
    frames = trio.run(ask)
    assert frames[-1]["result"] == "Done."
    [result] = results_of(frames)
    assert f'"url":"{PLUMS[1]}"' in result["content"]
    [used] = frames[-1]["modelUsage"].values()
    assert used["webSearchRequests"] == 1
    [search] = [request for request in served.requests if request.is_search]
    assert search.body["tool_choice"] == {"type": "tool", "name": "web_search"}


def test_an_agents_search_in_the_words_of_the_messages_api(served: Served) -> None:
    """What the API did not make it does not get back as a block, but in words."""

    def agent(request: Request) -> Answer:
        if request.is_search:
            return searched(Text("Blue."))
        if request.last_user_text.startswith("Web search results"):
            return say(f"See {PLUMS[1]}!")
        return call(ToolUse("WebSearch", {"query": "plums"}, "toolu_9"))

    served.stub.answer = agent
    asked = [user("Of plums?")]
    found, _ = message(served, asked, model=f"agent/{MODEL}", tools=[OWN])
    use, result, text = found["content"]
    assert (use["type"], use["input"]) == ("server_tool_use", {"query": "plums"})
    assert [page["url"] for page in result["content"]] == [PLUMS[1], FIGS[1]]
    [citation] = text["citations"]
    assert (citation["url"], citation["title"]) == (PLUMS[1], PLUMS[0])
    served.begin()
    history = [*asked, {"role": "assistant", "content": found["content"]}, user("Sure?")]
    message(served, history)
    told = [block["text"] for block in served.last.body["messages"][1]["content"]]
    assert told == [
        '[web_search: {"query":"plums"}]',
        f"[web_search found: Plums ({PLUMS[1]}), Figs ({FIGS[1]})]",
        f"See {PLUMS[1]}!",
    ]
