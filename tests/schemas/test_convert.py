"""JSON to attrs classes: the first error ends the work, and has the path it always had."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from attrs import frozen

from ccapi.schemas import convert
from ccapi.schemas.convert import MAX_LIST, at_most, structure
from ccapi.schemas.errors import InvalidRequest
from ccapi.schemas.openai.chat import ChatRequest
from ccapi.schemas.openai.responses import ResponseRequest


@frozen
class Leaf:
    name: str
    size: int = 0


@frozen
class Tree:
    leaves: tuple[Leaf, ...] = ()
    words: str | tuple[str, ...] | None = at_most(3, "words")
    pairs: Mapping[str, Any] | None = at_most(2, "pairs")
    twig: Leaf | None = None
    ratio: float | None = None
    anything: tuple[Any, ...] | None = None


@frozen
class Grove:
    trees: tuple[int, ...] = at_most(MAX_LIST + 2, "trees", ())


def test_a_bound_of_ones_own_may_be_higher_than_that_of_others() -> None:
    assert len(structure({"trees": [1] * (MAX_LIST + 2)}, Grove).trees) == MAX_LIST + 2
    assert str(refused({"trees": [1] * (MAX_LIST + 3)}, Grove)) == (
        f"trees must hold at most {MAX_LIST + 2} trees."
    )


def refused(raw: object, cls: type = Tree) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        structure(raw, cls)
    return caught.value


@pytest.mark.parametrize(
    ("raw", "message", "code", "param"),
    [
        ([], "The body must be an object, got an array.", "invalid_type", None),
        ({"leaves": {}}, "leaves must be an array, got an object.", "invalid_type", "leaves"),
        ({"leaves": [{}]}, "leaves[0].name is required.", "missing_field", "leaves[0].name"),
        (
            {"leaves": [{"name": "a"}, {"name": 1}]},
            "leaves[1].name must be a string, got an integer.",
            "invalid_type",
            "leaves[1].name",
        ),
        ({"leaves": [1]}, "leaves[0] must be an object, got an integer.", "invalid_type",
         "leaves[0]"),
        ({"words": [1]}, "words[0] must be a string, got an integer.", "invalid_type", "words[0]"),
        ({"words": 1}, "words must be a string or an array, got an integer.", "invalid_type",
         "words"),
        ({"words": ["a"] * 4}, "words must hold at most 3 words.", "invalid_value", "words"),
        ({"pairs": {"a": 1, "b": 2, "c": 3}}, "pairs must hold at most 2 pairs.", "invalid_value",
         "pairs"),
        ({"twig": {"name": "a", "size": True}}, "twig.size must be an integer, got a boolean.",
         "invalid_type", "twig.size"),
        ({"anything": [0] * 20_001}, "anything must hold at most 20000 items.", "invalid_value",
         "anything"),
        # Of several errors, the first in the order of the class.
        ({"twig": 1, "words": 1, "leaves": 1}, "leaves must be an array, got an integer.",
         "invalid_type", "leaves"),
    ],
)  # fmt: skip
def test_an_error_names_its_place(raw: object, message: str, code: str, param: str | None) -> None:
    error = refused(raw)
    assert (error.message, error.code, error.param) == (message, code, param)


def test_what_fits_is_made() -> None:
    raw = {
        "leaves": [{"name": "a", "size": 2, "unknown": {}}],
        "words": ["x"],
        "pairs": {"k": [1]},
        "ratio": 1,
        "anything": [1, None, {}],
        "twig": None,
    }
    made = structure(raw, Tree)
    assert made == Tree((Leaf("a", 2),), ("x",), {"k": [1]}, None, 1.0, (1, None, {}))
    assert isinstance(made.ratio, float)


def test_the_first_error_ends_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    made = 0
    init = convert.WrongKind.__init__

    def counting(self: convert.WrongKind, expected: str, value: object) -> None:
        nonlocal made
        made += 1
        init(self, expected, value)

    monkeypatch.setattr(convert.WrongKind, "__init__", counting)
    for name in ("messages", "tools", "stop", "modalities"):
        given = [1] * (4 if name == "stop" else 8)
        error = refused({"messages": [], name: given}, ChatRequest)
        assert error.param == f"{name}[0]"
    assert made == 4


@pytest.mark.parametrize(
    ("cls", "field", "count"),
    [
        (ChatRequest, "tools", 513),
        (ChatRequest, "stop", 5),
        (ChatRequest, "modalities", 9),
        (ChatRequest, "functions", 513),
        (ResponseRequest, "tools", 513),
        (ResponseRequest, "include", 65),
        (ResponseRequest, "context_management", 20_001),
    ],
)
def test_named_lists_are_bounded_before_their_items_are_looked_at(
    cls: type, field: str, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(self: convert.WrongKind, expected: str, value: object) -> None:
        raise AssertionError("an item was looked at")

    monkeypatch.setattr(convert.WrongKind, "__init__", never)
    error = refused({"messages": [], field: [1] * count}, cls)
    assert error.param == field
    assert error.code == "invalid_value"
