"""One request and its response, as the ASGI application sees them.

Knows: the ASGI message flow, a body that stops coming, a client that hangs up, an application that
fails. Refuses to know: HTTP versions and sockets; the two callables of a protocol are all it has.

Source: ASGI, "HTTP & WebSocket" specification, version 2.1 (the version that hypercorn speaks):
after a hang-up `receive` gives ``http.disconnect``, and `send` does nothing.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from contextlib import suppress

import trio
from starlette.types import ASGIApp, Message, Scope

from ...schemas.anthropic.errors import VERSION_HEADER
from ...schemas.convert import write_json
from ...schemas.envelope import OPENAI, Envelope
from ...schemas.errors import CallerError, GatewayError, InternalError
from ..loggers import get_logger

log = get_logger("ccapi.front_door")

BODY_SLOTS = 2
"""Pieces of a request body (64 KiB at most each) that may wait for the application."""


class RequestTimedOut(CallerError):
    """The rest of the request did not come in time."""

    status = 408
    default_code = "request_timeout"


def error_response(
    error: GatewayError, envelope: Envelope = OPENAI
) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """Headers and body of a response that tells `error`, in the `envelope`."""
    body = write_json(envelope.body(error))
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        *((name.encode(), value.encode()) for name, value in error.headers().items()),
    ]
    return headers, body


class Exchange:
    """What stands between a protocol and the application for one request.

    The protocol calls `put` for what the client sends; the application calls `receive` and `send`.
    `answer` is the protocol's side of `send`; called with None, it learns that nothing follows.
    """

    def __init__(
        self,
        scope: Scope,
        answer: Callable[[Message | None], Awaitable[None]],
        stall_seconds: float,
        min_body_bytes_per_second: float = 0.0,
    ) -> None:
        self._scope = scope
        self._answer = answer
        self._stall_seconds = stall_seconds
        self._min_rate = min_body_bytes_per_second
        self._body_bytes = 0
        self._waited = 0.0  # for parts of the body, in seconds
        self._to_app, self._from_client = trio.open_memory_channel[Message](BODY_SLOTS)
        self._body_complete = False
        self._hung_up = False
        self._responding = False
        self._complete = False
        self._given_up = False

    def __repr__(self) -> str:
        phase = "hung up" if self._hung_up else "responding" if self._responding else "asked"
        return f"<Exchange {self._scope['method']} {self._scope['path']} {phase}>"

    async def put(self, message: Message) -> None:
        """Passes on a piece of the body, or the hang-up. Waits only where there is no room: what
        came in one read is there before the application asks for it."""
        if message["type"] == "http.disconnect":
            self._hung_up = not self._complete
            self._to_app.close()
            return
        # Closed, maybe while this waits, when the exchange is over: the application does not want
        # the rest.
        with suppress(trio.ClosedResourceError):
            try:
                self._to_app.send_nowait(message)
            except trio.WouldBlock:
                await self._to_app.send(message)

    async def receive(self) -> Message:
        try:
            try:
                message = self._from_client.receive_nowait()
            except trio.WouldBlock:
                message = await self._wait()
        except trio.EndOfChannel:
            return {"type": "http.disconnect"}
        self._body_bytes += len(message.get("body", b""))
        self._body_complete = not message.get("more_body", False)
        return message

    async def _wait(self) -> Message:
        """The next part of the body. Raises `trio.EndOfChannel` where the client hangs up, or is
        given up."""
        if self._body_complete:
            return await self._from_client.receive()  # a hang-up, and it may take for ever
        # The time in which the application had no room for more is not the client's.
        begun = trio.current_time()
        allowed = min(self._stall_seconds, self._time_left())
        with trio.move_on_after(allowed) as patience:
            message = await self._from_client.receive()
            self._waited += trio.current_time() - begun
            return message
        assert patience.cancelled_caught
        reason = f"No part of the request body came for {self._stall_seconds:g} s."
        if allowed < self._stall_seconds:
            reason = f"The request body comes slower than {self._min_rate:g} bytes per second."
        await self._answer_with(RequestTimedOut(reason))
        self._hung_up = self._given_up = True
        raise trio.EndOfChannel

    def _time_left(self) -> float:
        """How long the client may take for the next part, by what it took for the others."""
        if not self._min_rate:
            return math.inf
        return self._stall_seconds + self._body_bytes / self._min_rate - self._waited

    async def send(self, message: Message) -> None:
        if self._hung_up:
            # What the protocol drops costs no time: an application that pays no attention to the
            # hang-up must still let others run.
            await trio.lowlevel.checkpoint()
            if self._given_up:
                return
        if message["type"] == "http.response.start":
            self._responding = True
        elif not message.get("more_body", False):
            self._complete = True
        await self._answer(message)

    async def run(self, app: ASGIApp) -> None:
        """Runs the application. Its failure ends this exchange and nothing else: a 500 where no
        response had begun, else a response that is visibly cut short."""
        try:
            await app(self._scope, self.receive, self.send)
            if not self._responding and not self._hung_up:
                raise RuntimeError("the application returned without a response")
        except Exception as error:  # noqa: BLE001
            if self._responding and isinstance(error, GatewayError):
                log.warning("response_cut_short", code=error.code, request=repr(self))
            else:
                # An application may well raise when its client is gone, and is not to blame for it.
                report = log.info if self._hung_up else log.error
                report("app_failed", exc_info=error, request=repr(self))
            await self._answer_with(
                InternalError("The gateway failed on this request; its log says why.")
            )
        await self._answer(None)

    async def _answer_with(self, error: GatewayError) -> None:
        if self._responding:
            return
        names = {name for name, _ in self._scope.get("headers", ())}
        versioned = VERSION_HEADER.encode() in names
        envelope = Envelope.of(self._scope["path"], versioned=versioned)
        headers, body = error_response(error, envelope)
        status = envelope.status(error)
        await self.send({"type": "http.response.start", "status": status, "headers": headers})
        await self.send({"type": "http.response.body", "body": body})
