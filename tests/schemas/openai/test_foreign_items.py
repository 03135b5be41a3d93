"""Items that the gateway never writes: what their histories say, references, compactions."""

from __future__ import annotations

from typing import Any

import pytest

from ccapi.schemas.errors import InvalidRequest, NotFound, TooLarge
from ccapi.schemas.message import Image, Message, ToolCall, ToolResult
from ccapi.schemas.openai import foreign_items
from ccapi.schemas.openai.responses import ResponseTurn, parse_response

from ...support.responses import output, user

HI, ON = user("Hi"), user("Go on")
SAID = {"type": "message", "id": "msg_1", "role": "assistant", "content": "Yes."}


class Kept:
    """Keeps one message, and opens what was sealed by writing it backwards."""

    def item(self, item_id: str) -> dict[str, Any] | None:
        return SAID if item_id == "msg_1" else None

    def summary(self, sealed: str) -> str | None:
        return sealed[::-1] if sealed.endswith("!") else None


def parse(*items: Any, **fields: Any) -> ResponseTurn:
    return parse_response({"input": [*items], **fields}, kept=Kept())


def told(*items: Any) -> list[tuple[str, list[Any]]]:
    return [(each.role, list(each.content)) for each in parse(*items).messages]


# -- calls of built-in tools -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "result", "name", "arguments", "said"),
    [
        (
            {"type": "local_shell_call", "action": {"type": "exec", "command": ["ls"]}},
            {"type": "local_shell_call_output", "output": '{"stdout": "a"}'},
            "local_shell", '{"type":"exec","command":["ls"]}', '{"stdout": "a"}',
        ),
        (
            {"type": "shell_call", "action": {"commands": ["ls"]}},
            {"type": "shell_call_output", "output": [{"stdout": "a"}]},
            "shell", '{"commands":["ls"]}', '[{"stdout":"a"}]',
        ),
        (
            {"type": "apply_patch_call", "operation": {"type": "delete_file", "path": "a"}},
            {"type": "apply_patch_call_output", "status": "completed"},
            "apply_patch", '{"type":"delete_file","path":"a"}', "completed",
        ),
    ],
)  # fmt: skip
def test_what_a_client_ran_itself_is_a_call(
    call: Any, result: Any, name: str, arguments: str, said: str
) -> None:
    items = ({**call, "call_id": "c", "id": "x"}, {**result, "call_id": "c", "id": 1})
    assert told(HI, *items) == [
        ("user", ["Hi"]),
        ("assistant", [ToolCall("c", name, arguments)]),
        ("user", [ToolResult("c", (said,))]),
    ]


def test_a_screenshot_is_a_picture() -> None:
    call = {"type": "computer_call", "call_id": "c", "action": {"type": "screenshot"}}
    shot = {"type": "computer_screenshot", "image_url": "data:image/png;base64,AAAA"}
    turn = parse(HI, call, {"type": "computer_call_output", "call_id": "c", "output": shot})
    assert [each.source for each in turn.attachments] == [shot["image_url"]]


@pytest.mark.parametrize(
    ("item", "name", "result"),
    [
        (
            {"type": "code_interpreter_call", "code": "1", "outputs": [{"logs": "1"}]},
            "code_interpreter", '[{"logs":"1"}]',
        ),
        (
            {"type": "file_search_call", "queries": ["q"], "results": [{"text": "t"}]},
            "file_search", '[{"text":"t"}]',
        ),
    ],
)  # fmt: skip
def test_what_openai_ran_is_a_call_with_its_output(item: Any, name: str, result: str) -> None:
    question, call, answer, *rest = told(HI, {**item, "id": "x"}, SAID, ON)
    assert question == ("user", ["Hi"])
    assert call[1][0].name == name
    assert answer == ("user", [ToolResult("x", (result,))])
    assert rest == [("assistant", ["Yes."]), ("user", ["Go on"])]


@pytest.mark.parametrize(
    "item",
    [
        {"type": "web_search_call", "id": "ws", "action": {"query": "q"}, "output": 7},
        {"type": "image_generation_call", "id": "ig", "result": "AAAA"},
        {"type": "file_search_call", "id": "fs", "queries": ["q"], "results": None},
        {"type": "code_interpreter_call", "id": "ci", "code": "1", "outputs": None},
        {"type": "tool_search_call", "call_id": None, "arguments": {"query": "q"}},
        {"type": "tool_search_output", "call_id": None, "tools": [7]},
        {"type": "mcp_approval_request", "id": "a", "arguments": "{}", "name": 3},
        {"type": "mcp_call", "id": "m", "server_label": "s", "name": "n", "arguments": "{}"},
        {"type": "mcp_call", "id": "m", "server_label": 3, "name": "n", "output": "o"},
        {"type": "local_shell_call", "action": []},
        {"type": "acme:thing", "content": 7},
    ],
)
def test_what_has_no_content_is_left_out_and_named(item: Any) -> None:
    turn = parse(HI, item, SAID, ON)
    assert turn.messages == parse(HI, SAID, ON).messages
    assert turn.ignored == (f"input.{item['type']}",)


def test_a_search_of_this_gateways_is_passed_over() -> None:
    """The child that searched holds what was found; other children receive it from the memory."""
    item = {"type": "web_search_call", "id": f"ws_{'0a' * 16}_1", "action": {"query": "q"}}
    turn = parse(HI, item, SAID, ON)
    assert turn.messages == parse(HI, SAID, ON).messages
    assert turn.ignored == ()


@pytest.mark.parametrize(
    "item",
    [
        {"type": "reasoning", "encrypted_content": "x", "summary": [], "content": None},
        {"type": "mcp_list_tools", "tools": [{}]},
        {"type": "mcp_call", "server_label": "claude_code", "name": "Bash", "output": "o"},
    ],
)
def test_what_an_answer_has_beside_its_words_is_passed_over(item: Any) -> None:
    turn = parse(HI, item, SAID, ON)
    assert turn.messages == parse(HI, SAID, ON).messages
    assert turn.ignored == ()


def test_a_type_is_no_longer_than_a_name() -> None:
    with pytest.raises(InvalidRequest):
        parse(HI, {"type": "acme:" + "x" * 100}, ON)


def test_custom_tools() -> None:
    call = {"type": "custom_tool_call", "call_id": "c", "name": "patch", "input": 'a "b"\n'}
    result = {"type": "custom_tool_call_output", "call_id": "c", "output": "done"}
    _, (_, [called]), (_, [returned]) = told(HI, call, result)
    assert called.arguments == '{"input":"a \\"b\\"\\n"}'
    assert called.form.custom
    assert called.text == call["input"]
    assert returned.custom
    with pytest.raises(InvalidRequest) as caught:
        parse(HI, {**call, "input": None}, result)
    assert caught.value.param == "input[1].input"


def test_a_call_within_a_namespace() -> None:
    call = {"type": "function_call", "call_id": "c", "name": "n", "namespace": "s"}
    _, (_, [called]), _ = told(HI, {**call, "arguments": "{}"}, output("c", "done"))
    assert (called.name, called.form.name, called.form.namespace) == ("s__n", "n", "s")


def test_a_form_that_is_internal_cannot_be_sent() -> None:
    item = {"type": "ccapi:run_there", "call_id": "c", "name": "n", "output": "o"}
    assert parse(HI, item, ON).ignored == ("input.ccapi:run_there",)


# -- results, wherever they stand ------------------------------------------------------------------

CALL = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
OTHER = {**CALL, "call_id": "d"}
PICTURE = {"type": "input_image", "image_url": "data:image/png;base64,AAAA"}


def test_results_go_to_their_calls_past_what_the_user_said() -> None:
    said = told(HI, CALL, OTHER, ON, output("d", "D"), user("Please"), output("c", "C"))
    assert said[2:] == [
        ("user", [ToolResult("d", ("D",)), ToolResult("c", ("C",))]),
        ("user", ["Go on"]),
        ("user", ["Please"]),
    ]


def test_results_of_earlier_calls_go_first() -> None:
    turn = parse(ON, output("c", "C"), previous_response_id="resp_1")
    assert turn.messages == (
        Message("user", (ToolResult("c", ("C",)),)),
        Message("user", ("Go on",)),
    )


def test_attachments_move_with_their_results() -> None:
    first, second = ({**PICTURE, "image_url": f"data:image/png;base64,{n}"} for n in ("AA", "BB"))
    see = {"role": "user", "content": [first]}
    turn = parse(HI, CALL, see, {**output("c", ""), "output": [second]})
    blocks = [Image("image/png", each.source[-2:]) for each in turn.attachments]
    *_, results, question = turn.filled(blocks)
    assert results.results[0].content == (Image("image/png", "BB"),)
    assert question.content == (Image("image/png", "AA"),)


@pytest.mark.parametrize(
    ("items", "code"),
    [
        ((HI, output("c", "C")), "unknown_tool_call_id"),
        ((HI, CALL, output("x", "X")), "missing_tool_results"),
        ((HI, CALL, output("c", "C"), SAID, ON, output("c", "C")), "unknown_tool_call_id"),
        ((HI, CALL, ON), "missing_tool_results"),
    ],
)
def test_results_without_a_call_are_refused_still(items: tuple[Any, ...], code: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse(*items)
    assert caught.value.code == code


# -- references and compactions --------------------------------------------------------------------


def test_a_reference_is_the_item() -> None:
    reference = {"type": "item_reference", "id": "msg_1"}
    assert parse(HI, reference, ON).messages == parse(HI, SAID, ON).messages
    assert parse(HI, {"id": "msg_1"}, ON).messages == parse(HI, SAID, ON).messages


def test_a_reference_to_nothing() -> None:
    with pytest.raises(NotFound) as caught:
        parse(HI, {"type": "item_reference", "id": "msg_2"})
    assert (caught.value.code, caught.value.param) == ("item_not_found", "input[1].id")
    assert "'msg_2'" in caught.value.message


def test_references_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    reference = {"type": "item_reference", "id": "msg_1"}
    with pytest.raises(InvalidRequest) as caught:
        parse(HI, reference, reference, ON)
    assert (caught.value.code, caught.value.param) == ("duplicate_item", "input[2].id")
    monkeypatch.setattr(foreign_items, "MAX_REFERRED_BYTES", 10)
    with pytest.raises(TooLarge):
        parse(HI, reference, ON)


def test_a_compaction_is_what_it_says() -> None:
    compaction = {"type": "compaction", "id": "cmp_1", "encrypted_content": "os dias uoY!"}
    assert parse(HI, compaction, ON).messages[1] == Message("user", ("!You said so",))
    for broken in ("x", ""):
        with pytest.raises(InvalidRequest) as caught:
            parse(HI, {**compaction, "encrypted_content": broken}, ON)
        assert caught.value.code == "invalid_encrypted_content"
        assert caught.value.param == "input[1].encrypted_content"
