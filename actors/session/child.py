"""The present child, as its session's machine knows it: what it was told, and what it owes.

Knows: the setup it took, its settings, what it holds of the conversation, the control requests it
has not answered, its calls of the client's tools, its signs of life, its bill. Refuses to know:
phases, turns, and the process behind it (`transport.process.child`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from attrs import define, evolve, field

from ...schemas.claude import input as lines
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
from .permissions import NOBODY, PermissionRequests
from .tools import ToolCalls
from .usage import Ledger

INITIALIZE = "initialize"
SETTINGS = "settings"


@define(eq=False)
class ChildState:
    """A child from the moment it is ready until it is gone. Times are points in time, in seconds.

    `heard` is its last sign of life, or when it was last given something to do; `billed` the part
    of its running total that was told already, in US dollars; `bases` what its next total may go on
    from. `extra`: what it holds of the
    conversation beyond the transcript that the conversation would be resumed from; `before`: what
    that will be if it takes back `asked`, the user message that it was last told to answer (None
    while it is being told the history, and once it has taken that back); `undone`: the same, beyond
    the transcript that the last turn began with, once that has ended. `limit`: how its account's
    limits stand, as it last said.
    """

    setup: Setup
    ready: float
    heard: float
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
    desk: ToolCalls = field(init=False)
    leave: PermissionRequests = field(factory=PermissionRequests)
    _settings: Mapping[str, Any] = PLAIN
    _server: str | None = None  # that it has asked for the client's tools
    _shows_thinking: bool = False
    _told: Usage = field(factory=Usage)  # of the turn it works on, told to a caller already

    def __attrs_post_init__(self) -> None:
        self.desk = ToolCalls(self.setup)
        if self.setup.tools or self.setup.schema is not None:
            self._server = lines.TOOL_SERVERS[0]

    # -- what it is told ---------------------------------------------------------------------------

    def write(self, line: bytes) -> Write:
        self.frozen = False
        return Write(line)

    def write_all(self, all_lines: Iterable[bytes]) -> list[Write]:
        return [self.write(line) for line in all_lines]

    def initialize(self) -> Write:
        return self.write(lines.initialize(INITIALIZE, self.setup))

    def can_become(self, setup: Setup) -> bool:
        """Whether it can take on this setup too: other tools, or another form of the answer."""
        return evolve(setup, tools=self.setup.tools, schema=self.setup.schema) == self.setup

    def become(self, setup: Setup) -> Write:
        first, second = lines.TOOL_SERVERS
        self._server = second if self._server == first else first
        self.setup, self.desk = setup, ToolCalls(setup)
        return self.write(lines.set_server(SETTINGS, self._server))

    def shape(
        self, options: Options, messages: Sequence[Mapping[str, Any]] | None = None
    ) -> list[Write]:
        """Give it the settings for a turn, as far as it has others. `messages` are sent to the API
        in place of its own."""
        written = []
        settings = encode_settings(options, self.setup, messages)
        if settings != self._settings:
            self._settings = settings
            written.append(self.write(lines.apply_settings(SETTINGS, settings)))
        if options.reasoning and not self._shows_thinking:
            self._shows_thinking = True
            written.append(self.write(lines.show_thinking(SETTINGS)))
        return written

    def answer_calls(self, results: Iterable[ToolResult]) -> list[Write]:
        return self.write_all(self.desk.give(results))

    def rewind(self) -> Write:
        """It takes back the message that it was last asked, whether it has answered it or not."""
        assert self.asked is not None
        self.desk.forget()
        self.leave.forget()
        self._told = Usage()
        self.rewinding = f"rewind {self.asked}"
        return self.write(lines.rewind(self.rewinding, self.asked))

    def rewound(self) -> None:
        self.extra, self.asked = self.before, None

    def settle(self) -> None:
        """Its transcript holds all that the conversation does."""
        self.undone, self.extra, self.before = self.before, (), ()

    def go_back(self) -> None:
        """The conversation is what it was before the last turn: so is what would be left."""
        self.before = self.undone

    def serve(self, asked: ControlAsked) -> list[Write]:
        """It asks for something, and waits for an answer."""
        if asked.mcp is not None:
            return self.write_all(self.desk.serve(asked))
        reason = f"{asked.subtype} is not served here"
        return [self.write(lines.refuse(asked.request_id, reason))]

    # -- what it needs leave for -------------------------------------------------------------------

    def request_permission(
        self, event: PermissionRequested, turn_id: str, now: float, seconds: float
    ) -> list[Action]:
        """It waits for leave, for so many seconds at most; where nobody is there, it has none."""
        if not event.heard:
            return self.refuse_permission(event)
        self.leave.open(event.asked, now + seconds)
        return [RequestPermission(turn_id, event.asked, seconds)]

    def refuse_permission(self, event: PermissionRequested) -> list[Action]:
        return [self.write(lines.deny(event.asked.request_id, NOBODY))]

    def answer_permission(
        self, reply: PermissionReply, now: float
    ) -> tuple[list[Action], tuple[str, ...]]:
        """Somebody has answered; also returns the rules that hold from now on."""
        answer = self.leave.answer(reply)
        if answer is None:
            return [], ()
        self.heard = now
        behavior = "allow" if answer.allowed else "deny"
        settled = PermissionSettled(reply.request_id, behavior, reply.by)
        return [self.write(answer.line), settled], answer.rules

    def cancel_permission(self, request_id: str) -> list[Action]:
        """It does not need it any more."""
        return (
            [PermissionSettled(request_id, "deny", "turn")] if self.leave.cancel(request_id) else []
        )

    def expire_permissions(self, now: float) -> list[Action]:
        self.heard = now
        actions: list[Action] = []
        for request_id, line in self.leave.expire(now):
            actions += [self.write(line), PermissionSettled(request_id, "deny", "timeout")]
        return actions

    # -- what it answers ---------------------------------------------------------------------------

    def take_answer(self, answer: ControlAnswer) -> str | None:
        """It has answered to what it was set up with, or to settings. Returns its fault."""
        if answer.request_id == INITIALIZE and not self.initialized:
            self.initialized = answer.error is None
            return answer.error
        return answer.error if answer.request_id == SETTINGS else None

    def awaits_rewind(self, answer: ControlAnswer) -> bool:
        return answer.request_id == self.rewinding

    def tell(self, usage: Usage) -> None:
        """A part of the turn that it works on has ended for a caller: so much was told of it."""
        self._told += usage

    def bill(self, result: TurnResult, ledger: Ledger) -> Usage:
        """The usage of the turn that `result` ends, without what was told of it already, and with
        its share of the running total; an agent's with what its subagents took.

        Where the result has the total in dollars alone: a child that resumes may go on with the
        total of its session or begin at zero, depending on how its predecessor ended. A total below
        what was billed has begun anew.
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
        usage, self._told = usage - self._told, Usage()
        return evolve(usage, cost_usd=cost)
