"""The pages for people: where they are, and the code blocks in them."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def read(page: str) -> str:
    return (ROOT / page).read_text("utf-8")


def ways_in(readme: str) -> str:
    """README.md without its reference."""
    before, found, _ = readme.partition("\n# Reference\n")
    assert found
    return before


def blocks(text: str) -> list[tuple[str, str]]:
    """The fenced code blocks, each as its language and its text."""
    return re.findall(r"(?ms)^```(\w+)\n(.*?)^```$", text)
