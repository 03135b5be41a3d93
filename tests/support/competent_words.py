"""What the competent model says: values that suit a JSON schema, and texts that suit a prompt.

Knows JSON schemas and the few things that the suites of real clients ask about. Refuses to know
messages, tools and the Messages API.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from math import inf
from typing import Any, TypeAlias

Schema: TypeAlias = dict[str, Any]

_DEEPEST = 8
"""Levels of nesting after which a schema that contains itself is given no more of itself."""

_KNOWN = {
    "answer_style": "pirate",
    "city": "Paris",
    "country": "France",
    "customer_name": "Ada Lovelace",
    "location": "Paris",
    "name": "Ada Lovelace",
    "punchline": "Because it wanted to keep an eye on the mouse!",
    "setup": "Why did the cat sit on the computer?",
    "style": "pirate",
    "unit": "celsius",
}
"""Values for names that say by themselves what they hold."""

_FORMATS = {
    "date": "2026-01-31",
    "date-time": "2026-01-31T12:00:00Z",
    "email": "ada@example.com",
    "time": "12:00:00Z",
    "uri": "https://example.com/",
    "uuid": "00000000-0000-4000-8000-000000000000",
}

_PLACE = r"[A-Z]\w+(?: [A-Z]\w+)*(?:, [A-Z]{2}\b)?"
_PLACES = re.compile(rf"\b(?:in|for|of) ({_PLACE}(?:(?:, | and |, and | and in ){_PLACE})*)")


def words(text: str) -> frozenset[str]:
    """Return the words of a text or of a name in any case style, in small letters."""
    parted = re.sub(r"([a-z])([A-Z])", r"\1 \2", text)
    return frozenset(re.findall(r"[^\W_]+", parted.lower()))


def numbers(text: str) -> list[int | float]:
    """Return the numbers of a text, in order."""
    found = re.findall(r"(?<![\w.])-?\d+(?:\.\d+)?(?![\w])", text)
    return [float(number) if "." in number else int(number) for number in found]


def quoted(text: str) -> list[str]:
    """Return what stands between quotation marks."""
    found = re.findall(r"\"([^\"]+)\"|(?<!\w)'([^']+)'(?!\w)", text)
    return [double or single for double, single in found]


def places(text: str) -> list[str]:
    """Return the places that a text names after "in", "for" or "of", each once."""
    lists = [match.group(1) for match in _PLACES.finditer(text)]
    named = [place for found in lists for place in re.findall(_PLACE, found)]
    return list(dict.fromkeys(named))


def schema_in(text: str) -> Schema | None:
    """Return the JSON Schema of an object that is written out in a text, if there is one."""
    for place in (match.start() for match in re.finditer(r"\{", text)):
        try:
            found, _ = json.JSONDecoder().raw_decode(text, place)
        except ValueError:
            continue
        if "properties" in found:
            return dict(found)
    return None


def fill(schema: Schema, prompt: str) -> Any:
    """Return a value that the schema allows, from what the prompt says where that fits."""
    return _Filling(schema, prompt).value(schema, "", 0)


def fill_keys(keys: Sequence[str], prompt: str) -> dict[str, Any]:
    """Return an object with these keys."""
    properties = {key: {"type": "string"} for key in keys}
    return dict(fill({"type": "object", "properties": properties, "required": keys}, prompt))


class _Filling:
    """One value in the making; a number of the prompt is used once."""

    def __init__(self, root: Schema, prompt: str) -> None:
        self._root = root
        self._prompt = prompt
        self._numbers: Iterator[int | float] = iter(numbers(prompt))

    def value(self, schema: Schema, name: str, depth: int) -> Any:
        schema = self._plain(schema)
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            said = [v for v in schema["enum"] if str(v).lower() in self._prompt.lower()]
            return (said or schema["enum"])[0]
        kind = schema.get("type") or ("object" if "properties" in schema else "string")
        if isinstance(kind, list):
            kind = next((k for k in kind if k != "null"), "null")
        match kind:
            case "object":
                return self._object(schema, depth)
            case "array":
                return self._array(schema, name, depth)
            case "integer" | "number":
                return self._number(schema, kind)
            case "boolean":
                return True
            case "null":
                return None
            case _:
                return self._string(schema, name)

    def _plain(self, schema: Schema) -> Schema:
        """Follow references, choose among alternatives (never null where there is another)."""
        while True:
            if reference := schema.get("$ref"):
                found: Any = self._root
                for step in reference.removeprefix("#").strip("/").split("/"):
                    found = found[step] if step else found
                schema = found
            elif choices := schema.get("anyOf") or schema.get("oneOf"):
                chosen = next((c for c in choices if c.get("type") != "null"), choices[0])
                rest = {key: schema[key] for key in schema.keys() - {"anyOf", "oneOf"}}
                schema = {**rest, **chosen}
            elif parts := schema.get("allOf"):
                rest = {key: part for key, part in schema.items() if key != "allOf"}
                schema = rest
                for part in map(self._plain, parts):
                    properties = {**schema.get("properties", {}), **part.get("properties", {})}
                    required = [*schema.get("required", []), *part.get("required", [])]
                    schema = {**schema, **part, "properties": properties, "required": required}
            else:
                return schema

    def _object(self, schema: Schema, depth: int) -> dict[str, Any]:
        required = schema.get("required") or []
        made = {}
        for name, member in (schema.get("properties") or {}).items():
            unwanted = "default" in member or f"no {name}" in self._prompt or depth >= _DEEPEST
            if name in required or not unwanted:
                made[name] = self.value(member, name, depth + 1)
        return made

    def _array(self, schema: Schema, name: str, depth: int) -> list[Any]:
        least = int(schema.get("minItems", 0))
        count = least if depth >= _DEEPEST else max(least, 2)
        item = schema.get("items") or {"type": "string"}
        if self._plain(item).get("type") in ("integer", "number"):
            count = max(least, len(numbers(self._prompt)) or count)
        count = min(count, int(schema.get("maxItems", count)))
        return [self.value(item, name, depth + 1) for _ in range(count)]

    def _number(self, schema: Schema, kind: str) -> int | float:
        low: Any = schema.get("minimum", schema.get("exclusiveMinimum", -inf))
        high: Any = schema.get("maximum", schema.get("exclusiveMaximum", inf))
        outside = [schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")]
        for number in self._numbers:
            whole = kind == "number" or isinstance(number, int)
            if whole and low <= number <= high and number not in outside:
                return number
        return int(min(max(1, low + 1), high))

    def _string(self, schema: Schema, name: str) -> str:
        if "format" in schema and schema["format"] in _FORMATS:
            return _FORMATS[schema["format"]]
        if name in ("location", "city") and (named := places(self._prompt)):
            return named[0]
        if name.endswith("name") and (named := quoted(self._prompt)):
            return named[0]
        text = _KNOWN.get(name) or str(schema.get("description") or name or "something")
        text = text.ljust(int(schema.get("minLength", 0)), ".")
        return text[: int(schema.get("maxLength", len(text)))]


def speak(prompt: str, said_before: str) -> str:
    """Return a plain answer to a plain prompt; `said_before` is all that the user said."""
    if (wish := "Write a summary of this conversation") in prompt:
        return f"The user said: {said_before.rpartition(wish)[0].strip()}"
    if match := re.search(r"(?i)^(?:say|repeat)(?: slowly)?:? (.+)", prompt, re.DOTALL):
        return match.group(1)
    if match := re.search(r"(?i)count (?:slowly )?to (\d+)", prompt):
        return " ".join(str(number) for number in range(1, int(match.group(1)) + 1))
    if "my name?" in prompt:
        names = re.findall(r"(?i)my name is (\w+)", said_before)
        return f"Your name is {names[-1]}." if names else "You have not told me your name."
    if "joke" in words(prompt):
        return f"{_KNOWN['setup']} {_KNOWN['punchline']}"
    if words(prompt) & {"hello", "hey", "hi"}:
        return "Hello! How are you today?"
    return f"You said: {prompt}"
