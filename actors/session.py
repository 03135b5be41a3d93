"""The session actor: one live conversation, its machine, and at most one child.

Knows: how the machine's actions are performed. Refuses to know: which action follows which event
(`actors.machine`), and who else is there (`actors.supervisor`).

Three kinds of task, all in the session's own nursery: the actor itself (the mailbox), the
attendant of the present child (it finds one, reads it, and sees it go), and one watcher per turn
(it waits for the caller to hang up). All of them feed the machine synchronously, so its events
are taken one at a time; only the attendant ever waits for a caller, so a caller that stalls holds
up nothing but its own turn.
"""

from __future__ import annotations

import trio
from attrs import define, frozen

from ..schemas.errors import ChildProtocolError, GatewayError, InternalError, Overloaded
from ..schemas.events import PhaseChanged, TurnFailed, TurnFinished, TurnStarted
from ..schemas.frames import Frame
from ..schemas.turn import Completed, Failed, Memory, ResumePoint, TextDelta
from ..transport.child import Child
from .bus import Bus
from .machine import Machine
from .mailbox import Mailbox, Ref, open_mailbox
from .phases import Limits, Phase
from .pool import ChildPool
from .signals import (
    Action,
    CancelWake,
    ChildGone,
    ChildReady,
    Close,
    Deliver,
    End,
    Event,
    Freeze,
    GiveWay,
    Interrupt,
    Kill,
    Retire,
    Started,
    StartTurn,
    TimedOut,
    Wake,
    WakeFailed,
    Write,
)
from .turns import CallerGone, Port


@frozen
class Submit:
    """A turn for this conversation: what to start, and where its items go."""

    start: StartTurn
    port: Port


SessionMessage = Submit | Interrupt | Close


@define(eq=False)
class SessionState:
    """What others may read of a session, and what is left when its actor has ended."""

    memory: Memory
    phase: Phase = Phase.ASLEEP
    ref: Ref[SessionMessage] | None = None


class _Session:
    """The shell around one machine. Lives inside `run_session`."""

    def __init__(
        self, conversation_id: str, state: SessionState, limits: Limits, stall_seconds: float,
        pool: ChildPool, bus: Bus, nursery: trio.Nursery,
    ) -> None:  # fmt: skip
        self.id = conversation_id
        self.machine = Machine(state.memory, limits, trio.current_time())
        self._alarm = trio.CancelScope()  # around the mailbox's receive: its deadline is the timer
        self._state = state
        self._stall_seconds = stall_seconds
        self._pool = pool
        self._bus = bus
        self._nursery = nursery
        self._ports: dict[str, Port] = {}
        self._child: Child | None = None
        self._offered: Child | None = None
        self._attending: trio.CancelScope | None = None

    # -- the mailbox's side ------------------------------------------------------------------------

    async def run(self, mailbox: Mailbox[SessionMessage]) -> None:
        """Take messages until the machine is closed."""
        while self.machine.phase is not Phase.CLOSED:
            message: SessionMessage | None = None
            self._alarm = trio.CancelScope(deadline=self.machine.deadline)
            with self._alarm:
                message = await mailbox.receive()
            match message:
                case Submit(start, port):
                    self._ports[start.turn_id] = port
                    self.feed(start)
                case None:
                    self.feed(TimedOut())
                case Interrupt() | Close():
                    self.feed(message)

    def feed(self, event: Event) -> None:
        """Take one event in, where none of its actions can have to wait."""
        for action in self._advance(event):
            self._perform(action)
        self._rest()

    def _advance(self, event: Event) -> list[Action]:
        machine = self.machine
        actions = machine.advance(event, trio.current_time())
        if machine.phase is not self._state.phase:
            self._change_phase(machine.phase)
        if machine.phase is Phase.CLOSED:
            self._alarm.cancel()
        elif machine.deadline != self._alarm.deadline:
            self._alarm.deadline = machine.deadline
        return actions

    def _change_phase(self, new: Phase) -> None:
        old, self._state.phase = self._state.phase, new
        if self._offered is not None:
            self._pool.withdraw(self._offered)
            self._offered = None
        self._bus.publish(PhaseChanged(self.id, old.value, new.value))

    def _rest(self) -> None:
        """Offer an idle child to whoever needs the room, once no action is outstanding."""
        if self._state.phase is Phase.IDLE and self._offered is None:
            assert self._child is not None
            self._offered = self._child
            self._pool.offer(self._child, self._give_way)

    def _give_way(self) -> None:
        self.feed(GiveWay())

    # -- performing --------------------------------------------------------------------------------

    def _perform(self, action: Action) -> None:
        """Perform an action that cannot wait. (`Deliver` can: only the attendant performs it.)"""
        match action:
            case Write(line):
                assert self._child is not None
                self._child.write(line)
            case End():
                self._end(action)
            case Started(turn_id, model):
                self._bus.publish(TurnStarted(turn_id, self.id, model))
                self._nursery.start_soon(self._watch, turn_id, self._ports[turn_id])
            case Wake(resume):
                self._attending = trio.CancelScope()
                self._nursery.start_soon(self._attend, resume, self._attending)
            case CancelWake():
                assert self._attending is not None
                self._attending.cancel()
            case Freeze():
                assert self._child is not None
                self._pool.freeze(self._child)
            case Retire():
                assert self._child is not None
                self._child.retire()
            case Kill():
                assert self._child is not None
                self._child.kill()
            case _:
                raise AssertionError(f"not an action to perform here: {action!r}")

    def _end(self, end: End) -> None:
        self._state.memory = self.machine.memory
        seconds = trio.current_time() - end.accepted
        key = end.prompt.cache_key
        match end.outcome:
            case Completed(usage=usage):
                assert end.answer is not None
                first = None if end.first_delta is None else end.first_delta - end.accepted
                self._bus.publish(
                    TurnFinished(
                        end.turn_id, self.id, end.model, usage, seconds, first, key, end.answer
                    )
                )
            case Failed(error):
                self._bus.publish(TurnFailed(end.turn_id, self.id, end.model, error, seconds, key))
        self._ports.pop(end.turn_id).end(end.outcome)

    async def _watch(self, turn_id: str, port: Port) -> None:
        """Wait until the turn is over, or its caller hangs up: then interrupt it."""
        await port.over.wait()
        if port.outcome is None:
            self.feed(Interrupt(turn_id))

    def abort(self, error: GatewayError) -> None:
        """The actor ends with turns unfinished: tell their callers."""
        ports, self._ports = self._ports, {}
        for port in ports.values():
            port.end(Failed(error))

    # -- the attendant of one child ----------------------------------------------------------------

    async def _attend(self, resume: ResumePoint | None, scope: trio.CancelScope) -> None:
        """Find a child, serve the machine what it says, and see it go."""
        child: Child | None = None
        failure: GatewayError | None = None
        with scope:
            try:
                child = await self._pool.acquire(self.id, resume)
            except GatewayError as error:
                failure = error
        if scope.cancel_called:
            if child is not None:  # found in the moment it was no longer wanted
                child.kill()
            return
        if child is None:
            assert failure is not None
            self.feed(WakeFailed(failure))
            return
        self._child = child
        try:
            self.feed(ChildReady())
            failure = await self._read(child)
            await child.gone.wait()
        finally:
            if self.machine.phase is Phase.IDLE:
                child.retire()
            else:
                child.kill()
            child.stop_reading()
            self._child = None
        self.feed(ChildGone(failure or child.post_mortem()))

    async def _read(self, child: Child) -> GatewayError | None:
        """Take in what the child says until it says no more; answers with its fault, if any."""
        machine = self.machine
        try:
            while True:
                batch = await child.receive_frames()
                now = trio.current_time()
                machine.heard(now)
                for frame in batch:
                    if type(frame) is TextDelta:
                        # Nothing but `Deliver` follows from a delta, and no deadline changes.
                        for action in machine.advance(frame, now):
                            await self._deliver(action)
                    else:
                        await self._take(frame)
        except EOFError:
            return None
        except ChildProtocolError as error:
            child.kill()
            return error

    async def _take(self, frame: Frame) -> None:
        for action in self._advance(frame):
            if isinstance(action, Deliver):
                await self._deliver(action)
            else:
                self._perform(action)
        self._rest()

    async def _deliver(self, action: Action) -> None:
        """Hand an item over, waiting while the caller lags; one that stalls has gone."""
        assert isinstance(action, Deliver)
        port = self._ports.get(action.turn_id)
        if port is None:
            return
        try:
            try:
                port.deliver_nowait(action.item)
            except trio.WouldBlock:
                with trio.move_on_after(self._stall_seconds) as patience:
                    await port.deliver(action.item)
                if patience.cancelled_caught:
                    raise CallerGone from None
        except CallerGone:
            self.feed(Interrupt(action.turn_id))


async def run_session(
    conversation_id: str,
    state: SessionState,
    limits: Limits,
    stall_seconds: float,
    pool: ChildPool,
    bus: Bus,
    *,
    task_status: trio.TaskStatus[Ref[SessionMessage]],
) -> GatewayError:
    """The session actor. Ends when its conversation is closed, and answers why.

    Whatever ends it, every turn it has accepted ends too, and its child goes.
    """
    ref: Ref[SessionMessage]
    ref, mailbox = open_mailbox(conversation_id)
    error: GatewayError = InternalError("The conversation's session failed.")
    async with trio.open_nursery() as nursery:
        session = _Session(conversation_id, state, limits, stall_seconds, pool, bus, nursery)
        try:
            state.ref = ref
            task_status.started(ref)
            await session.run(mailbox)
            error = session.machine.closing or error
        except trio.Cancelled:
            error = Overloaded("The gateway is stopping.", code="draining")
            raise
        finally:
            state.ref, state.phase = None, Phase.ASLEEP
            mailbox.close()
            session.abort(error)
            for message in mailbox.unread:
                if isinstance(message, Submit):
                    message.port.end(Failed(error))
    return error
