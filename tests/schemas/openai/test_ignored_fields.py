"""Fields of a request that have no effect are named, whatever they are called."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccapi.schemas.openai.chat import ChatRequest, parse_chat
from ccapi.schemas.openai.completions import parse_completion
from ccapi.schemas.openai.ignored_fields import MAX_NAME, MAX_NAMES, encode_ignored, unknown_fields
from ccapi.schemas.openai.responses import ResponseRequest, parse_response

HI = {"role": "user", "content": "Hi"}


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ({"top_k": 40}, ["top_k"]),
        ({"thinking": {"type": "enabled"}}, ["thinking"]),
        ({"chat_template_kwargs": {"enable_thinking": False}}, ["chat_template_kwargs"]),
        ({"reasoning": {"effort": "high", "exclude": True}}, ["reasoning.exclude"]),
        ({"stream_options": {"include_usage": True, "chunks": 1}}, ["stream_options.chunks"]),
        ({"min_p": 0, "echo": False}, ["min_p", "echo"]),
        ({"a": None, "b": [], "c": {}, "d": ""}, []),
        ({"response_format": {"type": "json_object", "x": 1}}, ["response_format.x"]),
    ],
)
def test_in_a_chat(given: dict[str, Any], names: list[str]) -> None:
    assert list(parse_chat({"messages": [HI], **given}).ignored) == names


def test_in_the_other_apis() -> None:
    assert parse_response({"input": "Hi", "top_k": 1}).ignored == ("top_k",)
    assert parse_response({"input": "Hi", "reasoning": {"x": 1}}).ignored == ("reasoning.x",)
    several = parse_completion({"prompt": ["a", "b"], "top_k": 1, "seed": 3})
    assert {turn.ignored for turn in several.choices} == {("seed", "top_k")}


def test_how_closely_a_picture_is_looked_at() -> None:
    def ask(**fields: str) -> tuple[str, ...]:
        part = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA==", **fields}}
        return parse_chat({"messages": [{"role": "user", "content": [part]}]}).ignored

    assert ask(detail="high") == ("messages.image_url.detail",)
    assert ask(detail="auto") == ask() == ()


def test_the_header_is_bounded() -> None:
    told = encode_ignored(f"field{number}" for number in range(MAX_NAMES + 7))
    assert told is not None
    assert told.split(", ")[-2:] == [f"field{MAX_NAMES - 1}", "+7"]
    assert encode_ignored(["a" * 1000]) == "a" * MAX_NAME
    assert encode_ignored(["a", "b", "a"]) == "a, b"
    assert encode_ignored([]) is None


@given(st.lists(st.text(), min_size=1))
def test_any_names_make_a_header(names: list[str]) -> None:
    told = encode_ignored(names)
    assert told is not None
    assert told.isascii()
    assert all(character.isprintable() for character in told)
    assert len(told) < (MAX_NAMES + 1) * (MAX_NAME + 2)


JSON = st.recursive(
    st.none() | st.booleans() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)


@given(st.dictionaries(st.text(max_size=3), JSON))
def test_any_json_is_looked_through(raw: dict[str, Any]) -> None:
    for cls in (ChatRequest, ResponseRequest):
        said = {
            name for name, value in raw.items() if value is not None and value not in ("", [], {})
        }
        assert set(unknown_fields(raw, cls)) == said - set(cls.__annotations__)
