"""Fixtures of the browser suite.

The suite holds that the page does what it promises in a real browser (Debian's chromium), in front
of a gateway with the real CLI. Screenshots are kept in `.artefacts/`.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.conformance import node

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def browser_folder(pytestconfig: pytest.Config) -> Path:
    """The scripts beside their installed packages, which are kept from run to run."""
    assert pytestconfig.cache is not None
    return node.install(pytestconfig.cache.mkdir("browser"), HERE)


@pytest.fixture(scope="session")
def browser_environment(pytestconfig: pytest.Config) -> dict[str, str]:
    """Which browser the scripts start, and where they put their screenshots."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    assert chromium, "chromium is missing; the page is tried with it"
    artefacts = pytestconfig.rootpath / ".artefacts"
    artefacts.mkdir(exist_ok=True)
    return {"CCAPI_TEST_CHROMIUM": chromium, "CCAPI_TEST_ARTEFACTS": str(artefacts)}
