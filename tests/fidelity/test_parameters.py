"""What shapes a turn reaches the Messages API, and nothing of it the turn after."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from tests.support.messages_stub import Block, Reply, Text, Thinking, say

from .served import JSON, Served, Whole, spoken, system, user

SILENT = {"thinking": {"type": "disabled"}}
"""The Messages API takes no thinking beside what shapes the sampling."""


@pytest.fixture(scope="module")
def conversation(shared: Served) -> str:
    """One that the tests of this module go on with, one after another."""
    shared.begin()
    return shared.ask(system("parameters"), user("Hello")).conversation_id


def rest(served: Served) -> JSON:
    """The last body, but for what was said, and for the name that the CLI goes by: children that
    start together in a new home each make one up, and the last to write it prevails."""
    body = {name: value for name, value in served.last.body.items() if name != "messages"}
    user_id = body["metadata"]["user_id"]
    return body | {"metadata": "the CLI's own"} if user_id.startswith("{") else body


def go_on(served: Served, conversation: str, text: str = "Go on", **fields: Any) -> Whole:
    return served.ask(user(text), conversation_id=conversation, **fields)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"temperature": 0.3}, {"temperature": 0.3, **SILENT}),
        ({"temperature": 0}, {"temperature": 0, **SILENT}),
        ({"temperature": 1.7}, {"temperature": 1, **SILENT}),
        ({"top_p": 0.5}, {"top_p": 0.5, **SILENT}),
        ({"stop": "END"}, {"stop_sequences": ["END"]}),
        ({"stop": ["END", "\n", "STOP"]}, {"stop_sequences": ["END", "STOP"]}),
        ({"max_tokens": 50}, {"max_tokens": 50, **SILENT}),
        ({"max_completion_tokens": 60}, {"max_tokens": 60, **SILENT}),
        ({"user": "alice"}, {"metadata": {"user_id": "alice"}}),
        (
            {"user": "a@b.org"},
            {"metadata": {"user_id": hashlib.sha256(b"a@b.org").hexdigest()}},
        ),
        ({"service_tier": "default"}, {"service_tier": "standard_only"}),
        ({"reasoning_effort": "none"}, SILENT),
    ],
)
def test_a_parameter_is_for_one_turn(
    served: Served, conversation: str, fields: JSON, told: JSON
) -> None:
    go_on(served, conversation)
    plain = rest(served)
    answer = go_on(served, conversation, **fields)
    assert answer.finish_reason == "stop"
    assert "x-ccapi-ignored" not in answer.headers
    assert rest(served) == plain | told
    go_on(served, conversation)
    assert rest(served) == plain
    assert len(served.requests) == 3
    assert len(served.adopted(conversation)) == 1


@pytest.mark.parametrize(
    ("effort", "told"), [("minimal", "low"), ("low", "low"), ("medium", "medium"), ("max", "max")]
)
def test_effort_is_for_one_turn(served: Served, efforts: str, effort: str, told: str) -> None:
    go_on(served, efforts, model="claude-opus-4-8")
    plain = rest(served)
    go_on(served, efforts, model="claude-opus-4-8", reasoning_effort=effort)
    assert served.last.body["output_config"] == {"effort": told}
    assert served.last.body["thinking"]["type"] == "adaptive"
    go_on(served, efforts, model="claude-opus-4-8")
    # A child that has shown what it thinks goes on doing so; no client receives thoughts unasked.
    assert rest(served) | {"thinking": None} == plain | {"thinking": None}


@pytest.fixture(scope="module")
def efforts(shared: Served) -> str:
    return shared.ask(user("Hello"), model="claude-opus-4-8").conversation_id


def test_what_has_no_effect_is_named(served: Served, conversation: str) -> None:
    fields: JSON = {"seed": 7, "metadata": {"a": "b"}, "verbosity": "low", "store": True}
    answer = go_on(served, conversation, presence_penalty=0.5, max_tokens=9, **fields)
    ignored = answer.headers["x-ccapi-ignored"].split(", ")
    assert sorted(ignored) == ["metadata", "presence_penalty", "seed", "store", "verbosity"]
    answer = go_on(served, conversation, temperature=0.5, top_p=0.5)
    assert answer.headers["x-ccapi-ignored"] == "top_p"
    answer = go_on(served, conversation, max_tokens=9, max_completion_tokens=8)
    assert answer.headers["x-ccapi-ignored"] == "max_tokens"
    assert served.last.body["max_tokens"] == 8


def test_what_a_newer_model_does_not_take_is_named(served: Served) -> None:
    answer = served.ask(user("hi"), model="sonnet", temperature=0.5, reasoning_effort="none")
    assert answer.headers["x-ccapi-ignored"] == "temperature, reasoning_effort"
    assert "temperature" not in served.last.body


# -- stop ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunks", [1, 100])
@pytest.mark.parametrize(
    ("stop", "said", "told"),
    [
        ("three", "one two three four five", "one two "),
        (["five", "two t"], "one two three four five", "one "),
        ("\n", "a line\nanother line", "a line"),
        ("\n\n", "a line\n\n\nanother", "a line"),
        ("é🦀", "caf é é🦀 more", "caf é "),
        ("one", "one two", ""),
    ],
)
def test_nothing_from_a_stop_text_on_is_delivered(
    served: Served, conversation: str, chunks: int, stop: str | list[str], said: str, told: str
) -> None:
    served.answers(say(said, chunks=chunks))
    answer = served.stream(user("Count"), conversation_id=conversation, stop=stop)
    assert answer.text == told
    assert answer.finish_reasons == ["stop"]
    assert answer.chunks
    answer = served.stream(user("Again"), conversation_id=conversation)
    assert answer.done
    remembered = [("assistant", [told])] if told.strip() else []
    tail = [("user", ["Count"]), *remembered, ("user", ["Again"])]
    if not remembered:
        tail = [("user", ["Count", "Again"])]
    assert spoken(served.last)[-len(tail) :] == tail
    assert len(served.requests) == 2


def test_the_model_may_stop_by_itself(served: Served, conversation: str) -> None:
    served.answers(say("one two ", chunks=2, stop_reason="stop_sequence", stop_sequence="three"))
    answer = go_on(served, conversation, stop="three")
    assert (answer.text, answer.finish_reason) == ("one two ", "stop")
    served.answers(say("it is thr", chunks=4))
    answer = go_on(served, conversation, stop="three")
    assert (answer.text, answer.finish_reason) == ("it is thr", "stop")


@pytest.mark.parametrize("reason", ["stop_sequence", "end_turn"])
@pytest.mark.parametrize("blocks", [(), (Thinking("Hm."),), (Text("\n"),)])
def test_an_answer_may_be_empty(
    served: Served, conversation: str, blocks: tuple[Block, ...], reason: str
) -> None:
    """The CLI would have the model say something else instead. It may have asked already when it
    learns that it should not; no client receives that."""
    served.answers(Reply(blocks, stop_reason=reason))
    answer = served.stream(user("Anything?"), conversation_id=conversation)
    assert (answer.text.strip(), answer.finish_reasons) == ("", ["stop"])
    go_on(served, conversation, "Nothing?")
    assert spoken(served.last)[-1] == ("user", ["Anything?", "Nothing?"])


# -- length ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("reason", ["max_tokens", "model_context_window_exceeded"])
def test_a_cut_answer_is_kept_and_not_gone_on_with(served: Served, reason: str) -> None:
    answer = served.ask(user("Hello"))
    conversation = answer.conversation_id
    served.answers(say("It begins with", chunks=3, stop_reason=reason))
    streamed = served.stream(user("A story"), conversation_id=conversation, max_tokens=3)
    assert (streamed.text, streamed.finish_reasons) == ("It begins with", ["length"])
    assert streamed.chunks
    served.answers(say(" a", stop_reason=reason))
    answer = go_on(served, conversation, "And?", max_tokens=1)
    assert (answer.text, answer.finish_reason) == (" a", "length")
    answer = go_on(served, conversation, "Well?")
    assert answer.finish_reason == "stop"
    assert spoken(served.last) == [
        ("user", ["Hello"]),
        ("assistant", ["turn 1: Hello"]),
        ("user", ["A story"]),
        ("assistant", ["It begins with"]),
        ("user", ["And?"]),
        ("assistant", [" a"]),
        ("user", ["Well?"]),
    ]
    # The child is ended by the very frame that tells of the cut. On a busy machine it may have
    # asked the model to go on by then: no client receives that, and it is in no history.
    assert 4 <= len(served.requests) <= 6, "the model was made to go on"


# -- several choices -------------------------------------------------------------------------------


def test_several_choices_are_several_children(served: Served) -> None:
    served.answers(say("heads"), say("tails"))
    answer = served.ask(user("Toss"), n=2)
    choices = answer.body["choices"]
    assert [choice["index"] for choice in choices] == [0, 1]
    assert sorted(choice["message"]["content"] for choice in choices) == ["heads", "tails"]
    assert answer.body["usage"]["completion_tokens"] == 10
    assert len(served.requests) == 2
    assert spoken(served.requests[0]) == spoken(served.requests[1]) == [("user", ["Toss"])]


def test_several_choices_are_streamed_by_their_index(served: Served) -> None:
    served.answers(say("heads", chunks=3), say("tails", chunks=2))
    fields: JSON = {"n": 2, "stream_options": {"include_usage": True}}
    answer = served.stream(user("Toss"), **fields)
    texts, reasons = ["", ""], []
    for chunk in answer.chunks:
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            if choice.finish_reason:
                reasons.append((choice.index, choice.finish_reason))
    assert sorted(texts) == ["heads", "tails"]
    assert sorted(reasons) == [(0, "stop"), (1, "stop")]
    assert answer.chunks[-1].choices == []


def test_there_are_limits_to_choices(served: Served, conversation: str) -> None:
    assert served.ask(user("Toss"), n=9).error["param"] == "n"
    assert go_on(served, conversation, n=2).error["param"] == "n"
    assert served.requests == []


@pytest.mark.parametrize("name", ["logprobs", "logit_bias", "functions", "audio"])
def test_what_is_not_supported_is_refused(served: Served, name: str) -> None:
    values: JSON = {"logprobs": True, "logit_bias": {"1": 1}, "functions": [{}], "audio": {"a": 1}}
    answer = served.ask(user("hi"), **{name: values[name]})
    assert answer.status == 400
    assert (answer.error["code"], answer.error["param"]) == ("unsupported_parameter", name)
    assert served.requests == []
