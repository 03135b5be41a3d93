"""Requests of the Messages dialect: what they ask, and what is refused of them, place by place."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from ccapi.schemas.anthropic.betas import ignored_betas, read_betas
from ccapi.schemas.anthropic.blocks import MAX_MESSAGES, MAX_PARTS
from ccapi.schemas.anthropic.errors import FORMER_VERSION, VERSION, encode_error
from ccapi.schemas.anthropic.messages import MessagesTurn, parse_count, parse_messages
from ccapi.schemas.claude.input import encode_blocks
from ccapi.schemas.errors import InvalidRequest
from ccapi.schemas.media import Slot
from ccapi.schemas.message import (
    Document,
    Message,
    RedactedThinking,
    Thinking,
    ToolCall,
    ToolResult,
)
from ccapi.schemas.turn import SearchWish, ThinkingWish, ToolChoice

JSON = dict[str, Any]
HI = {"role": "user", "content": "Hi"}
TOOL = {"name": "add", "input_schema": {"type": "object"}}
SEARCH = {"type": "web_search_20250305", "name": "web_search"}


def parse(messages: list[JSON] | None = None, **fields: Any) -> MessagesTurn:
    names = fields.pop("names_conversation", False)
    betas = frozenset(fields.pop("betas", ()))
    version = fields.pop("version", FORMER_VERSION)
    body = {"model": "sonnet", "max_tokens": 5000, "messages": messages or [HI], **fields}
    return parse_messages(body, names_conversation=names, version=version, betas=betas)


def refused(messages: list[JSON] | None = None, **fields: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        parse(messages, **fields)
    assert caught.value.param is not None
    told = encode_error(caught.value, None)["error"]
    assert (told["type"], caught.value.param in told["message"]) == ("invalid_request_error", True)
    return caught.value


def user(*blocks: JSON) -> JSON:
    return {"role": "user", "content": [*blocks]}


def assistant(*blocks: JSON) -> JSON:
    return {"role": "assistant", "content": [*blocks]}


def text(said: str, **more: Any) -> JSON:
    return {"type": "text", "text": said, **more}


def use(id: str = "toolu_1", **given: Any) -> JSON:
    return {"type": "tool_use", "id": id, "name": "add", "input": given}


def image(**source: Any) -> JSON:
    return {"type": "image", "source": source}


def document(**source: Any) -> JSON:
    return {"type": "document", "source": source}


def pdf(**source: Any) -> JSON:
    return document(type="base64", **source)


def result(id: str = "toolu_1", **more: Any) -> JSON:
    return {"type": "tool_result", "tool_use_id": id, **more}


# -- content ---------------------------------------------------------------------------------------


def test_blocks_stay_as_they_are() -> None:
    turn = parse(
        [
            user(text("One"), text("Two")),
            assistant(
                {"type": "thinking", "thinking": "Hm.", "signature": "sig"},
                {"type": "redacted_thinking", "data": "cipher"},
                text("Let me see."),
                use(b=1, a=[None, 1.5, "é"]),
            ),
            user(result(content="3", is_error=True), text("So?")),
        ],
        tools=[TOOL],
    )
    assert turn.messages == (
        Message("user", ("One", "Two")),
        Message(
            "assistant",
            (
                Thinking("Hm.", "sig"),
                RedactedThinking("cipher"),
                "Let me see.",
                ToolCall("toolu_1", "add", '{"b":1,"a":[null,1.5,"é"]}'),
            ),
        ),
        Message("user", (ToolResult("toolu_1", ("3",), is_error=True), "So?")),
    )
    assert turn.exact
    assert turn.whole_history
    assert turn.options.blocks


def test_neighbours_of_one_role_are_one_message() -> None:
    turn = parse(
        [
            HI,
            user(text("More")),
            assistant(use("toolu_1"), use("toolu_2")),
            user(result("toolu_2")),
            user(result("toolu_1", content="")),
            {"role": "assistant", "content": "So"},
            assistant(text("it is")),
            HI,
        ],
        tools=[TOOL],
    )
    assert [message.content for message in turn.messages] == [
        ("Hi", "More"),
        (ToolCall("toolu_1", "add"), ToolCall("toolu_2", "add")),
        (ToolResult("toolu_2", ()), ToolResult("toolu_1", ())),
        ("So", "it is"),
        ("Hi",),
    ]


PNG = "iVBORw0KGgo="
DATA = "data:image/png;base64,iVBORw0K"
PDF = {"type": "base64", "media_type": "application/pdf"}
PICTURE = {"type": "base64", "media_type": "image/png", "data": PNG}


def test_pictures_and_documents() -> None:
    turn = parse(
        [
            user(
                {"type": "image", "source": PICTURE},
                {"type": "image", "source": {"type": "url", "url": "https://a.example/b.png"}},
                {
                    "type": "document",
                    "title": "A",
                    "source": {
                        "type": "base64",
                        "media_type": "application/pdf",
                        "data": "JVBERg==",
                    },
                },
                {
                    "type": "document",
                    "source": {"type": "text", "media_type": "text/plain", "data": "Plain"},
                },
                {
                    "type": "document",
                    "title": "B",
                    "context": "From b",
                    "source": {
                        "type": "content",
                        "content": [
                            text("One"),
                            {"type": "image", "source": PICTURE},
                            text("Two"),
                        ],
                    },
                },
            ),
            assistant(use()),
            user(
                result(
                    content=[
                        text("See:"),
                        {"type": "image", "source": PICTURE},
                        {"type": "document", "source": {"type": "content", "content": "C"}},
                    ]
                )
            ),
        ],
        tools=[TOOL],
    )
    assert turn.messages[0].content == (
        Slot(number=0),
        Slot(number=1),
        Slot(number=2),
        plain("Plain"),
        plain("One\n\nTwo", "B", "From b"),
        Slot(number=3),
    )
    [given] = turn.messages[2].results
    assert given.content == ("See:", Slot(number=4), plain("C"))
    assert [(each.kind, each.source[:30], each.path, each.name) for each in turn.attachments] == [
        ("image", DATA, "messages.0.content.0.source", None),
        ("image", "https://a.example/b.png", "messages.0.content.1.source", None),
        ("file", "data:application/pdf;base64,JV", "messages.0.content.2.source", "A"),
        ("image", DATA, "messages.0.content.4.source.content.1.source", None),
        ("image", DATA, "messages.2.content.0.content.1.source", None),
    ]  # fmt: skip


def plain(said: str, title: str | None = None, context: str | None = None) -> Document:
    data = base64.b64encode(said.encode()).decode()
    return Document("text/plain", data, title, context=context)


def test_what_has_no_block_is_told_as_text() -> None:
    found = {
        "type": "search_result", "source": "https://a.example", "title": "A",
        "content": [text("One"), text("Two")],
    }  # fmt: skip
    turn = parse(
        [
            user(found),
            assistant(
                {**use("s1", x=1), "type": "server_tool_use", "name": "bash_code_execution"},
                text("So."),
            ),
            HI,
        ]
    )  # fmt: skip
    told = "<search_result>\n<source>https://a.example</source>\n<title>A</title>\nOne\n\nTwo\n"
    assert turn.messages[0].content == (f"{told}</search_result>",)
    assert turn.messages[1].content == (
        '[bash_code_execution: {"x":1}]',
        "So.",
    )


PAGE = {
    "type": "web_search_result", "title": "T", "url": "https://b.example",
    "encrypted_content": "zzz", "page_age": None,
}  # fmt: skip
CITATION = {
    "type": "web_search_result_location", "cited_text": "So!", "url": "https://b.example",
    "title": "T", "encrypted_index": "i",
}  # fmt: skip


def searched(id: str = "srvtoolu_1", content: Any = (PAGE,)) -> list[JSON]:
    content = list(content) if isinstance(content, tuple) else content
    return [
        {"type": "server_tool_use", "id": id, "name": "web_search", "input": {"query": "x"}},
        {"type": "web_search_tool_result", "tool_use_id": id, "content": content},
    ]


@pytest.mark.parametrize(
    "content", [(PAGE, PAGE), (), {"type": "web_search_tool_result_error", "error_code": "e"}]
)
def test_searches_and_citations_stay_as_they_are(content: Any) -> None:
    blocks = [*searched(content=content), text("So.", citations=[CITATION]), text("Or?")]
    turn = parse([HI, assistant(*blocks), HI])
    assert encode_blocks(turn.messages[1].content) == blocks
    assert turn.ignored == ()
    assert turn.messages[1].text == "So.Or?"


def test_a_search_that_the_api_did_not_make_is_read_in_words() -> None:
    turn = parse([HI, assistant(*searched("toolu_1"), text("So.")), HI])
    assert [block["text"] for block in encode_blocks(turn.messages[1].content)] == [
        '[web_search: {"query":"x"}]', "[web_search found: T (https://b.example)]", "So.",
    ]  # fmt: skip
    assert turn.messages[1].text == "So.", "a conversation is found by its words alone"


def test_other_citations_are_named() -> None:
    other = {"type": "char_location", "cited_text": "a", "document_index": 0}
    turn = parse([HI, assistant(text("So.", citations=[other, CITATION])), HI])
    assert turn.ignored == ("messages.text.citations",)
    assert encode_blocks(turn.messages[1].content) == [text("So.", citations=[CITATION])]


@pytest.mark.parametrize("kind", ["web_search_20250305", "web_search_20260209"])
def test_a_search_of_the_web_is_a_wish(kind: str) -> None:
    tool = {
        "type": kind, "name": "web_search", "max_uses": 2, "allowed_domains": ["a.example"],
        "user_location": {"type": "approximate", "city": "Rome"},
        "cache_control": {"type": "ephemeral"}, "allowed_callers": ["code_execution_20260120"],
    }  # fmt: skip
    turn = parse(tools=[TOOL, tool], tool_choice={"type": "tool", "name": "web_search"})
    wish = SearchWish(max_uses=2, allowed=("a.example",), location=(("city", "Rome"),))
    assert turn.options.search == wish
    assert turn.options.search.names == (f"tools.{kind}",)
    assert [each.name for each in turn.tools or ()] == ["add"]
    assert turn.options.tool_choice == ToolChoice("named", "web_search")
    assert turn.ignored == ("cache_control", "tools.allowed_callers")


def test_pictures_of_a_failure_are_named() -> None:
    for picture in (image(type="base64", media_type="image/png", data="aGk="), pdf(data="aGk=")):
        failed = user(result(content=[text("Why"), picture], is_error=True))
        assert parse([HI, assistant(use()), failed]).ignored == ("messages.tool_result.content",)
        seen = user(result(content=[picture]), text("b"))
        assert parse([HI, assistant(use()), seen]).ignored == ()


def test_system_text_wherever_it_stands() -> None:
    assert parse(system="Be brief.").system == "Be brief."
    blocks = [
        text("x-anthropic-billing-header: cc_version=1;"),
        text("Be brief.", cache_control={"type": "ephemeral"}),
        text("And kind."),
    ]
    turn = parse(system=blocks)
    assert turn.system == "Be brief.\n\nAnd kind."
    assert turn.ignored == ("cache_control",)
    assert parse().system is None
    assert parse([{"role": "system", "content": "First."}, HI], system="S").system == "S\n\nFirst."
    late: JSON = {"role": "system", "content": [text("Late.")]}
    turn = parse([HI, assistant(use()), late, user(result())], tools=[TOOL])
    reminder = "<system-reminder>\nLate.\n</system-reminder>"
    assert turn.messages[-1].content == (ToolResult("toolu_1", ()), reminder)


def test_an_answer_that_was_begun() -> None:
    turn = parse([HI, {"role": "assistant", "content": "So"}])
    assert (turn.begun, turn.options.begun) == ("messages.1.role", True)
    assert parse([HI, {"role": "assistant", "content": ""}]).begun is None
    assert refused([HI, assistant(text("So "))]).param == "messages.1.content"
    begun = [HI, assistant(text("So"))]
    assert refused(begun, output_config={"format": FORMAT}).param == "messages.1.role"


def test_tools_that_are_deferred_are_there_once_a_result_refers_to_them() -> None:
    tools = [TOOL, {**TOOL, "name": "late", "defer_loading": True}]
    assert names(parse(tools=tools)) == ["add"]
    reference = {"type": "tool_reference", "tool_name": "late"}
    history = [HI, assistant(use()), user(result(content=[reference]))]
    assert names(parse(history, tools=tools)) == ["add", "late"]


def names(turn: MessagesTurn) -> list[str]:
    return [tool.name for tool in turn.tools or ()]


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        ([{"role": "user", "content": " "}], "0.content"),
        ([user()], "0.content"),
        ([{"role": "user"}], "0.content"),
        ([{"role": "tool", "content": "x"}], "0.role"),
        ([{"role": "assistant", "content": "x"}, HI], "0.role"),
        ([{"role": "system", "content": "x"}], ""),
        ([HI, {"role": "system", "content": ""}], "1.content"),
        ([HI, {"role": "system", "content": [text(" ")]}], "1.content.0.text"),
        ([user(text(""))], "0.content.0.text"),
        ([user({"type": "text"})], "0.content.0.text"),
        ([user({"type": "text", "text": 1})], "0.content.0.text"),
        ([user(text("a"), {"type": "audio"})], "0.content.1.type"),
        ([user({"type": "thinking", "thinking": "", "signature": ""})], "0.content.0.type"),
        ([HI, assistant({"type": "thinking", "thinking": "x"}), HI], "1.content.0.signature"),
        ([HI, assistant({"type": "redacted_thinking"}), HI], "1.content.0.data"),
        ([HI, assistant({"type": "tool_use", "id": "a"}), HI], "1.content.0.name"),
        ([HI, assistant({"type": "tool_use", "id": "a", "name": "b"}), HI], "1.content.0.input"),
        ([HI, assistant(use(), use()), HI], "1.content.1.id"),
        ([HI, assistant(use()), HI], "1"),
        ([HI, assistant(use())], "1"),
        ([user(result())], "0"),
        ([HI, assistant(use()), user(result("toolu_2"))], "2"),
        ([HI, assistant(use()), user(result(), result())], "2"),
        ([user({"type": "tool_result"})], "0.content.0.tool_use_id"),
        ([user(result(content={}))], "0.content.0.content"),
        ([user(result(content=[{"type": "thinking"}]))], "0.content.0.content.0.type"),
        ([user({"type": "image"})], "0.content.0.source"),
        ([user(image(type="file"))], "0.content.0.source.file_id"),
        ([user(image(type="url", url="file:///etc/passwd"))], "0.content.0.source.url"),
        ([user(image(type="base64", data="a"))], "0.content.0.source.media_type"),
        ([user(document(type="text", data=" "))], "0.content.0.source.data"),
        ([user(pdf(media_type="x", data="a"))], "0.content.0.source.media_type"),
        ([user({"type": "search_result", "source": "a", "title": "b"})], "0.content.0.content"),
        ([HI, assistant(searched()[1]), HI], "1.content.0"),
        ([HI, assistant(searched()[0]), HI, assistant(searched()[1]), HI], "3.content.0"),
        ([HI, assistant({**searched()[0], "id": ""}), HI], "1.content.0.id"),
        ([HI, assistant({**searched()[0], "input": None}), HI], "1.content.0.input"),
        ([HI, assistant(*searched(content=None)), HI], "1.content.1.content"),
        ([HI, assistant(*searched(content={})), HI], "1.content.1.content.error_code"),
        ([HI, assistant(*searched(content=[{**PAGE, "url": None}])), HI],
         "1.content.1.content.0.url"),
        ([HI, assistant(*searched(content=[text("a")])), HI], "1.content.1.content.0.type"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_a_message_is_named(messages: list[JSON], param: str) -> None:
    assert refused(messages).param == (f"messages.{param}" if param else "messages")


def test_long_requests_are_refused_before_they_are_read() -> None:
    assert refused([HI] * (MAX_MESSAGES + 1)).param == "messages"
    half = [text("a")] * (MAX_PARTS // 2)
    nested = [user(result(content=half)), user({"type": "document", "source": {"content": half}})]
    assert refused(nested).param == "messages"
    made = {"type": "document", "source": {"type": "content", "content": [text("a")] * MAX_PARTS}}
    assert refused([HI, assistant(use()), user(result(content=[made]))]).param == "messages"


def test_input_that_is_nested_too_deeply() -> None:
    deep: Any = 1
    for _ in range(300):
        deep = [deep]
    assert (
        refused([HI, assistant(use(a=deep)), user(result())]).param == "messages.1.content.0.input"
    )


def test_a_conversation_that_is_named_may_bring_results_alone() -> None:
    turn = parse([user(result())], names_conversation=True)
    assert turn.messages[0].results
    choice = {"type": "tool", "name": "elsewhere"}
    assert parse(names_conversation=True, tool_choice=choice).tools is None


# -- fields ----------------------------------------------------------------------------------------

FORMAT = {"type": "json_schema", "schema": {"type": "object"}}


def test_what_shapes_the_answer() -> None:
    turn = parse(
        stream=True,
        temperature=0.5,
        top_p=0.9,
        top_k=3,
        stop_sequences=["END"],
        metadata={"user_id": "ada"},
        service_tier="standard_only",
        output_config={"effort": "high", "format": FORMAT},
        tools=[TOOL],
        tool_choice={"type": "tool", "name": "add", "disable_parallel_tool_use": True},
    )
    options = turn.options
    assert (options.temperature, options.top_p, options.top_k) == (0.5, 0.9, 3)
    assert options.max_tokens == 5000
    assert (options.stop, options.user, options.service_tier) == (("END",), "ada", "standard_only")
    assert (options.effort, options.whole, turn.stream) == ("high", False, True)
    assert options.tool_choice == ToolChoice("named", "add")
    assert not options.parallel_tool_calls
    assert turn.schema == '{"type":"object"}'
    assert turn.ignored == ()
    assert parse(output_format=FORMAT).schema == turn.schema


@pytest.mark.parametrize(
    ("given", "wish"),
    [
        (None, ThinkingWish("disabled")),
        ({"type": "disabled"}, ThinkingWish("disabled")),
        ({"type": "adaptive"}, ThinkingWish("adaptive")),
        ({"type": "adaptive", "display": "updates"}, ThinkingWish("adaptive")),
        (
            {"type": "enabled", "budget_tokens": 1024, "display": "omitted"},
            ThinkingWish("enabled", 1024, "omitted"),
        ),
    ],
)
def test_how_the_model_is_to_think(given: JSON | None, wish: ThinkingWish) -> None:
    options = parse(thinking=given).options
    assert options.thinking == wish
    assert options.reasoning == (wish.type != "disabled")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": None}, "max_tokens"),
        ({"model": None}, "model"),
        ({"temperature": 1.5}, "temperature"),
        ({"stop_sequences": ["a", " "]}, "stop_sequences.1"),
        ({"service_tier": "priority"}, "service_tier"),
        ({"system": [text("")]}, "system.0.text"),
        ({"system": [{"type": "image"}]}, "system.0.type"),
        ({"thinking": {"type": "enabled"}}, "thinking.budget_tokens"),
        ({"thinking": {"type": "enabled", "budget_tokens": 1000}}, "thinking.budget_tokens"),
        ({"thinking": {"type": "enabled", "budget_tokens": 5000}}, "thinking.budget_tokens"),
        ({"thinking": {"type": "sometimes"}}, "thinking.type"),
        ({"thinking": {"type": "adaptive", "display": "all"}}, "thinking.display"),
        ({"output_config": {"effort": "none"}}, "output_config.effort"),
        ({"output_config": {"format": {"type": "xml"}}}, "output_config.format.type"),
        ({"output_config": {"format": {"type": "json_schema"}}}, "output_config.format.schema"),
        ({"tools": [{"name": "a"}]}, "tools.0.input_schema"),
        ({"tools": [TOOL, TOOL]}, "tools.1.name"),
        ({"tools": [{**TOOL, "type": "web_fetch_20250910"}]}, "tools.0.type"),
        ({"tools": [{**TOOL, "type": "web_search_20250305"}]}, "tools.0.name"),
        ({"tools": [SEARCH, SEARCH]}, "tools.1.name"),
        ({"tools": [{**SEARCH, "max_uses": 0}]}, "tools.0.max_uses"),
        (
            {"tools": [{**SEARCH, "allowed_domains": ["a"], "blocked_domains": ["b"]}]},
            "tools.0.blocked_domains",
        ),
        ({"tools": [{**SEARCH, "allowed_domains": [""]}]}, "tools.0.allowed_domains.0"),
        ({"tools": [{**SEARCH, "user_location": {"type": "exact"}}]}, "tools.0.user_location.type"),
        ({"tools": [SEARCH], "tool_choice": {"type": "tool", "name": "add"}}, "tool_choice.name"),
        ({"tools": [{**TOOL, "input_schema": {"type": "array"}}]}, "tools.0.input_schema"),
        ({"tools": [{**TOOL, "allowed_callers": ["code"]}]}, "tools.0.allowed_callers"),
        ({"tool_choice": {"type": "any"}}, "tool_choice"),
        ({"tool_choice": {"type": "some"}}, "tool_choice.type"),
        ({"tools": [TOOL], "tool_choice": {"type": "tool"}}, "tool_choice.name"),
        ({"mcp_servers": [{"type": "url"}]}, "mcp_servers"),
        ({"container": "container_1"}, "container"),
        ({"thread": {"type": "create"}}, "thread"),
    ],
)
def test_what_is_wrong_in_a_field_is_named(fields: JSON, param: str) -> None:
    assert refused(**fields).param == param


def test_a_budget_may_be_larger_where_thinking_is_interleaved() -> None:
    thinking = {"type": "enabled", "budget_tokens": 9000}
    turn = parse(thinking=thinking, betas=["interleaved-thinking-2025-05-14"])
    assert turn.options.thinking == ThinkingWish("enabled", 9000)


def test_what_has_no_effect_is_named() -> None:
    cited = {"type": "document", "citations": {"enabled": True}, "context": "c"}
    turn = parse(
        [user({**cited, "source": {"type": "content", "content": "A"}})],
        context_management={"edits": []},
        mcp_servers=[],
        thinking={"type": "adaptive", "display": "updates"},
        output_config={"task_budget": {"total": 1}},
        tools=[{**TOOL, "input_examples": [{"a": 1}], "cache_control": {"type": "ephemeral"}}],
        betas=["claude-code-20250219", "context-1m-2025-08-07"],
    )
    assert turn.ignored == (
        "context_management", "cache_control", "messages.citations", "thinking.display",
        "tools.input_examples", "output_config.task_budget", "anthropic-beta:context-1m-2025-08-07",
    )  # fmt: skip


def test_the_later_version_has_no_sampling_and_no_citations_of_the_users() -> None:
    for name in ("temperature", "top_p", "top_k"):
        given: JSON = {"version": VERSION, name: 1}
        assert refused(**given).param == name
    cited = [user(text("a", citations=[{"type": "char_location"}]))]
    assert refused(cited, version=VERSION).param == "messages.0.content.0.citations"
    assert parse(cited).ignored == ("messages.text.citations",)


def test_counting_needs_no_length() -> None:
    turn = parse_count({"model": "sonnet", "messages": [HI], "system": "S", "max_tokens": 3})
    assert (turn.system, turn.ignored) == ("S", ("max_tokens",))


def test_betas() -> None:
    names = read_betas(["effort-2025-11-24, files-api-2025-04-14", "new-2030-01-01"])
    assert ignored_betas(names) == ("anthropic-beta:new-2030-01-01",)
    for wrong in (["a b"], ["é"], [",".join(f"a{number}" for number in range(65))]):
        with pytest.raises(InvalidRequest, match="anthropic-beta"):
            read_betas(wrong)
    with pytest.raises(InvalidRequest, match="dev-full-thinking-2025-05-14 is not supported"):
        read_betas(["dev-full-thinking-2025-05-14"])
