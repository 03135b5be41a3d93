"""What conversations that sleep cost: each is stored, was in memory once, and is not now.

Run: ``python -m tests.bench.asleep [CONVERSATIONS]``. Prints the gateway's memory for each of them,
in bytes: the bound is 1024.
"""

from __future__ import annotations

import gc
import os
import sys
import tempfile
from pathlib import Path

import trio

from ccapi.actors.conversations.archive import open_archive
from ccapi.actors.conversations.directory import Directory
from ccapi.schemas.settings.settings import StorageSettings
from ccapi.transport.store.opening import open_sqlite_store
from tests.bench.parts import private_bytes
from tests.bench.store import KEY, fill

MOST = 1024


async def main(count: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        async with open_sqlite_store(Path(name)) as store:
            await fill(store, count)
        directory = Directory(100)
        async with open_archive(StorageSettings(path=Path(name)), directory) as archive:
            used: list[int] = []
            for part in range(2):  # the first half fills what is there once: caches, arenas
                for number in range(part * count // 2, (part + 1) * count // 2):
                    entry = await archive.find(f"conv_{number}", KEY)
                    directory.remove(entry)
                await archive.listed(KEY, limit=100, after=None, newest_first=True, q=None)
                gc.collect()
                used.append(private_bytes(os.getpid()))
            each = (used[1] - used[0]) / (count - count // 2)
            holds = "yes" if each <= MOST else "NO"
            print(f"| a conversation asleep, of {count:,} | {each:.0f} bytes | <= 1 KB | {holds} |")


if __name__ == "__main__":
    trio.run(main, int(sys.argv[1]) if len(sys.argv) > 1 else 10_000)
