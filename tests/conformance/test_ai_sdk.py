"""The AI SDK on the gateway: what `ai_sdk.mjs` saw."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from . import node
from .expected import AI_SDK_STEPS, COUNTED, HELLO, PICTURE, TWO_RESULTS
from .node import Seen


@pytest.fixture(scope="module")
def seen(node_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Seen:
    return node.run(node_folder / "ai_sdk.mjs", tmp_path_factory.mktemp("ai"))


def is_joke(document: Any) -> bool:
    return bool(document.keys() == {"setup", "punchline", "laughs"} and document["laughs"] == 5)


def test_generate_text(seen: Seen) -> None:
    expected = {"text": HELLO, "finishReason": "stop", "counted": True}
    assert seen.by("generate") == expected


def test_stream_text(seen: Seen) -> None:
    assert seen.by("stream") == {
        "text": COUNTED,
        "streamed": True,
        "finishReason": "stop",
        "counted": True,
    }


def test_generate_text_in_steps(seen: Seen) -> None:
    run = seen.by("steps")
    assert run["steps"] == AI_SDK_STEPS
    assert sorted(run["text"].splitlines()) == sorted(TWO_RESULTS.splitlines())


def test_stream_text_in_steps(seen: Seen) -> None:
    run = seen.by("streamed_steps")
    assert run["missing"] == []
    assert run["steps"] == AI_SDK_STEPS
    assert sorted(run["text"].splitlines()) == sorted(TWO_RESULTS.splitlines())


def test_parallel_tools(seen: Seen) -> None:
    run = seen.by("parallel_tools")
    both = [["get_weather", {"city": "Paris"}], ["get_weather", {"city": "London"}]]
    assert run["steps"] == [
        ["tool-calls", both, ["Sunny in Paris.", "Sunny in London."]],
        ["stop", [], []],
    ]


def test_tool_choice(seen: Seen) -> None:
    assert seen.by("tool_choice") == {"none": [], "required": 1, "named": ["get_time"]}


def test_images_as_url_and_as_bytes(seen: Seen) -> None:
    assert seen.by("image") == [PICTURE] * 2


def test_generate_object(seen: Seen) -> None:
    assert is_joke(seen.by("object"))
    assert is_joke(seen.by("object_as_output"))


def test_stream_object(seen: Seen) -> None:
    streamed = seen.by("streamed_object")
    assert is_joke(streamed["object"])
    assert streamed["partial"]


def test_generate_object_without_a_schema(seen: Seen) -> None:
    assert seen.by("object_without_schema") == ["punchline", "setup"]


def test_errors_carry_the_gateways_message(seen: Seen) -> None:
    error = seen.by("errors")
    assert error["name"] == "AI_APICallError"
    assert error["statusCode"] == 404
    assert error["code"] == "model_not_found"
    assert "gpt-nope" in error["message"]


def test_an_aborted_stream_ends_the_turn(seen: Seen) -> None:
    assert seen.by("abort") == {"early": True, "aborted": True, "after": True}
    assert seen.abandoned == 1
