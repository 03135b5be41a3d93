"""The words of the Messages API stub: what a test can have it answer, and how that is encoded.

Knows the Messages API's event stream and its plain JSON form. Refuses to know sockets and HTTP, the
CLI that asks, and anything about models: every answer is a value the test chose.

Source of the wire format: https://docs.anthropic.com/en/api/messages and messages-streaming.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any, TypeAlias

import orjson
import trio
from attrs import evolve, field, frozen

JSON: TypeAlias = dict[str, Any]

_ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    529: "overloaded_error",
}
_ids = itertools.count(1)


@frozen
class Text:
    """A text block, sent as `chunks` deltas of (nearly) equal length. `cites` are the pages that it
    is taken from, as (title, URL)."""

    text: str
    chunks: int = 1
    cites: tuple[tuple[str, str], ...] = ()

    def citations(self) -> list[JSON]:
        """Return what stands in the block's `citations`."""
        return [
            {
                "type": "web_search_result_location", "cited_text": f"{self.text}?", "url": url,
                "title": title, "encrypted_index": "aW5kZXg=",
            }
            for title, url in self.cites
        ]  # fmt: skip


@frozen
class Thinking:
    """A thinking block with its signature, sent as `chunks` deltas."""

    text: str
    chunks: int = 1
    signature: str = "c2lnbmF0dXJl"


@frozen
class RedactedThinking:
    """A block of thinking that only the API can read."""

    data: str = "cmVkYWN0ZWQ="


@frozen
class ToolUse:
    """A tool_use block. The input travels as two fragments of JSON, as the real API's does."""

    name: str
    input: Mapping[str, Any] = field(factory=dict, hash=False)
    id: str = field(factory=lambda: f"toolu_{next(_ids):04d}")


@frozen
class ServerToolUse:
    """The API itself uses a tool: a search of the web."""

    input: Mapping[str, Any] = field(factory=dict, hash=False)
    name: str = "web_search"
    id: str = field(factory=lambda: f"srvtoolu_{next(_ids):04d}")


@frozen
class SearchResult:
    """What the API found on the web for the use `tool_use_id`: pages, as (title, URL). Or the code
    of the `error` for which it found nothing."""

    tool_use_id: str
    found: tuple[tuple[str, str], ...] = ()
    error: str | None = None

    def content(self) -> Any:
        """Return what stands in the block's `content`."""
        if self.error is not None:
            return {"type": "web_search_tool_result_error", "error_code": self.error}
        return [
            {
                "type": "web_search_result", "title": title, "url": url,
                "encrypted_content": "ZW5j", "page_age": None,
            }
            for title, url in self.found
        ]  # fmt: skip


Block: TypeAlias = Text | Thinking | RedactedThinking | ToolUse | ServerToolUse | SearchResult


@frozen
class Usage:
    """Token figures of one answer, in the Messages API's own names."""

    input_tokens: int = 10
    output_tokens: int = 5
    cache_read_input_tokens: int = 0
    cache_creation_input_tokens: int = 0
    web_search_requests: int = 0

    def document(self) -> JSON:
        """Return the figures as they stand in a finished message."""
        searched = {"web_search_requests": self.web_search_requests}
        return {
            **({"server_tool_use": searched} if self.web_search_requests else {}),
            "input_tokens": self.input_tokens,
            "output_tokens": self.output_tokens,
            "cache_read_input_tokens": self.cache_read_input_tokens,
            "cache_creation_input_tokens": self.cache_creation_input_tokens,
            "cache_creation": {
                "ephemeral_5m_input_tokens": self.cache_creation_input_tokens,
                "ephemeral_1h_input_tokens": 0,
            },
        }


@frozen
class Reply:
    """A message of the model.

    `pause` is in seconds, before every delta but the first. `holds` maps a delta's number (from 0,
    counted over all blocks) to an event that must be set before that delta is sent; a number one
    past the last delta holds back the end of the message. `cut_after` closes the connection after
    that many deltas, `hang_after` falls silent after that many until the client leaves. `headers`
    are further ones of the response.
    """

    blocks: tuple[Block, ...]
    stop_reason: str | None = None
    stop_sequence: str | None = None
    usage: Usage = Usage()
    pause: float = 0.0
    holds: Mapping[int, trio.Event] = field(factory=dict, hash=False)
    cut_after: int | None = None
    hang_after: int | None = None
    headers: tuple[tuple[str, str], ...] = ()

    @property
    def final_stop_reason(self) -> str:
        """The given stop reason, or the one the blocks imply."""
        if self.stop_reason is not None:
            return self.stop_reason
        return "tool_use" if any(isinstance(b, ToolUse) for b in self.blocks) else "end_turn"

    @property
    def immediate(self) -> bool:
        """Whether the whole answer can be written at once."""
        return not (self.pause or self.holds) and self.cut_after is None and self.hang_after is None

    @cached_property
    def steps(self) -> tuple[bytes, ...]:
        """The events after message_start, cut so that every step but the last ends in a delta.

        Encoded once per `Reply`: a benchmark that returns the same value every time pays once.
        """
        steps: list[bytes] = []
        lead = b""
        for index, block in enumerate(self.blocks):
            lead += _event(
                "content_block_start", index=index, content_block=_opening_document(block)
            )
            for delta in _deltas(block):
                steps.append(lead + _event("content_block_delta", index=index, delta=delta))
                lead = b""
            lead += _event("content_block_stop", index=index)
        ending = {"stop_reason": self.final_stop_reason, "stop_sequence": self.stop_sequence}
        usage = {k: v for k, v in self.usage.document().items() if k != "cache_creation"}
        lead += _event("message_delta", delta=ending, usage=usage)
        steps.append(lead + _event("message_stop"))
        return tuple(steps)

    def message(self, model: str) -> JSON:
        """Return the whole message, as the API gives it when not streaming."""
        return {
            "id": f"msg_{next(_ids):06d}",
            "type": "message",
            "role": "assistant",
            "model": model,
            "content": [_block_document(block) for block in self.blocks],
            "stop_reason": self.final_stop_reason,
            "stop_sequence": self.stop_sequence,
            "usage": self.usage.document(),
        }

    def opening(self, model: str) -> bytes:
        """Return the message_start event: one output token, nothing said yet."""
        start = self.message(model) | {
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": evolve(self.usage, output_tokens=1).document(),
        }
        return _event("message_start", message=start)


@frozen
class Failure:
    """An error status with the API's error envelope; `retry_after` is in seconds, `headers` are
    further ones."""

    status: int
    message: str = "scripted failure"
    retry_after: int | None = None
    headers: tuple[tuple[str, str], ...] = ()

    def body(self) -> bytes:
        """Return the error envelope."""
        kind = _ERROR_TYPES.get(self.status, "api_error")
        error = {"type": kind, "message": self.message}
        return orjson.dumps({"type": "error", "error": error, "request_id": "req_stub"})


@frozen
class Hang:
    """Nothing at all, not even a response head, until the client leaves."""


Answer: TypeAlias = Reply | Failure | Hang


def say(text: str, *, chunks: int = 1, **options: Any) -> Reply:
    """Return a reply of one text block; `options` are those of `Reply`."""
    return Reply((Text(text, chunks),), **options)


def call(*tools: ToolUse, text: str = "", **options: Any) -> Reply:
    """Return a reply that calls tools, in parallel where several are given."""
    spoken = (Text(text),) if text else ()
    return Reply((*spoken, *tools), **options)


def _event(kind: str, **fields: Any) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), orjson.dumps({"type": kind, **fields}))


def _block_document(block: Block) -> JSON:
    match block:
        case Text(text):
            cited = {"citations": block.citations()} if block.cites else {}
            return {"type": "text", "text": text, **cited}
        case Thinking(text, _, signature):
            return {"type": "thinking", "thinking": text, "signature": signature}
        case RedactedThinking(data):
            return {"type": "redacted_thinking", "data": data}
        case ToolUse(name, given, id):
            return {"type": "tool_use", "id": id, "name": name, "input": dict(given)}
        case ServerToolUse(given, name, id):
            return {"type": "server_tool_use", "id": id, "name": name, "input": dict(given)}
        case SearchResult(id):
            kind = "web_search_tool_result"
            return {"type": kind, "tool_use_id": id, "content": block.content()}


def _opening_document(block: Block) -> JSON:
    match block:
        case Text():
            return {"type": "text", "text": "", **({"citations": []} if block.cites else {})}
        case Thinking():
            return {"type": "thinking", "thinking": "", "signature": ""}
        case RedactedThinking() | SearchResult():
            return _block_document(block)
        case ToolUse(name, _, id):
            return {"type": "tool_use", "id": id, "name": name, "input": {}}
        case ServerToolUse(_, name, id):
            return {"type": "server_tool_use", "id": id, "name": name, "input": {}}


def _deltas(block: Block) -> Iterable[JSON]:
    match block:
        case Text(text, chunks):
            for part in _cut(text, chunks):
                yield {"type": "text_delta", "text": part}
            for citation in block.citations():
                yield {"type": "citations_delta", "citation": citation}
        case Thinking(text, chunks, signature):
            for part in _cut(text, chunks):
                yield {"type": "thinking_delta", "thinking": part}
            yield {"type": "signature_delta", "signature": signature}
        case RedactedThinking() | SearchResult():
            return
        case ToolUse(_, given) | ServerToolUse(given):
            for part in _cut(orjson.dumps(dict(given)).decode(), 2):
                yield {"type": "input_json_delta", "partial_json": part}


def _cut(text: str, chunks: int) -> list[str]:
    """Cut text into `chunks` parts, no more than it has characters."""
    count = max(1, min(chunks, len(text)))
    size, longer = divmod(len(text), count)
    ends = itertools.accumulate([size + 1] * longer + [size] * (count - longer), initial=0)
    return [text[start:end] for start, end in itertools.pairwise(ends)]
