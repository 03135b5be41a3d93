"""Tools of the client over the chat route, with real children that call them.

The demo CLI calls what `use NAME {…}` or its switch says, and waits, as the CLI does; then it
says what it was answered.
"""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai.types.chat import ChatCompletionMessageFunctionToolCall

from ccapi.schemas.events import ChildAdopted

from ...support.asgi import Client, Response
from ...support.chat import (
    CHAT,
    NO_STORE,
    answered,
    ask,
    chunks,
    completion,
    open_front,
    report,
    user,
)
from ...support.embedded import open_recorder, script
from ...support.live import open_live_demo

Said = list[dict[str, Any]]

NUMBER = {"type": "number"}
ADD = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Adds.",
        "parameters": {"type": "object", "properties": {"a": NUMBER, "b": NUMBER}},
    },
}
LOOK_UP = {"type": "function", "function": {"name": "look.up"}}
TOOLS = [ADD, LOOK_UP]
USE = user('use add {"a": 1, "b": 2}')
BOTH = user(
    script(
        tool_calls=[
            {"name": "add", "input": {"a": 1, "b": 2}},
            {"name": "add", "input": {"a": 3, "b": 4}},
        ]
    )
)
REPORT = user(script(report=True))


async def call(client: Client, said: Said, **fields: Any) -> list[str]:
    """Have the model call tools; `said` grows by what it answered. The ids of the calls."""
    response = await ask(client, NO_STORE, messages=said, **({"tools": TOOLS} | fields))
    [choice] = completion(response).choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is None
    said.append(answered(response))
    return [each.id for each in calls_of(response)]


def calls_of(response: Response) -> list[ChatCompletionMessageFunctionToolCall]:
    calls = completion(response).choices[0].message.tool_calls or []
    return [each for each in calls if isinstance(each, ChatCompletionMessageFunctionToolCall)]


def result(call_id: str, content: str = "3", **fields: Any) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call_id, "content": content, **fields}


async def go_on(client: Client, said: Said, **fields: Any) -> Response:
    return await ask(client, NO_STORE, messages=said, **({"tools": TOOLS} | fields))


def blocks(told: dict[str, Any]) -> list[Any]:
    """What a child holds before it was asked for its report: each message's role and blocks."""
    return [[each["role"], each["content"]] for each in told["history"][:-1]]


# -- calls ---------------------------------------------------------------------------------------


async def test_a_call_is_written_whole(tmp_path: Path) -> None:
    async with open_front(tmp_path) as (client, gateway):
        response = await ask(client, messages=[USE], tools=TOOLS)
        [choice] = completion(response).choices
        assert choice.finish_reason == "tool_calls"
        assert choice.message.content is None
        [called] = calls_of(response)
        assert called.type == "function"
        assert called.function.name == "add"
        assert json.loads(called.function.arguments) == {"a": 1, "b": 2}
        assert gateway.statistics().sessions == {"awaiting_tools": 1}
        usage = completion(response).usage
        assert usage is not None
        assert usage.completion_tokens > 0


async def test_calls_are_streamed_in_fragments_over_a_socket(tmp_path: Path) -> None:
    async with (
        open_live_demo(tmp_path) as live,
        httpx.AsyncClient(base_url=live.url, timeout=30) as client,
    ):
        fields = {"model": "sonnet", "tools": TOOLS, "stream": True}
        first = await client.post(CHAT, json={**fields, "messages": [BOTH]})
        assert first.headers["content-type"].startswith("text/event-stream")
        said = chunks(first.content)
        assert [c.choices[0].finish_reason for c in said if c.choices][-1] == "tool_calls"
        assert all(not chunk.choices[0].delta.content for chunk in said)
        calls: dict[int, dict[str, str]] = {}
        fragments = 0
        for chunk in said:
            for each in chunk.choices[0].delta.tool_calls or ():
                assert each.function is not None
                if each.index not in calls:
                    assert each.id is not None
                    assert each.function.name is not None
                    calls[each.index] = {"id": each.id, "name": each.function.name, "input": ""}
                else:
                    assert (each.id, each.function.name) == (None, None), "told once"
                    fragments += 1
                calls[each.index]["input"] += each.function.arguments or ""
        assert list(calls) == [0, 1]
        assert fragments > 2
        assert {each["name"] for each in calls.values()} == {"add"}
        inputs = [json.loads(each["input"]) for each in calls.values()]
        assert inputs == [{"a": 1, "b": 2}, {"a": 3, "b": 4}]
        assert calls[0]["id"] != calls[1]["id"]
        # The results come, and the answer is streamed.
        given = [
            {
                "id": c["id"],
                "type": "function",
                "function": {"name": "add", "arguments": c["input"]},
            }
            for c in calls.values()
        ]
        messages = [
            BOTH,
            {"role": "assistant", "content": None, "tool_calls": given},
            *(result(each["id"], text) for each, text in zip(calls.values(), "37", strict=True)),
        ]
        second = await client.post(CHAT, json={**fields, "messages": messages})
        assert second.headers["x-ccapi-lineage"] == "hit"
        assert second.headers["x-conversation-id"] == first.headers["x-conversation-id"]
        text = "".join(c.choices[0].delta.content or "" for c in chunks(second.content))
        assert text == "The tool answered:\n\n> 3\n\nThe tool answered:\n\n> 7"


async def test_names_that_mcp_would_not_allow_are_the_clients_own_again(tmp_path: Path) -> None:
    async with open_front(tmp_path) as (client, _):
        shown = report(await ask(client, messages=[REPORT], tools=TOOLS))["tools"]
        assert len(shown) == 2
        assert "look.up" not in shown
        [wire] = set(shown) - {"add"}
        said = [user(f"use {wire} {{}}")]
        await call(client, said)
        assert said[-1]["tool_calls"][0]["function"] == {"name": "look.up", "arguments": "{}"}


# -- results ---------------------------------------------------------------------------------------


async def test_results_reach_the_child_that_waits_by_lineage(tmp_path: Path) -> None:
    async with open_front(tmp_path) as (client, gateway), open_recorder(gateway) as recorder:
        said: Said = [USE]
        [call_id] = await call(client, said)
        said.append(result(call_id))
        response = await go_on(client, said)
        assert response.headers["x-ccapi-lineage"] == "hit"
        assert answered(response)["content"] == "The tool answered:\n\n> 3"
        assert completion(response).choices[0].finish_reason == "stop"
        said += [answered(response), REPORT]
        told = await go_on(client, said)
        assert told.headers["x-ccapi-lineage"] == "hit"
        # One child, and it received nothing twice.
        assert len([each for each in recorder.events if isinstance(each, ChildAdopted)]) == 1
        roles = [role for role, _ in blocks(report(told))]
        assert roles == ["user", "assistant", "user", "assistant"]


async def test_results_reach_the_child_that_waits_by_conversation_id(tmp_path: Path) -> None:
    async with open_front(tmp_path) as (client, gateway), open_recorder(gateway) as recorder:
        first = await ask(client, messages=[USE], tools=TOOLS)
        place = {"conversation_id": first.json()["conversation_id"]}
        [called] = calls_of(first)
        response = await ask(client, messages=[result(called.id)], **place)
        assert answered(response)["content"] == "The tool answered:\n\n> 3"
        assert response.headers["x-conversation-id"] == place["conversation_id"]
        # Or with all of the history, which is recognised.
        again = await ask(client, messages=[USE], **place)
        [called] = calls_of(again)
        whole = [USE, answered(first), *[result(str(answered(first)["tool_calls"][0]["id"]))]]
        whole += [answered(response), USE, answered(again), result(called.id, "4")]
        response = await ask(client, messages=whole, **place)
        assert answered(response)["content"] == "The tool answered:\n\n> 4"
        assert len([each for each in recorder.events if isinstance(each, ChildAdopted)]) == 1


@pytest.mark.parametrize("by_id", [False, True])
async def test_partial_and_unknown_results_are_refused_and_change_nothing(
    tmp_path: Path, by_id: bool
) -> None:
    async with open_front(tmp_path) as (client, gateway):
        said: Said = [BOTH]
        first, second = await call(client, said)
        [info] = gateway.conversations()
        before: Said = [] if by_id else said
        fields = {"conversation_id": info.conversation_id} if by_id else {}
        errors = {
            "missing_tool_results": ([result(first)], second),
            "unknown_tool_call_id": ([result(first), result(second), result("call_x")], "call_x"),
            "duplicate_tool_call_id": ([result(first), result(first), result(second)], first),
        }
        for code, (results, named) in errors.items():
            refused = await go_on(client, [*before, *results], **fields)
            assert refused.status == 400
            assert refused.error["code"] == code
            assert named in refused.error["message"]
            assert str(refused.error["param"]).startswith("messages")
        none = await go_on(client, [*before, user("Never mind.")], **fields)
        assert (none.status, none.error["code"]) == (400, "missing_tool_results")
        assert gateway.statistics().sessions == {"awaiting_tools": 1}
        response = await go_on(client, [*before, result(second, "7"), result(first)], **fields)
        assert answered(response)["content"].count("The tool answered") == 2
        assert response.headers["x-conversation-id"] == info.conversation_id


async def test_results_that_come_when_the_child_is_gone_are_sent_to_another(
    tmp_path: Path,
) -> None:
    for by_id in (False, True):
        async with open_front(tmp_path) as (client, gateway), open_recorder(gateway) as recorder:
            said: Said = [BOTH]
            calls = await call(client, said)
            [info] = gateway.conversations()
            conversation = gateway.loaded(info.conversation_id)
            os.kill(recorder.pid(conversation), signal.SIGKILL)
            await recorder.wait_phase(conversation, "asleep")
            said += [result(each, text) for each, text in zip(calls, "37", strict=True)]
            new = said[-2:] if by_id else said
            fields = {"conversation_id": info.conversation_id} if by_id else {}
            response = await go_on(client, new, **fields)
            assert "> 3" in answered(response)["content"]
            assert "> 7" in answered(response)["content"]
            assert response.headers["x-conversation-id"] == info.conversation_id
            said += [answered(response), REPORT]
            told = report(await go_on(client, said))
            asked, called, results, _ = blocks(told)
            assert asked[0] == "user"
            uses = [block for block in called[1] if block["type"] == "tool_use"]
            assert [(use["id"], use["name"]) for use in uses] == [(each, "add") for each in calls]
            assert [use["input"] for use in uses] == [{"a": 1, "b": 2}, {"a": 3, "b": 4}]
            assert results[0] == "user"
            given = [block["tool_use_id"] for block in results[1] if block["type"] == "tool_result"]
            assert given == calls


async def test_a_result_of_300_kilobytes_arrives_whole(tmp_path: Path) -> None:
    long = "".join(f"{number:06} " for number in range(300_000 // 7))
    async with open_front(tmp_path) as (client, _):
        said: Said = [USE]
        [call_id] = await call(client, said)
        said.append(result(call_id, long))
        response = await go_on(client, said)
        assert response.headers["x-ccapi-lineage"] == "hit"
        said += [answered(response), REPORT]
        assert json.dumps(report(await go_on(client, said))["history"]).count(long) == 1


async def test_an_error_and_an_empty_result_are_results(tmp_path: Path) -> None:
    """What the CLI would not pass on as it is, another child receives; the client does not see."""
    for fields in ({"is_error": True, "content": "No such number."}, {"content": ""}):
        async with open_front(tmp_path) as (client, _):
            said: Said = [USE]
            [call_id] = await call(client, said)
            said.append(result(call_id, **fields))
            response = await go_on(client, said)
            assert response.headers["x-ccapi-lineage"] == "hit"
            said += [answered(response), REPORT]
            told = report(await go_on(client, said))
            [given] = [
                block
                for role, content in blocks(told)
                if role == "user" and isinstance(content, list)
                for block in content
                if block["type"] == "tool_result"
            ]
            assert given["tool_use_id"] == call_id
            assert given.get("is_error", False) == fields.get("is_error", False)


# -- which tools, and whether ----------------------------------------------------------------------


OBEDIENT = "claude-haiku-4-5"
"""A model that can be made to call a tool."""


def choice_of(told: dict[str, Any]) -> Any:
    body = told["settings"].get("env", {}).get("CLAUDE_CODE_EXTRA_BODY")
    return json.loads(body).get("tool_choice") if body else None


async def test_tool_choice_is_of_one_turn(tmp_path: Path) -> None:
    async with open_front(tmp_path) as (client, _):
        said: Said = []
        named = {"type": "function", "function": {"name": "add"}}
        choices = {
            "none": {"type": "none"},
            "required": {"type": "any"},
            "auto": None,
            "named": {"type": "tool", "name": "add"},
        }
        for number, (given, sent) in enumerate(choices.items()):
            said.append(REPORT)
            fields = {"tool_choice": named if given == "named" else given}
            response = await go_on(client, said, model=OBEDIENT, **fields)
            assert choice_of(report(response)) == sent
            assert response.headers["x-ccapi-lineage"] == ("hit" if number else "miss")
            said.append(answered(response))
        refused = await go_on(client, [USE], tools=None, tool_choice="required")
        assert (refused.status, refused.error["param"]) == (400, "tool_choice")


async def test_tools_may_change_between_turns_of_a_conversation(tmp_path: Path) -> None:
    async with open_front(tmp_path) as (client, _):
        first = await ask(client, messages=[REPORT], tools=[ADD])
        place = {"conversation_id": first.json()["conversation_id"]}
        assert report(first)["tools"] == ["add"]
        kept = await ask(client, messages=[REPORT], **place)
        assert report(kept)["tools"] == ["add"], "what a request leaves open stays"
        other = {"type": "function", "function": {"name": "sub"}}
        changed = await ask(client, messages=[REPORT], tools=[other], **place)
        assert report(changed)["tools"] == ["sub"]
        assert len(report(changed)["history"]) == 5
        none = await ask(client, messages=[REPORT], tools=[], **place)
        assert report(none)["tools"] == []
