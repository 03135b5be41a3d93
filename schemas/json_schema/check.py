"""JSON Schema: whether a value suits a schema.

Knows: the `jsonschema` library, and which of its powers a client must not have here: a schema never
makes the gateway fetch anything, its regular expressions are not run (one that takes for ever would
hold up all clients), and work without end is given up. Refuses to know: whether the schema is one
(`schemas.json_schema.shape`); for one that is none, the checks return a reason and raise nothing.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from functools import lru_cache
from typing import Any

from attrs import define
from jsonschema import Draft202012Validator, ValidationError
from jsonschema.exceptions import best_match
from jsonschema.validators import extend
from referencing import Registry

MAX_SECONDS = 0.2
"""The processor time that one value may take: hundreds of times what a usual one does."""

MAX_REASON = 500
"""Characters; the library's messages quote the value, however long it is."""

MAX_LEVELS = 150
"""How many subschemas may be in one another's midst. Each takes up to five of Python's frames, and
at the end of those the library's `rpds` does not raise, it panics: with a `BaseException`."""


@define
class _Work:
    until: float
    level: int = 0

    def go_on(self) -> None:
        if time.thread_time() > self.until:
            raise _TooMuchWork("it takes too much work")


class _TooMuchWork(Exception):
    """A few references to definitions that refer to others twice are work for years."""


_work: ContextVar[_Work] = ContextVar("_work")


def _bounded(check: Callable[..., Any]) -> Callable[..., Iterator[Any]]:
    """A keyword's check, which begins only while there is time."""

    def bounded(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[Any]:
        _work.get().go_on()
        return check(validator, value, instance, schema) or iter(())

    return bounded


def _entered(name: str) -> Callable[..., Iterator[Any]]:
    """The library's way into a subschema, bounded even if that has no keywords: there may be
    thousands of those."""
    method: Callable[..., Iterator[Any]] = getattr(Draft202012Validator, name)

    def entered(*args: Any, **kwargs: Any) -> Iterator[Any]:
        work = _work.get()
        work.go_on()
        if work.level >= MAX_LEVELS:
            raise _TooMuchWork("it is nested too deeply")
        work.level += 1
        try:
            yield from method(*args, **kwargs)
        finally:
            work.level -= 1

    return entered


def _additional(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[Any]:
    """Which properties are additional is for regular expressions to say, where there are any."""
    if "patternProperties" not in schema:
        yield from Draft202012Validator.VALIDATORS["additionalProperties"](
            validator, value, instance, schema
        )


def _unique(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[Any]:
    """The library compares each item with each."""
    if value and isinstance(instance, list):
        seen: set[str] = set()
        for index, item in enumerate(instance):
            _work.get().go_on()
            text = json.dumps(_canonical(item), sort_keys=True)
            if text in seen:
                yield ValidationError(f"item {index} is there twice")
                return
            seen.add(text)


def _canonical(value: Any) -> Any:
    """1.0 is 1, in JSON Schema; but true is not."""
    match value:
        case dict():
            return {name: _canonical(each) for name, each in value.items()}
        case list():
            return [_canonical(each) for each in value]
        case float() if value.is_integer():
            return int(value)
    return value


def _unchecked(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[Any]:
    return iter(())


# What `unevaluated…` forbids is worked out by walks over the schema that nothing here bounds.
_UNCHECKED = ("pattern", "patternProperties", "unevaluatedItems", "unevaluatedProperties")

_CHECKS = {
    **Draft202012Validator.VALIDATORS,
    "additionalProperties": _additional,
    "uniqueItems": _unique,
    **dict.fromkeys(_UNCHECKED, _unchecked),
}
_Validator: Any = extend(  # type: ignore[no-untyped-call]
    Draft202012Validator, {name: _bounded(check) for name, check in _CHECKS.items()}
)
_Validator.descend, _Validator.iter_errors = _entered("descend"), _entered("iter_errors")


def misfit(schema: str, value: object) -> str | None:
    """Why `value` does not suit the schema (JSON text); None where it does."""
    _work.set(_Work(time.thread_time() + MAX_SECONDS))
    try:
        error = best_match(_validator(schema).iter_errors(value))
    except Exception as failure:  # noqa: BLE001 - the library, on a schema and a value of strangers
        return f"the schema cannot be followed: {failure}"[:MAX_REASON]
    return None if error is None else f"{error.json_path}: {error.message}"[:MAX_REASON]


@lru_cache(maxsize=64)
def _validator(schema: str) -> Any:
    # A part that names its dialect would be left to the library's own validator, which is not
    # bounded as this one is.
    parsed: Any = json.loads(schema, object_hook=_without_dialect)
    # An empty registry: references lead nowhere outside of the schema.
    return _Validator(parsed, registry=Registry())


def _without_dialect(part: dict[str, Any]) -> dict[str, Any]:
    if isinstance(part.get("$schema"), str):
        del part["$schema"]
    return part
