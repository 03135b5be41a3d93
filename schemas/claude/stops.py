"""Stop texts: where an answer is cut, although the model went on.

Knows: text in pieces. Refuses to know: what else ends an answer.
"""

from __future__ import annotations

from collections.abc import Sequence


class StopCutter:
    """Passes text on, piece by piece, up to the first stop text in it: the one that is complete
    first, as a model that stops by itself would do it. So the pieces make no difference.

    What might still be the beginning of a stop text is held back until it is known to be none.
    `cut` is True once a stop text was met, and `met` is that text; nothing is passed on after that.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self.cut = False
        self.met: str | None = None
        self._held = ""
        self._stops = tuple(stop for stop in stops if stop)

    def feed(self, text: str) -> str:
        """The text that is safe to pass on now, perhaps none."""
        if self.cut:
            return ""
        text = self._held + text
        met = [(at + len(stop), at, stop) for stop in self._stops if (at := text.find(stop)) >= 0]
        if met:
            _, at, self.met = min(met)  # of two that end at one place, the longer one counts
            self.cut, self._held = True, ""
            return text[:at]
        keep = self._doubtful(text)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def finish(self) -> str:
        """The text ends: what was held back is no stop text after all."""
        held, self._held = self._held, ""
        return held

    def _doubtful(self, text: str) -> int:
        """How many characters at the end may be the beginning of a stop text."""
        longest = max(map(len, self._stops), default=1) - 1
        for size in range(min(longest, len(text)), 0, -1):
            end = text[-size:]
            if any(stop.startswith(end) for stop in self._stops):
                return size
        return 0
