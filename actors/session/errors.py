"""The errors with which a session refuses or fails a turn, one factory for each.

Knows: texts, codes and statuses. Refuses to know: when each one applies (`actors.session.machine`).
"""

from __future__ import annotations

from ...schemas.claude.upstream import control_error
from ...schemas.errors import (
    ChildDied,
    ChildError,
    Conflict,
    GatewayError,
    InvalidRequest,
    NotFound,
    RateLimited,
    TurnInterrupted,
    TurnTimeout,
)


def interrupted() -> TurnInterrupted:
    return TurnInterrupted("The turn was interrupted.")


def closed() -> TurnInterrupted:
    return TurnInterrupted("The conversation is closed.")


def expired() -> TurnInterrupted:
    return TurnInterrupted("The conversation has expired.", code="expired")


def busy() -> Conflict:
    return Conflict("Another turn of this conversation is running.")


def queue_full() -> RateLimited:
    return RateLimited("Too many turns are queued in this conversation.", retry_after=1)


def contradicted() -> InvalidRequest:
    return InvalidRequest(
        "These messages contradict the conversation's history. Send only the new messages, or the "
        "exact history, or omit the conversation id.",
        code="history_mismatch",
        param="messages",
    )


def cannot_continue() -> InvalidRequest:
    return InvalidRequest(
        "The model can continue a partial assistant message only if the request brings the whole "
        "history, and not in a conversation that a child remembers.",
        code="unsupported_parameter",
        param="messages",
    )


def moved_on() -> Conflict:
    return Conflict("The conversation has newer turns.", code="conversation_moved_on")


def keeps_dying(wait: float) -> ChildDied:
    return ChildDied(
        "The CLI process of this conversation keeps dying; no new one starts for a while.",
        code="restart_budget_spent",
        retry_after=wait,
    )


def not_set_up(reason: str, program: str) -> GatewayError:
    return control_error("The CLI process could not be set up", reason, program)


def answered_unasked() -> ChildError:
    return ChildError("The CLI process answered before it was asked.")


def took_too_long(seconds: float) -> TurnTimeout:
    return TurnTimeout(f"The turn took longer than {seconds:g} seconds.")


def fell_silent(seconds: float) -> TurnTimeout:
    return TurnTimeout(f"The CLI process wrote nothing for {seconds:g} seconds.")


def never_ready(seconds: float) -> TurnTimeout:
    return TurnTimeout(
        f"The CLI process was not ready within {seconds:g} seconds.", code="child_start_timeout"
    )


def lost() -> NotFound:
    return NotFound(
        "The transcript of this conversation is gone, and the gateway keeps none of its messages. "
        "Send the history without the conversation id.",
        code="conversation_lost",
        param="conversation_id",
    )


def cut_off() -> ChildError:
    return ChildError("The connection to the API was lost in the middle of the answer.")


def misfit_answer() -> ChildError:
    return ChildError(
        "The model gave no answer that matches the schema.", code="invalid_structured_output"
    )


def malformed_call() -> ChildError:
    return ChildError(
        "The model called a tool with arguments that are no JSON object.", code="invalid_tool_call"
    )


def misfit_call() -> ChildError:
    return ChildError(
        "The model kept calling a strict tool with arguments that do not match its schema.",
        code="invalid_tool_call",
    )
