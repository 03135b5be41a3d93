"""OpenAI's Batch API, in words: what a batch is made of, its lines, and the batch object.

Knows: the fields of a request for a batch, of a line of its input and of its output. Refuses to
know: what a line's body asks (the endpoint's own codec reads it when its turn comes), and how a
batch runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from attrs import asdict, frozen

from ..convert import read_json, structure, write_json
from ..describe import Details
from ..errors import GatewayError, invalid
from .files import EXPIRES_AFTER
from .responses import MAX_METADATA, check_metadata

BATCH_ID = "batch_"
"""How ids of batches begin."""

ENDPOINTS = ("/v1/chat/completions", "/v1/responses", "/v1/completions")
"""Where the requests of a batch may go."""

WINDOW = "24h"

MAX_CUSTOM_ID = 512
"""Characters of a custom id."""

MAX_ERRORS = 50
"""Lines whose errors a batch names; nothing behind them is looked at."""

_ALONE = {
    "stream": "A batch's requests are not streamed.",
    "background": "A batch's requests run in the background anyway.",
    "conversation": "Each request of a batch is a conversation of its own.",
    "conversation_id": "Each request of a batch is a conversation of its own.",
}
"""Fields of a body that a batch's request cannot have, and why."""


# -- a request for a batch -------------------------------------------------------------------------


@frozen
class ExpiresAfter:
    anchor: str
    seconds: int = 0


@frozen
class BatchBody:
    input_file_id: str
    endpoint: str
    completion_window: str
    metadata: Mapping[str, Any] | None = None
    output_expires_after: ExpiresAfter | None = None


DETAILS: Details = {
    BatchBody: {
        "endpoint": {"enum": [*ENDPOINTS]},
        "completion_window": {"const": WINDOW},
        "metadata": {
            "maxProperties": MAX_METADATA[0],
            "propertyNames": {"maxLength": MAX_METADATA[1]},
            "additionalProperties": {"type": "string", "maxLength": MAX_METADATA[2]},
        },
    },
    ExpiresAfter: {
        "anchor": {"const": "created_at"},
        "seconds": {"minimum": EXPIRES_AFTER[0], "maximum": EXPIRES_AFTER[1]},
        "": {"required": ["anchor", "seconds"]},
    },
}


def parse_batch(raw: object) -> BatchBody:
    """Raises `InvalidRequest`."""
    asked = structure(raw, BatchBody)
    if asked.endpoint not in ENDPOINTS:
        raise invalid(f"endpoint must be one of {', '.join(ENDPOINTS)}.", "endpoint")
    if asked.completion_window != WINDOW:
        raise invalid(f"completion_window must be {WINDOW}.", "completion_window")
    if asked.metadata is not None:
        check_metadata(asked.metadata)
    expiry = asked.output_expires_after
    if expiry is not None:
        low, high = EXPIRES_AFTER
        if expiry.anchor != "created_at":
            raise invalid("anchor must be created_at.", "output_expires_after.anchor")
        if not low <= expiry.seconds <= high:
            raise invalid(f"seconds must be from {low} to {high}.", "output_expires_after.seconds")
    return asked


# -- a line of its input ---------------------------------------------------------------------------


@frozen
class LineError:
    """What is wrong with a line of the input, counted from 1; None: with the file."""

    code: str
    message: str
    param: str | None = None
    line: int | None = None

    def encode(self) -> dict[str, Any]:
        return asdict(self)


class BadLine(Exception):
    """A line that is no request. `error` has no number yet."""

    def __init__(self, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.error = LineError(code, message, param)


def parse_line(line: bytes, endpoint: str) -> tuple[str, bytes]:
    """A line's custom id and its body, as JSON. Raises `BadLine`."""
    try:
        raw = read_json(line)
    except GatewayError as error:
        message = error.message.replace("The request's body", "The line")
        raise BadLine("invalid_json_line", message) from None
    if not isinstance(raw, dict):
        raise BadLine("invalid_json_line", "The line must be a JSON object.")
    name = raw.get("custom_id")
    is_short = isinstance(name, str) and 0 < len(name) <= MAX_CUSTOM_ID
    if not (isinstance(name, str) and is_short and name.isprintable()):
        message = f"custom_id must be a string of 1 to {MAX_CUSTOM_ID} printable characters."
        raise BadLine("invalid_custom_id", message, "custom_id")
    if raw.get("method") != "POST":
        raise BadLine("invalid_method", "method must be POST.", "method")
    if raw.get("url") != endpoint:
        message = f"url must be the batch's endpoint, {endpoint}."
        raise BadLine("mismatched_endpoint", message, "url")
    body = raw.get("body")
    if not isinstance(body, dict):
        raise BadLine("invalid_body", "body must be a JSON object.", "body")
    for field, why in _ALONE.items():
        if body.get(field):
            raise BadLine("unsupported_parameter", why, f"body.{field}")
    return name, write_json(body)


# -- a line of its output --------------------------------------------------------------------------


def encode_answered(
    id: str, custom_id: str, status: int, request_id: str, body: object
) -> dict[str, Any]:
    """A request that was answered, whatever the status."""
    response = {"status_code": status, "request_id": request_id, "body": body}
    return {"id": id, "custom_id": custom_id, "response": response, "error": None}


def encode_unanswered(id: str, custom_id: str, code: str, message: str) -> dict[str, Any]:
    """A request that was not."""
    error = {"code": code, "message": message}
    return {"id": id, "custom_id": custom_id, "response": None, "error": error}


# -- the batch object ------------------------------------------------------------------------------


@frozen(kw_only=True)
class BatchWords:
    """A batch as its client sees it. `times` are by state, in Unix seconds."""

    id: str
    endpoint: str
    input_file_id: str
    status: str
    created_at: float
    expires_at: float
    times: Mapping[str, float]
    total: int
    completed: int
    failed: int
    output_file_id: str | None
    error_file_id: str | None
    metadata: Mapping[str, Any] | None
    errors: Sequence[Mapping[str, Any]]


def encode_batch(batch: BatchWords) -> dict[str, Any]:
    errors = {"object": "list", "data": [*batch.errors]} if batch.errors else None
    states = (
        "in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled",
    )  # fmt: skip
    times = {f"{state}_at": batch.times.get(state) for state in states}
    return {
        "id": batch.id,
        "object": "batch",
        "endpoint": batch.endpoint,
        "errors": errors,
        "input_file_id": batch.input_file_id,
        "completion_window": WINDOW,
        "status": batch.status,
        "output_file_id": batch.output_file_id,
        "error_file_id": batch.error_file_id,
        "created_at": int(batch.created_at),
        "expires_at": int(batch.expires_at),
        **{name: None if at is None else int(at) for name, at in times.items()},
        "request_counts": {
            "total": batch.total,
            "completed": batch.completed,
            "failed": batch.failed,
        },
        "metadata": batch.metadata,
    }
