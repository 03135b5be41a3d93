"""LiteLLM on the gateway: what `litellm_suite.py` saw."""

from __future__ import annotations

from pathlib import Path

import pytest

from . import python_clients
from .checks import Seen
from .expected import (
    BOTH,
    COUNTED,
    HELLO,
    JOKE,
    PARALLEL_RESULTS,
    PICTURE,
    TIME,
    TOOL_CHOICE,
    TWO_RESULTS,
    WEATHER,
)


@pytest.fixture(scope="module")
def seen(python_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Seen:
    return python_clients.run(python_folder, "litellm", tmp_path_factory.mktemp("litellm"))


def test_completion(seen: Seen) -> None:
    assert seen.by("plain") == [HELLO, "stop", True]


def test_stream(seen: Seen) -> None:
    assert seen.by("stream") == [COUNTED, "stop", True, True]


def test_a_system_prompt_and_turns(seen: Seen) -> None:
    assert seen.by("system_and_turns") == "Your name is Ada."


def test_a_tool_loop(seen: Seen) -> None:
    steps = [["tool_calls", [WEATHER]], ["tool_calls", [TIME]], ["stop", []]]
    assert seen.by("tool_loop") == {"steps": steps, "text": TWO_RESULTS}


def test_parallel_tools(seen: Seen) -> None:
    steps = [["tool_calls", BOTH], ["stop", []]]
    assert seen.by("parallel_tools") == {"steps": steps, "text": PARALLEL_RESULTS}


def test_streamed_tools(seen: Seen) -> None:
    assert seen.by("streamed_tools") == ["tool_calls", BOTH]


def test_tool_choice(seen: Seen) -> None:
    assert seen.by("tool_choice") == TOOL_CHOICE


def test_structured_output(seen: Seen) -> None:
    assert seen.by("structured") == JOKE


def test_image(seen: Seen) -> None:
    assert seen.by("image") == PICTURE


def test_a_limit_of_tokens(seen: Seen) -> None:
    assert seen.by("limits") == "length"


def test_reasoning(seen: Seen) -> None:
    assert seen.by("reasoning")


def test_errors_are_litellms(seen: Seen) -> None:
    expected = {"unknown": ["NotFoundError", 404], "bad": ["BadRequestError", 400]}
    assert seen.by("errors") == expected


def test_the_router_falls_back(seen: Seen) -> None:
    assert seen.by("fallbacks") == HELLO


def test_an_async_stream(seen: Seen) -> None:
    assert seen.by("async_stream") == COUNTED


def test_responses_continue(seen: Seen) -> None:
    assert seen.by("responses") == ["Your name is Ada.", True]


def test_the_messages_api(seen: Seen) -> None:
    assert seen.by("messages_api") == [HELLO, "stop", True, "Your name is Ada."]
    assert seen.by("messages_as_they_are") == [HELLO, "end_turn"]


def test_a_stream_of_the_messages_api(seen: Seen) -> None:
    assert seen.by("messages_stream") == [COUNTED, "stop", True]


def test_a_tool_loop_over_the_messages_api(seen: Seen) -> None:
    steps = [["tool_calls", [WEATHER]], ["tool_calls", [TIME]], ["stop", []]]
    assert seen.by("messages_tools") == {"steps": steps, "text": TWO_RESULTS}


def test_signed_thinking_over_the_messages_api(seen: Seen) -> None:
    assert seen.by("messages_thinking") == [True, [True], "The tool says: Sunny in Rome."]


def test_structured_output_and_images_over_the_messages_api(seen: Seen) -> None:
    assert seen.by("messages_structured") == JOKE
    assert seen.by("messages_image") == PICTURE


def test_errors_of_the_messages_api_are_litellms(seen: Seen) -> None:
    expected = {"unknown": ["NotFoundError", 404], "bad": ["BadRequestError", 400]}
    assert seen.by("messages_errors") == expected
