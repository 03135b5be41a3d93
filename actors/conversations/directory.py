"""The directory: which conversations there are, whose they are, and where each one's actor is.

Knows: ids, owners, the bounds on how many and on what they hold in memory. Refuses to know: what
a conversation does, and how an actor is started. Pure bookkeeping: every method is a table
operation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from attrs import define, field

from ...schemas.errors import NotFound, RateLimited
from ...schemas.message import Message, agree, digest, size_of
from ...schemas.turn import Memory, Setup
from ..runtime.mailbox import Ref
from ..runtime.restart_budget import RestartBudget
from ..session.messages import SessionMessage, SessionState
from ..session.phases import Phase
from ..session.replay import RECORDED_FROM
from ..watching.broadcast import Broadcast
from .journal import Journal
from .lineage import LineageTable, likeness, lineage_key
from .workspace_paths import new_conversation_id


def not_found() -> NotFound:
    return NotFound("No such conversation.", code="conversation_not_found", param="conversation_id")


@define(eq=False)
class Entry:
    """One conversation; its `state` outlives actors.

    `created_at` and `used_at` are in unix seconds; `callers` are those in the middle of a turn, or
    waiting for one. `private`: a client goes on with it by its id, or may be about to, and must not
    find in it what other clients have asked; so none comes to it by its history. `held_bytes`:
    about how much memory the seed of its memory takes, which was `weighed` when it was last looked
    at; `said_bytes`: what its history took then.
    """

    conversation_id: str
    owner: str
    state: SessionState[Broadcast]
    created_at: float
    used_at: float
    private: bool = True
    metadata: Mapping[str, str] = field(factory=dict)
    crashes: RestartBudget = field(factory=RestartBudget)
    callers: int = 0
    held_bytes: int = 0
    said_bytes: int = 0
    weighed: tuple[Message, ...] = ()

    @property
    def ref(self) -> Ref[SessionMessage] | None:
        """Where its actor receives messages; None while none runs."""
        return self.state.ref

    @property
    def memory(self) -> Memory:
        return self.state.memory

    @property
    def workspace(self) -> str:
        """Where its agent works, relative to ``workspaces.root``; empty if it is no agent's."""
        setup = self.memory.setup
        return setup.workspace or self.conversation_id if setup.profile == "agent" else ""

    @property
    def is_stored(self) -> bool:
        """Whether the store has it: it can be loaded again."""
        return isinstance(self.state.journal, Journal) and self.state.journal.lease is not None

    @property
    def is_unstored(self) -> bool:
        """Whether the store shall have it, and has nothing of it yet."""
        return isinstance(self.state.journal, Journal) and self.state.journal.lease is None

    @property
    def sleeps(self) -> bool:
        """Whether it has no child, no client asks it anything or has it open, and the store has all
        of it that it shall have."""
        idle = self.state.phase is Phase.ASLEEP and self.state.is_settled
        return idle and not self.callers and not self.is_open

    @property
    def is_open(self) -> bool:
        """Whether a client watches it, or did so just now and may be on its way back. Such a
        conversation is never taken from its client: it neither expires nor makes room. How many
        there can be is bounded by the connections (``server.max_connections``)."""
        return self.state.broadcast.is_heard


class Directory:
    """Conversations by id, in the order they were made: at most `limit`, whose seeds shall take
    no more than `held_limit` bytes together, and their histories no more than `said_limit`."""

    def __init__(
        self, limit: int, held_limit: float = math.inf, said_limit: float = math.inf
    ) -> None:
        self._limit = limit
        self._held_limit = held_limit
        self._held_bytes = 0
        self._said_limit = said_limit
        self._said_bytes = 0
        self._saying: dict[Entry, None] = {}  # those that keep a history, the longest unused first
        self._holding: set[Entry] = set()  # those that hold any of these bytes
        self._entries: dict[str, Entry] = {}
        self._unused: dict[str, dict[str, Entry]] = {}  # by owner: no turn was ever asked of them
        self._lineage: LineageTable[Entry] = LineageTable()
        self.added: Callable[[Entry], None] = lambda _: None
        """Told of every conversation that has come into memory."""
        self.removed: Callable[[Entry], None] = lambda _: None
        """Told of every conversation that has been removed."""

    def __repr__(self) -> str:
        live = sum(entry.ref is not None for entry in self._entries.values())
        return f"<Directory {len(self._entries)} conversations, {live} live>"

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, entry: Entry) -> bool:
        return self._entries.get(entry.conversation_id) is entry

    def create(
        self, owner: str, memory: Memory, now: float, *, private: bool = True,
        conversation_id: str = "",
    ) -> Entry:  # fmt: skip
        """A new conversation, of that id or a new one. Raises `RateLimited` when there are too
        many."""
        conversation_id = conversation_id or new_conversation_id()
        state = SessionState(memory, Broadcast(), owner)
        entry = Entry(conversation_id, owner, state, now, now, private)
        self.insert(entry)
        self._unused.setdefault(owner, {})[conversation_id] = entry
        return entry

    def insert(self, entry: Entry) -> None:
        """Take in a conversation. Raises `RateLimited` when there are too many."""
        if self.full:
            raise RateLimited(
                f"There are {self._limit} conversations already; delete some, or let them expire.",
                code="too_many_conversations",
                retry_after=60,
            )
        assert entry.conversation_id not in self._entries, "it is here already"
        self._entries[entry.conversation_id] = entry
        self._weigh(entry)
        self.added(entry)

    def knows(self, conversation_id: str) -> bool:
        """Whether there is such a conversation, whosever it is."""
        return conversation_id in self._entries

    def workspaces(self) -> set[str]:
        """Where agents work, relative to ``workspaces.root``."""
        return {entry.workspace for entry in self._entries.values()} - {""}

    def use(self, entry: Entry, now: float) -> None:
        """A turn is asked of this conversation now (unix seconds)."""
        entry.used_at = now
        entry.callers += 1
        self._drop_unused(entry)

    def release(self, entry: Entry, now: float) -> None:
        """The turn has ended, or its caller has gone."""
        entry.used_at = now
        entry.callers -= 1
        if entry not in self:
            return
        self.weigh(entry)
        if not entry.private:
            self._lineage.keep(entry)

    def follow_lineage(self, entry: Entry) -> None:
        """Clients may come to this conversation by its history."""
        self._lineage.keep(entry)

    def claim(self, entry: Entry) -> None:
        """A client goes on with this conversation by its id."""
        entry.private = True
        self._lineage.drop(entry)

    def holder(
        self, owner: str, setup: Setup, digests: Sequence[bytes],
        exact: Sequence[Message] | None = None,
    ) -> Entry | None:  # fmt: skip
        """A conversation of the owner's that holds exactly this history, and rests with a child
        that does; or one that sleeps, where the history is too long to be replayed. `exact`: the
        messages themselves, which it has to hold block by block (`agree`)."""
        is_long = len(digests) > RECORDED_FROM

        def fits(entry: Entry) -> bool:
            if entry.callers:
                return False
            if exact is not None and not agree(exact, entry.memory.seed):
                return False
            if entry.state.phase is Phase.ASLEEP:
                # Any child receives what a plain model's conversation holds. An agent's new child
                # may as well receive a short history; to resume a transcript takes longer.
                return is_long or entry.memory.resume is None
            return entry.state.phase in (Phase.IDLE, Phase.AWAITING_TOOLS, Phase.INTERRUPTING)

        return self._lineage.find(lineage_key(owner, setup, digests), fits)

    def likeliest(self, owner: str, history: Sequence[Message]) -> str:
        """The workspace of the owner's agent whose conversation is the most like this history, the
        one last used if there are several; empty where it is like none. Private ones do not
        count."""
        asked = [digest(message) for message in history]
        best, found = (0, 0, 0.0), ""
        for entry in self._entries.values():
            if entry.owner != owner or entry.private or not entry.workspace:
                continue
            said, shared = likeness(entry.memory.digests, asked, history)
            if said and (said, shared, entry.used_at) >= best:
                best, found = (said, shared, entry.used_at), entry.workspace
        return found

    def _drop_unused(self, entry: Entry) -> None:
        unused = self._unused.get(entry.owner, {})
        if unused.pop(entry.conversation_id, None) is not None and not unused:
            del self._unused[entry.owner]

    def oldest_unused(self, owner: str) -> Entry | None:
        """The owner's oldest conversation of which no turn was ever asked, and that no client has
        open."""
        unused = self._unused.get(owner, {}).values()
        return next((entry for entry in unused if not entry.is_open), None)

    def find(self, conversation_id: str, owner: str) -> Entry:
        """Raises `NotFound`, and does so for another owner's conversation too."""
        entry = self._entries.get(conversation_id)
        if entry is None or entry.owner != owner:
            raise not_found()
        return entry

    def get(self, conversation_id: str, owner: str) -> Entry | None:
        """The owner's conversation of that id."""
        entry = self._entries.get(conversation_id)
        return None if entry is None or entry.owner != owner else entry

    def dormant(self, since: float) -> list[Entry]:
        """Conversations that have no actor, and that no client has used since then (unix seconds),
        or has open."""
        return [
            e
            for e in self._entries.values()
            if e.ref is None and e.used_at <= since and not e.is_open and e.state.is_settled
        ]

    def longest_asleep(self, since: float) -> Entry | None:
        """Of the conversations without a child, the one that has been unused for longest, if it
        has not been since then (unix seconds)."""
        asleep = (entry for entry in self._entries.values() if entry.sleeps)
        entry = min(asleep, key=lambda e: e.used_at, default=None)
        return entry if entry is not None and entry.used_at <= since else None

    # -- what they hold in memory ------------------------------------------------------------------

    @property
    def held_bytes(self) -> int:
        """About how much memory the seeds of all conversations take."""
        return self._held_bytes

    def weigh(self, entry: Entry) -> None:
        """Look again at what one conversation holds, and what was said in it."""
        self._weigh(entry)
        self._keep_history(entry)

    def _weigh(self, entry: Entry) -> None:
        seed = entry.memory.seed
        if seed is not entry.weighed:
            entry.weighed = seed
            self._hold(entry, size_of(seed))

    def _keep_history(self, entry: Entry) -> None:
        """Its history has grown: where all histories together take more than they may, the oldest
        turns of the conversations that were unused for longest are kept no more."""
        self._saying.pop(entry, None)
        self._saying[entry] = None
        self._weigh_history(entry)
        while self._said_bytes > self._said_limit:
            oldest = next(iter(self._saying))
            history = oldest.state.broadcast.history
            if not len(history):
                del self._saying[oldest]
                continue
            history.forget_oldest()
            self._weigh_history(oldest)

    def _weigh_history(self, entry: Entry) -> None:
        size = entry.state.broadcast.history.size
        self._said_bytes += size - entry.said_bytes
        entry.said_bytes = size

    def _hold(self, entry: Entry, size: int) -> None:
        self._held_bytes += size - entry.held_bytes
        entry.held_bytes = size
        if size:
            self._holding.add(entry)
        else:
            self._holding.discard(entry)

    def weigh_all(self) -> None:
        """Look again at what every conversation holds: a turn may end after its caller has left."""
        for entry in self._entries.values():
            self._weigh(entry)

    def giving_way(self, spared: Entry | None = None) -> list[Entry]:
        """Who must go for the others to hold no more than they may: as many as it takes, of those
        that sleep and hold something; private ones last, then the longest unused first.

        `spared` stays this time. One that holds more than all may together costs no other
        their place: it goes itself, or stays, as long as it does not sleep.
        """
        if self._held_bytes <= self._held_limit:
            return []
        huge = {entry for entry in self._holding if entry.held_bytes > self._held_limit}
        excess = self._held_bytes - sum(entry.held_bytes for entry in huge) - self._held_limit
        free = [entry for entry in self._holding if entry.sleeps and entry is not spared]
        going = [entry for entry in free if entry in huge]
        for entry in sorted(free, key=lambda e: (e.private, e.used_at)):
            if excess <= 0:
                break
            if entry not in huge:
                going.append(entry)
                excess -= entry.held_bytes
        return going

    # -- how many there are ------------------------------------------------------------------------

    @property
    def full(self) -> bool:
        return len(self._entries) >= self._limit

    def of(self, owner: str) -> list[Entry]:
        return [entry for entry in self._entries.values() if entry.owner == owner]

    def all(self) -> list[Entry]:
        return list(self._entries.values())

    def remove(self, entry: Entry) -> bool:
        """Forget a conversation; says whether it was there."""
        if entry not in self:
            return False
        del self._entries[entry.conversation_id]
        if isinstance(entry.state.journal, Journal):
            entry.state.journal.is_closed = True
        self._drop_unused(entry)
        self._lineage.drop(entry)
        self._hold(entry, 0)
        self._said_bytes -= entry.said_bytes
        self._saying.pop(entry, None)
        self.removed(entry)
        return True
