"""``GET /v1/usage``: what keys have used, by day and model.

Knows: whose usage a client may see, and how it is written. Refuses to know: how it is counted
(`actors.keys.limits`).
"""

from __future__ import annotations

import re
from typing import Any

from attrs import asdict

from ...schemas.errors import invalid, storage_unavailable
from ...schemas.keys import SHORT
from ...transport.store.interface import DayUsage, StoreError
from .request import Call

_DAY = re.compile(r"\d{4}-\d\d-\d\d")


async def show_usage(call: Call) -> None:
    """Of the client's own key; with the scope ``admin`` of all keys."""
    query = call.query("start", "end")
    start, end = (_day(query.get(name), name) for name in ("start", "end"))
    limits, rights = call.gateway.limits, call.rights
    try:
        await limits.flush()
        owner = None if rights.is_admin else call.owner
        found = await limits.store.usage(owner, start or "", end or "9")
    except StoreError as error:
        raise storage_unavailable("Usage cannot be read now") from error
    names = call.gateway.keys.names()
    await call.answer({"object": "list", "data": [_encode(each, names) for each in found]})


def _day(given: str | None, name: str) -> str | None:
    """Raises `InvalidRequest`."""
    if given is not None and not _DAY.fullmatch(given):
        raise invalid(f"{name} must be a day (UTC), as in 2026-01-31.", name)
    return given


def _encode(used: DayUsage, names: dict[str, str]) -> dict[str, Any]:
    usage = asdict(used.usage)
    return {
        "object": "usage",
        "key_id": used.key_id[:SHORT],
        "key_name": names.get(used.key_id),
        "day": used.day,
        "model": used.model or None,
        "turns": used.turns,
        **usage,
        "total_tokens": used.usage.total_tokens,
    }
