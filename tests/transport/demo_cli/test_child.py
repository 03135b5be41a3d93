"""The demo CLI speaks the protocol of the Claude Code CLI: adoption, turns and history."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from tests.support import messages_stub as stub_words
from tests.support.demo_cli import (
    CLI_FLAGS,
    Frame,
    control,
    is_answer,
    is_delta,
    is_result,
    kind,
    new_uuids,
    open_demo_cli,
    text_of,
    user,
)
from tests.support.raw_cli import CHILD_ENVIRONMENT, cli_environment, open_raw_cli, user_frame
from tests.support.raw_cli import kind as long_kind

SLOW = '!script {"deltas": 5000, "pace_ms": 2}'
HELLO = {"id": "msg_1", "role": "assistant", "content": [{"type": "text", "text": "hello"}]}


# --- like the real one --------------------------------------------------------------------------

TURNS: list[tuple[str, Any]] = [  # what the demo CLI receives, what the real one's API says
    ('!script {"answer": "one two three"}', stub_words.say("one two three", chunks=3)),
    (
        '!script {"answer": "one two", "thinking": 2}',
        stub_words.Reply((stub_words.Thinking("deep", 2), stub_words.Text("one two", 2))),
    ),
    ('!script {"error_status": 400}', stub_words.Failure(400)),
    (SLOW, stub_words.Reply((stub_words.Text("on and on", 9),), hang_after=3)),
]


def ended(frame: Frame) -> bool:
    return long_kind(frame) in ("command_lifecycle/completed", "command_lifecycle/cancelled")


async def kinds_of(child: Any, texts: list[str]) -> list[str]:
    """The kinds of the frames of a session: a turn for each text, the last one interrupted.

    Runs of one kind count once. What comes at any time (tasks, estimates of tokens) is left out.
    """
    frames: list[Frame] = []
    await child.send(user_frame("said before", shouldQuery=False))
    frames += await child.until(ended)
    for text in texts:
        await child.send(user_frame(text))
        if text == texts[-1]:
            frames += await child.until(is_delta)
            await child.send(control("interrupt"))
        frames += await child.until(ended)
    await child.send(user_frame("/help me"))
    frames += await child.until(ended)
    await child.send(control("end_session"))
    frames += await child.until(is_answer)
    beside = ("system/background_tasks_changed", "system/thinking_tokens")
    names = [name for name in map(long_kind, frames) if name not in beside]
    return [name for name, _ in itertools.groupby(names)]


async def test_a_session_has_the_frames_of_the_real_cli_in_their_order(tmp_path: Path) -> None:
    async with stub_words.open_messages_stub() as stub:
        questions = {f"question {number}": answer for number, (_, answer) in enumerate(TURNS)}
        stub.answer = lambda request: questions[request.last_user_text]
        environment = {**cli_environment(tmp_path, stub.url), **CHILD_ENVIRONMENT}
        async with open_raw_cli(environment, tmp_path, CLI_FLAGS) as real:
            expected = await kinds_of(real, list(questions))
    async with open_demo_cli(tmp_path) as child:
        assert await kinds_of(child, [script for script, _ in TURNS]) == expected


async def test_a_turn_frame_by_frame(tmp_path: Path) -> None:
    async with open_demo_cli(tmp_path) as child:
        (uuid,) = new_uuids(1)
        await child.send(user('!script {"answer": "Grüße, \\ud83c\\udf0d "}', uuid))
        frames = await child.until(lambda frame: kind(frame) == "completed")
    names = "ui_invalidate queued started init status message_start content_block_start"
    names += " content_block_delta content_block_delta assistant content_block_stop"
    assert [
        kind(f) for f in frames
    ] == f"{names} message_delta message_stop success completed".split()
    session = frames[0]["session_id"]
    assert {f["session_id"] for f in frames} == {session}
    assert len({f["uuid"] for f in frames}) == len(frames)
    assert [f["event"]["delta"] for f in frames if is_delta(f)] == [
        {"type": "text_delta", "text": "Grüße, "},
        {"type": "text_delta", "text": "🌍 "},
    ]
    # One line for each frame, compact and in raw UTF-8, as JSON.stringify writes it.
    lines = bytes(child.printed).splitlines(keepends=True)
    assert lines == [
        json.dumps(f, ensure_ascii=False, separators=(",", ":")).encode() + b"\n" for f in frames
    ]
    start, said, end, result = frames[5], frames[9], frames[11], frames[13]
    assert start["event"]["message"]["id"] == said["message"]["id"]
    assert said["message"]["content"] == [{"type": "text", "text": "Grüße, 🌍 "}]
    assert end["event"]["delta"]["stop_reason"] == result["stop_reason"] == "end_turn"
    assert (result["result"], result["is_error"], result["num_turns"]) == ("Grüße, 🌍 ", False, 1)
    assert result["api_error_status"] is None
    assert end["event"]["usage"]["output_tokens"] == result["usage"]["output_tokens"] == 2
    assert result["total_cost_usd"] > 0
    assert result["user_message_uuid"] == uuid


async def test_what_was_sent_before_is_read_from_the_cache(tmp_path: Path) -> None:
    async with open_demo_cli(tmp_path) as child:
        first, second = [(await child.turn("Tell me more, please"))[-1]["usage"] for _ in range(2)]
    keys = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
    assert first["cache_read_input_tokens"] == 0
    assert second["cache_read_input_tokens"] == sum(first[key] for key in keys) > 0
    assert second["cache_creation_input_tokens"] > 0


async def test_lone_surrogates_and_line_separators_survive(tmp_path: Path) -> None:
    text = "a\ud800b\u2028c\u0000d"
    async with open_demo_cli(tmp_path) as child:
        frames = await child.turn(f"repeat: {text}")
    assert text_of(frames) == frames[-1]["result"] == text


async def test_it_is_silent_until_spoken_to_and_then_answers_a_pipelined_turn(
    tmp_path: Path,
) -> None:
    async with open_demo_cli(tmp_path) as child:
        assert await child.silent()
        await child.send(control("initialize", systemPrompt="You are X."), user("system prompt?"))
        frames = await child.until(is_result)
        assert frames[-1]["result"] == "My system prompt is:\n\n> You are X."


# --- adoption -----------------------------------------------------------------------------------


async def test_the_first_initialize_decides(tmp_path: Path) -> None:
    agents = {"gw": {"description": "d", "prompt": "not this", "model": "claude-haiku-4-5"}}
    adoption: Frame = {"systemPrompt": ["A", "B"], "appendSystemPrompt": "C", "agents": agents}
    adoption["title"] = "A title"
    async with open_demo_cli(tmp_path, "--model", "sonnet", "--system-prompt", "flag") as child:
        await child.send(control("initialize", **adoption))
        _, titled, answered = await child.until(is_answer)
        assert (kind(titled), titled["title"]) == ("session_title_changed", "A title")
        answer = answered["response"]
        assert answer["response"]["agents"][0]["model"] == "claude-haiku-4-5"
        assert answer["response"]["pid"] == child.process.pid
        assert (await child.ask("initialize", systemPrompt="D"))["subtype"] == "success"
        report = await child.report()
        assert (report["system"], report["model"]) == ("A\n\nB\n\nC", "claude-haiku-4-5")


@pytest.mark.parametrize(("given", "system"), [([], ""), ("", "agent's"), ([""], "agent's")])
async def test_only_an_empty_list_means_no_system_prompt(
    tmp_path: Path, given: Any, system: str
) -> None:
    agents = {"gw": {"description": "d", "prompt": "agent's"}}
    async with open_demo_cli(tmp_path) as child:
        await child.ask("initialize", systemPrompt=given, agents=agents)
        assert (await child.report())["system"] == system


async def test_an_initialize_after_a_user_frame_changes_nothing(tmp_path: Path) -> None:
    async with open_demo_cli(tmp_path, "--model=sonnet", "--system-prompt", "flag") as child:
        await child.turn("hello")
        assert (await child.ask("initialize", systemPrompt="late"))["subtype"] == "success"
        report = await child.report()
        assert (report["system"], report["model"]) == ("flag", "sonnet")


async def test_settings_are_merged_and_reset(tmp_path: Path) -> None:
    async with open_demo_cli(tmp_path) as child:
        for env in ({"A": "1", "B": "2"}, {"A": ""}):
            await child.ask("apply_flag_settings", settings={"env": env})
        assert (await child.report())["settings"] == {"env": {"A": "", "B": "2"}}


async def test_token_limit_and_stop_sequences_cut_the_answer(tmp_path: Path) -> None:
    async with open_demo_cli(tmp_path) as child:
        env = {"CLAUDE_CODE_MAX_OUTPUT_TOKENS": "3"}
        await child.ask("apply_flag_settings", settings={"env": env})
        result = (await child.turn("repeat: a b c d e"))[-1]
        assert (result["result"], result["stop_reason"]) == ("a b c ", "max_tokens")
        body = json.dumps({"stop_sequences": ["z", "b"]})
        env = {"CLAUDE_CODE_MAX_OUTPUT_TOKENS": "", "CLAUDE_CODE_EXTRA_BODY": body}
        await child.ask("apply_flag_settings", settings={"env": env})
        *_, end, _, result = await child.turn("repeat: a b c d e")
        assert (result["result"], result["stop_reason"]) == ("a ", "stop_sequence")
        assert end["event"]["delta"] == {"stop_reason": "stop_sequence", "stop_sequence": "b"}


# --- history ------------------------------------------------------------------------------------


async def test_replayed_messages_cost_no_turn_and_are_remembered(tmp_path: Path) -> None:
    first, second = new_uuids(2)
    async with open_demo_cli(tmp_path) as child:
        frames = await child.turn([{"type": "text", "text": "hi"}], first, shouldQuery=False)
        assert [kind(f) for f in frames[1:]] == ["queued", "started", "init", "success"]
        assert (frames[-1]["num_turns"], frames[-1]["result"]) == (0, "")
        await child.send({"type": "assistant", "uuid": second, "message": HELLO})
        assert [kind(f) for f in await child.until(lambda f: f.get("command_uuid") == second)] == [
            "completed",
            "completed",
        ]
        history = (await child.report())["history"]
    assert [(entry["role"], entry["content"]) for entry in history[:2]] == [
        ("user", [{"type": "text", "text": "hi"}]),
        ("assistant", HELLO["content"]),
    ]


async def test_an_assistant_message_whose_content_is_text_poisons_the_session(
    tmp_path: Path,
) -> None:
    async with open_demo_cli(tmp_path) as child:
        await child.send({"type": "assistant", "message": {**HELLO, "content": "hello"}})
        result = (await child.turn("hello"))[-1]
        assert result["is_error"]
        assert "content.some" in result["result"]


async def test_a_uuid_is_accepted_once(tmp_path: Path) -> None:
    uuid, other = new_uuids(2)
    async with open_demo_cli(tmp_path) as child:
        await child.send(user("repeat: a", uuid), user("repeat: b", uuid))
        await child.until(is_result)
        await child.send(user("repeat: c", uuid), user("repeat: d", other))
        frames = await child.until(is_result)
        assert frames[-1]["result"] == "d"


async def test_frames_that_wait_become_one_turn(tmp_path: Path) -> None:
    uuids = new_uuids(3)
    async with open_demo_cli(tmp_path) as child:
        await child.send(*(user(f"repeat: {n}", uuid) for n, uuid in enumerate(uuids)))
        assert (await child.until(is_result))[-1]["result"] == "0"
        frames = await child.until(is_result)
        assert frames[-1]["result"] == "1\nrepeat: 2"
        assert next(f for f in frames if kind(f) == "init")["user_message_uuids"] == uuids[1:]


async def test_commands_and_blank_text_reach_no_model(tmp_path: Path) -> None:
    async with open_demo_cli(tmp_path) as child:
        result = (await child.turn("/help me"))[-1]
        assert (result["result"], result["num_turns"]) == (
            "/help isn't available in this environment.",
            0,
        )
        escaped = [{"type": "text", "text": "/help me"}, {"type": "text", "text": ""}]
        for text in (" /help", "/usr/bin is a folder", "\n/help", "/unknown", "/", escaped):
            assert (await child.turn(text))[-1]["num_turns"] == 1
        result = (await child.turn(" \n"))[-1]
        assert (result["num_turns"], result["result"][:12]) == (0, "Blank prompt")
