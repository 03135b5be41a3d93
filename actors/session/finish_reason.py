"""Where a finish reason is decided: whether a frame of the child ends the turn, with which outcome,
and what the client reads as ``finish_reason``.

Each outcome carries its finish reason; only `Completed` gets it from the model's stop reason
(`BY_STOP_REASON`). Knows: the reasons for which an answer ends. Refuses to know: phases, what
becomes of the child (`actors.session.machine`), and how a finish reason is written on the wire
(`schemas.openai`).
"""

from __future__ import annotations

from typing import ClassVar

from attrs import frozen

from ...schemas.claude.limits import LimitState
from ...schemas.claude.output import AssistantDone, MessageEnded, TurnResult
from ...schemas.claude.upstream import NO_LIMIT, plain, upstream_error
from ...schemas.errors import ChildError, GatewayError
from ...schemas.turn import FinishReason, ResumePoint, Usage
from . import errors
from .answer import AnswerState
from .turn import AnswerFrame, TurnState

AT_LIMIT = ("max_tokens", "model_context_window_exceeded")
"""The stop reasons of a model at a token limit."""

FINISHED = ("end_turn", "stop_sequence")
"""The stop reasons of a model that has finished."""

PAUSED = "pause_turn"
"""The API has searched for so long that it wants to be asked to go on."""

BY_STOP_REASON: dict[str | None, FinishReason] = {
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    PAUSED: "length",
}
"""The finish reason of a whole answer, by the model's stop reason; ``stop`` for every other. (After
``refusal`` the outcome is `Refused`.)"""


@frozen
class Completed:
    """The model has answered, and the child's transcript holds it."""

    finish_reason: FinishReason
    usage: Usage
    resume: ResumePoint


@frozen
class Suspended:
    """The model has called the client's tools: the child waits for their results."""

    finish_reason: ClassVar[FinishReason] = "tool_calls"

    usage: Usage


@frozen
class Truncated:
    """The client's answer is complete, but the child holds a longer one: it has to rewind."""

    finish_reason: ClassVar[FinishReason] = "stop"

    usage: Usage


@frozen
class TokenLimit:
    """The answer has reached the token limit. The CLI would have the model continue, so the child
    is killed."""

    finish_reason: ClassVar[FinishReason] = "length"

    usage: Usage


@frozen
class Refused:
    """The model refuses to answer. With that in the history it would refuse again."""

    finish_reason: ClassVar[FinishReason] = "content_filter"

    text: str
    usage: Usage


@frozen
class Failed:
    """There is no answer."""

    error: GatewayError


Outcome = Completed | Suspended | Truncated | TokenLimit | Refused | Failed


def judge_frame(answer: AnswerState, frame: AnswerFrame) -> Outcome | None:
    """The outcome that `frame` brings, once `answer` has taken it in. None: the turn goes on."""
    if answer.error is not None:
        return Failed(answer.error)
    if isinstance(frame, AssistantDone) and frame.synthetic:
        # The connection broke after a call: the CLI writes no result before the call has one.
        if answer.calls:
            return Failed(ChildError(plain(frame.text) or "The CLI broke off its answer."))
        return Truncated(answer.estimate()) if answer.answered else None
    if not isinstance(frame, MessageEnded):
        return None
    if frame.stop_reason in AT_LIMIT:
        # The CLI has an agent without a length limit continue. Not after a call of a client's tool,
        # whose result is not known.
        goes_on = answer.may_be_long and not (answer.calls or answer.is_partial)
        return None if goes_on else TokenLimit(answer.usage)
    if answer.malformed is not None:
        return Failed(answer.malformed)
    if frame.stop_reason == "refusal" and (answer.calls or answer.ends_when_refused):
        return Refused("The model stopped its answer.", answer.usage)
    if answer.calls:
        return Suspended(answer.usage)
    if answer.is_empty and frame.stop_reason in FINISHED:
        return Truncated(answer.usage)  # the CLI would ask the model for more
    # The answer came as a call that no client answers, unless it came as text.
    called = frame.stop_reason != "end_turn"
    return Truncated(answer.usage) if answer.answered and called else None


def judge_result(
    turn: TurnState,
    result: TurnResult,
    usage: Usage,
    program: str = "claude",
    limit: LimitState = NO_LIMIT,
) -> Outcome:
    """The outcome that the CLI's result of the turn brings. `usage` is the turn's share of it;
    `program` and `limit` are for `upstream_error`."""
    if turn.answer.is_cut:
        return Truncated(usage)
    if result.stop_reason == "refusal":
        return Refused(plain(result.text) or "The model stopped its answer.", usage)
    if turn.answer.hit_token_limit:
        resume = ResumePoint(result.session_id, turn.answer.assistant_uuid)
        return Completed("length", usage, resume) if turn.is_answered(result) else TokenLimit(usage)
    if result.stop_reason == PAUSED and turn.is_answered(result):
        # The CLI takes it for an error where nothing was said yet; but it holds what came.
        resume = ResumePoint(result.session_id, turn.answer.assistant_uuid)
        return Completed("length", usage, resume)
    if result.is_error or result.subtype != "success":
        return Failed(failure(turn, result, program, limit))
    if turn.is_answered(result):
        resume = ResumePoint(result.session_id, turn.answer.assistant_uuid)
        return Completed(BY_STOP_REASON.get(result.stop_reason, "stop"), usage, resume)
    if turn.setup.schema is not None:
        return Failed(errors.misfit_answer())
    return Failed(failure(turn, result, program, limit))


def failure(turn: TurnState, result: TurnResult, program: str, limit: LimitState) -> GatewayError:
    """The error for a turn that the CLI did not answer."""
    return upstream_error(
        result, turn.retry_after, model=turn.setup.model, program=program, limit=limit
    )
