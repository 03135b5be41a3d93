"""What the gateway keeps for one key, as far as the items of a request may refer to it.

Knows: in which response, or conversation, an item of a given id stands, and who may open a
compaction. Refuses to know: how items are read (`schemas.items`, `schemas.foreign_items`).
"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING

from ..schemas.compactions import tell
from ..schemas.errors import NotFound
from ..schemas.items_out import JSON, encode_messages, hex_of
from ..schemas.join_events import encode_turn
from ..schemas.response_events import encode_response

if TYPE_CHECKING:
    from .gateway import Gateway
    from .history import TurnRecord
    from .response_store import ResponseStore


class KeptItems:
    """For one request of `owner`'s: what it was asked once is not looked for again. `shelf` has
    responses of its connection alone."""

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
        if turn not in self._found:
            self._found[turn] = {item["id"]: item for item in self._items_of(turn)}
        return self._found[turn].get(item_id)

    def summary(self, sealed: str) -> str | None:
        summary = self._gateway.seals.open(self._owner, sealed)
        return None if summary is None else tell(summary)

    def _items_of(self, turn: str) -> list[JSON]:
        for store in self._stores:
            with suppress(NotFound):
                record = store.find(f"resp_{turn}", self._owner, time.time())
                asked = encode_messages(record.asked, record.heading.turn_id, system=record.said)
                answered = encode_response(record.heading, record.items, record.ending)["output"]
                return [*asked, *answered]
        if self._turns is None:
            turns = self._gateway.turns_of(self._owner)
            self._turns = {hex_of(record.turn_id): record for record in turns}
        found = self._turns.get(turn)
        if found is None:
            return []
        return encode_turn(found.turn_id, found.messages, found.output, found.finish_reason)
