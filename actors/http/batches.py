"""The Batches routes, as OpenAI has them.

Knows: HTTP's side of it. Refuses to know: how a batch runs (`actors.batches`), and what its
requests ask.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from uuid import uuid4

import trio

from ...schemas.errors import (
    Conflict,
    GatewayError,
    InvalidRequest,
    NotFound,
    RateLimited,
    draining,
    invalid,
    storage_unavailable,
)
from ...schemas.openai.batches import BATCH_ID, BatchWords, encode_batch, parse_batch
from ...transport.store.batch_interface import ENDED, NEVER, StoredBatch
from ...transport.store.interface import Full, Missing, StoreError
from .files import find_file
from .paging import page, read_limit
from .request import Call

LISTED = 20

DAY = 86400.0

UNDO_SECONDS = 2.0


def no_batch(batch_id: str) -> NotFound:
    return NotFound(f"No batch found with id '{batch_id[:100]}'.", code="batch_not_found")


def as_error(call: Call, error: StoreError) -> GatewayError:
    """What the client receives for what the store says of batches."""
    if isinstance(error, Full):
        most = call.gateway.settings.batches.max_open
        return RateLimited(
            f"This API key may have {most} batches that have not ended (batches.max_open).",
            code="too_many_batches",
        )
    return storage_unavailable("Batches cannot be kept or read now")


def check_taken(call: Call) -> None:
    """See that a new batch is taken at all. Raises `Overloaded`."""
    if call.gateway.draining:
        raise draining()


def new_batch(call: Call, **fields: object) -> StoredBatch:
    now, settings = time.time(), call.gateway.settings.batches
    made: dict[str, object] = {
        "id": f"{BATCH_ID}{uuid4().hex}",
        "key_id": call.owner,
        "created_at": now,
        "expires_at": now + settings.window_hours * 3600,
        "kept_until": min(now + settings.keep_days * DAY, NEVER),
    }
    return StoredBatch(**(made | fields))  # type: ignore[arg-type]


async def undo(call: Call, batch: StoredBatch) -> None:
    """See that a batch does not run of which its client does not hear. Never raises; what cannot be
    done now is done by the next life of the gateway, if the batch has no input."""
    store = call.gateway.batches.store.batches
    with trio.CancelScope(shield=True, deadline=trio.current_time() + UNDO_SECONDS):
        with suppress(StoreError):
            lease = await store.acquire(batch.id, batch.key_id)
            await store.change(lease, ["validating", "in_progress"], "failed")
            await store.delete(batch.id, batch.key_id)


@asynccontextmanager
async def undoing(call: Call, batch: StoredBatch) -> AsyncIterator[None]:
    """Take a batch in while the block runs; where that fails, there is none. Raises what the block
    does, and in place of a `StoreError` what the client receives for it."""
    try:
        yield
    except BaseException as error:
        if not isinstance(error, Full):
            await undo(call, batch)
        if isinstance(error, StoreError):
            raise as_error(call, error) from error
        raise


async def stored_batch(call: Call, dialect: str, batch_id: str, missing: NotFound) -> StoredBatch:
    """The client's batch of that dialect. Raises `missing`, `Overloaded`."""
    try:
        found = await call.gateway.batches.store.batches.get(batch_id, call.owner)
    except Missing:
        raise missing from None
    except StoreError as error:
        raise as_error(call, error) from error
    if found.dialect != dialect:
        raise missing
    return found


def encode(batch: StoredBatch) -> dict[str, object]:
    counts, details = batch.counts, batch.details
    return encode_batch(
        BatchWords(
            id=batch.id,
            endpoint=batch.endpoint,
            input_file_id=batch.input_file,
            status=batch.state,
            created_at=batch.created_at,
            expires_at=batch.expires_at,
            times=batch.times,
            total=counts.total,
            completed=counts.succeeded,
            failed=counts.errored,
            output_file_id=batch.output_file,
            error_file_id=batch.error_file,
            metadata=details.get("metadata"),
            errors=details.get("errors") or (),
        )
    )


async def create_batch(call: Call) -> None:
    """``POST /v1/batches``."""
    asked = await call.parsed(parse_batch)
    check_taken(call)
    file = await find_file(call, asked.input_file_id, "input_file_id")
    if file.purpose != "batch":
        raise invalid(
            f"input_file_id must name a file with the purpose batch, not {file.purpose}.",
            "input_file_id",
        )
    expiry = asked.output_expires_after
    batch = new_batch(
        call,
        dialect="openai",
        endpoint=asked.endpoint,
        input_file=file.id,
        details={
            "metadata": None if asked.metadata is None else dict(asked.metadata),
            "file_seconds": None if expiry is None else expiry.seconds,
        },
    )
    engine = call.gateway.batches
    async with undoing(call, batch):
        lease = await engine.store.batches.add(
            batch, max_open=call.gateway.settings.batches.max_open
        )
    await engine.open(lease)
    await call.answer(encode(batch))


async def find_batch(call: Call) -> StoredBatch:
    """Raises `NotFound`, `Overloaded`."""
    batch_id = call.path("batch_id")
    return await stored_batch(call, "openai", batch_id, no_batch(batch_id))


async def show_batch(call: Call) -> None:
    """``GET /v1/batches/{batch_id}``."""
    await call.answer(encode(await find_batch(call)))


async def list_batches(call: Call) -> None:
    """``GET /v1/batches?limit=&after=``: the last first."""
    query = call.query("limit", "after")
    try:
        found = await call.gateway.batches.store.batches.page(
            call.owner,
            "openai",
            limit=read_limit(query.get("limit", str(LISTED))),
            after=query.get("after"),
        )
    except Missing:
        raise InvalidRequest(
            "after names nothing of this list.", code="invalid_value", param="after"
        ) from None
    except StoreError as error:
        raise as_error(call, error) from error
    await call.answer(page([encode(each) for each in found.batches], has_more=found.has_more))


async def cancel_batch(call: Call) -> None:
    """``POST /v1/batches/{batch_id}/cancel``: what runs of it ends."""
    batch = await find_batch(call)
    if batch.state in ENDED:
        raise Conflict(f"Cannot cancel a batch with status '{batch.state}'.", code="batch_ended")
    try:
        batch = await call.gateway.batches.store.batches.cancel(batch.id, call.owner)
    except Missing:
        raise no_batch(batch.id) from None
    except StoreError as error:
        raise as_error(call, error) from error
    await call.gateway.batches.stop(batch.id)
    await call.answer(encode(batch))
