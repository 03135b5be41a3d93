"""The answer of one turn, frame by frame."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccapi.actors.session.answer import MAX_MISFITS, AnswerState, ModelFrame
from ccapi.schemas.claude.output import (
    AssistantDone,
    MessageEnded,
    MessageStarted,
    ToolInput,
    ToolReturned,
    ToolsReturned,
    ToolUseStarted,
)
from ccapi.schemas.claude.tool_names import ANSWER_TOOL, wire_name
from ccapi.schemas.mcp_tools import ServerTool
from ccapi.schemas.message import (
    Message,
    RedactedThinking,
    Thinking,
    ToolCall,
    ToolRound,
    unrolled,
)
from ccapi.schemas.turn import HostedTool, Options, Setup, Tool, Usage
from ccapi.schemas.turn_items import (
    ActivityEnded,
    ActivityStarted,
    Gathering,
    ReasoningDelta,
    ReasoningEnded,
    TextDelta,
    TextEnded,
    ToolCallDelta,
    ToolCallStarted,
    TurnItem,
)

PLACE = '{"type":"object","properties":{"city":{"type":"string"}},"required":["city"]}'
NOW, STRICT = Tool("now"), Tool("weather", "", PLACE, strict=True)
SPELT = Tool("mail.send")
TOOLED = Setup("m", tools=(NOW, STRICT, SPELT))
SHAPED = Setup("m", schema=PLACE)
BOTH = Setup("m", tools=(NOW, STRICT), schema=PLACE)
STREAMED, WHOLE = Options(), Options(whole=True)
ROME, WRONG = '{"city": "Rome"}', '{"town":"Rome"}'


def text(*pieces: str, whole: str | None = None) -> list[TextDelta | ModelFrame]:
    """A block of text as it is streamed; `whole` where the frame behind it says something else."""
    said = "".join(pieces) if whole is None else whole
    return [*map(TextDelta, pieces), AssistantDone("u", synthetic=False, text=said)]


def call(id: str, name: str, *pieces: str, parsed: str = "{}") -> list[TextDelta | ModelFrame]:
    """A tool call as it is streamed; `parsed` is the input that the CLI has made of it."""
    done = AssistantDone(f"u {id}", synthetic=False, call=ToolCall(id, name, parsed))
    return [ToolUseStarted(id, name), *map(ToolInput, pieces), done]


def ended(reason: str = "end_turn", **usage: int) -> MessageEnded:
    return MessageEnded(reason, Usage(**usage))


def hear(answer: AnswerState, *frames: list[TextDelta | ModelFrame]) -> list[TurnItem]:
    items: list[TurnItem] = []
    for frame in (frame for block in frames for frame in block):
        items += answer.add_text(frame) if isinstance(frame, TextDelta) else answer.add_frame(frame)
    return items


def gathered(items: list[TurnItem]) -> tuple[str, tuple[ToolCall, ...]]:
    gathering = Gathering()
    for item in items:
        gathering.add(item)
    return gathering.text, gathering.tool_calls


# -- text ------------------------------------------------------------------------------------------


def test_text_is_passed_on_as_it_comes() -> None:
    answer = AnswerState(STREAMED, Setup("m"))
    assert not answer.is_whole
    assert hear(answer, text("a", "", "b")) == [TextDelta("a"), TextDelta(""), TextDelta("b")]
    assert answer.finish() == []
    assert answer.message == Message("assistant", ("ab",))
    assert answer.is_whole
    assert answer.assistant_uuid == "u"
    assert answer.take_rejected() == []


def test_text_that_was_not_streamed_is_delivered_at_once() -> None:
    """The CLI asks again without a stream where the API knows no such address."""
    answer = AnswerState(STREAMED, Setup("m"))
    assert hear(answer, text(whole="a"), text("b", whole="b"), text(whole="c")) == [
        TextDelta("a"),
        TextDelta("b"),
        TextDelta("c"),
    ]


def test_the_clis_own_text_is_no_answer() -> None:
    answer = AnswerState(STREAMED, Setup("m"))
    assert answer.add_frame(AssistantDone("u", synthetic=True, text="API Error: 500")) == []
    assert not answer.is_whole
    assert answer.message == Message("assistant", ("",))


def test_thinking_is_passed_on_to_who_wants_it() -> None:
    said: list[TextDelta | ModelFrame] = [ReasoningDelta("Hm"), AssistantDone("u", synthetic=False)]
    assert hear(AnswerState(STREAMED, Setup("m")), said) == []
    answer = AnswerState(Options(reasoning=True), Setup("m"))
    assert hear(answer, said) == [ReasoningDelta("Hm")]
    assert answer.message.text == ""


# -- stop texts ------------------------------------------------------------------------------------

STOPPED = Options(stop=("END",))


def test_a_stop_text_cuts_the_answer() -> None:
    answer = AnswerState(STOPPED, Setup("m"))
    assert hear(answer, [TextDelta("one E")]) == [TextDelta("one ")]
    assert not answer.is_cut
    assert hear(answer, text("ND two")) == []
    assert answer.is_cut
    assert hear(answer, text(whole="three")) == []
    assert answer.finish() == []
    assert answer.message == Message("assistant", ("one ",))


@pytest.mark.parametrize("pieces", [["one E"], ["E"], ["one", " E"], ["E", "N"]])
def test_held_back_text_is_delivered_once(pieces: list[str]) -> None:
    """Even if nothing of a block was passed on, it has been streamed."""
    answer = AnswerState(STOPPED, Setup("m"))
    items = [*hear(answer, text(*pieces)), *answer.finish()]
    assert gathered(items) == ("".join(pieces), ())
    assert answer.message.text == "".join(pieces)


def test_a_stop_text_may_stand_in_two_blocks() -> None:
    answer = AnswerState(STOPPED, Setup("m"))
    hear(answer, text("one E"), text(whole="ND two"))
    assert answer.is_cut
    assert answer.message.text == "one "


@given(st.lists(st.text("ab", max_size=3), max_size=5), st.booleans())
def test_the_message_is_what_was_delivered(pieces: list[str], streamed: bool) -> None:
    answer = AnswerState(Options(stop=("aab",)), Setup("m"))
    blocks = [text(piece) if streamed else text(whole=piece) for piece in pieces]
    items = [*hear(answer, *blocks), *answer.finish()]
    assert gathered(items)[0] == answer.message.text == "".join(pieces).split("aab")[0]


# -- calls -----------------------------------------------------------------------------------------


def test_a_call_is_passed_on_as_it_comes() -> None:
    answer = AnswerState(STREAMED, TOOLED)
    said = call("t", "now", '{"n": ', "", "1.0}", parsed='{"n":1}')
    assert hear(answer, said) == [
        ToolCallStarted(0, "t", "now"),
        ToolCallDelta(0, '{"n": '),
        ToolCallDelta(0, "1.0}"),
    ]
    # As the model said it: the CLI's own reading of it has lost something.
    assert answer.calls == [ToolCall("t", "now", '{"n": 1.0}')]
    assert answer.message == Message("assistant", (ToolCall("t", "now", '{"n": 1.0}'),))
    assert answer.assistant_uuid == "u t"


def test_text_and_calls_in_turn() -> None:
    answer = AnswerState(STREAMED, TOOLED)
    items = hear(
        answer,
        text("Let me ", "see."),
        call("t", "now", "{}"),
        text(" And"),
        call("u", "now", '{"a"', ":1}"),
        text(whole=" so."),
    )
    calls = (ToolCall("t", "now", "{}"), ToolCall("u", "now", '{"a":1}'))
    assert gathered(items) == ("Let me see. And so.", calls)
    assert answer.message == Message("assistant", ("Let me see. And so.", *calls))
    assert [item.index for item in items if isinstance(item, ToolCallStarted)] == [0, 1]


def test_a_call_without_input_has_an_empty_one() -> None:
    answer = AnswerState(STREAMED, TOOLED)
    assert gathered(hear(answer, call("t", "now"))) == ("", (ToolCall("t", "now", "{}"),))
    assert answer.calls == [ToolCall("t", "now", "{}")]


def test_a_call_that_was_not_streamed_is_delivered_at_once() -> None:
    answer = AnswerState(STREAMED, TOOLED)
    first, second = call("t", "now", parsed='{"a":1}'), call("u", "weather", parsed=ROME)
    assert gathered(hear(answer, first[-1:], second[-1:])) == (
        "",
        (ToolCall("t", "now", '{"a":1}'), ToolCall("u", "weather", ROME)),
    )


def test_a_call_has_the_clients_own_name() -> None:
    answer = AnswerState(STREAMED, TOOLED)
    (name,) = [name for name, tool in answer._tools.items() if tool is SPELT]
    assert name != "mail.send"
    assert hear(answer, call("t", name, "{}"))[0] == ToolCallStarted(0, "t", "mail.send")
    assert answer.calls[0].name == "mail.send"


@pytest.mark.parametrize("name", ["ghost", "Bash", "mail.send", ANSWER_TOOL])
def test_a_tool_that_was_not_offered_is_the_clis_to_refuse(name: str) -> None:
    answer = AnswerState(STREAMED, TOOLED)
    assert hear(answer, call("g", name, '{"a":', "1}"), call("g2", name, parsed="{}")[-1:]) == []
    assert (answer.calls, answer.take_rejected()) == ([], [])
    assert hear(answer, call("t", "now", "{}"))[0] == ToolCallStarted(0, "t", "now")


@pytest.mark.parametrize("torn", ['{"a": "hel', "[1]", "x"])
def test_a_call_that_was_cut_short_is_none(torn: str) -> None:
    """No client can answer it; the client that got its pieces gets the turn's error."""
    answer = AnswerState(STREAMED, TOOLED)
    items = hear(answer, call("t", "now", torn, parsed="{}"))
    assert gathered(items)[1] == (ToolCall("t", "now", torn),)
    assert answer.malformed is not None
    assert answer.calls == []


def test_a_torn_strict_call_is_asked_for_again() -> None:
    """It was not passed on, so that nothing is wrong in the answer."""
    answer = AnswerState(STREAMED, TOOLED)
    assert hear(answer, call("t", "weather", '{"city": "Ro', parsed="{}")) == []
    assert [call_id for call_id, _ in answer.take_rejected()] == ["t"]
    assert answer.malformed is None
    hear(answer, call("u", "weather", '{"city": "Rome"}'))
    assert [made.id for made in answer.calls] == ["u"]


# -- strict calls ----------------------------------------------------------------------------------


def test_a_strict_call_is_passed_on_once_it_is_whole() -> None:
    answer = AnswerState(STREAMED, TOOLED)
    *said, done = call("t", "weather", '{"city"', ': "Rome"}', parsed='{"city":"Rome"}')
    assert hear(answer, said) == []
    assert hear(answer, [done]) == [ToolCallStarted(0, "t", "weather"), ToolCallDelta(0, ROME)]
    assert answer.calls == [ToolCall("t", "weather", ROME)]


@pytest.mark.parametrize("wrong", [WRONG, '{"city":', "[]"])
def test_a_strict_call_that_is_wrong_is_never_passed_on(wrong: str) -> None:
    answer = AnswerState(STREAMED, TOOLED)
    assert hear(answer, call("t", "weather", wrong, parsed="{}")) == []
    assert answer.calls == []
    ((call_id, reason),) = answer.take_rejected()
    assert call_id == "t"
    assert reason.startswith("The arguments do not match the tool's schema (")
    assert answer.take_rejected() == []
    assert gathered(hear(answer, call("u", "weather", ROME)))[1] == (
        ToolCall("u", "weather", ROME),
    )
    assert answer.error is None


def test_a_model_that_keeps_getting_it_wrong_fails_the_turn() -> None:
    answer = AnswerState(STREAMED, TOOLED)
    for number in range(MAX_MISFITS):
        hear(answer, call(f"t{number}", "weather", WRONG))
        assert answer.error is None
    hear(answer, call("t", "weather", WRONG))
    assert answer.error is not None
    assert answer.error.code == "invalid_tool_call"


# -- an answer that has to suit a schema -----------------------------------------------------------


def test_an_answer_by_schema_is_the_input_of_a_call() -> None:
    answer = AnswerState(STREAMED, SHAPED)
    said = call("t", ANSWER_TOOL, '{"city"', ': "Rome"}', parsed='{"city":"Rome"}')
    assert hear(answer, said) == [TextDelta('{"city"'), TextDelta(': "Rome"}')]
    assert (answer.answered, answer.is_whole) == (True, True)
    assert answer.message == Message("assistant", (ROME,))
    assert (answer.calls, answer.take_rejected()) == ([], [])


def test_text_beside_it_is_not_the_answer() -> None:
    answer = AnswerState(STREAMED, SHAPED)
    assert hear(answer, text("Here it is:"), text(whole="Now.")) == []
    assert not answer.is_whole
    items = hear(answer, call("t", ANSWER_TOOL, ROME), text("Was that right?"))
    assert gathered(items) == (ROME, ())
    assert answer.message.text == ROME


@pytest.mark.parametrize("options", [STREAMED, WHOLE])
@pytest.mark.parametrize("said", [ROME, f" {ROME}\n", f"```json\n{ROME}\n```", f"```{ROME}```\n"])
def test_an_answer_by_schema_may_be_text(options: Options, said: str) -> None:
    """There are models that cannot be made to call the tool."""
    answer = AnswerState(options, SHAPED)
    assert hear(answer, text(said)) == [TextDelta(ROME)]
    assert (answer.answered, answer.is_whole) == (True, True)
    assert answer.message.text == ROME
    assert hear(answer, text(ROME), call("t", ANSWER_TOOL, ROME)) == []
    assert [call_id for call_id, _ in answer.take_rejected()] == ["t"]


@pytest.mark.parametrize("said", [WRONG, f"Here it is: {ROME}", "[]", "```", "``````", "NaN"])
def test_text_that_does_not_match_the_schema_is_no_answer(said: str) -> None:
    answer = AnswerState(WHOLE, SHAPED)
    assert hear(answer, text(said)) == []
    assert (answer.answered, answer.error) == (False, None)


@pytest.mark.parametrize("options", [STREAMED, WHOLE])
def test_an_answer_by_schema_that_was_not_streamed(options: Options) -> None:
    answer = AnswerState(options, SHAPED)
    assert gathered(hear(answer, call("t", ANSWER_TOOL, parsed=ROME)[-1:])) == (ROME, ())
    assert answer.answered


def test_a_whole_answer_that_does_not_match_is_asked_for_again() -> None:
    answer = AnswerState(WHOLE, SHAPED)
    assert hear(answer, call("t", ANSWER_TOOL, WRONG)) == []
    assert [call_id for call_id, _ in answer.take_rejected()] == ["t"]
    assert (answer.answered, answer.is_whole, answer.error) == (False, False, None)
    assert hear(answer, call("u", ANSWER_TOOL, ROME)) == [TextDelta(ROME)]
    assert answer.is_whole
    assert answer.message.text == ROME


def test_a_streamed_answer_that_does_not_match_fails_the_turn() -> None:
    """Its caller has it already."""
    answer = AnswerState(STREAMED, SHAPED)
    assert gathered(hear(answer, call("t", ANSWER_TOOL, WRONG))) == (WRONG, ())
    assert answer.error is not None
    assert answer.error.code == "invalid_structured_output"


def test_a_model_that_never_answers_well_fails_the_turn() -> None:
    answer = AnswerState(WHOLE, SHAPED)
    for number in range(MAX_MISFITS + 1):
        assert answer.error is None
        hear(answer, call(f"t{number}", ANSWER_TOOL, WRONG))
    assert answer.error is not None
    assert answer.error.code == "invalid_structured_output"


@pytest.mark.parametrize("options", [STREAMED, WHOLE])
@pytest.mark.parametrize("second", ['{"city":"Oslo"}', WRONG])
def test_the_first_of_two_answers_counts(options: Options, second: str) -> None:
    answer = AnswerState(options, SHAPED)
    items = hear(answer, call("t", ANSWER_TOOL, ROME), call("u", ANSWER_TOOL, second))
    assert gathered(items) == (ROME, ())
    assert answer.message.text == ROME
    assert answer.error is None
    assert [call_id for call_id, _ in answer.take_rejected()] == ["u"]


def test_a_stop_text_does_not_cut_an_answer_by_schema() -> None:
    """It would leave half of the JSON."""
    answer = AnswerState(Options(stop=("Ro",)), SHAPED)
    whole = '{"city": "Rome"}'
    assert gathered(hear(answer, call("t", ANSWER_TOOL, whole[:11], whole[11:]))) == (whole, ())
    assert not answer.is_cut


def test_a_stop_text_behind_a_call_does_not_end_the_answer() -> None:
    """It ends by the call; what is said behind it is not delivered."""
    answer = AnswerState(Options(stop=("STOP",)), TOOLED)
    hear(answer, call("t", "now", "{}"))
    assert gathered(hear(answer, [TextDelta("on STOP and on")]))[0] == "on "
    assert not answer.is_cut
    assert len(answer.calls) == 1


@pytest.mark.parametrize("options", [STREAMED, WHOLE])
@pytest.mark.parametrize("first", [True, False])
def test_an_answer_beside_calls_has_to_wait(options: Options, first: bool) -> None:
    """The CLI asks the model again once all of its calls are answered, this one too."""
    said = [call("a", ANSWER_TOOL, ROME), call("t", "now", "{}"), call("u", "now", "{}")]
    answer = AnswerState(options, BOTH)
    items = hear(answer, *(said if first else reversed(said)))
    assert {each.id for each in gathered(items)[1]} == {"t", "u"}
    assert [call_id for call_id, _ in answer.take_rejected()] == ["a"]


# -- what it takes ---------------------------------------------------------------------------------


def test_usage_is_the_sum_of_the_messages() -> None:
    answer = AnswerState(STREAMED, TOOLED)
    begun = Usage(prompt_tokens=22, completion_tokens=1, cached_tokens=5, cache_write_tokens=7)
    hear(answer, [MessageStarted(begun)])
    assert answer.usage == Usage()
    hear(answer, [ended(completion_tokens=40, reasoning_tokens=25)])
    first = Usage(22, 40, 5, 7, reasoning_tokens=25)
    assert answer.usage == first
    # Another API repeats at the end what it read.
    again = ended(prompt_tokens=30, completion_tokens=2, cached_tokens=20)
    hear(answer, [MessageStarted(begun), again])
    assert answer.usage == first + Usage(prompt_tokens=30, completion_tokens=2, cached_tokens=20)
    assert answer.estimate().prompt_tokens == 52


def test_what_a_message_under_way_takes_is_estimated() -> None:
    answer = AnswerState(STREAMED, Setup("m"))
    hear(answer, [MessageStarted(Usage(prompt_tokens=22, completion_tokens=1, cached_tokens=5))])
    assert answer.estimate() == Usage(prompt_tokens=22, completion_tokens=1, cached_tokens=5)
    hear(answer, [TextDelta("x" * 40)])
    assert answer.estimate() == Usage(prompt_tokens=22, completion_tokens=10, cached_tokens=5)
    hear(answer, [ended(completion_tokens=90), MessageStarted(Usage(prompt_tokens=9))])
    # What a client has received is never unsaid.
    assert answer.estimate() == Usage(prompt_tokens=31, completion_tokens=90, cached_tokens=5)


# -- as the model gave it --------------------------------------------------------------------------

THOUGHT = Thinking("Hm.", "c2ln")


def thought(block: Thinking | RedactedThinking = THOUGHT) -> list[TextDelta | ModelFrame]:
    return [ReasoningDelta("Hm."), AssistantDone("u", synthetic=False, thinking=block)]


def test_the_exact_answer_has_all_blocks_in_their_order() -> None:
    answer = AnswerState(STREAMED, TOOLED)
    redacted = RedactedThinking("eA==")
    look = call("a", wire_name("mail.send"), "{}")
    hear(answer, [MessageStarted(Usage())], thought(), text("x", "y"), look, thought(redacted))
    assert answer.exact is not None
    assert answer.exact.content == (THOUGHT, "xy", *answer.calls, redacted)
    assert answer.exact.calls == answer.message.calls == (ToolCall("a", "mail.send", "{}"),)


@pytest.mark.parametrize(
    ("options", "setup", "frames"),
    [
        (Options(stop=("y",)), Setup("m"), [*thought(), *text("xyz")]),
        (STREAMED, SHAPED, [*thought(), *call("a", ANSWER_TOOL, ROME)]),
        (STREAMED, Setup("m", profile="agent"), [*thought(), *text("x")]),
        (STREAMED, Setup("m"), [*thought(), *text("x", whole="xy")]),
        (STREAMED, Setup("m"), thought()),
        (
            STREAMED,
            TOOLED,
            [*thought(), *call("a", "weather", WRONG), MessageStarted(Usage()), *text("x")],
        ),
    ],
    ids=["cut", "structured", "agent", "other text", "thinking alone", "several messages"],
)
def test_what_the_client_did_not_receive_so_is_remembered_plainly(
    options: Options, setup: Setup, frames: list[TextDelta | ModelFrame]
) -> None:
    answer = AnswerState(options, setup)
    hear(answer, [MessageStarted(Usage())], frames)
    assert answer.exact is None


# -- blocks ----------------------------------------------------------------------------------------

BLOCKS = Options(blocks=True)
HM, SECRET = Thinking("Hm, so", "c2ln"), RedactedThinking("x")


def pondered(*pieces: str, block: Thinking | RedactedThinking) -> list[TextDelta | ModelFrame]:
    done = AssistantDone("t", synthetic=False, thinking=block)
    return [*map(ReasoningDelta, pieces), done]


def test_a_client_that_knows_blocks_receives_their_ends() -> None:
    answer = AnswerState(BLOCKS, TOOLED)
    items = hear(
        answer,
        pondered("Hm", ", so", block=HM),
        pondered(block=SECRET),
        text("a", "b"),
        text("", whole=""),
        text(whole="c"),
        call("1", "now", "{}"),
    )
    assert items == [
        *(ReasoningDelta("Hm"), ReasoningDelta(", so"), ReasoningEnded(HM), ReasoningEnded(SECRET)),
        *(TextDelta("a"), TextDelta("b"), TextEnded()),
        TextDelta(""),
        *(TextDelta("c"), TextEnded()),
        *(ToolCallStarted(0, "1", "now"), ToolCallDelta(0, "{}")),
    ]
    assert answer.finish() == []
    now = ToolCall("1", "now", "{}")
    assert answer.message == answer.exact == Message("assistant", (HM, SECRET, "ab", "c", now))


def test_thinking_that_came_in_one_piece_is_delivered_too() -> None:
    omitted = Thinking("", "c2ln")
    items = hear(AnswerState(BLOCKS, Setup("m")), pondered(block=HM), pondered(block=omitted))
    assert items == [ReasoningDelta("Hm, so"), ReasoningEnded(HM), ReasoningEnded(omitted)]


def test_a_stop_text_that_a_client_of_blocks_is_told() -> None:
    answer = AnswerState(Options(blocks=True, stop=("END", "D t")), Setup("m"))
    items = hear(answer, pondered("Hm", block=HM), text("one E"), text("N", "D-two E", "ND t"))
    items += answer.finish()
    assert items[2:] == [
        *(TextDelta("one "), TextDelta("E"), TextEnded()),  # no stop text goes on in another block
        *(TextDelta("N"), TextDelta("D-two "), TextEnded()),
    ]
    assert (answer.stop_text, answer.stop_reason) == ("END", "stop_sequence")
    assert answer.message == Message("assistant", (HM, "one E", "ND-two "))
    assert answer.finish() == []


def test_held_back_text_ends_with_its_block() -> None:
    answer = AnswerState(Options(blocks=True, stop=("END",)), TOOLED)
    items = hear(answer, text("one E"), call("1", "now", "{}"))
    assert items[:3] == [TextDelta("one "), TextDelta("E"), TextEnded()]
    assert isinstance(items[3], ToolCallStarted)


def test_texts_around_a_hosted_tool_are_blocks_of_their_own() -> None:
    """To a client of texts a paragraph stands between them."""
    look = HostedTool.of(ServerTool("s", "look", "mcp__s__look", "", "{}", True))
    setup = Setup("m", hosted=(look,))

    def play(options: Options) -> tuple[list[TurnItem], AnswerState]:
        answer = AnswerState(options, setup)
        answer.add_frame(MessageStarted(Usage()))
        items = hear(answer, text("a"), call("1", "mcp__s__look", "{}"), [ended("tool_use")])
        result = ToolReturned("1", "r", content=("r",))
        items += hear(answer, [ToolsReturned((result,)), MessageStarted(Usage())])
        return items + hear(answer, pondered(block=HM), text("\n\nb"), [ended()]), answer

    items, answer = play(BLOCKS)
    texts = [each for each in items if isinstance(each, TextDelta | TextEnded)]
    assert texts == [TextDelta("a"), TextEnded(), TextDelta("\n\nb"), TextEnded()]
    assert isinstance(items[2], ActivityStarted)
    assert any(isinstance(each, ActivityEnded) for each in items)
    calls = (ToolCall("1", "mcp__s__look", "{}"),)
    assert answer.exact is not None
    kinds = [type(each) for each in answer.exact.content if each != ""]
    assert kinds == [str, ToolRound, Thinking, str]
    # Whatever the client knows, the API reads again what the model said.
    for whole in (answer.exact, play(STREAMED)[1].exact):
        assert whole is not None
        [*_, last], _ = unrolled([whole])
        assert last.text == "\n\nb"
    assert answer.exact.rounds[0].calls == calls
    assert answer.exact.text == answer.message.text == "a\n\nb"
    assert play(STREAMED)[1].message.text == "a\n\n\n\nb"


def test_an_answer_of_a_schema_is_a_block() -> None:
    answer = AnswerState(BLOCKS, SHAPED)
    items = hear(
        answer, pondered(block=HM), text("Well"), call("1", ANSWER_TOOL, *ROME), [ended("tool_use")]
    )
    assert items[2:] == [*map(TextDelta, ROME), TextEnded()]
    assert answer.message == Message("assistant", (HM, ROME))
    assert answer.stop_reason == "end_turn"  # the call is none to the client


@pytest.mark.parametrize(
    "reason",
    ["end_turn", "max_tokens", "stop_sequence", "refusal", "pause_turn", "tool_use", "newer"],
)
@pytest.mark.parametrize("options", [STREAMED, BLOCKS])
def test_why_the_model_stopped_is_kept(options: Options, reason: str) -> None:
    answer = AnswerState(options, Setup("m"))
    assert answer.stop_reason is None
    hear(answer, text("a"), [MessageEnded("tool_use", Usage())])
    hear(answer, [MessageStarted(Usage())])
    assert answer.stop_reason is None
    hear(answer, [MessageEnded(reason, Usage(), "END")])
    assert [answer.stop_reason, answer.stop_text] == [reason, "END"]


_blocks = st.one_of(
    st.lists(st.text("ab", max_size=3), max_size=3).map(lambda said: text(*said)),
    st.text("ab", max_size=3).map(lambda said: text(whole=said)),
    st.sampled_from([pondered("H", "m", block=HM), pondered(block=HM), pondered(block=SECRET)]),
    st.just(call("1", "now", "{}")),
)


@given(st.lists(_blocks, max_size=6), st.sampled_from([(), ("aab",), ("b", "ba")]))
def test_the_items_are_the_message(
    blocks: list[list[TextDelta | ModelFrame]], stop: tuple[str, ...]
) -> None:
    """A client of blocks can put the message together that the conversation remembers."""
    answer = AnswerState(Options(blocks=True, stop=stop), TOOLED)
    items: list[TurnItem] = []
    for block in blocks:
        if not answer.is_cut:
            items += hear(answer, block)
    items += answer.finish()
    built: list[object] = []
    now = ""
    for item in items:
        match item:
            case TextDelta(piece):
                now += piece
            case TextEnded():
                assert now
                built.append(now)
                now = ""
            case ReasoningEnded(thinking):
                assert not now
                built.append(thinking)
            case ToolCallStarted(_, id, name):
                assert not now
                built.append(ToolCall(id, name, "{}"))
    assert not now
    assert answer.message.content == (tuple(built) or ("",))
    if not stop and not answer.message.is_blank:
        assert answer.exact == answer.message
