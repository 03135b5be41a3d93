"""A client's JSON Schema for the arguments of a tool, as the Messages API takes it.

Knows: what the API refuses at the top of a schema, and how to say the same without. Refuses to
know: whether arguments suit a schema, which is judged by the client's own
(`schemas.json_schema.check`).

Source: the API's words, "input_schema does not support oneOf, allOf, or anyOf at the top level".
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ..json_schema.shape import pointed

_CHOICES = ("anyOf", "oneOf")
_COMBINED = ("allOf", *_CHOICES)

MAX_TOLD = 2000
"""Characters of what a schema loses that the model reads in words."""

MAX_DEPTH = 50
"""How deeply combinations are looked into: what lies deeper is not described, and allowed."""


def plain_schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    """`schema` as that of an object with properties, and nothing combined at its top: every
    property of every alternative is there, and required is what all of them require.

    It allows what `schema` allows, and more.
    """
    return {**_folded(schema, schema, set(), MAX_DEPTH), "type": "object"}


def untold(schema: Mapping[str, Any]) -> str:
    """In words, what `plain_schema` leaves out of `schema`; empty where that is nothing."""
    lost = {name: schema[name] for name in _CHOICES if name in schema}
    text = json.dumps(lost, ensure_ascii=False, separators=(",", ":")) if lost else ""
    return f"The input must also suit this JSON Schema: {text}" if 0 < len(text) <= MAX_TOLD else ""


def _folded(
    schema: Mapping[str, Any], root: Mapping[str, Any], seen: set[str], depth: int
) -> dict[str, Any]:
    """`schema` without what is combined at its top. `seen` are the references followed so far: each
    is followed once, or a few that refer to others twice would be work for years."""
    if not any(name in schema for name in (*_COMBINED, "$ref")):
        return dict(schema)
    if depth == 0:
        return {}
    own = {name: part for name, part in schema.items() if name not in (*_COMBINED, "$ref")}
    kinds = [("allOf", [own, _referred(schema.get("$ref"), root, seen)])]
    kinds += [(name, schema[name]) for name in _COMBINED if isinstance(schema.get(name), list)]
    properties: dict[str, dict[str, Any]] = {}  # by name, then by JSON: each alternative once
    required: dict[str, None] = {}
    for kind, parts in kinds:
        folded = [_folded(_dict(part), root, seen, depth - 1) for part in parts]
        for part in folded:
            for name, value in _dict(part.get("properties")).items():
                properties.setdefault(name, {})[json.dumps(value, sort_keys=True)] = value
        needs = [dict.fromkeys(_names(part.get("required"))) for part in folded]
        for name in {name: None for each in needs for name in each}:
            if kind == "allOf" or all(name in each for each in needs):
                required[name] = None
    made = {
        **own,
        "properties": {name: _either([*values.values()]) for name, values in properties.items()},
    }
    return {**made, "required": list(required)} if required else made


def _either(values: list[Any]) -> Any:
    return values[0] if len(values) == 1 else {"anyOf": values}


def _referred(reference: Any, root: Mapping[str, Any], seen: set[str]) -> dict[str, Any]:
    """What a reference into the schema itself leads to; empty where it leads elsewhere."""
    if not isinstance(reference, str) or not reference.startswith("#/") or reference in seen:
        return {}
    seen.add(reference)
    try:
        return _dict(pointed(root, reference[1:]))
    except LookupError:
        return {}


def _names(value: Any) -> list[str]:
    return [name for name in value if isinstance(name, str)] if isinstance(value, list) else []


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
