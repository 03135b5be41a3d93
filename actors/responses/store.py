"""Responses that are kept: to be fetched, watched while they run, and gone on with.

Knows: what is kept of a response, whose it is, how many there may be and how large they may be
together. Refuses to know: how a response comes about (`actors.responses.run`), and how it is
written.
"""

from __future__ import annotations

from attrs import frozen

from ...schemas.convert import write_json
from ...schemas.errors import NotFound
from ...schemas.message import Message, size_of, utf8_size
from ...schemas.settings.settings import ResponseSettings
from ...schemas.turn_items import text_size
from .record import Record

RECORD_BYTES = 4_000
"""About what a record takes beside what was said: its own objects, and what it repeats of the
request."""

ITEM_BYTES = 120
"""About what a piece of an answer takes beside its text."""

POINTER_BYTES = 8


@frozen
class _Weight:
    """What one record takes: `size` bytes of its own, and these messages."""

    size: int
    messages: tuple[Message, ...]


class ResponseStore:
    """Records by id, the oldest first. What still runs stays."""

    def __init__(self, settings: ResponseSettings) -> None:
        self._settings = settings
        self._records: dict[str, Record] = {}
        self._latest: dict[str, Record] = {}  # by conversation
        self._weights: dict[str, _Weight] = {}
        self._messages: dict[int, tuple[int, int]] = {}  # by identity: holders, bytes
        self.bytes = 0

    def __repr__(self) -> str:
        return f"<ResponseStore {len(self)} responses, {self.bytes} bytes>"

    def __len__(self) -> int:
        return len(self._records)

    def put(self, record: Record, now: float) -> None:
        """Keep a response that begins. `now` in Unix seconds."""
        self._records[record.id] = record
        self._latest[record.heading.conversation_id] = record
        self._weigh(record)
        self._make_room(now)

    def take_back(self, record: Record, now: float) -> None:
        """Have a response in memory again that has ended long ago."""
        self._records = {record.id: record, **self._records}  # they stand in the order of their age
        self._weigh(record)
        self._make_room(now)

    def settle(self, record: Record, now: float) -> None:
        """The response has ended: what it takes is known now."""
        if self._records.get(record.id) is record:
            self._unweigh(record)
            self._weigh(record)
            self._make_room(now)

    def find(self, response_id: str, owner: str, now: float) -> Record:
        """Raises `NotFound` (``response_not_found``), for another owner's too."""
        self._expire(now)
        record = self._records.get(response_id)
        if record is None or record.owner != owner:
            raise NotFound(
                f"Response with id '{response_id[:100]}' not found.",
                code="response_not_found",
                param="response_id",
            )
        return record

    def latest(self, conversation_id: str) -> Record | None:
        """The conversation's latest response that is kept."""
        return self._latest.get(conversation_id)

    def drop(self, record: Record) -> None:
        if self._records.get(record.id) is not record:
            return
        del self._records[record.id]
        if self._latest.get(record.heading.conversation_id) is record:
            del self._latest[record.heading.conversation_id]
        self._unweigh(record)

    # -- bounds ------------------------------------------------------------------------------------

    def _expire(self, now: float) -> None:
        oldest = now - self._settings.ttl_seconds
        for record in list(self._records.values()):
            if record.heading.created_at > oldest:
                return  # they stand in the order of their age
            if record.ending is not None:
                self.drop(record)

    def _make_room(self, now: float) -> None:
        self._expire(now)
        if not self._is_full:
            return
        for record in list(self._records.values()):
            if record.ending is not None:
                self.drop(record)
                if not self._is_full:
                    return

    @property
    def _is_full(self) -> bool:
        settings = self._settings
        return len(self) > settings.max_stored or self.bytes > settings.max_bytes

    def _weigh(self, record: Record) -> None:
        weight = self._weights[record.id] = _weight(record)
        self.bytes += weight.size
        for message in weight.messages:
            # Later responses hold the same messages, and each is counted once.
            holders, size = self._messages.get(id(message), (0, 0))
            if not holders:
                size = size_of((message,))
                self.bytes += size
            self._messages[id(message)] = holders + 1, size

    def _unweigh(self, record: Record) -> None:
        weight = self._weights.pop(record.id)
        self.bytes -= weight.size
        for message in weight.messages:
            holders, size = self._messages.pop(id(message))
            if holders > 1:
                self._messages[id(message)] = holders - 1, size
            else:
                self.bytes -= size


def _weight(record: Record) -> _Weight:
    messages = (*(record.history or record.before or ()), *record.asked)
    size = RECORD_BYTES + POINTER_BYTES * len(messages) + len(write_json(record.heading.echo))
    size += utf8_size(record.spoken or "")
    size += sum(utf8_size(tool.parameters) + utf8_size(tool.description) for tool in record.brought)
    if record.ending is not None:
        size += sum(ITEM_BYTES + text_size(item) for item in record.items)
    return _Weight(size, messages)
