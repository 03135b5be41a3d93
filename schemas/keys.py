"""API keys: what one may do, how much, and in which windows of time that is counted.

Knows: scopes, limits, windows, and how a key is written down. Refuses to know: where keys are kept,
and who asks. A key is never here itself: its id is its SHA-256 in hexadecimal.

A window is made of whole hours in UTC, so that counts by the hour say all of it. ``5h`` is the
running hour and the four before it: what was used at 09:20 counts until 14:00. ``day``, ``week``
(from Monday) and ``month`` are those of the calendar.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, Literal, get_args

from attrs import asdict, fields, frozen

Scope = Literal["chat", "agents", "search", "admin", "read-only"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
"""``chat``: plain models. ``agents``: agents. ``search``: searches of the web. ``admin``: the
numbers of all keys. ``read-only``: the numbers of the gateway as a whole, for monitoring; no
turns."""

Window = Literal["5h", "day", "week", "month"]
WINDOWS: tuple[Window, ...] = get_args(Window)

BEGINNING = "sk-ccapi-"
"""What secrets begin with."""

HOUR = 3600

SHORT = 12
"""Characters of a key's id that name it for people."""


@frozen(kw_only=True)
class KeyLimits:
    """What one key may use. 0: any amount. None: what the settings' ``[limits]`` say."""

    concurrent_turns: int | None = None
    turns_per_minute: int | None = None
    tokens_per_5h: int | None = None
    tokens_per_day: int | None = None
    tokens_per_week: int | None = None
    tokens_per_month: int | None = None
    usd_per_5h: float | None = None
    usd_per_day: float | None = None
    usd_per_week: float | None = None
    usd_per_month: float | None = None

    def over(self, defaults: KeyLimits) -> KeyLimits:
        """These, and `defaults` where they say nothing."""
        given = {name: value for name, value in asdict(self).items() if value is not None}
        return KeyLimits(**{**asdict(defaults), **given})

    def tokens(self, window: Window) -> int:
        return getattr(self, f"tokens_per_{window}") or 0

    def usd(self, window: Window) -> float:
        return getattr(self, f"usd_per_{window}") or 0.0

    @property
    def counts_usage(self) -> bool:
        """Whether any of them is about tokens or dollars."""
        return any(self.tokens(window) or self.usd(window) for window in WINDOWS)


LIMIT_NAMES = tuple(each.name for each in fields(KeyLimits))

NO_LIMITS = KeyLimits(**dict.fromkeys(LIMIT_NAMES, 0))


@frozen(kw_only=True)
class ApiKey:
    """A key as the store keeps it. `id` is the hash of the secret; `models` are the names that it
    may ask for (empty: all); times are in Unix seconds, `revoked_at` is None while it holds."""

    id: str
    name: str
    scopes: tuple[Scope, ...] = ("chat",)
    models: tuple[str, ...] = ()
    limits: KeyLimits = KeyLimits()
    created_at: float = 0.0
    revoked_at: float | None = None

    @property
    def short_id(self) -> str:
        return self.id[:SHORT]


def new_secret() -> str:
    """A key that no one can guess: 256 random bits."""
    return BEGINNING + secrets.token_urlsafe(32)


def encode_names(names: Iterable[str]) -> str:
    return json.dumps([*names])


def decode_names(text: str) -> tuple[str, ...]:
    return tuple(json.loads(text))


def decode_scopes(text: str) -> tuple[Scope, ...]:
    """The scopes that this version knows."""
    named = decode_names(text)
    return tuple(scope for scope in SCOPES if scope in named)


def encode_limits(limits: KeyLimits) -> str:
    return json.dumps({name: n for name, n in asdict(limits).items() if n is not None})


def decode_limits(text: str) -> KeyLimits:
    given: Mapping[str, Any] = json.loads(text)
    return KeyLimits(**{name: given[name] for name in LIMIT_NAMES if name in given})


# -- windows ---------------------------------------------------------------------------------------


def hour_of(now: float) -> str:
    """The hour in UTC, as in ``2026-01-31T14``. Later ones compare as greater."""
    return _nth_hour(int(now // HOUR))


@lru_cache(64)  # it is asked for several times in a turn
def _nth_hour(number: int) -> str:
    return _hour(datetime.fromtimestamp(number * HOUR, UTC))


def bounds_of(window: Window, now: float) -> tuple[str, float]:
    """The first hour of the window that `now` lies in, and when the window ends (Unix seconds).

    The end of ``5h`` is that of the running hour: then its first hour does not count any more.
    """
    return _bounds(window, int(now // HOUR))


@lru_cache(64)  # as the hour
def _bounds(window: Window, number: int) -> tuple[str, float]:
    hour = datetime.fromtimestamp(number * HOUR, UTC)
    day = hour.replace(hour=0)
    match window:
        case "5h":
            return _hour(hour - timedelta(hours=4)), (hour + timedelta(hours=1)).timestamp()
        case "day":
            return _hour(day), (day + timedelta(days=1)).timestamp()
        case "week":
            monday = day - timedelta(days=day.weekday())
            return _hour(monday), (monday + timedelta(days=7)).timestamp()
        case "month":
            first = day.replace(day=1)
            return _hour(first), (first + timedelta(days=32)).replace(day=1).timestamp()


@lru_cache(64)
def free_at(hour: str) -> float:
    """When what was used in this hour counts no more in the window ``5h`` (Unix seconds)."""
    began = datetime.strptime(hour, "%Y-%m-%dT%H").replace(tzinfo=UTC)
    return (began + timedelta(hours=5)).timestamp()


def _hour(when: datetime) -> str:
    return when.strftime("%Y-%m-%dT%H")


def count_words(keys: int, of_settings: int) -> str:
    """How many keys hold, for people; `of_settings` of them stand in the settings."""
    text = f"{keys} {'key' if keys == 1 else 'keys'}"
    return text if not of_settings else f"{text} ({of_settings} of the settings)"
