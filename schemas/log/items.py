"""Items of an answer as JSON values, and what an answer's messages say of its items.

Knows: `schemas.turn_items`. The number of items and their borders stay as they are, because the
events of a response are numbered by them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from attrs import astuple

from ..message import RedactedThinking, Thinking, ToolCall, ToolForm
from ..search import Cited, Source, WebPage
from ..turn_items import (
    ActivityDelta,
    ActivityEnded,
    ActivityStarted,
    ListedTool,
    ReasoningDelta,
    ReasoningEnded,
    Refused,
    SearchEnded,
    SearchStarted,
    TextDelta,
    TextEnded,
    ToolCallDelta,
    ToolCallStarted,
    ToolsListed,
    TurnItem,
    compact,
)
from .messages import ExactMessage


def encode_item(item: TurnItem) -> list[Any]:
    match item:
        case TextDelta(text):
            return ["text", text]
        case TextEnded():
            return ["text_end"]
        case ReasoningDelta(text):
            return ["reasoning", text]
        case ReasoningEnded(block):
            if isinstance(block, RedactedThinking):
                return ["redacted", block.data]
            return ["reasoning_end", block.text, block.signature]
        case ToolCallStarted(index, id, name, form):
            return ["call", index, id, name, encode_form(form)]
        case ToolCallDelta(index, fragment):
            return ["arguments", index, fragment]
        case Refused(text):
            return ["refused", text]
        case ActivityStarted(id, name, None, None):
            return ["activity", id, name]
        case ActivityStarted(id, name, form, approval):
            return ["hosted", id, name, encode_form(form), approval]
        case ActivityDelta(id, fragment):
            return ["activity_input", id, fragment]
        case ActivityEnded(id, output, is_error):
            return ["activity_end", id, output, is_error]
        case ToolsListed(server, tools, error):
            return ["tools", server, [list(astuple(tool)) for tool in tools], error]
        case SearchStarted(id, given):
            return ["search", id, given]
        case SearchEnded(id, pages, error):
            return ["search_end", id, [list(astuple(page)) for page in pages], error]
        case Cited(start, end, sources, behind):
            return ["cited", start, end, [list(astuple(each)) for each in sources], behind]


def decode_item(value: list[Any]) -> TurnItem:
    match value:
        case ["text", text]:
            return TextDelta(text)
        case ["text_end"]:
            return TextEnded()
        case ["reasoning", text]:
            return ReasoningDelta(text)
        case ["reasoning_end", text, signature]:
            return ReasoningEnded(Thinking(text, signature))
        case ["redacted", data]:
            return ReasoningEnded(RedactedThinking(data))
        case ["call", index, id, name, form]:
            return ToolCallStarted(index, id, name, decode_form(form))
        case ["arguments", index, fragment]:
            return ToolCallDelta(index, fragment)
        case ["refused", text]:
            return Refused(text)
        case ["activity", id, name]:
            return ActivityStarted(id, name)
        case ["hosted", id, name, form, approval]:
            return ActivityStarted(id, name, decode_form(form), approval)
        case ["tools", server, tools, error]:
            return ToolsListed(server, tuple(ListedTool(*tool) for tool in tools), error)
        case ["search", id, given]:
            return SearchStarted(id, given)
        case ["search_end", id, pages, error]:
            return SearchEnded(id, tuple(WebPage(*page) for page in pages), error)
        case ["cited", start, end, sources, behind]:
            return Cited(start, end, tuple(Source(*each) for each in sources), behind)
        case ["activity_input", id, fragment]:
            return ActivityDelta(id, fragment)
        case ["activity_end", id, output, is_error]:
            return ActivityEnded(id, output, is_error)
        case _:
            raise ValueError(f"no item of an answer: {value[:1]!r}")


def encode_form(form: ToolForm | None) -> list[Any] | None:
    if form is None:
        return None
    server = [] if form.server is None else [form.server]
    return [form.name, form.namespace, form.custom, *server]


def decode_form(value: list[Any] | None) -> ToolForm | None:
    return None if value is None else ToolForm(*value)


def items_of(messages: Iterable[ExactMessage], *, reasoning: bool = True) -> tuple[TurnItem, ...]:
    """The items of an answer that consists of these messages, in as few as can be. Without
    `reasoning` there is no thinking among them."""
    items: list[TurnItem] = []
    calls = 0
    for block in (block for message in messages for block in message.content):
        match block:
            case str() if block:
                items.append(TextDelta(block))
            case Thinking(text) if text and reasoning:
                items.append(ReasoningDelta(text))
            case ToolCall(id, name, arguments):
                items.append(ToolCallStarted(calls, id, name, block.form))
                if arguments:
                    items.append(ToolCallDelta(calls, arguments))
                calls += 1
    return compact(items)
