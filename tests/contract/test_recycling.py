"""How a child that has served one conversation is emptied, and given to another.

The proof of each fact is the whole request that the API gets: it equals the one of a fresh child's
for the same conversation, but for the session's id. What may happen in a conversation before that
is in `tests.support.recycled_cli`.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.contract.conftest import OpenChild
from tests.support.logins import by_key_and_token, without_reminders
from tests.support.messages_stub import Failure, MessagesStub, ToolUse, call
from tests.support.raw_cli import answers, assistant_frame, is_result, user_frame
from tests.support.raw_tools import serve, texts, tool
from tests.support.recycled_cli import (
    ACCIDENTS,
    ENVIRONMENT,
    FLAGS,
    HAIKU,
    OPUS,
    RARE,
    SECRET,
    SERVERS,
    SONNET,
    RecycledChild,
    Talk,
    categories,
    comparable,
    fresh_request,
    palette,
)

SOAK = int(os.environ.get("CCAPI_TEST_SOAK", "10"))
SEED = int(os.environ.get("CCAPI_TEST_SEED", "13"))


@asynccontextmanager
async def recycled(open_child: OpenChild, stub: MessagesStub) -> AsyncIterator[RecycledChild]:
    """A child with a palette of prompts."""
    async with open_child(*FLAGS, adopt=False, environment=ENVIRONMENT) as cli:
        await cli.send(cli.control_frame("initialize", **palette(SONNET)))
        yield RecycledChild(cli, stub)


async def fresh(open_child: OpenChild, stub: MessagesStub, talk: Talk) -> object:
    async with open_child(*FLAGS, adopt=False, environment=ENVIRONMENT) as cli:
        return await fresh_request(cli, stub, talk)


# -- the cut ---------------------------------------------------------------------------------------


@by_key_and_token
async def test_one_request_empties_a_child(open_child: OpenChild, stub: MessagesStub) -> None:
    """Recycling, sections 0 and 7: it says so, its context has no messages, and the API is not
    asked for either."""
    async with recycled(open_child, stub) as child:
        for number in range(3):
            await child.ask(f"question {number}")
        before = await child.cli.control("get_context_usage", detail="summary")
        assert "Messages" in categories(before["response"])
        asked = len(stub.hits)
        await child.empty()
        assert len(stub.hits) == asked
        request = await child.request_of(Talk())
    assert await fresh(open_child, stub, Talk()) == request


@by_key_and_token
async def test_a_cut_in_the_middle_keeps_exactly_what_is_before_it(
    open_child: OpenChild, stub: MessagesStub
) -> None:
    """Recycling, section 7: calls of tools and their results too."""
    async with recycled(open_child, stub) as child:
        await child.offer(("alpha", "beta"))
        await child.tell(1)
        stub.queue.append(call(ToolUse("alpha"), ToolUse("beta"), text="Let me see."))
        await child.ask("first", lambda _: texts("result"))
        await child.ask("second")
        before = comparable(stub)
        await child.ask("third")
        said, _ = await child.cut(child.asked[-2], child.asked[-1])
        assert said["rewound"] is True
        assert said["precedingAssistantUuid"] is not None
        await child.ask("second")
        assert comparable(stub) == before
        assert [role for role, _ in stub.requests[-1].conversation] == [
            *("user", "assistant", "user", "assistant", "user", "assistant", "user")
        ]


@by_key_and_token
async def test_an_assistant_message_before_the_first_cannot_be_cut_and_shows(
    open_child: OpenChild, stub: MessagesStub
) -> None:
    """Recycling, section 7: in the answer to the cut, and not in the summary of the context. Such a
    child can serve no other conversation."""
    async with recycled(open_child, stub) as child:
        await child.cli.send(assistant_frame([{"type": "text", "text": "I began."}], id="msg_x"))
        await child.ask("hello")
        said, _ = await child.cut(child.asked[0], child.asked[0])
        assert said["rewound"] is True
        assert said["precedingAssistantUuid"] is not None
        await child.ask("another")
        assert "I began." in str(stub.requests[-1].body)


async def test_why_a_cut_is_refused(open_child: OpenChild, stub: MessagesStub) -> None:
    """Recycling, section 7: in a success. Afterwards all is as it was."""
    async with recycled(open_child, stub) as child:
        for number in range(3):
            await child.ask(f"question {number}")
        first, second, third = child.asked

        async def reason(target: str, **fields: object) -> object:
            answer = await child.cli.control(
                "rewind_conversation",
                target_message_uuid=target,
                interrupt_if_running=True,
                **fields,
            )
            assert answer["response"]["rewound"] is False
            return answer["response"]["reason"]

        def seen(uuid: str) -> dict[str, object]:
            return {"last_seen_user_message_uuid": uuid}

        unknown = user_frame("never written")["uuid"]
        assert await reason(first["uuid"]) == "stale_target"
        assert await reason(first["uuid"], **seen(second["uuid"])) == "unseen_later_turn"
        assert await reason(unknown, **seen(third["uuid"])) == "target_not_found"
        await child.ask("last")
        assert len(stub.requests[-1].conversation) == 7


async def test_a_cut_right_behind_a_turn_may_be_refused_and_works_a_moment_later(
    open_child: OpenChild, stub: MessagesStub
) -> None:
    """Recycling, section 7: as long as the turn has not begun."""
    reasons = set()
    async with recycled(open_child, stub) as child:
        cli = child.cli
        for number in range(10):
            await child.offer(("alpha",) if number % 2 else ("beta",))
            frame = await child.write("asked")
            cut = cli.control_frame(
                "rewind_conversation",
                target_message_uuid=frame["uuid"],
                last_seen_user_message_uuid=frame["uuid"],
                interrupt_if_running=True,
            )
            await cli.send(cut)
            said = (await child.until(answers(cut)))[-1]["response"]["response"]
            reasons.add(said.get("reason"))
            if said["rewound"]:
                child.asked.clear()
            await child.empty()
            if "commands_queued" in reasons:
                break
            await child.ask("free the names")
            await child.empty()
    assert "commands_queued" in reasons
    assert reasons <= {"commands_queued", None}


async def test_a_uuid_that_comes_back_after_a_cut_is_dropped(
    open_child: OpenChild, stub: MessagesStub
) -> None:
    """Recycling, section 2: without a word, so every frame gets a uuid of its own."""
    async with recycled(open_child, stub) as child:
        first = await child.write("hello")
        await child.until(is_result)
        await child.empty()
        await child.cli.send(user_frame("dropped", uuid=first["uuid"]))
        await child.ask("kept")
        assert stub.requests[-1].conversation == [("user", ["kept"])]
        assert len(stub.requests) == 2


# -- another setup ---------------------------------------------------------------------------------


@by_key_and_token
async def test_a_prompt_of_the_palette_and_any_model_come_by_settings(
    open_child: OpenChild, stub: MessagesStub
) -> None:
    """Recycling, section 3: the model is not asked for it, and no text speaks of it."""
    talks = [Talk("p1", HAIKU), Talk("p2", SONNET), Talk("gw", OPUS), Talk("p1", SONNET)]
    async with recycled(open_child, stub) as child:
        await child.ask("hello")
        seen = []
        for talk in talks:
            await child.empty()
            seen.append(await child.request_of(talk))
        assert len(stub.requests) == 1 + len(talks)
    for talk, request in zip(talks, seen, strict=True):
        assert await fresh(open_child, stub, talk) == request, talk


@pytest.mark.parametrize("prompt", [[], ["You are alone."]], ids=["no prompt", "a prompt"])
async def test_where_the_prompt_came_as_such_it_stays(
    open_child: OpenChild, stub: MessagesStub, prompt: list[str]
) -> None:
    """Recycling, section 3: a change to another agent succeeds, and changes nothing. Models and
    tools come by settings all the same."""
    fields = palette(SONNET) | {"systemPrompt": prompt}
    async with open_child(*FLAGS, adopt=False, environment=ENVIRONMENT) as cli:
        await cli.send(cli.control_frame("initialize", **fields))
        child = RecycledChild(cli, stub)
        await child.ask("hello")
        await child.empty()
        switch = {"agent": "p1", "model": HAIKU}
        changed = await cli.control("apply_flag_settings", settings=switch)
        assert changed["subtype"] == "success"
        await child.offer(("alpha",))
        await child.ask("hello")
        request = comparable(stub)
    assert "You are the second." not in str(request)
    fields = {"systemPrompt": prompt, "systemPromptSnapshot": False, "sdkMcpServers": ["t0"]}
    fields["agents"] = {"gw": {"description": "gw", "prompt": "", "model": HAIKU}}
    async with open_child(*FLAGS, adopt=False, environment=ENVIRONMENT) as cli:
        await cli.send(cli.control_frame("initialize", **fields))
        await RecycledChild(cli, stub, offered=("alpha",)).ask("hello")
        assert comparable(stub) == request


@by_key_and_token
@pytest.mark.parametrize("differs", ["description", "schema", "order", "number"])
async def test_a_description_stays_with_the_name_and_schema_of_its_tool(
    open_child: OpenChild, stub: MessagesStub, differs: str
) -> None:
    """Whichever server it comes from, and whatever was cut: for as long as the process runs."""
    async with recycled(open_child, stub) as child:
        shown = []
        for server, word in zip(SERVERS, ("first", "second", "third"), strict=False):
            schema: dict[str, Any] = {"type": "object", "properties": {}}
            if differs == "schema":
                schema["properties"] = {word: {}}
            if differs == "order" and word != "first":
                schema = dict(reversed(schema.items()))
            if differs == "number":
                schema["properties"] = {"n": {"maximum": 1 if word == "first" else 1.0}}
            look = tool("look", description=word, inputSchema=schema)
            servers = {server: {"type": "sdk", "name": server}}
            await child.cli.send(child.cli.control_frame("mcp_set_servers", servers=servers))
            await child.write("Well?")
            await serve(child.cli, is_result, [look])
            shown += [each["description"] for each in stub.requests[-1].body["tools"]]
            await child.empty()
    kept = ["first", "second", "third"] if differs == "schema" else ["first"] * 3
    assert shown == kept


async def test_a_tool_servers_name_keeps_its_old_tools_until_a_turn_began_without_it(
    open_child: OpenChild, stub: MessagesStub
) -> None:
    """Recycling, section 4: else it shows them beside the new ones, for good."""
    async with recycled(open_child, stub) as child:

        async def offer(server: str | None, *tools: str) -> None:
            child.offered = tools
            servers = {server: {"type": "sdk", "name": server}} if server else {}
            await child.cli.send(child.cli.control_frame("mcp_set_servers", servers=servers))

        async def shown() -> list[str]:
            await child.ask("which?")
            await child.empty()
            return stub.requests[-1].tools

        await offer("t0", "alpha")
        assert await shown() == ["alpha"]
        await offer(None)
        assert await shown() == []
        await offer("t0", "beta")
        assert await shown() == ["beta"]
        await offer(None)
        await child.ask("/help")  # not a model's turn
        await child.empty()
        await offer("t0", "gamma")
        assert sorted(await shown()) == ["beta", "gamma"]
        assert sorted(await shown()) == ["beta", "gamma"]
        await offer("t1", "delta")
        assert await shown() == ["delta"]


@by_key_and_token
async def test_what_was_set_for_a_turn_leaves_no_trace_once_it_is_taken_back(
    open_child: OpenChild, stub: MessagesStub
) -> None:
    """Recycling, section 7: sampling, the limit of tokens, effort, and the thinking that is
    shown."""
    talk = Talk(model=OPUS)
    body = {"service_tier": "auto", "stop_sequences": ["x"], "metadata": {"user_id": "u"}}
    env = {"CLAUDE_CODE_EXTRA_BODY": json.dumps(body), "CLAUDE_CODE_MAX_OUTPUT_TOKENS": "77"}
    async with recycled(open_child, stub) as child:
        before = await child.request_of(talk)
        await child.empty()
        settings = child.cli.control_frame(
            "apply_flag_settings", settings={"env": env, "effortLevel": "low"}
        )
        shown = child.cli.control_frame(
            "set_max_thinking_tokens", max_thinking_tokens=None, thinking_display="summarized"
        )
        await child.cli.send(settings, shown)
        await child.ask(talk.text)
        set_body, _ = comparable(stub)
        assert set_body["stop_sequences"] == ["x"]
        assert set_body["max_tokens"] == 77
        assert set_body["output_config"]["effort"] == "low"
        await child.empty()
        assert await child.request_of(talk) == before


# -- whatever happened -----------------------------------------------------------------------------


@by_key_and_token
async def test_a_child_is_as_good_as_new_after_every_accident(
    open_child: OpenChild, stub: MessagesStub
) -> None:
    """Recycling, section 7: each conversation ends in one, and the next is a fresh child's."""
    talk = Talk("p1", SONNET, tools=("alpha",), temperature=0.25, told=1)
    wanted = await fresh(open_child, stub, talk)
    async with recycled(open_child, stub) as child:
        for accident in (*ACCIDENTS, *RARE):
            await child.begin(Talk())
            await accident(child)
            await child.empty()
            stub.queue.clear()
            assert await child.request_of(talk) == wanted, accident.__name__
            await child.empty()


@pytest.mark.parametrize("status", [400, 422])
async def test_a_child_remembers_that_the_api_refused_a_request_as_malformed(
    open_child: OpenChild, stub: MessagesStub, status: int
) -> None:
    """Recycling, section 7: whatever the API says of it. The CLI asks again without one of its
    betas, says nothing of that if it helps, and asks so from then on. Where it does not help the
    result says so, and the child should serve no other client. What a conversation said is not
    among what it remembers."""
    async with recycled(open_child, stub) as child:
        _, headers = await child.request_of(Talk())
        await child.empty()
        stub.queue.append(Failure(status, "no such thing"))
        count = len(stub.requests)
        assert (await child.ask(SECRET))["is_error"] is False
        assert len(stub.requests) == count + 2
        await child.empty()
        body, changed = await child.request_of(Talk())
        assert changed["anthropic-beta"] != headers["anthropic-beta"]
        assert SECRET not in str(body)
        await child.empty()
        stub.answer = lambda _: Failure(status, "no such thing")
        result = await child.ask(SECRET)
        assert (result["is_error"], result["api_error_status"]) == (True, status)


def talks() -> list[Talk]:
    """The conversations of the soak."""
    return [
        Talk(agent, model, tools, temperature, told)
        for agent, model in [("gw", SONNET), ("p1", HAIKU), ("p2", SONNET), ("gw", OPUS)]
        for tools in [(), ("alpha",), ("beta", "gamma")]
        for temperature in ([None] if model == OPUS else [None, 0.5])
        for told in (0, 2)
    ]


@pytest.mark.parametrize("login", ["key"] if SOAK <= 20 else ["key", "token"], indirect=True)
async def test_soak(open_child: OpenChild, stub: MessagesStub) -> None:
    """Recycling, section 2: random conversations, some of which end in an accident, one after the
    other in one child: each request is a fresh child's. (``CCAPI_TEST_SOAK`` conversations, and
    ``CCAPI_TEST_SEED``.)"""
    chance = random.Random(SEED)
    some = talks() if SOAK > 20 else chance.sample(talks(), 5)
    wanted = {talk: await fresh(open_child, stub, talk) for talk in some}
    done: list[str] = []
    async with recycled(open_child, stub) as child:
        for step in range(SOAK):
            await child.begin(chance.choice(some))
            accident = chance.choice(ACCIDENTS)
            done.append(accident.__name__)
            await accident(child)
            await child.empty()
            stub.queue.clear()
            talk = chance.choice(some)
            assert await child.request_of(talk) == wanted[talk], (step, talk, done[-3:])
            if chance.random() < 0.5:  # else it goes on, and ends in another accident
                await child.empty()
    print(f"{SOAK} accidents, {child.served} conversations")


# -- messages in the body --------------------------------------------------------------------------


@by_key_and_token
async def test_messages_in_the_body_stand_in_place_of_the_childs_own(
    open_child: OpenChild, stub: MessagesStub
) -> None:
    """As if the child had received them; and afterwards it sends its own again. With a
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
        await RecycledChild(child, stub, [own]).empty()
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
