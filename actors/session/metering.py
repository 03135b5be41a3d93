"""What the turns of one session cost its key, however they end.

Knows: which part of a turn's usage was counted, and which a child has not told the price of.
Refuses to know: limits, and how usage is kept (`Meter`).

* A turn ends with what it used (`End.used`), as its result or the API's messages say. Its charge is
  that, less what was counted before.
* A turn that asks the model several times is counted call by call, when the next call begins: if
  the gateway dies, only the running call is not counted.
* A turn that is cut short ends before its child has told what it cost. The child's result comes
  later (`Billed`), with the price, and with what subagents used: the difference is counted then. A
  child that is killed tells nothing more, and the price of what is open is estimated.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from attrs import define, field

from ...schemas.claude.prices import price_of
from ...schemas.turn import Usage
from ...transport.store.interface import Charge
from .events import Action, Billed, End
from .turn import TurnState

NOTHING = Usage()


class Meter(Protocol):
    """Where usage is counted (`actors.keys.limits.Limits`)."""

    def note(self, owner: str, usage: Usage) -> None:
        """The key has used this, which is written with the turn's end."""

    def write(self, owner: str, model: str, usage: Usage, turns: int = 0) -> None:
        """Have this written; it was noted before."""

    def spend(self, owner: str, model: str, usage: Usage, turns: int = 0) -> None:
        """The key has used this; have it written."""


@define(eq=False)
class TurnMeter:
    """Of one session. `_counted` is what was counted of the turn under way; `_open` what ended
    turns used whose results are still to come, and `_unpriced` what no price is known of yet."""

    owner: str
    meter: Meter
    _turn: TurnState | None = None
    _model: str = ""
    _counted: Usage = NOTHING
    _open: Usage = NOTHING
    _unpriced: Usage = NOTHING
    _child: object = None
    _whole: Usage = NOTHING  # of the answer, when it was counted last: most steps change nothing
    charges: dict[str, Charge] = field(factory=dict)

    def follow(self, actions: Iterable[Action], turn: TurnState | None, child: object) -> None:
        """The machine has taken a step: these are its actions, its turn and its child now. What
        each turn that has ended costs is in `charges`, by its id; a turn that never began costs
        nothing."""
        for action in actions:
            if type(action) is End:
                self._end(action)
            elif type(action) is Billed:
                self._bill(action.usage)
        if child is not self._child:
            self._child = child
            self._estimate()
        if turn is not self._turn:
            self._turn, self._counted = turn, NOTHING
        if turn is not None and turn.answer.whole_calls is not self._whole:
            self._whole = turn.answer.whole_calls
            rest = turn.used_by_whole_calls - self._counted
            if rest != NOTHING:
                self._counted += rest
                self.meter.spend(self.owner, turn.setup.model, rest)

    def _end(self, end: End) -> None:
        turn, self._turn = self._turn, None
        if turn is None or turn.turn_id != end.turn_id:
            self._turn = turn
            return
        rest, self._counted = end.used - self._counted, NOTHING
        self._model = end.model
        self.meter.note(self.owner, rest)
        self.charges[end.turn_id] = Charge(end.model, rest)
        if end.is_priced:
            self._open = self._unpriced = NOTHING
            return
        self._unpriced += end.used
        self._open += end.used

    def _bill(self, usage: Usage) -> None:
        more, self._open, self._unpriced = usage - self._open, NOTHING, NOTHING
        if more != NOTHING:
            self.meter.spend(self.owner, self._model, more)

    def _estimate(self) -> None:
        """The child that could have told the price is gone."""
        unpriced, self._open, self._unpriced = self._unpriced, NOTHING, NOTHING
        if unpriced.total_tokens:
            cost = price_of(self._model, unpriced)
            self.meter.spend(self.owner, self._model, Usage(cost_usd=cost))

    def close(self, *, is_kept: bool) -> None:
        """The session ends, in the middle of its turn if it has one. `is_kept`: the store counts
        the turn, as a lost one."""
        turn = self._turn
        if turn is not None:
            rest = turn.used - self._counted
            self._turn, self._model = None, turn.setup.model
            self._unpriced += turn.used
            self.meter.spend(self.owner, self._model, rest, 0 if is_kept else 1)
        self._estimate()
        self._child = None
