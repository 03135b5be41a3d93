"""What a store offers for uploaded files and batches of requests, whichever keeps it.

Knows: files in pieces, batches, the states of their requests, and who may change them. Refuses to
know: how anything is kept, what a request asks, and what clients learn of any of it.

Every method is one change or one look-up that is whole by itself. A key is named by its id. Times
are in Unix seconds; `NEVER` is later than all of them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal, Protocol

from attrs import field, frozen

NEVER = 1e15

PIECE_BYTES = 256 * 1024
"""What a file is kept in. All pieces but the last have so many bytes."""


# -- files -----------------------------------------------------------------------------------------


@frozen(kw_only=True)
class StoredFile:
    """A file, without its content."""

    id: str
    key_id: str
    purpose: str
    name: str
    bytes: int = 0
    created_at: float
    expires_at: float = NEVER


@frozen
class FilePage:
    """Some files of a list; `has_more`: there are others behind them."""

    files: tuple[StoredFile, ...]
    has_more: bool


@frozen
class FileBounds:
    """What may be kept: files of a key, bytes of a key's, bytes in all. None: any number."""

    max_files: int | None = None
    max_key_bytes: int | None = None
    max_total_bytes: int | None = None


class FileStore(Protocol):
    """Files. One is written piece by piece, and is not there for its key before `finish`; one that
    its node did not finish goes with `prune`."""

    async def begin(self, file: StoredFile, bounds: FileBounds) -> None:
        """A new file without content. Raises `Full`."""
        ...

    async def write(self, file_id: str, number: int, content: bytes, bounds: FileBounds) -> None:
        """Its piece `number`, counted from 0. Raises `Missing`, `Full`."""
        ...

    async def finish(self, file: StoredFile) -> StoredFile:
        """It is whole, and is what `file` says; its bytes are counted. Raises `Missing`."""
        ...

    async def get(self, file_id: str, key_id: str) -> StoredFile:
        """Raises `Missing`, also for one that has expired."""
        ...

    async def read(self, file_id: str, number: int) -> bytes:
        """A piece; empty behind the last one, and where the file is gone."""
        ...

    async def page(
        self,
        key_id: str,
        *,
        limit: int,
        after: str | None = None,
        newest_first: bool = True,
        purpose: str | None = None,
    ) -> FilePage:
        """A key's files in the order in which they were made, behind the one called `after`. Raises
        `Missing` for `after`."""
        ...

    async def delete(self, file_id: str, key_id: str) -> None:
        """Raises `Missing`."""
        ...

    async def prune(self) -> None:
        """Delete files that have expired, and those that are not whole and whose node is gone."""
        ...


# -- batches ---------------------------------------------------------------------------------------

Dialect = Literal["openai", "anthropic"]

BatchState = Literal[
    "validating", "in_progress", "finalizing", "cancelling",
    "completed", "failed", "expired", "cancelled",
]  # fmt: skip

ENDED: tuple[BatchState, ...] = ("completed", "failed", "expired", "cancelled")

RequestState = Literal["waiting", "running", "succeeded", "errored", "canceled", "expired"]


@frozen
class Counts:
    """How many requests a batch has, and what became of them; the others wait or run."""

    total: int = 0
    succeeded: int = 0
    errored: int = 0
    canceled: int = 0
    expired: int = 0

    @property
    def ended(self) -> int:
        return self.succeeded + self.errored + self.canceled + self.expired


@frozen(kw_only=True)
class StoredBatch:
    """A batch. `endpoint` is a path; `input_file` empty where its requests came with it. `times`
    says when it came into a state. `details` is what its dialect keeps of it, as JSON. At
    `expires_at` what has not run does not run any more; at `kept_until` the batch goes."""

    id: str
    key_id: str
    dialect: Dialect
    endpoint: str
    input_file: str = ""
    state: BatchState = "validating"
    created_at: float
    expires_at: float
    kept_until: float = NEVER
    times: Mapping[str, float] = field(factory=dict)
    details: Mapping[str, Any] = field(factory=dict)
    output_file: str | None = None
    error_file: str | None = None
    counts: Counts = Counts()


@frozen
class BatchPage:
    """Some batches of a list; `has_more`: there are others behind them."""

    batches: tuple[StoredBatch, ...]
    has_more: bool


@frozen
class BatchLease:
    """The right to change one batch and its requests, until a higher token is given."""

    batch_id: str
    key_id: str
    token: int


@frozen
class BatchRequest:
    """A request of a batch; `number` counts from 1. `body` is JSON as the client sent it."""

    number: int
    custom_id: str
    body: bytes = field(repr=False)


@frozen
class BatchResult:
    """What became of a request. `result` is the line that says so, where there is one."""

    number: int
    custom_id: str
    state: RequestState
    result: bytes = field(repr=False)


class BatchStore(Protocol):
    """Batches and their requests. What takes a lease raises `Fenced` where another was granted, or
    the batch was deleted."""

    async def add(self, batch: StoredBatch, *, max_open: int) -> BatchLease:
        """A new batch, owned by this node. Raises `Full` where the key has as many that have not
        ended."""
        ...

    async def orphans(self, limit: int = 50) -> tuple[tuple[str, str], ...]:
        """Batches that have not ended, and whose node is gone: their ids and keys."""
        ...

    async def acquire(self, batch_id: str, key_id: str) -> BatchLease:
        """A lease, with a higher token than any before. Raises `Missing`; `Owned` where another
        node that lives has it."""
        ...

    async def add_requests(self, lease: BatchLease, requests: Sequence[tuple[str, bytes]]) -> None:
        """More requests, behind those that are there: custom ids and bodies."""
        ...

    async def drop_requests(self, lease: BatchLease) -> None:
        """Its requests go, with their results; they stay counted, unless it is ``validating``."""
        ...

    async def change(
        self,
        lease: BatchLease,
        expected: Collection[BatchState],
        state: BatchState,
        *,
        details: Mapping[str, Any] | None = None,
        output_file: str | None = None,
        error_file: str | None = None,
    ) -> StoredBatch:
        """The batch comes into `state` if it is in one of those `expected`. As it is now."""
        ...

    async def cancel(self, batch_id: str, key_id: str) -> StoredBatch:
        """One that is ``validating`` or ``in_progress`` is ``cancelling`` from now on; another
        stays as it is. Raises `Missing`."""
        ...

    async def claim(self, lease: BatchLease) -> BatchRequest | None:
        """The first request that waits runs from now on. None: none waits, or the batch is not
        ``in_progress``."""
        ...

    async def settle(
        self, lease: BatchLease, number: int, state: RequestState, result: bytes = b""
    ) -> None:
        """What became of a request that runs. ``waiting``: nothing, it was not begun."""
        ...

    async def lost(self, lease: BatchLease) -> tuple[BatchRequest, ...]:
        """Requests that run, claimed under an older lease; without their bodies."""
        ...

    async def close(self, lease: BatchLease, state: Literal["canceled", "expired"]) -> None:
        """That becomes of all requests that wait or run."""
        ...

    async def get(self, batch_id: str, key_id: str) -> StoredBatch:
        """Raises `Missing`."""
        ...

    async def page(
        self,
        key_id: str,
        dialect: Dialect,
        *,
        limit: int,
        after: str | None = None,
        before: str | None = None,
    ) -> BatchPage:
        """A key's batches, the newest first: behind the one called `after`, or the nearest ones
        before `before`. Raises `Missing` for these."""
        ...

    async def results(
        self, batch_id: str, key_id: str, first: int = 1, limit: int = 100
    ) -> tuple[BatchResult, ...]:
        """Requests that have ended, from number `first` on. Raises `Missing`."""
        ...

    async def delete(self, batch_id: str, key_id: str) -> None:
        """Delete a batch that has ended. Raises `Missing`, also for one that has not."""
        ...

    async def prune(self) -> None:
        """Delete batches that have ended and are not kept any more."""
        ...
