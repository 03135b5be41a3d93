"""The Message Batches routes, as the Anthropic API has them.

Knows: HTTP's side of it. Refuses to know: how a batch runs (`actors.batches`), and what its
requests ask.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import aclosing
from functools import partial
from uuid import uuid4

from ...schemas.anthropic.batches import (
    BATCH_ID,
    MessageBatchWords,
    encode_list,
    encode_message_batch,
    parse_message_batch,
)
from ...schemas.anthropic.betas import BETA_HEADER, read_betas
from ...schemas.anthropic.errors import VERSION_HEADER, read_version
from ...schemas.errors import InvalidRequest, NotFound, invalid
from ...transport.http.asgi import encode_headers
from ...transport.store.batch_interface import ENDED, BatchLease, BatchStore, StoredBatch
from ...transport.store.interface import Missing, StoreError
from ..batches.dialects import words_of
from ..batches.intake import WRITTEN_AT_ONCE, WRITTEN_BYTES
from ..batches.results import lines_of
from .batches import as_error, check_taken, new_batch, stored_batch, undoing
from .request import Call

PAGE = 1000
LISTED = 20

PATH = "/v1/messages/batches"


def _no_batch(batch_id: str) -> NotFound:
    return NotFound(f"There is no message batch {batch_id[:100]}.", code="batch_not_found")


def _encode(call: Call, batch: StoredBatch) -> dict[str, object]:
    counts = batch.counts
    has_ended = batch.state in ENDED
    return encode_message_batch(
        MessageBatchWords(
            id=batch.id,
            created_at=batch.created_at,
            expires_at=batch.expires_at,
            cancel_initiated_at=batch.times.get("cancelling"),
            ended_at=batch.times.get(batch.state) if has_ended else None,
            is_canceling=batch.state == "cancelling",
            processing=counts.total - counts.ended,
            succeeded=counts.succeeded,
            errored=counts.errored,
            canceled=counts.canceled,
            expired=counts.expired,
            results_url=f"{_here(call)}{PATH}/{batch.id}/results" if has_ended else None,
        )
    )


def _here(call: Call) -> str:
    """This server, as the client calls it; SDKs fetch results at an address that is whole."""
    host, scheme = call.header("host"), call.scope.get("scheme", "http")
    if call.header("x-forwarded-proto") == "https":
        scheme = "https"
    return "" if host is None else f"{scheme}://{host}{call.scope.get('root_path', '')}"


def _head(call: Call) -> Mapping[str, str]:
    """The headers that go for each request of the batch. Raises `InvalidRequest`."""
    read_version(call.header(VERSION_HEADER))
    betas = [each.decode("latin-1") for each in call.headers.get(BETA_HEADER.encode(), ())]
    read_betas(betas)
    given = {VERSION_HEADER: call.header(VERSION_HEADER), BETA_HEADER: ",".join(betas)}
    return {name: value for name, value in given.items() if value}


async def create_message_batch(call: Call) -> None:
    """``POST /v1/messages/batches``."""
    head, settings = _head(call), call.gateway.settings.batches
    requests = await call.parsed(partial(parse_message_batch, max_requests=settings.max_requests))
    check_taken(call)
    batch = new_batch(
        call,
        id=f"{BATCH_ID}{uuid4().hex}",
        dialect="anthropic",
        endpoint="/v1/messages",
        details={"headers": dict(head)},
    )
    engine = call.gateway.batches
    store = engine.store.batches
    async with undoing(call, batch):
        lease = await store.add(batch, max_open=settings.max_open)
        await _add(store, lease, requests)
        batch = await store.change(lease, ["validating"], "in_progress")
    await engine.open(lease)
    await call.answer(_encode(call, batch))


async def _add(store: BatchStore, lease: BatchLease, requests: Sequence[tuple[str, bytes]]) -> None:
    some: list[tuple[str, bytes]] = []
    size = 0
    for each in requests:
        some.append(each)
        size += len(each[1])
        if len(some) >= WRITTEN_AT_ONCE or size >= WRITTEN_BYTES:
            await store.add_requests(lease, some)
            some, size = [], 0
    if some:
        await store.add_requests(lease, some)


async def _find(call: Call) -> StoredBatch:
    """Raises `NotFound`, `Overloaded`."""
    batch_id = call.path("message_batch_id")
    return await stored_batch(call, "anthropic", batch_id, _no_batch(batch_id))


async def show_message_batch(call: Call) -> None:
    """``GET /v1/messages/batches/{message_batch_id}``."""
    await call.answer(_encode(call, await _find(call)))


async def list_message_batches(call: Call) -> None:
    """``GET /v1/messages/batches?limit=&after_id=&before_id=``: the last first."""
    query = call.query("limit", "after_id", "before_id")
    if "after_id" in query and "before_id" in query:
        raise invalid("Either after_id or before_id can be given.", "before_id")
    limit = query.get("limit", str(LISTED))
    if not (limit.isascii() and limit.isdigit() and len(limit) <= 4 and 1 <= int(limit) <= PAGE):
        raise invalid(f"limit must be a whole number from 1 to {PAGE}.", "limit")
    try:
        found = await call.gateway.batches.store.batches.page(
            call.owner,
            "anthropic",
            limit=int(limit),
            after=query.get("after_id"),
            before=query.get("before_id"),
        )
    except Missing:
        name = "after_id" if "after_id" in query else "before_id"
        raise invalid(f"{name} names nothing of this list.", name) from None
    except StoreError as error:
        raise as_error(call, error) from error
    items = [_encode(call, each) for each in found.batches]
    await call.answer(encode_list(items, has_more=found.has_more))


async def cancel_message_batch(call: Call) -> None:
    """``POST /v1/messages/batches/{message_batch_id}/cancel``: what runs of it ends."""
    batch = await _find(call)
    if batch.state in ENDED:
        raise InvalidRequest("The message batch has ended already.", code="batch_ended")
    try:
        batch = await call.gateway.batches.store.batches.cancel(batch.id, call.owner)
    except Missing:
        raise _no_batch(batch.id) from None
    except StoreError as error:
        raise as_error(call, error) from error
    await call.gateway.batches.stop(batch.id)
    await call.answer(_encode(call, batch))


async def delete_message_batch(call: Call) -> None:
    """``DELETE /v1/messages/batches/{message_batch_id}``, once it has ended."""
    batch = await _find(call)
    if batch.state not in ENDED:
        raise InvalidRequest("The message batch has not ended: cancel it.", code="batch_open")
    try:
        await call.gateway.batches.store.batches.delete(batch.id, call.owner)
    except Missing:
        raise _no_batch(batch.id) from None
    except StoreError as error:
        raise as_error(call, error) from error
    await call.answer({"id": batch.id, "type": "message_batch_deleted"})


async def show_results(call: Call) -> None:
    """``GET /v1/messages/batches/{message_batch_id}/results``: line by line, in the order of the
    requests."""
    batch = await _find(call)
    if batch.state not in ENDED:
        raise InvalidRequest("The message batch has no results yet.", code="batch_open")
    head = {"content-type": "application/x-jsonl", "x-content-type-options": "nosniff"}
    store, send = call.gateway.batches.store.batches, call.response.send_body
    await call.send({"type": "http.response.start", "status": 200, "headers": encode_headers(head)})
    async with aclosing(lines_of(store, batch, words_of(batch))) as lines:
        async for _, line in lines:
            body = {"type": "http.response.body", "body": line + b"\n", "more_body": True}
            await send(body)
    await send({"type": "http.response.body", "body": b""})
