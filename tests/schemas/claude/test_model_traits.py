"""What Claude's models take, by their ids; and that nothing they refuse is asked of them."""

import json
from itertools import product
from typing import Any

import pytest

from ccapi.schemas.claude.model_traits import ModelSizes, family_of, sizes_of, title_of, traits_of
from ccapi.schemas.claude.sampling import encode_settings, without_effect
from ccapi.schemas.turn import Options, Setup, Tool, ToolChoice
from tests.support.messages_rules import broken_rule

OLD = (
    "claude-3-5-haiku-20241022",
    "claude-3-7-sonnet-latest",
    "claude-sonnet-4-20250514",
    "claude-opus-4-1",
    "claude-haiku-4-5-20251001",
    "us.anthropic.claude-sonnet-4-5-20250929-v1:0",
    "claude-sonnet-4-5@20250929",
    "claude-opus-4-6[1m]",
    "anthropic/claude-sonnet-4.6",
)
LATER = ("claude-opus-4-7", "claude-opus-4-8", "claude-sonnet-5", "claude-opus-5-20260724")
NEWEST = (
    *("claude-opus-5-5", "claude-sonnet-5-5", "Claude-Haiku-5-5", "claude-opus-10"),
    *("claude-fable-5", "claude-mythos-preview", "claude-of-tomorrow"),
    *("sonnet", "opus", "haiku", "fable", "best", "opusplan", "sonnet[1m]", "default"),
)
OTHERS = ("glm-4.6", "deepseek-chat", "m", "")


@pytest.mark.parametrize("model", OLD)
def test_older_models_take_everything(model: str) -> None:
    assert (traits_of(model).takes_sampling, traits_of(model).can_skip_thinking) == (True, True)


@pytest.mark.parametrize("model", LATER)
def test_later_models_cannot_be_sampled(model: str) -> None:
    assert (traits_of(model).takes_sampling, traits_of(model).can_skip_thinking) == (False, True)


@pytest.mark.parametrize("model", NEWEST)
def test_the_newest_models_always_think(model: str) -> None:
    """So do names without a version: the CLI takes them for the newest."""
    assert (traits_of(model).takes_sampling, traits_of(model).can_skip_thinking) == (False, False)


@pytest.mark.parametrize("model", OTHERS)
def test_models_of_other_makers_are_asked_for_everything(model: str) -> None:
    assert (traits_of(model).takes_sampling, traits_of(model).can_skip_thinking) == (True, True)


# -- what is asked of them -------------------------------------------------------------------------

MODELS: dict[str, dict[str, Any]] = {  # what the CLI sends by itself: the thinking of each
    "claude-haiku-4-5": {"type": "enabled", "budget_tokens": 31999},
    "claude-sonnet-4-6": {"type": "adaptive"},
    "claude-opus-4-8": {"type": "adaptive"},
    "claude-sonnet-5": {"type": "adaptive"},
    "claude-opus-5": {"type": "adaptive"},
    "claude-opus-5-5": {"type": "adaptive"},
    "claude-sonnet-5-5": {"type": "adaptive"},
    "claude-fable-5": {"type": "adaptive"},
}
TOOL = Tool("now")
CHOICES = (*(ToolChoice(), ToolChoice("none"), ToolChoice("required"), ToolChoice("named", "now")),)


def sent(model: str, options: Options, setup: Setup) -> dict[str, Any]:
    """The body as the Messages API gets it: the CLI's own with what the gateway lays over it."""
    settings = encode_settings(options, setup)
    limit = options.max_tokens or 32000
    thinking = dict(MODELS[model])
    if "budget_tokens" in thinking:
        thinking["budget_tokens"] = max(1024, limit - 1)
    offered = [*setup.tools, *([Tool("StructuredOutput")] if setup.schema else [])]
    body: dict[str, Any] = {
        "model": model,
        "max_tokens": limit,
        "thinking": thinking,
        "messages": [{"role": "user", "content": "Hi"}],
        "tools": [{"name": each.name, "input_schema": {"type": "object"}} for each in offered],
        "output_config": {"effort": settings["effortLevel"] or "medium"},
    }
    laid_over: dict[str, Any] = json.loads(settings["env"]["CLAUDE_CODE_EXTRA_BODY"] or "{}")
    return body | laid_over


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("schema", [None, "{}"])
@pytest.mark.parametrize("tools", [(), (TOOL,)])
def test_no_request_breaks_a_rule_of_its_model(
    model: str, schema: str | None, tools: tuple[Tool, ...]
) -> None:
    setup = Setup(model, tools=tools, schema=schema)
    many = product((None, 0.0, 1.5), (None, 0.5), (None, 16, 5000), (None, "none", "low", "xhigh"))
    for temperature, top_p, max_tokens, effort in many:
        for choice, reasoning, parallel in product(CHOICES, (False, True), (False, True)):
            if choice.mode in ("required", "named") and not tools:
                continue  # refused by the parser
            options = Options(
                temperature=temperature,
                top_p=top_p,
                max_tokens=max_tokens,
                effort=effort,  # type: ignore[arg-type]
                reasoning=reasoning,
                tool_choice=choice,
                parallel_tool_calls=parallel,
            )
            assert broken_rule(sent(model, options, setup)) is None, options


@pytest.mark.parametrize(
    ("model", "does"),
    [
        ("claude-haiku-4-5", True),
        ("claude-3-5-sonnet-20241022", True),
        ("eu.anthropic.claude-sonnet-4-20250514-v1:0", True),
        ("claude-sonnet-4-6", False),
        ("claude-opus-4-8", False),
        ("sonnet", False),
        ("llama-4", True),
    ],
)
def test_which_models_go_on_with_an_answer_that_was_begun(model: str, does: bool) -> None:
    assert traits_of(model).takes_begun_answer == does


def test_the_client_learns_what_the_model_does_not_take() -> None:
    options = Options(
        temperature=0, top_p=0.5, effort="none", tool_choice=ToolChoice("named", "now")
    )
    every = ("temperature", "top_p", "reasoning_effort", "tool_choice")
    assert without_effect(options, "sonnet") == every
    assert without_effect(options, "claude-sonnet-5") == ("temperature", "top_p")
    assert without_effect(options, "claude-sonnet-4-6") == ("top_p",)


def test_a_model_that_always_thinks_thinks_little_where_it_should_not() -> None:
    settings = encode_settings(Options(effort="none"), Setup("sonnet"))
    assert settings["effortLevel"] == "low"
    assert settings["env"]["CLAUDE_CODE_EXTRA_BODY"] == ""


@pytest.mark.parametrize(
    ("model", "context", "output", "thinks"),
    [
        ("claude-3-5-haiku-20241022", 200_000, 8_192, False),
        ("claude-3-7-sonnet", 200_000, 64_000, True),
        ("claude-opus-4-1-20250805", 200_000, 32_000, True),
        ("us.anthropic.claude-sonnet-4-5-20250929-v1:0", 200_000, 64_000, True),
        ("claude-sonnet-4-5[1m]", 1_000_000, 64_000, True),
        ("claude-opus-4-6", 200_000, 128_000, True),
        ("claude-opus-4-7", 1_000_000, 128_000, True),
        ("claude-sonnet-5", 1_000_000, 128_000, True),
        ("claude-haiku-4-5", 200_000, 64_000, True),
        ("sonnet", 1_000_000, 128_000, True),
    ],
)
def test_how_much_a_model_reads_and_writes(
    model: str, context: int, output: int, thinks: bool
) -> None:
    assert sizes_of(model) == ModelSizes(context, output, thinks)


def test_of_another_makers_model_nothing_is_known() -> None:
    assert sizes_of("llama-4") is None


@pytest.mark.parametrize(
    ("model", "title"),
    [
        ("claude-opus-4-8", "Claude Opus 4.8"),
        ("claude-sonnet-4-20250514", "Claude Sonnet 4"),
        ("claude-3-5-haiku-20241022", "Claude Haiku 3.5"),
        ("claude-fable-5-2", "Claude Fable 5.2"),
        ("us.anthropic.claude-sonnet-4-5-20250929-v1:0", "Claude Sonnet 4.5"),
        ("claude-sonnet-4-5[1m]", "Claude Sonnet 4.5 (1M)"),
        ("sonnet", "Claude Sonnet"),
        ("opus[1m]", "Claude Opus (1M)"),
        ("llama-4", "llama-4"),
    ],
)
def test_what_people_call_a_model(model: str, title: str) -> None:
    assert title_of(model) == title


@pytest.mark.parametrize(
    ("model", "family"),
    [
        ("claude-opus-5-5", "opus"),
        ("claude-sonnet-5", "sonnet"),
        ("claude-haiku-4-5-20251001", "haiku"),
        ("claude-fable-5-20260901", "fable"),
        ("claude-3-5-sonnet-20241022", ""),
        ("claude-opus-5-5-", ""),
        ("claude-opus-5-5-latest", ""),
        ("claude-opus-5-5\n", ""),
        ("opus", ""),
        ("gpt-5-5", ""),
    ],
)
def test_ids_have_families(model: str, family: str) -> None:
    assert family_of(model) == family
