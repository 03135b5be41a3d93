"""The MCP server by which a child has its tools, as the CLI speaks to it: the client's, and those
of MCP servers whose client is the gateway.

Knows: the JSON-RPC messages of a server that has tools and nothing else (Model Context Protocol,
"Lifecycle" and "Tools"), and what the CLI reads in a tool's annotations. Refuses to know: control
frames (`schemas.claude.input`), and when a call is answered (`actors.session.tools`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from attrs import field, frozen

from ..message import Image, ToolResult
from ..turn import HostedTool, Setup, Tool
from .tool_names import ANSWER_TOOL, wire_name
from .tool_schema import plain_schema, untold

MAX_RESULT_CHARACTERS = 500_000
"""The longest result that the CLI passes on whole, and only if the tool asks for it: of a longer
one the model would see a file's name and its first lines."""

PROTOCOL_VERSION = "2025-06-18"

HOW_TO_ANSWER = (
    "Give your answer by calling this tool: its input is the answer. Always answer so, and never "
    "in text."
)


@frozen
class CallAsked:
    """``tools/call``: the model waits for what comes of `call_id`. `json_id` is the message's."""

    json_id: Any
    call_id: str
    name: str = ""
    arguments: Mapping[str, Any] = field(factory=dict)


def offered(setup: Setup) -> dict[str, Tool]:
    """What the model may call, by the names it knows: the client's tools, those that the gateway
    calls (where the client has none of that name), and the one by which it answers where the answer
    has to suit a schema."""
    tools: dict[str, Tool] = {tool.name: tool for tool in setup.hosted}
    tools |= {wire_name(tool.name): tool for tool in setup.tools}
    if setup.schema is not None:
        tools[ANSWER_TOOL] = Tool(ANSWER_TOOL, HOW_TO_ANSWER, setup.schema)
    return tools


def serve(message: dict[str, Any], tools: Mapping[str, Tool]) -> CallAsked | dict[str, Any]:
    """What the server answers to `message` at once; or the call that it is, to be answered later
    by `result` or `failure`."""
    json_id, params = message.get("id"), message.get("params")
    if not isinstance(params, dict):
        params = {}
    match message.get("method"):
        case "initialize":
            return _answer(
                json_id,
                {
                    "protocolVersion": params.get("protocolVersion", PROTOCOL_VERSION),
                    "capabilities": {"tools": {}},
                    "serverInfo": {"name": "client", "version": "1"},
                },
            )
        case "tools/list":
            return _answer(json_id, {"tools": [_describe(*each) for each in tools.items()]})
        case "tools/call":
            meta = params.get("_meta")
            call_id = meta.get("claudecode/toolUseId") if isinstance(meta, dict) else None
            if isinstance(call_id, str):
                given = params.get("arguments")
                arguments = given if isinstance(given, dict) else {}
                return CallAsked(json_id, call_id, str(params.get("name")), arguments)
            return _error(json_id, -32602, "the call does not say which one it is")
        case "ping":
            return _answer(json_id, {})
        case str(method) if method.startswith("notifications/"):
            return {"jsonrpc": "2.0", "result": {}}  # the control request wants some answer
        case method:
            return _error(json_id, -32601, f"{method} is not a method of this server")


def _describe(name: str, tool: Tool) -> dict[str, Any]:
    given = json.loads(tool.parameters)
    schema = given if isinstance(given, dict) else {}
    return {
        "name": name,
        "description": "\n\n".join(filter(None, (tool.description, untold(schema)))),
        # One tool whose input is not declared an object, and the CLI has no tools at all.
        "inputSchema": plain_schema(schema),
        # Without it the CLI makes parallel calls one after another: right for a tool that changes
        # something, and wrong for a client's, which sees to that itself.
        "annotations": {"readOnlyHint": not isinstance(tool, HostedTool) or tool.source.read_only},
        "_meta": {"anthropic/maxResultSizeChars": MAX_RESULT_CHARACTERS},
    }


def api_tools(setup: Setup) -> list[dict[str, Any]]:
    """What the model may call, as the CLI tells the Messages API of it."""
    tools = (_describe(*each) for each in offered(setup).items())
    return [
        {
            "name": tool["name"],
            "description": tool["description"],
            "input_schema": tool["inputSchema"],
        }
        for tool in tools
    ]


def carries(result: ToolResult) -> bool:
    """Whether this server can say `result` so that it reaches the model as it is."""
    texts = [block for block in result.content if isinstance(block, str)]
    return (
        all(isinstance(block, str | Image) for block in result.content)
        and sum(map(len, texts)) <= MAX_RESULT_CHARACTERS  # before each is looked through
        and any(text.strip() for text in texts)
        and sum(map(_length, texts)) <= MAX_RESULT_CHARACTERS
        and not result.is_error  # the CLI joins and cuts the text of errors
    )


def _length(text: str) -> int:
    """As JavaScript counts: in units of UTF-16."""
    return len(text.encode("utf-16-le", "surrogatepass")) // 2


def result(asked: CallAsked, given: ToolResult) -> dict[str, Any]:
    """The answer to a call. Only for what `carries`."""
    content: list[dict[str, str]] = []
    for block in given.content:
        match block:
            case str():
                content.append({"type": "text", "text": block})
            case Image(media_type, data):
                content.append({"type": "image", "data": data, "mimeType": media_type})
    return _answer(asked.json_id, {"content": content})


def passed_on(asked: CallAsked, given: Mapping[str, Any]) -> dict[str, Any]:
    """The answer to a call that an MCP server has answered: its own (MCP's ``CallToolResult``)."""
    return _answer(asked.json_id, dict(given))


def failure(asked: CallAsked, reason: str) -> dict[str, Any]:
    """The answer to a call that no client serves, for the model to read."""
    content = [{"type": "text", "text": reason}]
    return _answer(asked.json_id, {"content": content, "isError": True})


def _error(json_id: Any, code: int, reason: str) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": json_id, "error": {"code": code, "message": reason}}


def _answer(json_id: Any, value: dict[str, Any]) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": json_id, "result": value}
