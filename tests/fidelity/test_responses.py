"""Responses: what a client says reaches the model as it was said, and what comes of it reaches the
client, item by item. What chat completions have in common with them is held there already."""

from __future__ import annotations

import json
from typing import Any

import pytest
from openai.types.responses import Response as ResponseObject

from tests.support.messages_stub import Failure, Reply, Text, Thinking, ToolUse, call, say
from tests.support.pictures import PDF, data_url, png
from tests.support.responses import RESPONSES, Event, check_item, events, output, text_of, tool

from .served import JSON, MODEL, Served, spoken

THINKER = "claude-opus-4-8"
PARIS = ToolUse("get_weather", {"city": "Paris"}, "toolu_paris")
ROME = ToolUse("get_weather", {"city": "Rome"}, "toolu_rome")
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = tool("get_weather", parameters=CITY)


def ask(served: Served, given: Any, *, status: int = 200, **fields: Any) -> JSON:
    """A whole response, sound by the SDK's own types; or the error."""
    body = {"model": MODEL, "input": given, **fields}
    answered = served._client.post(RESPONSES, json=body)
    assert answered.status_code == status, answered.text
    found: JSON = answered.json()
    if status != 200:
        error: JSON = found["error"]
        return error
    ResponseObject.model_validate_json(answered.content, strict=True)
    return found


def stream(served: Served, given: Any, **fields: Any) -> list[Event]:
    body = {"model": MODEL, "input": given, "stream": True, **fields}
    answered = served._client.post(RESPONSES, json=body)
    assert answered.status_code == 200, answered.text
    found = events(answered.content)
    assert [event["sequence_number"] for event in found] == [*range(len(found))]
    shown = served._client.get(f"{RESPONSES}/{found[-1]['response']['id']}").json()
    assert shown == found[-1]["response"]
    return found


def same_child(served: Served, *responses: JSON) -> bool:
    [conversation_id] = {response["conversation_id"] for response in responses}
    return len(served.adopted(conversation_id)) == 1


def test_a_conversation_of_responses(served: Served) -> None:
    first = ask(served, "Hello", instructions="Be brief.")
    second = ask(served, "And?", instructions="Be brief.", previous_response_id=first["id"])
    assert spoken(served.last) == [
        ("user", ["Hello"]),
        ("assistant", [text_of(first)]),
        ("user", ["And?"]),
    ]
    assert same_child(served, first, second)


def test_a_fork_receives_the_history_as_it_was(served: Served) -> None:
    served.answers(call(PARIS, ROME, text="Let me see."), say("Sunny."), say("Cloudy."))
    first = ask(served, "Weather?", tools=[WEATHER])
    results = [output("toolu_rome", "18"), output("toolu_paris", "21")]
    second = ask(served, results, tools=[WEATHER], previous_response_id=first["id"])
    assert same_child(served, first, second)
    third = ask(served, "Sure?", tools=[WEATHER], previous_response_id=second["id"])
    assert same_child(served, first, third)
    fork = ask(served, "Really?", tools=[WEATHER], previous_response_id=second["id"])
    assert fork["conversation_id"] != first["conversation_id"]
    assert spoken(served.last) == [
        ("user", ["Weather?"]),
        (
            "assistant",
            ["Let me see.", ("toolu_paris", "get_weather", {"city": "Paris"}),
             ("toolu_rome", "get_weather", {"city": "Rome"})],
        ),
        ("user", [("toolu_paris", ["21"], False), ("toolu_rome", ["18"], False)]),
        ("assistant", ["Sunny."]),
        ("user", ["Really?"]),
    ]  # fmt: skip


def test_a_history_that_the_client_keeps(served: Served) -> None:
    """Items of every kind, those of the gateway's own answers among them."""
    items = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": "Weather?"},
        {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "x"},
        {
            "type": "message",
            "id": "msg_1",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": "Let me see.", "annotations": []}],
        },
        {
            "type": "function_call",
            "id": "fc_1",
            "call_id": "toolu_paris",
            "name": "get_weather",
            "arguments": '{"city":"Paris"}',
            "status": "completed",
        },
        output("toolu_paris", "21"),
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "So?"}]},
    ]
    ask(served, items, tools=[WEATHER])
    assert spoken(served.last) == [
        ("user", ["Weather?"]),
        ("assistant", ["Let me see.", ("toolu_paris", "get_weather", {"city": "Paris"})]),
        ("user", [("toolu_paris", ["21"], False), "So?"]),
    ]
    assert "Be brief." in json.dumps(served.last.body["system"])


def test_pictures_and_documents(served: Served) -> None:
    picture, document = data_url(png(1, 1)), data_url(PDF, "application/pdf")
    content = [
        {"type": "input_image", "image_url": picture, "detail": "auto"},
        {"type": "input_file", "file_data": document, "filename": "a.pdf"},
        {"type": "input_text", "text": "What?"},
    ]
    response = ask(served, [{"role": "user", "content": content}])
    kinds = [block[0] for block in spoken(served.last)[0][1] if isinstance(block, tuple)]
    assert kinds == ["image", "document"]
    listed = served._client.get(f"{RESPONSES}/{response['id']}/input_items").json()
    [item] = listed["data"]
    check_item(item)
    assert item["content"][0]["image_url"] == picture
    assert item["content"][1]["file_data"] == document


def test_thinking_is_sent_as_a_summary_to_clients_that_ask(served: Served) -> None:
    thought = Reply((Thinking("It is so. Or not?", 3), Text("Yes.", 2)))
    served.answers(thought)
    found = stream(served, "Is it?", model=THINKER, reasoning={"summary": "auto"})
    reasoning, message = found[-1]["response"]["output"]
    assert reasoning["summary"][0]["text"] == "It is so. Or not?"
    assert message["content"][0]["text"] == "Yes."
    served.answers(thought)
    untold = ask(served, "Is it?", model=THINKER, reasoning={"effort": "high"})
    assert [item["type"] for item in untold["output"]] == ["message"]


def test_calls_are_streamed(served: Served) -> None:
    served.answers(call(PARIS, ROME, text="Let me see."))
    found = stream(served, "Weather?", tools=[WEATHER])
    said, *calls = found[-1]["response"]["output"]
    assert said["content"][0]["text"] == "Let me see."
    assert [(each["call_id"], json.loads(each["arguments"])) for each in calls] == [
        ("toolu_paris", {"city": "Paris"}),
        ("toolu_rome", {"city": "Rome"}),
    ]


def test_an_answer_in_a_form(served: Served) -> None:
    served.answers(call(ToolUse("StructuredOutput", {"city": "Paris"}, "toolu_answer")))
    form = {"type": "json_schema", "name": "place", "schema": CITY, "strict": True}
    response = ask(served, "Where?", text={"format": form})
    assert json.loads(text_of(response)) == {"city": "Paris"}
    assert [item["type"] for item in response["output"]] == ["message"]


@pytest.mark.parametrize("streamed", [False, True])
def test_an_answer_that_is_too_long(served: Served, streamed: bool) -> None:
    served.answers(Reply((Text("It begins with"),), stop_reason="max_tokens"))
    fields = {"max_output_tokens": 20}
    if streamed:
        response = stream(served, "A story", **fields)[-1]["response"]
    else:
        response = ask(served, "A story", **fields)
    assert response["status"] == "incomplete"
    assert response["incomplete_details"] == {"reason": "max_output_tokens"}
    assert text_of(response) == "It begins with"
    more = ask(served, "Go on", previous_response_id=response["id"])
    assert more["conversation_id"] == response["conversation_id"]
    assert [role for role, _ in spoken(served.last)] == ["user", "assistant", "user"]


@pytest.mark.parametrize("streamed", [False, True])
def test_a_refusal_leaves_no_trace(served: Served, streamed: bool) -> None:
    first = ask(served, "Hello")
    served.answers(Reply((Text("I cannot"),), stop_reason="refusal"))
    fields = {"previous_response_id": first["id"]}
    if streamed:
        response = stream(served, "Something bad", **fields)[-1]["response"]
    else:
        response = ask(served, "Something bad", **fields)
    assert response["incomplete_details"] == {"reason": "content_filter"}
    parts = [part["type"] for part in response["output"][-1]["content"]]
    assert parts[-1] == "refusal"
    after = ask(served, "Something good", previous_response_id=response["id"])
    assert after["status"] == "completed"
    assert spoken(served.last) == [
        ("user", ["Hello"]),
        ("assistant", [text_of(first)]),
        ("user", ["Something good"]),
    ]


def test_a_failure_is_a_real_status_or_the_last_event(served: Served) -> None:
    served.answers(*[Failure(400, "bad thing")] * 3)
    assert ask(served, "What now?", status=400)["code"] == "upstream_rejected"
    served.answers(say("a b c d", chunks=4, pause=0.05, cut_after=3))
    found = stream(served, "What now?")
    assert found[-1]["type"] == "response.failed"
    assert found[-1]["response"]["error"]["code"] == "server_error"


def test_what_has_no_effect_is_named(served: Served) -> None:
    body = {"model": THINKER, "input": "Hi", "temperature": 0.5, "truncation": "auto"}
    answered = served._client.post(RESPONSES, json=body)
    assert answered.headers["x-ccapi-ignored"] == "truncation, temperature"


def test_an_agents_use_of_its_own_tools_is_delivered(served: Served) -> None:
    uses = ToolUse("Bash", {"command": "echo hi", "description": "Say hi"}, "toolu_bash")
    served.answers(call(uses, text="First."), say("It says hi."))
    found = stream(served, "Do it.", model=f"agent/{MODEL}")
    response = found[-1]["response"]
    assert response["model"] == f"agent/{MODEL}"
    first, made, last = response["output"]
    assert (first["type"], last["type"]) == ("message", "message")
    assert (made["type"], made["name"], made["server_label"]) == ("mcp_call", "Bash", "claude_code")
    assert json.loads(made["arguments"])["command"] == "echo hi"
    assert (made["status"], made["output"].strip(), made["error"]) == ("completed", "hi", None)
    assert last["content"][0]["text"].strip() == "It says hi."
    # It goes on with what it did in mind, and what it did is nothing to answer for.
    second = ask(served, "And?", model=f"agent/{MODEL}", previous_response_id=response["id"])
    assert same_child(served, response, second)
    asked = json.dumps(served.last.body["messages"])
    assert "toolu_bash" in asked
    # One that names no model stays with the agent; a fork is an agent's too.
    fork = ask(served, "Again?", model=None, previous_response_id=response["id"])
    assert fork["model"] == f"agent/{MODEL}"
    assert fork["conversation_id"] != response["conversation_id"]
    assert spoken(served.last)[0][1][-1] == "Do it."


# -- what other servers wrote, and other orders ----------------------------------------------------


def test_what_the_user_says_before_an_output_comes_behind_it(served: Served) -> None:
    """As semantic-kernel has it: the question again, then the output of the call it led to."""
    served.answers(call(PARIS), say("Sunny."))
    first = ask(served, "Weather?", tools=[WEATHER])
    again = [{"role": "user", "content": "Weather?"}, output("toolu_paris", "21")]
    second = ask(served, again, tools=[WEATHER], previous_response_id=first["id"])
    assert text_of(second) == "Sunny."
    said = spoken(served.last)
    assert [role for role, _ in said] == ["user", "assistant", "user"]
    (call_id, *_), *rest = said[-1][1]
    assert call_id == "toolu_paris"
    assert rest == ["Weather?"]


def test_calls_of_built_in_tools_are_sent(served: Served) -> None:
    items = [
        {"role": "user", "content": "List, then compute."},
        {
            "type": "local_shell_call",
            "id": "lsh_1",
            "call_id": "call_1",
            "action": {"type": "exec", "command": ["ls"]},
            "status": "completed",
        },
        {"type": "local_shell_call_output", "id": "call_1", "output": "notes.txt"},
        {
            "type": "code_interpreter_call",
            "id": "ci_1",
            "code": "6 * 7",
            "outputs": [{"type": "logs", "logs": "42"}],
        },
        {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {}},
        {"role": "assistant", "content": "notes.txt, and 42."},
        {"role": "user", "content": "Thanks."},
    ]
    ask(served, items)
    roles = [role for role, _ in spoken(served.last)]
    assert roles == ["user", "assistant", "user", "assistant", "user", "assistant", "user"]
    told = json.dumps(served.last.body["messages"])
    for word in ("local_shell", "notes.txt", "code_interpreter", "6 * 7", "42"):
        assert word in told


def test_a_custom_tool(served: Served) -> None:
    patch = {"type": "custom", "name": "patch", "description": "Edit."}
    served.answers(call(ToolUse("patch", {"input": 'a "b"\nc'}, "toolu_p")), say("Done."))
    first = ask(served, "Patch it.", tools=[patch])
    [item] = first["output"]
    assert (item["type"], item["name"], item["input"]) == ("custom_tool_call", "patch", 'a "b"\nc')
    result = {"type": "custom_tool_call_output", "call_id": item["call_id"], "output": "ok"}
    history = [{"role": "user", "content": "Patch it."}, item, result]
    second = ask(served, history, tools=[patch])
    assert text_of(second) == "Done."
    assert same_child(served, first, second)


def test_a_custom_tool_streamed(served: Served) -> None:
    patch = {"type": "custom", "name": "patch", "description": "Edit."}
    served.answers(call(ToolUse("n__patch", {"input": "line 1\nline 2"}, "toolu_p")))
    found = stream(
        served, "Patch it.", tools=[{"type": "namespace", "name": "n", "tools": [patch]}]
    )
    deltas = [e["delta"] for e in found if e["type"] == "response.custom_tool_call_input.delta"]
    assert "".join(deltas) == "line 1\nline 2"
    [item] = found[-1]["response"]["output"]
    assert (item["namespace"], item["name"], item["status"]) == ("n", "patch", "completed")


# -- an answer that was begun ----------------------------------------------------------------------

BEGUN = [
    {"role": "user", "content": "A poem"},
    {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Roses"}]},
]


def test_the_model_goes_on_with_an_answer_that_was_begun(served: Served) -> None:
    served.answers(say(" are red."), say("Violets."))
    first = ask(served, BEGUN)
    assert text_of(first) == " are red."
    assert spoken(served.last) == [("user", ["A poem"]), ("assistant", ["Roses"])]
    second = ask(served, "More", previous_response_id=first["id"])
    assert text_of(second) == "Violets."
    assert "".join(spoken(served.last)[1][1]) == "Roses are red."
    assert spoken(served.last)[2:] == [("user", ["More"])]


@pytest.mark.parametrize("model", ["sonnet", "claude-opus-4-8", "agent/sonnet"])
def test_a_model_that_cannot_go_on_with_it_says_so(served: Served, model: str) -> None:
    error = ask(served, BEGUN, model=model, status=400)
    assert (error["code"], error["param"]) == ("unsupported_parameter", "input[1]")
    assert "begun" in error["message"]
