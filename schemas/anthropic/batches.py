"""The Message Batches API, in words: what a batch is made of, the batch object, its results.

Knows: the fields of a request for a batch, and of what is written of one (Anthropic API reference,
"Message Batches"). Refuses to know: what the parameters of a request ask (`messages` reads them
when their turn comes), and how a batch runs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from attrs import frozen

from ..convert import at_most, structure, write_json
from ..describe import Details
from ..errors import InvalidRequest, invalid
from .errors import dotted

BATCH_ID = "msgbatch_"
"""How ids of batches begin."""

MAX_REQUESTS = 100_000
"""What that API takes at once; `batches.max_requests` may be less."""

_CUSTOM_ID = re.compile(r"[a-zA-Z0-9_-]{1,64}")


@frozen
class BatchItem:
    custom_id: str
    params: Mapping[str, Any]


@frozen
class MessageBatchBody:
    requests: tuple[BatchItem, ...] = at_most(MAX_REQUESTS, "requests", ())


DETAILS: Details = {
    MessageBatchBody: {
        "requests": {"minItems": 1, "maxItems": MAX_REQUESTS},
        "": {"required": ["requests"]},
    },
    BatchItem: {
        "custom_id": {"minLength": 1, "maxLength": 64, "pattern": f"^{_CUSTOM_ID.pattern}$"},
        "params": {"description": "As the body of `POST /v1/messages`, without `stream`."},
    },
}


def parse_message_batch(raw: object, max_requests: int) -> Sequence[tuple[str, bytes]]:
    """The custom ids of the requests, and their parameters as JSON. Raises `InvalidRequest`."""
    try:
        items = structure(raw, MessageBatchBody).requests
    except InvalidRequest as error:
        raise dotted(error) from None
    if not items:
        raise invalid("requests must have at least one request.", "requests")
    if len(items) > max_requests:
        raise invalid(
            f"requests may have {max_requests} requests (batches.max_requests).", "requests"
        )
    seen: set[str] = set()
    found: list[tuple[str, bytes]] = []
    for number, item in enumerate(items):
        path = f"requests.{number}.custom_id"
        if not _CUSTOM_ID.fullmatch(item.custom_id):
            raise invalid(f"{path} must match {_CUSTOM_ID.pattern}.", path)
        if item.custom_id in seen:
            raise invalid(f"{path} is that of an earlier request.", path)
        seen.add(item.custom_id)
        if item.params.get("stream"):
            path = f"requests.{number}.params.stream"
            raise invalid(f"{path}: a batch's requests are not streamed.", path)
        found.append((item.custom_id, write_json(item.params)))
    return found


# -- what is written -------------------------------------------------------------------------------


@frozen(kw_only=True)
class MessageBatchWords:
    """A batch as its client sees it. Times are in Unix seconds; `results_url` is there once it has
    ended."""

    id: str
    created_at: float
    expires_at: float
    cancel_initiated_at: float | None
    ended_at: float | None
    is_canceling: bool
    processing: int
    succeeded: int
    errored: int
    canceled: int
    expired: int
    results_url: str | None


def encode_message_batch(batch: MessageBatchWords) -> dict[str, Any]:
    status = "canceling" if batch.is_canceling else "in_progress"
    return {
        "id": batch.id,
        "type": "message_batch",
        "processing_status": status if batch.ended_at is None else "ended",
        "request_counts": {
            "processing": batch.processing,
            "succeeded": batch.succeeded,
            "errored": batch.errored,
            "canceled": batch.canceled,
            "expired": batch.expired,
        },
        "created_at": _time(batch.created_at),
        "expires_at": _time(batch.expires_at),
        "cancel_initiated_at": _time(batch.cancel_initiated_at),
        "ended_at": _time(batch.ended_at),
        "archived_at": None,
        "results_url": batch.results_url,
    }


def _time(at: float | None) -> str | None:
    """As RFC 3339 has it."""
    if at is None:
        return None
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def encode_result(custom_id: str, kind: str, field: str = "", body: bytes = b"") -> bytes:
    """A line of the results: a request has ``succeeded`` (`field` is ``message``), ``errored``
    (``error``), or is ``canceled`` or ``expired``. `body` is JSON."""
    result = b'{"type":%s%s}' % (
        write_json(kind),
        b",%s:%s" % (write_json(field), body) if field else b"",
    )
    return b'{"custom_id":%s,"result":%s}' % (write_json(custom_id), result)


def encode_list(items: Sequence[dict[str, Any]], *, has_more: bool) -> dict[str, Any]:
    return {
        "data": [*items],
        "has_more": has_more,
        "first_id": items[0]["id"] if items else None,
        "last_id": items[-1]["id"] if items else None,
    }
