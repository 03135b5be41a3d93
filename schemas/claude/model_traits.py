"""What Claude's models take, by their ids: newer ones refuse what older ones are asked with.

Knows: which models can be sampled, which can be kept from thinking, and which go on with an answer
that was begun. Refuses to know: what is
asked, and which models the operator offers.

Source: the Messages API's documentation ("Messages", "Extended thinking", the migration guides),
and the catalogue inside the CLI, which answers the same questions by the same ids.
"""

from __future__ import annotations

import re

_CLAUDE = re.compile(
    r"claude-(?:(?P<family>opus|sonnet|haiku)-)?(?P<major>\d)(?:[-.](?P<minor>\d))?(?!\d)"
)
_ALIAS = re.compile(r"(?:opus|sonnet|haiku|fable|mythos|best|default|opusplan)(?:\[\w+\])?")
"""The CLI's own names: each means the newest of a family, or what the operator makes of it."""

_LAST_SAMPLED = (4, 6)
_LAST_SILENT = (5, 0)
_LAST_CONTINUED = (4, 5)


def takes_sampling(model: str) -> bool:
    """Whether `temperature` and `top_p` may be set; Claude's later models refuse both."""
    return _is_up_to(model, _LAST_SAMPLED)


def can_be_kept_from_thinking(model: str) -> bool:
    """Whether thinking may be disabled. A model that always thinks cannot be made to call a tool
    either: the API refuses that beside thinking."""
    return _is_up_to(model, _LAST_SILENT)


def takes_begun_answer(model: str) -> bool:
    """Whether the last message may be the assistant's, for the model to go on with; Claude's later
    models refuse that."""
    return _is_up_to(model, _LAST_CONTINUED)


def _is_up_to(model: str, last: tuple[int, int]) -> bool:
    """Whether `model` is not newer than version `last`. Of Claude's, a name without a version
    counts as the newest; other makers' models count as the oldest: they have not these limits."""
    name = model.lower()
    found = _CLAUDE.search(name)
    if found is not None:
        return (int(found["major"]), int(found["minor"] or 0)) <= last
    return "claude" not in name and _ALIAS.fullmatch(name) is None
