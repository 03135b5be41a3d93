"""Texts that clients keep and bring back: sealed, so that they can neither read nor change them.

Knows: the key, its file, and what a sealed text looks like. Refuses to know: what the texts say.

Several gateways that share a secret have one key, which is derived from it: what one has sealed,
each of them opens. One that is alone has a key of its own, in a file.

A sealed text is a Fernet token (AES-128-CBC with HMAC-SHA256, by the cryptography library). Each
owner's key is derived from the gateway's (HMAC-SHA256 of the owner's name), so one owner's text is
not another's.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
from contextlib import suppress
from pathlib import Path

from cryptography.fernet import Fernet, InvalidToken

from ..schemas.errors import InternalError
from .loggers import get_logger

log = get_logger("ccapi.seals")

KEY_BYTES = 32
PURPOSE = b"ccapi compaction\0"
SHARED_PURPOSE = b"ccapi compaction key of a cluster"


class Seals:
    """Made for a key `file`, which is read, or made (mode 0600), when it is needed first; or for a
    `secret` of several gateways, and then there is no file."""

    def __init__(self, file: Path, secret: str = "") -> None:
        self._file = file
        self._key: bytes | None = None
        if secret:
            self._key = hmac.digest(secret.encode(), SHARED_PURPOSE, hashlib.sha256)

    def __repr__(self) -> str:
        return f"<Seals {self._file}>"

    def seal(self, owner: str, text: str) -> str:
        """Raises `InternalError` where the key can be neither read nor kept."""
        data = text.encode("utf-8", "replace")
        return self._fernet(owner).encrypt(data).decode("ascii")

    def open(self, owner: str, sealed: str) -> str | None:
        """None: it was not sealed here for this owner, or was changed. Raises `InternalError`."""
        fernet = self._fernet(owner)
        try:
            token = sealed.encode("ascii")
            # base64 is read leniently: what decodes to the same bytes is not the same text yet.
            if base64.urlsafe_b64encode(base64.urlsafe_b64decode(token)) != token:
                return None
            return fernet.decrypt(token).decode()
        except (InvalidToken, ValueError):
            return None

    def _fernet(self, owner: str) -> Fernet:
        if self._key is None:
            self._key = self._load()
        name = PURPOSE + owner.encode("utf-8", "surrogatepass")
        derived = hmac.digest(self._key, name, hashlib.sha256)
        return Fernet(base64.urlsafe_b64encode(derived))

    def _load(self) -> bytes:
        try:
            with suppress(FileNotFoundError):
                return self._read()
            self._make()
            return self._read()  # another process may have been first
        except OSError as error:
            log.error("the key for compactions cannot be kept", file=self._file, error=str(error))  # noqa: TRY400
            raise InternalError("The gateway cannot keep its key for compactions.") from None

    def _read(self) -> bytes:
        key = self._file.read_bytes()
        if len(key) != KEY_BYTES:
            raise OSError("it is no key")
        return key

    def _make(self) -> None:
        """The file appears whole, or not at all."""
        self._file.parent.mkdir(parents=True, exist_ok=True)
        new = self._file.with_name(f"{self._file.name}.{os.getpid()}")
        handle = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(os.urandom(KEY_BYTES))
            with suppress(FileExistsError):
                os.link(new, self._file)
        finally:
            new.unlink()
