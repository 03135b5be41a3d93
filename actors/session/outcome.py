"""What a child's words mean for the turn it works on: whether the turn ends by them, and how.

Knows: the reasons for which an answer ends, and who is told what of it. Refuses to know: phases,
and what becomes of the child (`actors.session.machine`).
"""

from __future__ import annotations

from attrs import frozen

from ...schemas.claude.output import AssistantDone, LimitState, MessageEnded, TurnResult
from ...schemas.claude.upstream import NO_LIMIT, finish_reason, plain, upstream_error
from ...schemas.errors import ChildError, GatewayError
from ...schemas.turn import FinishReason, ResumePoint, Usage
from . import errors as refusals
from .answer import AnswerState
from .turn import Heard, TurnState

CUT_OFF = ("max_tokens", "model_context_window_exceeded")
"""Why the model stopped, where it was made to."""

SPOKEN_OUT = ("end_turn", "stop_sequence")
"""Why it stopped, where it had no more to say."""


@frozen
class Completed:
    """The model has answered, and the child's transcript holds it."""

    reason: FinishReason
    usage: Usage
    resume: ResumePoint


@frozen
class Suspended:
    """The model has called tools: the child waits for what they come to."""

    usage: Usage


@frozen
class Truncated:
    """The caller has their answer, and the child holds another: it has to take it back."""

    usage: Usage


@frozen
class TokenLimit:
    """The answer is as long as it may be. The CLI would have the model go on: it must not come
    to that."""

    usage: Usage


@frozen
class Refused:
    """The model would not answer, and says so. With that in the history it would go on so."""

    text: str
    usage: Usage


@frozen
class Failed:
    """There is no answer."""

    error: GatewayError


Outcome = Completed | Suspended | Truncated | TokenLimit | Refused | Failed


def judge_frame(answer: AnswerState, frame: Heard) -> Outcome | None:
    """What a part of the answer means, once `answer` has taken it in. None: it goes on."""
    if answer.fault is not None:
        return Failed(answer.fault)
    if isinstance(frame, AssistantDone) and frame.synthetic:
        # The connection was cut behind a call: no result comes before that is answered.
        if answer.calls:
            return Failed(ChildError(plain(frame.text) or "The CLI broke off its answer."))
        return Truncated(answer.estimate()) if answer.answered else None
    if not isinstance(frame, MessageEnded):
        return None
    if frame.stop_reason in CUT_OFF:
        # An agent that nobody has told how much to say is told by the CLI to go on. Behind a call
        # of the client's it would be told what that came to, which nobody knows.
        goes_on = answer.may_be_long and not (answer.calls or answer.is_half)
        return None if goes_on else TokenLimit(answer.usage)
    if answer.is_torn:
        return Failed(answer.torn_fault)
    if answer.calls and frame.stop_reason == "refusal":
        return Refused("The model stopped its answer.", answer.usage)
    if answer.calls:
        return Suspended(answer.usage)
    if answer.is_silent and frame.stop_reason in SPOKEN_OUT:
        return Truncated(answer.usage)  # the CLI would tell the model to say something after all
    # Given as a call of a tool that nobody will answer, if it was not given in text.
    called = frame.stop_reason != "end_turn"
    return Truncated(answer.usage) if answer.answered and called else None


def judge_result(
    turn: TurnState,
    result: TurnResult,
    usage: Usage,
    program: str = "claude",
    limit: LimitState = NO_LIMIT,
) -> Outcome:
    """What the CLI's own end of the turn means. `usage` is the turn's share of it; `program` and
    `limit` are for `upstream_error`."""
    if turn.answer.is_cut:
        return Truncated(usage)
    if result.stop_reason == "refusal":
        return Refused(plain(result.text) or "The model stopped its answer.", usage)
    if turn.answer.ran_out:
        resume = ResumePoint(result.session_id, turn.answer.assistant_uuid)
        return Completed("length", usage, resume) if turn.is_answered(result) else TokenLimit(usage)
    if result.is_error or result.subtype != "success":
        return Failed(failure(turn, result, program, limit))
    if turn.is_answered(result):
        resume = ResumePoint(result.session_id, turn.answer.assistant_uuid)
        return Completed(finish_reason(result), usage, resume)
    if turn.setup.schema is not None:
        return Failed(refusals.unsuitable())
    return Failed(failure(turn, result, program, limit))


def failure(turn: TurnState, result: TurnResult, program: str, limit: LimitState) -> GatewayError:
    """Why the CLI has no answer to the turn."""
    return upstream_error(
        result, turn.retry_after, model=turn.setup.model, program=program, limit=limit
    )
