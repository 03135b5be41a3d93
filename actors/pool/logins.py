"""The login book: how the limits of each login stand, as the children report them.

Knows: the last report for each login, and until when it is known to be rejected. Refuses to know:
how a login is found out (`actors.pool.cli_watch`), and children. The numbers, the overview and the
turns all read this one object.

What the API did not say stays unknown: a login counts as rejected only until the time that the API
gave. A limit of some models' (such as the week of one family) rejects those that were
asked for, and no other.

Times are in Unix seconds, since the API's are.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

from attrs import define, evolve, field, frozen

from ...schemas.claude.limits import LimitState, LimitWindow
from ...schemas.claude.upstream import used_up
from ...schemas.errors import QuotaExhausted
from ...schemas.settings.logins import DEFAULT

MAX_MODELS = 64
"""Models of which one login's book keeps that they are rejected."""


@frozen
class _Rejection:
    """The API rejects what is asked until then, for the window called `name`."""

    until: float
    name: str


@define
class _Standing:
    """What is known of one login. `rejections`: by model; empty: for all of them."""

    state: LimitState = field(factory=LimitState)
    reported_at: float | None = None
    rejections: dict[str, _Rejection] = field(factory=dict)


class LoginBook:
    """The logins by their names, in the order of the settings. No method waits.

    `changed` is called with the name of a login whose limits were reported. `has_rejections`:
    whether any login may be rejected (a turn that is not reads no more than this).
    """

    def __init__(
        self,
        names: Sequence[str] = (DEFAULT,),
        program: str = "claude",
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._program = program
        self._clock = clock
        self._standings = {name: _Standing() for name in names}
        self.has_rejections = False
        self.changed: Callable[[str], None] = lambda _: None

    def __repr__(self) -> str:
        rejected = [name for name in self._standings if self.is_rejected(name)]
        return f"<LoginBook {len(self._standings)} logins, rejected: {rejected}>"

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._standings)

    def use_of(self, login: str) -> int:
        """How much of its fullest window is used, in tenths: reports are rare, so a small
        difference says nothing. What is not known counts as nothing."""
        standing = self._standings[login]
        windows = _current(standing.state, self._clock()).values()
        return math.floor(10 * max((each.utilization or 0.0 for each in windows), default=0.0))

    def first_refusal(self, model: str) -> QuotaExhausted | None:
        """Why no login can be asked for this model now, with the time from which the first can;
        None: one can, as far as is known."""
        found = [self._rejection(login, model) for login in self._standings]
        known = [each for each in found if each is not None]
        if len(known) < len(found):
            return None
        first = min(known, key=lambda each: each.until)
        return used_up(first.name, first.until, self._program)

    def note(self, login: str, state: LimitState, model: str) -> None:
        """A child of this login reports its limits, in a turn that asks this model."""
        standing, now = self._standings[login], self._clock()
        # A refusal's report has one window; of the others, what was reported before still holds.
        windows = {**_current(standing.state, now), **state.windows}
        standing.state = evolve(state, windows=windows)
        standing.reported_at = now
        until = state.rejected_until(now)
        rejections = standing.rejections
        if until is None:
            rejections.pop("", None)
            rejections.pop(model, None)
        else:
            key = model if state.is_of_one_model else ""
            rejections[key] = _Rejection(until, state.name)
        for key in [key for key, each in rejections.items() if each.until <= now]:
            del rejections[key]
        while len(rejections) > MAX_MODELS:
            del rejections[next(iter(rejections))]
        self._note_change(login)

    def forget(self, login: str) -> None:
        """The login is another one now, of which nothing is known."""
        self._standings[login] = _Standing()
        self._note_change(login)

    def _note_change(self, login: str) -> None:
        self.has_rejections = any(each.rejections for each in self._standings.values())
        self.changed(login)

    def refusal(self, login: str, model: str) -> QuotaExhausted | None:
        """Why this login cannot be asked for this model now, with the time from which it can."""
        found = self._rejection(login, model)
        return None if found is None else used_up(found.name, found.until, self._program)

    def is_rejected(self, login: str, model: str = "") -> bool:
        return self._rejection(login, model) is not None

    def _rejection(self, login: str, model: str) -> _Rejection | None:
        standing = self._standings.get(login)
        if standing is None or not standing.rejections:
            return None
        now = self._clock()
        for key in ("", model):
            found = standing.rejections.get(key)
            if found is not None and found.until > now:
                return found
        return None

    def snapshot(self) -> list[dict[str, Any]]:
        """How each login stands, as plain JSON values.

        ``name``; ``status`` (``allowed``, ``allowed_warning``, ``rejected``, None: unknown);
        ``limited_until`` (None: it is not known to be rejected); ``windows`` by name, each with
        ``utilization``, ``resets_at`` and ``status``; ``overage`` (``status``, ``resets_at``,
        ``in_use``; None: not reported); ``reported_at`` (None: never). A window that counts anew
        since the report is left out: how it stands is not known.
        """
        now = self._clock()
        return [self._draw(name, each, now) for name, each in self._standings.items()]

    def _draw(self, name: str, standing: _Standing, now: float) -> dict[str, Any]:
        state, rejection = standing.state, self._rejection(name, "")
        status = state.status or None
        if status is not None and state.resets_at is not None and state.resets_at <= now:
            status = None  # it was so before the window began anew
        overage = {
            "status": state.overage or None,
            "resets_at": state.overage_resets_at,
            "in_use": state.uses_overage,
        }
        return {
            "name": name,
            "status": status,
            "limited_until": None if rejection is None else rejection.until,
            "windows": {
                window: {
                    "utilization": each.utilization,
                    "resets_at": each.resets_at,
                    "status": each.status,
                }
                for window, each in _current(state, now).items()
            },
            "overage": overage if state.overage else None,
            "reported_at": standing.reported_at,
        }


def _current(state: LimitState, now: float) -> dict[str, LimitWindow]:
    """The windows that have not ended since they were reported."""
    return {
        name: window
        for name, window in state.windows.items()
        if window.resets_at is None or window.resets_at > now
    }
