"""The schema of Open Responses, edition 2026-04-24: what a response, an event and an error must be.

Knows: which schema belongs to which event, and what the gateway writes beyond the standard
(OpenAI's custom tools, and what is about MCP servers and searches of the web), which the schema has
no words for. Refuses to know: how any of it comes about. The document and its licence stand in
``tests/data``.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

DOCUMENT = Path(__file__).parents[1] / "data" / "open-responses-2026-04-24.openapi.json"

BEYOND = (
    "mcp_call", "mcp_list_tools", "mcp_approval_request", "custom_tool_call", "web_search_call",
)  # fmt: skip
"""Items that are OpenAI's and not the standard's."""

JSON = dict[str, Any]


@cache
def _components() -> JSON:
    components: JSON = json.loads(DOCUMENT.read_bytes())["components"]
    return components


@cache
def _validator(name: str) -> Draft202012Validator:
    return Draft202012Validator(
        {"$ref": f"#/components/schemas/{name}", "components": _components()}
    )


@cache
def _events() -> dict[str, str]:
    """The schema of each event, by the event's type."""
    schemas = _components()["schemas"]
    return {
        schema["properties"]["type"]["enum"][0]: name
        for name, schema in schemas.items()
        if name.endswith("StreamingEvent")
    }


def check(name: str, value: object) -> None:
    """AssertionError with every error of `value` by the schema of that name."""
    found = sorted(_validator(name).iter_errors(value), key=lambda error: list(error.path))
    errors = [f"{'.'.join(map(str, error.path))}: {error.message[:300]}" for error in found]
    assert not errors, f"no {name}\n" + "\n".join(errors)


def check_response(response: JSON) -> None:
    check("ResponseResource", _within_the_standard(response))


def check_compaction(compacted: JSON) -> None:
    check("CompactResource", compacted)


def check_event(event: JSON) -> None:
    kind = event["type"]
    if event.get("item", {}).get("type") in BEYOND:
        assert kind in ("response.output_item.added", "response.output_item.done")
        return
    beyond = ("response.mcp_", "response.custom_tool_call_input.", "response.web_search_call.")
    if kind.startswith(beyond):
        return
    if "response" in event:
        event = {**event, "response": _within_the_standard(event["response"])}
    check(_events()[kind], event)


def check_socket_message(message: JSON) -> None:
    """A message of a WebSocket: an event, or an error that no response has. What answers to
    steering is OpenAI's alone."""
    if message["type"] == "error":
        check("WebSocketErrorEvent", message)
    elif not message["type"].startswith("response.steer."):
        check_event(message)


def _within_the_standard(response: JSON) -> JSON:
    output = [item for item in response["output"] if item["type"] not in BEYOND]
    tools = [tool for tool in response["tools"] if tool["type"] == "function"]
    choice = response["tool_choice"]
    if isinstance(choice, dict) and choice["type"] in ("custom", "mcp", "web_search_preview"):
        choice = "auto"
    told = {**response, "output": output, "tools": tools, "tool_choice": choice}
    if response["text"]["format"]["type"] == "json_schema":
        # The document says that the schema that a response repeats is null; OpenAI repeats it.
        form = {**response["text"]["format"], "schema": None}
        told["text"] = {**response["text"], "format": form}
    return told
