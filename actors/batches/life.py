"""The life of one batch, from its input to its results.

Knows: its states, and what follows each of them. Refuses to know: dialects (`road.Words`), and
which batches there are (`engine`).

Every step is kept before the next begins, so that another life of the gateway goes on at the step
that was not done: the input is read anew, requests go on with the first that waits, files are
written anew.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from uuid import uuid4

import trio
from attrs import define, field, frozen

from ...transport.http.bodies import Bodies
from ...transport.loggers import get_logger
from ...transport.store.batch_interface import (
    NEVER,
    BatchLease,
    BatchRequest,
    BatchState,
    RequestState,
    StoredBatch,
    StoredFile,
)
from ...transport.store.interface import Store, Unavailable, Unknown
from .intake import Bounds, Intake
from .results import FileWriter, write_files
from .road import Answered, Asked, Road, Words
from .slots import Slot, Slots

log = get_logger("ccapi.batches")

LEAST_PAUSE = 1.0
MOST_PAUSE = 60.0
"""Seconds until a request is tried again that was refused without a time: at first, and at most."""

LONGEST_PAUSE = 600.0
"""And of any refusal: what it waits for may be over earlier (another login, a higher limit)."""

KEEP_SECONDS = 5.0
"""Longest time in which an answer that is there is kept, although the gateway ends."""

RETRY_SECONDS = 1.0

LOOK_SECONDS = 2.0
"""How often it is looked whether another node was asked to cancel what runs here."""


@frozen
class Means:
    """What all batches share. `clock` gives Unix seconds, `file_id` a new id of a file."""

    store: Store
    slots: Slots
    bodies: Bodies
    road: Callable[[], Road]
    words: Callable[[StoredBatch], Words]
    bounds: Bounds
    file_seconds: float
    clock: Callable[[], float]
    new_file_id: Callable[[], str] = lambda: f"file-{uuid4().hex}"


@define(eq=False)
class BatchLife:
    """One batch while this node has it."""

    means: Means
    lease: BatchLease
    scope: trio.CancelScope = field(factory=trio.CancelScope)
    is_stopped: bool = False
    _running: int = 0
    _pause_until: float = -math.inf
    _pause: float = 0.0
    _is_trying: bool = False
    _ended_one: trio.Event = field(factory=trio.Event)

    def stop(self) -> None:
        """It was cancelled: what runs of it ends."""
        self.is_stopped = True
        self.scope.cancel()

    # -- its states --------------------------------------------------------------------------------

    async def live(self) -> None:
        """Bring the batch to its end. Raises `StoreError`: then it is where it was."""
        store = self.means.store.batches
        batch = await store.get(self.lease.batch_id, self.lease.key_id)
        words = self.means.words(batch)
        for request in await store.lost(self.lease):
            line = words.lost(batch, request.number, request.custom_id)
            await store.settle(self.lease, request.number, "errored", line)
        self.scope.deadline = trio.current_time() + batch.expires_at - self.means.clock()
        with self.scope:
            if batch.state == "validating":
                batch = await self._validate(batch, words)
            if batch.state == "in_progress":
                await self._run(batch, words)
        if batch.state != "failed":
            await self._finish(words)

    async def _validate(self, batch: StoredBatch, words: Words) -> StoredBatch:
        store, means = self.means.store, self.means
        if not batch.input_file:  # its client never had an answer
            batch = await store.batches.change(self.lease, ["validating"], "failed")
            await store.batches.delete(batch.id, batch.key_id)
            return batch
        intake = Intake(batch, self.lease, store.batches, words, means.bounds, means.bodies)
        errors = await intake.take(store.files)
        if not errors:
            return await store.batches.change(self.lease, ["validating"], "in_progress")
        log.info("batch failed", batch=batch.id, errors=len(errors))
        await store.batches.drop_requests(self.lease)
        details = {**batch.details, "errors": [*errors]}
        return await store.batches.change(self.lease, ["validating"], "failed", details=details)

    async def _finish(self, words: Words) -> None:
        """All that runs has ended: say what became of the rest, and where the results are."""
        store, lease = self.means.store, self.lease
        batch = await store.batches.get(lease.batch_id, lease.key_id)
        if batch.state == "in_progress":
            if batch.counts.ended < batch.counts.total:
                await store.batches.close(lease, "expired")
            batch = await store.batches.change(lease, ["in_progress"], "finalizing")
        elif batch.state == "validating":  # it was too late
            await store.batches.close(lease, "expired")
            batch = await store.batches.change(lease, ["validating"], "finalizing")
        if batch.state == "cancelling":
            await store.batches.close(lease, "canceled")
        batch = await store.batches.get(lease.batch_id, lease.key_id)
        end: BatchState = "completed"
        if batch.counts.expired or not batch.counts.total:
            end = "expired"
        if batch.state == "cancelling":
            end = "cancelled"
        output = errors = None
        if batch.dialect == "openai":
            good, bad = (self._file(batch, name) for name in ("output", "error"))
            output, errors = await write_files(store.batches, batch, words, good, bad)
        await store.batches.change(
            lease,
            ["finalizing", "cancelling"],
            end,
            output_file=output,
            error_file=errors,
        )
        if batch.dialect == "openai":
            await store.batches.drop_requests(lease)
        log.info("batch ended", batch=batch.id, state=end, requests=batch.counts.total)

    def _file(self, batch: StoredBatch, name: str) -> FileWriter:
        now, seconds = self.means.clock(), self.means.file_seconds or math.inf
        seconds = min(seconds, batch.details.get("file_seconds") or math.inf)
        file = StoredFile(
            id=self.means.new_file_id(),
            key_id=batch.key_id,
            purpose="batch_output",
            name=f"{batch.id}_{name}.jsonl",
            created_at=now,
            expires_at=min(now + seconds, NEVER),
        )
        return FileWriter(self.means.store.files, file)

    # -- its requests ------------------------------------------------------------------------------

    async def _run(self, batch: StoredBatch, words: Words) -> None:
        """Have its requests answered until none waits and none runs."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._look, batch)
            while True:
                await self._wait_for_limits()
                slot = await self.means.slots.take(batch.key_id)
                if self._has_to_wait():  # one was refused meanwhile
                    slot.close()
                    continue
                request: BatchRequest | None = None
                try:
                    # Claimed and not begun, it would be lost.
                    with trio.CancelScope(shield=True, deadline=trio.current_time() + KEEP_SECONDS):
                        request = await self.means.store.batches.claim(self.lease)
                except (Unavailable, Unknown) as error:
                    log.warning("no request claimed", batch=batch.id, error=str(error))
                    await trio.sleep(RETRY_SECONDS)
                    continue
                finally:
                    if request is None:
                        slot.close()
                if request is not None:
                    self._running += 1
                    nursery.start_soon(self._one, batch, words, request, slot)
                elif self._running:
                    await self._ended_one.wait()  # it may be given back
                else:
                    break
            nursery.cancel_scope.cancel()
        batch = await self.means.store.batches.get(batch.id, batch.key_id)
        if batch.state == "in_progress" and batch.counts.ended < batch.counts.total:
            raise Unknown("A request was claimed, and its claim had no answer.")

    async def _look(self, batch: StoredBatch) -> None:
        """Stop where it was cancelled elsewhere, until cancelled."""
        store = self.means.store
        with store.hints.watch("batches") as hint:
            while True:
                await hint.wait(LOOK_SECONDS)
                with suppress(Unavailable, Unknown):
                    found = await store.batches.get(batch.id, batch.key_id)
                    if found.state == "cancelling":
                        self.stop()

    def _has_to_wait(self) -> bool:
        """Something is used up; or it was, and the first to try again has not ended yet."""
        return self._pause_until > trio.current_time() or (self._is_trying and self._running > 0)

    async def _wait_for_limits(self) -> None:
        while self._has_to_wait():
            wait = self._pause_until - trio.current_time()
            if wait > 0:
                await trio.sleep(wait)
            else:
                await self._ended_one.wait()

    async def _one(
        self, batch: StoredBatch, words: Words, request: BatchRequest, slot: Slot
    ) -> None:
        try:
            asked = Asked(
                batch.key_id,
                batch.endpoint,
                request.body,
                f"{batch.id}-{request.number}",
                batch.details.get("headers") or {},
            )
            answered = await self.means.road()(asked)
            slot.free()
            # What a model has said is not to be lost because the gateway ends.
            with trio.CancelScope(shield=True, deadline=trio.current_time() + KEEP_SECONDS):
                await self._settle(batch, words, request, answered)
        finally:
            slot.close()
            self._running -= 1
            self._ended_one.set()
            self._ended_one = trio.Event()

    async def _settle(
        self, batch: StoredBatch, words: Words, request: BatchRequest, answered: Answered
    ) -> None:
        state: RequestState = "waiting"
        line = b""
        if answered.may_wait:
            self._hold(answered)
        else:
            self._pause, self._is_trying = 0.0, False
            state, line = words.answered(batch, request.number, request.custom_id, answered)
        while True:
            # Settled twice, the first counts.
            with suppress(Unavailable, Unknown):
                await self.means.store.batches.settle(self.lease, request.number, state, line)
                return
            await trio.sleep(RETRY_SECONDS)

    def _hold(self, answered: Answered) -> None:
        """Begin no other request before what is used up may be there again."""
        failure = answered.failure
        assert failure is not None
        wait = failure.retry_after
        self._is_trying = True
        if wait is None:
            self._pause = min(MOST_PAUSE, max(LEAST_PAUSE, self._pause * 2))
            wait = self._pause
        wait = min(max(wait, LEAST_PAUSE), LONGEST_PAUSE)
        until = trio.current_time() + wait
        if until > self._pause_until:
            self._pause_until = until
            log.info("batch waits", batch=self.lease.batch_id, seconds=wait, code=failure.code)
