"""Rows of PostgreSQL, and what they are.

Knows: the order of columns (`statements`). Refuses to know: how rows come and go.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from ....schemas.keys import (
    ApiKey,
    decode_limits,
    decode_names,
    decode_scopes,
    encode_limits,
    encode_names,
)
from ....schemas.log.responses import StoredResponse, decode_response
from ....schemas.turn import Usage
from ..engine import Created, Row
from ..interface import Summary
from ..memory import summary_of, unit_words

Columns = Sequence[Any]

MOST_LEXEMES = 900_000
"""Bytes of words that one ``tsvector`` is given; it holds a megabyte."""


def summary(row: Columns) -> Summary:
    """Of `statements.SUMMARY`."""
    id, title, setup, model, profile, workspace, metadata, private, *rest = row
    created_at, used_at, turns, messages, *usage = rest
    created = Created(setup, model, profile, workspace, metadata, private)
    return summary_of(id, title, created, (created_at, used_at, turns, messages, Usage(*usage)))


def key_of(row: Columns) -> ApiKey:
    """Of `statements.KEYS`, without the version."""
    id, name, scopes, models, limits, created_at, revoked_at = row
    return ApiKey(
        id=id,
        name=name,
        scopes=decode_scopes(scopes),
        models=decode_names(models),
        limits=decode_limits(limits),
        created_at=created_at,
        revoked_at=revoked_at,
    )


def values_of_key(key: ApiKey) -> tuple[object, ...]:
    """For `statements.ADD_KEY`."""
    scopes, models, limits = (
        encode_names(key.scopes), encode_names(key.models), encode_limits(key.limits)
    )  # fmt: skip
    return key.id, key.name, scopes, models, limits, key.created_at, key.revoked_at


def response_of(row: Columns) -> StoredResponse:
    """Of `statements.GET_RESPONSE`."""
    body, digests, contents = row
    return decode_response(body, dict(zip(digests, contents, strict=True)).__getitem__)


def owner_word(key_id: str) -> str:
    """The word by which a key's turns are found: no text has it."""
    return "_" + hashlib.sha256(key_id.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def indexed(rows: Sequence[Columns]) -> tuple[list[int], list[int], list[str], list[str | None]]:
    """The columns of `statements.INDEX`: conversation, first record, all words, and those to be
    found."""
    units: dict[tuple[int, int, str], list[Row]] = {}
    for n, first, key_id, seq, kind, body in rows:
        units.setdefault((n, first, key_id), []).append(Row(seq, 0, 0, 0.0, kind, body))
    numbers, firsts, texts, found = [], [], [], []
    for (n, first, key_id), records in units.items():
        words = unit_words(records)
        lexemes = " ".join(dict.fromkeys((owner_word(key_id), *words)))
        numbers.append(n)
        firsts.append(first)
        texts.append(f" {' '.join(words)} ")
        found.append(lexemes if len(lexemes.encode()) < MOST_LEXEMES else None)
    return numbers, firsts, texts, found
