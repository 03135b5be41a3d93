"""The agents' children that are ready ahead of their conversations: which there are, and whose.

Knows: the spares, where each of them works, and which is promised to a conversation. Refuses to
know: when one is started or ended (`actors.pool.pool`), and how it is claimed (`actors.session`).

**Workspaces.** A sandbox binds the workspace at a child's start, and nothing can be bound later. So
there a spare is started in a new workspace of its own. A conversation's own workspace has
the conversation's name: a new agent's conversation that asks for no other takes the name of a spare
(`reserve`), and thereby the spare. Example: the spare works in ``conv_1f…``. A client begins a
conversation with an agent; it is called ``conv_1f…``, and its first turn gets the spare. Without a
sandbox the directory comes with the claim: any spare serves any new conversation of an agent.

**A promise ends** after `PROMISE_SECONDS`: the conversation whose first turn comes later gets a new
child, in the same workspace, and the spare goes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Iterator

from attrs import define

from ...schemas.turn import AgentOrigin, AgentSpare, Origin
from ...transport.process.child import Child

PROMISE_SECONDS = 30.0
"""How long a spare waits for the first turn of the conversation that it is promised to."""


@define
class _Spare:
    """One child that waits. `until`: it is promised to a conversation until then."""

    workspace: str
    login: str
    until: float = math.inf
    is_promised: bool = False


class SpareAgents:
    """At most `wanted` spares, oldest first. `new_workspace` names the one that the next is started
    in; None: a spare works where its conversation says."""

    def __init__(self, wanted: int, new_workspace: Callable[[], str] | None) -> None:
        self.wanted = wanted
        self._new_workspace = new_workspace
        self._spares: dict[Child, _Spare] = {}
        self.coming = 0
        """Spares on their way."""
        self.failures = 0
        """Spares that died, or could not be started, since one was taken."""

    def __repr__(self) -> str:
        return f"<SpareAgents {len(self)} of {self.wanted}>"

    def __len__(self) -> int:
        return len(self._spares)

    def __contains__(self, child: Child) -> bool:
        return child in self._spares

    @property
    def lacks(self) -> bool:
        return len(self._spares) + self.coming < self.wanted

    def make_origin(self) -> AgentSpare:
        """What the next spare begins with."""
        return AgentSpare() if self._new_workspace is None else AgentSpare(self._new_workspace())

    def add(self, child: Child, origin: AgentSpare, login: str = "") -> None:
        """This one is ready."""
        self._spares[child] = _Spare(origin.workspace, login)

    def remove(self, child: Child) -> bool:
        """It goes, or has gone. Whether it was here."""
        return self._spares.pop(child, None) is not None

    def remove_any(self) -> Child | None:
        """One that may go: the newest, if possible one that is promised to no conversation."""
        for promised in (False, True):
            for child in reversed(self._spares):
                if self._spares[child].is_promised is promised:
                    del self._spares[child]
                    return child
        return None

    def reserve(self, now: float) -> str:
        """The workspace of a spare, which is promised to the conversation of that name from now on;
        empty where there is none, or any conversation can have any spare."""
        for child, spare in self._spares.items():
            if spare.workspace and not spare.is_promised and _lives(child):
                spare.is_promised, spare.until = True, now + PROMISE_SECONDS
                return spare.workspace
        return ""

    def take(self, origin: Origin | None, login: str = "") -> Child | None:
        """A spare of this login that can become what begins with `origin`."""
        for child in self._suiting(origin):
            if self._spares[child].login == login:
                del self._spares[child]
                self.failures = 0
                return child
        return None

    def login_for(self, origin: Origin | None) -> str | None:
        """The login of a spare that `take` would find; None: there is none."""
        return next((self._spares[child].login for child in self._suiting(origin)), None)

    def _suiting(self, origin: Origin | None) -> Iterator[Child]:
        if not isinstance(origin, AgentOrigin) or origin.history is not None or origin.is_cold:
            return
        for child, spare in tuple(self._spares.items()):
            if spare.workspace in ("", origin.workspace) and _lives(child):
                yield child

    @property
    def next_end(self) -> float:
        """When the next promise ends."""
        return min((spare.until for spare in self._spares.values()), default=math.inf)

    def remove_overdue(self, now: float) -> list[Child]:
        """Those whose promise has ended."""
        overdue = [child for child, spare in self._spares.items() if spare.until <= now]
        for child in overdue:
            del self._spares[child]
        return overdue

    def remove_all(self, among: Container[Child]) -> list[Child]:
        """Those of them that are `among` these."""
        removed = [child for child in self._spares if child in among]
        for child in removed:
            del self._spares[child]
        return removed


def _lives(child: Child) -> bool:
    # The exit status is known a step before `leave` is set.
    return not child.leave.is_set() and child.returncode is None
