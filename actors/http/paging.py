"""Pages of a list, as OpenAI's list routes give them.

Knows: `limit` and `after`, and the list object. Refuses to know: what is listed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...schemas.errors import InvalidRequest

PAGE = 100
"""The longest page of a list."""

PAGE_PARAMETERS = ("limit", "after", "order")


def page_of(
    items: Sequence[dict[str, Any]], query: Mapping[str, str], length: int = PAGE
) -> dict[str, Any]:
    """The page that `query` asks for; of `length`, if it does not say. Raises `InvalidRequest`."""
    limit = read_limit(query.get("limit", str(length)))
    after = query.get("after")
    if after:
        items = items[_place(after, [item["id"] for item in items]) + 1 :]
    return page(items[:limit], has_more=len(items) > limit)


def page(items: Sequence[dict[str, Any]], *, has_more: bool) -> dict[str, Any]:
    """The list object of these items."""
    return {
        "object": "list",
        "data": items,
        "first_id": items[0]["id"] if items else None,
        "last_id": items[-1]["id"] if items else None,
        "has_more": has_more,
    }


def read_limit(given: str) -> int:
    if given.isascii() and given.isdigit() and len(given) <= 4 and 1 <= int(given) <= PAGE:
        return int(given)
    raise InvalidRequest(
        f"limit must be a whole number from 1 to {PAGE}.", code="invalid_value", param="limit"
    )


def read_order(given: str | None) -> str:
    """``desc`` (the default) or ``asc``. Raises `InvalidRequest`."""
    if given not in (None, "asc", "desc"):
        raise InvalidRequest("order must be asc or desc.", code="invalid_value", param="order")
    return given or "desc"


def _place(given: str, ids: list[str]) -> int:
    try:
        return ids.index(given)
    except ValueError:
        raise InvalidRequest(
            "after names nothing of this list.", code="invalid_value", param="after"
        ) from None
