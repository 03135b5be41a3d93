"""The Messages API stub in a thread of its own, for tests that are not on trio or share it.

Knows how to start it, how to end it, and how something is done where it runs. Refuses to know what
it is asked.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any, TypeVar

import trio
from attrs import frozen

from .logins import open_refusing_proxy
from .messages_stub import MessagesStub, open_messages_stub

PATIENCE = 30.0

T = TypeVar("T")


@frozen
class StubInThread:
    """`proxy`: the URL of what keeps the CLI from all else."""

    stub: MessagesStub
    proxy: str
    _token: trio.lowlevel.TrioToken

    def do(self, function: Callable[..., T], *args: Any) -> T:
        """Call a function where the stub runs. From no task of trio's."""
        return trio.from_thread.run_sync(function, *args, trio_token=self._token)


@contextmanager
def open_stub_in_thread() -> Iterator[StubInThread]:
    """Serve while the block runs."""
    ready: SimpleQueue[tuple[StubInThread, trio.Event] | BaseException] = SimpleQueue()

    async def run() -> None:
        async with open_messages_stub() as stub, open_refusing_proxy() as proxy:
            over = trio.Event()
            token = trio.lowlevel.current_trio_token()
            ready.put((StubInThread(stub, proxy.url, token), over))
            await over.wait()

    def main() -> None:
        try:
            trio.run(run)
        except BaseException as error:  # noqa: BLE001 (raised where the stub is used)
            ready.put(error)

    thread = threading.Thread(target=main, name="stub")
    thread.start()
    opened = ready.get(timeout=PATIENCE)
    if isinstance(opened, BaseException):
        raise opened
    made, over = opened
    try:
        yield made
    finally:
        made.do(over.set)
        thread.join(PATIENCE)
    assert not thread.is_alive()
