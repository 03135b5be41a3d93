"""Three nodes on one PostgreSQL while nodes, links and the engine fail, judged by a checker that
shares nothing with them; and whether that checker would see it if they did wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from ..accidents.run import have_accidents

SLOW = 30.0
"""How long a takeover may take on a machine that runs other tests too: it does not hang. (Figures
are for a machine that does nothing else: `python -m tests.accidents`.)"""

pytestmark = pytest.mark.timeout(240)


async def test_no_accident_loses_or_repeats_what_was_acknowledged(tmp_path: Path) -> None:
    with trio.fail_after(180):
        run = await have_accidents(tmp_path, 20)
    assert run.report.violations == [], run.table
    assert run.report.acknowledged > 50, run.table
    assert sum(run.accidents.values()) >= 3, run.table
    # Our own errors: an accident is no excuse.
    assert not any("internal_error" in code for code in run.report.codes), run.table
    took = sorted(run.takeovers.get("kill", []) + run.takeovers.get("stop", []))
    assert all(each < SLOW for each in took), run.table


async def test_without_its_checks_the_store_is_found_out(tmp_path: Path) -> None:
    with trio.fail_after(180):
        run = await have_accidents(tmp_path, 7, kinds=("stop", "engine-link"), unfenced=True)
    assert run.report.old_tokens, run.table
