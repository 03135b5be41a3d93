"""What the machine of a session holds: its phase, its turns, its child, and what is due when.

Knows: how these are told to the shell. Refuses to know: transitions (`actors.session.machine`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from ...schemas.errors import GatewayError
from ...schemas.message import Message
from ...schemas.turn import Memory
from ..runtime.restart_budget import RestartBudget
from . import errors as refusals
from .child import ChildState
from .phases import Limits, Phase
from .queue import TurnQueue
from .timers import Timer, timers
from .turn import TurnState
from .usage import Ledger


class MachineState:
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
