"""The session's state machine: every transition of a conversation, and nothing else.

Knows: the phases and what leads from one to another. Refuses to know: trio, processes, channels
and clocks (`now` comes with each event, in seconds). It performs nothing: `advance` answers with
actions, and `actors.session` performs them.

      ASLEEP ──StartTurn──> WAKING ──ChildReady──> BUSY <────StartTurn──── IDLE
        ^                                          │  │                     ^
        │                                          │  └─TurnResult──────────┤
        │                                          │                        │
        │                                 Interrupt└─> INTERRUPTING ─rewound┘
        └──ChildGone── STOPPING <──Retire, Kill── (IDLE, BUSY, INTERRUPTING)

BACKOFF is ASLEEP with the restart budget spent; CLOSED is the end. A turn is at-most-once: its
prompt is written to one child, once. A turn that fails, times out or is interrupted leaves no
trace: the child takes it back, or goes, and the next one resumes before it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from ..schemas.errors import GatewayError
from ..schemas.frames import AssistantDone, ControlAnswer, ControlAsked, TurnResult
from ..schemas.turn import Completed, Failed, Memory, Outcome, TextDelta
from ..schemas.upstream import finish_reason, upstream_error
from . import refusals
from .budget import RestartBudget
from .child_state import ChildState
from .phases import Limits, Phase
from .signals import (
    Action,
    CancelWake,
    ChildGone,
    ChildReady,
    Close,
    Event,
    Freeze,
    GiveWay,
    Interrupt,
    Kill,
    Retire,
    StartTurn,
    TimedOut,
    Wake,
    WakeFailed,
)
from .turn_queue import TurnQueue
from .turn_state import TurnState


class Machine:
    """One conversation. `advance` is the only way anything here changes, but for `heard`.

    `memory` is what outlives the machine; `phase`, `closing` (why the conversation is ending, once
    it is) and `deadline` are for the shell to read.

    A turn is under way (`_turns.current`) in WAKING and BUSY, and in STOPPING where it waits for a
    child that does not suit it to go. There is a child (`_child`) in IDLE, BUSY, INTERRUPTING and
    STOPPING.
    """

    def __init__(self, memory: Memory, limits: Limits, now: float) -> None:
        self.memory = memory
        self.limits = limits
        self.phase = Phase.ASLEEP
        self.closing: GatewayError | None = None
        self._since = now  # when it came into this phase
        self._used = now  # when the last turn ended
        self._turns = TurnQueue(limits.queued)
        self._child: ChildState | None = None
        self._budget = RestartBudget()

    def __repr__(self) -> str:
        return f"<Machine {self.phase.name} {self._turns!r}>"

    @property
    def deadline(self) -> float:
        """When `TimedOut` is due: a point in time, `math.inf` for never."""
        return min(due for due, _ in self._alarms())

    def heard(self, now: float) -> None:
        """The child has shown a sign of life (said once per piece read, not per frame)."""
        if self._child is not None:
            self._child.heard = now

    def advance(self, event: Event, now: float) -> list[Action]:
        """Take one event in, and answer with what is to be done, in order.

        What fits nothing here comes late, from a child or a caller that could not know: it is
        dropped.
        """
        if type(event) is TextDelta:  # the hot path, once per token: before any match
            return [self._running.say(event, now)] if self.phase is Phase.BUSY else []
        match self.phase, event:
            case _, StartTurn():
                return self._start_turn(event, now)
            case _, Interrupt(turn_id):
                return self._interrupt(turn_id, now)
            case _, TimedOut():
                return self._timed_out(now)
            case _, Close(error):
                return self._close(error, now)
            case Phase.WAKING, ChildReady():
                return self._child_ready(now)
            case Phase.WAKING, WakeFailed(error):
                return [*self._end(Failed(error), now), *self._settle(Phase.ASLEEP, now)]
            case Phase.IDLE, GiveWay():
                return self._leave(Retire(), now)
            case Phase.BUSY, AssistantDone():
                return [*self._running.block_done(event, now)]
            case Phase.BUSY, TurnResult():
                return self._turn_result(event, now)
            case Phase.BUSY, ControlAnswer() if self._present.awaits_setup(event):
                return self._set_up(event, now)
            case Phase.INTERRUPTING, ControlAnswer() if self._present.awaits_rewind(event):
                return self._taken_back(event, now)
            case Phase.STOPPING, ChildGone():
                return self._gone(now)
            case Phase.STOPPING, _:
                return []  # whatever it still says was not asked for any more
            case _, ChildGone(error) if self._child is not None:
                return self._died(error, now)
            case _, ControlAsked() if self._child is not None:
                return [self._child.refuse(event)]
            case _, TurnResult() if self._child is not None:
                self._child.bill(event)  # of a turn that has ended already
                return []
            case _:
                return []

    # -- turns come ------------------------------------------------------------------------------

    def _start_turn(self, event: StartTurn, now: float) -> list[Action]:
        prompt = event.prompt
        setup, due = prompt.setup(self.memory.setup), now + self.limits.turn
        turn = TurnState(event.turn_id, prompt, setup, accepted=now, due=due)
        refusal = self._refusal(event, now)
        if refusal is not None:
            return [turn.started(), turn.failed(refusal)]
        self._turns.add(turn)
        match self.phase:
            case Phase.ASLEEP | Phase.BACKOFF:
                return [turn.started(), *self._settle(Phase.ASLEEP, now)]
            case Phase.IDLE:
                return [turn.started(), *self._settle(Phase.IDLE, now)]
            case _:
                return [turn.started()]

    def _refusal(self, event: StartTurn, now: float) -> GatewayError | None:
        if self.closing is not None:
            return self.closing
        if not self._budget.has_room(now):
            return refusals.keeps_dying(self._budget.free_at - now)
        return self._turns.refusal(reject_if_busy=event.reject_if_busy)

    def _settle(self, resting: Phase, now: float) -> list[Action]:
        """No turn is under way: begin the one that waits longest, or rest (ASLEEP or IDLE)."""
        self._enter(resting, now)
        refused = self._turns.advance(self.memory)
        return [*refused, *(self._begin(now) if self._turns.current else [])]

    def _begin(self, now: float) -> list[Action]:
        if self._child is None:
            return self._wake(now)
        if self._child.setup != self._running.setup:
            # A child takes its setup once: another one resumes with the new one.
            return self._leave(Retire(), now)
        self._running.compose(())
        return self._ask(now)

    # -- the child comes -------------------------------------------------------------------------

    def _wake(self, now: float) -> list[Action]:
        self._enter(Phase.WAKING, now)
        return [Wake(self.memory.resume)]

    def _child_ready(self, now: float) -> list[Action]:
        turn, billed = self._running, self.memory.usage.cost_usd
        self._child = ChildState(turn.setup, ready=now, heard=now, billed=billed)
        turn.compose(self.memory.seed)
        # Pipelined: the prompt does not wait for the answer to the initialize.
        return [self._child.initialize(), *self._ask(now)]

    def _ask(self, now: float) -> list[Action]:
        self._enter(Phase.BUSY, now)
        self._present.heard = now
        return self._write_batch()

    def _write_batch(self) -> list[Action]:
        return [self._present.write(line) for line in self._running.next_lines()]

    def _set_up(self, answer: ControlAnswer, now: float) -> list[Action]:
        if answer.error is not None:
            return self._stillborn(refusals.not_set_up(answer.error), now)
        self._present.initialized = True
        return []

    # -- the answer comes ------------------------------------------------------------------------

    def _turn_result(self, result: TurnResult, now: float) -> list[Action]:
        turn, usage = self._running, self._present.bill(result)
        if not turn.is_meant(result):
            return []
        if result.is_error or result.subtype != "success":
            if not self._present.initialized:
                return self._stillborn(upstream_error(result), now)
            return self._abandon(upstream_error(result), now)
        self._present.initialized = True  # whatever became of its answer to that
        if turn.batches and result.num_turns == 0:
            return self._write_batch()
        if not turn.is_answered(result):
            return self._abandon(upstream_error(result), now)
        self.memory = turn.remembered(self.memory, result, usage)
        ended = self._end(Completed(finish_reason(result), usage), now)
        if self.limits.keep_child:
            return ended + self._settle(Phase.IDLE, now)
        return ended + self._leave(Retire(), now)

    # -- turns end early -------------------------------------------------------------------------

    def _interrupt(self, turn_id: str, now: float) -> list[Action]:
        if self._turns.current is not None and self._turns.current.turn_id == turn_id:
            return self._cut(refusals.interrupted(), now)
        waiting = self._turns.take_waiting(turn_id)
        return [] if waiting is None else [waiting.failed(refusals.interrupted())]

    def _cut(self, error: GatewayError, now: float) -> list[Action]:
        """End the turn under way, wherever it is."""
        match self.phase:
            case Phase.BUSY:
                return self._abandon(error, now)
            case Phase.WAKING:
                ended = self._end(Failed(error), now)
                return [*ended, CancelWake(), *self._settle(Phase.ASLEEP, now)]
            case _:  # STOPPING
                return self._end(Failed(error), now)

    def _abandon(self, error: GatewayError, now: float) -> list[Action]:
        """End the turn that the child works on, and have the child forget it."""
        turn, child = self._running, self._present
        ended = self._end(Failed(error), now)
        # Older releases of the CLI cannot take back the first message of a session.
        later = self.memory.resume is not None
        if not (child.initialized and later and turn.alone and self.limits.keep_child):
            return ended + self._leave(Kill(), now)
        self._enter(Phase.INTERRUPTING, now)
        return [*ended, child.rewind(turn.awaits)]

    def _taken_back(self, answer: ControlAnswer, now: float) -> list[Action]:
        if answer.error is None and answer.body.get("rewound") is True:
            return self._settle(Phase.IDLE, now)
        # What the child holds now is uncertain; what its transcript holds is not.
        return self._leave(Kill(), now)

    # -- time passes -----------------------------------------------------------------------------

    def _alarms(self) -> Iterator[tuple[float, Callable[[float], list[Action]]]]:
        """What has to happen if nothing else does: when, and what. The most drastic come first."""
        limits, since = self.limits, self._since
        yield self._turns.due, self._end_overdue
        match self.phase:
            case Phase.ASLEEP:
                yield self._used + limits.expire, self._expire
            case Phase.IDLE:
                yield self._used + limits.expire, self._expire
                yield since + limits.hibernate, partial(self._leave, Retire())
                if not self._present.frozen:
                    yield since + limits.freeze, self._freeze
            case Phase.BUSY if self._present.initialized:
                yield self._present.heard + limits.silence, self._fell_silent
            case Phase.BUSY:
                yield self._present.ready + limits.start, self._never_ready
            case Phase.INTERRUPTING:
                yield since + limits.interrupt, partial(self._leave, Kill())
            case Phase.BACKOFF:
                yield self._budget.free_at, partial(self._settle, Phase.ASLEEP)

    def _timed_out(self, now: float) -> list[Action]:
        for due, ring in self._alarms():
            if now >= due:
                return ring(now)  # the deadline tells if there is more to do
        return []  # the alarm was set before the child showed life

    def _end_overdue(self, now: float) -> list[Action]:
        """End the turns that took, or waited for, all the time they had."""
        error = refusals.took_too_long(self.limits.turn)
        ended: list[Action] = [turn.failed(error) for turn in self._turns.take_overdue(now)]
        if self._turns.current is not None and now >= self._turns.current.due:
            ended += self._cut(error, now)
        return ended

    def _fell_silent(self, now: float) -> list[Action]:
        return self._abandon(refusals.fell_silent(self.limits.silence), now)

    def _never_ready(self, now: float) -> list[Action]:
        return self._stillborn(refusals.never_ready(self.limits.start), now)

    def _expire(self, now: float) -> list[Action]:
        return self._close(refusals.expired(), now)

    def _freeze(self, now: float) -> list[Action]:
        self._present.frozen = True
        return [Freeze()]

    # -- the child goes --------------------------------------------------------------------------

    def _leave(self, how: Retire | Kill, now: float) -> list[Action]:
        self._enter(Phase.STOPPING, now)
        return [how]

    def _stillborn(self, error: GatewayError, now: float) -> list[Action]:
        """The child failed before it was set up: as good as a death of its own."""
        self._budget.spend(now)
        return [*self._end(Failed(error), now), *self._leave(Kill(), now)]

    def _died(self, error: GatewayError, now: float) -> list[Action]:
        """The child has gone without being told to."""
        self._budget.spend(now)
        ended = self._end(Failed(error), now) if self._turns.current else []
        return ended + self._gone(now)

    def _gone(self, now: float) -> list[Action]:
        self._child = None
        if self.closing is not None:
            self._enter(Phase.CLOSED, now)
            return []
        if not self._budget.has_room(now):
            self._enter(Phase.BACKOFF, now)
            return self._end_all(refusals.keeps_dying(self._budget.free_at - now), now)
        if self._turns.current is not None:  # it waited for a child that did not suit it to go
            return self._wake(now)
        return self._settle(Phase.ASLEEP, now)

    def _close(self, error: GatewayError, now: float) -> list[Action]:
        if self.closing is not None:
            return []
        self.closing = error
        ended = self._end_all(error, now)
        match self.phase:
            case Phase.IDLE:
                return ended + self._leave(Retire(), now)
            case Phase.BUSY | Phase.INTERRUPTING:
                return ended + self._leave(Kill(), now)
            case Phase.STOPPING:
                return ended  # CLOSED when the child has gone
            case Phase.WAKING:
                ended.append(CancelWake())
        self._enter(Phase.CLOSED, now)
        return ended

    # -- small things ----------------------------------------------------------------------------

    def _enter(self, phase: Phase, now: float) -> None:
        """The only place that assigns the phase."""
        self.phase = phase
        self._since = now

    def _end(self, outcome: Outcome, now: float) -> list[Action]:
        self._used = now
        return [self._turns.take_current().ended(outcome)]

    def _end_all(self, error: GatewayError, now: float) -> list[Action]:
        self._used = now
        return [turn.failed(error) for turn in self._turns.take_all()]

    @property
    def _running(self) -> TurnState:
        assert self._turns.current is not None
        return self._turns.current

    @property
    def _present(self) -> ChildState:
        assert self._child is not None
        return self._child
