"""Which system prompts a new child learns: those that a key's conversations begin with most.

Knows: how often each was asked for, with what was long ago counting less. Refuses to know: children
(`actors.pool.pool`), and how a child learns a prompt (`schemas.claude.input.initialize`).

A child can change to a prompt that it learnt at its initialize, and to no other. So what the next
children learn decides how many conversations find a child that only has to be emptied. Example: a
key begins conversations with the prompts A, B and C. The first child learns A, the second B and A,
the third C, A and B; from then on every child that starts learns all three.
"""

from __future__ import annotations

import math
from collections import OrderedDict

HALF_LIFE = 3600.0
"""Seconds after which a use counts half."""

MAX_OWNERS = 1000
MAX_REMEMBERED = 64
"""Prompts that are counted for each key, the least used given up first."""

MAX_CHARACTERS = 1_000_000
"""What the prompts of one palette may have together: a child reads them all when it starts."""


class PromptUse:
    """Uses of system prompts by key. `size` bounds a palette; 0: children learn one prompt each."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._uses: OrderedDict[str, dict[str, float]] = OrderedDict()

    def __repr__(self) -> str:
        return f"<PromptUse {sum(map(len, self._uses.values()))} prompts>"

    def note(self, owner: str, prompt: str, now: float) -> None:
        """A conversation of this key wants a child with this prompt, at `now` seconds."""
        if not prompt or not self._size:
            return
        uses = self._uses.setdefault(owner, {})
        self._uses.move_to_end(owner)
        # A use counts more the later it is: so nothing has to be made smaller as time passes.
        score = now / HALF_LIFE
        held = uses.get(prompt)
        uses[prompt] = score if held is None else _log_add(held, score)
        if len(uses) > MAX_REMEMBERED:
            del uses[min(uses, key=lambda each: uses[each])]
        if len(self._uses) > MAX_OWNERS:
            self._uses.popitem(last=False)

    def palette(self, owner: str) -> tuple[str, ...]:
        """The prompts that this key's next child should learn, the most used first."""
        uses = self._uses.get(owner, {})
        chosen: list[str] = []
        characters = 0
        for prompt in sorted(uses, key=lambda each: uses[each], reverse=True):
            if len(chosen) == self._size:
                break
            characters += len(prompt)
            if characters > MAX_CHARACTERS:
                break
            chosen.append(prompt)
        return tuple(chosen)


def _log_add(one: float, other: float) -> float:
    """The logarithm to base 2 of the sum of what these are logarithms of."""
    high, low = max(one, other), min(one, other)
    return high + math.log2(1 + 2.0 ** (low - high))
