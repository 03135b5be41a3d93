"""A conversation, summed up by the model.

Knows: that the summary is made apart from every conversation (a child of its own receives all of
it), and what is sealed. Refuses to know: HTTP, and how any of it is worded
(`schemas.openai.compactions`).
"""

from __future__ import annotations

import time
from contextlib import suppress
from itertools import chain

import trio
from attrs import evolve

from ...schemas.errors import ChildError, NotFound
from ...schemas.openai.compactions import encode_compaction
from ...schemas.openai.output_items import JSON
from ...schemas.turn_items import TextDelta
from .job import Job
from .record import Record
from .run import discard_items, responding


async def compact(job: Job) -> JSON:
    """The compacted conversation, as JSON. Raises `GatewayError`."""
    gateway, owner = job.gateway, job.request.owner
    request = evolve(
        job.request,
        profile="chat",  # an agent would do something about it
        workspace="",
        tools=(),
        cacheable=False,
        whole_history=True,
        apart=True,
    )
    async with responding(evolve(job, request=request), lambda: False) as running:
        await running.relay(discard_items)
    record = running.record
    # No client learns of the conversation it was made in.
    with trio.move_on_after(1, shield=True), suppress(NotFound):
        await gateway.forget(record.heading.conversation_id, owner=owner)
    summary = _summary(record)
    assert record.ending is not None
    assert record.ending.usage is not None
    said = tuple(chain(record.before or (), record.asked[:-1]))
    return encode_compaction(
        record.heading.turn_id,
        int(time.time()),
        said,
        record.spoken,
        gateway.seals.seal(owner, summary),
        record.ending.usage,
    )


def _summary(record: Record) -> str:
    text = "".join(item.text for item in record.items if isinstance(item, TextDelta)).strip()
    if not text:
        raise ChildError("The model gave no summary.", code="no_summary")
    return text
