"""How many of the gateway's frames a streamed request and each of its tokens pass. The figures do
not depend on the machine's speed; `python -m tests.bench.road` prints which frames they are."""

import pytest
import trio

from ..bench.road import Road, walk

TOKEN_CALLS, REQUEST_CALLS, REQUEST_FILES = 25, 350, 60


@pytest.fixture(scope="module")
def road() -> Road:
    return trio.run(walk)


def test_a_token_passes_few_calls(road: Road) -> None:
    assert road.tokens >= 10
    assert road.per_token <= TOKEN_CALLS


def test_a_request_passes_few_calls_and_files(road: Road) -> None:
    files = {place for place, _, _ in road.request}
    assert len(road.request) <= REQUEST_CALLS
    assert len(files) <= REQUEST_FILES
