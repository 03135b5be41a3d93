"""Several gateways in the overview: what `nodes.mjs` saw."""

from __future__ import annotations

import re
from pathlib import Path

import httpx
import pytest
import trio

from tests.conformance.node import Seen, run_checks
from tests.support.embedded import SILENT
from tests.support.live import open_live_demo
from tests.support.nodes import open_demo_nodes


@pytest.fixture(scope="module")
def seen(
    browser_folder: Path,
    browser_environment: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Seen:
    home = tmp_path_factory.mktemp("nodes")

    async def work(url: str) -> None:
        """A turn that runs while the page is looked at."""
        messages = [{"role": "user", "content": SILENT}]
        async with httpx.AsyncClient(timeout=120, trust_env=False) as client:
            await client.post(f"{url}/v1/chat/completions", json={"messages": messages})

    async def go() -> Seen:
        async with (
            open_demo_nodes(home, 3) as nodes,
            open_live_demo(home / "alone") as alone,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(work, nodes[1].url)
            given = {
                **browser_environment,
                "CCAPI_TEST_BASE_URL": nodes[0].url,
                "CCAPI_TEST_ALONE_URL": alone.url,
            }
            lines, stderr = await run_checks(browser_folder / "nodes.mjs", home, given)
            nursery.cancel_scope.cancel()
        return Seen(lines, 0, stderr)

    return trio.run(go)


def test_each_of_several_gateways_has_a_row(seen: Seen) -> None:
    several = seen.by("several")
    assert several["head"] == [
        "Gateway", "Turns running", "Children", "Conversations", "Up for", "Database",
    ]  # fmt: skip
    rows = several["rows"]
    assert len(rows) == 3
    for row in rows:
        assert re.fullmatch(r"127\.0\.0\.1:\d+", row[0])
        assert re.fullmatch(r"\d+ of \d+", row[2])
        assert re.fullmatch(r"\d+ s", row[4])
        assert re.fullmatch(r"[\d.]+ ms", row[5])
    assert sorted(row[1] for row in rows) == ["0", "0", "1"]
    assert (several["wide"], several["errors"]) == (False, [])


def test_one_that_is_alone_has_none(seen: Seen) -> None:
    assert seen.by("alone") == {"shown": False}
