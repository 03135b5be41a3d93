"""Compaction: a conversation in fewer words, to be gone on with.

Knows: the request and the object of ``POST /v1/responses/compact`` (OpenAI API reference,
"Compact a response"; Open Responses), what the model is asked for, and how it reads a summary
later. Refuses to know: how a summary is sealed (`transport.seals`), and how it comes about
(`actors.responses.compaction`).

As OpenAI has it, what comes out is the user's messages unchanged, and one item that only this
gateway can read, for all the rest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from attrs import frozen

from ..convert import structure
from ..describe import Details
from ..errors import missing
from ..message import Message
from ..turn import Usage
from .foreign_items import NOTHING_KEPT, Kept
from .output_items import JSON, encode_messages, hex_of
from .response_events import encode_usage
from .responses import ResponseTurn, parse_response

REQUEST = (
    "Write a summary of this conversation, so that another assistant who has not seen it can "
    "continue it in your place. Keep what the user wants and has decided, every fact, name, "
    "figure, path and piece of code that is needed further, what was done and what came of it "
    "(the results of tools included), what went wrong, and what is still to be done, in the "
    "order in which it happened. Leave nothing out that the user might ask about. Write the "
    "summary alone, as text, and call no tools."
)

PREFACE = "[The conversation so far was longer. This is a summary of it; go on from here.]\n\n"


def with_preface(summary: str) -> str:
    """What the model reads in place of what was summed up."""
    return PREFACE + summary


@frozen
class CompactRequest:
    """The body, as far as it differs from that of a response: the model has to be named."""

    model: str
    instructions: str | None = None
    previous_response_id: str | None = None
    service_tier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None


DETAILS: Details = {
    CompactRequest: {
        "": {
            "description": "As the request of a response, of which it takes these fields and "
            "`input`. One of `input` and `previous_response_id` is needed.",
        }
    }
}


def parse_compact(raw: object, kept: Kept = NOTHING_KEPT) -> ResponseTurn:
    """The turn that makes the summary. Raises as `parse_response` does."""
    asked = structure(raw, CompactRequest)
    assert isinstance(raw, Mapping)
    given = raw.get("input")
    if given in (None, []) and asked.previous_response_id is None:
        raise missing("input")
    if isinstance(given, str):
        given = [{"role": "user", "content": given}]
    wish = {"role": "user", "content": REQUEST}
    # What is no array is refused as it is.
    items = [*given, wish] if isinstance(given, list) else [wish] if given is None else given
    fields: dict[str, Any] = {
        name: raw[name]
        for name in (*_SHARED, "prompt_cache_key", "prompt_cache_retention")
        if name in raw
    }
    return parse_response({**fields, "input": items, "store": False}, kept=kept)


_SHARED = ("model", "instructions", "previous_response_id", "service_tier")


def encode_compaction(
    turn_id: str,
    at: int,
    said: Sequence[Message],
    system: str | None,
    sealed: str,
    usage: Usage,
) -> JSON:
    """`said` is all messages before the request for a summary, `system` the system text that
    stood in the input; `sealed` the summary. `at` is in Unix seconds."""
    users = [message for message in said if _is_the_users(message)]
    compaction = {
        "id": f"cmp_{hex_of(turn_id)}",
        "type": "compaction",
        "encrypted_content": sealed,
    }
    return {
        "id": f"resp_{hex_of(turn_id)}",
        "object": "response.compaction",
        "created_at": at,
        "output": [*encode_messages(users, turn_id, system=system), compaction],
        "usage": encode_usage(usage),
    }


def _is_the_users(message: Message) -> bool:
    """An earlier summary is part of this one."""
    return message.role == "user" and not message.results and not message.text.startswith(PREFACE)
