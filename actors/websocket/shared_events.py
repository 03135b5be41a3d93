"""Watchers of conversations that other nodes have: each has its own connection to that node for
what it says and is answered, and all of them together have one by which the events come.

Knows: what the two connections bring, and in which order a client receives it: whole frames, each
event once, behind those that its own connection has brought. Refuses to know: what an event says,
and what a client does (`actors.websocket.join`, at the other node, answers it).

The other node marks how far a watcher's own connection has brought the events; from there on they
are read out of the ring of the shared one, which was there before. Where that connection ends, its
watchers' end too: the conversation has ended, or its node is gone, and their clients join again.
"""

from __future__ import annotations

import base64
import os
import re
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from uuid import uuid4

import trio
from attrs import define, field, frozen

from ...schemas.node_seal import APART, EVENTS_HEADER, SHARED, Passed
from ...transport.http.guarded_stream import GONE, ReplayStream
from ...transport.http.node_client import Headers, NodeGone, Place, connect
from ...transport.http.tunnel import PIECE_BYTES, copy_bytes, rewrite_head
from ...transport.http.websocket_frames import (
    BINARY,
    CLOSE,
    PING,
    TEXT,
    BadFrame,
    FrameSplitter,
    encode_close,
    payload_at,
    pong_to,
    read_mark,
)
from ...transport.loggers import get_logger
from ..nodes.membership import Membership
from ..watching.broadcast import RING_BYTES, RING_EVENTS, FellBehind
from .join import TOO_FAR_BEHIND

log = get_logger("ccapi.websocket")

MAX_HEAD_BYTES = 65536
MAX_FRAME_BYTES = 64 * 1024 * 1024
"""Of one event, which is kept whole before it is passed on."""

AT_ONCE = 32
"""Clients that are written to without a pause for others."""

OPEN_SECONDS = 2.0
"""How long the other node may take to send its first mark."""

CLOSE_SECONDS = 2.0
"""How long what two connections bring may be apart, and a client take to close."""

_NUMBER = re.compile(rb'\{"type":"[a-z._]+","event_id":(\d+)[,}]')


def _number_of(frame: bytes) -> int:
    """Of the event in a whole frame. Raises `BadFrame`."""
    found = _NUMBER.match(frame, payload_at(frame))
    if found is None:
        raise BadFrame("a message is no event")
    return int(found[1])


@frozen
class Shared:
    """Whose events these are: the conversation's, where it is, for the clients of one key."""

    node_id: str
    url: str
    path: str
    owner: str


class Events:
    """The events of one conversation, as their frames come from the other node: the last of them,
    so many as `RING_EVENTS` and `RING_BYTES` allow. `last` is the number of the newest."""

    def __init__(self) -> None:
        self.last = 0
        self.users = 0
        self.opened = trio.Event()
        """Set once the events come, or will not."""
        self.over = trio.Event()
        """Set once no more will come."""
        self.scope = trio.CancelScope()
        self._frames: deque[bytes] = deque()
        self._size = 0
        self._watched: set[_Watched] = set()

    def __repr__(self) -> str:
        return f"<Events {self.last}, {len(self._frames)} kept, for {self.users}>"

    def begin(self, last: int) -> None:
        """The events behind that number come."""
        self.last = last
        self.opened.set()

    def put(self, frame: bytes) -> None:
        """The next event. Raises `BadFrame` where it is another one."""
        number = _number_of(frame)
        if number != self.last + 1:
            raise BadFrame(f"event {number} came behind {self.last}")
        self.last = number
        self._frames.append(frame)
        self._size += len(frame)
        while len(self._frames) > RING_EVENTS or self._size > RING_BYTES:
            self._size -= len(self._frames.popleft())

    async def deliver(self) -> None:
        """Send what was put to all who can take it; the others' tasks do so later. (To wake each
        one's task takes as long as to write.)"""
        for number, each in enumerate([*self._watched], 1):
            each.take()
            if number % AT_ONCE == 0:
                await trio.lowlevel.checkpoint()

    def end(self) -> None:
        self.opened.set()
        self.over.set()
        for each in self._watched:
            each.lags.set()

    @contextmanager
    def delivered_to(self, watched: _Watched) -> Iterator[None]:
        self._watched.add(watched)
        try:
            yield
        finally:
            self._watched.discard(watched)

    def since(self, number: int) -> bytes:
        """The frames behind that number, up to `last`. Raises `FellBehind`."""
        missing, kept = self.last - number, len(self._frames)
        if missing <= 0:
            return b""
        if missing > kept:
            raise FellBehind
        if missing == 1:
            return self._frames[-1]
        return b"".join([self._frames[index] for index in range(kept - missing, kept)])


class SharedEvents:
    """Those of all conversations that are watched here and are another node's. Their connections
    live in `nursery`."""

    def __init__(self, nodes: Membership, connect_seconds: float, nursery: trio.Nursery) -> None:
        self._nodes = nodes
        self._connect_seconds = connect_seconds
        self._nursery = nursery
        self._open: dict[Shared, Events] = {}

    def __repr__(self) -> str:
        return f"<SharedEvents of {len(self._open)} conversations>"

    @asynccontextmanager
    async def of(self, shared: Shared) -> AsyncIterator[Events | None]:
        """The events, while the block runs; what the other node does from here on comes after the
        first of them. None: they do not come."""
        events = self._open.get(shared)
        if events is None:
            events = self._open[shared] = Events()
            self._nursery.start_soon(self._run, shared, events)
        events.users += 1
        try:
            await events.opened.wait()
            yield None if events.over.is_set() else events
        finally:
            events.users -= 1
            if not events.users:
                self._forget(shared, events)
                events.scope.cancel()

    def _forget(self, shared: Shared, events: Events) -> None:
        if self._open.get(shared) is events:
            del self._open[shared]

    async def _run(self, shared: Shared, events: Events) -> None:
        """The boundary: whatever happens on the connection ends its events, and nothing else."""
        try:
            with events.scope:
                await self._receive(shared, events)
        except* (NodeGone, BadFrame, OSError, trio.TooSlowError, *GONE) as failures:
            reason = repr(failures.exceptions[0])
            log.info("no shared events", url=shared.url, reason=reason)
        except* Exception as failures:
            log.exception("shared events failed", exc_info=failures)
        finally:
            self._forget(shared, events)
            events.end()

    async def _receive(self, shared: Shared, events: Events) -> None:
        place = Place.of(shared.url)
        stream, _ = await connect(place, self._connect_seconds)
        async with stream:
            await stream.send_all(self._request(shared, place))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._end_with_node, shared, nursery.cancel_scope)
                await self._read(stream, events)
                nursery.cancel_scope.cancel()

    def _request(self, shared: Shared, place: Place) -> bytes:
        passed = Passed("GET", shared.path, f"req_{uuid4().hex}", shared.owner)
        headers = [
            (b"host", place.authority.encode()),
            (b"connection", b"Upgrade"),
            (b"upgrade", b"websocket"),
            (b"sec-websocket-version", b"13"),
            (b"sec-websocket-key", base64.b64encode(os.urandom(16))),
            (EVENTS_HEADER.encode(), SHARED.encode()),
            *self._nodes.prove(passed),
        ]
        lines = [b"GET %s HTTP/1.1" % shared.path.encode(), *(b"%s: %s" % one for one in headers)]
        return b"\r\n".join([*lines, b"", b""])

    async def _end_with_node(self, shared: Shared, scope: trio.CancelScope) -> None:
        await self._nodes.wait_gone(shared.node_id)
        scope.cancel()

    async def _read(self, stream: trio.abc.Stream, events: Events) -> None:
        """Raises `NodeGone`, `BadFrame`, `trio.BrokenResourceError`, `trio.TooSlowError`."""
        splitter = FrameSplitter()
        with trio.fail_after(OPEN_SECONDS) as patience:
            _, status, data = await _read_head(stream)
            if status != 101:
                raise NodeGone(f"it answered {status}", was_asked=True)
            part = b""
            while True:
                for piece in splitter.feed(data):
                    part = part + piece.data if part else piece.data
                    if len(part) > MAX_FRAME_BYTES:
                        raise BadFrame("an event is too long")
                    if not piece.ends:
                        continue
                    frame, part = part, b""
                    if not events.opened.is_set():
                        if piece.opcode != BINARY:
                            raise BadFrame("the first frame is no mark")
                        events.begin(read_mark(frame))
                        patience.deadline = float("inf")
                    elif piece.opcode == TEXT:
                        events.put(frame)
                    elif piece.opcode == PING:
                        await stream.send_all(pong_to(frame))
                    elif piece.opcode == CLOSE:
                        await events.deliver()
                        return
                await events.deliver()
                data = bytes(await stream.receive_some(PIECE_BYTES))
                if not data:
                    return


async def _read_head(stream: trio.abc.ReceiveStream) -> tuple[bytes, int, bytes]:
    """The head of a response, its status, and what came behind. Raises `NodeGone`."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = bytes(await stream.receive_some(PIECE_BYTES))
        if not more or len(data) > MAX_HEAD_BYTES:
            raise NodeGone("it did not answer", was_asked=True)
        data += more
    head, end, behind = data.partition(b"\r\n\r\n")
    words = head.split(b" ", 2)
    status = int(words[1]) if len(words) > 1 and words[1].isdigit() else 0
    return head + end, status, behind


async def watch_elsewhere(
    client: ReplayStream, node: trio.abc.Stream, added: Headers, events: Events
) -> None:
    """Have the other node serve the connection whose request head `client` has given out, with
    `added` headers, but for `events`, until either side ends it. Closes the stream to the node."""
    headers = [*added, (EVENTS_HEADER.encode(), APART.encode())]
    async with node:
        try:
            await node.send_all(rewrite_head(client.head, headers))
            async with trio.open_nursery() as nursery:
                watched = _Watched(client, events, nursery.cancel_scope)
                nursery.start_soon(copy_bytes, client, node, nursery.cancel_scope)
                nursery.start_soon(watched.pass_answers, node)
                nursery.start_soon(watched.pass_events)
        except* (*GONE, NodeGone, BadFrame):
            pass  # one side broke off: so does the other


@define(eq=False)
class _Watched:
    """One client, which two connections write to. `scope` ends both."""

    client: ReplayStream
    events: Events
    scope: trio.CancelScope
    lags: trio.Event = field(factory=trio.Event)
    """Set where there is something to send that could not be sent at once."""
    _lock: trio.Lock = field(factory=trio.Lock)
    _rest: bytes = b""
    """What the client has not been sent of what it has begun to receive; nothing goes before."""
    _seen: int | None = None
    """The number of the last event that the client has been sent, or its `_rest` has; None until it
    is known with which they begin."""
    _moved: trio.lowlevel.ParkingLot = field(factory=trio.lowlevel.ParkingLot)
    _closes: bool = False
    """What is sent next of its own connection has a close frame in it."""
    _is_closed: bool = False
    """It was sent a close frame, behind which nothing may come."""

    # -- its own connection ------------------------------------------------------------------------

    async def pass_answers(self, node: trio.abc.ReceiveStream) -> None:
        """Pass on what the other node sends this client alone. Raises `NodeGone`, `BadFrame`, and
        what the client's stream does."""
        head, status, data = await _read_head(node)
        await self.client.send_all(head)
        if status == 101:
            await self._pass_frames(node, data)
        else:
            while data:
                await self.client.send_all(data)
                data = bytes(await node.receive_some(PIECE_BYTES))
        self.scope.cancel()

    async def _pass_frames(self, node: trio.abc.ReceiveStream, data: bytes) -> None:
        splitter, mark = FrameSplitter(), b""
        while True:
            whole: list[bytes] = []
            for piece in splitter.feed(data):
                if piece.opcode != BINARY:
                    whole.append(piece.data)
                    self._closes = self._closes or piece.opcode == CLOSE
                    continue
                mark += piece.data
                if piece.ends:
                    await self._send_answers(b"".join(whole), is_whole=True)
                    await self._note(read_mark(mark))
                    whole, mark = [], b""
            is_whole = splitter.is_between or bool(mark)
            await self._send_answers(b"".join(whole), is_whole=is_whole)
            data = bytes(await node.receive_some(PIECE_BYTES))
            if not data:
                return

    async def _send_answers(self, data: bytes, *, is_whole: bool) -> None:
        """Send what may end within a frame: then nothing else is sent before the rest."""
        if not data:
            return
        if self._lock.statistics().owner is not trio.lowlevel.current_task():
            await self._lock.acquire()
        try:
            await self._send_rest()
            if not self._is_closed:
                self._is_closed = self._closes and is_whole
                await self.client.send_all(data)
        finally:
            if is_whole:
                self._lock.release()

    async def _send_rest(self) -> None:
        """For one who has the lock."""
        rest, self._rest = self._rest, b""
        if rest and not self._is_closed:
            await self.client.send_all(rest)

    async def _note(self, number: int) -> None:
        """The events up to this number belong before what follows."""
        if self._seen is None:
            self._seen = number
            self.lags.set()
            return
        with trio.move_on_after(CLOSE_SECONDS):
            while self._seen < number and not self.events.over.is_set():
                await self._moved.park()

    # -- the shared one ----------------------------------------------------------------------------

    def take(self) -> None:
        """Send the client what it has not been sent, if that can be done at once."""
        if self._seen is None or self.lags.is_set():
            return
        if self._lock.locked() or self._rest:
            self.lags.set()
            return
        try:
            data = b"" if self._is_closed else self.events.since(self._seen)
            sent = self.client.send_nowait(data)
        except (FellBehind, *GONE):  # its task finds that too
            self.lags.set()
            return
        self._seen = self.events.last
        self._moved.unpark_all()
        if sent < len(data):
            self._rest = data[sent:]
            self.lags.set()

    async def pass_events(self) -> None:
        """Pass on the events that could not be sent at once. Raises what the client's stream
        does."""
        with self.events.delivered_to(self):
            try:
                while not self.events.over.is_set():
                    await self.lags.wait()
                    await self._catch_up()
                self._moved.unpark_all()
                with trio.move_on_after(CLOSE_SECONDS):
                    while True:  # its own connection may say only now where they begin
                        await self._catch_up()
                        await self.lags.wait()
            except FellBehind:
                async with self._lock:
                    if not self._is_closed:
                        self._is_closed = True
                        await self.client.send_all(encode_close(TOO_FAR_BEHIND, "too far behind"))
                await trio.sleep(CLOSE_SECONDS)
        self.scope.cancel()

    async def _catch_up(self) -> None:
        """Raises `FellBehind`, and what the client's stream does."""
        async with self._lock:
            await self._send_rest()
            while self._seen is not None and (data := self.events.since(self._seen)):
                self._seen, self._rest = self.events.last, data
                await self._send_rest()
                self._moved.unpark_all()
            self.lags = trio.Event()
