"""JSON in and out: the one converter to attrs classes, strict, and its errors as OpenAI words them.

Knows: that a JSON string is a string and never a number that looks like one, how a union is
resolved by the JSON kind of its value, and the path of a field that does not fit. Refuses to
know: any particular class, and rules that need more than one field.

Unknown keys are ignored, as OpenAI clients of every age send keys that others do not know.
"""

from __future__ import annotations

import gc
import json
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar, Union, get_args, get_origin

import attrs
import orjson
from cattrs import Converter

from . import long_texts
from .errors import InvalidRequest
from .json_bounds import check_json

T = TypeVar("T")
Hook = Callable[[Any, Any], Any]

_KINDS: dict[type, str] = {
    str: "a string",
    bool: "a boolean",
    int: "an integer",
    float: "a number",
    list: "an array",
    dict: "an object",
    type(None): "null",
}


MAX_LIST = 20_000
"""Items of an array in a field that has no bound of its own (`at_most`)."""

MOST = "ccapi.most"
"""The key of a field's metadata under which its bound stands."""


def at_most(count: int, what: str, default: Any = None, *, repr: bool = True) -> Any:
    """An attrs field for an array or object of at most `count` items, which errors call `what`.
    A longer one is refused before anything is made of its items."""
    return attrs.field(default=default, repr=repr, metadata={MOST: (count, what)})


class Misfit(Exception):
    """A JSON value does not fit. `steps` lead to it from within: what is raised by a field or an
    item is raised again by what holds it, which puts itself in front."""

    code = "invalid_type"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.steps: list[str] = []

    @property
    def path(self) -> str:
        return "".join(reversed(self.steps)).removeprefix(".")


class Missing(Misfit):
    """A field that has no default is not there."""

    code = "missing_field"

    def __init__(self) -> None:
        super().__init__("is required")


class TooMany(Misfit):
    """An array or object has more items than it may."""

    code = "invalid_value"

    def __init__(self, most: int, what: str) -> None:
        super().__init__(f"must hold at most {most} {what}")


class WrongKind(Misfit):
    """A JSON value of another kind than the field takes; the message is for people."""

    def __init__(self, expected: str, value: object) -> None:
        found = _KINDS.get(type(value), type(value).__name__)
        super().__init__(f"must be {expected}, got {found}")


def structure(raw: object, cls: type[T]) -> T:
    """Make a `cls` of parsed JSON.

    Raises `InvalidRequest` for the first field that does not fit: code ``missing_field``,
    ``invalid_type`` or ``invalid_value``, `param` its path, as in ``messages[2].content``. Nothing
    that stands behind it is looked at.
    """
    try:
        return converter.structure(raw, cls)
    except Misfit as misfit:
        path = misfit.path
        raise InvalidRequest(
            f"{path or 'The body'} {misfit}.", code=misfit.code, param=path or None
        ) from None


def read_json(body: bytes | bytearray) -> object:
    """The JSON value in `body`. Raises `InvalidRequest` (``invalid_json``) where it is none, and
    `TooMuchJson` where it has too many values, or too deep ones, for its length.

    The former includes half a surrogate pair written as an escape, which JSON's grammar allows: it
    is no character, and neither UTF-8 nor the model could be given it.
    """
    weigh_json(body)
    return parse_json(body)


def weigh_json(body: bytes | bytearray) -> int:
    """About how many bytes of memory `parse_json` and what follows it take for `body`. Raises as
    `read_json` does for what has too many values, and for nothing at all."""
    if not body:
        raise InvalidRequest(
            "The request has no body; it needs a JSON object.", code="invalid_json"
        )
    return check_json(body)


def parse_json(body: bytes | bytearray) -> object:
    """As `read_json`, of what `weigh_json` has looked at. A bytearray may be empty afterwards."""
    try:
        return _parse(body)
    except orjson.JSONDecodeError as error:
        reason = str(error)
    # Not in there: the parser's error has the whole text, and would be this one's context.
    raise InvalidRequest(f"The request's body is not valid JSON: {reason}.", code="invalid_json")


def _parse(body: bytes | bytearray) -> object:
    """Without the garbage collector: what a parser makes has no cycles, and looking for them again
    and again while the objects become more takes most of the time. The parser lets no other thread
    run. Two threads that do this in turn cannot switch the collector off for good: only one that
    found it on switches it off, and that one switches it on again."""
    if len(body) < 65536 or not gc.isenabled():
        return orjson.loads(body)
    gc.disable()
    try:
        return long_texts.parse(body)
    finally:
        gc.enable()


def write_json(value: object) -> bytes:
    """`value` as compact UTF-8 JSON. Half a surrogate pair becomes U+FFFD: output never fails."""
    try:
        return orjson.dumps(value)
    except TypeError:
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace").encode()


# -- hooks -----------------------------------------------------------------------------------------


def _exactly(kind: type) -> Hook:
    """JSON has kinds, not Python's tower: True is no integer here, and "1" is none either."""

    def check(value: Any, _: Any) -> Any:
        if type(value) is not kind:
            raise WrongKind(_KINDS[kind], value)
        return value

    return check


def _number(value: Any, _: Any) -> float:
    if type(value) is not float and type(value) is not int:
        raise WrongKind(_KINDS[float], value)
    return float(value)


def _is_array(cls: Any) -> bool:
    return get_origin(cls) is tuple and get_args(cls)[-1:] == (Ellipsis,)


def _is_mapping(cls: Any) -> bool:
    return get_origin(cls) in (dict, Mapping) or cls is dict


def _is_union(cls: Any) -> bool:
    return get_origin(cls) in (Union, types.UnionType)


def _json_kind(cls: Any) -> type:
    """The JSON kind by which a union member is known."""
    if _is_array(cls):
        return list
    if attrs.has(cls) or get_origin(cls) in (dict, Mapping):
        return dict
    assert cls in _KINDS, f"{cls} has no JSON kind of its own"
    kind: type = cls
    return kind


def _union(cls: Any, converter: Converter) -> Hook:
    members = get_args(cls)
    if Any in members:
        return lambda value, _: value
    by_kind = {_json_kind(member): member for member in members}
    assert len(by_kind) == len(members), f"{cls} cannot be distinguished by JSON kind"
    if float in by_kind:
        by_kind.setdefault(int, float)
    named = [_KINDS[_json_kind(member)] for member in members]
    expected = " or ".join(name for name in named if name != "null")

    hooks: dict[type, Hook] = {}

    def choose(value: Any, _: Any) -> Any:
        if value is None and type(None) in by_kind:
            return None
        kind = type(value)
        member = by_kind.get(kind)
        if member is None:
            raise WrongKind(expected, value)
        if member is kind:
            return value
        hook = hooks.get(kind)
        if hook is None:  # found now, and not before: a class may have itself in a field
            hook = hooks[kind] = converter.get_structure_hook(member)
        return hook(value, member)

    return choose


def _array(cls: Any, converter: Converter, most: int = MAX_LIST) -> Hook:
    """A tuple of an array. The first item that does not fit ends it."""
    kind = get_args(cls)[0]
    hook = None if kind is Any else converter.get_structure_hook(kind)

    def build(value: Any, _: Any) -> tuple[Any, ...]:
        if type(value) is not list:
            raise WrongKind(_KINDS[list], value)
        if len(value) > most:
            raise TooMany(most, "items")
        if hook is None:
            return tuple(value)
        made: list[Any] = []
        try:
            for item in value:
                made.append(hook(item, kind))  # noqa: PERF401 (its length is the index)
        except Misfit as misfit:
            misfit.steps.append(f"[{len(made)}]")
            raise
        return tuple(made)

    return build


def _object(cls: Any, converter: Converter) -> Hook:
    """An attrs class of an object. The first field, in the order of the class, that does not fit
    ends it."""
    plan: list[tuple[str, Any, Hook | None, bool, tuple[int, str] | None]] = []

    def build(value: Any, _: Any) -> Any:
        if type(value) is not dict:
            raise WrongKind(_KINDS[dict], value)
        if not plan:  # made now, and not before: a class may have itself in a field
            plan.extend(_plan(cls, converter))
        given: dict[str, Any] = {}
        name = ""
        try:
            for name, kind, hook, required, most in plan:
                if name in value:
                    inner = value[name]
                    if most is not None and isinstance(inner, list | dict) and len(inner) > most[0]:
                        raise TooMany(*most)
                    given[name] = inner if hook is None else hook(inner, kind)
                elif required:
                    raise Missing
        except Misfit as misfit:
            misfit.steps.append(f".{name}")
            raise
        return cls(**given)

    return build


def _plan(
    cls: Any, converter: Converter
) -> Iterator[tuple[str, Any, Hook | None, bool, tuple[int, str] | None]]:
    """Of each field: its name, type, hook (None: anything goes), whether it must be there, and its
    bound."""
    for each in attrs.fields(attrs.resolve_types(cls)):
        hook = None if each.type is Any else converter.get_structure_hook(each.type)
        required = each.default is attrs.NOTHING
        most: tuple[int, str] | None = each.metadata.get(MOST)
        if most is not None and most[0] > MAX_LIST:
            assert _is_array(each.type), f"{cls}.{each.name} holds more than any array may"
            hook = _array(each.type, converter, most[0])
        yield each.name, each.type, hook, required, most


def _make_converter() -> Converter:
    made = Converter(detailed_validation=False)
    for kind in (str, bool, int):
        made.register_structure_hook(kind, _exactly(kind))
    made.register_structure_hook(float, _number)
    made.register_structure_hook_factory(_is_union, _union)
    made.register_structure_hook_factory(_is_array, _array)
    made.register_structure_hook_func(_is_mapping, _exactly(dict))
    made.register_structure_hook_factory(attrs.has, _object)
    return made


converter = _make_converter()
