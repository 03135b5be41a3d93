"""How many tokens a request would have the model read: counted by the CLI, and asked of nobody."""

from __future__ import annotations

from typing import Any

import pytest

from .served import JSON, Served

MODEL = "sonnet"
COUNT = "/v1/responses/input_tokens"
LONG = "word " * 800
TOOL = {"type": "function", "name": "look", "description": LONG, "parameters": {"type": "object"}}


def count(house: Served, **fields: Any) -> int:
    answer = house.post(COUNT, {"model": MODEL, **fields})
    assert answer.status_code == 200, answer.text
    body: JSON = answer.json()
    assert body.keys() == {"object", "input_tokens"}
    assert body["object"] == "response.input_tokens"
    assert house.requests == []
    tokens: int = body["input_tokens"]
    return tokens


def test_whatever_the_model_reads_is_counted(house: Served) -> None:
    hello = count(house, input="Hello")
    assert 0 < hello < 100
    assert count(house, input="Hello", instructions=LONG) > hello + 900
    assert count(house, input=LONG) > hello + 900
    assert count(house, input="Hello", tools=[TOOL]) > hello + 10
    history = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": LONG},
        {"role": "user", "content": "b"},
    ]
    assert count(house, input=history) > hello + 900


def test_what_came_before_is_counted_too(house: Served) -> None:
    first = house.post("/v1/responses", {"model": MODEL, "input": LONG}).json()
    house.begin()
    behind = count(house, input="And?", previous_response_id=first["id"])
    assert behind > count(house, input="And?") + 900
    house.begin()
    again = house.post("/v1/responses", {"input": "?", "previous_response_id": first["id"]})
    assert again.status_code == 200


def test_the_children_go(house: Served) -> None:
    for _ in range(10):  # more than there may be at once
        count(house, input="Hello")


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
def test_what_cannot_be_counted(house: Served, fields: JSON, status: int, param: str) -> None:
    answer = house.post(COUNT, {"model": MODEL, "input": "Hello", **fields})
    assert (answer.status_code, answer.json()["error"]["param"]) == (status, param)
