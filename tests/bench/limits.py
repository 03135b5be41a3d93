"""What limits and usage cost a turn: all that `KeyLimiter` and `TurnMeter` do for one.

Run: ``python -m tests.bench.limits [TURNS]``. Prints the time for each turn of a key that has a
limit of every kind, and has used something in every hour of its month: the bound is 0.1 ms. The
turn has `STEPS` steps, as many as it would have deltas, and asks the model twice.
"""

from __future__ import annotations

import sys
from statistics import median
from time import perf_counter, time
from uuid import uuid4

import trio

from ccapi.actors.keys.limits import KeyLimiter
from ccapi.actors.keys.registry import LOCAL, KeyRegistry
from ccapi.actors.session.events import End
from ccapi.actors.session.metering import TurnMeter
from ccapi.actors.session.turn import TurnState
from ccapi.schemas.errors import Overloaded
from ccapi.schemas.keys import LIMIT_NAMES, KeyLimits, hour_of
from ccapi.schemas.message import Message
from ccapi.schemas.settings.settings import AuthSettings
from ccapi.schemas.turn import Failed, Setup, TurnRequest, Usage
from ccapi.transport.store.interface import Spent
from ccapi.transport.store.memory import open_memory_store

MOST = 0.1
STEPS = 10
"""Of the session in one turn: five in a warm one, and more with tools."""
HOURS = 31 * 24
CALL = Usage(prompt_tokens=1200, completion_tokens=80, cached_tokens=1000)
LIMITS = KeyLimits(**dict.fromkeys(LIMIT_NAMES, 10**9))


def new_turn() -> TurnState:
    return TurnState(
        str(uuid4()), TurnRequest((Message("user", ("hello",)),)), Setup("haiku"), 0.0, 60.0
    )


def end_of(turn: TurnState) -> End:
    outcome = Failed(Overloaded("no more"))  # how it ends costs nothing here
    used = CALL + CALL + Usage(cost_usd=0.01)
    return End(
        turn.turn_id, outcome, turn.request, "haiku", None, 0.0, 1.0, used=used, is_priced=True
    )


async def one_turn(limits: KeyLimiter, meter: TurnMeter, turn: TurnState, end: End) -> float:
    child = meter
    began = perf_counter()
    await limits.load(LOCAL)
    limits.check(LOCAL)  # where the request is accepted
    await limits.begin(LOCAL, turn.turn_id)
    for step in range(STEPS):
        if step == STEPS // 2:  # the first call is over, and the second begins
            turn.answer.usage, turn.answer._begun = CALL, CALL
        meter.follow((), turn, child)
    meter.follow((end,), None, child)
    meter.charges.clear()
    limits.end(LOCAL, turn.turn_id)
    limits.headers(LOCAL)
    return perf_counter() - began


async def main(turns: int) -> None:
    async with open_memory_store() as store:
        now = time()
        hours = [Spent(LOCAL, hour_of(now - 3600 * n), "haiku", 1, CALL) for n in range(HOURS)]
        await store.count(hours)
        limits = KeyLimiter(KeyRegistry(AuthSettings(), LIMITS), store)
        meter = TurnMeter(LOCAL, limits)
        took = []
        for _ in range(turns):
            turn = new_turn()
            took.append(await one_turn(limits, meter, turn, end_of(turn)) * 1000)
        each = median(took)
        figure = f"{each:.3f} ms"
        holds = "yes" if each <= MOST else "NO"
        print(f"| limits and usage, for each turn | {figure} | <= {MOST:g} ms | {holds} |")


if __name__ == "__main__":
    trio.run(main, int(sys.argv[1]) if len(sys.argv) > 1 else 2_000)
