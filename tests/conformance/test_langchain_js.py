"""LangChain JS on the gateway: what `langchain_js.mjs` saw."""

from __future__ import annotations

from pathlib import Path

import pytest

from . import node
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
def seen(node_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Seen:
    return node.run(node_folder / "langchain_js.mjs", tmp_path_factory.mktemp("langchain_js"))


def test_invoke(seen: Seen) -> None:
    assert seen.by("invoke") == {"text": HELLO, "finish": "stop", "counted": True}


def test_stream(seen: Seen) -> None:
    expected = {"text": COUNTED, "streamed": True, "counted": True, "chunks": True}
    assert seen.by("stream") == expected


def test_a_system_prompt_and_turns(seen: Seen) -> None:
    assert seen.by("system_and_turns") == "Your name is Ada."


@pytest.mark.parametrize("check", ["tool_loop", "responses_tool_loop"])
def test_a_tool_loop(seen: Seen, check: str) -> None:
    assert seen.by(check) == {"steps": [[WEATHER], [TIME], []], "text": TWO_RESULTS}


def test_parallel_tools(seen: Seen) -> None:
    assert seen.by("parallel_tools") == {"steps": [BOTH, []], "text": PARALLEL_RESULTS}


def test_streamed_tools(seen: Seen) -> None:
    assert seen.by("streamed_tools") == BOTH


def test_tool_choice(seen: Seen) -> None:
    assert seen.by("tool_choice") == TOOL_CHOICE


def test_structured_output(seen: Seen) -> None:
    found = seen.by("structured")
    assert found["jsonSchema"] == found["functionCalling"] == JOKE
    assert found["jsonMode"].keys() == {"setup", "punchline"}


def test_structured_output_with_its_message(seen: Seen) -> None:
    assert seen.by("structured_with_raw") == {"parsed": JOKE, "counted": True}


def test_images(seen: Seen) -> None:
    assert seen.by("image") == [PICTURE] * 2


def test_batch(seen: Seen) -> None:
    assert seen.by("batch") == ["one", "two", "three"]


def test_errors(seen: Seen) -> None:
    expected = {
        "status": 404,
        "code": "model_not_found",
        "mapped": "MODEL_NOT_FOUND",
        "named": True,
    }
    assert seen.by("errors") == expected


def test_abort(seen: Seen) -> None:
    assert seen.by("abort") == {"early": True, "aborted": True}
    assert seen.abandoned == 1


def test_responses(seen: Seen) -> None:
    expected = {"text": HELLO, "counted": True, "streamed": COUNTED, "pieces": True}
    assert seen.by("responses") == expected
