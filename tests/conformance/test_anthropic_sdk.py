"""The anthropic Python SDK on the gateway: what `anthropic_suite.py` saw."""

from __future__ import annotations

import sys

import pytest

from . import checks
from .anthropic_expected import EXPECTED
from .checks import Seen
from .expected import COUNTED, HELLO


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Seen:
    command = [sys.executable, "-m", f"{__package__}.anthropic_suite"]
    return checks.run(command, tmp_path_factory.mktemp("anthropic"))


@pytest.mark.parametrize("check", EXPECTED)
def test_check(seen: Seen, check: str) -> None:
    assert seen.by(check) == EXPECTED[check]


def test_a_stream_that_is_left_ends_the_turn(seen: Seen) -> None:
    assert seen.by("abort") == {"early": True, "after": HELLO}
    assert seen.abandoned == 1


def test_the_client_without_asyncio(seen: Seen) -> None:
    assert seen.by("without_asyncio") == COUNTED
