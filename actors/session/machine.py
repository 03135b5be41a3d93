"""The session's state machine: every transition of a conversation, and nothing else.

Knows: the phases and what leads from one to another. Refuses to know: trio, processes, channels
and clocks (`now` comes with each event, in seconds). It performs nothing: `advance` answers with
actions, and `actors.session.actor` performs them. `actors.session.phases` draws the phases.

A turn is at-most-once: its prompt is written to one child, once, unless that child dies before
anybody heard of it and no tool could have been called, or cannot take up the transcript that it was
to resume. A turn that fails, times out or is
interrupted leaves no trace: the child takes it back, or goes, and the next one resumes before it.
Where a person stops a turn that keeps what was said, its answer stays as far as it came: the child
takes the turn back all the same, and is told both next time.

A turn that calls tools ends for its caller, and its child waits: the turn that brings the results
goes on in it. An answer that is cut short for its caller (a stop text, the length) is taken back
too; the conversation remembers it as the caller knows it, and tells the child next time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from attrs import evolve

from ...schemas.claude.output import (
    ControlAnswer,
    ControlAsked,
    ControlCancelled,
    LimitState,
    TurnResult,
)
from ...schemas.claude.upstream import is_not_resumed
from ...schemas.errors import GatewayError, HistoryNotWritten, NotLoggedIn
from ...schemas.message import Message
from ...schemas.turn import Completed, Failed, Memory, ResumePoint
from ...schemas.turn_items import Refused, TextDelta
from ..runtime.restart_budget import RestartBudget
from . import errors as refusals
from . import events as signals
from . import outcome as verdict
from . import prompt as dialogue
from .child import ChildState
from .events import Action, Event
from .phases import Limits, Phase
from .queue import TurnQueue
from .timers import Timer, timers
from .turn import Heard, TurnState
from .usage import Ledger


class Machine:
    """`memory` is what outlives the machine; `phase`, `closing` (why the conversation is ending,
    once it is), `turn` and `deadline` are for the shell to read. A turn is under way
    (`_turns.current`) in WAKING and BUSY, and in STOPPING or INTERRUPTING where it waits for that
    to be done. There is a child (`_child`) in IDLE, BUSY, AWAITING_TOOLS, INTERRUPTING and
    STOPPING. `kept` gives the last messages of the conversation, as far as their words are kept.
    """

    def __init__(
        self, memory: Memory, limits: Limits, now: float,
        kept: Callable[[], Sequence[Message]] = tuple,
    ) -> None:  # fmt: skip
        self.memory = memory
        self._kept = kept
        self.limits = limits
        self.phase = Phase.ASLEEP
        self.closing: GatewayError | None = None
        self._since = now  # when it came into this phase
        self._turns = TurnQueue(limits.queued, now)
        self._child: ChildState | None = None
        self._budget = RestartBudget()
        self._ledger = Ledger()

    def __repr__(self) -> str:
        return f"<Machine {self.phase.name} {self._turns!r}>"

    @property
    def turn(self) -> TurnState | None:
        """The one that is under way."""
        return self._turns.current

    @property
    def deadline(self) -> float:
        """When `TimedOut` is due: a point in time, `math.inf` for never."""
        return min(due for due, _ in self._timers())

    def heard(self, now: float) -> None:
        """The child has shown a sign of life (said once per piece read, not per frame)."""
        if self._child is not None:
            self._child.heard = now

    def watched(self, when: float) -> None:
        """A client had the conversation open then: that counts as use, which it expires without."""
        self._turns.used = max(self._turns.used, when)

    def _timers(self) -> Iterator[tuple[float, Timer]]:
        return timers(
            self.phase, self.limits, since=self._since, used=self._turns.used,
            turn_due=self._turns.due, budget_free=self._budget.free_at, child=self._child,
        )  # fmt: skip

    def advance(self, event: Event, now: float) -> list[Action]:
        """Take one event in, and answer with what is to be done, in order.

        What fits nothing here comes late, from a child or a caller that could not know: it is
        dropped.
        """
        if type(event) is TextDelta:  # the hot path, once per token: before any match
            if self.phase is not Phase.BUSY:
                return []
            turn = self._turns.running
            if turn.answer.is_cut:
                return self._finish_turn(verdict.Truncated(turn.answer.estimate()), now)
            return [*turn.say(event, now)]
        match self.phase, event:
            case _, signals.StartTurn():
                return self._start_turn(event, now)
            case _, signals.Interrupt(turn_id):
                return self._interrupt(turn_id, now)
            case _, signals.TimedOut():
                return self._timed_out(now)
            case _, signals.Close(error):
                return self._close(error, now)
            case Phase.ASLEEP, signals.Warm() if self.closing is None:
                return self._wake(now)
            case _, signals.Extend(messages):
                self._extend(messages)
                return []
            case Phase.WAKING, signals.ChildReady():
                return self._child_ready(now)
            case Phase.WAKING, signals.WakeFailed(error):
                return self._wake_failed(error, now)
            case Phase.IDLE | Phase.AWAITING_TOOLS, signals.GiveWay():
                return self._retire_or_kill(now)
            case Phase.BUSY, signals.PermissionRequested():
                turn_id = self._turns.running.turn_id
                return self._present.request_permission(event, turn_id, now, self.limits.leave)
            case Phase.BUSY, signals.PermissionReply():
                actions, rules = self._present.answer_permission(event, now)
                self.memory = self.memory.granted(rules)
                return actions
            case Phase.BUSY, ControlCancelled(request_id):
                return self._present.cancel_permission(request_id)
            case Phase.BUSY, _ if isinstance(event, Heard):
                return self._heard(event, now)
            case Phase.BUSY, TurnResult():
                return self._turn_result(event, now)
            case Phase.BUSY | Phase.IDLE, ControlAnswer():
                return self._control_answer(event, now)
            case Phase.IDLE, TurnResult() if self._is_not_resumed(event):
                return self._begin_anew(event, now)
            case Phase.AWAITING_TOOLS, TurnResult():
                return self._retire_or_kill(
                    now
                )  # it did not wait, and nobody has heard what it said
            case Phase.INTERRUPTING, ControlAnswer() if self._present.awaits_rewind(event):
                return self._rewound(event, now)
            case Phase.STOPPING, signals.ChildGone():
                return self._gone(now)
            case Phase.STOPPING, _:
                return []  # whatever it still says was not asked for any more
            case _, signals.ChildGone(error) if self._child is not None:
                return self._died(error, now)
            case _, ControlAsked() if self._child is not None:
                return [*self._child.serve(event)]
            case _, signals.PermissionRequested() if self._child is not None:
                return self._child.refuse_permission(event)  # nothing runs that it could be for
            case _, LimitState() if self._child is not None:
                self._child.limit = event
                return []
            case _, TurnResult() if self._child is not None:
                self._child.bill(event, self._ledger)  # of a turn that has ended already
                return []
            case _:
                return []

    # -- turns come ------------------------------------------------------------------------------

    def _start_turn(self, event: signals.StartTurn, now: float) -> list[Action]:
        setup = event.prompt.setup(self.memory.setup)
        turn = TurnState(
            event.turn_id, event.prompt, setup, now, now + self.limits.turn, event.keep_stopped
        )
        again = event.back_to is not None
        full = self._turns.refusal(reject_if_busy=event.reject_if_busy or again)
        refusal = self.closing or self._no_restart(now) or full or self._no_way_back(event.back_to)
        if refusal is not None:
            return [turn.started(), turn.failed(refusal)]
        self._turns.add(turn)
        if event.back_to is not None:
            self.memory = event.back_to
            if self.phase is Phase.WAKING:  # for a child that would be further on
                return [turn.started(), signals.CancelWake(), *self._settle(Phase.ASLEEP, now)]
            if self._child is not None and self.phase is not Phase.STOPPING:
                if self.phase is Phase.IDLE:
                    self._child.go_back()
                return [turn.started(), *self._rewind(now)]
        if self.phase in (Phase.ASLEEP, Phase.BACKOFF):
            return [turn.started(), *self._settle(Phase.ASLEEP, now)]
        if self.phase in (Phase.IDLE, Phase.AWAITING_TOOLS):
            return [turn.started(), *self._settle(self.phase, now)]
        return [turn.started()]

    def _settle(self, resting: Phase, now: float) -> list[Action]:
        """No turn is under way: begin the one that waits longest, or rest."""
        if self.phase is not resting:  # a turn that is refused keeps nothing awake
            self._enter(resting, now)
        refused = self._turns.advance(self.memory)
        return [*refused, *(self._begin(now) if self._turns.current else [])]

    def _rest(self, phase: Phase, now: float) -> list[Action]:
        """The child is done, or waits for its tools: so does the session, if it keeps children."""
        if self.limits.keep_child:
            return self._settle(phase, now)
        self._enter(phase, now)
        return self._retire_or_kill(now)

    def _begin(self, now: float) -> list[Action]:
        turn, child, waits = self._turns.running, self._child, self.phase is Phase.AWAITING_TOOLS
        if child is None:
            return self._wake(now)
        if child.setup != turn.setup:
            if child.can_become(turn.setup) and not waits:
                other_tools = child.become(turn.setup)
                return [other_tools, *self._ask(dialogue.tell(self.memory, turn, child), now)]
            return self._retire_or_kill(
                now
            )  # it takes all else once: another one resumes with that
        if not waits:
            return self._ask(dialogue.tell(self.memory, turn, child), now)
        results = turn.results_alone()
        if results is None:  # it is told what it did itself, and what came after that
            return self._rewind(now)
        return self._ask(dialogue.go_on(turn, child, results), now)

    # -- the child comes -------------------------------------------------------------------------

    def _wake(self, now: float) -> list[Action]:
        self._enter(Phase.WAKING, now)
        origin, _ = dialogue.choose_origin(self.memory, self._turns.current)
        return [signals.Wake(origin)]

    def _wake_failed(self, error: GatewayError, now: float) -> list[Action]:
        turn = self._turns.current
        if isinstance(error, HistoryNotWritten) and turn is not None and not turn.tells_all:
            turn.tells_all = True
            return [self._lost(None, error.message, len(self.memory.seed)), *self._wake(now)]
        ended = self._turns.end(Failed(error), now) if turn is not None else []
        return [*ended, *self._settle(Phase.ASLEEP, now)]

    def _child_ready(self, now: float) -> list[Action]:
        turn, billed, resume = self._turns.current, self.memory.usage.cost_usd, self.memory.resume
        bases = self._ledger.bases(None if resume is None else resume.session_id)
        if turn is None:  # it was sought ahead of the first turn
            child = self._child = ChildState(self.memory.setup, now, now, billed, bases)
            return [child.initialize(), *self._settle(Phase.IDLE, now)]
        _, known = dialogue.choose_origin(self.memory, turn)  # as it was when the child was sought
        child = self._child = ChildState(turn.setup, now, now, billed, bases, extra=known)
        # Pipelined: the prompt does not wait for the answer to the initialize.
        return [child.initialize(), *self._ask(dialogue.tell(self.memory, turn, child), now)]

    def _ask(self, written: Sequence[Action], now: float) -> list[Action]:
        self._enter(Phase.BUSY, now)
        self._present.heard = now
        turn = self._turns.running
        if turn.wish is not None and not turn.asked_again:
            return [signals.ToldChoice(turn.turn_id, "asked"), *written]
        return [*written]

    def _control_answer(self, answer: ControlAnswer, now: float) -> list[Action]:
        child, was_set_up = self._present, self._present.initialized
        fault = child.take_answer(answer)
        if fault is None:
            return []
        if self.phase is Phase.IDLE:
            self._budget.spend(now)
            return self._leave(signals.Kill(), now)
        error = refusals.not_set_up(fault)
        return self._abandon(error, now) if was_set_up else self._abort_startup(error, now)

    # -- the answer comes ------------------------------------------------------------------------

    def _heard(self, frame: Heard, now: float) -> list[Action]:
        turn, child = self._turns.running, self._present
        if turn.answer.is_cut:
            return self._finish_turn(verdict.Truncated(turn.answer.estimate()), now)
        actions: list[Action] = [*turn.hear(frame, now)]
        for call_id, reason in turn.answer.take_rejected():
            actions += child.write_all(child.desk.reject(call_id, reason))
        return [*actions, *self._finish_turn(verdict.judge_frame(turn.answer, frame), now)]

    def _turn_result(self, result: TurnResult, now: float) -> list[Action]:
        turn, child = self._turns.running, self._present
        usage = child.bill(result, self._ledger)
        if not turn.is_meant(result):
            return []
        failed = result.is_error or result.subtype != "success"
        if failed and not child.initialized:
            if self._is_not_resumed(result):
                return self._begin_anew(result, now)
            error = verdict.failure(turn, result, self.limits.program, child.limit)
            return self._abort_startup(error, now)
        child.initialized = True  # whatever became of its answer to that
        if turn.batches and result.num_turns == 0 and not failed:
            return [*dialogue.tell_more(turn, child)]
        end = verdict.judge_result(turn, result, usage, self.limits.program, child.limit)
        return self._finish_turn(end, now)

    def _is_not_resumed(self, result: TurnResult) -> bool:
        """Whether the child could not take up what it was to resume, and another can do without."""
        turn = self._turns.current
        resumes = self.memory.resume is not None or (turn is not None and not turn.tells_all)
        return resumes and not self._present.initialized and is_not_resumed(result)

    def _begin_anew(self, result: TurnResult, now: float) -> list[Action]:
        """What the child was to take up is not there. A turn did not reach the model: it is put
        before another child, which is told what is kept."""
        turn, resume, memory = self._turns.current, self.memory.resume, self.memory
        if resume is not None:
            memory = memory.untold(self._kept())
        if resume is not None and not memory.seed:
            ended = [] if turn is None else self._turns.end(Failed(refusals.lost()), now)
            return [*ended, *self._leave(signals.Kill(), now)]
        self.memory = memory
        if turn is not None:
            # Without a session that was lived, it was a history written for this turn.
            turn.tells_all = turn.tells_all or resume is None
            turn.restart()
        session_id = None if resume is None else resume.session_id
        lost = self._lost(session_id, result.text, len(memory.seed))
        return [lost, *self._leave(signals.Kill(), now)]

    def _lost(self, session_id: str | None, error: str, kept: int) -> Action:
        held = len(self.memory.digests)
        return signals.TranscriptLost(session_id, error, held, kept)

    def _finish_turn(self, end: verdict.Outcome | None, now: float) -> list[Action]:
        """End the turn as it deserves; what becomes of the child follows from that."""
        child, turn = self._present, self._turns.current
        if end is not None and turn is not None and turn.is_staged:
            return self._finish_staged_turn(turn, end, now)
        match end:
            case None:
                return []
            case verdict.Completed(reason, usage, resume):
                child.settle()
                ended = self._complete(Completed(reason, usage), now, resume)
                return [*ended, *self._rest(Phase.IDLE, now)]
            case verdict.Suspended(usage):
                child.tell(usage)
                ended = self._complete(Completed("tool_calls", usage), now)
                return [*ended, *self._rest(Phase.AWAITING_TOOLS, now)]
            case verdict.Truncated(usage):
                return [*self._complete(Completed("stop", usage), now), *self._rewind(now)]
            case verdict.TokenLimit(usage):
                return [
                    *self._complete(Completed("length", usage), now),
                    *self._leave(signals.Kill(), now),
                ]
            case verdict.Refused(text, usage):
                said: list[Action] = [*self._turns.running.deliver([Refused(text)], now)]
                ended = self._turns.end(Completed("content_filter", usage), now)
                return [*said, *ended, *self._rewind(now)]
            case verdict.Failed(error):
                return self._abandon(error, now)

    def _finish_staged_turn(
        self, turn: TurnState, end: verdict.Outcome, now: float
    ) -> list[Action]:
        """End a turn that the child was not told as the caller knows it: the child takes it back,
        and is told next time what was asked and answered. A model that was asked in words for a
        tool call, in vain, is asked once more."""
        told: list[Action] = []
        match end:
            case verdict.Completed(reason, usage):
                outcome = Completed(reason, usage)
            case verdict.Suspended(usage):
                outcome = Completed("tool_calls", usage)
            case verdict.Truncated(usage):
                outcome = Completed("stop", usage)
            case verdict.TokenLimit(usage):
                outcome = Completed("length", usage)
            case verdict.Refused(text, usage):
                ended: list[Action] = [
                    *turn.deliver([*turn.release(), Refused(text)], now),
                    *self._turns.end(Completed("content_filter", turn.spent + usage), now),
                ]
                return [*ended, *self._rewind(now)]
            case verdict.Failed(error):
                return self._abandon(error, now)
        if turn.may_ask_again and not isinstance(end, verdict.TokenLimit):
            return [turn.ask_again(usage), *self._rewind(now)]
        if turn.is_disobeyed:
            told.append(signals.ToldChoice(turn.turn_id, "not-called"))
        outcome = evolve(outcome, usage=turn.spent + usage)
        told += self._complete(outcome, now)
        if isinstance(end, verdict.TokenLimit):
            return [*told, *self._leave(signals.Kill(), now)]
        return [*told, *self._rewind(now)]

    def _complete(
        self, outcome: Completed, now: float, resume: ResumePoint | None = None
    ) -> list[Action]:
        """The turn has its answer. `resume` None: no transcript holds it as its caller knows it."""
        turn = self._turns.running
        rest = turn.deliver((*turn.release(), *turn.answer.finish()), now)
        self.memory = turn.remembered(self.memory, resume, outcome.usage)
        return [*rest, *self._turns.end(outcome, now)]

    # -- turns end early -------------------------------------------------------------------------

    def _interrupt(self, turn_id: str, now: float) -> list[Action]:
        turn = self._turns.current
        if turn is not None and turn.turn_id == turn_id:
            if self.phase is Phase.BUSY and turn.keep_stopped and turn.answer.has_begun:
                return self._stop(turn, now)
            return self._cut(refusals.interrupted(), now)
        waiting = self._turns.take_waiting(turn_id)
        return [] if waiting is None else [waiting.failed(refusals.interrupted())]

    def _stop(self, turn: TurnState, now: float) -> list[Action]:
        """End the turn that the child works on, and keep what was said of its answer."""
        rest = turn.deliver((*turn.release(), *turn.answer.finish()), now)
        usage = turn.spent + turn.answer.estimate()
        self.memory = turn.remembered_so_far(self.memory, usage)
        ended = self._turns.end(Failed(refusals.interrupted(), usage), now)
        return [*rest, *ended, *self._rewind(now)]

    def _cut(self, error: GatewayError, now: float) -> list[Action]:
        """End the turn under way, wherever it is."""
        if self.phase is Phase.BUSY:
            return self._abandon(error, now)
        ended = self._turns.end(Failed(error), now)
        if self.phase is Phase.WAKING:
            return [*ended, signals.CancelWake(), *self._settle(Phase.ASLEEP, now)]
        return ended  # it waited, in STOPPING or INTERRUPTING, for what was before it

    def _abandon(self, error: GatewayError, now: float) -> list[Action]:
        """End the turn that the child works on, and have the child forget it."""
        if isinstance(error, NotLoggedIn):  # it keeps the login that it began with: another one may
            return [*self._turns.end(Failed(error), now), *self._leave(signals.Kill(), now)]
        return [*self._turns.end(Failed(error), now), *self._rewind(now)]

    def _rewind(self, now: float) -> list[Action]:
        """Have the child forget what it was last asked; or end it, where that would not take it
        back to what the conversation remembers. (Older releases of the CLI answer that they
        cannot take back the first message of a session.)"""
        child = self._present
        busy = self.phase is Phase.INTERRUPTING
        if busy or not (self.limits.keep_child and dialogue.can_rewind(self.memory, child)):
            return self._leave(signals.Kill(), now)
        self._enter(Phase.INTERRUPTING, now)
        return [child.rewind()]

    def _rewound(self, answer: ControlAnswer, now: float) -> list[Action]:
        if answer.error is not None or answer.body.get("rewound") is not True:
            # What the child holds now is uncertain; what its transcript holds is not.
            return self._leave(signals.Kill(), now)
        self._present.rewound()
        return self._begin(now) if self._turns.current else self._settle(Phase.IDLE, now)

    # -- time passes -----------------------------------------------------------------------------

    def _timed_out(self, now: float) -> list[Action]:
        # The most drastic of what is due; the deadline tells if there is more to do.
        match next((alarm for due, alarm in self._timers() if now >= due), None):
            case None:
                return []  # the alarm was set before the child showed life
            case Timer.TURN_TIMEOUT:
                return self._end_overdue(now)
            case Timer.IDLE_EXPIRY:
                return self._close(refusals.expired(), now)
            case Timer.IDLE_LIMIT:
                return self._retire_or_kill(now)
            case Timer.FREEZE:
                self._present.frozen = True
                return [signals.Freeze()]
            case Timer.TOOL_TIMEOUT:
                return self._rewind(now)
            case Timer.PERMISSION_TIMEOUT:
                return self._present.expire_permissions(now)
            case Timer.STALLED:
                return self._abandon(refusals.fell_silent(self.limits.silence), now)
            case Timer.START_TIMEOUT:
                return self._abort_startup(refusals.never_ready(self.limits.start), now)
            case Timer.REWIND_TIMEOUT:
                return self._leave(signals.Kill(), now)
            case Timer.BACKOFF_OVER:
                return self._settle(Phase.ASLEEP, now)

    def _end_overdue(self, now: float) -> list[Action]:
        error = refusals.took_too_long(self.limits.turn)
        ended: list[Action] = [turn.failed(error) for turn in self._turns.take_overdue(now)]
        if self._turns.current is not None and now >= self._turns.current.due:
            ended += self._cut(error, now)
        return ended

    # -- the child goes --------------------------------------------------------------------------

    def _leave(self, how: signals.Retire | signals.Kill, now: float) -> list[Action]:
        self._enter(Phase.STOPPING, now)
        return [how]

    def _retire_or_kill(self, now: float) -> list[Action]:
        # In the middle of a turn it would go on by itself, were its stdin but closed.
        idle = self.phase is Phase.IDLE
        if idle:
            self._ledger.close()
        return self._leave(signals.Retire() if idle else signals.Kill(), now)

    def _abort_startup(self, error: GatewayError, now: float) -> list[Action]:
        """The child failed before it was set up: as good as a death of its own."""
        self._budget.spend(now)
        return [*self._turns.end(Failed(error), now), *self._leave(signals.Kill(), now)]

    def _died(self, error: GatewayError, now: float) -> list[Action]:
        """The child has gone without being told to."""
        self._budget.spend(now)
        ended: list[Action] = []
        if self.phase is Phase.BUSY and self._turns.running.is_harmless:
            self._turns.running.again()  # once more, before another child
        elif self.phase is Phase.BUSY:
            ended = self._turns.end(Failed(error), now)
        return ended + self._gone(now)

    def _gone(self, now: float) -> list[Action]:
        self._child = None
        if self.closing is not None:
            self._enter(Phase.CLOSED, now)
            return []
        spent = self._no_restart(now)
        if spent is not None:
            self._enter(Phase.BACKOFF, now)
            return self._turns.end_all(spent, now)
        if self._turns.current is not None:  # it waited for a child that did not suit it to go
            return self._wake(now)
        return self._settle(Phase.ASLEEP, now)

    def _close(self, error: GatewayError, now: float) -> list[Action]:
        if self.closing is not None:
            return []
        self.closing = error
        ended = self._turns.end_all(error, now)
        if self.phase is Phase.STOPPING:
            return ended  # CLOSED when the child has gone
        if self._child is not None:
            return ended + self._retire_or_kill(now)
        if self.phase is Phase.WAKING:
            ended.append(signals.CancelWake())
        self._enter(Phase.CLOSED, now)
        return ended

    # -- what the others lean on ------------------------------------------------------------------

    def _extend(self, messages: tuple[Message, ...]) -> None:
        """Let the conversation hold them too; a child is told with the next turn."""
        if not self._turns and not self.memory.calls and self.closing is None:
            self.memory = self.memory.extended(messages)

    def _no_way_back(self, memory: Memory | None) -> GatewayError | None:
        """Why the last turn cannot be taken back, if it cannot: others may have come after it."""
        if memory is None or memory.is_before_last_turn_of(self.memory):
            return None
        return refusals.moved_on()

    def _no_restart(self, now: float) -> GatewayError | None:
        """Why no child may be sought, if none may."""
        if self._budget.has_room(now):
            return None
        return refusals.keeps_dying(self._budget.free_at - now)

    def _enter(self, phase: Phase, now: float) -> None:
        """The only place that assigns the phase."""
        self.phase = phase
        self._since = now

    @property
    def _present(self) -> ChildState:
        assert self._child is not None
        return self._child
