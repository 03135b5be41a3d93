"""How a child that has served one conversation is emptied, and given to another.

The proof of each fact is the whole request that the API gets: it equals the one of a fresh child's
for the same conversation, but for the session's id.
"""

from __future__ import annotations

import copy
import json
from typing import Any

from tests.contract.conftest import OpenChild
from tests.support.logins import by_key_and_token, without_reminders
from tests.support.messages_stub import MessagesStub
from tests.support.raw_cli import (
    Frame,
    RawCli,
    answers,
    assistant_frame,
    is_result,
    user_frame,
)

FLAGS = ("--no-session-persistence",)
PROMPTS = {"gw": "You are the first.", "p1": "You are the second.", "p2": " \n$ARGUMENTS {{x}} "}
SONNET, HAIKU = "claude-sonnet-4-5", "claude-haiku-4-5"


def palette(model: str, prompts: dict[str, str] = PROMPTS) -> Frame:
    """The fields of an initialize that tells a child several system prompts, `gw` the present."""
    agents = {
        name: {"description": name, "prompt": prompt, "model": model}
        for name, prompt in prompts.items()
    }
    return {"agents": agents, "systemPromptSnapshot": False}


def comparable(stub: MessagesStub) -> tuple[Any, dict[str, str]]:
    """The last request at the API, without what names its process."""
    request = stub.requests[-1]
    body = copy.deepcopy(request.body)
    body["metadata"] = None
    headers = {
        name: value
        for name, value in request.headers.items()
        if name
        not in ("x-claude-code-session-id", "content-length", "host", "x-stainless-retry-count")
    }
    return body, headers


async def empty(child: RawCli, first: Frame, last: Frame) -> tuple[Frame, Frame]:
    """Cut the conversation from `first` to `last` out of the child. Returns the two answers."""
    cut = child.control_frame(
        "rewind_conversation",
        target_message_uuid=first["uuid"],
        last_seen_user_message_uuid=last["uuid"],
        interrupt_if_running=True,
    )
    look = child.control_frame("get_context_usage", detail="summary")
    await child.send(cut, look)
    cut_answer = (await child.until(answers(cut)))[-1]["response"]["response"]
    look_answer = (await child.until(answers(look)))[-1]["response"]["response"]
    return cut_answer, look_answer


def categories(usage: Frame) -> list[str]:
    return [each["name"] for each in usage["categories"]]


@by_key_and_token
async def test_one_request_empties_a_child(open_child: OpenChild, stub: MessagesStub) -> None:
    """Recycling, section 0 and 7: it says so, and its context has no messages."""
    async with open_child(*FLAGS, adopt=False) as child:
        await child.send(child.control_frame("initialize", **palette(SONNET)))
        frames = [user_frame(f"question {number}") for number in range(3)]
        for frame in frames:
            await child.send(frame)
            await child.until(lambda f: f["type"] == "result")
        asked = len(stub.hits)
        cut, usage = await empty(child, frames[0], frames[-1])
        print(cut, categories(usage))
        assert cut["rewound"] is True
        assert cut["precedingAssistantUuid"] is None
        assert "Messages" not in categories(usage)
        assert len(stub.hits) == asked
        await child.turn("another")
        recycled = comparable(stub)
    async with open_child(*FLAGS, adopt=False) as fresh:
        await fresh.send(fresh.control_frame("initialize", **palette(SONNET)))
        await fresh.turn("another")
        assert comparable(stub) == recycled


@by_key_and_token
async def test_a_prompt_of_the_palette_and_any_model_come_by_settings(
    open_child: OpenChild, stub: MessagesStub
) -> None:
    async with open_child(*FLAGS, adopt=False) as child:
        await child.send(child.control_frame("initialize", **palette(SONNET)))
        first = user_frame("hello")
        await child.send(first)
        await child.until(lambda f: f["type"] == "result")
        seen = []
        for agent, model in [
            ("p1", HAIKU),
            ("p2", SONNET),
            ("gw", "claude-opus-4-5"),
            ("p1", SONNET),
        ]:
            await empty(child, first, first)
            settings = child.control_frame(
                "apply_flag_settings", settings={"agent": agent, "model": model}
            )
            first = user_frame("hello")
            await child.send(settings, first)
            await child.until(lambda f: f["type"] == "result")
            seen.append((agent, model, comparable(stub)))
    for agent, model, recycled in seen:
        async with open_child(*FLAGS, adopt=False) as fresh:
            prompt = PROMPTS[agent]
            fields = {
                "systemPrompt": [prompt],
                "agents": {"gw": {"description": "gw", "prompt": prompt, "model": model}},
                "systemPromptSnapshot": False,
            }
            await fresh.send(fresh.control_frame("initialize", **fields))
            await fresh.turn("hello")
            assert comparable(stub) == recycled, (agent, model)


async def test_leading_assistant(open_child: OpenChild, stub: MessagesStub) -> None:
    async with open_child(*FLAGS, adopt=False) as child:
        await child.send(child.control_frame("initialize", **palette(SONNET)))
        lead = assistant_frame([{"type": "text", "text": "I began."}], id="msg_x")
        first = user_frame("hello")
        await child.send(lead, first)
        await child.until(lambda f: f["type"] == "result")
        cut, usage = await empty(child, first, first)
        print(cut, categories(usage))
        assert cut["precedingAssistantUuid"] is not None


async def test_middle(open_child: OpenChild, stub: MessagesStub) -> None:
    async with open_child(*FLAGS, adopt=False) as child:
        await child.send(child.control_frame("initialize", **palette(SONNET)))
        frames = [user_frame(f"q{n}") for n in range(4)]
        for frame in frames:
            await child.send(frame)
            await child.until(lambda f: f["type"] == "result")
        cut, usage = await empty(child, frames[2], frames[-1])
        print(cut, categories(usage))
        await child.turn("other")
        print(stub.requests[-1].conversation)
        print([(m["role"], m["content"]) for m in stub.requests[-1].body["messages"]])


@by_key_and_token
async def test_messages_in_the_body_stand_in_place_of_the_childs_own(
    open_child: OpenChild, stub: MessagesStub
) -> None:
    """As if the child had been told them; and afterwards it sends its own again. With a
    subscription's login, the CLI's own reminders are missing in them."""
    said = [("user", "q0"), ("assistant", "a0"), ("user", "q1"), ("assistant", "a1")]
    messages = [{"role": role, "content": [{"type": "text", "text": text}]} for role, text in said]
    last = {"type": "text", "text": "now", "cache_control": {"type": "ephemeral"}}
    messages.append({"role": "user", "content": [last]})
    async with open_child(*FLAGS, adopt=False) as child:
        await child.send(child.control_frame("initialize", **palette(SONNET)))
        body = {"env": {"CLAUDE_CODE_EXTRA_BODY": json.dumps({"messages": messages})}}
        settings = child.control_frame("apply_flag_settings", settings=body)
        own = user_frame([{"type": "text", "text": "q0"}])
        await child.send(settings, own)
        await child.until(is_result)
        in_body = comparable(stub)
        await empty(child, own, own)
        plain = {"env": {"CLAUDE_CODE_EXTRA_BODY": ""}}
        await child.send(child.control_frame("apply_flag_settings", settings=plain))
        await child.turn([{"type": "text", "text": "after"}])
        after = comparable(stub)
    async with open_child(*FLAGS, adopt=False) as told:
        await told.send(told.control_frame("initialize", **palette(SONNET)))
        for role, text in said:
            blocks = [{"type": "text", "text": text}]
            if role == "user":
                await told.send(user_frame(blocks, shouldQuery=False))
                await told.until(is_result)
            else:
                await told.send(assistant_frame(blocks, id=f"msg_{text}"))
        await told.turn([{"type": "text", "text": "now"}])
        expected, headers = comparable(stub)
        expected["messages"] = [
            {**each, "content": [{"type": "text", "text": each["content"]}]}
            if isinstance(each["content"], str)
            else each
            for each in without_reminders(expected["messages"])
        ]
        expected["messages"][-1]["content"][-1]["cache_control"] = {"type": "ephemeral"}
        assert (expected, headers) == in_body
    async with open_child(*FLAGS, adopt=False) as fresh:
        await fresh.send(fresh.control_frame("initialize", **palette(SONNET)))
        await fresh.turn([{"type": "text", "text": "after"}])
        assert comparable(stub) == after
