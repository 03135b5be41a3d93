"""The tools in a present child: the MCP requests of its calls, and the results for them.

Here tool results reach the child: a client's, and those of MCP servers, which the gateway asks.
Knows: which calls the child waits for, and the results that came before the child asked. Refuses to
know: phases and turns, how a call is delivered to the client (`actors.session.answer`), and who may
call what (`actors.session.hosted`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from attrs import frozen

from ...schemas.claude import input as cli_input
from ...schemas.claude import mcp
from ...schemas.claude.lines import Line
from ...schemas.claude.mcp import CallAsked
from ...schemas.claude.output import ControlAsked
from ...schemas.message import ToolResult
from ...schemas.turn import HostedTool, Setup


@frozen
class HostedCall:
    """The model calls a tool that the gateway calls for it."""

    call_id: str
    tool: HostedTool
    arguments: Mapping[str, Any]


class ToolCalls:
    """The MCP server of one child. It answers each call once, as soon as both are there: the
    child's request and the result, in either order."""

    def __init__(self, setup: Setup) -> None:
        self._tools = mcp.offered(setup)
        self._asked: dict[str, tuple[str, CallAsked]] = {}  # by call id: the request, the call
        # What came of them: a client's result, an MCP server's, or why there is none.
        self._given: dict[str, ToolResult | Mapping[str, Any] | str] = {}

    def __repr__(self) -> str:
        return f"<ToolCalls open={sorted(self._asked)}>"

    def serve(self, asked: ControlAsked) -> list[Line] | HostedCall:
        """Answer the request, if that can be done now; else remember it. Returns the call, if it is
        the gateway's to make."""
        assert asked.mcp is not None
        answer = mcp.serve(asked.mcp, self._tools)
        if not isinstance(answer, CallAsked):
            return [cli_input.answer_mcp(asked.request_id, answer)]
        self._asked[answer.call_id] = asked.request_id, answer
        tool = self._tools.get(answer.name)
        if isinstance(tool, HostedTool):
            return HostedCall(answer.call_id, tool, answer.arguments)
        return self._meet()

    def give(self, results: Iterable[ToolResult]) -> list[Line]:
        """The client has brought results: answer the requests that wait for them."""
        self._given |= {result.call_id: result for result in results}
        return self._meet()

    def pass_on(self, call_id: str, result: Mapping[str, Any]) -> list[Line]:
        """An MCP server has answered: so is the child, unless it does not wait for that any
        more."""
        if call_id not in self._asked:
            return []
        self._given[call_id] = result
        return self._meet()

    def reject(self, call_id: str, reason: str) -> list[Line]:
        """This call does not go to the client; the model gets `reason` as its result."""
        self._given[call_id] = reason
        return self._meet()

    def forget(self) -> None:
        """The turn is over, and its calls with it."""
        self._asked.clear()
        self._given.clear()

    def _meet(self) -> list[Line]:
        """Answer the calls that have a result, in the order in which the CLI asked for them. (It
        gives the model the results of parallel calls in the order of the calls, unless it has taken
        in a later one's answer before an earlier one's comes.)"""
        met = [call_id for call_id in self._asked if call_id in self._given]
        return [self._answer(call_id) for call_id in met]

    def _answer(self, call_id: str) -> Line:
        request_id, asked = self._asked.pop(call_id)
        match self._given.pop(call_id):
            case str(reason):
                return cli_input.answer_mcp(request_id, mcp.failure(asked, reason))
            case ToolResult() as result:
                return cli_input.answer_mcp(request_id, mcp.result(asked, result))
            case given:
                return cli_input.answer_mcp(request_id, mcp.passed_on(asked, given))
