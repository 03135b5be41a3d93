"""The attachments of a request, made into blocks: the one way to them, whatever their form.

Knows: where the bytes of each form come from, the operator's limits, and how failures below are
worded for the client. Refuses to know: how bytes are fetched and read (`remote_fetch`,
`local_files`), what they have to be (`schemas.media`), and messages.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import trio
from attrs import frozen

from ...schemas.errors import GatewayError, InvalidRequest
from ...schemas.media import Allowance, Attachment, Content, TooManyBytes, block_of, read_inline
from ...schemas.message import Document, Image
from ...schemas.settings.settings import Settings
from ..http.bodies import LONG
from ..workers import work
from .local_files import NotAllowed, read_allowed
from .stored_files import StoredFiles

if TYPE_CHECKING:  # it brings an HTTP client along, which few need
    from .remote_fetch import RemoteFetcher

FETCHED_AT_ONCE = 4
"""Of one request. Each may hold a connection for as long as a fetch may take."""


@frozen
class AttachmentPolicy:
    """What attachments a request may have. Sizes are in bytes, of the content itself.

    `fetcher` None: http(s) URLs are refused. `folders` are absolute paths.
    """

    max_bytes: int
    max_total_bytes: int
    max_count: int
    folders: tuple[str, ...] = ()
    fetcher: RemoteFetcher | None = None

    @classmethod
    def of(cls, settings: Settings) -> AttachmentPolicy:
        images, fetcher = settings.images, None
        if images.allow_remote:
            from .remote_fetch import RemoteFetcher

            fetcher = RemoteFetcher(images.fetch_timeout_seconds, images.max_redirects)
        return cls(
            max_bytes=images.max_bytes,
            max_total_bytes=images.max_total_bytes,
            max_count=images.max_count,
            folders=settings.file_access.additional_dirs,
            fetcher=fetcher,
        )


async def resolve(attachment: Attachment, policy: AttachmentPolicy) -> Image | Document:
    """The block for one attachment. Raises `InvalidRequest` with the attachment's field."""
    (block,) = await resolve_all((attachment,), policy)
    return block


async def resolve_all(
    attachments: Sequence[Attachment],
    policy: AttachmentPolicy,
    stored: StoredFiles | None = None,
) -> tuple[Image | Document, ...]:
    """The blocks for all attachments of a request, in their order. `stored`: the files that its
    client has uploaded.

    Raises `InvalidRequest` for the first (of those that were tried) that cannot be taken; nothing
    is tried where there are too many.
    """
    if len(attachments) > policy.max_count:
        raise attachments[policy.max_count].refused(
            f"is one attachment too many: a request may have {policy.max_count} "
            "(images.max_count).",
            "too_many_attachments",
        )
    whole = Allowance(policy.max_total_bytes)
    # What is in the request already comes first: its errors cost no connection.
    blocks: dict[int, Image | Document] = {}
    for index, attachment in enumerate(attachments):
        if attachment.origin == "inline":
            take = partial(_inline_block, attachment, policy, whole)
            if len(attachment.source) < LONG:
                blocks[index] = take()
            else:  # decoding megabytes takes tens of milliseconds
                blocks[index] = await work(take)
    others = [index for index in range(len(attachments)) if index not in blocks]
    failures: dict[int, GatewayError] = {}
    slots = trio.CapacityLimiter(FETCHED_AT_ONCE)

    async def bring(index: int) -> None:
        async with slots:
            try:
                content = await _brought(attachments[index], policy, whole, stored)
                blocks[index] = block_of(attachments[index], content)
            except GatewayError as error:
                failures[index] = error
                nursery.cancel_scope.cancel()  # the request is refused whatever the others say

    async with trio.open_nursery() as nursery:
        for index in others:
            nursery.start_soon(bring, index)
    if failures:
        raise failures[min(failures)]
    return tuple(blocks[index] for index in range(len(attachments)))


def _inline_block(
    attachment: Attachment, policy: AttachmentPolicy, whole: Allowance
) -> Image | Document:
    return block_of(attachment, _inline(attachment, policy, whole))


def _inline(attachment: Attachment, policy: AttachmentPolicy, whole: Allowance) -> Content:
    try:
        return read_inline(attachment, Allowance(policy.max_bytes, whole))
    except TooManyBytes as error:
        raise _too_large(attachment, error, policy) from None


async def _brought(
    attachment: Attachment,
    policy: AttachmentPolicy,
    whole: Allowance,
    stored: StoredFiles | None,
) -> Content:
    """The content of an attachment that is not in the request itself."""
    allowance = Allowance(policy.max_bytes, whole)
    try:
        if attachment.origin == "remote":
            return await _fetched(attachment, policy.fetcher, allowance)
        if attachment.origin == "stored" and stored is not None:
            return await stored.read(attachment, allowance)
        if attachment.origin == "local":
            return await _read(attachment, policy, allowance)
    except TooManyBytes as error:
        raise _too_large(attachment, error, policy) from None
    raise attachment.refused(
        "must be a data URL, an http or https URL, or the absolute path of a file."
        if attachment.kind == "image"
        else "must be a data URL or base64.",
        f"invalid_{attachment.kind}_url",
    )


async def _fetched(
    attachment: Attachment, fetcher: RemoteFetcher | None, allowance: Allowance
) -> Content:
    if fetcher is None:
        raise attachment.refused(
            "is a URL, and this gateway fetches none (images.allow_remote is off): send a data "
            "URL.",
            f"remote_{attachment.kind}s_disabled",
        )
    from .remote_fetch import BadUrl, FetchFailed  # loaded with the fetcher

    try:
        data = await fetcher.fetch(attachment.source, allowance)
    except BadUrl as error:
        raise attachment.refused(f"{error}.", f"invalid_{attachment.kind}_url") from None
    except FetchFailed as error:
        raise attachment.refused(f"{error}.", f"{attachment.kind}_fetch_failed") from None
    return Content(data)


async def _read(attachment: Attachment, policy: AttachmentPolicy, allowance: Allowance) -> Content:
    read = partial(read_allowed, attachment.source, policy.folders, allowance.left)
    try:
        # A file system that hangs holds up its thread, and not the request that gives up on it: the
        # thread closes what it opened, and what it read is dropped.
        data = await trio.to_thread.run_sync(read, abandon_on_cancel=True)
    except NotAllowed:
        raise attachment.refused(
            "must be a regular file in a folder that requests may read from "
            "(file_access.additional_dirs).",
            "file_not_allowed",
        ) from None
    allowance.take(len(data))
    return Content(data)


def _too_large(
    attachment: Attachment, error: TooManyBytes, policy: AttachmentPolicy
) -> InvalidRequest:
    if error.limit == policy.max_bytes:
        reason = f"has more than {policy.max_bytes} bytes (images.max_bytes)."
    else:
        reason = (
            f"brings the attachments of this request over {policy.max_total_bytes} bytes "
            "(images.max_total_bytes)."
        )
    return attachment.refused(reason, f"{attachment.kind}_too_large")
