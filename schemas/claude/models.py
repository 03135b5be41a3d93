"""The CLI's own list of models, as it answers an initialize: which name means which model.

Knows: the fields of an entry that the gateway relies on. Refuses to know: what a model can do, but
for its effort (`schemas.claude.model_traits`): the list does not say.

Source: measured on the real CLI; tests/contract/test_adoption.py holds the test.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import frozen

MOST_MODELS = 200
MOST_CHARACTERS = 500


@frozen
class ListedModel:
    """`name` is what the CLI is asked with ("sonnet"), `model` the id that this stands for now (""
    where it does not say), `description` a line for people, `efforts` the levels that
    `reasoning_effort` may have, from the least."""

    name: str
    model: str = ""
    description: str = ""
    efforts: tuple[str, ...] = ()


def listed_models(answer: Mapping[str, Any]) -> tuple[ListedModel, ...]:
    """The models in the body of an answer to an initialize; what has no name is left out."""
    entries = answer.get("models")
    if not isinstance(entries, list):
        return ()
    return tuple(
        ListedModel(
            _text(entry, "value"),
            _text(entry, "resolvedModel"),
            _text(entry, "description"),
            _efforts(entry.get("supportedEffortLevels")),
        )
        for entry in entries[:MOST_MODELS]
        if isinstance(entry, dict) and _text(entry, "value")
    )


def _text(entry: Mapping[str, Any], name: str) -> str:
    value = entry.get(name)
    return value[:MOST_CHARACTERS] if isinstance(value, str) else ""


def _efforts(levels: object) -> tuple[str, ...]:
    levels = levels if isinstance(levels, list) else []
    return tuple(level for level in levels if isinstance(level, str))[:20]
