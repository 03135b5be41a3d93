"""TCP between the parts of a cluster: a link that can be cut for a while, and a balancer.

Knows: bytes and connections; of HTTP the balancer knows only ``/ready``. Refuses to know: what is
said over them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from contextlib import suppress

import trio

PIECE = 65536
CHECK_SECONDS = 0.2
CHECK_TIMEOUT = 0.5
CONNECT_SECONDS = 0.5


async def listen(port: int = 0) -> trio.SocketListener:
    (listener,) = await trio.open_tcp_listeners(port, host="127.0.0.1")
    return listener


def port_of(listener: trio.SocketListener) -> int:
    port: int = listener.socket.getsockname()[1]
    return port


async def _copy(
    source: trio.SocketStream, target: trio.SocketStream, pass_on: Callable[[], trio.Event]
) -> None:
    with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        while piece := await source.receive_some(PIECE):
            await pass_on().wait()
            await target.send_all(piece)
        await pass_on().wait()
        await target.send_eof()


class Link:
    """Passes connections on to one port. While it is cut, it takes connections and bytes and holds
    them; afterwards all of that arrives, late."""

    def __init__(self, target: Callable[[], int], listener: trio.SocketListener) -> None:
        self.port = port_of(listener)
        self._target = target
        self._listener: trio.SocketListener | None = listener
        self._changed = trio.Event()
        self._serving = trio.CancelScope()
        self._open = trio.Event()
        self._open.set()

    def cut(self) -> None:
        self._open = trio.Event()

    def mend(self) -> None:
        self._open.set()

    async def refuse(self) -> None:
        """Take no connections, as the port of a program that has ended."""
        if self._listener is not None:
            listener, self._listener = self._listener, None
            self._serving.cancel()
            await listener.aclose()

    async def listen(self) -> None:
        """Take connections again."""
        if self._listener is None:
            self._listener = await listen(self.port)
            self._changed.set()

    async def run(self) -> None:
        while True:
            with self._serving:
                async with trio.open_nursery() as nursery:
                    if self._listener is None:
                        await self._changed.wait()
                    assert self._listener is not None
                    listeners = [self._listener]
                    await trio.serve_listeners(self._serve, listeners, handler_nursery=nursery)
            self._serving, self._changed = trio.CancelScope(), trio.Event()
            if self._listener is not None:
                self._changed.set()

    async def _serve(self, stream: trio.SocketStream) -> None:
        async with stream:
            await self._open.wait()
            try:
                behind = await trio.open_tcp_stream("127.0.0.1", self._target())
            except OSError:
                return
            async with behind, trio.open_nursery() as nursery:

                async def copy(source: trio.SocketStream, target: trio.SocketStream) -> None:
                    await _copy(source, target, lambda: self._open)
                    if source is behind:  # the server is done: so is the client
                        nursery.cancel_scope.cancel()

                nursery.start_soon(copy, stream, behind)
                nursery.start_soon(copy, behind, stream)


class Balancer:
    """Gives each connection to the next node that says it is ready. Connections of one that does
    not answer any more are cut."""

    def __init__(self, ports: Sequence[int], listener: trio.SocketListener) -> None:
        self.port = port_of(listener)
        self.ready: dict[int, bool] = dict.fromkeys(ports, False)
        self._turns = itertools.count()
        self._listener = listener
        self._scopes: dict[int, set[trio.CancelScope]] = {port: set() for port in ports}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            for port in self.ready:
                nursery.start_soon(self._check, port)
            await trio.serve_listeners(self._serve, [self._listener], handler_nursery=nursery)

    async def wait_ready(self, seconds: float = 60) -> None:
        """Until all nodes are ready."""
        with trio.fail_after(seconds):
            while not all(self.ready.values()):
                await trio.sleep(0.05)

    async def _check(self, port: int) -> None:
        while True:
            status = b""
            with trio.move_on_after(CHECK_TIMEOUT), suppress(OSError, trio.BrokenResourceError):
                stream = await trio.open_tcp_stream("127.0.0.1", port)
                async with stream:
                    await stream.send_all(
                        b"GET /ready HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
                    )
                    status = bytes(await stream.receive_some(1024)).partition(b"\r\n")[0]
            self.ready[port] = b" 200 " in status + b" "
            if not status:  # it is gone, or frozen
                for scope in self._scopes[port]:
                    scope.cancel()
            await trio.sleep(CHECK_SECONDS)

    async def _serve(self, stream: trio.SocketStream) -> None:
        async with stream:
            ports = list(self.ready)
            turn = next(self._turns) % len(ports)
            ports = ports[turn:] + ports[:turn]
            # Where none is ready, any may say why.
            chosen = [port for port in ports if self.ready[port]] or ports
            for port in chosen:
                behind = None
                with trio.move_on_after(CONNECT_SECONDS), suppress(OSError):
                    behind = await trio.open_tcp_stream("127.0.0.1", port)
                if behind is not None:
                    await self._join(port, stream, behind)
                    return

    async def _join(self, port: int, stream: trio.SocketStream, behind: trio.SocketStream) -> None:
        always = trio.Event()
        always.set()
        async with behind, trio.open_nursery() as nursery:
            self._scopes[port].add(nursery.cancel_scope)

            async def copy(source: trio.SocketStream, target: trio.SocketStream) -> None:
                await _copy(source, target, lambda: always)
                if source is behind:
                    nursery.cancel_scope.cancel()

            nursery.start_soon(copy, stream, behind)
            nursery.start_soon(copy, behind, stream)
        self._scopes[port].discard(nursery.cancel_scope)
