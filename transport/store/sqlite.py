"""The tables of a store in SQLite: every statement, and nothing of threads and transactions.

Knows: SQL, one statement or few for each change. Refuses to know: in which transaction it runs,
and what is to be done when the disk fails (`transport.store.writer`).
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from attrs import astuple, fields

from ...schemas.keys import (
    ApiKey,
    decode_limits,
    decode_names,
    decode_scopes,
    encode_limits,
    encode_names,
    hour_of,
)
from ...schemas.log.codec import decode_setup, digest_of, dumps, encode_usage, loads
from ...schemas.turn import Usage
from .batch_table import SqliteBatches, SqliteFiles, held_bytes
from .engine import (
    MAX_RECORDS,
    Change,
    Closing,
    Created,
    RequestRow,
    ResponseRow,
    Row,
    State,
    named_parts,
)
from .interface import (
    Begun,
    Charge,
    DayUsage,
    Fenced,
    Head,
    Held,
    Known,
    Missing,
    NameTaken,
    Page,
    Spent,
    StoredConversation,
    StoreError,
    StoreStatistics,
    Summary,
    Turn,
    Unsettled,
)
from .memory import summary_of, unit_words
from .schema import SEQ_BITS

_NO_USAGE = dumps(encode_usage(Usage()))

_FIGURES = tuple(each.name for each in fields(Usage))
"""The columns of a usage, in its own order."""

_SUMMARY = (
    "id, title, setup, model, profile, workspace, metadata, private, created_at, used_at, turns, "
    "messages, usage"
)


LONG_BODY = 1024 * 1024
"""Bytes of a record from which on it is written in pieces."""

WRITTEN_AT_ONCE = 256 * 1024

LONG_CACHE_KIB = 1024


class SqliteEngine:
    """See `engine.Engine`."""

    def __init__(self, connection: sqlite3.Connection, node_id: str) -> None:
        self.node_id = node_id
        self._db = connection

    @property
    def files(self) -> SqliteFiles:
        return SqliteFiles(self._db, self.node_id)

    @property
    def batches(self) -> SqliteBatches:
        return SqliteBatches(self._db, self.node_id)

    def _one(self, sql: str, *values: Any) -> tuple[Any, ...] | None:
        row: tuple[Any, ...] | None = self._db.execute(sql, values).fetchone()
        return row

    def _number(self, conversation_id: str, key_id: str) -> int:
        row = self._one(
            "select n from conversation where id = ? and key_id = ?", conversation_id, key_id
        )
        if row is None:
            raise Missing(f"There is no conversation {conversation_id}.")
        return int(row[0])

    def _next(self, counter: str) -> int:
        row = self._one(
            "update counter set value = value + 1 where name = ? returning value", counter
        )
        assert row is not None
        return int(row[0])

    def touch(self) -> None:
        self._db.execute("update counter set value = value where name = 'token'")

    # -- leases ------------------------------------------------------------------------------------

    def acquire(
        self, conversation_id: str, key_id: str, create: Created | None, now: float
    ) -> State:
        token = self._next("token")
        if create is not None:
            created = self._db.execute(
                "insert into conversation(id, key_id, setup, model, profile, workspace, metadata, "
                "private, grants, created_at, used_at, owner, token, usage) "
                "values(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) on conflict(id) do nothing",
                (
                    *(conversation_id, key_id, create.setup, create.model, create.profile),
                    *(create.workspace, create.metadata, create.private, b"[]", now, now),
                    *(self.node_id, token, _NO_USAGE),
                ),
            )
            if created.rowcount:  # an update would write all of it again, and a setup can be long
                return self.state(conversation_id)
        self._number(conversation_id, key_id)
        self._db.execute(
            "update conversation set owner = ?, token = ? where id = ?",
            (self.node_id, token, conversation_id),
        )
        return self.state(conversation_id)

    def state(self, conversation_id: str) -> State:
        row = self._one(
            "select token, head, last_turn, open_turn from conversation where id = ?",
            conversation_id,
        )
        if row is None:
            raise Missing(f"There is no conversation {conversation_id}.")
        return State(*row)

    def release(self, conversation_id: str, token: int) -> None:
        self._db.execute(
            "update conversation set owner = null where id = ? and token = ? and open_turn is null",
            (conversation_id, token),
        )

    def reclaim(self, conversation_id: str, token: int) -> bool:
        done = self._db.execute(
            "update conversation set owner = ? where id = ? and token = ?",
            (self.node_id, conversation_id, token),
        )
        return done.rowcount > 0

    def append(self, change: Change) -> Begun | Known | int:
        row = self._one(
            "select n, token, head, last_turn, open_turn, lost_turn, turns, messages, usage, "
            "key_id, model from conversation where id = ?",
            change.conversation_id,
        )
        if row is None or row[1] != change.token:
            raise _fenced(change.conversation_id)
        n, _, head, last_turn, open_turn, lost, turns, messages, used, key_id, model = row
        opening, closing = change.opening, change.closing
        number = last_turn + 1 if opening is not None else open_turn or 0
        if opening is not None:
            first = change.head + 1 + [each.kind for each in change.records].index("start")
            # One statement finds out whether the request is known, too.
            begun = self._db.execute(
                "insert into turn values(?, ?, ?, ?, 'running', ?, null) "
                "on conflict(n, request_id) do nothing",
                (n, number, opening.turn_id, opening.request_id, first),
            )
            if not begun.rowcount:
                known = self.request(change.conversation_id, opening.request_id)
                assert known is not None
                return Known(known)
        if head != change.head:
            raise Fenced(f"{change.conversation_id} stands at {head}, not {change.head}.")
        if head + len(change.records) > MAX_RECORDS:
            raise StoreError("The conversation is too long.")
        self._insert(n, change, number)
        last = head + len(change.records)
        if change.reset is not None:
            messages, turns = change.reset
        messages, turns = messages + change.messages, turns + change.turns
        result: Begun | int = last
        if opening is not None:
            result = Begun(number, lost)
            lost, open_turn, last_turn = None, number, number
        elif closing is not None:
            lost, said = self._close(n, open_turn, closing, last, lost)
            open_turn = None
            if closing.state == "ended":
                messages, turns = messages + said, turns + 1
            if closing.usage is not None:
                used = dumps(encode_usage(Usage(*loads(used)) + closing.usage))
            charge = closing.charge or Charge("", Usage())
            hour = hour_of(change.now)
            self.count([Spent(key_id, hour, charge.model or model, 1, charge.usage)])
            if closing.setup is not None:
                self._set_up(n, closing.setup)
            if closing.lineage is not None:
                self._hold(key_id, closing.lineage, n, last)
        self._db.execute(
            "update conversation set head = ?, last_turn = ?, open_turn = ?, lost_turn = ?, "
            "turns = ?, messages = ?, usage = ?, used_at = ?, bytes = bytes + ?, "
            "title = coalesce(title, ?) where n = ?",
            (
                *(last, last_turn, open_turn, lost, turns, messages, used),
                *(change.now, change.size, change.title, n),
            ),
        )
        return result

    def _insert(self, n: int, change: Change, number: int) -> None:
        begin = (n << SEQ_BITS) + change.head + 1
        self._db.executemany(
            "insert into log values(?, ?, ?, ?, ?, ?)",
            (
                (begin + offset, change.token, number, change.now, each.kind, _short(each.body))
                for offset, each in enumerate(change.records)
            ),
        )
        for offset, each in enumerate(change.records):
            if len(each.body) >= LONG_BODY:
                self._insert_long(begin + offset, each.body)
        if change.units:
            self._db.executemany(
                "insert into unit values(?, ?, 0)",
                [(begin + first, begin + last) for first, last in change.units],
            )
        self._keep_parts(change.conversation_id, change.parts)

    def _insert_long(self, row: int, body: bytes) -> None:
        """A statement would copy it twice, and the cache keep all of its pages."""
        (usual,) = self._db.execute("pragma cache_size").fetchone()
        self._db.execute(f"pragma cache_size = -{LONG_CACHE_KIB}")
        try:
            self._db.execute("update log set body = zeroblob(?) where id = ?", (len(body), row))
            with self._db.blobopen("log", "body", row) as blob, memoryview(body) as view:
                for at in range(0, len(body), WRITTEN_AT_ONCE):
                    blob.write(view[at : at + WRITTEN_AT_ONCE])
        finally:
            self._db.execute(f"pragma cache_size = {usual}")

    def _close(
        self, n: int, number: int, closing: Closing, last: int, lost: str | None
    ) -> tuple[str | None, int]:
        """Which lost turn no client knows of, and how many messages the turn has."""
        row = self._one(
            "update turn set state = ?, last = ? where n = ? and number = ? "
            "returning first, turn_id",
            *(closing.state, last, n, number),
        )
        assert row is not None
        first, turn_id = row
        if closing.state == "lost":
            return turn_id, 0
        if closing.state == "failed":
            return lost, 0
        begin = n << SEQ_BITS
        self._db.execute("insert into unit values(?, ?, 0)", (begin + first, begin + last))
        # Between its start and its end, a turn that has ended has nothing but messages.
        return lost, last - first - 1

    def _set_up(self, n: int, setup: Created) -> None:
        self._db.execute(
            "update conversation set setup = ?, model = ?, profile = ?, workspace = ? where n = ?",
            (setup.setup, setup.model, setup.profile, setup.workspace, n),
        )

    def settle(self, conversation_id: str, token: int, unsettled: Unsettled) -> tuple[bool, State]:
        row = self._one("select n, token, head from conversation where id = ?", conversation_id)
        if row is None or row[1] != token:
            raise _fenced(conversation_id)
        if row[2] == unsettled.head:
            return False, self.state(conversation_id)
        begin = (row[0] << SEQ_BITS) + unsettled.head
        rows = self._db.execute(
            "select kind, body from log where id between ? and ? order by id",
            (begin + 1, begin + unsettled.count),
        )
        if digest_of(rows) != unsettled.digest:
            raise Fenced(f"{conversation_id} was changed by another.")
        return True, self.state(conversation_id)

    # -- large parts -------------------------------------------------------------------------------

    def _keep_parts(self, holder: str, parts: Mapping[bytes, bytes]) -> None:
        if parts:
            self._db.executemany(
                "insert into part values(?, ?) on conflict do nothing", [*parts.items()]
            )
            self._db.executemany(
                "insert into part_use values(?, ?) on conflict do nothing",
                [(holder, digest) for digest in parts],
            )

    def _drop_parts(self, holder: str) -> None:
        used = self._db.execute(
            "delete from part_use where holder = ? returning digest", (holder,)
        ).fetchall()
        if used:
            self._db.executemany(
                "delete from part where digest = ? and not exists "
                "(select 1 from part_use where part_use.digest = part.digest)",
                used,
            )

    def _parts(self, holder: str) -> dict[bytes, bytes]:
        return dict(
            self._db.execute(
                "select digest, content from part_use join part using(digest) where holder = ?",
                (holder,),
            ).fetchall()
        )

    def _parts_of(self, body: bytes) -> dict[bytes, bytes]:
        return {digest: self._part(digest) for digest in named_parts(body)}

    def _part(self, digest: bytes) -> bytes:
        row = self._one("select content from part where digest = ?", digest)
        if row is None:
            raise sqlite3.DatabaseError(f"the part {digest.hex()} is missing")
        return bytes(row[0])

    # -- reading -----------------------------------------------------------------------------------

    def get(self, conversation_id: str, key_id: str) -> StoredConversation:
        row = self._one(
            "select setup, metadata, private, title, created_at, used_at, turns, messages, usage, "
            "grants, head, open_turn, lost_turn, bytes from conversation "
            "where id = ? and key_id = ?",
            *(conversation_id, key_id),
        )
        if row is None:
            raise Missing(f"There is no conversation {conversation_id}.")
        return StoredConversation(
            conversation_id=conversation_id,
            key_id=key_id,
            setup=decode_setup(row[0]),
            metadata=loads(row[1]),
            private=bool(row[2]),
            title=row[3],
            created_at=row[4],
            used_at=row[5],
            turns=row[6],
            messages=row[7],
            usage=Usage(*loads(row[8])),
            grants=tuple(loads(row[9])),
            head=row[10],
            open_turn=row[11],
            lost_turn=row[12],
            bytes=row[13],
        )

    def rows(self, conversation_id: str, key_id: str, first: int, limit: int) -> list[Row]:
        begin = self._number(conversation_id, key_id) << SEQ_BITS
        found = self._db.execute(
            "select id, token, turn, at, kind, body from log where id between ? and ? "
            "order by id limit ?",
            (begin + max(first, 1), begin + MAX_RECORDS, limit),
        )
        return [
            Row(id - begin, token, turn, at, kind, body, self._parts_of(body))
            for id, token, turn, at, kind, body in found
        ]

    def head(self, conversation_id: str) -> Head:
        row = self._one(
            "select head, token, owner, open_turn from conversation where id = ?", conversation_id
        )
        if row is None:
            raise Missing(f"There is no conversation {conversation_id}.")
        return Head(row[0], row[1], row[2], row[3])

    def turn(self, conversation_id: str, number: int) -> Turn | None:
        return self._turn("number", conversation_id, number)

    def request(self, conversation_id: str, request_id: str) -> Turn | None:
        return self._turn("request_id", conversation_id, request_id)

    def _turn(self, column: str, conversation_id: str, value: object) -> Turn | None:
        row = self._one(
            "select number, turn_id, request_id, state, first, last from turn "  # noqa: S608
            f"where n = (select n from conversation where id = ?) and {column} = ?",
            *(conversation_id, value),
        )
        return None if row is None else Turn(*row)

    def workspaces(self) -> list[str]:
        found = self._db.execute(
            "select distinct case workspace when '' then id else workspace end from conversation "
            "where profile = 'agent'"
        )
        return [name for (name,) in found]

    def agents(self) -> list[str]:
        found = self._db.execute("select id from conversation where profile = 'agent'")
        return [name for (name,) in found]

    def orphans(self, limit: int) -> list[tuple[str, str]]:
        return self._db.execute(
            "select id, key_id from conversation where open_turn is not null "
            "and owner is not ? order by n limit ?",
            (self.node_id, limit),
        ).fetchall()

    # -- search ------------------------------------------------------------------------------------

    def index_words(self, limit: int) -> bool:
        units = self._db.execute(
            "select first, last from unit where indexed = 0 order by first limit ?", (limit,)
        ).fetchall()
        if units:
            self._db.executemany(
                "insert into word(rowid, owner, words) values(?, ?, ?)",
                [(first, *self._words(first, last)) for first, last in units],
            )
            self._db.executemany(
                "update unit set indexed = 1 where first = ?", [(first,) for first, _ in units]
            )
        return len(units) == limit

    def _words(self, first: int, last: int) -> tuple[str, str]:
        row = self._one("select key_id from conversation where n = ?", first >> SEQ_BITS)
        assert row is not None
        found = self._db.execute(
            "select id, token, turn, at, kind, body from log where id between ? and ? order by id",
            (first, last),
        )
        return _owner_word(row[0]), " ".join(unit_words([Row(*each) for each in found]))

    def _drop_words(self, n: int) -> None:
        begin = n << SEQ_BITS
        units = self._db.execute(
            "select first, last from unit where indexed and first between ? and ?",
            (begin, begin + MAX_RECORDS),
        ).fetchall()
        self._db.executemany(
            "insert into word(word, rowid, owner, words) values('delete', ?, ?, ?)",
            [(first, *self._words(first, last)) for first, last in units],
        )
        self._db.execute(
            "delete from unit where first between ? and ?", (begin, begin + MAX_RECORDS)
        )

    def conversations(
        self,
        key_id: str,
        limit: int,
        after: str | None,
        newest_first: bool,
        terms: Sequence[Sequence[str]] | None,
    ) -> Page:
        border = None if after is None else self._number(after, key_id)
        if terms is not None:
            numbers = self._search(key_id, limit, border, newest_first, terms)
            rows = [
                self._one(f"select {_SUMMARY} from conversation where n = ?", n)  # noqa: S608
                for n in numbers
            ]
        else:
            compare, order = ("<", "desc") if newest_first else (">", "asc")
            beyond = border if border is not None else (1 << 62 if newest_first else 0)
            rows = self._db.execute(
                f"select {_SUMMARY} from conversation "  # noqa: S608
                f"where key_id = ? and n {compare} ? order by n {order} limit ?",
                (key_id, beyond, limit + 1),
            ).fetchall()
        found = tuple(_summary(row) for row in rows if row is not None)
        return Page(found[:limit], len(found) > limit)

    def _search(
        self,
        key_id: str,
        limit: int,
        border: int | None,
        newest_first: bool,
        terms: Sequence[Sequence[str]],
    ) -> list[int]:
        """The numbers of the first conversations found, one more than asked for at most."""
        if not terms:
            return []
        phrases = [f'"{" ".join(term)}"' for term in terms]
        query = f'owner : "{_owner_word(key_id)}" AND words : ({" AND ".join(phrases)} *)'
        if newest_first:
            last = (1 << 62) if border is None else (border << SEQ_BITS) - 1
            span, order = (0, last), "desc"
        else:
            first = 0 if border is None else (border + 1) << SEQ_BITS
            span, order = (first, 1 << 62), "asc"
        found: dict[int, None] = {}
        rows = self._db.execute(
            "select rowid from word where word match ? and rowid between ? and ? "  # noqa: S608
            f"order by rowid {order}",
            (query, *span),
        )
        for (id,) in rows:
            found[id >> SEQ_BITS] = None
            if len(found) > limit:
                break
        rows.close()
        return [*found]

    def statistics(self) -> StoreStatistics:
        conversations = self._one("select count(*), coalesce(sum(bytes), 0) from conversation")
        responses = self._one("select count(*), coalesce(sum(bytes), 0) from response")
        answers = self._one("select coalesce(sum(bytes), 0) from request")
        pages = [
            self._one(f"pragma {name}") for name in ("page_count", "freelist_count", "page_size")
        ]
        assert conversations is not None
        assert responses is not None
        assert answers is not None
        count, free, size = (0 if page is None else int(page[0]) for page in pages)
        return StoreStatistics(
            conversations[0],
            responses[0],
            (count - free) * size,
            conversations[1] + responses[1],
            answers[0],
            held_bytes(self._db),
        )

    # -- conversations -----------------------------------------------------------------------------

    def update(
        self,
        conversation_id: str,
        key_id: str,
        metadata: bytes | None,
        title: str | None,
        private: bool | None,
        grants: Sequence[str],
    ) -> None:
        n = self._number(conversation_id, key_id)
        row = self._one("select grants from conversation where n = ?", n)
        assert row is not None
        held = dumps([*dict.fromkeys((*loads(row[0]), *grants))])
        self._db.execute(
            "update conversation set metadata = coalesce(?, metadata), title = coalesce(?, title), "
            "private = coalesce(?, private), grants = ? where n = ?",
            (metadata, title, private, held, n),
        )
        if private:
            self._db.execute("delete from lineage where n = ?", (n,))

    def delete(self, conversation_id: str, key_id: str) -> None:
        n = self._number(conversation_id, key_id)
        begin = n << SEQ_BITS
        self._drop_words(n)  # while the log says which they are
        self._drop_parts(conversation_id)
        self._db.execute("delete from log where id between ? and ?", (begin, begin + MAX_RECORDS))
        self._db.execute("delete from turn where n = ?", (n,))
        self._db.execute("delete from lineage where n = ?", (n,))
        self._db.execute("delete from conversation where n = ?", (n,))

    def unused(self) -> Iterator[tuple[str, str, float, int]]:
        yield from self._db.execute(
            "select id, key_id, used_at, bytes from conversation where open_turn is null "
            "order by used_at, n"
        )

    def responses_by_age(self) -> Iterator[tuple[str, str, float, float, int]]:
        yield from self._db.execute(
            "select id, key_id, created_at, expires_at, bytes from response order by n"
        )

    # -- lineage, usage ----------------------------------------------------------------------------

    def lineage_put(self, key_id: str, digest: bytes, conversation_id: str, seq: int) -> None:
        self._hold(key_id, digest, self._number(conversation_id, key_id), seq)

    def _hold(self, key_id: str, digest: bytes, n: int, seq: int) -> None:
        self._db.execute(
            "insert or replace into lineage values(?, ?, ?, ?, ?)",
            (key_id, digest, n, seq, self._next("lineage")),
        )

    def lineage_find(self, key_id: str, digests: Sequence[bytes], limit: int) -> list[Held]:
        found: list[Held] = []
        for digest in dict.fromkeys(digests):
            rows = self._db.execute(
                "select conversation.id, seq from lineage join conversation using(n) "
                "where lineage.key_id = ? and digest = ? order by put desc limit ?",
                (key_id, digest, limit - len(found)),
            )
            found += [Held(digest, conversation_id, seq) for conversation_id, seq in rows]
            if len(found) == limit:
                break
        return found

    def count(self, spent: Sequence[Spent]) -> None:
        self._db.executemany(
            "insert into usage values(?, ?, ?, ?, ?, ?, ?, ?, ?, ?) "
            "on conflict(key_id, hour, model) do update set turns = turns + excluded.turns, "
            "prompt_tokens = prompt_tokens + excluded.prompt_tokens, "
            "completion_tokens = completion_tokens + excluded.completion_tokens, "
            "cached_tokens = cached_tokens + excluded.cached_tokens, "
            "cache_write_tokens = cache_write_tokens + excluded.cache_write_tokens, "
            "cost_usd = cost_usd + excluded.cost_usd, "
            "reasoning_tokens = reasoning_tokens + excluded.reasoning_tokens",
            [
                (each.key_id, each.hour, each.model, each.turns, *astuple(each.usage))
                for each in spent
            ],
        )

    def usage(self, key_id: str | None, first_day: str, last_day: str) -> list[DayUsage]:
        sums = ", ".join(f"sum({name})" for name in _FIGURES)
        whose = "" if key_id is None else "key_id = ? and "
        rows = self._db.execute(
            f"select key_id, substr(hour, 1, 10) as day, model, sum(turns), {sums} from usage "  # noqa: S608
            f"where {whose}hour between ? and ? group by key_id, day, model "
            "order by key_id, day, model",
            (*(() if key_id is None else (key_id,)), first_day, f"{last_day}U"),
        )
        return [DayUsage(key, day, model, n, Usage(*used)) for key, day, model, n, *used in rows]

    def spent(self, key_id: str, first_hour: str) -> list[Spent]:
        rows = self._db.execute(
            "select * from usage where key_id = ? and hour >= ? order by hour, model",
            (key_id, first_hour),
        )
        return [Spent(key, hour, model, n, Usage(*used)) for key, hour, model, n, *used in rows]

    # -- keys --------------------------------------------------------------------------------------

    def keys_version(self) -> int:
        row = self._one("select value from counter where name = 'keys'")
        assert row is not None
        return int(row[0])

    def keys(self) -> list[ApiKey]:
        rows = self._db.execute(
            "select id, name, scopes, models, limits, created_at, revoked_at from api_key "
            "order by n"
        )
        return [
            ApiKey(
                id=id,
                name=name,
                scopes=decode_scopes(scopes),
                models=decode_names(models),
                limits=decode_limits(limits),
                created_at=created_at,
                revoked_at=revoked_at,
            )
            for id, name, scopes, models, limits, created_at, revoked_at in rows
        ]

    def add_key(self, key: ApiKey) -> None:
        added = self._db.execute(
            "insert into api_key(id, name, scopes, models, limits, created_at, revoked_at) "
            "values(?, ?, ?, ?, ?, ?, ?) on conflict do nothing",
            (
                *(key.id, key.name, encode_names(key.scopes), encode_names(key.models)),
                *(encode_limits(key.limits), key.created_at, key.revoked_at),
            ),
        )
        if not added.rowcount:
            raise NameTaken(f"There is a key called {key.name} already.")
        self._next("keys")

    def revoke_key(self, key_id: str, now: float) -> None:
        revoked = self._db.execute(
            "update api_key set revoked_at = ? where id = ? and revoked_at is null", (now, key_id)
        )
        if revoked.rowcount:
            self._next("keys")
        elif self._one("select 1 from api_key where id = ?", key_id) is None:
            raise Missing("There is no such key.")

    def delete_key(self, key_id: str) -> None:
        deleted = self._db.execute(
            "delete from api_key where id = ? and revoked_at is not null", (key_id,)
        )
        if not deleted.rowcount:
            raise Missing("There is no such revoked key.")
        self._next("keys")

    # -- responses ---------------------------------------------------------------------------------

    def put_response(self, row: ResponseRow) -> None:
        held = self._one("select key_id from response where id = ?", row.id)
        if held is not None and held[0] != row.key_id:
            raise Missing(f"There is no response {row.id}.")
        self._db.execute(
            "insert into response(id, key_id, conversation_id, created_at, expires_at, bytes, "
            "body) values(?, ?, ?, ?, ?, ?, ?) on conflict(id) do update set "
            "conversation_id = excluded.conversation_id, created_at = excluded.created_at, "
            "expires_at = excluded.expires_at, bytes = excluded.bytes, body = excluded.body",
            (
                *(row.id, row.key_id, row.conversation_id, row.created_at, row.expires_at),
                *(row.encoded.size, row.encoded.body),
            ),
        )
        if held is not None:
            self._drop_parts(row.id)
        self._keep_parts(row.id, row.encoded.parts)

    def get_response(
        self, response_id: str, key_id: str, now: float
    ) -> tuple[bytes, Mapping[bytes, bytes]]:
        row = self._one(
            "select body from response where id = ? and key_id = ? and expires_at > ?",
            *(response_id, key_id, now),
        )
        if row is None:
            raise Missing(f"There is no response {response_id}.")
        return row[0], self._parts(response_id)

    def latest_response(self, conversation_id: str, key_id: str, now: float) -> str | None:
        row = self._one(
            "select id from response where conversation_id = ? and key_id = ? and expires_at > ? "
            "order by n desc limit 1",
            *(conversation_id, key_id, now),
        )
        return None if row is None else row[0]

    def delete_response(self, response_id: str, key_id: str) -> None:
        row = self._one(
            "delete from response where id = ? and key_id = ? returning id", response_id, key_id
        )
        if row is None:
            raise Missing(f"There is no response {response_id}.")
        self._drop_parts(response_id)

    # -- requests with an idempotency key ----------------------------------------------------------

    def claim_request(self, row: RequestRow, now: float) -> RequestRow | None:
        self._db.execute(
            "delete from request where key_id = ? and name = ? and expires_at <= ? "
            "and not (state = 'running' and node = ?)",
            (row.key_id, row.name, now, self.node_id),
        )
        claimed = self._db.execute(
            "insert into request values(?, ?, ?, ?, ?, ?, ?, ?, ?, ?) "
            "on conflict(key_id, name) do nothing",
            self._request(row),
        )
        if claimed.rowcount:
            return None
        found = self._one(
            "select key_id, name, digest, case when state = 'running' and node <> ? then 'lost' "
            "else state end, expires_at, status, headers, body from request "
            "where key_id = ? and name = ?",
            *(self.node_id, row.key_id, row.name),
        )
        assert found is not None
        return RequestRow(*found)

    def settle_request(self, row: RequestRow, now: float, max_count: int, max_bytes: int) -> None:
        self._db.execute(
            "insert into request values(?, ?, ?, ?, ?, ?, ?, ?, ?, ?) "
            "on conflict(key_id, name) do update set digest = excluded.digest, "
            "node = excluded.node, state = excluded.state, expires_at = excluded.expires_at, "
            "bytes = excluded.bytes, status = excluded.status, headers = excluded.headers, "
            "body = excluded.body",
            self._request(row),
        )
        self._db.execute(
            "delete from request where expires_at <= ? and not (state = 'running' and node = ?)",
            (now, self.node_id),
        )
        held = self._one(
            "select count(*), coalesce(sum(bytes), 0) from request where state <> 'running'"
        )
        assert held is not None
        count, size = held
        if count <= max_count and size <= max_bytes:
            return
        going: list[tuple[str, str]] = []
        for key_id, name, state, _, each in self.requests_by_age():
            if count <= max_count and size <= max_bytes:
                break
            if state != "running":
                going.append((key_id, name))
                count, size = count - 1, size - each
        for key_id, name in going:
            self.release_request(key_id, name)

    def _request(self, row: RequestRow) -> tuple[object, ...]:
        return (
            *(row.key_id, row.name, row.digest, self.node_id, row.state, row.expires_at),
            *(row.size, row.status, row.headers, row.body),
        )

    def release_request(self, key_id: str, name: str) -> None:
        self._db.execute("delete from request where key_id = ? and name = ?", (key_id, name))

    def requests_by_age(self) -> Iterator[tuple[str, str, str, float, int]]:
        yield from self._db.execute(
            "select key_id, name, state, expires_at, bytes from request "
            "order by expires_at, key_id, name"
        )

    def check(self) -> list[str]:
        found = [row[0] for row in self._db.execute("pragma integrity_check(20)")]
        return [] if found == ["ok"] else found


def _short(body: bytes) -> bytes:
    return body if len(body) < LONG_BODY else b""


def _fenced(conversation_id: str) -> Fenced:
    return Fenced(f"Another lease of {conversation_id} was granted, or it was deleted.")


def _owner_word(key_id: str) -> str:
    return hashlib.sha256(key_id.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _summary(row: tuple[Any, ...]) -> Summary:
    id, title, setup, model, profile, workspace, metadata, private, *rest = row
    created_at, used_at, turns, messages, usage = rest
    created = Created(setup, model, profile, workspace, metadata, bool(private))
    figures = (created_at, used_at, turns, messages, Usage(*loads(usage)))
    return summary_of(id, title, created, figures)
