"""OpenAI responses, the answer: the response object, and the events of a stream.

Knows: the JSON of a response and of its streaming events (OpenAI API reference, "Responses"), with
`conversation_id` beside the fields OpenAI has; how events are numbered and framed. Refuses to know:
what an answer's output items are (`schemas.openai.output_items`), and where the answer comes from.

The same items in the same order give the same bytes: a stream can be given again, from any event
on, by writing it again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from attrs import frozen

from ..convert import write_json
from ..errors import GatewayError, InvalidRequest, RateLimited
from ..turn import Completed, Usage
from ..turn_items import TextDelta, TurnItem
from .output_items import JSON, Output, Part, encode_output, hex_of

Reason = Literal["max_output_tokens", "content_filter", "steered"]


@frozen
class ResponseHeading:
    """What stays the same throughout one response. `created_at` is in Unix seconds. `echo` are the
    fields that are the request's; `names_conversation`: so is the conversation."""

    turn_id: str
    created_at: int
    model: str
    conversation_id: str
    names_conversation: bool
    echo: Mapping[str, Any]

    @property
    def id(self) -> str:
        return response_id(self.turn_id)


RESPONSE_ID = "resp_"
"""What the id of every response begins with."""


def response_id(turn_id: str) -> str:
    return f"{RESPONSE_ID}{hex_of(turn_id)}"


@frozen
class Ending:
    """How a response ended, and when (Unix seconds). Only one that `failed` has an error."""

    status: Literal["completed", "incomplete", "failed", "cancelled"]
    at: int
    usage: Usage | None = None
    reason: Reason | None = None
    error: GatewayError | None = None

    @property
    def leaves_trace(self) -> bool:
        """Whether the input, and the output, is part of the conversation."""
        return self.is_whole or self.reason == "steered"

    @property
    def is_whole(self) -> bool:
        """Whether the child's own conversation holds the answer."""
        return self.status == "completed" or self.reason == "max_output_tokens"


def ending_of(completed: Completed, at: int) -> Ending:
    match completed.finish_reason:
        case "length":
            return Ending("incomplete", at, completed.usage, "max_output_tokens")
        case "content_filter":
            return Ending("incomplete", at, completed.usage, "content_filter")
        case _:
            return Ending("completed", at, completed.usage)


def encode_usage(usage: Usage) -> JSON:
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {
            "cached_tokens": usage.cached_tokens,
            "cache_write_tokens": usage.cache_write_tokens,
        },
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.total_tokens,
    }


def _encode_error(error: GatewayError) -> JSON:
    """OpenAI has few codes for a response that failed."""
    match error:
        case RateLimited():
            code = "rate_limit_exceeded"
        case InvalidRequest():
            code = "invalid_prompt"
        case _:
            code = "server_error"
    return {"code": code, "message": error.message, "param": error.param, "type": error.type}


def encode_error_event(error: GatewayError) -> JSON:
    """The only event of a stream that has opened before there was a response. OpenAI's reference
    has the fields in the event itself, its SDKs and Open Responses look for them under ``error``.
    """
    fields = {"code": error.code, "message": error.message, "param": error.param}
    return {"type": "error", **fields, "error": error.body()["error"], "sequence_number": 0}


# -- whole ---------------------------------------------------------------------------------------


def encode_response(
    heading: ResponseHeading, items: Iterable[TurnItem], ending: Ending | None
) -> JSON:
    """The response as it stands; `ending` None: it is in progress."""
    return _object(
        heading, encode_output(items, heading.turn_id, status=_items_status(ending)), ending
    )


def _items_status(ending: Ending | None) -> Literal["in_progress", "completed", "incomplete"]:
    if ending is None:
        return "in_progress"
    return "completed" if ending.status == "completed" else "incomplete"


def _object(heading: ResponseHeading, output: list[JSON], ending: Ending | None) -> JSON:
    conversation = {"id": heading.conversation_id} if heading.names_conversation else None
    end = ending or Ending("completed", 0)
    return {
        "id": heading.id,
        "object": "response",
        "created_at": heading.created_at,
        "status": "in_progress" if ending is None else ending.status,
        "completed_at": end.at if ending is not None and end.status == "completed" else None,
        "error": None if end.error is None else _encode_error(end.error),
        "incomplete_details": None if end.reason is None else {"reason": end.reason},
        "model": heading.model,
        "output": output,
        "usage": None if end.usage is None else encode_usage(end.usage),
        "conversation": conversation,
        **heading.echo,
        "conversation_id": heading.conversation_id,
    }


# -- streamed ------------------------------------------------------------------------------------


@frozen
class Framing:
    """How an event is written: as a server-sent event, which has its type once more, or as the
    text of a WebSocket message, which names its stream where there are several."""

    sse: bool = True
    stream_id: str | None = None

    def before(self, kind: str) -> bytes:
        return b"event: %s\ndata: " % kind.encode() if self.sse else b""

    @property
    def behind(self) -> bytes:
        """What follows the sequence number."""
        lane = b"" if self.stream_id is None else b',"stream_id":' + write_json(self.stream_id)
        return lane + b"}" + (b"\n\n" if self.sse else b"")

    def write(self, event: JSON, number: int) -> bytes:
        return b"%s%s,\"sequence_number\":%d%s" % (
            self.before(event["type"]), write_json(event)[:-1], number, self.behind,
        )  # fmt: skip


SERVER_SENT = Framing()


class ResponseWriter:
    """The events of one response, in bytes: `first`, any number of `item`, then `last`. Each
    returns whole events; those up to the number `after` are left out.

    Only the text and the number differ between two deltas, so what stands around them is encoded
    once.
    """

    def __init__(
        self, heading: ResponseHeading, framing: Framing = SERVER_SENT, after: int = -1
    ) -> None:
        self._heading = heading
        self._framing = framing
        self._after = after
        self._output = Output(heading.turn_id)
        self._part: Part | None = None  # where text goes on
        self._before = b""
        self._behind = framing.behind
        self.number = 0
        """Of the next event."""

    def __repr__(self) -> str:
        return f"<ResponseWriter {self._heading.id} {self.number} events>"

    def first(self) -> list[bytes]:
        """The response begins."""
        begun = _object(self._heading, [], None)
        return self._events(
            [
                {"type": "response.created", "response": begun},
                {"type": "response.in_progress", "response": begun},
            ]
        )

    def item(self, item: TurnItem) -> list[bytes]:
        if self._part is not None and type(item) is TextDelta:
            self._part.pieces.append(item.text)
            return self._text(item.text)
        events = self._events(self._output.add(item))
        self._part = self._output.text_part
        if self._part is not None:
            event = self._part.delta("")
            # The text stands last: without it, its quotes and the brace that follows them.
            self._before = self._framing.before(event["type"]) + write_json(event)[:-3]
        return events

    def last(self, ending: Ending) -> list[bytes]:
        """The response has ended."""
        ended = self._output.finish("completed" if ending.status == "completed" else "incomplete")
        kind = "incomplete" if ending.status == "cancelled" else ending.status
        response = _object(self._heading, self._output.encode(), ending)
        return self._events([*ended, {"type": f"response.{kind}", "response": response}])

    def _text(self, text: str) -> list[bytes]:
        number = self.number
        self.number += 1
        if number <= self._after:
            return []
        return [
            b'%s%s,"sequence_number":%d%s' % (self._before, write_json(text), number, self._behind)
        ]

    def _events(self, events: Iterable[JSON]) -> list[bytes]:
        written = []
        for event in events:
            if self.number > self._after:
                written.append(self._framing.write(event, self.number))
            self.number += 1
        return written
