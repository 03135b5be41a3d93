"""The session's state machine: every transition of a conversation, and nothing else.

Knows: phases, turns, what is written to a child and when, deadlines as points in time. Refuses to
know: trio, processes, channels and clocks (`now` comes with each event, in seconds). It performs
nothing: `advance` answers with actions, and `actors.session` performs them.

      ASLEEP ──StartTurn──> WAKING ──ChildReady──> BUSY <──StartTurn── IDLE
        ^                                           │                   ^
        └──────ChildGone── STOPPING <──Retire/Kill──┼──TurnResult───────┤
                                                    └──> INTERRUPTING ──┘

BACKOFF is ASLEEP with the restart budget spent; CLOSED is the end. A turn is at-most-once: its
prompt is written to one child, once. A turn that fails, times out or is interrupted leaves no
trace: it is rewound in the child, or the child goes and the next one resumes before it.
"""

from __future__ import annotations

import math
from collections import deque

from attrs import evolve

from ..schemas import frames
from ..schemas.errors import GatewayError
from ..schemas.frames import AssistantDone, ControlAnswer, ControlAsked, TurnResult
from ..schemas.turn import (  # fmt: skip
    Completed,
    Failed,
    Memory,
    Message,
    Outcome,
    ResumePoint,
    Setup,
    TextDelta,
    Usage,
    add_usage,
    digest,
    unseen,
)
from ..schemas.upstream import finish_reason, upstream_error
from . import refusals
from .budget import RestartBudget
from .phases import Limits, Phase
from .signals import (
    Action,
    CancelWake,
    ChildGone,
    ChildReady,
    Close,
    Deliver,
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
    Write,
)
from .turn_state import TurnState


class Machine:
    """One conversation. `advance` is the only way anything here changes.

    `memory` is what outlives the machine; `phase` and `deadline` (a point in time, `math.inf` for
    none) are for the shell to read.
    """

    def __init__(self, memory: Memory, limits: Limits, now: float) -> None:
        self.memory = memory
        self.limits = limits
        self.phase = Phase.ASLEEP
        self._since = now
        self._used = now
        self._turn: TurnState | None = None
        self._queue: deque[TurnState] = deque()
        self._budget = RestartBudget()
        self._closing: GatewayError | None = None
        # What is known of the present child.
        self._setup = memory.setup
        self._initialized = False
        self._lively = now
        self._requests = 0
        self._rewinding: str | None = None
        self._frozen = False
        self._cost = 0.0

    def __repr__(self) -> str:
        turn = f" turn={self._turn.turn_id}" if self._turn else ""
        return f"<Machine {self.phase.name}{turn} queued={len(self._queue)}>"

    @property
    def closing(self) -> GatewayError | None:
        """Why the conversation is ending, once it is."""
        return self._closing

    @property
    def deadline(self) -> float:
        """When `TimedOut` is due."""
        limits, since = self.limits, self._since
        match self.phase:
            case Phase.ASLEEP:
                due = self._used + limits.expire
            case Phase.WAKING:
                assert self._turn is not None
                due = self._turn.accepted + limits.turn
            case Phase.BUSY:
                assert self._turn is not None
                patience = limits.silence if self._initialized else limits.start
                due = min(self._turn.accepted + limits.turn, self._lively + patience)
            case Phase.INTERRUPTING:
                due = since + limits.interrupt
            case Phase.IDLE:
                freeze = math.inf if self._frozen else limits.freeze
                due = min(since + freeze, since + limits.hibernate, self._used + limits.expire)
            case Phase.BACKOFF:
                due = self._budget.free_at
            case Phase.STOPPING | Phase.CLOSED:
                due = math.inf
        if self._queue:
            due = min(due, self._queue[0].accepted + limits.turn)
        return due

    def heard(self, now: float) -> None:
        """The child has shown a sign of life (said once per piece read, not per frame)."""
        self._lively = now

    def advance(self, event: Event, now: float) -> list[Action]:
        """Take one event in, and answer with what is to be done, in order."""
        phase = self.phase
        if type(event) is TextDelta:  # the hot path: once per token
            if phase is Phase.BUSY and self._turn is not None:
                turn = self._turn
                if turn.first_delta is None:
                    turn.first_delta = now
                turn.pieces.append(event.text)
                return [Deliver(turn.turn_id, event)]
            return []
        match phase, event:
            case Phase.CLOSED, StartTurn():
                return self._reject(event, now, refusals.closed())
            case Phase.CLOSED, _:
                return []
            case _, StartTurn():
                return self._accept(event, now)
            case _, Close(error):
                return self._close(error, now)
            case _, Interrupt(turn_id):
                return self._interrupt(turn_id, refusals.interrupted(), now)
            case Phase.WAKING, ChildReady():
                return self._ready(now)
            case Phase.WAKING, WakeFailed(error):
                return [*self._end(Failed(error), now), *self._next(Phase.ASLEEP, now)]
            case _, ChildGone(error):
                return self._gone(error, now)
            case _, TimedOut():
                return self._timed_out(now)
            case Phase.IDLE, GiveWay():
                return self._leave(Retire(), now)
            case Phase.BUSY, TurnResult():
                return self._result(event, now)
            case Phase.BUSY, AssistantDone(uuid, synthetic):
                if self._turn is not None and not synthetic:
                    self._turn.assistant_uuid = uuid
                return []
            case _, ControlAnswer():
                return self._answered(event, now)
            case _, ControlAsked(request_id, subtype):
                return [Write(frames.refuse(request_id, f"{subtype} is not served here"))]
            case _:
                return []

    # -- turns come ------------------------------------------------------------------------------

    def _reject(self, event: StartTurn, now: float, error: GatewayError) -> list[Action]:
        turn = self._new_turn(event, now)
        return [turn.started(), turn.ended(Failed(error))]

    def _accept(self, event: StartTurn, now: float) -> list[Action]:
        if self._closing is not None:
            return self._reject(event, now, self._closing)
        if self.phase is Phase.BACKOFF:
            wait = self._budget.free_at - now
            return self._reject(event, now, refusals.keeps_dying(wait))
        busy = self._turn is not None or bool(self._queue)
        if busy and event.reject_if_busy:
            return self._reject(event, now, refusals.busy())
        if len(self._queue) >= self.limits.queued:
            return self._reject(event, now, refusals.queue_full())
        turn = self._new_turn(event, now)
        self._queue.append(turn)
        accepted: list[Action] = [turn.started()]
        if self.phase in (Phase.ASLEEP, Phase.IDLE):
            accepted += self._next(self.phase, now)
        return accepted

    def _next(self, resting: Phase, now: float) -> list[Action]:
        """Rest in `resting` (ASLEEP or IDLE), unless a turn waits: then start it."""
        self._enter(resting, now)
        if self._closing is not None:
            return self._shut(now)
        actions: list[Action] = []
        while self._queue and self._turn is None:
            turn = self._queue.popleft()
            messages = unseen(self.memory.digests, turn.prompt.messages)
            if messages is None:
                actions.append(turn.ended(Failed(refusals.contradicted())))
                continue
            turn.messages = messages
            self._turn = turn
            actions += self._begin(resting, now)
        return actions

    def _begin(self, resting: Phase, now: float) -> list[Action]:
        assert self._turn is not None
        prompt, held = self._turn.prompt, self.memory.setup
        setup = Setup(
            model=held.model if prompt.model is None else prompt.model,
            system=held.system if prompt.system is None else prompt.system,
            profile=held.profile,
        )
        if resting is Phase.IDLE and setup == self._setup:
            self._enter(Phase.BUSY, now)
            self._turn.compose((), setup.model)
            return self._say(self._turn)
        self.memory = evolve(self.memory, setup=setup)
        self._setup = setup
        if resting is Phase.IDLE:
            # A child takes its model and system prompt once: another one resumes with the new.
            self._enter(Phase.STOPPING, now)
            return [Retire()]
        self._enter(Phase.WAKING, now)
        return [Wake(self.memory.resume)]

    # -- the child comes -------------------------------------------------------------------------

    def _ready(self, now: float) -> list[Action]:
        turn = self._turn
        assert turn is not None
        self._initialized = False
        self._frozen = False
        self._cost = 0.0
        self._enter(Phase.BUSY, now)
        history = self.memory.seed if self.memory.resume is None else ()
        turn.compose(history, self._setup.model)
        # Pipelined: the prompt does not wait for the answer to the initialize.
        return [Write(frames.initialize(self._request_id(), self._setup)), *self._say(turn)]

    def _say(self, turn: TurnState) -> list[Action]:
        """Write the turn's next batch of lines."""
        return [Write(line) for line in turn.batches.popleft()]

    # -- the answer comes ------------------------------------------------------------------------

    def _result(self, result: TurnResult, now: float) -> list[Action]:
        turn = self._turn
        assert turn is not None
        if turn.batches and not result.is_error:
            return self._say(turn)
        if result.is_error or result.subtype != "success":
            return self._abandon(Failed(upstream_error(result)), now)
        actions: list[Action] = []
        if not turn.pieces and result.text:
            # The CLI answered by itself, without a stream.
            turn.first_delta = now
            turn.pieces.append(result.text)
            actions.append(Deliver(turn.turn_id, TextDelta(result.text)))
        cost = max(0.0, result.total_cost_usd - self._cost)
        self._cost = result.total_cost_usd
        usage = evolve(result.usage, cost_usd=cost)
        self._remember(turn, result, usage)
        actions += self._end(Completed(finish_reason(result), usage), now)
        if self.limits.keep_child:
            return actions + self._next(Phase.IDLE, now)
        return actions + self._leave(Retire(), now)

    def _remember(self, turn: TurnState, result: TurnResult, usage: Usage) -> None:
        held = self.memory
        answer = Message("assistant", ("".join(turn.pieces),))
        self.memory = evolve(
            held,
            digests=(*held.digests, *map(digest, turn.messages), digest(answer)),
            resume=ResumePoint(result.session_id, turn.assistant_uuid),
            seed=(),
            turns=held.turns + 1,
            usage=add_usage(held.usage, usage),
        )

    def _answered(self, answer: ControlAnswer, now: float) -> list[Action]:
        if answer.request_id == self._rewinding and self.phase is Phase.INTERRUPTING:
            self._rewinding = None
            if answer.error is None and answer.body.get("rewound"):
                return self._next(Phase.IDLE, now)
            # What the child holds now is uncertain; what its transcript holds is not.
            return self._leave(Kill(), now)
        if not self._initialized and self.phase is Phase.BUSY:
            self._initialized = True
            if answer.error is not None:
                failed = Failed(refusals.not_set_up(answer.error))
                return [*self._end(failed, now), *self._leave(Kill(), now)]
        return []

    # -- turns end early -------------------------------------------------------------------------

    def _interrupt(self, turn_id: str, error: GatewayError, now: float) -> list[Action]:
        """End a turn before its answer is whole; the child stops what it does for it."""
        if self._turn is None or self._turn.turn_id != turn_id:
            for turn in self._queue:
                if turn.turn_id == turn_id:
                    self._queue.remove(turn)
                    return [turn.ended(Failed(error))]
            return []  # it has ended already
        match self.phase:
            case Phase.WAKING:
                return [
                    *self._end(Failed(error), now),
                    CancelWake(),
                    *self._next(Phase.ASLEEP, now),
                ]
            case Phase.BUSY:
                return self._abandon(Failed(error), now)
            case _:  # STOPPING: it waited for a child with another setup
                return self._end(Failed(error), now)

    def _abandon(self, outcome: Failed, now: float) -> list[Action]:
        """End the turn and take it out of the child's history."""
        turn = self._turn
        assert turn is not None
        ended = self._end(outcome, now)
        rewindable = self._initialized and not turn.batches and self.memory.resume is not None
        if not rewindable or len(turn.messages) > 1:
            # The first turn of a session cannot be rewound, nor can several messages at once.
            return [*ended, *self._leave(Kill(), now)]
        self._rewinding = self._request_id()
        self._enter(Phase.INTERRUPTING, now)
        return [*ended, Write(frames.rewind(self._rewinding, turn.uuid))]

    def _timed_out(self, now: float) -> list[Action]:
        overdue = self._overdue(now)
        if now < self.deadline:
            return overdue  # a turn that waited, or an alarm set before the child showed life
        match self.phase:
            case Phase.WAKING | Phase.BUSY:
                assert self._turn is not None
                error = self._timeout_error(self._turn, now)
                return overdue + self._interrupt(self._turn.turn_id, error, now)
            case Phase.INTERRUPTING:
                return overdue + self._leave(Kill(), now)
            case Phase.BACKOFF:
                return overdue + self._next(Phase.ASLEEP, now)
            case Phase.ASLEEP:
                return self._close(refusals.expired(), now)
            case Phase.IDLE:
                if now >= self._used + self.limits.expire:
                    return self._close(refusals.expired(), now)
                if now >= self._since + self.limits.hibernate:
                    return self._leave(Retire(), now)
                self._frozen = True
                return [Freeze()]
            case _:
                return overdue

    def _overdue(self, now: float) -> list[Action]:
        """End the turns that have waited for their whole time."""
        ended: list[Action] = []
        while self._queue and now >= self._queue[0].accepted + self.limits.turn:
            turn = self._queue.popleft()
            ended.append(turn.ended(Failed(self._timeout_error(turn, now))))
        return ended

    def _timeout_error(self, turn: TurnState, now: float) -> GatewayError:
        if now >= turn.accepted + self.limits.turn:
            return refusals.took_too_long(self.limits.turn)
        if self._initialized:
            return refusals.fell_silent(self.limits.silence)
        return refusals.never_ready(self.limits.start)

    # -- the child goes --------------------------------------------------------------------------

    def _leave(self, how: Retire | Kill, now: float) -> list[Action]:
        self._enter(Phase.STOPPING, now)
        return [how]

    def _gone(self, error: GatewayError, now: float) -> list[Action]:
        if self.phase is Phase.STOPPING:
            if self._turn is not None:  # it waited for its predecessor's child to go
                self._enter(Phase.WAKING, now)
                return [Wake(self.memory.resume)]
            return self._next(Phase.ASLEEP, now)
        if self.phase not in (Phase.BUSY, Phase.IDLE, Phase.INTERRUPTING):
            return []
        self._budget.spend(now)
        ended = self._end(Failed(error), now) if self._turn is not None else []
        if self._closing is None and not self._budget.has_room(now):
            return [*ended, *self._back_off(now)]
        return [*ended, *self._next(Phase.ASLEEP, now)]

    def _back_off(self, now: float) -> list[Action]:
        self._enter(Phase.BACKOFF, now)
        error = refusals.keeps_dying(self._budget.free_at - now)
        waiting, self._queue = self._queue, deque()
        return [turn.ended(Failed(error)) for turn in waiting]

    def _close(self, error: GatewayError, now: float) -> list[Action]:
        if self._closing is not None:
            return []
        self._closing = error
        waiting, self._queue = self._queue, deque()
        ended: list[Action] = [turn.ended(Failed(error)) for turn in waiting]
        if self._turn is not None:
            ended += self._end(Failed(error), now)
        match self.phase:
            case Phase.WAKING:
                return [*ended, CancelWake(), *self._shut(now)]
            case Phase.IDLE:
                return [*ended, *self._leave(Retire(), now)]
            case Phase.BUSY | Phase.INTERRUPTING:
                return [*ended, *self._leave(Kill(), now)]
            case Phase.STOPPING:
                return ended  # CLOSED when the child has gone
            case _:
                return [*ended, *self._shut(now)]

    def _shut(self, now: float) -> list[Action]:
        if self.phase is Phase.IDLE:
            return self._leave(Retire(), now)
        self._enter(Phase.CLOSED, now)
        return []

    # -- small things ----------------------------------------------------------------------------

    def _enter(self, phase: Phase, now: float) -> None:
        """The only place that assigns the phase."""
        self.phase = phase
        self._since = self._lively = now

    def _end(self, outcome: Outcome, now: float) -> list[Action]:
        turn, self._turn = self._turn, None
        assert turn is not None
        self._used = now
        return [turn.ended(outcome)]

    def _new_turn(self, event: StartTurn, now: float) -> TurnState:
        model = event.prompt.model or self.memory.setup.model
        return TurnState(event.turn_id, event.prompt, model, accepted=now)

    def _request_id(self) -> str:
        self._requests += 1
        return f"gw-{self._requests}"
