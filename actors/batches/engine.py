"""The actor that has all batches of this node.

Knows: which batches run here, whose nodes are gone, what is not kept any more. Refuses to know: the
life of one batch (`life`).
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import trio
from attrs import frozen

from ...schemas.errors import draining
from ...schemas.settings.settings import BatchSettings
from ...transport.http.bodies import Bodies
from ...transport.loggers import get_logger
from ...transport.store.batch_interface import BatchLease, StoredBatch
from ...transport.store.interface import Fenced, Missing, Owned, Store, StoreError
from ..runtime.mailbox import ActorGone, Mailbox, Ref, open_mailbox
from .intake import Bounds
from .life import BatchLife, Means
from .road import Road, Words
from .slots import Slots

log = get_logger("ccapi.batches")

ADOPT_SECONDS = 5.0
"""How often it is looked for batches whose node is gone."""

PRUNE_SECONDS = 300.0

AGAIN_SECONDS = 5.0
"""How long a batch rests whose step the store did not take."""


@frozen
class Opened:
    """A batch was made here."""

    lease: BatchLease


@frozen
class Stopped:
    """A batch was cancelled: it is so in the store."""

    batch_id: str


BatchMessage = Opened | Stopped


class BatchEngine:
    """Made by `open_batches`. Nothing runs before there is a `road`."""

    def __init__(self, ref: Ref[BatchMessage], store: Store, slots: Slots) -> None:
        self.store = store
        self._slots = slots
        self.draining = False
        self.running: dict[str, BatchLife] = {}
        self._ref = ref
        self._road: Road | None = None
        self.has_road = trio.Event()

    def __repr__(self) -> str:
        return f"<BatchEngine {len(self.running)} batches>"

    @property
    def road(self) -> Road:
        assert self._road is not None, "no front has lent its routes"
        return self._road

    @road.setter
    def road(self, road: Road) -> None:
        self._road = road
        self.has_road.set()

    def drain(self) -> None:
        """Begin no request any more; those that run may finish. For good."""
        self.draining = True

    async def wait_drained(self) -> None:
        """Wait until what runs has ended and is put down, after `drain`."""
        await self._slots.wait_quiet()

    async def open(self, lease: BatchLease) -> None:
        """Have a batch run that was made here. Raises `Overloaded`."""
        await self._tell(Opened(lease))

    async def stop(self, batch_id: str) -> None:
        """A batch was cancelled. Raises `Overloaded`."""
        await self._tell(Stopped(batch_id))

    async def _tell(self, message: BatchMessage) -> None:
        try:
            await self._ref.tell(message)
        except ActorGone:
            raise draining(retry_after=None) from None


class _Keeper:
    """The actor."""

    def __init__(self, engine: BatchEngine, means: Means) -> None:
        self._engine = engine
        self._means = means
        self._store = means.store

    async def run(self, mailbox: Mailbox[BatchMessage]) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._means.slots.run)
            nursery.start_soon(self._adopt, nursery)
            nursery.start_soon(self._prune)
            with mailbox:
                async for message in mailbox:
                    match message:
                        case Opened(lease):
                            self._begin(lease, nursery)
                        case Stopped(batch_id):
                            life = self._engine.running.get(batch_id)
                            if life is not None:
                                life.stop()

    def _begin(self, lease: BatchLease, nursery: trio.Nursery) -> None:
        if lease.batch_id not in self._engine.running:
            self._engine.running[lease.batch_id] = BatchLife(self._means, lease)
            nursery.start_soon(self._live, lease)

    async def _live(self, lease: BatchLease) -> None:
        running = self._engine.running
        try:
            await self._engine.has_road.wait()
            while not await self._step(lease):
                await trio.sleep(AGAIN_SECONDS)
                lease = await self._again(lease)
                is_stopped = running[lease.batch_id].is_stopped
                running[lease.batch_id] = BatchLife(self._means, lease)
                if is_stopped:
                    running[lease.batch_id].stop()
        except (Missing, Owned):
            log.info("batch is another node's, or gone", batch=lease.batch_id)
        finally:
            del running[lease.batch_id]

    async def _step(self, lease: BatchLease) -> bool:
        """Whether there is no more to do for the batch in this life of the gateway."""
        is_over = True
        try:
            await self._engine.running[lease.batch_id].live()
        except* Missing:
            log.info("batch is gone", batch=lease.batch_id)
        except* Fenced:
            is_over = False  # another node has it, or this one in another life
        except* StoreError as errors:
            log.warning("batch waits for the store", batch=lease.batch_id, error=repr(errors))
            is_over = False
        except* Exception:
            log.exception("batch crashed, and is left to the next start", batch=lease.batch_id)
        return is_over

    async def _again(self, lease: BatchLease) -> BatchLease:
        """Another lease: what ran under the old one, and is not settled, is lost. Raises `Missing`,
        `Owned`."""
        while True:
            try:
                return await self._store.batches.acquire(lease.batch_id, lease.key_id)
            except (Missing, Owned):
                raise
            except StoreError:
                await trio.sleep(AGAIN_SECONDS)

    async def _adopt(self, nursery: trio.Nursery) -> None:
        while True:
            try:
                for batch_id, key_id in await self._store.batches.orphans():
                    if batch_id not in self._engine.running:
                        lease = await self._store.batches.acquire(batch_id, key_id)
                        self._begin(lease, nursery)
            except StoreError as error:
                log.debug("no look for batches", error=str(error))
            await trio.sleep(ADOPT_SECONDS)

    async def _prune(self) -> None:
        while True:
            try:
                await self._store.files.prune()
                await self._store.batches.prune()
            except StoreError as error:
                log.debug("nothing pruned", error=str(error))
            await trio.sleep(PRUNE_SECONDS)


@asynccontextmanager
async def open_batches(
    settings: BatchSettings,
    store: Store,
    bodies: Bodies,
    words: Callable[[StoredBatch], Words],
    may_begin: Callable[[str], bool],
    *,
    max_concurrent: int,
    max_line_bytes: int,
    file_seconds: float,
    clock: Callable[[], float] = time.time,
) -> AsyncIterator[BatchEngine]:
    """Run batches while the block runs. Its end cancels what runs of them; the next life goes on.
    `may_begin`: whether there is room for a turn of this key."""
    ref: Ref[BatchMessage]
    ref, mailbox = open_mailbox("batches")
    slots = Slots(max_concurrent, lambda owner: not engine.draining and may_begin(owner))
    engine = BatchEngine(ref, store, slots)
    means = Means(
        store=store,
        slots=slots,
        bodies=bodies,
        road=lambda: engine.road,
        words=words,
        bounds=Bounds(settings.max_requests, max_line_bytes),
        file_seconds=file_seconds,
        clock=clock,
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_Keeper(engine, means).run, mailbox)
        try:
            yield engine
        finally:
            nursery.cancel_scope.cancel()
