"""Legacy completions alone: what requests ask, and that answers are what OpenAI's types take."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types import Completion

from ccapi.schemas.convert import write_json
from ccapi.schemas.errors import InvalidRequest
from ccapi.schemas.message import Message
from ccapi.schemas.openai.chat_reply import Heading, encode_end
from ccapi.schemas.openai.completions import (
    KIND,
    ChunkWriter,
    CompletionTurn,
    encode_completion,
    parse_completion,
)
from ccapi.schemas.turn import FinishReason, Options, Reply, Usage
from ccapi.schemas.turn_items import ReasoningDelta, Refused, TextDelta

HEADING = Heading("cmpl-1", 1_700_000_000, "sonnet", "conv_1")
USAGE = Usage(prompt_tokens=12, completion_tokens=3)


def parse(prompt: Any = "Hi", **fields: Any) -> CompletionTurn:
    return parse_completion({"prompt": prompt, **fields})


def reply(text: str, finish_reason: FinishReason = "stop", refusal: str | None = None) -> Reply:
    return Reply(text, finish_reason, USAGE, "conv_1", "sonnet", refusal=refusal)


# -- requests --------------------------------------------------------------------------------------


def test_a_prompt_is_the_only_message() -> None:
    turn = parse(model="sonnet", from_the_future=1)
    (choice,) = turn.choices
    assert choice.messages == (Message("user", ("Hi",)),)
    assert (turn.model, turn.prefixes) == ("sonnet", ("",))
    assert turn.ignored == ("from_the_future",)
    assert (choice.system, choice.tools, choice.schema) == (None, None, None)
    assert choice.options == Options(whole=True)
    assert not turn.stream
    assert not turn.include_usage


def test_every_prompt_is_answered_n_times() -> None:
    turn = parse(["a", "b"], n=2, echo=True, best_of=2)
    assert [choice.messages[0].text for choice in turn.choices] == ["a", "a", "b", "b"]
    assert turn.prefixes == ("a", "a", "b", "b")
    assert len(parse(["x"] * 8).choices) == len(parse(n=8).choices) == 8


def test_what_means_the_same_in_a_chat() -> None:
    turn = parse(
        temperature=0.5, stop="END", max_tokens=9, user="u", seed=1, presence_penalty=1,
        stream=True, stream_options={"include_usage": True}, logit_bias={}, suffix="", best_of=1,
    )  # fmt: skip
    assert turn.choices[0].options == Options(
        temperature=0.5, stop=("END",), max_tokens=9, user="u"
    )
    assert turn.choices[0].cache_fields == {
        "temperature": 0.5, "stop": ["END"], "max_tokens": 9, "seed": 1, "presence_penalty": 1,
    }  # fmt: skip
    assert turn.ignored == ("presence_penalty", "seed")
    assert turn.stream
    assert turn.include_usage


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"prompt": None}, "missing_field", "prompt"),
        ({"prompt": 1}, "invalid_type", "prompt"),
        ({"prompt": ""}, "empty_content", "prompt"),
        ({"prompt": []}, "invalid_value", "prompt"),
        ({"prompt": ["a", " "]}, "empty_content", "prompt[1]"),
        ({"prompt": ["a", {}]}, "invalid_type", "prompt[1]"),
        ({"prompt": [True]}, "invalid_type", "prompt[0]"),
        ({"prompt": [1, 2]}, "unsupported_parameter", "prompt"),
        ({"prompt": [[1, 2], [3]]}, "unsupported_parameter", "prompt"),
        ({"prompt": ["x"] * 9}, "invalid_value", "prompt"),
        ({"prompt": ["a", "b"], "n": 5}, "invalid_value", "n"),
        ({"n": 9}, "invalid_value", "n"),
        ({"n": 0}, "invalid_value", "n"),
        ({"best_of": 2}, "unsupported_parameter", "best_of"),
        ({"suffix": "x"}, "unsupported_parameter", "suffix"),
        ({"logprobs": 0}, "unsupported_parameter", "logprobs"),
        ({"logit_bias": {"1": 1}}, "unsupported_parameter", "logit_bias"),
        ({"echo": 1}, "invalid_type", "echo"),
        ({"max_tokens": 0}, "invalid_value", "max_tokens"),
        ({"stop": ["a"] * 5}, "invalid_value", "stop"),
        ({"temperature": 3}, "invalid_value", "temperature"),
    ],
)
def test_fields_that_do_not_fit(fields: dict[str, Any], code: str, param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse(**fields)
    assert (caught.value.code, caught.value.param) == (code, param)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
FIELDS = ["prompt", "n", "best_of", "echo", "suffix", "logprobs", "stop", "max_tokens"]


@given(st.dictionaries(st.sampled_from(FIELDS), anything) | anything)
def test_no_json_value_is_more_than_refused(raw: Any) -> None:
    with suppress(InvalidRequest):
        parse_completion(raw)


# -- answers ---------------------------------------------------------------------------------------


def test_a_completion_is_what_openai_has() -> None:
    replies = [reply("A"), reply("B", "length"), reply("", "content_filter", "No.")]
    raw = encode_completion(HEADING, replies, USAGE, ("a", "", ""))
    typed = Completion.model_validate_json(write_json(raw), strict=True)
    found = [(each.index, each.text, each.finish_reason) for each in typed.choices]
    assert found == [(0, "aA", "stop"), (1, "B", "length"), (2, "No.", "content_filter")]
    assert typed.usage is not None
    assert typed.usage.total_tokens == 15
    assert raw["conversation_id"] == "conv_1"


def test_prefixes_may_be_left_out() -> None:
    raw = encode_completion(HEADING, [reply("A"), reply("B")], USAGE)
    assert [choice["text"] for choice in raw["choices"]] == ["A", "B"]


def test_a_stream_is_what_openai_has() -> None:
    chunks = ChunkWriter(HEADING, 1, "Hi")
    assert chunks.item(ReasoningDelta("Hm")) == b""
    written = [
        chunks.first(),
        chunks.item(TextDelta(" there")),
        chunks.item(Refused("!")),
        chunks.last("length"),
        encode_end(HEADING, USAGE, KIND),
    ]
    *blocks, done, rest = b"".join(written).split(b"\n\n")
    assert (done, rest) == (b"data: [DONE]", b"")
    parsed = [json.loads(block.removeprefix(b"data: ")) for block in blocks]
    # The SDK's type says that there always is a finish reason; its own API leaves it null.
    *typed, bill = [
        Completion.model_validate_json(json.dumps(raw).replace("null}", '"stop"}'), strict=True)
        for raw in parsed
    ]
    assert [chunk.choices[0].text for chunk in typed] == ["Hi", " there", "!", ""]
    assert [chunk.choices[0].index for chunk in typed] == [1] * 4
    assert {(chunk.id, chunk.created, chunk.model) for chunk in typed} == {
        ("cmpl-1", 1_700_000_000, "sonnet")
    }
    reasons = [raw["choices"][0]["finish_reason"] for raw in parsed[:-1]]
    assert reasons == [None] * 3 + ["length"]
    assert bill.choices == []
    assert bill.usage is not None
    assert ["usage" in raw for raw in parsed] == [False] * 4 + [True]
    assert ["conversation_id" in raw for raw in parsed] == [True, False, False, True, True]
    assert encode_end(HEADING, None, KIND) == b"data: [DONE]\n\n"


unicode = st.text(st.characters(exclude_categories=[]))


@given(text=unicode, model=st.one_of(st.text(), st.sampled_from(["", '"text":""'])))
def test_a_prepared_chunk_is_byte_for_byte_the_encoded_one(text: str, model: str) -> None:
    heading = Heading("cmpl-1", 1, model)
    assert ChunkWriter(heading).item(TextDelta(text)) == ChunkWriter(heading, prefix=text).first()
