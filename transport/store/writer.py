"""The thread that writes, and the threads that read beside it.

Knows: the queue of changes, which of them share a transaction, how their callers learn of its end,
and what is tried again while the disk fails. Refuses to know: what a change does.

Changes that wait while a transaction runs share the next one, for at most `GROUP_SECONDS`. One that
fails does not undo its neighbours. The thread lives as long as `Writer.run`.
"""

from __future__ import annotations

import math
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

import trio
from attrs import define, field

from ..loggers import get_logger
from .database import Damaged, Database, connect, is_damage, reason_of
from .engine import Engine
from .interface import StoreError, StoreRefused, Unavailable, Unknown
from .sqlite import SqliteEngine

T = TypeVar("T")

log = get_logger("ccapi.store")

GROUP_SECONDS = 0.002
"""How long a transaction takes in changes that have come while it runs."""

MAX_WAITING = 256
"""Changes that wait or run; more wait for their place."""

MAX_WAITING_BYTES = 64 * 1024 * 1024
"""What they hold together; one alone may hold more."""

RECOVERY_SECONDS = 2.0
"""How long after a failure a smaller change has to succeed for the trouble to be over."""

RETRY_SECONDS = 1.0
"""How often it is tried whether what failed works again."""

SLOW_SECONDS = 0.1
"""A try that takes longer before it fails is made only every `RETRY_SECONDS`: the changes that wait
are refused at once meanwhile, and do not add up their waiting."""

IDLE_SECONDS = 0.05
"""How long nothing has come when words are indexed and the write-ahead log is emptied."""

WATCH_SECONDS = 5.0
"""How often it is seen whether the files are still there, while nothing comes."""

INDEXED_WHEN_IDLE = 25
"""Turns made searchable at once in between: a few milliseconds."""

CHECKPOINT_BYTES = 4 * 1024 * 1024
"""What is written before the write-ahead log is emptied, once nothing comes."""

MOST_LOG_BYTES = 32 * 1024 * 1024
"""And even though more comes."""

CHANGE_BYTES = 24 * 1024
"""About what a change writes beside what it brings: pages are written whole."""

READERS = 2


@define(eq=False)
class _Job:
    """One change, and what came of it."""

    change: Callable[[Engine], Any]
    size: int
    done: trio.Event = field(factory=trio.Event)
    value: Any = None
    error: BaseException | None = None


class Writer:
    """Runs changes in one thread and look-ups in a few others (`local.Runner`)."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.trouble: str | None = None
        self._failed_at = -math.inf
        self._failed_size = 0
        self._queue: deque[_Job] = deque()
        self._wake = threading.Condition()
        self._stopping = False
        self._unindexed = True
        self._written = 0
        self._tried = 0.0
        self._is_slow = False
        self._looking: sqlite3.Connection | None = None
        # The rest is the trio thread's.
        self._entry = trio.Lock()
        self._space = trio.Event()
        self._waiting = 0
        self._waiting_bytes = 0
        self._readers: deque[tuple[int, sqlite3.Connection]] = deque()
        self._read_limit = trio.CapacityLimiter(READERS)
        self._token: trio.lowlevel.TrioToken | None = None
        self._nursery: trio.Nursery | None = None
        self._is_looked_through = False

    def __repr__(self) -> str:
        return f"<Writer {self._waiting} waiting, {self.trouble or 'well'}>"

    # -- for tasks ---------------------------------------------------------------------------------

    def write(self, change: Callable[[Engine], T], size: int = 0) -> Coroutine[Any, Any, T]:
        """See `local.Runner`. Where there is room, the thread has the change before this returns,
        and works on it while the caller does other things; what is returned waits for the end."""
        if self._stopping or self._entry.locked() or not self._has_room(size):
            return self._write_later(change, size)
        return self._finish(self._submit(change, size), change)

    async def _write_later(self, change: Callable[[Engine], T], size: int) -> T:
        async with self._entry:  # the first come is the first served
            while not self._has_room(size):
                await self._space.wait()
            if self._stopping:
                raise Unavailable("The store is closed.")
            job = self._submit(change, size)
        return await self._finish(job, change)

    async def _finish(self, job: _Job, _: Callable[[Engine], T]) -> T:
        await job.done.wait()
        if job.error is not None:
            raise job.error
        value: T = job.value
        return value

    def _has_room(self, size: int) -> bool:
        return not self._waiting or (
            self._waiting < MAX_WAITING and self._waiting_bytes + size <= MAX_WAITING_BYTES
        )

    def _submit(self, change: Callable[[Engine], Any], size: int) -> _Job:
        job = _Job(change, size)
        self._waiting += 1
        self._waiting_bytes += size
        with self._wake:
            self._queue.append(job)
            self._wake.notify()
        return job

    def _settle(self, jobs: list[_Job]) -> None:
        for job in jobs:
            self._waiting -= 1
            self._waiting_bytes -= job.size
            job.done.set()
        self._space.set()
        self._space = trio.Event()

    async def read(self, look: Callable[[Engine], T]) -> T:
        try:
            return await trio.to_thread.run_sync(self._read, look, limiter=self._read_limit)
        except Unavailable:
            if self.trouble is not None:
                raise
        await self.write(_touch)  # the file may have been deleted: then the writer makes it again
        return await trio.to_thread.run_sync(self._read, look, limiter=self._read_limit)

    def _read(self, look: Callable[[Engine], T]) -> T:
        """In a thread of its own."""
        database = self._database
        if not database.generation:
            raise Unavailable(self.trouble or "The store is not open.")
        generation, connection = database.generation, None
        try:
            while connection is None and self._readers:
                opened, held = self._readers.pop()
                if opened == generation:
                    connection = held
                else:
                    held.close()
            if connection is None:
                connection = connect(database.path, writes=False)
            connection.execute("begin")
            try:
                result = look(SqliteEngine(connection, database.node_id))
            finally:
                connection.execute("commit")
        except sqlite3.Error as error:
            if connection is not None:
                connection.close()
            if is_damage(error) and generation == database.generation:
                self._damaged(str(error))
            raise Unavailable(reason_of(error, database.path)) from error
        except StoreError:
            assert connection is not None
            self._readers.append((generation, connection))
            raise
        except BaseException:
            if connection is not None:
                connection.close()
            raise
        self._readers.append((generation, connection))
        return result

    # -- the thread --------------------------------------------------------------------------------

    async def open(self) -> None:
        """Open the database. Raises `StoreRefused` where that will never do; any other failure is a
        `trouble`, and is tried again."""
        await trio.to_thread.run_sync(self._open, limiter=self._read_limit)

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Write until `stop`, and close the database."""
        self._token = trio.lowlevel.current_trio_token()
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                self._look_through_once()
                task_status.started()
                await trio.to_thread.run_sync(self._work, limiter=trio.CapacityLimiter(1))
                self._nursery = None
                self._stop_looking()
        finally:
            self._stopping = True
            while self._readers:
                self._readers.pop()[1].close()

    def stop(self) -> None:
        """Have the thread do what waits, close the database and end."""
        with self._wake:
            self._stopping = True
            self._wake.notify()

    def _open(self) -> None:
        try:
            self._database.open()
        except StoreRefused:
            self._database.close()
            raise
        except (OSError, sqlite3.Error) as error:
            self._fail(error)

    def _work(self) -> None:
        try:
            while True:
                jobs = self._next()
                if jobs is None:
                    return
                if jobs:
                    self._perform(jobs)
                else:
                    self._use_idle_time()
        finally:
            self._database.close()

    def _next(self) -> list[_Job] | None:
        """What waits, as far as it goes into one transaction; empty: nothing has come for a while;
        None: there is nothing more to do."""
        with self._wake:
            if not self._queue and not self._stopping:
                self._wake.wait(self._patience())
            if not self._queue:
                return None if self._stopping else []
            return [self._queue.popleft()]

    def _patience(self) -> float:
        if self.trouble is not None:
            return RETRY_SECONDS
        busy = self._unindexed or self._written > CHECKPOINT_BYTES
        return IDLE_SECONDS if busy else WATCH_SECONDS

    def _perform(self, jobs: list[_Job]) -> None:
        """Do `jobs`, and what else comes meanwhile, in one transaction; tell their callers."""
        if self.trouble is not None and not self._may_try():
            self._refuse(jobs, self.trouble)
        else:
            self._try(jobs, partial(self._group, jobs))
        assert self._token is not None
        self._written += sum(job.size for job in jobs) + CHANGE_BYTES * len(jobs)
        self._unindexed = True
        try:
            self._token.run_sync_soon(self._settle, jobs)
        except trio.RunFinishedError:
            return  # no caller waits any more
        if self._written > MOST_LOG_BYTES:
            self._checkpoint()

    def _try(self, jobs: list[_Job], work: Callable[..., None]) -> None:
        """Run one transaction that does `jobs`."""
        began = time.monotonic()
        try:
            self._database.transaction(work)
        except (sqlite3.Error, OSError, StoreRefused) as error:
            if len(jobs) == 1:
                self._fail(error, jobs[0].size)
                self._is_slow = time.monotonic() - began > SLOW_SECONDS
                jobs[0].error = Unavailable(reason_of(error, self._database.path))
                return
            for job in jobs:  # each by itself: what one of them needs may be there for others
                job.value = job.error = None
                self._try([job], partial(self._one, job))
            return
        except _Undone:
            return
        except BaseException as error:
            log.exception("store_stopped")
            self._database.drop()
            for job in jobs:
                job.error = Unknown(f"The writer stopped ({error!r}).")
            return
        try:
            self._database.confirm()
        except (sqlite3.Error, OSError, StoreRefused) as error:
            # Committed to a file that no other process will find.
            self._fail(error)
            self._is_slow = time.monotonic() - began > SLOW_SECONDS
            for job in jobs:
                job.error = Unknown(reason_of(error, self._database.path))
            return
        self._recover(sum(job.size for job in jobs))

    def _one(self, job: _Job, engine: SqliteEngine, _: object) -> None:
        job.value, job.error = None, None
        try:
            job.value = job.change(engine)
        except sqlite3.Error:
            raise
        except Exception as error:  # noqa: BLE001 (its caller's)
            job.error = error
            raise _Undone from None

    def _group(
        self, jobs: list[_Job], engine: SqliteEngine, execute: Callable[[str], object]
    ) -> None:
        """Jobs one after the other, the ones that come meanwhile among them."""
        until = time.monotonic() + GROUP_SECONDS
        number = 0
        while number < len(jobs):
            self._step(jobs[number], engine, execute, is_first=not number)
            number += 1
            if number == len(jobs) and time.monotonic() < until:
                with self._wake:
                    jobs += self._queue
                    self._queue.clear()

    def _step(
        self, job: _Job, engine: SqliteEngine, execute: Callable[[str], object], *, is_first: bool
    ) -> None:
        if not is_first:  # behind nothing, the transaction itself can be begun again
            execute("savepoint job")
        try:
            job.value = job.change(engine)
        except sqlite3.Error:
            raise
        except Exception as error:  # noqa: BLE001 (its caller's)
            job.error = error
            if is_first:
                execute("rollback")
                execute("begin immediate")
            else:
                execute("rollback to job")
        if not is_first:
            execute("release job")

    # -- trouble -----------------------------------------------------------------------------------

    def _may_try(self) -> bool:
        """While tries take long before they fail, one in a while will do."""
        if self._database.is_open and self._database.damage is None and not self._is_slow:
            return True
        now = time.monotonic()
        if now - self._tried < RETRY_SECONDS:
            return False
        self._tried = now
        return True

    def _refuse(self, jobs: list[_Job], reason: str) -> None:
        for job in jobs:
            job.error = Unavailable(reason)

    def _fail(self, error: BaseException, size: int = 0) -> None:
        reason = reason_of(error, self._database.path)
        self._tried = self._failed_at = time.monotonic()
        self._failed_size = max(size, CHANGE_BYTES)
        if is_damage(error) and self._database.damage is None:
            self._database.damage = str(error)
        if self.trouble is None:
            log.warning("store_unavailable", reason=reason)
        self.trouble = reason

    def _recover(self, size: int) -> None:
        """A change of `size` bytes was done. One that is smaller than what failed proves little at
        once: a full disk has room for a few bytes again and again."""
        is_sure = size > self._failed_size or (
            time.monotonic() - self._failed_at > RECOVERY_SECONDS
        )
        if self.trouble is not None and is_sure:
            log.info("store_available_again", after=self.trouble)
            self.trouble = None
            self._is_slow = False
            if self._database.unclean:  # it could not be opened at the start
                assert self._token is not None
                with suppress(trio.RunFinishedError):
                    self._token.run_sync_soon(self._look_through_once)

    def _use_idle_time(self) -> None:
        if self.trouble is not None:
            if self._may_try():
                self._try([_Job(_touch, 0)], lambda engine, _: _touch(engine))
        elif not self._database.is_there:
            self._try([_Job(_touch, 0)], lambda engine, _: _touch(engine))
        elif self._unindexed:
            job = _Job(lambda engine: engine.index_words(INDEXED_WHEN_IDLE), 0)
            self._try([job], partial(self._one, job))
            self._unindexed = job.error is None and bool(job.value)
            self._written += CHANGE_BYTES * 4
        elif self._written > CHECKPOINT_BYTES:
            self._checkpoint()

    def _checkpoint(self) -> None:
        self._database.checkpoint()
        self._database.give_back()
        self._written = 0

    def _look_through_once(self) -> None:
        """Called by the trio thread. After a process that did not close the database."""
        database = self._database
        is_due = database.unclean and database.is_open and not self._is_looked_through
        if is_due and self._nursery is not None:
            self._is_looked_through = True
            self._nursery.start_soon(trio.to_thread.run_sync, self.look_through)

    def _stop_looking(self) -> None:
        looking = self._looking
        if looking is not None:
            with suppress(sqlite3.ProgrammingError):  # closed meanwhile
                looking.interrupt()

    def look_through(self) -> None:
        """See whether the database is whole. In a thread beside the writer's; may take seconds,
        and ends early when the writer stops."""
        try:
            connection = self._looking = connect(self._database.path, writes=False)
            try:
                if self._stopping:
                    return
                found = [row[0] for row in connection.execute("pragma quick_check(5)")]
            finally:
                self._looking = None
                connection.close()
            damage = None if found == ["ok"] else "; ".join(found)
        except sqlite3.Error as error:
            if not is_damage(error):
                return  # the writer will meet it too
            damage = str(error)
        if damage is not None:
            self._damaged(damage)

    def _damaged(self, damage: str) -> None:
        """Called by threads beside the writer's: nothing is written from now on."""
        if self._database.damage is None:
            self._database.damage = damage
            self.trouble = reason_of(Damaged(damage), self._database.path)
            log.error("store_damaged", damage=damage)


class _Undone(Exception):
    """A change has failed by itself: its transaction is not to be done."""


def _touch(engine: Engine) -> None:
    """Write a little."""
    engine.touch()
