"""The session's state machine: every transition of a conversation, and nothing else.

Knows: the phases and what leads from one to another. Refuses to know: trio, processes, channels
and clocks (`now` comes with each event, in seconds). It performs nothing: `advance` returns
actions, and `actors.session.actor` performs them. The package's docstring holds the theory of
operation: the diagram, the numbered invariants that comments here name, and whole turns.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from operator import itemgetter

from attrs import evolve

from ...schemas.claude.limits import LimitState
from ...schemas.claude.output import ControlAnswer, ControlAsked, ControlCancelled, TurnResult
from ...schemas.claude.upstream import NO_LIMIT, is_not_resumed, is_remembered, plain
from ...schemas.errors import GatewayError, HistoryNotWritten, NotLoggedIn
from ...schemas.message import Message
from ...schemas.turn import (
    AgentOrigin,
    Completed,
    Failed,
    Memory,
    ResumePoint,
    Setup,
    TurnRequest,
)
from ...schemas.turn_items import Refused, TextDelta
from ..runtime.restart_budget import RestartBudget
from . import errors, events, finish_reason, prompt
from .child import CUT_PAUSE, ChildState, palette_of
from .events import Action, Event
from .hosted import TURN_IS_OVER, Host, NoHost
from .late import UnexpectedEvent, late_because
from .phases import Limits, Phase
from .queue import TurnQueue
from .searches import search_answer
from .timers import Timer, timers
from .tools import HostedCall
from .turn import AnswerFrame, TurnState
from .usage import Ledger

Actions = list[Action]


NO_HOST = NoHost()

AT_ONCE_SECONDS = 0.25
"""A client that sends the next turn within this is a program, and likely to do so again."""

PATIENCE = 4
"""So many times as long as the last time the next turn may take, to count as expected."""


class Machine:
    """One conversation. Only `advance` changes the phase, the turns and the memory.

    `memory` outlives the machine. The shell reads `phase`, `closing` (why the conversation ends,
    once it does), `turn` and `deadline`. Invariant 4 says in which phases there is a turn
    (`_turns.current`) and a child (`_child`). `kept` returns the last messages of the conversation,
    as far as its history has their text. `host` offers tools of MCP servers, and decides who may
    call them; `is_heard`: whether a client is connected that can be asked. `can_hop`: whether a
    child of another login than the present one's could be asked for this model.
    """

    def __init__(
        self, memory: Memory, limits: Limits, now: float,
        kept: Callable[[], Sequence[Message]] = tuple,
        host: Host = NO_HOST, is_heard: Callable[[], bool] = bool,
        can_hop: Callable[[str], bool] = lambda _: False,
    ) -> None:  # fmt: skip
        self.memory = memory
        self._kept = kept
        self._host = host
        self._is_heard = is_heard
        self._can_hop = can_hop
        self.limits = limits
        self.phase = Phase.ASLEEP
        self.closing: GatewayError | None = None
        self._since = now  # when the present phase began
        self._turns = TurnQueue(limits.queued, now)
        self._child: ChildState | None = None
        self._budget = RestartBudget()
        self._ledger = Ledger()
        self._is_named = False  # a client has used the conversation's id
        self._came_after = math.inf  # the last turn, behind the one before
        self._is_refused = False  # a spare did not take the conversation: no other is asked to

    def __repr__(self) -> str:
        return f"<Machine {self.phase.name} {self._turns!r}>"

    @property
    def turn(self) -> TurnState | None:
        """The turn that is under way."""
        return self._turns.current

    @property
    def deadline(self) -> float:
        """When `TimedOut` is due: a point in time, `math.inf` for never."""
        return min(self._timers(), key=itemgetter(0))[0]

    @property
    def limit(self) -> LimitState:
        """What the present child last reported of its login's limits."""
        return NO_LIMIT if self._child is None else self._child.limit

    @property
    def resident(self) -> ChildState | None:
        """What is known of the child, if there is one."""
        return self._child

    @property
    def is_valued(self) -> bool:
        """Whether a client is likely to come back to the conversation: it did before, or names
        it."""
        return self._is_named or self.memory.turns > 1

    @property
    def expected_within(self) -> float:
        """In how many seconds its next turn is likely to come, where that is soon; 0: it is not,
        or not known to be. It is where a client comes back to the conversation, and did so at once
        the last time."""
        if not self.is_valued or self._came_after > AT_ONCE_SECONDS:
            return 0.0
        return min(AT_ONCE_SECONDS, 0.02 + PATIENCE * self._came_after)

    def child_active(self, now: float) -> None:
        """The child has written something (called once per piece read, not per frame)."""
        if self._child is not None:
            self._child.active_at = now

    def watched(self, when: float) -> None:
        """A client watched the conversation then: that counts as use, and delays its expiry."""
        self._turns.used = max(self._turns.used, when)

    # -- which event does what -------------------------------------------------------------------

    def advance(self, event: Event, now: float) -> Actions:
        """Take one event in, and return what is to be done, in order.

        An event is handled by its phase, or by every phase, or by every phase that has a child.
        Raises `UnexpectedEvent`, and changes nothing, for one that none of them handles and that
        `LATE` does not list (invariant 12).
        """
        if self.phase is Phase.BUSY:
            if type(event) is TextDelta:  # the hot path: once per token, before any match
                turn = self._turns.current
                assert turn is not None
                if turn.answer.is_cut:
                    return self._finish_turn(finish_reason.Truncated(turn.answer.estimate()), now)
                return [*turn.deliver(turn.answer.add_text(event), now)]
            actions = self._busy(event, now)
        else:
            actions = self._not_busy(event, now)
        if actions is None:
            actions = self._in_every_phase(event, now)
        if actions is None and self._child is not None and self.phase is not Phase.STOPPING:
            actions = self._with_a_child(self._child, event, now)
        if actions is not None:
            return actions
        if late_because(self.phase, event) is None:
            raise UnexpectedEvent(self.phase, event)
        return []

    def _busy(self, event: Event, now: float) -> Actions | None:
        """The child works on the turn."""
        if isinstance(event, AnswerFrame):
            return self._answer_frame(event, now)
        match event:
            case TurnResult():
                return self._turn_result(event, now)
            case ControlAnswer():
                return self._control_answer(event, now)
            case events.PermissionRequested():
                running = self._turns.running
                if (search := search_answer(event.asked, running)) is not None:
                    return [self._present.write(search)]
                turn_id = running.turn_id
                return self._present.request_permission(event, turn_id, now, self.limits.permission)
            case events.PermissionReply():
                actions, rules = self._present.answer_permission(event, now)
                self.memory = self.memory.granted(rules)
                return actions
            case ControlCancelled(request_id):
                return self._present.cancel_permission(request_id)
        return None

    def _not_busy(self, event: Event, now: float) -> Actions | None:
        """The session sleeps, waits for a child, or has one that should not be answering."""
        match self.phase, event:
            case Phase.ASLEEP, events.Warm():
                return self._wake(now)
            case Phase.WAKING, events.ChildReady():
                return self._child_ready(event, now)
            case Phase.WAKING, events.WakeFailed(error):
                return self._wake_failed(error, now)
            case Phase.IDLE | Phase.AWAITING_TOOLS, events.GiveWay(keep):
                return self._retire_or_kill(now) if keep is None else self._release(keep, now)
            case Phase.IDLE, ControlAnswer():
                return self._control_answer(event, now)
            case Phase.IDLE, TurnResult() if self._is_not_resumed(event):
                return self._retry_without_transcript(event, now)
            case Phase.AWAITING_TOOLS, TurnResult():
                # The child did not wait for the results, and no client receives what it answered.
                billed = events.Billed(self._present.bill_all(event, self._ledger))
                return [billed, *self._retire_or_kill(now)]
            case Phase.INTERRUPTING, ControlAnswer() if self._present.awaits_rewind(event):
                return self._rewound(event, now)
            case Phase.RELEASING, ControlAnswer():
                return self._cut_answered(event, now)
            case Phase.STOPPING, events.ChildGone():
                return self._gone(now)
        return None

    def _in_every_phase(self, event: Event, now: float) -> Actions | None:
        """What clients, the gateway and the clock want."""
        match event:
            case events.StartTurn():
                return self._start_turn(event, now)
            case events.Interrupt(turn_id, error):
                return self._interrupt(turn_id, error, now)
            case events.TimedOut():
                return self._timed_out(now)
            case events.Close(error):
                return self._close(error, now)
            case events.Extend(messages):
                self._extend(messages)
                return []
            case events.HostedEnded(call_id, result):
                waits = self.phase in (Phase.BUSY, Phase.AWAITING_TOOLS)
                return [*self._present.take_hosted(call_id, result, now)] if waits else []
        return None

    def _with_a_child(self, child: ChildState, event: Event, now: float) -> Actions | None:
        """What a child may say at any time, until the session stops it."""
        match event:
            case events.ChildGone(error):
                return self._died(error, now)
            case ControlAsked():
                served = child.serve(event)
                if isinstance(served, HostedCall):
                    return self._serve_hosted(child, served, now)
                return [*served]
            case events.PermissionRequested():
                return child.refuse_permission(event)  # no turn runs that could need it
            case LimitState():
                child.limit = event
                return []
            case TurnResult():
                # Of a turn that has ended already.
                return [events.Billed(child.bill_all(event, self._ledger))]
        return None

    def _serve_hosted(self, child: ChildState, call: HostedCall, now: float) -> Actions:
        """The model calls a tool of an MCP server: now, after a client has permitted it, or not."""
        if self.phase not in (Phase.BUSY, Phase.AWAITING_TOOLS):
            # Invariant 14: the child wrote this before it read that its turn is over.
            return [*child.write_all(child.tool_calls.reject(call.call_id, TURN_IS_OVER))]
        decision = self._host.decide(call.tool, self.memory.grants)
        turn = self._turns.current if self.phase is Phase.BUSY and self._is_heard() else None
        turn_id = None if turn is None else turn.turn_id
        return child.serve_hosted(call, decision, turn_id, now, self.limits.permission)

    def _equipped(self, setup: Setup, request: TurnRequest | None = None) -> Setup:
        """`setup`, with the tools of MCP servers that a turn of it has."""
        chosen = None if request is None else request.hosted
        hosted = self._host.offers(setup) if chosen is None else chosen
        return evolve(setup, hosted=hosted) if hosted else setup  # what is remembered has none

    # -- a turn starts ---------------------------------------------------------------------------

    def _start_turn(self, event: events.StartTurn, now: float) -> Actions:
        request = event.request
        self._is_named |= request.conversation_id is not None
        setup = self._equipped(request.setup(self.memory.setup), request)
        due = now + self.limits.turn
        turn = TurnState(event.turn_id, request, setup, now, due)
        replaces = request.back_to is not None
        full = self._turns.refusal(reject_if_busy=request.reject_if_busy or replaces)
        error = (
            self.closing
            or self._budget_error(now)
            or full
            or event.refused
            or self._replacement_error(request.back_to)
        )
        if error is not None:
            return [turn.started(), turn.failed(error)]  # invariant 1: it ends, although refused
        if self._turns.current is None:
            self._came_after = now - self._turns.used
        self._turns.add(turn)
        if request.back_to is not None:
            self.memory = request.back_to
            if self.phase is Phase.WAKING:  # the child on its way would hold the replaced turn
                return [turn.started(), events.CancelWake(), *self._next_turn(Phase.ASLEEP, now)]
            if self._child is not None and self.phase not in (Phase.STOPPING, Phase.RELEASING):
                if self.phase is Phase.IDLE:
                    self._child.go_back()
                return [turn.started(), *self._rewind(now)]
        if self.phase in (Phase.ASLEEP, Phase.BACKOFF):
            return [turn.started(), *self._next_turn(Phase.ASLEEP, now)]
        if self.phase in (Phase.IDLE, Phase.AWAITING_TOOLS):
            return [turn.started(), *self._next_turn(self.phase, now)]
        return [turn.started()]

    def _next_turn(self, resting: Phase, now: float) -> Actions:
        """No turn is under way: begin the oldest in the queue, or rest in that phase."""
        if self.phase is not resting:  # a refused turn must not restart the idle timers
            self._enter(resting, now)
        refused = self._turns.advance(self.memory)
        return [*refused, *(self._begin_turn(now) if self._turns.current else [])]

    def _rest(self, phase: Phase, now: float) -> Actions:
        """The child is done, or waits for results: so does the session, if it keeps children."""
        if self.limits.keep_child:
            return self._next_turn(phase, now)
        self._enter(phase, now)
        return self._retire_or_kill(now)

    def _begin_turn(self, now: float) -> Actions:
        turn, child, waits = self._turns.running, self._child, self.phase is Phase.AWAITING_TOOLS
        if child is None:
            return self._wake(now)
        if turn.is_exact and child.is_alike:
            return self._let_go(now)
        if child.setup != turn.setup:
            if child.can_reconfigure(turn.setup) and not waits:
                other = child.reconfigure(turn.setup)
                return [*other, *self._work(prompt.write_turn(self.memory, turn, child), now)]
            # A child takes another model or prompt while it holds nothing: this one may come back
            # from the pool, emptied.
            return self._let_go(now)
        if not waits:
            return self._work(prompt.write_turn(self.memory, turn, child), now)
        results = turn.results_alone()
        if results is None:
            # The turn brings more than results: the child forgets its calls, and then gets the
            # calls, the results and the new messages as history.
            return self._rewind(now)
        return self._work(prompt.write_results(turn, child, results), now)

    # -- a child comes ---------------------------------------------------------------------------

    def _wake(self, now: float) -> Actions:
        """Invariant 3: called where there is no child, in a phase in which none is on its way."""
        self._enter(Phase.WAKING, now)
        turn = self._turns.current
        origin, _ = prompt.choose_origin(self.memory, turn)
        if isinstance(origin, AgentOrigin):
            origin = evolve(origin, is_cold=self._is_refused)
        setup = self._equipped(self.memory.setup) if turn is None else turn.setup
        return [events.Wake(origin, prompt.wants_of(self.memory, turn, setup))]

    def _wake_failed(self, error: GatewayError, now: float) -> Actions:
        turn = self._turns.current
        if isinstance(error, HistoryNotWritten) and turn is not None and not turn.replays_all:
            turn.replays_all = True
            return [self._lost(None, error.message, len(self.memory.seed)), *self._wake(now)]
        ended = self._turns.end(Failed(error), now) if turn is not None else []
        return [*ended, *self._next_turn(Phase.ASLEEP, now)]

    def _child_ready(self, event: events.ChildReady, now: float) -> Actions:
        turn = self._turns.current
        setup = self._equipped(self.memory.setup) if turn is None else turn.setup
        if event.state is None:
            child = self._new_child(setup, event, now)
            written: Actions = [*child.initialize()]
            if event.claim is not None:
                written = [*child.claim(event.claim, self.memory.grants)]
        else:  # it served another conversation
            assert isinstance(event.state, ChildState)
            child = event.state
            child.active_at, child.source = now, event.source
            written = [*child.reconfigure(setup)]
        self._child = child
        if turn is None:  # Warm asked for it, ahead of the first turn
            return [*written, *self._next_turn(Phase.IDLE, now)]
        prompt.take_over(self.memory, turn, child)
        # Pipelined: the prompt does not wait for the answer to the initialize, or the settings.
        return [*written, *self._work(prompt.write_turn(self.memory, turn, child), now)]

    def _new_child(self, setup: Setup, event: events.ChildReady, now: float) -> ChildState:
        turn, resume = self._turns.current, self.memory.resume
        bases = self._ledger.bases(None if resume is None else resume.session_id)
        # A child that resumes continues the total of its session.
        billed = 0.0 if resume is None else self.memory.usage.cost_usd
        origin, _ = prompt.choose_origin(self.memory, turn)  # the same as when `Wake` was returned
        is_fixed = origin is not None or not self.limits.recycle
        palette = None if is_fixed else palette_of(setup.system, event.palette)
        return ChildState(
            setup, now, now, billed, bases, source=event.source, palette=palette, is_fixed=is_fixed,
            beside=self._host.started_by(setup),
        )  # fmt: skip

    def _work(self, written: Sequence[Action], now: float) -> Actions:
        """The child works on the turn from now on."""
        self._enter(Phase.BUSY, now)
        child, turn = self._present, self._turns.running
        child.active_at = now
        source, child.source = child.source, "warm"
        actions: Actions = [*written, events.ChildChosen(turn.turn_id, source)]
        if turn.wish is not None and not turn.asked_again:
            return [events.ChoiceReported(turn.turn_id, "asked"), *actions]
        return actions

    def _control_answer(self, answer: ControlAnswer, now: float) -> Actions:
        child, was_set_up = self._present, self._present.initialized
        refusal = child.take_claim(answer)
        if refusal is not None:
            return self._claim_refused(refusal, now)
        reason = child.take_answer(answer)
        if reason is None:
            failed = child.take_servers(answer)
            if failed:
                return [events.ServersFailed(failed)]
            return child.report_models(answer)
        if self.phase is Phase.IDLE:
            self._budget.spend(now)
            return self._stop_child(events.Kill(), now)
        error = errors.not_set_up(reason, self.limits.program)
        return self._fail_turn(error, now) if was_set_up else self._abort_startup(error, now)

    def _claim_refused(self, reason: str, now: float) -> Actions:
        """The spare does not take the conversation, so it did not ask the model for the turn: a new
        child gets it (invariant 6)."""
        turn = self._turns.current
        if turn is not None and (turn.model_began or turn.first_delta is not None):
            return self._abort_startup(errors.not_set_up(reason, self.limits.program), now)
        if turn is not None:
            turn.restart()
        self._is_refused = True
        return [events.ClaimRefused(plain(reason)), *self._stop_child(events.Kill(), now)]

    # -- the answer comes ------------------------------------------------------------------------

    def _answer_frame(self, frame: AnswerFrame, now: float) -> Actions:
        turn, child = self._turns.running, self._present
        if turn.answer.is_cut:
            return self._finish_turn(finish_reason.Truncated(turn.answer.estimate()), now)
        actions: Actions = [*turn.add_frame(frame, now)]
        if turn.model_began:
            child.model_began()
        for call_id, reason in turn.answer.take_rejected():
            actions += child.write_all(child.tool_calls.reject(call_id, reason))
        return [*actions, *self._finish_turn(finish_reason.judge_frame(turn.answer, frame), now)]

    def _turn_result(self, result: TurnResult, now: float) -> Actions:
        turn, child = self._turns.running, self._present
        usage = child.bill(result, self._ledger)
        if not turn.is_meant(result):
            return [events.Billed(usage)]
        turn.billed = usage
        failed = result.is_error or result.subtype != "success"
        if failed and child.is_claiming:
            return self._claim_refused(result.text, now)
        child.is_fixed |= failed and is_remembered(result.api_error_status)
        if failed and not child.initialized:
            if self._is_not_resumed(result):
                return self._retry_without_transcript(result, now)
            error = finish_reason.failure(turn, result, self.limits.program, child.limit)
            return self._abort_startup(error, now)
        child.initialized = True  # even if its answer to the initialize is still to come
        if turn.batches and result.num_turns == 0 and not failed:
            if turn.first_delta is not None:
                # It has answered what it was not asked yet: asking it would be once more
                # (invariant 6).
                ended = self._turns.end(Failed(errors.answered_unasked()), now)
                return [*ended, *self._stop_child(events.Kill(), now)]
            return [*prompt.write_next(turn, child)]
        end = finish_reason.judge_result(turn, result, usage, self.limits.program, child.limit)
        if result.api_error_status == 429 and isinstance(end, finish_reason.Failed):
            return self._refused_for_limits(turn, end, now)
        return self._finish_turn(end, now)

    def _refused_for_limits(
        self, turn: TurnState, end: finish_reason.Failed, now: float
    ) -> Actions:
        """The API refuses the turn for its login's limits. Nothing has come of it (invariant 6), so
        a child of another login gets it; once, and only where there is another."""
        if turn.may_hop and self._can_hop(turn.setup.model):
            turn.hopped = True
            turn.restart()
            return [events.Hop(end.error), *self._stop_child(events.Kill(), now)]
        return self._finish_turn(end, now)

    def _is_not_resumed(self, result: TurnResult) -> bool:
        """Whether the child found no transcript to resume, and a new child can do without."""
        turn = self._turns.current
        if turn is not None and (turn.model_began or turn.first_delta is not None):
            return False  # whatever the child says now, it has asked the model (invariant 6)
        resumes = self.memory.resume is not None or (turn is not None and not turn.replays_all)
        return resumes and not self._present.initialized and is_not_resumed(result)

    def _retry_without_transcript(self, result: TurnResult, now: float) -> Actions:
        """The transcript that the child was to resume is gone. The turn did not reach the model,
        so a new child gets it (invariant 6), behind the messages that the history keeps."""
        turn, resume, memory = self._turns.current, self.memory.resume, self.memory
        if resume is not None:
            memory = memory.untold(self._kept())
        if resume is not None and not memory.seed:
            ended = [] if turn is None else self._turns.end(Failed(errors.lost()), now)
            return [*ended, *self._stop_child(events.Kill(), now)]
        self.memory = memory
        if turn is not None:
            # Without a resume point it was a transcript that the gateway wrote for this turn.
            turn.replays_all = turn.replays_all or resume is None
            turn.restart()
        session_id = None if resume is None else resume.session_id
        lost = self._lost(session_id, result.text, len(memory.seed))
        return [lost, *self._stop_child(events.Kill(), now)]

    def _lost(self, session_id: str | None, error: str, kept: int) -> Action:
        held = len(self.memory.digests)
        return events.TranscriptLost(session_id, plain(error), held, kept)

    # -- a turn ends -----------------------------------------------------------------------------

    def _finish_turn(self, end: finish_reason.Outcome | None, now: float) -> Actions:
        """End the turn with this outcome (None: it goes on), which decides about the child too."""
        turn = self._turns.current
        if end is not None and turn is not None and turn.is_staged:
            return self._finish_staged_turn(turn, end, now)
        match end:
            case None:
                return []
            case finish_reason.Completed(_, usage, resume):
                completed = self._turns.running.completed(end.finish_reason, usage)
                ended = self._complete(completed, now, resume, exact=True)
                self._present.settle(self.memory.seed)
                return [*ended, *self._rest(Phase.IDLE, now)]
            case finish_reason.Suspended(usage):
                self._present.bill_part(usage)
                completed = self._turns.running.completed(end.finish_reason, usage)
                ended = self._complete(completed, now, exact=True)
                return [*ended, *self._rest(Phase.AWAITING_TOOLS, now)]
            case finish_reason.Truncated(usage):
                completed = self._turns.running.completed(end.finish_reason, usage)
                return [*self._complete(completed, now), *self._rewind(now)]
            case finish_reason.TokenLimit(usage):
                completed = self._turns.running.completed(end.finish_reason, usage)
                ended = self._complete(completed, now)
                return [*ended, *self._stop_child(events.Kill(), now)]
            case finish_reason.Refused(text, usage):
                running = self._turns.running
                rest = (*running.answer.refuse(), Refused(text))
                refused: Actions = [*running.deliver(rest, now)]
                ended = self._turns.end(running.completed(end.finish_reason, usage), now)
                return [*refused, *ended, *self._rewind(now)]
            case finish_reason.Failed(error):
                return self._fail_turn(error, now)

    def _finish_staged_turn(
        self, turn: TurnState, end: finish_reason.Outcome, now: float
    ) -> Actions:
        """End a turn whose child got other messages than the conversation holds: the child rewinds,
        and gets the turn as the client knows it with the next one. A model that got an instruction
        to call a tool, and called none, gets the turn once more."""
        if isinstance(end, finish_reason.Failed):
            return self._fail_turn(end.error, now)
        completed = turn.completed(end.finish_reason, turn.spent + end.usage)
        if isinstance(end, finish_reason.Refused):
            ended: Actions = [
                *turn.deliver([*turn.release(), *turn.answer.refuse(), Refused(end.text)], now),
                *self._turns.end(completed, now),
            ]
            return [*ended, *self._rewind(now)]
        if turn.may_ask_again and not isinstance(end, finish_reason.TokenLimit):
            return [turn.ask_again(end.usage), *self._rewind(now)]
        actions: Actions = []
        if turn.is_disobeyed:
            actions.append(events.ChoiceReported(turn.turn_id, "not-called"))
        exact = turn.in_body and isinstance(end, finish_reason.Completed)
        actions += self._complete(completed, now, exact=exact)
        if isinstance(end, finish_reason.TokenLimit):
            return [*actions, *self._stop_child(events.Kill(), now)]
        return [*actions, *self._rewind(now)]

    def _complete(
        self, completed: Completed, now: float, resume: ResumePoint | None = None, *,
        exact: bool = False,
    ) -> Actions:  # fmt: skip
        """The turn has its answer. `resume` None: no transcript holds it as the client knows it.
        `exact`: the child keeps it as the model gave it.
        Invariant 7: the memory gains a turn here and in `_stop_and_keep`, and nowhere else."""
        turn = self._turns.running
        rest = turn.deliver((*turn.release(), *turn.answer.finish()), now)
        self.memory = turn.remembered(self.memory, resume, completed.usage, exact=exact)
        if turn.is_reworded:
            self._present.is_alike = True
        return [*rest, *self._turns.end(completed, now)]

    # -- a turn ends early -----------------------------------------------------------------------

    def _interrupt(self, turn_id: str, error: GatewayError | None, now: float) -> Actions:
        turn = self._turns.current
        if turn is not None and turn.turn_id == turn_id:
            keeps = turn.request.keep_stopped and turn.answer.has_begun and error is None
            if self.phase is Phase.BUSY and keeps:
                return self._stop_and_keep(turn, now)
            return self._end_current(error or errors.interrupted(), now)
        waiting = self._turns.take_waiting(turn_id)
        return [] if waiting is None else [waiting.failed(error or errors.interrupted())]

    def _stop_and_keep(self, turn: TurnState, now: float) -> Actions:
        """End the turn that the child works on, and keep the answer as far as it came."""
        rest = turn.deliver((*turn.release(), *turn.answer.finish()), now)
        usage = turn.spent + turn.answer.estimate()
        self.memory = turn.remembered_so_far(self.memory, usage)
        ended = self._turns.end(Failed(errors.interrupted(), usage), now)
        return [*rest, *ended, *self._rewind(now)]

    def _end_current(self, error: GatewayError, now: float) -> Actions:
        """End the turn under way, in whatever phase."""
        if self.phase is Phase.BUSY:
            return self._fail_turn(error, now)
        ended = self._turns.end(Failed(error), now)
        if self.phase is Phase.WAKING:
            return [*ended, events.CancelWake(), *self._next_turn(Phase.ASLEEP, now)]
        return ended  # in STOPPING, INTERRUPTING or RELEASING it waited for the child

    def _fail_turn(self, error: GatewayError, now: float) -> Actions:
        """End the turn that the child works on, and have the child forget it."""
        if isinstance(error, NotLoggedIn):  # a child keeps its login; a new one may have another
            return [*self._turns.end(Failed(error), now), *self._stop_child(events.Kill(), now)]
        return [*self._turns.end(Failed(error), now), *self._rewind(now)]

    def _rewind(self, now: float) -> Actions:
        """Have the child forget its last prompt; or stop it, where a rewind would not take it back
        to what the conversation remembers (invariant 8)."""
        child = self._present
        rewinding = self.phase is Phase.INTERRUPTING
        if rewinding or not (self.limits.keep_child and prompt.can_rewind(self.memory, child)):
            return self._stop_child(events.Kill(), now)
        self._enter(Phase.INTERRUPTING, now)
        return [child.rewind()]

    def _rewound(self, answer: ControlAnswer, now: float) -> Actions:
        if answer.error is not None or answer.body.get("rewound") is not True:
            # What the child holds is uncertain now; what its transcript holds is not.
            return self._stop_child(events.Kill(), now)
        self._present.rewound()
        return self._begin_turn(now) if self._turns.current else self._next_turn(Phase.IDLE, now)

    # -- time passes -----------------------------------------------------------------------------

    def _timed_out(self, now: float) -> Actions:
        # The most drastic of the timers that are due; `deadline` tells if another is due too.
        # Invariant 10: each case ends a turn, changes the phase, or moves the timer.
        match next((timer for due, timer in self._timers() if now >= due), None):
            case None:
                return []  # the child has written something since the deadline was set
            case Timer.TURN_TIMEOUT:
                return self._end_overdue(now)
            case Timer.IDLE_EXPIRY:
                return self._close(errors.expired(), now)
            case Timer.IDLE_LIMIT:
                return self._retire_or_kill(now)
            case Timer.FREEZE:
                self._present.frozen = True
                return [events.Freeze()]
            case Timer.TOOL_TIMEOUT:
                return self._rewind(now)
            case Timer.PERMISSION_TIMEOUT:
                return self._present.expire_permissions(now)
            case Timer.STALLED:
                return self._fail_turn(errors.fell_silent(self.limits.silence), now)
            case Timer.START_TIMEOUT:
                return self._abort_startup(errors.never_ready(self.limits.start), now)
            case Timer.REWIND_TIMEOUT:
                return self._stop_child(events.Kill(), now)
            case Timer.CUT_AGAIN:
                return [*self._present.cut()]
            case Timer.BACKOFF_OVER:
                return self._next_turn(Phase.ASLEEP, now)

    def _end_overdue(self, now: float) -> Actions:
        error = errors.took_too_long(self.limits.turn)
        ended: Actions = [turn.failed(error) for turn in self._turns.take_overdue(now)]
        if self._turns.current is not None and now >= self._turns.current.due:
            ended += self._end_current(error, now)
        return ended

    # -- the child goes --------------------------------------------------------------------------

    def _stop_child(self, how: events.Retire | events.Kill, now: float) -> Actions:
        """Invariant 5: in STOPPING no action is for the child."""
        self._enter(Phase.STOPPING, now)
        return [how]

    def _retire_or_kill(self, now: float) -> Actions:
        # With its stdin merely closed, a child in the middle of a turn would finish the turn.
        idle = self.phase is Phase.IDLE
        if idle:
            self._ledger.close()
        return self._stop_child(events.Retire() if idle else events.Kill(), now)

    def _let_go(self, now: float) -> Actions:
        """The conversation is done with the child, or the child cannot serve it: another one may
        have it."""
        return self._release(0, now)

    def _release(self, keep: int, now: float) -> Actions:
        """Cut the child back to its first `keep` messages, and give it to another conversation. One
        with which that cannot be goes."""
        child = self._present
        if not (self.limits.recycle and child.can_be_released):
            return self._retire_or_kill(now)
        self._enter(Phase.RELEASING, now)
        return [*child.release(keep)]

    def _cut_answered(self, answer: ControlAnswer, now: float) -> Actions:
        child = self._present
        match child.take_cut(answer):
            case None:
                return []
            case "look":
                return [child.look()]
            case "busy":
                assert child.releasing is not None
                child.releasing.again_at = now + CUT_PAUSE
                return []
            case "refused":  # what it holds is uncertain: no conversation may have it
                return self._stop_child(events.Kill(), now)
            case "done":
                # Invariant 13: only now, with the answer read, may another conversation write.
                return [events.HandOver(child, child.hand_over()), *self._gone(now)]

    def _abort_startup(self, error: GatewayError, now: float) -> Actions:
        """The child failed before it was set up: that counts as a death."""
        self._budget.spend(now)
        return [*self._turns.end(Failed(error), now), *self._stop_child(events.Kill(), now)]

    def _died(self, error: GatewayError, now: float) -> Actions:
        """The child has exited although the session did not stop it."""
        self._budget.spend(now)
        ended: Actions = []
        if self.phase is Phase.BUSY and self._turns.running.is_repeatable:
            self._turns.running.repeat()  # invariant 6: once more, in a new child
        elif self.phase is Phase.BUSY:
            ended = self._turns.end(Failed(error), now)
        return ended + self._gone(now)

    def _gone(self, now: float) -> Actions:
        self._child = None
        if self.closing is not None:
            self._enter(Phase.CLOSED, now)
            return []
        spent = self._budget_error(now)
        if spent is not None:  # invariant 9
            self._enter(Phase.BACKOFF, now)
            return self._turns.end_all(spent, now)
        if self._turns.current is not None:  # the turn waited until the old child had gone
            return self._wake(now)
        return self._next_turn(Phase.ASLEEP, now)

    def _close(self, error: GatewayError, now: float) -> Actions:
        if self.closing is not None:
            return []
        self.closing = error  # invariant 11: `_start_turn` refuses every turn from now on
        ended = self._turns.end_all(error, now)
        if self.phase in (Phase.STOPPING, Phase.RELEASING):
            return ended  # CLOSED when the child has gone
        if self.phase in (Phase.IDLE, Phase.AWAITING_TOOLS):
            return ended + self._let_go(now)
        if self._child is not None:
            return ended + self._retire_or_kill(now)
        if self.phase is Phase.WAKING:
            ended.append(events.CancelWake())
        self._enter(Phase.CLOSED, now)
        return ended

    # -- what the transitions rest on ------------------------------------------------------------

    def _enter(self, phase: Phase, now: float) -> None:
        """The only place that assigns the phase."""
        self.phase = phase
        self._since = now

    @property
    def _present(self) -> ChildState:
        """The child, in a phase that has one (invariant 4)."""
        assert self._child is not None
        return self._child

    def _timers(self) -> Iterator[tuple[float, Timer]]:
        return timers(
            self.phase, self.limits, since=self._since, used=self._turns.used,
            turn_due=self._turns.due, budget_free=self._budget.free_at, child=self._child,
        )  # fmt: skip

    def _extend(self, messages: tuple[Message, ...]) -> None:
        """Add the messages to the conversation; a child gets them with the next turn."""
        if not self._turns and not self.memory.calls and self.closing is None:
            self.memory = self.memory.extended(messages)

    def _replacement_error(self, back_to: Memory | None) -> GatewayError | None:
        """Why the last turn cannot be replaced, if it cannot: it is not the last one any more."""
        if back_to is None or back_to.is_before_last_turn_of(self.memory):
            return None
        return errors.moved_on()

    def _budget_error(self, now: float) -> GatewayError | None:
        """Why no child may be started, if none may."""
        if self._budget.has_room(now):
            return None
        return errors.keeps_dying(self._budget.free_at - now)
