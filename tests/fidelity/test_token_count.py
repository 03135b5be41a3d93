"""How many tokens a request would have the model read: counted by the CLI, without a request."""

from __future__ import annotations

from typing import Any

import pytest

from .served import JSON, Served

MODEL = "sonnet"
COUNT = "/v1/responses/input_tokens"
LONG = "word " * 800
TOOL = {"type": "function", "name": "look", "description": LONG, "parameters": {"type": "object"}}


def count(served: Served, **fields: Any) -> int:
    answer = served.post(COUNT, {"model": MODEL, **fields})
    assert answer.status_code == 200, answer.text
    body: JSON = answer.json()
    assert body.keys() == {"object", "input_tokens"}
    assert body["object"] == "response.input_tokens"
    assert served.requests == []
    tokens: int = body["input_tokens"]
    return tokens


def test_whatever_the_model_reads_is_counted(served: Served) -> None:
    hello = count(served, input="Hello")
    assert 0 < hello < 100
    assert count(served, input="Hello", instructions=LONG) > hello + 900
    assert count(served, input=LONG) > hello + 900
    assert count(served, input="Hello", tools=[TOOL]) > hello + 10
    history = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": LONG},
        {"role": "user", "content": "b"},
    ]
    assert count(served, input=history) > hello + 900


def test_what_came_before_is_counted_too(served: Served) -> None:
    first = served.post("/v1/responses", {"model": MODEL, "input": LONG}).json()
    served.begin()
    behind = count(served, input="And?", previous_response_id=first["id"])
    assert behind > count(served, input="And?") + 900
    served.begin()
    again = served.post("/v1/responses", {"input": "?", "previous_response_id": first["id"]})
    assert again.status_code == 200


def test_the_children_go(served: Served) -> None:
    for _ in range(10):  # more than there may be at once
        count(served, input="Hello")


@pytest.mark.parametrize(
    ("fields", "status", "param"),
    [
        ({"model": "nope"}, 404, "model"),
        ({"model": "agent/sonnet"}, 400, "model"),
        ({"input": 5}, 400, "input"),
        ({"previous_response_id": "resp_x"}, 400, "previous_response_id"),
        ({"tools": [{"type": "function"}]}, 400, "tools[0].name"),
    ],
)
def test_what_cannot_be_counted(served: Served, fields: JSON, status: int, param: str) -> None:
    answer = served.post(COUNT, {"model": MODEL, "input": "Hello", **fields})
    assert (answer.status_code, answer.json()["error"]["param"]) == (status, param)
