"""JSON Schema of what `schemas.convert` reads: attrs classes as the converter takes them.

Knows: the JSON kind of each type, which fields must be there, the bounds of `at_most`, and that
keys that no class has are ignored. Refuses to know: rules that the types do not say. Those are a
table beside the class, ``DETAILS``: by the class and the field's name, the keywords that belong to
its schema. One that has a ``type``, ``anyOf`` or ``$ref`` replaces what the type says; the name ""
is for the object itself.

The dialect is that of OpenAPI 3.1 (JSON Schema 2020-12).
"""

from __future__ import annotations

import types
from collections.abc import Mapping
from typing import Any, Literal, Union, get_args, get_origin

import attrs
from attrs import define, field

from .convert import MOST

Schema = dict[str, Any]
Details = Mapping[type, Mapping[str, Schema]]

_KINDS: dict[Any, str] = {
    str: "string",
    bool: "boolean",
    int: "integer",
    float: "number",
    type(None): "null",
}
_REPLACE = ("type", "anyOf", "oneOf", "$ref")


def ranges(given: Mapping[str, tuple[float, float]], cls: type | None = None) -> dict[str, Schema]:
    """The details of fields that have bounds (`parameters.check_ranges`); of those alone that `cls`
    has, if it is given."""
    found: dict[str, Schema] = {}
    for name, (low, high) in given.items():
        if cls is not None and name not in cls.__annotations__:
            continue
        found[name] = {"minimum": low}
        if high < float("inf"):
            found[name]["maximum"] = high
    return found


@define
class Describer:
    """Describes classes; each attrs class becomes one of the `schemas`, by its name. `written`:
    they are written and not read, so that every field is there."""

    details: Details
    schemas: dict[str, Schema] = field(factory=dict)
    written: bool = False
    _names: dict[type, str] = field(factory=dict)

    def ref(self, cls: type) -> Schema:
        """A reference to the schema of `cls`."""
        name = self._names.get(cls)
        if name is None:
            name = self._names[cls] = self._free_name(cls)
            self.schemas[name] = {}  # a class may have itself in a field
            self.schemas[name] = self._object(cls)
        return {"$ref": f"#/components/schemas/{name}"}

    def _free_name(self, cls: type) -> str:
        name = cls.__name__
        if name in self.schemas:
            name = cls.__module__.rpartition(".")[2].title().replace("_", "") + name
        assert name not in self.schemas, f"two schemas are called {name}"
        return name

    def _object(self, cls: type) -> Schema:
        details = {
            name: keywords
            for each in reversed(cls.__mro__)
            for name, keywords in self.details.get(each, {}).items()
        }
        fields = attrs.fields(attrs.resolve_types(cls))
        unknown = set(details) - {each.name for each in fields} - {""}
        assert not unknown, f"{cls.__name__} has no {unknown}"
        required = [each.name for each in fields if self.written or each.default is attrs.NOTHING]
        properties = {
            each.name: _with(self._field(each), details.get(each.name, {})) for each in fields
        }
        found: Schema = {"type": "object", "properties": properties}
        if required:
            found["required"] = required
        return found | details.get("", {})

    def _field(self, each: attrs.Attribute[Any]) -> Schema:
        schema = self._type(each.type)
        most = each.metadata.get(MOST)
        if most is not None:
            for inner in (schema, *schema.get("anyOf", ())):
                if inner.get("type") == "array":
                    inner["maxItems"] = most[0]
        return schema

    def _type(self, kind: Any) -> Schema:
        if kind is Any:
            return {}
        if kind in _KINDS:
            return {"type": _KINDS[kind]}
        if attrs.has(kind):
            return self.ref(kind)
        origin, args = get_origin(kind), get_args(kind)
        if origin is Literal:
            return {"enum": list(args)}
        if origin is tuple:
            return {"type": "array", "items": self._type(args[0])}
        if origin in (Union, types.UnionType):
            return self._union(args)
        if kind is dict or origin in (dict, Mapping):
            values = self._type(args[1]) if args else {}
            return {"type": "object"} | ({"additionalProperties": values} if values else {})
        raise TypeError(f"{kind} has no JSON Schema")

    def _union(self, members: tuple[Any, ...]) -> Schema:
        if Any in members:
            return {}
        found = [self._type(member) for member in members]
        if all(set(each) == {"type"} for each in found):
            return {"type": [each["type"] for each in found]}
        return {"anyOf": found}


def _with(schema: Schema, details: Schema) -> Schema:
    if any(name in details for name in _REPLACE):
        return dict(details)
    found = {**schema, **details}
    if "enum" in details and "null" in schema.get("type", ()):
        found["enum"] = [*details["enum"], None]
    return found
