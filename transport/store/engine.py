"""What keeps a store's data: plain tables, changed in one place by one thread.

Knows: the changes and look-ups that each engine offers, all of them without waiting. Refuses to
know: leases as objects, records in the clear, threads (`transport.store.local`, `.writer`).

Each change is done whole or raises before it has done anything that its caller does not undo.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, Protocol

from attrs import field, frozen

from ...schemas.keys import ApiKey
from ...schemas.log.codec import Encoded, loads
from ...schemas.turn import Usage
from .batch_engine import BatchTable, FileTable
from .interface import (
    Begun,
    Charge,
    DayUsage,
    Head,
    Held,
    Known,
    Page,
    RequestState,
    Spent,
    StoredConversation,
    StoreStatistics,
    Turn,
    Unsettled,
)

RECORD_BYTES = 48
"""What a record takes beside its JSON, as it is counted."""

MAX_RECORDS = 2**24 - 1
"""Records of one conversation."""


@frozen
class Created:
    """A conversation that begins, as it is kept: `setup` and `metadata` are JSON."""

    setup: bytes
    model: str
    profile: str
    workspace: str
    metadata: bytes
    private: bool


@frozen
class State:
    """Where a conversation stands for the holder of its lease."""

    token: int
    head: int
    turns: int
    open_turn: int | None


@frozen
class Opening:
    """A turn begins with these records."""

    turn_id: str
    request_id: str


@frozen
class Closing:
    """The running turn ends with these records. `usage` is counted to its conversation, `charge` to
    its key (None: the turn alone, of the conversation's model). `setup`: what the conversation is
    kept with from now on."""

    state: Literal["ended", "failed", "lost"]
    usage: Usage | None = None
    charge: Charge | None = None
    setup: Created | None = None
    lineage: bytes | None = None


@frozen(kw_only=True)
class Change:
    """Records to append, and what changes with them.

    `messages` and `turns` are what they add to the conversation's counts outside of a turn, after
    these have been set to `reset` if it is given. `units` are the ranges of these records (counted
    from 0, the last one included) that are searched as one; a turn that ends is one by itself.
    """

    conversation_id: str
    token: int
    head: int
    records: tuple[Encoded, ...]
    now: float
    title: str | None = None
    opening: Opening | None = None
    closing: Closing | None = None
    reset: tuple[int, int] | None = None
    messages: int = 0
    turns: int = 0
    units: tuple[tuple[int, int], ...] = ()

    @property
    def parts(self) -> Mapping[bytes, bytes]:
        return {name: part for each in self.records for name, part in each.parts.items()}

    @property
    def size(self) -> int:
        return sum(each.size + RECORD_BYTES for each in self.records)

    @property
    def new_messages(self) -> int:
        return sum(each.kind in ("user", "assistant") for each in self.records)


@frozen
class Row:
    """A record as it is kept."""

    seq: int
    token: int
    turn: int
    at: float
    kind: str
    body: bytes
    parts: Mapping[bytes, bytes] = field(factory=dict, repr=False)


@frozen
class ResponseRow:
    """A response as it is kept; `created_at` and `expires_at` in Unix seconds."""

    id: str
    key_id: str
    conversation_id: str
    created_at: float
    expires_at: float
    encoded: Encoded


@frozen
class RequestRow:
    """A request with an idempotency key, as it is kept. `status` is 0 where there is no answer;
    `headers` is JSON, `body` is compressed. `is_elsewhere`: another node runs it."""

    key_id: str
    name: str
    digest: bytes
    state: RequestState
    expires_at: float
    status: int = 0
    headers: bytes = b""
    body: bytes = field(default=b"", repr=False)
    is_elsewhere: bool = False

    @property
    def size(self) -> int:
        return len(self.headers) + len(self.body)


def named_parts(body: bytes) -> Iterable[bytes]:
    """The digests that a record's JSON names."""
    if b'"blob"' not in body:
        return
    found: list[Any] = [loads(body)]
    while found:
        match found.pop():
            case {"blob": str(digest)}:
                yield bytes.fromhex(digest)
            case dict() as value:
                found += value.values()
            case list() as values:
                found += values


class Engine(Protocol):
    """The tables of a store. The methods are those of `interface.Store`, and raise the same."""

    node_id: str

    @property
    def files(self) -> FileTable: ...

    @property
    def batches(self) -> BatchTable: ...

    def touch(self) -> None:
        """Write something that changes nothing."""
        ...

    def acquire(
        self, conversation_id: str, key_id: str, create: Created | None, now: float
    ) -> State: ...
    def release(self, conversation_id: str, token: int) -> None: ...
    def reclaim(self, conversation_id: str, token: int) -> bool: ...
    def append(self, change: Change) -> Begun | Known | int: ...
    def settle(self, conversation_id: str, token: int, unsettled: Unsettled) -> tuple[bool, State]:
        """Whether it was done, and where the conversation stands. Raises `Fenced`."""
        ...

    def state(self, conversation_id: str) -> State: ...
    def turn(self, conversation_id: str, number: int) -> Turn | None: ...
    def get(self, conversation_id: str, key_id: str) -> StoredConversation: ...
    def rows(self, conversation_id: str, key_id: str, first: int, limit: int) -> list[Row]: ...
    def head(self, conversation_id: str) -> Head: ...
    def request(self, conversation_id: str, request_id: str) -> Turn | None: ...
    def orphans(self, limit: int) -> list[tuple[str, str]]: ...
    def index_words(self, limit: int) -> bool:
        """Make at most `limit` turns more searchable; says whether there are others."""
        ...

    def conversations(
        self,
        key_id: str,
        limit: int,
        after: str | None,
        newest_first: bool,
        terms: Sequence[Sequence[str]] | None,
    ) -> Page: ...
    def statistics(self) -> StoreStatistics: ...
    def workspaces(self) -> list[str]: ...
    def agents(self) -> list[str]: ...
    def update(
        self,
        conversation_id: str,
        key_id: str,
        metadata: bytes | None,
        title: str | None,
        private: bool | None,
        grants: Sequence[str],
    ) -> None: ...
    def delete(self, conversation_id: str, key_id: str) -> None: ...
    def unused(self) -> Iterator[tuple[str, str, float, int]]:
        """Conversations in which no turn runs, the longest unused first: id, key, time, bytes."""
        ...

    def responses_by_age(self) -> Iterator[tuple[str, str, float, float, int]]:
        """Id, key, time, time of expiry, bytes; the oldest first."""
        ...

    def lineage_put(self, key_id: str, digest: bytes, conversation_id: str, seq: int) -> None: ...
    def lineage_find(self, key_id: str, digests: Sequence[bytes], limit: int) -> list[Held]: ...
    def usage(self, key_id: str | None, first_day: str, last_day: str) -> list[DayUsage]: ...
    def spent(self, key_id: str, first_hour: str) -> list[Spent]: ...
    def count(self, spent: Sequence[Spent]) -> None: ...
    def keys_version(self) -> int: ...
    def keys(self) -> list[ApiKey]: ...
    def add_key(self, key: ApiKey) -> None: ...
    def revoke_key(self, key_id: str, now: float) -> None: ...
    def delete_key(self, key_id: str) -> None: ...
    def put_response(self, row: ResponseRow) -> None: ...
    def get_response(
        self, response_id: str, key_id: str, now: float
    ) -> tuple[bytes, Mapping[bytes, bytes]]: ...
    def latest_response(self, conversation_id: str, key_id: str, now: float) -> str | None: ...
    def delete_response(self, response_id: str, key_id: str) -> None: ...
    def claim_request(self, row: RequestRow, now: float) -> RequestRow | None: ...
    def settle_request(
        self, row: RequestRow, now: float, max_count: int, max_bytes: int
    ) -> None: ...
    def release_request(self, key_id: str, name: str) -> None: ...
    def requests_by_age(self) -> Iterator[tuple[str, str, str, float, int]]:
        """Key, name, state, time of expiry, bytes; the first to expire first."""
        ...

    def check(self) -> list[str]: ...


def prune(
    engine: Engine,
    *,
    now: float,
    unused_since: float | None,
    most_record_bytes: int | None,
    max_responses: int | None,
    spare: Collection[str],
    limit: int = 50,
) -> tuple[list[str], bool]:
    """At most `limit` deletions of `interface.Store.prune`: the conversations that went, and
    whether there may be more to do."""
    deleted: list[str] = []
    held = engine.statistics()
    left, count, done = held.record_bytes, held.responses, 0
    responses, conversations = [], []
    for response_id, key_id, at, expires_at, size in engine.responses_by_age():
        excess = max_responses is not None and count > max_responses
        if expires_at <= now or excess:
            responses.append((at, response_id, key_id, size))
            count, left, done = count - 1, left - size, done + 1
        if done >= limit:
            break
    for _, response_id, key_id, _ in responses:
        engine.delete_response(response_id, key_id)
    for conversation_id, key_id, at, size in engine.unused():
        if unused_since is None or at >= unused_since or done >= limit:
            break
        if conversation_id not in spare:
            conversations.append((at, conversation_id, key_id, size))
            left, done = left - size, done + 1
    for _, conversation_id, key_id, _ in conversations:
        engine.delete(conversation_id, key_id)
        deleted.append(conversation_id)
    if most_record_bytes is not None and left > most_record_bytes and done < limit:
        deleted += _make_room(engine, left - most_record_bytes, spare, limit - done)
        done = limit if len(deleted) else done
    return deleted, done >= limit


def _make_room(engine: Engine, excess: int, spare: Collection[str], limit: int) -> list[str]:
    """Delete the longest unused until `excess` bytes are free, or `limit` are deleted."""
    going: list[tuple[float, int, str, str, int]] = []
    conversations = (
        (at, 0, conversation_id, key_id, size)
        for conversation_id, key_id, at, size in engine.unused()
        if conversation_id not in spare
    )
    responses = ((at, 1, id, key_id, size) for id, key_id, at, _, size in engine.responses_by_age())
    for candidates in (conversations, responses):
        freed = 0
        for number, candidate in enumerate(candidates):
            if number >= limit or freed >= excess:
                break
            going.append(candidate)
            freed += candidate[-1]
    deleted: list[str] = []
    for _, kind, id, key_id, size in sorted(going)[:limit]:
        if excess <= 0:
            break
        excess -= size
        if kind:
            engine.delete_response(id, key_id)
        else:
            engine.delete(id, key_id)
            deleted.append(id)
    return deleted
