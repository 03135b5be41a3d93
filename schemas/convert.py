"""JSON in and out: the one converter to attrs classes, strict, and its errors as OpenAI says them.

Knows: that a JSON string is a string and never a number that looks like one, how a union is told
apart by the JSON kind of its value, and the path of a field that does not fit. Refuses to know: any
particular class, and rules that need more than one field.

Unknown keys are ignored, as OpenAI clients of every age send keys that others do not know.
"""

from __future__ import annotations

import json
import types
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, Union, get_args, get_origin

import attrs
import orjson
from cattrs import AttributeValidationNote, Converter, IterableValidationNote
from cattrs.cols import homogenous_tuple_structure_factory
from cattrs.gen import make_dict_structure_fn

from .errors import InvalidRequest

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


class WrongKind(TypeError):
    """A JSON value of another kind than the field takes; the message is for people."""

    def __init__(self, expected: str, value: object) -> None:
        found = _KINDS.get(type(value), type(value).__name__)
        super().__init__(f"must be {expected}, got {found}")


def structure(raw: object, cls: type[T]) -> T:
    """Make a `cls` of parsed JSON.

    Raises `InvalidRequest` for the first field that does not fit: code ``missing_field`` or
    ``invalid_type``, `param` its path, as in ``messages[2].content``.
    """
    try:
        return converter.structure(raw, cls)
    except Exception as error:
        refusal = _refusal(error)
        if refusal is None:
            raise
        raise refusal from None


def read_json(body: bytes) -> object:
    """The JSON value in `body`. Raises `InvalidRequest` (``invalid_json``) where it is none.

    That includes half a surrogate pair written as an escape, which JSON's grammar allows: it is no
    character, and neither UTF-8 nor the model could be given it.
    """
    if not body:
        raise InvalidRequest(
            "The request has no body; it needs a JSON object.", code="invalid_json"
        )
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(
            f"The request's body is not valid JSON: {error}.", code="invalid_json"
        ) from None


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


def _behind(kind: type, inner: Hook) -> Hook:
    """`inner`, for values of `kind` alone: else it would iterate a string or index a number."""

    def check(value: Any, cls: Any) -> Any:
        if type(value) is not kind:
            raise WrongKind(_KINDS[kind], value)
        return inner(value, cls)

    return check


def _is_array(cls: Any) -> bool:
    return get_origin(cls) is tuple and get_args(cls)[-1:] == (Ellipsis,)


def _is_mapping(cls: Any) -> bool:
    return get_origin(cls) in (dict, Mapping) or cls is dict


def _is_union(cls: Any) -> bool:
    return get_origin(cls) in (Union, types.UnionType)


def _json_kind(cls: Any) -> type:
    """The JSON kind that a union member is told by."""
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
    assert len(by_kind) == len(members), f"{cls} cannot be told apart by JSON kind"
    if float in by_kind:
        by_kind.setdefault(int, float)
    named = [_KINDS[_json_kind(member)] for member in members]
    expected = " or ".join(name for name in named if name != "null")

    def choose(value: Any, _: Any) -> Any:
        if value is None and type(None) in by_kind:
            return None
        member = by_kind.get(type(value))
        if member is None:
            raise WrongKind(expected, value)
        return converter.structure(value, member)

    return choose


def _make_converter() -> Converter:
    made = Converter(detailed_validation=True)
    for kind in (str, bool, int):
        made.register_structure_hook(kind, _exactly(kind))
    made.register_structure_hook(float, _number)
    made.register_structure_hook_factory(_is_union, _union)
    made.register_structure_hook_factory(
        _is_array,
        lambda cls, conv: _behind(list, homogenous_tuple_structure_factory(cls, conv)),
    )
    made.register_structure_hook_func(_is_mapping, _exactly(dict))
    made.register_structure_hook_factory(
        attrs.has, lambda cls, conv: _behind(dict, make_dict_structure_fn(cls, conv))
    )
    return made


converter = _make_converter()


# -- errors ----------------------------------------------------------------------------------------


def _refusal(error: BaseException) -> InvalidRequest | None:
    """What the first leaf of `error` has against the request; None: a fault of ours."""
    path = ""
    while True:
        path += _step(error, bool(path))
        if not isinstance(error, BaseExceptionGroup):
            break
        error = error.exceptions[0]
    param = path or None
    match error:
        case WrongKind():
            subject = path or "The body"
            return InvalidRequest(f"{subject} {error}.", code="invalid_type", param=param)
        case KeyError():
            return InvalidRequest(f"{path} is required.", code="missing_field", param=param)
        case _:
            return None


def _step(error: BaseException, inside: bool) -> str:
    """The part of the path that cattrs noted at `error`."""
    for note in getattr(error, "__notes__", ()):
        if isinstance(note, AttributeValidationNote):
            return f".{note.name}" if inside else note.name
        if isinstance(note, IterableValidationNote):
            return f"[{note.index}]"
    return ""
