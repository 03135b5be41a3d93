"""What of a session waits for its journal: what a turn does outside until its start is kept, and
its end until that is kept.

Knows: in which order turns are kept, and which lines and ends wait for that. Refuses to know:
phases, and how a turn is kept (`Journal`).

The machine never waits. So a turn that it has begun may not be in the store yet, and one that it
has ended may not be either. `Keeper` makes up for that, outside the machine:

* A turn becomes the current one. Nothing of it may leave the gateway, and nothing that it does may
  have an effect, before the journal has its start: so after a crash the store knows every turn of
  which there is any trace. (The theory of recovery calls this the output commit.)
  - A chat's child does nothing but ask the model, so it gets its lines at once and works while the
    store writes. The session reads nothing of what it says before that (`is_starting`).
  - An agent's child changes files: its lines are held back. So are a chat's while the store takes
    nothing: a turn that cannot be kept should not cost tokens.
* A turn ends: its caller and the watchers receive that when the journal has it. So nothing that a
  client has received is lost.

Example: an agent's turn 1 ends while turn 2 waits in the queue. The machine ends turn 1, begins
turn 2 and writes its prompt in one step. The keeper then has the steps [end 1, begin 2] and one
line held back. It takes the steps in that order, in a task of its own; behind the second it writes
the line.

Where a step fails, what the conversation holds here may not be what the store has. The keeper tells
all callers that wait, and the session ends; the next turn finds the conversation as it is stored.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from types import MappingProxyType

from attrs import define, evolve

from ...schemas.claude.lines import Line
from ...schemas.errors import GatewayError
from ...schemas.message import Message
from ...schemas.turn import Failed, Memory
from ...transport.store.interface import Charge
from .events import End
from .messages import Audience, Journal
from .turn import TurnState

MAX_STEPS = 256
"""Steps that may wait for the journal. A session with more of them takes no turns."""


@define(eq=False)
class _Ending:
    """An end on its way to its caller. `memory` is the conversation's behind it. It goes once it
    is kept (`told` is then the end as the caller receives it) and `is_due`: the caller has all that
    comes before it."""

    end: End
    memory: Memory
    charge: Charge | None = None
    told: End | None = None
    is_due: bool = False


class Keeper:
    """Between one session and its journal.

    `finish` gives an end to its caller, `lost` tells the caller of a turn which earlier turn of the
    conversation was lost, `write` writes a line to the child, `started` hears that `is_starting` no
    longer holds, `broken` ends the session, and `uncounted` takes the charge of a turn whose end
    the store did not take.
    """

    def __init__(
        self, journal: Journal, broadcast: Audience, *, finish: Callable[[End], None],
        lost: Callable[[str, str], None], write: Callable[[Line], None],
        started: Callable[[], None], broken: Callable[[GatewayError], None],
        uncounted: Callable[[Charge], None] = lambda _: None,
    ) -> None:  # fmt: skip
        self._journal = journal
        self._broadcast = broadcast
        self._finish = finish
        self._lost = lost
        self._write = write
        self._started = started
        self._broken = broken
        self._uncounted = uncounted
        self._turn: TurnState | None = None  # the last one that was begun
        self._starting = 0  # starts that are not kept yet
        self._holds_back = False  # the lines that come meanwhile
        self._begun: set[str] = set()
        self._endings: dict[str, _Ending] = {}
        self._steps: deque[Callable[[], Awaitable[None]]] = deque()
        self._taken: Awaitable[None] | None = None  # the first step, which `work` will wait for
        self._lines: list[Line] = []
        self._works = False
        self._waits = False  # for a task to call `work`
        self.failure: GatewayError | None = None

    def __repr__(self) -> str:
        return f"<Keeper {len(self._steps)} steps, {len(self._lines)} lines held back>"

    @property
    def is_settled(self) -> bool:
        """Whether the store has all that happened."""
        return not (self._steps or self._works)

    @property
    def is_starting(self) -> bool:
        """Whether a turn's start is not kept yet: then nothing that the child says may be read."""
        return self._starting > 0 and self.failure is None

    @property
    def is_full(self) -> bool:
        return len(self._steps) >= MAX_STEPS

    # -- what happens ------------------------------------------------------------------------------

    def follow(
        self, ends: list[End], turn: TurnState | None, memory: Memory,
        charges: Mapping[str, Charge] = MappingProxyType({}),
    ) -> None:  # fmt: skip
        """The machine has ended these turns, and this turn is the current one now. `charges`: what
        the turns that have ended cost their key, by their ids."""
        for end in ends:
            if end.turn_id in self._begun:
                self._begun.discard(end.turn_id)
                ending = self._endings[end.turn_id] = _Ending(end, memory, charges.get(end.turn_id))
                self._steps.append(partial(self._end, ending))
        if turn is not None and turn is not self._turn:
            self._turn = turn
            self._begun.add(turn.turn_id)
            if not self._starting:
                self._holds_back = turn.setup.profile == "agent" or not self._journal.is_well
            self._starting += 1
            self._steps.append(partial(self._begin, turn, memory))

    def add(
        self, messages: tuple[Message, ...], reply: Callable[[GatewayError | None], None]
    ) -> None:
        """The conversation holds these too, without a turn."""
        self._steps.append(partial(self._add, messages, reply))

    def grant(self, rules: tuple[str, ...]) -> None:
        """The conversation's agent may do this from now on."""
        self._steps.append(partial(self._journal.grant, rules))

    def write(self, line: Line) -> None:
        """Write a line to the child, if need be later."""
        if self._starting and self._holds_back:
            self._lines.append(line)
        else:
            self._write(line)

    def drop_lines(self) -> None:
        """The child that lines were held back for has been stopped, or has gone."""
        self._lines.clear()

    def end(self, end: End) -> None:
        """The caller of this turn has all that comes before its end."""
        ending = self._endings.get(end.turn_id)
        if ending is None:  # the turn was never begun
            self._finish(end)
            self._broadcast.end(end.turn_id, end.outcome)
            return
        ending.is_due = True
        self._tell(ending)

    # -- the steps ---------------------------------------------------------------------------------

    def begin_work(self) -> bool:
        """Whether `work` has to be called now, in a task of its own."""
        if self._works or not self._steps:
            return False
        self._works = self._waits = True
        return True

    def hurry(self) -> None:
        """Take the first step now, if no other is being taken, and let `work` wait for its end: the
        store writes while the session goes on. The watchers have all that has happened."""
        if self._waits and self._taken is None and self._steps:
            self._taken = self._steps.popleft()()

    async def work(self) -> None:
        """Take every step."""
        self._waits = False
        try:
            while self._taken is not None or self._steps:
                taken, self._taken = self._taken, None
                try:
                    await (self._steps.popleft()() if taken is None else taken)
                except GatewayError as error:
                    self._fail(error)
        finally:
            self._works = False

    def _fail(self, error: GatewayError) -> None:
        if self.failure is None:
            self.failure = error
            self._broken(error)
            self._started()

    async def _nothing(self) -> None:
        """The session ends, and its child gets nothing more."""

    def _begin(self, turn: TurnState, memory: Memory) -> Awaitable[None]:
        if self.failure is not None:
            return self._nothing()
        begins = self._journal.begin(
            turn.turn_id, turn.setup.model, turn.messages, memory,
            replaces=turn.request.back_to is not None,
        )  # fmt: skip
        return self._begun_once(begins, turn, memory)

    async def _begun_once(
        self, begins: Awaitable[str | None], turn: TurnState, memory: Memory
    ) -> None:
        lost = await begins
        if lost is not None:
            self._lost(turn.turn_id, lost)
        self._broadcast.begin(turn.turn_id, turn.setup.model, turn.messages, memory)
        self._starting -= 1
        if not self._starting:
            lines, self._lines = self._lines, []
            for line in lines:
                self._write(line)
            self._started()

    def _end(self, ending: _Ending) -> Awaitable[None]:
        if self.failure is not None:
            return self._ended_once(None, ending)
        end, live = ending.end, self._broadcast.turn
        items = () if live is None else tuple(live.items)
        ends = self._journal.end(
            end.turn_id, end.outcome, items, ending.memory, end.said, charge=ending.charge
        )
        return self._ended_once(ends, ending)

    async def _ended_once(self, ends: Awaitable[None] | None, ending: _Ending) -> None:
        end, error = ending.end, self.failure
        is_counted = True
        if ends is None:
            is_counted = False
        if ends is not None:
            try:
                await ends
            except GatewayError as failed:
                error = failed
                is_counted = failed.code == "storage_unknown"  # it may be: never count it twice
        if not is_counted and ending.charge is not None:
            self._uncounted(ending.charge)
        if error is not None and not isinstance(end.outcome, Failed):
            end = evolve(end, outcome=Failed(error), answer=None)
        ending.told = end
        self._broadcast.end(end.turn_id, end.outcome, end.said)
        self._tell(ending)
        if error is not None:
            self._fail(error)

    async def _add(
        self, messages: tuple[Message, ...], reply: Callable[[GatewayError | None], None]
    ) -> None:
        error = self.failure
        if error is None:
            try:
                ids = await self._journal.add(messages)
                self._broadcast.add(messages, ids)
            except GatewayError as failed:
                error = failed
        reply(error)
        if error is not None:
            self._fail(error)

    def _tell(self, ending: _Ending) -> None:
        if ending.told is not None and ending.is_due:
            del self._endings[ending.end.turn_id]
            self._finish(ending.told)
