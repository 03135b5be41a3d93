"""Tools and tool choice of the Messages API: their words, and what they are in the gateway's.

Knows: which kinds of tools are taken, and which are only there once something refers to them
(Anthropic API reference, "Tool use"). Refuses to know: what a schema may hold
(`schemas.openai.chat_tools`), and what becomes of tools.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from attrs import frozen

from ..describe import Details
from ..errors import invalid, missing, unsupported
from ..openai.chat_tools import (
    MAX_SCHEMA_BYTES,
    MAX_TOOL_NAME,
    FunctionTool,
    check_choice,
    read_functions,
)
from ..turn import Tool, ToolChoice
from .blocks import CacheControl


@frozen
class ToolSpec:
    """A tool of the client's. `defer_loading`: the model knows it once a result refers to it."""

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


@frozen
class ChosenTool:
    type: str
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


DETAILS: Details = {
    ToolSpec: {
        "name": {"minLength": 1, "maxLength": MAX_TOOL_NAME},
        "type": {"enum": ["custom"]},
        "input_schema": {"description": f"A JSON Schema, of at most {MAX_SCHEMA_BYTES} bytes."},
        "defer_loading": {"description": "It is there once a `tool_reference` names it."},
        "input_examples": {"description": "Without effect: named in `x-ccapi-ignored`."},
        "allowed_callers": {"description": "Only `direct`: there is no code that could call it."},
        "": {"required": ["name", "input_schema"]},
    },
    ChosenTool: {"type": {"enum": ["auto", "any", "tool", "none"]}},
}


def read_tools(given: Sequence[ToolSpec], referred: Collection[str]) -> tuple[Tool, ...]:
    """`referred`: the tools that results in the history refer to. Raises `InvalidRequest`."""
    functions: dict[str, FunctionTool] = {}
    for index, spec in enumerate(given):
        path = f"tools.{index}"
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


def ignored_of(given: Iterable[ToolSpec]) -> set[str]:
    """Names of the fields of tools that have no effect."""
    names = set()
    for spec in given:
        if spec.input_examples:
            names.add("tools.input_examples")
        if spec.cache_control is not None:
            names.add("cache_control")
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
