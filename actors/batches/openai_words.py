"""The results of OpenAI's batches, line by line (`schemas.openai.batches` has the words)."""

from __future__ import annotations

from ...schemas.convert import write_json
from ...schemas.openai.batches import (
    BATCH_ID,
    BadLine,
    encode_answered,
    encode_unanswered,
    parse_line,
)
from ...transport.store.batch_interface import RequestState, StoredBatch
from .road import Answered, LineRefused

LOST = (
    "The gateway ended while this request ran: how far it came is not known, so it is not run a "
    "second time."
)

_UNANSWERED = {
    "canceled": ("batch_cancelled", "The batch was cancelled before this request had ended."),
    "expired": (
        "batch_expired",
        "This request could not be executed before the completion window expired.",
    ),
}


class OpenAiWords:
    """See `road.Words`."""

    def answered(
        self, batch: StoredBatch, number: int, custom_id: str, answered: Answered
    ) -> tuple[RequestState, bytes]:
        line = encode_answered(
            _id(batch, number), custom_id, answered.status, f"{batch.id}-{number}", None
        )
        # The body is JSON already, and may be long.
        head, tail = write_json(line).split(b'"body":null', 1)
        state: RequestState = "succeeded" if answered.status < 300 else "errored"
        return state, b'%s"body":%s%s' % (head, answered.body or b"null", tail)

    def lost(self, batch: StoredBatch, number: int, custom_id: str) -> bytes:
        return write_json(encode_unanswered(_id(batch, number), custom_id, "turn_lost", LOST))

    def unanswered(
        self, batch: StoredBatch, number: int, custom_id: str, state: RequestState
    ) -> bytes:
        code, message = _UNANSWERED[state]
        return write_json(encode_unanswered(_id(batch, number), custom_id, code, message))

    def parse_line(self, line: bytes, endpoint: str) -> tuple[str, bytes]:
        try:
            return parse_line(line, endpoint)
        except BadLine as bad:
            raise LineRefused(bad.error.encode()) from None


def _id(batch: StoredBatch, number: int) -> str:
    return f"batch_req_{batch.id.removeprefix(BATCH_ID)}{number:06x}"
