"""An answer for which the web was searched: what the client receives, and what is remembered."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from ccapi.actors.session.answer import AnswerState
from ccapi.actors.session.searches import search_answer
from ccapi.actors.session.turn import TurnState
from ccapi.schemas.claude.input import encode_blocks
from ccapi.schemas.claude.output import (
    AssistantDone,
    MessageStarted,
    PermissionAsked,
    ToolInput,
    ToolReturned,
    ToolsReturned,
    ToolUseStarted,
    decode,
)
from ccapi.schemas.message import Citations, Message, ServerBlock, ToolCall, digest
from ccapi.schemas.search import Cited, Source, WebPage
from ccapi.schemas.turn import Options, SearchWish, Setup, TurnRequest, Usage
from ccapi.schemas.turn_items import (
    ActivityStarted,
    SearchEnded,
    SearchStarted,
    TextDelta,
    TextEnded,
    TurnItem,
)

SETUP = Setup("m")
AGENT = Setup("m", profile="agent")
URL = "https://a.example/"
PAGE = {
    "type": "web_search_result", "title": "A", "url": URL, "encrypted_content": "s",
    "page_age": None,
}  # fmt: skip
CITATION = {
    "type": "web_search_result_location", "cited_text": "Blue!", "url": URL, "title": "A",
    "encrypted_index": "i",
}  # fmt: skip
BLOCKS: list[dict[str, Any]] = [
    {"type": "text", "text": "I look."},
    {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "q"}},
    {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": [PAGE]},
    {"type": "text", "text": "So: "},
    {"type": "text", "text": "blue", "citations": [CITATION]},
]
STARTED = SearchStarted("srvtoolu_1", '{"query":"q"}')
ENDED = SearchEnded("srvtoolu_1", (WebPage(URL, "A", None, "s"),))
SOURCE = Source(URL, "A", "Blue!", "i")


def frame(block: dict[str, Any]) -> Any:
    message = {"role": "assistant", "model": "m", "content": [block]}
    return decode(orjson.dumps({"type": "assistant", "uuid": "u", "message": message}))


def answered(options: Options) -> tuple[AnswerState, list[TurnItem]]:
    answer = AnswerState(options, SETUP)
    items: list[TurnItem] = []
    answer.add_frame(MessageStarted(Usage()))
    for block in BLOCKS:
        if "text" in block:
            items += answer.add_text(TextDelta(block["text"]))
        items += answer.add_frame(frame(block))
    return answer, items


def test_a_client_of_texts_receives_a_paragraph_behind_a_search() -> None:
    answer, items = answered(Options(search=SearchWish()))
    text = "I look.\n\nSo: blue"
    cited = Cited(len(text) - 4, len(text), (SOURCE,))
    assert items == [
        TextDelta("I look."), STARTED, ENDED, TextDelta("\n\nSo: "), TextDelta("blue"), cited,
    ]  # fmt: skip
    assert answer.searches == 1
    assert answer.exact is not None
    assert answer.exact.text == text
    assert encode_blocks(answer.exact.content) == BLOCKS
    brought_back = Message("assistant", (text,))
    assert digest(answer.exact) == digest(brought_back)


def test_a_client_of_blocks_receives_them_as_they_are() -> None:
    answer, items = answered(Options(search=SearchWish(), blocks=True))
    cited = Cited(11, 15, (SOURCE,))
    assert items == [
        TextDelta("I look."), TextEnded(), STARTED, ENDED,
        TextDelta("So: "), TextEnded(), TextDelta("blue"), cited, TextEnded(),
    ]  # fmt: skip
    assert answer.exact is not None
    assert encode_blocks(answer.exact.content) == BLOCKS
    assert encode_blocks(answer.message.content) == BLOCKS


def test_a_text_that_is_held_back_has_no_place_to_cite() -> None:
    answer = AnswerState(Options(stop=("blue sky",)), SETUP)
    items = answer.add_text(TextDelta("blue"))
    items += answer.add_frame(frame(BLOCKS[-1]))
    assert items == []
    assert answer.finish() == [TextDelta("blue")]


def test_citations_of_no_text_are_dropped() -> None:
    content = (ServerBlock('{"type":"server_tool_use"}'), Citations("[]"))
    assert encode_blocks(content) == [{"type": "server_tool_use"}]


# -- an agent --------------------------------------------------------------------------------------


def search_of(answer: AnswerState, call_id: str) -> list[TurnItem]:
    items = answer.add_frame(ToolUseStarted(call_id, "WebSearch"))
    items += answer.add_frame(ToolInput('{"query":"q"}'))
    call = ToolCall(call_id, "WebSearch", '{"query":"q"}')
    return items + answer.add_frame(AssistantDone("u", False, call=call))


def test_an_agents_search_is_one_where_its_client_asked_for_that() -> None:
    answer = AnswerState(Options(search=SearchWish()), AGENT)
    assert search_of(answer, "srvtoolu_1") == [STARTED]
    returned = ToolReturned("srvtoolu_1", "Links: …", found=ENDED)
    assert answer.add_frame(ToolsReturned((returned,))) == [ENDED]
    items = answer.add_text(TextDelta("See [A](https://a.example)!"))
    items += answer.add_frame(AssistantDone("v", False, "See [A](https://a.example)!"))
    assert items[1:] == [Cited(4, 26, (Source(URL, "A"),), 1)]
    assert search_of(answer, "s2")
    refused = ToolReturned("s2", "No more", is_error=True)
    assert answer.add_frame(ToolsReturned((refused,))) == [SearchEnded("s2", error="unavailable")]
    plain = search_of(AnswerState(Options(), AGENT), "srvtoolu_1")
    assert isinstance(plain[0], ActivityStarted)


@pytest.mark.parametrize(
    ("wish", "input"),
    [
        (SearchWish(), {"query": "q", "blocked_domains": ["b"]}),
        (SearchWish(allowed=("a",)), {"query": "q", "allowed_domains": ["a"]}),
        (SearchWish(blocked=("c",)), {"query": "q", "blocked_domains": ["c"]}),
    ],
)
def test_what_the_client_asked_for_needs_no_permission(
    wish: SearchWish, input: dict[str, Any]
) -> None:
    turn = TurnState("t", TurnRequest(options=Options(search=wish)), AGENT, 0.0, 9.0)
    asked = PermissionAsked(
        "r", "WebSearch", {"query": "q", "blocked_domains": ["b"]}, "srvtoolu_1"
    )
    line = search_answer(asked, turn)
    assert isinstance(line, bytes)
    body = orjson.loads(line)["response"]["response"]
    assert body == {"behavior": "allow", "updatedInput": input}


def test_only_so_many_searches_are_permitted() -> None:
    options = Options(search=SearchWish(max_uses=1))
    turn = TurnState("t", TurnRequest(options=options), AGENT, 0.0, 9.0)
    behaviors = []
    for number in range(2):
        search_of(turn.answer, f"s{number}")
        asked = PermissionAsked("r", "WebSearch", {"query": "q"}, f"s{number}")
        line = search_answer(asked, turn)
        assert isinstance(line, bytes)
        behaviors.append(orjson.loads(line)["response"]["response"]["behavior"])
    assert behaviors == ["allow", "deny"]


def test_other_permissions_are_asked_for_as_ever() -> None:
    turn = TurnState("t", TurnRequest(options=Options(search=SearchWish())), AGENT, 0.0, 9.0)
    assert search_answer(PermissionAsked("r", "Bash", {}, "b1"), turn) is None
    turn = TurnState("t", TurnRequest(), AGENT, 0.0, 9.0)
    assert search_answer(PermissionAsked("r", "WebSearch", {}, "srvtoolu_1"), turn) is None
