"""The envelope in which a client receives an error: that of the dialect which it speaks.

Knows: which dialects there are, that each has a status of its own for some failures, and by which
event a stream of each fails. Refuses to know: who raises an error, and how it is sent.
"""

from __future__ import annotations

from typing import Any

from attrs import frozen

from .anthropic.errors import encode_error, speaks_messages, status_of
from .anthropic.reply import encode_error_event as encode_messages_event
from .convert import write_json
from .errors import GatewayError
from .openai import sse
from .openai.response_events import encode_error_event as encode_response_event


@frozen
class Envelope:
    """What the errors of one request are put in. `messages`: its client speaks the Messages API,
    whose envelope names the `request_id` (None: there is none); else OpenAI's. `responses`: a
    stream of it has the events of the Responses API."""

    messages: bool = False
    request_id: str | None = None
    responses: bool = False

    @classmethod
    def of(cls, path: str, request_id: str | None = None, *, versioned: bool) -> Envelope:
        """That of a request for `path`. `versioned`: it has an ``anthropic-version``."""
        responses = f"{path}/".startswith("/v1/responses/")
        return cls(speaks_messages(path, versioned=versioned), request_id, responses)

    def status(self, error: GatewayError) -> int:
        return status_of(error) if self.messages else error.status

    def body(self, error: GatewayError) -> dict[str, Any]:
        return encode_error(error, self.request_id) if self.messages else error.body()

    def event(self, error: GatewayError) -> bytes:
        """The event with which a stream fails that has begun."""
        if self.messages:
            return encode_messages_event(error, self.request_id)
        body = encode_response_event(error) if self.responses else error.body()
        return sse.event(write_json(body))


OPENAI = Envelope()
