"""How many of the gateway's frames a streamed request and each of its tokens pass.

`python -m tests.bench.road` prints which frames they are. The figures hardly depend on the speed of
the machine: a few frames are of timers that a busy one lets run in between, so the shortest of a
few walks counts.
"""

from functools import partial

import pytest
import trio

from ..bench.road import Road, walk

WALKS = 3
TOKEN_CALLS = 26
REQUEST_CALLS = {False: 395, True: 406}
"""By whether the turn is stored before its prompt is written."""

REQUEST_FILES = {False: 68, True: 71}


@pytest.fixture(scope="module", params=[False, True], ids=["in memory", "stored"])
def walked(request: pytest.FixtureRequest) -> tuple[bool, list[Road]]:
    persist, roads = bool(request.param), list[Road]()
    while len(roads) < WALKS:
        road = trio.run(partial(walk, persist=persist))
        roads.append(road)
        if len(road.request) <= REQUEST_CALLS[persist] and road.per_token <= TOKEN_CALLS:
            break
    return persist, roads


def test_a_token_passes_few_calls(walked: tuple[bool, list[Road]]) -> None:
    _, roads = walked
    assert min(road.tokens for road in roads) >= 10
    assert min(road.per_token for road in roads) <= TOKEN_CALLS


def test_a_request_passes_few_calls_and_files(walked: tuple[bool, list[Road]]) -> None:
    persist, roads = walked
    road = min(roads, key=lambda each: len(each.request))
    files = {place for place, _, _ in road.request}
    assert len(road.request) <= REQUEST_CALLS[persist]
    assert len(files) <= REQUEST_FILES[persist]
