"""JSON Schema, as far as a client may use it here."""

import json
import socket
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccapi.schemas.json_schema import check as strict
from ccapi.schemas.json_schema.check import MAX_REASON, misfit
from ccapi.schemas.json_schema.shape import (
    MAX_DEPTH,
    MAX_ERROR,
    MAX_SUBSCHEMAS,
    Allowance,
    schema_error,
)


def why(schema: object, value: object) -> str | None:
    return misfit(json.dumps(schema), value)


# -- schemas ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "schema",
    [
        {},
        True,
        {"type": "object", "properties": {"a": {"type": ["string", "null"]}}},
        {"$schema": "https://json-schema.org/draft/2020-12/schema", "type": "object"},
        {"$ref": "#/$defs/a", "$defs": {"a": {"type": "object"}}},
        {"type": "object", "x-foo": 1, "discriminator": {"propertyName": "kind"}},
        {"pattern": "^\\p{Lu}+$"},  # JavaScript's, not Python's
        {"properties": {"type": {"enum": [1, "a"]}}},
        {"const": {"type": ["a"] * 9}},
        {"enum": [], "maxLength": 2.0, "multipleOf": 0.1, "exclusiveMinimum": -1.5},
        {"x-parts": [{"type": "string"}], "items": {"$ref": "#/x-parts/0"}},
        {"items": {"$ref": "#a"}, "$defs": {"A": {"$anchor": "a"}}},
        {"$id": "http://h/s", "items": {"$ref": "http://h/s#/$defs/a"}, "$defs": {"a": {}}},
        {"$defs": {"a/b%": {}}, "items": {"$ref": "#/$defs/a~1b%25"}},
        {"$defs": {"T": {"$id": "T0", "items": {"$ref": "T0"}}}, "not": {"$ref": "T0"}},
        {"$defs": {"T": {"$id": "T0", "$defs": {"x": {}}, "items": {"$ref": "#/$defs/x"}}}},
    ],
    ids=str,
)
def test_what_is_a_schema(schema: object) -> None:
    assert schema_error(schema) is None


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "strnig"},
        {"type": 7},
        {"properties": []},
        {"required": "a"},
        {"required": [1, "a"]},
        {"type": ["string", "string"]},
        {"properties": {"a": {"items": [{}]}}},
        {"minimum": "1"},
        {"minimum": True},
        {"multipleOf": 0},
        {"maxLength": -1},
        {"minItems": 1.5},
        {"anyOf": []},
        {"allOf": {}},
        {"oneOf": [1]},
        {"enum": "a"},
        {"additionalProperties": "no"},
        {"uniqueItems": 1},
        {"title": 7},
        {"type": []},
        {"type": [["string"]]},
        {"dependentRequired": {"a": "b"}},
        {"$defs": {"a": None}},
        {"$id": "http://["},
        {"$id": "a#b"},
        {"$ref": 7},
        [],
        None,
        "object",
    ],
    ids=str,
)
def test_what_is_none(schema: object) -> None:
    error = schema_error(schema)
    assert error
    assert len(error) <= MAX_ERROR


def test_an_error_names_where_it_is() -> None:
    schema = {"properties": {"a": {"anyOf": [{}, {"minimum": "1"}]}}}
    assert schema_error(schema) == "properties.a.anyOf.1.minimum must be a number"


@pytest.mark.parametrize(
    "schema", [{"type": "x" * 9999}, {"properties": {"x" * 9999: 7}}, {"$ref": "#" + "x" * 9999}]
)
def test_an_error_does_not_quote_a_long_schema(schema: object) -> None:
    assert 0 < len(schema_error(schema) or "") <= MAX_ERROR


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(depth):
        schema = {"items": schema}
    return schema


def test_a_schema_may_be_nested_too_deeply() -> None:
    assert schema_error(nested(MAX_DEPTH)) is None
    for depth in (MAX_DEPTH + 1, 5000):
        assert schema_error(nested(depth)) == "it is nested too deeply"


def test_a_schema_has_so_many_subschemas() -> None:
    schema: dict[str, Any] = {"anyOf": [{} for _ in range(MAX_SUBSCHEMAS - 1)]}
    assert schema_error(schema) is None
    assert schema_error({"items": schema}) == f"it has more than {MAX_SUBSCHEMAS} subschemas"
    assert schema_error({"anyOf": [True] * MAX_SUBSCHEMAS}) is not None


def test_several_schemas_share_an_allowance() -> None:
    shared = Allowance(5)
    assert schema_error({"anyOf": [{}, {}]}, shared) is None
    assert schema_error({"anyOf": [{}, {}]}, shared) is not None


def chain(length: int, **last: Any) -> dict[str, Any]:
    links: dict[str, Any] = {f"a{n}": {"$ref": f"#/$defs/a{n + 1}"} for n in range(length)}
    return {"$ref": "#/$defs/a0", "$defs": {**links, f"a{length}": last}}


def test_references_to_references_have_an_end() -> None:
    long = chain(MAX_DEPTH - 1, type="integer")
    assert schema_error(long) is None
    assert why(long, 1) is None
    assert why(long, "x") == "$: 'x' is not of type 'integer'"
    assert schema_error(chain(MAX_DEPTH)) == "its references are nested too deeply"


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#"},
        {"anyOf": [{"type": "null"}, {"$ref": "#"}]},
        {"$defs": {"a": {"not": {"$ref": "#/$defs/b"}}, "b": {"$ref": "#/$defs/a"}}},
    ],
)
def test_references_in_a_circle(schema: dict[str, Any]) -> None:
    assert schema_error(schema) == "its references lead in a circle"
    reason = why({**schema, "items": {"$ref": "#/$defs/a"}}, [1]) or ""
    assert reason.startswith("the schema cannot be followed")


# -- values ----------------------------------------------------------------------------------------

PLACE = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer", "minimum": 1}},
    "required": ["city"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    "value", [{"city": "Rome"}, {"city": "", "days": 1}, {"city": "x", "days": 2.0}]
)
def test_what_suits(value: object) -> None:
    assert why(PLACE, value) is None


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ({}, "$: 'city' is a required property"),
        ({"city": 7}, "$.city: 7 is not of type 'string'"),
        ({"city": "x", "days": 0}, "$.days: 0 is less than the minimum of 1"),
        ({"city": "x", "country": 1}, "$: Additional properties are not allowed"),
        ([], "$: [] is not of type 'object'"),
    ],
)
def test_what_does_not_and_why(value: object, reason: str) -> None:
    assert (why(PLACE, value) or "").startswith(reason)


def test_a_reason_does_not_quote_a_long_value() -> None:
    assert len(why(PLACE, "x" * 9999) or "") == MAX_REASON


def test_references_within_the_schema_are_followed() -> None:
    tree = {"type": "object", "properties": {"next": {"$ref": "#"}}, "additionalProperties": False}
    assert why(tree, {"next": {"next": {}}}) is None
    assert why(tree, {"next": {"next": 7}}) == "$.next.next: 7 is not of type 'object'"


def test_references_that_lead_out_are_never_followed() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/schema"
        for schema in ({"$ref": url}, {"$id": url, "$ref": "other"}, {"$dynamicRef": url}):
            assert "only references within the schema" in (schema_error(schema) or "")
            assert (why(schema, {}) or "").startswith("the schema cannot be followed")
        with pytest.raises(BlockingIOError):
            listener.accept()


@pytest.mark.parametrize(
    "reference",
    ["file:///etc/hostname", "#/$defs/ghost", "#ghost", "http://[", "#/anyOf/x", "#/anyOf/-1",
     "#/anyOf/7", "#/anyOf/0/type/x", "ghost", "#/$defs/ghost/x"],
)  # fmt: skip
def test_references_to_nothing(reference: str) -> None:
    schema = {"properties": {"a": {"$ref": reference}}, "anyOf": [{"type": "object"}]}
    assert schema_error(schema) is not None
    if reference != "#/anyOf/-1":  # the library counts from the end
        assert (why(schema, {"a": 1}) or "").startswith("the schema cannot be followed")


def test_a_schema_that_the_library_cannot_read_is_an_error_and_no_crash() -> None:
    for schema in ({"$id": "http://[", "properties": {"a": {"$ref": "b"}}}, {"anyOf": 7}, 7):
        assert (why(schema, {"a": 1}) or "").startswith("the schema cannot be followed")


@pytest.mark.parametrize(
    ("items", "unique"),
    [
        ([], True),
        ([1, True, "1", None, "null", [1], {"a": 1}], True),
        ([{"a": 1, "b": [2]}, {"b": [2.0], "a": 1}], False),
        ([1, 1.0], False),
        ([{"a": True}, {"a": 1}], True),
    ],
)
def test_unique_items(items: list[Any], unique: bool) -> None:
    assert (why({"uniqueItems": True}, items) is None) == unique
    assert why({"uniqueItems": False}, items) is None


def test_unique_items_are_not_compared_each_with_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strict, "MAX_SECONDS", 30)
    compared = 0

    class Item(dict[str, int]):
        def __eq__(self, other: object) -> bool:
            nonlocal compared
            compared += 1
            return dict.__eq__(self, other)

    assert why({"uniqueItems": True}, [Item(k=n) for n in range(100)]) is None
    assert compared < 1000, "4950 pairs"


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"items": {}}, [1]),
        ({"contains": False}, [1]),
        ({"allOf": [False] * 99}, 1),
        ({"uniqueItems": True}, [1]),
    ],
)
def test_what_has_no_keywords_is_work_too(
    schema: object, value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = iter([0.0, 0.0, 0.0])  # the start, the schema itself, and its keyword
    monkeypatch.setattr(time, "thread_time", lambda: next(left, 9.0))
    assert why(schema, value) == "the schema cannot be followed: it takes too much work"


CATASTROPHIC, VICTIM = "^(a+)+$", "a" * 40 + "b"


@pytest.mark.parametrize(
    "dialect", [{}, {"$schema": "https://json-schema.org/draft/2020-12/schema"}]
)
def test_regular_expressions_are_not_run(dialect: dict[str, str]) -> None:
    """Any of these would take for ever."""
    assert why({"pattern": CATASTROPHIC, **dialect}, VICTIM) is None
    assert why({"properties": {"a": {"pattern": CATASTROPHIC, **dialect}}}, {"a": VICTIM}) is None
    named = {"patternProperties": {CATASTROPHIC: False}, "additionalProperties": False, **dialect}
    assert why(named, {VICTIM: 1}) is None
    recursive = {"properties": {"a": {"$ref": "#"}}, **named}
    assert why(recursive, {"a": {VICTIM: 1}}) is None


def test_regular_expressions_may_be_no_pythons() -> None:
    schema = {"patternProperties": {"\\p{L}(?<x>": {}}, "additionalProperties": False}
    assert why(schema, {"a": 1}) is None
    # What needs no regular expression is still looked at.
    assert why({**schema, "required": ["b"]}, {"a": 1}) == "$: 'b' is a required property"


@pytest.mark.parametrize(
    "dialect", [{}, {"$schema": "https://json-schema.org/draft/2020-12/schema"}]
)
def test_references_that_multiply_are_given_up(
    dialect: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(strict, "MAX_SECONDS", 0.05)
    defs: dict[str, Any] = {
        f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2, **dialect} for n in range(40)
    }
    schema = {"$ref": "#/$defs/d0", "$defs": {**defs, "d40": {"type": "integer"}}, **dialect}
    assert schema_error(schema) is None
    for value in (1, "x"):
        assert why(schema, value) == "the schema cannot be followed: it takes too much work"


def test_numbers_that_no_float_holds() -> None:
    assert (why({"multipleOf": 0.1}, 10**400) or "").startswith("the schema cannot be followed")


def test_a_value_may_be_nested_too_deeply() -> None:
    tree = {"additionalProperties": {"$ref": "#"}}
    value: dict[str, Any] = {}
    for _ in range(5000):
        value = {"a": value}
    assert why(tree, value) == "the schema cannot be followed: it is nested too deeply"


@pytest.mark.parametrize("keyword", ["allOf", "anyOf", "oneOf"])
def test_no_way_down_is_longer_than_the_stack(keyword: str) -> None:
    """At its end the library would panic, which is no `Exception`."""
    assert why({keyword: [{"$ref": "#"}]}, 1) == (
        "the schema cannot be followed: it is nested too deeply"
    )
    assert why({"not": {"$ref": "#"}}, 1) == (
        "the schema cannot be followed: it is nested too deeply"
    )


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.text("ab#/", max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text("ab", max_size=1), inner),
    max_leaves=5,
)
KEYWORDS = st.sampled_from(
    ["$ref", "$id", "$anchor", "$dynamicRef", "$schema", "$defs", "type", "properties", "items",
     "prefixItems", "anyOf", "not", "if", "then", "enum", "const", "required", "pattern",
     "patternProperties", "additionalProperties", "minimum", "multipleOf", "uniqueItems",
     "contains", "minContains", "dependentSchemas", "unevaluatedProperties", "format"]
)  # fmt: skip
SCHEMAS = st.recursive(
    st.booleans() | st.dictionaries(KEYWORDS, JSON, max_size=2),
    lambda inner: st.dictionaries(
        KEYWORDS,
        inner | st.lists(inner, max_size=2) | st.dictionaries(st.text("ab", max_size=1), inner),
        max_size=3,
    ),
    max_leaves=5,
)


@given(SCHEMAS | JSON, JSON)
def test_nothing_that_passes_for_a_schema_breaks_the_check(schema: object, value: object) -> None:
    if schema_error(schema) is None:
        reason = why(schema, value)
        assert reason is None or 0 < len(reason) <= MAX_REASON
