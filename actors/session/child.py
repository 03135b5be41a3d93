"""The present child, as its session's machine knows it: the lines it got, and the answers it owes.

Knows: its setup and settings, the messages it holds, its open control requests, its calls of the
client's tools, its permission requests, its last output, its running cost. Refuses to know: phases,
turns, and the process behind it (`transport.process.child`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from attrs import define, evolve, field

from ...schemas.claude import input as cli_input
from ...schemas.claude.lines import Line
from ...schemas.claude.output import ControlAnswer, ControlAsked, LimitState, TurnResult
from ...schemas.claude.sampling import PLAIN, encode_settings
from ...schemas.claude.upstream import NO_LIMIT
from ...schemas.message import Message, ToolResult
from ...schemas.turn import Options, Setup, Usage
from .events import (
    Action,
    PermissionReply,
    PermissionRequested,
    PermissionSettled,
    RequestPermission,
    Write,
)
from .permissions import NO_CLIENT, PermissionRequests
from .tools import ToolCalls
from .usage import Ledger

INITIALIZE = "initialize"
SETTINGS = "settings"


@define(eq=False)
class ChildState:
    """A child from the moment it is ready until it is gone. Times are points in time, in seconds.

    `active_at` is when it last wrote something, or got something to do. `billed` is the part of its
    running total that ended turns have reported, in US dollars; `bases` the totals from which its
    next total may continue. `asked` is the user message that it last got to answer (None while
    it gets the history, and after a rewind). `extra` are the messages it holds beyond the
    transcript at the conversation's resume point, `before` what `extra` will be after a rewind of
    `asked`, and `undone` what `before` was at the start of the last turn, once that has ended.
    `limit` is the state of its account's limits, as it last reported it.
    """

    setup: Setup
    ready: float
    active_at: float
    billed: float
    bases: Sequence[Usage] = ()
    extra: tuple[Message, ...] = ()
    before: tuple[Message, ...] = ()
    undone: tuple[Message, ...] = ()
    initialized: bool = False
    frozen: bool = False
    asked: str | None = None
    rewinding: str | None = None
    limit: LimitState = NO_LIMIT
    tool_calls: ToolCalls = field(init=False)
    permissions: PermissionRequests = field(factory=PermissionRequests)
    _settings: Mapping[str, Any] = PLAIN
    _server: str | None = None  # the MCP server that has the client's tools
    _shows_thinking: bool = False
    _billed_part: Usage = field(
        factory=Usage
    )  # of its present turn, already reported to the client

    def __attrs_post_init__(self) -> None:
        self.tool_calls = ToolCalls(self.setup)
        if self.setup.tools or self.setup.schema is not None:
            self._server = cli_input.TOOL_SERVERS[0]

    # -- lines to it -------------------------------------------------------------------------------

    def write(self, line: Line) -> Write:
        self.frozen = False
        return Write(line)

    def write_all(self, all_lines: Iterable[Line]) -> list[Write]:
        return [self.write(line) for line in all_lines]

    def initialize(self) -> Write:
        return self.write(cli_input.initialize(INITIALIZE, self.setup))

    def can_reconfigure(self, setup: Setup) -> bool:
        """Whether it can change to this setup: other tools, or another answer schema."""
        return evolve(setup, tools=self.setup.tools, schema=self.setup.schema) == self.setup

    def reconfigure(self, setup: Setup) -> Write:
        first, second = cli_input.TOOL_SERVERS
        self._server = second if self._server == first else first
        self.setup, self.tool_calls = setup, ToolCalls(setup)
        return self.write(cli_input.set_server(SETTINGS, self._server))

    def configure(
        self, options: Options, messages: Sequence[Mapping[str, Any]] | None = None
    ) -> list[Write]:
        """Write the settings of a turn that differ from its own. With `messages` it sends the API
        these in place of its own."""
        written = []
        settings = encode_settings(options, self.setup, messages)
        if settings != self._settings:
            self._settings = settings
            written.append(self.write(cli_input.apply_settings(SETTINGS, settings)))
        if options.reasoning and not self._shows_thinking:
            self._shows_thinking = True
            written.append(self.write(cli_input.show_thinking(SETTINGS)))
        return written

    def answer_calls(self, results: Iterable[ToolResult]) -> list[Write]:
        return self.write_all(self.tool_calls.give(results))

    def rewind(self) -> Write:
        """Have it forget `asked` and all that follows, answered or not."""
        assert self.asked is not None
        self.tool_calls.forget()
        self.permissions.forget()
        self._billed_part = Usage()
        self.rewinding = f"rewind {self.asked}"
        return self.write(cli_input.rewind(self.rewinding, self.asked))

    def rewound(self) -> None:
        self.extra, self.asked = self.before, None

    def settle(self) -> None:
        """A turn is complete: its transcript holds the whole conversation."""
        self.undone, self.extra, self.before = self.before, (), ()

    def go_back(self) -> None:
        """The conversation went back to before the last turn: so does what a rewind leaves."""
        self.before = self.undone

    def serve(self, asked: ControlAsked) -> list[Write]:
        """Answer a control request of its own, for which it waits."""
        if asked.mcp is not None:
            return self.write_all(self.tool_calls.serve(asked))
        reason = f"{asked.subtype} is not served here"
        return [self.write(cli_input.refuse(asked.request_id, reason))]

    # -- permission requests -----------------------------------------------------------------------

    def request_permission(
        self, event: PermissionRequested, turn_id: str, now: float, seconds: float
    ) -> list[Action]:
        """Ask the clients, for so many seconds at most; deny at once where none is connected."""
        if not event.answerable:
            return self.refuse_permission(event)
        self.permissions.open(event.asked, now + seconds)
        return [RequestPermission(turn_id, event.asked, seconds)]

    def refuse_permission(self, event: PermissionRequested) -> list[Action]:
        return [self.write(cli_input.deny(event.asked.request_id, NO_CLIENT))]

    def answer_permission(
        self, reply: PermissionReply, now: float
    ) -> tuple[list[Action], tuple[str, ...]]:
        """A client has answered; also returns the rules that hold from now on."""
        answer = self.permissions.answer(reply)
        if answer is None:
            return [], ()
        self.active_at = now
        behavior = "allow" if answer.allowed else "deny"
        settled = PermissionSettled(reply.request_id, behavior, reply.by)
        return [self.write(answer.line), settled], answer.rules

    def cancel_permission(self, request_id: str) -> list[Action]:
        """It withdraws the request."""
        return (
            [PermissionSettled(request_id, "deny", "turn")]
            if self.permissions.cancel(request_id)
            else []
        )

    def expire_permissions(self, now: float) -> list[Action]:
        self.active_at = now
        actions: list[Action] = []
        for request_id, line in self.permissions.expire(now):
            actions += [self.write(line), PermissionSettled(request_id, "deny", "timeout")]
        return actions

    # -- its answers -------------------------------------------------------------------------------

    def take_answer(self, answer: ControlAnswer) -> str | None:
        """It has answered the initialize, or settings. Returns its error, if any."""
        if answer.request_id == INITIALIZE and not self.initialized:
            self.initialized = answer.error is None
            return answer.error
        return answer.error if answer.request_id == SETTINGS else None

    def awaits_rewind(self, answer: ControlAnswer) -> bool:
        return answer.request_id == self.rewinding

    def bill_part(self, usage: Usage) -> None:
        """The client got this usage with its tool calls, in the middle of the child's turn."""
        self._billed_part += usage

    def bill(self, result: TurnResult, ledger: Ledger) -> Usage:
        """The usage of the turn that `result` ends, less the part already reported, with its share
        of the running cost; an agent's with that of its subagents.

        If the result has the total in dollars only: a child that resumes continues the total of its
        session or begins at zero, depending on how its predecessor ended. A total below `billed`
        has begun at zero.
        """
        total = result.total_cost_usd
        cost = total - self.billed if total >= self.billed else total
        self.billed = total
        share, usage = ledger.share(result, self.bases), result.usage
        if result.total is not None:
            self.bases = (result.total,)
        if share is not None:
            cost = share.cost_usd
            usage = share if self.setup.profile == "agent" else usage
        usage, self._billed_part = usage - self._billed_part, Usage()
        return evolve(usage, cost_usd=cost)
