"""The store in PostgreSQL and the memory store give the same answers to the same commands, also
where the connection is lost while a change is made: whether it was done or not, it is done once.

Each walk is some hundred commands, drawn by a seed; what both answer, and all that can be read from
both now and then, is compared. Tokens are not: PostgreSQL's have gaps.
"""

from __future__ import annotations

import os
import random
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from attrs import define, evolve, field

from ccapi.schemas.keys import ApiKey
from ccapi.schemas.log.messages import ExactMessage
from ccapi.schemas.log.records import Rewound, Said, TurnEnd, TurnFailed
from ccapi.schemas.message import Image, Message
from ccapi.schemas.turn import Setup, Usage
from ccapi.transport.store.interface import (
    KeptAnswer,
    KeptRequest,
    Lease,
    NewConversation,
    Spent,
    Store,
    StoreError,
    Unknown,
)
from ccapi.transport.store.memory import open_memory_store
from ccapi.transport.store.postgres import store as stores
from ccapi.transport.store.postgres.store import PostgresStore, open_postgres_store

from .support import KEY, NEW, OTHER, response

WALKS = int(os.environ.get("CCAPI_TEST_EXAMPLES", "6"))
STEPS = 150
NAMES = ("conv_1", "conv_2", "conv_3")
WORDS = ("bread", "flour", "brot", "日本", "bread flour", "日 本")
QUERIES = (*WORDS, "br", "fl", "日本", "bread 日", "nothing", "!", "flour bread")
DIGESTS = (b"one", b"two", b"three")
PICTURES = tuple(Image("image/png", letters * 2000) for letters in ("QUJD", "REVG"))
RESPONSES = ("resp_1", "resp_2")
REQUESTS = ("r0", "r1", "r2")


@define
class Callers:
    """One store, and two callers that may each hold a lease on each conversation."""

    store: Store
    leases: dict[tuple[str, int], Lease] = field(factory=dict)


Command = Callable[[Callers], Awaitable[object]]


def shown(lease: Lease) -> object:
    return lease.head, lease.turns, lease.open_turn


class Walk:
    """Draws commands; every draw is made before both stores are asked."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.now = 1_000_000.0

    def clock(self) -> float:
        return self.now

    def command(self, leases: dict[tuple[str, int], Lease]) -> Command:
        rng = self.rng
        name, key, caller = rng.choice(NAMES), rng.choice((KEY, KEY, KEY, OTHER)), rng.randrange(2)
        word, digest = rng.choice(WORDS), rng.choice(DIGESTS)
        kinds = [self.acquire] * 3 + [self.turn] * 8 + [self.other] * 5 + [self.kept] * 4
        return rng.choice(kinds)(leases, name, key, caller, word, digest)

    def acquire(
        self, leases: Any, name: str, key: str, caller: int, word: str, digest: bytes
    ) -> Command:
        setup = Setup("opus", profile="agent", workspace=self.rng.choice(("", "shop")))
        other = NewConversation(setup=setup, metadata={"a": word}, private=False)
        create = self.rng.choice((NEW, other, None))
        kind = self.rng.randrange(6)
        upto = self.rng.choice((None, 0, 2, 5))
        new = f"fork_{self.now:.0f}"  # as it always is: a new one

        async def take(callers: Callers) -> object:
            if kind == 0:
                lease = await callers.store.fork(name, key, new, upto=upto)
                callers.leases[new, caller] = lease
            else:
                lease = await callers.store.acquire(name, key, create)
                callers.leases[name, caller] = lease
            return shown(lease)

        return take

    def turn(
        self, leases: Any, name: str, key: str, caller: int, word: str, digest: bytes
    ) -> Command:
        if not leases:
            return self.acquire(leases, name, key, caller, word, digest)
        place = self.rng.choice([*leases])
        lease: Lease = leases[place]
        request = self.rng.choice((*REQUESTS, None))
        said: Any = [Said(ExactMessage("user", (f"{word} {n}",))) for n in range(2)]
        if self.rng.random() < 0.2:
            said.append(Said(ExactMessage("user", ("see", self.rng.choice(PICTURES)))))
        how = self.rng.choice(("end", "end", "end and more", "fail", "lose", "append", "append"))
        rewound = Rewound(min(self.rng.randrange(4), lease.head), 1, 0)
        plain = self.rng.choice(("begin", "begin", "append", "append", "rewind", "release"))
        number = lease.turns + 1

        async def change(callers: Callers) -> object:
            lease, store = callers.leases[place], callers.store
            result: object
            turn_id = f"{place[0]}/{lease.open_turn}"
            if lease.open_turn is None:
                match plain:
                    case "begin":
                        new_id = f"{place[0]}/{number}"
                        begun = await store.begin_turn(
                            lease, turn_id=new_id, request_id=request or new_id, model="opus",
                            prompts=said[:1], rewound=rewound if word == "brot" else None,
                        )  # fmt: skip
                        result = begun
                    case "append":
                        result = await store.append(lease, said)
                    case "rewind":
                        result = await store.append(lease, [rewound, *said])
                    case _:
                        await store.release(lease)
                        result = None
                return result, shown(lease)
            used = Usage(3, 1, cost_usd=0.25)
            end = TurnEnd(turn_id, "stop", used)
            match how:
                case "append":
                    result = await store.append(lease, said)
                case "lose":
                    result = await store.lose_turn(lease, word)
                case "fail":
                    result = await store.fail_turn(lease, TurnFailed(turn_id, "code", word), used)
                case "end":
                    result = await store.end_turn(lease, end, said)
                case _:
                    setup = Setup("haiku", word)
                    result = await store.end_turn(lease, end, said, setup=setup, lineage=digest)
            return result, shown(lease)

        return change

    def other(
        self, leases: Any, name: str, key: str, caller: int, word: str, digest: bytes
    ) -> Command:
        rng = self.rng
        kind, seq, private = rng.randrange(8), rng.randrange(4), rng.choice((None, True, False))
        after, first, limit = rng.choice((None, *NAMES)), rng.random() < 0.5, rng.randrange(1, 4)
        q, age = rng.choice(QUERIES), rng.randrange(1, 60)

        async def change(callers: Callers) -> object:
            store = callers.store
            match kind:
                case 0:
                    await store.delete(name, key)
                case 1:
                    await store.update(
                        name, key, metadata={"w": word}, title=word, private=private,
                        grants=(word, "Read"),
                    )  # fmt: skip
                case 2:
                    await store.lineage_put(key, digest, name, seq)
                case 3:
                    await store.count([Spent(key, "1970-01-12T13", word, seq, Usage(3, 1))] * 2)
                case 4:
                    return await store.prune(unused_since=self.now - age, spare=[name])
                case _:
                    return await store.conversations(
                        key, limit=limit, after=after, newest_first=first, q=q
                    )
            return None

        return change

    def kept(
        self, leases: Any, name: str, key: str, caller: int, word: str, digest: bytes
    ) -> Command:
        rng = self.rng
        kind, many, size = rng.randrange(8), rng.randrange(4), rng.randrange(100)
        id, request = rng.choice(RESPONSES), rng.choice(REQUESTS)
        until = self.now + rng.choice((5, 1000))
        made = response(id, name, key)
        asked: Any = word if rng.random() < 0.5 else rng.choice(PICTURES)
        made = evolve(made, asked=(Message("user", (asked,)),))
        answer = KeptRequest(digest, "answered", KeptAnswer(200, {"a": "b"}, word.encode()))

        async def change(callers: Callers) -> object:
            store = callers.store
            match kind:
                case 0:
                    await store.put_response(made, until)
                case 1:
                    await store.delete_response(id, key)
                case 2:
                    return await store.get_response(id, key)
                case 3:
                    return await store.claim_request(key, request, digest, until)
                case 4:
                    await store.settle_request(
                        key, request, answer, until, max_count=many, max_bytes=size
                    )
                case 5:
                    await store.release_request(key, request)
                case 6:
                    await store.add_key(ApiKey(id=request, name=word))
                case _:
                    await (store.revoke_key if many else store.delete_key)(request)
            return None

        return change


async def view(store: Store) -> dict[str, object]:
    """All that is kept."""
    seen: dict[str, object] = {}
    for key in (KEY, OTHER):
        page = await store.conversations(key, limit=100)
        seen[f"list of {key}"] = page
        for each in page.conversations:
            name = each.conversation_id
            log = await store.read(name, key)
            head = await store.head(name)
            seen[name] = (
                await store.get(name, key),
                [(row.seq, row.turn, row.at, repr(row.record)) for row in log],
                (head.head, head.open_turn, head.owner == store.node.id, head.owner is None),
                [await store.request(name, request) for request in REQUESTS],
            )
            seen[f"response of {name}"] = await store.latest_response(name, key)
        seen[f"lineage of {key}"] = await store.lineage_find(key, DIGESTS, 100)
        seen[f"usage of {key}"] = await store.usage(key), await store.spent(key, "")
    held = await store.statistics()
    seen["statistics"] = held.conversations, held.responses, held.record_bytes, held.answer_bytes
    seen["keys"] = await store.keys(), await store.orphans()
    seen["agents"] = sorted(await store.agents()), sorted(await store.workspaces())
    return seen


async def outcome(command: Command, callers: Callers) -> object:
    """The answer. An error counts by its kind: its text is the operator's."""
    try:
        return await command(callers)
    except StoreError as error:
        return type(error).__name__


def loses_connections(store: PostgresStore, rng: random.Random) -> None:
    """Appends are done and their answer is lost, or they never come to the engine."""
    write = store.pool.write

    async def losing(statement: str, *values: object) -> list[Any]:
        kind = (
            rng.randrange(6) if statement.startswith("with u as (update conversation set h") else 9
        )
        if kind == 0:
            raise Unknown("The connection was lost before.")
        rows = await write(statement, *values)
        if kind == 1:
            raise Unknown("The connection was lost after.")
        return rows

    store.pool.write = losing  # type: ignore[method-assign]


@pytest.mark.parametrize("seed", range(WALKS))
async def test_both_answer_alike(
    seed: int, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stores, "RETRY_SECONDS", 0.0)
    walk = Walk(seed)
    async with (
        open_memory_store(walk.clock) as memory,
        open_postgres_store(postgres_url, clock=walk.clock) as shared,
    ):
        loses_connections(shared, random.Random(seed))
        model, kept = Callers(memory), Callers(shared)
        for step in range(STEPS):
            walk.now += 1
            command = walk.command(model.leases)
            expected = await outcome(command, model)
            assert await outcome(command, kept) == expected, step
            if step % 10 == 9:
                assert await view(shared) == await view(memory), step
        assert await shared.check() == ()
