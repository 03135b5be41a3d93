"""The AI SDK's provider for the Messages API on the gateway: what `ai_sdk_anthropic.mjs` saw."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from . import node
from .expected import (
    AI_SDK_STEPS,
    BOTH,
    COUNTED,
    HELLO,
    JOKE,
    OBEYED,
    PARALLEL_RESULTS,
    PICTURE,
    TWO_RESULTS,
    WEATHER,
)
from .node import Seen

EXPECTED: dict[str, Any] = {
    "generate": {"text": HELLO, "finishReason": "stop", "counted": True},
    "stream": {"text": COUNTED, "streamed": True, "finishReason": "stop", "counted": True},
    "steps": {"steps": AI_SDK_STEPS, "text": TWO_RESULTS},
    "streamed_steps": {"missing": [], "steps": AI_SDK_STEPS, "text": TWO_RESULTS},
    "turns": "Your name is Ada.",
    "parallel_tools": {
        "steps": [
            ["tool-calls", BOTH, ["Sunny in Paris.", "Sunny in London."]],
            ["stop", [], []],
        ],
        "text": PARALLEL_RESULTS,
    },
    "tool_choice": OBEYED,
    "reasoning_steps": {
        "steps": [["tool-calls", [WEATHER], ["Sunny in Rome."]], ["stop", [], []]],
        "text": "The tool says: Sunny in Rome.",
        "reasoned": [True, True],
    },
    "streamed_reasoning": {"streamed": True, "signed": True},
    "image": [PICTURE] * 2,
    "document": "I see 1 document, small and plain.",
    "object": JOKE,
    "object_as_output": JOKE,
    "object_by_schema": JOKE,
    "streamed_object": {"object": JOKE, "partial": True},
}


@pytest.fixture(scope="module")
def seen(node_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Seen:
    return node.run(node_folder / "ai_sdk_anthropic.mjs", tmp_path_factory.mktemp("ai_anthropic"))


@pytest.mark.parametrize("check", EXPECTED)
def test_check(seen: Seen, check: str) -> None:
    assert seen.by(check) == EXPECTED[check]


def test_errors_carry_the_gateways_message(seen: Seen) -> None:
    error = seen.by("errors")
    assert (error["name"], error["statusCode"]) == ("AI_APICallError", 404)
    assert "gpt-nope" in error["message"]


def test_an_aborted_stream_ends_the_turn(seen: Seen) -> None:
    assert seen.by("abort") == {"early": True, "aborted": True, "after": True}
    assert seen.abandoned == 1
