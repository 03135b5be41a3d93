"""The openai Node SDK on the gateway: what `openai_sdk.mjs` saw."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from . import node
from .node import Seen

COUNTED = " ".join(str(number) for number in range(1, 21))


@pytest.fixture(scope="module")
def seen(node_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Seen:
    return node.run(node_folder / "openai_sdk.mjs", tmp_path_factory.mktemp("openai"))


def weather_in(*cities: str) -> list[list[Any]]:
    """Calls of get_weather, as the script reports them once their arguments are parsed."""
    return [["function", "get_weather", {"city": city}] for city in cities]


def parsed(calls: list[list[Any]]) -> list[list[Any]]:
    return [[kind, name, json.loads(arguments)] for kind, name, arguments in calls]


def test_a_plain_question(seen: Seen) -> None:
    reply = seen.by("chat")
    assert reply["object"] == "chat.completion"
    assert reply["message"]["role"] == "assistant"
    assert reply["message"]["content"] == "Hello! How are you today?"
    assert reply["finish_reason"] == "stop"
    usage = reply["usage"]
    assert usage["prompt_tokens"] > 0
    assert usage["completion_tokens"] > 0
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


def test_a_conversation_by_its_id(seen: Seen) -> None:
    assert seen.by("conversation") == "Your name is Ada."


def test_a_stream(seen: Seen) -> None:
    stream = seen.by("stream")
    assert stream["text"] == COUNTED
    assert stream["chunks"] > 3
    assert stream["roles"][0] == "assistant"
    assert stream["reasons"] == ["stop"]
    assert stream["usage"]["completion_tokens"] > 0


def test_a_tool_round_trip(seen: Seen) -> None:
    trip = seen.by("tools")
    assert trip["content"] is None
    assert parsed(trip["calls"]) == weather_in("Paris")
    assert trip["reasons"] == ["tool_calls", "stop"]
    assert trip["answer"] == "The tool says: Sunny in Paris."


def test_parallel_tool_calls_and_their_refusal(seen: Seen) -> None:
    trip = seen.by("parallel_tools")
    assert parsed(trip["calls"]) == weather_in("Paris", "London")
    assert sorted(trip["answer"].splitlines()) == [
        "The tool says: Sunny in London.",
        "The tool says: Sunny in Paris.",
    ]
    assert parsed(trip["alone"]) == weather_in("Rome")


def test_a_streamed_tool_round_trip(seen: Seen) -> None:
    trip = seen.by("streamed_tools")
    assert parsed(trip["calls"]) == weather_in("Paris", "London")
    assert trip["ids"] == 2, "once for each call"
    assert trip["fragments"] > 2, "arguments come in fragments"
    assert trip["reasons"] == [["tool_calls"], ["stop"]]
    assert sorted(trip["answer"].splitlines()) == [
        "The tool says: Sunny in London.",
        "The tool says: Sunny in Paris.",
    ]


def test_the_sdks_own_tool_loop(seen: Seen) -> None:
    assert seen.by("run_tools") == {"answer": "The tool says: Rainy in Oslo.", "asked": ["Oslo"]}


def test_tool_choice(seen: Seen) -> None:
    assert seen.by("tool_choice") == {"none": [], "required": 1, "named": ["get_time"]}


def test_an_image_as_a_data_url(seen: Seen) -> None:
    assert seen.by("image") == "I see 1 image, small and plain."


def test_structured_output_is_parsed(seen: Seen) -> None:
    joke = seen.by("structured")
    assert joke.keys() == {"setup", "punchline", "laughs"}
    assert joke["laughs"] == 5


def test_structured_output_that_the_model_says_in_text(seen: Seen) -> None:
    """What a model may do that cannot be made to call a tool."""
    assert seen.by("structured_in_text") == {
        "jokes": [["punchline", "setup"]] * 2,
        "next": "Hello! How are you today?",
    }


def test_what_the_newest_models_refuse_is_not_asked_of_them(seen: Seen) -> None:
    asked = seen.by("newest_model")
    assert parsed(asked["calls"]) == weather_in("Paris")
    ignored = asked["ignored"].split(", ")
    assert sorted(ignored) == ["reasoning_effort", "temperature", "top_p"]


def test_effort_gives_way_to_structured_output(seen: Seen) -> None:
    assert seen.by("effort_and_schema") == ["punchline", "setup"]


def test_a_tool_whose_arguments_are_one_of_several(seen: Seen) -> None:
    ((_, name, arguments),) = parsed(seen.by("alternatives"))
    assert name == "get_weather"
    assert set(arguments) & {"city", "country"}


def test_a_json_object(seen: Seen) -> None:
    assert seen.by("json_object") == ["punchline", "setup"]


def test_limits(seen: Seen) -> None:
    (short, short_reason), stopped = seen.by("limits")
    assert short_reason == "length"
    assert "1 2 3 4 5 6 7 8 9 10".startswith(short.strip())
    assert stopped == ["1 2 3 4", "stop"]


def test_errors_are_the_sdks_own(seen: Seen) -> None:
    no_model, no_messages = seen.by("errors")
    assert no_model["name"] == "NotFoundError"
    assert no_model["status"] == 404
    assert no_model["code"] == "model_not_found"
    assert "gpt-nope" in no_model["message"]
    assert no_messages["name"] == "BadRequestError"
    assert no_messages["param"] == "messages"
    assert no_messages["type"] == "invalid_request_error"
    assert no_model["traced"]
    assert no_messages["traced"]


def test_an_aborted_stream_ends_the_turn(seen: Seen) -> None:
    assert seen.by("abort") == {"early": True, "after": 1}
    assert seen.abandoned == 1


def test_models(seen: Seen) -> None:
    assert seen.by("models") == ["haiku", "opus", "sonnet"]
