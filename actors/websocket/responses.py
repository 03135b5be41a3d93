"""Responses over a WebSocket: several on one connection, each in its lane.

Knows: lanes, which run one response at a time each; cancelling, and steering a response that runs.
Refuses to know: sockets (it is given two functions), and how a response comes about
(`actors.responses.run`).

Steering: the CLI takes nothing in the middle of an answer. So the running turn is interrupted, its
response ends as ``incomplete`` (``steered``), and the next one follows by itself: the same
question, what was said of the answer so far, and the user's words behind it. In the conversation
the interrupted turn leaves no trace.

When the connection ends, what runs on it is interrupted, as it is for any client that goes away.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol
from uuid import uuid4

import trio
from attrs import define, evolve, field

from ...schemas.convert import write_json
from ...schemas.errors import (
    Elsewhere,
    GatewayError,
    NotFound,
    RateLimited,
    TurnInterrupted,
    node_lost,
)
from ...schemas.openai.foreign_items import refers
from ...schemas.openai.response_events import Framing, ResponseWriter
from ...schemas.openai.response_messages import (
    Cancel,
    Create,
    Steer,
    SteerError,
    encode_accepted,
    encode_failure,
    encode_unsteered,
    read_event,
    read_steer,
    stream_id_of,
)
from ...schemas.openai.responses import parse_response
from ...schemas.settings.settings import ResponseSettings
from ...schemas.turn_items import TurnItem
from ...transport.http.bodies import LONG, Share
from ..answering import attach
from ..http.auth import publish_refusal
from ..http.forwarding import elsewhere_in
from ..responses.job import Job, accept
from ..responses.kept_items import KeptItems
from ..responses.record import Record
from ..responses.run import Running, prepare, responding, steered
from ..responses.store import ResponseStore
from ..runtime.boundary import as_gateway_error
from .call import Hold, read_message
from .passing import NodeSocket, NodeSockets

if TYPE_CHECKING:
    from ..gateway import Gateway

MAX_LANES = 16
"""Responses that run at once on one connection."""

MAX_WAITING = 8
"""Requests of one connection that wait for others in their lanes. Each may be as long as a message
may be."""

MAX_STEERS = 8
"""Steering that waits for one response to end."""

MOST_TRIES = 5
"""How often a request looks for its conversation again."""

SHELF = ResponseSettings(max_stored=32, max_bytes=16 * 1024 * 1024, ttl_seconds=3600.0)
"""What a connection remembers of responses that shall not be stored, so that it can go on."""

Receive = Callable[[], Awaitable[bytes | bytearray]]
Send = Callable[[bytes], Awaitable[None]]


class Socket(Protocol):
    async def receive(self) -> bytes | bytearray: ...
    async def send(self, payload: bytes) -> None: ...
    def take_share(self) -> Share | None: ...
    async def hold(self, count: int) -> None: ...


class SocketCaller(Protocol):
    """A connection that was let in. What its socket raises when it is closed comes out."""

    @property
    def gateway(self) -> Gateway: ...
    @property
    def owner(self) -> str: ...
    @property
    def socket(self) -> Socket: ...
    @property
    def from_node(self) -> str | None: ...


async def converse(call: SocketCaller) -> None:
    """``GET /v1/responses`` with an upgrade. Ends by what `receive` or `send` raises."""
    socket = call.socket
    await converse_over(
        call.gateway,
        call.owner,
        socket.receive,
        socket.send,
        socket.take_share,
        socket.hold,
        is_passed_on=call.from_node is not None,
    )


async def _hold_nothing(count: int) -> None:
    """For what has no room to share."""


async def converse_over(
    gateway: Gateway,
    owner: str,
    receive: Receive,
    send: Send,
    take_share: Callable[[], Share | None] = lambda: None,
    hold: Hold = _hold_nothing,
    *,
    is_passed_on: bool = False,
) -> None:
    """The same over any pair of functions that take and give whole messages. `take_share`: what the
    message that was received last holds of the room for messages; `hold` has it hold more.
    `is_passed_on`: another node has its client."""
    async with trio.open_nursery() as nursery:
        session = _Session(gateway, owner, send, nursery, take_share, hold, is_passed_on)
        try:
            while True:
                await session.take_message(await receive())
        finally:
            session.release()


@define(eq=False)
class _Request:
    """What was asked, in how many bytes, and the room that takes."""

    create: Create
    length: int
    share: Share | None = None


@define(eq=False)
class _Lane:
    """Where responses are given one after the other. `scope` ends what runs in it just now; who
    ends it calls `cancel`, which waits for what is being sent: half a message would be the end of
    the connection, and one that is missing a gap in their numbers."""

    stream_id: str | None
    waiting: deque[_Request] = field(factory=deque)
    scope: trio.CancelScope = field(factory=trio.CancelScope)
    sends: bool = False  # a message of what runs is on its way
    is_cancelled: bool = False  # once that is sent
    running: Running | None = None
    passed_to: NodeSocket | None = None  # the node that gives what runs
    steers: list[tuple[str, Steer]] = field(factory=list)
    held: list[Share] = field(factory=list)  # the room of what steers

    @property
    def record(self) -> Record | None:
        return None if self.running is None else self.running.record

    def cancel(self) -> None:
        """End what runs, if need be behind what is being sent."""
        if self.sends:
            self.is_cancelled = True
        else:
            self.scope.cancel()

    async def send_whole(self, send: Send, make: Callable[[], Sequence[bytes]]) -> None:
        """Send all the messages that `make` gives, which numbers them, or none."""
        await trio.lowlevel.checkpoint_if_cancelled()
        self.sends = True
        try:
            for event in make():
                await send(event)
        finally:
            self.sends = False
        if self.is_cancelled:
            self.is_cancelled = False
            self.scope.cancel()


class _Session:
    """One connection."""

    def __init__(
        self,
        gateway: Gateway,
        owner: str,
        send: Send,
        nursery: trio.Nursery,
        take_share: Callable[[], Share | None],
        hold: Hold,
        is_passed_on: bool,
    ) -> None:
        self._gateway = gateway
        self._is_passed_on = is_passed_on
        self._owner = owner
        self._send = send
        self._nursery = nursery
        self._take_share = take_share
        self._hold = hold
        self._lanes: dict[str | None, _Lane] = {}
        self._shelf = ResponseStore(SHELF)
        self._others: NodeSockets | None = None
        if gateway.nodes is not None:
            seconds = gateway.settings.cluster.connect_seconds
            self._others = NodeSockets(gateway.nodes, owner, nursery, send, seconds)

    def __repr__(self) -> str:
        return f"<_Session {len(self._lanes)} lanes>"

    def release(self) -> None:
        """Give back the room of what has not begun."""
        for lane in self._lanes.values():
            for request in lane.waiting:
                if request.share is not None:
                    request.share.close()

    # -- what the client says ----------------------------------------------------------------------

    async def take_message(self, received: bytes | bytearray) -> None:
        stream_id, length = None, len(received)
        try:
            message = await read_message(received, self._gateway.bodies, self._hold)
            stream_id = stream_id_of(message)
            match read_event(message):
                case Create() as create:
                    self._take(create, length)
                case Cancel() as cancel:
                    if not await self._passed_on(message, cancel.response_id, cancel.stream_id):
                        self._cancel(cancel)
                case Steer() as steer:
                    if not await self._passed_on(message, steer.previous_response_id):
                        await self._steer(steer, length)
        except GatewayError as error:
            await self._send_event(encode_failure(error, stream_id))

    def _take(self, create: Create, length: int) -> None:
        """Have it done, behind what waits in its lane already. Raises `RateLimited`."""
        lane = self._lanes.get(create.stream_id)
        if lane is not None:
            if sum(len(each.waiting) for each in self._lanes.values()) >= MAX_WAITING:
                raise RateLimited(
                    f"At most {MAX_WAITING} requests may wait.",
                    code="too_many_turns",
                    retry_after=1,
                )
            lane.waiting.append(_Request(create, length, self._take_share()))
            return
        if len(self._lanes) >= MAX_LANES:
            raise RateLimited(
                f"{MAX_LANES} responses run on this connection already.",
                code="too_many_turns",
                retry_after=1,
            )
        lane = self._lanes[create.stream_id] = _Lane(create.stream_id)
        lane.waiting.append(_Request(create, length, self._take_share()))
        self._nursery.start_soon(self._run, lane)

    async def _passed_on(
        self, message: object, response_id: str | None, stream_id: str | None = None
    ) -> bool:
        """Whether another node gives the response that the message is about; it has it then."""
        if self._others is None or not isinstance(message, dict):
            return False
        node = self._others.giver(response_id)
        lane = self._lanes.get(stream_id)
        if response_id is None and lane is not None:
            node = lane.passed_to
        if node is None:
            return False
        await node.ask(message)
        return True

    def _cancel(self, cancel: Cancel) -> None:
        lane = self._lanes.get(cancel.stream_id)
        if cancel.response_id is not None:
            lane = self._giving(cancel.response_id)
        if lane is None:
            raise NotFound(
                "No such response runs on this connection.",
                code="response_not_found",
                param="response_id" if cancel.response_id is not None else None,
            )
        lane.cancel()

    def _giving(self, response_id: str) -> _Lane | None:
        """The lane in which that response runs."""
        for lane in self._lanes.values():
            if lane.record is not None and lane.record.id == response_id:
                return lane
        return None

    async def _steer(self, steer: Steer, length: int) -> None:
        lane = self._giving(steer.previous_response_id)
        record = None if lane is None else lane.record
        stream_id = None if lane is None else lane.stream_id
        # One that was steered just now, and whose end is being sent, may be steered again.
        if lane is None or record is None or not (record.ending is None or record.steered):
            missed = self._missed(steer.previous_response_id)
            await self._send_event(encode_unsteered(steer, *missed, stream_id=stream_id))
            return
        try:
            if len(lane.steers) >= MAX_STEERS:
                raise RateLimited(
                    f"At most {MAX_STEERS} steering messages may be queued.",
                    code="too_many_pending_steers",
                )
            await self._gateway.bodies.read(length, partial(read_steer, steer.given))
        except GatewayError as error:
            code: SteerError = "invalid_input"
            if isinstance(error, RateLimited):
                code = "too_many_pending_steers"
            await self._send_event(
                encode_unsteered(steer, code, error.message, stream_id=stream_id)
            )
            return
        steer_id = f"steer_{uuid4().hex}"
        lane.steers.append((steer_id, steer))
        if (share := self._take_share()) is not None:
            lane.held.append(share)
        await self._send_event(encode_accepted(steer_id, record.id, stream_id))
        record.stop(steered=True)

    def _missed(self, response_id: str) -> tuple[SteerError, str]:
        for store in (self._shelf, self._gateway.responses):
            with suppress(NotFound):
                store.find(response_id, self._owner, time.time())
                return "response_already_completed", "The response has ended: go on behind it."
        return "response_not_found", "No such response runs on this connection."

    # -- lanes -------------------------------------------------------------------------------------

    async def _run(self, lane: _Lane) -> None:
        """Give the responses that are asked for in this lane, until none waits."""
        try:
            while lane.waiting:
                request = lane.waiting.popleft()
                try:
                    await self._do(lane, request)
                finally:
                    for share in (request.share, *lane.held):
                        if share is not None:
                            share.close()
                    lane.held.clear()
        finally:
            del self._lanes[lane.stream_id]

    async def _do(self, lane: _Lane, request: _Request) -> None:
        """One request, and what follows from it by steering."""
        before = request.create.raw.get("previous_response_id")
        giver = None if self._others is None else self._others.giver(before)
        if giver is not None:
            await self._relay(lane, request, giver)
            return
        for tries_left in reversed(range(MOST_TRIES)):
            elsewhere: Elsewhere | None = None
            try:
                await self._do_here(lane, request)
            except Elsewhere as error:
                elsewhere = error
            if elsewhere is None or await self._pass_on(
                lane, request, elsewhere, may_wait=tries_left > 0
            ):
                return

    async def _do_here(self, lane: _Lane, request: _Request) -> None:
        """Raises `Elsewhere` before anything is done, if there are other nodes."""
        job, prepared = None, None
        with trio.CancelScope() as lane.scope:
            try:
                job = await self._accept(request)
                if not job.request.generate:
                    prepared = await prepare(job)
            except Exception as error:
                elsewhere = elsewhere_in(error) or self._instead(error)
                if elsewhere is not None and self._others is not None:
                    raise elsewhere from error
                self._evict(request.create.raw.get("previous_response_id"))
                failure = as_gateway_error(error)
                publish_refusal(self._gateway.bus, failure, owner=self._owner)
                await self._send_event(encode_failure(failure, lane.stream_id))
                return
        if prepared is not None:
            await self._show(lane, prepared)
            return
        if job is None or not job.request.generate:
            await self._send_event(encode_failure(_interrupted(), lane.stream_id))
            return
        following: Job | None = job
        while following is not None:
            running = await self._give(lane, following)
            lane.running, steers = None, lane.steers
            lane.steers = []
            following = await self._successor(lane, running, steers) if steers else None

    def _instead(self, error: Exception) -> Elsewhere | None:
        """What says that another node gives the response which this one, that drains, does not."""
        nodes = self._gateway.nodes
        if nodes is None or self._is_passed_on or as_gateway_error(error).code != "draining":
            return None
        return nodes.instead

    async def _accept(self, request: _Request) -> Job:
        parse = partial(
            parse_response,
            {**request.create.raw, "stream": True},
            reasoning=self._gateway.settings.models.include_reasoning,
            may_prepare=True,
            kept=KeptItems(self._gateway, self._owner, self._shelf),
        )
        length = LONG if refers(request.create.raw.get("input")) else request.length
        asked = await self._gateway.bodies.read(length, parse)
        return await accept(
            self._gateway, evolve(asked, cacheable=True), self._owner, {}, self._shelf
        )

    async def _show(self, lane: _Lane, prepared: Record) -> None:
        """A response without an answer, from its beginning to its end."""
        assert prepared.ending is not None
        writer = _writer(prepared, lane)
        for event in (*writer.first(), *writer.last(prepared.ending)):
            await self._send(event)

    async def _give(self, lane: _Lane, job: Job) -> Running | None:
        """Give one response, to its end. None: it did not begin."""
        writer: ResponseWriter | None = None
        running: Running | None = None
        with trio.CancelScope() as lane.scope:
            try:
                async with responding(job, lambda: writer is not None) as running:
                    record, lane.running = running.record, running
                    record.scope = lane
                    writer = _writer(record, lane)
                    await lane.send_whole(self._send, writer.first)
                    await running.relay(self._passing(lane, writer))
            except GatewayError as error:
                if writer is None and isinstance(error, Elsewhere) and self._others is not None:
                    raise
                self._evict(job.request.previous_response_id)
                if writer is None:
                    await self._send_event(encode_failure(error, lane.stream_id))
                    return None
        if writer is None or running is None:
            await self._send_event(encode_failure(_interrupted(), lane.stream_id))
            return None
        assert running.record.ending is not None
        for event in writer.last(running.record.ending):
            await self._send(event)
        return running

    # -- on another node ---------------------------------------------------------------------------

    async def _pass_on(
        self, lane: _Lane, request: _Request, elsewhere: Elsewhere, *, may_wait: bool
    ) -> bool:
        """Whether the client has an answer; else the other node, which was not asked, is gone
        meanwhile, and what it had is any node's."""
        nodes = self._gateway.nodes
        assert self._others is not None
        assert nodes is not None
        node: NodeSocket | None = None
        failure: GatewayError = _interrupted()
        with trio.CancelScope() as lane.scope:
            try:
                node = await self._others.to(elsewhere)
            except Elsewhere as error:
                if may_wait and await nodes.outlasts(elsewhere.node_id):
                    return False
                failure = error
        if node is None:
            await self._send_event(encode_failure(failure, lane.stream_id))
        else:
            await self._relay(lane, request, node)
        return True

    async def _relay(self, lane: _Lane, request: _Request, node: NodeSocket) -> None:
        """Have another node give the response, to its end."""
        create = request.create
        message = {"type": "response.create", **create.raw}
        if create.stream_id is not None:
            message["stream_id"] = create.stream_id
        over = node.lanes[lane.stream_id] = trio.Event()
        lane.passed_to = node
        try:
            with node.nodes.passing_on():
                await node.ask(message)
                async with trio.open_nursery() as nursery:
                    for event in (over, node.ended):
                        nursery.start_soon(_cancel_after, event, nursery.cancel_scope)
        except Elsewhere as error:
            await self._send_event(encode_failure(error, lane.stream_id))
            return
        finally:
            lane.passed_to = None
            node.lanes.pop(lane.stream_id, None)
        if not over.is_set():
            await self._send_event(encode_failure(node_lost(), lane.stream_id))

    def _evict(self, response_id: object) -> None:
        """A response that could not be gone on with is not kept for this connection any more
        (Open Responses, "WebSocket transport"); one that is stored stays."""
        if isinstance(response_id, str):
            with suppress(NotFound):
                self._shelf.drop(self._shelf.find(response_id, self._owner, time.time()))

    def _passing(
        self, lane: _Lane, writer: ResponseWriter
    ) -> Callable[[Sequence[TurnItem]], Awaitable[None]]:
        async def pass_on(items: Sequence[TurnItem]) -> None:
            for item in items:
                await lane.send_whole(self._send, partial(writer.item, item))

        return pass_on

    # -- steering ----------------------------------------------------------------------------------

    async def _successor(
        self, lane: _Lane, running: Running | None, steers: Sequence[tuple[str, Steer]]
    ) -> Job | None:
        """What goes on with a response that was steered; None, and the client receives why, where
        nothing can."""
        reason: tuple[SteerError, str] = ("response_not_active", "The response has ended.")
        record = None if running is None else running.record
        if running is not None and record is not None and _goes_on(record):
            try:
                return await self._steered(running, [steer for _, steer in steers])
            except Exception as error:  # noqa: BLE001 (the client receives it)
                reason = "successor_creation_failed", as_gateway_error(error).message
        for steer_id, steer in steers:
            await self._send_event(
                encode_unsteered(steer, *reason, steer_id=steer_id, stream_id=lane.stream_id)
            )
        return None

    async def _steered(self, running: Running, steers: Sequence[Steer]) -> Job:
        read = [read_steer(steer.given) for steer in steers]
        messages = tuple(message for history in read for message in history.messages)
        attachments = tuple(each for history in read for each in history.attachments)
        asked = evolve(
            running.job.request,
            said=None,
            messages=messages,
            attachments=attachments,
            previous_response_id=running.record.id,
            echo={**running.job.request.echo, "previous_response_id": running.record.id},
        )
        return steered(running, asked, await attach(self._gateway, asked, self._owner))

    async def _send_event(self, event: dict[str, Any]) -> None:
        await self._send(write_json(event))


async def _cancel_after(event: trio.Event, scope: trio.CancelScope) -> None:
    await event.wait()
    scope.cancel()


def _writer(record: Record, lane: _Lane) -> ResponseWriter:
    return ResponseWriter(record.heading, Framing(sse=False, stream_id=lane.stream_id))


def _goes_on(record: Record) -> bool:
    """Whether a user message can follow: not if tools have to answer first."""
    return record.ending is not None and record.ending.leaves_trace and not record.open_calls


def _interrupted() -> TurnInterrupted:
    return TurnInterrupted("The response was cancelled before it began.")
