"""OpenAI chat completions, the answer: the whole completion, and the chunks of a stream.

Knows: the JSON of ``chat.completion`` and ``chat.completion.chunk`` (OpenAI API reference, "Chat"),
with `conversation_id` and `reasoning_content` beside the fields OpenAI has. Refuses to know: where
the answer comes from.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from attrs import field, frozen

from ..convert import write_json
from ..message import ToolCall
from ..search import Cited
from ..turn import FinishReason, Reply, Usage
from ..turn_items import (
    ActivityDelta,
    ActivityEnded,
    ActivityStarted,
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
)
from . import sse

CHUNK = "chat.completion.chunk"


@frozen
class Heading:
    """What stays the same throughout one answer. `created` is in Unix seconds. `conversation_id`
    None: the answer belongs to no one conversation, and the field is left out."""

    id: str
    created: int
    model: str
    conversation_id: str | None = None

    def encode(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        """An object of the answer, without the conversation."""
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "choices": choices,
        }

    @property
    def place(self) -> dict[str, str]:
        """The conversation, as the first and last objects have it."""
        return {} if self.conversation_id is None else {"conversation_id": self.conversation_id}


def encode_usage(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
        "prompt_tokens_details": {
            "cached_tokens": usage.cached_tokens,
            "cache_write_tokens": usage.cache_write_tokens,
        },
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }


# -- whole ---------------------------------------------------------------------------------------


def encode_completion(heading: Heading, replies: Sequence[Reply], usage: Usage) -> dict[str, Any]:
    """One choice for each reply; `usage` is that of all of them."""
    choices = [
        {
            "index": index,
            "message": _message(reply),
            "logprobs": None,
            "finish_reason": reply.finish_reason,
        }
        for index, reply in enumerate(replies)
    ]
    return {
        **heading.encode("chat.completion", choices),
        "usage": encode_usage(usage),
        **heading.place,
    }


def _message(reply: Reply) -> dict[str, Any]:
    says_otherwise = bool(reply.tool_calls) or reply.refusal is not None
    message: dict[str, Any] = {
        "role": "assistant",
        "content": None if says_otherwise and not reply.text else reply.text,
        "refusal": reply.refusal,
    }
    if reply.cited:
        message["annotations"] = [note for each in reply.cited for note in encode_annotations(each)]
    if reply.reasoning:
        message["reasoning_content"] = reply.reasoning
    if reply.tool_calls:
        message["tool_calls"] = [_call(call) for call in reply.tool_calls]
    return message


def encode_annotations(cited: Cited) -> list[dict[str, Any]]:
    """The pages that a stretch of the answer's text is taken from."""
    place = {"start_index": cited.start, "end_index": cited.end}
    return [
        {"type": "url_citation", "url_citation": {**place, "title": each.title, "url": each.url}}
        for each in cited.sources
    ]


def _call(call: ToolCall) -> dict[str, Any]:
    function = {"name": call.name, "arguments": call.arguments or "{}"}
    return {"id": call.id, "type": "function", "function": function}


# -- streamed ------------------------------------------------------------------------------------


def encode_chunk(
    heading: Heading,
    delta: dict[str, Any],
    finish_reason: FinishReason | None = None,
    index: int = 0,
) -> dict[str, Any]:
    choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
    return heading.encode(CHUNK, [choice])


def encode_delta(item: TurnItem) -> dict[str, Any] | None:
    """What `item` adds to the answer; None for what an agent does with tools of its own, and what
    the gateway does with an MCP server's, which have no place in a chat completion."""
    match item:
        case TextDelta(text):
            return {"content": text}
        case ReasoningDelta(text):
            return {"reasoning_content": text}
        case ToolCallStarted(index, id, name):
            function = {"name": name, "arguments": ""}
            call = {"index": index, "id": id, "type": "function", "function": function}
            return {"tool_calls": [call]}
        case ToolCallDelta(index, fragment):
            return {"tool_calls": [{"index": index, "function": {"arguments": fragment}}]}
        case Refused(text):
            return {"refusal": text}
        case ActivityStarted() | ActivityDelta() | ActivityEnded() | ToolsListed():
            return None
        case Cited():
            return {"annotations": encode_annotations(item)}
        case SearchStarted() | SearchEnded():
            return None
        case TextEnded() | ReasoningEnded():
            return None  # a choice has one text, and no signatures


@frozen
class ChunkWriter:
    """The events of one streamed choice, in bytes: `first`, any number of `item`, then `last`.
    What ends the stream, once its choices have ended, is `encode_end`.

    Only the text differs between two deltas, so what stands around it is encoded once.
    """

    heading: Heading
    index: int = 0
    _around: tuple[bytes, bytes] = field(init=False)

    @_around.default
    def _encode_around(self) -> tuple[bytes, bytes]:
        # Nothing behind the text is empty, so the last empty string is the text's place,
        # whatever the model is called.
        before, _, behind = self._event({"content": ""}).rpartition(b'""')
        return before, behind

    def first(self) -> bytes:
        """Who speaks, and in which conversation."""
        return self._event({"role": "assistant", "content": ""}, with_place=True)

    def item(self, item: TurnItem) -> bytes:
        if type(item) is TextDelta:
            before, behind = self._around
            return before + write_json(item.text) + behind
        delta = encode_delta(item)
        return b"" if delta is None else self._event(delta)

    def last(self, finish_reason: FinishReason) -> bytes:
        """How the choice ended."""
        return self._event({}, finish_reason, with_place=True)

    def _event(
        self,
        delta: dict[str, Any],
        finish_reason: FinishReason | None = None,
        *,
        with_place: bool = False,
    ) -> bytes:
        chunk = encode_chunk(self.heading, delta, finish_reason, self.index)
        if with_place:
            chunk |= self.heading.place
        return sse.event(write_json(chunk))


def encode_end(heading: Heading, usage: Usage | None, kind: str = CHUNK) -> bytes:
    """The end of a stream of objects of that kind: what it cost, where `usage` is given, and the
    end mark."""
    if usage is None:
        return sse.DONE
    bill = heading.encode(kind, []) | {"usage": encode_usage(usage)} | heading.place
    return sse.event(write_json(bill)) + sse.DONE
