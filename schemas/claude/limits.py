"""How the limits of a login stand, as the CLI reports them (``rate_limit_event``).

Knows: the fields of ``rate_limit_info``, and what they mean for the next turn. Refuses to know:
which login it is, and what a client learns.

The CLI reads the API's ``anthropic-ratelimit-unified-*`` headers, and reports them in the first
turn of a child and whenever they change, for a subscription or its token alone. Source: the CLI's
own schema of the event; tests/contract/test_login.py holds one test per fact.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from attrs import field, frozen

OVERAGE_COVERS = ("allowed", "allowed_warning")
"""States of the overage (paid extra usage) in which it pays for what the limits reject."""

MODEL_WINDOWS = ("seven_day_opus", "seven_day_sonnet", "seven_day_overage_included")
"""Windows that count some models only: another model may still be asked."""

MAX_WINDOWS = 16
"""Windows that are read of one report. The CLI knows six."""


@frozen
class LimitWindow:
    """One window of use. `utilization`: the part that is used, usually 0 to 1, and above 1 where
    use ran past the window's end; `resets_at`: when it counts anew, in Unix seconds; `status`:
    ``allowed``, ``allowed_warning`` or ``rejected``. None: not reported."""

    utilization: float | None = None
    resets_at: float | None = None
    status: str | None = None


@frozen
class LimitState:
    """How a login's limits stand.

    `status` is ``allowed``, ``allowed_warning``, ``rejected`` or empty (unknown). `resets_at` is
    when the window called `name` counts anew, in Unix seconds; None: the API did not say. `name` is
    the API's, such as ``five_hour``. `overage`: the same words for paid extra usage, or
    empty; `uses_overage`: the login pays for what it asks now. `windows`: by their names.
    """

    status: str = ""
    resets_at: float | None = None
    name: str = ""
    overage: str = ""
    overage_resets_at: float | None = None
    uses_overage: bool = False
    windows: Mapping[str, LimitWindow] = field(factory=dict, hash=False)

    def rejected_until(self, now: float) -> float | None:
        """When the login may be asked again, where it is known to be rejected until then; None:
        it may be asked now, or the API did not say until when."""
        if self.status != "rejected" or self.overage in OVERAGE_COVERS or self.uses_overage:
            return None
        return self.resets_at if self.resets_at is not None and self.resets_at > now else None

    @property
    def is_of_one_model(self) -> bool:
        """Whether the window that is used up counts some models only."""
        return self.name in MODEL_WINDOWS

    @property
    def utilization(self) -> float | None:
        """The part of the fullest window that is used; None: not reported."""
        known = [each.utilization for each in self.windows.values()]
        return max((each for each in known if each is not None), default=None)


def decode_limit(info: Mapping[str, Any]) -> LimitState:
    """Read ``rate_limit_info``. What is not as the CLI's schema says counts as not reported.
    Raises `TypeError` where it has no status."""
    status = info.get("status")
    if not isinstance(status, str):
        raise TypeError("no status")
    reported = info.get("unifiedWindows")
    windows = {
        name: _decode_window(window)
        for name, window in (reported.items() if isinstance(reported, dict) else ())
        if isinstance(window, dict)
    }
    name, resets_at = _word(info.get("rateLimitType")), _number(info.get("resetsAt"))
    if name and name not in windows:  # a refusal's report has this one alone
        windows[name] = LimitWindow(_number(info.get("utilization")), resets_at, status)
    return LimitState(
        status=status,
        resets_at=resets_at,
        name=name,
        overage=_word(info.get("overageStatus")),
        overage_resets_at=_number(info.get("overageResetsAt")),
        uses_overage=info.get("isUsingOverage") is True,
        windows=dict(list(windows.items())[-MAX_WINDOWS:]),
    )


def _decode_window(window: Mapping[str, Any]) -> LimitWindow:
    return LimitWindow(
        utilization=_number(window.get("utilization")),
        resets_at=_number(window.get("resetsAt")),
        status=_word(window.get("status")) or None,
    )


def _word(value: object) -> str:
    return value if isinstance(value, str) else ""


def _number(value: object) -> float | None:
    """A time in Unix seconds, or a share."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
        return None
    return float(value) if math.isfinite(value) else None
