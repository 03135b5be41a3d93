"""The number of input tokens of a request, without asking the model.

Knows: how a child gets a history without a prompt, and which part of the CLI's own count is the
client's. Refuses to know: HTTP, and where the history comes from.

Source: ``get_context_usage`` of the CLI's control protocol (tests/contract/test_token_count.py): it
has the API count each part of the context, and takes an estimate of its own where that fails.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from uuid import uuid4

import trio

from ...schemas.claude import input as cli_input
from ...schemas.claude.lines import Line
from ...schemas.claude.output import ControlAnswer, ControlAsked, TurnResult
from ...schemas.claude.upstream import control_error
from ...schemas.errors import ChildError, TurnTimeout
from ...schemas.message import Message
from ...schemas.turn import Setup
from ...transport.process.child import Child
from ..session.replay import Composition, compose
from ..session.tools import HostedCall, ToolCalls
from .pool import ChildPool

COUNT = "count"
INITIALIZE = "initialize"

NOT_SENT = "custom_agents"
"""The category of the CLI's count that is in no request of a plain model."""


async def count_tokens(
    pool: ChildPool, setup: Setup, messages: Sequence[Message], seconds: float
) -> int:
    """The tokens of `messages` (none, or the user's last) behind the system text and the tools of
    `setup`, a plain model's.

    It uses a child of its own, and kills it afterwards. Raises `GatewayError`: what keeps a child
    from coming, `TurnTimeout` after `seconds`, `ChildError` where the CLI cannot count.
    """
    child = (await pool.acquire(COUNT, None)).child
    try:
        with trio.fail_after(seconds):
            usage = await _Counting(child, setup, messages).run()
    except trio.TooSlowError:
        raise TurnTimeout(f"The CLI did not count within {seconds:g} seconds.") from None
    except EOFError:
        raise child.post_mortem() from None
    finally:
        child.kill()
        child.stop_reading()
    return _total(usage)


class _Counting:
    """One child, from its adoption to the answer."""

    def __init__(self, child: Child, setup: Setup, messages: Sequence[Message]) -> None:
        self._child = child
        self._setup = setup
        self._tool_calls = ToolCalls(setup)
        self._lacks_tools = setup.has_tools
        composition = (
            compose(messages, uuid4(), setup.model, asks=False) if messages else Composition()
        )
        self._batches = composition.batches
        self._busy = False  # with the last batch
        self._counting = False

    async def run(self) -> object:
        """The body of the CLI's answer. Raises `EOFError` where the child exits before that."""
        self._child.write(cli_input.initialize(INITIALIZE, self._setup))
        while True:
            self._go_on()
            for frame in await self._child.receive_frames():
                match frame:
                    case ControlAsked(mcp=mcp) if mcp is not None:
                        served = self._tool_calls.serve(frame)
                        # No model is asked, so none calls a tool.
                        self._write([] if isinstance(served, HostedCall) else served)
                        self._lacks_tools &= mcp.get("method") != "tools/list"
                    case TurnResult(is_error=True):
                        raise ChildError("The CLI could not take in what it has to count.")
                    case TurnResult():
                        self._busy = False
                    case ControlAnswer(_, _, str(error)):
                        raise control_error("The CLI could not count", error[:200])
                    case ControlAnswer(request_id, body) if request_id == COUNT:
                        return body

    def _go_on(self) -> None:
        """Write the next batch of the history, or ask for the count once all is written."""
        if self._busy or self._counting:
            return
        if self._batches:
            self._busy = True
            self._write(self._batches.popleft().lines)
        elif not self._lacks_tools:
            self._counting = True
            self._write([cli_input.context_usage(COUNT)])

    def _write(self, lines: Iterable[Line]) -> None:
        for line in lines:
            self._child.write(line)


def _total(usage: object) -> int:
    categories = usage.get("categories") if isinstance(usage, dict) else None
    if not isinstance(categories, list):
        raise ChildError("The CLI's count has a form that this gateway does not know.")
    return sum(
        int(each["tokens"])
        for each in categories
        if isinstance(each, dict) and each.get("kind") == "used" and each.get("id") != NOT_SENT
    )
