"""Files that were uploaded, as attachments of requests.

Knows: whose file may be named. Refuses to know: how files are kept, and what an attachment is good
for.
"""

from __future__ import annotations

from attrs import frozen

from ...schemas.errors import NotFound, storage_unavailable
from ...schemas.media import Allowance, Attachment, Content
from ..store.batch_interface import FileStore
from ..store.interface import Missing, StoreError


@frozen
class StoredFiles:
    """The files of one API key."""

    files: FileStore
    key_id: str

    async def read(self, attachment: Attachment, allowance: Allowance) -> Content:
        """What is in the file that the attachment names. Raises `NotFound`, `Overloaded`, and
        `TooManyBytes` before anything is read."""
        assert attachment.file_id is not None
        try:
            file = await self.files.get(attachment.file_id, self.key_id)
            allowance.take(file.bytes)
            data, number = bytearray(), 0
            while piece := await self.files.read(file.id, number):
                data += piece
                number += 1
            if len(data) != file.bytes:
                raise Missing(file.id)  # deleted meanwhile
        except Missing:
            raise NotFound(
                f"{attachment.path} names no file of this API key.",
                code="file_not_found",
                param=attachment.path,
            ) from None
        except StoreError as error:
            raise storage_unavailable("Files cannot be read now") from error
        return Content(bytes(data), name=file.name)
