"""The demo CLI's side of the gateway's tools: MCP inside control requests.

Knows the handshake (initialize, initialized, tools/list), calling, and which answer belongs to
which request, as Claude Code does it with an SDK MCP server. Refuses to know turns.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from .frames import VERSION, Frames, Json, new_uuid

_PROTOCOL = "2025-11-25"


class ToolCalls:
    """The tools on offer (`names`), the open requests, and the results that have come in."""

    def __init__(self, frames: Frames, write: Callable[[bytes], None]) -> None:
        self.servers: list[str] = []
        self.names: dict[str, tuple[str, str]] = {}  # as the model sees it: server, its own name
        self._frames = frames
        self._write = write
        self._bare_names = os.environ.get("CLAUDE_AGENT_SDK_MCP_NO_PREFIX") == "1"
        self._handshakes: dict[str, tuple[str, str]] = {}  # request id: method, server
        self._calls: dict[str, tuple[str, str, int]] = {}  # request id: tool use, server, JSON id
        self._results: dict[str, Json] = {}  # tool use: content and is_error, as they came in
        self._json_id = 0

    @property
    def ready(self) -> bool:
        """Whether no handshake is under way; the CLI holds back turns until then."""
        return not self._handshakes

    def connect(self, servers: list[str]) -> None:
        """Offer the tools of these servers and no others; those known already are not asked."""
        self.names = {name: at for name, at in self.names.items() if at[0] in servers}
        fresh = [server for server in servers if server not in self.servers]
        self.servers = list(servers)
        for server in fresh:
            params = {
                "protocolVersion": _PROTOCOL,
                "capabilities": {},
                "clientInfo": {"name": "claude-code", "version": VERSION},
            }
            request_id = self._request(server, "initialize", params)
            self._handshakes[request_id] = ("initialize", server)

    def call(self, tool_use_id: str, name: str, arguments: Json) -> None:
        """Ask the server of the tool `name`; a tool that no server offers has failed already."""
        if name not in self.names:
            missing = f"<tool_use_error>Error: No such tool available: {name}</tool_use_error>"
            self._results[tool_use_id] = {"content": missing, "is_error": True}
            return
        server, own_name = self.names[name]
        meta = {"claudecode/toolUseId": tool_use_id, "progressToken": self._json_id + 1}
        params = {"name": own_name, "arguments": arguments, "_meta": meta}
        request_id = self._request(server, "tools/call", params)
        self._calls[request_id] = (tool_use_id, server, self._json_id)

    def answered(self, tool_use_ids: list[str]) -> bool:
        """Whether all of these tool uses have a result."""
        return all(each in self._results for each in tool_use_ids)

    def take(self, tool_use_ids: list[str]) -> dict[str, Json]:
        """The results of these tool uses, in the order in which they came in."""
        taken = {each: got for each, got in self._results.items() if each in tool_use_ids}
        for each in taken:
            del self._results[each]
        return taken

    def cancel(self) -> None:
        """Cancel the calls at the servers: no turn waits for them any more."""
        for _tool_use_id, server, json_id in self._calls.values():
            params = {"requestId": json_id, "reason": "interrupted"}
            self._send(server, {"method": "notifications/cancelled", "params": params})
        self._calls.clear()
        self._results.clear()

    def on_response(self, response: Json) -> None:
        """A control response of the gateway; one that answers nothing is ignored."""
        request_id = response.get("request_id", "")
        body = response.get("response") or {}
        reply = body.get("mcp_response") or {} if isinstance(body, dict) else {}
        if request_id in self._handshakes:
            self._shake(*self._handshakes.pop(request_id), reply.get("result") or {})
        elif request_id in self._calls:
            tool_use_id = self._calls.pop(request_id)[0]
            error = response.get("error") or (reply.get("error") or {}).get("message")
            result = reply.get("result") or {}
            failed = bool(error) or bool(result.get("isError"))
            content: Any = error or result.get("content", [])
            self._results[tool_use_id] = {
                "content": content,
                **({"is_error": True} if failed else {}),
            }

    def _shake(self, method: str, server: str, result: Json) -> None:
        if method == "initialize":
            self._send(server, {"method": "notifications/initialized"})
            request_id = self._request(server, "tools/list", None)
            self._handshakes[request_id] = ("tools/list", server)
            return
        for tool in result.get("tools", []):
            shown = tool["name"] if self._bare_names else f"mcp__{server}__{tool['name']}"
            self.names[shown.replace(".", "_") if not self._bare_names else shown] = (
                server,
                tool["name"],
            )

    def _request(self, server: str, method: str, params: Json | None) -> str:
        self._json_id += 1
        asked: Json = {"method": method, **({"params": params} if params is not None else {})}
        return self._send(server, {**asked, "id": self._json_id})

    def _send(self, server: str, message: Json) -> str:
        request_id = new_uuid()
        full = {**message, "jsonrpc": "2.0"}
        self._write(self._frames.mcp_message(request_id, server, full))
        return request_id
