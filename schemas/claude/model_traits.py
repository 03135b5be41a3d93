"""What Claude's models take, by their ids: newer ones refuse what older ones are asked with.

Knows: which models can be sampled, which can be kept from thinking, and which go on with an answer
that was begun. Refuses to know: what is
asked, and which models the operator offers.

Source: the Messages API's documentation ("Messages", "Extended thinking", the migration guides),
and the catalogue inside the CLI, which answers the same questions by the same ids.
"""

from __future__ import annotations

import re
from functools import lru_cache

from attrs import frozen

_CLAUDE = re.compile(
    r"claude-(?:(?P<family>opus|sonnet|haiku)-)?(?P<major>\d)(?:[-.](?P<minor>\d))?(?!\d)"
)
_ALIAS = re.compile(r"(?:opus|sonnet|haiku|fable|mythos|best|default|opusplan)(?:\[\w+\])?")
"""The CLI's own names: each means the newest of a family, or what the operator makes of it."""

_LAST_SAMPLED = (4, 6)
_LAST_NOT_THINKING = (5, 0)
_LAST_CONTINUED = (4, 5)

_OLDEST, _NEWEST = (0, 0), (99, 0)


@frozen
class ModelTraits:
    """What a model takes.

    `takes_sampling`: `temperature` and `top_p` may be set; Claude's later models refuse both.
    `can_skip_thinking`: thinking may be disabled; a model that always thinks cannot be made to call
    a tool either, since the API refuses that beside thinking. `takes_begun_answer`: the last
    message may be the assistant's, for the model to go on with; Claude's later models refuse that.
    """

    takes_sampling: bool
    can_skip_thinking: bool
    takes_begun_answer: bool


@lru_cache(maxsize=256)
def traits_of(model: str) -> ModelTraits:
    """What `model` takes, by its id or the CLI's name for it."""
    version = _version(model.lower())
    return ModelTraits(
        takes_sampling=version <= _LAST_SAMPLED,
        can_skip_thinking=version <= _LAST_NOT_THINKING,
        takes_begun_answer=version <= _LAST_CONTINUED,
    )


def _version(name: str) -> tuple[int, int]:
    """Of Claude's, a name without a version counts as the newest; other makers' models count as the
    oldest: they have not these limits."""
    found = _CLAUDE.search(name)
    if found is not None:
        return int(found["major"]), int(found["minor"] or 0)
    return _NEWEST if "claude" in name or _ALIAS.fullmatch(name) else _OLDEST
