"""A request for what another node has is passed on to that node, and its response passed back.

Knows: when a request is passed on, what of it is, and what a client receives when the other node
breaks off. Refuses to know: what the request asks, and how nodes know of each other
(`actors.nodes`).

A handler finds out for itself that a conversation is another node's: looking for it raises
`Elsewhere`, before anything of the request is done. Then the request goes to that node as it came,
and only one hop far: a request that another node has passed on is served here or refused. Where the
other node has let the conversation go meanwhile, or is gone before it was asked, the handler is
tried again, and finds it at rest.

The next request that names the conversation goes there at once, which saves a look into the store:
it says which conversation it is thought to be for, and a node that has not got that says so. Then
the handler looks as if nothing had been known.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from functools import partial

import trio
from attrs import define, field, frozen

from ...schemas.errors import Elsewhere, GatewayError, NotFound, node_lost
from ...schemas.node_seal import FINAL_HEADER, HEADER, OWNER_HEADER, UNDONE, Passed
from ...schemas.openai import sse
from ...transport.http.asgi import ClientGone, while_connected
from ...transport.http.node_client import Headers, NodeClient, NodeGone, NodeResponse, Wire
from ...transport.loggers import get_logger
from ..nodes.membership import Membership
from ..runtime.boundary import as_gateway_error
from .auth import target_of
from .request import Call

log = get_logger("ccapi.forwarding")

MOST_SECONDS = 30.0
"""How long a request looks for a node that does it: as long as one that stops gives the turns that
run there."""

FIRST_WAIT, LONGEST_WAIT = 0.02, 0.5
"""Seconds until it looks for its conversation again: twice as long each time."""

MOVED = "x-ccapi-moved"
"""The header with which a node refuses what was passed on to it in vain. It names the node that has
the conversation, or this node where it will give it up."""

SAFE_METHODS = ("GET", "HEAD")
"""What is asked so may be asked again."""

EXPECTED = "x-ccapi-expected"
"""The header that names the conversation for which a request came without a look into the store."""

MOST_PLACES = 4096
"""Conversations of which it is remembered where they were."""

NAMED_WITHIN = 2048
"""A body that names its conversation does so within so many bytes of its beginning or its end."""

_NAMED = re.compile(rb'"conversation_id"\s*:\s*"([!#-\[\]-~]{1,200})"')

NOT_PASSED_ON = {
    b"host", b"connection", b"keep-alive", b"transfer-encoding", b"te", b"trailer", b"upgrade",
    b"proxy-connection", b"proxy-authorization", b"expect", b"content-length", b"content-encoding",
    b"idempotency-key", b"origin", b"authorization", b"x-api-key", b"x-request-id",
    HEADER.encode(), OWNER_HEADER.encode(), EXPECTED.encode(),
}  # fmt: skip
"""Headers of the request that are between two ends of a connection, or are this node's to write.
(The body is passed on without its codings; this node keeps the answer for an idempotency key, and
has let the page of another origin in.)"""

NOT_PASSED_BACK = {
    b"connection", b"keep-alive", b"transfer-encoding", b"upgrade", b"date", b"server",
    b"x-request-id", b"request-id", b"access-control-allow-origin", FINAL_HEADER.encode(),
    b"access-control-expose-headers", b"vary",
}  # fmt: skip

Handler = Callable[[Call], Awaitable[None]]


@frozen
class Forwarder:
    """Passes requests on for one gateway."""

    membership: Membership
    client: NodeClient
    _places: dict[tuple[str, str], tuple[str, str]] = field(init=False, factory=dict)
    """Where conversations were, by their owners and ids: the node's id and URL. (An exception
    would keep all that was on the stack when it was raised: the request, and its body.)"""

    def forwarding(self, handler: Handler) -> Handler:
        """`handler`, but what another node has to do is passed on to it."""
        return partial(self._handle, handler)

    async def _handle(self, handler: Handler, call: Call) -> None:
        if call.from_node is not None:
            _check_expected(call)
        name = await self._name_of(call)
        until, wait = trio.current_time() + MOST_SECONDS, FIRST_WAIT
        if name is not None and await self._pass_on_at_once(call, name, until):
            return
        elsewhere = await self._handle_here(handler, call)
        while elsewhere is not None:
            moved_to = await self._pass_on(call, elsewhere, until)
            if moved_to is None:
                self._remember(call, name or await self._name_of(call), elsewhere)
                return
            holder = self.membership.find(moved_to)
            if trio.current_time() >= until:
                raise elsewhere
            if holder is not None and holder.id != elsewhere.node_id:
                elsewhere = Elsewhere(holder.id, holder.url)
                continue
            await _stay_connected(call, partial(trio.sleep, wait))
            wait = min(2 * wait, LONGEST_WAIT)
            elsewhere = await self._handle_here(handler, call)

    async def _name_of(self, call: Call) -> str | None:
        """Which conversation the request names, as far as that is known without a look at what it
        means."""
        named: str | None = call.scope["path_params"].get("conversation_id")
        named = named or call.header("x-conversation-id")
        if named is not None or call.scope["method"] != "POST":
            return named
        if not (call.header("content-type") or "").startswith("application/json"):
            return None
        body = await call.body()
        found = _NAMED.search(body, 0, NAMED_WITHIN)
        if found is None and len(body) > NAMED_WITHIN:
            found = _NAMED.search(body, len(body) - NAMED_WITHIN)
        return None if found is None else found[1].decode("ascii")

    async def _pass_on_at_once(self, call: Call, name: str, until: float) -> bool:
        """Whether the node that had the conversation has answered."""
        known = self._places.get((call.owner, name))
        if known is None or call.from_node is not None:
            return False
        node_id, url = known
        stays = self.membership.lives_on(node_id) and not self.membership.drains(node_id)
        if stays and await self._pass_on(call, Elsewhere(node_id, url), until, name) is None:
            return True
        self._places.pop((call.owner, name), None)
        return False

    def _remember(self, call: Call, name: str | None, elsewhere: Elsewhere) -> None:
        if name is not None:
            self._places[call.owner, name] = elsewhere.node_id, elsewhere.url
            if len(self._places) > MOST_PLACES:
                del self._places[next(iter(self._places))]

    async def _handle_here(self, handler: Handler, call: Call) -> Elsewhere | None:
        """What says that another node has the conversation; None: the request is answered."""
        known = dict(call.response.headers)
        try:
            await handler(call)
        except Exception as error:
            elsewhere = elsewhere_in(error)
            stops = elsewhere is None and self._stops(error)
            if call.response.status is not None or not (elsewhere or stops):
                raise
            if call.from_node is not None:  # one hop is all
                call.response.headers = known
                here = self.membership.node.id
                call.response.headers[MOVED] = here if elsewhere is None else elsewhere.node_id
                raise
            elsewhere = elsewhere or self.membership.instead
            if elsewhere is None:
                raise
            call.response.headers = known
            return elsewhere
        return None

    def _stops(self, error: Exception) -> bool:
        """Whether this node does not do it because it drains."""
        return self.membership.draining and as_gateway_error(error).code == "draining"

    async def _pass_on(
        self, call: Call, elsewhere: Elsewhere, until: float, expected: str = ""
    ) -> str | None:
        """None: the other node has answered. Else the conversation is to be looked for again, and
        this is the id of the node that has it, as far as that is known. `expected`: the one that it
        is thought to have. Raises `Elsewhere` where that node lives and cannot be reached."""
        back = _PassedBack(call)
        try:
            with self.membership.passing_on():
                return await self._relay(call, elsewhere, back, expected)
        except NodeGone as gone:
            self.client.forget(elsewhere.url)
            log.warning("a node broke off", url=elsewhere.url, reason=str(gone))
            if call.response.status is not None:
                await back.break_off(node_lost())
                return None
            if gone.was_asked and call.scope["method"] not in SAFE_METHODS:
                raise node_lost() from gone
        # It was never asked, or may be asked again. Once its lease is over, the conversation is
        # free.
        if self.membership.drains(elsewhere.node_id):
            with trio.move_on_at(until):
                wait_gone = partial(self.membership.wait_gone, elsewhere.node_id)
                await _stay_connected(call, wait_gone)
        elif not await self.membership.outlasts(elsewhere.node_id):
            raise elsewhere
        return ""

    async def _relay(
        self, call: Call, elsewhere: Elsewhere, back: _PassedBack, expected: str
    ) -> str | None:
        """As `_pass_on`. Raises `NodeGone`."""
        method, target, headers, body = await self._request_of(call)
        if expected:
            headers = [*headers, (EXPECTED.encode(), expected.encode("latin-1"))]
        wire, may_stop = Wire(), self.membership.drains(elsewhere.node_id)
        moved_to: str | None = None
        failure: Exception | None = None
        try:
            async with while_connected(call.receive) as nursery:
                nursery.start_soon(self._watch, elsewhere.node_id, back, wire)
                ask = self.client.ask(
                    elsewhere.url, method, target, headers, body, wire=wire, may_stop=may_stop
                )
                async with ask as response:
                    moved_to = _moved_to(response)
                    if moved_to is None:
                        await back.pass_on(response)
        except ExceptionGroup as failures:
            failure = _first(failures)
        if failure is not None:
            raise failure
        log.info("passed on", url=elsewhere.url, status=call.response.status, path=target)
        return moved_to  # a client that has hung up needs no other answer

    async def _request_of(self, call: Call) -> tuple[str, str, Headers, bytes | bytearray]:
        """What the other node is sent: the method, the target, headers and body."""
        scope, body = call.scope, await call.whole_body()
        target = target_of(scope["path"], scope["query_string"])
        request_id = call.response.envelope.request_id
        assert request_id is not None, "every request that reaches a route has an id"
        passed = Passed(scope["method"], target, request_id, call.owner)
        headers = [
            *((name, value) for name, value in scope["headers"] if name not in NOT_PASSED_ON),
            *self.membership.prove(passed),
        ]
        return scope["method"], target, headers, body

    async def _watch(self, node_id: str, back: _PassedBack, wire: Wire) -> None:
        """A node that is frozen, or cut off, does not break the connection."""
        await self.membership.wait_gone(node_id)
        # One that has stopped in good order has said all it had to say; that may not be read yet.
        while wire.has_input and not back.is_over:  # noqa: ASYNC110 (nothing says that it was read)
            await trio.sleep(FIRST_WAIT)
        if not back.is_over:
            raise NodeGone("its lease is over", was_asked=wire.socket is not None)


async def _stay_connected(call: Call, wait: Callable[[], Awaitable[None]]) -> None:
    """Wait, as long as the client is there. Raises `ClientGone`."""
    is_over = False
    async with while_connected(call.receive):
        await wait()
        is_over = True
    if not is_over:
        raise ClientGone


def _check_expected(call: Call) -> None:
    """Raise `Elsewhere` where a conversation that was thought to be here is not in memory: the node
    that has passed the request on looks where it is."""
    expected = call.header(EXPECTED)
    if expected is None:
        return
    try:
        call.gateway.loaded(expected, owner=call.owner)
    except NotFound:
        call.response.headers[MOVED] = ""
        raise Elsewhere("", "") from None


def _first(failures: BaseExceptionGroup[Exception]) -> Exception:
    """Of what went wrong at once, one thing."""
    first = failures.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first


def elsewhere_in(error: BaseException) -> Elsewhere | None:
    """What says that another node has the conversation, if `error` is nothing else."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error if isinstance(error, Elsewhere) else None


def _moved_to(response: NodeResponse) -> str | None:
    """The id of the node that has the conversation, where this one has not."""
    found = [value for name, value in response.headers if name == MOVED.encode()]
    return found[0].decode("latin-1") if found else None


@define(eq=False)
class _PassedBack:
    """A response on its way to the client. `is_stream`: it is one of server-sent events, of which
    `tail` is the end of what was passed on; `is_over`: all of it has come."""

    call: Call
    is_stream: bool = False
    tail: bytes = b""
    is_over: bool = False

    async def pass_on(self, response: NodeResponse) -> None:
        """Raises `NodeGone`."""
        call = self.call
        call.response.late = None  # the other node has counted it
        headers = [each for each in response.headers if each[0].lower() not in NOT_PASSED_BACK]
        self.is_stream = (b"content-type", sse.CONTENT_TYPE.encode()) in headers
        await call.send(
            {"type": "http.response.start", "status": response.status, "headers": headers}
        )
        if response.status >= 400:
            failure = GatewayError("It failed on another node.")
            is_final = (FINAL_HEADER.encode(), b"1") in response.headers
            call.failure = failure.for_good() if is_final else failure
        send = call.response.send_body
        while piece := await response.receive():
            before, self.tail = self.tail, b""  # cancelled in the middle of a write: nowhere
            await send({"type": "http.response.body", "body": piece, "more_body": True})
            self.tail = (before + piece)[-len(UNDONE) :]
        if self.is_stream and self.tail == UNDONE:
            call.failure = GatewayError("It failed on another node.")
        self.is_over = True
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def break_off(self, error: GatewayError) -> None:
        """There comes no more of it. A stream says so by an event, if it stands between two;
        anything else is cut short, which is plain to any client: raises `error`."""
        self.call.failure = error
        if not (self.is_stream and self.tail.endswith(sse.SUFFIX)):
            raise error
        event = self.call.response.envelope.event(error)
        send = self.call.response.send_body
        await send({"type": "http.response.body", "body": event, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
