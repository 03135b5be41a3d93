"""A turn's options, as the CLI's settings and as what they put into the request's body.

tests/contract/test_parameters.py shows that the CLI sends them so, and tests/conformance that the
Messages API's rules are kept."""

import json
import re
from functools import partial
from itertools import product
from typing import Any

import pytest
from attrs import evolve

from ccapi.schemas.claude.input import api_messages, apply_settings
from ccapi.schemas.claude.lines import LongLine
from ccapi.schemas.claude.sampling import MOST_FOR_ALL, PLAIN, encode_settings, without_effect
from ccapi.schemas.claude.tool_names import ANSWER_TOOL, wire_name
from ccapi.schemas.json_bytes import LONG
from ccapi.schemas.message import Message
from ccapi.schemas.turn import Options, SearchWish, Setup, ThinkingWish, Tool, ToolChoice

TOOLS = (Tool("now"), Tool("get weather"))
BARE, TOOLED = Setup("m"), Setup("m", tools=TOOLS)
SHAPED, BOTH = Setup("m", schema="{}"), Setup("m", tools=TOOLS, schema="{}")
OFF = {"type": "disabled"}


def body(options: Options, setup: Setup = BARE) -> Any:
    said = encode_settings(options, setup)["env"]["CLAUDE_CODE_EXTRA_BODY"]
    return json.loads(said) if said else {}


# -- a search of the web ---------------------------------------------------------------------------

SEARCH = {"type": "web_search_20250305", "name": "web_search"}


def test_a_search_stands_behind_all_other_tools() -> None:
    near = {"type": "approximate", "city": "Rome"}
    wish = SearchWish(max_uses=2, blocked=("a.example",), location=(("city", "Rome"),))
    asked = body(Options(search=wish), BOTH)["tools"]
    assert [tool["name"] for tool in asked[:-1]] == ["now", wire_name("get weather"), ANSWER_TOOL]
    assert asked[0] == {
        "name": "now",
        "description": "",
        "input_schema": {"type": "object", "properties": {}},
    }
    more = {"max_uses": 2, "blocked_domains": ["a.example"], "user_location": near}
    assert asked[-1] == SEARCH | more
    assert body(Options(search=SearchWish(allowed=("b",))))["tools"] == [
        SEARCH | {"allowed_domains": ["b"]}
    ]


@pytest.mark.parametrize(
    ("choice", "said"),
    [
        (ToolChoice("named", "web_search"), {"type": "tool", "name": "web_search"}),
        (ToolChoice("required"), {"type": "any"}),
        (ToolChoice("none"), {"type": "none"}),
    ],
)
def test_a_search_is_chosen_like_any_tool(choice: ToolChoice, said: Any) -> None:
    setup, options = Setup("claude-haiku-4-5"), Options(search=SearchWish(), tool_choice=choice)
    assert body(options, setup)["tool_choice"] == said


def test_an_agent_and_a_client_with_such_a_tool_have_their_own() -> None:
    options = Options(search=SearchWish())
    assert "tools" not in body(options, Setup("m", profile="agent"))
    assert "tools" not in body(options, Setup("m", tools=(Tool("web_search"),)))


# -- settings --------------------------------------------------------------------------------------


def test_the_settings_of_a_child_that_was_given_none() -> None:
    assert PLAIN == {
        "env": {"CLAUDE_CODE_EXTRA_BODY": "", "CLAUDE_CODE_MAX_OUTPUT_TOKENS": ""},
        "effortLevel": None,
    }
    assert encode_settings(Options(), TOOLED) == PLAIN


def test_what_an_earlier_turn_set_is_taken_back() -> None:
    """Settings stay until they are said again, so that all of them are said each time."""
    full = Options(temperature=0.5, max_tokens=7, effort="high")
    assert encode_settings(full, BARE).keys() == PLAIN.keys()
    assert encode_settings(full, BARE)["env"].keys() == PLAIN["env"].keys()


@pytest.mark.parametrize("effort", ["low", "medium", "high", "xhigh", "max"])
def test_effort(effort: Any) -> None:
    assert encode_settings(Options(effort=effort), BARE) == {**PLAIN, "effortLevel": effort}


def test_no_effort_is_no_thinking() -> None:
    settings = encode_settings(Options(effort="none"), BARE)
    assert settings["effortLevel"] is None
    assert body(Options(effort="none")) == {"thinking": OFF}


def test_max_tokens() -> None:
    settings = encode_settings(Options(max_tokens=77), BARE)
    assert settings["env"]["CLAUDE_CODE_MAX_OUTPUT_TOKENS"] == "77"
    assert body(Options(max_tokens=77)) == {"max_tokens": 77, "thinking": OFF}


def test_how_much_each_model_may_write_is_for_the_cli_to_say() -> None:
    settings = encode_settings(Options(max_tokens=MOST_FOR_ALL + 1), BARE)
    assert settings["env"]["CLAUDE_CODE_MAX_OUTPUT_TOKENS"] == str(MOST_FOR_ALL + 1)
    assert "max_tokens" not in body(Options(max_tokens=MOST_FOR_ALL + 1))
    assert body(Options(max_tokens=MOST_FOR_ALL))["max_tokens"] == MOST_FOR_ALL


# -- the body --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (Options(temperature=0.5), {"temperature": 0.5, "thinking": OFF}),
        (Options(temperature=0.0), {"temperature": 0.0, "thinking": OFF}),
        (Options(temperature=1.7), {"temperature": 1.0, "thinking": OFF}),
        (Options(top_p=0.9), {"top_p": 0.9, "thinking": OFF}),
        (Options(temperature=0.5, top_p=0.9), {"temperature": 0.5, "thinking": OFF}),
        (Options(stop=("END", " \n", "")), {"stop_sequences": ["END"]}),
        (Options(stop=(" ",)), {}),
        (Options(user="u"), {"metadata": {"user_id": "u"}}),
        (Options(service_tier="standard_only"), {"service_tier": "standard_only"}),
        (Options(reasoning=True), {}),
        (Options(whole=True), {}),
    ],
    ids=str,
)
def test_what_is_laid_over_the_body(options: Options, expected: dict[str, Any]) -> None:
    assert body(options) == expected


@pytest.mark.parametrize("user", ["me@example.com", "+49 30 1234", "\ud800", "", "x" * 300, "9"])
def test_the_api_does_not_receive_who_a_user_is(user: str) -> None:
    told = body(Options(user=user))["metadata"]["user_id"]
    assert re.fullmatch("[0-9a-f]{64}", told)
    assert told != body(Options(user=user + "x"))["metadata"]["user_id"]


@pytest.mark.parametrize(
    ("options", "names"),
    [
        (Options(), ()),
        (Options(temperature=0.5), ()),
        (Options(top_p=0.5), ()),
        (Options(temperature=0.5, top_p=0.5), ("top_p",)),
        (Options(temperature=0.5, effort="none"), ()),
        (Options(temperature=0.5, effort="none", reasoning=True), ()),
        (Options(temperature=0.5, effort="low"), ("temperature",)),
        (Options(top_p=0.5, effort="low"), ("top_p",)),
        (Options(temperature=0.5, top_p=0.5, effort="low"), ("temperature", "top_p")),
        (Options(temperature=0.5, reasoning=True), ("temperature",)),
        (Options(max_tokens=2000, effort="low"), ()),
        # With so little room it cannot think.
        (Options(temperature=0.5, max_tokens=1024, effort="low"), ()),
        (Options(temperature=0.5, max_tokens=1025, effort="low"), ("temperature",)),
    ],
    ids=str,
)
def test_what_gives_way(options: Options, names: tuple[str, ...]) -> None:
    assert without_effect(options) == names
    assert not body(options).keys() & set(names)


@pytest.mark.parametrize(
    "options",
    [
        Options(effort="low"),
        Options(reasoning=True),
        Options(effort="low", temperature=0.5),
        Options(effort="max", max_tokens=1025),
        Options(reasoning=True, top_p=0.5, max_tokens=9999),
        Options(stop=("x",), user="u", service_tier="auto", effort="high"),
    ],
    ids=str,
)
def test_a_caller_who_wants_thinking_has_it(options: Options) -> None:
    assert "thinking" not in body(options)


@pytest.mark.parametrize(
    "options", [Options(effort="high", max_tokens=1024), Options(max_tokens=9999)]
)
def test_thinking_gives_way_where_there_is_no_room_for_its_budget(options: Options) -> None:
    assert body(options)["thinking"] == OFF


# -- tools -----------------------------------------------------------------------------------------

ANSWER = {"type": "tool", "name": "StructuredOutput"}
SPELT = {"type": "tool", "name": "get_weather_dce3870e"}
NAMED = ToolChoice("named", "get weather")


@pytest.mark.parametrize(
    ("setup", "choice", "expected"),
    [
        (BARE, ToolChoice(), None),
        (BARE, ToolChoice("none"), None),
        (BARE, ToolChoice("required"), None),
        (BARE, NAMED, None),
        (TOOLED, ToolChoice(), None),
        (TOOLED, ToolChoice("none"), {"type": "none"}),
        (TOOLED, ToolChoice("required"), {"type": "any"}),
        (TOOLED, NAMED, SPELT),
        (SHAPED, ToolChoice(), ANSWER),
        (SHAPED, ToolChoice("none"), ANSWER),
        (SHAPED, ToolChoice("required"), ANSWER),
        (SHAPED, NAMED, ANSWER),
        (BOTH, ToolChoice(), {"type": "any"}),
        (BOTH, ToolChoice("none"), ANSWER),
        (BOTH, ToolChoice("required"), {"type": "any"}),
        (BOTH, NAMED, SPELT),
    ],
)
def test_tool_choice(setup: Setup, choice: ToolChoice, expected: dict[str, str] | None) -> None:
    said = body(Options(tool_choice=choice), setup)
    assert said.get("tool_choice") == expected
    one_by_one = body(Options(tool_choice=choice, parallel_tool_calls=False), setup)
    single = {"disable_parallel_tool_use": True}
    if setup.tools and expected not in ({"type": "none"}, ANSWER):
        assert one_by_one["tool_choice"] == {**(expected or {"type": "auto"}), **single}
    else:
        assert one_by_one == said


@pytest.mark.parametrize(
    "options", [Options(), Options(effort="high"), Options(reasoning=True)], ids=str
)
def test_a_call_that_has_to_be_made_is_made_without_thinking(options: Options) -> None:
    assert body(options, SHAPED)["thinking"] == body(options, BOTH)["thinking"] == OFF
    assert "thinking" not in body(options, TOOLED)


GIVEN: dict[str, list[Any]] = {
    "temperature": [None, 0.2, 1.0, 2.0],
    "top_p": [None, 0.5],
    "max_tokens": [None, 77, 5000],
    "effort": [None, "none", "low"],
    "reasoning": [False, True],
    "tool_choice": [ToolChoice(), ToolChoice("none"), ToolChoice("required"), NAMED],
}


@pytest.mark.parametrize(
    "setup", [BARE, TOOLED, SHAPED, BOTH], ids=["bare", "tools", "schema", "both"]
)
def test_no_combination_is_one_that_the_api_refuses(setup: Setup) -> None:
    for values in product(*GIVEN.values()):
        said = body(Options(**dict(zip(GIVEN, values, strict=True))), setup)
        if "thinking" not in said:  # it may think, then
            assert said.keys() <= {"max_tokens", "tool_choice"}
            assert said.get("max_tokens", 5000) > 1024
            assert said.get("tool_choice", {"type": "auto"})["type"] in ("auto", "none")
        assert said.get("temperature", 0) <= 1
        assert not {"temperature", "top_p"} <= said.keys()
        assert "tool_choice" not in said or setup is not BARE


# -- a model that always thinks --------------------------------------------------------------------

NEWEST = "opus"


@pytest.mark.parametrize(
    "setup", [evolve(each, model=NEWEST) for each in (BARE, TOOLED, SHAPED, BOTH)], ids=repr
)
def test_a_model_that_always_thinks_never_gets_another_setting(setup: Setup) -> None:
    for values in product(*GIVEN.values()):
        said = body(Options(**dict(zip(GIVEN, values, strict=True))), setup)
        assert said.keys() <= {"max_tokens", "tool_choice"}
        assert said.get("tool_choice", {"type": "auto"})["type"] in ("auto", "none")


@pytest.mark.parametrize(
    ("options", "names"),
    [
        (Options(temperature=0.5, top_p=0.5), ("temperature", "top_p")),
        (Options(effort="none"), ("reasoning_effort",)),
        (Options(tool_choice=ToolChoice("required")), ("tool_choice",)),
        (Options(tool_choice=NAMED), ("tool_choice",)),
        (Options(tool_choice=ToolChoice("none"), effort="max", max_tokens=9), ()),
    ],
    ids=str,
)
def test_what_such_a_model_does_not_take(options: Options, names: tuple[str, ...]) -> None:
    assert without_effect(options, NEWEST) == names


def test_the_least_effort_is_all_that_can_be_asked_of_it() -> None:
    assert encode_settings(Options(effort="none"), Setup(NEWEST))["effortLevel"] == "low"


def test_a_model_that_must_not_think_is_not_asked_for_too_much() -> None:
    """The API refuses the highest efforts beside disabled thinking."""
    short = Options(effort="max", max_tokens=77)
    assert encode_settings(short, BARE)["effortLevel"] == "high"
    assert encode_settings(Options(effort="max"), BARE)["effortLevel"] == "max"
    assert encode_settings(Options(effort="xhigh"), SHAPED)["effortLevel"] == "high"


def test_messages_that_are_made_later_are_the_same_line() -> None:
    said = [Message("user", ("hi \U0001f600", "you")), Message("assistant", ("x" * LONG, "end \n"))]
    for options in (Options(), Options(temperature=0.5, stop=("x",))):
        at_once = encode_settings(options, BARE, partial(api_messages, said))
        later = encode_settings(options, BARE, partial(api_messages, said), later=True)
        body = json.loads(at_once["env"]["CLAUDE_CODE_EXTRA_BODY"])
        assert at_once["env"]["CLAUDE_CODE_EXTRA_BODY"] == json.dumps(body)
        assert body["messages"] == [*api_messages(said)]
        assert later != at_once, "what is not made yet is equal to nothing"
        made, whole = apply_settings("s", later), apply_settings("s", at_once)
        assert isinstance(made, LongLine)
        assert bytes(made) == bytes(whole)


# -- thinking in the API's own words ---------------------------------------------------------------

WISHES: list[tuple[ThinkingWish, Any]] = [
    (ThinkingWish("enabled", 2048), {"type": "enabled", "budget_tokens": 2048}),
    (ThinkingWish("adaptive"), {"type": "adaptive"}),
    (ThinkingWish("adaptive", None, "omitted"), {"type": "adaptive", "display": "omitted"}),
    (
        ThinkingWish("enabled", 1024, "summarized"),
        {"type": "enabled", "budget_tokens": 1024, "display": "summarized"},
    ),
    (ThinkingWish("disabled"), OFF),
]


@pytest.mark.parametrize(("wish", "told"), WISHES, ids=str)
@pytest.mark.parametrize("model", ["claude-haiku-4-5", "claude-opus-4-8", "another"])
def test_a_wish_reaches_the_api_as_it_is(wish: ThinkingWish, told: Any, model: str) -> None:
    """Also beside what would else take the thinking out: the API says what it does not take."""
    for options in (Options(), Options(max_tokens=9), Options(effort="high"), Options(begun=True)):
        said = body(evolve(options, thinking=wish), Setup(model))
        assert said["thinking"] == told
    assert without_effect(Options(thinking=wish), model) == ()


@pytest.mark.parametrize(("wish", "told"), WISHES, ids=str)
def test_a_model_that_always_thinks(wish: ThinkingWish, told: Any) -> None:
    options = Options(thinking=wish)
    silenced = wish.type == "disabled"
    assert body(options, Setup("claude-fable-6")).get("thinking") == (None if silenced else told)
    assert without_effect(options, "claude-fable-6") == (("thinking",) if silenced else ())


def test_sampling_gives_way_to_thinking_that_is_wished_for() -> None:
    on, off = ThinkingWish("enabled", 1024), ThinkingWish("disabled")
    assert without_effect(Options(temperature=0.5, thinking=on)) == ("temperature",)
    assert without_effect(Options(temperature=0.5, max_tokens=9, thinking=on)) == ("temperature",)
    assert without_effect(Options(temperature=0.5, thinking=off)) == ()
    assert body(Options(temperature=0.5, thinking=off)) == {"temperature": 0.5, "thinking": OFF}


def test_effort_beside_a_wish() -> None:
    def effort(wish: ThinkingWish) -> Any:
        return encode_settings(Options(effort="max", thinking=wish), BARE)["effortLevel"]

    assert effort(ThinkingWish("adaptive")) == "max"
    assert effort(ThinkingWish("disabled")) == "high"


def test_an_answer_of_a_schema_leaves_the_model_its_thinking() -> None:
    """It is then not made to give the answer by a call."""
    on, off = ThinkingWish("adaptive"), ThinkingWish("disabled")
    assert body(Options(thinking=on), SHAPED) == {"thinking": {"type": "adaptive"}}
    assert body(Options(thinking=off), SHAPED) == {"thinking": OFF, "tool_choice": ANSWER}
    one = Options(thinking=on, parallel_tool_calls=False)
    assert body(one, BOTH)["tool_choice"] == {"type": "auto", "disable_parallel_tool_use": True}
    forced = Options(thinking=on, tool_choice=ToolChoice("required"))
    assert body(forced, BOTH)["tool_choice"] == {"type": "any"}  # the client's own wish
