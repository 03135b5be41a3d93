"""What keys may use, counted in memory: for one gateway, and as the model of what nodes share.

Knows: turns that run, and the bucket from which a key's turns in a minute are taken. Refuses to
know: what was used before (it is given), and why a key has which limits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from .interface import Allowance, Spent, Standing, Used

MINUTE = 60.0


class Admissions:
    """The keys of one store."""

    def __init__(self) -> None:
        self._running: dict[str, dict[str, str]] = {}  # nodes by turn, by key
        self._buckets: dict[str, tuple[float, float]] = {}  # what was left, and when

    def admit(
        self,
        key_id: str,
        allowance: Allowance,
        turn_id: str | None,
        node_id: str,
        standing: Standing,
        now: float,
    ) -> None:
        """A turn begins, for which `standing` has room."""
        if allowance.turns_per_minute:
            self._buckets[key_id] = standing.left - 1, now
        if turn_id is not None:
            self._running.setdefault(key_id, {})[turn_id] = node_id

    def standing(
        self,
        key_id: str,
        allowance: Allowance,
        spent: Sequence[Spent],
        lives: Callable[[str], bool],
        now: float,
    ) -> Standing:
        """How the key stands; turns of nodes that do not live (any more) do not run."""
        turns = self._running.get(key_id, {})
        running = sum(map(lives, turns.values()))
        most = allowance.turns_per_minute
        left, at = self._buckets.get(key_id, (float(most), now))
        left = min(float(most), left + max(0.0, now - at) * most / MINUTE)
        used = tuple(used_since(window.first_hour, spent) for window in allowance.windows)
        return Standing(running, left, used, exceeded(allowance, running, left, used))

    def discharge(self, turns: Iterable[tuple[str, str]]) -> None:
        for key_id, turn_id in turns:
            running = self._running.get(key_id, {})
            running.pop(turn_id, None)
            if not running:
                self._running.pop(key_id, None)

    def move(self, node_id: str, to: str) -> None:
        """What runs on a node runs on in another life of it."""
        for turns in self._running.values():
            turns.update({turn_id: to for turn_id, node in turns.items() if node == node_id})

    def forget(self, node_id: str) -> None:
        """The node lives no more."""
        gone = [
            (key_id, turn_id)
            for key_id, turns in self._running.items()
            for turn_id, node in turns.items()
            if node == node_id
        ]
        self.discharge(gone)


def used_since(first_hour: str, spent: Iterable[Spent]) -> Used:
    counted = [each for each in spent if each.hour >= first_hour]
    return Used(
        sum(each.usage.total_tokens for each in counted),
        sum(each.usage.cost_usd for each in counted),
        min((each.hour for each in counted), default=""),
    )


def exceeded(allowance: Allowance, running: int, left: float, used: Sequence[Used]) -> str | None:
    """The first limit that leaves no room for another turn."""
    if allowance.concurrent_turns and running >= allowance.concurrent_turns:
        return "concurrent_turns"
    if allowance.turns_per_minute and left < 1:
        return "turns_per_minute"
    for window, each in zip(allowance.windows, used, strict=True):
        if window.tokens and each.tokens >= window.tokens:
            return f"tokens_per_{window.name}"
        if window.usd and each.usd >= window.usd:
            return f"usd_per_{window.name}"
    return None
