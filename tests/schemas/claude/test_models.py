"""The CLI's list of models, as far as it can be read."""

from __future__ import annotations

from typing import Any

import pytest

from ccapi.schemas.claude.models import MOST_CHARACTERS, ListedModel, listed_models

SONNET: dict[str, Any] = {
    "value": "sonnet",
    "resolvedModel": "claude-sonnet-5-5",
    "displayName": "Sonnet",
    "description": "Sonnet 5.5 · Efficient for routine tasks",
    "supportedEffortLevels": ["low", "high"],
}


def test_an_entry_of_the_real_cli() -> None:
    assert listed_models({"models": [SONNET]}) == (
        ListedModel(
            "sonnet",
            "claude-sonnet-5-5",
            SONNET["description"],
            ("low", "high"),
        ),
    )


@pytest.mark.parametrize(
    ("models", "names"),
    [
        (None, []),
        ("sonnet", []),
        ([None, 5, {}, {"value": ""}, {"value": 5}], []),
        ([{"value": "a"}, {"value": "b", "supportedEffortLevels": "low"}], ["a", "b"]),
        ([{"value": "a", "supportedEffortLevels": [1, None]}], ["a"]),
    ],
)
def test_what_cannot_be_read_is_left_out(models: Any, names: list[str]) -> None:
    listed = listed_models({"models": models})
    assert [each.name for each in listed] == names
    assert all(each.efforts == () for each in listed)


def test_a_list_without_end_has_one() -> None:
    entry = {"value": "a", "description": "x" * 10_000}
    listed = listed_models({"models": [entry] * 10_000})
    assert len(listed) == 200
    assert len(listed[0].description) == MOST_CHARACTERS
