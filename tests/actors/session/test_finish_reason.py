"""What a child's words mean for its turn."""

import pytest
from attrs import evolve

from ccapi.actors.session.answer import AnswerState, ModelFrame
from ccapi.actors.session.finish_reason import (
    Completed,
    Failed,
    Refused,
    Suspended,
    TokenLimit,
    Truncated,
    judge_frame,
    judge_result,
)
from ccapi.actors.session.turn import TurnState
from ccapi.schemas.claude.output import (
    AssistantDone,
    MessageEnded,
    MessageStarted,
    ToolInput,
    ToolUseStarted,
    TurnResult,
)
from ccapi.schemas.claude.tool_names import ANSWER_TOOL
from ccapi.schemas.errors import ChildError, RateLimited
from ccapi.schemas.message import Message, ToolCall
from ccapi.schemas.turn import Options, ResumePoint, Setup, Tool, TurnRequest, Usage
from ccapi.schemas.turn_items import ReasoningDelta, TextDelta

SETUP = Setup("m", tools=(Tool("now"), Tool("weather", "", '{"required":["city"]}', strict=True)))
SHAPED = Setup("m", schema='{"required":["city"]}')
PLAIN = Options()
SPENT = Usage(prompt_tokens=9, completion_tokens=3)
TEXT = AssistantDone("u", synthetic=False, text="a")
LOST = AssistantDone("e", synthetic=True, text="API Error: Connection lost mid-response")


def call(name: str, arguments: str = "{}") -> AssistantDone:
    return AssistantDone("u", synthetic=False, call=ToolCall("t", name, arguments))


def answer(setup: Setup, *frames: AssistantDone, options: Options = PLAIN) -> AnswerState:
    state = AnswerState(options, setup)
    for frame in frames:
        state.add_frame(frame)
    return state


def judge(state: AnswerState, reason: str) -> object:
    """The outcome on the end of a message, as the machine comes to it."""
    frame = MessageEnded(reason, SPENT)
    state.add_frame(frame)
    return judge_frame(state, frame)


@pytest.mark.parametrize(
    ("outcome", "finish"),
    [
        (Completed("length", SPENT, ResumePoint("s", "u")), "length"),
        (Suspended(SPENT), "tool_calls"),
        (Truncated(SPENT), "stop"),
        (TokenLimit(SPENT), "length"),
        (Refused("No.", SPENT), "content_filter"),
    ],
    ids=repr,
)
def test_every_outcome_with_an_answer_has_its_finish_reason(
    outcome: Completed | Suspended | Truncated | TokenLimit | Refused, finish: str
) -> None:
    assert outcome.finish_reason == finish


# -- frames ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("reason", ["end_turn", "stop_sequence", "refusal", "tool_use"])
def test_a_message_that_ends_ends_no_turn(reason: str) -> None:
    """The CLI's result does."""
    assert judge(answer(SETUP, TEXT), reason) is None


@pytest.mark.parametrize(
    "frame",
    [
        TEXT,
        call("now"),
        call("ghost"),
        ToolUseStarted("t", "now"),
        ToolInput("{"),
        ReasoningDelta("Hm"),
        MessageStarted(Usage()),
    ],
    ids=lambda frame: type(frame).__name__,
)
def test_within_a_message_it_goes_on(frame: ModelFrame) -> None:
    state = answer(SETUP)
    state.add_frame(frame)
    assert judge_frame(state, frame) is None


@pytest.mark.parametrize("reason", ["max_tokens", "model_context_window_exceeded"])
@pytest.mark.parametrize("frames", [[], [TEXT], [call("now")], [TEXT, call("now")]])
def test_an_answer_that_may_not_be_longer_is_cut_off(
    reason: str, frames: list[AssistantDone]
) -> None:
    assert judge(answer(SETUP, *frames), reason) == TokenLimit(SPENT)


def test_calls_suspend_the_turn() -> None:
    assert judge(answer(SETUP, TEXT, call("now")), "tool_use") == Suspended(SPENT)


@pytest.mark.parametrize("frame", [call("ghost"), call("weather", "{}")])
def test_calls_that_are_answered_already_do_not(frame: AssistantDone) -> None:
    assert judge(answer(SETUP, frame), "tool_use") is None


def test_an_answer_given_by_a_call_ends_the_turn() -> None:
    given = call(ANSWER_TOOL, '{"city":"Rome"}')
    assert judge(answer(SHAPED, given), "tool_use") == Truncated(SPENT)
    assert judge(answer(SHAPED, given), "max_tokens") == TokenLimit(SPENT)
    both = evolve(SETUP, schema=SHAPED.schema)
    assert judge(answer(both, given, call("now")), "tool_use") == Suspended(SPENT)


def test_an_answer_given_in_text_is_in_the_transcript_too() -> None:
    """The CLI's result ends the turn, and nothing has to be taken back."""
    given = AssistantDone("u", synthetic=False, text='{"city":"Rome"}')
    state = answer(SHAPED, given)
    assert judge(state, "end_turn") is None
    assert state.is_whole
    assert judge(answer(SHAPED, given, call(ANSWER_TOOL, "{}")), "tool_use") == Truncated(SPENT)


def test_an_answer_that_does_not_match_is_waited_for_or_spoils_the_turn() -> None:
    wrong = call(ANSWER_TOOL, "{}")
    assert judge(answer(SHAPED, wrong, options=Options(whole=True)), "tool_use") is None
    state = answer(SHAPED, wrong)
    outcome = judge_frame(state, wrong)  # at once
    assert isinstance(outcome, Failed)
    assert outcome.error is state.error


def test_the_result_has_the_clis_own_error() -> None:
    assert judge_frame(answer(SETUP, TEXT, LOST), LOST) is None


def test_an_error_behind_a_call_spoils_the_turn() -> None:
    """The CLI waits for what the call comes to, and gives no result before."""
    outcome = judge_frame(answer(SETUP, call("now"), LOST), LOST)
    assert isinstance(outcome, Failed)
    assert isinstance(outcome.error, ChildError)
    assert outcome.error.message == LOST.text


def test_an_error_behind_the_answer_comes_too_late() -> None:
    """It was given as a call, so that the CLI waits too."""
    state = answer(SHAPED)
    state.add_frame(MessageStarted(Usage(prompt_tokens=9)))
    state.add_frame(call(ANSWER_TOOL, '{"city":"Rome"}'))
    assert judge_frame(state, LOST) == Truncated(Usage(prompt_tokens=9, completion_tokens=3))


# -- results ---------------------------------------------------------------------------------------

DONE = TurnResult(
    is_error=False,
    subtype="success",
    num_turns=1,
    text="a",
    stop_reason="end_turn",
    api_error_status=None,
    session_id="s",
    usage=Usage(),
)


def turn(setup: Setup, *frames: AssistantDone, options: Options = PLAIN) -> TurnState:
    prompt = TurnRequest((Message("user", ("a",)),), options=options)
    state = TurnState("7c2d6b1e-0b0f-4f0e-9d43-0b6f3f6f3a01", prompt, setup, accepted=0, due=9)
    for frame in frames:
        state.add_frame(frame, now=0)
    return state


@pytest.mark.parametrize(
    ("stop_reason", "finish"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("from_the_future", "stop"),
        (None, "stop"),
    ],
)
def test_a_whole_answer(stop_reason: str | None, finish: str) -> None:
    outcome = judge_result(turn(SETUP, TEXT), evolve(DONE, stop_reason=stop_reason), SPENT)
    assert outcome == Completed(finish, SPENT, ResumePoint("s", "u"))  # type: ignore[arg-type]


@pytest.mark.parametrize("is_error", [True, False])
def test_a_model_that_declines(is_error: bool) -> None:
    """Whether it has said something before, and whatever the CLI takes it for."""
    result = evolve(DONE, stop_reason="refusal", is_error=is_error, text="I will not.")
    for frames in ([], [TEXT]):
        assert judge_result(turn(SETUP, *frames), result, SPENT) == Refused("I will not.", SPENT)


def test_a_cut_answer_is_complete_whatever_the_result_says() -> None:
    state = turn(SETUP, options=Options(stop=("END",)))
    state.answer.add_text(TextDelta("a END b"))
    for result in (DONE, evolve(DONE, is_error=True), evolve(DONE, stop_reason="refusal")):
        assert judge_result(state, result, SPENT) == Truncated(SPENT)


@pytest.mark.parametrize(
    "changes",
    [
        {"is_error": True},
        {"is_error": True, "api_error_status": 500},
        {"subtype": "error_during_execution"},
        {"subtype": "error_max_turns"},
    ],
    ids=str,
)
def test_an_error_fails_the_turn_whatever_text_came(changes: dict[str, object]) -> None:
    for frames in ([], [TEXT]):
        outcome = judge_result(turn(SETUP, *frames), evolve(DONE, **changes), SPENT)  # type: ignore[arg-type]
        assert isinstance(outcome, Failed)
        assert outcome.error.code == "upstream_failed"


@pytest.mark.parametrize(("waited", "advised"), [(None, None), (3.5, 3.5)])
def test_an_error_advises_the_wait_that_the_cli_last_took(
    waited: float | None, advised: float | None
) -> None:
    state = turn(SETUP)
    state.retry_after = waited
    outcome = judge_result(state, evolve(DONE, is_error=True, api_error_status=429), SPENT)
    assert isinstance(outcome, Failed)
    assert isinstance(outcome.error, RateLimited)
    assert outcome.error.retry_after == advised


def test_a_result_without_an_answer_spoils_the_turn() -> None:
    """The CLI answered by itself, or says of no session."""
    for state, result in (
        (turn(SETUP), evolve(DONE, num_turns=0)),
        (turn(SETUP, LOST), DONE),
        (turn(SETUP, TEXT), evolve(DONE, session_id="")),
    ):
        outcome = judge_result(state, result, SPENT)
        assert isinstance(outcome, Failed)
        assert outcome.error.message == "a"


def test_text_where_an_answer_by_schema_was_asked_for_spoils_the_turn() -> None:
    outcome = judge_result(turn(SHAPED, TEXT), DONE, SPENT)
    assert isinstance(outcome, Failed)
    assert outcome.error.code == "invalid_structured_output"


def test_a_torn_call_spoils_the_answer_unless_its_length_was_the_limit() -> None:
    answer = AnswerState(Options(), Setup("m", tools=(Tool("now"),)))
    answer.add_frame(MessageStarted(Usage()))
    answer.add_frame(ToolUseStarted("t", "now"))
    answer.add_frame(ToolInput('{"a'))
    answer.add_frame(AssistantDone("u", synthetic=False, call=ToolCall("t", "now", "{}")))
    outcome = judge_frame(answer, MessageEnded("tool_use", Usage()))
    assert isinstance(outcome, Failed)
    assert outcome.error.code == "invalid_tool_call"
    assert isinstance(judge_frame(answer, MessageEnded("max_tokens", Usage())), TokenLimit)


def test_a_refusal_behind_a_call_is_one() -> None:
    answer = AnswerState(Options(), Setup("m", tools=(Tool("now"),)))
    answer.add_frame(AssistantDone("u", synthetic=False, call=ToolCall("t", "now", "{}")))
    assert isinstance(judge_frame(answer, MessageEnded("refusal", Usage())), Refused)


# -- limits of tokens ------------------------------------------------------------------------------

AGENT = evolve(SETUP, profile="agent")
CUT_AT_LIMIT = AssistantDone(
    "e", synthetic=True, text="API Error: too long", error="max_output_tokens"
)


@pytest.mark.parametrize("reason", ["max_tokens", "model_context_window_exceeded"])
@pytest.mark.parametrize("name", ["now", "weather"])
@pytest.mark.parametrize("pieces", [('{"city"',), ('{"city":', '"Rome"}')])
def test_an_agents_call_of_the_clients_that_is_cut_off_ends_the_answer(
    reason: str, name: str, pieces: tuple[str, ...]
) -> None:
    """Be it half or whole, strict or not: the CLI would have the model go on behind it."""
    state = AnswerState(PLAIN, AGENT)
    state.add_frame(MessageStarted(Usage()))
    state.add_frame(ToolUseStarted("t", name))
    for piece in pieces:
        state.add_frame(ToolInput(piece))
    state.add_frame(AssistantDone("u", synthetic=False, call=ToolCall("t", name, "{}")))
    assert judge(state, reason) == TokenLimit(SPENT)


def test_an_agent_whose_own_call_was_cut_off_goes_on() -> None:
    state = AnswerState(PLAIN, AGENT)
    state.add_frame(MessageStarted(Usage()))
    state.add_frame(ToolUseStarted("t", "Bash"))
    state.add_frame(ToolInput('{"comm'))
    state.add_frame(call("Bash"))
    assert judge(state, "max_tokens") is None


def test_half_a_strict_call_that_the_model_repeats_is_no_half_answer() -> None:
    """Only the message that is cut counts."""
    state = AnswerState(PLAIN, AGENT)
    state.add_frame(MessageStarted(Usage()))
    state.add_frame(ToolUseStarted("t", "weather"))
    state.add_frame(ToolInput('{"ci'))
    state.add_frame(call("weather"))
    assert judge(state, "tool_use") is None
    state.add_frame(MessageStarted(Usage()))
    state.add_frame(TEXT)
    assert judge(state, "max_tokens") is None


def test_an_answer_that_runs_out_of_tokens_again_and_again_is_as_long_as_it_may_be() -> None:
    failed = evolve(DONE, is_error=True, stop_reason="stop_sequence")
    state = turn(AGENT, TEXT, CUT_AT_LIMIT)
    assert judge_result(state, failed, SPENT) == Completed("length", SPENT, ResumePoint("s", "u"))
    assert judge_result(turn(AGENT, CUT_AT_LIMIT), failed, SPENT) == TokenLimit(
        SPENT
    )  # nothing was said
    assert isinstance(judge_result(turn(AGENT, TEXT, LOST), failed, SPENT), Failed)


@pytest.mark.parametrize("whole", [True, False])
def test_half_an_answer_by_schema_is_cut_off_only_by_its_length(whole: bool) -> None:
    def half() -> AnswerState:
        state = AnswerState(Options(whole=whole), SHAPED)
        state.add_frame(MessageStarted(Usage()))
        state.add_frame(ToolUseStarted("t", ANSWER_TOOL))
        state.add_frame(ToolInput('{"ci'))
        state.add_frame(call(ANSWER_TOOL, '{"ci'))
        assert judge_frame(state, TEXT) is None  # its end tells
        return state

    assert judge(half(), "max_tokens") == TokenLimit(SPENT)
    outcome = judge(half(), "tool_use")
    if whole:  # it is asked for again
        assert outcome is None
    else:
        assert isinstance(outcome, Failed)
        assert outcome.error.code == "invalid_structured_output"
