"""pydantic-ai on the gateway: what `pydantic_ai_suite.py` saw."""

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
    TWO_RESULTS,
    WEATHER,
)

TWO_STEPS = {
    "steps": [[WEATHER], ["Sunny in Rome."], [TIME], ["Noon in Rome."]],
    "text": TWO_RESULTS,
}


@pytest.fixture(scope="module")
def seen(python_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Seen:
    return python_clients.run(python_folder, "pydantic_ai", tmp_path_factory.mktemp("pydantic_ai"))


def test_run(seen: Seen) -> None:
    assert seen.by("plain") == [HELLO, True]


def test_stream(seen: Seen) -> None:
    assert seen.by("stream") == [COUNTED, True, True]


@pytest.mark.parametrize("check", ["system_and_turns", "responses_turns"])
def test_turns(seen: Seen, check: str) -> None:
    assert seen.by(check) == "Your name is Ada."


@pytest.mark.parametrize("check", ["tool_loop", "streamed_tool_loop", "responses"])
def test_a_tool_loop(seen: Seen, check: str) -> None:
    assert seen.by(check) == TWO_STEPS


def test_parallel_tools(seen: Seen) -> None:
    steps = [BOTH, ["Sunny in Paris.", "Sunny in London."]]
    assert seen.by("parallel_tools") == {"steps": steps, "text": PARALLEL_RESULTS}


def test_output_by_a_tool_asked_for_and_forced(seen: Seen) -> None:
    assert seen.by("tool_output") == [JOKE, JOKE]


def test_output_of_several_types(seen: Seen) -> None:
    assert seen.by("output_of_several_types") == ["Joke", "Joke"]


@pytest.mark.parametrize("check", ["native_output", "prompted_output", "responses_output"])
def test_output(seen: Seen, check: str) -> None:
    assert seen.by(check) == JOKE


def test_output_after_tools(seen: Seen) -> None:
    assert seen.by("output_after_tools") == [[WEATHER], "Rome"]


def test_streamed_output(seen: Seen) -> None:
    assert seen.by("streamed_output") == [JOKE, True]


def test_output_is_asked_for_again(seen: Seen) -> None:
    assert seen.by("output_is_asked_again") == [True, 2]


def test_image(seen: Seen) -> None:
    assert seen.by("image") == PICTURE


def test_thinking(seen: Seen) -> None:
    assert seen.by("thinking")


def test_errors(seen: Seen) -> None:
    assert seen.by("errors") == [404, "model_not_found", True]
