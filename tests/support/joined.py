"""A client that has joined a conversation over a real WebSocket.

Knows how to read events by their type and how to ask for things. Refuses to know what should come.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import httpx
import trio
from trio_websocket import WebSocketConnection, wrap_client_stream

PATIENCE = 20.0
JSON = dict[str, Any]


class Joined:
    """`hello` is the first message, `seen` every event since then."""

    def __init__(self, connection: WebSocketConnection, hello: JSON) -> None:
        self.connection = connection
        self.hello = hello
        self.seen: list[JSON] = []

    async def say(self, kind: str, **fields: Any) -> None:
        await self.connection.send_message(json.dumps({"type": kind, **fields}))

    async def next(self) -> JSON:
        with trio.fail_after(PATIENCE):
            event: JSON = json.loads(await self.connection.get_message())
        self.seen.append(event)
        return event

    async def until(self, *kinds: str) -> JSON:
        """Read up to an event of one of these types; an error fails unless it is asked for."""
        while True:
            event = await self.next()
            if event["type"] in kinds:
                return event
            assert event["type"] != "error", event

    async def turn(self, text: str, **fields: Any) -> JSON:
        """A whole turn; returns the event it ended with."""
        await self.say("turn.create", input=text, **fields)
        return await self.until("turn.finished", "turn.failed")

    async def cut(self) -> None:
        """The connection breaks: no close frame is sent."""
        await self.connection._stream.aclose()

    @property
    def numbers(self) -> list[int]:
        return [event["event_id"] for event in self.seen if "event_id" in event]

    @property
    def text(self) -> str:
        """All text that has come in deltas."""
        return "".join(event["text"] for event in self.seen if event["type"] == "text.delta")

    def kinds(self) -> list[str]:
        return [event["type"] for event in self.seen]


async def post(url: str, path: str, body: JSON | None = None) -> JSON:
    async with httpx.AsyncClient(timeout=PATIENCE, trust_env=False) as client:
        answer: JSON = (await client.post(url + path, json=body or {})).json()
    return answer


async def get(url: str, path: str) -> JSON:
    async with httpx.AsyncClient(timeout=PATIENCE, trust_env=False) as client:
        answer: JSON = (await client.get(url + path)).json()
    return answer


async def new_conversation(url: str, **fields: Any) -> str:
    made = await post(url, "/v1/conversations", fields)
    return str(made["id"])


@asynccontextmanager
async def open_joined(
    url: str, conversation_id: str, after: int | None = None, key: str | None = None
) -> AsyncIterator[Joined]:
    path = f"/v1/conversations/{conversation_id}/events"
    parts = urlsplit(url)
    assert parts.scheme == "http"
    query = "" if after is None else f"?after={after}"
    headers = [] if key is None else [(b"x-api-key", key.encode())]
    # With `open_websocket_url` a connection that breaks is waited for without end where its reader
    # stands before a full queue of messages: nothing closes the queue then.
    async with trio.open_nursery() as nursery:
        with trio.fail_after(PATIENCE):
            stream = await trio.open_tcp_stream(parts.hostname or "", parts.port or 80)
        try:
            with trio.fail_after(PATIENCE):
                connection = await wrap_client_stream(
                    nursery, stream, parts.netloc, path + query, extra_headers=headers
                )
            with trio.fail_after(PATIENCE):
                hello = json.loads(await connection.get_message())
            assert hello["type"] == "conversation.joined", hello
            yield Joined(connection, hello)
            with trio.move_on_after(PATIENCE):
                await connection.aclose()
        finally:
            # trio-websocket leaves it open where the server was the first to close.
            await stream.aclose()
            nursery.cancel_scope.cancel()
