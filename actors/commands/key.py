"""``ccapi key``: API keys made, listed and revoked, beside a gateway that runs or without one.

Knows: how a key is spelled as options, and how a table of keys looks. Refuses to know: how keys are
kept (`transport.store.key_table`), and what a gateway does with them.

The secret is printed once and kept nowhere. It is never an argument of a process, which all users
of a machine can see.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from attrs import asdict

from ...schemas.keys import SCOPES, ApiKey, KeyLimits, new_secret
from ...schemas.settings.rules import HASHED, hash_key
from ...schemas.settings.settings import StorageSettings
from ...transport.store.interface import Missing, NameTaken, StoreError
from ...transport.store.key_table import open_key_table


class KeyProblem(Exception):
    """A key cannot be made or found; the text says what to do."""


def place_of(storage: StorageSettings) -> Path | str:
    """Where keys are kept. Raises `KeyProblem`."""
    if not storage.persist:
        raise KeyProblem(
            "storage.persist is off, so that no key can be kept: switch it on, or set "
            "auth.api_keys."
        )
    return storage.place


def create(
    place: Path | str,
    name: str,
    scopes: Sequence[str],
    models: Sequence[str],
    limits: Mapping[str, Any],
) -> tuple[ApiKey, str]:
    """Make a key; returns it and its secret. Raises `KeyProblem`."""
    if not name.isprintable() or not name.strip() or len(name) > 64:
        raise KeyProblem("The name must be 1 to 64 printable characters.")
    secret = new_secret()
    key = ApiKey(
        id=hash_key(secret).removeprefix(HASHED),
        name=name,
        scopes=tuple(scope for scope in SCOPES if scope in (scopes or ("chat",))),
        models=tuple(dict.fromkeys(models)),
        limits=KeyLimits(**limits),
        created_at=time.time(),
    )
    try:
        with open_key_table(place) as table:
            table.add(key)
    except NameTaken:
        raise KeyProblem(f"There is a key called {name} already: revoke it first.") from None
    except StoreError as error:
        raise KeyProblem(str(error)) from None
    return key, secret


def listed(place: Path | str) -> list[ApiKey]:
    """All keys, revoked ones among them. Raises `KeyProblem`."""
    try:
        with open_key_table(place) as table:
            return table.keys()
    except StoreError as error:
        raise KeyProblem(str(error)) from None


def revoke(place: Path | str, name: str) -> ApiKey:
    """Revoke the key of that name, or whose id begins so. Raises `KeyProblem`."""
    try:
        with open_key_table(place) as table:
            key = _find(table.keys(), name, is_revoked=False)
            table.revoke(key.id)
    except StoreError as error:
        raise KeyProblem(str(error)) from None
    return key


def delete(place: Path | str, name: str) -> ApiKey:
    """Forget a key that was revoked. What it used stays counted. Raises `KeyProblem`."""
    try:
        with open_key_table(place) as table:
            key = _find(table.keys(), name, is_revoked=True)
            table.delete(key.id)
    except Missing:
        raise KeyProblem(f"{name} is gone already.") from None
    except StoreError as error:
        raise KeyProblem(str(error)) from None
    return key


def _find(keys: Iterable[ApiKey], name: str, *, is_revoked: bool) -> ApiKey:
    there = [key for key in keys if (key.revoked_at is not None) == is_revoked]
    found = [key for key in there if key.name == name]
    if not found and len(name) >= 6:
        found = [key for key in there if key.id.startswith(name)]
    kind = "revoked key" if is_revoked else "key"
    if not found:
        raise KeyProblem(f"There is no {kind} called {name}: ccapi key list shows them.")
    if len(found) > 1:
        raise KeyProblem(f"There are {len(found)} keys called {name}: name one by its id.")
    return found[0]


# -- shown -----------------------------------------------------------------------------------------

COLUMNS = ("NAME", "ID", "SCOPES", "MODELS", "LIMITS", "CREATED", "REVOKED")


def render_table(keys: Sequence[ApiKey]) -> str:
    """The keys as a table for people."""
    rows = [COLUMNS, *map(_row, keys)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    )
    return "\n".join(line.rstrip() for line in lines)


def _row(key: ApiKey) -> tuple[str, ...]:
    limits = ",".join(f"{name}={value:g}" for name, value in _given(key.limits).items())
    models = ",".join(key.models) or "all"
    revoked = "" if key.revoked_at is None else _date(key.revoked_at)
    scopes = ",".join(key.scopes) or "none"
    return key.name, key.short_id, scopes, models, limits or "-", _date(key.created_at), revoked


def render_json(keys: Sequence[ApiKey]) -> str:
    """The keys as JSON: ids, never secrets, which are kept nowhere."""
    return json.dumps([{**asdict(key), "limits": _given(key.limits)} for key in keys], indent=2)


def _given(limits: KeyLimits) -> dict[str, float]:
    return {name: value for name, value in asdict(limits).items() if value is not None}


def _date(when: float) -> str:
    return datetime.fromtimestamp(when, UTC).strftime("%Y-%m-%d %H:%M")
