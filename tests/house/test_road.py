"""How many of the gateway's frames a streamed request and each of its tokens pass. The figures do
not depend on the machine's speed; `python -m tests.bench.road` prints which frames they are."""

from functools import partial

import pytest
import trio

from ..bench.road import Road, walk

TOKEN_CALLS = 25
REQUEST_CALLS = {False: 350, True: 370}
"""By whether the turn is stored before its prompt is written."""

REQUEST_FILES = {False: 61, True: 65}


@pytest.fixture(scope="module", params=[False, True], ids=["in memory", "stored"])
def walked(request: pytest.FixtureRequest) -> tuple[bool, Road]:
    persist = bool(request.param)
    return persist, trio.run(partial(walk, persist=persist))


def test_a_token_passes_few_calls(walked: tuple[bool, Road]) -> None:
    _, road = walked
    assert road.tokens >= 10
    assert road.per_token <= TOKEN_CALLS


def test_a_request_passes_few_calls_and_files(walked: tuple[bool, Road]) -> None:
    persist, road = walked
    files = {place for place, _, _ in road.request}
    assert len(road.request) <= REQUEST_CALLS[persist]
    assert len(files) <= REQUEST_FILES[persist]
