"""The statements of the store in PostgreSQL.

Knows: SQL, and the order of each statement's values. Refuses to know: connections, and what comes
of a statement.

Every one that changes something is whole by itself. ``$1`` and so on may stand in several places.
A moment is a value where a test has a clock, and the engine's own where it is null.
"""

from __future__ import annotations

from functools import cache

from attrs import fields

from ....schemas.turn import Usage

FIGURES = tuple(each.name for each in fields(Usage))
"""The columns of a usage, in its own order."""

_COUNTS = ", ".join(FIGURES)
_ADD_COUNTS = ", ".join(f"{name} = usage.{name} + excluded.{name}" for name in FIGURES)

SUMMARY = (
    "id, title, setup, model, profile, workspace, metadata, private, created_at, used_at, turns, "
    f"messages, {_COUNTS}"
)


def moment(number: int) -> str:
    """Unix seconds: the value of this number, or else the engine's clock."""
    return f"coalesce(${number}::float8, extract(epoch from clock_timestamp())::float8)"


def living(column: str) -> str:
    """Whether the node that `column` names lives."""
    return (
        f"exists (select 1 from node where node.id = {column} and node.expires > clock_timestamp())"
    )


# -- nodes -----------------------------------------------------------------------------------------

GUARD = 0x63634151
"""The advisory lock that a gateway holds as long as it has the database open: alone, or together
with the others. Each schema of a database has its own."""

ALONE = f"select pg_try_advisory_lock({GUARD}, hashtext(current_schema()))"
TOGETHER = f"select pg_try_advisory_lock_shared({GUARD}, hashtext(current_schema()))"
FORGET_ALL = "delete from node"
FORGET_ALONE = "delete from node where url = ''"
RENEW = """
with gone as (delete from node where expires < clock_timestamp() - interval '1 day'),
kept as (update permit set node = $1 where node = any($4::text[])),
batches as (update batch set owner = $1 where owner = any($4::text[])),
files as (update file set writer = $1 where writer = any($4::text[])),
over as (delete from permit where node <> all($4::text[]) and not exists (
    select from node where node.id = permit.node
    and expires > clock_timestamp() - interval '1 minute'))
insert into node values($1, $2, '{}', clock_timestamp() + $3::float8 * interval '1 second')
"""
"""``$4``: this node's lives before. What runs in them runs on: turns count (so a node that has no
lease keeps its permits for a while), and batches that no other node has taken stay its own."""
BEAT = """
with mine as (
    update node set expires = clock_timestamp() + $2::float8 * interval '1 second', facts = $3
    where id = $1 and expires > clock_timestamp() returning id, url, facts, $2::float8)
select * from mine union all
select id, url, facts, extract(epoch from expires - clock_timestamp())::float8 from node
where id <> $1 and expires > clock_timestamp() and exists (select from mine) order by id
"""
LEAVE = "delete from node where id = $1"
"""Its conversations have an owner that lives no more: to change each would be a look at all."""

# -- leases ----------------------------------------------------------------------------------------

_FREE = (
    f"(conversation.owner is null or conversation.owner = $3 or not {living('conversation.owner')})"
)

_STATE = "token, head, last_turn, open_turn"

ACQUIRE = f"""
update conversation set owner = $3, token = nextval('token')
where id = $1 and key_id = $2 and {_FREE} returning {_STATE}
"""
CREATE = f"""
insert into conversation(id, key_id, owner, setup, model, profile, workspace, metadata, private,
    created_at, used_at, token)
values($1, $2, $3, $4, $5, $6, $7, $8, $9, {moment(10)}, {moment(10)}, nextval('token'))
on conflict(id) do update set owner = excluded.owner, token = nextval('token')
where conversation.key_id = excluded.key_id and {_FREE} returning {_STATE}
"""
OWNER = """
select node.id, node.url from conversation
left join node on node.id = owner and node.id <> $3 and node.expires > clock_timestamp()
where conversation.id = $1 and key_id = $2
"""
CLAIM_PLACE = """
insert into place values($1, $2) on conflict(name) do update set name = excluded.name returning home
"""
RELEASE = "update conversation set owner = null where id = $1 and token = $2 and open_turn is null"

RECLAIM = """
update conversation set owner = $1 from unnest($2::text[], $3::bigint[]) as held(id, token)
where conversation.id = held.id and conversation.token = held.token returning conversation.id
"""
NEW_TOKEN = "select nextval('token')"  # noqa: S105 (a number)
RETAKE = f"""
update conversation set token = $3::bigint
where id = $1 and token in ($2::bigint, $3::bigint) returning n, {_STATE}, told_turn
"""
WRITTEN = """
select kind, body from log where n = $1::bigint and seq between $2::int and $3::int order by seq
"""
STAND = f"""
select {_STATE}, number, turn_id, turn.request_id, state, first, last
from conversation left join turn on turn.n = conversation.n and turn.request_id = $2
where id = $1
"""

_HOUR = """to_char(to_timestamp(u.used_at) at time zone 'UTC', 'YYYY-MM-DD"T"HH24')"""
_FIRST = "(select first from turn where turn.n = conversation.n and number = last_turn)"


@cache
def append(
    kind: str, *, parts: bool, units: bool, usage: bool = False, setup: bool = False,
    lineage: bool = False,
) -> str:  # fmt: skip
    """Append records. `kind`: ``plain``, ``begin``, or how a turn ends: ``ended``, ``failed``,
    ``lost``. The values are those of `APPENDED`, in that order, as far as they are asked for."""
    place = {name: number for number, name in enumerate(values_of_append(
        kind, parts=parts, units=units, usage=usage, setup=setup, lineage=lineage,
    ), 1)}  # fmt: skip

    def v(name: str, cast: str) -> str:
        return f"${place[name]}::{cast}"

    sets = [
        f"head = head + {v('count', 'int')}", f"used_at = {moment(place['now'])}",
        f"bytes = bytes + {v('size', 'bigint')}", f"title = coalesce(title, {v('title', 'text')})",
    ]  # fmt: skip
    messages = f"coalesce({v('reset_messages', 'int')}, messages) + {v('messages', 'int')}"
    turns = f"coalesce({v('reset_turns', 'int')}, turns) + {v('turns', 'int')}"
    guard, number = "", "coalesce(open_turn, 0)"
    ctes: list[str] = []
    if kind == "begin":
        sets += [
            "last_turn = last_turn + 1", "open_turn = last_turn + 1", "told_turn = lost_turn",
            "lost_turn = null",
        ]  # fmt: skip
        guard = (
            " and not exists (select 1 from turn where turn.n = conversation.n "
            f"and request_id = {v('request_id', 'text')})"
        )
        ctes.append(
            "t as (insert into turn select n, last_turn, "
            f"{v('turn_id', 'text')}, {v('request_id', 'text')}, 'running', "
            f"{v('head', 'int')} + {v('first', 'int')}, null from u)"
        )
    elif kind != "plain":
        sets.append("open_turn = null")
        guard, number = " and open_turn is not null", "last_turn"
        ctes.append(
            f"t as (update turn set state = '{kind}', last = u.head from u "
            "where turn.n = u.n and turn.number = u.last_turn)"
        )
        if kind == "ended":
            # Between its start and its end, a turn that has ended has nothing but messages.
            messages += f" + head + {v('count', 'int')} - {_FIRST} - 1"
            turns += " + 1"
            ctes.append(
                "w as (insert into unit select u.n, turn.first, u.head from u "
                "join turn on turn.n = u.n and turn.number = u.last_turn)"
            )
        elif kind == "lost":
            sets.append(
                "lost_turn = (select turn_id from turn where turn.n = conversation.n "
                "and number = last_turn)"
            )
        if usage:
            sets += [f"{name} = {name} + {v(f'used_{name}', _type(name))}" for name in FIGURES]
        if setup:
            sets += [f"{name} = {v(name, kind_)}" for name, kind_ in SETUP.items()]
        charged = ", ".join(v(f"charged_{name}", _type(name)) for name in FIGURES)
        ctes.append(
            f"c as (insert into usage(key_id, hour, model, turns, {_COUNTS}) "
            f"select u.key_id, {_HOUR}, coalesce(nullif({v('charged_model', 'text')}, ''), "
            # As the statement found it: of the model that it had while the turn ran.
            "(select model from conversation old where old.n = u.n)), "
            f"1, {charged} from u on conflict(key_id, hour, model) do update "
            f"set turns = usage.turns + 1, {_ADD_COUNTS})"
        )
        if lineage:
            ctes.append(
                f"h as (insert into lineage select key_id, {v('lineage', 'bytea')}, n, head, "
                "nextval('lineage_put') from u on conflict(key_id, digest, n) do update "
                "set seq = excluded.seq, put = excluded.put)"
            )
    if parts:
        ctes.append(
            "p as (insert into part select u.n, digest, content from u, "
            f"unnest({v('digests', 'bytea[]')}, {v('contents', 'bytea[]')}) "
            "as each(digest, content) on conflict do nothing)"
        )
    if units:
        ctes.append(
            f"x as (insert into unit select u.n, {v('head', 'int')} + 1 + each.first, "
            f"{v('head', 'int')} + 1 + each.last from u, "
            f"unnest({v('firsts', 'int[]')}, {v('lasts', 'int[]')}) as each(first, last))"
        )
    sets += [f"messages = {messages}", f"turns = {turns}"]
    number = {"begin": "last_turn"}.get(kind, number)
    return (
        f"with u as (update conversation set {', '.join(sets)} where id = {v('id', 'text')} "
        f"and token = {v('token', 'bigint')} and head = {v('head', 'int')}{guard} "
        "returning n, key_id, head, last_turn, open_turn, told_turn, used_at), "
        f"l as (insert into log select u.n, {v('head', 'int')} + each.number, "
        f"{v('token', 'bigint')}, {number}, u.used_at, each.kind, each.body from u, "
        f"unnest({v('kinds', 'text[]')}, {v('bodies', 'bytea[]')}) with ordinality "
        f"as each(kind, body, number)){''.join(f', {each}' for each in ctes)} "
        "select head, last_turn, told_turn from u"
    )


SETUP = {"setup": "bytea", "model": "text", "profile": "text", "workspace": "text"}


@cache
def values_of_append(
    kind: str, *, parts: bool, units: bool, usage: bool, setup: bool, lineage: bool
) -> tuple[str, ...]:
    """The names of the values of `append`, in their order."""
    names = [
        "id", "token", "head", "count", "now", "size", "title", "reset_messages", "messages",
        "reset_turns", "turns", "kinds", "bodies",
    ]  # fmt: skip
    if kind == "begin":
        names += ["turn_id", "request_id", "first"]
    elif kind != "plain":
        names += [f"charged_{name}" for name in ("model", *FIGURES)]
    names += [f"used_{name}" for name in FIGURES] if usage else []
    names += [*SETUP] if setup else []
    names += ["lineage"] if lineage else []
    names += ["digests", "contents"] if parts else []
    names += ["firsts", "lasts"] if units else []
    return tuple(names)


def _type(figure: str) -> str:
    return "float8" if figure == "cost_usd" else "bigint"


# -- reading ---------------------------------------------------------------------------------------

GET = f"""
select setup, metadata, private, title, created_at, used_at, turns, messages, {_COUNTS}, grants,
    head, open_turn, lost_turn, bytes, node.id, node.url
from conversation
left join node on node.id = owner and node.id <> $3 and node.expires > clock_timestamp()
where conversation.id = $1 and key_id = $2
"""
ROWS = """
select conversation.n, seq, each.token, turn, at, kind, body from conversation
left join lateral (
    select * from log where log.n = conversation.n and seq >= $3::int order by seq limit $4::int
) each on true
where id = $1 and key_id = $2 order by seq
"""
PARTS = "select digest, content from part where n = $1::bigint and digest = any($2::bytea[])"
HEAD = """
select head, token, owner, open_turn, node.id, node.url from conversation
left join node on node.id = owner and node.id <> $2 and node.expires > clock_timestamp()
where conversation.id = $1
"""
_TURN = """
select number, turn_id, request_id, state, first, last from turn
where n = (select n from conversation where id = $1) and"""
TURN = f"{_TURN} number = $2::int"
REQUEST = f"{_TURN} request_id = $2"
ORPHANS = f"""
select id, key_id from turn join conversation using(n)
where state = 'running' and open_turn is not null and owner is distinct from $1
    and not coalesce({living("owner")}, false)
order by n limit $2::int
"""
WORKSPACES = """
select distinct case workspace when '' then id else workspace end from conversation
where profile = 'agent'
"""
AGENTS = "select id from conversation where profile = 'agent'"
NUMBER = "select n from conversation where id = $1 and key_id = $2"


@cache
def page(*, newest_first: bool) -> str:
    compare, order = ("<", "desc") if newest_first else (">", "asc")
    return (
        f"select {SUMMARY} from conversation where key_id = $1 and n {compare} $2::bigint "
        f"order by n {order} limit $3::int"
    )


def search(*, newest_first: bool, phrases: int) -> str:
    """`phrases`: how many terms have several words, which the index does not know side by side."""
    compare, order = ("<", "desc") if newest_first else (">", "asc")
    sides = " and ".join(f"words like ${number}" for number in range(6, 6 + phrases)) or "true"
    return (
        f"select {SUMMARY} from conversation where n in ("
        "select conversation.n from word join conversation using(n) "
        f"where key_id = $1 and conversation.n {compare} $2::bigint and ("
        f"(found @@ $4::tsquery and {sides}) or (found is null and words like all($5::text[]))) "
        f"group by conversation.n order by conversation.n {order} limit $3::int) order by n {order}"
    )


UNINDEXED = """
select unit.n, unit.first, key_id, seq, kind,
    case kind when 'end' then '' else body end
from (select * from unit order by n, first limit $1::int) unit join conversation using(n)
join log on log.n = unit.n and seq between unit.first and unit.last
where kind in ('user', 'assistant', 'end') order by unit.n, unit.first, seq
"""
INDEX = """
with mine as (
    select unit.n, unit.first from unit
    join unnest($1::bigint[], $2::int[]) as each(n, first) using(n, first)
    order by n, first for update skip locked
), done as (
    delete from unit using mine where unit.n = mine.n and unit.first = mine.first
    returning unit.n, unit.first, unit.last
)
insert into word select n, first, last, each.words,
    array_to_tsvector(string_to_array(each.found, ' '))
from done join unnest($1::bigint[], $2::int[], $3::text[], $4::text[])
    as each(n, first, words, found) using(n, first)
on conflict do nothing
"""
STATISTICS = """
select (select count(*) from conversation),
    (select coalesce(sum(bytes), 0)::bigint from conversation),
    (select count(*) from response), (select coalesce(sum(bytes), 0)::bigint from response),
    (select coalesce(sum(bytes), 0)::bigint from request)
"""

# -- conversations ---------------------------------------------------------------------------------

UPDATE = """
with u as (
    update conversation set metadata = coalesce($3::bytea, metadata),
        title = coalesce($4::text, title), private = coalesce($5::bool, private),
        grants = grants || array(select rule from unnest($6::text[]) with ordinality
            as each(rule, place) where rule <> all(grants) order by place)
    where id = $1 and key_id = $2 returning n
), d as (delete from lineage using u where lineage.n = u.n and $5::bool)
select 1 from u
"""
DELETE = """
with gone as (delete from conversation where id = $1 and key_id = $2 returning id),
    place as (delete from place where name in (select id from gone))
select 1 from gone
"""

_UNUSED = f"""open_turn is null and id <> all($1::text[])
    and (owner is null or owner = $2 or not {living("owner")})"""
PRUNE = f"""
delete from conversation where used_at < $3::float8 and open_turn is null and n in (
    select n from conversation where used_at < $3::float8 and {_UNUSED}
    order by used_at, n limit $4::int)
returning used_at, id
"""
OLDEST = f"""
select used_at as at, 0 as kind, id, key_id, bytes from conversation where {_UNUSED}
union all select created_at, 1, id, key_id, bytes from response
order by at, kind limit $3::int
"""
PRUNE_RESPONSES = f"""
delete from response where n in (
    select n from response where expires_at <= {moment(1)} order by n limit $2::int)
returning 1
"""
SPARE_RESPONSES = """
delete from response where n in (
    select n from response order by n desc offset $1::int limit $2::int) returning 1
"""

# -- lineage, usage --------------------------------------------------------------------------------

LINEAGE_PUT = """
insert into lineage select key_id, $3::bytea, n, $4::int, nextval('lineage_put') from conversation
where id = $1 and key_id = $2
on conflict(key_id, digest, n) do update set seq = excluded.seq, put = excluded.put returning 1
"""
LINEAGE_FIND = """
select lineage.digest, conversation.id, seq
from unnest($2::bytea[]) with ordinality as each(digest, place)
join lineage on lineage.key_id = $1 and lineage.digest = each.digest
join conversation using(n) order by place, put desc limit $3::int
"""
COUNT = f"""
insert into usage(key_id, hour, model, turns, {_COUNTS})
select * from unnest($1::text[], $2::text[], $3::text[], $4::bigint[], {
    ", ".join(f"${number}::{_type(name)}[]" for number, name in enumerate(FIGURES, 5))
})
on conflict(key_id, hour, model) do update
set turns = usage.turns + excluded.turns, {_ADD_COUNTS}
"""
_SUMS = ", ".join(f"sum({name})::{_type(name)}" for name in FIGURES)
USAGE = f"""
select key_id, substr(hour, 1, 10) as day, model, sum(turns)::bigint, {_SUMS} from usage
where ($1::text is null or key_id = $1::text) and hour between $2 and $3
group by key_id, day, model order by key_id, day, model
"""
SPENT = f"""
select key_id, hour, model, turns, {_COUNTS} from usage where key_id = $1 and hour >= $2
order by hour, model
"""

# -- limits ----------------------------------------------------------------------------------------

_STANDING = (
    "select has_room, running, remaining, tokens, usd, first_hours from admit("
    "$1, $2, $3, $4::int, $5::float8, $6::text[], $7::bigint[], $8::float8[], {takes}, $9::float8)"
)
ADMIT = _STANDING.format(takes=True)
STANDING = _STANDING.format(takes=False)
DISCHARGE = """
delete from permit using unnest($1::text[], $2::text[]) as each(key_id, turn_id)
where permit.key_id = each.key_id and permit.turn_id = each.turn_id
"""

# -- keys ------------------------------------------------------------------------------------------

KEYS = """
select value, id, api_key.name, scopes, models, limits, created_at, revoked_at from counter
left join api_key on true
where counter.name = 'keys' and value is distinct from $1::bigint order by n
"""
_COUNT_KEYS = (
    "update counter set value = value + 1 where name = 'keys' and exists (select 1 from done)"
)
CHANNEL = "'ccapi_' || hashtext(current_schema())"
"""By which the nodes of one place tell each other of changes. (A channel is its database's.)"""


def tell(topic: str) -> str:
    """Has the nodes receive a hint once the statement is done."""
    return f"pg_notify({CHANNEL}, '{topic}')::text"


ADD_KEY = f"""
with done as (
    insert into api_key(id, name, scopes, models, limits, created_at, revoked_at)
    values($1, $2, $3, $4, $5, $6::float8, $7::float8) on conflict do nothing returning 1
), counted as ({_COUNT_KEYS})
select 1, {tell("keys")} from done
"""
REVOKE_KEY = f"""
with done as (
    update api_key set revoked_at = {moment(2)} where id = $1 and revoked_at is null returning 1
), counted as ({_COUNT_KEYS})
select 1, {tell("keys")} from api_key where id = $1
"""
DELETE_KEY = f"""
with done as (delete from api_key where id = $1 and revoked_at is not null returning 1),
counted as ({_COUNT_KEYS})
select 1, {tell("keys")} from done
"""

# -- responses -------------------------------------------------------------------------------------

PUT_RESPONSE = """
with r as (
    insert into response(id, key_id, conversation_id, created_at, expires_at, bytes, body)
    values($1, $2, $3, $4::float8, $5::float8, $6::bigint, $7)
    on conflict(id) do update set conversation_id = excluded.conversation_id,
        created_at = excluded.created_at, expires_at = excluded.expires_at,
        bytes = excluded.bytes, body = excluded.body
    where response.key_id = excluded.key_id returning n
), d as (
    delete from response_part using r where response_part.n = r.n and digest <> all($8::bytea[])
), p as (
    insert into response_part select n, digest, content
    from r, unnest($8::bytea[], $9::bytea[]) as each(digest, content) on conflict do nothing
)
select n from r
"""
_WHOLE = """body,
    array(select digest from response_part where response_part.n = response.n order by digest),
    array(select content from response_part where response_part.n = response.n order by digest)"""
GET_RESPONSE = f"""
select {_WHOLE} from response where id = $1 and key_id = $2 and expires_at > {moment(3)}
"""
LATEST_RESPONSE = f"""
select {_WHOLE} from response
where conversation_id = $1 and key_id = $2 and expires_at > {moment(3)} order by n desc limit 1
"""
DELETE_RESPONSE = "delete from response where id = $1 and key_id = $2 returning 1"

# -- requests with an idempotency key --------------------------------------------------------------

_RUNS = f"(request.state = 'running' and (request.node = $4 or {living('request.node')}))"
_REPLACE = """digest = excluded.digest, node = excluded.node, state = excluded.state,
    expires_at = excluded.expires_at, bytes = excluded.bytes, status = excluded.status,
    headers = excluded.headers, body = excluded.body"""
CLAIM = f"""
insert into request values($1, $2, $3, $4, 'running', $5::float8, 0, 0, '', '')
on conflict(key_id, name) do update set {_REPLACE}
where request.expires_at <= {moment(6)} and not {_RUNS} returning 1
"""
CLAIMED = f"""
select key_id, name, digest,
    case when state = 'running' and node <> $3 and not {living("request.node")} then 'lost'
    else state end,
    expires_at, status, headers, body,
    state = 'running' and node <> $3 and {living("request.node")}
from request where key_id = $1 and name = $2
"""
SETTLE = f"""
insert into request values($1, $2, $3, $4, $5, $6::float8, $7::bigint, $8::int, $9, $10)
on conflict(key_id, name) do update set {_REPLACE}
"""
TRIM = f"""
delete from request where (key_id, name) in (
    select key_id, name from request where expires_at <= {moment(1)} and not {
    _RUNS.replace("$4", "$2")
}
    union all
    select key_id, name from (
        select key_id, name, count(*) over newest as place, sum(bytes) over newest as size
        from request where state <> 'running'
            and expires_at > {moment(1)}
        window newest as (order by expires_at desc, key_id desc, name desc rows unbounded preceding)
    ) each where place > $3::bigint or size > $4::bigint)
"""
RELEASE_REQUEST = "delete from request where key_id = $1 and name = $2"

# -- operations ------------------------------------------------------------------------------------

CHECK = """
select 'conversation ' || id || ' has ' || (select count(*) from log where log.n = c.n)
    || ' records, not ' || head
from conversation c where head <> (select count(*) from log where log.n = c.n)
union all
select 'conversation ' || id || ' has an open turn that does not run' from conversation c
where open_turn is not null and not exists (select 1 from turn
    where turn.n = c.n and number = open_turn and state = 'running')
limit 20
"""
