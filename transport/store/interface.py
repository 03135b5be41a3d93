"""What a store offers, whichever keeps it.

Knows: leases, turns, conversations, pages, outcomes and errors. Refuses to know: how anything is
kept.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Literal, Protocol

from attrs import define, field, frozen

from ...schemas.keys import ApiKey
from ...schemas.log.records import Logged, Rewound, Said, TurnEnd, TurnFailed
from ...schemas.log.responses import StoredResponse
from ...schemas.turn import Setup, Usage
from .batch_interface import BatchStore, FileStore
from .hints import Hints

# -- errors ----------------------------------------------------------------------------------------


class StoreError(Exception):
    """A change or a look-up was not done."""


class Fenced(StoreError):
    """The lease is not the latest, or the conversation was deleted: drop everything under it."""


class Owned(StoreError):
    """Another node that lives has the conversation: `node`."""

    def __init__(self, node: Node) -> None:
        super().__init__(f"{node.url or node.id} has the conversation.")
        self.node = node


class Lapsed(StoreError):
    """This node's lease ran out before it was renewed: nothing is its own any more, and others may
    have taken it. `Store.renew` begins another life."""


class Missing(StoreError):
    """There is no such conversation or response, or it is another key's."""


class Unavailable(StoreError):
    """Nothing was done: the text says what is wrong, for the operator."""


class Unknown(StoreError):
    """The change may have been done: `Store.resolve` finds out."""


class StoreRefused(StoreError):
    """The store cannot be opened; the text says what to do."""


class NameTaken(StoreError):
    """Another key that holds has this name."""


class Full(StoreError):
    """Nothing was done, for a bound is reached. `bound` says which: ``max_files``,
    ``max_key_bytes``, ``max_total_bytes`` (`batch_interface.FileBounds`) or ``max_open``."""

    def __init__(self, bound: str) -> None:
        super().__init__(bound)
        self.bound = bound


class StoreInUse(StoreRefused):
    """Another gateway has it open: the process `pid` (None: it has not said)."""

    def __init__(self, text: str, pid: int | None) -> None:
        super().__init__(text)
        self.pid = pid


# -- leases and turns ------------------------------------------------------------------------------

TurnState = Literal["running", "ended", "failed", "lost"]


@define(eq=False)
class Lease:
    """The right to append to one conversation. The store keeps it up to date.

    `head` is the number of the last record, `turns` of the last turn, `open_turn` of the one that
    runs (None: none). `unsettled`: a change went off, and whether it was done is not known yet.
    """

    conversation_id: str
    key_id: str
    token: int
    head: int
    turns: int
    open_turn: int | None
    unsettled: Unsettled | None = field(default=None, repr=False)


@frozen
class Unsettled:
    """A change that may have been done: it would have appended `count` records behind `head`,
    whose `schemas.log.codec.digest_of` is `digest`."""

    head: int
    count: int
    digest: bytes


@frozen
class Turn:
    """A turn of a conversation. `number` counts from 1; its records are `first` to `last` (None: it
    runs)."""

    number: int
    turn_id: str
    request_id: str
    state: TurnState
    first: int
    last: int | None


@frozen
class Begun:
    """The turn `number` has begun. `lost`: the id of an earlier turn that was lost, which no client
    knows of yet."""

    number: int
    lost: str | None


@frozen
class Known:
    """A turn of this request id was begun before; nothing was done."""

    turn: Turn


@frozen
class Node:
    """One life of one gateway. Other nodes reach it at `url` (empty: there are no others)."""

    id: str
    url: str


@frozen
class LiveNode:
    """A node that lives, and `facts`: what it last told the others of itself (a JSON object).
    `seconds`: how long its lease is good for, unless it beats (inf: for ever)."""

    node: Node
    facts: bytes = b"{}"
    seconds: float = field(default=math.inf, eq=False)


@frozen
class Beat:
    """What a beat has come to. `until`: this node's lease is good until then, on trio's clock,
    counted from before the call (inf: always, for there are no other nodes). `nodes` are those that
    live, in the order of their ids; this one among them."""

    until: float
    nodes: tuple[LiveNode, ...]


@frozen
class Head:
    """Where a conversation stands: its last record, the latest lease's token, the id of the node
    that was granted it (None: it was released), the number of the turn that runs. `node` is that
    node, as long as it lives."""

    head: int
    token: int
    owner: str | None
    open_turn: int | None
    node: Node | None = None


# -- conversations ---------------------------------------------------------------------------------


@frozen(kw_only=True)
class NewConversation:
    """What a conversation begins with. `private`: it is never found by its history."""

    setup: Setup
    metadata: Mapping[str, str] = field(factory=dict)
    private: bool = True


@frozen(kw_only=True)
class StoredConversation:
    """A conversation as it is kept. Times are in Unix seconds; `messages` and `turns` count what
    it holds, `head` is the number of its last record, `bytes` about what its records take. `grants`
    are rules by which an agent's tools were allowed. `lost_turn`: see `Begun.lost`. `node`: another
    node that has it, if that lives."""

    conversation_id: str
    key_id: str
    setup: Setup
    metadata: Mapping[str, str]
    private: bool
    title: str | None
    created_at: float
    used_at: float
    turns: int
    messages: int
    usage: Usage
    grants: tuple[str, ...]
    head: int
    open_turn: int | None
    lost_turn: str | None
    bytes: int
    node: Node | None = None


@frozen
class Summary:
    """A conversation in a list."""

    conversation_id: str
    title: str | None
    model: str
    profile: str
    workspace: str
    metadata: Mapping[str, str]
    created_at: float
    used_at: float
    turns: int
    messages: int
    usage: Usage


@frozen
class Page:
    """Some conversations of a list; `has_more`: there are others behind them."""

    conversations: tuple[Summary, ...]
    has_more: bool


@frozen
class Held:
    """A history that a conversation holds: the records up to `seq`."""

    digest: bytes
    conversation_id: str
    seq: int


@frozen
class Charge:
    """What a turn costs its key, beside what was counted of it before. `model`: what it asked
    for."""

    model: str
    usage: Usage


@frozen
class Spent:
    """What a key used in an hour (UTC, as in ``2026-01-31T14``) of one model."""

    key_id: str
    hour: str
    model: str
    turns: int
    usage: Usage


@frozen
class WindowAllowance:
    """What a key may use from an hour on (UTC): tokens and dollars (0: any amount)."""

    name: str
    first_hour: str
    tokens: int
    usd: float


@frozen
class Allowance:
    """What a key may use: turns at once, turns in a minute (0: any number), and in windows."""

    concurrent_turns: int = 0
    turns_per_minute: int = 0
    windows: tuple[WindowAllowance, ...] = ()


@frozen
class Used:
    """What was counted in a window, and the first hour of it in which anything was (or empty)."""

    tokens: int
    usd: float
    first_hour: str


@frozen
class Standing:
    """How a key stands: its turns that run, how many of this minute's are left, and what was
    counted, in the order of `Allowance.windows`. `exceeded`: the limit that leaves no room for
    another turn, as in ``tokens_per_day`` (None: there is room)."""

    running: int
    left: float
    used: tuple[Used, ...]
    exceeded: str | None


@frozen
class DayUsage:
    """What one key used of one model on one day (UTC, as in ``2026-01-31``)."""

    key_id: str
    day: str
    model: str
    turns: int
    usage: Usage


@frozen
class Keys:
    """All keys, those that were revoked among them. `version` changes whenever one of them does."""

    version: int
    keys: tuple[ApiKey, ...]


@frozen
class KeptAnswer:
    """An HTTP response, whole: `headers` by name, `body` as its client received it."""

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)


RequestState = Literal["running", "answered", "unkept", "lost"]
"""``unkept``: it was answered, and the answer was too long to be kept. ``lost``: what ran it has
ended in between."""


@frozen
class KeptRequest:
    """A request that was sent with an idempotency key. `digest` is of what it asks for, `answer` is
    there where it was ``answered``. `is_elsewhere`: another node runs it."""

    digest: bytes
    state: RequestState
    answer: KeptAnswer | None = None
    is_elsewhere: bool = False


@frozen
class StoreStatistics:
    """How much is kept. `bytes` is what it takes on the disk (in memory: of records alone),
    `record_bytes` what records and their large parts take, `answer_bytes` what the answers to
    requests with an idempotency key do, `file_bytes` what files and batches do."""

    conversations: int
    responses: int
    bytes: int
    record_bytes: int
    answer_bytes: int = 0
    file_bytes: int = 0


class Store(Protocol):
    """Conversations and what belongs to them.

    Every method may raise `Unavailable`; those that change something also `Unknown`, which a
    cancellation means too. A key is named by its id (a hash), never by itself.
    """

    @property
    def node(self) -> Node:
        """This life of this gateway."""
        ...

    @property
    def trouble(self) -> str | None:
        """Why nothing can be kept now, for the operator; None while all is well."""
        ...

    @property
    def hints(self) -> Hints:
        """What other nodes say of changes. A store that one gateway has alone has none."""
        ...

    # -- nodes --

    async def beat(self, facts: bytes = b"{}") -> Beat:
        """Renew this node's lease, with which all its leases are good, tell the others `facts`, and
        learn who lives. Raises `Lapsed`."""
        ...

    async def renew(self) -> Node:
        """Begin another life of this node, which owns nothing: `node` is that from now on."""
        ...

    def give_up(self) -> None:
        """The store does not answer, and this node's lease has run out by that: what waits for an
        answer fails now, as in any other outage."""
        ...

    async def leave(self) -> None:
        """This life ends: what it owns has no owner any more, and the other nodes see it no
        longer."""
        ...

    async def claim_place(self, place: str, home: str) -> str:
        """Where the agents of this place work: at `home`, unless it was claimed for another one
        before. Both are names that the caller gives."""
        ...

    # -- leases --

    async def acquire(
        self, conversation_id: str, key_id: str, create: NewConversation | None = None
    ) -> Lease:
        """A lease, with a higher token than any before. The caller closes an `open_turn` with
        `lose_turn` first. Raises `Missing` where there is no such conversation of the key's and
        none shall be created; `Owned` where another node that lives has it."""
        ...

    async def release(self, lease: Lease) -> None:
        """The conversation has no owner any more, if the lease is the latest and no turn runs."""
        ...

    async def reclaim(self, leases: Collection[Lease]) -> frozenset[str]:
        """This node, in another life than that which was granted these leases, has their
        conversations again, but for those that were granted anew, or are deleted. Returns the ids
        of those that it has."""
        ...

    async def append(self, lease: Lease, records: Sequence[Said | Rewound]) -> int:
        """Append all these records or none; returns the head. In a turn they belong to it.
        Raises `Fenced`."""
        ...

    async def begin_turn(
        self,
        lease: Lease,
        *,
        turn_id: str,
        request_id: str,
        model: str,
        prompts: Sequence[Said] = (),
        rewound: Rewound | None = None,
    ) -> Begun | Known:
        """Begin a turn that asks `prompts`; `rewound`: what is taken back before it. Raises
        `Fenced`."""
        ...

    async def end_turn(
        self,
        lease: Lease,
        end: TurnEnd,
        answer: Sequence[Said] = (),
        *,
        setup: Setup | None = None,
        lineage: bytes | None = None,
        charge: Charge | None = None,
    ) -> int:
        """End the lease's turn: the rest of its answer, and its end. The usage is counted, to its
        key as `charge` (None: as it is). `setup`: the conversation's from now on; `lineage`: the
        digest of the history that it holds now. Returns the head. Raises `Fenced`."""
        ...

    async def fail_turn(
        self,
        lease: Lease,
        failed: TurnFailed,
        usage: Usage | None = None,
        *,
        charge: Charge | None = None,
    ) -> int:
        """End the lease's turn, whose messages do not count; what it took does, for the
        conversation if `usage` is given, and for its key (`charge`). Raises `Fenced`."""
        ...

    async def lose_turn(self, lease: Lease, reason: str) -> int:
        """The lease's turn is lost: the next `begin_turn` says so. It counts as one of its key's.
        Raises `Fenced`."""
        ...

    async def resolve(self, lease: Lease) -> bool:
        """Whether the lease's unsettled change was done; the lease takes others again. True if
        there was none. Raises `Fenced`."""
        ...

    # -- reading --

    async def get(self, conversation_id: str, key_id: str) -> StoredConversation:
        """Raises `Missing`."""
        ...

    async def read(
        self, conversation_id: str, key_id: str, first: int = 1, limit: int = 1000
    ) -> tuple[Logged, ...]:
        """At most `limit` records, from number `first` on. Raises `Missing`."""
        ...

    async def head(self, conversation_id: str) -> Head:
        """Raises `Missing`."""
        ...

    async def request(self, conversation_id: str, request_id: str) -> Turn | None:
        """The turn that was begun for this request."""
        ...

    async def orphans(self, limit: int = 50) -> tuple[tuple[str, str], ...]:
        """Conversations whose turn is open, and whose owner lives no more: their ids and keys."""
        ...

    async def conversations(
        self,
        key_id: str,
        *,
        limit: int = 20,
        after: str | None = None,
        newest_first: bool = True,
        q: str | None = None,
    ) -> Page:
        """A key's conversations in the order in which they were made, behind the one called
        `after`. `q`: only those in which a turn has all these words (`schemas.log.words`). Raises
        `Missing` for `after`."""
        ...

    async def statistics(self) -> StoreStatistics: ...

    async def workspaces(self) -> tuple[str, ...]:
        """Where agents work, relative to ``workspaces.root``: one name for each of them, or the
        conversation's id where it is that one's own."""
        ...

    async def agents(self) -> tuple[str, ...]:
        """The ids of all conversations with agents."""
        ...

    # -- conversations --

    async def update(
        self,
        conversation_id: str,
        key_id: str,
        *,
        metadata: Mapping[str, str] | None = None,
        title: str | None = None,
        private: bool | None = None,
        grants: Sequence[str] = (),
    ) -> None:
        """Change what is given; `grants` are added, and a private conversation is not found by its
        history any more. Raises `Missing`."""
        ...

    async def delete(self, conversation_id: str, key_id: str) -> None:
        """Delete a conversation and everything of it; its leases are fenced. Its responses stay.
        Raises `Missing`."""
        ...

    async def fork(
        self, conversation_id: str, key_id: str, new_id: str, *, upto: int | None = None
    ) -> Lease:
        """Make a conversation that holds what this one held at record `upto` (None: now). Raises
        `Missing`."""
        ...

    async def prune(
        self,
        *,
        unused_since: float | None = None,
        max_bytes: int | None = None,
        max_responses: int | None = None,
        spare: Collection[str] = (),
    ) -> tuple[str, ...]:
        """Delete conversations that were not used since then (Unix seconds); not those of `spare`,
        nor those in which a turn runs. Delete responses that have expired, and the oldest beyond
        `max_responses`. As long as all (but answers to requests with an idempotency key, files and
        batches) takes more than `max_bytes`, delete what was not used for longest, conversation or
        response. Returns the ids of the conversations deleted."""
        ...

    # -- lineage --

    async def lineage_put(self, key_id: str, digest: bytes, conversation_id: str, seq: int) -> None:
        """A conversation holds the history of this digest, up to the record `seq`."""
        ...

    async def lineage_find(
        self, key_id: str, digests: Sequence[bytes], limit: int = 8
    ) -> tuple[Held, ...]:
        """Who holds one of these histories: in the order of `digests`, the latest put first."""
        ...

    # -- usage --

    async def usage(
        self, key_id: str | None = None, first_day: str = "", last_day: str = "9"
    ) -> tuple[DayUsage, ...]:
        """What the key's turns took (None: those of all keys), by key, day and model."""
        ...

    async def spent(self, key_id: str, first_hour: str) -> tuple[Spent, ...]:
        """What the key's turns took from this hour on, by hour and model."""
        ...

    async def count(self, spent: Sequence[Spent]) -> None:
        """Count this too. What was counted stays when conversations go."""
        ...

    # -- limits --

    async def admit(
        self, key_id: str, allowance: Allowance, turn_id: str | None = None
    ) -> Standing:
        """Let a turn of the key begin, where no limit is exceeded: it is one of this minute, and
        runs until it is discharged, or this life of this node ends (`turn_id` None: it does not
        run). Returns how the key stood before. Exact, whichever nodes are asked at once. Raises
        `Lapsed`."""
        ...

    async def standing(self, key_id: str, allowance: Allowance) -> Standing:
        """How the key stands."""
        ...

    async def discharge(self, turns: Sequence[tuple[str, str]]) -> None:
        """These turns do not run any more, each a key's id and a turn's. Others are ignored."""
        ...

    # -- keys --

    async def keys(self, known: int | None = None) -> Keys | None:
        """All keys, in the order in which they were made; None where their version is `known`."""
        ...

    async def add_key(self, key: ApiKey) -> None:
        """Raises `NameTaken`."""
        ...

    async def revoke_key(self, key_id: str) -> None:
        """A key that was revoked before stays as it is. Raises `Missing`."""
        ...

    async def delete_key(self, key_id: str) -> None:
        """Forget a key that was revoked. Raises `Missing`, also for one that holds."""
        ...

    # -- responses --

    async def put_response(self, response: StoredResponse, expires_at: float) -> None:
        """Keep a response, in place of one of its id. Raises `Missing` where that id is another
        key's."""
        ...

    async def get_response(self, response_id: str, key_id: str) -> StoredResponse:
        """Raises `Missing`, also for one that has expired."""
        ...

    async def latest_response(self, conversation_id: str, key_id: str) -> StoredResponse | None:
        """The conversation's latest response that is kept."""
        ...

    async def delete_response(self, response_id: str, key_id: str) -> None:
        """Raises `Missing`."""
        ...

    # -- requests with an idempotency key --

    async def claim_request(
        self, key_id: str, name: str, digest: bytes, expires_at: float
    ) -> KeptRequest | None:
        """Take the idempotency key `name` of a key for a request of this digest, which runs on this
        node from now on: None. Where it is taken, and has not expired: by what."""
        ...

    async def settle_request(
        self,
        key_id: str,
        name: str,
        request: KeptRequest,
        expires_at: float,
        *,
        max_count: int,
        max_bytes: int,
    ) -> None:
        """What became of a request that was claimed here. Beyond `max_count` requests that run no
        more, or `max_bytes` of answers as they are kept, the first to expire are deleted; those
        that have expired anyhow."""
        ...

    async def release_request(self, key_id: str, name: str) -> None:
        """Give back an idempotency key that this node has claimed: nothing was done."""
        ...

    # -- files and batches --

    @property
    def files(self) -> FileStore: ...

    @property
    def batches(self) -> BatchStore: ...

    # -- operations --

    async def check(self) -> tuple[str, ...]:
        """What is wrong with what is kept; looks at everything, and may take long."""
        ...
