"""A tool's schema as the Messages API takes it: nothing is combined at its top."""

import json
import time
from typing import Any

import pytest

from ccapi.schemas.claude.tool_schema import MAX_DEPTH, MAX_TOLD, plain_schema, untold

A: dict[str, Any] = {
    "type": "object",
    "properties": {"kind": {"const": "a"}, "size": {"type": "integer"}},
    "required": ["kind", "size"],
}
B: dict[str, Any] = {
    "type": "object",
    "properties": {"kind": {"const": "b"}},
    "required": ["kind"],
}
EITHER = {"anyOf": [{"const": "a"}, {"const": "b"}]}


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object"},
        {"type": "object", "properties": {"x": EITHER}, "required": ["x"], "$defs": {"d": {}}},
    ],
)
def test_what_the_api_takes_stays_as_it_is(schema: dict[str, Any]) -> None:
    assert plain_schema(schema) == schema
    assert list(plain_schema(schema)) == list(schema)


def test_an_input_is_an_object() -> None:
    assert plain_schema({}) == {"type": "object"}


@pytest.mark.parametrize("name", ["anyOf", "oneOf"])
def test_one_of_several(name: str) -> None:
    """Only what each of them requires is required."""
    assert plain_schema({name: [A, B], "description": "One."}) == {
        "description": "One.",
        "type": "object",
        "properties": {"kind": EITHER, "size": {"type": "integer"}},
        "required": ["kind"],
    }


def test_which_of_several_properties_is_there() -> None:
    own = {"type": "object", "properties": {"x": {}, "y": {}}}
    schema = {**own, "anyOf": [{"required": ["x"]}, {"required": ["y"]}]}
    assert plain_schema(schema) == own


def test_all_of_several() -> None:
    schema = {"allOf": [A, {"properties": {"more": {}}, "required": ["more"]}], "required": ["z"]}
    assert plain_schema(schema) == {
        "type": "object",
        "properties": {**A["properties"], "more": {}},
        "required": ["z", "kind", "size", "more"],
    }


def test_references_at_the_top_are_followed() -> None:
    defs = {"A": A, "a/b": B}
    schema = {"$defs": defs, "oneOf": [{"$ref": "#/$defs/A"}, {"$ref": "#/$defs/a~1b"}]}
    made = plain_schema(schema)
    assert made["properties"]["kind"] == EITHER
    assert made["$defs"] == defs
    assert plain_schema({"$defs": defs, "$ref": "#/$defs/A"}) == {"$defs": defs, **A}


def test_references_name_what_they_lead_to_as_uris_do() -> None:
    assert plain_schema({"$defs": {"ä b": A}, "$ref": "#/$defs/%C3%A4%20b"})["required"] == [
        "kind",
        "size",
    ]


@pytest.mark.parametrize("within", [lambda part: part, lambda part: {"anyOf": [part]}])
@pytest.mark.parametrize("length", [MAX_DEPTH, 5000])
def test_a_long_chain_of_references_is_followed_as_far_as_it_makes_sense(
    within: Any, length: int
) -> None:
    links = {f"a{n}": within({"$ref": f"#/$defs/a{n + 1}"}) for n in range(length)}
    schema = {"properties": {"x": {}}, "allOf": [{"$ref": "#/$defs/a0"}], "$defs": links}
    assert plain_schema(schema)["properties"] == {"x": {}}


def test_what_lies_deep_is_described_up_to_some_depth() -> None:
    near: dict[str, Any] = A
    for _ in range(MAX_DEPTH - 1):
        near = {"allOf": [near]}
    assert plain_schema(near)["properties"] == A["properties"]
    far = {"allOf": [{"allOf": [near]}, B]}
    assert plain_schema(far)["properties"] == B["properties"]


@pytest.mark.parametrize(
    "reference", ["#/$defs/no", "#", "http://x/#/a", 7, "#/anyOf/0", "#/anyOf/x"]
)
def test_references_that_lead_nowhere(reference: Any) -> None:
    made = plain_schema({"anyOf": [{"$ref": reference}, A]})
    assert made["properties"] == A["properties"]


@pytest.mark.parametrize("part", [True, False, {"required": 7}, {"properties": []}, {"anyOf": 7}])
def test_parts_that_say_nothing_of_properties(part: Any) -> None:
    assert plain_schema({"anyOf": [part, A]})["properties"] == A["properties"]


def test_definitions_that_refer_to_others_twice_are_no_work() -> None:
    defs: dict[str, Any] = {
        f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 9} for n in range(40)
    }
    begin = time.process_time()
    plain_schema({"$defs": defs, "$ref": "#/$defs/d0"})
    assert time.process_time() - begin < 1  # it would be 9 ** 40 steps


def test_what_is_lost_is_written_in_words() -> None:
    schema = {"anyOf": [{"required": ["x"]}, {"required": ["y"]}]}
    assert untold(schema).endswith(json.dumps(schema, separators=(",", ":")))
    assert untold({"anyOf": [{"title": "x" * MAX_TOLD}]}) == ""
    assert untold({"allOf": [A]}) == untold(A) == ""
