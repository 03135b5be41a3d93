"""OpenAI's tools, tool choice and response format: their words, and what they are in the gateway's.

Knows: which of them are taken, and that a schema is an object's (OpenAI API reference, "Chat").
Refuses to know: what becomes of tools and schemas, and JSON Schema itself
(`schemas.json_schema.shape`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from attrs import frozen

from ..convert import write_json
from ..describe import Details
from ..errors import InvalidRequest, invalid, missing, unsupported
from ..json_schema.shape import Allowance, schema_error
from ..turn import Tool, ToolChoice

MAX_TOOLS = 512
MAX_TOOL_NAME = 256
MAX_SCHEMA_BYTES = 64 * 1024
"""The longest schema, as JSON."""

MAX_TOOLS_BYTES = 512 * 1024
"""All schemas of a request's tools together."""

ANY_OBJECT = '{"type":"object"}'


@frozen
class FunctionTool:
    name: str
    description: str | None = None
    parameters: Mapping[str, Any] | None = None
    strict: bool | None = None


@frozen
class ToolSpec:
    type: str
    function: FunctionTool | None = None


@frozen
class NamedFunction:
    name: str


@frozen
class NamedChoice:
    type: str
    function: NamedFunction | None = None


@frozen
class SchemaFormat:
    name: str | None = None
    description: str | None = None
    schema: Mapping[str, Any] | None = None
    strict: bool | None = None


@frozen
class ResponseFormat:
    type: str
    json_schema: SchemaFormat | None = None


DETAILS: Details = {
    FunctionTool: {
        "name": {"minLength": 1, "maxLength": MAX_TOOL_NAME},
        "parameters": {"description": f"A JSON Schema, of at most {MAX_SCHEMA_BYTES} bytes."},
    },
    ToolSpec: {"type": {"const": "function"}, "": {"required": ["type", "function"]}},
    NamedChoice: {"type": {"const": "function"}, "": {"required": ["type", "function"]}},
    SchemaFormat: {
        "schema": {"description": f"A JSON Schema, of at most {MAX_SCHEMA_BYTES} bytes."},
    },
    ResponseFormat: {"type": {"enum": ["text", "json_object", "json_schema"]}},
}


def read_tools(given: Sequence[ToolSpec]) -> tuple[Tool, ...]:
    """Raises `InvalidRequest`."""
    functions: dict[str, FunctionTool] = {}
    for index, spec in enumerate(given):
        path = f"tools[{index}]"
        if spec.type != "function":
            raise unsupported(f"Tools of type {spec.type} are not supported.", f"{path}.type")
        if spec.function is None:
            raise missing(f"{path}.function")
        functions[f"{path}.function"] = spec.function
    return read_functions(functions)


def read_functions(
    given: Mapping[str, FunctionTool], schema: str = "parameters"
) -> tuple[Tool, ...]:
    """The functions, by their places in the request, as tools. `schema`: what the dialect calls the
    field of their parameters. Raises `InvalidRequest`."""
    if len(given) > MAX_TOOLS:
        raise invalid(f"tools must hold at most {MAX_TOOLS} tools.", "tools")
    tools: dict[str, Tool] = {}
    left, allowance = MAX_TOOLS_BYTES, Allowance()
    for path, function in given.items():
        if not 0 < len(function.name) <= MAX_TOOL_NAME:
            raise invalid(f"{path}.name must have 1 to {MAX_TOOL_NAME} characters.", f"{path}.name")
        if function.name in tools:
            raise invalid(f"Another tool is called {function.name} too.", f"{path}.name")
        tools[function.name] = tool = _tool(function, f"{path}.{schema}", allowance)
        left -= len(tool.parameters)
        if left < 0:
            raise invalid(
                f"The {schema} of all tools must have at most {MAX_TOOLS_BYTES} bytes.", "tools"
            )
    return tuple(tools.values())


def _tool(function: FunctionTool, path: str, allowance: Allowance) -> Tool:
    """`path` is that of its parameters."""
    parameters = function.parameters
    if parameters is None:
        parameters = {"type": "object", "properties": {}}
    return Tool(
        name=function.name,
        description=function.description or "",
        parameters=_object_schema(parameters, path, allowance),
        strict=bool(function.strict),
    )


def read_choice(given: str | NamedChoice | None, tools: Sequence[Tool] | None) -> ToolChoice:
    """`tools` None: they are the conversation's, and not known here. Raises `InvalidRequest`."""
    match given:
        case None | "auto":
            return ToolChoice("auto")
        case "none":
            return ToolChoice("none")
        case "required":
            choice = ToolChoice("required")
        case str():
            raise invalid(
                "tool_choice must be none, auto, required or the name of a function.",
                "tool_choice",
            )
        case NamedChoice("function", None):
            raise missing("tool_choice.function")
        case NamedChoice("function", NamedFunction(name)):
            choice = ToolChoice("named", name)
        case NamedChoice(kind):
            raise unsupported(f"A tool choice of type {kind} is not supported.", "tool_choice.type")
    check_choice(choice, tools, "tool_choice.function.name")
    return choice


def check_choice(choice: ToolChoice, tools: Sequence[Tool] | None, path: str) -> None:
    """See that there are such tools; `path` names the one chosen. Raises `InvalidRequest`."""
    if tools is not None and not tools:
        raise invalid("tool_choice asks for a tool, and there are no tools.", "tool_choice")
    if tools and choice.name is not None and choice.name not in {tool.name for tool in tools}:
        raise invalid(f"No tool is called {choice.name}.", path)


def read_format(given: ResponseFormat | None) -> str | None:
    """The schema that the answer has to suit, as JSON; None: it is free text. Raises
    `InvalidRequest`."""
    match given:
        case None | ResponseFormat("text"):
            return None
        case ResponseFormat("json_object"):
            return ANY_OBJECT
        case ResponseFormat("json_schema", None):
            raise missing("response_format.json_schema")
        case ResponseFormat("json_schema", SchemaFormat() as asked):
            return read_schema(asked, "response_format.json_schema.schema")
        case ResponseFormat(kind):
            raise unsupported(
                f"A response format of type {kind} is not supported.", "response_format.type"
            )


def read_schema(asked: SchemaFormat, path: str) -> str:
    """The schema at `path`, as JSON, with what the format says of it. Raises `InvalidRequest`."""
    schema = asked.schema
    if schema is None:
        raise missing(path)
    if asked.description and "description" not in schema:
        schema = {**schema, "description": asked.description}
    return _object_schema(schema, path, Allowance())


def _object_schema(schema: Mapping[str, Any], path: str, allowance: Allowance) -> str:
    """The schema as compact JSON, its keys in the client's order. The Messages API takes none that
    does not say that it is an object's."""
    if "type" not in schema:
        schema = {"type": "object", **schema}
    kind = schema["type"]
    if kind != "object":
        raise _invalid_schema(f"{path}.type must be object: nothing else can be asked for.", path)
    try:
        encoded = write_json(schema)
    except RecursionError:
        raise _invalid_schema(f"{path} is nested too deeply.", path) from None
    if len(encoded) > MAX_SCHEMA_BYTES:
        raise _invalid_schema(f"{path} must have at most {MAX_SCHEMA_BYTES} bytes.", path)
    error = schema_error(schema, allowance)
    if error is not None:
        raise _invalid_schema(f"{path} is not a JSON Schema to follow: {error}.", path)
    return encoded.decode()


def _invalid_schema(message: str, param: str) -> InvalidRequest:
    return InvalidRequest(message, code="invalid_schema", param=param)
