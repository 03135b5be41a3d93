"""The anthropic Node SDK on the gateway: what `anthropic_sdk.mjs` saw."""

from __future__ import annotations

from pathlib import Path

import pytest

from . import node
from .anthropic_expected import EXPECTED
from .expected import HELLO
from .node import Seen


@pytest.fixture(scope="module")
def seen(node_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Seen:
    return node.run(node_folder / "anthropic_sdk.mjs", tmp_path_factory.mktemp("anthropic"))


@pytest.mark.parametrize("check", EXPECTED)
def test_check(seen: Seen, check: str) -> None:
    assert seen.by(check) == EXPECTED[check]


def test_an_aborted_stream_ends_the_turn(seen: Seen) -> None:
    assert seen.by("abort") == {"name": "APIUserAbortError", "early": True, "after": HELLO}
    assert seen.abandoned == 1
