"""The tables of the store in PostgreSQL, and how an older database becomes a newer one.

Knows: SQL that makes and changes tables, and which of them this program works with. An empty
database is made ready by the first that opens it; an older one waits for ``ccapi store migrate``,
since other gateways may still work with it.

What belongs to a conversation goes with it (``on delete cascade``), also what another statement has
added a moment before. Nothing that an append changes in `conversation` is in an index, so that its
row is changed in place (``fillfactor``).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from ..interface import StoreRefused
from .connection import Connection
from .trio_connection import Row

ONE_AT_A_TIME = f"select pg_advisory_xact_lock({0x63634150}, hashtext(current_schema()))"
"""Tables are made and changed under this lock."""

_FIRST = """
create table counter(name text primary key, value bigint not null);
insert into counter values('schema', 0), ('probe', 0), ('keys', 0);
create sequence token;
create sequence lineage_put;
create table node(
    id text primary key, url text not null, facts bytea not null, expires timestamptz not null);
create table conversation(
    n bigint generated always as identity primary key, id text not null unique,
    key_id text not null, setup bytea not null, model text not null, profile text not null,
    workspace text not null, metadata bytea not null, private boolean not null, title text,
    grants text[] not null default '{}', created_at float8 not null, used_at float8 not null,
    owner text, token bigint not null, head integer not null default 0,
    last_turn integer not null default 0, open_turn integer, lost_turn text, told_turn text,
    turns integer not null default 0, messages integer not null default 0,
    prompt_tokens bigint not null default 0, completion_tokens bigint not null default 0,
    cached_tokens bigint not null default 0, cache_write_tokens bigint not null default 0,
    cost_usd float8 not null default 0, reasoning_tokens bigint not null default 0,
    bytes bigint not null default 0) with (fillfactor = 70);
create index conversation_by_key on conversation(key_id, n);
create index conversation_of_agent on conversation(id) where profile = 'agent';
create table log(
    n bigint not null references conversation on delete cascade, seq integer not null,
    token bigint not null, turn integer not null, at float8 not null, kind text not null,
    body bytea not null, primary key(n, seq));
create table part(
    n bigint not null references conversation on delete cascade, digest bytea not null,
    content bytea not null, primary key(n, digest));
create table turn(
    n bigint not null references conversation on delete cascade, number integer not null,
    turn_id text not null, request_id text not null, state text not null, first integer not null,
    last integer, primary key(n, number), unique(n, request_id));
create index turn_running on turn(n) where state = 'running';
create table unit(
    n bigint not null references conversation on delete cascade, first integer not null,
    last integer not null, primary key(n, first));
create table word(
    n bigint not null references conversation on delete cascade, first integer not null,
    last integer not null, words text not null, found tsvector, primary key(n, first));
create index word_found on word using gin(found);
create index word_long on word(n) where found is null;
create table lineage(
    key_id text not null, digest bytea not null,
    n bigint not null references conversation on delete cascade, seq integer not null,
    put bigint not null, primary key(key_id, digest, n));
create index lineage_by_conversation on lineage(n);
create table usage(
    key_id text not null, hour text not null, model text not null, turns bigint not null,
    prompt_tokens bigint not null, completion_tokens bigint not null, cached_tokens bigint not null,
    cache_write_tokens bigint not null, cost_usd float8 not null, reasoning_tokens bigint not null,
    primary key(key_id, hour, model));
create table api_key(
    n bigint generated always as identity primary key, id text not null unique, name text not null,
    scopes text not null, models text not null, limits text not null, created_at float8 not null,
    revoked_at float8);
create unique index api_key_by_name on api_key(name) where revoked_at is null;
create table response(
    n bigint generated always as identity primary key, id text not null unique,
    key_id text not null, conversation_id text not null, created_at float8 not null,
    expires_at float8 not null, bytes bigint not null, body bytea not null);
create index response_by_conversation on response(conversation_id, n);
create table response_part(
    n bigint not null references response on delete cascade, digest bytea not null,
    content bytea not null, primary key(n, digest));
create table request(
    key_id text not null, name text not null, digest bytea not null, node text not null,
    state text not null, expires_at float8 not null, bytes bigint not null,
    status integer not null, headers bytea not null, body bytea not null,
    primary key(key_id, name));
create index request_by_age on request(expires_at);
"""

_BATCHES = """
create table file(
    n bigint generated always as identity primary key, id text not null unique,
    key_id text not null, purpose text not null, name text not null,
    bytes bigint not null default 0, created_at float8 not null, expires_at float8 not null,
    writer text);
create index file_by_key on file(key_id, n);
create index file_by_expiry on file(expires_at);
create table piece(
    n bigint not null references file on delete cascade, number integer not null,
    content bytea not null, primary key(n, number));
create table batch(
    n bigint generated always as identity primary key, id text not null unique,
    key_id text not null, dialect text not null, endpoint text not null, input_file text not null,
    state text not null, created_at float8 not null, expires_at float8 not null,
    kept_until float8 not null, times text not null, details bytea not null, output_file text,
    error_file text, total integer not null default 0, succeeded integer not null default 0,
    errored integer not null default 0, canceled integer not null default 0,
    expired integer not null default 0, bytes bigint not null default 0, owner text not null,
    token bigint not null) with (fillfactor = 70);
create index batch_by_key on batch(key_id, dialect, n);
create index batch_open on batch(n)
    where state in ('validating', 'in_progress', 'finalizing', 'cancelling');
create table batch_request(
    n bigint not null references batch on delete cascade, number integer not null,
    custom_id text not null, state text not null, token bigint not null, body bytea not null,
    result bytea not null, primary key(n, number));
create index batch_request_open on batch_request(n, state, number)
    where state in ('waiting', 'running');
"""

MOST_WINDOWS = 4
"""Windows in which a key's usage is limited."""

# A function, because each statement in it sees what was committed before it began: what waits for
# the key's row sees the turn that was admitted meanwhile. It is one statement for who calls it.
# What is refused at the first look changes nothing: it waits neither for a row nor for the disk.
_ADMIT = """
create function admit(
    asked text, turn text, me text, most integer, in_minute float8, firsts text[],
    tokens_most bigint[], usd_most float8[], takes boolean, now float8,
    out has_room boolean, out running bigint, out remaining float8, out tokens bigint[],
    out usd float8[], out first_hours text[], out at float8)
language plpgsql volatile as $admit$
declare before allowance;
begin
    if takes and not exists (select from node where id = me and expires > clock_timestamp()) then
        return;
    end if;
    for step in 1..case when takes then 2 else 1 end loop
        if step = 2 then
            insert into allowance select asked, 'infinity', 0
                where not exists (select from allowance where key_id = asked)
                on conflict do nothing;
            select * into before from allowance where key_id = asked for update;
            delete from permit where key_id = asked and not exists (
                select from node where id = permit.node
                and expires > clock_timestamp() - interval '1 minute');
        else
            select * into before from allowance where key_id = asked;
        end if;
        select count(*) into running from permit join node on node.id = permit.node
            where key_id = asked and expires > clock_timestamp();
        at := coalesce(now, extract(epoch from clock_timestamp()));
        remaining := least(in_minute, coalesce(
            before.remaining + greatest(0, at - before.at) * in_minute / 60, in_minute));
        tokens := '{{}}';
        usd := '{{}}';
        first_hours := '{{}}';
        if cardinality(firsts) > 0 then
            select array[{tokens}], array[{usd}], array[{hours}] into tokens, usd, first_hours
                from usage where key_id = asked
                    and hour >= (select min(first) from unnest(firsts) as first);
            tokens := tokens[:cardinality(firsts)];
            usd := usd[:cardinality(firsts)];
            first_hours := first_hours[:cardinality(firsts)];
        end if;
        has_room := (most = 0 or running < most) and (in_minute = 0 or remaining >= 1)
            and not exists (
                select from unnest(tokens, usd, tokens_most, usd_most)
                    as each(a, b, most_a, most_b)
                where (most_a > 0 and a >= most_a) or (most_b > 0 and b >= most_b));
        exit when not has_room;
    end loop;
    if takes and has_room then
        if in_minute > 0 then
            update allowance set remaining = admit.remaining - 1, at = admit.at
            where key_id = asked;
        end if;
        if turn is not null then
            insert into permit values(asked, turn, me);
        end if;
    end if;
end
$admit$;
"""


def _sums(value: str) -> str:
    """The value for each of the windows, in one pass over all hours."""
    places = range(1, MOST_WINDOWS + 1)
    return ", ".join(value.format(f"filter (where hour >= firsts[{n}])") for n in places)


_ADMIT = _ADMIT.format(
    tokens=_sums("coalesce(sum(prompt_tokens + completion_tokens) {}, 0)::bigint"),
    usd=_sums("coalesce(sum(cost_usd) {}, 0)::float8"),
    hours=_sums("coalesce(min(hour) {}, '')"),
)
_LIMITS = f"""
create table allowance(
    key_id text collate "C" primary key, remaining float8 not null, at float8 not null)
    with (fillfactor = 50);
create table permit(
    key_id text collate "C" not null, turn_id text collate "C" not null,
    node text collate "C" not null, primary key(key_id, turn_id));
{" ".join(_ADMIT.split())}
"""

_PLACES = """
create table place(name text collate "C" primary key, home text collate "C" not null);
"""

MIGRATIONS: tuple[str, ...] = (
    *(re.sub(r" text(?!\[)", ' text collate "C"', script) for script in (_FIRST, _BATCHES)),
    _LIMITS,
    _PLACES,
)
"""What makes version 1 of an empty database, version 2 of version 1, and so on. Statements end with
a semicolon at the end of a line. Texts are compared by their bytes, whatever the database's
language."""

MARKS = ["conversation", "counter", "log", "turn"]
"""Tables by which a store is recognized, whatever its version."""

IS_OURS = """
select count(*) filter (where relname = any($1)), count(*) from pg_class
where relnamespace = (select oid from pg_namespace where nspname = current_schema())
    and relkind in ('r', 'p')
"""


VERSION = "select value from counter where name = 'schema'"


async def version_of(connection: Connection, place: str) -> int:
    """The version of the tables, 0 where there are none. Raises `StoreRefused` where they are of a
    newer program, or another one's; `psycopg.Error`."""
    [(ours, tables)] = await connection.execute(IS_OURS, [MARKS])
    if not tables:
        return 0
    return judged(await connection.execute(VERSION) if ours == len(MARKS) else [], place)


def judged(found: Sequence[Row], place: str) -> int:
    """The version, of what `VERSION` gives. Raises as `version_of`."""
    if not found:
        raise StoreRefused(
            f"{place} is not a store of this gateway, and has tables: set storage.url to an empty "
            "database, or to a schema of its own (?options=-csearch_path%3DNAME)."
        )
    version = int(found[0][0])
    if version > len(MIGRATIONS):
        raise StoreRefused(
            f"{place} was changed by a newer version of this program (its schema is {version}, "
            f"this one knows {len(MIGRATIONS)}): install that version again, or set storage.url to "
            "another database."
        )
    return version


async def make_ready(connection: Connection, place: str) -> None:
    """Make the tables of an empty database. Raises as `version_of`, also for an older one."""
    version = await version_of(connection, place)
    if not version:
        version = await migrate(connection, place, only_empty=True)
    if version < len(MIGRATIONS):
        raise StoreRefused(
            f"{place} is of an older version of this program (its schema is {version}, this one's "
            f"{len(MIGRATIONS)}): end the gateways that use it, and run `ccapi store migrate`."
        )


async def migrate(connection: Connection, place: str, *, only_empty: bool = False) -> int:
    """Bring the tables to this program's version, in one transaction; returns the version. Raises
    as `version_of`."""
    await connection.execute("begin")
    try:
        await connection.execute("set local statement_timeout = 0")
        await connection.execute("set local lock_timeout = 0")
        await connection.execute(ONE_AT_A_TIME)
        version = await version_of(connection, place)
        if not version or not only_empty:
            for script in MIGRATIONS[version:]:
                for statement in script.strip().removesuffix(";").split(";\n"):
                    await connection.execute(statement, prepare=False)
            version = len(MIGRATIONS)
            await connection.execute(
                "update counter set value = $1::bigint where name = 'schema'", [version]
            )
        await connection.execute("commit")
    except BaseException:
        connection.close()  # which undoes it
        raise
    return version
