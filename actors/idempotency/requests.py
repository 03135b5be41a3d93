"""The requests with an idempotency key of one gateway: which run, who waits for them, which answers
are kept.

Knows: one task for each request that runs, its claim in the store, and what is kept of its answer.
Refuses to know: HTTP and its routes (`actors.http.idempotency`), and what a request does.

A key is claimed in the store before anything is done, so that a request is done at most once
whatever ends: its client, this process, the machine. It runs on after its clients have gone, since
one of them may ask again. Its last bytes go out once its answer is kept: what a client has seen
whole it gets again.

Where another node does the request, a client here waits for its answer, and receives it whole once
that node has kept it. If that node is gone, the request is lost; if it gave the key back, since
nothing was done, the request is done here.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager

import trio
from attrs import define

from ...schemas.errors import Conflict, GatewayError, Unprocessable, storage_unavailable
from ...schemas.settings.settings import IdempotencySettings
from ...transport.loggers import get_logger
from ...transport.store.interface import KeptAnswer, KeptRequest, Store, StoreError
from ...transport.store.memory import open_memory_store
from .answer import Answer, Head, Reader

log = get_logger("ccapi.idempotency")

KEEP_SECONDS = 5.0
"""Longest time until an answer is kept, once it is whole."""

WAIT_SECONDS = 600.0
"""Longest wait for another node: it may not have been able to keep what became of the request."""

ELSEWHERE_SECONDS = 0.1
MOST_ELSEWHERE_SECONDS = 0.5
"""How often it is looked whether another node is done with a request: ever more seldom."""

Serve = Callable[["Answer"], Awaitable["Served"]]
"""Does what was asked for, and writes the answer but for its last piece. What it raises cuts the
answer short."""


@define(frozen=True)
class Served:
    """What is left to write, and whether the answer counts (`KeptAnswer`): one that says that
    nothing was done and that the same request may be sent again does not."""

    last: bytes
    counts: bool


@define(eq=False)
class Run:
    """A request with an idempotency key. `is_replayed`: its answer was there already."""

    digest: bytes
    answer: Answer
    scope: trio.CancelScope
    is_replayed: bool = False
    readers: int = 0


class IdempotentRequests:
    """Made by `open_idempotent_requests`."""

    def __init__(
        self, settings: IdempotencySettings, store: Store, nursery: trio.Nursery, limit: int
    ) -> None:
        self._settings = settings
        self._store = store
        self._nursery = nursery
        self._limit = limit
        self._running: dict[tuple[str, str], Run] = {}
        self._unattended = 0

    def __repr__(self) -> str:
        return f"<IdempotentRequests {len(self._running)} running, {self._unattended} unattended>"

    def find(self, owner: str, name: str, digest: bytes) -> Run | None:
        """The request of this idempotency key that runs. Raises `Unprocessable` where it is
        another one."""
        run = self._running.get((owner, name))
        if run is not None and run.digest != digest:
            raise _reused()
        return run

    def start(
        self, owner: str, name: str, digest: bytes, serve: Serve, release: Callable[[], None]
    ) -> Run:
        """Have a request done, unless it was before. Never waits. `release` is called when that is
        over, however it ends."""
        run = Run(digest, Answer(self._settings.max_answer_bytes), trio.CancelScope())
        self._running[owner, name] = run
        self._nursery.start_soon(self._run, owner, name, run, serve, release)
        return run

    @contextmanager
    def attend(self, run: Run, *, owner: bool) -> Iterator[Reader]:
        """Read the answer of `run` while the block runs. A request that no client attends runs on;
        of more than `limit` of them, the last left is lost."""
        if not run.readers and not owner:
            self._unattended -= 1
        run.readers += 1
        try:
            with run.answer.read(owner=owner) as reader:
                yield reader
        finally:
            run.readers -= 1
            if not run.readers and not run.answer.is_over:
                self._unattended += 1
                if self._unattended > self._limit:
                    log.warning("too many unattended requests", limit=self._limit)
                    run.scope.cancel()

    # -- one request -------------------------------------------------------------------------------

    async def _run(
        self, owner: str, name: str, run: Run, serve: Serve, release: Callable[[], None]
    ) -> None:
        served: Served | None = None
        try:
            if await self._claim(owner, name, run):
                with run.scope:
                    served = await _served(run.answer, serve)
                with trio.move_on_after(KEEP_SECONDS, shield=True):
                    await self._settle(owner, name, run, served)
        except GatewayError as error:
            run.answer.refuse(error)
        finally:
            # No checkpoint from here on: a request that comes next finds the answer in the store.
            del self._running[owner, name]
            release()
            if not run.readers:
                self._unattended -= 1
            if served is not None:
                run.answer.end(served.last)
            run.answer.cut()

    async def _claim(self, owner: str, name: str, run: Run) -> bool:
        """Whether the request is to be done. If it is not, its answer is written. Raises
        `GatewayError`."""
        expires_at = time.time() + self._settings.keep_seconds
        pause, until = ELSEWHERE_SECONDS, trio.current_time() + WAIT_SECONDS
        while True:
            try:
                found = await self._store.claim_request(owner, name, run.digest, expires_at)
            except StoreError as error:
                log.warning("idempotency key not claimed", error=str(error))
                raise storage_unavailable(
                    "The idempotency key of this request cannot be kept now"
                ) from error
            if found is None:
                return True
            if found.digest != run.digest:
                raise _reused()
            is_waited_for = run.readers and trio.current_time() < until
            if not (found.state == "running" and found.is_elsewhere and is_waited_for):
                break
            # Another node does it: what it answers is this request's answer too.
            await trio.sleep(pause)
            pause = min(MOST_ELSEWHERE_SECONDS, 1.5 * pause)
        answer = found.answer
        if answer is None:
            raise _without_answer(found)
        run.is_replayed = True
        run.answer.begin(Head(answer.status, dict(answer.headers)))
        run.answer.limit = max(run.answer.limit, len(answer.body))  # it may have been higher then
        run.answer.end(answer.body)
        return False

    async def claim_once(self, owner: str, name: str, digest: bytes, seconds: float) -> bool:
        """Whether something may be done that is done once, which the owner calls `name`: nothing
        of that name was claimed within so many seconds, in this life of the gateway or an earlier
        one. Names with a space are no client's. Raises `Overloaded`, where that is not known."""
        settings, expires_at = self._settings, time.time() + seconds
        try:
            if await self._store.claim_request(owner, name, digest, expires_at) is not None:
                return False
            kept = KeptRequest(digest, "unkept")
            await self._store.settle_request(
                owner, name, kept, expires_at, max_count=settings.max_stored,
                max_bytes=settings.max_bytes,
            )  # fmt: skip
        except StoreError as error:
            log.warning("not claimed", error=str(error))
            raise storage_unavailable("That this is done cannot be kept now") from error
        return True

    async def _settle(self, owner: str, name: str, run: Run, served: Served | None) -> None:
        answer, store, settings = run.answer, self._store, self._settings
        kept = KeptRequest(run.digest, "lost")
        try:
            if served is not None and not served.counts:
                await store.release_request(owner, name)
                return
            if served is not None and answer.head is not None:
                body = answer.whole()
                if body is None or len(body) + len(served.last) > answer.limit:
                    kept = KeptRequest(run.digest, "unkept")
                else:
                    head = answer.head
                    whole = KeptAnswer(head.status, head.headers, body + served.last)
                    kept = KeptRequest(run.digest, "answered", whole)
            await store.settle_request(
                owner,
                name,
                kept,
                time.time() + settings.keep_seconds,
                max_count=settings.max_stored,
                max_bytes=settings.max_bytes,
            )
        except StoreError as error:
            # Another try gets the error that it was lost, and is not done.
            log.warning("answer not kept", error=str(error))


async def _served(answer: Answer, serve: Serve) -> Served | None:
    try:
        return await serve(answer)
    except Exception:
        log.exception("request cut short")
        return None


def _reused() -> Unprocessable:
    return Unprocessable(
        "This idempotency key was sent with another request: another body, path or conversation. "
        "Each request needs a key of its own.",
        code="idempotency_key_reused",
        param="idempotency-key",
    )


def _without_answer(found: KeptRequest) -> GatewayError:
    if found.is_elsewhere and found.state == "running":
        return Conflict("Another gateway does this request.", code="request_in_progress")
    return not_kept() if found.state == "unkept" else lost()


def not_kept() -> GatewayError:
    """There is an answer, which is too long to be kept."""
    return Conflict(
        "This request was answered, and its answer was too long to be kept "
        "(idempotency.max_answer_bytes). It is not done a second time.",
        code="idempotent_answer_not_kept",
        param="idempotency-key",
    ).for_good()


def lost() -> GatewayError:
    """What became of the request is not known."""
    return Conflict(
        "The gateway ended, or gave the request up, while its turn ran: how far it came is not "
        "known. It is not done a second time; send it with another key to have it done.",
        code="turn_lost",
        param="idempotency-key",
    ).for_good()


@asynccontextmanager
async def open_idempotent_requests(
    settings: IdempotencySettings, store: Store | None, limit: int
) -> AsyncIterator[IdempotentRequests]:
    """Do requests with an idempotency key while the block runs; its end cancels those that still
    run. `store` None: their answers are kept in memory. `limit`: how many may run without a
    client."""
    async with AsyncExitStack() as stack:
        if store is None:
            store = await stack.enter_async_context(open_memory_store())
        nursery = await stack.enter_async_context(trio.open_nursery())
        try:
            yield IdempotentRequests(settings, store, nursery, limit)
        finally:
            nursery.cancel_scope.cancel()
