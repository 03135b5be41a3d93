"""What one node shows another."""

from __future__ import annotations

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from ccapi.schemas.errors import Forbidden
from ccapi.schemas.node_seal import MOST_SKEW_SECONDS, Passed, open_seal, seal

SECRET = "what-all-nodes-share"
PASSED = Passed("POST", "/v1/chat/completions?a=b", "req_1")
NOW = 1_800_000_000.0


def test_a_node_is_known_by_its_seal() -> None:
    value = seal(SECRET, "node-1", PASSED, NOW)
    assert open_seal(SECRET, value, PASSED, NOW + 1) == "node-1"


@pytest.mark.parametrize(
    "other",
    [
        evolve(PASSED, method="GET"),
        evolve(PASSED, target="/v1/responses"),
        evolve(PASSED, request_id="req_2"),
    ],
)
def test_a_seal_is_good_for_one_request(other: Passed) -> None:
    value = seal(SECRET, "node-1", PASSED, NOW)
    with pytest.raises(Forbidden, match="for another request"):
        open_seal(SECRET, value, other, NOW)


def test_a_seal_of_another_secret_is_refused() -> None:
    value = seal("what-others-share", "node-1", PASSED, NOW)
    with pytest.raises(Forbidden, match="another secret") as caught:
        open_seal(SECRET, value, PASSED, NOW)
    assert caught.value.code == "node_refused"
    assert SECRET not in caught.value.message


@pytest.mark.parametrize("skew", [-MOST_SKEW_SECONDS - 1, MOST_SKEW_SECONDS + 1])
def test_a_clock_that_is_off_is_said(skew: float) -> None:
    value = seal(SECRET, "node-1", PASSED, NOW)
    with pytest.raises(Forbidden, match="clocks of two nodes differ by 31 s"):
        open_seal(SECRET, value, PASSED, NOW + skew)


@given(st.text(max_size=80))
def test_nothing_else_opens(value: str) -> None:
    with pytest.raises(Forbidden):
        open_seal(SECRET, value, PASSED, NOW)


@given(st.text(max_size=20), st.text(max_size=20))
def test_ids_of_any_form_are_told_apart(one: str, other: str) -> None:
    value = seal(SECRET, "node", evolve(PASSED, request_id=one), NOW)
    if one == other:
        assert open_seal(SECRET, value, evolve(PASSED, request_id=other), NOW) == "node"
    else:
        with pytest.raises(Forbidden):
            open_seal(SECRET, value, evolve(PASSED, request_id=other), NOW)
