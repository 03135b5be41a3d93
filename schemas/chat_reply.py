"""OpenAI chat completions, the answer: the whole completion, and the chunks of a stream.

Knows: the JSON of ``chat.completion`` and ``chat.completion.chunk`` (OpenAI API reference, "Chat"),
with `conversation_id` beside the fields OpenAI has. Refuses to know: where the text comes from.
"""

from __future__ import annotations

from typing import Any

from attrs import field, frozen

from . import sse
from .convert import write_json
from .turn import Usage


@frozen
class Heading:
    """What stays the same throughout one answer. `created` is in Unix seconds."""

    id: str
    created: int
    model: str
    conversation_id: str


def encode_usage(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
        "prompt_tokens_details": {
            "cached_tokens": usage.cached_tokens,
            "cache_write_tokens": usage.cache_write_tokens,
        },
        "completion_tokens_details": {"reasoning_tokens": 0},
    }


def encode_completion(
    heading: Heading, text: str, finish_reason: str, usage: Usage
) -> dict[str, Any]:
    return {
        "id": heading.id,
        "object": "chat.completion",
        "created": heading.created,
        "model": heading.model,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": text, "refusal": None},
                "logprobs": None,
                "finish_reason": finish_reason,
            }
        ],
        "usage": encode_usage(usage),
        "conversation_id": heading.conversation_id,
    }


def encode_chunk(
    heading: Heading, delta: dict[str, str], finish_reason: str | None = None
) -> dict[str, Any]:
    return {
        "id": heading.id,
        "object": "chat.completion.chunk",
        "created": heading.created,
        "model": heading.model,
        "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}],
    }


@frozen
class ChunkWriter:
    """The events of one streamed answer, in bytes: `first`, any number of `text`, then `last`.

    Only the text differs between two deltas, so what stands around it is encoded once.
    """

    heading: Heading
    _around: tuple[bytes, bytes] = field(init=False)

    @_around.default
    def _encode_around(self) -> tuple[bytes, bytes]:
        # Nothing behind the text is empty, so the last empty string is the text's place,
        # whatever the model is called.
        whole = sse.event(write_json(encode_chunk(self.heading, {"content": ""})))
        before, _, behind = whole.rpartition(b'""')
        return before, behind

    def first(self) -> bytes:
        """Who speaks, and in which conversation."""
        return self._with_conversation(
            encode_chunk(self.heading, {"role": "assistant", "content": ""})
        )

    def text(self, text: str) -> bytes:
        before, behind = self._around
        return before + write_json(text) + behind

    def last(self, finish_reason: str, usage: Usage | None) -> bytes:
        """How the answer ended, its cost where `usage` is given, and the end mark."""
        events = [self._with_conversation(encode_chunk(self.heading, {}, finish_reason))]
        if usage is not None:
            bill = encode_chunk(self.heading, {}) | {"choices": [], "usage": encode_usage(usage)}
            events.append(self._with_conversation(bill))
        return b"".join([*events, sse.DONE])

    def _with_conversation(self, chunk: dict[str, Any]) -> bytes:
        chunk["conversation_id"] = self.heading.conversation_id
        return sse.event(write_json(chunk))
