"""Fixtures of the conformance suite.

The suite holds that real OpenAI clients work with the gateway: each runs as its users run it, in a
process of its own, told nothing but a base URL; behind the gateway are the real CLI and a competent
model on loopback.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from . import node


@pytest.fixture(scope="session")
def node_folder(pytestconfig: pytest.Config) -> Path:
    """The Node scripts beside their installed packages, which are kept from run to run."""
    assert pytestconfig.cache is not None
    return node.install(pytestconfig.cache.mkdir("conformance"))


@pytest.fixture(scope="session")
def python_folder(pytestconfig: pytest.Config) -> Path:
    """Where the environments of the Python clients are, which are kept from run to run."""
    assert pytestconfig.cache is not None
    return pytestconfig.cache.mkdir("conformance-python")
