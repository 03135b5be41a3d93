"""Processes that write to a store until they are killed. Run as a program, with the folder.

Each line of its input is a number of seconds: a process writes for that long, and is killed. Its
output is one line for each change that the store acknowledged, then ``dead``.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import trio

from ccapi.transport.store.interface import Store
from ccapi.transport.store.opening import open_sqlite_store

from .support import assistant, begin, end, new_lease, user

CONVERSATIONS = 3


def say(*words: object) -> None:
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


async def talk(store: Store, name: str) -> None:
    lease = await new_lease(store, name)
    if lease.open_turn is not None:
        await store.lose_turn(lease, "The process before was killed.")
    while True:
        turn_id = await begin(store, lease)
        say("begun", name, turn_id)
        await store.append(lease, [assistant("Half of it")])
        await store.end_turn(lease, end(turn_id), [assistant("and the rest.")])
        say("ended", name, turn_id)
        head = await store.append(lease, [user(f"note {turn_id}")])
        say("noted", name, turn_id, head)


async def write(folder: Path) -> None:
    async with open_sqlite_store(folder) as store, trio.open_nursery() as nursery:
        for number in range(CONVERSATIONS):
            nursery.start_soon(talk, store, f"conv_{number}")


def main() -> None:
    folder = Path(sys.argv[1])
    for line in sys.stdin:
        pid = os.fork()
        if not pid:
            trio.run(write, folder)
            os._exit(1)
        time.sleep(float(line))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        say("dead")


if __name__ == "__main__":
    main()
