"""The session actor: one live conversation, its machine, and at most one child.

Knows: how the machine's actions are performed. Refuses to know: which action follows which event
(`actors.session.machine`), and the other sessions (`actors.conversations.supervisor`).

Five kinds of task run in the session's own nursery: the actor itself (the mailbox), the search for
a child in the pool, the attendant of the present child (it reads the child, and waits until it has
gone), one watcher per turn (it waits for the caller to hang up), and one task for each call of an
MCP server's tool. All of them call the machine
synchronously, so it takes one event at a time. Only the attendant ever waits for a caller, so a
caller that stalls delays nothing but its own turn. An exception in any of them ends this session,
and no other.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

import trio
from attrs import define, evolve

from ...schemas.claude.limits import LimitState
from ...schemas.claude.lines import Line
from ...schemas.claude.output import Frame, Noise, PermissionAsked, TurnResult
from ...schemas.errors import ChildProtocolError, GatewayError, InternalError, draining
from ...schemas.events import (
    ChildTaken,
    ModelsListed,
    PhaseChanged,
    ToolAsked,
    ToolDecided,
    TurnAccepted,
    TurnFailed,
    TurnFinished,
)
from ...schemas.message import Message
from ...schemas.turn import (
    AgentOrigin,
    ChildSource,
    ChoiceFate,
    Completed,
    Failed,
    Origin,
    TurnRequest,
)
from ...schemas.turn_items import TextDelta, TurnItem
from ...transport.loggers import get_logger
from ...transport.store.interface import Charge
from ..runtime.bus import Bus
from ..runtime.mailbox import Mailbox, ReplyTo, answer
from ..runtime.once_log import OnceLog
from ..runtime.reply_channel import CallerGone, Port
from . import errors
from .events import (
    Action,
    Billed,
    CallHosted,
    CancelWake,
    ChildChosen,
    ChildGone,
    ChoiceReported,
    ClaimRefused,
    Close,
    Deliver,
    End,
    Event,
    Extend,
    Freeze,
    GiveWay,
    HandOver,
    Hop,
    HostedEnded,
    Interrupt,
    Kill,
    PermissionDenied,
    PermissionReply,
    PermissionRequested,
    PermissionSettled,
    RequestPermission,
    Resident,
    Retire,
    ServersFailed,
    Started,
    StartTurn,
    TimedOut,
    TranscriptLost,
    Wake,
    WakeFailed,
    Wants,
    Warm,
    Write,
)
from .hosted import Host
from .keeping import Keeper
from .late import UnexpectedEvent
from .machine import NO_HOST, Machine
from .messages import Add, Ended, Journal, Lent, SessionMessage, SessionState, Submit
from .metering import Meter, TurnMeter
from .permissions import request_of
from .phases import Limits, Phase
from .tools import HostedCall
from .turn import TurnState

log = get_logger("ccapi.session")

RAISE_UNEXPECTED = False
"""Whether an event that fits no phase ends its session (tests) or is logged and dropped."""

BURST_SECONDS = 0.002
"""The shortest time between two reads of a child that writes deltas. What the child writes
meanwhile is read, and sent to the client, together. No model is that fast; the demo CLI is."""


class SessionChild(Protocol):
    """What a session needs of a child (`transport.process.child.Child`)."""

    gone: trio.Event

    def write(self, line: Line) -> None: ...
    async def receive_frames(self) -> list[Frame]: ...
    def stop_reading(self) -> None: ...
    def rest(self) -> None: ...
    def retire(self) -> None: ...
    def kill(self) -> None: ...
    def post_mortem(self) -> GatewayError: ...


C = TypeVar("C", bound=SessionChild)


class SessionPool(Protocol[C]):
    """What a session needs of the pool (`actors.pool.pool.ChildPool`)."""

    has_rejections: bool

    async def acquire(
        self, conversation_id: str, origin: Origin | None, wants: Wants | None, owner: str,
        login: str, avoid: str,
    ) -> Lent[C]: ...  # fmt: skip
    def offer(
        self, child: C, give_way: Callable[[int | None], None], state: Resident, *,
        suspended: bool, valued: bool, expected: float,
    ) -> None: ...  # fmt: skip
    def withdraw(self, child: C) -> None: ...
    def take_back(self, child: C, state: Resident) -> None: ...
    def freeze(self, child: C) -> None: ...
    def refusal(self, model: str, login: str) -> GatewayError | None: ...
    def has_other(self, model: str, login: str) -> bool: ...
    def note_limit(self, child: C, state: LimitState, model: str) -> None: ...


@define(eq=False)
class _Waiting:
    """A caller whose turn has not ended; `model` is None until the machine accepts the turn."""

    port: Port
    request: TurnRequest
    taken: float
    model: str | None = None


class Callers:
    """The callers of one conversation's unfinished turns, by the turn's id, and their events."""

    def __init__(
        self, conversation_id: str, bus: Bus, state: SessionState[Any] | None = None
    ) -> None:
        self._conversation_id = conversation_id
        self._state = state
        self._bus = bus
        self.waiting: dict[str, _Waiting] = {}

    def __repr__(self) -> str:
        return f"<Callers {len(self.waiting)}>"

    @property
    def _login(self) -> str:
        return self._state.login if self._state else ""

    @property
    def _owner(self) -> str:
        return self._state.owner if self._state else ""

    def take(self, start: StartTurn, port: Port) -> None:
        """A turn is about to be started."""
        self.waiting[start.turn_id] = _Waiting(port, start.request, trio.current_time())

    def started(self, turn_id: str, model: str) -> Port:
        """The machine has accepted the turn: publish that. Its end is always published too."""
        waiting = self.waiting[turn_id]
        waiting.model = model
        self._bus.publish(TurnAccepted(turn_id, self._conversation_id, model, self._owner))
        return waiting.port

    def report_choice(self, turn_id: str, fate: ChoiceFate) -> None:
        waiting = self.waiting.get(turn_id)
        if waiting is not None:
            waiting.port.report_choice(fate)

    def report_lost(self, turn_id: str, lost: str) -> None:
        """An earlier turn of the conversation was lost, when the gateway ended while it ran."""
        waiting = self.waiting.get(turn_id)
        if waiting is not None:
            waiting.port.report_lost(lost)

    def report_source(self, turn_id: str, source: ChildSource) -> None:
        """The turn has its child."""
        waiting = self.waiting.get(turn_id)
        if waiting is not None:
            waiting.port.report_source(source)
            self._bus.publish(ChildTaken(turn_id, self._conversation_id, source))

    def note_effects(self, turn_id: str) -> None:
        """The turn has done something that must not be done twice."""
        self.waiting[turn_id].port.has_effects = True

    def end(self, end: End) -> None:
        """Publish the end, then give it to the caller: the cache relies on that order."""
        seconds = trio.current_time() - end.accepted
        key = end.request.cache_key
        match end.outcome:
            case Completed(usage=usage):
                first = None if end.first_delta is None else end.first_delta - end.accepted
                self._bus.publish(
                    TurnFinished(
                        end.turn_id, self._conversation_id, end.model, usage, seconds, first, key,
                        end.answer, login=self._login, owner=self._owner,
                    )
                )  # fmt: skip
            case Failed(error):
                self._publish_failure(end.turn_id, end.model, error, seconds, key)
        self.waiting.pop(end.turn_id).port.end(end.outcome)

    def abandon(self, error: GatewayError) -> None:
        """The session ends: its unfinished turns end with `error`."""
        now = trio.current_time()
        while self.waiting:
            turn_id, waiting = self.waiting.popitem()
            if waiting.model is not None:
                seconds, key = now - waiting.taken, waiting.request.cache_key
                self._publish_failure(turn_id, waiting.model, error, seconds, key)
            waiting.port.end(Failed(error))

    def _publish_failure(
        self, turn_id: str, model: str, error: GatewayError, seconds: float, key: str | None
    ) -> None:
        self._bus.publish(
            TurnFailed(
                turn_id, self._conversation_id, model, error, seconds, key, self._login, self._owner
            )
        )


class _Session(Generic[C]):
    """The shell around one machine. Lives inside `run_session`."""

    _nursery: trio.Nursery

    def __init__(
        self, conversation_id: str, state: SessionState[Any], limits: Limits, stall_seconds: float,
        pool: SessionPool[C], bus: Bus, host: Host, meter: Meter | None = None,
    ) -> None:  # fmt: skip
        self.id = conversation_id
        self.machine = Machine(
            state.memory, limits, trio.current_time(), kept=state.broadcast.messages,
            host=host, is_heard=lambda: state.broadcast.is_heard,
            can_hop=self._can_hop,
        )  # fmt: skip
        self._host = host
        self._hosted: dict[str, trio.CancelScope] = {}  # the calls of MCP servers that run
        self._alarm = trio.CancelScope()  # around the mailbox's receive: its deadline is the timer
        self._state = state
        self._stall_seconds = stall_seconds
        self._pool = pool
        self._bus = bus
        self._once = OnceLog(log)
        self._callers = Callers(conversation_id, bus, state)
        self._broadcast = state.broadcast
        self._start_is_kept = trio.Event()
        self._meter = None if meter is None else TurnMeter(state.owner, meter)
        self._keeper = None if state.journal is None else self._keeper_of(state.journal)
        self._broadcast_turn: TurnState | None = None  # the turn that the broadcast has begun
        self._child: C | None = None
        self._offered: C | None = None
        self._searching: trio.CancelScope | None = None
        self._avoid = ""  # the login that has just refused the turn

    def _keeper_of(self, journal: Journal) -> Keeper:
        return Keeper(
            journal, self._broadcast, finish=self._callers.end, lost=self._callers.report_lost,
            write=self._write, started=self._start_kept,
            broken=lambda error: self.feed(Close(error)), uncounted=self._count,
        )  # fmt: skip

    def _count(self, charge: Charge) -> None:
        """A turn has ended whose end the store does not take, or is not given."""
        if self._meter is not None:
            meter, owner = self._meter.meter, self._meter.owner
            meter.write(owner, charge.model, charge.usage, 1)

    def _start_kept(self) -> None:
        self._start_is_kept.set()
        self._start_is_kept = trio.Event()

    # -- the mailbox's side ------------------------------------------------------------------------

    async def run(self, mailbox: Mailbox[SessionMessage]) -> None:
        """Take messages until the machine is closed."""
        async with trio.open_nursery() as self._nursery:
            while self.machine.phase is not Phase.CLOSED:
                message: SessionMessage | None = None
                self._alarm = trio.CancelScope(deadline=self.machine.deadline)
                with self._alarm:
                    message = await mailbox.receive()
                self._take(message)

    def _take(self, message: SessionMessage | None) -> None:
        match message:
            case None:
                self.machine.watched(self._broadcast.watched_at)
                self.feed(TimedOut())
            case Interrupt() | Close() | PermissionReply() | Warm() | GiveWay():
                self.feed(message)
            case Add(messages, reply):
                self._add(messages, reply)
            case Submit(port=port) if self._keeper is not None and self._keeper.is_full:
                port.end(Failed(errors.queue_full()))
            case Submit(port=port) if port.over.is_set():
                # Its caller hung up while it lay in the mailbox: it never starts.
                port.end(Failed(errors.interrupted()))
            case Submit(start, port):
                self._callers.take(start, port)
                self.feed(self._admit(start) if self._pool.has_rejections else start)

    def _admit(self, start: StartTurn) -> StartTurn:
        """The turn, refused where its login is known to be rejected: it would cost a child, and the
        API would refuse it."""
        machine, login = self.machine, self._state.login
        model = start.request.model or machine.memory.setup.model
        refused = self._pool.refusal(model, login)
        if refused is None:
            return start
        at_rest = machine.phase in (Phase.ASLEEP, Phase.IDLE)
        if not (at_rest and self._pool.has_other(model, login)):
            return evolve(start, refused=refused)
        if machine.phase is Phase.IDLE:
            self.feed(GiveWay())  # the turn waits for a child of the other login
        return start

    def _can_hop(self, model: str) -> bool:
        return self._pool.has_other(model, self._state.login)

    def _note_limit(self, child: C, limit: LimitState) -> None:
        """Have the pool know what the child reports of its login's limits."""
        if limit.status:
            setup = (self.machine.turn or self.machine.memory).setup
            self._pool.note_limit(child, limit, setup.model)

    def _add(self, messages: tuple[Message, ...], reply: ReplyTo[bool | GatewayError]) -> None:
        before = self.machine.memory
        self.feed(Extend(messages))
        is_added = self.machine.memory is not before
        if self._keeper is None or not is_added:
            if is_added:
                self._broadcast.add(messages)
            answer(reply, is_added)
            return

        def report(error: GatewayError | None) -> None:
            answer(reply, True if error is None else error)

        self._keeper.add(messages, report)
        self._keep()

    def feed(self, event: Event) -> None:
        """Take one event in, and perform its actions, none of which may wait."""
        actions = self._advance(event)
        for action in actions:
            self._perform(action)
        self._broadcast_actions(actions)
        self._rest()

    def _advance(self, event: Event) -> list[Action]:
        machine, held = self.machine, self.machine.memory
        try:
            actions = machine.advance(event, trio.current_time())
        except UnexpectedEvent as fault:
            if RAISE_UNEXPECTED:
                raise
            phase, kind = fault.phase.name, type(event).__name__
            self._once.warn(
                "unexpected event dropped", f"{phase} {kind}", conversation_id=self.id, phase=phase,
                kind=kind,
            )  # fmt: skip
            return []
        if isinstance(event, StartTurn) and machine.memory is not held:
            self._broadcast.remove_last()  # the turn replaces the last one
        if self._keeper is not None and machine.memory.grants != held.grants:
            self._keeper.grant(machine.memory.grants)
        self._settle(actions)
        return actions

    def _broadcast_actions(self, actions: list[Action]) -> None:
        """Watchers get everything at once, however far the caller lags."""
        broadcast = self._broadcast
        for action in actions:
            match action:
                case Deliver(_, item):
                    broadcast.say(item)
                case End(turn_id, outcome, said=said) if self._keeper is None:
                    broadcast.end(turn_id, outcome, said)
        if self._keeper is not None:
            self._keeper.hurry()
            return  # it begins and ends turns for watchers too, once that is kept
        turn = self.machine.turn
        if turn is not self._broadcast_turn:
            self._broadcast_turn = turn
            if turn is not None:
                setup, memory = turn.setup, self.machine.memory
                broadcast.begin(turn.turn_id, setup.model, turn.messages, memory)

    def _settle(self, actions: list[Action]) -> None:
        """Keep up with the machine's memory, phase and deadline, and with what has to be kept."""
        self._state.memory = self.machine.memory  # before the phase: lineage reads both
        charges: dict[str, Charge] = {}
        if self._meter is not None:
            self._meter.follow(actions, self.machine.turn, self.machine.resident)
            charges, self._meter.charges = self._meter.charges, charges
        if self._keeper is not None:
            ends = [action for action in actions if type(action) is End]
            self._keeper.follow(ends, self.machine.turn, self.machine.memory, charges)
            self._keep()
        else:
            for charge in charges.values():
                self._count(charge)
        if self._hosted and self.machine.phase not in (Phase.BUSY, Phase.AWAITING_TOOLS):
            for scope in self._hosted.values():
                scope.cancel()
        turn = self.machine.turn
        if turn is not None and turn.has_effects:
            self._callers.note_effects(turn.turn_id)
        if self.machine.phase is not self._state.phase:
            self._change_phase(self.machine.phase)
        self._set_alarm()

    def _keep(self) -> None:
        """Have the keeper do what there is to do."""
        assert self._keeper is not None
        if self._keeper.begin_work():
            self._state.is_settled = False
            self._nursery.start_soon(self._work)

    async def _work(self) -> None:
        assert self._keeper is not None
        await self._keeper.work()
        self._state.is_settled = True

    def _set_alarm(self) -> None:
        if self.machine.phase is Phase.CLOSED:
            self._alarm.cancel()
        else:
            self._alarm.deadline = self.machine.deadline

    def _change_phase(self, new: Phase) -> None:
        old, self._state.phase = self._state.phase, new
        self._withdraw()
        self._bus.publish(PhaseChanged(self.id, old.value, new.value))
        self._broadcast.move(new.value)

    # -- an idle child -----------------------------------------------------------------------------

    def _rest(self) -> None:
        """Offer a resting child to the pool, which may need its place; after all actions."""
        phase = self._state.phase
        if phase in (Phase.IDLE, Phase.AWAITING_TOOLS) and self._offered is None:
            assert self._child is not None
            self._offered = self._child
            state = self.machine.resident
            assert state is not None
            self._pool.offer(
                self._child,
                self._give_way,
                state,
                suspended=phase is Phase.AWAITING_TOOLS,
                valued=self.machine.is_valued or self._broadcast.is_heard,
                expected=self.machine.expected_within,
            )

    def _withdraw(self) -> None:
        if self._offered is not None:
            self._pool.withdraw(self._offered)
            self._offered = None

    def _give_way(self, keep: int | None) -> None:
        """The pool calls this, in the middle of another session's step."""
        try:
            self.feed(GiveWay(keep))
        except Exception as fault:  # noqa: BLE001 (`_fail` raises it in this session)
            self._nursery.start_soon(self._fail, fault)

    async def _fail(self, fault: Exception) -> None:
        raise fault

    # -- performing --------------------------------------------------------------------------------

    def _perform(self, action: Action) -> None:
        """Perform an action that cannot wait. (`Deliver` can: only the attendant performs it.)"""
        match action:
            case Write(line):
                if self._keeper is None:
                    self._write(line)
                else:
                    self._keeper.write(line)
            case End():
                if self._keeper is None:
                    self._callers.end(action)
                else:
                    self._keeper.end(action)
            case Billed():
                pass  # the meter has it
            case ChoiceReported(turn_id, fate):
                self._callers.report_choice(turn_id, fate)
            case Started(turn_id, model):
                port = self._callers.started(turn_id, model)
                self._nursery.start_soon(self._watch, turn_id, port)
            case ChildChosen(turn_id, source):
                self._callers.report_source(turn_id, source)
            case Wake(origin, wants):
                if isinstance(origin, AgentOrigin):
                    origin = evolve(origin, workspace=origin.workspace or self.id)
                self._searching = trio.CancelScope()
                self._nursery.start_soon(self._search, origin, wants, self._searching)
            case HandOver(state, lines):
                child, self._child = self._child, None
                assert child is not None
                for line in lines:
                    child.write(line)
                child.rest()
                self._pool.take_back(child, state)
            case CancelWake():
                assert self._searching is not None
                self._searching.cancel()
            case RequestPermission(turn_id, asked):
                self._broadcast.ask_permission(request_of(action, time.time()))
                self._bus.publish(
                    ToolAsked(self.id, self._state.owner, turn_id, asked.request_id, asked.tool)
                )
            case PermissionSettled(request_id, behavior, by):
                request = self._broadcast.permissions.get(request_id)
                self._broadcast.settle_permission(request_id, behavior, by)
                if request is not None:
                    self._publish_decision(
                        request.tool, behavior, by, request_id, always=action.always
                    )
            case PermissionDenied(tool, by):
                self._publish_decision(tool, "deny", by)
            case CallHosted(call):
                if not action.asked:
                    self._publish_decision(call.tool.name, "allow", "rule")
                self._hosted[call.call_id] = trio.CancelScope()
                self._nursery.start_soon(self._call, call, self._hosted[call.call_id])
            case ServersFailed(reasons):
                for server, reason in reasons.items():
                    log.warning(
                        "an agent goes on without an MCP server",
                        conversation_id=self.id,
                        server=server,
                        reason=reason[:500],
                    )
            case TranscriptLost():
                log.warning(
                    "transcript lost, a new child gets the kept messages",
                    conversation_id=self.id,
                    session_id=action.session_id,
                    error=action.error,
                    held=action.held,
                    kept=action.kept,
                )
            case Hop(error):
                self._avoid = self._state.login
                log.info(
                    "a turn goes to another login", conversation_id=self.id, login=self._avoid,
                    reason=error.message,
                )  # fmt: skip
            case ModelsListed():
                self._bus.publish(action)
            case ClaimRefused(error):
                log.warning("a spare was refused", conversation_id=self.id, error=error)
            case Freeze():
                assert self._child is not None
                self._pool.freeze(self._child)
            case Retire():
                assert self._child is not None
                self._drop_lines()
                self._child.retire()
            case Kill():
                assert self._child is not None
                self._drop_lines()
                self._child.kill()
            case _:
                raise AssertionError(f"not an action to perform here: {action!r}")

    def _publish_decision(
        self, tool: str, behavior: str, by: str, request_id: str = "", *, always: bool = False
    ) -> None:
        turn_id = "" if self.machine.turn is None else self.machine.turn.turn_id
        self._bus.publish(
            ToolDecided(self.id, self._state.owner, turn_id, request_id, tool, behavior, by, always)
        )

    def _write(self, line: Line) -> None:
        assert self._child is not None
        self._child.write(line)

    def _drop_lines(self) -> None:
        if self._keeper is not None:
            self._keeper.drop_lines()

    async def _call(self, call: HostedCall, scope: trio.CancelScope) -> None:
        """Have an MCP server do what the model asks of it, unless the turn ends before."""
        with scope:
            result = await self._host.call(call.tool, call.arguments)
        del self._hosted[call.call_id]
        if not scope.cancelled_caught:
            self.feed(HostedEnded(call.call_id, result))

    async def _watch(self, turn_id: str, port: Port) -> None:
        """Wait until the turn is over, or its caller hangs up: then interrupt it."""
        await port.over.wait()
        if port.outcome is None:
            self.feed(Interrupt(turn_id))

    def finish(self, ended: Ended) -> None:
        """The actor has ended: end its unfinished turns, and stop its child."""
        if self._meter is not None:
            self._meter.close(is_kept=self._keeper is not None)
        self._withdraw()
        if self._child is not None:
            if self.machine.phase is Phase.IDLE and not ended.crashed:
                self._child.retire()
            else:
                self._child.kill()
            self._child.stop_reading()
            self._child = None
        self._callers.abandon(ended.error)
        if self._broadcast.turn is not None:
            self._broadcast.end(self._broadcast.turn.turn_id, Failed(ended.error))
        self._broadcast.move(Phase.ASLEEP.value)

    # -- one child: the search for it, and its attendant -------------------------------------------

    async def _search(
        self, origin: Origin | None, wants: Wants | None, scope: trio.CancelScope
    ) -> None:
        """Get a child from the pool, and hand it to an attendant."""
        lent: Lent[C] | None = None
        failure: GatewayError | None = None
        with scope:
            try:
                avoid, self._avoid = self._avoid, ""
                lent = await self._pool.acquire(
                    self.id, origin, wants, self._state.owner, self._state.login, avoid
                )
            except GatewayError as error:
                failure = error
        # The child may have come in the step in which the search, or the session, was cancelled.
        if scope.cancel_called or trio.current_effective_deadline() == -math.inf:
            if lent is not None:
                lent.child.kill()
            return
        if lent is None:
            assert failure is not None
            self.feed(WakeFailed(failure))
            return
        self._state.login = lent.login
        self._child = lent.child  # from here on `finish` stops it, if this task is cancelled
        self.feed(lent.ready)
        self._nursery.start_soon(self._attend, lent.child)

    async def _attend(self, child: C) -> None:
        """Feed the machine with the child's frames, until it has gone, or belongs to another."""
        machine, last_text, failure = self.machine, -math.inf, None
        try:
            while True:
                batch = await child.receive_frames()
                while self._keeper is not None and self._keeper.is_starting:
                    await self._start_is_kept.wait()
                now = trio.current_time()
                machine.child_active(now)
                has_text = False
                for frame in batch:
                    if type(frame) is TextDelta:
                        has_text = True
                        busy = machine.phase is Phase.BUSY
                        actions = machine.advance(frame, now) if busy else self._advance(frame)
                        if machine.phase is Phase.BUSY:  # then all is `Deliver`, which changes no
                            for action in actions:  # deadline
                                assert type(action) is Deliver
                                self._broadcast.say(action.item)
                                await self._deliver(action)
                        else:  # a stop text has ended the turn
                            self._settle(actions)
                            await self._perform_all(actions)
                    elif type(frame) is PermissionAsked:
                        await self._take_frame(PermissionRequested(frame, self._broadcast.is_heard))
                    elif type(frame) is not Noise:  # noise is a sign of life only
                        if type(frame) is LimitState:
                            self._note_limit(child, frame)
                        elif type(frame) is TurnResult and frame.api_error_status == 429:
                            # The child reports each change once: what it reported last holds again.
                            self._note_limit(child, machine.limit)
                        await self._take_frame(frame)
                        if self._child is not child:  # it was handed over
                            return
                if has_text:
                    # The end of an answer with a length limit is read at once: the machine stops
                    # the child before it has the model continue.
                    turn = machine.turn if now - last_text < BURST_SECONDS else None
                    if turn is not None and not turn.is_limited:
                        await trio.sleep(BURST_SECONDS)
                    last_text = trio.current_time()
        except EOFError:
            pass
        except ChildProtocolError as error:
            child.kill()
            failure = error
        await child.gone.wait()
        child.stop_reading()
        self._child = None
        self._drop_lines()
        self.feed(ChildGone(failure or child.post_mortem()))

    async def _take_frame(self, frame: Frame | PermissionRequested) -> None:
        await self._perform_all(self._advance(frame))
        self._rest()

    async def _perform_all(self, actions: list[Action]) -> None:
        """Perform actions of which some may wait. A caller that lags delays its own `Deliver` and
        `End` only: the child gets its lines at once, before another event can add more."""
        lagging = {action.turn_id for action in actions if isinstance(action, Deliver)}
        held: list[Deliver | End] = []
        for action in actions:
            if isinstance(action, Deliver | End) and action.turn_id in lagging:
                held.append(action)
            else:
                self._perform(action)
        self._broadcast_actions(actions)  # before any wait, which a stopped child could outlast
        for action in held:
            if isinstance(action, Deliver):
                await self._deliver(action)
            else:
                self._perform(action)

    async def _deliver(self, action: Action) -> None:
        """Send an item, waiting while the caller lags; a caller that stalls counts as gone."""
        assert isinstance(action, Deliver)
        caller = self._callers.waiting.get(action.turn_id)
        if caller is None:
            return
        try:
            try:
                caller.port.deliver_nowait(action.item)
            except trio.WouldBlock:
                await self._deliver_late(caller.port, action.item)
        except CallerGone:
            self.feed(Interrupt(action.turn_id))

    async def _deliver_late(self, port: Port, item: TurnItem) -> None:
        """Wait for a caller that lags. Raises `CallerGone`, also for one that has stalled."""
        # The child is not read meanwhile: this silence is the caller's, not the child's.
        self.machine.child_active(trio.current_time() + self._stall_seconds)
        with trio.move_on_after(self._stall_seconds) as patience:
            await port.deliver(item)
        if patience.cancelled_caught:
            raise CallerGone
        self.machine.child_active(trio.current_time())
        self._set_alarm()


async def run_session(
    conversation_id: str,
    state: SessionState[Any],
    mailbox: Mailbox[SessionMessage],
    limits: Limits,
    stall_seconds: float,
    pool: SessionPool[C],
    bus: Bus,
    host: Host = NO_HOST,
    meter: Meter | None = None,
) -> Ended:
    """The session actor. Ends when its conversation is closed, when it fails, or is cancelled.

    In each case every turn in its mailbox ends too (invariant 1), and its child goes. `state.ref`
    becomes None only then, so that no second actor begins before.
    """
    ended = Ended(draining(retry_after=None))
    session = _Session(conversation_id, state, limits, stall_seconds, pool, bus, host, meter)
    try:
        await session.run(mailbox)
        ended = Ended(session.machine.closing or errors.closed())
    except* Exception as fault:
        log.exception("session crashed", conversation_id=conversation_id, exc_info=fault)
        ended = Ended(InternalError("The conversation's session failed."), crashed=True)
    finally:
        state.ref, state.phase, state.is_settled = None, Phase.ASLEEP, True
        mailbox.close()
        session.finish(ended)
        for message in mailbox.unread:
            if isinstance(message, Submit):
                message.port.end(Failed(ended.error))
    return ended
