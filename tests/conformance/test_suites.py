"""The table of the suites is made from what pytest reports."""

from __future__ import annotations

from pathlib import Path

import pytest

from .__main__ import main
from .suites import SUITES, Result, read, record_cases, table

CASE = '<testcase classname="tests.conformance.{module}" name="{name}">{inside}</testcase>'


def report_of(tmp_path: Path, *cases: tuple[str, str, str]) -> Path:
    lines = [CASE.format(module=module, name=name, inside=inside) for module, name, inside in cases]
    path = tmp_path / "results.xml"
    path.write_text(f"<testsuites><testsuite>{''.join(lines)}</testsuite></testsuites>")
    return path


def by_module(path: Path, module: str, row: str | None = None) -> Result:
    return next(r for s, r in read(path).items() if (s.module, s.row) == (module, row))


def test_each_module_of_tests_of_a_client_is_a_suite() -> None:
    here = {path.stem for path in Path(__file__).parent.glob("test_*.py")}
    assert {suite.module for suite in SUITES} == here - {Path(__file__).stem}


def test_each_client_has_a_version() -> None:
    assert all(suite.client()[0].isdigit() for suite in SUITES)


def test_cases_are_counted_and_misses_explained(tmp_path: Path) -> None:
    path = report_of(
        tmp_path,
        ("test_litellm", "good", ""),
        ("test_litellm", "bad", '<failure message="no"/>'),
        ("test_litellm", "worse", '<error message="no"/>'),
        ("test_litellm", "known", '<skipped type="pytest.xfail" message="the CLI has no audio"/>'),
    )
    expected = Result(1, 2, {"known": "the CLI has no audio"})
    assert by_module(path, "test_litellm") == expected
    assert "known: the CLI has no audio" in list(table(read(path)))


def test_a_test_may_stand_for_many_cases(tmp_path: Path) -> None:
    kept: dict[str, object] = {}
    record_cases(kept.__setitem__, {"TestGateway": Result(2, 0, {"audio": "none here"})})
    value = str(kept["cases"]).replace('"', "&quot;")
    properties = f'<properties><property name="cases" value="{value}"/></properties>'
    path = report_of(tmp_path, ("test_langchain", "all", properties))
    result = by_module(path, "test_langchain", "TestGateway")
    assert result == Result(2, 0, {"audio": "none here"})


def test_what_did_not_run_or_is_stale_in_the_readme_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--results", str(report_of(tmp_path, ("test_litellm", "good", "")))]) == 1
    printed = capsys.readouterr().out
    assert "| not run | not run | not run |" in printed
    assert "README.md does not say: | LiteLLM" in printed
