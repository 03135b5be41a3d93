"""The page at ``/``: files that need no key, since they hold nothing of any client's.

Knows: which files there are, and what a browser may do with them. Refuses to know: what the page
does (`transport/page`): it talks to the same routes as every other client.
"""

from __future__ import annotations

import hashlib
from importlib import resources
from mimetypes import guess_type
from typing import TYPE_CHECKING

from attrs import frozen

from ...schemas.errors import NotFound
from ...transport.http.asgi import send_response
from .request import Call

if TYPE_CHECKING:
    from collections.abc import Mapping

HEADERS = {
    # Nothing but the page's own files runs, and it talks to its gateway alone.
    "content-security-policy": "; ".join(
        (
            "default-src 'none'", "script-src 'self'", "style-src 'self'",
            "img-src 'self' data: blob:", "connect-src 'self'", "base-uri 'none'",
            "form-action 'none'", "frame-ancestors 'none'",
        )
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-cache",
}  # fmt: skip


@frozen
class _File:
    body: bytes
    content_type: str
    etag: str


def _read_files() -> Mapping[str, _File]:
    folder = resources.files("ccapi.transport") / "page"
    return {
        entry.name: _file(entry.name, entry.read_bytes())
        for entry in folder.iterdir()
        if entry.is_file() and not entry.name.startswith(".")
    }


def _file(name: str, body: bytes) -> _File:
    kind = "text/javascript" if name.endswith(".js") else guess_type(name)[0]
    kind = kind or "application/octet-stream"
    charset = "; charset=utf-8" if kind.startswith("text/") else ""
    return _File(body, kind + charset, f'"{hashlib.sha256(body).hexdigest()[:20]}"')


class Page:
    """The page's files, read once; `enabled` False: there is no page."""

    def __init__(self, *, enabled: bool) -> None:
        self._files = _read_files() if enabled else {}

    async def show(self, call: Call) -> None:
        """``GET /``."""
        await self._send(call, "index.html")

    async def file(self, call: Call) -> None:
        """``GET /page/{file}``."""
        await self._send(call, call.path("file"))

    async def _send(self, call: Call, name: str) -> None:
        found = self._files.get(name)
        if found is None:
            raise NotFound(f"There is nothing at {call.scope['method']} {call.scope['path']}.")
        call.response.is_asset = True
        headers = {**HEADERS, "etag": found.etag}
        if call.header("if-none-match") == found.etag:
            await send_response(call.send, 304, found.content_type, b"", headers)
        else:
            await send_response(call.send, 200, found.content_type, found.body, headers)
