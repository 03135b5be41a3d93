"""How a history is put into a fresh child: structured messages on stdin, no API call."""

from typing import Any

from tests.support.logins import every_login, without_reminders
from tests.support.messages_stub import MessagesStub
from tests.support.raw_cli import (
    Frame,
    RawCli,
    assistant_frame,
    is_result,
    kinds,
    user_frame,
)


def text(content: str) -> Frame:
    return {"type": "text", "text": content}


async def replay_user(child: RawCli, content: Any) -> Frame:
    """Append a user message and return the zero-turn result that confirms it."""
    return (await child.turn(content, shouldQuery=False))[-1]


async def test_a_replayed_user_is_confirmed_by_a_zero_turn_result(
    child: RawCli, stub: MessagesStub
) -> None:
    """Protocol notes, section 3a."""
    await child.settle()
    seen = await child.turn("earlier", shouldQuery=False)
    assert kinds(seen) == ["system/init", "result/success"]
    assert (seen[-1]["num_turns"], seen[-1]["is_error"], seen[-1]["result"]) == (0, False, "")
    assert stub.requests == []


async def test_a_replayed_assistant_is_appended_without_a_word(child: RawCli) -> None:
    """Protocol notes, section 3a."""
    await replay_user(child, "earlier")
    await child.send(assistant_frame([text("answer")], id="msg_h1"))
    assert kinds(await child.settle()) == []


@every_login
async def test_after_a_replay_the_api_gets_exactly_the_history(
    child: RawCli, stub: MessagesStub
) -> None:
    """Protocol notes, section 3a."""
    await replay_user(child, "u1")
    await child.send(assistant_frame([text("a1")], id="msg_h1"))
    await replay_user(child, [text("u2a"), text("u2b")])
    await child.send(assistant_frame([text("a2a"), text("a2b")], id="msg_h2"))
    await child.turn("u3")
    (request,) = stub.requests
    assert request.conversation == [
        ("user", ["u1"]),
        ("assistant", ["a1"]),
        ("user", ["u2a", "u2b"]),
        ("assistant", ["a2a", "a2b"]),
        ("user", ["u3"]),
    ]


@every_login
async def test_tool_calls_and_their_results_are_replayed_intact(
    child: RawCli, stub: MessagesStub
) -> None:
    """Protocol notes, section 3a: any names and ids, parallel calls, errors."""
    calls = [
        text("let me see"),
        {"type": "tool_use", "id": "call_1", "name": "get_weather", "input": {"city": "Paris"}},
        {"type": "tool_use", "id": "call_2", "name": "get_time", "input": {}},
    ]
    results = [
        {"type": "tool_result", "tool_use_id": "call_1", "content": "sunny"},
        {"type": "tool_result", "tool_use_id": "call_2", "content": "broken", "is_error": True},
    ]
    await replay_user(child, "weather and time?")
    await child.send(assistant_frame(calls, id="msg_h1"))
    # An empty block behind keeps the last result exact (tests/contract/test_login.py).
    await child.turn([*results, text("")])
    sent = without_reminders(stub.requests[0].body["messages"])
    for block in sent[-1]["content"]:
        block.pop("cache_control", None)
    assert sent == [
        {"role": "user", "content": "weather and time?"},
        {"role": "assistant", "content": calls},
        {"role": "user", "content": results},
    ]


async def test_a_history_may_start_with_an_assistant(child: RawCli, stub: MessagesStub) -> None:
    """Protocol notes, section 3a."""
    await child.send(assistant_frame([text("welcome")], id="msg_h1"))
    await child.turn("hello")
    assert stub.requests[0].conversation == [("assistant", ["welcome"]), ("user", ["hello"])]


async def test_pipelined_assistants_overtake_the_users(child: RawCli, stub: MessagesStub) -> None:
    """Protocol notes, section 3a: hence each user's result is awaited before the next assistant."""
    await child.send(
        user_frame("u1", shouldQuery=False),
        assistant_frame([text("a1")], id="msg_h1"),
        user_frame("u2", shouldQuery=False),
        assistant_frame([text("a2")], id="msg_h2"),
        user_frame("u3"),
    )
    await child.until(lambda frame: is_result(frame) and frame["num_turns"] == 1)
    assert [role for role, _ in stub.requests[0].conversation] != [
        "user",
        "assistant",
        "user",
        "assistant",
        "user",
    ]


async def test_consecutive_replayed_users_are_joined_and_gain_newlines(
    child: RawCli, stub: MessagesStub
) -> None:
    """Protocol notes, section 3a: one frame with several blocks is the exact way to say them."""
    await replay_user(child, "u1")
    await replay_user(child, [text("u2a"), text("u2b")])
    await child.turn([text("u3a"), text("u3b")])
    assert stub.requests[0].conversation == [("user", ["u1\n", "u2a", "u2b\n", "u3a", "u3b"])]


async def test_the_slash_rule_holds_in_a_replay_too(child: RawCli, stub: MessagesStub) -> None:
    """Protocol notes, section 2: command when bare, exact behind the same escape."""
    await replay_user(child, [text("/help"), text("")])
    await child.send(assistant_frame([text("a1")], id="msg_h1"))
    bare = await replay_user(child, "/help")
    assert "isn't available" in bare["result"]
    await child.send(assistant_frame([text("a2")], id="msg_h2"))
    await child.turn("end")
    history = stub.requests[0].conversation
    assert history[:2] == [("user", ["/help"]), ("assistant", ["a1"])]
    assert any("local-command-stdout" in part for part in history[2][1])


async def test_a_replayed_answer_can_be_rewound_to(child: RawCli, stub: MessagesStub) -> None:
    """Protocol notes, section 3e: a replayed frame's own uuid is the answer's uuid."""
    await replay_user(child, "u1")
    answer = assistant_frame([text("a1")], id="msg_h1")
    await child.send(answer)
    last = user_frame("u2")
    await child.send(last)
    await child.until(is_result)
    rewound = await child.control("rewind_conversation", target_message_uuid=last["uuid"])
    assert rewound["response"]["precedingAssistantUuid"] == answer["uuid"]
    await child.turn("u3")
    assert [texts for _, texts in stub.requests[-1].conversation] == [["u1"], ["a1"], ["u3"]]
