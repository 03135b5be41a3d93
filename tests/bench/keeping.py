"""What the store adds to a turn: warm turns of one conversation with it and without, in pairs.

Run: ``python -m tests.bench.keeping [TURNS]``. Prints medians in milliseconds, and bytes a turn.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path

import trio

from ccapi.actors.conversations.conversation import Conversation
from ccapi.actors.opening import open_gateway
from tests.support.live import settings_for

ROUNDS = 5


async def timed(conversation: Conversation, turns: int) -> list[float]:
    seconds = []
    for _ in range(turns):
        began = time.perf_counter()
        await conversation.ask("repeat: " + "word " * 20)
        seconds.append(time.perf_counter() - began)
    return seconds


async def main(turns: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        async with AsyncExitStack() as stack:
            gateways = []
            for persist in (True, False):
                path = Path(folder) / str(persist)
                path.mkdir()
                env = {"HOME": str(path), "DEMO_CLI_SWITCHES": json.dumps({"pace_ms": 0})}
                settings = settings_for(path, env, storage={"persist": persist})
                opened = open_gateway(settings, environ={"PATH": "/usr/bin:/bin"}, demo=True)
                gateways.append(await stack.enter_async_context(opened))
            with_store, without = (gateway.conversation() for gateway in gateways)
            await timed(with_store, 20)
            await timed(without, 20)
            differences = []
            for _ in range(ROUNDS):
                kept = statistics.median(await timed(with_store, turns))
                bare = statistics.median(await timed(without, turns))
                differences.append(kept - bare)
                print(
                    f"with the store {kept * 1000:.2f}, without {bare * 1000:.2f}, "
                    f"difference {(kept - bare) * 1000:.2f} ms"
                )
            print(f"median of the differences: {statistics.median(differences) * 1000:.2f} ms")
            store = gateways[0].archive.store
            assert store is not None
            held = await store.statistics()
            count = with_store.info.turns
            print(f"{held.bytes / count:.0f} bytes of the database a turn, in {count} turns")


if __name__ == "__main__":
    trio.run(main, int(sys.argv[1]) if len(sys.argv) > 1 else 100)
