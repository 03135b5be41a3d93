"""Requests that bring their whole history and name no conversation, over real children.

The demo CLI says what it was given, so each answer shows whose history it is.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import trio

from ccapi.actors import Gateway
from ccapi.schemas.settings.settings import AuthSettings, ConversationSettings

from ...support.asgi import Client, Response
from ...support.chat import NO_STORE, answered, ask, open_front, report, user
from ...support.embedded import EventRecorder, open_recorder, script

Said = list[dict[str, Any]]
REPORT = user(script(report=True))


async def say(client: Client, said: Said, text: str, **fields: Any) -> Response:
    """Send the whole history with one more message; `said` grows by that and the answer."""
    said.append(user(text))
    response = await ask(client, NO_STORE, messages=said, **fields)
    said.append(answered(response))
    return response


def place(response: Response) -> tuple[str, str]:
    """Whether the history was held, and by which conversation."""
    conversation_id = response.headers["x-conversation-id"]
    assert response.json()["conversation_id"] == conversation_id
    return response.headers["x-ccapi-lineage"], conversation_id


def texts(told: dict[str, Any]) -> list[str]:
    """The texts that a child holds, its own report excluded."""
    contents = [message["content"] for message in told["history"][:-1]]
    return [
        content if isinstance(content, str) else "".join(block["text"] for block in content)
        for content in contents
    ]


async def test_a_history_goes_on_where_it_was_made(tmp_path: Path) -> None:
    async with open_front(tmp_path) as (client, gateway):
        said: Said = []
        outcome, first = place(await say(client, said, "repeat: one"))
        assert outcome == "miss"
        for text in ("repeat: two", "repeat: three"):
            assert place(await say(client, said, text)) == ("hit", first)
        last = await say(client, said, REPORT["content"])
        assert place(last) == ("hit", first)
        assert texts(report(last)) == [
            *("repeat: one", "one", "repeat: two", "two", "repeat: three", "three"),
        ]
        statistics = gateway.statistics()
        assert (statistics.conversations, statistics.turns_running) == (1, 0)
        [info] = gateway.conversations()
        assert (info.turns, info.messages) == (4, 8)


async def test_a_history_with_a_system_prompt_goes_on_with_the_same_one_alone(
    tmp_path: Path,
) -> None:
    async with open_front(tmp_path) as (client, _):
        said: Said = [{"role": "system", "content": "Be brief."}]
        _, first = place(await say(client, said, "repeat: one"))
        assert place(await say(client, [*said], "repeat: two")) == ("hit", first)
        other: Said = [{"role": "system", "content": "Be verbose."}, *said[1:]]
        last = await say(client, other, REPORT["content"])
        assert place(last) == ("miss", place(last)[1])
        assert place(last)[1] != first
        assert report(last)["system"] == "Be verbose."


@pytest.mark.parametrize("headers", [{}, NO_STORE])
async def test_regenerating_leaves_the_first_answer_undisturbed(
    tmp_path: Path, headers: dict[str, str]
) -> None:
    """The same history twice: the second time no conversation holds it any more."""
    async with open_front(tmp_path) as (client, _):
        said: Said = []
        _, first = place(await say(client, said, "repeat: one"))
        twice = [*said, user("What did I say first?")]
        once = await ask(client, NO_STORE, messages=twice)
        assert place(once) == ("hit", first)
        again = await ask(client, headers, messages=twice)
        assert answered(again) == answered(once)
        assert "> repeat: one" in answered(again)["content"]
        assert place(again)[1] != first
        # The first conversation holds one question and one answer of them.
        last = await ask(client, messages=[REPORT], conversation_id=first)
        assert texts(report(last)) == [
            *("repeat: one", "one", "What did I say first?", answered(once)["content"]),
        ]


async def test_edits_and_branches_are_conversations_of_their_own(
    tmp_path: Path,
) -> None:
    async with open_front(tmp_path) as (client, _):
        said: Said = []
        for text in ("repeat: one", "repeat: two"):
            _, first = place(await say(client, said, text))
        edited = [user("repeat: ONE"), *said[1:]]
        branch = said[:2]
        answer_edited: Said = [*said[:3], {"role": "assistant", "content": "zwei"}]
        others = {first}
        for history in (edited, branch, answer_edited):
            before = [message["content"] for message in history]
            response = await say(client, history, REPORT["content"])
            outcome, other = place(response)
            assert (outcome, other in others) == ("miss", False)
            others.add(other)
            assert texts(report(response)) == before
        # And the trunk is where it was.
        trunk = await say(client, [*said], REPORT["content"])
        assert place(trunk) == ("hit", first)
        assert texts(report(trunk)) == ["repeat: one", "one", "repeat: two", "two"]
        assert place(await say(client, edited, "repeat: more"))[0] == "hit", "a branch goes on, too"


async def test_identical_histories_at_once_are_one_hit_and_one_new_conversation(
    tmp_path: Path,
) -> None:
    async with open_front(tmp_path) as (client, gateway):
        said: Said = []
        _, first = place(await say(client, said, "repeat: one"))
        both = [*said, REPORT]
        responses: list[Response] = []

        async def once() -> None:
            responses.append(await ask(client, NO_STORE, messages=both))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(once)
            nursery.start_soon(once)
        hit, miss = sorted(responses, key=lambda each: each.headers["x-ccapi-lineage"])
        assert place(hit) == ("hit", first)
        assert place(miss)[0] == "miss"
        assert place(miss)[1] != first
        for response in responses:
            assert texts(report(response)) == ["repeat: one", "one"]
        assert gateway.statistics().conversations == 2


async def test_another_key_never_finds_it(tmp_path: Path) -> None:
    keys = AuthSettings(api_keys=("alice", "bob"))
    async with open_front(tmp_path, auth=keys) as (client, _):
        alice = Client(client.app, {"x-api-key": "alice"})
        bob = Client(client.app, {"x-api-key": "bob"})
        said: Said = []
        _, first = place(await say(alice, said, "repeat: one"))
        theirs = await say(bob, [*said], REPORT["content"])
        assert place(theirs)[0] == "miss"
        assert place(theirs)[1] != first
        assert texts(report(theirs)) == ["repeat: one", "one"]
        assert place(await say(alice, [*said], REPORT["content"])) == ("hit", first)


async def test_other_tools_or_another_model_are_another_history(
    tmp_path: Path,
) -> None:
    async with open_front(tmp_path) as (client, _):
        said: Said = []
        _, first = place(await say(client, said, "repeat: one"))
        tools = [{"type": "function", "function": {"name": "add"}}]
        for fields in ({"model": "opus"}, {"tools": tools}):
            response = await say(client, [*said], REPORT["content"], **fields)
            assert place(response)[0] == "miss"
            assert texts(report(response)) == ["repeat: one", "one"]
        assert place(await say(client, [*said], "repeat: two", temperature=0.5)) == ("hit", first)


async def test_a_turn_that_fails_leaves_the_holder_where_it_was(
    tmp_path: Path,
) -> None:
    async with open_front(tmp_path) as (client, _):
        said: Said = []
        _, first = place(await say(client, said, "repeat: one"))
        failed = await ask(client, messages=[*said, user(script(error_status=500))])
        assert failed.status == 502
        assert failed.headers["x-ccapi-lineage"] == "hit"
        assert failed.headers["x-conversation-id"] == first
        again = await say(client, said, REPORT["content"])
        assert place(again) == ("hit", first)
        assert texts(report(again)) == ["repeat: one", "one"]


async def test_a_first_turn_that_fails_leaves_no_conversation(
    tmp_path: Path,
) -> None:
    async with open_front(tmp_path) as (client, gateway):
        failed = await ask(client, messages=[user(script(error_status=500))])
        assert failed.status == 502
        assert "x-conversation-id" not in failed.headers
        assert gateway.statistics().conversations == 0


async def test_a_conversation_that_is_deleted_is_not_found(tmp_path: Path) -> None:
    async with open_front(tmp_path) as (client, gateway):
        said: Said = []
        _, first = place(await say(client, said, "repeat: one"))
        await gateway.forget(first)
        again = await say(client, said, REPORT["content"])
        assert place(again)[0] == "miss"
        assert texts(report(again)) == ["repeat: one", "one"]


async def test_a_conversation_that_a_client_names_is_its_own(tmp_path: Path) -> None:
    """A client that goes on by its id sends only what is new: no other client may have said
    anything."""
    async with open_front(tmp_path) as (client, _):
        said: Said = []
        _, first = place(await say(client, said, "repeat: one"))
        said.append(user("repeat: two"))
        named = await ask(client, messages=said[-1:], conversation_id=first)
        assert "x-ccapi-lineage" not in named.headers
        said.append(answered(named))
        other = await say(client, [*said], REPORT["content"])
        assert place(other)[0] == "miss"
        assert texts(report(other)) == ["repeat: one", "one", "repeat: two", "two"]
        mine = await ask(client, messages=[REPORT], conversation_id=first)
        assert texts(report(mine)) == ["repeat: one", "one", "repeat: two", "two"]


async def test_a_conversation_that_was_made_by_itself_or_by_a_program_is_its_makers(
    tmp_path: Path,
) -> None:
    async with open_front(tmp_path) as (client, gateway):
        conversation = gateway.conversation()
        reply = await conversation.ask("repeat: one")
        said = [user("repeat: one"), {"role": "assistant", "content": reply.text}]
        other = await say(client, said, REPORT["content"])
        assert place(other) == ("miss", other.json()["conversation_id"])
        assert conversation.info.turns == 1


# -- long histories, and children that are gone ----------------------------------------------------


def long_history(messages: int) -> Said:
    return [
        {"role": role, "content": f"{role} {number}"}
        for number in range(messages // 2)
        for role in ("user", "assistant")
    ]


async def test_a_long_history_is_cut_for_a_new_child_alone(tmp_path: Path) -> None:
    limited = ConversationSettings(max_history_messages=3)
    async with open_front(tmp_path, conversation=limited) as (client, _):
        said: Said = [{"role": "system", "content": "Be brief."}, *long_history(8)]
        cold = await say(client, said, REPORT["content"])
        assert cold.headers["x-ccapi-history-omitted"] == "6"
        assert texts(report(cold)) == ["user 3", "assistant 3"]
        assert report(cold)["system"] == "Be brief."
        warm = await say(client, said, REPORT["content"])
        assert place(warm) == ("hit", place(cold)[1])
        assert "x-ccapi-history-omitted" not in warm.headers
        assert len(texts(report(warm))) == 4, "what the child held, and no less"


async def hibernate(gateway: Gateway, recorder: EventRecorder, conversation_id: str) -> None:
    """Its child ends as one that was asked to: the conversation sleeps."""
    conversation = gateway.loaded(conversation_id)
    os.kill(recorder.pid(conversation), 15)
    await recorder.wait_phase(conversation, "asleep")


@pytest.mark.parametrize("messages", [10, 80])
async def test_a_history_whose_holder_sleeps(tmp_path: Path, messages: int) -> None:
    """It goes on in that conversation: another child receives what it holds."""
    whole = ConversationSettings(max_history_messages=1000)
    async with open_front(tmp_path, conversation=whole) as (client, gateway):
        async with open_recorder(gateway) as recorder:
            said = long_history(messages)
            _, first = place(await say(client, said, "repeat: one"))
            await hibernate(gateway, recorder, first)
            before = [message["content"] for message in said]
            response = await say(client, said, REPORT["content"])
            assert place(response) == ("hit", first)
            assert texts(report(response)) == before


async def test_a_header_says_how_a_turn_got_its_child(tmp_path: Path) -> None:
    async with open_front(tmp_path, claude={"prewarm": 0}) as (client, gateway):
        system = {"role": "system", "content": "Be brief."}
        said: Said = [system]
        sources = [(await say(client, said, "repeat: one")).headers["x-ccapi-child"]]
        sources.append((await say(client, said, "repeat: two")).headers["x-ccapi-child"])
        other: Said = [system]
        sources.append((await say(client, other, "repeat: else")).headers["x-ccapi-child"])
        edited = [*said[:3], user("repeat: edited")]
        sources.append((await ask(client, messages=edited)).headers["x-ccapi-child"])
        third: Said = [system]
        sources.append((await say(client, third, "repeat: third")).headers["x-ccapi-child"])
        # The first conversation was continued, so it keeps its child while there is room; an edited
        # message has half of its history in common with it, and takes it.
        assert sources == ["new", "warm", "new", "prefix", "recycled"]
        taken = gateway.stats.snapshot()["children"]["turns"]
        assert taken == {"warm": 1, "prefix": 1, "recycled": 1, "prewarmed": 0, "new": 2}
