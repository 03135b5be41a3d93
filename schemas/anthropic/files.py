"""The Anthropic Files API, in words: what an upload may say, and the file object.

Knows: how files are listed in this dialect, and how long one is kept (Anthropic API reference,
"Files"). Refuses to know: uploads and where files are kept (`schemas.openai.files` has the other
dialect of the same routes).
"""

from __future__ import annotations

import mimetypes
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from ..errors import invalid

PURPOSE = "user_data"
"""What a file is for that is uploaded in this dialect, which knows no purposes."""

PAGE = "page_"
"""How the cursor of a page begins; the id of the file behind which it begins follows."""

DEFAULT_LIMIT = 20
MAX_IDS = 100

EXPIRES_IN = (3600, 90 * 86400)
"""Least and most seconds of ``expires_in_seconds``."""


def read_expiry(fields: Mapping[str, str]) -> float | None:
    """After how many seconds the file shall go; None: the client does not say. Raises
    `InvalidRequest`."""
    given = fields.get("expires_in_seconds")
    if given is None:
        return None
    low, high = EXPIRES_IN
    fits = given.isascii() and given.isdigit() and len(given) <= 9 and low <= int(given) <= high
    if not fits:
        raise invalid(
            f"expires_in_seconds must be a whole number from {low} to {high}.",
            "expires_in_seconds",
        )
    return float(given)


def read_after(query: Mapping[str, str]) -> str | None:
    """The id of the file behind which a page begins. Raises `InvalidRequest`."""
    page = query.get("page")
    if page is None:
        return query.get("after_id")
    if "after_id" in query or not page.startswith(PAGE):
        raise invalid("page must be what an earlier page gave as next_page.", "page")
    return page.removeprefix(PAGE)


def read_ids(given: Sequence[str]) -> tuple[str, ...]:
    """The files that are asked for, each once. Raises `InvalidRequest`."""
    ids = tuple(dict.fromkeys(given))
    if len(ids) > MAX_IDS:
        raise invalid(f"ids must name at most {MAX_IDS} files.", "ids")
    return ids


def encode_file(
    id: str, name: str, size: int, created_at: float, expires_at: float | None
) -> dict[str, Any]:
    """The file object. What kind of file it is, its name says."""
    kind, _ = mimetypes.guess_type(name)
    return {
        "id": id,
        "type": "file",
        "filename": name,
        "mime_type": kind or "application/octet-stream",
        "size_bytes": size,
        "created_at": _moment(created_at),
        "expires_at": None if expires_at is None else _moment(expires_at),
        "downloadable": True,
    }


def encode_page(files: Sequence[Mapping[str, Any]], *, has_more: bool) -> dict[str, Any]:
    """A page of files: with the cursor of the next one, and with the ids at its ends."""
    last = files[-1]["id"] if files else None
    return {
        "data": [*files],
        "next_page": f"{PAGE}{last}" if has_more else None,
        "has_more": has_more,
        "first_id": files[0]["id"] if files else None,
        "last_id": last,
    }


def _moment(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
