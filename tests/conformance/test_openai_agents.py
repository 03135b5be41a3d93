"""The openai-agents SDK runs its loop of tools over the gateway's Responses, on the real CLI."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import trio

from tests.support.messages_stub import ToolUse, call, say

from .gateway import open_gateway_for_clients
from .suites import Result, record_cases

PROGRAM = Path(__file__).parent / "agents_loop.py"
PATIENCE = 120.0


async def test_the_agents_sdk_runs_its_loops(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    async with open_gateway_for_clients(tmp_path) as (url, stub):
        stub.queue += [
            call(
                ToolUse("get_weather", {"city": "Paris"}, "toolu_1"),
                ToolUse("get_weather", {"city": "Rome"}, "toolu_2"),
                text="Let me see.",
            ),
            say("Sunny in both."),
            call(ToolUse("get_weather", {"city": "Oslo"}, "toolu_3")),
            say("Sunny in Oslo."),
            call(ToolUse("get_weather", {"city": "Bern"}, "toolu_4")),
            say("Sunny in Bern.", chunks=3),
            call(ToolUse("transfer_to_poet", {}, "toolu_5")),
            say("Roses are red."),
            say("Hello Ada."),
            say("Ada."),
        ]
        with trio.fail_after(PATIENCE):
            done = await trio.run_process(
                [sys.executable, str(PROGRAM)],
                env={
                    "PATH": "/usr/bin:/bin",
                    "HOME": str(tmp_path),
                    "CCAPI_TEST_BASE_URL": url,
                    "OPENAI_AGENTS_DISABLE_TRACING": "1",
                },
                capture_stdout=True,
                stderr=subprocess.STDOUT,
                check=False,
            )
    story = done.stdout.decode()
    assert done.returncode == 0, story
    found = json.loads(story.splitlines()[-1])
    assert found["loop"] == {"output": "Sunny in both.", "turns": 2}
    assert found["behind"]["output"] == "Sunny in Oslo."
    assert found["behind"]["last"].startswith("resp_")
    assert found["streamed"] == {"output": "Sunny in Bern.", "completed": 2}
    assert found["handoff"] == {"output": "Roses are red.", "agent": "Poet"}
    assert found["session"] == {"output": "Ada."}
    assert found["asked"] == ["Paris", "Rome", "Oslo", "Bern"]
    assert not stub.queue
    # What the tools said reached the model as the results of its calls.
    results = [
        block["tool_use_id"]
        for request in stub.requests
        for block in request.body["messages"][-1]["content"]
        if isinstance(block, dict) and block["type"] == "tool_result"
    ]
    assert [*dict.fromkeys(results)] == ["toolu_1", "toolu_2", "toolu_3", "toolu_4", "toolu_5"]
    record_cases(record_property, {"": Result(passed=len(found.keys() - {"asked"}))})
