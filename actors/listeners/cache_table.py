"""The cache without its actor: what a request is called, the answers kept, who waits for whom.

Knows: keys, age, size, order of use, and the order in which identical requests go first. Refuses
to know: clocks (the time is an argument), channels, tasks and events.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Generic, Protocol, TypeVar

from attrs import field, frozen, mutable

from ...schemas.message import Message, digest, exact_digest, utf8_size
from ...schemas.turn import Answer, Setup, named

ENTRY_OVERHEAD = 512
PIECE_OVERHEAD = 64
"""What CPython spends, in bytes, on an entry and on each piece beside the text itself, rounded
up: an answer of a thousand five-letter pieces takes ten times its text."""

LARGEST_SHARE = 8
"""An answer larger than this part of the whole room is not kept: it would cost too many others."""

FAILURES = 2
"""Leaders that may leave one flight without an answer before the others stop waiting."""


def cache_key(
    owner: str,
    messages: Sequence[Message],
    setup: Setup,
    profile: str,
    parameters: Mapping[str, Any],
    *,
    exact: bool = False,
) -> str:
    """The name of a request: SHA-256 (64 hex digits) over everything that can change its answer.

    `parameters` holds JSON values; their order does not count. Block borders within a message do
    not count either (as in `schemas.message.digest`), unless it is `exact`: then all counts that
    the Messages API reads, and no other request has its name. Raises TypeError for what JSON does
    not have: such a request has no name that a second one could be found by.
    """
    # Each digest is 32 bytes, so nothing runs together; ten thousand as JSON take milliseconds.
    names = map(exact_digest if exact else digest, messages)
    said = hashlib.sha256(b"".join((b"exact" if exact else b"", *names))).hexdigest()
    request = [owner, profile, named(setup), said, dict(parameters)]
    text = json.dumps(request, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    # JSON keeps the fields apart. Not its \u escapes: they make two lone surrogates look like the
    # one character the pair would be. surrogatepass writes every code point in its own way.
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def is_reusable(answer: Answer) -> bool:
    """Whether `answer` may be given to another identical request: whole, and not empty."""
    return answer.finish_reason == "stop" and any(answer.pieces)


def size(key: str, answer: Answer) -> int:
    """About what keeping `answer` takes, in bytes: the UTF-8 of key and pieces, and overhead."""
    text = sum(map(utf8_size, answer.pieces))
    return ENTRY_OVERHEAD + utf8_size(key) + text + PIECE_OVERHEAD * len(answer.pieces)


@frozen
class _Entry:
    answer: Answer
    size: int


class AnswerTable:
    """Answers by key, bounded in number, size and age; the least recently used leaves first.

    Times are seconds on one clock that does not go back.
    """

    def __init__(self, *, max_entries: int, ttl_seconds: float, max_bytes: int) -> None:
        self.max_entries = max_entries
        self.ttl_seconds = ttl_seconds
        self.max_bytes = max_bytes
        self.bytes = 0
        self._by_use: OrderedDict[str, _Entry] = OrderedDict()
        self._by_age: OrderedDict[str, float] = OrderedDict()  # when each expires

    def __repr__(self) -> str:
        entries = f"{len(self)}/{self.max_entries} answers"
        return f"<AnswerTable {entries} {self.bytes}/{self.max_bytes} bytes>"

    def __len__(self) -> int:
        return len(self._by_use)

    def __iter__(self) -> Iterator[str]:
        """Keys, the least recently used first."""
        return iter(self._by_use)

    def get(self, key: str, now: float) -> Answer | None:
        """The answer kept under `key`, which counts as a use of it; its age stays what it is."""
        self.expire(now)
        entry = self._by_use.get(key)
        if entry is None:
            return None
        self._by_use.move_to_end(key)
        return entry.answer

    def put(self, key: str, answer: Answer, now: float) -> bool:
        """Keep `answer`, in place of an older one; says whether it is kept."""
        self.expire(now)
        self._drop(key)
        entry = _Entry(answer, size(key, answer))
        if entry.size * LARGEST_SHARE > self.max_bytes:
            return False
        self._by_use[key] = entry
        self._by_age[key] = now + self.ttl_seconds
        self.bytes += entry.size
        while len(self._by_use) > self.max_entries or self.bytes > self.max_bytes:
            self._drop(next(iter(self._by_use)))
        return True

    def expire(self, now: float) -> None:
        """Drop what has reached its age. The age is one for all, so the oldest stand first."""
        while self._by_age and next(iter(self._by_age.values())) <= now:
            self._drop(next(iter(self._by_age)))

    def _drop(self, key: str) -> None:
        entry = self._by_use.pop(key, None)
        if entry is not None:
            del self._by_age[key]
            self.bytes -= entry.size


class Seat(Protocol):
    """A request that asked; compared by identity. `present` is False once it has gone."""

    @property
    def present(self) -> bool: ...


S = TypeVar("S", bound=Seat)


@mutable(eq=False)
class _Flight(Generic[S]):
    leader: S
    followers: dict[S, None] = field(factory=dict)  # in the order they came
    failures: int = 0


class Flights(Generic[S]):
    """Single-flight: of those who ask the same, one leads and runs the turn, the others wait.

    A flight ends when its answer arrives (`land`). A leader that leaves before that has failed:
    the longest waiting follower goes next, and after `FAILURES` of them all others have to
    run their own turns, so that no request waits through a chain of timeouts.
    """

    def __init__(self) -> None:
        self._flights: dict[str, _Flight[S]] = {}

    def __repr__(self) -> str:
        waiting = sum(len(flight.followers) for flight in self._flights.values())
        return f"<Flights {len(self)} under way, {waiting} waiting>"

    def __len__(self) -> int:
        return len(self._flights)

    def join(self, key: str, seat: S) -> bool:
        """Take part in the flight for `key`. True: `seat` leads it; False: it waits."""
        flight = self._flights.get(key)
        if flight is None:
            self._flights[key] = _Flight(seat)
            return True
        flight.followers[seat] = None
        return False

    def land(self, key: str) -> list[S]:
        """The answer for `key` is there: ends the flight and returns all who waited for it."""
        flight = self._flights.pop(key, None)
        return [] if flight is None else list(flight.followers)

    def leave(self, key: str, seat: S) -> list[S]:
        """`seat` is done, or waits no longer. Returns those that now have to run the turn: none,
        the next leader, or all the rest."""
        flight = self._flights.get(key)
        if flight is None:
            return []
        if seat is not flight.leader:
            flight.followers.pop(seat, None)
            return []
        flight.failures += 1
        # A follower that has gone, but has not said so yet, must not lead: it would
        # count as a failure that was never tried.
        waiting = [follower for follower in flight.followers if follower.present]
        if not waiting or flight.failures >= FAILURES:
            del self._flights[key]
            return waiting
        flight.leader, *rest = waiting
        flight.followers = dict.fromkeys(rest)
        return [flight.leader]
