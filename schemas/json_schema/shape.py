"""JSON Schema: whether a schema is one that can be followed.

Knows: the shape that JSON Schema 2020-12 gives its keywords, and where references may lead. All of
it is found in time linear in the schema's size: a library's look at the metaschema takes a
millisecond for each subschema, and one of those may be three bytes long. Refuses to know: values
(`schemas.json_schema.check`), what the schemas are for, and keywords of other drafts: those are let
pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import unquote, urlsplit

from attrs import Factory, define

MAX_SUBSCHEMAS = 5_000
"""In one schema, itself and what its references lead to included."""

MAX_ALL_SUBSCHEMAS = 20_000
"""In all schemas of one request: looking at one subschema takes microseconds."""

MAX_DEPTH = 100
"""How deeply subschemas may lie in one another, and how many may follow one another for the same
value. Python's stack would hold a few times as many."""

MAX_ERROR = 300
"""Characters; names in a schema may be long."""

_TYPES = frozenset(("array", "boolean", "integer", "null", "number", "object", "string"))

_SINGLE = frozenset(
    ("additionalProperties", "contains", "contentSchema", "else", "if", "items", "not", "then")
) | {"propertyNames", "unevaluatedItems", "unevaluatedProperties"}
_LISTED = frozenset(("allOf", "anyOf", "oneOf", "prefixItems"))
_NAMED = frozenset(("$defs", "definitions", "dependentSchemas", "patternProperties", "properties"))
_REFERENCES = ("$ref", "$dynamicRef")
_ANCHORS = ("$anchor", "$dynamicAnchor")
_IN_PLACE = frozenset(("allOf", "anyOf", "dependentSchemas", "else", "if", "not", "oneOf", "then"))
"""Keywords whose subschemas judge the value that the schema itself judges, and none within it."""

_Place = tuple[Any, object, int]
"""Where a subschema is: the place of the one it is in (None for the whole), a step, its depth."""


@define
class Allowance:
    """How many subschemas a request's schemas may still have."""

    left: int = MAX_ALL_SUBSCHEMAS


def schema_error(schema: object, allowance: Allowance | None = None) -> str | None:
    """What is wrong with `schema` (parsed JSON), if anything is: a keyword's value is of a kind it
    may not be, a reference leads out of the schema, to nothing or in a circle, or there is too
    much of it. `allowance` is used up by as many subschemas as it has."""
    try:
        _Walk(schema, allowance or Allowance()).run()
    except _SchemaError as error:
        return str(error)[:MAX_ERROR]
    return None


def pointed(root: object, pointer: str) -> Any:
    """What a JSON pointer in the form of a URI fragment (without ``#``) leads to in `root`.

    Raises `LookupError`. Source: RFC 6901, sections 4 and 6.
    """
    found: Any = root
    for step in unquote(pointer).split("/")[1:]:
        if isinstance(found, dict):
            found = found[step.replace("~1", "/").replace("~0", "~")]
        elif isinstance(found, list) and step.isdecimal() and len(step) < 10:
            found = found[int(step)]
        else:
            raise LookupError(step)
    return found


class _SchemaError(Exception):
    """What is wrong with a schema, for people."""


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_count(value: object) -> bool:
    return _is_number(value) and value >= 0 and value == value // 1  # type: ignore[operator]


def _are_names(value: object) -> bool:
    return isinstance(value, list) and all(map(_is_text, value)) and len({*value}) == len(value)


def _are_types(value: object) -> bool:
    named = [value] if isinstance(value, str) else value
    return bool(named) and _are_names(named) and _TYPES.issuperset(named)  # type: ignore[arg-type]


def _is_identifier(value: object) -> bool:
    if not isinstance(value, str) or "#" in value[:-1]:
        return False
    try:
        urlsplit(value)
    except ValueError:
        return False
    return True


_Rule = tuple[Callable[[Any], bool], str]
_TEXT: _Rule = (_is_text, "a string")
_NUMBER: _Rule = (_is_number, "a number")
_COUNT: _Rule = (_is_count, "an integer of at least 0")
_LIST: _Rule = (lambda value: isinstance(value, list), "an array")
_FLAG: _Rule = (lambda value: isinstance(value, bool), "a boolean")
_OBJECT: _Rule = (lambda value: isinstance(value, dict), "an object")
_SCHEMAS: _Rule = (lambda value: isinstance(value, list) and bool(value), "an array of schemas")

_RULES: dict[str, _Rule] = {
    **dict.fromkeys(
        (*_REFERENCES, *_ANCHORS, "$schema", "$comment", "title", "description"), _TEXT
    ),
    **dict.fromkeys(("format", "pattern", "contentEncoding", "contentMediaType"), _TEXT),
    **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"), _NUMBER),
    **dict.fromkeys(("minLength", "maxLength", "minItems", "maxItems"), _COUNT),
    **dict.fromkeys(("minProperties", "maxProperties", "minContains", "maxContains"), _COUNT),
    **dict.fromkeys(("uniqueItems", "deprecated", "readOnly", "writeOnly"), _FLAG),
    **dict.fromkeys(("enum", "examples"), _LIST),
    **dict.fromkeys(_LISTED, _SCHEMAS),
    **dict.fromkeys(_NAMED, _OBJECT),
    "$id": (_is_identifier, "a URI without a fragment"),
    "type": (_are_types, f"one of {', '.join(sorted(_TYPES))}, or several, each once"),
    "required": (_are_names, "an array of names, each once"),
    "multipleOf": (lambda value: _is_number(value) and value > 0, "a number above 0"),
    "dependentRequired": (
        lambda value: isinstance(value, dict) and all(map(_are_names, value.values())),
        "an object of arrays of names, each once",
    ),
}


@define
class _Walk:
    """One look at a schema. Each object in it is looked at once, or references would multiply.
    A base is the innermost schema around that has an ``$id``: pointers start there."""

    root: Any
    allowance: Allowance
    left: int = MAX_SUBSCHEMAS
    todo: list[tuple[Any, Any, _Place]] = Factory(list)  # schema, base, place
    seen: set[int] = Factory(set)
    references: list[tuple[Any, Any, _Place, str]] = Factory(list)
    bases: dict[str, Any] = Factory(dict)
    anchors: dict[tuple[int, str], Any] = Factory(dict)
    followers: dict[int, list[int]] = Factory(dict)  # what judges the same value next

    def run(self) -> None:
        """Raises `_SchemaError`."""
        self._add(self.root, self.root, (None, "", 0))
        while self.todo or self.references:
            if self.todo:
                self._look(*self.todo.pop())
            else:  # all anchors are known now
                self._follow(*self.references.pop())
        _check_chains(self.followers)

    def _add(self, schema: Any, base: Any, place: _Place) -> None:
        self.left -= 1
        self.allowance.left -= 1
        if self.left < 0:
            raise _SchemaError(f"it has more than {MAX_SUBSCHEMAS} subschemas")
        if self.allowance.left < 0:
            raise _SchemaError(
                f"all schemas together have more than {MAX_ALL_SUBSCHEMAS} subschemas"
            )
        if place[2] > MAX_DEPTH:
            raise _SchemaError("it is nested too deeply")
        if isinstance(schema, bool) or id(schema) in self.seen:
            return
        if not isinstance(schema, dict):
            raise _SchemaError(f"{_shown(place)} must be an object or a boolean")
        self.seen.add(id(schema))
        self.todo.append((schema, base, place))

    def _look(self, schema: dict[str, Any], base: Any, place: _Place) -> None:
        for keyword, value in schema.items():
            rule = _RULES.get(keyword)
            if rule is not None and not rule[0](value):
                raise _SchemaError(f"{_shown((place, keyword, 0))} must be {rule[1]}")
        if (name := schema.get("$id", "").rstrip("#")) != "":
            base = schema
            self.bases.setdefault(name, schema)
        for keyword, value in schema.items():
            if keyword in _SINGLE or keyword in _LISTED or keyword in _NAMED:
                self._enter(schema, base, place, keyword)
            elif keyword in _REFERENCES:
                self.references.append((schema, base, (place, keyword, 0), value))
            elif keyword in _ANCHORS:
                self.anchors.setdefault((id(base), value), schema)

    def _enter(self, schema: dict[str, Any], base: Any, place: _Place, keyword: str) -> None:
        value, here = schema[keyword], (place, keyword, 0)
        parts: Iterable[tuple[object, Any]] = [("", value)]
        if keyword in _LISTED:
            parts = enumerate(value)
        elif keyword in _NAMED:
            parts = value.items()
        for step, part in parts:
            self._add(part, base, (here, step, place[2] + 1))
            if keyword in _IN_PLACE:
                self._chain(schema, part)

    def _follow(self, schema: Any, base: Any, place: _Place, reference: str) -> None:
        uri, _, fragment = reference.partition("#")
        if uri:
            base = self.bases.get(uri)
        if base is None:
            raise _SchemaError(f"{_shown(place)}: only references within the schema are followed")
        try:
            if fragment and not fragment.startswith("/"):
                target = self.anchors[id(base), unquote(fragment)]
            else:
                target = pointed(base, fragment)
        except LookupError:
            raise _SchemaError(f"{_shown(place)} leads to nothing: {reference}") from None
        if id(target) not in self.seen:
            self._add(target, base, (place, "", 1))
        self._chain(schema, target)

    def _chain(self, schema: Any, target: Any) -> None:
        if isinstance(target, dict):
            self.followers.setdefault(id(schema), []).append(id(target))


def _check_chains(followers: dict[int, list[int]]) -> None:
    """Whether any value is judged in the end (topological order, longest way).

    Raises `_SchemaError`.
    """
    before = dict.fromkeys(followers, 0)
    for after in followers.values():
        for each in after:
            before[each] = before.get(each, 0) + 1
    ready = [(each, 0) for each, count in before.items() if not count]
    length: dict[int, int] = {}
    done = 0
    while ready:
        this, steps = ready.pop()
        done += 1
        if steps > MAX_DEPTH:
            raise _SchemaError("its references are nested too deeply")
        for each in followers.get(this, ()):
            length[each] = max(length.get(each, 0), steps + 1)
            before[each] -= 1
            if not before[each]:
                ready.append((each, length[each]))
    if done < len(before):
        raise _SchemaError("its references lead in a circle")


def _shown(place: _Place) -> str:
    steps: list[str] = []
    at: Any = place
    while at is not None:
        at, step = at[0], str(at[1])
        if step:
            steps.append(step[:MAX_ERROR])
    return ".".join(reversed(steps)) or "it"
