"""LangChain on the gateway: its standard tests of a chat model, all of those that are declared."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import trio

from .gateway import open_gateway_for_clients
from .suites import Result, record_cases

HERE = Path(__file__).parent
PATIENCE = 300.0
"""Seconds for all of it; ample, so that only tests that hang reach it."""

NOT_DECLARED = {
    "test_anthropic_inputs": "Anthropic's own message format; OpenAI's is spoken here",
    "test_audio_inputs": "audio; the CLI has none",
    "test_stream_time": "the timing of recorded HTTP; there is nothing to record",
}
"""What LangChain skips, because `langchain_suite` does not declare it, and why."""


async def test_langchains_own_tests_pass(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    report, output = tmp_path / "report.xml", tmp_path / "output.txt"
    done: subprocess.CompletedProcess[bytes] | None = None
    with output.open("wb") as stdout:
        async with open_gateway_for_clients(tmp_path) as (url, _):
            with trio.move_on_after(PATIENCE):
                done = await trio.run_process(
                    [*command(), "--junit-xml", str(report)],
                    env={
                        "PATH": "/usr/bin:/bin",
                        "HOME": str(tmp_path),
                        "CCAPI_TEST_BASE_URL": url,
                        "LANGSMITH_TRACING": "false",
                    },
                    stdout=stdout,
                    stderr=subprocess.STDOUT,
                    check=False,
                )
    story = output.read_text("utf-8")
    assert done is not None, f"not done in {PATIENCE:.0f} s\n{story}"
    assert report.exists(), story
    cases = list(ElementTree.parse(report).iter("testcase"))
    record_cases(record_property, rows_of(cases))
    assert done.returncode == 0, story
    skipped = [case for case in cases if case.find("skipped") is not None]
    assert {case.get("name", "") for case in skipped} == NOT_DECLARED.keys()
    assert all((case.get("classname") or "").endswith("TestGateway") for case in skipped)
    assert len(cases) - len(skipped) > 55


def rows_of(cases: list[ElementTree.Element]) -> dict[str, Result]:
    """Return what came of each class of `langchain_suite`."""
    rows: dict[str, Result] = {}
    for case in cases:
        result = rows.setdefault((case.get("classname") or "").rpartition(".")[2], Result())
        name = case.get("name", "")
        if case.find("skipped") is not None:
            result.missed[name] = NOT_DECLARED.get(name, "not explained")
        elif case.find("failure") is not None or case.find("error") is not None:
            result.failed += 1
        else:
            result.passed += 1
    return rows


def command() -> list[str]:
    # The second class is there for these; the rest would be the same again.
    chosen = "TestGateway or structured or tool_choice or tool_calling"
    pytest = [sys.executable, "-m", "pytest", "-c", str(HERE / "langchain.ini")]
    return [*pytest, "--rootdir", str(HERE), "-k", chosen, str(HERE / "langchain_suite.py")]
