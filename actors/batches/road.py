"""How a request of a batch is answered, as the engine sees it.

Knows: what goes in and comes out. Refuses to know: HTTP, and dialects.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

from attrs import field, frozen

from ...schemas.errors import GatewayError, Overloaded, RateLimited
from ...transport.store.batch_interface import RequestState, StoredBatch


@frozen
class Asked:
    """A request of `owner`'s to the endpoint `path`; `body` is JSON. `request_id` names it in the
    log and the answer; `headers` have names in lower case."""

    owner: str
    path: str
    body: bytes = field(repr=False)
    request_id: str
    headers: Mapping[str, str] = field(factory=dict)


@frozen
class Answered:
    """What a client would have received: `body` is JSON. `failure` is why it is no answer."""

    status: int
    body: bytes = field(repr=False)
    failure: GatewayError | None = None

    @property
    def may_wait(self) -> bool:
        """Nothing was done, since something is used up: it may be asked again later."""
        failure = self.failure
        is_used_up = isinstance(failure, RateLimited | Overloaded)
        return is_used_up and failure is not None and failure.should_retry is not False


Road = Callable[[Asked], Awaitable[Answered]]
"""Answers a request as the route would. Raises nothing."""


class Words(Protocol):
    """How a dialect says what became of a request: lines of JSON. `number` counts from 1."""

    def answered(
        self, batch: StoredBatch, number: int, custom_id: str, answered: Answered
    ) -> tuple[RequestState, bytes]:
        """Whether it has succeeded, and its line."""
        ...

    def lost(self, batch: StoredBatch, number: int, custom_id: str) -> bytes:
        """It ran when the gateway ended."""
        ...

    def unanswered(
        self, batch: StoredBatch, number: int, custom_id: str, state: RequestState
    ) -> bytes:
        """It was never run: ``canceled`` or ``expired``."""
        ...

    def parse_line(self, line: bytes, endpoint: str) -> tuple[str, bytes]:
        """A line of an input file: its custom id and its body. Raises `LineRefused`."""
        ...


class LineRefused(Exception):
    """A line is no request. `error` says why, in the dialect's words, but for the line."""

    def __init__(self, error: Mapping[str, Any]) -> None:
        super().__init__(error)
        self.error = error
