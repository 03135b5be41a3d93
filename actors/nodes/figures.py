"""How nodes stand: what each tells the others of itself with its beats, and what that adds up to.

Knows: which numbers those are, and how they are read of a node that may be of another version.
Refuses to know: where they come from, and how they reach another node (`membership`).
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Mapping
from typing import Any

from attrs import asdict, astuple, field, fields, frozen

from ...schemas.convert import parse_json
from ...schemas.keys import SHORT
from ...transport.store.interface import LiveNode

MOST_KEYS = 64
"""Keys whose running turns a node tells: of those with the most."""

MOST_CHARACTERS = 64
"""Of a text that a node tells."""


@frozen(kw_only=True)
class Figures:
    """What adds up over nodes. Turns, tokens and costs are since each node has begun, and of those
    that live."""

    turns_running: int = 0
    turns_started: int = 0
    turns_finished: int = 0
    turns_failed: int = 0
    conversations: int = 0
    children: int = 0
    children_idle: int = 0
    children_warm: int = 0
    children_limit: int = 0
    children_waiting: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    cost_usd: float = 0.0
    cache_hits: int = 0
    cache_misses: int = 0

    def __add__(self, other: Figures) -> Figures:
        names = [each.name for each in fields(Figures)]
        added = map(operator.add, astuple(self), astuple(other))
        return Figures(**dict(zip(names, added, strict=True)))


@frozen(kw_only=True)
class NodeFigures:
    """How one node stands. `since`: when it has begun, in Unix seconds; `store_ms`: what its last
    beat took to reach the store and to come back; `keys`: turns that run, by the short ids of their
    keys."""

    id: str
    url: str
    since: float
    version: str
    draining: bool
    store_ms: float
    figures: Figures
    keys: Mapping[str, int] = field(factory=dict)

    def encode(self) -> dict[str, Any]:
        """As clients receive it, who see the gateway as a whole."""
        return {
            "id": self.id,
            "url": self.url,
            "since": self.since,
            "version": self.version,
            "draining": self.draining,
            "store_ms": self.store_ms,
            **asdict(self.figures),
        }


def facts_of(
    figures: Figures, keys: Mapping[str, int], *, since: float, version: str
) -> dict[str, object]:
    """What a node tells the others. `keys`: turns that run, by their owners."""
    most = sorted(keys.items(), key=lambda each: -each[1])[:MOST_KEYS]
    return {
        "since": since,
        "version": version,
        "figures": asdict(figures),
        "keys": {owner[:SHORT]: count for owner, count in most},
    }


def read_figures(told: LiveNode) -> NodeFigures:
    """What a node tells. What is missing, or is not what it should be, is nothing."""
    facts = _mapping(parse_json(told.facts))
    numbers = _mapping(facts.get("figures"))
    keys = _mapping(facts.get("keys"))
    return NodeFigures(
        id=told.node.id,
        url=told.node.url,
        since=_number(facts.get("since")),
        version=str(facts.get("version", ""))[:MOST_CHARACTERS],
        draining=facts.get("draining") is True,
        store_ms=_number(facts.get("store_ms")),
        figures=Figures(**{each.name: _number(numbers.get(each.name)) for each in fields(Figures)}),
        keys={owner[:SHORT]: int(_number(count)) for owner, count in [*keys.items()][:MOST_KEYS]},
    )


def sum_of(nodes: Iterable[NodeFigures]) -> Figures:
    total = Figures()
    for node in nodes:
        total += node.figures
    return total


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _number(value: object) -> Any:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return 0
    return value if math.isfinite(value) and value >= 0 else 0
