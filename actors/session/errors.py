"""Why a session refuses or fails a turn, in the words its caller reads.

Knows: texts, codes and statuses. Refuses to know: when each one applies (`actors.session.machine`).
"""

from __future__ import annotations

from ...schemas.errors import (
    ChildDied,
    ChildError,
    Conflict,
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
    return RateLimited("Too many turns wait in this conversation.", retry_after=1)


def contradicted() -> InvalidRequest:
    return InvalidRequest(
        "These messages contradict what the conversation holds. Send what is new, or the exact "
        "history, or leave the conversation id out.",
        code="history_mismatch",
        param="messages",
    )


def not_in_words() -> InvalidRequest:
    return InvalidRequest(
        "An answer that was begun can be gone on with where the whole history comes with it, and "
        "not in a conversation that a child remembers.",
        code="unsupported_parameter",
        param="messages",
    )


def moved_on() -> Conflict:
    return Conflict("The conversation has gone on since.", code="conversation_moved_on")


def keeps_dying(wait: float) -> ChildDied:
    return ChildDied(
        "The CLI process of this conversation keeps dying; it is left alone for a while.",
        code="restart_budget_spent",
        retry_after=wait,
    )


def not_set_up(reason: str) -> ChildError:
    return ChildError(f"The CLI process could not be set up: {reason}")


def took_too_long(seconds: float) -> TurnTimeout:
    return TurnTimeout(f"The turn took longer than {seconds:g} seconds.")


def fell_silent(seconds: float) -> TurnTimeout:
    return TurnTimeout(f"The CLI process gave no sign of life for {seconds:g} seconds.")


def never_ready(seconds: float) -> TurnTimeout:
    return TurnTimeout(
        f"The CLI process was not ready within {seconds:g} seconds.", code="child_start_timeout"
    )


def lost() -> NotFound:
    return NotFound(
        "The transcript of this conversation is gone, and nothing of it is kept. Send its history "
        "without the conversation id.",
        code="conversation_lost",
        param="conversation_id",
    )


def cut_off() -> ChildError:
    return ChildError("The connection to the API was lost in the middle of the answer.")


def unsuitable() -> ChildError:
    return ChildError(
        "The model gave no answer that suits the schema.", code="invalid_structured_output"
    )


def torn_call() -> ChildError:
    return ChildError(
        "The model called a tool with arguments that are no JSON object.", code="invalid_tool_call"
    )


def unsuitable_call() -> ChildError:
    return ChildError(
        "The model kept calling a strict tool with arguments that do not suit its schema.",
        code="invalid_tool_call",
    )
