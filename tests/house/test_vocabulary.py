"""One vocabulary: the field's standard terms in code, tests, the page and the pages for people.

CONTRIBUTING.md says why. A row names what this project used to say, and what it says now.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("actors", "schemas", "transport", "tests", "examples")
TEXT = {".py", ".js", ".mjs", ".css", ".html", ".md"}
TEXTS = sorted(
    path
    for path in [*ROOT.glob("*.md"), *(p for folder in FOLDERS for p in (ROOT / folder).rglob("*"))]
    if path.suffix in TEXT and path != Path(__file__) and "node_modules" not in path.parts
)
PICTURES = ("overview_plan.js", "overview_picture.js", "app.js")
"""The page draws the overview as a house: these may say so."""

FORMER = {
    r"([Nn]o|[Ss]ome|[Aa]ny|[Ee]very)body(?![a-z])|\b([Ss]omeone|[Ww]hoever)\b": "the client",
    r"\b(is|are|was|were|be|been) told\b": "receives",
    r"\b(has|have|had|is|was|be|been) heard\b|\bunheard of\b": "receives, is published",
    r"\b(for|needs?|asks?|asked|gives?|given|without|with|them) leave\b|\b(ask|Asked)_?leave\b": (
        "permission"
    ),
    # The route and the message of the type `house` answer for one more release.
    r"""(?<![/"#|`])\b[Hh]ouse\b""": "overview, gateway",
    r"\bverdicts?\b|\b[Ss]poilt\b|\bCutOff\b|\bShortened\b": "outcome and its kinds",
    r"\balarms?\b|\b(UNANSWERED|NO_RESULTS|REPENTED|STUCK)\b": "timer and its names",
    r"\bjoin_events\b|\b(the|this|a|as) feeds?\b": "broadcast, conversation events",
    r"\bfaults\b|\b_?fault_of|_fault\b|\b_refusals?\b": "errors",
    r"\b(dialogue|tool_desk|permission_desk|[Dd]esk)\b": "prompt, tools, permissions",
    r"\b(session_words|response_words|stillborn|_take_back|_conclude)\b": "messages, abort, rewind",
    r"\b[Ss]cripted child\b": "demo CLI",
    r"\bsaid for long\b|\bwait already\b": "Idle timeout; At most N may be queued",
}


@cache
def text_of(path: Path) -> str:
    return path.read_text("utf-8")


def uses(pattern: str) -> list[str]:
    found = re.compile(pattern)
    return [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in TEXTS
        if found.search(text_of(path))
        for number, line in enumerate(text_of(path).splitlines(), 1)
        if found.search(line) and not (path.name in PICTURES and "house" in line)
    ]


@pytest.mark.parametrize("pattern", FORMER, ids=FORMER.values())
def test_no_text_uses_a_former_word(pattern: str) -> None:
    assert uses(pattern) == []


@pytest.mark.parametrize(
    ("line", "is_former"),
    [
        ("Somebody asks.", True),
        ("it asks leave for", True),
        ("leave the block", False),
        ("the house at rest", True),
        ('"/v1/house"', False),
        ("tests/house", False),
        ("the client is told", True),
        ("_fault(error)", True),
        ("default", False),
    ],
)
def test_former_words_are_recognised(line: str, is_former: bool) -> None:
    assert any(re.search(pattern, line) for pattern in FORMER) is is_former


def test_there_is_something_to_read() -> None:
    assert len(TEXTS) > 500
