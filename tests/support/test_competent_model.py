"""The competent model: that the suites of real clients meet a model that does what it is asked."""

from typing import Any

import jsonschema
import orjson
import pytest

from ccapi.schemas.claude.tool_wishes import ToolWish
from tests.support.competent_model import competent_model
from tests.support.competent_words import fill
from tests.support.messages_answers import Failure, Reply, Text, Thinking, ToolUse
from tests.support.messages_rules import broken_rule
from tests.support.messages_stub import Request

WEATHER: dict[str, Any] = {
    "name": "get_weather",
    "description": "Get the weather at a place.",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
    },
}
MAGIC: dict[str, Any] = {
    "name": "magic_function",
    "input_schema": {
        "type": "object",
        "properties": {"input": {"type": "integer", "exclusiveMinimum": -1000}},
        "required": ["input"],
    },
}
JOKE: dict[str, Any] = {
    "name": "StructuredOutput",
    "input_schema": {
        "type": "object",
        "properties": {"setup": {"type": "string"}, "punchline": {"type": "string"}},
        "required": ["setup", "punchline"],
    },
}
IMAGE: dict[str, Any] = {
    "type": "image",
    "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="},
}


def ask(prompt: Any, *more: tuple[str, Any], **body: Any) -> Reply:
    messages = [{"role": "user", "content": prompt}]
    messages += [{"role": role, "content": content} for role, content in more]
    reply = competent_model(Request(whole(messages, **body), {}))
    assert isinstance(reply, Reply), reply
    return reply


def whole(messages: list[Any], **body: Any) -> dict[str, Any]:
    return {"model": "m", "max_tokens": 1000, "messages": messages, **body}


def calls(reply: Reply) -> list[tuple[str, dict[str, Any]]]:
    return [(b.name, dict(b.input)) for b in reply.blocks if isinstance(b, ToolUse)]


def text(reply: Reply) -> str:
    return "".join(block.text for block in reply.blocks if isinstance(block, Text))


def used(name: str, id: str = "t1", **given: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": id, "name": name, "input": given}


def result(content: Any, id: str = "t1", **fields: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": id, "content": content, **fields}


@pytest.mark.parametrize(
    ("prompt", "choice", "expected"),
    [
        ("What is magic_function(3)?", None, [("magic_function", {"input": 3})]),
        (
            "The weather in San Francisco, CA?",
            None,
            [("get_weather", {"city": "San Francisco, CA"})],
        ),
        (
            "The weather in Paris and in London?",
            None,
            [("get_weather", {"city": "Paris"}), ("get_weather", {"city": "London"})],
        ),
        (
            "Call magic_function(3), and tell me the weather in Rome.",
            None,
            [("magic_function", {"input": 3}), ("get_weather", {"city": "Rome"})],
        ),
        (
            "Get the weather in Rome, then call magic_function(3).",
            None,
            [("get_weather", {"city": "Rome"})],
        ),
        (
            "The weather in Paris and London?",
            {"type": "auto", "disable_parallel_tool_use": True},
            [("get_weather", {"city": "Paris"})],
        ),
        ("Hello!", None, []),
        ("The weather in Paris?", {"type": "none"}, []),
        ("Hello!", {"type": "any"}, [("get_weather", {"city": "Paris"})]),
        (
            "The weather in Paris?",
            {"type": "tool", "name": "magic_function"},
            [("magic_function", {"input": 1})],
        ),
    ],
)
def test_the_tools_called_are_those_asked_for_or_forced(
    prompt: str, choice: dict[str, Any] | None, expected: list[Any]
) -> None:
    given = {} if choice is None else {"tool_choice": choice}
    reply = ask(prompt, tools=[WEATHER, MAGIC], **given)
    assert calls(reply) == expected
    assert reply.final_stop_reason == ("tool_use" if expected else "end_turn")


@pytest.mark.parametrize(("name", "called"), [("magic_function", "magic_function"), (None, None)])
def test_words_in_the_last_message_force_a_call_too(name: str | None, called: str | None) -> None:
    """And they are no part of what the user says."""
    order = {"type": "text", "text": ToolWish(name).words(again=False)}
    said = [{"type": "text", "text": "Hello!"}, order]
    ((made, _),) = calls(ask(said, tools=[WEATHER, MAGIC]))
    assert made == (called or "get_weather")
    later = ask(said, ("assistant", "Hi."), ("user", "Hello!"), tools=[WEATHER, MAGIC])
    assert calls(later) == []


def test_a_schema_that_is_written_out_is_followed() -> None:
    said = f"Answer in JSON that suits this schema: {orjson.dumps(JOKE['input_schema']).decode()}"
    assert orjson.loads(text(ask(said))).keys() == {"setup", "punchline"}
    free = {"name": "StructuredOutput", "input_schema": {"type": "object"}}
    ((_, given),) = calls(ask("A joke", tools=[free], system=said))
    assert given.keys() == {"setup", "punchline"}


def test_structured_output_is_called_when_nothing_else_is_wanted() -> None:
    ((name, given),) = calls(ask("Tell me a joke", tools=[WEATHER, JOKE]))
    assert name == "StructuredOutput"
    assert given.keys() == {"setup", "punchline"}
    assert [n for n, _ in calls(ask("The weather?", tools=[WEATHER, JOKE]))] == ["get_weather"]


def test_results_are_used_and_steps_follow_one_another() -> None:
    prompt = "Get the weather in Rome, then call magic_function(3)."
    first = (("assistant", [used("get_weather", city="Rome")]), ("user", [result("sunny")]))
    reply = ask(prompt, *first, tools=[WEATHER, MAGIC])
    assert calls(reply) == [("magic_function", {"input": 3})]
    second = (
        ("assistant", [used("magic_function", "t2", input=3)]),
        ("user", [result("broken", "t2", is_error=True)]),
    )
    reply = ask(prompt, *first, *second, tools=[WEATHER, MAGIC])
    assert text(reply) == "The tool says: sunny\nThe tool failed: broken"


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {}},
        {
            "type": "object",
            "properties": {
                "email": {"type": "string", "format": "email"},
                "unit": {"enum": ["kelvin", "celsius"]},
                "kind": {"const": "x"},
                "score": {"type": "number", "minimum": 0, "maximum": 0.5},
                "tags": {"type": "array", "items": {"type": "string"}, "minItems": 3},
                "sum": {"type": ["null", "integer"]},
                "sure": {"type": "boolean"},
                "short": {"type": "string", "maxLength": 3},
            },
            "required": ["email", "unit", "kind", "score", "tags", "sum", "sure", "short"],
            "additionalProperties": False,
        },
        {
            "$defs": {
                "node": {
                    "type": "object",
                    "properties": {
                        "name": {"type": "string"},
                        "children": {"type": "array", "items": {"$ref": "#/$defs/node"}},
                        "next": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/node"}]},
                    },
                    "required": ["name"],
                }
            },
            "$ref": "#/$defs/node",
        },
        {
            "allOf": [
                {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
                {"properties": {"b": {"oneOf": [{"type": "string"}]}}, "required": ["b"]},
            ]
        },
        {"type": "array", "items": {"type": "integer"}, "maxItems": 1},
    ],
)
def test_json_suits_its_schema(schema: dict[str, Any]) -> None:
    jsonschema.validate(fill(schema, "Add 700 and 0.25 celsius"), schema)


def test_json_is_written_where_a_format_or_the_prompt_asks_for_it() -> None:
    schema = JOKE["input_schema"] | {"additionalProperties": False}
    wanted = {"format": {"type": "json_schema", "schema": schema}}
    jsonschema.validate(orjson.loads(text(ask("Go.", output_config=wanted))), schema)
    reply = ask("A joke as JSON with 'setup' and 'punchline' keys.")
    assert orjson.loads(text(reply)).keys() == {"setup", "punchline"}
    assert orjson.loads(text(ask("Hi", system="Answer in JSON."))).keys() == {"answer"}


def test_it_stops_where_the_request_says() -> None:
    reply = ask("Count to 9", stop_sequences=[" 8", " 5"])
    assert (text(reply), reply.stop_reason, reply.stop_sequence) == (
        "1 2 3 4",
        "stop_sequence",
        " 5",
    )
    reply = ask("Count to 9", max_tokens=2)
    assert (text(reply), reply.stop_reason, reply.usage.output_tokens) == (
        "1 2 3 4 ",
        "max_tokens",
        3,
    )


def test_it_thinks_only_where_that_is_on_and_called_for() -> None:
    on = {"type": "adaptive"}
    assert isinstance(ask("Think hard.", thinking=on).blocks[0], Thinking)
    assert not isinstance(ask("Think hard.").blocks[0], Thinking)
    assert not isinstance(ask("Hello", thinking=on).blocks[0], Thinking)


def test_it_looks_at_what_it_is_shown_and_remembers_what_it_received() -> None:
    assert text(ask([IMAGE, {"type": "text", "text": "Describe."}])).startswith("I see 1 image")
    shown = {"type": "text", "text": "[Image: source: 1.png]"}
    got = ask(
        "The weather in Rome?",
        ("assistant", [used("get_weather", city="Rome")]),
        ("user", [result([IMAGE]), shown]),
        tools=[WEATHER],
    )
    assert text(got) == "The tool says: (image)", "what the CLI adds is not a prompt"
    told = ask("My name is Ada.", ("assistant", "Hello."), ("user", "What is my name?"))
    assert text(told) == "Your name is Ada."


USER = {"role": "user", "content": "Hello"}
FORCED = {"tools": [WEATHER], "tool_choice": {"type": "any"}}
CALLED = {"role": "assistant", "content": [used("get_weather", city="Rome")]}


def output_config(**schema: Any) -> dict[str, Any]:
    return {"output_config": {"format": {"type": "json_schema", "schema": schema}}}


@pytest.mark.parametrize(
    ("words", "messages", "body"),
    [
        ("range: 0..1", [USER], {"temperature": 1.5}),
        ("max_tokens", [USER], {"max_tokens": 0}),
        ("non-whitespace", [USER], {"stop_sequences": ["\n"]}),
        ("forces tool use", [USER], {"thinking": {"type": "adaptive"}, **FORCED}),
        ("temperature", [USER], {"thinking": {"type": "adaptive"}, "temperature": 0}),
        ("max_tokens", [USER], {"thinking": {"type": "enabled", "budget_tokens": 1024}}),
        ("unique", [USER], {"tools": [WEATHER, WEATHER]}),
        ("pattern", [USER], {"tools": [WEATHER | {"name": "a.b"}]}),
        (
            "top level",
            [USER],
            {"tools": [{"name": "x", "input_schema": {"type": "object", "anyOf": []}}]},
        ),
        ("'object'", [USER], {"tools": [{"name": "x", "input_schema": {}}]}),
        ("not found", [USER], {"tools": [MAGIC], "tool_choice": {"type": "tool", "name": "nope"}}),
        ("providing tools", [USER], {"tool_choice": {"type": "auto"}}),
        ("at least one", [], {}),
        ("non-empty", [{"role": "user", "content": ""}], {}),
        ("without `tool_result`", [USER, CALLED, USER], {}),
        ("without `tool_result`", [USER, CALLED], {}),
        ("unexpected", [USER, {"role": "user", "content": [result("sunny")]}], {}),
        (
            "media type",
            [
                {
                    "role": "user",
                    "content": [
                        {**IMAGE, "source": {**IMAGE["source"], "media_type": "image/gif"}}
                    ],
                }
            ],
            {},
        ),
        ("additionalProperties", [USER], output_config(type="object", properties={})),
        ("maximum", [USER], output_config(anyOf=[{"type": "integer", "maximum": 5}])),
    ],
)
def test_what_the_api_refuses_is_refused(words: str, messages: list[Any], body: Any) -> None:
    refusal = competent_model(Request(whole(messages, **body), {}))
    assert isinstance(refusal, Failure)
    assert refusal.status == 400
    assert words in refusal.message


def test_what_the_api_accepts_is_not_refused() -> None:
    answered = {"role": "user", "content": [result([{"type": "text", "text": "sunny"}, IMAGE])]}
    schema = {
        "type": "object",
        "properties": {"maximum": {"type": "integer"}},
        "additionalProperties": False,
    }
    body = whole(
        [USER, {"role": "system", "content": ""}, USER, CALLED, answered, USER],
        **(FORCED | output_config(**schema) | {"temperature": 0, "stop_sequences": ["x"]}),
    )
    assert broken_rule(body) is None
