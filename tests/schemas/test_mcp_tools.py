"""The cleaning of a server's list of tools (schemas.mcp_tools)."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccapi.schemas.mcp_tools import (
    MAX_TOOL_CHARACTERS,
    MAX_TOOLS,
    LeftOut,
    ServerTool,
    clean_tools,
    error_result,
)

PLAIN = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}


def listed(name: Any = "echo", **fields: Any) -> dict[str, Any]:
    return {"name": name, "description": "Says it again.", "inputSchema": PLAIN, **fields}


def test_a_plain_tool_is_taken_as_it_is() -> None:
    (tool,), left_out = clean_tools("notes", [listed(annotations={"readOnlyHint": True})])
    assert tool == ServerTool(
        server="notes",
        name="echo",
        full_name="mcp__notes__echo",
        description="Says it again.",
        schema=json.dumps(PLAIN, separators=(",", ":")),
        read_only=True,
    )
    assert left_out == ()


@pytest.mark.parametrize(
    "schema",
    [None, {}, {"type": "array"}, {"anyOf": [PLAIN, {"type": "object"}]}, {"oneOf": [PLAIN]}],
)
def test_what_the_cli_cannot_read_becomes_the_schema_of_an_object(schema: Any) -> None:
    """Each of these hides all tools of its server in the CLI."""
    (tool,), left_out = clean_tools("a", [listed(inputSchema=schema)])
    plain = json.loads(tool.schema)
    assert plain["type"] == "object"
    assert not {"anyOf", "oneOf", "allOf", "$ref"} & set(plain)
    assert left_out == ()


def test_the_model_reads_what_the_schema_cannot_say() -> None:
    schema = {"anyOf": [{"required": ["a"]}, {"required": ["b"]}]}
    (tool,), _ = clean_tools("a", [listed(inputSchema=schema)])
    assert '{"anyOf":[{"required":["a"]},{"required":["b"]}]}' in tool.description


@pytest.mark.parametrize("hint", [None, {}, {"readOnlyHint": False}, {"readOnlyHint": "yes"}, [1]])
def test_only_the_servers_own_word_makes_a_tool_read_only(hint: Any) -> None:
    (tool,), _ = clean_tools("a", [listed(annotations=hint)])
    assert not tool.read_only


@pytest.mark.parametrize(
    ("bad", "name", "reason"),
    [
        (listed("weird name!"), "weird name!", "must be at most 64 letters, digits, _ and -"),
        (listed("x" * 80), "x" * 80, "has 88 characters"),
        (listed(""), "", "its name is empty"),
        (listed(7), "tool 1", "it has no name"),
        ("echo", "tool 1", "it has no name"),
        (listed("b", inputSchema=[1]), "b", "is not an object"),
        (listed("b", inputSchema={"properties": {"a": {"type": "text"}}}), "b", "a.type must be"),
        (listed("b", inputSchema={"$ref": "https://example.org/x"}), "b", "only references within"),
        (listed("b", description="x" * MAX_TOOL_CHARACTERS), "b", "more than 131072 characters"),
        (listed("b", description="\ud800"), "b", "half a surrogate pair"),
        (listed("first"), "first", "another tool of the server has the same name"),
    ],
)
def test_one_bad_tool_is_left_out_and_the_others_stay(bad: Any, name: str, reason: str) -> None:
    tools, left_out = clean_tools("a", [listed("first"), bad, listed("last")])
    assert [tool.name for tool in tools] == ["first", "last"]
    (left,) = left_out
    assert left.name == name
    assert reason in left.reason


def test_a_list_is_bounded() -> None:
    tools, left_out = clean_tools("a", [listed(f"t{number}") for number in range(MAX_TOOLS + 50)])
    assert len(tools) == MAX_TOOLS
    assert left_out == (LeftOut(f"t{MAX_TOOLS}", f"a server may have {MAX_TOOLS} tools"),)


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=12,
)


@given(
    st.lists(
        _json
        | st.fixed_dictionaries(
            {"name": st.text("ab _", max_size=4)},
            optional={"inputSchema": _json, "description": _json, "annotations": _json},
        ),
        max_size=4,
    )
)
def test_whatever_a_server_lists_is_cleaned_or_left_out(items: list[Any]) -> None:
    tools, left_out = clean_tools("a", items)
    assert len(tools) + len(left_out) == len(items)
    for tool in tools:
        schema = json.loads(tool.schema)
        assert schema["type"] == "object"
        tool.schema.encode()


def test_an_error_result_is_what_the_cli_reads_as_one() -> None:
    assert error_result("no") == {"content": [{"type": "text", "text": "no"}], "isError": True}
