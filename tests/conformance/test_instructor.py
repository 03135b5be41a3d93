"""instructor on the gateway: what `instructor_suite.py` saw, in each of its modes."""

from __future__ import annotations

from pathlib import Path

import pytest

from . import python_clients
from .checks import Seen
from .expected import HELLO, JOKE


@pytest.fixture(scope="module")
def seen(python_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Seen:
    return python_clients.run(python_folder, "instructor", tmp_path_factory.mktemp("instructor"))


@pytest.mark.parametrize("mode", ["tools", "strict_tools", "responses"])
def test_a_model_that_is_asked_and_one_that_is_forced(seen: Seen, mode: str) -> None:
    assert seen.by(mode) == [JOKE, JOKE]


@pytest.mark.parametrize("mode", ["json_mode", "markdown_json", "json_schema"])
def test_json(seen: Seen, mode: str) -> None:
    assert seen.by(mode) == JOKE


def test_nested_models(seen: Seen) -> None:
    assert seen.by("nested") == ["Ada Lovelace", 2]


def test_parallel_tools(seen: Seen) -> None:
    assert seen.by("parallel") == [["Weather", "Rome"], ["Time", "Rome"]]


def test_an_iterable_is_streamed(seen: Seen) -> None:
    assert seen.by("iterable") == 2


def test_a_partial_object_is_streamed(seen: Seen) -> None:
    assert seen.by("partial") == {"last": JOKE, "partial": True}


def test_what_does_not_validate_is_asked_again(seen: Seen) -> None:
    assert seen.by("validation_is_asked_again") == [2, True]


def test_a_system_prompt_and_turns(seen: Seen) -> None:
    assert seen.by("system_and_turns") == "Rome"


def test_image(seen: Seen) -> None:
    assert seen.by("image") == 5


def test_usage(seen: Seen) -> None:
    assert seen.by("usage") == [5, True]


def test_no_response_model(seen: Seen) -> None:
    assert seen.by("plain") == HELLO


def test_errors(seen: Seen) -> None:
    assert seen.by("errors") == [[404], True]


def test_async_client(seen: Seen) -> None:
    assert seen.by("async_client") == [5, 5]
