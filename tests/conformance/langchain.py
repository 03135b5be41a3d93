"""LangChain's own tests on a live gateway: run them in a process of their own, count what passed.

Knows pytest and what it reports. Refuses to know which model they try.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from xml.etree import ElementTree

import trio
from attrs import frozen

from .gateway import open_gateway_for_clients
from .suites import Result, record_cases

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PATIENCE = 300.0
"""Seconds for all of it; ample, so that only tests that hang reach it."""


@frozen
class Suite:
    """`module` holds the tests; `not_declared` is what LangChain skips because the module does not
    declare it, with the reasons."""

    module: str
    not_declared: Mapping[str, str]


async def run(suite: Suite, tmp_path: Path, record: Callable[[str, object], None]) -> int:
    """Run the suite on a gateway of its own, and return how many of its tests passed; `record` is
    pytest's `record_property`. Raises AssertionError where a test failed, or was skipped that is
    not among those of `TestGateway` that are not declared."""
    report, output = tmp_path / "report.xml", tmp_path / "output.txt"
    done: subprocess.CompletedProcess[bytes] | None = None
    with output.open("wb") as stdout:
        async with open_gateway_for_clients(tmp_path) as (url, _):
            with trio.move_on_after(PATIENCE):
                done = await trio.run_process(
                    [*command(suite), "--junit-xml", str(report)],
                    cwd=ROOT,
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
    record_cases(record, rows_of(suite, cases))
    assert done.returncode == 0, story
    skipped = [case for case in cases if case.find("skipped") is not None]
    assert {case.get("name", "") for case in skipped} == suite.not_declared.keys()
    assert all((case.get("classname") or "").endswith("TestGateway") for case in skipped)
    return len(cases) - len(skipped)


def rows_of(suite: Suite, cases: list[ElementTree.Element]) -> dict[str, Result]:
    """Return what came of each class of the suite."""
    rows: dict[str, Result] = {}
    for case in cases:
        result = rows.setdefault((case.get("classname") or "").rpartition(".")[2], Result())
        name = case.get("name", "")
        if case.find("skipped") is not None:
            result.missed[name] = suite.not_declared.get(name, "not explained")
        elif case.find("failure") is not None or case.find("error") is not None:
            result.failed += 1
        else:
            result.passed += 1
    return rows


def command(suite: Suite) -> list[str]:
    # The other classes are there for these; the rest would be the same again.
    chosen = "TestGateway or structured or tool_choice or tool_calling"
    pytest = [sys.executable, "-m", "pytest", "-c", str(HERE / "langchain.ini")]
    return [*pytest, "--rootdir", str(ROOT), "-k", chosen, str(HERE / f"{suite.module}.py")]
