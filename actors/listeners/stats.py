"""The stats actor: counts the events of the bus, for people (`/stats`) and for Prometheus.

Knows: what an event is counted as. Refuses to know: who publishes it, and how the numbers are
served. It receives events of turns and children, never of single tokens, and has no label whose
values callers choose: no conversation, no model.

The numbers live in prometheus-client metrics in a registry of their own, and the snapshot reads
them there, so that the two faces cannot disagree. Percentiles alone are not Prometheus's: they
are exact, over the last `RECENT` values.
"""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, assert_never

import trio
from prometheus_client import generate_latest

from ...schemas import events
from ...transport.loggers import get_logger
from ..keys.registry import LOCAL
from ..nodes.figures import NodeFigures
from ..pool.logins import LoginBook
from ..runtime.bus import Bus, Subscription
from .metrics import Metrics, bounded

TURN_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
DELTA_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
WAIT_BUCKETS = (0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)

SEES_ALL = ("", LOCAL)
"""Owners whose own turns are not counted by themselves: they see those of all."""

AT_ONCE_SECONDS = 0.05
"""Events that come within this are counted together."""

log = get_logger("ccapi.stats")


class _Turns:
    """What turns did, took and cost."""

    def __init__(self, make: Metrics) -> None:
        self._started = make.count("turns_started", "Turns accepted.")
        self._finished = make.count("turns_finished", "Turns that ended with a whole answer.")
        self._failed = make.counts("turns_failed", "Turns that ended without, by error.", "code")
        self._running = make.gauge("turns_running", "Turns under way.")
        self._seconds = make.durations(
            "turn", "From a turn's acceptance to its whole answer.", TURN_BUCKETS
        )
        self._first_delta = make.durations(
            "first_delta", "From a turn's acceptance to its first text.", DELTA_BUCKETS
        )
        self._tokens = make.counts(
            "tokens",
            "Tokens of finished turns. cached and cache_write are parts of prompt.",
            "kind", "prompt", "completion", "cached", "cache_write",
        )  # fmt: skip
        self._cost = make.count("cost_usd", "US dollars for finished turns, by the CLI's figure.")
        self._under_way: set[str] = set()

    def start(self, event: events.TurnAccepted) -> None:
        self._started.add()
        self._under_way.add(event.turn_id)
        self._running.set(len(self._under_way))

    def finish(self, event: events.TurnFinished) -> None:
        self._end(event.turn_id)
        self._finished.add()
        self._seconds.add(event.seconds)
        if event.first_delta_seconds is not None:
            self._first_delta.add(event.first_delta_seconds)
        self._tokens.add("prompt", event.usage.prompt_tokens)
        self._tokens.add("completion", event.usage.completion_tokens)
        self._tokens.add("cached", event.usage.cached_tokens)
        self._tokens.add("cache_write", event.usage.cache_write_tokens)
        self._cost.add(event.usage.cost_usd)

    def fail(self, event: events.TurnFailed) -> None:
        self._end(event.turn_id)
        self._failed.add(event.error.code)

    def _end(self, turn_id: str) -> None:
        self._under_way.discard(turn_id)
        self._running.set(len(self._under_way))

    def forget(self) -> None:
        self._under_way.clear()
        self._running.set(0)

    def read(self) -> dict[str, Any]:
        totals = self.totals()
        return {
            "turns": totals.pop("turns"),
            "latency": {
                "first_delta_ms": self._first_delta.read(),
                "turn_ms": self._seconds.read(),
            },
            **totals,
        }

    def totals(self) -> dict[str, Any]:
        return {
            "turns": {
                "started": int(self._started.read()),
                "finished": int(self._finished.read()),
                "failed": self._failed.read(),
                "running": len(self._under_way),
            },
            "tokens": self._tokens.read(),
            "cost_usd": round(self._cost.read(), 9),
        }


class _Children:
    """Where children came from and how they went."""

    def __init__(self, make: Metrics) -> None:
        self._spawned = make.counts(
            "children_spawned", "Children started.", "kind", "new", "resumed"
        )
        self._adopted = make.counts(
            "children_adopted", "Children given to a session; warm: out of the pool.", "kind",
            "warm", "cold",
        )  # fmt: skip
        self._taken = make.counts(
            "turns_by_child",
            "Turns by how they got their child: the conversation's own (warm), one that held a "
            "beginning of the history (prefix), one emptied after another conversation (recycled), "
            "one started ahead (prewarmed), or a new one.",
            "source", "warm", "prefix", "recycled", "prewarmed", "new",
        )  # fmt: skip
        self._wait = make.durations("child_wait", "What a session waited for it.", WAIT_BUCKETS)
        self._exited = make.counts(
            "children_exited", "Children gone.", "reason", "expected", "unexpected"
        )
        self._frozen = make.count("children_frozen", "Times a child was frozen.")

    def spawn(self, event: events.ChildSpawned) -> None:
        self._spawned.add("resumed" if event.resumed else "new")

    def adopt(self, event: events.ChildAdopted) -> None:
        self._adopted.add("warm" if event.warm else "cold")
        self._wait.add(event.waited)

    def take(self, event: events.ChildTaken) -> None:
        self._taken.add(event.source)

    def exit(self, event: events.ChildExited) -> None:
        self._exited.add("expected" if event.expected else "unexpected")

    def freeze(self) -> None:
        self._frozen.add()

    def read(self) -> dict[str, Any]:
        spawned = self._spawned.read()
        return {
            "spawned": sum(spawned.values()),
            "resumed": spawned["resumed"],
            "adopted": self._adopted.read(),
            "turns": self._taken.read(),
            "exited": self._exited.read(),
            "frozen": int(self._frozen.read()),
            "wait_ms": self._wait.read(),
        }


class _Conversations:
    """Conversations in memory, and the phases of their sessions."""

    def __init__(self, make: Metrics) -> None:
        self._opened = make.count("conversations_opened", "Conversations opened.")
        self._closed = make.counts(
            "conversations_closed", "Conversations that left memory.", "reason"
        )
        self._crashed = make.count("sessions_crashed", "Sessions ended by an error of the gateway.")
        self._sessions = make.gauge("sessions", "Sessions by phase.", "phase")
        self._phases: dict[str, str] = {}
        self._seen: set[str] = set()

    def open(self) -> None:
        self._opened.add()

    def close(self, event: events.ConversationClosed) -> None:
        self._closed.add(event.reason)
        self._place(event.conversation_id, None)

    def crash(self, event: events.SessionCrashed) -> None:
        self._crashed.add()
        self._place(event.conversation_id, None)

    def move(self, event: events.PhaseChanged) -> None:
        phase = event.new.lower()
        self._place(event.conversation_id, None if phase == "closed" else phase)

    def _place(self, conversation_id: str, phase: str | None) -> None:
        old = self._phases.pop(conversation_id, None)
        if old is not None:
            self._sessions.labels(old).dec()
        if phase is not None:
            self._phases[conversation_id] = phase = bounded(phase, self._seen)
            self._sessions.labels(phase).inc()

    def forget(self) -> None:
        for conversation_id in tuple(self._phases):
            self._place(conversation_id, None)

    def read(self) -> dict[str, Any]:
        return {
            "conversations": {
                "opened": int(self._opened.read()),
                "closed": self._closed.read(),
            },
            "sessions": {
                "by_phase": dict(Tally(self._phases.values())),
                "crashed": int(self._crashed.read()),
            },
        }


class _Logins:
    """How the logins' limits stand. The gauges are set when they are read: the book has the values,
    and what is not known has no sample."""

    def __init__(self, make: Metrics, book: LoginBook) -> None:
        self._book = book
        self._used = make.gauge(
            "login_utilization",
            "Part of a window of the login's limits that is used, 0 to 1 (and above, past it).",
            "login", "window",
        )  # fmt: skip
        self._resets = make.gauge(
            "login_resets_timestamp_seconds", "When that window counts anew, in Unix seconds.",
            "login", "window",
        )  # fmt: skip
        self._limited = make.gauge(
            "login_limited", "1 while the login is known to be rejected, else 0.", "login"
        )
        self._seen: set[str] = set()

    def read(self) -> list[dict[str, Any]]:
        return self._book.snapshot()

    def renew(self) -> None:
        self._used.clear()
        self._resets.clear()
        for login in self.read():
            name = login["name"]
            self._limited.labels(name).set(login["limited_until"] is not None)
            for window, each in login["windows"].items():
                labels = name, bounded(window, self._seen)
                if each["utilization"] is not None:
                    self._used.labels(*labels).set(each["utilization"])
                if each["resets_at"] is not None:
                    self._resets.labels(*labels).set(each["resets_at"])


class _McpServers:
    """Calls of the operator's MCP servers, and how many of these are in each state."""

    def __init__(self, make: Metrics) -> None:
        self._calls = make.counts("mcp_calls", "Calls of MCP servers' tools.", "server")
        self._errors = make.counts("mcp_errors", "Calls that were errors.", "server")
        self._seconds = make.durations("mcp_call", "What calls took.", DELTA_BUCKETS)
        self._servers = make.gauge("mcp_servers", "MCP servers by state.", "state")
        self._states: dict[str, str] = {}

    def call(self, event: events.McpCalled) -> None:
        self._calls.add(event.server)
        self._errors.add(event.server, event.outcome == "error")
        self._seconds.add(event.seconds)

    def move(self, event: events.McpServerChanged) -> None:
        old = self._states.pop(event.server, None)
        if old is not None:
            self._servers.labels(old).dec()
        if event.state != "gone":
            self._states[event.server] = event.state
            self._servers.labels(event.state).inc()


class _Nodes:
    """This node among others, for Prometheus, which asks each. Set when they are read."""

    def __init__(self, make: Metrics) -> None:
        self._info = make.gauge("node_info", "1, of the node that is asked.", "node", "url")
        self._living = make.gauge("nodes", "Nodes that live, this one among them.")
        self._store = make.gauge("node_store_seconds", "What the last beat took.")

    def renew(self, node: NodeFigures, living: int) -> None:
        self._info.clear()  # another life has another id
        self._info.labels(node.id, node.url).set(1)
        self._living.set(living)
        self._store.set(node.store_ms / 1000)


class Stats:
    """The numbers since the gateway was opened."""

    def __init__(self, book: LoginBook | None = None) -> None:
        make = Metrics()
        self._logins = _Logins(make, LoginBook() if book is None else book)
        self._since = trio.current_time()
        self._registry = make.registry
        self._turns = _Turns(make)
        self._children = _Children(make)
        self._conversations = _Conversations(make)
        self._owned: dict[str, tuple[Metrics, _Turns]] = {}  # turns by owner, however few
        self._cache = make.counts(
            "cache_asked", "Questions to the cache.", "outcome", "hit", "miss", "joined"
        )
        self._mcp = _McpServers(make)
        self._lost = make.count("events_lost", "Events that happened and are not counted here.")
        self._uptime = make.gauge("uptime_seconds", "Time since the gateway was opened.")
        self.news: Subscription | None = None
        self._make = make
        self._nodes: _Nodes | None = None

    def catch_up(self) -> None:
        """Count everything that was published until now."""
        try:
            while self.news is not None:
                self.count(self.news.receive_nowait())
        except (trio.WouldBlock, trio.EndOfChannel):
            pass
        except Exception:
            self.news = None
            log.exception("The stats actor has crashed. Its numbers stand still from now on.")

    def count(self, event: events.Event) -> None:
        match event:
            case events.TurnAccepted():
                self._turns.start(event)
                if event.owner not in SEES_ALL:
                    self._turns_of(event.owner).start(event)
            case events.TurnFinished():
                self._turns.finish(event)
                if event.owner not in SEES_ALL:
                    self._turns_of(event.owner).finish(event)
            case events.TurnFailed():
                self._turns.fail(event)
                if event.owner not in SEES_ALL:
                    self._turns_of(event.owner).fail(event)
            case events.ChildSpawned():
                self._children.spawn(event)
            case events.ChildAdopted():
                self._children.adopt(event)
            case events.ChildTaken():
                self._children.take(event)
            case events.ChildExited():
                self._children.exit(event)
            case events.ChildFrozen():
                self._children.freeze()
            case events.LimitsReported():
                pass  # they are read where they are kept (`actors.pool.logins`)
            case events.ConversationOpened():
                self._conversations.open()
            case events.ConversationClosed():
                self._conversations.close(event)
            case events.SessionCrashed():
                self._conversations.crash(event)
            case events.PhaseChanged():
                self._conversations.move(event)
            case events.CacheAsked(outcome):
                self._cache.add(outcome)
            case events.McpCalled():
                self._mcp.call(event)
            case events.McpServerChanged():
                self._mcp.move(event)
            case events.ModelsListed():
                pass
            case (
                events.McpFileRead()
                | events.ToolAsked()
                | events.ToolDecided()
                | events.CallerRefused()
                | events.ConversationDeleted()
                | events.ConversationExported()
            ):
                pass  # for the audit log
            case events.EventsLost(missed):
                # Ends may be among what was missed. What is under way is better counted anew, from
                # each one's next event, than wrong for good.
                self._lost.add(missed)
                self._turns.forget()
                for _, turns in self._owned.values():
                    turns.forget()
                self._conversations.forget()
            case _:
                assert_never(event)

    def _turns_of(self, owner: str) -> _Turns:
        """Those of one owner."""
        if owner not in self._owned:
            make = Metrics()
            self._owned[owner] = make, _Turns(make)
        return self._owned[owner][1]

    def totals(self) -> dict[str, Any]:
        """Those of `snapshot` that are quickly read: ``turns``, ``tokens``, ``cost_usd`` and
        ``cache``."""
        self.catch_up()
        return {**self._turns.totals(), "cache": self._cache.read()}

    def snapshot(self, owner: str | None = None) -> dict[str, Any]:
        """All numbers as plain JSON values, in the groups of `/stats`.

        ``uptime_seconds``; ``turns`` (started, finished, failed by error code, running);
        ``latency`` (of finished turns: first_delta_ms and turn_ms, each with count, mean, p50,
        p95, p99 and max over the last `RECENT`, None while there are none); ``tokens`` by kind;
        ``cost_usd``; ``children`` (spawned, resumed among them, adopted warm or cold, exited
        expected or not, frozen, wait_ms); ``conversations`` (opened, closed by reason);
        ``sessions`` (by_phase, crashed); ``cache`` by outcome; ``events_lost``; ``logins`` (see
        `LoginBook.snapshot`). Of one `owner`: ``uptime_seconds``, ``turns``, ``latency``,
        ``tokens`` and ``cost_usd``.
        """
        self.catch_up()
        if owner is not None:
            uptime = round(trio.current_time() - self._since, 3)
            return {"uptime_seconds": uptime, **self._turns_of(owner).read()}
        return {
            "uptime_seconds": round(trio.current_time() - self._since, 3),
            **self._turns.read(),
            "children": self._children.read(),
            **self._conversations.read(),
            "cache": self._cache.read(),
            "events_lost": int(self._lost.read()),
            "logins": self._logins.read(),
        }

    def prometheus(self, owner: str | None = None) -> bytes:
        """All numbers in Prometheus's text format (`prometheus_client.CONTENT_TYPE_LATEST`), or
        those of one owner's turns."""
        self.catch_up()
        if owner is not None:
            self._turns_of(owner)
            return generate_latest(self._owned[owner][0].registry)
        self._uptime.set(trio.current_time() - self._since)
        self._logins.renew()
        return generate_latest(self._registry)

    def note_nodes(self, this: NodeFigures, living: int) -> None:
        """How this node stands, and how many there are, for `prometheus`."""
        if self._nodes is None:
            self._nodes = _Nodes(self._make)
        self._nodes.renew(this, living)


async def _listen(bus: Bus, stats: Stats, *, task_status: trio.TaskStatus[None]) -> None:
    with bus.subscribe() as news:
        stats.news = news
        task_status.started()
        # Who reads the numbers counts what has come until then: there is no hurry, and a turn's
        # events wake the actor once and not eight times.
        while await news.wait():
            stats.catch_up()
            if stats.news is None:
                return  # it has crashed
            await trio.sleep(AT_ONCE_SECONDS)


@asynccontextmanager
async def open_stats(bus: Bus, book: LoginBook | None = None) -> AsyncIterator[Stats]:
    """Run the stats actor while the block runs, or until `bus` is closed. `book`: how the logins'
    limits stand.

    It counts everything published after this has been entered, also what it had not yet read when
    the block ended.
    """
    stats = Stats(book)
    async with trio.open_nursery() as nursery:
        await nursery.start(_listen, bus, stats)
        yield stats
        stats.catch_up()
        nursery.cancel_scope.cancel()
