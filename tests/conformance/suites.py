"""The conformance suites, and their table, made from what pytest reports.

Knows which test module tries which client, the clients' versions, and pytest's JUnit XML. Refuses
to know how a suite is run. A test that is expected to fail (`xfail`) is a miss, and its reason the
explanation; a test that stands for many cases of a client's own records them by `record_cases`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from attrs import define, field, frozen

HERE = Path(__file__).parent
_CASES = "cases"


def of_environment(package: str) -> Callable[[], str]:
    return lambda: version(package)


def of_npm(package: str, folder: Path = HERE) -> Callable[[], str]:
    def read() -> str:
        return str(json.loads((folder / "package.json").read_text())["dependencies"][package])

    return read


def of_lock(client: str, package: str) -> Callable[[], str]:
    def read() -> str:
        pins = (HERE / "locks" / f"{client}.txt").read_text().splitlines()
        [found] = [
            pin.removeprefix(f"{package}==") for pin in pins if pin.startswith(f"{package}==")
        ]
        return found

    return read


@frozen
class Suite:
    """`module` holds its tests; `row` is which of the rows that this module records it is."""

    about: str
    module: str
    client: Callable[[], str]
    row: str | None = None


_LANGCHAIN = of_environment("langchain-openai")

SUITES = (
    Suite(
        "LangChain's `ChatModelIntegrationTests` with `ChatOpenAI`, default model",
        "test_langchain",
        _LANGCHAIN,
        "TestGateway",
    ),
    Suite(
        "its tools and structured output by forced tool calls, with `claude-sonnet-5`",
        "test_langchain",
        _LANGCHAIN,
        "TestForcedToolChoice",
    ),
    Suite(
        "the same with the default model, which is asked in words",
        "test_langchain",
        _LANGCHAIN,
        "TestToolChoiceInWords",
    ),
    Suite(
        "its `ChatModelIntegrationTests` with `ChatAnthropic`, default model",
        "test_langchain_anthropic",
        of_environment("langchain-anthropic"),
        "TestGateway",
    ),
    Suite(
        "its tools and structured output by forced tool calls, with `claude-sonnet-5`, too",
        "test_langchain_anthropic",
        of_environment("langchain-anthropic"),
        "TestForcedToolChoice",
    ),
    Suite(
        "LangChain JS (`@langchain/openai`): turns, tool loops, structured output, Responses",
        "test_langchain_js",
        of_npm("@langchain/openai"),
    ),
    Suite(
        "openai Node SDK: chat, streams, tools and its tool loop, images, parsed output, limits, "
        "errors, abort",
        "test_node_openai",
        of_npm("openai"),
    ),
    Suite(
        "anthropic Python SDK: messages, streams, tool runners, thinking, documents, parsed "
        "output, errors, retries, batches",
        "test_anthropic_sdk",
        of_environment("anthropic"),
    ),
    Suite(
        "anthropic Node SDK: the same",
        "test_node_anthropic",
        of_npm("@anthropic-ai/sdk"),
    ),
    Suite(
        "AI SDK (`@ai-sdk/openai-compatible`): the same, and objects, steps, streamed objects",
        "test_ai_sdk",
        of_npm("@ai-sdk/openai-compatible"),
    ),
    Suite(
        "AI SDK, default provider (`@ai-sdk/openai`, Responses): turns and tool loops that name "
        "earlier items",
        "test_ai_sdk_responses",
        of_npm("@ai-sdk/openai"),
    ),
    Suite(
        "AI SDK (`@ai-sdk/anthropic`): the same over the Messages API, with signed reasoning",
        "test_ai_sdk_anthropic",
        of_npm("@ai-sdk/anthropic"),
    ),
    Suite(
        "openai-agents SDK: tool loops on Responses, a stream, a handoff, a session",
        "test_openai_agents",
        of_environment("openai-agents"),
    ),
    Suite(
        "LiteLLM: turns, streams, tools, structured output, its errors, its router, Responses, "
        "Messages",
        "test_litellm",
        of_lock("litellm", "litellm"),
    ),
    Suite(
        "instructor: its modes (tools forced and asked for, JSON, Responses), partial and repeated "
        "answers",
        "test_instructor",
        of_lock("instructor", "instructor"),
    ),
    Suite(
        "pydantic-ai: agents with tools, each kind of output, streams, thinking, Responses",
        "test_pydantic_ai",
        of_lock("pydantic_ai", "pydantic-ai-slim"),
    ),
    Suite(
        "Claude Code (`claude -p`): its tools, 20 rounds of them, a subagent, pictures, sessions, "
        "streams, keys",
        "test_claude",
        of_environment("claude-agent-sdk"),
    ),
    Suite(
        "Codex CLI (`codex exec`): tool loop, `apply_patch`, namespaces, images, output schema, "
        "resume, WebSocket",
        "test_codex",
        of_npm("@openai/codex", HERE / "codex"),
    ),
    Suite(
        "opencode (`opencode run`): turns, its tools, sessions, images, chat, Responses, Messages",
        "test_opencode",
        of_npm("opencode-linux-x64-baseline", HERE / "opencode"),
    ),
    Suite(
        "Cline (`cline --json`): a turn, its tools, errors, by its entry for Anthropic's API",
        "test_cline",
        of_npm("@cline/cli-linux-x64", HERE / "cline"),
    ),
    Suite(
        "Open Responses, edition 2026-04-24: what its suite asks, by its schema, over HTTP and "
        "WebSocket",
        "test_open_responses",
        lambda: "2026-04-24",
    ),
)


@define
class Result:
    """What came of one suite; `missed` gives the reason by case."""

    passed: int = 0
    failed: int = 0
    missed: dict[str, str] = field(factory=dict)

    @property
    def total(self) -> int:
        return self.passed + self.failed + len(self.missed)


def record_cases(record: Callable[[str, object], None], rows: Mapping[str, Result]) -> None:
    """Say which cases stand behind the running test; `record` is pytest's `record_property`."""
    written = {
        row: {"passed": result.passed, "failed": result.failed, "missed": result.missed}
        for row, result in rows.items()
    }
    record(_CASES, json.dumps(written))


def read(report: Path) -> dict[Suite, Result]:
    """Return what came of each suite by a JUnit XML report; one that did not run has no case."""
    results = {suite: Result() for suite in SUITES}
    for case in ElementTree.parse(report).iter("testcase"):
        module = (case.get("classname") or "").rpartition(".")[2]
        suites = [suite for suite in SUITES if suite.module == module]
        recorded = case.find(f"properties/property[@name='{_CASES}']")
        if recorded is None:
            for suite in suites:
                _count(results[suite], case)
            continue
        rows: dict[str, Any] = json.loads(recorded.get("value") or "{}")
        for suite in suites:
            found = rows.get(suite.row or "", {})
            results[suite] = Result(**found)
    return results


def _count(result: Result, case: ElementTree.Element) -> None:
    skipped = case.find("skipped")
    if skipped is not None:
        result.missed[case.get("name") or ""] = skipped.get("message") or "not explained"
    elif case.find("failure") is not None or case.find("error") is not None:
        result.failed += 1
    else:
        result.passed += 1


def table(results: Mapping[Suite, Result]) -> Iterable[str]:
    """The lines of the table, and of what explains its misses."""
    yield "| suite | client | passed | failed | explained misses |"
    yield "|---|---|---|---|---|"
    for suite, found in results.items():
        cells = (found.passed, found.failed, len(found.missed)) if found.total else ("not run",) * 3
        yield f"| {suite.about} | {suite.client()} | {' | '.join(map(str, cells))} |"
    missed = {case: why for found in results.values() for case, why in found.missed.items()}
    if missed:
        yield ""
        yield from (f"{case}: {why}" for case, why in missed.items())


def rows_of_readme(results: Mapping[Suite, Result]) -> list[str]:
    """The rows that README's table has to hold."""
    return [f"| {suite.about} | {r.passed} of {r.total} |" for suite, r in results.items()]
