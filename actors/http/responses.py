"""The Responses routes: a request becomes a response, whole, streamed, or in the background; one
that is kept is shown, watched, cancelled, deleted.

Knows: HTTP's side of it, and which error a client receives when one fails. Refuses to know: how
words are encoded (`schemas.openai.responses`, `schemas.openai.response_events`), and how a response
comes about (`actors.responses.run`).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import trio
from attrs import define, evolve, field

from ...schemas.errors import GatewayError, InvalidRequest, draining, invalid
from ...schemas.openai.compactions import parse_compact
from ...schemas.openai.foreign_items import Kept
from ...schemas.openai.output_items import encode_messages
from ...schemas.openai.parameters import one_conversation
from ...schemas.openai.response_events import (
    RESPONSE_ID,
    ResponseWriter,
    encode_response,
)
from ...schemas.openai.responses import ResponseTurn, parse_response
from ...schemas.turn_items import TurnItem
from ...transport.http.asgi import while_connected
from ..answering import rejects_if_busy
from ..responses.compaction import compact
from ..responses.job import Job, accept, whole_of
from ..responses.kept_items import KeptItems
from ..responses.record import Record
from ..responses.run import discard_items, responding
from ..runtime.boundary import as_gateway_error
from ..runtime.together import run_together
from .chat import no_store
from .paging import PAGE_PARAMETERS, page_of, read_order
from .request import Call

INPUT_PAGE = 20
"""How many input items are listed where a client does not say, as OpenAI has it."""


async def create_response(call: Call) -> None:
    """``POST /v1/responses``."""
    named = call.header("x-conversation-id")
    asked = await call.parsed(
        partial(
            parse_response,
            names_conversation=named is not None,
            reasoning=call.gateway.settings.models.include_reasoning,
            kept=KeptItems(call.gateway, call.owner),
        ),
        refers=True,
    )
    request = evolve(
        asked,
        conversation_id=one_conversation(
            {"conversation_id": asked.conversation_id, "x-conversation-id": named}
        ),
        reject_if_busy=rejects_if_busy(call.header("x-ccapi-on-busy")),
        cacheable=not no_store(call) and not call.apart,
        apart=asked.apart or call.apart,
        kept=asked.kept and not call.apart,
        store=asked.store and not call.apart,
    )
    async with while_connected(call.receive):
        job = await accept(call.gateway, request, call.owner, call.response.headers)
        if asked.background:
            record = await _start(job)
            await (_follow(call, record) if asked.stream else _show(call, record))
        elif asked.stream:
            await _stream(call, job)
        else:
            await _answer_whole(call, job)


async def count_input_tokens(call: Call) -> None:
    """``POST /v1/responses/input_tokens``: how much the model would read for such a request."""
    named = call.header("x-conversation-id")
    kept = KeptItems(call.gateway, call.owner)
    read = partial(_read_countable, names_conversation=named is not None, kept=kept)
    asked = await call.parsed(read, refers=True)
    request = evolve(
        asked,
        conversation_id=one_conversation(
            {"conversation_id": asked.conversation_id, "x-conversation-id": named}
        ),
    )
    async with while_connected(call.receive):
        job = await accept(call.gateway, request, call.owner, call.response.headers)
        setup, messages = await whole_of(job)
        tokens = await call.gateway.count_tokens(setup, messages)
    await call.answer({"object": "response.input_tokens", "input_tokens": tokens})


def _read_countable(raw: object, *, names_conversation: bool, kept: Kept) -> ResponseTurn:
    if isinstance(raw, dict) and isinstance(raw.get("generate"), bool | None):
        raw = {**raw, "generate": False}  # no model answers it, so that it needs no input either
    return parse_response(raw, names_conversation=names_conversation, kept=kept)


async def compact_response(call: Call) -> None:
    """``POST /v1/responses/compact``: the conversation in fewer words."""
    read = partial(parse_compact, kept=KeptItems(call.gateway, call.owner))
    asked = await call.parsed(read, refers=True)
    headers: dict[str, str] = {}
    async with while_connected(call.receive):
        job = await accept(call.gateway, asked, call.owner, headers)
        compacted = await compact(job)
    if "x-ccapi-ignored" in headers:
        call.response.headers["x-ccapi-ignored"] = headers["x-ccapi-ignored"]
    await call.answer(compacted)


async def _show(call: Call, record: Record) -> None:
    await call.answer(encode_response(record.heading, record.items, record.told_ending))


async def _answer_whole(call: Call, job: Job) -> None:
    async with responding(job, lambda: False) as running:
        await run_together(partial(running.relay, discard_items))
    await _show(call, running.record)


# -- streamed --------------------------------------------------------------------------------------


async def _stream(call: Call, job: Job) -> None:
    """Stream the response. Until the first event is out, a failure is a real status; after that it
    is an event.

    The stream also opens with a heartbeat; so one that waits long for its turn can only report
    a failure by an ``error`` event.
    """
    stream = call.open_stream()
    async with stream.beating():
        writer: ResponseWriter | None = None
        events: list[bytes] = []
        try:
            async with responding(job, lambda: stream.opened) as running:
                record = running.record
                writer = ResponseWriter(record.heading)
                events += writer.first()

                async def pass_on(items: Sequence[TurnItem]) -> None:
                    for item in items:
                        events.extend(writer.item(item))
                    written = b"".join(events)
                    events.clear()
                    await stream.write(written)

                await run_together(partial(running.relay, pass_on))
        except Exception as error:
            if not stream.opened:
                raise
            failure = call.failure = as_gateway_error(error)
            if writer is None:
                await stream.write(call.response.envelope.event(failure), last=True)
                return
        assert record.ending is not None
        await stream.write(b"".join([*events, *writer.last(record.ending)]), last=True)


async def _follow(call: Call, record: Record, after: int = -1) -> None:
    """Give the events of a response that is on record, from behind the number `after` on, and go on
    while it runs. The client may hang up; the response goes on."""
    stream = call.open_stream()
    writer = ResponseWriter(record.heading, after=after)
    events, given = writer.first(), 0
    with record.reading():
        async with stream.beating():
            while True:
                ending, items = record.told_ending, record.items[given:]
                for item in items:
                    events += writer.item(item)
                given += len(items)
                if ending is not None:
                    break
                if events:
                    written, events = b"".join(events), []
                    await stream.write(written)
                else:
                    await record.wait_news()
            await stream.write(b"".join([*events, *writer.last(ending)]), last=True)


# -- in the background -----------------------------------------------------------------------------


@define(eq=False)
class _Start:
    """What the request waits for: the record, or why there is none."""

    record: Record | None = None
    error: Exception | None = None
    over: trio.Event = field(factory=trio.Event)


async def _start(job: Job) -> Record:
    """Have the response given in the background. Returns when it has begun; raises what it failed
    with before that."""
    start = _Start()
    job.gateway.background.start(partial(_run, job, start))
    await start.over.wait()
    if start.record is None:
        raise start.error or draining(retry_after=None)
    return start.record


async def _run(job: Job, start: _Start) -> None:
    try:
        with trio.CancelScope() as scope:
            async with responding(job, lambda: True) as running:
                start.record = running.record
                running.record.scope = scope
                start.over.set()
                await running.relay(discard_items)
    except GatewayError as error:
        start.error = error  # the record has it too, if there is one
    finally:
        start.over.set()


# -- kept ------------------------------------------------------------------------------------------


def names_response(call: Call) -> bool:
    """Whether the path can be a response's. Otherwise it means a route that OpenAI's API has, and
    this one has not."""
    return call.path("response_id").startswith(RESPONSE_ID)


async def _find(call: Call) -> Record:
    return await call.gateway.kept_responses.find(call.path("response_id"), call.owner)


async def show_response(call: Call) -> None:
    """``GET /v1/responses/{response_id}``, with ``stream=true&starting_after=N`` its events."""
    query = call.query("stream", "starting_after")
    streams, after = _read_flag(query.get("stream")), _read_number(query.get("starting_after"))
    record = await _find(call)
    if not streams:
        await _show(call, record)
        return
    async with while_connected(call.receive):
        await _follow(call, record, after)


FLAGS = {"true": True, "1": True, "false": False, "0": False}


def _read_flag(given: str | None) -> bool:
    if given is None:
        return False
    if given in FLAGS:
        return FLAGS[given]
    raise invalid("stream must be true or false.", "stream")


def _read_number(given: str | None) -> int:
    if given is None:
        return -1
    if given.isascii() and given.isdigit() and len(given) <= 9:
        return int(given)
    raise InvalidRequest(
        "starting_after must be the number of an event.",
        code="invalid_value",
        param="starting_after",
    )


async def delete_response(call: Call) -> None:
    """``DELETE /v1/responses/{response_id}``: one that runs in the background ends."""
    record = await _find(call)
    record.stop()
    await call.gateway.kept_responses.delete(record)
    await call.answer({"id": record.id, "object": "response", "deleted": True})


async def cancel_response(call: Call) -> None:
    """``POST /v1/responses/{response_id}/cancel``, of one in the background. One that has ended
    stays as it is."""
    record = await _find(call)
    if not record.background:
        raise InvalidRequest(
            "Only a response in the background can be cancelled.",
            code="invalid_value",
            param="response_id",
        )
    record.stop()
    async with while_connected(call.receive):
        await record.wait_ended()
        await _show(call, record)


async def list_input_items(call: Call) -> None:
    """``GET /v1/responses/{response_id}/input_items?limit=&order=&after=``: the last first."""
    query, record = call.query(*PAGE_PARAMETERS), await _find(call)
    items = encode_messages(record.asked, record.heading.turn_id, system=record.said)
    if read_order(query.get("order")) == "desc":
        items.reverse()
    await call.answer(page_of(items, query, INPUT_PAGE))
