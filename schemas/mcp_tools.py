"""The tools of the operator's MCP servers, as conversations may have them.

Knows: what a tool must be so that the CLI and the API take it, and under which name the model sees
it. Refuses to know: how a server is reached (`transport.mcp`), and when its list is asked for
(`actors.mcp`).

Of a server with one tool whose input the CLI cannot read, the CLI hides all tools and says nothing;
of a name or a schema that the API does not take, every request of the conversation fails. So a list
is cleaned once, here, and what had to be left out is reported.

Source: Model Context Protocol 2025-11-25, "Tools".
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from attrs import field, frozen

from .claude.tool_schema import plain_schema, untold
from .json_schema.shape import schema_error
from .mcp_connection import Connection

MAX_TOOLS = 1000
"""Tools of one server: more would fill any model's context."""

MAX_TOOL_CHARACTERS = 128 * 1024
"""The length of a tool's description and schema together."""

_FULL_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")


@frozen
class ServerTool:
    """One tool of one server, cleaned.

    `name` is what the server calls it, `full_name` what the model and the permission rules do.
    `schema` is the JSON Schema of its input as text: that of an object, with nothing combined at
    its top. `read_only`: the server says that it changes nothing (``annotations.readOnlyHint``).
    `connection`: by which the server of a request's own is reached; None: it is the operator's.
    """

    server: str
    name: str
    full_name: str
    description: str
    schema: str
    read_only: bool
    connection: Connection | None = field(default=None, repr=False)


@frozen
class LeftOut:
    """A tool that no conversation can have, and why."""

    name: str
    reason: str


def full_name(server: str, tool: str) -> str:
    """``mcp__SERVER__TOOL``, as the CLI composes it."""
    return f"mcp__{server}__{tool}"


def clean_tools(
    server: str, listed: Iterable[Any]
) -> tuple[tuple[ServerTool, ...], tuple[LeftOut, ...]]:
    """The tools of a ``tools/list`` of `server`, and what of it had to be left out."""
    tools: dict[str, ServerTool] = {}
    left_out: list[LeftOut] = []
    for number, each in enumerate(listed):
        name = each.get("name") if isinstance(each, Mapping) else None
        shown = name if isinstance(name, str) else f"tool {number}"
        if number >= MAX_TOOLS:
            left_out.append(LeftOut(shown[:80], f"a server may have {MAX_TOOLS} tools"))
            break
        made = _clean(server, each)
        if isinstance(made, str):
            left_out.append(LeftOut(shown[:80], made))
        elif made.full_name in tools:
            left_out.append(LeftOut(shown[:80], "another tool of the server has the same name"))
        else:
            tools[made.full_name] = made
    return tuple(tools.values()), tuple(left_out)


def _clean(server: str, listed: Any) -> ServerTool | str:
    """The tool; or the reason why it has to be left out."""
    if not isinstance(listed, Mapping) or not isinstance(name := listed.get("name"), str):
        return "it has no name"
    if not name:
        return "its name is empty"
    model_name = full_name(server, name)
    if not _FULL_NAME.fullmatch(model_name):
        return (
            "its name, with mcp__SERVER__ in front, must be at most 64 letters, digits, _ and -, "
            f"and has {len(model_name)} characters"
        )
    given = listed.get("inputSchema")
    schema = {} if given is None else given
    if not isinstance(schema, dict):
        return "its inputSchema is not an object"
    error = schema_error(schema)
    if error is not None:
        return f"its inputSchema is no JSON Schema: {error}"
    described = listed.get("description")
    description = "\n\n".join(
        filter(None, (described if isinstance(described, str) else "", untold(schema)))
    )
    text = json.dumps(plain_schema(schema), ensure_ascii=False, separators=(",", ":"))
    if len(text) + len(description) > MAX_TOOL_CHARACTERS:
        return f"its description and schema have more than {MAX_TOOL_CHARACTERS} characters"
    if not _encodable(text + description):
        return "its description or schema holds half a surrogate pair"
    annotations = listed.get("annotations")
    return ServerTool(
        server=server,
        name=name,
        full_name=model_name,
        description=description,
        schema=text,
        read_only=isinstance(annotations, Mapping) and annotations.get("readOnlyHint") is True,
    )


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def error_result(text: str) -> dict[str, Any]:
    """A ``CallToolResult`` that says why there is none."""
    return {"content": [{"type": "text", "text": text}], "isError": True}
