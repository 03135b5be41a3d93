"""The tables of the SQLite store, and how an older database becomes a newer one.

Knows: SQL that makes and changes tables. The version is SQLite's ``user_version``.

A conversation has a number `n`; its record `seq` has the row id ``n << 24 | seq``, so that a log
lies together, and the row id alone says whose a found word is.
"""

from __future__ import annotations

import sqlite3

from .interface import StoreRefused

APPLICATION_ID = 0x63634150
"""What says that a database is a store of this gateway (``PRAGMA application_id``)."""

SEQ_BITS = 24

_FIRST = """
create table counter(name text primary key, value integer not null) without rowid;
insert into counter values('token', 0);
create table conversation(
    n integer primary key autoincrement, id text not null unique, key_id text not null,
    setup blob not null, model text not null, profile text not null, workspace text not null,
    metadata blob not null, private integer not null, title text, grants blob not null,
    created_at real not null, used_at real not null,
    owner text, token integer not null, head integer not null default 0,
    last_turn integer not null default 0, open_turn integer, lost_turn text,
    turns integer not null default 0, messages integer not null default 0,
    usage blob not null, bytes integer not null default 0);
create index conversation_by_key on conversation(key_id, n);
create index conversation_by_use on conversation(used_at, n, bytes);
create index conversation_of_agent on conversation(id, workspace) where profile = 'agent';
create index conversation_open on conversation(open_turn) where open_turn is not null;
create table log(
    id integer primary key, token integer not null, turn integer not null, at real not null,
    kind text not null, body blob not null);
create table turn(
    n integer not null, number integer not null, turn_id text not null, request_id text not null,
    state text not null, first integer not null, last integer,
    primary key(n, number), unique(n, request_id)) without rowid;
create table unit(first integer primary key, last integer not null, indexed integer not null);
create index unit_to_index on unit(first) where indexed = 0;
create virtual table word using fts5(
    owner, words, content='', columnsize=0, tokenize='ascii');
create table part(digest blob primary key, content blob not null);
create table part_use(
    holder text not null, digest blob not null, primary key(holder, digest)) without rowid;
create index part_use_by_digest on part_use(digest);
create table lineage(
    key_id text not null, digest blob not null, n integer not null, seq integer not null,
    put integer not null, primary key(key_id, digest, n)) without rowid;
create index lineage_by_conversation on lineage(n);
insert into counter values('lineage', 0);
create table usage(
    key_id text not null, day text not null, turns integer not null,
    prompt_tokens integer not null, completion_tokens integer not null,
    cached_tokens integer not null, cache_write_tokens integer not null, cost_usd real not null,
    reasoning_tokens integer not null, primary key(key_id, day)) without rowid;
create table response(
    n integer primary key autoincrement, id text not null unique, key_id text not null,
    conversation_id text not null, created_at real not null, expires_at real not null,
    bytes integer not null, body blob not null);
create index response_by_conversation on response(conversation_id, n);
create index response_by_age on response(n, created_at, expires_at, bytes);
"""

_SECOND = """
drop table word;
create virtual table word using fts5(
    owner, words, content='', columnsize=0, tokenize='ascii', prefix='1 2 3 4');
update unit set indexed = 0;
"""
# The last word of a search may be the beginning of one. Without its own index FTS5 merges the lists
# of every word that begins so: 0.4 s for one letter in 100,000 turns. Turns are indexed again.

_KEYS = """
create table api_key(
    n integer primary key autoincrement, id text not null unique, name text not null,
    scopes text not null, models text not null, limits text not null, created_at real not null,
    revoked_at real);
create unique index api_key_by_name on api_key(name) where revoked_at is null;
insert into counter values('keys', 0);
alter table usage rename to usage_by_day;
create table usage(
    key_id text not null, hour text not null, model text not null, turns integer not null,
    prompt_tokens integer not null, completion_tokens integer not null,
    cached_tokens integer not null, cache_write_tokens integer not null, cost_usd real not null,
    reasoning_tokens integer not null, primary key(key_id, hour, model)) without rowid;
insert into usage select key_id, day || 'T00', '', turns, prompt_tokens, completion_tokens,
    cached_tokens, cache_write_tokens, cost_usd, reasoning_tokens from usage_by_day;
drop table usage_by_day;
"""
# Usage by the hour, and by model: the limits of a key are about windows of whole hours. What was
# counted by the day is in the first hour of it, of no model.

_IDEMPOTENCY = """
create table request(
    key_id text not null, name text not null, digest blob not null, node text not null,
    state text not null, expires_at real not null, bytes integer not null,
    status integer not null, headers blob not null, body blob not null,
    primary key(key_id, name));
create index request_by_age on request(expires_at, bytes);
"""

_BATCHES = """
create table file(
    n integer primary key autoincrement, id text not null unique, key_id text not null,
    purpose text not null, name text not null, bytes integer not null, created_at real not null,
    expires_at real not null, writer text);
create index file_by_key on file(key_id, n, bytes);
create index file_by_expiry on file(expires_at);
create table piece(id integer primary key, content blob not null);
create table batch(
    n integer primary key autoincrement, id text not null unique, key_id text not null,
    dialect text not null, endpoint text not null, input_file text not null, state text not null,
    created_at real not null, expires_at real not null, kept_until real not null,
    times text not null, details blob not null, output_file text, error_file text,
    total integer not null default 0, succeeded integer not null default 0,
    errored integer not null default 0, canceled integer not null default 0,
    expired integer not null default 0, bytes integer not null default 0,
    owner text not null, token integer not null);
create index batch_by_key on batch(key_id, dialect, n);
create index batch_open on batch(state)
    where state in ('validating', 'in_progress', 'finalizing', 'cancelling');
create table batch_request(
    id integer primary key, batch integer not null, custom_id text not null, state text not null,
    token integer not null, body blob not null, result blob not null);
create index batch_request_by_state on batch_request(batch, state, id);
"""
# A file's piece has the row id ``n << 20 | number``, a batch's request ``n << 20 | number``, so
# that they lie together. `writer` is the node that writes a file which is not whole.

MIGRATIONS: tuple[str, ...] = (_FIRST, _SECOND, _IDEMPOTENCY, _KEYS, _BATCHES)
"""What makes version 1 of an empty database, version 2 of version 1, and so on. Statements end with
a semicolon at the end of a line."""


def version_of(connection: sqlite3.Connection, path: str) -> int:
    """The version of the tables, 0 for an empty database. Raises `StoreRefused` where it is a newer
    one, or another program's. Writes nothing."""
    version = int(connection.execute("pragma user_version").fetchone()[0])
    application = int(connection.execute("pragma application_id").fetchone()[0])
    tables = int(connection.execute("select count(*) from sqlite_master").fetchone()[0])
    if tables and application != APPLICATION_ID:
        raise StoreRefused(
            f"{path} is not a store of this gateway: move it away, or set storage.path to another "
            "folder."
        )
    if version > len(MIGRATIONS):
        raise StoreRefused(
            f"{path} was written by a newer version of this program (its schema is {version}, this "
            f"one knows {len(MIGRATIONS)}): install that version again, or set storage.path to "
            "another folder."
        )
    return version


def migrate(connection: sqlite3.Connection, path: str) -> None:
    """Bring the database to the version of this program, in one transaction. Raises as
    `version_of`."""
    version = version_of(connection, path)
    if version == len(MIGRATIONS):
        return
    connection.execute("begin immediate")
    try:
        for script in MIGRATIONS[version:]:
            for statement in script.split(";\n"):
                connection.execute(statement)
        connection.execute(f"pragma application_id = {APPLICATION_ID}")
        connection.execute(f"pragma user_version = {len(MIGRATIONS)}")
        connection.execute("commit")
    except BaseException:
        if connection.in_transaction:
            connection.execute("rollback")
        raise
