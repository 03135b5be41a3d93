"""Three gateways behind haproxy are replaced one by one, and no client notices."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import trio

from tests.accidents.rolling_upgrade import upgrade_under_clients
from tests.support.postgres import Engine

ROUNDS = int(os.environ.get("CCAPI_TEST_UPGRADES", "1"))

pytestmark = pytest.mark.timeout(60 + 240 * ROUNDS)


async def test_no_request_fails_while_gateways_are_replaced(
    tmp_path: Path, postgres: Engine
) -> None:
    with trio.fail_after(60 + 200 * ROUNDS):
        work = await upgrade_under_clients(tmp_path, postgres.new_place(), ROUNDS)
    assert not work.failures, f"{work.done}\n" + "\n".join(work.failures)
    for name in ("chat by id", "chat by history", "tools", "responses", "background", "typed"):
        assert work.done[name] >= 3, work.done
    assert work.done["seen"], work.done
