"""The envelope in which a client receives an error: that of the dialect which it speaks.

Knows: which dialects there are, and that each has a status of its own for some failures. Refuses
to know: who raises an error, and how it is sent.
"""

from __future__ import annotations

from typing import Any

from attrs import frozen

from .anthropic.errors import encode_error, speaks_messages, status_of
from .errors import GatewayError


@frozen
class Envelope:
    """What the errors of one request are put in. `messages`: its client speaks the Messages API,
    whose envelope names the `request_id` (None: there is none); else OpenAI's."""

    messages: bool = False
    request_id: str | None = None

    @classmethod
    def of(cls, path: str, request_id: str | None = None, *, versioned: bool) -> Envelope:
        """That of a request for `path`. `versioned`: it has an ``anthropic-version``."""
        return cls(speaks_messages(path, versioned=versioned), request_id)

    def status(self, error: GatewayError) -> int:
        return status_of(error) if self.messages else error.status

    def body(self, error: GatewayError) -> dict[str, Any]:
        return encode_error(error, self.request_id) if self.messages else error.body()


OPENAI = Envelope()
