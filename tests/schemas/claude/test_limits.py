"""How a report of the CLI's on its limits is read, and what it means for the next turn."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccapi.schemas.claude.limits import MAX_WINDOWS, LimitState, LimitWindow, decode_limit
from ccapi.schemas.claude.output import Noise, decode

NOW = 1_000_000.0
LATER = NOW + 60


def event(info: object) -> bytes:
    return orjson.dumps({"type": "rate_limit_event", "rate_limit_info": info})


REPORT = {
    "status": "allowed",
    "resetsAt": 1795968910,
    "rateLimitType": "five_hour",
    "isUsingOverage": False,
    "unifiedWindows": {
        "five_hour": {"utilization": 0.93, "resetsAt": 1795968910, "status": "allowed_warning"},
        "seven_day": {"utilization": 0.25, "resetsAt": 1796055310},
    },
}


def test_a_report_has_its_windows() -> None:
    state = decode(event(REPORT))
    assert state == LimitState(
        "allowed",
        1795968910.0,
        "five_hour",
        windows={
            "five_hour": LimitWindow(0.93, 1795968910.0, "allowed_warning"),
            "seven_day": LimitWindow(0.25, 1796055310.0),
        },
    )
    assert state.utilization == 0.93


def test_the_only_window_of_a_refusal_is_the_one_that_is_used_up() -> None:
    state = decode_limit({"status": "rejected", "resetsAt": LATER, "rateLimitType": "five_hour"})
    assert state.windows == {"five_hour": LimitWindow(None, LATER, "rejected")}


@pytest.mark.parametrize(
    ("state", "until"),
    [
        (LimitState("rejected", LATER, "five_hour"), LATER),
        (LimitState("rejected", LATER, "five_hour", overage="rejected"), LATER),
        (LimitState("rejected", LATER, "five_hour", overage="allowed"), None),
        (LimitState("rejected", LATER, "five_hour", overage="allowed_warning"), None),
        (LimitState("rejected", LATER, "five_hour", uses_overage=True), None),
        (LimitState("rejected", NOW, "five_hour"), None),
        (LimitState("rejected", None, "five_hour"), None),
        (LimitState("allowed", LATER, "five_hour"), None),
        (LimitState("allowed_warning", LATER, "five_hour"), None),
        (LimitState(), None),
    ],
    ids=str,
)
def test_a_login_is_rejected_only_as_long_as_it_is_known_to_be(
    state: LimitState, until: float | None
) -> None:
    assert state.rejected_until(NOW) == until


@pytest.mark.parametrize("info", [{}, {"status": 1}, [], None, "x", {"resetsAt": 1}])
def test_a_report_without_a_status_is_noise(info: object) -> None:
    assert decode(event(info)) == Noise("rate_limit_event")


@pytest.mark.parametrize(
    "wrong", ["soon", True, -1, None, [], {}, "1795968910", 1e400, float("nan")], ids=str
)
def test_what_is_no_number_counts_as_not_reported(wrong: object) -> None:
    info: dict[str, Any] = {"status": "rejected", "resetsAt": wrong, "rateLimitType": wrong}
    window = {"utilization": wrong, "resetsAt": wrong, "status": "allowed"}
    state = decode_limit(info | {"unifiedWindows": {"five_hour": window, "seven_day": wrong}})
    assert state.resets_at is None
    assert state.windows["five_hour"] == LimitWindow(status="allowed")
    assert state.rejected_until(NOW) is None


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=20,
)


@given(
    st.dictionaries(
        st.sampled_from(["resetsAt", "rateLimitType", "unifiedWindows", "overageStatus"]), JSON
    )
)
def test_whatever_comes_is_read(info: dict[str, Any]) -> None:
    state = decode_limit(info | {"status": "rejected"})
    assert len(state.windows) <= MAX_WINDOWS
    assert state.rejected_until(NOW) is None or state.resets_at is not None
