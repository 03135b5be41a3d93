"""Tools and tool choice of the Messages API: their words, and what they are in the gateway's.

Knows: which kinds of tools are taken, and which are only there once something refers to them
(Anthropic API reference, "Tool use"). Refuses to know: what a schema may hold
(`schemas.openai.chat_tools`), and what becomes of tools.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from attrs import frozen

from ..describe import Details
from ..errors import InvalidRequest, invalid, missing, unsupported
from ..openai.chat_tools import (
    MAX_SCHEMA_BYTES,
    MAX_TOOL_NAME,
    FunctionTool,
    check_choice,
    read_functions,
)
from ..openai.web_search import read_domains, read_location
from ..turn import SEARCH_TOOL, SearchWish, Tool, ToolChoice
from .blocks import CacheControl
from .errors import dotted

T = TypeVar("T")

SEARCH = re.compile(r"web_search_20[0-9]{6}")
"""The types of the API's search, by their dates."""


@frozen
class ToolSpec:
    """A tool of the client's, or the API's search of the web, which has the fields from `max_uses`
    on. `defer_loading`: the model knows it once a result refers to it."""

    name: str
    type: str | None = None
    description: str | None = None
    input_schema: Mapping[str, Any] | None = None
    strict: bool | None = None
    defer_loading: bool | None = None
    eager_input_streaming: bool | None = None
    input_examples: tuple[Any, ...] | None = None
    allowed_callers: tuple[str, ...] | None = None
    cache_control: CacheControl | None = None
    max_uses: int | None = None
    allowed_domains: tuple[str, ...] | None = None
    blocked_domains: tuple[str, ...] | None = None
    user_location: Mapping[str, Any] | None = None

    @property
    def searches(self) -> bool:
        return SEARCH.fullmatch(self.type or "") is not None


@frozen
class ChosenTool:
    type: str
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


DETAILS: Details = {
    ToolSpec: {
        "name": {"minLength": 1, "maxLength": MAX_TOOL_NAME},
        "type": {"pattern": f"^(custom|{SEARCH.pattern})$"},
        "input_schema": {"description": f"A JSON Schema, of at most {MAX_SCHEMA_BYTES} bytes."},
        "defer_loading": {"description": "It is there once a `tool_reference` names it."},
        "input_examples": {"description": "Without effect: named in `x-ccapi-ignored`."},
        "allowed_callers": {"description": "Only `direct`: there is no code that could call it."},
        "max_uses": {"minimum": 1},
        "": {"required": ["name"]},
    },
    ChosenTool: {"type": {"enum": ["auto", "any", "tool", "none"]}},
}


def read_tools(given: Sequence[ToolSpec], referred: Collection[str]) -> tuple[Tool, ...]:
    """`referred`: the tools that results in the history refer to. Raises `InvalidRequest`."""
    functions: dict[str, FunctionTool] = {}
    for index, spec in enumerate(given):
        path = f"tools.{index}"
        if spec.searches:
            continue
        if spec.type not in (None, "custom"):
            raise unsupported(
                f"{path}.type: tools of type {spec.type[:100]} are not supported here.",
                f"{path}.type",
            )
        if spec.input_schema is None:
            raise missing(f"{path}.input_schema")
        if spec.allowed_callers is not None and "direct" not in spec.allowed_callers:
            raise unsupported(
                f"{path}.allowed_callers must hold direct: no code runs here that could call it.",
                f"{path}.allowed_callers",
            )
        if spec.defer_loading and spec.name not in referred:
            continue
        functions[path] = FunctionTool(
            spec.name, spec.description, spec.input_schema, strict=spec.strict
        )
    return read_functions(functions, "input_schema")


def read_search(given: Sequence[ToolSpec]) -> SearchWish | None:
    """The search of the web that is among the tools. Its later versions are asked for as the first
    one, which they are beside code that would sift what was found. Raises `InvalidRequest`."""
    wish: SearchWish | None = None
    for index, spec in enumerate(given):
        if not spec.searches:
            continue
        path = f"tools.{index}"
        if spec.name != SEARCH_TOOL:
            raise invalid(f"{path}.name must be {SEARCH_TOOL}.", f"{path}.name")
        if wish is not None or any(other.name == SEARCH_TOOL for other in given[:index]):
            raise invalid(f"Another tool is called {SEARCH_TOOL} too.", f"{path}.name")
        if spec.max_uses is not None and spec.max_uses < 1:
            raise invalid(f"{path}.max_uses must be at least 1.", f"{path}.max_uses")
        if spec.allowed_domains and spec.blocked_domains:
            raise invalid(
                f"{path} has either allowed_domains or blocked_domains.", f"{path}.blocked_domains"
            )
        wish = SearchWish(
            max_uses=spec.max_uses,
            allowed=_dotted(read_domains, spec.allowed_domains, f"{path}.allowed_domains"),
            blocked=_dotted(read_domains, spec.blocked_domains, f"{path}.blocked_domains"),
            location=_dotted(read_location, spec.user_location, f"{path}.user_location"),
            names=(f"tools.{spec.type}",),
        )
    return wish


def _dotted(read: Callable[[Any, str], T], given: Any, path: str) -> T:
    try:
        return read(given, path)
    except InvalidRequest as error:
        raise dotted(error) from None


def ignored_of(given: Iterable[ToolSpec]) -> set[str]:
    """Names of the fields of tools that have no effect."""
    names = set()
    for spec in given:
        if spec.input_examples:
            names.add("tools.input_examples")
        if spec.cache_control is not None:
            names.add("cache_control")
        if spec.searches and "direct" not in (spec.allowed_callers or ("direct",)):
            names.add("tools.allowed_callers")
    return names


def read_choice(given: ChosenTool | None, tools: Sequence[Tool] | None) -> tuple[ToolChoice, bool]:
    """Which tool is to be called, and whether several may be at once. `tools` None: they are the
    conversation's, and not known here. Raises `InvalidRequest`."""
    if given is None:
        return ToolChoice("auto"), True
    parallel = not given.disable_parallel_tool_use
    match given.type:
        case "auto":
            return ToolChoice("auto"), parallel
        case "none":
            return ToolChoice("none"), True
        case "any":
            choice = ToolChoice("required")
        case "tool":
            if not given.name:
                raise missing("tool_choice.name")
            choice = ToolChoice("named", given.name)
        case _:
            raise invalid("tool_choice.type must be auto, any, tool or none.", "tool_choice.type")
    check_choice(choice, tools, "tool_choice.name")
    return choice, parallel
