"""What an engine (`engine.Engine`) offers for files and batches.

The methods are those of `batch_interface.FileStore` and `BatchStore`, and raise the same; `now` is
in Unix seconds.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal, Protocol

from .batch_interface import (
    BatchLease,
    BatchPage,
    BatchRequest,
    BatchResult,
    BatchState,
    Dialect,
    FileBounds,
    FilePage,
    RequestState,
    StoredBatch,
    StoredFile,
)

NUMBER_BITS = 20

MAX_NUMBER = 2**NUMBER_BITS - 1
"""Pieces of a file, requests of a batch."""


class FileTable(Protocol):
    def begin(self, file: StoredFile, bounds: FileBounds) -> None: ...
    def write(self, file_id: str, number: int, content: bytes, bounds: FileBounds) -> None: ...
    def finish(self, file: StoredFile) -> StoredFile: ...
    def get(self, file_id: str, key_id: str, now: float) -> StoredFile: ...
    def read(self, file_id: str, number: int) -> bytes: ...
    def page(
        self,
        key_id: str,
        limit: int,
        after: str | None,
        newest_first: bool,
        purpose: str | None,
        now: float,
    ) -> FilePage: ...
    def delete(self, file_id: str, key_id: str) -> None: ...
    def prune(self, now: float) -> None: ...


class BatchTable(Protocol):
    def add(self, batch: StoredBatch, max_open: int) -> BatchLease: ...
    def orphans(self, limit: int) -> list[tuple[str, str]]: ...
    def acquire(self, batch_id: str, key_id: str) -> BatchLease: ...
    def add_requests(self, lease: BatchLease, requests: Sequence[tuple[str, bytes]]) -> None: ...
    def drop_requests(self, lease: BatchLease) -> None: ...
    def change(
        self,
        lease: BatchLease,
        expected: Collection[BatchState],
        state: BatchState,
        details: Mapping[str, Any] | None,
        output_file: str | None,
        error_file: str | None,
        now: float,
    ) -> StoredBatch: ...
    def cancel(self, batch_id: str, key_id: str, now: float) -> StoredBatch: ...
    def claim(self, lease: BatchLease) -> BatchRequest | None: ...
    def settle(
        self, lease: BatchLease, number: int, state: RequestState, result: bytes
    ) -> None: ...
    def lost(self, lease: BatchLease) -> list[BatchRequest]: ...
    def close(self, lease: BatchLease, state: Literal["canceled", "expired"]) -> None: ...
    def get(self, batch_id: str, key_id: str) -> StoredBatch: ...
    def page(
        self, key_id: str, dialect: Dialect, limit: int, after: str | None, before: str | None
    ) -> BatchPage: ...
    def results(self, batch_id: str, key_id: str, first: int, limit: int) -> list[BatchResult]: ...
    def delete(self, batch_id: str, key_id: str) -> None: ...
    def prune(self, now: float) -> None: ...
