"""A turn's options in the CLI's own settings.

Knows: which option reaches the model by which setting, which of them the Messages API does not take
together, and which not for every model. Refuses to know: when settings are sent
(`actors.session.child`), and models by their names (`schemas.claude.model_traits`).

Source: measured (tests/contract/test_settings.py and test_parameters.py); the rules of the Messages
API are its documentation's ("Extended thinking", "Tool use", "Messages").
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

from ..json_bytes import LongText
from ..turn import SEARCH_TOOL, Effort, Options, SearchWish, Setup, ThinkingWish
from .mcp import api_tools
from .model_traits import traits_of
from .tool_names import ANSWER_TOOL, wire_name

SEARCH_VERSION = "web_search_20250305"

MAX_TEMPERATURE = 1.0
"""The Messages API ends where OpenAI's scale is half way."""


LEAST_THINKING = 1024
"""Tokens: the least that the Messages API lets a model think that is given a budget for it. The
budget has to be below ``max_tokens``."""


SILENT = {"type": "disabled"}
"""In the Messages API's words: the model shall not think."""


MOST_FOR_ALL = 32_000
"""Tokens that every model may write. The API refuses more than a model's own limit, to which only
the CLI lowers what it receives."""


ApiMessages = Callable[[], Iterable[Mapping[str, Any]]]
"""Messages in the words of the Messages API, once they are made: for thousands that takes long."""


def encode_settings(
    options: Options, setup: Setup, messages: ApiMessages | None = None, *, later: bool = False
) -> dict[str, Any]:
    """The settings for one turn, whole: what an earlier turn set is taken back by them. `messages`
    stand in place of those that the CLI would send; with `later` they are made while the settings
    are written, and such settings are equal to no others."""
    body = _body(options, setup)
    text: str | LongText = json.dumps(body) if body else ""
    if messages is not None:
        text = LongText(partial(_with_messages, body, messages))
        text = text if later else "".join(text.pieces())
    # The body's figure is the one that counts, and it counts in the middle of a turn too; from
    # the variable the CLI works out how much of it may be thinking, and lowers what is too much.
    limit = "" if options.max_tokens is None else str(options.max_tokens)
    return {
        "env": {
            "CLAUDE_CODE_EXTRA_BODY": text,
            "CLAUDE_CODE_MAX_OUTPUT_TOKENS": limit,
        },
        "effortLevel": _effort(options, setup, body),
    }


def _with_messages(body: Mapping[str, Any], messages: ApiMessages) -> Iterator[str]:
    """`body` and the messages as JSON. One message of it is in memory at a time."""
    before = json.dumps({**body, "messages": []})[:-2]
    for message in messages():
        yield before + json.dumps(message)
        before = ", "
    yield "]}"


def without_effect(options: Options, model: str = "", *, in_words: bool = False) -> tuple[str, ...]:
    """Names of the given options that give way to others, or that `model` does not take (empty: it
    takes them all). `in_words`: the prompt says in words which tool to call
    (`schemas.claude.tool_wishes`)."""
    names, silent = [], traits_of(model).can_skip_thinking
    sampled = traits_of(model).takes_sampling and not _thinks(options)
    if options.temperature is not None and not sampled:
        names.append("temperature")
    if options.top_p is not None and (not sampled or options.temperature is not None):
        names.append("top_p")
    if options.top_k is not None and not sampled:
        names.append("top_k")
    if options.effort == "none" and not silent:
        names.append("reasoning_effort")
    if options.thinking is not None and options.thinking.type == "disabled" and not silent:
        names.append("thinking")
    if options.tool_choice.mode in ("required", "named") and not (silent or in_words):
        names.append("tool_choice")
    return tuple(names)


def _effort(options: Options, setup: Setup, body: Mapping[str, Any]) -> Effort | None:
    if options.effort == "none":
        return None if traits_of(setup.model).can_skip_thinking else "low"
    # The API refuses more than that of a model that must not think.
    if body.get("thinking") == SILENT and options.effort in ("xhigh", "max"):
        return "high"
    return options.effort


def _thinks(options: Options) -> bool:
    """Whether the caller wants the model to think, as far as they say, and leaves room for it."""
    if options.thinking is not None:
        return options.thinking.type != "disabled"
    if options.max_tokens is not None and options.max_tokens <= LEAST_THINKING:
        return False
    return options.effort not in (None, "none") or (options.reasoning and options.effort is None)


def _body(options: Options, setup: Setup) -> dict[str, Any]:
    """What is laid over the body of each request."""
    body: dict[str, Any] = {}
    ignored = without_effect(options, setup.model)
    if options.temperature is not None and "temperature" not in ignored:
        body["temperature"] = min(options.temperature, MAX_TEMPERATURE)
    if options.top_p is not None and "top_p" not in ignored:
        body["top_p"] = options.top_p
    if options.top_k is not None and "top_k" not in ignored:
        body["top_k"] = options.top_k
    if options.max_tokens is not None and options.max_tokens <= MOST_FOR_ALL:
        body["max_tokens"] = options.max_tokens
    stops = [stop for stop in options.stop if stop.strip()]  # the API refuses blank ones
    if stops and setup.schema is None:
        body["stop_sequences"] = stops
    if options.user is not None:
        body["metadata"] = {"user_id": _opaque(options.user)}
    if options.service_tier is not None:
        body["service_tier"] = options.service_tier
    if _searches(options, setup):
        assert options.search is not None
        # These stand in place of the CLI's own, so all of them are here.
        body["tools"] = [*api_tools(setup), _search_tool(options.search)]
    choice = _tool_choice(options, setup)
    if choice is not None:
        body["tool_choice"] = choice
    if options.thinking is not None:
        # As the client has it: what does not suit the model, or what else is asked, is for the API
        # to refuse.
        if "thinking" not in ignored:
            body["thinking"] = _thinking(options.thinking)
    elif traits_of(setup.model).can_skip_thinking and _forbids_thinking(options, choice):
        body["thinking"] = SILENT
    return body


def _searches(options: Options, setup: Setup) -> bool:
    """Whether the API may search: agents have a tool for it, and a client may have one too."""
    if options.search is None or setup.profile != "chat":
        return False
    return SEARCH_TOOL not in {tool.name for tool in (*setup.tools, *setup.hosted)}


def _search_tool(wish: SearchWish) -> dict[str, Any]:
    """The API's own search, in the version that Claude Code's ``WebSearch`` uses."""
    tool: dict[str, Any] = {"type": SEARCH_VERSION, "name": SEARCH_TOOL}
    if wish.max_uses is not None:
        tool["max_uses"] = wish.max_uses
    if wish.allowed:
        tool["allowed_domains"] = [*wish.allowed]
    if wish.blocked:
        tool["blocked_domains"] = [*wish.blocked]
    if wish.location:
        tool["user_location"] = {"type": "approximate", **dict(wish.location)}
    return tool


def _thinking(wish: ThinkingWish) -> dict[str, Any]:
    """In the API's words; what lies over the body replaces all that the CLI says of thinking."""
    given = {"budget_tokens": wish.budget_tokens, "display": wish.display}
    return {"type": wish.type} | {key: each for key, each in given.items() if each is not None}


def _opaque(user: str) -> str:
    """The API refuses what looks like an address or a telephone number, and has no use for it."""
    if re.fullmatch(r"[A-Za-z_-][A-Za-z0-9_-]{0,255}", user):
        return user
    return hashlib.sha256(user.encode("utf-8", "surrogatepass")).hexdigest()


def _tool_choice(options: Options, setup: Setup) -> dict[str, Any] | None:
    asked = options.tool_choice
    tools = bool(setup.tools or setup.hosted or _searches(options, setup))
    parallel = {} if options.parallel_tool_calls else {"disable_parallel_tool_use": True}
    if not traits_of(setup.model).can_skip_thinking:
        # Such a model refuses to be made to call anything, so that it can only be asked to.
        if tools and asked.mode == "none" and setup.schema is None:
            return {"type": "none"}
        return {"type": "auto", **parallel} if tools and parallel else None
    if tools and asked.mode == "named":
        return {"type": "tool", "name": wire_name(asked.name or ""), **parallel}
    thinks = options.thinking is not None and _thinks(options)
    if setup.schema is not None and thinks and asked.mode != "required":
        # The answer is a tool call, which the model cannot be made to give while it thinks.
        return {"type": "auto", **parallel} if tools and parallel else None
    if setup.schema is not None:
        # The answer is a tool call too, and there has to be one.
        if tools and asked.mode != "none":
            return {"type": "any", **parallel}
        return {"type": "tool", "name": ANSWER_TOOL}
    match asked.mode:
        case "none" if tools:
            return {"type": "none"}
        case "required" if tools:
            return {"type": "any", **parallel}
        case "auto" if tools and parallel:
            return {"type": "auto", **parallel}
    return None


def _forbids_thinking(options: Options, choice: Mapping[str, Any] | None) -> bool:
    """Whether the Messages API would refuse thinking beside what else is asked."""
    if (
        options.begun
        or options.effort == "none"
        or (choice is not None and choice["type"] in ("any", "tool"))
    ):
        return True
    # A short answer has no room for a budget of thinking, and sampling cannot be shaped with it.
    shaped = (options.temperature, options.top_p, options.top_k, options.max_tokens)
    return not _thinks(options) and any(value is not None for value in shaped)


PLAIN = encode_settings(Options(), Setup(""))
"""The settings of a child that received none."""
