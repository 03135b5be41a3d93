"""Fixtures of the fidelity suite.

The suite holds that what a client of ``/v1/chat/completions`` says reaches the Messages API as it
was said, and that the client receives what came of it: real HTTP in front, the real CLI in between,
a stub of the API behind. A module shares one gateway, since each takes a second to start.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .served import Served, open_served


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with open_served(tmp_path_factory.mktemp("served")) as served:
        yield served


@pytest.fixture
def served(shared: Served) -> Served:
    """The module's gateway, its API with nothing queued."""
    shared.begin()
    return shared
