"""Responses as the store keeps them, and those of them that are in memory.

Knows: which part of a record is stored, and how a record comes back. Refuses to know: how many
records are in memory (`actors.responses.store`), and how a response is encoded.

What was said up to a response's end is not stored with it: it is the log of its conversation up to
there, which is read again.
"""

from __future__ import annotations

import time
from contextlib import suppress

from attrs import evolve

from ...schemas.errors import Elsewhere, InternalError, NotFound
from ...schemas.log.fold import fold
from ...schemas.log.responses import StoredResponse
from ...schemas.message import Message, digest
from ...schemas.openai.response_events import Ending
from ...transport.store.interface import Missing, Store, StoreError
from ..conversations.archive import read_log
from ..conversations.journal import failure_of
from .record import Record
from .store import ResponseStore


class KeptResponses:
    """`store` None: there is nothing else than what is in memory."""

    def __init__(self, store: Store | None, memory: ResponseStore, seconds: float) -> None:
        self._store = store
        self._memory = memory
        self._seconds = seconds
        self.is_shared = False
        """Whether other nodes have the same store."""

    def __repr__(self) -> str:
        return f"<KeptResponses {self._memory!r}>"

    async def find(self, response_id: str, owner: str) -> Record:
        """Raises `NotFound` (``response_not_found``), for another owner's too; `Elsewhere` where it
        runs on another node; `Overloaded`."""
        now = time.time()
        try:
            record = self._memory.find(response_id, owner, now)
            if self.is_shared and record.is_kept:
                await self._check_kept(record)
        except NotFound:
            if self._store is None:
                raise
            with suppress(Missing):
                return await self._load(self._store, response_id, owner)
            raise
        return record

    async def keep(self, record: Record, ends: int | None) -> None:
        """Store a response as it is now. `ends`: the number of the last record of its
        conversation's log that belongs to it. Raises `Overloaded`."""
        if self._store is None:
            return
        stored = StoredResponse(
            heading=record.heading,
            key_id=record.owner,
            model=record.model,
            asked=record.asked,
            workspace=record.workspace,
            said=record.said,
            spoken=record.spoken,
            brought=record.brought,
            listed=record.listed,
            background=record.background,
            is_warm_up=record.is_warm_up,
            is_settled=record.is_settled,
            items=tuple(record.items),
            ending=record.ending,
            ends=ends,
            place=() if record.is_settled else record.place,
        )
        try:
            await self._store.put_response(stored, record.heading.created_at + self._seconds)
        except StoreError as error:
            raise failure_of(error, record.heading.conversation_id) from error
        record.is_kept = record.ending is not None

    async def _check_kept(self, record: Record) -> None:
        """Another node may have deleted it, where it is no more in memory. Raises `NotFound`."""
        assert self._store is not None, "what is kept is in a store"
        try:
            await self._store.get_response(record.id, record.owner)
        except Missing:
            self._memory.drop(record)
            self._memory.find(record.id, record.owner, time.time())  # raises
        except StoreError as error:
            raise failure_of(error, record.id) from error

    async def delete(self, record: Record) -> None:
        """Raises `Overloaded`."""
        self._memory.drop(record)
        if self._store is not None:
            try:
                with suppress(Missing):
                    await self._store.delete_response(record.id, record.owner)
            except StoreError as error:
                raise failure_of(error, record.heading.conversation_id) from error

    async def _load(self, store: Store, response_id: str, owner: str) -> Record:
        try:
            stored = await store.get_response(response_id, owner)
            if stored.ending is None:
                await _check_runs_nowhere(store, stored)
            history = None
            if stored.is_settled and stored.ends is not None:
                history = await _history(store, stored)
        except Missing:
            raise
        except StoreError as error:
            raise failure_of(error, response_id) from error
        record = _record_of(stored, history)
        with suppress(NotFound):  # it was loaded for another client meanwhile
            return self._memory.find(response_id, owner, time.time())
        self._memory.take_back(record, time.time())
        return record


async def _check_runs_nowhere(store: Store, stored: StoredResponse) -> None:
    """Raises `Elsewhere`, `StoreError`."""
    with suppress(Missing):
        head = await store.head(stored.heading.conversation_id)
        # Also behind the end of its turn: a node that lives stores how its response ended then,
        # and gives up the conversation no sooner.
        if head.node is not None:
            raise Elsewhere(head.node.id, head.node.url)


async def _history(store: Store, stored: StoredResponse) -> tuple[Message, ...] | None:
    """What was said up to the end of a response; None where its conversation was deleted."""
    assert stored.ends is not None
    try:
        log = await read_log(store, stored.heading.conversation_id, stored.key_id, stored.ends)
    except Missing:
        return None
    return tuple(message.plain for turn in fold(log) for message in turn.messages)


def _record_of(stored: StoredResponse, history: tuple[Message, ...] | None) -> Record:
    ending = stored.ending
    if ending is None:
        error = InternalError("The gateway ended while this response ran.", code="response_lost")
        ending = Ending("failed", stored.heading.created_at, error=error)
    place = stored.place if history is None else tuple(map(digest, history))
    record = Record(
        heading=stored.heading,
        owner=stored.key_id,
        model=stored.model,
        workspace=stored.workspace,
        asked=stored.asked,
        said=stored.said,
        before=None,
        place=place,
        spoken=stored.spoken,
        brought=stored.brought,
        listed=stored.listed,
        background=stored.background,
        keeps_pieces=True,
        items=stored.items,
    )
    return evolve(
        record, ending=ending, history=history, is_settled=stored.is_settled,
        is_warm_up=stored.is_warm_up, is_kept=True,
    )  # fmt: skip
