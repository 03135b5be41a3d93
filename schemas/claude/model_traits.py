"""What Claude's models take, by their ids: newer ones refuse what older ones are asked with.

Knows: which models can be sampled, which can be kept from thinking, which go on with an answer that
was begun, how much each reads and writes, what it is called. Refuses to know: what is asked, and
which models the operator offers.

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


_ID_OF_FAMILY = re.compile(r"claude-([a-z]{1,20})-\d{1,2}(?:-\d{1,2})?(?:-20\d{6})?")


def family_of(model: str) -> str:
    """The family of the model with that id, by the CLI's name for its newest ("opus"); "" for what
    is no id of Claude's."""
    found = _ID_OF_FAMILY.fullmatch(model)
    return "" if found is None else found[1]


# -- sizes and names -------------------------------------------------------------------------------

_NAMED = re.compile(r"claude-(?:([a-z]+)-)?(\d)(?:[-.](\d))?(?!\d)(?:-([a-z]+))?")
_ONE_MILLION = re.compile(r"\[1m\]$")

MILLION = 1_000_000
_WINDOW = 200_000

_FIRST_WITH_MILLION = {"opus": (4, 7)}
_OTHERS_WITH_MILLION = (5, 0)
"""From which version on a model reads a million tokens by itself; before, with ``[1m]`` behind its
name, from version 4 on."""


@frozen
class ModelSizes:
    """`context` and `output` are in tokens: what it reads and writes at most, together and alone.
    `thinks`: it can think before it answers."""

    context: int
    output: int
    thinks: bool


@lru_cache(maxsize=256)
def sizes_of(model: str) -> ModelSizes | None:
    """How much one of Claude's models reads and writes, by its id or the CLI's name for it (which
    counts as the newest of its family); None for another maker's."""
    name = model.lower()
    found = _NAMED.search(name)
    if found is None and not ("claude" in name or _ALIAS.fullmatch(name)):
        return None
    family = name if found is None else found[1] or found[4] or ""
    version = _NEWEST if found is None else (int(found[2]), int(found[3] or 0))
    has_million = version >= _FIRST_WITH_MILLION.get(family, _OTHERS_WITH_MILLION)
    has_million |= bool(_ONE_MILLION.search(name)) and version >= (4, 0)
    return ModelSizes(
        context=MILLION if has_million else _WINDOW,
        output=_output(family, version),
        thinks=version >= (3, 7),
    )


def _output(family: str, version: tuple[int, int]) -> int:
    if version < (3, 7):
        return 8_192
    if family == "opus" and (4, 0) <= version < (4, 5):
        return 32_000
    return 64_000 if version < (4, 6) else 128_000


def title_of(model: str) -> str:
    """What people call a model: "Claude Opus 4.8"; another maker's by its id."""
    lowered = model.lower()
    found = _NAMED.search(lowered)
    alias = _ALIAS.fullmatch(lowered)
    if found is not None:
        family = (found[1] or found[4] or "").capitalize()
        version = found[2] if found[3] in (None, "0") else f"{found[2]}.{found[3]}"
        words = ["Claude", *([family] if family else []), version]
    elif alias is not None:
        words = ["Claude", _ONE_MILLION.sub("", lowered).capitalize()]
    else:
        return model
    return " ".join([*words, *(["(1M)"] if _ONE_MILLION.search(lowered) else [])])
