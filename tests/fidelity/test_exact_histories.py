"""What is asked exactly reaches the Messages API exactly: every block in its order and with its
borders, thinking with its signature, whichever road leads there. A child that lives goes on,
another one is cut back to what both histories share, or receives all of it, by lines, by a
transcript or in the body of the request.

Asked as a dialect asks it that knows blocks: with `TurnRequest.exact` and `Options.blocks`.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve, frozen
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from ccapi.actors.answering import accept, answering
from ccapi.actors.keys.registry import LOCAL
from ccapi.actors.session import prompt, replay
from ccapi.schemas.message import (
    Block,
    Document,
    Image,
    Message,
    RedactedThinking,
    Thinking,
    ToolCall,
    ToolResult,
)
from ccapi.schemas.turn import Options, ThinkingWish, Tool, TurnRequest
from ccapi.schemas.turn_items import (
    ReasoningDelta,
    ReasoningEnded,
    TextDelta,
    TextEnded,
    ToolCallDelta,
    ToolCallStarted,
    TurnItem,
)
from tests.support import messages_stub as stub
from tests.support.messages_stub import Reply
from tests.support.pictures import png

from .history_model import arguments, texts
from .served import JSON, Served, assistant, open_served, user
from .test_exact_messages import sent

MODEL = "claude-opus-4-8"
TOOLS = (Tool("look"), Tool("count"))
PICTURE = Image("image/png", base64.b64encode(png(2, 3)).decode())
FILE = Document("application/pdf", "JVBERi0xLjQK", "a.pdf")
NOTE = Document("text/plain", "bm90ZQ==")
HM, SECRET = Thinking("Hm.", "c2ln"), RedactedThinking("eA==")
ANSWER = Message("assistant", (HM, "one", "two"))
MORE = Message("user", ("And?",))


# -- asked -----------------------------------------------------------------------------------------


@frozen
class Answered:
    """What came of a request: the blocks of the answer, and the headers of the response."""

    message: Message
    headers: dict[str, str]
    finish_reason: str
    stop_reason: str | None
    stop_text: str | None

    @property
    def child(self) -> str:
        return self.headers["x-ccapi-child"]

    @property
    def is_found(self) -> bool:
        return self.headers.get("x-ccapi-lineage") == "hit"


def ask(
    served: Served, messages: Sequence[Message], *, tools: Sequence[Tool] = TOOLS,
    model: str = MODEL, **fields: Any,
) -> Answered:  # fmt: skip
    options = fields.pop("options", Options())
    request = TurnRequest(
        tuple(messages),
        model,
        tools=tuple(tools),
        options=evolve(options, blocks=True),
        exact=True,
        whole_history=True,
        **fields,
    )

    async def answer() -> Answered:
        headers: dict[str, str] = {}
        gateway = served.live.gateway
        accepted = await accept(gateway, request, LOCAL, headers)
        items: list[TurnItem] = []
        async with answering(gateway, accepted, headers, lambda: True) as turn:
            while some := await turn.receive_items():
                items += some
            said = Message("assistant", blocks_of(items))
            return Answered(said, headers, turn.finish_reason, turn.stop_reason, turn.stop_text)

    return served.run(answer)


def blocks_of(items: Iterable[TurnItem]) -> tuple[Block, ...]:
    """What a client of blocks puts together."""
    blocks: list[Block] = []
    text = thought = ""
    for item in items:
        match item:
            case TextDelta(piece):
                text += piece
            case TextEnded():
                blocks.append(text)
                text = ""
            case ReasoningDelta(piece):
                thought += piece
            case ReasoningEnded(block):
                assert thought == getattr(block, "text", "")
                blocks.append(block)
                thought = ""
            case ToolCallStarted(_, id, name):
                blocks.append(ToolCall(id, name, ""))
            case ToolCallDelta(_, fragment):
                call = blocks[-1]
                assert isinstance(call, ToolCall)
                blocks[-1] = evolve(call, arguments=call.arguments + fragment)
    assert (text, thought) == ("", "")
    return tuple(map(_respelt, blocks))


def _respelt(block: Block) -> Block:
    """A client reads JSON and writes it again, in its own way."""
    if not isinstance(block, ToolCall):
        return block
    return evolve(block, arguments=json.dumps(json.loads(block.arguments), indent=1))


# -- what the API should have received -------------------------------------------------------------


def expected(messages: Iterable[Message]) -> list[tuple[str, list[JSON]]]:
    joined: list[tuple[str, list[JSON]]] = []
    for message in messages:
        if not joined or joined[-1][0] != message.role:
            joined.append((message.role, []))
        joined[-1][1].extend(map(_block, message.content))
    return joined


def received(served: Served) -> list[tuple[str, list[JSON]]]:
    return [(role, [*map(_plain, blocks)]) for role, blocks in sent(served)]


def _plain(block: JSON) -> JSON:
    return {"is_error": False, **block} if block["type"] == "tool_result" else block


def _block(block: Any) -> JSON:
    match block:
        case str():
            return {"type": "text", "text": block}
        case Image(media_type, data):
            source = {"type": "base64", "media_type": media_type, "data": data}
            return {"type": "image", "source": source}
        case Document("text/plain", _):
            source = {"type": "text", "media_type": "text/plain", "data": "note"}
            return {"type": "document", "source": source}
        case Document(media_type, data, name):
            source = {"type": "base64", "media_type": media_type, "data": data}
            return {"type": "document", "source": source, "title": name}
        case Thinking(text, signature):
            return {"type": "thinking", "thinking": text, "signature": signature}
        case RedactedThinking(data):
            return {"type": "redacted_thinking", "data": data}
        case ToolCall(id, name, given):
            return {"type": "tool_use", "id": id, "name": name, "input": json.loads(given)}
        case ToolResult(id, content, is_error):
            said = [*map(_block, content)]
            result = {"type": "tool_result", "tool_use_id": id, "content": said}
            return result | {"is_error": is_error}
    raise AssertionError(block)


# -- histories -------------------------------------------------------------------------------------

_thoughts = st.one_of(
    st.builds(Thinking, texts | st.just(""), st.sampled_from(["c2ln", "c2lnMg=="])),
    st.builds(RedactedThinking, st.sampled_from(["eA==", "eXk="])),
)
_files = st.sampled_from([PICTURE, FILE, NOTE])
_parts: st.SearchStrategy[Block] = st.one_of(texts, texts, _files)
_questions = st.lists(_parts, min_size=1, max_size=3).map(tuple)


@frozen
class Came:
    """What came of a call. The API takes no pictures where it failed."""

    content: tuple[str | Image | Document, ...]
    is_error: bool

    def of(self, call: ToolCall) -> ToolResult:
        return ToolResult(call.id, self.content, self.is_error)


_results = st.one_of(
    st.builds(Came, st.lists(texts | texts | _files, max_size=2).map(tuple), st.just(False)),
    st.builds(Came, st.lists(texts, min_size=1, max_size=2).map(tuple), st.just(True)),
)


@frozen
class Exchange:
    asked: Message
    answer: Message

    @property
    def reply(self) -> Reply:
        """The same answer as the model gives it."""
        return Reply(tuple(map(_given, self.answer.content)))


def _given(block: Any) -> stub.Block:
    match block:
        case str():
            return stub.Text(block, 2)
        case Thinking(text, signature):
            return stub.Thinking(text, 2, signature)
        case RedactedThinking(data):
            return stub.RedactedThinking(data)
        case ToolCall(id, name, given):
            return stub.ToolUse(name, json.loads(given), id)
    raise AssertionError(block)


@st.composite
def histories(
    draw: st.DrawFn, *, most: int = 3, calls: bool = True
) -> tuple[list[Exchange], Message]:
    """Exchanges, and what is asked now."""
    exchanges: list[Exchange] = []
    asked = Message("user", draw(_questions))
    for number in range(draw(st.integers(1, most))):
        said = draw(st.lists(_thoughts | texts, max_size=4))
        wanted = draw(
            st.lists(st.tuples(st.sampled_from(["look", "count"]), arguments), max_size=2)
        )
        made = [
            ToolCall(f"toolu_{number}_{index}", name, json.dumps(values))
            for index, (name, values) in enumerate(wanted if calls else ())
        ]
        # The API gives no answer that ends with thinking, and takes none.
        last = [] if made else [draw(texts)]
        exchanges.append(Exchange(asked, Message("assistant", (*said, *last, *made))))
        results = [draw(_results).of(call) for call in made]
        rest: tuple[Block, ...] = draw(_questions) if not made or draw(st.booleans()) else ()
        asked = Message("user", (*results, *rest))
    return exchanges, asked


def flat(exchanges: Iterable[Exchange]) -> list[Message]:
    return [message for each in exchanges for message in (each.asked, each.answer)]


# -- the roads -------------------------------------------------------------------------------------


@settings(max_examples=12, phases=[Phase.generate])
@given(histories())
def test_a_client_that_goes_on_by_its_history(
    shared: Served, history: tuple[list[Exchange], Message]
) -> None:
    """Each of its requests brings all of it, and finds the child that holds it."""
    shared.begin()
    exchanges, asked = history
    said: list[Message] = []
    for number, exchange in enumerate(exchanges):
        said.append(exchange.asked)
        shared.answers(exchange.reply)
        answer = ask(shared, said)
        assert received(shared) == expected(said)
        assert [*map(_block, answer.message.content)] == [*map(_block, exchange.answer.content)]
        assert answer.is_found == bool(number)
        said.append(answer.message)
    assert ask(shared, [*said, asked]).is_found
    assert received(shared) == expected([*said, asked])


def play(shared: Served, exchanges: Sequence[Exchange]) -> tuple[list[Message], str]:
    """Have a client say this. Returns what it holds then, and its conversation."""
    said: list[Message] = []
    found = ""
    for exchange in exchanges:
        said.append(exchange.asked)
        shared.answers(exchange.reply)
        answer = ask(shared, said)
        said.append(answer.message)
        found = answer.headers["x-conversation-id"]
    return said, found


@settings(max_examples=12, phases=[Phase.generate])
@given(histories())
def test_a_child_that_knows_nothing_is_told(
    shared: Served, history: tuple[list[Exchange], Message]
) -> None:
    shared.begin()
    exchanges, asked = history
    said = [*flat(exchanges), asked]
    answer = ask(shared, said)
    assert not answer.is_found
    assert received(shared) == expected(said)
    assert len(shared.requests) == 1


@settings(max_examples=3, phases=[Phase.generate])
@given(histories())
def test_a_child_resumes_a_transcript(
    shared: Served, history: tuple[list[Exchange], Message]
) -> None:
    """As it does of a long history."""
    shared.begin()
    exchanges, asked = history
    said = [*flat(exchanges), asked]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(replay, "RECORDED_FROM", 1)
        ask(shared, said)
    assert received(shared) == expected(said)


@settings(max_examples=8, phases=[Phase.generate])
@given(histories(calls=False))
def test_a_history_in_the_body(shared: Served, history: tuple[list[Exchange], Message]) -> None:
    shared.begin()
    exchanges, asked = history
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prompt, "IN_BODY_FROM", 1)
        said = [*flat(exchanges), asked]
        shared.answers(exchanges[0].reply)
        answer = ask(shared, said, tools=())
        assert received(shared) == expected(said)
        said += [answer.message, asked]
        assert ask(shared, said, tools=()).is_found
        assert received(shared) == expected(said)


@settings(max_examples=6, phases=[Phase.generate])
@given(histories())
def test_a_child_is_cut_back_to_what_both_share(
    shared: Served, history: tuple[list[Exchange], Message]
) -> None:
    """Another branch of the same conversation, and then the first one again."""
    shared.begin()
    exchanges, asked = history
    said, _ = play(shared, exchanges)
    last = exchanges[-1]
    other = [*said[:-2], evolve(last.asked, content=(*last.asked.content, "Or else?"))]
    ask(shared, other)
    assert received(shared) == expected(other)
    ask(shared, [*said, asked])
    assert received(shared) == expected([*said, asked])


@settings(max_examples=3, phases=[Phase.generate])
@given(histories())
def test_the_child_has_died(shared: Served, history: tuple[list[Exchange], Message]) -> None:
    shared.begin()
    exchanges, asked = history
    said, conversation = play(shared, exchanges)
    shared.kill_child(conversation)
    ask(shared, [*said, asked])
    assert received(shared) == expected([*said, asked])


def test_another_gateway_goes_on(tmp_path: Path) -> None:
    """It knows the conversation from the store."""
    call = ToolCall("toolu_1", "look", '{"b": [1, null], "a": "é"}')
    result = ToolResult("toolu_1", ("seen", PICTURE))
    exchanges = [
        Exchange(Message("user", (PICTURE, "What?")), Message("assistant", (HM, "a", "b", call))),
        Exchange(Message("user", (result,)), Message("assistant", (SECRET, HM, "c", "d"))),
    ]
    with open_served(tmp_path) as first:
        first.begin()
        said, _ = play(first, exchanges)
    alike = [*said[:-1], Message("assistant", (SECRET, HM, "cd"))]
    with open_served(tmp_path) as second:
        second.begin()
        assert not ask(second, [*alike, MORE]).is_found
        assert received(second) == expected([*alike, MORE])
        assert ask(second, [*said, MORE]).is_found
        assert received(second) == expected([*said, MORE])


# -- what is only alike ----------------------------------------------------------------------------


def begin(shared: Served, name: str) -> list[Message]:
    """A conversation of one exchange."""
    shared.begin()
    said, _ = play(shared, [Exchange(Message("user", (name, "now")), ANSWER)])
    return said


@pytest.mark.parametrize(
    "answer",
    [
        Message("assistant", (HM, "onetwo")),
        Message("assistant", ("one", HM, "two")),
        Message("assistant", (Thinking("Hm.", "b3RoZXI="), "one", "two")),
        Message("assistant", (RedactedThinking("eA=="), "one", "two")),
        Message("assistant", (HM, HM, "one", "two")),
    ],
    ids=["border", "order", "signature", "redacted", "twice"],
)
def test_other_blocks_of_the_same_words_are_told(shared: Served, answer: Message) -> None:
    question, _ = begin(shared, "other blocks")
    found = ask(shared, [question, answer, MORE])
    assert not found.is_found
    assert received(shared) == expected([question, answer, MORE])
    # And the child that was cut back holds no more than what both share.
    again = ask(shared, [question, ANSWER, MORE])
    assert received(shared) == expected([question, ANSWER, MORE])
    assert again.finish_reason == "stop"


@pytest.mark.parametrize(
    ("answer", "child"),
    [
        (ANSWER, "prefix"),
        (Message("assistant", ("one", "two")), "prefix"),
        (Message("assistant", (HM, "onetwo")), "told"),
        (Message("assistant", (Thinking("Hm.", "b3RoZXI="), "one", "two")), "told"),
    ],
    ids=["same", "no thinking", "border", "signature"],
)
def test_a_child_is_cut_back_to_the_same_blocks_only(
    shared: Served, answer: Message, child: str
) -> None:
    said = begin(shared, f"cut back {answer}")
    ask(shared, [*said, MORE])
    other = [said[0], answer, Message("user", ("Or?",))]
    found = ask(shared, other)
    assert (found.child == "prefix") == (child == "prefix")
    thought = [said[0], ANSWER, other[-1]] if child == "prefix" else other
    assert received(shared) == expected(thought)


def test_other_borders_of_a_question_are_told(shared: Served) -> None:
    begin(shared, "borders")
    asked = [Message("user", ("bordersnow",)), ANSWER, MORE]
    assert not ask(shared, asked).is_found
    assert received(shared) == expected(asked)


def test_a_client_that_leaves_thinking_out_goes_on(shared: Served) -> None:
    """It may: the child knows what the model thought."""
    question, _ = begin(shared, "without thinking")
    assert ask(shared, [question, Message("assistant", ("one", "two")), MORE]).is_found
    assert received(shared) == expected([question, ANSWER, MORE])


def test_a_conversation_crosses_faces(shared: Served) -> None:
    shared.begin()
    asked = user("Crossing faces.")
    shared.answers(Reply((stub.Thinking("Hm."), stub.Text("one"))))
    first = shared.ask(asked, model=MODEL)
    said = [Message("user", ("Crossing faces.",)), Message("assistant", ("one",)), MORE]
    shared.answers(Reply((stub.Text("two"), stub.Text("three"))))
    second = ask(shared, said, tools=())
    assert second.is_found
    assert second.headers["x-conversation-id"] == first.conversation_id
    thinking = Thinking("Hm.", "c2lnbmF0dXJl")
    whole = [said[0], Message("assistant", (thinking, "one")), MORE]
    assert received(shared) == expected(whole)
    third = shared.ask(
        asked, assistant("one"), user("And?"), assistant("twothree"), user("So?"), model=MODEL
    )
    assert third.conversation_id == first.conversation_id
    assert received(shared) == expected([*whole, second.message, Message("user", ("So?",))])


# -- what is asked beside the messages, and how the answer ended -----------------------------------

QUESTION = Message("user", ("How?",))


@pytest.mark.parametrize(
    ("wish", "told"),
    [
        (ThinkingWish("enabled", 2048), {"type": "enabled", "budget_tokens": 2048}),
        (ThinkingWish("adaptive"), {"type": "adaptive"}),
        (ThinkingWish("adaptive", None, "omitted"), {"type": "adaptive", "display": "omitted"}),
        (
            ThinkingWish("enabled", 1024, "summarized"),
            {"type": "enabled", "budget_tokens": 1024, "display": "summarized"},
        ),
        (ThinkingWish("disabled"), {"type": "disabled"}),
    ],
    ids=str,
)
def test_a_wish_about_thinking_reaches_the_api(
    served: Served, wish: ThinkingWish, told: JSON
) -> None:
    """For a model that the CLI gives a budget, and for one that it lets choose; for one turn."""
    for model in ("claude-haiku-4-5", MODEL):
        options = Options(thinking=wish, max_tokens=4096)
        answer = ask(served, [QUESTION], model=model, options=options, tools=())
        assert served.last.body["thinking"] == told
        assert served.last.body["max_tokens"] == 4096
        assert "x-ccapi-ignored" not in answer.headers
        ask(served, [QUESTION, answer.message, MORE], model=model, tools=())
        assert "updates" in served.last.body["thinking"].get("display", "updates")


def test_a_model_that_always_thinks_is_not_silenced(served: Served) -> None:
    """The CLI would pass it on, and the API refuse it."""
    options = Options(thinking=ThinkingWish("disabled"))
    answer = ask(served, [QUESTION], model="sonnet", options=options)
    assert served.last.body["thinking"]["type"] == "adaptive"
    assert answer.headers["x-ccapi-ignored"] == "thinking"


def test_thinking_that_the_api_leaves_out(served: Served) -> None:
    """Its signature comes, and goes back."""
    omitted = Message("assistant", (Thinking("", "c2ln"), "one"))
    said, _ = play(served, [Exchange(Message("user", ("omitted",)), omitted)])
    assert said[1] == omitted
    ask(served, [*said, MORE])
    assert received(served) == expected([*said, MORE])


@pytest.mark.parametrize(
    ("reply", "ended"),
    [
        (Reply((stub.Text("a"),)), ("stop", "end_turn", None)),
        (
            Reply((stub.Text("a"),), stop_reason="stop_sequence", stop_sequence="END"),
            ("stop", "stop_sequence", "END"),
        ),
        (Reply((stub.Text("aENDb", 2),)), ("stop", "stop_sequence", "END")),
        (Reply((stub.Text("a"),), stop_reason="max_tokens"), ("length", "max_tokens", None)),
        (
            Reply((stub.Text("a"),), stop_reason="model_context_window_exceeded"),
            ("length", "model_context_window_exceeded", None),
        ),
        (Reply((stub.Text("a"),), stop_reason="pause_turn"), ("length", "pause_turn", None)),
        (Reply((stub.Text("a"),), stop_reason="refusal"), ("content_filter", "refusal", None)),
        (Reply((), stop_reason="refusal"), ("content_filter", "refusal", None)),
    ],
    ids=[
        "end", "the API's stop", "the gateway's stop", "length", "window", "pause", "refusal",
        "refusal of nothing",
    ],
)  # fmt: skip
def test_how_an_answer_ended(
    served: Served, reply: Reply, ended: tuple[str, str, str | None]
) -> None:
    served.answers(reply)
    asked = Message("user", (f"ends {ended} {len(reply.blocks)}",))
    answer = ask(served, [asked], options=Options(stop=("END",)))
    assert (answer.finish_reason, answer.stop_reason, answer.stop_text) == ended
    assert answer.message.content == ("a",) * len(reply.blocks)
    served.wait(lambda: not served.stub.queue)
    # The client goes on with what it has, whatever the child holds. A refused answer it leaves out.
    if ended[0] != "content_filter":
        ask(served, [asked, answer.message, MORE])
        assert received(served) == expected([asked, answer.message, MORE])


def test_calls_end_an_answer(served: Served) -> None:
    call = stub.ToolUse("look", {"b": 1, "a": [1.5, "é"]}, "toolu_1")
    served.answers(Reply((stub.Thinking("Hm."), stub.Text("Well"), call)))
    answer = ask(served, [Message("user", ("Call it.",))])
    assert (answer.finish_reason, answer.stop_reason) == ("tool_calls", "tool_use")
    assert [type(each) for each in answer.message.content] == [Thinking, str, ToolCall]
