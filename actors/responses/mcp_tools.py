"""The MCP servers that a response names: their tools, and the calls that its client has approved.

Knows: which tools of which servers a turn gets, which of them need the client's approval, and which
calls are made before a turn. Refuses to know: how a server is reached (`actors.mcp`), and how a
call that the model makes in a turn is permitted (`actors.session.hosted`).

A tool that needs approval is offered as a client's: so its call ends the turn as that of a function
does, and waits in the conversation for the client, past restarts. What the client says is the
result of that call: what the server answers to it, once it is approved. The server is asked before
the turn goes on, once for each request for approval: what came of it is remembered, and a request
that is sent again gets the same.

The operator's rules come first: what they deny is denied; what they allow needs no approval, unless
the client wants to approve it; for all else it is needed. Of a server that the request names by its
URL, the request decides, unless the operator denies.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from attrs import evolve

from ...schemas.errors import InvalidRequest, invalid
from ...schemas.mcp_config import name_error
from ...schemas.mcp_connection import Connection, origin_of
from ...schemas.mcp_tools import ServerTool
from ...schemas.message import Checked, Message, ToolResult, check_results
from ...schemas.openai.foreign_items import unknown_approval
from ...schemas.openai.mcp_servers import McpServer
from ...schemas.openai.responses import ResponseTurn
from ...schemas.turn import HostedTool, Setup, Tool
from ...schemas.turn_items import (
    MAX_ACTIVITY_OUTPUT,
    ActivityDelta,
    ActivityEnded,
    ActivityStarted,
    ListedTool,
    ToolsListed,
    TurnItem,
)
from ..mcp.server import ServerState
from .approved_calls import Approved

if TYPE_CHECKING:
    from ..gateway import Gateway

# -- which tools a turn has ------------------------------------------------------------------------


async def resolve(gateway: Gateway, request: ResponseTurn, owner: str) -> ResponseTurn:
    """`request` with the tools of the servers that it names. A server at a URL is connected to as
    `owner`'s. Raises `InvalidRequest`, `Overloaded`."""
    if not request.servers:
        return request
    offers = gateway.mcp_host.offers(Setup(request.model or ""))  # not what is denied altogether
    states = {state.name: state for state in gateway.mcp.states()}
    hosted: list[HostedTool] = []
    asked: list[Tool] = []
    lists: list[ToolsListed] = []
    by_url: list[HostedTool] = []
    taken = {tool.name for tool in request.tools or ()}
    for server in request.servers:
        _check_server(gateway, server)
    for server in request.servers:
        connection = _connection(server, owner)
        if connection is None:
            state = states.get(server.label)
            tools = [tool for tool in offers if tool.source.server == server.label]
        else:
            state, tools = await _of_url(gateway, connection)
        if state is not None and state.state != "ready":
            reason = f": {state.reason}" if state.reason else ""
            error = f"The MCP server {server.label} is not ready ({state.state}){reason}."
            lists.append(ToolsListed(server.label, error=error))
            continue
        _check_tools(server, tools)
        tools = [tool for tool in tools if server.allowed.passes(tool.source)]
        lists.append(ToolsListed(server.label, tuple(_listed(tool.source) for tool in tools)))
        by_url += [tool for tool in tools if tool.source.connection is not None]
        for tool in tools:
            if tool.name in taken:
                continue  # the client has one of that name
            if _needs_approval(gateway, server, tool):
                asked.append(Tool(tool.name, tool.description, tool.parameters, form=tool.form))
            else:
                hosted.append(tool)
    choice = request.options.tool_choice
    tools_there = {tool.name for tool in (*hosted, *asked, *(request.tools or ()))}
    if choice.name is not None and choice.name not in tools_there:
        raise invalid(f"No tool is called {choice.name}.", "tool_choice.name")
    return evolve(
        request,
        tools=(*(request.tools or ()), *asked),
        hosted=tuple(hosted),
        lists=tuple(lists),
        by_url=tuple(by_url),
        servers=(),  # their headers are of no use any more
        cacheable=False,
    )


def _check_server(gateway: Gateway, server: McpServer) -> None:
    if server.url is not None:
        _check_url(gateway, server, f"{server.path}.server_url")
        return
    if server.label not in gateway.mcp.names:
        names = ", ".join(gateway.mcp.names[:32]) or "none"
        raise invalid(
            f"There is no MCP server {server.label} here. There are: {names}.",
            f"{server.path}.server_label",
        )


def _check_url(gateway: Gateway, server: McpServer, param: str) -> None:
    if gateway.mcp.connections is None:
        raise invalid("MCP is not enabled here (mcp.enabled), so that no server is reached.", param)
    label = server.label
    if label in gateway.mcp.names or label in gateway.mcp.per_conversation:
        raise invalid(
            f"{label} is a server of the gateway's: it has its own URL. Choose another"
            " server_label, or leave out server_url.",
            param,
        )
    reason = name_error(label)
    if reason is not None:
        raise invalid(f"server_label {reason}.", f"{server.path}.server_label")
    origin = origin_of(server.url or "")
    if origin is None:
        raise invalid("server_url must be a URL that begins with http:// or https://.", param)
    if origin not in gateway.settings.mcp.allowed_urls:
        raise InvalidRequest(
            "The operator has not allowed the origin of server_url (mcp.allowed_urls).",
            code="url_not_allowed",
            param=param,
        )


def _connection(server: McpServer, owner: str) -> Connection | None:
    if server.url is None:
        return None
    return Connection(owner, server.label, server.url, frozenset(server.headers.items()))


async def _of_url(gateway: Gateway, connection: Connection) -> tuple[ServerState, list[HostedTool]]:
    connections = gateway.mcp.connections
    assert connections is not None
    state, tools = await connections.list_tools(connection)
    offered = (tool for tool in tools if not gateway.mcp_host.denies(tool))
    return state, [HostedTool.of(tool) for tool in offered]


def _check_tools(server: McpServer, tools: Sequence[HostedTool]) -> None:
    names = {tool.source.name for tool in tools}
    for name, path in server.named_tools.items():
        if name not in names:
            raise invalid(f"The MCP server {server.label} has no tool {name[:100]}.", path)


def _needs_approval(gateway: Gateway, server: McpServer, tool: HostedTool) -> bool:
    if tool.source.connection is not None:
        return server.wish(tool.source) != "never"
    match gateway.mcp_host.decide(tool, ()):
        case "deny":
            return False  # the call is refused when it is made
        case "allow":
            return server.wish(tool.source) == "always"
        case "ask":
            return True


def _listed(tool: ServerTool) -> ListedTool:
    return ListedTool(tool.name, tool.description, tool.schema, tool.read_only)


# -- calls that were approved ----------------------------------------------------------------------


async def make_approved(
    gateway: Gateway, request: ResponseTurn, history: Sequence[Message]
) -> tuple[ResponseTurn, tuple[TurnItem, ...]]:
    """Make the calls that the client has approved: the request with what came of them, and that as
    items of the answer. `history` ends with the calls that wait, unless the request has them.
    Raises `InvalidRequest` before any call is made, if there is no such call; `Conflict`. Calls are
    made one after another, as the model gave them.
    """
    if not request.approvals:
        return request, ()
    waiting = [*_waiting(request, history)]
    results: dict[str, ToolResult] = {}

    async def make(each: Approved) -> None:
        results[each.call.id] = await gateway.approved_calls.once(
            request.owner, each, request.conversation_id or "", request.by_url
        )

    for each in waiting:
        await make(each)
    messages = Checked(_replaced(message, results) for message in request.messages)
    items = (item for each in waiting for item in _items(each, results[each.call.id]))
    return evolve(request, messages=messages, approvals={}), tuple(items)


def _waiting(request: ResponseTurn, history: Sequence[Message]) -> Iterator[Approved]:
    said = (*history[-1:], *request.messages)
    calls = {call.id: call for message in said for call in message.calls}
    if not any(message.role == "assistant" for message in request.messages):
        waits = tuple(call.id for message in history[-1:] for call in message.calls)
        check_results(request.messages, waits, lambda _: "input")
    for message in request.messages:
        for result in message.results:
            approval = result.approval
            if approval is None or approval.request_id not in request.approvals:
                continue
            path = request.approvals[approval.request_id]
            call = calls.get(result.call_id)
            if call is None or call.form is None or call.form.server is None:
                raise unknown_approval(approval.request_id, f"{path}.approval_request_id")
            yield Approved(call, result, f"{path}.approval_request_id")


def _replaced(message: Message, results: dict[str, ToolResult]) -> Message:
    if not any(result.call_id in results for result in message.results):
        return message
    content = (
        results.get(block.call_id, block) if isinstance(block, ToolResult) else block
        for block in message.content
    )
    return Message(message.role, tuple(content))


def _items(approved: Approved, result: ToolResult) -> Iterator[TurnItem]:
    call = approved.call
    yield ActivityStarted(call.id, call.name, call.form, approved.request_id)
    yield ActivityDelta(call.id, call.arguments or "{}")
    text = "".join(block for block in result.content if isinstance(block, str))
    yield ActivityEnded(call.id, text[:MAX_ACTIVITY_OUTPUT], result.is_error)


def lists_of(request: ResponseTurn, known: Sequence[str]) -> tuple[ToolsListed, ...]:
    """The lists that the client has not received yet."""
    return tuple(each for each in request.lists if each.server not in {*known, *request.listed})
