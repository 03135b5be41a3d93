"""Which system prompts a new child learns, and how many children are kept ready."""

from ccapi.actors.pool.demand import BURST_SECONDS, REMEMBERED_SECONDS, Demand
from ccapi.actors.pool.prompts import (
    HALF_LIFE,
    MAX_CHARACTERS,
    MAX_OWNERS,
    MAX_REMEMBERED,
    PromptUse,
)


def test_uses_of_long_ago_count_less() -> None:
    uses = PromptUse(2)
    for _ in range(3):
        uses.note("key", "old", 0)
    uses.note("key", "new", 4 * HALF_LIFE)
    uses.note("key", "other", 2 * HALF_LIFE)
    uses.note("key", "", 0)
    assert uses.palette("key") == ("new", "other")
    assert uses.palette("none") == ()
    uses.note("key", "x" * MAX_CHARACTERS, 9 * HALF_LIFE)
    assert uses.palette("key") == ("x" * MAX_CHARACTERS,)


def test_what_is_counted_is_bounded() -> None:
    uses = PromptUse(MAX_REMEMBERED * 2)
    for number in range(MAX_REMEMBERED + 5):
        uses.note("key", f"prompt {number}", float(number))
    assert len(uses.palette("key")) == MAX_REMEMBERED
    for number in range(MAX_OWNERS):
        uses.note(f"key {number}", "prompt", 0)
    assert uses.palette("key") == ()


def test_a_palette_of_none_counts_nothing() -> None:
    uses = PromptUse(0)
    uses.note("key", "prompt", 0)
    assert uses.palette("key") == ()


def test_the_largest_burst_of_the_last_minutes_is_kept_ready() -> None:
    demand = Demand(2)
    assert demand.target(0, 8) == 2
    for number in range(4):
        demand.note(100 + number * BURST_SECONDS / 4)
    demand.note(100 + 3 * BURST_SECONDS)
    assert demand.target(110, 8) == 4
    assert demand.target(110, 3) == 3
    assert demand.target(110 + 2 * REMEMBERED_SECONDS, 8) == 2


def test_with_a_floor_of_none_no_child_is_kept_ready() -> None:
    demand = Demand(0)
    for _ in range(5):
        demand.note(1)
    assert demand.target(1, 8) == 0
