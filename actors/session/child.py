"""The present child, as its session's machine knows it: the lines it got, and the answers it owes.

Knows: its setup and settings, the messages it holds and where they can be cut, its open control
requests, its calls of the client's tools, its permission requests, its last output, its running
cost. Refuses to know: phases, turns, and the process behind it (`transport.process.child`).

**A child outlives its conversation.** A chat child that rests can be released: it is cut back to
what another conversation needs of it, to nothing at all or to a common beginning, and handed over.
Its `ChildState` goes along, since that alone says what the process holds, which system prompts it
received at its initialize (its palette), and which names of tool servers it may use again.

Example: the child holds [question, answer, another, answer]; its conversation rests. Another
conversation of the same client begins with [question, answer, other]. `cut_for` finds that the
cut before "another" leaves a beginning of it, 2 messages. `release` writes the cut. The child
answers that the message before it is an assistant's, which `is_released` checks; `hand_over` then
says that it holds 2 messages. The next conversation writes "other", and no more.

**Names of tool servers.** A child asks a server for its tools once. Under a name that comes back
before the model was asked without it, the child keeps the old tools beside the new ones, for good
(measured, 40 of 40). So a name that was given up is `_stale` until a model turn has begun, and only
then free again (`model_began`). A child without a free name cannot change its tools any more.

**Definitions of tools.** The CLI keeps what it first made of a tool for as long as it runs, by the
tool's name and schema: another description under the same name and schema never reaches the API,
whichever server it comes from (measured, always). So a child takes no tool that it knows otherwise
(`_knows_otherwise`): it would show one conversation the words of another. A tool with another
schema is another one to it: children that give answers by a schema serve one schema after another.
"""

from __future__ import annotations

import hashlib
import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Literal

from attrs import define, evolve, field, frozen

from ...schemas.claude import input as cli_input
from ...schemas.claude import mcp
from ...schemas.claude.limits import LimitState
from ...schemas.claude.lines import Line
from ...schemas.claude.models import listed_models
from ...schemas.claude.output import ControlAnswer, ControlAsked, TurnResult
from ...schemas.claude.sampling import PLAIN, ApiMessages, encode_settings
from ...schemas.claude.upstream import NO_LIMIT
from ...schemas.events import ModelsListed
from ...schemas.mcp_rules import Decision
from ...schemas.message import Message, ToolResult, agree, digest
from ...schemas.turn import ChildSource, Options, Setup, Usage
from .events import (
    Action,
    CallHosted,
    PermissionDenied,
    PermissionReply,
    PermissionRequested,
    PermissionSettled,
    RequestPermission,
    Write,
)
from .hosted import DENIED_BY_RULE, HostedCalls
from .permissions import NO_CLIENT, Answer, PermissionRequests
from .tools import HostedCall, ToolCalls
from .usage import Ledger

INITIALIZE = "initialize"
CLAIM = "claim"
SETTINGS = "settings"
SERVERS = "servers"
CONTEXT = "context"

MAX_CUT_TRIES = 3
"""How often a cut is asked for that the child refuses because it is busy."""

CUT_PAUSE = 0.03
"""Seconds before a busy child is asked for a cut again."""

MOST_TOOLS = 4096
"""Tools that a child remembers. One that received so many serves no more conversations with any."""

Signature = tuple[str, int, int]
"""A tool's name, and its schema as far as it tells it from others: `_signed`."""

_NOT_COUNTED = str.maketrans("", "", "0123456789+-.eE \n\r\t")

CutOutcome = Literal["done", "look", "busy", "refused"]
"""Of a release: it is done, it lacks a look at the context, it is to be asked for again in a
moment, or the child is in doubt."""

BUSY_REFUSALS = frozenset({"commands_queued", "turn_running", "state_changed", "persist_failed"})
"""Why a child may refuse a cut that it does not refuse a moment later."""


@frozen
class Cut:
    """A place where the child's messages can be cut: before the user message `uuid`, so that the
    first `held` messages of its conversation are left."""

    uuid: str
    held: int


@define
class Release:
    """What a release waits for. `keep`: so many messages are left. `request_id` names the cut that
    was asked for last; `is_cut` says whether it was done, `looked_early` whether the child looked
    at its context before that. `again_at`: when a busy child is asked once more."""

    keep: int
    tries: int = 0
    request_id: str = ""
    is_cut: bool = False
    looked_early: bool = False
    again_at: float = math.inf


@define(eq=False)
class ChildState:
    """A child from the moment it is ready until it is gone. Times are points in time, in seconds.

    `active_at` is when it last wrote something, or got something to do. `billed` is the part of its
    running total that ended turns have reported, in US dollars; `bases` the totals from which its
    next total may continue. `asked` is the user message that it last got to answer (None while
    it gets the history, and after a rewind). `held` are the messages it holds: an agent's, beyond
    the transcript at the conversation's resume point. `before` is what `held` will be after a
    rewind of `asked`, and `undone` what `before` was at the start of the last turn, once that has
    ended. `limit` is the state of its account's limits, as it last reported it.

    `palette` are the system prompts that it received at its initialize, by the names of agents
    (None: its one prompt stays). `cuts` are the places where its messages can be cut, in order.
    `source`: where it came from, for the turn that it gets next. `served` counts the conversations
    before the present one. `is_fixed`: it cannot serve another, because it began with a transcript,
    or because the API refused a request of it in a way that it may remember. `is_partial`: it
    holds less than `held`, whose beginning it was spared. `is_alike`: what it holds is only alike:
    the same words in other blocks, or without their beginning. `is_claiming`: it is a spare that
    has not said yet whether it takes the conversation. `beside`: the MCP servers that it starts
    itself.
    """

    setup: Setup
    ready: float
    active_at: float
    billed: float
    bases: Sequence[Usage] = ()
    held: tuple[Message, ...] = ()
    before: tuple[Message, ...] = ()
    undone: tuple[Message, ...] = ()
    initialized: bool = False
    frozen: bool = False
    asked: str | None = None
    rewinding: str | None = None
    limit: LimitState = NO_LIMIT
    palette: Mapping[str, str] | None = None
    source: ChildSource = "new"
    cuts: list[Cut] = field(factory=list)
    served: int = 0
    is_fixed: bool = False
    is_partial: bool = False
    is_alike: bool = False
    is_claiming: bool = False
    releasing: Release | None = None
    beside: Mapping[str, Mapping[str, Any]] = field(factory=dict)
    tool_calls: ToolCalls = field(init=False)
    permissions: PermissionRequests = field(factory=PermissionRequests)
    hosted: HostedCalls = field(factory=HostedCalls)
    _settings: Mapping[str, Any] = PLAIN
    _agent: str = cli_input.AGENT  # whose prompt it has, of the palette
    _server: str | None = None  # the MCP server that has its tools
    _names: deque[str] = field(factory=lambda: deque(cli_input.TOOL_SERVERS))  # free ones
    _told: dict[Signature, bytes] = field(factory=dict)  # what it received of each tool
    _stale: list[str] = field(factory=list)  # to be free once the model was asked without them
    _shows_thinking: bool = False
    _billed_part: Usage = field(
        factory=Usage
    )  # of its present turn, already reported to the client

    def __attrs_post_init__(self) -> None:
        self.tool_calls = ToolCalls(self.setup)
        if self.setup.has_tools:
            self._server = self._names.popleft()
        self._tell()

    # -- lines to it -------------------------------------------------------------------------------

    def write(self, line: Line) -> Write:
        self.frozen = False
        return Write(line)

    def write_all(self, all_lines: Iterable[Line]) -> list[Write]:
        return [self.write(line) for line in all_lines]

    def initialize(self) -> list[Write]:
        named = not self.beside
        first = cli_input.initialize(INITIALIZE, self.setup, self.palette, with_server=named)
        return self.write_all([first, *self._servers_beside()])

    def _servers_beside(self) -> list[Line]:
        """All its servers, where it starts some itself: later than `initialize` can name them, for
        a file that is wrong ends the process."""
        return [cli_input.set_server(SERVERS, self._server, self.beside)] if self.beside else []

    def claim(self, place: str, grants: Sequence[str]) -> list[Write]:
        """Make a spare the agent of its setup, which works in `place` and may do what `grants`
        allow: what a child that is started for the conversation gets by its flags, and its
        initialize."""
        self.is_claiming = True
        lines: list[Line] = [
            cli_input.claim_session(CLAIM, place),
            cli_input.initialize(INITIALIZE, self.setup, with_server=not self.beside),
            cli_input.set_model(SETTINGS, self.setup.model),
            *self._servers_beside(),
        ]
        if grants:
            lines.append(cli_input.allow_tools(SETTINGS, grants))
        return self.write_all(lines)

    def take_claim(self, answer: ControlAnswer) -> str | None:
        """Why it does not take the conversation, if this answer says so."""
        if answer.request_id != CLAIM or not self.is_claiming:
            return None
        self.is_claiming = False
        return answer.error

    def can_reconfigure(self, setup: Setup) -> bool:
        """Whether it can change to this setup: other tools, or another answer schema; and while it
        holds no message, another model, and another system prompt that it knows."""
        own = self.setup
        same_tools = evolve(setup, tools=own.tools, schema=own.schema, hosted=own.hosted)
        if same_tools != own and (self.held or not self.knows(setup)):
            return False
        return self._can_take_tools(setup)

    def knows(self, setup: Setup) -> bool:
        """Whether it could change to this setup's model, prompt and tools, if it held nothing."""
        if setup.profile != "chat" or self.setup.profile != "chat":
            return False
        if not self._can_take_tools(setup):
            return False
        if self.palette is None:  # a prompt that came as such stays
            return setup.system == self.setup.system
        return self._agent_of(setup) is not None

    def _agent_of(self, setup: Setup) -> str | None:
        assert self.palette is not None
        found = (name for name, prompt in self.palette.items() if prompt == setup.system)
        return next(found, None)

    def _can_take_tools(self, setup: Setup) -> bool:
        """Whether it has a name for their server, and knows none of them otherwise."""
        if not setup.has_tools:
            return True
        named = bool(self._names) or not self._needs_server(setup)
        return named and len(self._told) < MOST_TOOLS and not self._knows_otherwise(setup)

    def _knows_otherwise(self, setup: Setup) -> bool:
        """Whether it received one of these tools with another description or strictness."""
        if not self._told:
            return False
        return any(self._told.get(sign, found) != found for sign, found in _signed(setup))

    def _tell(self) -> None:
        self._told |= _signed(self.setup)

    def _needs_server(self, setup: Setup) -> bool:
        return setup.has_tools and _tools_of(setup) != _tools_of(self.setup)

    def reconfigure(self, setup: Setup) -> list[Write]:
        """Change to a setup (`can_reconfigure`)."""
        written: list[Write] = []
        settings: dict[str, Any] = {}
        if setup.model != self.setup.model:
            settings["model"] = setup.model
        if setup.system != self.setup.system:
            self._agent = self._agent_of(setup) or self._agent
            # An agent brings the model that it was defined with.
            settings |= {"agent": self._agent, "model": setup.model}
        if settings:
            written.append(self.write(cli_input.apply_settings(SETTINGS, settings)))
        if _tools_of(setup) != _tools_of(self.setup):
            if self._server is not None:
                self._stale.append(self._server)
            self._server = self._names.popleft() if setup.has_tools else None
            written.append(self.write(cli_input.set_server(SERVERS, self._server, self.beside)))
        self.setup, self.tool_calls = setup, ToolCalls(setup)
        self._tell()
        return written

    def model_began(self) -> None:
        """The model was asked: the names that were given up can be used again."""
        if self._stale:
            self._names += self._stale
            self._stale.clear()

    def configure(
        self, options: Options, messages: ApiMessages | None = None, *, later: bool = False
    ) -> list[Write]:
        """Write the settings of a turn that differ from its own. With `messages` it sends the API
        these in place of its own; with `later` they are made when they are written."""
        written = []
        settings = encode_settings(options, self.setup, messages, later=later)
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
        self._forget_turn()
        self.rewinding = f"rewind {self.asked}"
        return self.write(cli_input.rewind(self.rewinding, self.asked))

    def _forget_turn(self) -> None:
        self.tool_calls.forget()
        self.permissions.forget()
        self.hosted.forget()
        self._billed_part = Usage()

    def rewound(self) -> None:
        while self.cuts and self.cuts.pop().uuid != self.asked:
            pass
        self.held, self.asked = self.before, None

    def settle(self, held: tuple[Message, ...]) -> None:
        """A turn is complete, and `held` are the messages that it holds now: of an agent, none
        beyond its transcript."""
        self.undone, self.held = self.before, held
        if not held:
            self.before = ()

    def go_back(self) -> None:
        """The conversation went back to before the last turn: so does what a rewind leaves."""
        self.before = self.undone

    # -- from one conversation to another ----------------------------------------------------------

    @property
    def is_empty(self) -> bool:
        return not self.held

    @property
    def _whole(self) -> tuple[Message, ...]:
        """The messages up to its last cut, at least: in the middle of a turn, what it got of the
        history with that turn too."""
        return max(self.held, self.before, key=len)

    @property
    def can_be_released(self) -> bool:
        """Whether another conversation may have it: a plain model's child, in no doubt."""
        return (
            self.setup.profile == "chat"
            and self.initialized
            and not self.is_fixed
            and (bool(self.cuts) or self.is_empty)
            and self.releasing is None
        )

    def cut_for(
        self, setup: Setup, digests: Sequence[bytes], exact: Sequence[Message] | None = None
    ) -> int:
        """How many of its messages are a beginning of what these digests name and can be left: the
        messages before one of its cuts. 0: none. `exact`: the messages themselves, which it has to
        hold block by block."""
        usable = self.can_be_released and not self.is_partial
        if not usable or len(self.cuts) < 2 or not self._suits(setup):
            return 0
        if exact is not None and self.is_alike:
            return 0
        same = 0
        for message, asked in zip(self._whole, digests, strict=False):
            if digest(message) != asked:
                break
            if exact is not None and not agree(exact[same : same + 1], (message,)):
                break
            same += 1
        # Calls are not parted from their results: the CLI refuses that.
        return max((cut.held for cut in self.cuts if self._can_cut(cut.held, same)), default=0)

    def _can_cut(self, held: int, same: int) -> bool:
        return held <= same and not (held and self._whole[held - 1].calls)

    def _suits(self, setup: Setup) -> bool:
        same = (setup.profile, setup.model, setup.system) == (
            self.setup.profile, self.setup.model, self.setup.system,
        )  # fmt: skip
        return same and self._can_take_tools(setup)

    def release(self, keep: int) -> list[Write]:
        """Cut it back to its first `keep` messages (`cut_for`), or empty it (0). Of an emptied one,
        the context is looked at too."""
        self._forget_turn()
        self.releasing = Release(keep)
        return self.cut()

    def cut(self) -> list[Write]:
        """Ask for the cut of its release: now, or once more."""
        release = self.releasing
        assert release is not None
        release.tries += 1
        release.again_at, release.looked_early = math.inf, False
        if not self.cuts:  # its last turn was taken back: it holds nothing already
            release.is_cut = True
            return [self.look()]
        target = next(cut for cut in self.cuts if cut.held >= release.keep)
        release.request_id = f"release {target.uuid} {release.tries}"
        last = self.cuts[-1].uuid
        written = [self.write(cli_input.rewind(release.request_id, target.uuid, last))]
        return written if release.keep else [*written, self.look()]

    def look(self) -> Write:
        """Have it say what its context holds."""
        return self.write(cli_input.context_summary(CONTEXT))

    def hand_over(self) -> tuple[Line, ...]:
        """The release is done: it holds what is left. Returns the last lines for it: what was set
        for a turn becomes as it was."""
        release = self.releasing
        assert release is not None
        self.held = self._whole[: release.keep]
        self.cuts = [cut for cut in self.cuts if cut.held < release.keep]
        self.before, self.undone, self.asked, self.rewinding = (), (), None, None
        self.releasing = None
        self.served += 1
        self.frozen = False
        lines: list[Line] = []
        if self._settings != PLAIN:  # they may hold the whole history (`prompt`)
            self._settings = PLAIN
            lines.append(cli_input.apply_settings(SETTINGS, PLAIN))
        if self._shows_thinking:
            self._shows_thinking = False
            lines.append(cli_input.show_thinking(SETTINGS, shown=False))
        return tuple(lines)

    def serve(self, asked: ControlAsked) -> list[Write] | HostedCall:
        """Answer a control request of its own, for which it waits; or return the call of an MCP
        server's tool that it is (`serve_hosted`)."""
        if asked.mcp is None:
            reason = f"{asked.subtype} is not served here"
            return [self.write(cli_input.refuse(asked.request_id, reason))]
        served = self.tool_calls.serve(asked)
        return served if isinstance(served, HostedCall) else self.write_all(served)

    # -- calls of MCP servers' tools ---------------------------------------------------------------

    def serve_hosted(
        self, call: HostedCall, decision: Decision, turn_id: str | None, now: float, seconds: float
    ) -> list[Action]:
        """Make the call, as the rules say; where they say that clients are asked, ask those of the
        turn, for so many seconds at most (None: no client is connected)."""
        match decision:
            case "allow":
                return [self._call(call)]
            case "ask" if turn_id is not None:
                asked = self.hosted.ask(call)
                self.permissions.open(asked, now + seconds)
                return [RequestPermission(turn_id, asked, seconds)]
        reason = DENIED_BY_RULE if decision == "deny" else NO_CLIENT
        denied = PermissionDenied(call.tool.name, "rule" if decision == "deny" else "no_client")
        return [*self.write_all(self.tool_calls.reject(call.call_id, reason)), denied]

    def _call(self, call: HostedCall, *, asked: bool = False) -> CallHosted:
        self.hosted.begin(call)
        return CallHosted(call, asked)

    def take_hosted(self, call_id: str, result: Mapping[str, Any], now: float) -> list[Write]:
        """An MCP server has answered."""
        self.hosted.end(call_id)
        self.active_at = now
        return self.write_all(self.tool_calls.pass_on(call_id, result))

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
        denied = PermissionDenied(event.asked.tool, "no_client")
        return [self.write(cli_input.deny(event.asked.request_id, NO_CLIENT)), denied]

    def answer_permission(
        self, reply: PermissionReply, now: float
    ) -> tuple[list[Action], tuple[str, ...]]:
        """A client has answered; also returns the rules that hold from now on."""
        answer = self.permissions.answer(reply)
        if answer is None:
            return [], ()
        self.active_at = now
        behavior = "allow" if answer.allowed else "deny"
        settled = PermissionSettled(reply.request_id, behavior, reply.by, bool(answer.rules))
        return [*self._settle_permission(answer), settled], answer.rules

    def _settle_permission(self, answer: Answer) -> list[Action]:
        """Go on as a permission request was answered: the CLI does so for its own tools."""
        call = self.hosted.asked_for(answer.asked.request_id)
        if call is None:
            return [self.write(answer.line)]
        if answer.allowed:
            return [self._call(evolve(call, arguments=answer.input), asked=True)]
        return [*self.write_all(self.tool_calls.reject(call.call_id, answer.message))]

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
        for answer in self.permissions.expire(now):
            settled = PermissionSettled(answer.asked.request_id, "deny", "timeout")
            actions += [*self._settle_permission(answer), settled]
        return actions

    # -- its answers -------------------------------------------------------------------------------

    def take_answer(self, answer: ControlAnswer) -> str | None:
        """It has answered the initialize, or settings. Returns its error, if any."""
        if answer.request_id == INITIALIZE and not self.initialized:
            self.initialized = answer.error is None
            return answer.error
        return answer.error if answer.request_id in (SETTINGS, SERVERS) else None

    def take_servers(self, answer: ControlAnswer) -> Mapping[str, str]:
        """Which of the servers that it starts itself it could not start, and why."""
        failed = answer.body.get("errors") if answer.request_id == SERVERS else None
        if not isinstance(failed, dict):
            return {}
        return {name: str(why) for name, why in failed.items() if name in self.beside}

    def report_models(self, answer: ControlAnswer) -> list[Action]:
        """The models that it has listed in its answer to the initialize."""
        models = listed_models(answer.body) if answer.request_id == INITIALIZE else ()
        return [ModelsListed(models)] if models else []

    def awaits_rewind(self, answer: ControlAnswer) -> bool:
        return answer.request_id == self.rewinding

    def take_cut(self, answer: ControlAnswer) -> CutOutcome | None:
        """What an answer says of its release; None: it is about something else, or not all."""
        release = self.releasing
        assert release is not None
        if answer.request_id == CONTEXT and not release.keep:
            categories = answer.body.get("categories")
            if answer.error is not None or not isinstance(categories, list):
                return "refused"
            if not release.is_cut:
                release.looked_early = True
                return None
            names = [each.get("name") for each in categories if isinstance(each, dict)]
            return "refused" if "Messages" in names else "done"
        if answer.request_id != release.request_id:
            return None
        if answer.error is not None:
            return "refused"
        if answer.body.get("rewound") is not True:
            again = answer.body.get("reason") in BUSY_REFUSALS and release.tries < MAX_CUT_TRIES
            return "busy" if again else "refused"
        # What stands before its first message cannot be cut: then the history began with an
        # assistant's.
        if (answer.body.get("precedingAssistantUuid") is None) != (not release.keep):
            return "refused"
        release.is_cut = True
        if release.keep:
            return "done"
        return "look" if release.looked_early else None

    def bill_part(self, usage: Usage) -> None:
        """The client got this usage with its tool calls, in the middle of the child's turn."""
        self._billed_part += usage

    def bill_all(self, result: TurnResult, ledger: Ledger) -> Usage:
        """The usage of an abandoned turn, with what the client got with its tool calls."""
        self._billed_part = Usage()
        return self.bill(result, ledger)

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


def _tools_of(setup: Setup) -> tuple[Any, ...]:
    return setup.tools, setup.schema, setup.hosted


def palette_of(system: str, others: Iterable[str]) -> Mapping[str, str] | None:
    """The system prompts that a child learns at its initialize, by the names of agents; None where
    it has none at first: no agent can have that, so such a child keeps it."""
    if not system:
        return None
    rest = dict.fromkeys(prompt for prompt in others if prompt and prompt != system)
    return {cli_input.AGENT: system} | {f"p{n}": prompt for n, prompt in enumerate(rest, 1)}


@lru_cache(maxsize=1)  # the choice of a child asks each one for the same setup
def _signed(setup: Setup) -> list[tuple[Signature, bytes]]:
    """What the model learns of each tool beside its schema, in few bytes: a child remembers the
    tools of all its conversations."""
    signed = []
    for name, tool in mcp.offered(setup).items():
        # The CLI reads schemas: neither the order of their keys nor the form of a number counts
        # (measured). Two schemas that only look alike here cost a child, and no more.
        schema = tool.parameters.translate(_NOT_COUNTED).encode("utf-8", "surrogatepass")
        learned = f"{tool.strict}\0{tool.description}".encode("utf-8", "surrogatepass")
        digest = hashlib.blake2b(learned, digest_size=16).digest()
        signed.append(((name, len(schema), sum(schema)), digest))
    return signed
