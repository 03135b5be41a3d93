"""Sampling settings for one turn, through apply_flag_settings, and their way back."""

import json
from typing import Any

from tests.support.messages_stub import MessagesStub
from tests.support.raw_cli import Frame, RawCli, is_result, user_frame


def sampled(body: Frame) -> Frame:
    """Return what of a request's body is about sampling."""
    apart = ("model", "messages", "system", "tools", "metadata", "stream")
    return {name: value for name, value in body.items() if name not in apart}


def settings(max_tokens: str, extra: Any) -> Frame:
    environment = {
        "CLAUDE_CODE_MAX_OUTPUT_TOKENS": max_tokens,
        "CLAUDE_CODE_EXTRA_BODY": json.dumps(extra) if extra else "",
    }
    return {"settings": {"env": environment}}


async def test_flag_settings_reach_the_body_until_they_are_reset(
    child: RawCli, stub: MessagesStub
) -> None:
    """Protocol notes, section 1: reset with empty text; nothing enters the conversation."""
    await child.turn("plain")
    extra = {
        "temperature": 0.3,
        "top_p": 0.5,
        "stop_sequences": ["X"],
        "thinking": {"type": "disabled"},
    }
    answer = await child.control("apply_flag_settings", **settings("77", extra))
    assert answer["subtype"] == "success"
    await child.turn("set")
    await child.turn("still set")
    await child.control("apply_flag_settings", **settings("", None))
    await child.turn("reset")

    plain, changed, still, reset = (sampled(request.body) for request in stub.requests)
    assert {name: changed[name] for name in ("max_tokens", *extra)} == {"max_tokens": 77, **extra}
    assert still == changed
    assert reset == plain
    assert [texts for role, texts in stub.requests[-1].conversation if role == "user"] == [
        ["plain"],
        ["set"],
        ["still set"],
        ["reset"],
    ]


async def test_initialize_settings_and_first_turn_may_be_written_in_one_piece(
    child: RawCli, stub: MessagesStub
) -> None:
    """Protocol notes, section 1: adoption costs one write whatever the request asks for."""
    apply = child.control_frame("apply_flag_settings", **settings("55", {"temperature": 0.1}))
    await child.send(apply, user_frame("hello"))
    await child.until(is_result)
    (request,) = stub.requests
    assert (request.body["max_tokens"], request.body["temperature"]) == (55, 0.1)
    assert request.system.endswith("You are a test.")


async def test_a_small_output_limit_leaves_a_larger_thinking_budget(
    child: RawCli, stub: MessagesStub
) -> None:
    """The real API refuses such a body, so a small limit goes along with thinking disabled."""
    await child.control("apply_flag_settings", **settings("77", None))
    await child.turn("hello")
    body = stub.requests[0].body
    assert body["max_tokens"] == 77
    assert body["thinking"]["budget_tokens"] > 77
