"""The messages of a request, with its pictures and files in their places, ready to be compared.

Knows: that a long history takes longer to put together and to digest than others should wait for.
Refuses to know: how a request is read, and what its messages are compared with.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Protocol

from ..schemas.errors import InvalidRequest
from ..schemas.media import Attachment
from ..schemas.message import Checked, Document, Image, Message, digest, messages_of, size_of
from ..transport.http.bodies import LONG
from ..transport.media.attachments import resolve_all

if TYPE_CHECKING:
    from .gateway import Gateway


class WithAttachments(Protocol):
    """A request, or a part of one, that was read."""

    @property
    def messages(self) -> tuple[Message, ...]: ...
    @property
    def attachments(self) -> tuple[Attachment, ...]: ...
    def filled(self, blocks: Sequence[Image | Document]) -> tuple[Message, ...]: ...


async def attach(gateway: Gateway, request: WithAttachments) -> tuple[Message, ...]:
    """The messages of `request`, whole. Raises what its attachments are refused with."""
    blocks: Sequence[Image | Document] = ()
    if request.attachments:
        blocks = await resolve_all(request.attachments, gateway.attachments)
    size = sum(len(block.data) for block in blocks)
    for message in request.messages:
        size += size_of((message,))
        if size >= LONG:
            break
    return await gateway.bodies.read(size, partial(_put_together, request, blocks))


def _put_together(
    request: WithAttachments, blocks: Sequence[Image | Document]
) -> tuple[Message, ...]:
    messages = request.filled(blocks)
    for message in messages:
        digest(message)  # kept by the message: the cache and lineage will ask for it
    with suppress(InvalidRequest):  # which is raised where the conversation is known
        return Checked(messages_of(messages))
    return messages
