"""One node among several: its lease, and who else lives.

Knows: when to renew the lease, when it is over, and what has to end then. Refuses to know: how the
store keeps leases (`transport.store`), and how a request reaches another node
(`actors.http.forwarding`).

A node has one lease, which all its conversations stand under. It renews that at every beat, and
counts it from before the beat was sent, on its own clock. Once it is over, another node may have
taken any of its conversations: so it drops all of them, whatever they do, and begins another life
that owns nothing. (What it had already begun is fenced: the store refuses it.)

A node whose lease ends because the store does not answer cannot know by itself whether that is
so for all nodes, when nothing of its own can have been taken, or for itself alone. So it asks the
others when the store has answered them last (`others_heard`).

A gap that no lease closes: a node that is frozen between a look at its clock and a write to a
child. The child's call of the API, or an agent's tool, may then overlap with the next turn on
another node, for as long as the freeze lasts. Its result is refused.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import trio

from ...schemas.convert import parse_json, write_json
from ...schemas.errors import Elsewhere, Overloaded
from ...schemas.node_seal import HEADER, OWNER_HEADER, Passed, seal
from ...schemas.settings.settings import ClusterSettings, Problem, SettingsError
from ...transport.loggers import get_logger
from ...transport.process.workspaces_home import home_of
from ...transport.store.interface import Lapsed, LiveNode, Node, Store, StoreError
from .figures import NodeFigures, read_figures

log = get_logger("ccapi.nodes")

LEAVE_SECONDS = 1.0
"""How long a node that stops tries to say so; behind that its lease runs out."""

EARLIER_LIVES = 2
"""For so many leases a node that starts waits for an earlier life at its URL to end, and a request
for a node that cannot be reached."""

AGAIN_SECONDS = 0.1
"""How long a node waits before it asks the store for another life once more, or the other nodes
whether the store has answered them. What the store answered others so much later than it left this
node without an answer was no answer on its way while the store went."""

BACK_SECONDS = 0.3
"""So much earlier than this node may others have an answer of a store that is back for all: two of
its tries, and what a connection takes."""

LOOK_SECONDS = 0.02
"""The least time between two beats."""

HELD_SECONDS = 1.5
"""How long a connection that another node has passed on stays open once that node drains: by then
a balancer gives it no new ones."""


class Membership:
    """Made by `open_nodes`."""

    def __init__(self, store: Store, settings: ClusterSettings) -> None:
        self.lapsed: Callable[[bool], Awaitable[None]] = _nothing
        """Has the node drop everything, before it waits for anything: its lease is over. True: the
        store does not answer, so that no other node can have taken anything either."""
        self.cut_off: Callable[[], Awaitable[None]] = _nothing_spared
        """Has the node drop what it kept because the store seemed to answer no node."""
        self.others_heard: Callable[[Sequence[LiveNode]], Awaitable[float]] = _no_one_heard
        """How many seconds ago the store has answered one of these nodes: the least of what they
        say; inf where none says anything."""
        self.facts: Callable[[], Mapping[str, object]] = dict
        """What this node tells the others of itself with each beat, as JSON values."""
        self.home = ""
        """The id of the folder in which this node's agents work (`workspaces_home.home_of`)."""
        self.draining = False
        """Whether this node takes no more turns, which it tells the others too."""
        self.passing = 0
        """How many requests are under way that this node has passed on."""
        self._store = store
        self._secret = settings.secret
        self._lease, self._interval = settings.lease_seconds, settings.beat
        self._until = -math.inf
        self._answered = -math.inf  # when the last beat was sent that the store has answered
        self._in_vain = math.inf  # when the first one behind that was, in vain
        self._store_seconds = 0.0
        self._others: dict[str, LiveNode] = {}
        self._changed = trio.Event()
        self._hurry = trio.Event()
        self._notice_seconds = settings.notice_seconds
        self._draining_since: dict[str, float] = {}
        self.lives = 0
        """How often the node began anew."""
        self.since = -math.inf
        """When it last did, on trio's clock."""

    def __repr__(self) -> str:
        state = "holds" if self.holds else "lapsed"
        return f"<Membership {self.node.url} {state}, {len(self._others)} others>"

    @property
    def node(self) -> Node:
        """This life of this node."""
        return self._store.node

    @property
    def holds(self) -> bool:
        """Whether what this node owns is still its own."""
        return trio.current_time() < self._until

    @property
    def heard(self) -> float:
        """How many seconds ago the last beat was sent that the store has answered."""
        return trio.current_time() - self._answered

    @property
    def is_alone(self) -> bool:
        """Whether there can be no other nodes: the store is one gateway's."""
        return self._until == math.inf

    @property
    def others(self) -> tuple[LiveNode, ...]:
        """The other nodes that lived at the last beat."""
        return tuple(self._others.values())

    @property
    def figures(self) -> list[NodeFigures]:
        """How each node stands that lives, in the order of their URLs: this one now, the others
        as they said with their last beat."""
        here = LiveNode(self.node, write_json(self._own_facts()))
        nodes = map(read_figures, [here, *self.others])
        return sorted(nodes, key=lambda each: (each.url, each.id))

    def _own_facts(self) -> dict[str, object]:
        store_ms = round(self._store_seconds * 1000, 3)
        own = {"draining": self.draining, "home": self.home, "store_ms": store_ms}
        return {**self.facts(), **own}

    @property
    def taking(self) -> Node | None:
        """Another node that takes turns, any of them."""
        taking = [each.node for each in self._others.values() if not _drains(each)]
        return random.choice(taking) if taking else None  # noqa: S311 (no secret)

    @property
    def instead(self) -> Elsewhere | None:
        """What says that another node does what this one, which drains, does not."""
        other = self.taking
        return None if other is None else Elsewhere(other.id, other.url)

    def drain(self) -> None:
        """This node takes no more turns, and tells the others at once."""
        self.draining = True
        self._hurry.set()

    def drains(self, node_id: str) -> bool:
        """Whether this other node takes no more turns, as far as that is known."""
        return node_id in self._draining_since

    async def wait_noticed(self) -> None:
        """Wait until others, and who gives them requests, know that this node drains; or until
        there is no other that takes turns."""
        seconds = max(self._notice_seconds, self._interval + HELD_SECONDS)
        if not self._notice_seconds:
            return
        with trio.move_on_after(seconds):
            while self.taking is not None:
                await self.wait_beat()

    async def wait_passed(self) -> None:
        """Wait until nothing is under way that this node has passed on."""
        while self.passing:
            await self.wait_beat()

    @contextmanager
    def passing_on(self) -> Iterator[None]:
        """A request that is passed on is under way while the block runs."""
        self.passing += 1
        try:
            yield
        finally:
            self.passing -= 1

    async def wait_leaving(self, node_id: str) -> None:
        """Wait until this other node is about to stop, or gone."""
        await self.wait_beat()
        while node_id in self._others:
            since = self._draining_since.get(node_id, math.inf)
            if trio.current_time() >= since + HELD_SECONDS:
                return
            with trio.move_on_at(since + HELD_SECONDS):
                await self.wait_beat()

    def find(self, node_id: str) -> Node | None:
        """Another node, if it lives as far as that is known."""
        found = self._others.get(node_id)
        return None if found is None else found.node

    def node_at(self, home: str) -> Node | None:
        """Another node whose agents work there."""
        found = (each.node for each in self._others.values() if _facts(each).get("home") == home)
        return next(found, None)

    def lives_on(self, node_id: str) -> bool:
        """Whether this other node lived at the last beat."""
        return node_id in self._others

    def prove(self, passed: Passed) -> list[tuple[bytes, bytes]]:
        """The headers by which another node knows that this one passes the request on."""
        proof = seal(self._secret, self.node.id, passed, time.time())
        return [
            (b"x-request-id", passed.request_id.encode("latin-1")),
            (HEADER.encode(), proof.encode("latin-1")),
            (OWNER_HEADER.encode(), passed.owner.encode("latin-1")),
        ]

    async def wait_gone(self, node_id: str) -> None:
        """Wait until this other node lives no more, as far as that is known. One that has just
        come is waited for until it was seen once."""
        await self.wait_beat()
        while node_id in self._others:
            await self.wait_beat()

    async def outlasts(self, node_id: str) -> bool:
        """Whether this other node, which could not be reached, is gone as soon as its lease could
        end: then what it had is any node's. Else it lives where this node cannot reach it."""
        with trio.move_on_after(self._lease * EARLIER_LIVES):
            await self.wait_gone(node_id)
            return True
        return False

    async def wait_beat(self) -> None:
        """Wait until it was looked again who lives."""
        await self._changed.wait()

    async def join(self) -> None:
        """Look who lives. Raises `StoreError`."""
        await self._beat()

    async def run(self) -> None:
        """Beat, for as long as the node is there."""
        async with trio.open_nursery() as nursery:
            while True:
                with trio.move_on_after(self._pause()):
                    await self._hurry.wait()
                    self._hurry = trio.Event()
                is_silent = await self._try_to_beat()
                if not self.holds:
                    if is_silent:
                        nursery.start_soon(self._see_whether_cut_off, self.others, self._in_vain)
                    await self._begin_anew(is_silent=is_silent)

    def _pause(self) -> float:
        """How long until the next beat; after one in vain, not long. Where another node has stopped
        beating, the next one is due when its lease ends: then this node knows at once, and takes
        over what clients wait for."""
        if self._in_vain < math.inf:
            return min(self._interval, AGAIN_SECONDS)
        ends = min((each.seconds for each in self._others.values()), default=math.inf)
        return min(self._interval, max(LOOK_SECONDS, ends + LOOK_SECONDS))

    async def _try_to_beat(self) -> bool:
        """Beat, if that can be done before the lease is over; whether the store was silent."""
        # A store that does not answer must not keep the node from seeing its lease end.
        sent = trio.current_time()
        with trio.move_on_at(self._until):
            try:
                await self._beat()
            except Lapsed:
                return False
            except StoreError as error:
                log.warning("no beat", error=str(error))
        if self._answered < sent:
            self._in_vain = min(self._in_vain, sent)
        return True

    async def _beat(self) -> None:
        try:
            facts, before = write_json(self._own_facts()), trio.current_time()
            beat = await self._store.beat(facts)
            self._until = beat.until
            self._answered, self._in_vain = before, math.inf
            self._store_seconds = trio.current_time() - before
        except Lapsed:
            self._until = -math.inf
            raise
        others = (each for each in beat.nodes if each.node.id != self.node.id)
        self._others = {each.node.id: each for each in others}
        now = trio.current_time()
        self._draining_since = {
            each.node.id: self._draining_since.get(each.node.id, now)
            for each in self._others.values()
            if _drains(each)
        }
        changed, self._changed = self._changed, trio.Event()
        changed.set()

    async def _see_whether_cut_off(self, others: Sequence[LiveNode], in_vain: float) -> None:
        """The store was silent, since `in_vain`. Where it has answered another node behind that,
        what was this node's is being taken."""
        answered = -math.inf
        with trio.move_on_after(self._lease / 2):
            while True:
                answered = trio.current_time() - await self.others_heard(others)
                if answered > in_vain + AGAIN_SECONDS:
                    break
                await trio.sleep(AGAIN_SECONDS)
        if answered <= in_vain + AGAIN_SECONDS:
            return
        with trio.move_on_at(answered + BACK_SECONDS):
            # It may be back for all, and have answered another one first.
            while self._answered < in_vain:
                await self.wait_beat()
            return
        log.error("the store answers other nodes, and not this one: its chats end")
        await self.cut_off()

    async def _begin_anew(self, *, is_silent: bool) -> None:
        """The lease is over: drop everything, then begin another life as soon as the store lets."""
        self._until = -math.inf
        self._others, self._draining_since = {}, {}
        changed, self._changed = self._changed, trio.Event()
        changed.set()
        reason = "the store does not answer" if is_silent else "the store has given it up"
        log.error("the lease is over: this node drops its conversations", reason=reason)
        if is_silent:
            # Else requests would wait here that another node can answer by now.
            self._store.give_up()
        await self.lapsed(is_silent)
        while not self.holds:
            # Not longer than a lease: behind that, the life would be over before it was known.
            with trio.move_on_after(self._lease):
                try:
                    await self._store.renew()
                    await self._beat()
                except StoreError as error:
                    log.warning("no other life yet", error=str(error))
                    await trio.sleep(AGAIN_SECONDS)
        self.lives += 1
        self.since = trio.current_time()
        log.info("another life of this node has begun", node_id=self.node.id)


async def _nothing(is_silent: bool) -> None:
    """Nothing is owned yet."""


async def _nothing_spared() -> None:
    """Nothing is owned yet."""


async def _no_one_heard(others: Sequence[LiveNode]) -> float:
    """There is no one to ask yet."""
    return math.inf


def _facts(other: LiveNode) -> Mapping[str, object]:
    facts = parse_json(other.facts)
    return facts if isinstance(facts, dict) else {}


def _drains(other: LiveNode) -> bool:
    return _facts(other).get("draining") is True


@asynccontextmanager
async def open_nodes(
    store: Store | None, settings: ClusterSettings, workspaces: Path
) -> AsyncIterator[Membership | None]:
    """Be one node among others while the block runs, if the store is one that several share;
    afterwards this node owns nothing. `workspaces` is the folder in which agents work. Raises
    `SettingsError`, `Overloaded`."""
    membership = None if store is None else Membership(store, settings)
    try:
        if membership is not None:
            await membership.join()
            await _check_others(membership, settings)
    except StoreError as error:
        raise Overloaded(str(error), code="storage_unavailable") from error
    if store is None or membership is None or membership.is_alone:
        if settings.node_url:
            raise _wrong("needs a database that several gateways can share (storage.url)")
        yield None
        return
    try:
        membership.home = await trio.to_thread.run_sync(home_of, workspaces)
        await membership.join()  # once more, for the others to know that
    except OSError as error:
        raise SettingsError([Problem("workspaces.root", str(error))]) from error
    except StoreError as error:
        raise Overloaded(str(error), code="storage_unavailable") from error
    async with trio.open_nursery() as nursery:
        nursery.start_soon(membership.run)
        try:
            yield membership
        finally:
            nursery.cancel_scope.cancel()
            with trio.move_on_after(LEAVE_SECONDS, shield=True), suppress(StoreError):
                await store.leave()


async def _check_others(membership: Membership, settings: ClusterSettings) -> None:
    """Raises `SettingsError` where this node and another could not work together."""
    with trio.move_on_after(settings.lease_seconds * EARLIER_LIVES):
        while any(each.node.url == settings.node_url for each in membership.others):
            # An earlier life of this gateway that was killed, most likely.
            await trio.sleep(settings.beat)
            await membership.join()
    for each in membership.others:
        if not (each.node.url and settings.node_url):
            raise _wrong("must be set: another gateway uses this database")
        if each.node.url == settings.node_url:
            raise _wrong(f"{settings.node_url} is another gateway's, which lives")


def _wrong(reason: str) -> SettingsError:
    return SettingsError([Problem("cluster.node_url", reason)])
