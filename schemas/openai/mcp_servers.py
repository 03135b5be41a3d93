"""MCP servers that a request names (``tools: [{"type": "mcp", …}]``), and which of their tools it
wants.

Knows: how a server is named, which tools are allowed, and which need the client's approval (OpenAI
API reference, "Responses", "MCP tool"). Refuses to know: which servers there are, and what their
tools are (`actors.responses.mcp_tools`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

from attrs import field, frozen

from ..errors import invalid, missing, unsupported
from ..mcp_tools import ServerTool
from .response_tools import ApprovalFilters, FlatTool, ToolFilter

MAX_SERVERS = 32

_LABEL = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,256}")
_HEADER_VALUE = re.compile(r"[\x20-\x7e\x80-\xff\t]{0,8192}")

ANY = ToolFilter()

Wish = Literal["always", "never"]


@frozen(kw_only=True)
class McpServer:
    """One server that a request names, at `path` in it. `url` None: it is the operator's.

    `headers` go to that server alone: they may hold secrets. `allowed` are the tools that the model
    may call; `always` and `never` are those whose calls need the client's approval, or do not; of
    the others the client says nothing.
    """

    path: str
    label: str
    url: str | None = field(default=None, repr=False)
    headers: Mapping[str, str] = field(factory=dict, repr=False)
    allowed: ToolFilter = ANY
    always: ToolFilter | None = None
    never: ToolFilter | None = None

    def wish(self, tool: ServerTool) -> Wish | None:
        """Whether the client wants to approve the tool's calls. None: it does not say."""
        if self.always is not None and self.always.passes(tool):
            return "always"
        return "never" if self.never is not None and self.never.passes(tool) else None

    @property
    def named_tools(self) -> Mapping[str, str]:
        """The tools that the request names, each with its path in the request."""
        allowed = "allowed_tools" if self._is_list else "allowed_tools.tool_names"
        places = (
            (allowed, self.allowed),
            ("require_approval.always.tool_names", self.always),
            ("require_approval.never.tool_names", self.never),
        )
        return {
            name: f"{self.path}.{place}[{index}]"
            for place, chosen in places
            if chosen is not None
            for index, name in enumerate(chosen.tool_names or ())
        }

    _is_list: bool = False


def read_servers(given: Mapping[str, FlatTool]) -> tuple[McpServer, ...]:
    """The servers among the tools of a request, which are given by their paths. Raises
    `InvalidRequest`."""
    servers: dict[str, McpServer] = {}
    for path, tool in given.items():
        if tool.type != "mcp":
            continue
        server = _read(path, tool)
        if server.label in servers:
            raise invalid(
                f"{path}.server_label is that of another tool too.", f"{path}.server_label"
            )
        servers[server.label] = server
        if len(servers) > MAX_SERVERS:
            raise invalid(f"A request may name at most {MAX_SERVERS} MCP servers.", path)
    return tuple(servers.values())


def _read(path: str, tool: FlatTool) -> McpServer:
    for name in ("connector_id", "tunnel_id"):
        if getattr(tool, name) is not None:
            raise unsupported(
                f"{name} names a service of OpenAI's, which is not reached from here: give the"
                " server_label of a server of the gateway's.",
                f"{path}.{name}",
            )
    label = tool.server_label
    if label is None:
        raise missing(f"{path}.server_label")
    if not _LABEL.fullmatch(label):
        raise invalid(
            f"{path}.server_label must be 1 to 64 letters, digits, _ and -.",
            f"{path}.server_label",
        )
    allowed, approval = tool.allowed_tools, tool.require_approval
    always: ToolFilter | None = None
    never: ToolFilter | None = None
    if isinstance(approval, ApprovalFilters):
        always, never = approval.always, approval.never
    elif approval is not None:
        if approval not in ("always", "never"):
            raise invalid(
                f"{path}.require_approval must be always, never or an object.",
                f"{path}.require_approval",
            )
        always, never = (ANY, None) if approval == "always" else (None, ANY)
    return McpServer(
        path=path,
        label=label,
        url=tool.server_url,
        headers=_headers(tool, path),
        allowed=ToolFilter(allowed) if isinstance(allowed, tuple) else allowed or ANY,
        always=always,
        never=never,
        is_list=isinstance(allowed, tuple),
    )


def _headers(tool: FlatTool, path: str) -> Mapping[str, str]:
    """What goes to the server with each request. No error repeats a value."""
    headers: dict[str, str] = {}
    for name, value in (tool.headers or {}).items():
        if not _HEADER.fullmatch(name):
            raise invalid(f"{path}.headers has a name that no header can have.", f"{path}.headers")
        if not isinstance(value, str) or not _HEADER_VALUE.fullmatch(value):
            raise invalid(
                f"{path}.headers.{name} must be text that a header can have.",
                f"{path}.headers.{name}",
            )
        headers[name.lower()] = value
    if tool.authorization is not None:
        if "authorization" in headers:
            raise invalid(
                f"{path} has an authorization, and another among its headers.",
                f"{path}.authorization",
            )
        if not _HEADER_VALUE.fullmatch(tool.authorization):
            raise invalid(
                f"{path}.authorization must be text that a header can have.",
                f"{path}.authorization",
            )
        headers["authorization"] = f"Bearer {tool.authorization}"
    if headers and tool.server_url is None:
        raise invalid(
            f"{path} names a server of the gateway's, which is reached as its operator says:"
            " headers and authorization go with a server_url.",
            f"{path}.headers" if tool.headers else f"{path}.authorization",
        )
    return headers
