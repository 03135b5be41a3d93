"""Permission for an agent's tools: what the CLI suggests to allow for longer, and what is kept of
it.

Knows: the CLI's permission updates and rules (Claude Code documentation, "Configure permissions":
``Tool`` or ``Tool(pattern)``). Refuses to know: which rule fits which call (the CLI decides that),
and who answers (`actors.session.permissions`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from attrs import frozen

EDITS = ("Edit", "Write", "NotebookEdit")
"""What the CLI's mode ``acceptEdits`` allows, as rules."""


@frozen
class Suggestion:
    """What may be allowed in this conversation from now on. `rules` are what is remembered,
    `update` is what the child receives."""

    id: str
    rules: tuple[str, ...]
    update: Mapping[str, Any]

    @property
    def label(self) -> str:
        return ", ".join(self.rules)


def read_suggestions(given: Sequence[Mapping[str, Any]], tool: str) -> tuple[Suggestion, ...]:
    """What is suggested for a call of `tool`, the narrowest first, and the tool as such at last."""
    found: dict[tuple[str, ...], Mapping[str, Any]] = {}
    for update in given:
        rules = _rules(update)
        if rules:
            found.setdefault(rules, {**update, "destination": "session"})
    found.setdefault(
        (tool,),
        {
            "type": "addRules",
            "rules": [{"toolName": tool}],
            "behavior": "allow",
            "destination": "session",
        },
    )
    return tuple(
        Suggestion(f"s{index}", rules, update)
        for index, (rules, update) in enumerate(found.items())
    )


def _rules(update: Mapping[str, Any]) -> tuple[str, ...]:
    """The rules that an update adds; none for one that does something else."""
    match update:
        case {"type": "addRules", "behavior": "allow", "rules": [*rules]}:
            return tuple(spelt for rule in rules if (spelt := _spell(rule)))
        case {"type": "setMode", "mode": "acceptEdits"}:
            return EDITS
    return ()


def _spell(rule: Any) -> str:
    match rule:
        case {"toolName": str(tool), "ruleContent": str(content)}:
            return f"{tool}({content})"
        case {"toolName": str(tool)}:
            return tool
    return ""
