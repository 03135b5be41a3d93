"""OpenAI's Files API, in words: what an upload may say, and the file object.

Knows: purposes, and how long a file is kept. Refuses to know: uploads and where files are kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import InvalidRequest, invalid, missing

FILE_ID = "file-"
"""How ids of files begin."""

PURPOSES = ("batch", "user_data")
"""What a client may upload a file for."""

BATCH_OUTPUT = "batch_output"
"""The purpose of files that a batch has made."""

EXPIRES_AFTER = (3600, 30 * 86400)
"""Least and most seconds of ``expires_after``."""


def read_purpose(given: str | None) -> str:
    """Raises `InvalidRequest`."""
    if given is None:
        raise missing("purpose")
    if given not in PURPOSES:
        raise invalid(f"purpose must be one of {', '.join(PURPOSES)}.", "purpose")
    return given


def read_listed(given: str | None) -> str | None:
    """A purpose whose files are asked for. Raises `InvalidRequest`."""
    if given in (None, *PURPOSES, BATCH_OUTPUT):
        return given
    raise invalid(f"purpose must be one of {', '.join((*PURPOSES, BATCH_OUTPUT))}.", "purpose")


def read_expiry(fields: Mapping[str, str]) -> float | None:
    """After how many seconds the file shall go; None: the client does not say. Raises
    `InvalidRequest`."""
    anchor, seconds = (fields.get(f"expires_after[{name}]") for name in ("anchor", "seconds"))
    if anchor is None and seconds is None:
        return None
    if anchor != "created_at":
        raise invalid("expires_after[anchor] must be created_at.", "expires_after[anchor]")
    low, high = EXPIRES_AFTER
    fits = seconds is not None and seconds.isascii() and seconds.isdigit() and len(seconds) <= 9
    if not fits or not low <= int(seconds or "") <= high:
        raise InvalidRequest(
            f"expires_after[seconds] must be a whole number from {low} to {high}.",
            code="invalid_value",
            param="expires_after[seconds]",
        )
    return float(seconds or "")


def encode_file(
    id: str, purpose: str, name: str, size: int, created_at: float, expires_at: float | None
) -> dict[str, Any]:
    """The file object."""
    return {
        "id": id,
        "object": "file",
        "bytes": size,
        "created_at": int(created_at),
        "expires_at": None if expires_at is None else int(expires_at),
        "filename": name,
        "purpose": purpose,
        "status": "processed",
        "status_details": None,
    }
