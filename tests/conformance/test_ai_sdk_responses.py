"""The AI SDK's default provider on the gateway: what `ai_sdk_responses.mjs` saw.

It speaks the Responses API, and from the second turn on names earlier items by their ids.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from . import node
from .expected import AI_SDK_STEPS, COUNTED, HELLO, PICTURE, TWO_RESULTS
from .node import Seen


@pytest.fixture(scope="module")
def seen(node_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Seen:
    return node.run(node_folder / "ai_sdk_responses.mjs", tmp_path_factory.mktemp("ai_responses"))


def test_generate_text(seen: Seen) -> None:
    expected = {"text": HELLO, "finishReason": "stop", "counted": True}
    assert seen.by("generate") == expected


def test_stream_text(seen: Seen) -> None:
    expected = {"text": COUNTED, "streamed": True, "finishReason": "stop", "counted": True}
    assert seen.by("stream") == expected


def test_a_second_turn_names_items_of_the_first(seen: Seen) -> None:
    assert seen.by("turns") == {"text": "Your name is Ada.", "referred": 1}


def test_a_tool_loop(seen: Seen) -> None:
    run = seen.by("steps")
    assert run["steps"] == AI_SDK_STEPS
    assert sorted(run["text"].splitlines()) == sorted(TWO_RESULTS.splitlines())


def test_a_streamed_tool_loop(seen: Seen) -> None:
    run = seen.by("streamed_steps")
    assert run["missing"] == []
    assert run["steps"] == AI_SDK_STEPS
    assert sorted(run["text"].splitlines()) == sorted(TWO_RESULTS.splitlines())


def test_a_tool_loop_names_its_reasoning(seen: Seen) -> None:
    run = seen.by("reasoning_steps")
    assert run["steps"] == [AI_SDK_STEPS[0], AI_SDK_STEPS[-1]]
    assert run["text"] == "The tool says: Sunny in Rome."
    assert run["reasoned"]
    assert run["referred"] == 1


def test_nothing_is_stored(seen: Seen) -> None:
    assert seen.by("unstored") == "Your name is Grace."


def test_previous_response(seen: Seen) -> None:
    assert seen.by("continued") == "Your name is Mary."


def test_images(seen: Seen) -> None:
    assert seen.by("image") == [PICTURE] * 2


def test_objects(seen: Seen) -> None:
    document = seen.by("object")
    assert document.keys() == {"setup", "punchline", "laughs"}
    assert document["laughs"] == 5


def test_built_in_tools_do_no_harm(seen: Seen) -> None:
    assert seen.by("built_in_tools") == HELLO


def test_errors(seen: Seen) -> None:
    error = seen.by("errors")
    assert error["name"] == "AI_APICallError"
    assert error["statusCode"] == 404
    assert error["code"] == "model_not_found"
    assert "gpt-nope" in error["message"]


def test_abort(seen: Seen) -> None:
    assert seen.by("abort") == {"early": True, "aborted": True, "after": True}
    assert seen.abandoned == 1
