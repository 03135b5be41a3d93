"""The statements for files and batches, as `statements` has the others."""

from __future__ import annotations

from .statements import living, moment, tell

FILE = "id, key_id, purpose, name, bytes, created_at, expires_at"

BATCH = (
    "id, key_id, dialect, endpoint, input_file, state, created_at, expires_at, kept_until, times, "
    "details, output_file, error_file, total, succeeded, errored, canceled, expired"
)

_OPEN = "state in ('validating', 'in_progress', 'finalizing', 'cancelling')"

# -- files -----------------------------------------------------------------------------------------

BEGIN = """
insert into file(id, key_id, purpose, name, created_at, expires_at, writer)
select $1, $2, $3, $4, $5::float8, $6::float8, $7
where $8::int is null or (select count(*) from file where key_id = $2) < $8::int returning 1
"""
WRITE = """
with u as (
    update file set bytes = bytes + length($4::bytea) where id = $1 and writer = $2
    and ($5::bigint is null or $5::bigint >= length($4::bytea) +
        (select sum(bytes) from file as own where own.key_id = file.key_id))
    and ($6::bigint is null or $6::bigint >= length($4::bytea) + (select sum(bytes) from file as f))
    returning n)
insert into piece select n, $3::int, $4::bytea from u returning 1
"""
HELD = """
select (select coalesce(sum(own.bytes), 0) from file as own where own.key_id = file.key_id)::bigint
from file where id = $1 and writer = $2
"""
FINISH = f"""
update file set purpose = $3, name = $4, expires_at = $5::float8, writer = null
where id = $1 and writer = $2 returning {FILE}
"""
GET = f"""
select {FILE} from file
where id = $1 and key_id = $2 and expires_at > {moment(3)} and writer is null
"""
READ = "select content from piece where n = (select n from file where id = $1) and number = $2::int"


def files(*, newest_first: bool) -> str:
    """A page of a key's files."""
    side, order = ("<", "desc") if newest_first else (">", "asc")
    return f"""
select {FILE} from file where key_id = $1 and writer is null and expires_at > {moment(2)}
and ($3::text is null or purpose = $3) and ($4::text is null
    or n {side} (select n from file as border where border.id = $4))
order by n {order} limit $5::int
"""


DELETE = "delete from file where id = $1 and key_id = $2 returning 1"
PRUNE = f"""
delete from file where expires_at <= {moment(1)}
or (writer is not null and writer <> $2 and not {living("writer")})
"""

# -- batches ---------------------------------------------------------------------------------------

ADD = f"""
insert into batch(id, key_id, dialect, endpoint, input_file, state, created_at, expires_at,
    kept_until, times, details, owner, token)
select $1, $2, $3, $4, $5, $6, $7::float8, $8::float8, $9::float8, $10, $11::bytea, $12, 1
where (select count(*) from batch where key_id = $2 and {_OPEN}) < $13::int returning token
"""
ORPHANS = f"""
select id, key_id from batch where {_OPEN} and owner <> $1 and not {living("owner")}
order by n limit $2::int
"""
ACQUIRE = f"""
update batch set owner = $3, token = token + 1
where id = $1 and key_id = $2 and (owner = $3 or not {living("owner")}) returning token
"""
OWNER = """
select node.id, node.url from batch left join node on node.id = owner where batch.id = $1
and key_id = $2
"""
_LEASED = "b as (select n from batch where id = $1 and token = $2::bigint)"
LEASED = f"with {_LEASED} select n from b"
ADD_REQUESTS = """
with b as (
    update batch set total = total + $3::int, bytes = bytes + $4::bigint
    where id = $1 and token = $2::bigint returning n, total - $3::int as before)
insert into batch_request(n, number, custom_id, state, token, body, result)
select b.n, b.before + u.at, u.name, 'waiting', 0, u.body, '' from b,
unnest($5::text[], $6::bytea[]) with ordinality as u(name, body, at) returning 1
"""
DROP_REQUESTS = f"""
with {_LEASED}, r as (delete from batch_request using b where batch_request.n = b.n),
c as (update batch set bytes = 0, total = case state when 'validating' then 0 else total end
    from b where batch.n = b.n)
select n from b
"""
_ENTER = "times = (times::jsonb || jsonb_build_object($4::text, {moment}))::text, state = $4::text"
CHANGE = f"""
with u as (
    update batch set {_ENTER.format(moment=moment(8))},
    details = coalesce($5::bytea, details), output_file = coalesce($6, output_file),
    error_file = coalesce($7, error_file)
    where id = $1 and token = $2::bigint and state = any($3::text[]) returning {BATCH})
select * from u union all
select {BATCH} from batch where id = $1 and token = $2::bigint and not exists (select 1 from u)
"""
CANCEL = f"""
with u as (
    update batch set times = (times::jsonb || jsonb_build_object('cancelling', {moment(3)}))::text,
    state = 'cancelling'
    where id = $1 and key_id = $2 and state in ('validating', 'in_progress') returning {BATCH})
select {BATCH}, {tell("batches")} from u union all
select {BATCH}, null from batch where id = $1 and key_id = $2 and not exists (select 1 from u)
"""
CLAIM = """
with c as (
    select r.n, r.number from batch_request as r join batch as b on b.n = r.n
    where b.id = $1 and b.token = $2::bigint and b.state = 'in_progress' and r.state = 'waiting'
    order by r.number limit 1 for update of r skip locked)
update batch_request as r set state = 'running', token = $2::bigint from c
where r.n = c.n and r.number = c.number returning r.number, r.custom_id, r.body
"""
SETTLE = f"""
with {_LEASED}, r as (
    update batch_request set state = $4::text, result = $5::bytea from b
    where batch_request.n = b.n and number = $3::int and state = 'running' returning 1),
c as (
    update batch set succeeded = succeeded + ($4::text = 'succeeded')::int,
    errored = errored + ($4::text = 'errored')::int, bytes = bytes + length($5::bytea)
    from b where batch.n = b.n and $4::text <> 'waiting' and exists (select 1 from r))
select n from b
"""
LOST = """
select r.number, r.custom_id from batch as b
left join batch_request as r on r.n = b.n and r.state = 'running' and r.token < b.token
where b.id = $1 and b.token = $2::bigint order by r.number
"""
CLOSE = f"""
with {_LEASED}, r as (
    update batch_request set state = $3::text from b
    where batch_request.n = b.n and state in ('waiting', 'running') returning 1),
c as (
    update batch set
    canceled = canceled + case $3::text when 'canceled' then (select count(*) from r) else 0 end,
    expired = expired + case $3::text when 'expired' then (select count(*) from r) else 0 end
    from b where batch.n = b.n)
select n from b
"""
GET_BATCH = f"select {BATCH} from batch where id = $1 and key_id = $2"
NUMBER = "select n from batch where id = $1 and key_id = $2 and dialect = $3"


def batches(*, before: bool) -> str:
    """A page of a key's batches."""
    side, order = (">", "asc") if before else ("<", "desc")
    return f"""
select {BATCH} from batch where key_id = $1 and dialect = $2
and ($3::bigint is null or n {side} $3::bigint) order by n {order} limit $4::int
"""


RESULTS = """
select number, custom_id, state, result from batch_request
where n = (select n from batch where id = $1 and key_id = $2) and number >= $3::int
and state not in ('waiting', 'running') order by number limit $4::int
"""
DELETE_BATCH = f"delete from batch where id = $1 and key_id = $2 and not ({_OPEN}) returning 1"
PRUNE_BATCHES = f"delete from batch where kept_until <= {moment(1)} and not ({_OPEN})"
HELD_BYTES = """
select ((select coalesce(sum(bytes), 0) from file) + (select coalesce(sum(bytes), 0) from batch))
::bigint
"""
