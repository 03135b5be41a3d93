"""What a check finds, and how it is shown.

Knows: the three states, one line for each finding, JSON. Refuses to know: what is looked at.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from typing import Any

from attrs import frozen

from ...schemas.convert import write_json


class State(Enum):
    """`WARNING`: turns are answered, but the operator has to know."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@frozen
class Finding:
    """`name`: what was looked at. `cure`: what the operator can do, empty where there is nothing to
    be done. Both texts are one line."""

    name: str
    state: State
    text: str
    cure: str = ""

    def lines(self) -> str:
        first = f"{self.state.value:<8} {self.name:<9} {_one_line(self.text)}"
        return first if not self.cure else f"{first}\n{'':<18} cure: {_one_line(self.cure)}"

    def body(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "state": self.state.value,
            "text": _one_line(self.text),
            "cure": _one_line(self.cure) or None,
        }


def ok(name: str, text: str) -> Finding:
    return Finding(name, State.OK, text)


def warning(name: str, text: str, cure: str) -> Finding:
    return Finding(name, State.WARNING, text, cure)


def failed(name: str, text: str, cure: str) -> Finding:
    return Finding(name, State.FAILED, text, cure)


def is_well(findings: Iterable[Finding]) -> bool:
    """Whether none of them keeps turns from being answered."""
    return all(each.state is not State.FAILED for each in findings)


def render_json(findings: Iterable[Finding]) -> str:
    """``{"ok": bool, "checks": [{"name", "state", "text", "cure"}]}``."""
    found = list(findings)
    return write_json({"ok": is_well(found), "checks": [each.body() for each in found]}).decode()


def _one_line(text: str) -> str:
    return " ".join(text.split())
