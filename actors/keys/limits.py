"""What each key has used, and whether it may begin another turn.

Knows: the windows of `schemas.keys`, turns under way, and the bucket from which a key's turns per
minute are taken. Refuses to know: requests and answers, and how usage is kept (`transport.store`).

A turn is counted when it ends, and a call of the model within it when the next one begins, so that
a key passes a limit by no more than its running turns. What a turn costs is written in the
transaction of its end; what has no such transaction (a conversation that is not stored, what a
child reports late) waits here for the writer, `FLUSH_SECONDS` at most.

**Several nodes.** Then a limit is the cluster's: the store admits a turn (`Store.admit`), in one
step with its look at what runs and what was counted, and it learns when the turn is over, once
what the turn used is written. So the promise is the same as on one node: never more turns at once
than a key may have, nor in a minute, whichever nodes are asked; and a budget is passed by no more
than the turns that run. Nothing is reserved for a turn, since no one knows what it will take: what
counts is what was settled. With ``concurrent_turns = 1`` a key passes its budget by its last turn
alone. Here is what the store said last, for the headers of a response, and for an early refusal.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress

import trio
from attrs import define, field

from ...schemas.errors import LimitReached, Overloaded, storage_unavailable
from ...schemas.keys import HOUR, WINDOWS, KeyLimits, Window, bounds_of, free_at, hour_of
from ...schemas.turn import Usage
from ...transport.loggers import get_logger
from ...transport.store.interface import (
    Allowance,
    Spent,
    Standing,
    Store,
    StoreError,
    WindowAllowance,
)
from ...transport.store.memory import open_memory_store
from .registry import KeyRegistry

log = get_logger("ccapi.keys")

FLUSH_SECONDS = 0.5
CLOSE_SECONDS = 2.0
"""How long the end of the gateway may wait for what is still to be counted. Before, the store says
itself when it has taken too long."""

MINUTE = 60.0

FRESH_SECONDS = 1.0
"""How long what the store has said of a key may be shown, where there are several nodes."""

JUST_ENDED_SECONDS = 0.05
"""After which a turn that is one too many is tried once more: another node may not have said yet
that the turn before it is over, which the client has seen."""

AGAIN_SECONDS = 0.2
"""After which the store receives once more that turns are over."""

DOUBTFUL_SECONDS = 6.0
"""After which a turn is discharged once more that the store may have admitted though this node has
no answer: longer than a store works on anything."""


@define(eq=False)
class _Account:
    """What one key has used: tokens and dollars by the hour, as far back as a window reaches.
    `windows` are those in which it may not use any amount, with the most tokens and dollars of
    each."""

    limits: KeyLimits
    windows: tuple[tuple[Window, int, float], ...] = field(init=False)
    tokens: dict[str, int] = field(factory=dict)
    usd: dict[str, float] = field(factory=dict)
    running: int = 0
    bucket: float = 0.0
    filled_at: float = 0.0
    is_loaded: bool = False
    _sums: dict[Window, tuple[int, float]] = field(factory=dict)
    _summed: str = ""

    def __attrs_post_init__(self) -> None:
        # Once, and not for each turn: most keys have none.
        all_windows = [(each, self.limits.tokens(each), self.limits.usd(each)) for each in WINDOWS]
        self.windows = tuple(each for each in all_windows if each[1] or each[2])

    def add(self, hour: str, usage: Usage) -> None:
        self.tokens[hour] = self.tokens.get(hour, 0) + usage.total_tokens
        self.usd[hour] = self.usd.get(hour, 0.0) + usage.cost_usd
        if hour != self._summed:
            self._summed = ""
            return
        # The running hour is in every window: to sum a month of hours anew takes a third of a
        # millisecond, for each call of the model.
        for window, (tokens, usd) in self._sums.items():
            self._sums[window] = tokens + usage.total_tokens, usd + usage.cost_usd

    def used(self, window: Window, now: float) -> tuple[int, float]:
        """Tokens and dollars in the window."""
        hour = hour_of(now)
        if self._summed != hour:
            self._sum(now)
            self._summed = hour
        return self._sums[window]

    def _sum(self, now: float) -> None:
        firsts = {window: bounds_of(window, now)[0] for window in WINDOWS}
        oldest = min(firsts.values())
        for hour in [hour for hour in self.tokens if hour < oldest]:
            del self.tokens[hour], self.usd[hour]
        for window, first in firsts.items():
            self._sums[window] = (
                sum(n for hour, n in self.tokens.items() if hour >= first),
                math.fsum(n for hour, n in self.usd.items() if hour >= first),
            )

    def resets_at(self, window: Window, now: float) -> float:
        """When the window holds less than now (Unix seconds)."""
        if window != "5h":
            return bounds_of(window, now)[1]
        hours = (hour_of(now - HOUR * ago) for ago in range(4, -1, -1))
        oldest = next((hour for hour in hours if hour in self.tokens), None)
        return bounds_of(window, now)[1] if oldest is None else free_at(oldest)

    def fill(self, now: float) -> None:
        """Turns per minute: a bucket that is full at first, and fills in a minute."""
        most = self.limits.turns_per_minute or 0
        gained = max(0.0, now - self.filled_at) * most / MINUTE
        self.bucket, self.filled_at = min(most, self.bucket + gained), now


@define(eq=False)
class _SharedAccount(_Account):
    """What one key has used on all nodes, as the store said at `told_at`, and what this node knows
    of since."""

    told_at: float = -math.inf
    _oldest: dict[Window, str] = field(factory=dict)

    @property
    def is_limited(self) -> bool:
        limits = self.limits
        return bool(self.windows or limits.concurrent_turns or limits.turns_per_minute)

    @property
    def counts_turns(self) -> bool:
        """Whether the store has to know when a turn is over."""
        return bool(self.windows or self.limits.concurrent_turns)

    def allowance(self, now: float) -> Allowance:
        windows = tuple(
            WindowAllowance(window, bounds_of(window, now)[0], tokens, usd)
            for window, tokens, usd in self.windows
        )
        limits = self.limits
        return Allowance(limits.concurrent_turns or 0, limits.turns_per_minute or 0, windows)

    def take(self, standing: Standing, now: float) -> None:
        """The store has said how the key stands."""
        self.running, self.bucket, self.filled_at = standing.running, standing.left, now
        for (window, _, _), used in zip(self.windows, standing.used, strict=True):
            self._sums[window] = used.tokens, used.usd
            self._oldest[window] = used.first_hour
        self.is_loaded, self.told_at = True, now

    def is_fresh(self, now: float) -> bool:
        return now - self.told_at < FRESH_SECONDS and hour_of(now) == hour_of(self.told_at)

    def add(self, hour: str, usage: Usage) -> None:
        for window, (tokens, usd) in self._sums.items():
            self._sums[window] = tokens + usage.total_tokens, usd + usage.cost_usd
            self._oldest[window] = self._oldest[window] or hour

    def used(self, window: Window, now: float) -> tuple[int, float]:
        return self._sums.get(window, (0, 0.0))

    def resets_at(self, window: Window, now: float) -> float:
        oldest = self._oldest.get(window)
        return free_at(oldest) if window == "5h" and oldest else bounds_of(window, now)[1]


class KeyLimiter:
    """Made by `open_limits`. `clock` gives Unix seconds. `is_shared`: other nodes have the same
    keys."""

    def __init__(
        self,
        keys: KeyRegistry,
        store: Store,
        clock: Callable[[], float] = time.time,
        *,
        is_shared: bool = False,
    ) -> None:
        self._is_shared = is_shared
        self._over: list[tuple[str, str]] = []
        self._doubtful: deque[tuple[float, tuple[str, str]]] = deque()
        self._some_over = trio.Event()
        self._keys = keys
        self._store = store
        self._clock = clock
        self._accounts: dict[str, _Account] = {}
        self._loading = trio.Lock()
        self._waiting: dict[tuple[str, str, str], tuple[int, Usage]] = {}
        self._more = trio.Event()
        self._writing: set[trio.CancelScope] = set()
        self._closes_at = math.inf

    def __repr__(self) -> str:
        return f"<KeyLimiter {len(self._accounts)} keys, {len(self._waiting)} counts to write>"

    @property
    def store(self) -> Store:
        """Where usage is counted."""
        return self._store

    # -- what may begin ----------------------------------------------------------------------------

    async def load(self, owner: str) -> None:
        """Have what the key has used before this gateway began, if a limit asks for it. No
        checkpoint once that is so. Raises `Overloaded`."""
        account = self._account(owner)
        if isinstance(account, _SharedAccount):
            await self._look(owner, account)
            return
        if account.is_loaded or not account.windows:
            return
        async with self._loading:
            if not account.is_loaded:
                first = min(bounds_of(window, self._clock())[0] for window in WINDOWS)
                try:
                    found = await self._store.spent(owner, first)
                except StoreError as error:
                    raise _unread(error) from error
                for spent in found:
                    account.add(spent.hour, spent.usage)
                account.is_loaded = True

    def check(self, owner: str) -> None:
        """See that the key may begin a turn now. Raises `LimitReached`."""
        self._check(self._account(owner))

    def _check(self, account: _Account) -> None:
        limits, now = account.limits, self._clock()
        most = limits.concurrent_turns or 0
        if most and account.running >= most:
            raise LimitReached(
                f"This API key may have {most} turns at once (concurrent_turns).",
                limit="concurrent_turns",
                now=now,
                resets_at=now + 1.0,  # not known: a turn of the key has to end
            )
        if limits.turns_per_minute:
            account.fill(now)
            if account.bucket < 1:
                wait = (1 - account.bucket) * MINUTE / limits.turns_per_minute
                raise LimitReached(
                    f"This API key may begin {limits.turns_per_minute} turns in a minute "
                    f"(turns_per_minute); the next in {wait:.1f} s.",
                    limit="turns_per_minute",
                    now=now,
                    resets_at=now + wait,
                )
        if account.windows:
            self._check_usage(account, now)

    def _check_usage(self, account: _Account, now: float) -> None:
        for window, tokens, usd in account.windows:
            used_tokens, used_usd = account.used(window, now)
            if not ((tokens and used_tokens >= tokens) or (usd and used_usd >= usd)):
                continue
            for name, most, used in (
                (f"tokens_per_{window}", tokens, used_tokens),
                (f"usd_per_{window}", usd, used_usd),
            ):
                if most and used >= most:
                    resets_at = account.resets_at(window, now)
                    when = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(resets_at))
                    raise LimitReached(
                        f"This API key has used {used:g} of {most:g} ({name}); resets at {when}.",
                        limit=name,
                        now=now,
                        resets_at=resets_at,
                    )

    async def begin(self, owner: str, turn_id: str | None) -> None:
        """A turn begins, which runs until `end`; None: it is over at once, since the cache has its
        answer. No checkpoint on a node that is alone, once what the key has used is loaded. Raises
        `LimitReached`, `Overloaded`."""
        account = self._account(owner)
        if isinstance(account, _SharedAccount):
            if account.is_limited:
                await self._admit(owner, account, turn_id)
        else:
            if account.windows and not account.is_loaded:
                await self.load(owner)
            self._check(account)
            if account.limits.turns_per_minute:
                account.bucket -= 1
            account.running += turn_id is not None

    def end(self, owner: str, turn_id: str) -> None:
        """A turn that has begun is over."""
        account = self._account(owner)
        account.running -= 1
        if isinstance(account, _SharedAccount) and account.counts_turns:
            self._tell_over(owner, turn_id)

    def has_spare(self, owner: str) -> bool:
        """Whether a turn may begin that no client waits for: it leaves others of the key's half of
        what the key may have at once, and in a minute."""
        account = self._account(owner)
        if isinstance(account, _SharedAccount) and not account.is_fresh(self._clock()):
            return True  # as far as is known; the store knows
        limits = account.limits
        most = limits.concurrent_turns or 0
        if most and account.running >= max(1, most // 2):
            return False
        if limits.turns_per_minute:
            account.fill(self._clock())
            return account.bucket >= max(1, limits.turns_per_minute / 2)
        return True

    def _account(self, owner: str) -> _Account:
        account = self._accounts.get(owner)
        if account is None:
            limits = self._keys.limits_of(owner)
            bucket = float(limits.turns_per_minute or 0)
            make = _SharedAccount if self._is_shared else _Account
            account = make(limits, bucket=bucket, filled_at=self._clock())
            self._accounts[owner] = account
        return account

    # -- what the store has to say, with several nodes ---------------------------------------------

    async def _look(self, owner: str, account: _SharedAccount) -> None:
        """Have the store's numbers: those of now where there may be no room for another turn."""
        now = self._clock()
        if not account.is_limited or (account.is_fresh(now) and self._has_room(owner)):
            return
        try:
            standing = await self._store.standing(owner, account.allowance(now))
        except StoreError as error:
            raise _unread(error) from error
        account.take(standing, self._clock())

    def _has_room(self, owner: str) -> bool:
        try:
            self.check(owner)
        except LimitReached:
            return False
        return True

    async def _admit(self, owner: str, account: _SharedAccount, turn_id: str | None) -> None:
        told = turn_id if account.counts_turns else None
        standing = await self._ask(owner, account, told)
        if standing.exceeded == "concurrent_turns":
            await trio.sleep(JUST_ENDED_SECONDS)
            standing = await self._ask(owner, account, told)
        account.take(standing, self._clock())
        if standing.exceeded is not None:
            self.check(owner)
            raise AssertionError(f"{standing} leaves no room")
        account.bucket -= 1
        account.running += turn_id is not None

    async def _ask(self, owner: str, account: _SharedAccount, turn_id: str | None) -> Standing:
        is_known = False
        try:
            standing = await self._store.admit(owner, account.allowance(self._clock()), turn_id)
            is_known = True
        except StoreError as error:
            raise _unread(error) from error
        finally:
            if not is_known and turn_id is not None:
                due = trio.current_time() + DOUBTFUL_SECONDS
                self._doubtful.append((due, (owner, turn_id)))
                self._tell_over(owner, turn_id)
        return standing

    def _tell_over(self, owner: str, turn_id: str) -> None:
        self._over.append((owner, turn_id))
        self._some_over.set()

    async def discharge(self) -> None:
        """Tell the store which turns are over, after what they used. Raises `StoreError`: then it
        learns it later."""
        over, self._over = self._over, []
        while self._doubtful and self._doubtful[0][0] <= trio.current_time():
            over.append(self._doubtful.popleft()[1])
        try:
            await self.flush()
            if over:
                await self._store.discharge(over)
        except BaseException:  # cancelled too: one that is never told keeps its place for ever
            self._over = [*over, *self._over]
            raise

    async def run_discharges(self) -> None:
        """Tell the store at once, again and again."""
        while True:
            with trio.move_on_at(self._doubtful[0][0] if self._doubtful else math.inf):
                await self._some_over.wait()
            self._some_over = trio.Event()
            try:
                with self._until_close():
                    await self.discharge()
            except StoreError as error:
                log.warning("turns are not discharged yet", error=str(error))
                self._some_over.set()
                await trio.sleep(AGAIN_SECONDS)

    # -- what was used -----------------------------------------------------------------------------

    def note(self, owner: str, usage: Usage) -> None:
        """The key has used this, which is written elsewhere."""
        account = self._account(owner)
        if account.windows:
            account.add(hour_of(self._clock()), usage)

    def spend(self, owner: str, model: str, usage: Usage, turns: int = 0) -> None:
        """The key has used this; it is written soon."""
        self.note(owner, usage)
        self.write(owner, model, usage, turns)

    def write(self, owner: str, model: str, usage: Usage, turns: int = 0) -> None:
        """Have this written soon; it was noted before."""
        key = owner, hour_of(self._clock()), model
        before = self._waiting.get(key)
        if before is not None:
            turns, usage = before[0] + turns, before[1] + usage
        self._waiting[key] = turns, usage
        self._more.set()

    async def flush(self) -> None:
        """Write what waits. Raises `StoreError`: then it waits on."""
        waiting, self._waiting = self._waiting, {}
        if not waiting:
            return
        spent = [Spent(*key, turns, usage) for key, (turns, usage) in waiting.items()]
        try:
            await self._store.count(spent)
        except StoreError:
            for (owner, hour, model), (turns, usage) in waiting.items():
                now = self._waiting.get((owner, hour, model), (0, Usage()))
                self._waiting[owner, hour, model] = now[0] + turns, now[1] + usage
            raise

    async def run(self) -> None:
        """Write what was used, again and again."""
        while True:
            await self._more.wait()
            await trio.sleep(FLUSH_SECONDS)
            self._more = trio.Event()
            try:
                with self._until_close():
                    await self.flush()
            except StoreError as error:
                log.warning("usage is not written yet", error=str(error))
                self._more.set()

    @contextmanager
    def _until_close(self) -> Iterator[None]:
        """While the block runs, only `hurry` ends it: cancelled in the middle, it would not be
        known whether something was counted."""
        with trio.CancelScope(shield=True, deadline=self._closes_at) as scope:
            self._writing.add(scope)
            try:
                yield
            finally:
                self._writing.discard(scope)

    def hurry(self) -> None:
        """The gateway ends: what is being written has `CLOSE_SECONDS`."""
        self._closes_at = trio.current_time() + CLOSE_SECONDS
        for scope in self._writing:
            scope.deadline = self._closes_at

    # -- what the client receives ------------------------------------------------------------------

    async def load_headers(self, owner: str) -> None:
        """Have what `headers` says, of all nodes: `FRESH_SECONDS` old at most. As it was, where the
        store does not answer."""
        account = self._account(owner)
        if isinstance(account, _SharedAccount) and not account.is_fresh(self._clock()):
            with suppress(Overloaded):
                await self._look(owner, account)

    def headers(self, owner: str) -> dict[str, str]:
        """``x-ratelimit-*`` as OpenAI has them, for a key with such limits. Of several windows
        of tokens, the one with the least left."""
        account = self._account(owner)
        limits, now, headers = account.limits, self._clock(), dict[str, str]()
        if limits.turns_per_minute:
            account.fill(now)
            most = limits.turns_per_minute
            full = (most - account.bucket) * MINUTE / most
            headers |= _headers("requests", most, int(account.bucket), full)
        tightest: tuple[int, int, Window] | None = None
        for window, most, _ in account.windows:
            if most and account.is_loaded:
                left = max(0, most - account.used(window, now)[0])
                if tightest is None or left < tightest[1]:
                    tightest = most, left, window
        if tightest is not None:
            most, left, window = tightest
            headers |= _headers("tokens", most, left, account.resets_at(window, now) - now)
        return headers


def _unread(error: StoreError) -> Overloaded:
    log.warning("usage is not read", error=str(error))
    return storage_unavailable("What this API key has used cannot be read now")


def _headers(what: str, most: int, left: int, seconds: float) -> dict[str, str]:
    return {
        f"x-ratelimit-limit-{what}": str(most),
        f"x-ratelimit-remaining-{what}": str(left),
        f"x-ratelimit-reset-{what}": duration_of(seconds),
    }


def duration_of(seconds: float) -> str:
    """As OpenAI writes it: ``0s``, ``17ms``, ``1.5s``, ``6m0s``, ``1h2m3s``."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms" if seconds > 0 else "0s"
    if seconds < MINUTE:
        return f"{math.ceil(seconds * 1000) / 1000:g}s"
    minutes, rest = divmod(math.ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{f'{hours}h' if hours else ''}{minutes}m{rest}s"


@asynccontextmanager
async def open_limits(
    keys: KeyRegistry,
    store: Store,
    clock: Callable[[], float] = time.time,
    *,
    is_shared: bool = False,
) -> AsyncIterator[KeyLimiter]:
    """Count what keys use while the block runs; all is written at its end, if the store takes
    it. `is_shared`: other nodes have the same keys."""
    limits = KeyLimiter(keys, store, clock, is_shared=is_shared)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(limits.run)
        nursery.start_soon(limits.run_discharges)
        try:
            yield limits
        finally:
            nursery.cancel_scope.cancel()
            limits.hurry()
            with trio.move_on_after(CLOSE_SECONDS, shield=True):
                try:
                    await limits.discharge()
                except StoreError as error:
                    log.warning("usage was not written", error=str(error))


@asynccontextmanager
async def open_usage_store(store: Store | None) -> AsyncIterator[Store]:
    """Where usage is counted: `store`, or one in memory where nothing is kept."""
    if store is not None:
        yield store
        return
    async with open_memory_store() as memory:
        yield memory
