"""The login book: until when a login is rejected, and what the numbers say of it."""

from __future__ import annotations

import json

import pytest
from attrs import define

from ccapi.actors.pool.logins import LoginBook
from ccapi.schemas.claude.limits import LimitState, LimitWindow
from ccapi.schemas.settings.logins import DEFAULT

NOW = 2_000_000_000.0
MODEL, OTHER = "claude-haiku-4-5", "claude-opus-4-8"


@define
class Clock:
    now: float = NOW

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("time.time", clock)
    return clock


@pytest.fixture
def book(clock: Clock) -> LoginBook:
    return LoginBook(program="/opt/claude", clock=clock)


def rejected(seconds: float, name: str = "five_hour", overage: str = "") -> LimitState:
    return LimitState("rejected", NOW + seconds, name, overage)


def test_of_a_login_that_never_reported_nothing_is_known(book: LoginBook) -> None:
    assert book.refusal(DEFAULT, MODEL) is None
    assert book.snapshot() == [
        {
            "name": "default", "status": None, "limited_until": None, "windows": {},
            "overage": None, "reported_at": None,
        }
    ]  # fmt: skip


def test_a_rejected_login_is_not_asked_until_it_counts_anew(book: LoginBook, clock: Clock) -> None:
    book.note(DEFAULT, rejected(600), MODEL)
    for model in (MODEL, OTHER):
        error = book.refusal(DEFAULT, model)
        assert error is not None
        assert (error.status, error.code) == (429, "upstream_rate_limited")
        assert error.headers()["retry-after"] == "600"
        assert "five_hour" in error.message
    clock.now += 599
    assert book.refusal(DEFAULT, MODEL) is not None
    clock.now += 1
    assert book.refusal(DEFAULT, MODEL) is None
    (shown,) = book.snapshot()
    assert (shown["status"], shown["limited_until"], shown["windows"]) == (None, None, {})


@pytest.mark.parametrize(
    "state",
    [
        LimitState("rejected", None, "five_hour"),
        rejected(600, overage="allowed"),
        rejected(-1),
        LimitState("allowed", NOW + 600, "five_hour"),
    ],
    ids=str,
)
def test_a_login_that_may_be_asked_is_asked(book: LoginBook, state: LimitState) -> None:
    book.note(DEFAULT, rejected(600), MODEL)
    book.note(DEFAULT, state, MODEL)
    assert book.refusal(DEFAULT, MODEL) is None


def test_the_week_of_a_model_rejects_that_model_alone(book: LoginBook) -> None:
    book.note(DEFAULT, rejected(600, "seven_day_opus"), OTHER)
    assert book.refusal(DEFAULT, OTHER) is not None
    assert book.refusal(DEFAULT, MODEL) is None
    assert not book.is_rejected(DEFAULT)
    book.note(DEFAULT, LimitState("allowed", NOW + 60, "five_hour"), MODEL)
    assert book.refusal(DEFAULT, OTHER) is not None, "another model's turn says nothing of it"


def test_another_login_ends_what_was_known(book: LoginBook) -> None:
    changed: list[str] = []
    book.changed = changed.append
    book.note(DEFAULT, rejected(600), MODEL)
    book.forget(DEFAULT)
    assert book.refusal(DEFAULT, MODEL) is None
    assert changed == [DEFAULT, DEFAULT]


def test_a_refusal_leaves_the_other_windows_known(book: LoginBook, clock: Clock) -> None:
    week = LimitWindow(0.25, NOW + 86400, "allowed")
    hours = LimitWindow(0.97, NOW + 60, "allowed_warning")
    windows = {"five_hour": hours, "seven_day": week}
    book.note(DEFAULT, LimitState("allowed", NOW + 60, "five_hour", windows=windows), MODEL)
    used = {"five_hour": LimitWindow(None, NOW + 60, "rejected")}
    book.note(DEFAULT, LimitState("rejected", NOW + 60, "five_hour", windows=used), MODEL)
    (shown,) = book.snapshot()
    assert json.loads(json.dumps(shown, allow_nan=False)) == {
        "name": "default",
        "status": "rejected",
        "limited_until": NOW + 60,
        "windows": {
            "five_hour": {"utilization": None, "resets_at": NOW + 60, "status": "rejected"},
            "seven_day": {"utilization": 0.25, "resets_at": NOW + 86400, "status": "allowed"},
        },
        "overage": None,
        "reported_at": NOW,
    }
    clock.now += 61
    assert list(book.snapshot()[0]["windows"]) == ["seven_day"]
