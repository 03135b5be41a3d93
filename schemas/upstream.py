"""What the CLI's results mean to a client: finish reasons and errors.

Knows: `TurnResult`'s fields. Refuses to know: when a result comes. Errors go by `is_error` and
`api_error_status`, never by the subtype: an API error comes with the subtype ``success``.
"""

from __future__ import annotations

from .errors import (
    ChildError,
    GatewayError,
    InvalidRequest,
    NotFound,
    Overloaded,
    RateLimited,
    TooLarge,
)
from .frames import TurnResult
from .turn import FinishReason

_FINISH: dict[str | None, FinishReason] = {
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "refusal": "content_filter",
}


def finish_reason(result: TurnResult) -> FinishReason:
    """The stop reason in OpenAI's words."""
    return _FINISH.get(result.stop_reason, "stop")


def upstream_error(result: TurnResult) -> GatewayError:
    """What a result without an answer of the model is told as. The text is the CLI's own."""
    text = result.text.strip() or "The CLI gave no answer."
    match result.api_error_status:
        case 400:
            return InvalidRequest(text, code="upstream_rejected")
        case 401 | 403:
            return Overloaded(text, code="cli_not_logged_in")
        case 404:
            return NotFound(text, code="model_not_found", param="model")
        case 413:
            return TooLarge(text)
        case 429:
            return RateLimited(text, code="upstream_rate_limited", retry_after=30)
        case 529:
            return Overloaded(text, code="upstream_overloaded", retry_after=30)
        case None if "log in" in text.lower() or "/login" in text.lower():
            return Overloaded(text, code="cli_not_logged_in")
        case _:
            return ChildError(text)
