"""Keys: windows of whole hours, limits over their defaults, and secrets."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from ccapi.schemas.keys import (
    BEGINNING,
    NO_LIMITS,
    WINDOWS,
    KeyLimits,
    Window,
    bounds_of,
    decode_limits,
    decode_scopes,
    encode_limits,
    free_at,
    hour_of,
    new_secret,
)


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("window", "now", "first", "end"),
    [
        ("5h", "2026-01-31T09:20", "2026-01-31T05", "2026-01-31T10:00"),
        ("5h", "2026-02-01T02:00", "2026-01-31T22", "2026-02-01T03:00"),
        ("day", "2026-01-31T23:59", "2026-01-31T00", "2026-02-01T00:00"),
        ("week", "2026-02-01T12:00", "2026-01-26T00", "2026-02-02T00:00"),
        ("week", "2026-02-02T00:00", "2026-02-02T00", "2026-02-09T00:00"),
        ("month", "2026-12-31T23:59", "2026-12-01T00", "2027-01-01T00:00"),
        ("month", "2028-02-29T10:00", "2028-02-01T00", "2028-03-01T00:00"),
    ],
)
def test_windows_are_made_of_whole_hours_in_utc(
    window: Window, now: str, first: str, end: str
) -> None:
    assert bounds_of(window, at(now)) == (first, at(end))


def test_what_was_used_in_an_hour_leaves_the_five_hours_when_that_says_so() -> None:
    used = at("2026-01-31T09:20")
    free = free_at(hour_of(used))
    assert free == at("2026-01-31T14:00")
    assert bounds_of("5h", free - 1)[0] <= hour_of(used)
    assert bounds_of("5h", free)[0] > hour_of(used)


def test_a_limit_that_a_key_does_not_give_is_the_settings() -> None:
    defaults = KeyLimits(turns_per_minute=10, tokens_per_day=1000, usd_per_month=5)
    own = KeyLimits(turns_per_minute=0, usd_per_month=2.5).over(defaults)
    assert (own.turns_per_minute, own.tokens_per_day, own.usd_per_month) == (0, 1000, 2.5)
    assert own.counts_usage
    assert not NO_LIMITS.counts_usage
    assert all(NO_LIMITS.tokens(window) == NO_LIMITS.usd(window) == 0 for window in WINDOWS)


def test_limits_and_scopes_are_written_and_read() -> None:
    limits = KeyLimits(concurrent_turns=2, tokens_per_5h=0, usd_per_week=0.25)
    assert decode_limits(encode_limits(limits)) == limits
    assert decode_limits('{"concurrent_turns": 2, "of_a_newer_version": 1}').concurrent_turns == 2
    assert decode_scopes('["admin", "of_a_newer_version", "chat"]') == ("chat", "admin")


def test_no_two_secrets_are_alike() -> None:
    first, second = new_secret(), new_secret()
    assert first != second
    assert all(each.startswith(BEGINNING) and len(each) > 50 for each in (first, second))
