"""What the gateway keeps for one key, as far as the items of a request may refer to it.

Knows: in which response, or conversation, an item of a given id stands, and who may open a
compaction. Refuses to know: how items are read (`schemas.openai.items`,
`schemas.openai.foreign_items`).
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

import trio

from ...schemas.errors import NotFound
from ...schemas.openai.compactions import with_preface
from ...schemas.openai.conversation_events import encode_turn
from ...schemas.openai.output_items import JSON, encode_messages, hex_of
from ...schemas.openai.response_events import Ending, encode_response
from ...schemas.turn_items import TurnItem

if TYPE_CHECKING:
    from ..gateway import Gateway
    from ..watching.history import TurnRecord
    from .record import Record
    from .store import ResponseStore


_TURN = re.compile(r"([0-9a-f]{32})_")


class KeptItems:
    """For one request of `owner`'s: what it was asked once is not looked for again. `shelf` has
    responses of its connection alone. It may be asked in a thread of trio's, too."""

    def __init__(self, gateway: Gateway, owner: str, shelf: ResponseStore | None = None) -> None:
        self._gateway = gateway
        self._owner = owner
        self._stores = (gateway.responses,) if shelf is None else (shelf, gateway.responses)
        self._found: dict[str, dict[str, JSON]] = {}  # items by id, by their turn
        self._turns: dict[str, TurnRecord] | None = None

    def item(self, item_id: str) -> JSON | None:
        """An item of a stored response (what was asked, too), or of a conversation."""
        _, _, place = item_id.partition("_")  # msg_TURN_2
        turn, _, _ = place.rpartition("_")
        if (named := _TURN.match(place)) is not None:
            turn = named[1]  # what follows may be the id of a call
        if turn not in self._found:
            self._found[turn] = {item["id"]: item for item in self._items_of(turn)}
        return self._found[turn].get(item_id)

    def summary(self, sealed: str) -> str | None:
        summary = self._gateway.seals.open(self._owner, sealed)
        return None if summary is None else with_preface(summary)

    def _items_of(self, turn: str) -> list[JSON]:
        # What is kept belongs to the event loop, what was found there to its finder.
        if trio.lowlevel.in_trio_run():
            return self._find(turn)()
        found = trio.from_thread.run(self._find_anywhere, turn)
        return found()

    async def _find_anywhere(self, turn: str) -> Callable[[], list[JSON]]:
        """Looks for the response in the store too."""
        found = self._find(turn)
        if found is list:
            with suppress(NotFound):
                record = await self._gateway.kept_responses.find(f"resp_{turn}", self._owner)
                return partial(_of_response, record, tuple(record.items), record.ending)
        return found

    def _find(self, turn: str) -> Callable[[], list[JSON]]:
        """What encodes the items."""
        for store in self._stores:
            with suppress(NotFound):
                record = store.find(f"resp_{turn}", self._owner, time.time())
                return partial(_of_response, record, tuple(record.items), record.ending)
        if self._turns is None:
            turns = self._gateway.turns_of(self._owner)
            self._turns = {hex_of(record.turn_id): record for record in turns}
        found = self._turns.get(turn)
        return list if found is None else partial(_of_turn, found)


def _of_response(record: Record, items: Sequence[TurnItem], ending: Ending | None) -> list[JSON]:
    asked = encode_messages(record.asked, record.heading.turn_id, system=record.said)
    return [*asked, *encode_response(record.heading, items, ending)["output"]]


def _of_turn(turn: TurnRecord) -> list[JSON]:
    return encode_turn(turn.turn_id, turn.messages, turn.output, turn.finish_reason)
