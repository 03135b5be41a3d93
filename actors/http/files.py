"""The Files routes: uploads, and what is in them.

Knows: HTTP's side of it. Refuses to know: how a file is kept (`transport.store`), forms' grammar
(`transport.http.multipart`), and what a file is good for.

An upload is written into the store as it comes; at most two pieces of it are in memory.
"""

from __future__ import annotations

import re
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from uuid import uuid4

import trio
from attrs import evolve

from ...schemas.anthropic import files as anthropic
from ...schemas.anthropic.errors import VERSION_HEADER, read_version
from ...schemas.errors import (
    GatewayError,
    InvalidRequest,
    NotFound,
    RateLimited,
    TooLarge,
    UnsupportedMediaType,
    invalid,
    missing,
    storage_unavailable,
)
from ...schemas.openai.files import (
    FILE_ID,
    encode_file,
    read_expiry,
    read_listed,
    read_purpose,
)
from ...schemas.settings.settings import FileSettings
from ...transport.http.asgi import FEW_PIECES, PIECE_BYTES, ClientGone, encode_headers
from ...transport.http.multipart import FormReader, Part, boundary_of
from ...transport.store.batch_interface import NEVER, FileBounds, FileStore, StoredFile
from ...transport.store.batch_interface import PIECE_BYTES as WRITTEN_AT_ONCE
from ...transport.store.interface import Full, Missing, StoreError
from .paging import page, read_limit, read_order
from .request import Call

LISTED = 100

MAX_FIELD = 1024
"""Bytes of a field that is no file, and characters of a file's name."""

DELETE_SECONDS = 2.0

CHUNK = 64 * 1024


def bounds_of(settings: FileSettings) -> FileBounds:
    return FileBounds(settings.max_files, settings.max_key_bytes, settings.max_total_bytes)


def encode(file: StoredFile, *, messages: bool = False) -> dict[str, object]:
    """The file object; `messages`: in the dialect of the Messages API."""
    expires_at = None if file.expires_at >= NEVER else file.expires_at
    if messages:
        return anthropic.encode_file(file.id, file.name, file.bytes, file.created_at, expires_at)
    return encode_file(file.id, file.purpose, file.name, file.bytes, file.created_at, expires_at)


def _in_messages(call: Call) -> bool:
    """Whether the client speaks the Messages API's dialect. Raises `InvalidRequest` for a version
    of that which is not spoken here."""
    read_version(call.header(VERSION_HEADER))
    return call.response.envelope.messages


def no_file(file_id: str, param: str = "id") -> NotFound:
    return NotFound(f"No such File object: {file_id[:100]}", code="file_not_found", param=param)


def as_error(error: StoreError, settings: FileSettings) -> GatewayError:
    """What the client receives for what the store says of files."""
    if not isinstance(error, Full):
        return storage_unavailable("Files cannot be kept or read now")
    limits = {
        "max_files": f"This API key may have {settings.max_files} files (files.max_files)",
        "max_key_bytes": f"The files of this API key may have {settings.max_key_bytes} bytes in "
        "all (files.max_key_bytes)",
        "max_total_bytes": "There is no room for more files (files.max_total_bytes)",
    }
    return RateLimited(f"{limits[error.bound]}: delete some.", code="too_many_files")


# -- uploaded --------------------------------------------------------------------------------------


async def upload_file(call: Call) -> None:
    """``POST /v1/files``."""
    messages = _in_messages(call)
    if call.header("content-encoding") not in (None, "identity"):
        raise UnsupportedMediaType("A form is taken without content-encoding.")
    reader = FormReader(boundary_of(call.header("content-type")))
    files, settings = call.gateway.batches.store.files, call.gateway.settings.files
    now = time.time()
    file = StoredFile(
        id=f"{FILE_ID}{uuid4().hex}", key_id=call.owner, purpose="", name="", created_at=now
    )
    upload = _Upload(files, file, settings, messages=messages)
    try:
        async with aclosing(_chunks(call, settings.max_bytes)) as chunks:
            async for chunk in chunks:
                for event in reader.feed(chunk):
                    await upload.take(event)
                await upload.flush()
        reader.end()
        whole = await upload.finish(now)
    except BaseException as error:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + DELETE_SECONDS):
            await upload.undo()
        if isinstance(error, StoreError):
            raise as_error(error, settings) from error
        raise
    await call.answer(encode(whole, messages=messages))


async def _chunks(call: Call, limit: int) -> AsyncGenerator[bytes, None]:
    """The body as it comes, in short chunks. Raises `TooLarge`, `InvalidRequest`, `ClientGone`."""
    limit += 64 * 1024  # what a form has beside its file
    length = call.header("content-length")
    if length is not None and length.isdigit() and (len(length) > 20 or int(length) > limit):
        raise _too_large(call)
    size = pieces = 0
    while True:
        message = await call.receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        piece = message.get("body", b"")
        size, pieces = size + len(piece), pieces + 1
        if size > limit:
            raise _too_large(call)
        if pieces > FEW_PIECES + size // PIECE_BYTES:
            raise InvalidRequest(
                "The request's body comes in too many small pieces.", code="too_many_pieces"
            )
        for at in range(0, len(piece), CHUNK):
            yield piece[at : at + CHUNK]
        if not message.get("more_body", False):
            return


def _too_large(call: Call) -> TooLarge:
    limit = call.gateway.settings.files.max_bytes
    return TooLarge(f"The file is larger than {limit} bytes (files.max_bytes).", param="file")


class _Upload:
    """A form on its way into the store."""

    def __init__(
        self, files: FileStore, file: StoredFile, settings: FileSettings, *, messages: bool
    ) -> None:
        self._messages = messages
        self._files = files
        self._file = file
        self._settings = settings
        self._bounds = bounds_of(settings)
        self._fields: dict[str, bytearray] = {}
        self._part: Part | None = None
        self._rest = bytearray()
        self._size = 0
        self._number = 0
        self._has_file = False

    async def take(self, event: Part | bytes) -> None:
        """Raises `GatewayError`, `StoreError`."""
        if isinstance(event, Part):
            await self._begin(event)
            return
        assert self._part is not None
        if self._part.file_name is None:
            field = self._fields[self._part.name]
            if len(field) + len(event) > MAX_FIELD:
                raise InvalidRequest(
                    f"{self._part.name[:64]} has more than {MAX_FIELD} bytes.",
                    code="invalid_value",
                    param=self._part.name[:64],
                )
            field += event
            return
        self._size += len(event)
        if self._size > self._settings.max_bytes:
            raise TooLarge(
                f"The file is larger than {self._settings.max_bytes} bytes (files.max_bytes).",
                param="file",
            )
        self._rest += event

    async def _begin(self, part: Part) -> None:
        self._part = part
        if part.file_name is None:
            if part.name in self._fields:
                raise InvalidRequest(
                    f"{part.name[:64]} must be given once.",
                    code="invalid_value",
                    param=part.name[:64],
                )
            self._fields[part.name] = bytearray()
            return
        if part.name != "file" or self._has_file:
            raise InvalidRequest(
                "A form has one file, which is called file.", code="invalid_value", param="file"
            )
        if "purpose" in self._fields:  # before anything is kept
            self._purpose()
        self._has_file = True
        name = re.sub(r"[\x00-\x1f\x7f]", "", part.file_name)[:MAX_FIELD]
        self._file = evolve(self._file, name=name or "file")
        await self._files.begin(self._file, self._bounds)

    def _purpose(self) -> str:
        """Raises `InvalidRequest`."""
        return anthropic.PURPOSE if self._messages else read_purpose(self._text("purpose"))

    def _text(self, name: str) -> str | None:
        found = self._fields.get(name)
        return None if found is None else found.decode("utf-8", "replace")

    async def flush(self, *, all_of_it: bool = False) -> None:
        """Write whole pieces; `all_of_it`: the last one, too."""
        while len(self._rest) >= WRITTEN_AT_ONCE or (all_of_it and self._rest):
            piece = bytes(self._rest[:WRITTEN_AT_ONCE])
            del self._rest[:WRITTEN_AT_ONCE]
            await self._files.write(self._file.id, self._number, piece, self._bounds)
            self._number += 1

    async def finish(self, now: float) -> StoredFile:
        purpose, read = self._purpose(), read_expiry
        if self._messages:
            read = anthropic.read_expiry
        seconds = read({name: self._text(name) or "" for name in self._fields})
        if not self._has_file:
            raise missing("file")
        if not self._size:
            raise InvalidRequest("The file is empty.", code="invalid_value", param="file")
        await self.flush(all_of_it=True)
        kept = self._settings.keep_days * 86400 or NEVER
        expires_at = now + min(kept, NEVER if seconds is None else seconds)
        return await self._files.finish(
            evolve(self._file, purpose=purpose, expires_at=min(expires_at, NEVER))
        )

    async def undo(self) -> None:
        """Nothing of it is kept. Never raises; what cannot be deleted now goes later."""
        if self._has_file:
            with suppress(StoreError):
                await self._files.delete(self._file.id, self._file.key_id)


# -- shown -----------------------------------------------------------------------------------------


async def find_file(call: Call, file_id: str, param: str = "id") -> StoredFile:
    """`param`: where the request names it. Raises `NotFound`, `Overloaded`."""
    try:
        return await call.gateway.batches.store.files.get(file_id, call.owner)
    except Missing:
        raise no_file(file_id, param) from None
    except StoreError as error:
        raise as_error(error, call.gateway.settings.files) from error


async def list_files(call: Call) -> None:
    """``GET /v1/files?purpose=&limit=&after=&order=``: the last first. In the Messages API's
    dialect: ``?limit=&page=``, or ``?ids=``."""
    if _in_messages(call):
        await _list_in_messages(call)
        return
    query = call.query("purpose", "limit", "after", "order")
    files = call.gateway.batches.store.files
    try:
        found = await files.page(
            call.owner,
            limit=read_limit(query.get("limit", str(LISTED))),
            after=query.get("after"),
            newest_first=read_order(query.get("order")) == "desc",
            purpose=read_listed(query.get("purpose")),
        )
    except Missing:
        raise no_file(query["after"], "after") from None
    except StoreError as error:
        raise as_error(error, call.gateway.settings.files) from error
    await call.answer(page([encode(each) for each in found.files], has_more=found.has_more))


async def _list_in_messages(call: Call) -> None:
    ids = anthropic.read_ids(call.values("ids", "ids[]"))
    query = call.query("limit", "page", "after_id")
    if ids:
        if query:
            raise invalid(f"{next(iter(query))} cannot be given beside ids.", next(iter(query)))
        named = []
        for file_id in ids:
            with suppress(NotFound):
                named.append(await find_file(call, file_id))
        files = [encode(each, messages=True) for each in named]
        await call.answer(anthropic.encode_page(files, has_more=False))
        return
    after = anthropic.read_after(query)
    try:
        found = await call.gateway.batches.store.files.page(
            call.owner,
            limit=read_limit(query.get("limit", str(anthropic.DEFAULT_LIMIT))),
            after=after,
            newest_first=True,
            purpose=None,
        )
    except Missing:
        raise no_file(after or "", "page" if "page" in query else "after_id") from None
    except StoreError as error:
        raise as_error(error, call.gateway.settings.files) from error
    files = [encode(each, messages=True) for each in found.files]
    await call.answer(anthropic.encode_page(files, has_more=found.has_more))


async def show_file(call: Call) -> None:
    """``GET /v1/files/{file_id}``."""
    messages = _in_messages(call)
    await call.answer(encode(await find_file(call, call.path("file_id")), messages=messages))


async def delete_file(call: Call) -> None:
    """``DELETE /v1/files/{file_id}``."""
    messages = _in_messages(call)
    file = await find_file(call, call.path("file_id"))
    try:
        await call.gateway.batches.store.files.delete(file.id, call.owner)
    except Missing:
        raise no_file(file.id) from None
    except StoreError as error:
        raise as_error(error, call.gateway.settings.files) from error
    if messages:
        await call.answer({"id": file.id, "type": "file_deleted"})
    else:
        await call.answer({"id": file.id, "object": "file", "deleted": True})


async def show_content(call: Call) -> None:
    """``GET /v1/files/{file_id}/content``, piece by piece."""
    _in_messages(call)
    file = await find_file(call, call.path("file_id"))
    files, number, left = call.gateway.batches.store.files, 0, file.bytes
    name = re.sub(r'[^ -~]|["\\]', "_", file.name)
    headers = {
        "content-type": "application/octet-stream",
        "content-length": str(file.bytes),
        "content-disposition": f'attachment; filename="{name}"',
        "x-content-type-options": "nosniff",
    }
    head = {"status": 200, "headers": encode_headers(headers)}
    await call.send({"type": "http.response.start", **head})
    while left:
        piece = await files.read(file.id, number)
        if not piece:
            raise Missing(file.id)  # deleted meanwhile: the response is cut short
        number, left = number + 1, left - len(piece)
        await call.response.send_body(
            {"type": "http.response.body", "body": piece, "more_body": bool(left)}
        )
    if not file.bytes:
        await call.response.send_body({"type": "http.response.body", "body": b""})
