"""The Messages API: what the anthropic SDK says reaches the model as it was said, block by block,
and what comes of it reaches the client, by every road."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import anthropic
import pytest
from anthropic import beta_tool

from tests.support.anthropic_messages import JSON, sdk
from tests.support.messages_stub import (
    Failure,
    RedactedThinking,
    Reply,
    Text,
    Thinking,
    ToolUse,
    call,
    say,
)
from tests.support.pictures import PDF, png

from .served import MODEL, Served

THINKER = "claude-opus-4-8"
ADD = {
    "name": "add",
    "description": "Adds.",
    "input_schema": {"type": "object", "properties": {"a": {"type": "number"}}},
}
HI: JSON = {"role": "user", "content": "Hi"}


@pytest.fixture
def client(served: Served) -> Iterator[anthropic.Anthropic]:
    with sdk(served.live.url, max_retries=0) as made:
        yield made


def create(client: anthropic.Anthropic, *messages: JSON, **fields: Any) -> anthropic.types.Message:
    asked: Any = {"model": MODEL, "max_tokens": 4000, "messages": [*messages], **fields}
    made: anthropic.types.Message = client.messages.create(
        **asked, extra_headers={"cache-control": "no-store"}
    )
    return made


def received(served: Served) -> list[JSON]:
    """The messages of the last request, without the marks and reminders of the CLI's own."""
    found = []
    for message in served.last.body["messages"]:
        content = message["content"]
        blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
        found.append({"role": message["role"], "content": [*map(_plain, blocks)]})
    return found


def _plain(block: JSON) -> JSON:
    plain = {key: value for key, value in block.items() if key != "cache_control"}
    if isinstance(plain.get("content"), list):
        plain["content"] = [*map(_plain, plain["content"])]
    return plain


def text(said: str) -> JSON:
    return {"type": "text", "text": said}


def user(*blocks: JSON) -> JSON:
    return {"role": "user", "content": [*blocks]}


def given(message: anthropic.types.Message) -> JSON:
    """An answer as the SDK brings it back."""
    blocks = [block.model_dump(exclude_none=True) for block in message.content]
    return {"role": "assistant", "content": blocks}


def test_a_conversation(served: Served, client: anthropic.Anthropic) -> None:
    first = create(client, HI, system=[text("Be brief."), text("Be kind.")])
    assert [block.model_dump(exclude_none=True) for block in first.content] == [text("turn 1: Hi")]
    assert first.stop_reason == "end_turn"
    assert first.usage.output_tokens > 0
    more = user(text("And?"), text("So?"))
    second = create(client, HI, given(first), more, system=[text("Be brief."), text("Be kind.")])
    assert second.stop_reason == "end_turn"
    assert received(served) == [user(text("Hi")), given(first), more]
    assert "Be brief.\n\nBe kind." in served.last.system
    assert len(served.requests) == 2


def test_a_stream(served: Served, client: anthropic.Anthropic) -> None:
    served.answers(say("One two three", chunks=3))
    asked: Any = {"model": MODEL, "max_tokens": 100, "messages": [HI]}
    with client.messages.stream(**asked) as stream:
        pieces = [*stream.text_stream]
        message = stream.get_final_message()
    assert "".join(pieces) == "One two three"
    assert len(pieces) > 1
    assert [block.text for block in message.content if block.type == "text"] == ["One two three"]
    assert message.usage.input_tokens > 0


ANSWER = (
    Thinking("Hm.", signature="sig-1"),
    RedactedThinking("cipher"),
    Text("Let me see."),
    ToolUse("add", {"a": 1, "b": [None, "é"]}, "toolu_1"),
)
BLOCKS: list[JSON] = [
    {"type": "thinking", "thinking": "Hm.", "signature": "sig-1"},
    {"type": "redacted_thinking", "data": "cipher"},
    text("Let me see."),
    {"type": "tool_use", "id": "toolu_1", "name": "add", "input": {"a": 1, "b": [None, "é"]}},
]


@pytest.mark.parametrize("stream", [False, True])
def test_thinking_with_its_signatures_and_calls(
    served: Served, client: anthropic.Anthropic, stream: bool
) -> None:
    served.answers(Reply(ANSWER, stop_reason="tool_use"))
    fields: JSON = {"tools": [ADD], "thinking": {"type": "enabled", "budget_tokens": 2000}}
    asked: Any = {"model": MODEL, "max_tokens": 4000, "messages": [HI], **fields}
    if stream:
        with client.messages.stream(**asked) as streamed:
            first: anthropic.types.Message = streamed.get_final_message()
    else:
        first = create(client, HI, **fields)
    assert given(first)["content"] == BLOCKS
    assert first.stop_reason == "tool_use"
    result: JSON = {"type": "tool_result", "tool_use_id": "toolu_1", "content": [text("3")]}
    served.answers(say("Three."))
    second = create(client, HI, given(first), user(result), **fields)
    assert given(second)["content"] == [text("Three.")]
    assert received(served)[:2] == [user(text("Hi")), given(first)]
    assert served.last.body["thinking"]["budget_tokens"] == 2000
    # From elsewhere: another conversation receives the same blocks.
    told = create(client, user(text("Other")), given(first), user(result), **fields)
    assert told.stop_reason == "end_turn"
    assert received(served)[:2] == [user(text("Other")), given(first)]


def test_how_the_model_is_to_think(served: Served, client: anthropic.Anthropic) -> None:
    create(client, HI)
    assert served.last.body["thinking"] == {"type": "disabled"}
    create(client, HI, model=THINKER, thinking={"type": "adaptive", "display": "summarized"})
    assert served.last.body["thinking"] == {"type": "adaptive", "display": "summarized"}


def test_the_tool_runner(served: Served, client: anthropic.Anthropic) -> None:
    @beta_tool
    def double(number: int) -> str:
        """Doubles a number.

        Args:
            number: what to double.
        """
        return str(number * 2)

    served.answers(call(ToolUse("double", {"number": 21}, "toolu_2")), say("42."))
    runner = client.beta.messages.tool_runner(
        model=MODEL, max_tokens=1000, messages=[{"role": "user", "content": "Hi"}], tools=[double]
    )
    last = runner.until_done()
    assert [block.text for block in last.content if block.type == "text"] == ["42."]
    [result] = received(served)[-1]["content"]
    assert (result["tool_use_id"], _said(result)) == ("toolu_2", "42")
    assert len(served.requests) == 2, "the SDK has tried a thread, and goes on without one"


def _said(result: JSON) -> str:
    content = result["content"]
    return content if isinstance(content, str) else "".join(each["text"] for each in content)


def test_pictures_and_documents(served: Served, client: anthropic.Anthropic) -> None:
    picture = base64.b64encode(png(1, 1)).decode()
    image = {
        "type": "image",
        "source": {"type": "base64", "media_type": "image/png", "data": picture},
    }
    pdf = {
        "type": "document",
        "title": "A",
        "context": "From a.",
        "source": {
            "type": "base64",
            "media_type": "application/pdf",
            "data": base64.b64encode(PDF).decode(),
        },
    }
    plain = {
        "type": "document",
        "source": {"type": "text", "media_type": "text/plain", "data": "Some text"},
    }
    use: JSON = {"type": "tool_use", "id": "toolu_3", "name": "add", "input": {}}
    result: JSON = {
        "type": "tool_result",
        "tool_use_id": "toolu_3",
        "content": [text("See:"), image],
    }
    failed: JSON = {
        "type": "tool_result",
        "tool_use_id": "toolu_5",
        "is_error": True,
        "content": "No.",
    }
    history = [
        user(image, text("What?"), pdf, plain),
        {"role": "assistant", "content": [use, {**use, "id": "toolu_5"}]},
        user(result, failed),
    ]
    create(client, *history, tools=[ADD])
    assert received(served) == history


def test_what_shapes_the_answer(served: Served, client: anthropic.Anthropic) -> None:
    served.answers(say("One END two"))
    message = create(client, HI, stop_sequences=["END"], metadata={"user_id": "ada"})
    assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", "END")
    assert given(message)["content"] == [text("One ")]
    assert served.last.body["metadata"]["user_id"] == "ada"
    served.answers(Reply((Text("Half"),), stop_reason="max_tokens"))
    assert create(client, HI, max_tokens=3).stop_reason == "max_tokens"
    assert served.last.body["max_tokens"] == 3
    former = client.with_options(default_headers={"anthropic-version": "2023-06-01"})
    create(former, HI, extra_body={"temperature": 0.5, "top_k": 3})
    assert (served.last.body["temperature"], served.last.body["top_k"]) == (0.5, 3)
    served.answers(call(ToolUse("add", {"a": 1}, "toolu_4")))
    choice = {"type": "tool", "name": "add", "disable_parallel_tool_use": True}
    called = create(client, HI, tools=[ADD], tool_choice=choice)
    assert called.stop_reason == "tool_use"
    assert served.last.body["tool_choice"]["type"] == "tool"
    assert served.last.body["tool_choice"]["disable_parallel_tool_use"] is True


def test_an_answer_that_was_begun(served: Served, client: anthropic.Anthropic) -> None:
    served.answers(say(" it is."))
    begun = {"role": "assistant", "content": "So"}
    message = create(client, HI, begun)
    assert given(message)["content"] == [text(" it is.")]
    assert received(served)[-1] == {"role": "assistant", "content": [text("So")]}


def test_tokens_are_counted(served: Served, client: anthropic.Anthropic) -> None:
    asked: Any = {"model": MODEL, "messages": [HI]}
    short = client.messages.count_tokens(**asked).input_tokens
    long = client.messages.count_tokens(**asked, system="Be brief. " * 50).input_tokens
    assert 0 < short < long


def test_models(served: Served, client: anthropic.Anthropic) -> None:
    listed = [model.id for model in client.models.list(limit=2)]
    assert "sonnet" in listed, "the SDK has read every page"
    assert client.models.retrieve("sonnet").display_name


def test_errors_are_the_sdks_own(served: Served, client: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.BadRequestError, match=r"messages\.0\.content\.0\.type") as bad:
        create(client, user({"type": "audio"}))
    assert bad.value.type == "invalid_request_error"
    assert bad.value.request_id
    with pytest.raises(anthropic.NotFoundError):
        create(client, HI, model="nonsense")
    served.answers(Failure(529, "Overloaded"))
    with pytest.raises(anthropic.APIStatusError) as overloaded:
        create(client, HI)
    assert (overloaded.value.status_code, overloaded.value.type) == (529, "overloaded_error")
    served.answers(Failure(429, "Slow down"))
    with pytest.raises(anthropic.RateLimitError):
        create(client, HI)
