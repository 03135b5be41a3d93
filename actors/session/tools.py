"""The client's tools in a present child: what it asks of them, and what is still to be answered.

Knows: which call the child waits for, and the results that came before the child asked. Refuses to
know: phases and turns, and what a call is told to the client as (`actors.session.answer`).
"""

from __future__ import annotations

from collections.abc import Iterable

from ...schemas.claude import input as lines
from ...schemas.claude import mcp
from ...schemas.claude.mcp import CallAsked
from ...schemas.claude.output import ControlAsked
from ...schemas.message import ToolResult
from ...schemas.turn import Setup


class ToolCalls:
    """The MCP server of one child. A call is answered once, whichever comes first: the child's
    asking, or the result."""

    def __init__(self, setup: Setup) -> None:
        self._tools = mcp.offered(setup)
        self._asked: dict[str, tuple[str, CallAsked]] = {}  # by call id: the request, the call
        self._given: dict[str, ToolResult | str] = {}  # a result, or why there is none

    def __repr__(self) -> str:
        return f"<ToolCalls open={sorted(self._asked)}>"

    def serve(self, asked: ControlAsked) -> list[bytes]:
        """Answer what can be answered now."""
        assert asked.mcp is not None
        answer = mcp.serve(asked.mcp, self._tools)
        if not isinstance(answer, CallAsked):
            return [lines.answer_mcp(asked.request_id, answer)]
        self._asked[answer.call_id] = asked.request_id, answer
        return self._meet()

    def give(self, results: Iterable[ToolResult]) -> list[bytes]:
        """Results have come."""
        self._given |= {result.call_id: result for result in results}
        return self._meet()

    def reject(self, call_id: str, reason: str) -> list[bytes]:
        """This call is not passed on; the model is told why."""
        self._given[call_id] = reason
        return self._meet()

    def forget(self) -> None:
        """The turn is over: nobody waits for anything any more."""
        self._asked.clear()
        self._given.clear()

    def _meet(self) -> list[bytes]:
        """Answer the calls for which there is a result. (The model is given the results of
        parallel calls in the order of the calls, whatever the order of the answers.)"""
        met = [call_id for call_id in self._given if call_id in self._asked]
        return [self._answer(call_id) for call_id in met]

    def _answer(self, call_id: str) -> bytes:
        request_id, asked = self._asked.pop(call_id)
        match self._given.pop(call_id):
            case str(reason):
                return lines.answer_mcp(request_id, mcp.failure(asked, reason))
            case result:
                return lines.answer_mcp(request_id, mcp.result(asked, result))
