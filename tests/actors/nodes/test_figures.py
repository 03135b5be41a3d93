"""What nodes tell each other of themselves."""

from __future__ import annotations

import pytest

from ccapi.actors.nodes.figures import (
    MOST_KEYS,
    Figures,
    NodeFigures,
    facts_of,
    read_figures,
    sum_of,
)
from ccapi.schemas.convert import write_json
from ccapi.transport.store.interface import LiveNode, Node

NODE = Node("life-1", "http://one:1")


def told(facts: object) -> NodeFigures:
    return read_figures(LiveNode(NODE, write_json(facts)))


def test_what_a_node_tells_is_read_as_it_was_told() -> None:
    figures = Figures(turns_running=2, children=3, cost_usd=0.25)
    facts = facts_of(figures, {"a" * 64: 2}, since=1000.5, version="1.2.3")
    found = told({**facts, "draining": True, "store_ms": 0.8})
    assert (found.id, found.url, found.since, found.version) == (
        *("life-1", "http://one:1"),
        1000.5,
        "1.2.3",
    )
    assert (found.draining, found.store_ms, found.figures) == (True, 0.8, figures)
    assert found.keys == {"a" * 12: 2}
    assert found.encode()["turns_running"] == 2


def test_figures_add_up() -> None:
    one = told(facts_of(Figures(turns_running=2, cost_usd=0.5), {}, since=0, version=""))
    other = told(facts_of(Figures(turns_running=1, children=4), {}, since=0, version=""))
    assert sum_of([one, other]) == Figures(turns_running=3, children=4, cost_usd=0.5)
    assert sum_of([]) == Figures()


@pytest.mark.parametrize(
    "facts",
    [
        {},
        [],
        "nothing",
        None,
        {"figures": [1], "keys": 7, "since": "now", "version": 3, "draining": "yes"},
        {
            "figures": {"turns_running": "2", "children": -1, "cost_usd": True, "new": 5},
            "store_ms": None,
        },
    ],
)
def test_a_node_of_another_version_tells_nothing_wrong(facts: object) -> None:
    found = told(facts)
    assert (found.figures, found.since, found.draining, found.keys) == (Figures(), 0, False, {})


def test_it_is_bounded() -> None:
    facts = facts_of(Figures(), {f"{n:064}": n for n in range(1000)}, since=0, version="v" * 999)
    assert len(write_json(facts)) < 4096
    found = told({**facts, "keys": {f"{n:064}": n for n in range(1000)}})
    assert (len(found.keys), len(found.version)) == (min(MOST_KEYS, len(found.keys)), 64)
