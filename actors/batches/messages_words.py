"""The results of the Message Batches API, line by line (`schemas.anthropic.batches` has the
words)."""

from __future__ import annotations

from ...schemas.anthropic.batches import encode_result
from ...schemas.anthropic.errors import encode_error
from ...schemas.convert import write_json
from ...schemas.errors import InternalError
from ...transport.store.batch_interface import RequestState, StoredBatch
from .openai_words import LOST
from .road import Answered, LineRefused


class MessagesWords:
    """See `road.Words`."""

    def answered(
        self, batch: StoredBatch, number: int, custom_id: str, answered: Answered
    ) -> tuple[RequestState, bytes]:
        if answered.status < 300:
            return "succeeded", encode_result(custom_id, "succeeded", "message", answered.body)
        return "errored", encode_result(custom_id, "errored", "error", answered.body)

    def lost(self, batch: StoredBatch, number: int, custom_id: str) -> bytes:
        error = encode_error(InternalError(LOST, code="turn_lost"), f"{batch.id}-{number}")
        return encode_result(custom_id, "errored", "error", write_json(error))

    def unanswered(
        self, batch: StoredBatch, number: int, custom_id: str, state: RequestState
    ) -> bytes:
        return encode_result(custom_id, state)

    def parse_line(self, line: bytes, endpoint: str) -> tuple[str, bytes]:
        raise LineRefused({})  # its requests come with it
