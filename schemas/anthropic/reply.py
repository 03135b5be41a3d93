"""The Anthropic Messages API, the answer: the whole message, and the events of a stream.

Knows: the JSON of a message, of its blocks and of the events of a stream (Anthropic API reference,
"Messages", "Streaming Messages"). Refuses to know: where the answer comes from.

Blocks end where the turn says so (`turn_items.TextEnded`, `ReasoningEnded`), and at the latest
where something of another kind begins.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from attrs import define, field, frozen

from ..claude.searches import encode_result, encode_sources, encode_use
from ..convert import write_json
from ..errors import GatewayError
from ..message import RedactedThinking, Thinking, ToolCall
from ..search import Cited
from ..turn import FinishReason, Usage
from ..turn_items import (
    ReasoningDelta,
    ReasoningEnded,
    Refused,
    SearchEnded,
    SearchStarted,
    TextDelta,
    TextEnded,
    ToolCallDelta,
    ToolCallStarted,
    TurnItem,
)
from .errors import encode_error

STOP_REASONS: Mapping[FinishReason, str] = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "content_filter": "refusal",
}


_CLOSER = {("length", "pause_turn"), ("length", "model_context_window_exceeded")}
"""Finish reasons that the API knows more of: with the word for it."""


@frozen
class Heading:
    """What stays the same throughout one message."""

    id: str
    model: str

    def encode(
        self, content: list[Any], ending: Ending, usage: Mapping[str, Any]
    ) -> dict[str, Any]:
        return {
            "id": self.id,
            "type": "message",
            "role": "assistant",
            "model": self.model,
            "content": content,
            **ending.encode(),
            "usage": usage,
        }


@frozen
class Ending:
    """Why a message ended; `reason` None: it has not. `text` is the stop sequence at which it did,
    `word` the API's own for why the model stopped, `refusal` what it was stopped with."""

    reason: FinishReason | None = None
    text: str | None = None
    word: str | None = None
    refusal: str | None = None

    def encode(self) -> dict[str, Any]:
        at_text = self.reason == "stop" and self.text is not None
        reason = self.reason and STOP_REASONS[self.reason]
        if at_text:
            reason = "stop_sequence"
        elif (self.reason, self.word) in _CLOSER:
            reason = self.word
        details = None
        if self.reason == "content_filter":
            details = {"type": "refusal", "category": None, "explanation": self.refusal}
        return {
            "stop_reason": reason,
            "stop_sequence": self.text if at_text else None,
            "stop_details": details,
        }


def encode_usage(usage: Usage, searches: int = 0) -> dict[str, Any]:
    """The usage of a message. Here what was read from the cache, or written to it, is no part of
    the input tokens. How long it will be kept the CLI does not say: all counts as five minutes."""
    return {
        **encode_delta_usage(usage, searches),
        "cache_creation": {
            "ephemeral_5m_input_tokens": usage.cache_write_tokens,
            "ephemeral_1h_input_tokens": 0,
        },
        "service_tier": "standard",
        "inference_geo": None,
    }


def encode_delta_usage(usage: Usage, searches: int = 0) -> dict[str, Any]:
    """The usage at the end of a stream: that of the whole message, with its searches of the web."""
    requests = {"web_search_requests": searches, "web_fetch_requests": 0}
    cached = usage.cached_tokens + usage.cache_write_tokens
    return {
        "input_tokens": max(0, usage.prompt_tokens - cached),
        "cache_creation_input_tokens": usage.cache_write_tokens,
        "cache_read_input_tokens": usage.cached_tokens,
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"thinking_tokens": usage.reasoning_tokens},
        "server_tool_use": requests if searches else None,
    }


# -- whole ---------------------------------------------------------------------------------------


@define
class Content:
    """The blocks of a message, put together as its items come."""

    blocks: list[dict[str, Any]] = field(factory=list)
    refusal: str | None = None
    searches: int = 0
    _pieces: list[str] = field(factory=list)
    _cited: list[dict[str, Any]] = field(factory=list)
    _kind: str | None = None
    _arguments: dict[int, tuple[ToolCallStarted, list[str]]] = field(factory=dict)
    _places: dict[int, int] = field(factory=dict)

    def add(self, items: Iterable[TurnItem]) -> None:
        for item in items:
            match item:
                case TextDelta(text):
                    self._extend("text", text)
                case ReasoningDelta(text):
                    self._extend("thinking", text)
                case TextEnded():
                    self._close()
                case ReasoningEnded(RedactedThinking(data)):
                    self._close()
                    self.blocks.append({"type": "redacted_thinking", "data": data})
                case ReasoningEnded(Thinking(text, signature)):
                    if self._kind != "thinking":
                        self._extend("thinking", text)
                    self._close(signature)
                case ToolCallStarted(index):
                    self._close()
                    self._arguments[index] = item, []
                    self._places[index] = len(self.blocks)
                    self.blocks.append({})
                case ToolCallDelta(index, fragment):
                    self._arguments[index][1].append(fragment)
                case Refused(text):
                    self.refusal = text
                case SearchStarted():
                    self._close()
                    self.searches += 1
                    self.blocks.append(encode_use(item))
                case SearchEnded():
                    self._close()
                    self.blocks.append(encode_result(item))
                case Cited(sources=sources):
                    self._cited += encode_sources(sources)
                case _:
                    pass  # what an agent does with tools of its own has no place in a message

    def whole(self) -> list[dict[str, Any]]:
        """All blocks, once the last item was added."""
        self._close()
        for index, (started, fragments) in self._arguments.items():
            call = ToolCall(started.id, started.name, "".join(fragments))
            self.blocks[self._places[index]] = _call(call.id, call.name, _input(call))
        return self.blocks

    def _extend(self, kind: str, text: str) -> None:
        if self._kind != kind:
            self._close()
            self._kind = kind
        self._pieces.append(text)

    def _close(self, signature: str = "") -> None:
        if self._kind is None:
            return
        text = "".join(self._pieces)
        if self._kind == "thinking":
            self.blocks.append({"type": "thinking", "thinking": text, "signature": signature})
        elif text:  # an empty block says nothing, and the API would not take it back
            self.blocks.append(_text(text, self._cited or None))
        self._kind, self._cited = None, []
        self._pieces.clear()


def encode_message(
    heading: Heading, content: Content, ending: Ending, usage: Usage
) -> dict[str, Any]:
    return heading.encode(content.whole(), ending, encode_usage(usage, content.searches))


def _text(text: str, citations: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    """Without citations the block has no field for them, as at the API: clients that check what
    they receive take a list or nothing, and no null."""
    block = {"type": "text", "text": text}
    return block if citations is None else {**block, "citations": citations}


def _call(id: str, name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "tool_use", "id": id, "name": name, "input": given}


def _input(call: ToolCall) -> Mapping[str, Any]:
    """Half a call, behind which an answer was cut for its length, has none that could be read."""
    return call.input if call.has_input else {}


# -- streamed ------------------------------------------------------------------------------------


def event(kind: str, value: Mapping[str, Any]) -> bytes:
    """One event of the stream, its type named twice, as the API does."""
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), write_json({"type": kind, **value}))


PING = event("ping", {})


def encode_error_event(error: GatewayError, request_id: str | None) -> bytes:
    body = encode_error(error, request_id)
    body.pop("type")
    return event("error", body)


@define
class EventWriter:
    """The events of one streamed message, in bytes: `first`, any number of `item`, then `last`.

    Only the text differs between two deltas of a block, so what stands around it is encoded once
    for each block.
    """

    heading: Heading
    refusal: str | None = None
    searches: int = 0
    _index: int = -1
    _kind: str | None = None
    _call: int = -1
    _before: bytes = b""

    def first(self) -> bytes:
        """Who speaks. What it costs is known at the end."""
        usage = {**encode_usage(Usage()), "cache_creation": None}
        message = self.heading.encode([], Ending(), usage)
        return event("message_start", {"message": message}) + PING

    def item(self, item: TurnItem) -> bytes:
        if type(item) is TextDelta:
            if self._kind == "text":
                return self._before + write_json(item.text) + _BEHIND
            if not item.text:
                return b""
            return self._begin("text", _text("")) + self._delta(item.text)
        match item:
            case ReasoningDelta(text):
                return self._think() + self._delta(text)
            case ToolCallStarted(index, id, name):
                self._call = index
                return self._begin("tool_use", _call(id, name, {}))
            case ToolCallDelta(index, fragment):
                assert (self._kind, self._call) == ("tool_use", index), "one call after the other"
                return self._delta(fragment)
            case TextEnded():
                return self._end() if self._kind == "text" else b""
            case ReasoningEnded(RedactedThinking(data)):
                block = {"type": "redacted_thinking", "data": data}
                return self._begin("redacted_thinking", block) + self._end()
            case ReasoningEnded(Thinking(text, signature)):
                begun = b""
                if self._kind != "thinking":
                    begun = self._think() + (self._delta(text) if text else b"")
                return begun + self._sign(signature) + self._end()
            case Refused(text):
                self.refusal = text
            case SearchStarted():
                self.searches += 1
                block = encode_use(item)
                begun = self._begin("server_tool_use", {**block, "input": {}})
                return begun + self._delta(write_json(block["input"]).decode()) + self._end()
            case SearchEnded():
                return self._begin("web_search_tool_result", encode_result(item)) + self._end()
            case Cited(sources=sources):
                return b"".join(map(self._cite, encode_sources(sources)))
        return b""

    def _cite(self, citation: Mapping[str, Any]) -> bytes:
        if self._kind != "text":
            return b""
        delta = {"type": "citations_delta", "citation": citation}
        return event("content_block_delta", {"index": self._index, "delta": delta})

    def last(self, ending: Ending, usage: Usage) -> bytes:
        """How the message ended."""
        counted = encode_delta_usage(usage, self.searches)
        value = {"delta": ending.encode(), "usage": counted}
        return self._end() + event("message_delta", value) + _STOP

    def _think(self) -> bytes:
        if self._kind == "thinking":
            return b""
        return self._begin("thinking", {"type": "thinking", "thinking": "", "signature": ""})

    def _sign(self, signature: str) -> bytes:
        if not signature:
            return b""
        delta = {"type": "signature_delta", "signature": signature}
        return event("content_block_delta", {"index": self._index, "delta": delta})

    def _begin(self, kind: str, block: Mapping[str, Any]) -> bytes:
        ended = self._end()
        self._index += 1
        self._kind = kind
        if kind in _DELTAS:
            self._before = _DELTAS[kind] % self._index
        return ended + event("content_block_start", {"index": self._index, "content_block": block})

    def _delta(self, text: str) -> bytes:
        return self._before + write_json(text) + _BEHIND

    def _end(self) -> bytes:
        if self._kind is None:
            return b""
        self._kind = None
        return event("content_block_stop", {"index": self._index})


def _around(kind: str, name: str) -> bytes:
    return (
        b"event: content_block_delta\n"
        b'data: {"type":"content_block_delta","index":%%d,"delta":{"type":"%b","%b":'
        % (kind.encode(), name.encode())
    )


_DELTAS = {
    "text": _around("text_delta", "text"),
    "thinking": _around("thinking_delta", "thinking"),
    "tool_use": _around("input_json_delta", "partial_json"),
    "server_tool_use": _around("input_json_delta", "partial_json"),
}
"""What stands before the text of a delta of each kind of block, but for the block's number."""

_BEHIND = b"}}\n\n"
_STOP = event("message_stop", {})
